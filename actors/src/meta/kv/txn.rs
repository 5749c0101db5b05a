//! What a client keeps of a transaction: its writes, which its own reads see, and what it has read.
//!
//! Nothing here fetches. To read a key: ask [`TxnBuffer::local_get`]; if that does not know, fetch
//! the value at the read version and pass it through [`TxnBuffer::merge_get`]; and unless it is a
//! snapshot read, [`TxnBuffer::record_get`] either way. To read a range: fetch a page, pass it
//! through [`TxnBuffer::merge_range`], and unless it is a snapshot read,
//! [`TxnBuffer::add_read_conflict_range`] for the part that the merged page covers.
//!
//! As in FoundationDB, reading what this transaction has written itself conflicts with nobody, and
//! adding a read conflict on it does nothing. A value set with a versionstamp, which is not known
//! yet, cannot be read: trying to is a bug of the caller, and panics. Keys set with a versionstamp
//! do not show in reads. Size is checked at commit.

use super::mutate::added;
use super::spans::{Spans, within};
use super::{CommitRequest, KeyRange, Mutation, RangePage, Version};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
pub struct TxnBuffer {
    /// In the order they were made.
    mutations: Vec<Mutation>,
    /// What the mutations leave of single keys; these lie above `cleared`.
    written: BTreeMap<Bytes, Written>,
    cleared: Spans,
    read_keys: BTreeSet<Bytes>,
    read_ranges: Spans,
    write_conflicts: Vec<KeyRange>,
}

#[derive(Clone, Debug)]
enum Written {
    Value(Option<Bytes>),
    /// So much more than the store holds.
    Added(u64),
    /// Holds a versionstamp.
    Unknown,
}

/// A page of a range read with the transaction's own writes in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedPage {
    pub rows: Vec<(Bytes, Bytes)>,
    /// Keys outside `covered` are left to read. The page may be empty even then: go on from
    /// `covered`.
    pub more: bool,
    /// The part of the range that `rows` answers for.
    pub covered: KeyRange,
}

