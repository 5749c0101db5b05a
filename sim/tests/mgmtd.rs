//! Single stories of mgmtd and its agents, each as it is told in the design: who is refused, what a
//! killed mount leaves, what happens while the KV is away. Random ones are in the check `mgmtd`.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::mgmtd::Mgmtd;

use t3fs_actors::agent::{AgentConfig, NodeAgent, ServerInfo};
use t3fs_actors::meta::kv::MemoryDisk;
use t3fs_actors::meta::kv::actor::KvServer;
use t3fs_actors::mgmtd::{MgmtdConfig, MgmtdEvent, MgmtdServer, Timing};
use t3fs_actors::proto::agent::{Announce, GetView, WatchView};
use t3fs_actors::proto::ids::{ChainId, SessionId, TargetId, ViewVersion};
use t3fs_actors::proto::mgmtd::{
    Chain, ClusterView, CreateChains, ExtendSession, Heartbeat, ListNodes, MgmtdError, NodeStatus,
    OpenSession, Role, Routing, TargetReport, TargetState,
};
use t3fs_runtime::{Addr, Cx, NodeId, RawAddr};
use t3fs_sim::checks::{ALL, run_seed};
use t3fs_sim::{Boot, Crash, NodeSpec, StoreMemories, World};

const KV: NodeId = NodeId(1);
const MGMTDS: [NodeId; 2] = [NodeId(2), NodeId(3)];
const SERVER: NodeId = NodeId(4);
const CLIENT: NodeId = NodeId(5);

fn first<A>(node: NodeId) -> Addr<A> {
    Addr::from_raw(RawAddr { node, shard: 0, slot: 0, epoch: RawAddr::ANY_EPOCH })
}

fn agent_config(server: bool) -> AgentConfig {
    let server = server.then(ServerInfo::default);
    AgentConfig { server, ..AgentConfig::new("sim", MGMTDS.map(first).into()) }
}

/// A KV, two mgmtds, a server with one target, a process of clients. Every term that began.
fn cluster() -> (World, Rc<RefCell<Vec<u64>>>) {
    cluster_over(1, Rc::default())
}

/// The same over whatever disk the KV finds at each start.
fn cluster_over(seed: u64, disk: Rc<RefCell<MemoryDisk>>) -> (World, Rc<RefCell<Vec<u64>>>) {
    let world = World::new(seed);
    world.add_node(NodeSpec::new().boot(move |b: &Boot| {
        KvServer::start(&b.cx, Box::new(disk.borrow().open())).unwrap();
    }));
    let terms: Rc<RefCell<Vec<u64>>> = Rc::default();
    let memories = StoreMemories::default();
    for _ in MGMTDS {
        let (terms, memories) = (Rc::clone(&terms), memories.clone());
        world.add_node(NodeSpec::new().boot(move |b: &Boot| {
            let terms = Rc::clone(&terms);
            let watch = Rc::new(move |what: &MgmtdEvent<'_>| {
                if let MgmtdEvent::Leads { term, .. } = what {
                    terms.borrow_mut().push(*term);
                }
            });
            let store = memories.of(b.node, first(KV));
            let config = MgmtdConfig::new(store.kv(), "sim");
            let config = MgmtdConfig { watch: Some(watch), store, ..config };
            let mgmtd = MgmtdServer::start(&b.cx, config);
            let (roles, mgmtd) = (vec![Role::Mgmtd], Some(mgmtd.raw()));
            let server = Some(ServerInfo { roles, mgmtd, ..ServerInfo::default() });
            let agent = NodeAgent::start(&b.cx, AgentConfig { server, ..agent_config(false) });
            b.cx.tell(agent, Announce { metas: Vec::new(), targets: Vec::new() }).unwrap();
        }));
    }
    world.add_node(NodeSpec::new().boot(|b: &Boot| {
        let agent = NodeAgent::start(&b.cx, agent_config(true));
        // Nobody listens there.
        let addr = RawAddr { node: b.node, shard: 0, slot: 99, epoch: b.epoch };
        let targets = vec![TargetReport::online(TargetId(1), addr)];
        b.cx.tell(agent, Announce { metas: Vec::new(), targets }).unwrap();
    }));
    world.add_node(NodeSpec::new().boot(|b: &Boot| {
        NodeAgent::start(&b.cx, agent_config(false));
    }));
    let made = ask(&world, |cx| async move {
        let chains = vec![(ChainId(1), vec![(TargetId(1), SERVER)])];
        cx.ask(first::<Agent>(CLIENT), CreateChains { chains }).await.unwrap()
    });
    made.unwrap();
    (world, terms)
}

