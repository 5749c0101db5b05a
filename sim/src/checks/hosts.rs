//! One host and its targets, with a stand-in for the agent and mgmtd behind it: chains lose and
//! regain members, replace them, hosts lose, swap and restore disks, humans stop, remove and make
//! targets, answers are lost. Whatever happens, no target begins that was replaced or stopped, none
//! that may be asked serves without the latest data, and no data goes that its chain may need; and
//! when all is well again, every target that a chain names runs.
//!
//! Targets are folders with a number in them for their data; their actors are not started.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use t3fs_actors::proto::agent::*;
use t3fs_actors::proto::host::*;
use t3fs_actors::proto::ids::{ChainId, ChainVersion, SessionId, TargetId, ViewVersion};
use t3fs_actors::proto::mgmtd::*;
use t3fs_actors::storage::engine::{Engine, TargetIdentity};
use t3fs_actors::storage::host::{Book, Host, HostConfig, HostWorks, Place, target_dir};
use t3fs_runtime::disk::OpenMode;
use t3fs_runtime::{Actor, Addr, Cx, Handle, Me, NodeId, Slot};

use super::chain::engine_config;
use super::hands::{DISKS, Hands, disks};
use super::{Check, Run};
use crate::rng::Rng;
use crate::world::{Boot, NodeSpec};
use crate::world::{Crash, Sim};
use TargetState::{LastServing, Offline, Serving, Waiting};

pub(super) const CHECK: Check = Check {
    name: "hosts",
    about: "a host begins no target that was replaced, stopped, or is not the latest",
    run,
    mutants: &[
        "born-empty",
        "missing-disk-forgotten",
        "needed-is-removed",
        "old-copy-begins",
        "replaced-begins",
        "stopped-begins",
        "swapped-disk-forgotten",
    ],
};

const CHAINS: u32 = 3;
const STORM: Duration = Duration::from_secs(40);
const CALM: Duration = Duration::from_secs(120);
/// The host has heard of a change by then.
const HEARD_US: u64 = 300_000;
/// Other hosts: one that has a replica of each chain, and one that replaces ours.
const OTHER: NodeId = NodeId(9);
const REPLACEMENT: NodeId = NodeId(8);

/// A chain of two, and what is true of our target.
struct ChainModel {
    mine: TargetState,
    other: TargetState,
    made: bool,
    replaced: bool,
    /// Since when it is as it is.
    since_us: u64,
    runs: bool,
    /// Of the latest data, and what was put into its place and asked by nobody.
    data: u64,
    unasked: Vec<u64>,
    opening: Option<Opening>,
    /// A human has stopped or removed it, and was told so.
    stopped: bool,
}

struct Model {
    version: u64,
    chains: BTreeMap<TargetId, ChainModel>,
    data: u64,
    /// Every so many answers are lost.
    lossy: u64,
    wrong: Option<String>,
}

type Truth = Rc<RefCell<Model>>;

fn target(chain: u32) -> TargetId {
    TargetId(chain * 10 + 1)
}

