//! The chunk engine alone: random histories, a crash at any disk operation, recovery, and a model.
//!
//! One seed is one history of several clients on one engine, and a number of crash states of it: at
//! disk operations chosen along the way the disk is cloned; each clone loses, keeps or tears what
//! was not synced, is opened in a world of its own (sometimes crashed again while it recovers), and
//! compared with what the model allows there: every answered update is in it, every other one is
//! wholly there or wholly absent, everything verifies, and no extent is owned twice or by nobody.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use t3fs_actors::proto::ids::{
    ChainId, ChainVersion, ChunkId, ChunkVersion, InodeId, RequestId, SessionId, TargetId,
};
use t3fs_actors::storage::engine::{
    ChunkInfo, Engine, EngineConfig, EngineError, Op, TargetIdentity, Update,
};
use t3fs_runtime::{Cx, DiskId, join_all};

use super::{Check, Run};
use crate::disk::SimDisk;
use crate::rng::Rng;
use crate::world::Go;
use crate::world::Halt;
use crate::world::NodeSpec;
use crate::world::{Crash, World};

pub(super) const CHECK: Check = Check {
    name: "engine",
    about: "the chunk engine keeps what it answered through every crash, torn write and reordering",
    run,
    mutants: &["full-writers-table-evicts", "read-skips-granule-check"],
};

/// Crash states explored for one seed.
pub const STATES_PER_SEED: u64 = 64;
const DISK_BYTES: u64 = 256 << 20;
const DIR: &str = "targets/t";
const CLIENTS: u64 = 3;
const CHUNKS_PER_CLIENT: u64 = 3;
/// Sessions of one client, and how many of them a chunk remembers.
const SESSIONS: u64 = 5;
const WRITERS_MAX: usize = 3;

fn identity() -> TargetIdentity {
    TargetIdentity { cluster: "sim".into(), target: TargetId(3), chain: ChainId(4) }
}

/// Small limits, so that segments, checkpoints, the overlay and files turn over quickly.
fn config(rng: &Rng) -> EngineConfig {
    EngineConfig {
        overlay_bytes: *rng.pick(&[40 << 10, 256 << 10, 4 << 20]),
        checksum_cache_bytes: *rng.pick(&[0, 8 << 10, 1 << 20]),
        chunks_max: 1000,
        journal_segment_bytes: *rng.pick(&[72 << 10, 160 << 10, 512 << 10]),
        small_update_max: *rng.pick(&[4 << 10, 16 << 10, 20 << 10]),
        reserve_bytes: 0,
        group_bytes: *rng.pick(&[16 << 10, 256 << 10]),
        writers_max: WRITERS_MAX,
    }
}

type Content = Rc<Vec<u8>>;

/// One thing that a chunk may be.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct ChunkState {
    committed: Option<(u64, Content)>,
    /// Without content: a removal.
    pending: Option<(u64, Option<Content>)>,
    /// The last request of each session.
    writers: BTreeMap<u64, u64>,
    /// The request of the pending version.
    by: Option<RequestId>,
}

impl ChunkState {
    fn version(&self) -> u64 {
        self.committed.as_ref().map_or(0, |c| c.0)
    }

    fn updated(&self, version: u64, to: Option<Content>, commit: bool, by: RequestId) -> Self {
        let mut s = self.clone();
        s.pending = Some((version, to));
        s.by = Some(by);
        if commit { s.settled() } else { s }
    }

    fn settled(&self) -> Self {
        let mut s = self.clone();
        if let Some((version, to)) = s.pending.take() {
            s.writers = s.known();
            s.by = None;
            s.committed = to.map(|c| (version, c));
            if s.committed.is_none() {
                s.writers.clear();
            }
        }
        s
    }

    /// What is remembered of writers, with that of the pending version.
    fn known(&self) -> BTreeMap<u64, u64> {
        let by = self.by.iter().map(|r| (r.session.0, r.seq));
        self.writers.iter().map(|(s, n)| (*s, *n)).chain(by).collect()
    }

    /// Whether what was found is this. Found writers are all in one table.
    fn shows(&self, found: &ChunkState) -> bool {
        (&self.committed, &self.pending, self.known())
            == (&found.committed, &found.pending, found.known())
    }

