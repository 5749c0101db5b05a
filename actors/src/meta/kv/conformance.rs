//! The contract of [`super`] as checks, one per rule, for any [`Store`] under the resolver.
//!
//! Not test code of this crate only: whoever brings a store calls [`run`] on it. A broken rule
//! panics with the name of the check.

use super::{
    CLEARED_KEYS_MAX, CommitRequest, Committed, KeyRange, KvError, LocalTxn, METADATA_VERSION_KEY,
    RANGE_BYTES_MAX, Resolver, Store, Version, Versionstamp, WINDOW_US, serial,
};
use bytes::Bytes;
use std::sync::mpsc::channel;

/// Every check, by name; each runs on a store of its own, new and empty.
const CHECKS: &[(&str, fn(&mut Resolver))] = &[
    ("read_your_writes", read_your_writes),
    ("snapshot_isolation", snapshot_isolation),
    ("lost_update_refused", lost_update_refused),
    ("write_skew_refused", write_skew_refused),
    ("phantom_in_range_refused", phantom_in_range_refused),
    ("limited_range_conflicts_only_with_what_it_returned", limited_range_conflicts),
    ("blind_writes_do_not_conflict", blind_writes_do_not_conflict),
    ("snapshot_reads_do_not_conflict", snapshot_reads_do_not_conflict),
    ("clear_range_clears_and_conflicts", clear_range_clears_and_conflicts),
    ("clear_range_is_bounded", clear_range_is_bounded),
    ("mutations_take_effect_in_order", mutations_take_effect_in_order),
    ("range_order_by_bytes", range_order_by_bytes),
    ("range_limits_and_reverse", range_limits_and_reverse),
    ("range_pages_are_bounded_in_bytes", range_pages_are_bounded_in_bytes),
    ("atomic_add", atomic_add),
    ("versionstamps_unique_and_increasing", versionstamps_unique_and_increasing),
    ("metadata_version", metadata_version),
    ("read_only_never_commits", read_only_never_commits),
    ("too_old", too_old),
    ("refused_commit_writes_nothing", refused_commit_writes_nothing),
    ("sync_covers_what_was_applied", sync_covers_what_was_applied),
];

