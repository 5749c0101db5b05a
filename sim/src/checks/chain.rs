//! One chain of three under two clients: every acknowledged update is read by everyone from then
//! on, whatever is lost, delayed, repeated, torn or restarted; and when all is well again all
//! replicas are the same.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::mgmtd::Mgmtd;
use t3fs_actors::proto::storage::Storage;

use t3fs_actors::agent::{AgentConfig, NodeAgent, ServerInfo};
use t3fs_actors::client::{ClusterSession, FsError};
use t3fs_actors::meta::kv::MemoryDisk;
use t3fs_actors::meta::kv::actor::KvServer;
use t3fs_actors::mgmtd::{MgmtdConfig, MgmtdServer, Timing};
use t3fs_actors::proto::agent::Announce;
use t3fs_actors::proto::ids::{ChainId, ChunkId, TargetId};
use t3fs_actors::proto::mgmtd::{CreateChains, TargetReport, TargetState};
use t3fs_actors::proto::storage::{ChunkSummary, ListChunks};
use t3fs_actors::storage::engine::{Engine, EngineConfig, EngineError, TargetIdentity};
use t3fs_actors::storage::{RESYNC_PAGE, StorageConfig, Target};
use t3fs_runtime::{Addr, Cx, DiskId, NodeId, RawAddr};

use super::{Check, Run, bursts};
use crate::faults::{Menu, Swarm};
use crate::oracles::history::History;
use crate::rng::Rng;
use crate::workloads::chunks::{ChunkClient, check};
use crate::world::{Boot, NodeSpec};
use crate::world::{Crash, Sim};

pub(super) const CHECK: Check = Check {
    name: "chain",
    about: "a chain of three under two clients is linearizable per chunk and converges",
    run,
    mutants: &[
        "commit-early",
        "drive-only-sixteen",
        "remove-chunks-says-nothing-left",
        "successor-no-space-is-done",
    ],
};

const CHAIN: ChainId = ChainId(1);
const REPLICAS: u32 = 3;
const CLIENTS: u32 = 2;
const CHUNKS: u64 = 4;
const OPS: u64 = 60;
/// Faults end here at the latest; then everything must get done.
const STORM: Duration = Duration::from_secs(8);
const CALM: Duration = Duration::from_secs(120);

fn mgmtd_addr(node: NodeId) -> Addr<Mgmtd> {
    // Kv is the first actor of its node, mgmtd the second.
    Addr::from_raw(RawAddr { node, shard: 0, slot: 1, epoch: RawAddr::ANY_EPOCH })
}

/// The agent of a client's node, the first actor there.
fn agent_addr(node: NodeId) -> Addr<Agent> {
    Addr::from_raw(RawAddr { node, shard: 0, slot: 0, epoch: RawAddr::ANY_EPOCH })
}

/// No death: members stay as they are, and come back with all they had.
fn timing() -> Timing {
    Timing { node_lease: Duration::from_secs(3600), ..Timing::default() }
}

fn start_agent(cx: &Cx, mgmtd: Addr<Mgmtd>, server: Option<ServerInfo>) -> Addr<Agent> {
    let config = AgentConfig { server, timing: timing(), ..AgentConfig::new("sim", vec![mgmtd]) };
    NodeAgent::start(cx, config)
}

pub(super) fn engine_config() -> EngineConfig {
    EngineConfig {
        overlay_bytes: 256 << 10,
        journal_segment_bytes: 256 << 10,
        small_update_max: 16 << 10,
        reserve_bytes: 0,
        ..EngineConfig::default()
    }
}

/// What is on a disk grows in small steps, so that a full one is noticed.
fn small_config() -> EngineConfig {
    EngineConfig { journal_segment_bytes: 72 << 10, group_bytes: 16 << 10, ..engine_config() }
}

