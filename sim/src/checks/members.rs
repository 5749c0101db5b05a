//! Chains of three over three nodes that die, are cut off, stopped and started again, long enough
//! for mgmtd to remove them from their chains and to take them back: whatever happens, chunks are
//! linearizable; nobody serves who is not entitled to by what mgmtd has stored, or before its
//! predecessor has brought it up to date; and when all is well again every chain has three serving
//! replicas that are the same. Servers come back with other disks (`hands`); where nobody else has
//! the latest data, that is restored in the end. What may begin is decided by their `Host`.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::mgmtd::Mgmtd;
use t3fs_actors::proto::storage::Storage;

use t3fs_actors::agent::{AgentConfig, NodeAgent, ServerInfo};
use t3fs_actors::client::{ClusterSession, FsError};
use t3fs_actors::meta::kv::MemoryDisk;
use t3fs_actors::meta::kv::actor::KvServer;
use t3fs_actors::mgmtd::{self, MgmtdConfig, MgmtdServer};
use t3fs_actors::proto::agent::Announce;
use t3fs_actors::proto::host::{HostTargetState, ListHostTargets, StorageHost};
use t3fs_actors::proto::ids::{ChainId, ChainVersion, ChunkId, TargetId};
use t3fs_actors::proto::mgmtd::{ClusterView, CreateChains, Role, TargetState};
use t3fs_actors::proto::storage::{ChunkSummary, ListChunks};
use t3fs_actors::storage::engine::{ChunkInfo, Engine, EngineError, TargetIdentity};
use t3fs_actors::storage::host::{Book, Host, HostConfig, HostWorks, Place, target_dir};
use t3fs_actors::storage::{RESYNC_PAGE, StorageConfig, Target, TargetEvent};
use t3fs_runtime::{Addr, Cx, NodeId, RawAddr, Slot};

use super::chain::engine_config;
use super::hands::{DISKS, Hands};
use super::{Check, Run};
use crate::faults::{Menu, Swarm};
use crate::oracles::history::History;
use crate::rng::Rng;
use crate::workloads::chunks::{ChunkClient, check};
use crate::world::{Boot, NodeSpec};
use crate::world::{Crash, Sim};

pub(super) const CHECK: Check = Check {
    name: "members",
    about: "chains whose members leave and return stay linearizable, and are whole at the end",
    run,
    mutants: &[
        "born-empty",
        "missing-disk-forgotten",
        "no-lease-check",
        "old-copy-begins",
        "resync-drops-recents",
        "resync-stops-after-one-page",
        "serve-before-sync",
        "swapped-disk-forgotten",
        "whole-sends-cut",
    ],
};

const REPLICAS: u32 = 3;
const CLIENTS: u32 = 2;
/// Faults end here at the latest; then everything must get done.
const STORM: Duration = Duration::from_secs(14);
const CALM: Duration = Duration::from_secs(180);
/// Clock rates differ by less than 1 %: each is off by half of that at most.
const DRIFT_PPM: u64 = 5_000;

/// What the cluster is, seen from outside, and what was seen to go wrong.
#[derive(Default)]
struct Watcher {
    /// States by chain and target, as the latest stored change has them.
    stored: BTreeMap<(ChainId, TargetId), TargetState>,
    version: u64,
    synced: BTreeSet<(ChainId, TargetId, ChainVersion)>,
    wrong: Option<String>,
    promoted: u64,
    served: u64,
}