    fn text(&self) -> String {
        let c = self.committed.as_ref().map(|c| (c.0, c.1.len()));
        let p = self.pending.as_ref().map(|p| (p.0, p.1.as_ref().map(|c| c.len())));
        format!("committed {c:?} pending {p:?} writers {:?}", self.known())
    }
}

#[derive(Clone, Default)]
struct Chunk {
    /// As the engine should show it now.
    now: ChunkState,
    /// What a crash at this moment may leave.
    allowed: Vec<ChunkState>,
}

type Model = BTreeMap<ChunkId, Chunk>;

struct Shared {
    model: RefCell<Model>,
    seq: Cell<u64>,
    /// Every content that was sent as a version, for readers beside the writer.
    sent: RefCell<BTreeMap<(ChunkId, u64), Vec<Option<Content>>>>,
    /// Clients still at work.
    writing: Cell<u64>,
    /// Injected disk errors are about: updates may fail.
    faulty: bool,
    /// Bits flip on the way from the disk.
    flips: bool,
    /// Draws which session an update is of.
    sessions: Rng,
    wrong: RefCell<Option<String>>,
}

impl Shared {
    fn new(model: Model, seq: u64, faulty: bool, flips: bool, sessions: Rng) -> Rc<Shared> {
        Rc::new(Shared {
            model: RefCell::new(model),
            seq: Cell::new(seq),
            sent: RefCell::default(),
            writing: Cell::new(0),
            faulty,
            flips,
            sessions,
            wrong: RefCell::default(),
        })
    }

    /// Whether this error is an answer, and nothing was done.
    fn refuses(&self, e: &EngineError) -> bool {
        match e {
            EngineError::NoSpace => self.faulty,
            EngineError::Corrupt { .. } => self.flips,
            _ => false,
        }
    }

    fn complain(&self, what: String) {
        self.wrong.borrow_mut().get_or_insert(what);
    }

    fn ok(&self) -> Result<(), String> {
        self.wrong.borrow().clone().map_or(Ok(()), Err)
    }
}

fn chunk_ids(client: u64) -> Vec<ChunkId> {
    let one = |i| ChunkId { inode: InodeId(100 + client % 2), index: (client * 10 + i) as u32 };
    (0..CHUNKS_PER_CLIENT).map(one).collect()
}

fn random_bytes(rng: &Rng, len: usize) -> Vec<u8> {
    let mut v = Vec::with_capacity(len + 8);
    // Stretches of zeros now and then: they are holes.
    let zeros = rng.below(8) == 0;
    while v.len() < len {
        v.extend_from_slice(&if zeros { 0u64 } else { rng.draw() }.to_le_bytes());
    }
    v.truncate(len);
    v
}

fn random_len(rng: &Rng) -> usize {
    let max = *rng.pick(&[1, 600, 4096, 4096, 10_000, 20_000, 70_000, 200_000]);
    let max = if rng.below(24) == 0 { 2 << 20 } else { max };
    1 + rng.below(max) as usize
}

/// A random update of a content: what to send and what it should make of it.
fn random_op(rng: &Rng, old: Option<&Content>) -> (Op, Option<Content>) {
    let have = old.map_or(0, |c| c.len());
    let mut new = old.map_or(Vec::new(), |c| c.to_vec());
    let what = rng.below(20);
    if what < 13 {
        let data = random_bytes(rng, random_len(rng));
        let offset = match rng.below(5) {
            0 => have,
            1 => rng.below(have as u64 + 30_000) as usize,
            2 => (rng.below(have as u64 + 1) as usize) & !4095,
            _ => rng.below(have as u64 + 1) as usize,
        };
        new.resize(have.max(offset + data.len()), 0);
        new[offset..offset + data.len()].copy_from_slice(&data);
        (Op::Write { offset: offset as u32, data: data.into() }, Some(Rc::new(new)))
    } else if what < 16 {
        let len = match rng.below(4) {
            0 => have + rng.below(100_000) as usize,
            1 => rng.below(2) as usize * 4096,
            _ => rng.below(have as u64 + 1) as usize,
        };
        new.resize(len, 0);
        (Op::Truncate { len: len as u32 }, Some(Rc::new(new)))
    } else if what < 18 && old.is_some() {
        (Op::Remove, None)
    } else {
        let len = if rng.below(4) == 0 { 0 } else { random_len(rng) };
        let data = random_bytes(rng, len);
        (Op::Replace { data: Bytes::from(data.clone()) }, Some(Rc::new(data)))
    }
}

