//! What the embedded key-value store does per second, by way of the resolver, on one thread.
//!
//! `cargo run --profile ci --example kv_rate [DIRECTORY]`. Transactions look like the creation of a
//! file: two reads, three writes. A sync is asked for every 50 ms, as the store's host does. Beside
//! the rate by the clock it prints that by the time this thread spent on a core, which other load
//! on the machine, and the store's own threads, change less.

use bytes::Bytes;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use t3fs_actors::meta::kv::{KeyRange, LocalTxn, Resolver};
use t3fs_nodes::kv_fjall::FjallStore;

const CREATES: u64 = 400_000;
const GETS: u64 = 1_000_000;
const SYNC_EVERY: Duration = Duration::from_millis(50);
const PARENT: u64 = 0x1000;

fn inode(id: u64) -> Bytes {
    Bytes::from([b"INOD", &id.to_le_bytes()[..]].concat())
}

fn dirent(parent: u64, name: &str) -> Bytes {
    Bytes::from([b"DENT", &parent.to_le_bytes()[..], name.as_bytes()].concat())
}

/// Spreads numbers over 64 bits.
fn scattered(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8
}

fn create(kv: &mut Resolver, now_us: u64, n: u64) {
    let parent = PARENT + n % 1000;
    let (name, id) = (dirent(parent, &format!("file-{n:09}")), inode(scattered(n)));
    let mut txn = LocalTxn::begin(kv, now_us);
    txn.get(kv, &inode(parent)).expect("reads");
    txn.get(kv, &name).expect("reads");
    txn.buffer.set(name, Bytes::from_static(&[1; 30]));
    txn.buffer.set(id, Bytes::from_static(&[2; 120]));
    txn.buffer.set(inode(!n), Bytes::from_static(&[3; 60]));
    txn.commit(kv, now_us).expect("commits");
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("Linux");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
}

/// What this thread has spent on a core so far.
fn on_core() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos = stat.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

struct Stopwatch {
    clock: Instant,
    core: Duration,
}

impl Stopwatch {
    fn start() -> Self {
        Stopwatch { clock: Instant::now(), core: on_core() }
    }

    fn report(&self, what: &str, count: u64) {
        let by_clock = count as f64 / self.clock.elapsed().as_secs_f64();
        let by_core = count as f64 / (on_core() - self.core).as_secs_f64();
        let resident = resident_mib();
        println!("{what:30} {by_clock:>10.0} /s {by_core:>10.0} per core second, {resident} MiB");
    }
}

fn main() {
    let scratch = std::env::temp_dir().join(format!("kv_rate-{}", std::process::id()));
    let directory = std::env::args().nth(1).map_or(scratch, Into::into);
    let mut kv =
        Resolver::open(Box::new(FjallStore::open(&directory).expect("opens"))).expect("opens");
    println!("idle: resident {} MiB", resident_mib());

    let creating = Stopwatch::start();
    let (start, mut last_sync) = (Instant::now(), Instant::now());
    let mut slowest = Duration::ZERO;
    let (sender, syncs) = channel();
    let mut asked = 0;
    for n in 0..CREATES {
        let begin = Instant::now();
        create(&mut kv, start.elapsed().as_micros() as u64, n);
        slowest = slowest.max(begin.elapsed());
        if last_sync.elapsed() > SYNC_EVERY {
            last_sync = Instant::now();
            let sender = sender.clone();
            kv.sync(Box::new(move |result| sender.send(result).expect("main waits")));
            asked += 1;
        }
    }
    creating.report("creates (2 gets, 3 sets)", CREATES);
    println!("slowest create {slowest:?}, {asked} syncs asked for");
    syncs.iter().take(asked).for_each(|result| result.expect("syncs"));

    let get = |kv: &mut Resolver, what: &str, id: &dyn Fn(u64) -> u64, count: u64| {
        let (watch, now_us) = (Stopwatch::start(), start.elapsed().as_micros() as u64);
        let version = kv.read_version(now_us).expect("runs");
        let mut found = 0;
        for n in 0..count {
            found += u64::from(kv.get(version, &inode(scattered(id(n)))).expect("reads").is_some());
        }
        watch.report(what, count);
        assert!(found == 0 || found == count);
    };
    get(&mut kv, "gets, random of all", &|n| scattered(n) % CREATES, GETS);
    get(&mut kv, "gets, random of 10 000", &|n| scattered(n) % 10_000, GETS);
    get(&mut kv, "gets, random of 1 000", &|n| scattered(n) % 1000, GETS);
    get(&mut kv, "gets of absent keys", &|n| CREATES + n, GETS);

    let (watch, mut rows, mut listings) = (Stopwatch::start(), 0, 0);
    let mut txn = LocalTxn::begin(&mut kv, start.elapsed().as_micros() as u64);
    for parent in 0..1000 {
        let range = KeyRange::prefix(dirent(PARENT + parent, ""));
        rows += txn.range(&kv, &range, 0, false).expect("reads").len() as u64;
        listings += 1;
    }
    watch.report("rows listed", rows);
    assert_eq!((rows, listings), (CREATES, 1000));
    println!("content {} MiB", kv.bytes_used() >> 20);
    drop(txn);
    drop(kv);
    std::fs::remove_dir_all(&directory).expect("removes");
}
