//! Several meta servers on one store that die, are stopped and are cut off: clients go on with
//! another one, and whichever gets a request and its retries, it acts once. At the end the tree is
//! whole, and is what the clients made it.
//!
//! In half of the runs the host of the store comes back with an empty disk for a while (a mistyped
//! folder, a disk that is not mounted): nobody uses that, and all goes on when the right one is back.
//!
//! Each client has names of its own in directories that all share, so it knows what each operation
//! has to answer: a create that acted twice says `Exists`, a removal `NotFound`.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::mgmtd::Mgmtd;

use t3fs_actors::agent::{AgentConfig, NodeAgent, ServerInfo};
use t3fs_actors::client::{Client, ClientConfig, FsError, Owner, RenameMode};
use t3fs_actors::meta::fsck::fsck;
use t3fs_actors::meta::kv::actor::KvServer;
use t3fs_actors::meta::kv::{KEYS_END, MemoryDisk, RangeLimit, Store};
use t3fs_actors::meta::{MetaConfig, MetaServer};
use t3fs_actors::mgmtd::{MgmtdConfig, MgmtdServer};
use t3fs_actors::proto::agent::Announce;
use t3fs_actors::proto::ids::{ChainId, TargetId};
use t3fs_actors::proto::meta::ROOT;
use t3fs_actors::proto::mgmtd::CreateChains;
use t3fs_runtime::{Addr, Cx, NodeId, RawAddr};

use super::{Check, Run};
use crate::faults::{Menu, Swarm};
use crate::rng::Rng;
use crate::store_memories::StoreMemories;
use crate::world::{Boot, Crash, NodeSpec, Sim};

pub(super) const CHECK: Check = Check {
    name: "metas",
    about: "operations on names act once, whichever meta server gets them",
    run,
    mutants: &["any-store-is-taken"],
};

const MGMTDS: u32 = 2;
const METAS: u32 = 3;
const CLIENTS: u32 = 3;
const NAMES: u64 = 4;
const OPS: u64 = 60;
const STORM: Duration = Duration::from_secs(10);
const CALM: Duration = Duration::from_secs(180);
const OWNER: Owner = Owner { uid: 1, gid: 1, mode: 0o755 };

fn first_actor<A>(node: NodeId) -> Addr<A> {
    Addr::from_raw(RawAddr { node, shard: 0, slot: 0, epoch: RawAddr::ANY_EPOCH })
}

/// The disk of the store's host, and one that is not the cluster's.
#[derive(Default)]
struct StoreDisks {
    right: MemoryDisk,
    wrong: MemoryDisk,
    is_wrong: Cell<bool>,
}

impl StoreDisks {
    fn present(&self) -> &MemoryDisk {
        if self.is_wrong.get() { &self.wrong } else { &self.right }
    }

    /// The wrong one is in the place of the right one for a part of the storm, if all who use the
    /// store know it by then.
    fn swap(self: &Rc<Self>, sim: &Sim, kv: NodeId, rng: &Rng, know: impl Fn() -> bool + 'static) {
        let (at, long) = (rng.below(5_000_000), 100_000 + rng.below(4_000_000));
        let disks = Rc::clone(self);
        sim.at(sim.now_us() + at, move |sim| {
            if !know() {
                return;
            }
            disks.put(sim, kv, true);
            sim.at(sim.now_us() + long, move |sim| disks.put(sim, kv, false));
        });
    }

    fn put(&self, sim: &Sim, kv: NodeId, is_wrong: bool) {
        sim.crash(kv, Crash::Process);
        self.is_wrong.set(is_wrong);
        sim.restart(kv);
        sim.note(&[u64::from(is_wrong)], format_args!("the store's disk is wrong: {is_wrong}"));
    }

    fn is_wrong_empty(&self) -> bool {
        let limit = RangeLimit { rows: 1, bytes: usize::MAX };
        let rows = self.wrong.open().snapshot().range(b"", KEYS_END, limit, false);
        rows.expect("a disk of memory does not fail").rows.is_empty()
    }
}

/// What a client has under one of its names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Has {
    Directory,
    ClusterSession,
}

type Tree = BTreeMap<Vec<u8>, Has>;

fn agent(cx: &Cx, mgmtds: &[NodeId], server: Option<ServerInfo>) -> Addr<Agent> {
    let mgmtds = mgmtds.iter().map(|n| first_actor::<Mgmtd>(*n)).collect();
    NodeAgent::start(cx, AgentConfig { server, ..AgentConfig::new("sim", mgmtds) })
}

