//! Single stories, each with one fault at the moment that matters, which chance alone would seldom
//! tell. The judge hears everything, and the end is the same as that of other runs.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::ids::{ChainId, SessionId};
use t3fs_actors::proto::mgmtd::CloseSession;
use t3fs_runtime::NodeId;

use super::cluster::{Cluster, Sizes};
use super::door::first_actor;
use super::options::{Faults, Options, Story};
use super::storm::KvHost;
use super::user::{Open, Stage, User};
use crate::oracles::files::{Move, Name};
use crate::world::{Crash, Sim};

const CHUNK: u32 = 64 << 10;
const SMALL_CHUNK: u32 = 8 << 10;
/// Longer than a hold outlives the last close.
const LET_GO: Duration = Duration::from_millis(2_500);
/// How long an operation may take that has nothing to do with what is dead.
const PROMPT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);

impl Story {
    /// What the story needs, instead of what was drawn.
    pub(super) fn set(self, sizes: &mut Sizes, options: &mut Options) {
        let mut faults = Faults { any: true, ..Faults::default() };
        match self {
            Story::DeadChain => {
                *sizes = Sizes {
                    chains: 3,
                    replicas: 1,
                    servers: 3,
                    stripe: 1,
                    chunk_size: CHUNK,
                    ..sizes.clone()
                };
                (options.clients, options.users, options.buffer) = (1, 2, 16 * CHUNK as usize);
                (options.chunk_size, options.file_max) = (CHUNK, 24 * u64::from(CHUNK));
            }
            Story::NameBack => {
                (options.clients, options.users) = (2, 1);
                (faults.kv_power, faults.sync_us) = (true, 100_000);
            }
            Story::CutBeside => {
                // A cut has something to do on both.
                (sizes.chains, sizes.stripe, sizes.chunk_size) = (2, 2, SMALL_CHUNK);
                (options.clients, options.users) = (2, 1);
                (options.chunk_size, options.file_max) = (SMALL_CHUNK, 4 * u64::from(SMALL_CHUNK));
            }
            Story::LongAppend => {
                (sizes.chains, sizes.stripe, sizes.chunk_size) = (2, 2, SMALL_CHUNK);
                (sizes.replicas, sizes.servers) = (1, 2);
                (options.clients, options.users) = (2, 2);
                (options.chunk_size, options.file_max) = (SMALL_CHUNK, 4 * u64::from(SMALL_CHUNK));
            }
            Story::LateFsync => {
                (options.clients, options.users) = (1, 1);
                (faults.kv_power, faults.sync_us) = (true, 100_000);
            }
        }
        (options.patience, options.deadline, options.append_ppm) = (None, None, 0);
        (options.faults, options.story) = (faults, Some(self));
    }
}

/// What a story does to the cluster.
pub(super) struct Levers {
    kv: KvHost,
    /// Where the first replica of each chain is.
    heads: BTreeMap<ChainId, NodeId>,
    /// The chain that is to die, once it is known, and whether it has.
    dying: Cell<Option<ChainId>>,
    dead: Cell<bool>,
    ending: Cell<Option<Ending>>,
}

/// The levers of a run, once there is a cluster.
#[derive(Default)]
pub(super) struct LeverSlot(RefCell<Option<Levers>>);

impl LeverSlot {
    pub(super) fn put(&self, levers: Levers) {
        self.0.replace(Some(levers));
    }

    /// The run is over.
    pub(super) fn clear(&self) {
        self.0.take();
    }

    fn with<T>(&self, f: impl FnOnce(&Levers) -> T) -> T {
        f(self.0.borrow().as_ref().expect("the run is not over"))
    }
}

/// A session that is to end.
#[derive(Clone, Copy)]
struct Ending {
    session: SessionId,
    /// Before the other mount appends, which is given its place then; else it has to wait.
    passed: bool,
}

impl Levers {
    pub(super) fn new(sim: &Sim, cluster: &Cluster, stage: &Rc<Stage>, long: Duration) -> Levers {
        let head = |t: u32| cluster.servers[(t % 10) as usize - 1];
        let heads = cluster.plan.chains().into_iter().map(|(c, ts)| (c, head(ts[0].0))).collect();
        let kv = KvHost::new(sim, cluster, stage, long);
        let (dying, dead, ending) = Default::default();
        Levers { kv, heads, dying, dead, ending }
    }

    fn kill(&self, sim: &Sim, chain: ChainId, long: Duration) {
        let node = self.heads[&chain];
        self.dead.set(true);
        sim.crash(node, Crash::Process);
        sim.at(sim.now_us() + long.as_micros() as u64, move |sim| sim.restart(node));
    }
}

fn name(name: u8) -> Name {
    Name { dir: 0, name }
}

