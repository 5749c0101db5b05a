//! Who waits for a chunk's lock on a target waits until the deadline of the request, and what is
//! late does not begin.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use t3fs_actors::proto::storage::Storage;

use t3fs_actors::proto::ids::{ChainVersion, ChunkId, RequestId, SessionId, ViewVersion};
use t3fs_actors::proto::mgmtd::TargetState;
use t3fs_actors::proto::storage::{LeaseHeld, StorageError, UpdateChunk, UpdateKind, Updated};
use t3fs_actors::storage::engine::Engine;
use t3fs_runtime::{Actor, Addr, AskError, Bulk, Cx, Handle, Me, join_all, protocol};
use t3fs_sim::{Boot, NodeSpec, World};

use super::{STORE, TOYS, ToyAgent, addr, start_target, view};

/// Has no space, until it has.
struct ToyTarget {
    refuses: Rc<RefCell<Option<StorageError>>>,
    asked: Rc<Cell<u32>>,
}

protocol! { ToyTargetApi as ToyTargetMsg, ToyTargetReply = 0x0300 {
    1 v 2 UpdateChunk -> Result<Updated, StorageError>, Bulk, 10_000 ms, hops |m| m.hops;
} }

impl Actor for ToyTarget {
    type Protocol = ToyTargetApi;
}

impl Handle<UpdateChunk> for ToyTarget {
    async fn handle(me: &Me<Self>, m: UpdateChunk, _: &Cx) -> Result<Updated, StorageError> {
        me.with(|s| s.asked.set(s.asked.get() + 1));
        if let Some(why) = me.with(|s| s.refuses.borrow().clone()) {
            return Err(why);
        }
        Ok(Updated { version: m.version.expect("a predecessor names it"), len: 0, checksum: 0 })
    }
}

async fn write(cx: &Cx, seq: u64) -> Result<Result<Updated, StorageError>, AskError> {
    let u = UpdateChunk {
        chunk: ChunkId::default(),
        chain_version: ChainVersion(1),
        kind: UpdateKind::Write { offset: 0 },
        data: Bulk::from(vec![seq as u8; 100]),
        request: RequestId { session: SessionId(0), seq },
        version: None,
        born: ChainVersion(1),
        hops: 1,
    };
    cx.ask(Addr::<Storage>::from_raw(addr(STORE, 0)), u).await
}

/// A head whose successor refuses what it is sent, for a reason that can be taken away.
struct Held {
    world: World,
    engine: Engine,
    refuses: Rc<RefCell<Option<StorageError>>>,
    /// How often the successor was asked.
    asked: Rc<Cell<u32>>,
}

fn held(why: StorageError) -> Held {
    let world = World::new(1);
    let (refuses, asked) = (Rc::new(RefCell::new(Some(why))), Rc::new(Cell::new(0)));
    let (r, a) = (Rc::clone(&refuses), Rc::clone(&asked));
    world.add_node(NodeSpec::new().boot(move |b: &Boot| {
        b.cx.start(ToyAgent(view(1, Some(TargetState::Serving))));
        b.cx.start(ToyTarget { refuses: Rc::clone(&r), asked: Rc::clone(&a) });
    }));
    let engine: Rc<RefCell<Option<Engine>>> = Rc::default();
    let e = Rc::clone(&engine);
    world.add_node(NodeSpec::new().disk(256 << 20).boot(move |b: &Boot| {
        let (cx, e) = (b.cx.clone(), Rc::clone(&e));
        b.cx.spawn(async move { *e.borrow_mut() = Some(start_target(cx).await) });
    }));
    world.run_until(|| engine.borrow().is_some(), Duration::from_secs(5)).unwrap();
    let granted = world.block_on(TOYS, |cx| async move {
        let until_us = cx.now().us() + 3_600_000_000;
        let m = LeaseHeld { until_us, view: ViewVersion(1) };
        cx.ask(Addr::<Storage>::from_raw(addr(STORE, 0)), m).await
    });
    granted.unwrap().unwrap();
    world.run_for(Duration::from_secs(1)).unwrap();
    let engine = engine.borrow().clone().unwrap();
    Held { world, engine, refuses, asked }
}