impl Watcher {
    fn complain(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    fn view(&mut self, before: Option<&ClusterView>, after: &ClusterView) {
        if after.version.0 <= self.version {
            return;
        }
        self.version = after.version.0;
        for c in &after.routing.chains {
            let old = before.and_then(|v| v.routing.chain(c.id));
            for t in &c.targets {
                self.stored.insert((c.id, t.target), t.state);
                let Some(old) = old else { continue };
                let was = old.targets.iter().find(|x| x.target == t.target).map(|x| x.state);
                if (was, t.state) != (Some(TargetState::Syncing), TargetState::Serving) {
                    continue;
                }
                self.promoted += 1;
                if !self.synced.contains(&(c.id, t.target, old.version)) {
                    let what = "serves without having been brought up to date";
                    self.complain(format!("target {} of chain {} {what}", t.target, c.id));
                }
            }
        }
    }

    fn target(&mut self, seen: &TargetEvent) {
        let (what, key) = match *seen {
            TargetEvent::Synced { target, chain, chain_version } => {
                self.synced.insert((chain, target, chain_version));
                return;
            }
            TargetEvent::Served { target, chain } => ("answers a read", (chain, target)),
            TargetEvent::AckedAlone { target, chain } => ("acknowledges alone", (chain, target)),
        };
        self.served += 1;
        match self.stored.get(&key) {
            Some(TargetState::Serving) => {}
            state => self.complain(format!("target {} {what}, and is {state:?}", key.1)),
        }
    }
}

type Watch = Rc<RefCell<Watcher>>;
/// The engines of the targets that run, or ran last.
type Engines = Rc<RefCell<BTreeMap<TargetId, Engine>>>;

/// Where things are, and what is shared by all of a run.
#[derive(Clone)]
struct Plan {
    kv: NodeId,
    mgmtds: Vec<NodeId>,
    chains: Vec<(ChainId, Vec<TargetId>)>,
    resync_page: u32,
    cell_bytes: usize,
    engines: Engines,
    /// Disks fail now and then: a target may not open at the first attempt.
    bad_disks: bool,
    /// Of each chain.
    chunks: u64,
    ops: u64,
    pause: Duration,
    watch: Watch,
    hands: Hands,
    /// Of the servers that run, or ran last.
    hosts: Rc<RefCell<BTreeMap<NodeId, Addr<StorageHost>>>>,
}

fn first_actor<A>(node: NodeId) -> Addr<A> {
    Addr::from_raw(RawAddr { node, shard: 0, slot: 0, epoch: RawAddr::ANY_EPOCH })
}

impl Plan {
    fn agent(&self, cx: &Cx, server: Option<ServerInfo>) -> Addr<Agent> {
        let mgmtds = self.mgmtds.iter().map(|n| first_actor::<Mgmtd>(*n)).collect();
        NodeAgent::start(cx, AgentConfig { server, ..AgentConfig::new("sim", mgmtds) })
    }

    fn boot_mgmtd(&self, cx: &Cx) {
        let watch = Rc::clone(&self.watch);
        let config = MgmtdConfig {
            watch: Some(Rc::new(move |seen: &mgmtd::MgmtdEvent<'_>| {
                let mut w = watch.borrow_mut();
                match seen {
                    mgmtd::MgmtdEvent::Changed { before, after, .. } => w.view(Some(before), after),
                    mgmtd::MgmtdEvent::Leads { view, .. } => w.view(None, view),
                    mgmtd::MgmtdEvent::Acts { .. } | mgmtd::MgmtdEvent::Decided { .. } => {}
                }
            })),
            ..MgmtdConfig::new(first_actor(self.kv), "sim")
        };
        let (roles, mgmtd) = (vec![Role::Mgmtd], Some(MgmtdServer::start(cx, config).raw()));
        let agent = self.agent(cx, Some(ServerInfo { roles, mgmtd, ..ServerInfo::default() }));
        // Told to the actor beside it, at its start: it arrives.
        let _ = cx.tell(agent, Announce { metas: Vec::new(), targets: Vec::new() });
    }

    /// Starts a storage node: what it has and may have runs before it announces itself.
    async fn storage_node(self, cx: Cx) {
        let agent = self.agent(&cx, Some(ServerInfo::default()));
        let (node, first) = (cx.node(), Slot::new());
        let config = HostConfig {
            cluster: "sim".into(),
            disks: self.hands.present(node),
            book: self.hands.book(node),
            agent,
            works: Works { plan: self.clone(), agent },
            first: first.clone(),
        };
        let host = Host::start(&cx, config);
        self.hosts.borrow_mut().insert(node, host);
        first.await;
        let m = Announce { metas: Vec::new(), targets: Vec::new() };
        while cx.ask(agent, m.clone()).await.is_err() {
            cx.sleep(Duration::from_millis(20)).await;
        }
    }

    /// Targets of a server.
    fn targets_of(&self, node: NodeId, servers: &[NodeId]) -> Vec<TargetId> {
        let number = servers.iter().position(|s| *s == node).expect("it is one") as u32 + 1;
        let targets = self.chains.iter().flat_map(|(_, targets)| targets);
        targets.filter(|t| t.0 % 10 == number).copied().collect()
    }
}

