//! Three mgmtds over one KV, three servers whose targets come and go, two processes of clients.
//!
//! Whatever fails: no two mgmtds act at the same time, a routing version has one content for
//! everyone who ever sees it, chains change by the rules, and no target is taken out of service
//! while it may still believe that it serves. When all is well again, one primary leads a complete
//! cluster soon. If then the store is away for a while, no target loses its lease, although the end
//! of a server that dies then cannot be stored until the store is back.
//!
//! The agents are real, and so is everything they talk to; targets are scripts that report to their
//! agent what a storage actor would.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::mgmtd::Mgmtd;

use t3fs_actors::agent::{self, AgentConfig, NodeAgent, ServerInfo};
use t3fs_actors::meta::kv::MemoryDisk;
use t3fs_actors::meta::kv::actor::KvServer;
use t3fs_actors::mgmtd::{self, MgmtdConfig, MgmtdServer, Timing};
use t3fs_actors::proto::agent::{Announce, GetView, ReportTarget};
use t3fs_actors::proto::ids::{ChainId, ChainVersion, SessionId, TargetId, ViewVersion};
use t3fs_actors::proto::mgmtd::{
    ClusterView, CreateChains, ExtendSession, LocalState, NodeStatus, OpenSession, Role, Routing,
    TargetReport, TargetState,
};
use t3fs_runtime::{Addr, Cx, NodeId, RawAddr, Time};

use super::{Check, Run};
use crate::faults::{Menu, Swarm};
use crate::oracles::members::Members;
use crate::rng::Rng;
use crate::world::Halt;
use crate::world::{Boot, NodeSpec};
use crate::world::{Crash, Sim, World};

pub(super) const CHECK: Check = Check {
    name: "mgmtd",
    about: "one primary at a time, one content a version, chains by the rules, and life after heal",
    run,
    mutants: &[
        "no-fence",
        "grant-to-condemned",
        "promise-forgotten",
        "gap-counts",
        "save-gives-up",
    ],
};

const MGMTDS: u32 = 3;
const SERVERS: u32 = 3;
const CLIENTS: u32 = 2;
const CHAINS: u32 = 4;
/// Chains that exist from the start; the others are made in the storm.
const CHAINS_AT_FIRST: u32 = 2;
/// Node numbers, in the order in which they are added.
const KV: NodeId = NodeId(1);
const STORM: Duration = Duration::from_secs(8);
/// From the death of a primary to the next one.
const FAILOVER: Duration = Duration::from_secs(3);
/// The store may be away for so long while data is read and written.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// From the end of all faults to a complete cluster.
const CALM: Duration = Duration::from_secs(20);

fn timing() -> Timing {
    Timing { session_lease: Duration::from_secs(4), ..Timing::default() }
}

fn first_actor<A>(node: NodeId) -> Addr<A> {
    Addr::from_raw(RawAddr { node, shard: 0, slot: 0, epoch: RawAddr::ANY_EPOCH })
}

fn mgmtds() -> Vec<NodeId> {
    (2..2 + MGMTDS).map(NodeId).collect()
}

fn servers() -> Vec<NodeId> {
    (2 + MGMTDS..2 + MGMTDS + SERVERS).map(NodeId).collect()
}

/// Target `i` of chain `c` lives on server `(c + i) mod 3`.
fn target(chain: u32, i: u32) -> TargetId {
    TargetId(chain * 10 + i)
}

fn members(chain: u32) -> Vec<(TargetId, NodeId)> {
    (0..SERVERS).map(|i| (target(chain, i), servers()[((chain + i) % SERVERS) as usize])).collect()
}

/// Where a target says that it is: nobody is there, scripts need no news.
fn nobody(node: NodeId, epoch: u32, t: TargetId) -> RawAddr {
    RawAddr { node, shard: 0, slot: 1000 + t.0 as u16, epoch }
}