fn ask<T: 'static, F: Future<Output = T> + 'static>(world: &World, f: impl FnOnce(Cx) -> F) -> T {
    world.block_on(CLIENT, f).unwrap()
}

fn view(world: &World) -> ClusterView {
    ask(world, |cx| async move {
        let m = GetView { have: ViewVersion(0), fresh: false };
        cx.ask(first::<Agent>(CLIENT), m).await.unwrap().unwrap()
    })
}

fn routing(world: &World) -> Arc<Routing> {
    view(world).routing
}

fn living(world: &World) -> Vec<SessionId> {
    view(world).sessions.alive.clone()
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Goal: what belongs to another cluster is refused with a sentence, heartbeat and store alike.
#[test]
fn another_cluster_is_refused() {
    let (world, _) = cluster();
    let refused = ask(&world, |cx| async move {
        let mut all = Vec::new();
        for m in MGMTDS {
            let message = Heartbeat {
                cluster: "other".into(),
                term: 1,
                agent: RawAddr { node: CLIENT, shard: 0, slot: 0, epoch: 1 },
                number: 1,
                have: ViewVersion(0),
                node: None,
                sessions: Vec::new(),
            };
            all.push(cx.ask(first::<Mgmtd>(m), message).await.unwrap());
        }
        all
    });
    for r in refused {
        let Err(MgmtdError::Refused(why)) = r else { panic!("{r:?}") };
        assert!(why.contains("this is cluster sim, not other"), "{why}");
    }
    let why = ask(&world, |cx| async move {
        MgmtdServer::check_store(&cx, first(KV), "sim").await.unwrap();
        MgmtdServer::check_store(&cx, first(KV), "other").await.unwrap_err().to_string()
    });
    assert!(why.contains("belongs to cluster sim, not other"), "{why}");
}

/// Goal: the primary dies; another leads in less than three seconds, and nothing else has changed.
#[test]
fn the_primary_dies() {
    let (world, terms) = cluster();
    world.run_for(secs(2)).unwrap();
    let before = routing(&world);
    let primary = ask(&world, |cx| async move {
        for m in MGMTDS {
            if cx.ask(first::<Mgmtd>(m), ListNodes).await.unwrap().is_ok() {
                return m;
            }
        }
        panic!("nobody leads");
    });
    world.crash(primary, Crash::Process);
    world.run_until(|| terms.borrow().len() == 2, secs(3)).unwrap();
    world.run_for(secs(5)).unwrap();
    let after = routing(&world);
    let died: Vec<_> = after.nodes.iter().filter(|n| n.status == NodeStatus::Dead).collect();
    assert_eq!(died.iter().map(|n| n.node).collect::<Vec<_>>(), [primary]);
    assert_eq!(after.chains, before.chains);
    // Questions go to the new one.
    let lines = ask(&world, |cx| async move {
        cx.ask(first::<Agent>(CLIENT), ListNodes).await.unwrap().unwrap()
    });
    let server = lines.iter().find(|l| l.info.node == SERVER).unwrap();
    assert!(server.silent_us < 500_000 && server.targets.len() == 1, "{lines:?}");
}

/// Regression: an mgmtd that had taken the lease and then found that it could not lead renewed it
/// for ever, so nobody led. Method: one of another cluster takes it over from a primary that died.
#[test]
fn who_cannot_lead_gives_way() {
    let world = World::new(1);
    let disk = MemoryDisk::new();
    let kv = world.add_node(NodeSpec::new().boot(move |b: &Boot| {
        KvServer::start(&b.cx, Box::new(disk.open())).unwrap();
    }));
    let leads = Rc::new(Cell::new(0));
    let seen = Rc::clone(&leads);
    let primary = world.add_node(NodeSpec::new().boot(move |b: &Boot| {
        let seen = Rc::clone(&seen);
        let watch = Rc::new(move |what: &MgmtdEvent<'_>| {
            if let MgmtdEvent::Leads { .. } = what {
                seen.set(seen.get() + 1);
            }
        });
        let config = MgmtdConfig::new(first(kv), "sim");
        MgmtdServer::start(&b.cx, MgmtdConfig { watch: Some(watch), ..config });
    }));
    world.run_until(|| leads.get() == 1, secs(3)).unwrap();
    let stranger = world.add_node(NodeSpec::new().boot(move |b: &Boot| {
        MgmtdServer::start(&b.cx, MgmtdConfig::new(first(kv), "other"));
    }));
    world.crash(primary, Crash::Process);
    // The primary has not heard of it, so it waits until promises cannot help the primary.
    world.run_for(secs(50)).unwrap();
    let told = world.block_on(kv, |cx| async move {
        cx.ask(first::<Mgmtd>(stranger), ListNodes).await.unwrap()
    });
    assert!(matches!(told.unwrap(), Err(MgmtdError::Refused(_))), "it has tried to lead");
    world.restart(primary);
    world.run_until(|| leads.get() == 2, secs(5)).unwrap();
}