/// How a server's host makes and starts targets.
struct Works {
    plan: Plan,
    agent: Addr<Agent>,
}

fn identity(place: Place) -> TargetIdentity {
    let Place { target, chain, .. } = place;
    TargetIdentity { cluster: "sim".into(), target, chain }
}

impl Works {
    /// Whether this is worth another attempt: a disk that fails now and then has failed.
    async fn again<T>(&self, cx: &Cx, tried: &Result<T, EngineError>) -> bool {
        let failed = self.plan.bad_disks && matches!(tried, Err(EngineError::Disk(_)));
        if failed {
            cx.sleep(Duration::from_millis(200)).await;
        }
        failed
    }
}

impl HostWorks for Works {
    async fn make(&self, cx: &Cx, place: Place) -> Result<(), String> {
        let (target, dir) = (place.target, target_dir(place.target));
        for disk in super::hands::disks() {
            let names = cx.disk(disk).list(&dir).await.unwrap_or_default();
            if names.iter().any(|n| n == "superblock") {
                let what = format!("target {target} is made although disk {} has it", disk.0);
                self.plan.watch.borrow_mut().complain(what);
            }
        }
        loop {
            let id = identity(place);
            let made = Engine::create(cx, place.disk, &dir, &id, engine_config()).await;
            if self.again(cx, &made).await {
                continue;
            }
            let made = made.unwrap_or_else(|e| panic!("target {target} is not made: {e}"));
            return made.close(cx).await.map_err(|e| e.to_string());
        }
    }

    async fn start(&self, cx: &Cx, place: Place) -> Result<(), String> {
        let Place { target, chain, disk } = place;
        let plan = &self.plan;
        let engine = loop {
            let (dir, id) = (target_dir(target), identity(place));
            let opened = Engine::open(cx, disk, &dir, &id, engine_config()).await;
            if !self.again(cx, &opened).await {
                break opened.unwrap_or_else(|e| panic!("target {target} does not open: {e}"));
            }
        };
        plan.engines.borrow_mut().insert(target, engine.clone());
        let watch = Rc::clone(&plan.watch);
        let config = StorageConfig {
            engine,
            target,
            chain,
            agent: self.agent,
            disk,
            resync_page: plan.resync_page,
            watch: Some(Rc::new(move |seen: &TargetEvent| watch.borrow_mut().target(seen))),
        };
        Target::start(cx, config);
        Ok(())
    }

    async fn stop(&self, _: &Cx, target: TargetId) -> Result<(), String> {
        panic!("target {target} is ended, and no chain was changed")
    }

    async fn store(&self, cx: &Cx, book: Book) -> Result<(), String> {
        self.plan.hands.store(cx.node(), book);
        Ok(())
    }
}

impl Plan {
    /// All replicas remember the same last update of each client to each chunk: any of them may be
    /// the head tomorrow, and has to recognise what is repeated.
    fn same_writers(&self) -> Result<(), String> {
        let engines = self.engines.borrow();
        for (chain, targets) in &self.chains {
            let writers = |t: &TargetId| {
                let rows = engines[t].list(ChunkId::default(), 10_000);
                let of = |(chunk, info): (ChunkId, ChunkInfo)| {
                    let known = info.recent.iter().map(|r| (r.session, r.seq)).collect();
                    (chunk, known)
                };
                rows.into_iter().map(of).collect::<BTreeMap<_, BTreeSet<_>>>()
            };
            let all: Vec<_> = targets.iter().map(writers).collect();
            if all.windows(2).any(|w| w[0] != w[1]) {
                return Err(format!("replicas of chain {chain} know different writers: {all:?}"));
            }
        }
        Ok(())
    }
}

/// A cluster in a world.
struct Cluster {
    plan: Plan,
    servers: Vec<NodeId>,
    clients: Vec<NodeId>,
}

