//! mgmtd in a large cluster: what its primary costs, and what the others hear of mounts that come
//! and go. Times are printed, counts are checked.

use core::time::Duration;
use std::cell::Cell;
use std::rc::Rc;

use futures::future::join_all;
use t3fs_actors::agent::{AgentConfig, NodeAgent, ServerInfo};
use t3fs_actors::meta::kv::MemoryDisk;
use t3fs_actors::meta::kv::actor::KvServer;
use t3fs_actors::mgmtd::{MgmtdConfig, MgmtdServer};
use t3fs_actors::proto::agent::{Agent, Announce, GetView, ReportTarget, WatchView};
use t3fs_actors::proto::ids::{ChainId, TargetId, ViewVersion};
use t3fs_actors::proto::mgmtd::{
    CloseSession, ClusterView, CreateChains, ExtendSession, LocalState, OpenSession, Role,
    TargetReport, TargetState,
};
use t3fs_runtime::{Addr, Cx, NodeId, RawAddr};
use t3fs_sim::{Boot, Crash, NodeCost, NodeSpec, World};

const MGMTDS: u32 = 3;
const SERVERS: u32 = 180;
/// Of each server.
const TARGETS: u32 = 16;
const REPLICAS: u32 = 3;
const CHAINS: u32 = SERVERS * TARGETS / REPLICAS;
const MOUNTS: u32 = 500;
/// Of each mount, one for each shard.
const SESSIONS: u32 = 4;
/// Mounts come and go this often while they do.
const CHANGES_PER_S: u64 = 20;
const PHASE: Duration = Duration::from_secs(20);

const KV: NodeId = NodeId(1);
const PRIMARY: NodeId = NodeId(2);
const FIRST_SERVER: u32 = 2 + MGMTDS;
const FIRST_MOUNT: u32 = FIRST_SERVER + SERVERS;

fn first<A>(node: NodeId) -> Addr<A> {
    Addr::from_raw(RawAddr { node, shard: 0, slot: 0, epoch: RawAddr::ANY_EPOCH })
}

fn start_agent(cx: &Cx, server: Option<ServerInfo>) -> Addr<Agent> {
    let mgmtds = (2..2 + MGMTDS).map(|n| first(NodeId(n))).collect();
    NodeAgent::start(cx, AgentConfig { server, ..AgentConfig::new("sim", mgmtds) })
}

/// Replica `i` of a chain: every server has as many, and no chain two on one.
fn member(chain: u32, i: u32) -> (TargetId, NodeId) {
    let k = (chain - 1) * REPLICAS + i;
    (TargetId(k + 1), NodeId(FIRST_SERVER + k % SERVERS))
}

/// Targets that are scripts: each says that it is up to date in the version its chain has.
fn boot_server(b: &Boot) {
    let (node, epoch) = (b.node, b.epoch);
    let agent = start_agent(
        &b.cx,
        Some(ServerInfo { roles: vec![Role::Storage], ..ServerInfo::default() }),
    );
    let chains = (1..=CHAINS).flat_map(|c| (0..REPLICAS).map(move |i| (c, member(c, i))));
    let mine: Vec<_> = chains.filter(|(_, (_, n))| *n == node).map(|(c, (t, _))| (c, t)).collect();
    let addr = move |k: usize| RawAddr { node, shard: 0, slot: 1000 + k as u16, epoch };
    let targets = mine.iter().enumerate().map(|(k, (_, t))| TargetReport::online(*t, addr(k)));
    let m = Announce { metas: Vec::new(), targets: targets.collect() };
    let _ = b.cx.tell(agent, m); // to the actor beside it, at its start: it arrives
    let cx = b.cx.clone();
    b.cx.spawn(async move {
        let mut have = ViewVersion(0);
        let mut told = vec![None; mine.len()];
        loop {
            let Ok(news) = cx.ask(agent, WatchView { have, own_number: 0 }).await else { continue };
            let Some(view) = news.view else { continue };
            have = view.version;
            for (k, (c, t)) in mine.iter().enumerate() {
                let Some(chain) = view.routing.chain(ChainId(*c)) else { continue };
                if told[k].replace(chain.version) != Some(chain.version) {
                    let local = LocalState::UpToDate;
                    let online = TargetReport::online(*t, addr(k));
                    let report = TargetReport { local, chain_version: chain.version, ..online };
                    let _ = cx.ask(agent, ReportTarget { report }).await; // it is beside us
                }
            }
        }
    });
}