/// Runs all checks on stores that `make` makes. Each must be new and empty.
pub fn run(make: &mut dyn FnMut() -> Box<dyn Store>) {
    for (name, check) in CHECKS {
        // Shown by the test harness if the check panics.
        println!("key-value conformance: {name}");
        check(&mut Resolver::open(make()).expect("an empty store opens"));
    }
    println!("key-value conformance: version_increases_across_reopen");
    version_increases_across_reopen(make());
    println!("key-value conformance: what_was_committed_survives_reopening");
    what_was_committed_survives_reopening(make());
    println!("key-value conformance: histories_are_serialisable");
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let mut total = serial::Outcome::default();
    for _ in 0..20 {
        let steps: Vec<u64> = (0..300).map(|_| serial::next_random(&mut seed)).collect();
        total += serial::check(make(), &steps);
    }
    assert!(total.committed > 300 && total.refused > 100, "{total:?}: hardly anything was tested");
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(kv: &mut Resolver, rows: &[(&str, &str)]) -> Committed {
    let mut txn = LocalTxn::begin(kv, 0);
    for (key, value) in rows {
        txn.buffer.set(bytes(key), bytes(value));
    }
    txn.commit(kv, 0).expect("blind writes commit")
}

/// All user rows, as text.
fn all(kv: &mut Resolver) -> Vec<(String, String)> {
    let mut txn = LocalTxn::begin(kv, 0);
    let rows = txn.range(kv, &KeyRange::new("", &b"\xff"[..]), 0, false).expect("reads");
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("text");
    rows.into_iter().map(|(key, value)| (text(key), text(value))).collect()
}

fn keys(rows: &[(Bytes, Bytes)]) -> Vec<&[u8]> {
    rows.iter().map(|(key, _)| &key[..]).collect()
}

fn value(text: &str) -> Result<Option<Bytes>, KvError> {
    Ok(Some(bytes(text)))
}

fn read_your_writes(kv: &mut Resolver) {
    put(kv, &[("a", "1"), ("b", "1"), ("d", "1")]);
    let mut txn = LocalTxn::begin(kv, 0);
    txn.buffer.set(bytes("a"), bytes("2"));
    txn.buffer.clear(bytes("b"));
    txn.buffer.set(bytes("c"), bytes("2"));
    assert_eq!(txn.get(kv, b"a"), value("2"));
    assert_eq!(txn.get(kv, b"b"), Ok(None));
    let rows = txn.range(kv, &KeyRange::new("a", "z"), 0, false).unwrap();
    assert_eq!(keys(&rows), [b"a", b"c", b"d"]);
    let rows = txn.range(kv, &KeyRange::new("a", "z"), 2, true).unwrap();
    assert_eq!(keys(&rows), [b"d", b"c"]);
    let mut other = LocalTxn::begin(kv, 0);
    assert_eq!(other.get(kv, b"a"), value("1"));
    txn.commit(kv, 0).unwrap();
    assert_eq!(other.get(kv, b"a"), value("1"));
}

fn snapshot_isolation(kv: &mut Resolver) {
    put(kv, &[("a", "1"), ("b", "1")]);
    let mut old = LocalTxn::begin(kv, 0);
    put(kv, &[("a", "2"), ("c", "2")]);
    let mut clear = LocalTxn::begin(kv, 0);
    clear.buffer.clear(bytes("b"));
    clear.commit(kv, 0).unwrap();
    assert_eq!(old.get(kv, b"a"), value("1"));
    let rows = old.range(kv, &KeyRange::new("a", "z"), 0, false).unwrap();
    assert_eq!(rows, [(bytes("a"), bytes("1")), (bytes("b"), bytes("1"))]);
    let mut new = LocalTxn::begin(kv, 0);
    let rows = new.range(kv, &KeyRange::new("a", "z"), 0, false).unwrap();
    assert_eq!(rows, [(bytes("a"), bytes("2")), (bytes("c"), bytes("2"))]);
}

fn lost_update_refused(kv: &mut Resolver) {
    let mut first = LocalTxn::begin(kv, 0);
    let mut second = LocalTxn::begin(kv, 0);
    for txn in [&mut first, &mut second] {
        assert_eq!(txn.get(kv, b"n"), Ok(None));
        txn.buffer.set(bytes("n"), bytes("1"));
    }
    first.commit(kv, 0).unwrap();
    assert_eq!(second.commit(kv, 0), Err(KvError::Conflict));
}

fn write_skew_refused(kv: &mut Resolver) {
    put(kv, &[("a", "on"), ("b", "on")]);
    let mut first = LocalTxn::begin(kv, 0);
    let mut second = LocalTxn::begin(kv, 0);
    first.get(kv, b"a").unwrap();
    first.buffer.clear(bytes("b"));
    second.get(kv, b"b").unwrap();
    second.buffer.clear(bytes("a"));
    first.commit(kv, 0).unwrap();
    assert_eq!(second.commit(kv, 0), Err(KvError::Conflict));
    assert_eq!(all(kv), [("a".into(), "on".into())]);
}

fn phantom_in_range_refused(kv: &mut Resolver) {
    put(kv, &[("d/a", "1")]);
    let mut reader = LocalTxn::begin(kv, 0);
    reader.range(kv, &KeyRange::prefix("d/"), 0, false).unwrap();
    reader.buffer.set(bytes("count"), bytes("1"));
    put(kv, &[("d/b", "1")]);
    assert_eq!(reader.commit(kv, 0), Err(KvError::Conflict));

    let mut reader = LocalTxn::begin(kv, 0);
    reader.range(kv, &KeyRange::prefix("d/"), 0, false).unwrap();
    reader.buffer.set(bytes("count"), bytes("2"));
    put(kv, &[("d0", "just past the range"), ("d", "just before")]);
    reader.commit(kv, 0).unwrap();
}

fn limited_range_conflicts(kv: &mut Resolver) {
    put(kv, &[("a", "1"), ("c", "1"), ("e", "1"), ("g", "1")]);
    let attempt = |kv: &mut Resolver, reverse, written| {
        let mut reader = LocalTxn::begin(kv, 0);
        let rows = reader.range(kv, &KeyRange::new("a", "z"), 2, reverse).unwrap();
        assert_eq!(rows.len(), 2);
        reader.buffer.set(bytes("\x01"), bytes("1"));
        put(kv, &[(written, "2")]);
        reader.commit(kv, 0).map(|_| ())
    };
    assert_eq!(attempt(kv, false, "c"), Err(KvError::Conflict));
    assert_eq!(attempt(kv, false, "c1"), Ok(()));
    assert_eq!(attempt(kv, true, "e"), Err(KvError::Conflict));
    assert_eq!(attempt(kv, true, "d"), Ok(()));
    assert_eq!(attempt(kv, true, "y"), Err(KvError::Conflict));
}

fn blind_writes_do_not_conflict(kv: &mut Resolver) {
    let mut first = LocalTxn::begin(kv, 0);
    let mut second = LocalTxn::begin(kv, 0);
    first.buffer.set(bytes("a"), bytes("1"));
    second.buffer.set(bytes("a"), bytes("2"));
    second.commit(kv, 0).unwrap();
    first.commit(kv, 0).unwrap();
    assert_eq!(all(kv), [("a".into(), "1".into())]);
}

fn snapshot_reads_do_not_conflict(kv: &mut Resolver) {
    let mut txn = LocalTxn::begin(kv, 0);
    assert_eq!(txn.snapshot_get(kv, b"a"), Ok(None));
    txn.buffer.set(bytes("b"), bytes("1"));
    put(kv, &[("a", "1")]);
    txn.commit(kv, 0).unwrap();

    let mut txn = LocalTxn::begin(kv, 0);
    txn.snapshot_get(kv, b"a").unwrap();
    txn.buffer.add_read_conflict(&bytes("a"));
    txn.buffer.set(bytes("b"), bytes("2"));
    put(kv, &[("a", "2")]);
    assert_eq!(txn.commit(kv, 0), Err(KvError::Conflict));
}

fn clear_range_clears_and_conflicts(kv: &mut Resolver) {
    put(kv, &[("a", "1"), ("b", "1"), ("b\0", "1"), ("c", "1")]);
    let mut inside = LocalTxn::begin(kv, 0);
    assert_eq!(inside.get(kv, b"bb"), Ok(None));
    let mut at_end = LocalTxn::begin(kv, 0);
    at_end.get(kv, b"c").unwrap();
    let mut overlap = LocalTxn::begin(kv, 0);
    overlap.range(kv, &KeyRange::new("a", "b\0"), 0, false).unwrap();

    let mut clear = LocalTxn::begin(kv, 0);
    clear.buffer.clear_range(KeyRange::new("b", "c"));
    clear.buffer.set(bytes("b1"), bytes("2"));
    clear.commit(kv, 0).unwrap();
    let left: Vec<_> = all(kv).into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, ["a", "b1", "c"]);

    for (txn, outcome) in [(inside, false), (at_end, true), (overlap, false)] {
        let mut txn = txn;
        txn.buffer.set(bytes("x"), bytes("1"));
        assert_eq!(txn.commit(kv, 0).is_ok(), outcome);
    }
}