/// Fills the disk of one replica now and then.
fn fill_disks(sim: &Sim, rng: &Rng, servers: &[NodeId]) {
    let (rng, servers) = (rng.clone(), servers.to_vec());
    let at = sim.now_us() + rng.below(1_000_000);
    let end = STORM.as_micros() as u64;
    sim.at(at, move |sim| {
        if sim.now_us() >= end {
            return;
        }
        let full = *rng.pick(&servers);
        sim.with_disk(full, DiskId(0), |d| d.faults.no_space_ppm = 1_000_000);
        let again = servers.clone();
        sim.at(sim.now_us() + 1 + rng.below(1_500_000), move |sim| {
            sim.with_disk(full, DiskId(0), |d| d.faults.no_space_ppm = 0);
            fill_disks(sim, &rng, &again);
        });
    });
}

/// Starts a storage node: opens (or makes) its target, serves it, registers.
async fn storage_node(cx: Cx, target: TargetId, mgmtd: Addr<Mgmtd>) {
    let identity = TargetIdentity { cluster: "sim".into(), target, chain: CHAIN };
    let disk = DiskId(0);
    let names = cx.disk(disk).list("target").await.unwrap_or_default();
    let made = names.iter().any(|n| n == "superblock");
    let engine = loop {
        let opened = match made {
            true => Engine::open(&cx, disk, "target", &identity, small_config()).await,
            false => Engine::create(&cx, disk, "target", &identity, small_config()).await,
        };
        match opened {
            Ok(engine) => break engine,
            // The disk is full for a while.
            Err(EngineError::NoSpace) if made => cx.sleep(Duration::from_millis(200)).await,
            Err(e) => panic!("target {target} does not open: {e}"),
        }
    };
    let agent = start_agent(&cx, mgmtd, Some(ServerInfo::default()));
    let config = StorageConfig {
        engine,
        target,
        chain: CHAIN,
        agent,
        disk,
        resync_page: RESYNC_PAGE,
        watch: None,
    };
    let addr = Target::start(&cx, config).raw();
    let m = Announce { metas: Vec::new(), targets: vec![TargetReport::online(target, addr)] };
    while cx.ask(agent, m.clone()).await.is_err() {
        cx.sleep(Duration::from_millis(20)).await;
    }
}

fn run(run: &Run<'_>) -> Result<(), String> {
    let world = run.world;
    let manager = world.add_node(NodeSpec::new().boot(|b: &Boot| {
        let cx = b.cx.clone();
        b.cx.spawn(async move {
            let kv =
                KvServer::start(&cx, Box::new(MemoryDisk::new().open())).expect("an empty store");
            let config =
                MgmtdConfig { timing: timing(), alone: true, ..MgmtdConfig::new(kv, "sim") };
            MgmtdServer::start(&cx, config);
        });
    }));
    let mgmtd = mgmtd_addr(manager);
    let servers: Vec<NodeId> = (1..=REPLICAS)
        .map(|i| {
            world.add_node(NodeSpec::new().disk(256 << 20).boot(move |b: &Boot| {
                b.cx.spawn(storage_node(b.cx.clone(), TargetId(i), mgmtd));
            }))
        })
        .collect();
    let with_agent = NodeSpec::new().boot(move |b: &Boot| {
        start_agent(&b.cx, mgmtd, None);
    });
    let clients: Vec<NodeId> = (0..CLIENTS).map(|_| world.add_node(with_agent.clone())).collect();
    let members = servers.iter().enumerate().map(|(i, n)| (TargetId(i as u32 + 1), *n)).collect();
    let chains = CreateChains { chains: vec![(CHAIN, members)] };
    world
        .block_on(clients[0], |cx| async move {
            let agent = agent_addr(cx.node());
            while !matches!(cx.ask(agent, chains.clone()).await, Ok(Ok(_))) {
                cx.sleep(Duration::from_millis(10)).await;
            }
        })
        .map_err(|h| format!("no chain: {h:?}"))?;

    let history = History::new();
    let done = Rc::new(Cell::new(0));
    let wrong: Rc<RefCell<Option<String>>> = Rc::default();
    for (i, node) in clients.iter().enumerate() {
        let (history, done, wrong) = (history.clone(), Rc::clone(&done), Rc::clone(&wrong));
        let rng = world.rng(100 + i as u64);
        let sim = world.handle();
        world.spawn(*node, 0, move |cx| async move {
            if let Err(e) = client(&cx, &sim, i as u32, rng, history).await {
                wrong.borrow_mut().get_or_insert(e);
            }
            done.set(done.get() + 1);
        });
    }
    let all: Vec<NodeId> = world.nodes();
    let menu = Menu::new(&servers, &all);
    let swarm = Swarm::draw(&world.rng(7), &menu);
    world.unleash(swarm, menu, STORM);
    let rng = world.rng(9);
    let full_disks = rng.below(3) == 0;
    if full_disks {
        fill_disks(world, &rng, &servers);
    }
    if rng.below(3) == 0 {
        let (sim, head) = (world.handle(), [servers[0], servers[1]]);
        world.spawn(clients[0], 0, move |cx| async move {
            let agent = agent_addr(cx.node());
            if let Ok(cluster) = ClusterSession::open_chains(&cx, agent, "burst").await {
                bursts::burst(cx, sim, cluster, rng, CHAIN, head).await;
            }
        });
    }
    let finished = || done.get() == CLIENTS || wrong.borrow().is_some();
    if let Err(h) = world.run_until(finished, STORM)
        && h != crate::world::Halt::Late
    {
        return Err(format!("the storm ended with {h:?}"));
    }
    world.heal();
    if full_disks {
        // A target whose journal had no space left is out until its process starts again.
        for n in &servers {
            world.crash(*n, Crash::Process);
            world.restart(*n);
        }
    }
    world
        .run_until(finished, CALM)
        .map_err(|h| format!("{} of {CLIENTS} clients got done: {h:?}", done.get()))?;
    if let Some(e) = wrong.borrow_mut().take() {
        return Err(e);
    }
    check(&history)?;
    world
        .block_on(clients[0], move |cx| async move { converge(&cx).await })
        .map_err(|h| format!("the comparison ended with {h:?}"))?
}