impl Model {
    fn complain(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    fn chain(&mut self, target: TargetId) -> &mut ChainModel {
        self.version += 1;
        self.chains.get_mut(&target).expect("it is one of ours")
    }

    fn view(&self, me: NodeId) -> ClusterView {
        let chain = |(t, c): (&TargetId, &ChainModel)| {
            let of = |n: u32, node, state, made| ChainTarget {
                target: TargetId(n),
                node,
                addr: None,
                state,
                made,
            };
            let mine = match c.replaced {
                // Another target, or the same one on another host.
                true => of(t.0 + 2 * (t.0 / 10 % 2), REPLACEMENT, Serving, true),
                false => of(t.0, me, c.mine, c.made),
            };
            let targets = vec![mine, of(t.0 + 1, OTHER, c.other, true)];
            let version = ChainVersion(self.version as u32);
            Chain { id: ChainId(t.0 / 10), version, targets }
        };
        let chains = self.chains.iter().map(chain).collect();
        let routing = Routing { chains, ..Routing::default() };
        ClusterView {
            version: ViewVersion(self.version),
            routing: Arc::new(routing),
            ..ClusterView::default()
        }
    }

    /// mgmtd notes that our target serves no more.
    fn is_out(&mut self, target: TargetId) {
        let c = self.chain(target);
        c.runs = false;
        c.mine = match (c.mine, c.other) {
            (Serving, Serving) => Offline,
            (Serving | LastServing, _) => LastServing,
            _ => Offline,
        };
    }

    /// Something happens to a chain.
    fn change(&mut self, rng: &Rng, target: TargetId, now_us: u64) {
        let what = rng.below(12);
        let c = self.chain(target);
        match (c.mine, c.other) {
            // The other is brought up to date, or ours is.
            (Serving, Offline) if c.runs => c.other = Serving,
            (Offline | Waiting, Serving) if c.runs => c.mine = Serving,
            (LastServing, Offline) if c.runs => c.mine = Serving,
            (Offline, LastServing) => c.other = Serving,
            (Offline | Waiting, Serving) if what < 3 => c.other = LastServing,
            // A wish may be forgotten then.
            (Offline, Serving) if what == 3 => {
                (c.replaced, c.stopped) = (!c.replaced, c.stopped && c.replaced);
                c.since_us = now_us;
            }
            (Serving, Serving) if what < 6 && c.runs => c.other = Offline,
            _ => {}
        }
    }

    fn claim(&mut self, m: &ClaimTargets) -> Vec<Claimed> {
        let one = |c: &TargetClaim| {
            let chain = self.chains.get_mut(&c.target).expect("it is one of ours");
            let known = [vec![c.opening, c.confirmed], c.tried.clone()].concat();
            match chain.opening.filter(|latest| !known.contains(latest)) {
                Some(latest) => Claimed::OldCopy { latest },
                None => {
                    chain.opening = Some(c.opening);
                    Claimed::Latest
                }
            }
        };
        m.claims.iter().map(one).collect()
    }
}

/// The agent, with the cluster behind it.
struct StandIn {
    truth: Truth,
}

impl Actor for StandIn {
    type Protocol = Agent;
}

/// Messages that a host does not send.
macro_rules! not_asked {
    ($($m:ty => $r:ty),* $(,)?) => { $(
        impl Handle<$m> for StandIn {
            async fn handle(_: &Me<Self>, _: $m, _: &Cx) -> $r {
                unreachable!("a host does not ask this")
            }
        }
    )* };
}

not_asked! {
    GetView => Option<ClusterView>,
    ReportTarget => (),
    Announce => (),
    SetMgmtds => (),
    ViewChanged => (),
    CreateChains => Result<ViewVersion, MgmtdError>,
    OpenSession => Result<SessionId, MgmtdError>,
    CloseSession => Result<(), MgmtdError>,
    ExtendSession => bool,
    ListNodes => Result<Vec<NodeLine>, MgmtdError>,
    GetSpaces => Option<Vec<NodeSpaces>>,
}

impl Handle<WatchView> for StandIn {
    async fn handle(me: &Me<Self>, m: WatchView, cx: &Cx) -> ViewNews {
        let until = cx.deadline().since(cx.now()).saturating_sub(Duration::from_millis(100));
        let until = cx.now() + until;
        loop {
            let view = me.with(|a| {
                let truth = a.truth.borrow();
                (truth.version > m.have.0).then(|| truth.view(cx.node()))
            });
            if view.is_some() || cx.now() >= until {
                return ViewNews { view, own: Vec::new(), own_number: 0 };
            }
            cx.sleep(Duration::from_millis(7)).await;
        }
    }
}

impl Handle<ClaimTargets> for StandIn {
    async fn handle(
        me: &Me<Self>,
        m: ClaimTargets,
        cx: &Cx,
    ) -> Result<Option<Vec<Claimed>>, MgmtdError> {
        let lost = || Err(MgmtdError::Unavailable("lost".into()));
        let luck = cx.rand();
        let is_lossy = me.with(|a| luck % 8 < a.truth.borrow().lossy);
        if is_lossy && luck & 16 == 0 {
            return lost();
        }
        let claimed = me.with(|a| a.truth.borrow_mut().claim(&m));
        cx.sleep(Duration::from_millis(luck % 40)).await;
        if is_lossy { lost() } else { Ok(Some(claimed)) }
    }
}

struct Works {
    truth: Truth,
    hands: Hands,
}

const DATA: &str = "data";

/// The number in a target's folder; 0 where there is none.
async fn data(cx: &Cx, place: Place) -> u64 {
    let (disk, path) = (cx.disk(place.disk), format!("{}/{DATA}", target_dir(place.target)));
    let Ok((file, _)) = disk.open(&path, OpenMode::Existing).await else { return 0 };
    let read = disk.read(file, 0, 4096).await.expect("a whole block");
    disk.close(file).await.expect("it is open");
    u64::from_le_bytes(read[..8].try_into().expect("8 bytes"))
}

async fn write_data(cx: &Cx, place: Place, data: u64) {
    let (disk, dir) = (cx.disk(place.disk), target_dir(place.target));
    let path = format!("{dir}/{DATA}");
    let (file, _) = disk.open(&format!("{path}.new"), OpenMode::OrCreate).await.expect("a file");
    let mut buf = disk.alloc(4096).await;
    buf[..8].copy_from_slice(&data.to_le_bytes());
    disk.write(file, 0, buf).await.expect("it is written");
    disk.sync(file).await.expect("it is synced");
    disk.close(file).await.expect("it is open");
    disk.rename(&format!("{path}.new"), &path).await.expect("it is there");
    disk.sync_dir(&dir).await.expect("it is there");
}

impl HostWorks for Works {
    async fn make(&self, cx: &Cx, place: Place) -> Result<(), String> {
        let Place { target, chain, disk } = place;
        let dir = target_dir(target);
        for disk in disks() {
            let names = cx.disk(disk).list(&dir).await.unwrap_or_default();
            if names.iter().any(|n| n == "superblock") {
                let what = format!("target {target} is made although disk {} has it", disk.0);
                self.truth.borrow_mut().complain(what);
            }
        }
        let id = TargetIdentity { cluster: "sim".into(), target, chain };
        let made = Engine::create(cx, disk, &dir, &id, engine_config()).await;
        made.map_err(|e| e.to_string())?.close(cx).await.map_err(|e| e.to_string())
    }