fn clear_range_is_bounded(kv: &mut Resolver) {
    for chunk in 0..=CLEARED_KEYS_MAX / 10_000 {
        let mut txn = LocalTxn::begin(kv, 0);
        for key in 0..10_000 {
            txn.buffer.set(bytes(&format!("k{:08}", chunk * 10_000 + key)), Bytes::new());
        }
        txn.commit(kv, 0).unwrap();
    }
    let clear = |kv: &mut Resolver, end: &str| {
        let mut txn = LocalTxn::begin(kv, 0);
        txn.buffer.clear_range(KeyRange::new("k", bytes(end)));
        txn.commit(kv, 0)
    };
    assert!(matches!(clear(kv, "l"), Err(KvError::TooLarge { .. })));
    let last = format!("k{CLEARED_KEYS_MAX:08}");
    clear(kv, &last).unwrap();
    assert_eq!(all(kv).first().map(|(key, _)| key.clone()), Some(last));
}

fn mutations_take_effect_in_order(kv: &mut Resolver) {
    put(kv, &[("a", "1"), ("b", "1")]);
    let mut txn = LocalTxn::begin(kv, 0);
    txn.buffer.set(bytes("a"), bytes("2"));
    txn.buffer.set(bytes("c"), bytes("2"));
    txn.buffer.clear_range(KeyRange::new("a", "z"));
    txn.buffer.set(bytes("b"), bytes("3"));
    txn.buffer.set(bytes("b"), bytes("4"));
    txn.buffer.clear(bytes("d"));
    txn.commit(kv, 0).unwrap();
    assert_eq!(all(kv), [("b".into(), "4".into())]);
}