impl Cluster {
    fn build(run: &Run<'_>) -> Cluster {
        let world = run.world;
        let rng = world.rng(1);
        let drift = || rng.below(2 * DRIFT_PPM + 1) as i64 - DRIFT_PPM as i64;
        let disk = MemoryDisk::new();
        let kv = world.add_node(NodeSpec::new().boot(move |b: &Boot| {
            KvServer::start(&b.cx, Box::new(disk.open())).expect("a store");
        }));
        // The nodes of mgmtds follow that of the KV.
        let mgmtds: Vec<NodeId> =
            (0..2 + rng.below(2) as u32).map(|i| NodeId(kv.0 + 1 + i)).collect();
        let chains = (1..=1 + rng.below(2) as u32).map(|c| {
            let of = |i: u32| TargetId(c * 10 + 1 + (c + i) % REPLICAS);
            (ChainId(c), (0..REPLICAS).map(of).collect())
        });
        let sizes = world.rng(9);
        let (ops, pause) = *rng.pick(&[(60, 800), (60, 800), (150, 200)]);
        let plan = Plan {
            kv,
            mgmtds,
            chains: chains.collect(),
            resync_page: *sizes.pick(&[4, RESYNC_PAGE]),
            cell_bytes: *sizes.pick(&[2048, 2048, 2048, 16 << 10]),
            engines: Engines::default(),
            bad_disks: rng.below(5) == 0,
            chunks: *rng.pick(&[2, 3, 30]),
            ops,
            pause: Duration::from_millis(pause),
            watch: Watch::default(),
            hands: Hands::default(),
            hosts: Rc::default(),
        };
        for n in &plan.mgmtds {
            let p = plan.clone();
            let spec = NodeSpec::new().drift_ppm(drift());
            let id = world.add_node(spec.boot(move |b: &Boot| p.boot_mgmtd(&b.cx)));
            assert_eq!(id, *n);
        }
        let server = |_| {
            let p = plan.clone();
            let spec = NodeSpec::new().drift_ppm(drift());
            let spec = (0..DISKS).fold(spec, |spec, _| spec.disk(256 << 20));
            world.add_node(spec.boot(move |b: &Boot| {
                b.cx.spawn(p.clone().storage_node(b.cx.clone()));
            }))
        };
        let servers = (1..=REPLICAS).map(server).collect();
        let client = |_| {
            let (p, spec) = (plan.clone(), NodeSpec::new().drift_ppm(drift()));
            world.add_node(spec.boot(move |b: &Boot| {
                p.agent(&b.cx, None);
            }))
        };
        let clients = (0..CLIENTS).map(client).collect();
        Cluster { plan, servers, clients }
    }

    fn make_chains(&self, run: &Run<'_>) -> Result<(), String> {
        let node = |t: &TargetId| (*t, self.servers[(t.0 % 10) as usize - 1]);
        let chains = self.plan.chains.iter();
        let chains = chains.map(|(c, ts)| (*c, ts.iter().map(node).collect())).collect();
        let m = CreateChains { chains };
        run.world
            .block_on(self.clients[0], |cx| async move {
                let agent = first_actor::<Agent>(cx.node());
                while !matches!(cx.ask(agent, m.clone()).await, Ok(Ok(_))) {
                    cx.sleep(Duration::from_millis(10)).await;
                }
            })
            .map_err(|h| format!("no chain: {h:?}"))
    }
}

/// Absences that mgmtd takes note of: a server that is down, cut off from some or all of the
/// others in one direction or both, or stopped.
fn outages(sim: &Sim, rng: &Rng, servers: &[NodeId], plan: &Plan, every: Duration) {
    let (rng, servers, plan) = (rng.clone(), servers.to_vec(), plan.clone());
    let mgmtds = plan.mgmtds.clone();
    let pause = Duration::from_micros(1 + rng.below(2 * every.as_micros() as u64));
    let end = STORM.as_micros() as u64;
    sim.at(sim.now_us() + pause.as_micros() as u64, move |sim| {
        if sim.now_us() >= end {
            return;
        }
        let victim = *rng.pick(&servers);
        let long = Duration::from_millis(500 + rng.below(4_500));
        let ends = sim.now_us() + long.as_micros() as u64;
        match rng.below(5) {
            0 => {
                let how = if rng.coin() { Crash::Power } else { Crash::Process };
                sim.crash(victim, how);
                let targets = plan.targets_of(victim, &servers);
                plan.hands.copy(sim, victim, &targets);
                if rng.coin() {
                    plan.hands.meddle(sim, &rng, victim, &targets);
                }
                sim.at(ends, move |sim| sim.restart(victim));
            }
            1 => sim.pause(victim, long),
            kind => {
                // From mgmtds alone (clients still reach it), one way, or from all servers.
                let others = servers.iter().copied().filter(|s| *s != victim);
                let from: Vec<NodeId> = if kind == 4 {
                    mgmtds.iter().copied().chain(others).collect()
                } else {
                    mgmtds.clone()
                };
                for other in from {
                    match kind {
                        2 => sim.cut(victim, other),
                        3 => sim.cut(other, victim),
                        _ => sim.part(&[victim], &[other]),
                    }
                }
                sim.at(ends, |sim| sim.rejoin());
            }
        }
        outages(sim, &rng, &servers, &plan, every);
    });
}