/// Goal: a primary that stood still (a debugger, a laptop that slept) takes nobody for dead, also
/// one that has its lease for good. Regression: a stopped `up` found itself dead when it went on.
#[test]
fn a_process_stands_still() {
    let world = World::new(1);
    let changes: Rc<RefCell<Vec<String>>> = Rc::default();
    let seen = Rc::clone(&changes);
    let node = world.add_node(NodeSpec::new().boot(move |b: &Boot| {
        let kv = KvServer::start(&b.cx, Box::new(MemoryDisk::new().open())).unwrap();
        let seen = Rc::clone(&seen);
        let watch = Rc::new(move |what: &MgmtdEvent<'_>| {
            if let MgmtdEvent::Changed { after, .. } = what {
                seen.borrow_mut().push(format!("{:?}", after.routing.nodes));
            }
        });
        let config = MgmtdConfig { alone: true, ..MgmtdConfig::new(kv, "sim") };
        let mgmtd = MgmtdServer::start(&b.cx, MgmtdConfig { watch: Some(watch), ..config });
        let server = Some(ServerInfo::default());
        NodeAgent::start(&b.cx, AgentConfig { server, ..AgentConfig::new("sim", vec![mgmtd]) });
    }));
    world.run_for(secs(2)).unwrap();
    let before = changes.borrow().len();
    world.pause(node, secs(30));
    world.run_for(secs(40)).unwrap();
    assert_eq!(changes.borrow()[before..], Vec::<String>::new());
}

/// Goal: without the KV for a minute everything waits, then goes on as if nothing had been.
#[test]
fn the_kv_is_away() {
    let (world, _) = cluster();
    world.run_for(secs(2)).unwrap();
    let before = routing(&world);
    world.crash(KV, Crash::Process);
    world.run_for(secs(60)).unwrap();
    let refused = ask(&world, |cx| async move {
        let m = OpenSession { label: "x".into(), nonce: 1 };
        cx.ask(first::<Agent>(CLIENT), m).await
    });
    assert!(!matches!(refused, Ok(Ok(_))), "{refused:?}");
    world.restart(KV);
    world.run_for(secs(5)).unwrap();
    let after = routing(&world);
    assert_eq!((&after.chains, &after.nodes), (&before.chains, &before.nodes));
    let opened = ask(&world, |cx| async move {
        let m = OpenSession { label: "x".into(), nonce: 1 };
        cx.ask(first::<Agent>(CLIENT), m).await
    });
    assert!(matches!(opened, Ok(Ok(_))), "{opened:?}");
}