/// The part of user `number` of this user's client.
pub(super) async fn play(story: Story, user: &mut User, number: u32, levers: &LeverSlot) {
    match (story, user.client, number) {
        (Story::DeadChain, _, 0) => fill(user, levers).await,
        (Story::DeadChain, ..) => go_on(user, levers).await,
        (Story::NameBack, 0, _) => come_back(user, levers).await,
        (Story::NameBack, ..) => watch(user).await,
        (Story::CutBeside, 0, _) => write_beside(user).await,
        (Story::CutBeside, ..) => cut_beside(user).await,
        (Story::LateFsync, ..) => fsync_late(user, levers).await,
        (Story::LongAppend, 0, 0) => append_over_two(user, levers).await,
        (Story::LongAppend, 0, _) => {}
        (Story::LongAppend, _, 0) => append_behind(user, levers).await,
        (Story::LongAppend, ..) => read_beside(user, levers).await,
    }
}

/// Has a chain die and writes to it, more than there is room for.
async fn fill(user: &mut User, levers: &LeverSlot) {
    let Some(attr) = user.create(name(0)).await else { return };
    let chain = user.door().chain(&attr, 0).expect("a file is on chains");
    levers.with(|l| l.dying.set(Some(chain)));
    while !levers.with(|l| l.dead.get()) {
        user.cx.sleep(POLL).await;
    }
    let Some(file) = user.open.last().copied() else { return };
    for i in 0..24 {
        user.write_at(file, i * u64::from(CHUNK), CHUNK.into()).await;
    }
}

/// Uses another chain meanwhile.
async fn go_on(user: &mut User, levers: &LeverSlot) {
    let dying = loop {
        match levers.with(|l| l.dying.get()) {
            Some(chain) => break chain,
            None => user.cx.sleep(POLL).await,
        }
    };
    for i in 1..8 {
        let Some(attr) = user.create(name(i)).await else { return };
        if user.door().chain(&attr, 0) != Some(dying) {
            break;
        }
    }
    let long = Duration::from_millis(4_000 + user.rng.below(3_000));
    levers.with(|l| l.kill(&user.sim, dying, long));
    let Some(file) = user.open.last().copied() else { return };
    user.cx.sleep(Duration::from_millis(500)).await;
    user.due = Some(PROMPT);
    for i in 0..6 {
        let at = user.rng.below(u64::from(CHUNK));
        user.write_at(file, at, 1 + user.rng.below(u64::from(CHUNK) - at)).await;
        user.push(file, true, false).await;
        user.look(name(0)).await;
        user.move_name(name(20 + i), name(21 + i), Move::Replace).await;
    }
    user.due = None;
}

/// Opens or makes a file and fsyncs what it writes.
async fn write_one(user: &mut User, name: Name) {
    if user.open_name(name).await.is_err() {
        user.create(name).await;
    }
    let Some(file) = user.open.pop() else { return };
    let most = user.stage.options.file_max / 2;
    for _ in 0..1 + user.rng.below(2) {
        user.write_at(file, user.rng.below(most), 1 + user.rng.below(most)).await;
    }
    user.push(file, true, false).await;
    user.close(file).await;
}

async fn come_back(user: &mut User, levers: &LeverSlot) {
    let (taken, other) = (name(0), name(1));
    for _ in 0..2 {
        write_one(user, taken).await;
        let replace = user.rng.coin();
        if replace {
            write_one(user, other).await;
        }
        user.cx.sleep(LET_GO).await;
        match replace {
            true => user.move_name(other, taken, Move::Replace).await,
            false => user.unlink(taken).await,
        }
        user.cx.sleep(Duration::from_micros(user.rng.below(60_000))).await;
        levers.with(|l| l.kv.outage(&user.sim, true));
        for name in [taken, other] {
            let _ = user.read_all(name).await; // the judge has heard of it
        }
    }
}

/// Looks at the same names from another mount.
async fn watch(user: &mut User) {
    for _ in 0..12 {
        user.cx.sleep(Duration::from_micros(user.rng.below(1_000_000))).await;
        let _ = user.read_all(name(user.rng.below(2) as u8)).await; // the judge has heard of it
    }
}

/// Files of the story, and how long after its making each is written.
const BESIDE: u8 = 64;
const BESIDE_US: u64 = 20_000;

async fn write_beside(user: &mut User) {
    for i in 0..BESIDE {
        user.create(name(i)).await;
        let Some(file) = user.open.pop() else { continue };
        let most = user.stage.options.file_max;
        let before = user.rng.coin();
        if before {
            user.write_at(file, 0, most).await;
            user.push(file, false, false).await;
        }
        user.cx.sleep(Duration::from_micros(BESIDE_US)).await;
        match before {
            true => user.write_at(file, user.rng.below(most), 1 + user.rng.below(100)).await,
            false => user.write_at(file, 0, 1 + user.rng.below(most)).await,
        }
        user.close(file).await;
    }
}

async fn cut_beside(user: &mut User) {
    for i in 0..BESIDE {
        let file = loop {
            match user.look(name(i)).await {
                Some(attr) => break attr.inode,
                None if user.stage.calm.get() => return,
                None => user.cx.sleep(Duration::from_millis(1)).await,
            }
        };
        let wait = match user.rng.below(4) {
            // Before it is written, by one who has it open already.
            0 => BESIDE_US / 2,
            _ => BESIDE_US - 1_000 + user.rng.below(1_500),
        };
        user.cx.sleep(Duration::from_micros(wait)).await;
        user.cut_to(file, user.rng.below(100), false).await;
        // What was closed shows here, unless it was cut then.
        user.cx.sleep(Duration::from_micros(BESIDE_US + 5_000 - wait)).await;
        let _ = user.read_all(name(i)).await; // the judge has heard of it
    }
}

