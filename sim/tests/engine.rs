//! Single stories of the chunk engine on one disk. Random ones are in the check `engine`.

use core::time::Duration;

use t3fs_actors::proto::ids::{
    ChainId, ChainVersion, ChunkId, ChunkVersion, INODE_END, InodeId, RequestId, SessionId,
    TargetId,
};
use t3fs_actors::storage::engine::{Engine, EngineConfig, EngineError, Op, TargetIdentity, Update};
use t3fs_runtime::disk::OpenMode;
use t3fs_runtime::{Cx, DiskId, FileId, NodeId, join, join_all};
use t3fs_sim::{Crash, NodeSpec, World};

const NODE: NodeId = NodeId(1);
const DISK: DiskId = DiskId(0);
const DIR: &str = "target";

fn identity() -> TargetIdentity {
    TargetIdentity { cluster: "sim".into(), target: TargetId(1), chain: ChainId(1) }
}

fn config() -> EngineConfig {
    EngineConfig {
        journal_segment_bytes: 72 << 10,
        small_update_max: 16 << 10,
        reserve_bytes: 0,
        ..EngineConfig::default()
    }
}

async fn open(cx: &Cx) -> Result<Engine, EngineError> {
    Engine::open(cx, DISK, DIR, &identity(), config()).await
}

async fn create(cx: &Cx) -> Engine {
    Engine::create(cx, DISK, DIR, &identity(), config()).await.unwrap()
}

fn machine() -> World {
    let world = World::new(1);
    world.add_node(NodeSpec::new().disk(256 << 20));
    world
}

fn chunk(index: u32) -> ChunkId {
    ChunkId { inode: InodeId(1), index }
}

/// An update that is committed at once.
fn update(chunk: ChunkId, version: ChunkVersion, op: Op) -> Update {
    Update { chunk, version, chain_version: ChainVersion(1), op, request: None, commit: true }
}

/// Writes so many bytes to a chunk of their own.
async fn try_write(cx: &Cx, engine: &Engine, index: u32, bytes: usize) -> Result<(), EngineError> {
    let op = Op::Write { offset: 0, data: vec![index as u8; bytes].into() };
    let update = update(chunk(index), engine.fresh_version(), op);
    engine.apply(cx, update).await.map(drop)
}

async fn write(cx: &Cx, engine: &Engine, index: u32, bytes: usize) {
    try_write(cx, engine, index, bytes).await.unwrap();
}

async fn remove(cx: &Cx, engine: &Engine, index: u32) {
    let had = engine.info(chunk(index)).unwrap().committed.unwrap().version;
    let update = update(chunk(index), ChunkVersion(had.0 + 1), Op::Remove);
    engine.apply(cx, update).await.unwrap();
}

fn journal(segment: u32) -> String {
    format!("{DIR}/journal-{segment:08x}")
}

/// Puts a copy of a journal segment under another number.
async fn copy(cx: &Cx, from: u32, to: u32) {
    let disk = cx.disk(DISK);
    let (old, len) = disk.open(&journal(from), OpenMode::Existing).await.unwrap();
    let bytes = disk.read(old, 0, len as usize).await.unwrap();
    disk.close(old).await.unwrap();
    let (new, _) = disk.open(&journal(to), OpenMode::OrCreate).await.unwrap();
    disk.write(new, 0, bytes).await.unwrap();
    disk.sync(new).await.unwrap();
    disk.close(new).await.unwrap();
    disk.sync_dir(DIR).await.unwrap();
}

async fn segments(cx: &Cx) -> Vec<u32> {
    let names = cx.disk(DISK).list(DIR).await.unwrap();
    let numbers = names.iter().filter_map(|n| n.strip_prefix("journal-"));
    let mut all: Vec<u32> = numbers.filter_map(|n| u32::from_str_radix(n, 16).ok()).collect();
    all.sort();
    all
}

const CHUNKS: u32 = 80;