/// Goal: a store that is not the one that was used is as good as one that is away.
///
/// Regression (a newcomer): the KV came back with a mistyped folder, or with its disk not mounted,
/// and mgmtd led an empty cluster. Method: an empty disk, and that of another cluster of the same
/// name, in the place of the right one, while mgmtds run and while one of them starts anew.
#[test]
fn another_store_answers() {
    let disk: Rc<RefCell<MemoryDisk>> = Rc::default();
    let (world, terms) = cluster_over(1, Rc::clone(&disk));
    world.run_for(secs(2)).unwrap();
    let (right, other): (_, Rc<RefCell<MemoryDisk>>) = (disk.borrow().clone(), Rc::default());
    cluster_over(2, Rc::clone(&other));
    let put = |content: MemoryDisk| {
        world.crash(KV, Crash::Process);
        disk.replace(content);
        world.restart(KV);
    };
    let open = |nonce| {
        ask(&world, move |cx| async move {
            let m = OpenSession { label: "x".into(), nonce };
            cx.ask(first::<Agent>(CLIENT), m).await
        })
    };
    let members = |routing: &Routing| {
        let of = |c: &Chain| c.targets.iter().map(|t| (c.id, t.target, t.node)).collect::<Vec<_>>();
        routing.chains.iter().flat_map(of).collect::<Vec<_>>()
    };
    let before = members(&routing(&world));
    let other = other.borrow().clone();
    for (nonce, wrong) in [(1, MemoryDisk::new()), (2, other)] {
        let led = terms.borrow().len();
        put(wrong);
        world.run_for(secs(10)).unwrap();
        world.crash(MGMTDS[0], Crash::Process);
        world.restart(MGMTDS[0]);
        world.run_for(secs(60)).unwrap();
        let refused = open(nonce);
        assert!(!matches!(refused, Ok(Ok(_))), "{refused:?}");
        assert_eq!(terms.borrow().len(), led, "nobody leads over another store");
        put(right.clone());
        world.run_for(secs(20)).unwrap();
        let opened = open(nonce);
        assert!(matches!(opened, Ok(Ok(_))), "{opened:?}");
        assert_eq!(members(&routing(&world)), before);
    }
}

/// Goal: a mount that was killed: its session ends after its lease, and routing says so; one whose
/// client lives goes on.
#[test]
fn a_killed_mount() {
    let (world, _) = cluster();
    let open = |nonce| {
        ask(&world, move |cx| async move {
            let m = OpenSession { label: "mount".into(), nonce };
            cx.ask(first::<Agent>(CLIENT), m).await.unwrap().unwrap()
        })
    };
    let (killed, lives) = (open(1), open(2));
    let extend = move |session| {
        move |cx: Cx| async move {
            loop {
                cx.sleep(secs(10)).await;
                assert!(cx.ask(first::<Agent>(CLIENT), ExtendSession { session }).await.unwrap());
            }
        }
    };
    world.spawn(CLIENT, 0, extend(lives));
    world.run_for(secs(50)).unwrap();
    assert_eq!(living(&world), [killed, lives]);
    // Its agent gives it 30 s, mgmtd a session lease from there.
    world.run_for(secs(30) + Timing::default().session_lease).unwrap();
    let known = view(&world).sessions;
    assert_eq!(known.alive, [lives]);
    assert!(!known.is_alive(killed) && known.is_alive(lives));
    // The whole process.
    world.crash(CLIENT, Crash::Process);
    world.run_for(Timing::default().session_lease + secs(5)).unwrap();
    world.restart(CLIENT);
    world.run_for(secs(1)).unwrap();
    assert_eq!(living(&world), Vec::<SessionId>::new());
}

/// Regression: a killed server that started again left its sessions alive for a session lease.
/// Goal: they end as soon as its next run is heard of, those of other processes go on.
#[test]
fn a_server_that_starts_again_has_no_old_sessions() {
    let (world, _) = cluster();
    let open = |node| {
        let opened = world.block_on(node, move |cx| async move {
            let m = OpenSession { label: "mount".into(), nonce: u64::from(node.0) };
            cx.ask(first::<Agent>(node), m).await.unwrap().unwrap()
        });
        opened.unwrap()
    };
    let (old, other) = (open(SERVER), open(CLIENT));
    world.crash(SERVER, Crash::Process);
    world.run_for(secs(1)).unwrap();
    assert_eq!(living(&world), [old, other], "nobody can know yet");
    world.restart(SERVER);
    world.run_for(secs(1)).unwrap();
    assert_eq!(living(&world), [other]);
    let new = open(SERVER);
    world.run_for(secs(1)).unwrap();
    assert_eq!(living(&world), [other, new]);
}