fn start_agent(b: &Boot, members: &Rc<Members>, server: Option<ServerInfo>) -> Addr<Agent> {
    let (node, seen) = (b.node, Rc::clone(members));
    let watch = Rc::new(move |what: &agent::AgentEvent<'_>| seen.agent(node, what));
    let config = AgentConfig {
        server,
        timing: timing(),
        watch: Some(watch),
        ..AgentConfig::new("sim", mgmtds().into_iter().map(first_actor).collect())
    };
    NodeAgent::start(&b.cx, config)
}

async fn routing(cx: &Cx, agent: Addr<Agent>) -> Arc<Routing> {
    let m = GetView { have: ViewVersion(0), fresh: false };
    cx.ask(agent, m).await.ok().flatten().unwrap_or_default().routing
}

/// One target: comes up, syncs when its chain says so, and now and then its disk is away.
async fn play_target(cx: Cx, agent: Addr<Agent>, addr: RawAddr, rng: Rng, members: Rc<Members>) {
    let t = TargetId(u32::from(addr.slot) - 1000);
    let mut synced: Option<ChainVersion> = None;
    let mut away_until = Time::from_us(0);
    // The target said that it is away in this version of the chain, and stays so until that ends.
    let mut away_in: Option<ChainVersion> = None;
    loop {
        cx.sleep(Duration::from_millis(50 + rng.below(100))).await;
        let r = routing(&cx, agent).await;
        let found = r.chains.iter().find_map(|c| {
            let me = c.targets.iter().find(|x| x.target == t)?;
            Some((c.version, me.state))
        });
        let (version, state) = found.unwrap_or((ChainVersion(0), TargetState::Serving));
        if cx.now() >= away_until && members.storming() && rng.chance(3_000) {
            away_until = cx.now() + Duration::from_millis(rng.below(3_000));
        }
        let away =
            cx.now() < away_until || (away_in == Some(version) && state == TargetState::Serving);
        away_in = away.then_some(version);
        let local = match state {
            _ if away => LocalState::Offline,
            TargetState::Serving => LocalState::UpToDate,
            TargetState::Syncing if synced == Some(version) => LocalState::UpToDate,
            TargetState::Syncing => {
                cx.sleep(Duration::from_millis(rng.below(400))).await;
                synced = Some(version);
                LocalState::Online
            }
            _ => LocalState::Online,
        };
        members.stopped(cx.node(), t, local == LocalState::Offline);
        let report = TargetReport { target: t, addr, local, chain_version: version, used_bytes: 0 };
        // Not heard: said again in the next round.
        let _ = cx.ask(agent, ReportTarget { report }).await;
    }
}

fn boot_server(b: &Boot, rng: &Rng, members: &Rc<Members>) {
    let server = ServerInfo { roles: vec![Role::Storage], ..ServerInfo::default() };
    let agent = start_agent(b, members, Some(server));
    let rng = rng.fork(u64::from(b.epoch));
    let mine: Vec<RawAddr> = (1..=CHAINS)
        .flat_map(self::members)
        .filter(|(_, n)| *n == b.node)
        .map(|(t, n)| nobody(n, b.epoch, t))
        .collect();
    let (cx, members) = (b.cx.clone(), Rc::clone(members));
    b.cx.spawn(async move {
        // Opening targets takes its time, sometimes more than a lease.
        cx.sleep(Duration::from_millis(rng.below(100 << rng.below(6)))).await;
        let up = |a: &RawAddr| TargetReport::online(TargetId(u32::from(a.slot) - 1000), *a);
        let targets = mine.iter().map(up).collect();
        let m = Announce { metas: Vec::new(), targets };
        while cx.ask(agent, m.clone()).await.is_err() {
            cx.sleep(Duration::from_millis(20)).await;
        }
        for addr in mine {
            let rng = rng.fork(u64::from(addr.slot));
            cx.spawn(play_target(cx.clone(), agent, addr, rng, Rc::clone(&members)));
        }
    });
}

/// A process of clients: one session, extended until the process is killed.
fn boot_client(b: &Boot, members: &Rc<Members>, sessions: &Rc<RefCell<BTreeMap<u32, SessionId>>>) {
    let agent = start_agent(b, members, None);
    let (cx, sessions) = (b.cx.clone(), Rc::clone(sessions));
    sessions.borrow_mut().remove(&b.node.0);
    b.cx.spawn(async move {
        loop {
            let m = OpenSession { label: "client".into(), nonce: cx.rand() };
            if let Ok(Ok(session)) = cx.ask(agent, m).await {
                sessions.borrow_mut().insert(cx.node().0, session);
                while !matches!(cx.ask(agent, ExtendSession { session }).await, Ok(false)) {
                    cx.sleep(Duration::from_millis(500)).await;
                }
                sessions.borrow_mut().remove(&cx.node().0);
            }
            cx.sleep(Duration::from_millis(50)).await;
        }
    });
}

/// The agent of a process that runs an mgmtd alone.
fn accompany(b: &Boot, mgmtd: Addr<Mgmtd>, members: &Rc<Members>) {
    let (roles, mgmtd) = (vec![Role::Mgmtd], Some(mgmtd.raw()));
    let agent = start_agent(b, members, Some(ServerInfo { roles, mgmtd, ..ServerInfo::default() }));
    // Told to the actor beside it, at its start: it arrives.
    let _ = b.cx.tell(agent, Announce { metas: Vec::new(), targets: Vec::new() });
}

fn build(run: &Run<'_>, members: &Rc<Members>, sessions: &Rc<RefCell<BTreeMap<u32, SessionId>>>) {
    let world = run.world;
    let rng = world.rng(1);
    // Rates at most 1 % apart.
    let spec = || {
        let ppm = rng.below(10_001) as i64 - 5_000;
        (ppm, NodeSpec::new().drift_ppm(ppm))
    };
    let add = |boot: Box<dyn Fn(&Boot)>| {
        let (ppm, spec) = spec();
        members.expect(ppm);
        let seen = Rc::clone(members);
        world.add_node(spec.boot(move |b| {
            seen.booted(b.node);
            boot(b);
        }));
    };
    let (disk, lose) = (MemoryDisk::new(), rng.fork(2));
    add(Box::new(move |b| {
        // A power loss: what nobody was promised may be gone.
        disk.crash_keeping(lose.below(disk.batches_unsynced() as u64 + 1) as usize);
        KvServer::start(&b.cx, Box::new(disk.open())).expect("the store opens");
    }));
    for i in 0..MGMTDS {
        let (seen, sim) = (Rc::clone(members), world.handle());
        let pauses = rng.fork(20 + u64::from(i));
        add(Box::new(move |b| {
            let (node, seen) = (b.node, Rc::clone(&seen));
            let (sim, pauses) = (sim.clone(), pauses.fork(u64::from(b.epoch)));
            let beside = Rc::clone(&seen);
            let watch = Rc::new(move |what: &mgmtd::MgmtdEvent<'_>| {
                seen.mgmtd(node, what);
                let decided = matches!(what, mgmtd::MgmtdEvent::Decided { .. });
                if decided && seen.storming() && pauses.chance(60_000) {
                    // Where it hurts: another may lead before this is written.
                    sim.pause(node, Duration::from_millis(1000 + pauses.below(3000)));
                }
            });
            let config = MgmtdConfig {
                timing: timing(),
                watch: Some(watch),
                ..MgmtdConfig::new(first_actor(KV), "sim")
            };
            accompany(b, MgmtdServer::start(&b.cx, config), &beside);
        }));
    }
    for i in 0..SERVERS {
        let (seen, rng) = (Rc::clone(members), rng.fork(10 + u64::from(i)));
        add(Box::new(move |b| boot_server(b, &rng, &seen)));
    }
    for _ in 0..CLIENTS {
        let (seen, sessions) = (Rc::clone(members), Rc::clone(sessions));
        add(Box::new(move |b| boot_client(b, &seen, &sessions)));
    }
}

