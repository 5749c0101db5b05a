//! How a target brings a successor up to date, and where its view of the cluster comes from.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use t3fs_actors::proto::storage::Storage;

use t3fs_actors::proto::agent::GetView;
use t3fs_actors::proto::ids::{ChainVersion, ChunkId};
use t3fs_actors::proto::mgmtd::{ClusterView, TargetState};
use t3fs_actors::proto::storage::{
    ChunkSummary, ListChunks, NewView, StorageError, SyncChunk, SyncStart, Updated,
};
use t3fs_actors::storage::engine::{Engine, Op, Update};
use t3fs_runtime::{Actor, Addr, Cx, Handle, Me, protocol};
use t3fs_sim::{Boot, NodeSpec, World};

use super::{STORE, TOYS, addr, start_target};

/// The toy behind the target is to be brought up to date.
fn view(version: u32) -> ClusterView {
    super::view(version, Some(TargetState::Syncing))
}

/// Has a view of its own, and never any from mgmtd: who asks for that waits.
struct ToyAgent {
    /// How often mgmtd was to be asked.
    fetches: Rc<Cell<u32>>,
}

protocol! { ToyAgentApi as ToyAgentMsg, ToyAgentReply = 0x0600 {
    1 v 2 GetView -> Option<ClusterView>, Control, 5_000 ms;
} }

impl Actor for ToyAgent {
    type Protocol = ToyAgentApi;
}

impl Handle<GetView> for ToyAgent {
    async fn handle(me: &Me<Self>, m: GetView, cx: &Cx) -> Option<ClusterView> {
        if m.fresh {
            me.with(|s| s.fetches.set(s.fetches.get() + 1));
            cx.sleep(Duration::from_secs(60)).await;
        }
        Some(view(1))
    }
}

/// Is empty, and says of every chunk that the sender is behind the times.
struct ToyTarget {
    listed: Rc<Cell<bool>>,
}

protocol! { ToyTargetApi as ToyTargetMsg, ToyTargetReply = 0x0300 {
    4 v 1 ListChunks -> Result<Vec<ChunkSummary>, StorageError>, Control, 10_000 ms;
    9 v 1 SyncStart -> Result<(), StorageError>, Control, 5_000 ms;
    10 v 1 SyncChunk -> Result<Updated, StorageError>, Bulk, 10_000 ms;
} }

impl Actor for ToyTarget {
    type Protocol = ToyTargetApi;
}

impl Handle<ListChunks> for ToyTarget {
    async fn handle(
        me: &Me<Self>,
        _: ListChunks,
        cx: &Cx,
    ) -> Result<Vec<ChunkSummary>, StorageError> {
        me.with(|s| s.listed.set(true));
        cx.sleep(Duration::from_millis(300)).await;
        Ok(Vec::new())
    }
}

impl Handle<SyncStart> for ToyTarget {
    async fn handle(_: &Me<Self>, _: SyncStart, _: &Cx) -> Result<(), StorageError> {
        Ok(())
    }
}

impl Handle<SyncChunk> for ToyTarget {
    async fn handle(_: &Me<Self>, m: SyncChunk, _: &Cx) -> Result<Updated, StorageError> {
        Err(StorageError::StaleChain { mine: ChainVersion(m.chain_version.0 + 1) })
    }
}

/// Regression (review): a fetch of routing counted as under way until it had its answer. A resync
/// that was ended by a change of the chain took its fetch with it, and no other ever began: a
/// target that was behind stayed behind.
///
/// Method: the resync meets a chunk with a pending update, hears that it is behind, and fetches;
/// then the chain changes.
#[test]
fn a_fetch_that_was_dropped_is_over() {
    let world = World::new(1);
    let (fetches, listed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let (f, l) = (Rc::clone(&fetches), Rc::clone(&listed));
    world.add_node(NodeSpec::new().boot(move |b: &Boot| {
        b.cx.start(ToyAgent { fetches: Rc::clone(&f) });
        b.cx.start(ToyTarget { listed: Rc::clone(&l) });
    }));
    let engine: Rc<RefCell<Option<Engine>>> = Rc::default();
    let e = Rc::clone(&engine);
    world.add_node(NodeSpec::new().disk(256 << 20).boot(move |b: &Boot| {
        let (cx, e) = (b.cx.clone(), Rc::clone(&e));
        b.cx.spawn(async move { *e.borrow_mut() = Some(start_target(cx).await) });
    }));
    let second = Duration::from_secs(1);
    world.run_until(|| listed.get(), 5 * second).unwrap();
    let engine = engine.borrow().clone().unwrap();
    let update = Update {
        chunk: ChunkId::default(),
        version: engine.fresh_version(),
        chain_version: ChainVersion(1),
        op: Op::Replace { data: vec![1; 10].into() },
        request: None,
        commit: false,
    };
    world.block_on(STORE, |cx| async move { engine.apply(&cx, update).await }).unwrap().unwrap();
    world.run_until(|| fetches.get() == 1, second).unwrap();
    let changed = world.block_on(TOYS, |cx| async move {
        let target = Addr::<Storage>::from_raw(addr(STORE, 0));
        cx.ask(target, NewView { view: view(2) }).await
    });
    changed.unwrap().unwrap();
    world.run_until(|| fetches.get() > 1, 5 * second).expect("it fetches again");
}
