//! Goal: while the metadata store stands still, data is read and written all the same, and after it
//! everything goes on. Method: the store's process is stopped under direct I/O to files that are
//! open already; every operation is timed. Regression: the primary gave up a change of state (the
//! store's node does not answer) after 1.5 s without the store, and stopped leading.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::harness::skip_without_hosts;

/// What one operation may take, whatever becomes of the store meanwhile.
const OPERATION_MAX: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(20);
const BLOCK: usize = 64 << 10;
const BLOCKS: u64 = 64;

/// Memory that direct I/O takes.
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

fn block() -> Box<Block> {
    Box::new(Block([7; BLOCK]))
}

fn open(path: PathBuf) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).custom_flags(libc::O_DIRECT);
    options.open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Does `operation` with every block in turn until the end; how many it did, and the longest.
fn repeat(
    end: &AtomicBool,
    mut operation: impl FnMut(u64, &mut Block) -> std::io::Result<()>,
) -> (u64, Duration) {
    let (mut done, mut longest) = (0, Duration::ZERO);
    let mut block = block();
    while !end.load(Ordering::Relaxed) {
        let began = Instant::now();
        operation(done % BLOCKS * BLOCK as u64, &mut block).expect("an operation on open data");
        longest = longest.max(began.elapsed());
        done += 1;
    }
    (done, longest)
}

#[test]
fn data_goes_on_while_the_store_stands_still() {
    if skip_without_hosts(&[]) {
        return;
    }
    let mut cluster = Cluster::mounted("cluster-pause");
    let (mine, theirs) = (cluster.mount_point("client1"), cluster.mount_point("client2"));
    let (written, read) = (open(mine.join("written")), open(mine.join("read")));
    for file in [&written, &read] {
        for i in 0..BLOCKS {
            file.write_all_at(&block().0, i * BLOCK as u64).expect("content");
        }
        file.sync_all().expect("content on disk");
    }
    let read = open(theirs.join("read"));
    read.read_exact_at(&mut block().0, 0).expect("it is there");
    // Mgmtds that have just started are known to the primary soon.
    thread::sleep(Duration::from_secs(3));

    let end = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&end);
    let writer = thread::spawn(move || repeat(&ended, |at, b| written.write_all_at(&b.0, at)));
    let ended = Arc::clone(&end);
    let reader = thread::spawn(move || {
        repeat(&ended, |at, b| {
            b.0.fill(0);
            read.read_exact_at(&mut b.0, at)?;
            assert!(b.0.iter().all(|byte| *byte == 7), "other content");
            Ok(())
        })
    });
    thread::sleep(Duration::from_secs(1));
    cluster.process("kv").signal(Signal::STOP);
    thread::sleep(PAUSE);
    cluster.process("kv").signal(Signal::CONT);
    thread::sleep(Duration::from_secs(3));
    end.store(true, Ordering::Relaxed);
    for (what, thread) in [("write", writer), ("read", reader)] {
        let (done, longest) = thread.join().unwrap_or_else(|_| panic!("a {what} failed"));
        eprintln!("{done} times {what}, the longest took {longest:?}");
        assert!(longest < OPERATION_MAX, "a {what} took {longest:?}");
        assert!(done > 100, "{done} times {what}");
    }
    std::fs::write(mine.join("after"), "names too").expect("a new file");
    cluster.becomes_whole("client2", Duration::from_secs(60));
}