fn range_order_by_bytes(kv: &mut Resolver) {
    let sorted: [&[u8]; 7] = [b"\0", b"\0\0", b"A", b"a", b"a\0", b"a\xff\xff", b"\xfe\xff"];
    let mut txn = LocalTxn::begin(kv, 0);
    for key in sorted.iter().rev() {
        txn.buffer.set(Bytes::from_static(key), Bytes::from_static(key));
    }
    txn.commit(kv, 0).unwrap();
    let mut txn = LocalTxn::begin(kv, 0);
    let rows = txn.range(kv, &KeyRange::new("", &b"\xff"[..]), 0, false).unwrap();
    assert_eq!(keys(&rows), sorted);
    let rows = txn.range(kv, &KeyRange::new("a", &b"a\xff\xff"[..]), 0, false).unwrap();
    assert_eq!(keys(&rows), sorted[3..5]);
    assert_eq!(txn.range(kv, &KeyRange::new("b", "a"), 0, false), Ok(vec![]));
}

fn range_limits_and_reverse(kv: &mut Resolver) {
    let names: Vec<String> = (0..25).map(|n| format!("k{n:02}")).collect();
    let rows: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    put(kv, &rows);
    let version = kv.read_version(0).unwrap();
    let read = |begin: &str, end: &str, limit, reverse| {
        let page = kv.range(version, begin.as_bytes(), end.as_bytes(), limit, reverse).unwrap();
        let text = |key: &Bytes| String::from_utf8(key.to_vec()).unwrap();
        (page.rows.iter().map(|(key, _)| text(key)).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(read("k", "l", 10, false), (names[..10].to_vec(), true));
    assert_eq!(read("k15", "l", 10, false), (names[15..].to_vec(), false));
    assert_eq!(read("k16", "l", 10, false), (names[16..].to_vec(), false));
    let last: Vec<_> = names[15..].iter().rev().cloned().collect();
    assert_eq!(read("k", "l", 10, true), (last, true));
    assert_eq!(read("k", "k01", 10, true), (names[..1].to_vec(), false));
    assert_eq!(read("k03", "k03", 10, false), (vec![], false));
    assert_eq!(read("x", "z", 1, true), (vec![], false));
}

fn range_pages_are_bounded_in_bytes(kv: &mut Resolver) {
    let value = Bytes::from(vec![7; 90_000]);
    for n in 0..30 {
        let mut txn = LocalTxn::begin(kv, 0);
        txn.buffer.set(bytes(&format!("k{n:02}")), value.clone());
        txn.commit(kv, 0).unwrap();
    }
    let mut txn = LocalTxn::begin(kv, 0);
    let page = kv.range(txn.version, b"k", b"l", 0, false).unwrap();
    assert!(page.more && page.rows.len() <= RANGE_BYTES_MAX / 90_000 + 1);
    for reverse in [false, true] {
        assert_eq!(txn.range(kv, &KeyRange::prefix("k"), 0, reverse).unwrap().len(), 30);
    }
}

fn atomic_add(kv: &mut Resolver) {
    let number = |kv: &mut Resolver| LocalTxn::begin(kv, 0).get(kv, b"n").unwrap().unwrap();
    let mut first = LocalTxn::begin(kv, 0);
    let mut second = LocalTxn::begin(kv, 0);
    first.buffer.add(bytes("n"), 5);
    second.buffer.add(bytes("n"), 7);
    second.buffer.add(bytes("n"), u64::MAX);
    first.commit(kv, 0).unwrap();
    second.commit(kv, 0).unwrap();
    assert_eq!(number(kv)[..], 11u64.to_le_bytes());

    let mut txn = LocalTxn::begin(kv, 0);
    txn.buffer.add(bytes("n"), 1);
    assert_eq!(txn.get(kv, b"n").unwrap().unwrap()[..], 12u64.to_le_bytes());
    let mut other = LocalTxn::begin(kv, 0);
    other.buffer.add(bytes("n"), 1);
    other.commit(kv, 0).unwrap();
    assert_eq!(txn.commit(kv, 0), Err(KvError::Conflict), "it read the sum");
    assert_eq!(number(kv)[..], 12u64.to_le_bytes());
}

fn versionstamps_unique_and_increasing(kv: &mut Resolver) {
    let template = Bytes::from(vec![b'_'; 13]);
    let mut stamps = Vec::new();
    for n in 0..50u8 {
        let mut txn = LocalTxn::begin(kv, 0);
        let key = Bytes::from([b"log/", &[0; 10][..], &[n]].concat());
        txn.buffer.set_versionstamped_key(key, 4, Bytes::from(vec![n]));
        txn.buffer.set_versionstamped_value(bytes("last"), template.clone(), 2);
        let committed = txn.commit(kv, 0).unwrap();
        assert_eq!(committed.versionstamp, Versionstamp::new(committed.version, 0));
        let last = LocalTxn::begin(kv, 0).get(kv, b"last").unwrap().unwrap();
        assert_eq!(last[..], [b"__", &committed.versionstamp.0[..], b"_"].concat());
        stamps.push(committed.versionstamp);
    }
    assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]));
    let rows = LocalTxn::begin(kv, 0).range(kv, &KeyRange::prefix("log/"), 0, false).unwrap();
    assert_eq!(rows.len(), 50);
    for (n, (key, value)) in rows.iter().enumerate() {
        assert_eq!(key[4..14], stamps[n].0);
        assert_eq!((key[14], value[0]), (n as u8, n as u8));
    }
    // A stamped key conflicts with those who read where it lands.
    let mut reader = LocalTxn::begin(kv, 0);
    reader.range(kv, &KeyRange::prefix("log/"), 0, false).unwrap();
    reader.buffer.set(bytes("x"), bytes("1"));
    let mut writer = LocalTxn::begin(kv, 0);
    let key = Bytes::from([b"log/", &[0; 10][..]].concat());
    writer.buffer.set_versionstamped_key(key, 4, Bytes::new());
    writer.commit(kv, 0).unwrap();
    assert_eq!(reader.commit(kv, 0), Err(KvError::Conflict));
}