/// One client's updates and reads, on chunks of its own.
async fn client(cx: Cx, e: Engine, s: Rc<Shared>, rng: Rng, who: u64, steps: u64) {
    s.writing.set(s.writing.get() + 1);
    for _ in 0..steps {
        if s.ok().is_err() {
            break;
        }
        let chunk = *rng.pick(&chunk_ids(who));
        let c = s.model.borrow().get(&chunk).cloned().unwrap_or_default();
        match rng.below(12) {
            0..6 if c.now.pending.is_none() => {
                update(&cx, &e, &s, &rng, who, chunk, &c).await;
            }
            7 if c.now.pending.is_some() && rng.coin() => {
                // A replacement over a pending version, as a predecessor sends it.
                update(&cx, &e, &s, &rng, who, chunk, &c).await;
            }
            6 | 8 if rng.below(3) == 0 => overwrite(&cx, &e, &s, &rng, chunk, &c).await,
            0..9 => {
                if let Some((version, _)) = &c.now.pending {
                    commit(&cx, &e, &s, chunk, *version);
                }
            }
            9 => cx.sleep(Duration::from_micros(rng.below(3000))).await,
            _ => read_some(&cx, &e, &s, &rng, chunk).await,
        }
        if rng.below(30) == 0 {
            cx.sleep(Duration::from_millis(rng.below(400))).await;
        }
    }
    s.writing.set(s.writing.get() - 1);
}

async fn update(
    cx: &Cx,
    e: &Engine,
    s: &Rc<Shared>,
    rng: &Rng,
    who: u64,
    chunk: ChunkId,
    c: &Chunk,
) {
    let (mut op, mut to) = random_op(rng, c.now.committed.as_ref().map(|x| &x.1));
    let over = c.now.pending.as_ref().map(|p| p.0);
    if over.is_some() && !matches!(op, Op::Replace { .. }) {
        let data = random_bytes(rng, random_len(rng));
        to = Some(Rc::new(data.clone()));
        op = Op::Replace { data: data.into() };
    }
    let version = match (&op, over) {
        (_, Some(p)) => p + rng.below(2),
        (Op::Replace { .. }, _) if c.now.committed.is_some() => c.now.version() + 1 + rng.below(3),
        _ if c.now.committed.is_some() => c.now.version() + 1,
        _ => e.fresh_version().0,
    };
    let commit = rng.coin();
    s.seq.set(s.seq.get() + 1);
    let by = RequestId {
        session: SessionId(who * SESSIONS + s.sessions.below(SESSIONS)),
        seq: s.seq.get(),
    };
    s.sent.borrow_mut().entry((chunk, version)).or_default().push(to.clone());
    let after = c.now.updated(version, to, commit, by);
    // What the engine tells of writers is compared with the model after each update.
    let known = e.info(chunk).map_or_else(BTreeMap::new, |i| writers_of(&i));
    let full = known.len() >= WRITERS_MAX && !known.contains_key(&by.session.0);
    {
        let mut model = s.model.borrow_mut();
        let m = model.entry(chunk).or_default();
        if m.allowed.is_empty() {
            m.allowed.push(m.now.clone());
        }
        m.allowed.push(after.clone());
    }
    let u = Update {
        chunk,
        version: ChunkVersion(version),
        chain_version: ChainVersion(1),
        op: op.clone(),
        request: Some(by),
        commit,
    };
    match e.apply(cx, u).await {
        Ok(done) => {
            let content = if commit {
                after.committed.as_ref().map(|x| &x.1)
            } else {
                after.pending.as_ref().and_then(|p| p.1.as_ref())
            };
            let len = content.map_or(0, |x| x.len());
            if (done.version.0, done.len as usize) != (version, len) {
                s.complain(format!("{chunk}: answered {done:?} to {version} of {len} bytes"));
            }
            // Unless a commit is on its way, which shows when it is there.
            let known = e.info(chunk).map_or_else(BTreeMap::new, |i| writers_of(&i));
            if known != after.known() {
                s.complain(format!("{chunk}: knows {known:?}, wrote {}", after.text()));
            }
            let mut model = s.model.borrow_mut();
            let m = model.get_mut(&chunk).expect("entered above");
            m.now = after.clone();
            m.allowed = vec![after];
        }
        // Its disk operation failed: nothing is known until the target opens again.
        Err(EngineError::Failed(_) | EngineError::Disk(_)) if s.faulty => {}
        Err(e) if s.refuses(&e) || e == EngineError::TooManyWriters && full => {
            let mut model = s.model.borrow_mut();
            let m = model.get_mut(&chunk).expect("entered above");
            m.allowed.pop();
        }
        Err(why) => s.complain(format!("{chunk}: {op:?} as {version} was refused: {why}")),
    }
}