async fn fsync_late(user: &mut User, levers: &LeverSlot) {
    for i in 0..3 {
        user.create(name(i)).await;
        let Some(file) = user.open.pop() else { continue };
        let most = user.stage.options.file_max / 2;
        user.write_at(file, 0, 1 + user.rng.below(most)).await;
        user.push(file, true, false).await;
        user.write_at(file, most, 1 + user.rng.below(most)).await;
        user.push(file, false, false).await;
        user.cx.sleep(Duration::from_micros(user.rng.below(20_000))).await;
        levers.with(|l| l.kv.outage(&user.sim, true));
        user.push(file, true, false).await;
        // And one that was answered a moment before.
        user.write_at(file, most, 1 + user.rng.below(most)).await;
        user.push(file, true, false).await;
        levers.with(|l| l.kv.outage(&user.sim, true));
        user.close(file).await;
    }
}

/// From the beginning until an append of one mount is cut off, and of another begins.
const BOTH_HERE: Duration = Duration::from_secs(3);
/// An append over two chunks takes about so long.
const LONG_APPEND_US: u64 = 10_000;
/// How long the chain of the second chunk is away.
const CHAIN_AWAY: Duration = Duration::from_millis(2_250);
/// From the end of a session until it is passed over: another is given its place.
const PASSED_OVER: Duration = Duration::from_millis(4_500);
/// How long a mount is cut off: another has appended by then.
const AWAY_US: u64 = 7_000_000;

async fn append_over_two(user: &mut User, levers: &LeverSlot) {
    let Some(attr) = user.create(name(0)).await else { return };
    let Some(file) = user.open.pop() else { return };
    let half = u64::from(SMALL_CHUNK) / 2;
    user.append_some(file, half).await;
    user.push(file, true, false).await;
    user.cx.sleep(BOTH_HERE).await;
    let (node, session) = (user.cx.node(), user.door().cluster().session());
    let passed = user.rng.coin();
    levers.with(|l| l.ending.set(Some(Ending { session, passed })));
    let second = user.door().chain(&attr, 1).expect("a file is on chains");
    levers.with(|l| l.kill(&user.sim, second, CHAIN_AWAY));
    let cut = user.sim.now_us() + LONG_APPEND_US;
    user.sim.at(cut, move |sim| sim.part(&[node], &sim.nodes()));
    user.sim.at(cut + AWAY_US, |sim| sim.rejoin());
    user.append_some(file, 2 * half).await;
    user.push(file, true, false).await;
    user.close(file).await;
}

/// Opens the file and waits until the session that is to end is cut off.
async fn come_beside(user: &mut User, levers: &LeverSlot) -> Option<(Open, Ending)> {
    while user.open_name(name(0)).await.is_err() {
        user.cx.sleep(POLL).await;
    }
    let file = user.open.pop()?;
    let ending = loop {
        match levers.with(|l| l.ending.get()) {
            Some(ending) => break ending,
            None if user.stage.calm.get() => return None,
            None => user.cx.sleep(POLL).await,
        }
    };
    user.cx.sleep(Duration::from_micros(2 * LONG_APPEND_US)).await;
    Some((file, ending))
}

/// Ends it, as an operator would, or its lease.
async fn end_session(user: &User, session: SessionId) {
    let agent = first_actor::<Agent>(user.cx.node());
    while !matches!(user.cx.ask(agent, CloseSession { session }).await, Ok(Ok(()))) {
        user.cx.sleep(POLL).await;
    }
}

async fn append_behind(user: &mut User, levers: &LeverSlot) {
    let Some((file, Ending { session, passed })) = come_beside(user, levers).await else { return };
    if passed {
        end_session(user, session).await;
    }
    user.cx.sleep(if passed { PASSED_OVER } else { CHAIN_AWAY + 10 * POLL }).await;
    user.append_some(file, u64::from(SMALL_CHUNK)).await;
    user.push(file, true, false).await;
    user.close(file).await;
    let _ = user.read_all(name(0)).await; // the judge has heard of it
}

/// Reads while the append beside waits for the one that is cut off, and ends that at last.
async fn read_beside(user: &mut User, levers: &LeverSlot) {
    let Some((file, Ending { session, passed })) = come_beside(user, levers).await else { return };
    user.cx.sleep(CHAIN_AWAY + 20 * POLL).await;
    user.due = Some(PROMPT);
    for _ in 0..10 {
        user.cx.sleep(5 * POLL).await;
        let _ = user.read(file, 0, 100).await; // the judge has heard of it
    }
    user.due = None;
    if !passed {
        end_session(user, session).await;
    }
    user.close(file).await;
}