async fn meta_node(cx: Cx, kv: NodeId, mgmtds: Vec<NodeId>, memories: StoreMemories) {
    let agent = agent(&cx, &mgmtds, Some(ServerInfo::default()));
    let store = memories.of(cx.node(), first_actor(kv));
    let meta = loop {
        let limit = cx.within(Duration::from_secs(5));
        let config = MetaConfig::new(store.kv(), agent);
        match MetaServer::start(&limit, MetaConfig { store: store.clone(), ..config }).await {
            Ok(meta) => break meta,
            Err(_) => cx.sleep(Duration::from_millis(50)).await,
        }
    };
    let m = Announce { metas: vec![meta.raw()], targets: Vec::new() };
    while cx.ask(agent, m.clone()).await.is_err() {
        cx.sleep(Duration::from_millis(20)).await;
    }
}

fn run(run: &Run<'_>) -> Result<(), String> {
    let world = run.world;
    let disks = Rc::new(StoreDisks::default());
    let there = Rc::clone(&disks);
    let kv = world.add_node(NodeSpec::new().boot(move |b: &Boot| {
        KvServer::start(&b.cx, Box::new(there.present().open())).expect("a store");
    }));
    let memories = StoreMemories::default();
    let mgmtd = |_| {
        let memories = memories.clone();
        world.add_node(NodeSpec::new().boot(move |b: &Boot| {
            let store = memories.of(b.node, first_actor(kv));
            let config = MgmtdConfig::new(store.kv(), "sim");
            MgmtdServer::start(&b.cx, MgmtdConfig { store, ..config });
        }))
    };
    let mgmtds: Vec<NodeId> = (0..MGMTDS).map(mgmtd).collect();
    let meta = |_| {
        let (mgmtds, memories) = (mgmtds.clone(), memories.clone());
        world.add_node(NodeSpec::new().boot(move |b: &Boot| {
            b.cx.spawn(meta_node(b.cx.clone(), kv, mgmtds.clone(), memories.clone()));
        }))
    };
    let metas: Vec<NodeId> = (0..METAS).map(meta).collect();
    let client_node = |_| {
        let mgmtds = mgmtds.clone();
        world.add_node(NodeSpec::new().boot(move |b: &Boot| {
            agent(&b.cx, &mgmtds, None);
        }))
    };
    let clients: Vec<NodeId> = (0..CLIENTS).map(client_node).collect();
    // Nobody stores a byte here, but clients want to see a chain.
    let chains = CreateChains { chains: vec![(ChainId(1), vec![(TargetId(1), NodeId(999))])] };
    world
        .block_on(clients[0], |cx| async move {
            let agent = first_actor::<Agent>(cx.node());
            while !matches!(cx.ask(agent, chains.clone()).await, Ok(Ok(_))) {
                cx.sleep(Duration::from_millis(10)).await;
            }
        })
        .map_err(|h| format!("no chain: {h:?}"))?;

    let done = Rc::new(Cell::new(0));
    let wrong: Rc<RefCell<Option<String>>> = Rc::default();
    let trees: Rc<RefCell<Tree>> = Rc::default();
    for (i, node) in clients.iter().enumerate() {
        let (done, wrong, trees) = (Rc::clone(&done), Rc::clone(&wrong), Rc::clone(&trees));
        let rng = world.rng(100 + i as u64);
        world.spawn(*node, 0, move |cx| async move {
            match user(&cx, i as u32, &rng).await {
                Ok(tree) => trees.borrow_mut().extend(tree),
                Err(e) => drop(wrong.borrow_mut().get_or_insert(format!("client {i}: {e}"))),
            }
            done.set(done.get() + 1);
        });
    }
    let victims: Vec<NodeId> = metas.iter().chain(&mgmtds).copied().collect();
    let rng = world.rng(7);
    let mut menu = Menu::new(&victims, &world.nodes());
    menu.down_at_once_max = 1 + rng.below(3) as usize;
    let mut swarm = Swarm::draw(&rng, &menu);
    swarm.crash_every_us *= 4;
    world.unleash(swarm, menu, STORM);
    let rng = world.rng(8);
    if rng.coin() {
        let all = (MGMTDS + METAS) as usize;
        let users_know = move || memories.count() == all;
        disks.swap(&world.handle(), kv, &rng, users_know);
    }
    let finished = || done.get() == CLIENTS || wrong.borrow().is_some();
    if let Err(h) = world.run_until(finished, STORM)
        && h != crate::world::Halt::Late
    {
        return Err(format!("the storm ended with {h:?}"));
    }
    world.heal();
    world
        .run_until(finished, CALM)
        .map_err(|h| format!("{} of {CLIENTS} clients got done: {h:?}", done.get()))?;
    if let Some(e) = wrong.borrow_mut().take() {
        return Err(e);
    }
    let tree = trees.borrow().clone();
    world
        .block_on(clients[0], move |cx| async move { compare(&cx, kv, &tree).await })
        .map_err(|h| format!("the comparison ended with {h:?}"))??;
    match disks.is_wrong_empty() {
        true => Ok(()),
        false => Err("something was written to a store that is not the cluster's".into()),
    }
}