/// Another replica's content over whatever there is, under any version: what a resync does.
async fn overwrite(cx: &Cx, e: &Engine, s: &Rc<Shared>, rng: &Rng, chunk: ChunkId, c: &Chunk) {
    let to = match rng.below(4) {
        0 => None,
        1 => Some(Rc::new(Vec::new())),
        _ => Some(Rc::new(random_bytes(rng, random_len(rng)))),
    };
    let version = 1 + rng.below(c.now.version() + 3);
    let content = to.as_ref().map(|c: &Content| Bytes::from(c.to_vec()));
    s.sent.borrow_mut().entry((chunk, version)).or_default().push(to.clone());
    let after = ChunkState { committed: to.map(|c| (version, c)), ..ChunkState::default() };
    {
        let mut model = s.model.borrow_mut();
        let m = model.entry(chunk).or_default();
        if m.allowed.is_empty() {
            m.allowed.push(m.now.clone());
        }
        m.allowed.push(after.clone());
    }
    let versions = (ChunkVersion(version), ChainVersion(1));
    match e.overwrite(cx, chunk, versions, content, Vec::new()).await {
        Ok(_) => {
            let mut model = s.model.borrow_mut();
            let m = model.get_mut(&chunk).expect("entered above");
            m.now = after.clone();
            m.allowed = vec![after];
        }
        // Its disk operation failed: nothing is known until the target opens again.
        Err(EngineError::Failed(_) | EngineError::Disk(_)) if s.faulty => {}
        Err(e) if s.refuses(&e) => {
            let mut model = s.model.borrow_mut();
            let m = model.get_mut(&chunk).expect("entered above");
            m.allowed.pop();
        }
        Err(why) => s.complain(format!("{chunk}: an overwrite was refused: {why}")),
    }
}

fn commit(cx: &Cx, e: &Engine, s: &Rc<Shared>, chunk: ChunkId, version: u64) {
    match e.commit(cx, chunk, ChunkVersion(version), ChainVersion(2)) {
        Ok(()) => {
            let mut model = s.model.borrow_mut();
            let m = model.get_mut(&chunk).expect("it has a pending version");
            m.now = m.now.settled();
            let both = m.allowed.iter().map(ChunkState::settled).collect::<Vec<_>>();
            m.allowed.extend(both);
            m.allowed.dedup();
        }
        Err(EngineError::Failed(_)) if s.faulty => {}
        Err(why) => s.complain(format!("{chunk}: commit of {version} was refused: {why}")),
    }
}

async fn read_some(cx: &Cx, e: &Engine, s: &Rc<Shared>, rng: &Rng, chunk: ChunkId) {
    // Only this client changes the chunk, so what is there now is there when it is read.
    let now = s.model.borrow().get(&chunk).cloned().unwrap_or_default().now;
    let have = now.committed.as_ref().map_or(0, |c| c.1.len()) as u64;
    let offset = rng.below(have + 5000) as u32;
    let len = if rng.below(3) == 0 { u32::MAX } else { rng.below(20_000) as u32 };
    match (e.read(cx, chunk, offset, len).await, now.committed) {
        (Ok(r), Some((version, content))) => {
            let from = (offset as usize).min(content.len());
            let to = from.saturating_add(len as usize).min(content.len());
            if r.version.0 != version || r.data[..] != content[from..to] {
                s.complain(format!("{chunk}: read {offset}+{len} of version {version} is wrong"));
            }
        }
        (Err(EngineError::NotFound), None) => {}
        (Err(EngineError::Disk(_)), _) if s.faulty => {}
        (Err(EngineError::Corrupt { .. }), _) if s.flips => {}
        (r, c) => s.complain(format!("{chunk}: read gave {r:?}, model {:?}", c.map(|x| x.0))),
    }
}

