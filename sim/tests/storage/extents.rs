//! What a target tells of a file: which chunks hold bytes, and which files there are. The target is
//! alone in its chain.

use core::time::Duration;
use std::cell::RefCell;
use std::rc::Rc;
use t3fs_actors::proto::storage::Storage;

use t3fs_actors::proto::ids::{ChainVersion, ChunkId, ChunkVersion, InodeId, ViewVersion};
use t3fs_actors::proto::storage::{Extents, FileExtents, LeaseHeld, ListInodes, StorageError};
use t3fs_actors::storage::engine::{Engine, Op, Update};
use t3fs_runtime::Addr;
use t3fs_sim::{Boot, NodeSpec, World};

use super::{STORE, TOYS, ToyAgent, addr, start_target, view};

const VERSION: ChainVersion = ChainVersion(1);

/// A target that serves, without a lease.
fn store() -> (World, Engine) {
    let world = World::new(1);
    let engine: Rc<RefCell<Option<Engine>>> = Rc::default();
    let e = Rc::clone(&engine);
    world.add_node(NodeSpec::new().boot(|b: &Boot| {
        b.cx.start(ToyAgent(view(1, None)));
    }));
    world.add_node(NodeSpec::new().disk(256 << 20).boot(move |b: &Boot| {
        let (cx, e) = (b.cx.clone(), Rc::clone(&e));
        b.cx.spawn(async move { *e.borrow_mut() = Some(start_target(cx).await) });
    }));
    let started = || engine.borrow().is_some();
    world.run_until(started, Duration::from_secs(5)).unwrap();
    let engine = engine.borrow().clone().unwrap();
    let serves = world.block_on(TOYS, |cx| async move {
        let m = ListInodes { from: InodeId(0), limit: 1 };
        for _ in 0..100 {
            if cx.ask(Addr::<Storage>::from_raw(addr(STORE, 0)), m).await.unwrap().is_ok() {
                return true;
            }
            cx.sleep(Duration::from_millis(10)).await;
        }
        false
    });
    assert_eq!(serves, Ok(true));
    (world, engine)
}

/// With a lease for an hour.
fn leased() -> (World, Engine) {
    let (world, engine) = store();
    let granted = world.block_on(TOYS, |cx| async move {
        let until_us = cx.now().us() + 3_600_000_000;
        let m = LeaseHeld { until_us, view: ViewVersion(1) };
        cx.ask(Addr::<Storage>::from_raw(addr(STORE, 0)), m).await
    });
    granted.unwrap().unwrap();
    (world, engine)
}

/// Does this to a chunk, as its next version.
fn apply(world: &World, engine: &Engine, (inode, index): (u64, u32), op: Op, commit: bool) {
    let chunk = ChunkId { inode: InodeId(inode), index };
    let have = engine.info(chunk).and_then(|i| i.committed);
    let version = have.map_or(engine.fresh_version(), |c| ChunkVersion(c.version.0 + 1));
    let u = Update { chunk, version, chain_version: VERSION, op, request: None, commit };
    let engine = engine.clone();
    world.block_on(STORE, |cx| async move { engine.apply(&cx, u).await }).unwrap().unwrap();
}

fn write(world: &World, engine: &Engine, chunk: (u64, u32), bytes: usize) {
    apply(world, engine, chunk, Op::Replace { data: vec![1; bytes].into() }, true);
}

fn ask(world: &World, m: FileExtents) -> Result<Extents, StorageError> {
    let answer = world.block_on(STORE, |cx| async move {
        cx.ask(Addr::<Storage>::from_raw(addr(STORE, 0)), m).await
    });
    answer.unwrap().unwrap()
}

fn extents(world: &World, inode: u64, from: u32, limit: u32) -> Extents {
    ask(world, FileExtents { inode: InodeId(inode), chain_version: VERSION, from, limit }).unwrap()
}

fn inodes(world: &World, from: u64, limit: u32) -> Vec<u64> {
    let m = ListInodes { from: InodeId(from), limit };
    let answer = world.block_on(STORE, |cx| async move {
        cx.ask(Addr::<Storage>::from_raw(addr(STORE, 0)), m).await
    });
    answer.unwrap().unwrap().unwrap().iter().map(|i| i.0).collect()
}