async fn open(cx: &Cx) -> Result<Client, String> {
    let config = ClientConfig::new(first_actor(cx.node()), "sim");
    loop {
        match Client::start(cx, config.clone()).await {
            Ok(c) => return Ok(c),
            // The storm may outlast one attempt's patience.
            Err(FsError::Unavailable(_)) => {}
            Err(e) => return Err(format!("found no cluster: {e}")),
        }
    }
}

/// One client: random operations on its own names, each with the one answer it may get.
async fn user(cx: &Cx, me: u32, rng: &Rng) -> Result<Tree, String> {
    let client = open(cx).await?;
    let mut tree = Tree::new();
    let name = |n: u64| format!("{me}-{n}").into_bytes();
    for step in 0..OPS {
        let (a, b) = (name(rng.below(NAMES)), name(rng.below(NAMES)));
        let (has, other) = (tree.get(&a).copied(), tree.get(&b).copied());
        let (what, got, want) = match rng.below(6) {
            0 | 1 => {
                let got = client.mkdir(cx, ROOT, &a, OWNER).await.map(drop);
                let want = if has.is_some() { Err(FsError::Exists) } else { Ok(()) };
                if want.is_ok() {
                    tree.insert(a.clone(), Has::Directory);
                }
                ("mkdir", got, want)
            }
            2 => {
                let got = client.symlink(cx, ROOT, &a, b"x", OWNER).await.map(drop);
                let want = if has.is_some() { Err(FsError::Exists) } else { Ok(()) };
                if want.is_ok() {
                    tree.insert(a.clone(), Has::ClusterSession);
                }
                ("symlink", got, want)
            }
            3 => {
                let got = client.rmdir(cx, ROOT, &a).await.map(drop);
                let want = match has {
                    None => Err(FsError::NotFound),
                    Some(Has::ClusterSession) => Err(FsError::NotDirectory),
                    Some(Has::Directory) => Ok(()),
                };
                if want.is_ok() {
                    tree.remove(&a);
                }
                ("rmdir", got, want)
            }
            4 => {
                let got = client.unlink(cx, ROOT, &a, None).await.map(drop);
                let want = match has {
                    None => Err(FsError::NotFound),
                    Some(Has::Directory) => Err(FsError::IsDirectory),
                    Some(Has::ClusterSession) => Ok(()),
                };
                if want.is_ok() {
                    tree.remove(&a);
                }
                ("unlink", got, want)
            }
            _ => {
                let mode = RenameMode::NoReplace;
                let got = client.rename(cx, (ROOT, &a), (ROOT, &b), mode, None).await;
                let want = match (has, other) {
                    (None, _) => Err(FsError::NotFound),
                    (Some(_), Some(_)) => Err(FsError::Exists),
                    (Some(kind), None) => {
                        tree.remove(&a);
                        tree.insert(b.clone(), kind);
                        Ok(())
                    }
                };
                ("rename", got, want)
            }
        };
        if got != want {
            let (a, b) = (String::from_utf8_lossy(&a), String::from_utf8_lossy(&b));
            return Err(format!("step {step}: {what} {a} {b} said {got:?}, not {want:?}"));
        }
        if rng.below(3) == 0 {
            cx.sleep(Duration::from_millis(rng.below(500))).await;
        }
    }
    Ok(tree)
}

/// The names are there, and the store is whole once its garbage is gone.
async fn compare(cx: &Cx, kv: NodeId, tree: &Tree) -> Result<(), String> {
    let client = open(cx).await?;
    let page = client.readdir(cx, ROOT, b"", 10_000).await.map_err(|e| e.to_string())?;
    let found: Vec<Vec<u8>> = page.entries.into_iter().map(|e| e.name).collect();
    let made: Vec<Vec<u8>> = tree.keys().cloned().collect();
    if found != made {
        return Err(format!("{} names are there, {} were made", found.len(), made.len()));
    }
    let mut problems = Vec::new();
    for _ in 0..200 {
        let report = fsck(cx, first_actor(kv)).await.map_err(|e| format!("{e:?}"))?;
        problems = report.problems;
        if report.garbage == 0 && problems.is_empty() {
            return Ok(());
        }
        cx.sleep(Duration::from_millis(500)).await;
    }
    Err(format!("the store is not whole: {problems:?}, or garbage stays"))
}