/// A mount, which goes and comes back as another when it is its turn.
fn boot_mount(b: &Boot, turn: &Rc<Cell<u32>>) {
    let agent = start_agent(&b.cx, None);
    let (cx, turn) = (b.cx.clone(), Rc::clone(turn));
    b.cx.spawn(async move {
        loop {
            // The shards of a process begin at the same time.
            let opens = (0..SESSIONS).map(|_| {
                let open = OpenSession { label: "mount".into(), nonce: cx.rand() };
                cx.ask(agent, open)
            });
            let opened = join_all(opens).await;
            let sessions: Vec<_> = opened.into_iter().map(|s| s.unwrap().unwrap()).collect();
            let mut extended = cx.now();
            while turn.get() != cx.node().0 {
                cx.sleep(Duration::from_millis(25)).await;
                if cx.now() - extended > Duration::from_secs(10) {
                    extended = cx.now();
                    for session in &sessions {
                        let session = *session;
                        let lives = cx.ask(agent, ExtendSession { session }).await;
                        assert_eq!(lives, Ok(true));
                    }
                }
            }
            turn.set(0);
            let closes = sessions.iter().map(|s| cx.ask(agent, CloseSession { session: *s }));
            join_all(closes).await;
        }
    });
}

fn view(world: &World, node: NodeId) -> ClusterView {
    let asked = world.block_on(node, move |cx| async move {
        cx.ask(first::<Agent>(node), GetView { have: ViewVersion(0), fresh: false }).await
    });
    asked.unwrap().unwrap().unwrap_or_default()
}

fn less(later: NodeCost, before: NodeCost) -> NodeCost {
    NodeCost {
        poll_ns: later.poll_ns - before.poll_ns,
        sent: later.sent - before.sent,
        sent_bytes: later.sent_bytes - before.sent_bytes,
        received: later.received - before.received,
        received_bytes: later.received_bytes - before.received_bytes,
    }
}

/// Goal: a mount that comes or goes costs a server a constant, whatever the number of mounts, and
/// the primary does not fill a core. Method: two clusters of the same servers, one with ten times
/// the mounts; phases of quiet, of mounts that come and go, and the death of a server.
#[test]
fn mounts_come_and_go() {
    let few = costs(MOUNTS / 10);
    let many = costs(MOUNTS);
    let server = |c: &Costs| (c.server.received_bytes as f64) / c.changes as f64;
    println!("bytes that a server hears of a mount: {:.0} and {:.0}", server(&few), server(&many));
    assert!(server(&many) < server(&few) * 1.5 + 32.0, "{} and {}", server(&few), server(&many));
}

struct Costs {
    /// What a server costs more while mounts come and go.
    server: NodeCost,
    changes: u64,
}