/// A target whose process has ended, with a log over several segments: their numbers.
fn after_a_crash() -> (World, Vec<u32>) {
    let world = machine();
    let made = world.block_on(NODE, |cx| async move {
        let engine = create(&cx).await;
        for i in 0..CHUNKS {
            write(&cx, &engine, i, 4000).await;
        }
        segments(&cx).await
    });
    world.crash(NODE, Crash::Process);
    world.restart(NODE);
    let all = made.unwrap();
    assert!(all.len() > 3, "the log goes over several segments: {all:?}");
    (world, all)
}

/// Regression (engine seed 4068): an opening removes the segments behind the one it writes to, and
/// a crash may bring some of them back, with a gap in front of them. That was taken for a lost
/// segment, and the target did not open any more. Method: a segment of long ago behind a gap.
#[test]
fn what_a_crash_brings_back_is_no_gap() {
    let (world, all) = after_a_crash();
    let done = world.block_on(NODE, move |cx| async move {
        let back = all[all.len() - 1] + 3;
        copy(&cx, all[0], back).await;
        let engine = open(&cx).await.unwrap();
        for i in 0..CHUNKS {
            assert_eq!(engine.read(&cx, chunk(i), 0, 10_000).await.unwrap().data.len(), 4000);
        }
        assert!(!segments(&cx).await.contains(&back));
    });
    done.unwrap();
}

/// Goal: the other side of that story: a gap with the log behind it is a loss, and is refused.
#[test]
fn a_lost_segment_is_told() {
    let (world, all) = after_a_crash();
    let done = world.block_on(NODE, move |cx| async move {
        cx.disk(DISK).remove(&journal(all[1])).await.unwrap();
        let refused = open(&cx).await.err().expect("a part of the log is gone").to_string();
        assert!(refused.contains(&format!("journal-{:08x} is missing", all[1])), "{refused}");
    });
    done.unwrap();
}

/// Regression (review): while an engine closed it took reads, whose files were then closed under
/// them. Method: a read before the closing, which ends as it should, and one after it.
#[test]
fn a_closing_engine_ends_reads_and_takes_no_more() {
    let world = machine();
    let done = world.block_on(NODE, |cx| async move {
        let engine = create(&cx).await;
        write(&cx, &engine, 0, 200_000).await;
        let read = engine.read(&cx, chunk(0), 0, 200_000);
        let (read, closed) = join(read, engine.close(&cx)).await;
        assert_eq!(read.unwrap().data.len(), 200_000);
        closed.unwrap();
        let late = engine.read(&cx, chunk(0), 0, 10).await;
        assert_eq!(late.unwrap_err(), EngineError::Failed("it is closed".into()));
    });
    done.unwrap();
}

/// Regression (sim check engine, seed 12): a chunk with as many writers as it may have was removed,
/// and as long as the record of that was on its way a new client was refused for the many writers.
#[test]
fn a_removed_chunk_has_no_writers() {
    let world = machine();
    let done = world.block_on(NODE, |cx| async move {
        let cfg = EngineConfig { writers_max: 1, ..config() };
        let engine = Engine::create(&cx, DISK, DIR, &identity(), cfg).await.unwrap();
        let update = |version: ChunkVersion, session, op, commit| Update {
            chunk: chunk(1),
            version,
            chain_version: ChainVersion(1),
            op,
            request: Some(RequestId { session: SessionId(session), seq: 1 }),
            commit,
        };
        let write = || Op::Write { offset: 0, data: vec![1; 10].into() };
        let (first, second) = (ChunkVersion(1), ChunkVersion(2));
        engine.apply(&cx, update(first, 1, write(), true)).await.unwrap();
        let refused = engine.apply(&cx, update(second, 2, write(), true)).await;
        assert_eq!(refused, Err(EngineError::TooManyWriters));
        engine.apply(&cx, update(second, 1, Op::Remove, false)).await.unwrap();
        engine.commit(&cx, chunk(1), second, ChainVersion(1)).unwrap();
        engine.apply(&cx, update(engine.fresh_version(), 2, write(), true)).await
    });
    assert_eq!(done.unwrap().map(|a| a.len), Ok(10));
}