fn metadata_version(kv: &mut Resolver) {
    let key = Bytes::from_static(METADATA_VERSION_KEY);
    let mut reader = LocalTxn::begin(kv, 0);
    assert_eq!(reader.get(kv, &key), Ok(None));
    reader.buffer.set(bytes("x"), bytes("1"));
    let mut writer = LocalTxn::begin(kv, 0);
    writer.buffer.set_versionstamped_value(key.clone(), Bytes::from_static(&[0; 10]), 0);
    let stamp = writer.commit(kv, 0).unwrap().versionstamp;
    assert_eq!(reader.commit(kv, 0), Err(KvError::Conflict));
    let read = LocalTxn::begin(kv, 0).get(kv, &key).unwrap().unwrap();
    assert_eq!(read[..], stamp.0);
}

fn read_only_never_commits(kv: &mut Resolver) {
    put(kv, &[("a", "1")]);
    let mut txn = LocalTxn::begin(kv, 0);
    txn.get(kv, b"a").unwrap();
    put(kv, &[("a", "2")]);
    let before = kv.read_version(0).unwrap();
    let version = txn.version;
    let committed = txn.commit(kv, 0).unwrap();
    assert_eq!(committed, Committed { version, versionstamp: Versionstamp::NONE });
    assert_eq!(kv.read_version(0).unwrap(), before);
}

