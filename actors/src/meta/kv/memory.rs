//! A store in memory that a simulator can crash.
//!
//! [`MemoryDisk`] is what outlives a crash; [`MemoryStore`] is one opening of it. The content is a
//! persistent ordered map, so a snapshot, and the content after every unsynced batch, is an O(1)
//! copy. Deterministic. What is applied but never synced is remembered batch by batch.

use super::RangePage;
use super::spans::within;
use super::store::{PageBuilder, RangeLimit, Snapshot, Store, StoreError, SyncDone};
use bytes::Bytes;
use core::cell::RefCell;
use imbl::OrdMap;
use std::collections::VecDeque;
use std::rc::Rc;

type Content = OrdMap<Bytes, Bytes>;

/// The disk under a [`MemoryStore`], and the simulator's hand on it. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk(Rc<RefCell<Disk>>);

#[derive(Default)]
struct Disk {
    content: Content,
    /// Content after each batch that is not durable, oldest first.
    unsynced: VecDeque<Content>,
    durable: Content,
    /// Syncs asked for and not yet ended: batches applied ever by then, and whom to tell.
    syncs: VecDeque<(u64, SyncDone)>,
    holding_syncs: bool,
    applied: u64,
    bytes: u64,
    incarnation: u64,
}

/// One opening of a [`MemoryDisk`]. A later opening, or a crash, ends it.
pub struct MemoryStore {
    disk: MemoryDisk,
    incarnation: u64,
}

struct MemorySnapshot(Content);

impl MemoryDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the disk with what it holds, and ends earlier openings.
    pub fn open(&self) -> MemoryStore {
        let mut disk = self.0.borrow_mut();
        disk.incarnation += 1;
        MemoryStore { disk: self.clone(), incarnation: disk.incarnation }
    }

    /// Whether syncs wait for [`MemoryDisk::end_syncs`]. If not, as at first, each ends at once.
    pub fn hold_syncs(&self, hold: bool) {
        self.0.borrow_mut().holding_syncs = hold;
    }

    /// Ends the oldest `count` syncs that wait.
    pub fn end_syncs(&self, count: usize) {
        for _ in 0..count {
            let Some(done) = self.0.borrow_mut().end_sync() else {
                return;
            };
            // The disk is no longer borrowed: whoever is told may use it.
            done(Ok(()));
        }
    }

    /// Syncs that wait.
    #[cfg(test)]
    pub(in crate::meta) fn syncs_held(&self) -> usize {
        self.0.borrow().syncs.len()
    }

    /// Batches applied that are not durable.
    pub fn batches_unsynced(&self) -> usize {
        self.0.borrow().unsynced.len()
    }

    /// Power failure: what was not synced is gone, and so is who waited for it.
    pub fn crash(&self) {
        self.crash_keeping(0);
    }

    /// Power failure that spared the first `batches` of those not synced.
    pub fn crash_keeping(&self, batches: usize) {
        let mut disk = self.0.borrow_mut();
        let kept = batches.min(disk.unsynced.len());
        if let Some(last) = kept.checked_sub(1) {
            disk.durable = disk.unsynced[last].clone();
        }
        disk.content = disk.durable.clone();
        disk.bytes = disk.content.iter().map(|(key, value)| bytes_of(key, value)).sum();
        disk.unsynced.clear();
        let waiting = std::mem::take(&mut disk.syncs);
        disk.incarnation += 1;
        drop(disk);
        drop(waiting);
    }
}

impl Disk {
    fn apply(&mut self, batch: &[(Bytes, Option<Bytes>)]) {
        for (key, value) in batch {
            let before = match value {
                Some(value) => {
                    self.bytes += bytes_of(key, value);
                    self.content.insert(key.clone(), value.clone())
                }
                None => self.content.remove(key),
            };
            self.bytes -= before.map_or(0, |before| bytes_of(key, &before));
        }
        self.applied += 1;
        self.unsynced.push_back(self.content.clone());
    }

    fn end_sync(&mut self) -> Option<SyncDone> {
        let (covered, done) = self.syncs.pop_front()?;
        // Earlier syncs may have made some of them durable already.
        let first_unsynced = self.applied - self.unsynced.len() as u64;
        for _ in first_unsynced..covered {
            self.durable = self.unsynced.pop_front().expect("one content per unsynced batch");
        }
        Some(done)
    }
}