/// Regression (sim check engine, seed 79): a writer whose commit was on its way did not count. So a
/// chunk took one writer more than it may have, and then refused that one its next update.
#[test]
fn a_writer_counts_from_its_commit_on() {
    let world = machine();
    let done = world.block_on(NODE, |cx| async move {
        let cfg = EngineConfig { writers_max: 1, ..config() };
        let engine = Engine::create(&cx, DISK, DIR, &identity(), cfg).await.unwrap();
        let update = |version, session, commit| Update {
            chunk: chunk(1),
            version: ChunkVersion(version),
            chain_version: ChainVersion(1),
            op: Op::Write { offset: 0, data: vec![1; 10].into() },
            request: Some(RequestId { session: SessionId(session), seq: version }),
            commit,
        };
        engine.apply(&cx, update(1, 1, false)).await.unwrap();
        engine.commit(&cx, chunk(1), ChunkVersion(1), ChainVersion(1)).unwrap();
        let other = engine.apply(&cx, update(2, 2, true)).await;
        (other, engine.apply(&cx, update(2, 1, true)).await)
    });
    let (other, same) = done.unwrap();
    assert_eq!(other, Err(EngineError::TooManyWriters));
    assert_eq!(same.map(|a| a.version), Ok(ChunkVersion(2)));
}

/// Goal: what one kind of chunk gave free is there for another at once, though data files keep free
/// space for those that come next; and what nobody comes for goes back to the host. Method: a disk
/// that holds the first kind or the second, not both, and many writers at a time: each that finds
/// it full makes room, or finds another at it.
#[test]
fn free_space_is_for_whoever_needs_it() {
    let world = World::new(1);
    world.add_node(NodeSpec::new().disk(64 << 20));
    let done = world.block_on(NODE, |cx| async move {
        let cfg = EngineConfig { group_bytes: 256 << 10, ..config() };
        let engine = Engine::create(&cx, DISK, DIR, &identity(), cfg).await.unwrap();
        for (size, count) in [(1 << 20, 48), (256 << 10, 190), (1 << 20, 48)] {
            for first in (0..count).step_by(16) {
                let some = first..count.min(first + 16);
                join_all(some.map(|i| write(&cx, &engine, i, size))).await;
            }
            for i in 0..count {
                remove(&cx, &engine, i).await;
            }
        }
        assert!(engine.space().reusable > 32 << 20, "kept: {:?}", engine.space());
        cx.sleep(Duration::from_secs(11)).await;
        assert!(engine.space().reusable < 2 << 20, "given back: {:?}", engine.space());
    });
    done.unwrap();
}

/// Regression (review): after a restart a hole in a data file counted as space that is there. On a
/// disk that others had filled a small update went there, was acknowledged from the journal, and
/// its application ended the target, in every later run too. Goal: it waits in the journal until
/// there is room, and the target goes on. Method: another file takes the disk, and
/// the only free slots are in a hole.
#[test]
fn a_small_update_outlives_a_full_disk() {
    let (world, cfg) = beside_a_hole();
    let done = world.block_on(NODE, move |cx| async move {
        let (engine, other, taken) = fill_to_the_hole(&cx, &cfg).await;
        let more = try_write(&cx, &engine, 101, SIXTEENTH).await;
        assert!(matches!(more, Ok(()) | Err(EngineError::NoSpace)), "{more:?}");
        cx.disk(DISK).truncate(other, 0).await.unwrap();
        cx.sleep(Duration::from_secs(2)).await;
        write(&cx, &engine, 102, SIXTEENTH).await;
        engine.close(&cx).await.unwrap();
        let engine = Engine::open(&cx, DISK, DIR, &identity(), cfg).await.unwrap();
        if taken {
            let read = engine.read(&cx, chunk(100), 0, SIXTEENTH as u32).await.unwrap();
            assert_eq!(read.data.to_vec(), vec![100; SIXTEENTH]);
        }
        taken
    });
    assert!(done.unwrap(), "the story is another one: the update was refused");
}

