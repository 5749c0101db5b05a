//! Goal: the seam keeps its promises on the production backend. Method: a small counting actor on
//! one and on two shards, and a real folder below a disk.

use std::cell::Cell;
use std::os::unix::fs::MetadataExt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::disk::OpenMode;
use t3fs_runtime::glommio::{Layout, launch, run_alone};
use t3fs_runtime::{
    Actor, Addr, AskError, Bulk, Cx, DiskError, DiskId, Handle, Me, NodeId, Shard, buf::Carry,
    join_all, no_bulk, protocol,
};

#[derive(Default)]
struct Counter {
    sum: u64,
}

#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
struct Add {
    n: u64,
    #[rkyv(with = rkyv::with::Skip)]
    data: Bulk,
}

impl Carry for Add {
    fn bulks(&mut self, each: &mut dyn FnMut(&mut Bulk)) {
        each(&mut self.data);
    }
}

/// Answers after this long.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
struct Slow {
    us: u64,
}

no_bulk!(Slow);

protocol! { CounterApi as CounterMsg, CounterReply = 0x7f00 {
    1 v 1 Add -> u64, Bulk, 1_000 ms;
    2 v 1 Slow -> (), Control, 50 ms;
} }

impl Actor for Counter {
    type Protocol = CounterApi;
}

impl Handle<Add> for Counter {
    async fn handle(me: &Me<Self>, m: Add, _: &Cx) -> u64 {
        me.with(|s| {
            s.sum += m.n + m.data.len() as u64;
            s.sum
        })
    }
}

impl Handle<Slow> for Counter {
    async fn handle(_: &Me<Self>, m: Slow, cx: &Cx) {
        cx.outlive().sleep(Duration::from_micros(m.us)).await;
    }
}

fn add(n: u64) -> Add {
    Add { n, data: Bulk::from(vec![0; 10]) }
}

#[test]
fn asks_on_one_shard() {
    run_alone(vec![], async |shard: Rc<Shard>| {
        let cx = shard.cx();
        let to: Addr<CounterApi> = cx.start(Counter::default());
        assert_eq!(cx.ask(to, add(1)).await, Ok(11));
        // More at once than there are credits: all are answered, in some order.
        let all = join_all((0..1000).map(|_| cx.ask(to, add(0)))).await;
        assert!(all.iter().all(|r| r.is_ok()));
        assert_eq!(cx.ask(to, add(0)).await, Ok(11 + 1001 * 10));
        // A deadline ends the wait, not the work.
        let late = cx.ask(to, Slow { us: 200_000 }).await;
        assert!(matches!(late, Err(AskError::Unknown(_))), "{late:?}");
        let expired = cx.within(Duration::ZERO).ask(to, add(1)).await;
        assert!(matches!(expired, Err(AskError::NotSent(_))), "{expired:?}");
        // An address of another incarnation, of no actor, of a node without a link.
        let mut raw = to.raw();
        raw.epoch += 1;
        let stale = cx.ask(Addr::<CounterApi>::from_raw(raw), add(1)).await;
        assert!(matches!(stale, Err(AskError::NotSent(_))));
        raw = to.raw();
        raw.slot = 99;
        assert!(cx.ask(Addr::<CounterApi>::from_raw(raw), add(1)).await.is_err());
        raw.node = NodeId(9);
        assert!(cx.ask(Addr::<CounterApi>::from_raw(raw), add(1)).await.is_err());
    })
    .unwrap();
}

#[test]
fn asks_between_shards() {
    let layout = Layout {
        node: NodeId(1),
        epoch: 7,
        shards: 2,
        disks: vec![],
        pin: false,
        io_memory: 1 << 20,
        spin: Duration::ZERO,
    };
    let (tx, rx) = mpsc::channel();
    let start = Arc::new(move |shard: Rc<Shard>| -> Pin<Box<dyn Future<Output = ()>>> {
        let tx = tx.clone();
        Box::pin(async move {
            let cx = shard.cx();
            cx.start(Counter::default());
            if cx.shard_index() == 0 {
                let to: Addr<CounterApi> = shard.addr_of(1, 0);
                // The other shard may not have started its actor yet.
                while cx.ask(to, add(0)).await.is_err() {
                    cx.sleep(Duration::from_millis(1)).await;
                }
                let all = join_all((0..5000).map(|_| cx.ask(to, add(0)))).await;
                let max = all.into_iter().map(|r| r.unwrap()).max();
                tx.send(max).unwrap();
            }
        })
    });
    let shards = launch(&layout, start).unwrap();
    assert_eq!(rx.recv_timeout(Duration::from_secs(20)), Ok(Some(5001 * 10)));
    shards.stop();
}