/// Makes a chain, whatever it takes. The task belongs to the harness, so it outlives its node.
fn make_chain(sim: &Sim, by: NodeId, chain: u32, made: &Rc<Cell<u32>>) {
    let (sim, made) = (sim.clone(), Rc::clone(made));
    sim.clone().spawn_harness(async move {
        loop {
            if sim.is_up(by) {
                let made = Rc::clone(&made);
                sim.spawn(by, 0, move |cx| async move {
                    let chains = vec![(ChainId(chain), members(chain))];
                    let agent = first_actor::<Agent>(by);
                    if matches!(cx.ask(agent, CreateChains { chains }).await, Ok(Ok(_))) {
                        made.set(made.get() | 1 << chain);
                    }
                });
            }
            sim.sleep(Duration::from_millis(300)).await;
            if made.get() & 1 << chain != 0 {
                return;
            }
        }
    });
}

/// Now and then the primary loses its store, one way or both, for about a lease.
fn part_from_store(sim: &Sim, members: &Rc<Members>, rng: &Rng) {
    let (members, rng) = (Rc::clone(members), rng.clone());
    sim.at(sim.now_us() + rng.below(2_000_000), move |sim| {
        if !members.storming() {
            return;
        }
        if let Some(primary) = members.acting() {
            let ways = 1 + rng.below(3);
            if ways & 1 != 0 {
                sim.cut(primary, KV);
            }
            if ways & 2 != 0 {
                sim.cut(KV, primary);
            }
            let back = sim.now_us() + 500_000 + rng.below(3_000_000);
            let on = Rc::clone(&members);
            sim.at(back, move |sim| {
                if on.storming() {
                    sim.rejoin();
                }
            });
        }
        part_from_store(sim, &members, &rng);
    });
}