/// Reads chunks that others change: what it gets is one version, whole.
async fn reader(cx: Cx, e: Engine, s: Rc<Shared>, rng: Rng) {
    while s.writing.get() > 0 && s.ok().is_ok() {
        let chunk = *rng.pick(&chunk_ids(rng.below(CLIENTS)));
        let offset = rng.below(100_000) as u32 / (1 + rng.below(100) as u32);
        let len = if rng.coin() { u32::MAX } else { rng.below(100_000) as u32 };
        match e.read(&cx, chunk, offset, len).await {
            Ok(r) => {
                let sent = s.sent.borrow();
                let of = sent.get(&(chunk, r.version.0)).map_or(&[][..], |v| v);
                let same = |c: &Content| {
                    let from = (offset as usize).min(c.len());
                    let to = from.saturating_add(len as usize).min(c.len());
                    c.len() == r.chunk_len as usize && r.data[..] == c[from..to]
                };
                // Versions from before this round are the clients' own to check.
                if !of.is_empty() && !of.iter().flatten().any(same) {
                    let v = r.version;
                    s.complain(format!("{chunk}: {offset}+{len} is not of version {v}"));
                }
            }
            Err(EngineError::NotFound) => {}
            Err(EngineError::Disk(_)) if s.faulty => {}
            Err(EngineError::Corrupt { .. }) if s.flips => {}
            Err(why) => s.complain(format!("{chunk}: a reader got: {why}")),
        }
        cx.sleep(Duration::from_micros(rng.below(500))).await;
    }
}

/// The whole history: rounds of clients side by side, with checkpoints, closings and openings.
async fn history(cx: Cx, s: Rc<Shared>, rng: Rng, cfg: EngineConfig) {
    let disk = DiskId(0);
    let mut engine = match Engine::create(&cx, disk, DIR, &identity(), cfg.clone()).await {
        Ok(e) => e,
        Err(_) if s.faulty => return,
        Err(why) => return s.complain(format!("create: {why}")),
    };
    for round in 0..3 {
        let steps = 12 + rng.below(12);
        let clients = (0..CLIENTS).map(|who| {
            let rng = rng.fork(round << 8 | who);
            client(cx.clone(), engine.clone(), Rc::clone(&s), rng, who, steps)
        });
        let checkpoints = async {
            if rng.coin() {
                cx.sleep(Duration::from_micros(rng.below(20_000))).await;
                engine.checkpoint(&cx).await;
            }
        };
        let readers = (0..2u64).map(|n| {
            reader(cx.clone(), engine.clone(), Rc::clone(&s), rng.fork(round << 8 | 0x80 | n))
        });
        let work = t3fs_runtime::join(join_all(clients), join_all(readers));
        t3fs_runtime::join(work, checkpoints).await;
        if !s.faulty {
            engine.assert_sound();
        }
        match rng.below(4) {
            0 => cx.sleep(Duration::from_secs(1)).await,
            // A flipped bit of the journal is the end of it.
            1 if !s.flips => {
                match engine.close(&cx).await {
                    Ok(()) => {}
                    Err(_) if s.faulty => return,
                    Err(why) => return s.complain(format!("close: {why}")),
                }
                // Commits are durable now.
                for m in s.model.borrow_mut().values_mut() {
                    m.allowed = vec![m.now.clone()];
                }
                match Engine::open(&cx, disk, DIR, &identity(), cfg.clone()).await {
                    Ok(e) => engine = e,
                    Err(_) if s.faulty => return,
                    Err(why) => return s.complain(format!("open: {why}")),
                }
            }
            _ => {}
        }
    }
}

fn writers_of(info: &ChunkInfo) -> BTreeMap<u64, u64> {
    info.recent.iter().map(|r| (r.session.0, r.seq)).collect()
}