fn too_old(kv: &mut Resolver) {
    put(kv, &[("a", "1")]);
    let start_us = 1_000;
    let begin = |kv: &mut Resolver| {
        let mut txn = LocalTxn::begin(kv, start_us);
        txn.get(kv, b"a").unwrap();
        txn.buffer.set(bytes("b"), bytes("1"));
        txn
    };
    let (intime, mut late) = (begin(kv), begin(kv));
    let mut blind = LocalTxn::begin(kv, start_us);
    let touch = |kv: &mut Resolver, now_us| {
        let mut touch = LocalTxn::begin(kv, now_us);
        touch.buffer.set(bytes("c"), bytes("1"));
        touch.commit(kv, now_us).unwrap();
    };
    touch(kv, start_us + 1);
    assert!(intime.commit(kv, start_us + WINDOW_US).is_ok());
    let now_us = start_us + 2 * WINDOW_US;
    touch(kv, now_us);
    assert_eq!(late.get(kv, b"z"), Err(KvError::TooOld));
    assert_eq!(late.commit(kv, now_us), Err(KvError::TooOld));
    blind.buffer.set(bytes("d"), bytes("1"));
    assert!(blind.commit(kv, now_us).is_ok(), "what was not read cannot be too old");
    let future = CommitRequest {
        read_version: Version(u64::MAX),
        read_keys: vec![bytes("a")],
        mutations: vec![super::Mutation::Clear { key: bytes("a") }],
        ..Default::default()
    };
    assert_eq!(kv.commit(now_us, future), Err(KvError::FutureVersion));
    assert_eq!(kv.get(Version(u64::MAX), b"a"), Err(KvError::FutureVersion));
}

fn refused_commit_writes_nothing(kv: &mut Resolver) {
    put(kv, &[("a", "1")]);
    let mut txn = LocalTxn::begin(kv, 0);
    txn.get(kv, b"a").unwrap();
    txn.buffer.set(bytes("b"), bytes("1"));
    txn.buffer.clear_range(KeyRange::new("a", "b"));
    txn.buffer.set_versionstamped_value(bytes("c"), Bytes::from_static(&[0; 10]), 0);
    put(kv, &[("a", "2")]);
    let before = (all(kv), kv.read_version(0));
    assert_eq!(txn.commit(kv, 0), Err(KvError::Conflict));
    let mut txn = LocalTxn::begin(kv, 0);
    txn.buffer.set(bytes("b"), bytes("1"));
    txn.buffer.set(Bytes::from_static(b"\xff\xff"), bytes("1"));
    assert!(matches!(txn.commit(kv, 0), Err(KvError::Invalid(_))));
    assert_eq!((all(kv), kv.read_version(0)), before);
}

fn sync_covers_what_was_applied(kv: &mut Resolver) {
    let (sender, ended) = channel();
    for n in 0..10 {
        let committed = put(kv, &[(&format!("k{n}"), "1")]);
        let sender = sender.clone();
        let version = kv.sync(Box::new(move |result| {
            sender.send((n, result)).expect("the check waits");
        }));
        assert_eq!(version, committed.version);
    }
    drop(sender);
    let ended: Vec<_> = ended.iter().map(|(n, result)| result.map(|()| n).unwrap()).collect();
    assert_eq!(ended, Vec::from_iter(0..10), "every sync ends, in order");
}

fn what_was_committed_survives_reopening(store: Box<dyn Store>) {
    let mut kv = Resolver::open(store).expect("an empty store opens");
    let mut committed = Vec::new();
    for _ in 0..3 {
        let opening = kv.read_version(0).expect("reads");
        committed.extend([opening, put(&mut kv, &[("a", "1")]).version]);
        kv = Resolver::open(kv.into_store()).expect("it opens again");
        assert!(committed.iter().all(|version| kv.survived(*version)));
        let next = Version(kv.read_version(0).expect("reads").0 + 1);
        assert!(!kv.survived(next), "no commit has that version yet");
    }
}

fn version_increases_across_reopen(store: Box<dyn Store>) {
    let mut kv = Resolver::open(store).unwrap();
    let mut highest = Version(0);
    for round in 0..3 {
        let read = kv.read_version(0).unwrap();
        assert!(read >= highest);
        let committed = put(&mut kv, &[("a", &round.to_string())]);
        assert!(committed.version > read);
        highest = committed.version;
        kv = Resolver::open(kv.into_store()).unwrap();
        assert_eq!(all(&mut kv), [("a".to_string(), round.to_string())]);
    }
    assert!(put(&mut kv, &[("a", "x")]).version > highest);
}