    async fn start(&self, cx: &Cx, place: Place) -> Result<(), String> {
        let target = place.target;
        let found = data(cx, place).await;
        let next = {
            let truth = &mut *self.truth.borrow_mut();
            truth.data += 1;
            let next = truth.data;
            let c = truth.chain(target);
            // It may have been decided just before; then it ends again.
            let heard = cx.now().us() > c.since_us + HEARD_US;
            let is_latest = found == c.data || c.unasked.contains(&found);
            c.unasked.push(next);
            let harmless = !c.made || matches!(c.mine, Offline | Waiting);
            let wrong = match c {
                _ if c.replaced && heard => Some("was replaced".into()),
                _ if c.stopped => Some("was stopped".into()),
                _ if !is_latest && !harmless => {
                    Some(format!("is {:?} and has data {found}, not {}", c.mine, c.data))
                }
                _ => None,
            };
            if let Some(why) = wrong {
                truth.complain(format!("target {target} begins, which {why}"));
            }
            next
        };
        // It may be asked from here on: what it has is the latest when that is durable.
        write_data(cx, place, next).await;
        let truth = &mut *self.truth.borrow_mut();
        let c = truth.chain(target);
        (c.made, c.runs, c.data) = (true, true, next);
        c.unasked.clear();
        Ok(())
    }

    async fn stop(&self, _: &Cx, target: TargetId) -> Result<(), String> {
        self.truth.borrow_mut().is_out(target);
        Ok(())
    }

