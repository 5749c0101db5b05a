//! Which changes of names and attributes this client was told of that may not be on stable storage
//! yet. An fsync of a file names the newest of its own, and fails when the metadata store has lost
//! it.
//!
//! A change is forgotten when a barrier that covers it has been answered; in the background one is
//! sent now and then while there are any, so that the list stays short. A barrier speaks only for
//! the run of the store that its stamp is of. What a run has lost is forgotten when it was told.

use std::collections::{BTreeMap, BTreeSet};

use crate::proto::ids::InodeId;
use crate::proto::meta::Stamp;

/// Beyond it the oldest are forgotten: they are seconds old, and stores sync within 50 ms.
const STAMPS_MAX: usize = 1 << 16;
/// What these take, in bytes; a third of a map is gaps.
pub const CHANGES_BYTES_MAX: usize = STAMPS_MAX * 3 / 2 * size_of::<((InodeId, u64), Stamp)>();

#[derive(Default)]
pub(super) struct Stamps {
    /// The newest change of each inode, and of this directory's entries, in each run.
    newest: BTreeMap<(InodeId, u64), Stamp>,
    /// Runs that have lost something.
    lossy: BTreeSet<u64>,
}

impl Stamps {
    /// A change of this inode, or of this directory's entries, was acknowledged.
    pub(super) fn note(&mut self, inode: InodeId, stamp: Stamp) {
        let newest = self.newest.entry((inode, stamp.run())).or_default();
        *newest = stamp.max(*newest);
        if self.newest.len() > STAMPS_MAX {
            let oldest = self.newest.iter().min_by_key(|(_, s)| **s).map(|(key, _)| *key);
            oldest.map(|key| self.newest.remove(&key));
        }
    }

    /// Changes of this inode that may not be durable: of each run the newest.
    pub(super) fn of(&self, inode: InodeId) -> impl Iterator<Item = Stamp> + use<'_> {
        self.newest.range((inode, 0)..=(inode, u64::MAX)).map(|(_, stamp)| *stamp)
    }

    /// The same, to be noted by another shard of the process.
    pub(super) fn give(&mut self, inode: InodeId) -> Vec<Stamp> {
        let all: Vec<Stamp> = self.of(inode).collect();
        self.newest.retain(|(of, _), _| *of != inode);
        all
    }

    /// Whether all changes that this client was told of are durable, or their users know better.
    pub(super) fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    /// The newest change of the oldest run that has any; what runs may have lost is left to fsync.
    pub(super) fn next_barrier(&self) -> Option<Stamp> {
        let whole = || self.newest.values().filter(|s| !self.lossy.contains(&s.run()));
        let run = whole().map(|s| s.run()).min()?;
        whole().filter(|s| s.run() == run).max().copied()
    }

    /// All changes of this stamp's run up to it are durable.
    pub(super) fn durable(&mut self, stamp: Stamp) {
        self.newest.retain(|_, s| s.run() != stamp.run() || *s > stamp);
        self.forget_runs();
    }

    /// The run of this stamp has lost it, and perhaps others before it.
    pub(super) fn suspect(&mut self, stamp: Stamp) {
        self.lossy.insert(stamp.run());
    }

    /// A change of an inode is lost, and its users are told now. `false`: they were before.
    pub(super) fn told(&mut self, inode: InodeId, stamp: Stamp) -> bool {
        let first = self.newest.remove(&(inode, stamp.run())).is_some();
        self.forget_runs();
        first
    }

    fn forget_runs(&mut self) {
        let newest = &self.newest;
        self.lossy.retain(|run| newest.values().any(|s| s.run() == *run));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u64 = 1 << 40;

    fn of(s: &Stamps, inode: u64) -> Vec<u64> {
        s.of(InodeId(inode)).map(|s| s.0).collect()
    }

    #[test]
    fn a_barrier_forgets_what_it_covers() {
        let mut s = Stamps::default();
        s.note(InodeId(1), Stamp(5));
        s.note(InodeId(1), Stamp(3)); // answers may overtake each other
        s.note(InodeId(2), Stamp(7));
        assert_eq!((of(&s, 1), s.next_barrier()), (vec![5], Some(Stamp(7))));
        s.durable(Stamp(5));
        assert_eq!((of(&s, 1), of(&s, 2)), (vec![], vec![7]));
        assert!(!s.is_empty());
        s.durable(Stamp(7));
        assert!(s.is_empty());
    }

    /// Goal: a barrier that a later run of the store answered says nothing of an earlier run, which
    /// may have lost its end.
    #[test]
    fn a_later_run_does_not_vouch_for_an_earlier_one() {
        let mut s = Stamps::default();
        s.note(InodeId(1), Stamp(RUN + 9));
        s.note(InodeId(2), Stamp(2 * RUN + 1));
        s.durable(Stamp(2 * RUN + 1));
        assert_eq!((of(&s, 1), s.next_barrier()), (vec![RUN + 9], Some(Stamp(RUN + 9))));
        s.note(InodeId(1), Stamp(2 * RUN + 2)); // a change that came after the loss
        assert_eq!(of(&s, 1), [RUN + 9, 2 * RUN + 2]);
        s.durable(Stamp(2 * RUN + 2));
        assert_eq!((of(&s, 1), s.next_barrier()), (vec![RUN + 9], Some(Stamp(RUN + 9))));
    }

    /// Goal: a loss is told, however many runs come after it. Regression (issue 10): of two runs
    /// that an inode had changes of before the present one, the older was forgotten.
    #[test]
    fn what_runs_lost_is_left_to_fsync() {
        let mut s = Stamps::default();
        for run in [1, 2, 3] {
            s.note(InodeId(1), Stamp(run * RUN + 9));
        }
        for run in [1, 2] {
            assert_eq!(s.next_barrier(), Some(Stamp(run * RUN + 9)));
            s.suspect(Stamp(run * RUN + 9));
        }
        s.durable(Stamp(3 * RUN + 9));
        assert_eq!((of(&s, 1), s.next_barrier()), (vec![RUN + 9, 2 * RUN + 9], None));
        assert!(s.told(InodeId(1), Stamp(RUN + 9)));
        assert!(!s.told(InodeId(1), Stamp(RUN + 9)));
        assert_eq!(of(&s, 1), [2 * RUN + 9]);
    }
}