/// When all is well again people look at every server, and restore the latest data of targets that
/// stay away because it is gone, or old.
fn restores(sim: &Sim, servers: &[NodeId], plan: &Plan) {
    let away: Rc<RefCell<BTreeSet<(NodeId, TargetId)>>> = Rc::default();
    for node in servers.iter().copied().filter(|n| sim.is_up(*n)) {
        let Some(host) = plan.hosts.borrow().get(&node).copied() else { continue };
        let away = Rc::clone(&away);
        sim.spawn(node, 0, move |cx| async move {
            let targets = cx.ask(host, ListHostTargets).await.unwrap_or_default();
            for t in targets {
                if matches!(t.state, HostTargetState::StaysAway(why) if why.contains("its data is"))
                {
                    away.borrow_mut().insert((node, t.target));
                }
            }
        });
    }
    let (servers, plan) = (servers.to_vec(), plan.clone());
    sim.at(sim.now_us() + 500_000, move |sim| {
        for (node, target) in away.take() {
            sim.crash(node, Crash::Process);
            plan.hands.restore(sim, node, target);
        }
        servers.iter().for_each(|n| sim.restart(*n));
        restores(sim, &servers, &plan);
    });
}

/// In some runs the store stands still for a while, or is cut off from everyone, or from a mgmtd.
fn store_pauses(sim: &Sim, rng: &Rng, kv: NodeId) {
    let (at, long) = (rng.below(10_000_000), 500_000 + rng.below(8_000_000));
    let kind = rng.below(6);
    sim.at(sim.now_us() + at, move |sim| match kind {
        0 | 1 => sim.pause(kv, Duration::from_micros(long)),
        2 | 3 => {
            match kind {
                2 => sim.part(&[kv], &sim.nodes()),
                _ => sim.part(&[kv], &[NodeId(kv.0 + 1)]),
            }
            sim.at(sim.now_us() + long, |sim| sim.rejoin());
        }
        _ => {}
    });
}

