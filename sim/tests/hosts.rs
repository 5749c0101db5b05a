//! Single stories of a storage node's host whose disks, folders or state folder fail: the host is
//! real, between toys. Random ones are in the check `hosts`.

use core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use t3fs_actors::proto::agent::{Agent, ViewNews, WatchView};
use t3fs_actors::proto::host::{HostTarget, HostTargetState, ListHostTargets, StorageHost};
use t3fs_actors::proto::ids::{ChainId, ChainVersion, TargetId, ViewVersion};
use t3fs_actors::proto::mgmtd::*;
use t3fs_actors::storage::engine::{Engine, EngineConfig, TargetIdentity};
use t3fs_actors::storage::host::{Book, Host, HostConfig, HostWorks, Place, target_dir};
use t3fs_runtime::{Actor, Addr, Cx, DiskId, Handle, Me, NodeId, RawAddr, Slot, protocol};
use t3fs_sim::{Boot, Crash, DiskSpeed, NodeSpec, World};

const NODE: NodeId = NodeId(1);
/// The agent is a toy that does not know all of an agent's messages, so it is on another node.
const TOYS: NodeId = NodeId(2);
/// A disk that has said nothing for so long counts as missing (`LOOK_MAX`), and a bit.
const LIMIT: Duration = Duration::from_secs(21);
/// The host has tried again what it tries again.
const AGAIN: Duration = Duration::from_secs(6);

/// What the toys share.
#[derive(Default)]
struct Story {
    /// Targets that the routing names here.
    named: Vec<u32>,
    book: Book,
    /// The book cannot be stored.
    read_only: bool,
    /// In this run of the node.
    started: BTreeSet<u32>,
    host: Option<Addr<StorageHost>>,
    first: Slot<()>,
}

type Shared = Rc<RefCell<Story>>;

/// Names the targets of the story, each alone in its chain, and takes all data for the latest.
struct ToyAgent(Shared);

protocol! { ToyAgentApi as ToyAgentMsg, ToyAgentReply = 0x0600 {
    11 v 2 WatchView -> ViewNews, Control, 20_000 ms, hops |_watch| 1;
    16 v 1 ClaimTargets -> Result<Option<Vec<Claimed>>, MgmtdError>, Control, 5_000 ms;
} }

impl Actor for ToyAgent {
    type Protocol = ToyAgentApi;
}

impl Handle<WatchView> for ToyAgent {
    async fn handle(me: &Me<Self>, m: WatchView, cx: &Cx) -> ViewNews {
        let version = ViewVersion(1);
        if m.have >= version {
            cx.sleep(cx.deadline().since(cx.now()).saturating_sub(Duration::from_millis(100)))
                .await;
            return ViewNews { view: None, own: Vec::new(), own_number: 0 };
        }
        let chain = |n: &u32| {
            let (target, state) = (TargetId(*n), TargetState::Serving);
            let targets = vec![ChainTarget { target, node: NODE, addr: None, state, made: false }];
            Chain { id: ChainId(*n), version: ChainVersion(1), targets }
        };
        let chains = me.with(|a| a.0.borrow().named.iter().map(chain).collect());
        let routing = Arc::new(Routing { chains, ..Routing::default() });
        let view = Some(ClusterView { version, routing, ..ClusterView::default() });
        ViewNews { view, own: Vec::new(), own_number: 0 }
    }
}

impl Handle<ClaimTargets> for ToyAgent {
    async fn handle(
        _: &Me<Self>,
        m: ClaimTargets,
        _: &Cx,
    ) -> Result<Option<Vec<Claimed>>, MgmtdError> {
        Ok(Some(vec![Claimed::Latest; m.claims.len()]))
    }
}

struct Works(Shared);

impl HostWorks for Works {
    async fn make(&self, cx: &Cx, place: Place) -> Result<(), String> {
        let Place { target, chain, disk } = place;
        let id = TargetIdentity { cluster: "sim".into(), target, chain };
        let config = EngineConfig { reserve_bytes: 0, ..EngineConfig::default() };
        let made = Engine::create(cx, disk, &target_dir(target), &id, config).await;
        made.map_err(|e| e.to_string())?.close(cx).await.map_err(|e| e.to_string())
    }

    async fn start(&self, _: &Cx, place: Place) -> Result<(), String> {
        self.0.borrow_mut().started.insert(place.target.0);
        Ok(())
    }

    async fn stop(&self, _: &Cx, target: TargetId) -> Result<(), String> {
        self.0.borrow_mut().started.remove(&target.0);
        Ok(())
    }

    async fn store(&self, _: &Cx, book: Book) -> Result<(), String> {
        let story = &mut *self.0.borrow_mut();
        if story.read_only {
            return Err("the file system is read-only".into());
        }
        story.book = book;
        Ok(())
    }
}