    async fn store(&self, cx: &Cx, book: Book) -> Result<(), String> {
        self.hands.store(cx.node(), book);
        Ok(())
    }
}

/// What all of a run share.
#[derive(Clone)]
struct Play {
    truth: Truth,
    hands: Hands,
    rng: Rng,
    node: NodeId,
    host: Rc<Cell<Option<Addr<StorageHost>>>>,
    /// A human waits for an answer.
    busy: Rc<Cell<bool>>,
}

impl Play {
    fn targets() -> Vec<TargetId> {
        (1..=CHAINS).map(target).collect()
    }

    /// The host goes down and comes back, perhaps with other disks.
    fn crashes(&self, sim: &Sim) {
        let (play, rng) = (self.clone(), &self.rng);
        sim.at(sim.now_us() + 100_000 + rng.below(2_500_000), move |sim| {
            if sim.now_us() >= STORM.as_micros() as u64 {
                return;
            }
            let (node, rng, targets) = (play.node, &play.rng, Play::targets());
            sim.crash(node, if rng.coin() { Crash::Power } else { Crash::Process });
            play.busy.set(false);
            play.hands.copy(sim, node, &targets);
            if rng.below(3) > 0 {
                play.hands.meddle(sim, rng, node, &targets);
            }
            if play.hands.book(node).is_empty() {
                // The host's wishes went with its book.
                play.truth.borrow_mut().chains.values_mut().for_each(|c| c.stopped = false);
            }
            // mgmtd notes that it is gone, or it is back before that.
            if rng.coin() {
                targets.into_iter().for_each(|t| play.truth.borrow_mut().is_out(t));
            } else {
                let again = play.clone();
                sim.at(sim.now_us() + 600_000, move |_| {
                    for t in Play::targets() {
                        if !again.truth.borrow_mut().chain(t).runs {
                            again.truth.borrow_mut().is_out(t);
                        }
                    }
                });
                let truth = &mut *play.truth.borrow_mut();
                truth.chains.values_mut().for_each(|c| c.runs = false);
            }
            sim.at(sim.now_us() + rng.below(800_000), move |sim| sim.restart(node));
            play.crashes(sim);
        });
    }

    fn changes(&self, sim: &Sim) {
        let play = self.clone();
        sim.at(sim.now_us() + 20_000 + self.rng.below(300_000), move |sim| {
            if sim.now_us() < STORM.as_micros() as u64 {
                let target = *play.rng.pick(&Play::targets());
                play.truth.borrow_mut().change(&play.rng, target, sim.now_us());
                play.changes(sim);
            }
        });
    }

    /// A human asks for something, and waits for the answer, or until the host has gone.
    fn humans(&self, sim: &Sim) {
        let play = self.clone();
        sim.at(sim.now_us() + 200_000 + self.rng.below(1_500_000), move |sim| {
            if sim.now_us() >= STORM.as_micros() as u64 {
                return;
            }
            let free = sim.is_up(play.node) && !play.busy.get();
            if let Some(host) = play.host.get().filter(|_| free) {
                play.busy.set(true);
                let (p, what) = (play.clone(), play.rng.below(6));
                let target = *play.rng.pick(&Play::targets());
                sim.spawn(play.node, 0, move |cx| async move {
                    p.ask(&cx, host, target, what).await;
                    p.busy.set(false);
                });
            }
            play.humans(sim);
        });
    }