/// Goal: behind an update that cannot go on, requests are answered that they are to ask again, at
/// their deadlines at the latest; none of them runs when the way is free again.
///
/// Regression (issue 10): `Locked::take` waited whatever the deadline was, and all of them ran, one
/// after another, when their senders had long gone.
#[test]
fn late_requests_leave_the_line_and_do_not_run() {
    let held = held(StorageError::TooManyWriters);
    // The first holds the lock; the others are more than may wait.
    let said = held.world.block_on(TOYS, |cx| async move {
        let first = write(&cx.within(Duration::from_millis(300)), 1).await;
        let hasty = cx.within(Duration::from_millis(500));
        let begun = cx.now();
        let rest = join_all((2..102).map(|seq| write(&hasty, seq))).await;
        assert!(cx.now().since(begun) < Duration::from_millis(600));
        (first, rest)
    });
    let (first, rest) = said.unwrap();
    assert!(matches!(first, Err(AskError::Unknown(_))), "{first:?}");
    let refused = rest.iter().filter(|r| **r == Ok(Err(StorageError::NotReady))).count();
    assert!(refused >= 36, "64 may wait, so at least 36 are told at once: {refused}");
    assert!(rest.iter().all(|r| !matches!(r, Ok(Ok(_)))), "{rest:?}");
    let begun = held.engine.info(ChunkId::default()).unwrap().pending.unwrap().version;

    held.refuses.take();
    held.world.run_for(Duration::from_secs(5)).unwrap();
    let info = held.engine.info(ChunkId::default()).unwrap();
    assert_eq!(
        (info.committed.unwrap().version, info.pending),
        (begun, None),
        "only the first ran"
    );
    assert!(held.asked.get() > 1, "it was tried again");
    // Who asks now is served.
    let now = held.world.block_on(TOYS, |cx| async move { write(&cx, 200).await }).unwrap();
    assert_eq!(now.unwrap().unwrap().version.0, begun.0 + 1);
}

/// Regression (review): a full disk behind the head was told nobody: what the head had stored
/// waited with its chunk's lock, and programs wrote on for ten minutes into buffers that were lost
/// then. Goal: the head says so for it, and stops when there is room again.
#[test]
fn the_head_tells_that_its_successor_is_full() {
    let held = held(StorageError::NoSpace);
    let said = held.world.block_on(TOYS, |cx| async move {
        let short = cx.within(Duration::from_millis(300));
        let first = write(&short, 1).await;
        let begun = cx.now();
        let next = write(&cx, 2).await;
        (first, next, cx.now().since(begun))
    });
    let (first, next, took) = said.unwrap();
    assert!(matches!(first, Err(AskError::Unknown(_))), "{first:?}");
    assert_eq!(next, Ok(Err(StorageError::NoSpace)));
    assert!(took < Duration::from_millis(100), "{took:?}");
    held.refuses.take();
    held.world.run_for(Duration::from_secs(4)).unwrap();
    let again = held.world.block_on(TOYS, |cx| async move { write(&cx, 3).await }).unwrap();
    assert!(matches!(again, Ok(Ok(_))), "{again:?}");
    // What fits into what there is goes on: it may need no space.
    held.refuses.replace(Some(StorageError::NoSpace));
    let over = held.world.block_on(TOYS, |cx| async move {
        let short = cx.within(Duration::from_millis(300));
        (write(&short, 4).await, write(&short, 5).await)
    });
    let (first, next) = over.unwrap();
    assert!(matches!(first, Err(AskError::Unknown(_))), "{first:?}");
    assert!(next != Ok(Err(StorageError::NoSpace)), "{next:?}");
}