fn costs(mounts: u32) -> Costs {
    let world = World::new(7);
    let disk = MemoryDisk::new();
    world.add_node(NodeSpec::new().boot(move |b: &Boot| {
        KvServer::start(&b.cx, Box::new(disk.open())).unwrap();
    }));
    for _ in 0..MGMTDS {
        world.add_node(NodeSpec::new().boot(|b: &Boot| {
            // The first leads: the others begin when it does.
            let mgmtd = MgmtdServer::start(&b.cx, MgmtdConfig::new(first(KV), "sim"));
            let (roles, mgmtd) = (vec![Role::Mgmtd], Some(mgmtd.raw()));
            let agent =
                start_agent(&b.cx, Some(ServerInfo { roles, mgmtd, ..ServerInfo::default() }));
            let _ = b.cx.tell(agent, Announce { metas: Vec::new(), targets: Vec::new() });
        }));
        world.run_for(Duration::from_secs(2)).unwrap();
    }
    for _ in 0..SERVERS {
        world.add_node(NodeSpec::new().boot(boot_server));
    }
    let turn = Rc::new(Cell::new(0));
    let comes = Rc::clone(&turn);
    world.add_node(NodeSpec::new().boot(move |b: &Boot| boot_mount(b, &comes)));
    let first_mount = NodeId(FIRST_MOUNT);
    let made = world.block_on(first_mount, move |cx| async move {
        let chain = |c| (ChainId(c), (0..REPLICAS).map(|i| member(c, i)).collect());
        let chains = (1..=CHAINS).map(chain).collect();
        cx.ask(first::<Agent>(first_mount), CreateChains { chains }).await
    });
    made.unwrap().unwrap().unwrap();
    for _ in 1..mounts {
        let comes = Rc::clone(&turn);
        world.add_node(NodeSpec::new().boot(move |b: &Boot| boot_mount(b, &comes)));
    }
    world.run_for(Duration::from_secs(15)).unwrap();
    let well = view(&world, first_mount);
    assert_eq!(well.sessions.alive.len(), (mounts * SESSIONS) as usize);
    assert_eq!(well.routing.chains.len(), CHAINS as usize);
    let serves = |t: TargetState| t == TargetState::Serving;
    let targets = || well.routing.chains.iter().flat_map(|c| &c.targets);
    assert!(targets().all(|t| serves(t.state) && t.addr.is_some()));

    let server = NodeId(FIRST_SERVER + 7);
    [PRIMARY, server].iter().for_each(|n| world.meter(*n));
    let mut before = [PRIMARY, server].map(|n| world.cost(n));
    let mut since = |what: &str| {
        let now = [PRIMARY, server].map(|n| world.cost(n));
        let [primary, server] = [0, 1].map(|i| less(now[i], before[i]));
        before = now;
        let seconds = PHASE.as_secs_f64();
        println!(
            "{mounts} mounts, {what}: primary {:.2} % of a core, {:.0} frames/s and {:.0} kB/s \
             sent; a server hears {:.0} B/s",
            primary.poll_ns as f64 / seconds / 1e7,
            primary.sent as f64 / seconds,
            primary.sent_bytes as f64 / seconds / 1e3,
            server.received_bytes as f64 / seconds,
        );
        [primary, server]
    };
    world.run_for(PHASE).unwrap();
    let quiet = since("quiet");
    let changes = CHANGES_PER_S * PHASE.as_secs();
    for i in 0..changes {
        turn.set(FIRST_MOUNT + (i * 7 % u64::from(mounts)) as u32);
        world.run_for(Duration::from_micros(1_000_000 / CHANGES_PER_S)).unwrap();
    }
    let busy = since("coming and going");
    let per_change = |i: usize| busy[i].sent_bytes.saturating_sub(quiet[i].sent_bytes) / changes;
    println!("{mounts} mounts: {} bytes sent for each that goes and comes", per_change(0));
    world.crash(server, Crash::Process);
    let dies = world.now_us();
    world.run_for(PHASE).unwrap();
    let dead = since("a server dies");
    let view = view(&world, first_mount);
    let gone = view.routing.chains.iter().flat_map(|c| &c.targets);
    assert_eq!(gone.filter(|t| !serves(t.state)).count(), TARGETS as usize);
    println!(
        "{mounts} mounts: {} kB sent for a server that died at {} s",
        dead[0].sent_bytes.saturating_sub(quiet[0].sent_bytes) / 1000,
        dies / 1_000_000
    );
    let received = |c: &NodeCost| c.received_bytes;
    let more = received(&busy[1]).saturating_sub(received(&quiet[1]));
    Costs { server: NodeCost { received_bytes: more, ..NodeCost::default() }, changes }
}