fn bytes_of(key: &Bytes, value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64
}

impl MemoryStore {
    fn check_open(&self) -> Result<(), StoreError> {
        if self.disk.0.borrow().incarnation == self.incarnation {
            return Ok(());
        }
        Err(StoreError::Stopped("crashed, or opened again".into()))
    }
}

impl Store for MemoryStore {
    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(MemorySnapshot(self.disk.0.borrow().content.clone()))
    }

    fn apply(&mut self, batch: &[(Bytes, Option<Bytes>)]) -> Result<(), StoreError> {
        self.check_open()?;
        self.disk.0.borrow_mut().apply(batch);
        Ok(())
    }

    fn sync(&mut self, done: SyncDone) {
        if self.check_open().is_err() {
            return; // after a crash nobody is told anything
        }
        let mut disk = self.disk.0.borrow_mut();
        let covered = disk.applied;
        disk.syncs.push_back((covered, done));
        let (holding, waiting) = (disk.holding_syncs, disk.syncs.len());
        drop(disk);
        if !holding {
            self.disk.end_syncs(waiting);
        }
    }

    fn bytes_used(&self) -> u64 {
        self.disk.0.borrow().bytes
    }

    fn incarnation(&self) -> u64 {
        self.incarnation
    }
}

impl Snapshot for MemorySnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn range(
        &self,
        begin: &[u8],
        end: &[u8],
        limit: RangeLimit,
        reverse: bool,
    ) -> Result<RangePage, StoreError> {
        if begin >= end {
            return Ok(RangePage::default());
        }
        let rows = self.0.range::<_, [u8]>(within(begin, end));
        Ok(if reverse { page(rows.rev(), limit) } else { page(rows, limit) })
    }
}

fn page<'a>(rows: impl Iterator<Item = (&'a Bytes, &'a Bytes)>, limit: RangeLimit) -> RangePage {
    let mut page = PageBuilder::new(limit);
    for (key, value) in rows {
        if page.is_full() {
            return page.cut();
        }
        page.push(key.clone(), value.clone());
    }
    page.complete()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::kv::{conformance, serial};
    use std::sync::mpsc::channel;

    fn put(store: &mut MemoryStore, key: &'static str) {
        store.apply(&[(key.into(), Some(Bytes::new()))]).unwrap();
    }

    fn keys(disk: &MemoryDisk) -> Vec<Bytes> {
        disk.0.borrow().content.keys().cloned().collect()
    }

    #[test]
    fn conforms() {
        conformance::run(&mut || Box::new(MemoryDisk::new().open()));
    }

    #[test]
    fn a_crash_keeps_what_a_sync_covered_and_a_prefix_of_the_rest() {
        let disk = MemoryDisk::new();
        let mut store = disk.open();
        disk.hold_syncs(true);
        let (sender, ended) = channel();
        for key in ["a", "b", "c", "d"] {
            put(&mut store, key);
            let sender = sender.clone();
            store.sync(Box::new(move |result| sender.send((key, result)).unwrap()));
        }
        put(&mut store, "e");
        disk.end_syncs(2);
        assert_eq!(ended.try_iter().collect::<Vec<_>>(), [("a", Ok(())), ("b", Ok(()))]);
        assert_eq!(disk.batches_unsynced(), 3);

        disk.crash_keeping(1);
        assert_eq!(keys(&disk), ["a", "b", "c"]);
        assert_eq!((disk.syncs_held(), ended.try_iter().count()), (0, 0));
        assert!(matches!(store.apply(&[]), Err(StoreError::Stopped(_))));

        let mut store = disk.open();
        put(&mut store, "f");
        disk.crash();
        assert_eq!(keys(&disk), ["a", "b", "c"]);
        assert_eq!(disk.open().bytes_used(), 3);
    }

    proptest::proptest! {
        /// Random histories of concurrent transactions are serialisable.
        #[test]
        fn histories_are_serialisable(
            steps in proptest::collection::vec(proptest::prelude::any::<u64>(), 0..400),
        ) {
            serial::check(Box::new(MemoryDisk::new().open()), &steps);
        }
    }
}