/// Goal: chunks count with the bytes they have, or may have once what is pending is committed; a
/// row without bytes does not. Method: each kind of row in one file between two others.
#[test]
fn a_chunk_counts_with_the_longest_it_may_be() {
    let (world, engine) = leased();
    let (truncate, replace) =
        (|len| Op::Truncate { len }, |len| Op::Replace { data: vec![2; len].into() });
    write(&world, &engine, (6, 9), 7);
    write(&world, &engine, (8, 0), 7);
    assert_eq!(extents(&world, 7, 0, 10), Extents::default(), "a file without chunks");
    write(&world, &engine, (7, 0), 100);
    write(&world, &engine, (7, 2), 5000);
    apply(&world, &engine, (7, 2), truncate(0), true);
    write(&world, &engine, (7, 3), 300);
    apply(&world, &engine, (7, 3), replace(400), false);
    write(&world, &engine, (7, 4), 500);
    apply(&world, &engine, (7, 4), truncate(0), false);
    apply(&world, &engine, (7, 5), replace(60), false);
    write(&world, &engine, (7, 6), 70);
    apply(&world, &engine, (7, 6), Op::Remove, false);
    write(&world, &engine, (7, 9), 0);
    let chunks = vec![(0, 100), (3, 400), (4, 500), (5, 60), (6, 70)];
    let all = Extents { chunks, more: false, last: Some((6, 70)), stored: 1130 };
    assert_eq!(extents(&world, 7, 0, 10), all);
    assert_eq!(inodes(&world, 0, 10), [6, 7, 8]);
    // A commit is seen at once.
    let chunk = ChunkId { inode: InodeId(7), index: 4 };
    let version = engine.info(chunk).unwrap().pending.unwrap().version;
    let e = engine.clone();
    let done = world.block_on(STORE, |cx| async move { e.commit(&cx, chunk, version, VERSION) });
    done.unwrap().unwrap();
    let chunks = vec![(0, 100), (3, 400), (5, 60), (6, 70)];
    let all = Extents { chunks, more: false, last: Some((6, 70)), stored: 630 };
    assert_eq!(extents(&world, 7, 0, 10), all);
}

/// Goal: pages together are the whole, each with the sum and the end of what follows; an inode is
/// listed once however many chunks it has, and not at all for rows without bytes.
#[test]
fn many_pages_are_one_whole() {
    let (world, engine) = leased();
    let file = |n: u64| (0..40u32).filter(move |i| (u64::from(*i) + n).is_multiple_of(3));
    for inode in 1..=9u64 {
        for index in 0..40 {
            let bytes = if file(inode).any(|i| i == index) { 10 + index as usize } else { 0 };
            write(&world, &engine, (inode, index), if inode == 4 { 0 } else { bytes });
        }
    }
    for limit in [1, 3, 13, 14, 1000] {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let page = extents(&world, 5, from, limit);
            assert!(page.chunks.len() <= limit as usize);
            let want: Vec<u32> = file(5).filter(|i| *i >= from).collect();
            assert_eq!(page.stored, want.iter().map(|i| u64::from(*i) + 10).sum::<u64>());
            assert_eq!(page.last, want.last().map(|i| (*i, i + 10)));
            all.extend(page.chunks.iter().copied());
            if !page.more {
                break;
            }
            from = all.last().unwrap().0 + 1;
        }
        assert_eq!(all, file(5).map(|i| (i, i + 10)).collect::<Vec<_>>(), "limit {limit}");
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let page = inodes(&world, from, limit);
            all.extend(page.iter().copied());
            if page.len() < limit as usize {
                break;
            }
            from = page.last().unwrap() + 1;
        }
        assert_eq!(all, [1, 2, 3, 5, 6, 7, 8, 9], "limit {limit}");
    }
    assert_eq!(extents(&world, 5, 38, 10).chunks.len(), 0);
    assert!(inodes(&world, u64::MAX, 10).is_empty());
}

/// Goal: extents are told under the same conditions as content: a lease, and the chain's version.
#[test]
fn without_a_lease_nothing_is_told() {
    let (world, engine) = store();
    write(&world, &engine, (7, 0), 100);
    let m = |version| FileExtents {
        inode: InodeId(7),
        chain_version: ChainVersion(version),
        from: 0,
        limit: 10,
    };
    assert_eq!(ask(&world, m(1)), Err(StorageError::NotReady));
    assert_eq!(ask(&world, m(0)), Err(StorageError::StaleChain { mine: VERSION }));
    assert_eq!(ask(&world, m(2)), Err(StorageError::BehindChain { mine: VERSION }));
}