/// Goal: who watches hears of new routing and of sessions of its own process as soon as the agent
/// knows, and is answered before it stops waiting if there is nothing new.
#[test]
fn watchers_hear_at_once() {
    let (world, _) = cluster();
    world.run_for(secs(2)).unwrap();
    let watch = |have, own_number| {
        ask(&world, move |cx| async move {
            let began = cx.now();
            let m = WatchView { have, own_number };
            let news = cx.ask(first::<Agent>(CLIENT), m).await.unwrap();
            (news, cx.now() - began)
        })
    };
    let (news, took) = watch(ViewVersion(0), 0);
    assert!(took < Duration::from_millis(10), "{took:?}");
    let (have, own_number) = (news.view.unwrap().version, news.own_number);
    let (news, took) = watch(have, own_number);
    assert_eq!((&news.view, &news.own[..]), (&None, &[][..]));
    assert!(took > secs(19) && took < secs(20), "{took:?}");
    let dies = world.now_us() + 5_000_000;
    world.at(dies, |sim| sim.crash(SERVER, Crash::Process));
    let (news, took) = watch(have, own_number);
    assert_eq!(news.view.unwrap().routing.node(SERVER).unwrap().status, NodeStatus::Dead);
    assert!(took > secs(5) && took < secs(8), "{took:?}");
    // A session: the view changes, and the list of sessions.
    let opened: Rc<Cell<Option<SessionId>>> = Rc::default();
    let told = Rc::clone(&opened);
    world.spawn(CLIENT, 0, move |cx| async move {
        cx.sleep(secs(3)).await;
        let m = OpenSession { label: "mount".into(), nonce: 1 };
        told.set(Some(cx.ask(first::<Agent>(CLIENT), m).await.unwrap().unwrap()));
    });
    let mut have = view(&world).version;
    let (own, took) = loop {
        let (news, took) = watch(have, own_number);
        if news.own_number != own_number {
            break (news.own, took);
        }
        have = news.view.expect("something is new").version;
    };
    assert_eq!(own, [opened.get().unwrap()]);
    assert!(took < secs(4), "{took:?}");
}

/// Goal: the only replica's node dies and returns: the chain waits for it, and serves again.
#[test]
fn the_only_replica_returns() {
    let (world, _) = cluster();
    world.run_for(secs(2)).unwrap();
    world.crash(SERVER, Crash::Power);
    world.run_for(secs(3)).unwrap();
    let r = routing(&world);
    assert_eq!(r.node(SERVER).unwrap().status, NodeStatus::Dead);
    assert_eq!(r.chains[0].targets[0].state, TargetState::LastServing);
    world.restart(SERVER);
    world.run_for(secs(1)).unwrap();
    let r = routing(&world);
    let server = r.node(SERVER).unwrap();
    assert_eq!((server.status, server.incarnation), (NodeStatus::Alive, 2));
    assert_eq!(r.chains[0].targets[0].state, TargetState::Serving);
    assert_eq!(r.chains[0].targets[0].addr.unwrap().epoch, 2);
}

/// Goal: the check `mgmtd` can fail. Method: each deliberate bug is found within 500 seeds.
#[test]
fn deliberate_bugs_are_found() {
    let check = ALL.iter().find(|c| c.name == "mgmtd").unwrap();
    for mutant in check.mutants {
        let found = (1..=500).find(|seed| {
            let run = || run_seed(check, *seed, Some(mutant), None).result.is_err();
            std::panic::catch_unwind(run).unwrap_or(true)
        });
        assert!(found.is_some(), "--mutant {mutant} was not found");
    }
}