/// What the engine holds, chunk by chunk.
async fn observe(cx: &Cx, e: &Engine) -> Result<BTreeMap<ChunkId, ChunkState>, String> {
    let mut found = BTreeMap::new();
    for (chunk, info) in e.list(ChunkId::default(), 10_000) {
        let mut state = ChunkState::default();
        if let Some(c) = info.committed {
            let r = e.read(cx, chunk, 0, u32::MAX).await.map_err(|w| format!("{chunk}: {w}"))?;
            if (r.version, r.chunk_len) != (c.version, c.len) {
                return Err(format!("{chunk}: read {:?}, info says {c:?}", r.version));
            }
            state.committed = Some((c.version.0, Rc::new(r.data.to_vec())));
        }
        if let Some(p) = info.pending {
            let u = e.read_pending(cx, chunk).await.map_err(|w| format!("{chunk}: {w}"))?;
            let to = match u.op {
                Op::Replace { data } => Some(Rc::new(data.to_vec())),
                _ => None,
            };
            state.pending = Some((p.version.0, to));
        }
        state.writers = writers_of(&info);
        found.insert(chunk, state);
    }
    Ok(found)
}

/// Compares what was found with what may be; gives the model of what is.
fn compare(found: &BTreeMap<ChunkId, ChunkState>, model: &Model) -> Result<Model, String> {
    let mut settled = Model::new();
    for (chunk, m) in model {
        let is = found.get(chunk).cloned().unwrap_or_default();
        let empty = [ChunkState::default()];
        let allowed = if m.allowed.is_empty() { &empty[..] } else { &m.allowed };
        // The model knows better which writer is that of the pending version.
        let Some(one) = allowed.iter().find(|a| a.shows(&is)) else {
            let may: Vec<String> = allowed.iter().map(ChunkState::text).collect();
            return Err(format!("{chunk} is {}\n  may be {}", is.text(), may.join("\n      or ")));
        };
        if found.contains_key(chunk) {
            settled.insert(*chunk, Chunk { now: one.clone(), allowed: vec![one.clone()] });
        }
    }
    if let Some(extra) = found.keys().find(|c| !model.contains_key(c)) {
        return Err(format!("{extra} was never written"));
    }
    Ok(settled)
}

/// Opens, compares, goes on for a while, closes, opens and compares again.
async fn recovered(cx: Cx, model: Model, rng: Rng, cfg: EngineConfig) -> Result<(), String> {
    let (disk, id) = (DiskId(0), identity());
    let text = |e: EngineError| e.to_string();
    let engine = Engine::open(&cx, disk, DIR, &id, cfg.clone()).await.map_err(text)?;
    let found = observe(&cx, &engine).await?;
    let now = compare(&found, &model)?;
    engine.assert_sound();
    if rng.below(4) != 0 {
        return Ok(());
    }
    let s = Shared::new(now, 1_000_000, false, false, rng.fork(77));
    let clients = (0..CLIENTS)
        .map(|who| client(cx.clone(), engine.clone(), Rc::clone(&s), rng.fork(who), who, 4));
    join_all(clients).await;
    s.ok()?;
    engine.assert_sound();
    engine.close(&cx).await.map_err(text)?;
    for m in s.model.borrow_mut().values_mut() {
        m.allowed = vec![m.now.clone()];
    }
    let engine = Engine::open(&cx, disk, DIR, &id, cfg).await.map_err(text)?;
    let found = observe(&cx, &engine).await?;
    let now = compare(&found, &s.model.borrow())?;
    // What is left are the extents of what is there, and nothing when all is removed.
    for (chunk, c) in now {
        if c.now.pending.is_some() {
            let p = engine.info(chunk).and_then(|i| i.pending).expect("just seen");
            engine.commit(&cx, chunk, p.version, ChainVersion(1)).map_err(text)?;
        }
        let Some(c) = engine.info(chunk).and_then(|i| i.committed) else { continue };
        let u = Update {
            chunk,
            version: ChunkVersion(c.version.0 + 1),
            chain_version: ChainVersion(1),
            op: Op::Remove,
            request: None,
            commit: true,
        };
        engine.apply(&cx, u).await.map_err(text)?;
    }
    cx.sleep(Duration::from_secs(1)).await;
    engine.assert_sound();
    let space = engine.space();
    if (space.used, space.extents, space.overlay_bytes) != (0, 0, 0) {
        return Err(format!("all was removed, and it holds {space:?}"));
    }
    Ok(())
}

struct Point {
    number: u64,
    disk: SimDisk,
    model: Model,
}