/// Whether every agent knows the same complete, healthy cluster, and only living sessions.
fn whole(members: &Members, sessions: &BTreeMap<u32, SessionId>) -> Result<(), String> {
    let ClusterView { version, routing, sessions: known } = members.newest();
    let behind: Vec<u32> = members.agents_behind(version);
    let dead: Vec<u32> =
        routing.nodes.iter().filter(|n| n.status != NodeStatus::Alive).map(|n| n.node.0).collect();
    let ill: Vec<_> = routing
        .chains
        .iter()
        .filter(|c| c.targets.iter().any(|t| t.state != TargetState::Serving || t.addr.is_none()))
        .collect();
    let mut living: Vec<SessionId> = sessions.values().copied().collect();
    living.sort();
    let complete = routing.chains.len() == CHAINS as usize
        && routing.nodes.len() == (MGMTDS + SERVERS) as usize
        && living.len() == CLIENTS as usize
        && known.alive == living;
    if complete && behind.is_empty() && dead.is_empty() && ill.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} chains, {} nodes, dead: {dead:?}, behind: {behind:?}, sessions {:?} of {living:?}, \
         not whole: {ill:?}",
        routing.chains.len(),
        routing.nodes.len(),
        known.alive
    ))
}

fn run(run: &Run<'_>) -> Result<(), String> {
    let world = run.world;
    let members = Rc::new(Members::new(&world.handle()));
    let sessions: Rc<RefCell<BTreeMap<u32, SessionId>>> = Rc::default();
    build(run, &members, &sessions);
    let made = Rc::new(Cell::new(0));
    let maker = *world.nodes().last().expect("there are nodes");
    for c in 1..=CHAINS_AT_FIRST {
        make_chain(world, maker, c, &made);
    }
    for c in CHAINS_AT_FIRST + 1..=CHAINS {
        let (made, at) = (Rc::clone(&made), world.rng(3).fork(u64::from(c)).below(12_000_000));
        world.at(at, move |sim| make_chain(sim, maker, c, &made));
    }
    if world.rng(4).below(4) == 0 {
        change_primary(world, &members)?;
    }
    let all = world.nodes();
    let menu = Menu { down_at_once_max: 2, ..Menu::new(&all, &all) };
    let swarm = Swarm::draw(&world.rng(7), &menu);
    members.storm(true);
    world.unleash(swarm, menu, STORM);
    let parts = world.rng(8);
    if parts.coin() {
        part_from_store(world, &members, &parts);
    }
    let wrong = || members.wrong();
    match world.run_until(|| wrong().is_some(), STORM) {
        Ok(()) | Err(Halt::Late) => {}
        Err(h) => return Err(format!("the storm ended with {h:?}")),
    }
    members.storm(false);
    world.heal();
    become_whole(world, &members, &sessions)?;
    let outage = world.rng(9);
    if outage.below(3) > 0 {
        store_away(world, &members, &outage)?;
        become_whole(world, &members, &sessions)?;
    }
    Ok(())
}

fn become_whole(
    world: &World,
    members: &Rc<Members>,
    sessions: &RefCell<BTreeMap<u32, SessionId>>,
) -> Result<(), String> {
    let well = || members.acting().is_some() && whole(members, &sessions.borrow()).is_ok();
    let healed = world.run_until(|| members.wrong().is_some() || well(), CALM);
    if let Some(w) = members.wrong() {
        return Err(w);
    }
    healed.map_err(|h| {
        let why = whole(members, &sessions.borrow()).err().unwrap_or_default();
        format!("{h:?} after the heal: {why}")
    })
}