impl TxnBuffer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether committing would do nothing.
    pub fn is_read_only(&self) -> bool {
        self.mutations.is_empty() && self.write_conflicts.is_empty()
    }

    pub fn set(&mut self, key: Bytes, value: Bytes) {
        self.written.insert(key.clone(), Written::Value(Some(value.clone())));
        self.mutations.push(Mutation::Set { key, value });
    }

    pub fn clear(&mut self, key: Bytes) {
        self.written.insert(key.clone(), Written::Value(None));
        self.mutations.push(Mutation::Clear { key });
    }

    pub fn clear_range(&mut self, range: KeyRange) {
        if range.is_empty() {
            return;
        }
        let inside: Vec<_> = self.written_in(&range).map(|(key, _)| key.clone()).collect();
        for key in inside {
            self.written.remove(&key);
        }
        self.cleared.insert(range.clone());
        let KeyRange { begin, end } = range;
        self.mutations.push(Mutation::ClearRange { begin, end });
    }

    /// See [`Mutation::Add`].
    pub fn add(&mut self, key: Bytes, operand: u64) {
        let after = match self.written.get(&key) {
            Some(Written::Value(value)) => Written::Value(Some(added(value.as_deref(), operand))),
            Some(Written::Added(before)) => Written::Added(before.wrapping_add(operand)),
            Some(Written::Unknown) => Written::Unknown,
            None if self.cleared.contains(&key) => Written::Value(Some(added(None, operand))),
            None => Written::Added(operand),
        };
        self.written.insert(key.clone(), after);
        self.mutations.push(Mutation::Add { key, operand });
    }

    /// See [`Mutation::SetVersionstampedKey`].
    pub fn set_versionstamped_key(&mut self, key: Bytes, offset: u32, value: Bytes) {
        self.mutations.push(Mutation::SetVersionstampedKey { key, offset, value });
    }

    /// See [`Mutation::SetVersionstampedValue`].
    pub fn set_versionstamped_value(&mut self, key: Bytes, value: Bytes, offset: u32) {
        self.written.insert(key.clone(), Written::Unknown);
        self.mutations.push(Mutation::SetVersionstampedValue { key, value, offset });
    }

    /// What a read of `key` returns, if the store need not be asked.
    pub fn local_get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        match self.written.get(key) {
            Some(Written::Value(value)) => Some(value.clone()),
            Some(Written::Added(_)) => None,
            Some(Written::Unknown) => panic!("read of {}: a versionstamp", key.escape_ascii()),
            None => self.cleared.contains(key).then_some(None),
        }
    }

    /// What a read of `key` returns, if the store holds `fetched` at the read version.
    pub fn merge_get(&self, key: &[u8], fetched: Option<Bytes>) -> Option<Bytes> {
        if let Some(local) = self.local_get(key) {
            return local;
        }
        match self.written.get(key) {
            Some(Written::Added(operand)) => Some(added(fetched.as_deref(), *operand)),
            _ => fetched,
        }
    }

    /// Notes that `key` was read: the commit conflicts with others' writes to it.
    pub fn record_get(&mut self, key: &Bytes) {
        let own = match self.written.get(key) {
            Some(written) => written.hides_store(),
            None => self.cleared.contains(key),
        };
        if !own {
            self.read_keys.insert(key.clone());
        }
    }

    /// The same as [`TxnBuffer::record_get`]: conflicts as if `key` had been read.
    pub fn add_read_conflict(&mut self, key: &Bytes) {
        self.record_get(key);
    }

    /// Conflicts as if `range` had been read, except where this transaction has written itself.
    pub fn add_read_conflict_range(&mut self, range: &KeyRange) {
        let points = self.written_in(range).filter(|(_, written)| written.hides_store());
        let mut own: Vec<_> = points.map(|(key, _)| KeyRange::point(key)).collect();
        own.extend(self.cleared.overlapping(range));
        own.sort_by(|a, b| a.begin.cmp(&b.begin));

        let mut begin = range.begin.clone();
        for own in own {
            self.read_ranges.insert(KeyRange::new(begin.clone(), own.begin));
            begin = begin.max(own.end);
        }
        self.read_ranges.insert(KeyRange::new(begin, range.end.clone()));
    }

    /// What a read of `range` returns, if `page` is a page of it as the store holds it at the read
    /// version. At most `limit` rows; 0 for no limit. `page` may have been fetched with any limit.
    pub fn merge_range(
        &self,
        range: &KeyRange,
        page: RangePage,
        limit: usize,
        reverse: bool,
    ) -> MergedPage {
        let mut covered = range.clone();
        let mut more = page.more;
        if more {
            let (last, _) = page.rows.last().expect("a page with more has rows");
            covered.end_at(last, reverse);
        }
        let mut merged: BTreeMap<Bytes, Bytes> = page.rows.into_iter().collect();
        merged.retain(|key, _| !self.cleared.contains(key));
        for (key, written) in self.written_in(&covered) {
            let value = match written {
                Written::Value(value) => value.clone(),
                Written::Added(operand) => {
                    Some(added(merged.get(key).map(|value| &value[..]), *operand))
                }
                Written::Unknown => panic!("read of {}: a versionstamp", key.escape_ascii()),
            };
            match value {
                Some(value) => merged.insert(key.clone(), value),
                None => merged.remove(key),
            };
        }
        let mut rows: Vec<_> = merged.into_iter().collect();
        if reverse {
            rows.reverse();
        }
        if limit > 0 && rows.len() > limit {
            rows.truncate(limit);
            covered.end_at(&rows[limit - 1].0, reverse);
            more = true;
        }
        MergedPage { rows, more, covered }
    }

    /// The request that commits the transaction, whose reads were made at `read_version`.
    pub fn into_commit(self, read_version: Version) -> CommitRequest {
        CommitRequest {
            read_version,
            read_keys: self.read_keys.into_iter().collect(),
            read_ranges: self.read_ranges.into_ranges(),
            write_conflicts: self.write_conflicts,
            mutations: self.mutations,
        }
    }

    fn written_in(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, &Written)> {
        let end = (&range.end).max(&range.begin);
        self.written.range::<[u8], _>(within(&range.begin, end))
    }
}

