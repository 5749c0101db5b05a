//! A toy: registers replicated along a chain, on disk, exactly once. It is here to exercise the
//! runtime and the simulator, and to show what a check with real actors looks like.
//!
//! The head orders updates of a key (one at a time), every replica stores before it forwards, and
//! answers after its successor has; reads go to the tail. Nothing ever changes the chain, so a dead
//! replica only makes updates wait. Deliberate bugs stand behind `Bugs`.

use core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::disk::{ALIGN, OpenMode};
use t3fs_runtime::line::{Grant, Lines, Turn};
use t3fs_runtime::wire::crc32c;
use t3fs_runtime::{
    Actor, Addr, Ask, Cx, Disk, DiskId, FileId, Handle, Me, NodeId, RawAddr, no_bulk, protocol,
};
use t3fs_sim::checks::{Check, Run};
use t3fs_sim::oracles::history::{Action, History, Told};
use t3fs_sim::{Menu, NodeSpec, Rng, Sim};

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Put {
    pub key: u32,
    pub client: u32,
    pub seq: u64,
    pub value: u64,
    /// 0 from a client; the head's choice from there on.
    pub version: u64,
    /// Places of the replicas behind the receiver.
    pub rest: Vec<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Get {
    pub key: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Got {
    pub version: u64,
    pub value: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Refusal {
    NotReady,
    /// A version is missing in between.
    Gap,
}

/// To itself, when its process starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Start {
    pub place: u16,
    pub replicas: u16,
}

no_bulk!(Put, Get, Got, Start, Refusal);

protocol! { RegisterApi as RegisterMsg, RegisterReply = 0x7F00 {
    1 v 1 Put -> Result<u64, Refusal>, Bulk, 500 ms, hops |m| m.rest.len() as u8;
    2 v 1 Get -> Result<Got, Refusal>, Control, 300 ms;
    3 v 1 Start -> (), Control, 10_000 ms;
} }

/// Stands for mgmtd: where each replica lives now. Shared memory, so always right.
pub type Places = Rc<RefCell<Vec<Option<RawAddr>>>>;

#[derive(Clone, Copy, Default)]
pub struct Bugs {
    /// The head answers before its successor has.
    pub ack_early: bool,
    pub no_sync: bool,
    /// A repeated update is a new one.
    pub no_dedupe: bool,
}

#[derive(Clone, Default, Debug)]
struct Record {
    version: u64,
    value: u64,
    /// Last number and version of each client.
    seen: BTreeMap<u32, (u64, u64)>,
    client: u32,
    seq: u64,
}

pub struct Register {
    records: BTreeMap<u32, Record>,
    locks: Lines<u32>,
    file: Option<FileId>,
    places: Places,
    bugs: Bugs,
}

impl Actor for Register {
    type Protocol = RegisterApi;
    fn invariants(&self) {
        assert!(self.records.len() <= 100_000);
    }
}

/// The key's lock, in turn.
async fn lock(me: &Me<Register>, key: u32) -> Grant<u32> {
    match me.with(|s| s.locks.of(key).alone()) {
        Turn::Now(grant) => grant,
        Turn::Waits(place) => place.await,
    }
}

/// Keys with a place on disk: two blocks each, written in turn, so a torn one leaves the other.
const DISK_KEYS: u32 = 64;
const FIELDS: usize = 5;

fn encode(key: u32, r: &Record) -> Vec<u8> {
    let mut b = Vec::with_capacity(ALIGN);
    for w in [r.version, r.value, r.client.into(), r.seq, r.seen.len() as u64] {
        b.extend_from_slice(&w.to_le_bytes());
    }
    for (client, (seq, version)) in &r.seen {
        for w in [u64::from(*client), *seq, *version] {
            b.extend_from_slice(&w.to_le_bytes());
        }
    }
    b.resize(ALIGN - 8, 0);
    b.extend_from_slice(&key.to_le_bytes());
    let sum = crc32c(&b);
    b.extend_from_slice(&sum.to_le_bytes());
    b
}

fn decode(key: u32, b: &[u8]) -> Option<Record> {
    let sum = u32::from_le_bytes(b[ALIGN - 4..].try_into().unwrap());
    if crc32c(&b[..ALIGN - 4]) != sum || b[ALIGN - 8..ALIGN - 4] != key.to_le_bytes() {
        return None;
    }
    let word = |i: usize| u64::from_le_bytes(b[8 * i..8 * i + 8].try_into().unwrap());
    let seen = (0..word(4) as usize).map(|i| {
        let at = FIELDS + 3 * i;
        (word(at) as u32, (word(at + 1), word(at + 2)))
    });
    let (version, value, client, seq) = (word(0), word(1), word(2) as u32, word(3));
    Some(Record { version, value, client, seq, seen: seen.collect() })
}

async fn store(me: &Me<Register>, cx: &Cx, key: u32, r: &Record) {
    let (file, bugs) = me.with(|s| (s.file, s.bugs));
    let Some(file) = file else { return };
    let disk = cx.disk(DiskId(0));
    let mut buf = disk.alloc(ALIGN).await;
    buf.copy_from_slice(&encode(key, r));
    let block = u64::from(key) * 2 + r.version % 2;
    disk.write(file, block * ALIGN as u64, buf).await.expect("this disk does not fail");
    if !bugs.no_sync {
        disk.sync(file).await.expect("this disk does not fail");
    }
}

async fn recover(disk: &Disk) -> (FileId, BTreeMap<u32, Record>) {
    let (file, len) = disk.open("registers", OpenMode::OrCreate).await.unwrap();
    let whole = u64::from(DISK_KEYS) * 2 * ALIGN as u64;
    if len < whole {
        disk.allocate(file, 0, whole).await.unwrap();
        disk.sync(file).await.unwrap();
    }
    disk.sync_dir("").await.unwrap();
    // A killed process leaves writes that a later loss of power may still take: what is believed
    // from here on must be durable first. (Seed 118 of this check found it missing.)
    disk.sync(file).await.unwrap();
    let bytes = disk.read(file, 0, whole as usize).await.unwrap();
    let mut records = BTreeMap::new();
    for key in 0..DISK_KEYS {
        let at = key as usize * 2 * ALIGN;
        let two = [&bytes[at..at + ALIGN], &bytes[at + ALIGN..at + 2 * ALIGN]];
        let newest = two.into_iter().filter_map(|b| decode(key, b)).max_by_key(|r| r.version);
        records.extend(newest.map(|r| (key, r)));
    }
    (file, records)
}

/// Sends an update on until the successor has it: it has begun, so it never gives up.
async fn forward(me: &Me<Register>, cx: &Cx, mut put: Put) {
    if put.rest.is_empty() {
        return;
    }
    let next = put.rest.remove(0);
    loop {
        if let Some(addr) = me.with(|s| at(&s.places, next)) {
            match cx.ask(addr, put.clone()).await {
                Ok(Ok(_)) => return,
                Ok(Err(Refusal::Gap)) => panic!("a successor misses a version: {put:?}"),
                Ok(Err(Refusal::NotReady)) | Err(_) => {}
            }
        }
        cx.sleep(Duration::from_millis(5)).await;
    }
}

impl Handle<Put> for Register {
    async fn handle(me: &Me<Self>, mut put: Put, cx: &Cx) -> Result<u64, Refusal> {
        if me.with(|s| s.file.is_none()) {
            return Err(Refusal::NotReady);
        }
        let _held = lock(me, put.key).await;
        if cx.expired() {
            return Err(Refusal::NotReady);
        }
        let cx = &cx.outlive();
        let (mut record, bugs) =
            me.with(|s| (s.records.get(&put.key).cloned().unwrap_or_default(), s.bugs));
        if put.version == 0 {
            match record.seen.get(&put.client) {
                Some((seq, version)) if *seq >= put.seq && !bugs.no_dedupe => {
                    put.version = *version
                }
                _ => put.version = record.version + 1,
            }
        }
        if put.version > record.version + 1 {
            return Err(Refusal::Gap);
        }
        if put.version == record.version + 1 {
            record.version = put.version;
            record.value = put.value;
            (record.client, record.seq) = (put.client, put.seq);
            record.seen.insert(put.client, (put.seq, put.version));
            store(me, cx, put.key, &record).await;
            me.with(|s| s.records.insert(put.key, record));
        }
        let version = put.version;
        if bugs.ack_early {
            let (me, door) = (me.clone(), cx.clone());
            cx.spawn(async move {
                let _held = _held;
                forward(&me, &door, put).await;
            });
            return Ok(version);
        }
        forward(me, cx, put).await;
        Ok(version)
    }
}

impl Handle<Get> for Register {
    async fn handle(me: &Me<Self>, get: Get, _cx: &Cx) -> Result<Got, Refusal> {
        me.with(|s| {
            s.file.ok_or(Refusal::NotReady)?;
            let r = s.records.get(&get.key).cloned().unwrap_or_default();
            Ok(Got { version: r.version, value: r.value })
        })
    }
}

/// A door on each client node, on another shard than the client: everything it does crosses a ring.
pub struct Proxy {
    places: Places,
    replicas: u16,
}

protocol! { ProxyApi as ProxyMsg, ProxyReply = 0x7E00 {
    1 v 1 Put -> Result<u64, Refusal>, Bulk, 600 ms;
    2 v 1 Get -> Result<Got, Refusal>, Control, 400 ms;
} }

impl Actor for Proxy {
    type Protocol = ProxyApi;
}

impl Handle<Put> for Proxy {
    async fn handle(me: &Me<Self>, put: Put, cx: &Cx) -> Result<u64, Refusal> {
        let head = me.with(|s| at(&s.places, chain_of(put.key, s.replicas)[0]));
        let answer = cx.ask(head.ok_or(Refusal::NotReady)?, put).await;
        answer.unwrap_or(Err(Refusal::NotReady))
    }
}

impl Handle<Get> for Proxy {
    async fn handle(me: &Me<Self>, get: Get, cx: &Cx) -> Result<Got, Refusal> {
        let tail =
            me.with(|s| at(&s.places, chain_of(get.key, s.replicas)[s.replicas as usize - 1]));
        let answer = cx.ask(tail.ok_or(Refusal::NotReady)?, get).await;
        answer.unwrap_or(Err(Refusal::NotReady))
    }
}

/// The way of a key's updates: chains ABC, BCA, CAB by turns.
pub fn chain_of(key: u32, replicas: u16) -> Vec<u16> {
    (0..replicas).map(|i| (key as u16 + i) % replicas).collect()
}

impl Handle<Start> for Register {
    async fn handle(me: &Me<Self>, start: Start, cx: &Cx) {
        let cx = &cx.outlive();
        let (file, records) = recover(&cx.disk(DiskId(0))).await;
        // The last update of each key may not have gone on; it does, before anything new.
        for (key, r) in &records {
            let mut rest = chain_of(*key, start.replicas);
            while rest.remove(0) != start.place {}
            let put = Put {
                key: *key,
                client: r.client,
                seq: r.seq,
                value: r.value,
                version: r.version,
                rest,
            };
            let held = lock(me, *key).await;
            let (me, door) = (me.clone(), cx.clone());
            cx.spawn(async move {
                let _held = held;
                forward(&me, &door, put).await;
            });
        }
        me.with(|s| {
            s.records = records;
            s.file = Some(file);
        });
    }
}

/// Starts the replica of a node, on the shard that `cx` belongs to.
pub fn boot(cx: &Cx, place: u16, places: &Places, bugs: Bugs, replicas: u16) {
    let addr = cx.start(Register {
        records: BTreeMap::new(),
        locks: Lines::default(),
        file: None,
        places: Rc::clone(places),
        bugs,
    });
    places.borrow_mut()[usize::from(place)] = Some(addr.raw());
    cx.tell(addr, Start { place, replicas }).expect("a fresh actor has credits");
}

/// A cluster of replicas and client nodes.
pub struct Cluster {
    pub servers: Vec<NodeId>,
    pub clients: Vec<NodeId>,
    pub replicas: u16,
    /// The door of each client node.
    pub proxies: Rc<RefCell<BTreeMap<NodeId, Addr<ProxyApi>>>>,
}

pub fn cluster(sim: &Sim, replicas: u16, clients: u16, bugs: Bugs) -> Cluster {
    let places: Places = Rc::new(RefCell::new(vec![None; usize::from(replicas)]));
    let server = |place| {
        let places = Rc::clone(&places);
        let spec = NodeSpec::new().disk(64 << 20).shards(2).boot(move |b| {
            // On the second shard of odd places, so that both kinds of way in are used.
            if b.shard == place % 2 {
                boot(&b.cx, place, &places, bugs, replicas);
            }
        });
        sim.add_node(spec)
    };
    let servers = (0..replicas).map(server).collect();
    let proxies = Rc::new(RefCell::new(BTreeMap::new()));
    let client = |_| {
        let (places, addrs) = (Rc::clone(&places), Rc::clone(&proxies));
        sim.add_node(NodeSpec::new().shards(2).boot(move |b| {
            if b.shard == 1 {
                let proxy = b.cx.start(Proxy { places: Rc::clone(&places), replicas });
                addrs.borrow_mut().insert(b.node, proxy);
            }
        }))
    };
    let clients = (0..clients).map(client).collect();
    Cluster { servers, clients, replicas, proxies }
}

fn at(places: &Places, place: u16) -> Option<Addr<RegisterApi>> {
    places.borrow()[usize::from(place)].map(Addr::from_raw)
}

/// What a client does.
#[derive(Clone)]
pub struct Load {
    pub ops: u64,
    pub keys: u32,
    /// Mean pause between two operations.
    pub pause_us: u64,
    /// After this long an update is given up, its outcome unknown.
    pub patience: Duration,
    pub history: History,
}

/// Asks the proxy of this node until it has an answer or patience ends.
async fn insist<M, R>(cx: &Cx, cluster: &Cluster, message: M, load: &Load) -> Option<R>
where
    M: Ask<ProxyApi, Reply = Result<R, Refusal>> + Clone,
{
    let give_up = cx.now() + load.patience;
    let proxy = cluster.proxies.borrow()[&cx.node()];
    while cx.now() < give_up {
        if let Ok(Ok(answer)) = cx.ask(proxy, message.clone()).await {
            return Some(answer);
        }
        cx.sleep(Duration::from_millis(3)).await;
    }
    None
}

/// One client: updates and reads keys at random, one at a time.
pub async fn client(cx: Cx, cluster: Rc<Cluster>, me: u32, rng: Rng, load: Load) {
    for n in 1..=load.ops {
        let key = rng.below(load.keys.into()) as u32;
        let chain = chain_of(key, cluster.replicas);
        if rng.coin() {
            let value = u64::from(me) << 32 | n;
            let op = load.history.invoke(key.into(), me, Action::Write { cells: 0..1, value });
            let rest = chain[1..].to_vec();
            let message = Put { key, client: me, seq: n, value, version: 0, rest };
            if let Some(version) = insist(&cx, &cluster, message, &load).await {
                load.history.returned(op, Told::updated(version));
            }
        } else {
            let op = load.history.invoke(key.into(), me, Action::Read { cells: 0..1 });
            if let Some(got) = insist(&cx, &cluster, Get { key }, &load).await {
                load.history.returned(
                    op,
                    match got.version {
                        0 => Told::absent(),
                        v => Told::read(v, vec![got.value]),
                    },
                );
            }
        }
        if load.pause_us > 0 {
            cx.sleep(Duration::from_micros(rng.below(2 * load.pause_us))).await;
        }
    }
}

/// Three replicas and two clients under a swarm of faults; then healed, everything must end.
fn run(run: &Run<'_>) -> Result<(), String> {
    let sim = run.world;
    let bugs = Bugs {
        ack_early: run.has("ack-early"),
        no_sync: run.has("no-sync"),
        no_dedupe: run.has("no-dedupe"),
    };
    let c = Rc::new(cluster(sim, 3, 2, bugs));
    let load = Load {
        ops: 100,
        keys: 4,
        pause_us: 10_000,
        patience: Duration::from_secs(3),
        history: History::new(),
    };
    let mut all = c.servers.clone();
    all.extend(&c.clients);
    sim.unleash_any(Menu::new(&c.servers, &all), Duration::from_secs(4));
    let left = Rc::new(std::cell::Cell::new(c.clients.len()));
    for (i, node) in c.clients.iter().enumerate() {
        let (cluster, load, left) = (Rc::clone(&c), load.clone(), Rc::clone(&left));
        let rng = sim.rng(i as u64 + 1);
        sim.spawn(*node, 0, |cx| async move {
            client(cx, cluster, i as u32 + 1, rng, load).await;
            left.set(left.get() - 1);
        });
    }
    let halt = |what: &'static str| move |h| format!("{what}: {h:?}");
    sim.run_for(Duration::from_secs(4)).map_err(halt("under faults"))?;
    sim.heal();
    let over = || left.get() == 0;
    sim.run_until(over, Duration::from_secs(30)).map_err(halt("clients after healing"))?;
    // And everything moves again: an update of each key ends well.
    let (cluster, door) = (Rc::clone(&c), c.clients[0]);
    let last = Load { ops: 0, ..load.clone() };
    let moved = sim.block_on(door, |cx| async move {
        for key in 0..4 {
            let chain = chain_of(key, 3);
            let rest = chain[1..].to_vec();
            let value = 99 << 32 | u64::from(key);
            let op = last.history.invoke(key.into(), 99, Action::Write { cells: 0..1, value });
            let message = Put { key, client: 99, seq: 1, value, version: 0, rest };
            let done = insist(&cx, &cluster, message, &last).await;
            let version = done.ok_or(format!("key {key} is stuck"))?;
            last.history.returned(op, Told::updated(version));
        }
        Ok::<(), String>(())
    });
    moved.map_err(halt("after healing"))??;
    match load.history.check() {
        Ok(0) => Ok(()),
        Ok(n) => Err(format!("{n} histories were too hard to check")),
        Err(v) => Err(v.to_string()),
    }
}

pub const TOY: Check = Check {
    name: "toy",
    about: "a chain of three registers with two clients under every fault",
    run,
    mutants: &["ack-early", "no-sync", "no-dedupe"],
};

/// Five nodes, 200 operations a second, nothing wrong: for rates.
#[allow(dead_code)]
fn rate(run: &Run<'_>) -> Result<(), String> {
    let sim = run.world;
    let c = Rc::new(cluster(sim, 3, 2, Bugs::default()));
    let history = History::new();
    for (i, node) in c.clients.iter().enumerate() {
        // Each operation takes about a millisecond itself.
        let load = Load {
            ops: 6_000,
            keys: 64,
            pause_us: 9_300,
            patience: Duration::from_secs(3),
            history: history.clone(),
        };
        let (cluster, rng) = (Rc::clone(&c), sim.rng(i as u64));
        sim.spawn(*node, 0, |cx| client(cx, cluster, i as u32 + 1, rng, load));
    }
    sim.run_for(Duration::from_secs(60)).map_err(|h| format!("{h:?}"))?;
    let done = history.finished();
    if done < 11_000 {
        return Err(format!("{done} operations in 60 s"));
    }
    history.check().map_err(|v| v.to_string()).map(drop)
}

/// Used by the example only.
#[allow(dead_code)]
pub const RATE: Check = Check {
    name: "toy-rate",
    about: "five nodes at 200 operations per virtual second, for rates",
    run: rate,
    mutants: &[],
};