/// All are well but the store, which is away for a while: for all, or for the primary alone.
///
/// As long as [`PAUSE_MAX`] for all costs no target its lease. However long it was, the primary is
/// the same afterwards. If the primary alone lacks the store, another leads soon. Sometimes a
/// server dies shortly before: its end is decided on while nothing can be stored.
fn store_away(world: &World, members: &Rc<Members>, rng: &Rng) -> Result<(), String> {
    // Mgmtds that have just started are named in the record soon, and a change whose write was lost
    // in the storm is written when the store's answer has been waited for.
    world.run_for(Duration::from_secs(8)).map_err(|h| format!("{h:?}"))?;
    let settled = world.run_until(|| members.lapsed().is_none(), CALM);
    settled.map_err(|h| format!("{h:?} after the heal: {:?}", members.lapsed()))?;
    let (term, primary) = (members.term(), members.acting().ok_or("nobody leads")?);
    let long = |most: Duration| {
        Duration::from_micros(rng.below(most.as_micros() as u64 >> rng.below(6)).max(1))
    };
    let kind = rng.below(5);
    let away = long(if kind == 0 { PAUSE_MAX * 3 } else { PAUSE_MAX });
    let deaths = world.rng(10);
    let dies = (deaths.below(4) == 0).then(|| *deaths.pick(&servers()));
    if let Some(server) = dies {
        world.crash(server, Crash::Process);
        let before = Duration::from_micros(deaths.below(1_500_000));
        world.run_for(before).map_err(|h| format!("{h:?}"))?;
    }
    match kind {
        1 => {
            let ways = 1 + rng.below(3);
            if ways & 1 != 0 {
                world.cut(primary, KV);
            }
            if ways & 2 != 0 {
                world.cut(KV, primary);
            }
        }
        0 | 2 => world.pause(KV, away),
        3 => world.part(&[KV], &world.nodes()),
        _ => world.crash(KV, if rng.coin() { Crash::Power } else { Crash::Process }),
    }
    let ends = world.now_us() + away.as_micros() as u64;
    let lost = || members.lapsed().filter(|_| kind != 1 && away < PAUSE_MAX);
    let failed = || members.wrong().or_else(lost);
    let halted = world.run_until(|| failed().is_some() || world.now_us() >= ends, PAUSE_MAX * 3);
    halted.map_err(|h| format!("the outage ended with {h:?}"))?;
    world.rejoin();
    world.restart(KV);
    if let Some(server) = dies {
        world.restart(server);
    }
    let back = world.run_until(|| failed().is_some(), Duration::from_secs(3));
    if let Some(why) = failed() {
        return Err(format!("without the store for {away:?} (kind {kind}): {why}"));
    }
    assert_eq!(back, Err(Halt::Late));
    let (later, long) = (members.term(), Duration::from_secs(4));
    match kind {
        1 if away > long && later == term => Err(format!("{primary:?} leads without the store")),
        1 => Ok(()),
        _ if later == term => Ok(()),
        _ => Err(format!("{away:?} without the store (kind {kind}) changed the primary")),
    }
}

/// Without any other fault: the primary dies, another leads, and no chain has changed.
fn change_primary(world: &World, members: &Rc<Members>) -> Result<(), String> {
    let ready = || {
        let r = members.newest().routing;
        r.chains.len() >= CHAINS_AT_FIRST as usize
            && r.chains.iter().all(|c| {
                c.targets.iter().all(|t| t.addr.is_some() && t.state == TargetState::Serving)
            })
    };
    world.run_until(ready, CALM).map_err(|h| format!("no cluster before the storm: {h:?}"))?;
    // Opening may have taken some long enough to be taken out and synced again.
    world.run_for(Duration::from_secs(8)).map_err(|h| format!("{h:?}"))?;
    let versions = || -> Vec<(ChainId, ChainVersion)> {
        members.newest().routing.chains.iter().map(|c| (c.id, c.version)).collect()
    };
    let (before, term) = (versions(), members.term());
    let primary = members.acting().ok_or("nobody leads")?;
    world.crash(primary, Crash::Process);
    world
        .run_until(|| members.term() > term, FAILOVER)
        .map_err(|h| format!("no second primary: {h:?}"))?;
    world.run_for(Duration::from_secs(4)).map_err(|h| format!("{h:?}"))?;
    world.restart(primary);
    let after = versions();
    let kept = before.iter().all(|c| after.contains(c));
    if !kept {
        return Err(format!("the change of primary changed chains: {before:?} {after:?}"));
    }
    members.wrong().map_or(Ok(()), Err)
}