/// One crash state of one point.
fn explore(
    p: &Point,
    seed: u64,
    cfg: &EngineConfig,
    planted: Option<&'static str>,
) -> Result<(), String> {
    let world = World::new(seed);
    world.plant(planted);
    let rng = world.rng(1);
    let mut disk = p.disk.clone();
    disk.faults = Default::default();
    if rng.below(8) == 0 {
        disk.kill(&rng);
    } else {
        disk.crash(&rng);
    }
    let node = world.add_node(NodeSpec::new().disk_image(disk));
    let mut crashes = 0;
    while crashes < 3 && rng.below(3) == 0 {
        crashes += 1;
        world.stop_at_disk_event(1 + rng.below(80));
        let (m, r, c) = (p.model.clone(), rng.fork(crashes), cfg.clone());
        // Only opening, so that the model still holds; the keeper works meanwhile.
        let opened = world.block_on(node, |cx| async move {
            let e = Engine::open(&cx, DiskId(0), DIR, &identity(), c).await;
            if let Ok(e) = &e
                && r.coin()
            {
                e.checkpoint(&cx).await;
            }
            cx.sleep(Duration::from_secs(1)).await;
            drop(m);
            e.map(drop)
        });
        match opened {
            Ok(Ok(())) | Err(Halt::Stopped) => {}
            Ok(Err(why)) if missing(&why, &p.model) => {}
            other => return Err(format!("open in front of a second crash: {other:?}")),
        }
        world.on_disk_event(|_| Go::On);
        world.crash(node, if rng.below(4) == 0 { Crash::Process } else { Crash::Power });
        world.restart(node);
    }
    let (m, r, c) = (p.model.clone(), rng.fork(99), cfg.clone());
    let nothing = p.model.is_empty();
    match world.block_on(node, |cx| recovered(cx, m, r, c)) {
        Ok(Err(why)) if nothing && why.contains("no target was ever finished") => Ok(()),
        Ok(r) => r,
        Err(halt) => Err(format!("recovery ended with {halt:?}")),
    }
}

/// Before the creation was answered there may be no target.
fn missing(why: &EngineError, model: &Model) -> bool {
    model.is_empty() && matches!(why, EngineError::BadFormat(w) if w.contains("no target"))
        || model.is_empty() && *why == EngineError::Disk(t3fs_runtime::DiskError::NotFound)
}

fn run(run: &Run<'_>) -> Result<(), String> {
    let world = run.world;
    let rng = world.rng(1);
    let cfg = config(&rng);
    let faulty = rng.below(5) == 0;
    let mut disk = SimDisk::new(0, DISK_BYTES);
    if faulty {
        disk.faults.no_space_ppm = *rng.pick(&[0, 3000, 30_000]);
        disk.faults.write_error_ppm = *rng.pick(&[0, 500]);
        disk.faults.sync_error_ppm = *rng.pick(&[0, 500]);
    }
    let more = world.rng(5);
    let flips = faulty && more.coin();
    if flips {
        disk.faults.flip_on_read_ppm = 100_000;
    }
    let node = world.add_node(NodeSpec::new().disk_image(disk));
    let shared = Shared::new(Model::new(), 0, faulty, flips, more);
    let points: Rc<RefCell<Vec<Point>>> = Rc::default();
    // A sample of fixed size over a run of unknown length (reservoir; Vitter 1985).
    let (keep, sample, s) = (Rc::clone(&points), rng.fork(7), Rc::clone(&shared));
    let max = STATES_PER_SEED / 2;
    world.on_disk_event(move |e| {
        let mut kept = keep.borrow_mut();
        let at = if (kept.len() as u64) < max { kept.len() as u64 } else { sample.below(e.number) };
        if at < max {
            let model = s.model.borrow().clone();
            let point = Point { number: e.number, disk: e.state.clone(), model };
            match kept.get_mut(at as usize) {
                Some(place) => *place = point,
                None => kept.push(point),
            }
        }
        Go::On
    });
    let (s, r, c) = (Rc::clone(&shared), rng.fork(1), cfg.clone());
    let ended = world.block_on(node, |cx| history(cx, s, r, c));
    shared.ok()?;
    ended.map_err(|h| format!("the history ended with {h:?}"))?;
    world.on_disk_event(|_| Go::On);
    for (i, p) in points.borrow().iter().enumerate() {
        for n in 0..2 {
            let seed = rng.fork(1000 + i as u64 * 10 + n).draw();
            explore(p, seed, &cfg, world.planted())
                .map_err(|why| format!("crash at disk event {}, state {seed}: {why}", p.number))?;
        }
    }
    Ok(())
}
