//! Decides which transactions commit, in which order, over one [`Store`].
//!
//! One resolver owns one store; it is a plain struct whose calls do not wait. It promises the
//! contract of [`super`]. Memory is bounded: snapshots by [`SNAPSHOTS_MAX`], the conflict window by
//! [`super::HISTORY_BYTES_MAX`]; beyond either, the oldest transactions are [`KvError::TooOld`].
//!
//! *Versions.* A version is `incarnation << 40 | count`. The store's incarnation is durable before
//! the store opens, so versions grow across restarts even if a crash lost commits that had been
//! acknowledged, and no read version from before a restart passes for one of now. The version of
//! the last commit is kept in the store itself, in the batch of the commit, at `\xff/version`.
//! Opening is a commit as well, of nothing but the list of `ends`, which tells for good what
//! crashes took.

use super::conflicts::Conflicts;
use super::ends::{COUNT_BITS, Ends, opening};
use super::mutate::{effects, failed};
use super::store::{RangeLimit, Snapshot, Store, SyncDone};
use super::{
    CommitRequest, ENDS_KEY, KvError, RANGE_BYTES_MAX, RANGE_ROWS_MAX, VERSION_KEY, Version,
    Versionstamp, WINDOW_US,
};
use super::{Committed, RangePage};
use crate::proto::kv::{check_range, check_read_key};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Most versions whose snapshot is held at a time.
pub const SNAPSHOTS_MAX: usize = 1 << 17;

pub struct Resolver {
    store: Box<dyn Store>,
    /// Of the last commit.
    current: Version,
    /// Of the last commit of each earlier opening.
    ends: Ends,
    conflicts: Conflicts,
    /// Snapshots of the versions that were asked for; later versions were asked for later.
    held: BTreeMap<Version, Held>,
    /// The latest time heard of.
    now_us: u64,
    /// Why the store has stopped, if it has.
    stopped: Option<String>,
}

struct Held {
    snapshot: Box<dyn Snapshot>,
    asked_us: u64,
}

impl Resolver {
    /// Takes over `store`, as it is.
    pub fn open(mut store: Box<dyn Store>) -> Result<Self, KvError> {
        let incarnation = store.incarnation();
        assert!(incarnation < 1 << (64 - COUNT_BITS), "too many openings of one store");
        let snapshot = store.snapshot();
        let last = snapshot.get(VERSION_KEY).map_err(failed)?;
        let last = match last.as_deref().map(<[u8; 8]>::try_from) {
            None => 0,
            Some(Ok(version)) => u64::from_be_bytes(version),
            Some(Err(_)) => return Err(KvError::Store("corrupt: version of the store".into())),
        };
        let mut ends = Ends::open(snapshot.get(ENDS_KEY).map_err(failed)?.as_deref())?;
        drop(snapshot);
        ends.note(Version(last));
        // The count restarts at 1, so that version 0, the default, is never current.
        let current = Version((last + 1).max(incarnation << COUNT_BITS | 1));
        let version = Bytes::copy_from_slice(&current.0.to_be_bytes());
        let batch = [(ENDS_KEY, ends.seal()), (VERSION_KEY, version)];
        let batch = batch.map(|(key, value)| (Bytes::from_static(key), Some(value)));
        store.apply(&batch).map_err(failed)?;
        Ok(Resolver {
            store,
            current,
            ends,
            conflicts: Conflicts::new(current),
            held: BTreeMap::new(),
            now_us: 0,
            stopped: None,
        })
    }

    /// Gives the store back, without what the resolver remembered.
    pub(crate) fn into_store(self) -> Box<dyn Store> {
        self.store
    }

    /// The version to read at: that of the last commit. It can be read from, and committed at, for
    /// [`WINDOW_US`] after this call.
    pub fn read_version(&mut self, now_us: u64) -> Result<Version, KvError> {
        self.check_running()?;
        self.expire(now_us);
        let (store, now_us) = (&self.store, self.now_us);
        self.held
            .entry(self.current)
            .and_modify(|held| held.asked_us = now_us)
            .or_insert_with(|| Held { snapshot: store.snapshot(), asked_us: now_us });
        if self.held.len() > SNAPSHOTS_MAX {
            self.held.pop_first();
        }
        Ok(self.current)
    }

    /// The value of `key` at `version`.
    pub fn get(&self, version: Version, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        check_read_key(key)?;
        self.snapshot(version)?.get(key).map_err(failed)
    }