#[test]
fn disks_keep_bytes() {
    let dir = std::env::current_dir().unwrap().join(format!("disk-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let folder = dir.clone();
    let below = std::fs::metadata(&dir).unwrap().dev();
    run_alone(vec![folder], async move |shard: Rc<Shard>| {
        let disk = shard.cx().disk(DiskId(0));
        disk.make_dir("a/b").await.unwrap();
        // Regression: with an empty file opened first, glommio took the device for one that can be
        // polled, and the first real read failed with EOPNOTSUPP.
        disk.open("a/empty", OpenMode::New).await.unwrap();
        assert_eq!(disk.open("a/b/f", OpenMode::Existing).await.unwrap_err(), DiskError::NotFound);
        let (f, len) = disk.open("a/b/f", OpenMode::New).await.unwrap();
        assert_eq!(len, 0);
        assert_eq!(disk.open("a/b/f", OpenMode::New).await.unwrap_err(), DiskError::Exists);
        disk.allocate(f, 0, 1 << 20).await.unwrap();
        let mut b = disk.alloc(8192).await;
        b[4096..].fill(7);
        disk.write(f, 4096, b).await.unwrap();
        disk.sync(f).await.unwrap();
        let r = disk.read(f, 0, 16384).await.unwrap();
        assert!(r[..8192].iter().all(|x| *x == 0) && r[8192..12288].iter().all(|x| *x == 7));
        assert!(disk.read(f, 1 << 20, 4096).await.is_err(), "past the end");
        disk.punch(f, 8192, 4096).await.unwrap();
        assert!(disk.read(f, 8192, 4096).await.unwrap().iter().all(|x| *x == 0));
        disk.truncate(f, 4096).await.unwrap();
        disk.close(f).await.unwrap();
        disk.rename("a/b/f", "a/b/g").await.unwrap();
        disk.sync_dir("a/b").await.unwrap();
        assert_eq!(disk.list("a/b").await.unwrap(), ["g"]);
        assert_eq!(disk.open("a/b/g", OpenMode::OrCreate).await.unwrap().1, 4096);
        disk.remove("a/b/g").await.unwrap();
        let space = disk.space().await.unwrap();
        assert!(space.capacity > 0 && space.file_system == below);
    })
    .unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Goal: no sleep ends early, whatever the order they were begun in. Method: many at once, falling
/// and rising, and short ones one after the other.
#[test]
fn sleeps_end_in_time() {
    run_alone(vec![], async |shard: Rc<Shard>| {
        let cx = shard.cx();
        let sleep = async |us: u64| {
            let begun = cx.now();
            cx.sleep(Duration::from_micros(us)).await;
            assert!(cx.now().since(begun) >= Duration::from_micros(us), "{us} us");
            us
        };
        let all = (0..2000).map(|n| sleep((n * 7919) % 50_000));
        assert_eq!(join_all(all).await.len(), 2000);
        for _ in 0..200 {
            sleep(100).await;
        }
        assert_eq!(sleep(0).await, 0);
    })
    .unwrap();
}

/// Goal: who polls something turn by turn neither sleeps nor keeps the shard from I/O. Method: as
/// many turns as it takes until a timer and a disk write have come; glommio by itself looks at its
/// rings only when nothing is ready.
#[test]
fn turns_let_io_through() {
    let folder = std::env::temp_dir().join(format!("t3fs-turns-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    run_alone(vec![folder.clone()], async |shard: Rc<Shard>| {
        let cx = shard.cx();
        let done = Rc::new(Cell::new(0));
        let (clock, count) = (cx.clone(), Rc::clone(&done));
        cx.spawn(async move {
            clock.sleep(Duration::from_millis(2)).await;
            count.set(count.get() + 1);
        });
        let (disk, count) = (cx.disk(DiskId(0)), Rc::clone(&done));
        cx.spawn(async move {
            let (file, _) = disk.open("f", OpenMode::New).await.unwrap();
            disk.close(file).await.unwrap();
            count.set(count.get() + 1);
        });
        let (began, mut turns) = (Instant::now(), 0);
        while done.get() < 2 {
            cx.turn().await;
            turns += 1;
            assert!(began.elapsed() < Duration::from_secs(10), "{} after {turns}", done.get());
        }
        assert!(turns > 20, "{turns} turns in {:?}: each slept", began.elapsed());
    })
    .unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}
