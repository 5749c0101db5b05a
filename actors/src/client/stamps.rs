//! Which changes of names and attributes this client was told of that may not be on stable storage
//! yet. An fsync of a file names the newest of its own, and fails when the metadata store has lost
//! it.
//!
//! A change is forgotten when a barrier that covers it has been answered; in the background one is
//! sent now and then while there are any, so that the list stays short. A barrier speaks only for
//! the run of the store that its stamp is of.

use std::collections::BTreeMap;

use crate::proto::ids::InodeId;
use crate::proto::meta::Stamp;

/// Beyond it the oldest are forgotten: they are seconds old, and stores sync within 50 ms.
const STAMPS_MAX: usize = 1 << 16;

#[derive(Default)]
pub(super) struct Stamps {
    newest: BTreeMap<InodeId, Stamp>,
    /// Of runs that have lost something: some of these may be lost.
    suspects: BTreeMap<InodeId, Stamp>,
}

fn note(into: &mut BTreeMap<InodeId, Stamp>, inode: InodeId, stamp: Stamp) {
    let newest = into.entry(inode).or_default();
    *newest = stamp.max(*newest);
    if into.len() > STAMPS_MAX {
        let oldest = into.iter().min_by_key(|(_, s)| **s).map(|(i, _)| *i);
        oldest.map(|i| into.remove(&i));
    }
}

impl Stamps {
    /// A change of this inode, or of this directory's entries, was acknowledged.
    pub(super) fn note(&mut self, inode: InodeId, stamp: Stamp) {
        // What it replaces may be of a run that lost it.
        if let Some(before) = self.newest.get(&inode).copied()
            && before.run() != stamp.run()
        {
            note(&mut self.suspects, inode, before);
        }
        note(&mut self.newest, inode, stamp);
    }

    /// Changes of this inode that may not be durable: of each run the newest.
    pub(super) fn of(&self, inode: InodeId) -> impl Iterator<Item = Stamp> + use<> {
        let both = [self.suspects.get(&inode).copied(), self.newest.get(&inode).copied()];
        both.into_iter().flatten()
    }

    /// The newest change of the oldest run that has any; suspects are left to fsync.
    pub(super) fn next_barrier(&self) -> Option<Stamp> {
        let run = self.newest.values().map(|s| s.run()).min()?;
        self.newest.values().filter(|s| s.run() == run).max().copied()
    }

    /// All changes of this stamp's run up to it are durable.
    pub(super) fn durable(&mut self, stamp: Stamp) {
        let stays = |s: &Stamp| s.run() != stamp.run() || *s > stamp;
        self.newest.retain(|_, s| stays(s));
        self.suspects.retain(|_, s| stays(s));
    }

    /// The run of this stamp has lost it, and perhaps others before it.
    pub(super) fn suspect(&mut self, stamp: Stamp) {
        let lost: Vec<_> = self.newest.iter().filter(|(_, s)| s.run() == stamp.run()).collect();
        let lost: Vec<_> = lost.into_iter().map(|(i, s)| (*i, *s)).collect();
        for (inode, stamp) in lost {
            self.newest.remove(&inode);
            note(&mut self.suspects, inode, stamp);
        }
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
        assert_eq!((of(&s, 1), s.next_barrier()), (vec![RUN + 9], None));
    }

    #[test]
    fn what_a_run_lost_is_left_to_fsync() {
        let mut s = Stamps::default();
        s.note(InodeId(1), Stamp(RUN + 9));
        s.suspect(Stamp(RUN + 9));
        assert_eq!((of(&s, 1), s.next_barrier()), (vec![RUN + 9], None));
    }
}