/// One client: draws actions on a few chunks, one after another, and records what it was told.
async fn client(cx: &Cx, sim: &Sim, me: u32, rng: Rng, history: History) -> Result<(), String> {
    let agent = agent_addr(cx.node());
    let cluster = loop {
        // The storm may outlast one attempt's patience.
        match ClusterSession::open_chains(cx, agent, "sim").await {
            Ok(l) => break l,
            Err(FsError::Unavailable(_)) => {}
            Err(e) => return Err(format!("client {me} found no cluster: {e}")),
        }
    };
    let pause = Duration::from_millis(200);
    let client =
        ChunkClient { me, chains: vec![CHAIN], chunks: CHUNKS, ops: OPS, pause, cell_bytes: 2048 };
    client.run(cx, sim, &cluster, &rng, &history).await
}

/// All replicas serve and list the same chunks, nothing pending, within bounded time; and go on as
/// they should.
async fn converge(cx: &Cx) -> Result<(), String> {
    let opened = ClusterSession::open_chains(cx, agent_addr(cx.node()), "check").await;
    let cluster = opened.map_err(|e| e.to_string())?;
    let mut last = String::new();
    for _ in 0..300 {
        let mut lists: Vec<Vec<ChunkSummary>> = Vec::new();
        let routing = cluster.routing();
        let chain = routing.chain(CHAIN).ok_or("the chain is gone")?;
        for t in &chain.targets {
            let Some(addr) = t.addr else { continue };
            let m = ListChunks { from: ChunkId::default(), limit: 1000 };
            if let Ok(Ok(l)) = cx.ask(Addr::<Storage>::from_raw(addr), m).await {
                lists.push(l);
            }
        }
        let serve = chain.targets.iter().all(|t| t.state == TargetState::Serving);
        let settled = serve && lists.iter().flatten().all(|c| !c.pending);
        if lists.len() == REPLICAS as usize && settled && lists.windows(2).all(|w| w[0] == w[1]) {
            return bursts::write_and_remove(cx, &cluster, CHAIN).await;
        }
        last = format!("{lists:?}");
        cx.sleep(Duration::from_millis(100)).await;
        cluster.refresh(cx).await;
    }
    Err(format!("the replicas differ after the storm: {last}"))
}