    /// Rows of `begin <= key < end` at `version`, from the end if `reverse`: at most `limit`, 0 for
    /// as many as a page holds ([`RANGE_ROWS_MAX`], [`RANGE_BYTES_MAX`]). A page with `more` has at
    /// least one row; go on after (in reverse: below) its last.
    pub fn range(
        &self,
        version: Version,
        begin: &[u8],
        end: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<RangePage, KvError> {
        check_range(begin, end)?;
        let rows = if limit == 0 { RANGE_ROWS_MAX } else { limit.min(RANGE_ROWS_MAX) };
        let limit = RangeLimit { rows, bytes: RANGE_BYTES_MAX };
        self.snapshot(version)?.range(begin, end, limit, reverse).map_err(failed)
    }

    /// Commits, or says why not. On success the commit is applied and visible to later read
    /// versions; [`Resolver::sync`] makes it durable.
    pub fn commit(
        &mut self,
        now_us: u64,
        mut request: CommitRequest,
    ) -> Result<Committed, KvError> {
        self.check_running()?;
        self.expire(now_us);
        request.check()?;
        if request.is_read_only() {
            let version = request.read_version;
            return Ok(Committed { version, versionstamp: Versionstamp::NONE });
        }
        self.check_conflicts(&request)?;

        let version = Version(self.current.0 + 1);
        let mut effects = effects(&*self.store, version, request.mutations)?;
        let stored = Bytes::copy_from_slice(&version.0.to_be_bytes());
        effects.batch.insert(Bytes::from_static(VERSION_KEY), Some(stored));
        let batch: Vec<_> = effects.batch.into_iter().collect();
        if let Err(error) = self.store.apply(&batch) {
            // The batch may be there when the store is opened again.
            self.stopped = Some(error.to_string());
            return Err(KvError::Unknown);
        }
        self.current = version;
        effects.ranges.append(&mut request.write_conflicts);
        self.conflicts.record(self.now_us, version, effects.keys, &effects.ranges);
        Ok(Committed { version, versionstamp: Versionstamp::new(version, 0) })
    }

    /// Whether the commit that was given this version is still there: no crash has taken it. So is
    /// each commit before it then. Of a read version: whether what it showed is still there.
    pub fn survived(&self, version: Version) -> bool {
        let ours = opening(version) == opening(self.current);
        if ours { version <= self.current } else { self.ends.survived(version) }
    }

    /// Calls `done` when all commits up to the returned version are durable.
    pub fn sync(&mut self, done: SyncDone) -> Version {
        self.store.sync(done);
        self.current
    }

    /// Releases what has left the window. Every call with a time does so; call this now and then
    /// while there are none.
    pub fn expire(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
        self.conflicts.expire(self.now_us);
        while let Some(oldest) = self.held.first_entry()
            && oldest.get().asked_us + WINDOW_US < self.now_us
        {
            oldest.remove();
        }
    }

    /// How many versions are held for readers.
    pub fn snapshots_held(&self) -> usize {
        self.held.len()
    }

    /// Roughly what the store's content takes up, in bytes.
    pub fn bytes_used(&self) -> u64 {
        self.store.bytes_used()
    }

    fn snapshot(&self, version: Version) -> Result<&dyn Snapshot, KvError> {
        self.check_running()?;
        match self.held.get(&version) {
            Some(held) => Ok(&*held.snapshot),
            None if version > self.current => Err(KvError::FutureVersion),
            None => Err(KvError::TooOld),
        }
    }

    fn check_conflicts(&self, request: &CommitRequest) -> Result<(), KvError> {
        if !request.has_reads() {
            return Ok(());
        }
        let read = request.read_version;
        if read > self.current {
            return Err(KvError::FutureVersion);
        }
        if read < self.conflicts.oldest() {
            return Err(KvError::TooOld);
        }
        if self.conflicts.hit(read, &request.read_keys, &request.read_ranges) {
            return Err(KvError::Conflict);
        }
        Ok(())
    }

    fn check_running(&self) -> Result<(), KvError> {
        match &self.stopped {
            Some(why) => Err(KvError::Store(why.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::kv::{KeyRange, MemoryDisk, Mutation, StoreError};

    fn set(key: &'static str, value: &'static str) -> CommitRequest {
        let mutations = vec![Mutation::Set { key: key.into(), value: value.into() }];
        CommitRequest { mutations, ..Default::default() }
    }

    #[test]
    fn one_snapshot_per_version_asked_for_released_by_the_window() {
        let mut kv = Resolver::open(Box::new(MemoryDisk::new().open())).unwrap();
        for now_us in 0..10 {
            kv.read_version(now_us).unwrap();
        }
        assert_eq!(kv.snapshots_held(), 1);
        for now_us in 10..20 {
            kv.commit(now_us, set("a", "1")).unwrap();
        }
        assert_eq!(kv.snapshots_held(), 1);
        let old = kv.read_version(20).unwrap();
        kv.commit(21, set("a", "2")).unwrap();
        let new = kv.read_version(30).unwrap();
        kv.expire(20 + WINDOW_US);
        assert!(kv.get(old, b"a").is_ok());
        kv.expire(21 + WINDOW_US);
        assert_eq!(kv.get(old, b"a"), Err(KvError::TooOld));
        assert_eq!(kv.get(new, b"a"), Ok(Some("2".into())));
        kv.expire(31 + WINDOW_US);
        assert_eq!(kv.snapshots_held(), 0);
    }

    #[test]
    fn snapshots_are_bounded_and_the_oldest_goes_first() {
        let mut kv = Resolver::open(Box::new(MemoryDisk::new().open())).unwrap();
        let first = kv.read_version(0).unwrap();
        for _ in 0..SNAPSHOTS_MAX {
            kv.commit(0, set("a", "1")).unwrap();
            kv.read_version(0).unwrap();
        }
        assert_eq!(kv.snapshots_held(), SNAPSHOTS_MAX);
        assert_eq!(kv.get(first, b"a"), Err(KvError::TooOld));
    }

    #[test]
    fn reserved_keys_and_oversize_requests_are_refused() {
        let mut kv = Resolver::open(Box::new(MemoryDisk::new().open())).unwrap();
        let refused = |result: Result<Committed, KvError>| match result {
            Err(KvError::Invalid(_) | KvError::TooLarge { .. }) => {}
            other => panic!("{other:?}"),
        };
        refused(kv.commit(0, with_key(set("\u{ff}", "1"), b"\xff/version")));
        let long = [b'a'; super::super::KEY_BYTES_MAX + 1];
        refused(kv.commit(0, with_key(set("a", "1"), &long)));
        let end = Bytes::from_static(b"\xff\xff");
        let mutations = vec![Mutation::ClearRange { begin: Bytes::new(), end }];
        refused(kv.commit(0, CommitRequest { mutations, ..Default::default() }));
        let value = Bytes::from_static(b"123456789");
        let mutations =
            vec![Mutation::SetVersionstampedValue { key: "a".into(), value, offset: 0 }];
        refused(kv.commit(0, CommitRequest { mutations, ..Default::default() }));
        let version = kv.read_version(0).unwrap();
        assert!(matches!(kv.get(version, b"\xff/version"), Err(KvError::Invalid(_))));
        assert!(matches!(kv.range(version, b"", b"\xff\x01", 0, false), Err(KvError::Invalid(_))));
        assert_eq!(kv.get(version, crate::meta::kv::METADATA_VERSION_KEY), Ok(None));
    }

    fn with_key(mut request: CommitRequest, name: &[u8]) -> CommitRequest {
        let Some(Mutation::Set { key, .. }) = request.mutations.first_mut() else { panic!() };
        *key = Bytes::copy_from_slice(name);
        request
    }

    #[test]
    fn a_version_lost_in_a_crash_is_not_given_again() {
        let disk = MemoryDisk::new();
        let mut kv = Resolver::open(Box::new(disk.open())).unwrap();
        let read = kv.read_version(0).unwrap();
        let lost = kv.commit(0, set("a", "1")).unwrap().version;
        disk.crash();
        assert_eq!(kv.commit(0, set("a", "2")), Err(KvError::Unknown));
        assert!(matches!(kv.read_version(0), Err(KvError::Store(_))));

        let mut kv = Resolver::open(Box::new(disk.open())).unwrap();
        let version = kv.read_version(0).unwrap();
        assert_eq!(kv.get(version, b"a"), Ok(None));
        assert!(version > lost);
        let mut late = set("b", "1");
        late.read_keys.push("a".into());
        for stale in [read, lost] {
            late.read_version = stale;
            assert_eq!(kv.commit(0, late.clone()), Err(KvError::TooOld));
        }
        late.read_version = Version(version.0 + 1);
        assert_eq!(kv.commit(0, late.clone()), Err(KvError::FutureVersion));
        late.read_version = version;
        assert!(kv.commit(0, late).is_ok());
    }

    #[test]
    fn extra_write_conflicts_are_seen_by_readers() {
        let mut kv = Resolver::open(Box::new(MemoryDisk::new().open())).unwrap();
        let mut reader = set("x", "1");
        reader.read_version = kv.read_version(0).unwrap();
        reader.read_keys.push("locked".into());
        let write_conflicts = vec![KeyRange::prefix("lock")];
        let touch = CommitRequest { write_conflicts, ..Default::default() };
        assert!(kv.commit(0, touch).unwrap().version > reader.read_version);
        assert_eq!(kv.commit(0, reader), Err(KvError::Conflict));
    }

    #[test]
    fn store_errors_name_their_kind() {
        assert_eq!(failed(StoreError::Io("x".into())), KvError::Store("i/o: x".into()));
    }
}