/// A node of two disks with targets 1 and 3 on the first, 2 and 4 on the other; it is down.
fn node() -> (World, Shared) {
    let world = World::new(1);
    let shared: Shared = Rc::default();
    shared.borrow_mut().named = vec![1, 2, 3, 4];
    let story = Rc::clone(&shared);
    let spec = NodeSpec::new().disk(1 << 30).disk(1 << 30);
    world.add_node(spec.boot(move |b: &Boot| {
        let first = Slot::new();
        let (book, works) = (story.borrow().book.clone(), Works(Rc::clone(&story)));
        let epoch = RawAddr::ANY_EPOCH;
        let agent = RawAddr { node: TOYS, shard: 0, slot: 0, epoch };
        let agent = Addr::<Agent>::from_raw(agent);
        let config = HostConfig {
            cluster: "sim".into(),
            disks: vec![DiskId(0), DiskId(1)],
            book,
            agent,
            works,
            first: first.clone(),
        };
        let host = Some(Host::start(&b.cx, config));
        let story = &mut *story.borrow_mut();
        (story.started, story.host, story.first) = (BTreeSet::new(), host, first);
    }));
    let story = Rc::clone(&shared);
    world.add_node(NodeSpec::new().boot(move |b: &Boot| {
        b.cx.start(ToyAgent(Rc::clone(&story)));
    }));
    world.run_for(AGAIN).unwrap();
    assert_eq!(started(&shared), [1, 2, 3, 4], "{:?}", states(&world, &shared));
    let disks: Vec<u16> = shared.borrow().book.values().map(|e| e.disk.0).collect();
    assert_eq!(disks, [0, 1, 0, 1]);
    world.crash(NODE, Crash::Process);
    (world, shared)
}

fn started(shared: &Shared) -> Vec<u32> {
    shared.borrow().started.iter().copied().collect()
}

fn states(world: &World, shared: &Shared) -> Vec<HostTarget> {
    let host = shared.borrow().host.expect("it has started");
    let asked = world.block_on(NODE, move |cx| async move { cx.ask(host, ListHostTargets).await });
    asked.unwrap().unwrap()
}

fn state(world: &World, shared: &Shared, target: u32) -> HostTargetState {
    let mut all = states(world, shared).into_iter();
    all.find(|t| t.target.0 == target).expect("it is listed").state
}

const MINUTE_US: (u64, u64) = (60_000_000, 60_000_000);

fn set_speed(world: &World, speed: DiskSpeed) {
    world.with_disk(NODE, DiskId(0), |disk| disk.speed = speed);
}

/// Regression (review): one look at all disks waited for each of them, so a disk that hung kept the
/// targets of the whole node away; later, news of the cluster began the look anew. Goal: those of
/// other disks begin when the disk is given up, the node announces itself, and the disk's own
/// targets begin when it answers again.
#[test]
fn a_disk_that_hangs_keeps_no_other_away() {
    let (world, shared) = node();
    set_speed(&world, DiskSpeed { name_us: MINUTE_US, ..DiskSpeed::default() });
    world.restart(NODE);
    world.run_for(LIMIT).unwrap();
    assert_eq!(started(&shared), [2, 4]);
    assert_eq!(state(&world, &shared, 1), HostTargetState::DiskMissing);
    let first = shared.borrow().first.clone();
    world.block_on(NODE, |_| first).unwrap();
    set_speed(&world, DiskSpeed::default());
    world.run_for(LIMIT + AGAIN).unwrap(); // a look is under way
    assert_eq!(started(&shared), [1, 2, 3, 4]);
}

/// Regression: targets were opened one after the other, so each of a disk that hung after the look
/// kept those after it away for as long as a disk may take. Method: a disk that reads and does not
/// write. Its targets stay away until a human looks.
#[test]
fn a_disk_that_hangs_in_the_middle_keeps_no_other_away() {
    let (world, shared) = node();
    set_speed(&world, DiskSpeed { write_us: MINUTE_US, ..DiskSpeed::default() });
    world.restart(NODE);
    world.run_for(LIMIT).unwrap();
    assert_eq!(started(&shared), [2, 4]);
    for target in [1, 3] {
        let state = state(&world, &shared, target);
        let HostTargetState::StaysAway(why) = &state else { panic!("{state:?}") };
        assert!(why.contains("does not answer"), "{why}");
    }
}

/// Regression (review): an error of the disk at one folder made its whole disk count as missing.
/// Method: a folder where the superblock should be.
#[test]
fn a_folder_that_cannot_be_read_keeps_no_other_away() {
    let (world, shared) = node();
    world.restart(NODE);
    let damaged = world.block_on(NODE, |cx| async move {
        let (disk, superblock) = (cx.disk(DiskId(0)), "targets/1/superblock");
        disk.rename(superblock, "targets/1/old").await?;
        disk.make_dir(superblock).await?;
        disk.sync_dir("targets/1").await
    });
    damaged.unwrap().unwrap();
    world.crash(NODE, Crash::Process);
    world.restart(NODE);
    world.run_for(AGAIN).unwrap();
    assert_eq!(started(&shared), [2, 3, 4]);
    let state = state(&world, &shared, 1);
    assert!(matches!(state, HostTargetState::StaysAway(_)), "{state:?}");
}

/// Regression: a list of targets that could not be stored (a state folder that is full or read
/// only) kept every target away, also those of which it says nothing new. Goal: only the target
/// whose place is not stored waits, and is made once it is.
#[test]
fn a_list_that_cannot_be_stored_keeps_no_other_away() {
    let (world, shared) = node();
    {
        let story = &mut *shared.borrow_mut();
        (story.named, story.read_only) = (vec![1, 2, 3, 4, 5], true);
    }
    world.restart(NODE);
    world.run_for(AGAIN).unwrap();
    assert_eq!(started(&shared), [1, 2, 3, 4]);
    assert_eq!(state(&world, &shared, 5), HostTargetState::Waits("it begins".into()));
    assert!(!world.disk(NODE, DiskId(0)).has_file("targets/5/superblock"));
    shared.borrow_mut().read_only = false;
    world.run_for(AGAIN).unwrap();
    assert_eq!(started(&shared), [1, 2, 3, 4, 5]);
}