/// Regression (review): when what had no space was removed, nothing was left to try again, and the
/// target refused all that grows until it was restarted. Regression (review): a cut within a chunk
/// was refused as if it needed space.
#[test]
fn a_full_disk_has_space_again_when_what_had_none_is_removed() {
    let (world, cfg) = beside_a_hole();
    let done = world.block_on(NODE, move |cx| async move {
        let (engine, other, taken) = fill_to_the_hole(&cx, &cfg).await;
        let refused = try_write(&cx, &engine, 101, SIXTEENTH).await;
        assert_eq!(refused, Err(EngineError::NoSpace), "the disk is full");
        let version = |i| {
            let info = engine.info(chunk(i)).expect("it is there");
            ChunkVersion(info.committed.expect("content").version.0 + 1)
        };
        let cut = update(chunk(40), version(40), Op::Truncate { len: 100 });
        engine.apply(&cx, cut).await.expect("a cut");
        for i in [40, 100] {
            remove(&cx, &engine, i).await;
        }
        cx.disk(DISK).truncate(other, 0).await.unwrap();
        cx.sleep(Duration::from_secs(2)).await;
        write(&cx, &engine, 102, SIXTEENTH).await;
        taken
    });
    assert!(done.unwrap(), "the story is another one: the update was refused");
}

/// Bytes of a chunk; a group holds sixteen of them.
const SIXTEENTH: usize = 16 << 10;

/// A small disk for an engine that needs no further journal segment.
fn beside_a_hole() -> (World, EngineConfig) {
    let world = World::new(1);
    world.add_node(NodeSpec::new().disk(32 << 20));
    let cfg = EngineConfig { group_bytes: 256 << 10, journal_segment_bytes: 1 << 20, ..config() };
    (world, cfg)
}

/// An engine whose only free slots are in a hole of a data file, on a disk that another file fills;
/// that file, and whether a small update (chunk 100) was taken by then, which has no space.
async fn fill_to_the_hole(cx: &Cx, cfg: &EngineConfig) -> (Engine, FileId, bool) {
    let engine = Engine::create(cx, DISK, DIR, &identity(), cfg.clone()).await.unwrap();
    for i in 0..48 {
        write(cx, &engine, i, SIXTEENTH).await;
    }
    for i in 0..32 {
        remove(cx, &engine, i).await;
    }
    cx.sleep(Duration::from_secs(12)).await; // of two free groups one is given back
    for i in 0..12 {
        write(cx, &engine, i, SIXTEENTH).await;
    }
    engine.close(cx).await.unwrap();
    let engine = Engine::open(cx, DISK, DIR, &identity(), cfg.clone()).await.unwrap();
    // Somebody else takes all of the disk, when the spare segment is there.
    write(cx, &engine, 200, SIXTEENTH).await;
    cx.sleep(Duration::from_secs(2)).await;
    let disk = cx.disk(DISK);
    let (other, _) = disk.open("other", OpenMode::OrCreate).await.unwrap();
    let free = disk.space().await.unwrap().free;
    disk.allocate(other, 0, free).await.unwrap();
    for i in 12..15 {
        write(cx, &engine, i, SIXTEENTH).await;
    }
    let taken = try_write(cx, &engine, 100, SIXTEENTH).await.is_ok();
    cx.sleep(Duration::from_secs(5)).await;
    (engine, other, taken)
}

/// Goal: a chunk of a track or generation, which only later builds know, is refused and not taken
/// for one of a file. Method: each bit above the inode.
#[test]
fn ids_of_later_builds_are_refused() {
    let world = machine();
    let done = world.block_on(NODE, |cx| async move {
        let engine = create(&cx).await;
        let write = |inode| {
            let id = ChunkId { inode: InodeId(inode), index: 0 };
            let op = Op::Write { offset: 0, data: vec![1; 10].into() };
            engine.apply(&cx, update(id, engine.fresh_version(), op))
        };
        for bit in 48..64 {
            let refused = write(1 | 1 << bit).await;
            let Err(EngineError::InvalidArgument(why)) = &refused else { panic!("{refused:?}") };
            assert!(why.contains("track or generation"));
        }
        assert_eq!(engine.space().chunks, 0);
        write(INODE_END - 1).await.unwrap();
    });
    done.unwrap();
}
