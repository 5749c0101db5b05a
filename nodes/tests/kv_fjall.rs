//! The embedded store: the contract, restarts, kill -9, power loss, and who may open it.
//!
//! Numbered batches make a history that can be checked at a glance: batch `n` sets `last` to `n`
//! and
//! `k<n>` to a value that follows from `n`. Content is a prefix of the history exactly if all of
//! `k0..=last` are there, are right, and nothing else is.

use bytes::Bytes;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use t3fs_actors::meta::kv::{
    CommitRequest, Mutation, RangeLimit, Resolver, Snapshot, Store, StoreError, conformance,
};
use t3fs_nodes::kv_fjall::{FjallStore, MEMTABLE_BYTES};

const CHILD_DIRECTORY: &str = "T3FS_TEST_KV_CHILD_DIRECTORY";
const ALL: RangeLimit = RangeLimit { rows: usize::MAX, bytes: usize::MAX };

fn key(n: u64) -> Bytes {
    Bytes::from(format!("k{n:010}"))
}

/// Mostly small, some longer than the journal's buffer and several pages.
fn value(n: u64) -> Bytes {
    let length = if n % 7 == 3 { 5_000 + n * 13 % 15_000 } else { 40 + n * 31 % 300 };
    Bytes::from((0..length).map(|i| (n * 131 + i * 7) as u8 | 1).collect::<Vec<_>>())
}

fn apply(store: &mut FjallStore, n: u64) {
    let last = Bytes::from(n.to_string());
    store.apply(&[(key(n), Some(value(n))), ("last".into(), Some(last))]).unwrap();
}

fn sync(store: &mut FjallStore) {
    let (sender, ended) = channel();
    store.sync(Box::new(move |result| sender.send(result).unwrap()));
    ended.recv().unwrap().unwrap();
}

/// The number of the next batch, after checking that all before it are there and nothing else is.
fn check_prefix(snapshot: &dyn Snapshot) -> u64 {
    let last = snapshot.get(b"last").unwrap();
    let next = last.map_or(0, |last| str::from_utf8(&last).unwrap().parse::<u64>().unwrap() + 1);
    let rows = snapshot.range(b"k", b"l", ALL, false).unwrap().rows;
    assert_eq!(rows.len() as u64, next);
    for (n, row) in (0..).zip(rows) {
        assert_eq!(row, (key(n), value(n)));
    }
    next
}

#[test]
fn conforms() {
    // In memory where there is such a place: many stores are made, and durability plays no part.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut count = 0;
    conformance::run(&mut || {
        count += 1;
        Box::new(FjallStore::open(&directory.path().join(count.to_string())).unwrap())
    });
}

#[test]
fn reopening_keeps_content_and_raises_the_incarnation() {
    let directory = tempfile::tempdir().unwrap();
    let mut next = 0;
    let mut version = None;
    for opening in 1..=4 {
        let mut store = FjallStore::open(directory.path()).unwrap();
        assert_eq!(store.incarnation(), opening);
        assert_eq!(check_prefix(&*store.snapshot()), next);
        let written = store.bytes_used();
        while store.bytes_used() < written + 2 * MEMTABLE_BYTES {
            apply(&mut store, next);
            next += 1;
        }
        let mut resolver = Resolver::open(Box::new(store)).unwrap();
        let now = Some(resolver.read_version(0).unwrap());
        assert!(now > version, "{now:?} after {version:?}");
        version = now;
    }
}

/// Goal: the resolver knows which commits a loss of power took, also after another restart. Method:
/// a copy of the store as it was before the last commit.
#[test]
fn what_power_loss_took_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let (original, copied) = (directory.path().join("original"), directory.path().join("copied"));
    let mut kv = Resolver::open(Box::new(FjallStore::open(&original).unwrap())).unwrap();
    let commit = |kv: &mut Resolver, key: &'static str| {
        let mutations = vec![Mutation::Set { key: key.into(), value: "1".into() }];
        let request = CommitRequest { mutations, ..CommitRequest::default() };
        kv.commit(0, request).unwrap().version
    };
    let kept = commit(&mut kv, "a");
    copy(&original, &copied);
    let lost = commit(&mut kv, "b");
    assert!(kv.survived(kept) && kv.survived(lost));
    drop(kv);
    for (path, both) in [(&copied, false), (&copied, false), (&original, true)] {
        let kv = Resolver::open(Box::new(FjallStore::open(path).unwrap())).unwrap();
        assert_eq!((kv.survived(kept), kv.survived(lost)), (true, both));
    }
}

#[test]
fn snapshots_stay_as_they_were_through_flushes() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = FjallStore::open(directory.path()).unwrap();
    let empty = store.snapshot();
    (0..1000).for_each(|n| apply(&mut store, n));
    let thousand = store.snapshot();
    let mut next = 1000;
    while store.bytes_used() < 4 * MEMTABLE_BYTES {
        apply(&mut store, next);
        next += 1;
    }
    store.apply(&[(key(5), None), (key(6), Some(Bytes::new()))]).unwrap();
    assert_eq!(check_prefix(&*empty), 0);
    assert_eq!(check_prefix(&*thousand), 1000);
    assert_eq!(store.snapshot().get(&key(5)), Ok(None));
}