    async fn ask(&self, cx: &Cx, host: Addr<StorageHost>, target: TargetId, what: u64) {
        let truth = &self.truth;
        // A wish of one that is replaced, or has been meanwhile, may be forgotten.
        let since_us = truth.borrow_mut().chain(target).since_us;
        let heard = cx.now().us() > since_us + HEARD_US;
        match what {
            0 | 1 => {
                if let Ok(Ok(())) = cx.ask(host, StopTarget { target }).await {
                    let truth = &mut *truth.borrow_mut();
                    let c = truth.chain(target);
                    c.stopped = !c.replaced && c.since_us == since_us && heard;
                }
            }
            2 | 3 => {
                let done = cx.ask(host, RemoveTarget { target }).await;
                let truth = &mut *truth.borrow_mut();
                let c = truth.chain(target);
                let same = c.since_us == since_us && heard;
                let needed = !c.replaced && same && c.mine != Offline;
                if let Ok(Ok(())) = done {
                    c.stopped = !c.replaced && same;
                    if needed {
                        truth.complain(format!("the data of target {target} went, and is needed"));
                    }
                }
            }
            _ => {
                truth.borrow_mut().chain(target).stopped = false;
                let m = MakeTarget { target, chain: ChainId(target.0 / 10), disk: None };
                let _ = cx.ask(host, m).await; // a refusal is a good answer, too
            }
        }
    }
}

fn run(run: &Run<'_>) -> Result<(), String> {
    let world = run.world;
    let rng = world.rng(1);
    let chain = |c: u32| {
        let chain = ChainModel {
            mine: Serving,
            other: Serving,
            made: false,
            replaced: false,
            since_us: 0,
            runs: false,
            data: 0,
            unasked: Vec::new(),
            opening: None,
            stopped: false,
        };
        (target(c), chain)
    };
    let chains = (1..=CHAINS).map(chain).collect();
    let lossy = *rng.pick(&[0, 1, 4]);
    let model = Model { version: 1, chains, data: 0, lossy, wrong: None };
    let play = Play {
        truth: Rc::new(RefCell::new(model)),
        hands: Hands::default(),
        rng: world.rng(2),
        node: NodeId(1),
        host: Rc::default(),
        busy: Rc::default(),
    };
    let p = play.clone();
    let spec = (0..DISKS).fold(NodeSpec::new(), |spec, _| spec.disk(64 << 20));
    let node = world.add_node(spec.boot(move |b: &Boot| {
        let agent = b.cx.start(StandIn { truth: Rc::clone(&p.truth) });
        let host = Host::start(
            &b.cx,
            HostConfig {
                cluster: "sim".into(),
                disks: p.hands.present(b.node),
                book: p.hands.book(b.node),
                agent,
                works: Works { truth: Rc::clone(&p.truth), hands: p.hands.clone() },
                first: Slot::new(),
            },
        );
        p.host.set(Some(host));
    }));
    assert_eq!(node, play.node);
    play.crashes(world);
    play.changes(world);
    play.humans(world);
    let wrong = || play.truth.borrow().wrong.is_some();
    match world.run_until(wrong, STORM) {
        Ok(()) | Err(crate::world::Halt::Late) => {}
        Err(h) => return Err(format!("the storm ended with {h:?}")),
    }
    if let Some(why) = play.truth.borrow().wrong.clone() {
        return Err(why);
    }
    calm(world, &play)
}

/// Others serve every chain, and humans want every target that a chain names here.
fn calm(world: &crate::world::World, play: &Play) -> Result<(), String> {
    world.crash(play.node, Crash::Process);
    play.hands.put_all_in();
    for t in Play::targets() {
        let truth = &mut *play.truth.borrow_mut();
        truth.lossy = 0;
        let c = truth.chain(t);
        (c.mine, c.other, c.runs, c.stopped) = (Offline, Serving, false, false);
    }
    world.restart(play.node);
    let p = play.clone();
    let asked = async move |cx: Cx| {
        let host = p.host.get().expect("it has started");
        let mut last = Vec::new();
        for _ in 0..200 {
            for t in Play::targets() {
                p.ask(&cx, host, t, 5).await;
            }
            last = cx.ask(host, ListHostTargets).await.unwrap_or_default();
            let runs = last.iter().filter(|t| t.state == HostTargetState::Runs).map(|t| t.target);
            let runs: BTreeSet<TargetId> = runs.collect();
            let wanted: BTreeSet<TargetId> = {
                let truth = p.truth.borrow();
                truth.chains.iter().filter(|(_, c)| !c.replaced).map(|(t, _)| *t).collect()
            };
            if runs == wanted {
                return Ok(());
            }
            cx.sleep(CALM / 400).await;
        }
        Err(format!("not all begins: {last:?}"))
    };
    world.block_on(play.node, asked).map_err(|h| format!("the calm ended with {h:?}"))??;
    play.truth.borrow().wrong.clone().map_or(Ok(()), Err)
}