fn run(run: &Run<'_>) -> Result<(), String> {
    let world = run.world;
    let cluster = Cluster::build(run);
    let Cluster { plan, servers, clients } = &cluster;
    cluster.make_chains(run)?;
    let began = world.now_us();

    let history = History::new();
    let done = Rc::new(Cell::new(0));
    let wrong: Rc<RefCell<Option<String>>> = Rc::default();
    for (i, node) in clients.iter().enumerate() {
        let (history, done, wrong) = (history.clone(), Rc::clone(&done), Rc::clone(&wrong));
        let (plan, rng, sim) = (plan.clone(), world.rng(100 + i as u64), world.handle());
        world.spawn(*node, 0, move |cx| async move {
            if let Err(e) = client(&cx, &sim, i as u32, &plan, &rng, &history).await {
                wrong.borrow_mut().get_or_insert(e);
            }
            done.set(done.get() + 1);
        });
    }
    let victims: Vec<NodeId> = servers.iter().chain(&plan.mgmtds).copied().collect();
    let rng = world.rng(7);
    let mut menu = Menu::new(&victims, &world.nodes());
    menu.down_at_once_max = 1 + rng.below(3) as usize;
    if plan.bad_disks {
        menu.disk.write_error_ppm = 20_000;
        menu.disk.sync_error_ppm = 20_000;
    }
    let mut swarm = Swarm::draw(&rng, &menu);
    // Every crash is noticed here, so fewer of them leave time for work in between.
    swarm.crash_every_us *= 8;
    world.unleash(swarm, menu, STORM);
    if rng.below(4) > 0 {
        let every = Duration::from_millis(*rng.pick(&[700, 1_500, 4_000]));
        outages(world, &world.rng(8), servers, plan, every);
    }
    store_pauses(world, &world.rng(9), plan.kv);
    let finished =
        || done.get() == CLIENTS || wrong.borrow().is_some() || plan.watch.borrow().wrong.is_some();
    if let Err(h) = world.run_until(finished, STORM)
        && h != crate::world::Halt::Late
    {
        return Err(format!("the storm ended with {h:?}"));
    }
    world.heal();
    // A target whose disk has failed, or is out, is out until its process starts again.
    servers.iter().for_each(|n| world.crash(*n, Crash::Process));
    plan.hands.put_all_in();
    servers.iter().for_each(|n| world.restart(*n));
    restores(world, servers, plan);
    world.run_until(finished, CALM).map_err(|h| {
        let states = &plan.watch.borrow().stored;
        format!("{} of {CLIENTS} clients got done: {h:?}; {states:?}", done.get())
    })?;
    let failed = wrong.borrow_mut().take().or(plan.watch.borrow().wrong.clone());
    if let Some(e) = failed {
        return Err(e);
    }
    check(&history)?;
    let p = plan.clone();
    world
        .block_on(clients[0], move |cx| async move { converge(&cx, &p).await })
        .map_err(|h| format!("the comparison ended with {h:?}"))??;
    let w = plan.watch.borrow();
    let took = Duration::from_micros(world.now_us() - began);
    let text = format_args!("{} promotions, {} served, in {took:?}", w.promoted, w.served);
    world.note(&[w.promoted, w.served], text);
    w.wrong.clone().map_or(Ok(()), Err)
}

async fn client(
    cx: &Cx,
    sim: &Sim,
    me: u32,
    plan: &Plan,
    rng: &Rng,
    history: &History,
) -> Result<(), String> {
    let agent = first_actor(cx.node());
    let link = loop {
        // The storm may outlast one attempt's patience.
        match ClusterSession::open_chains(cx, agent, "sim").await {
            Ok(l) => break l,
            Err(FsError::Unavailable(_)) => {}
            Err(e) => return Err(format!("client {me} found no cluster: {e}")),
        }
    };
    let chains = plan.chains.iter().map(|c| c.0).collect();
    let Plan { chunks, ops, pause, cell_bytes, .. } = *plan;
    let client = ChunkClient { me, chains, chunks, ops, pause, cell_bytes };
    client.run(cx, sim, &link, rng, history).await
}

/// All replicas of all chains serve and list the same chunks, nothing pending, within bounded time.
async fn converge(cx: &Cx, plan: &Plan) -> Result<(), String> {
    let agent = first_actor(cx.node());
    let link = ClusterSession::open_chains(cx, agent, "check").await.map_err(|e| e.to_string())?;
    let mut last = String::new();
    for _ in 0..300 {
        let mut same = true;
        last.clear();
        let routing = link.routing();
        for (id, _) in &plan.chains {
            let chain = routing.chain(*id).ok_or("a chain is gone")?;
            let mut lists: Vec<Vec<ChunkSummary>> = Vec::new();
            for t in chain.targets.iter().filter(|t| t.state == TargetState::Serving) {
                let Some(addr) = t.addr else { continue };
                let m = ListChunks { from: ChunkId::default(), limit: 1000 };
                if let Ok(Ok(l)) = cx.ask(Addr::<Storage>::from_raw(addr), m).await {
                    lists.push(l);
                }
            }
            let settled = lists.iter().flatten().all(|c| !c.pending);
            let equal = lists.windows(2).all(|w| w[0] == w[1]);
            if lists.len() != REPLICAS as usize || !settled || !equal {
                same = false;
                last += &format!("{:?}: {lists:?} ", chain.targets);
            }
        }
        if same {
            return plan.same_writers();
        }
        cx.sleep(Duration::from_millis(100)).await;
        link.refresh(cx).await;
    }
    Err(format!("the replicas differ after the storm: {last}"))
}