#[test]
fn a_second_opening_names_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let store = FjallStore::open(directory.path()).unwrap();
    let Err(StoreError::Locked(why)) = FjallStore::open(directory.path()) else { panic!("opened") };
    assert!(why.contains(&format!("is open in process {}", std::process::id())), "{why}");
    drop(store);
    FjallStore::open(directory.path()).unwrap();
}

#[test]
fn a_creation_that_a_crash_cut_short_is_started_over() {
    let directory = tempfile::tempdir().unwrap();
    let unfinished = directory.path().join("store.new");
    fs::create_dir_all(unfinished.join("keyspaces")).unwrap();
    fs::write(unfinished.join("0.jnl"), b"").unwrap();
    let mut store = FjallStore::open(directory.path()).unwrap();
    apply(&mut store, 0);
    assert_eq!(check_prefix(&*store.snapshot()), 1);
}

/// Not a test: the process that `kill_9_leaves_a_prefix_with_all_that_was_applied` kills.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn child_that_writes_until_killed() {
    let Ok(directory) = std::env::var(CHILD_DIRECTORY) else {
        return;
    };
    let mut store = FjallStore::open(Path::new(&directory)).unwrap();
    let mut next = check_prefix(&*store.snapshot());
    loop {
        apply(&mut store, next);
        writeln!(std::io::stdout(), "\napplied {next}").unwrap();
        if next.is_multiple_of(50) {
            let synced = next;
            store.sync(Box::new(move |result| {
                result.unwrap();
                writeln!(std::io::stdout(), "\nsynced {synced}").unwrap();
            }));
        }
        next += 1;
    }
}

/// Goal: a killed process loses nothing it applied, and leaves no part of a batch.
/// Method: kill a child at odd moments, six times on the same store, through several flushes.
#[test]
fn kill_9_leaves_a_prefix_with_all_that_was_applied() {
    let directory = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_killed", "--ignored", "--nocapture"])
            .env(CHILD_DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut started = None;
        let (mut applied, mut synced, mut killed) = (None, None, false);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let number = |text: &str| text.parse::<u64>().ok();
            match line.split_once(' ') {
                Some(("applied", n)) => {
                    started.get_or_insert_with(Instant::now);
                    applied = applied.max(number(n));
                }
                Some(("synced", n)) => synced = synced.max(number(n)),
                _ => {}
            }
            let long = Duration::from_millis(150 + round * 97);
            let enough = started.is_some_and(|started| started.elapsed() > long);
            if enough && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        let store = FjallStore::open(directory.path()).unwrap();
        let next = check_prefix(&*store.snapshot());
        println!("round {round}: applied {applied:?}, synced {synced:?}, found {next} batches");
        assert!(killed && next > before && Some(next) > applied.max(synced));
        before = next;
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Goal: after power loss the content is a prefix with all that was synced, whichever pages of the
/// rest of the journal reached the disk.
/// Method: damage copies of the journal behind what was synced: cut it, and blank single pages, as
/// in a file whose blocks were allocated but not written.
#[test]
fn power_loss_leaves_a_prefix_with_all_that_was_synced() {
    let directory = tempfile::tempdir().unwrap();
    let original = directory.path().join("original");
    let mut store = FjallStore::open(&original).unwrap();
    (0..40).for_each(|n| apply(&mut store, n));
    sync(&mut store);
    let journal = Path::new("store/0.jnl");
    let used = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let synced = used(&fs::read(original.join(journal)).unwrap());
    (40..80).for_each(|n| apply(&mut store, n));
    let bytes = fs::read(original.join(journal)).unwrap();
    let end = used(&bytes);

    let mut found = std::collections::BTreeSet::new();
    for round in 0..60 {
        let damaged = directory.path().join("damaged");
        copy(&original, &damaged);
        let at = synced + (end - synced) * round / 60;
        let mut torn = bytes.clone();
        match round % 3 {
            0 => torn.truncate(at),
            1 => torn[at..].fill(0),
            _ => {
                let page = at.next_multiple_of(4096);
                torn[page.min(end)..(page + 4096).min(end)].fill(0);
            }
        }
        fs::write(damaged.join(journal), torn).unwrap();
        let next = {
            let mut store = FjallStore::open(&damaged).unwrap();
            let next = check_prefix(&*store.snapshot());
            apply(&mut store, next);
            next
        };
        assert!((40..=80).contains(&next), "{next} batches");
        found.insert(next);
        let store = FjallStore::open(&damaged).unwrap();
        assert_eq!(check_prefix(&*store.snapshot()), next + 1, "writes after the repair stay");
        drop(store);
        fs::remove_dir_all(&damaged).unwrap();
    }
    assert!(found.len() > 15, "the damage hit too few places: {found:?}");
}