impl Written {
    /// Whether a read of the key would not depend on what the store holds.
    fn hides_store(&self) -> bool {
        !matches!(self, Written::Added(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    fn range(begin: &'static str, end: &'static str) -> KeyRange {
        KeyRange::new(begin, end)
    }

    fn page(rows: &[(&'static str, &'static str)], more: bool) -> RangePage {
        RangePage { rows: rows.iter().map(|(k, v)| (key(k), key(v))).collect(), more }
    }

    #[test]
    fn own_writes_are_read_and_do_not_conflict() {
        let mut txn = TxnBuffer::new();
        txn.set(key("a"), key("1"));
        txn.clear(key("b"));
        txn.clear_range(range("m", "p"));
        txn.set(key("n"), key("2"));
        assert_eq!(txn.local_get(b"a"), Some(Some(key("1"))));
        assert_eq!(txn.local_get(b"b"), Some(None));
        assert_eq!(txn.local_get(b"o"), Some(None));
        assert_eq!(txn.local_get(b"n"), Some(Some(key("2"))));
        assert_eq!(txn.local_get(b"p"), None);
        for name in ["a", "b", "n", "o"] {
            txn.record_get(&key(name));
        }
        txn.record_get(&key("z"));
        txn.add_read_conflict_range(&range("a", "o"));
        let commit = txn.into_commit(Version(1));
        assert_eq!(commit.read_keys, [key("z")]);
        let read = [range("a\0", "b"), range("b\0", "m")];
        assert_eq!(commit.read_ranges, read);
    }

    #[test]
    fn a_read_before_the_write_still_conflicts() {
        let mut txn = TxnBuffer::new();
        txn.record_get(&key("a"));
        txn.add_read_conflict_range(&range("c", "e"));
        txn.set(key("a"), key("1"));
        txn.clear_range(range("c", "e"));
        let commit = txn.into_commit(Version(1));
        assert_eq!((commit.read_keys, commit.read_ranges), (vec![key("a")], vec![range("c", "e")]));
    }

    #[test]
    fn adds_wait_for_the_stored_value_and_conflict_when_read() {
        let mut txn = TxnBuffer::new();
        txn.add(key("n"), 2);
        txn.add(key("n"), 3);
        assert_eq!(txn.local_get(b"n"), None);
        let stored = Bytes::copy_from_slice(&10u64.to_le_bytes());
        assert_eq!(txn.merge_get(b"n", Some(stored)).unwrap()[..], 15u64.to_le_bytes());
        txn.record_get(&key("n"));
        txn.clear_range(range("n", "o"));
        txn.add(key("n"), 4);
        assert_eq!(txn.local_get(b"n").unwrap().unwrap()[..], 4u64.to_le_bytes());
        assert_eq!(txn.into_commit(Version(1)).read_keys, [key("n")]);
    }

    #[test]
    fn a_cut_page_shows_no_own_write_beyond_the_cut() {
        let mut txn = TxnBuffer::new();
        txn.set(key("b"), key("own"));
        txn.set(key("d"), key("own"));
        txn.clear(key("c"));
        let merged =
            txn.merge_range(&range("a", "z"), page(&[("a", "1"), ("c", "1")], true), 0, false);
        assert_eq!(merged.rows, page(&[("a", "1"), ("b", "own")], true).rows);
        assert_eq!((merged.more, merged.covered), (true, range("a", "c\0")));

        let merged =
            txn.merge_range(&range("a", "z"), page(&[("y", "1"), ("x", "1")], true), 0, true);
        assert_eq!(merged.covered, range("x", "z"));
        assert_eq!(merged.rows, page(&[("y", "1"), ("x", "1")], true).rows);

        let merged = txn.merge_range(&range("a", "z"), page(&[("a", "1")], false), 2, false);
        assert_eq!(merged.rows, page(&[("a", "1"), ("b", "own")], true).rows);
        assert_eq!((merged.more, merged.covered), (true, range("a", "b\0")));
    }

    #[test]
    fn a_page_of_rows_cleared_here_says_where_to_go_on() {
        let mut txn = TxnBuffer::new();
        txn.clear_range(range("a", "c"));
        let merged =
            txn.merge_range(&range("a", "z"), page(&[("a", "1"), ("b", "1")], true), 2, false);
        assert_eq!((merged.rows.len(), merged.more), (0, true));
        assert_eq!(merged.covered, range("a", "b\0"));
    }
}
