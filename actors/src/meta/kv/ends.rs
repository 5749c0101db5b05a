//! Which versions a crash has taken.
//!
//! A store that crashes comes back with a prefix of its batches. When the resolver opens it, the
//! last version that it finds is therefore the *end* of the opening that committed it: later
//! versions of that opening are gone for good, and of an opening without any version in the store
//! nothing is left. The resolver appends that end to a list and writes the list in the first batch
//! of the new opening. That batch is a commit with a version of its own, so an opening is in the
//! list exactly if its first batch survived:
//!
//! ```text
//! opening 1   commits 1:1 .. 1:9, crash, 1:5 is left   list: (empty)
//! opening 2   commits 2:1 .. 2:4, crash, 1:5 is left   list: 1:5   (lost with 2:1)
//! opening 3   commits 3:1 .. 3:7                       list: 1:5
//!             1:5 survived, 1:6 and 2:1 did not
//! ```
//!
//! A list that is lost with its batch loses no knowledge: what it said beyond the list before it
//! follows from the version that is found now.
//!
//! *Limits.* The list keeps [`ENDS_MAX`] openings. When it is full, an opening goes that committed
//! nothing but its first batch, so that a process that restarts in a loop does not push the others
//! out; else the oldest goes. A version of an opening that is not in the list has not survived, as
//! far as anybody can tell: whoever asks gets an error rather than a promise that may be a lie. To
//! be told so wrongly takes a client that kept a version through 256 openings with commits between.
//!
//! ```text
//! \xff/ends   ([version u64 big-endian]) *   in ascending order
//! ```

use bytes::Bytes;

use super::{KvError, Version};

/// Bits of a version that count commits since the store was opened.
pub(super) const COUNT_BITS: u32 = 40;
/// Earlier openings whose end is known.
pub const ENDS_MAX: usize = 256;

/// The last version that survived of each earlier opening, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends(Vec<Version>);

/// Which opening of the store committed it.
pub(super) fn opening(version: Version) -> u64 {
    version.0 >> COUNT_BITS
}

/// Whether its opening committed nothing but its first batch.
fn is_first(version: Version) -> bool {
    version.0 & ((1 << COUNT_BITS) - 1) == 1
}

impl Ends {
    pub fn open(stored: Option<&[u8]>) -> Result<Ends, KvError> {
        let (ends, rest) = stored.unwrap_or_default().as_chunks::<8>();
        let ends: Vec<_> = ends.iter().map(|end| Version(u64::from_be_bytes(*end))).collect();
        if !rest.is_empty() || !ends.is_sorted() {
            return Err(KvError::Store("corrupt: the list of ends".into()));
        }
        Ok(Ends(ends))
    }

    pub fn seal(&self) -> Bytes {
        self.0.iter().flat_map(|end| end.0.to_be_bytes()).collect()
    }

    /// Takes in the version that an opening finds in the store; 0 if it is new.
    pub fn note(&mut self, found: Version) {
        match self.0.last_mut() {
            _ if found == Version(0) => {}
            // One store under a second resolver.
            Some(last) if opening(*last) == opening(found) => *last = found.max(*last),
            _ => self.0.push(found),
        }
        if self.0.len() > ENDS_MAX {
            let empty = self.0.iter().position(|end| is_first(*end));
            self.0.remove(empty.unwrap_or(0));
        }
    }

    /// Whether a version of an earlier opening survived.
    pub fn survived(&self, version: Version) -> bool {
        let at = self.0.binary_search_by_key(&opening(version), |end| opening(*end));
        at.is_ok_and(|at| version <= self.0[at])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CommitRequest, MemoryDisk, Mutation, Resolver};
    use super::*;
    use proptest::prelude::*;

    fn commit(kv: &mut Resolver) -> Version {
        let mutations = vec![Mutation::Set { key: "a".into(), value: "1".into() }];
        kv.commit(0, CommitRequest { mutations, ..Default::default() }).unwrap().version
    }

    fn open_on(disk: &MemoryDisk) -> (Resolver, Version) {
        let mut kv = Resolver::open(Box::new(disk.open())).unwrap();
        let version = kv.read_version(0).unwrap();
        (kv, version)
    }

    /// Goal: a later crash does not make an earlier loss forgotten, nor take what was kept. Method:
    /// two crashes in a row, with no commit between them.
    #[test]
    fn a_loss_stays_known_after_another_crash() {
        let disk = MemoryDisk::new();
        disk.hold_syncs(true);
        let (mut kv, _) = open_on(&disk);
        let (kept, lost) = (commit(&mut kv), commit(&mut kv));
        disk.crash_keeping(2);
        for _ in 0..2 {
            let (kv, first) = open_on(&disk);
            assert!(kv.survived(kept) && kv.survived(first));
            assert!(!kv.survived(lost) && !kv.survived(Version(first.0 + 1)));
            disk.crash();
        }
        let (kv, _) = open_on(&disk);
        assert!(kv.survived(kept) && !kv.survived(lost));
    }

    /// Goal: a process that restarts in a loop does not make anybody's commits unknown, and the
    /// list stays short.
    #[test]
    fn openings_without_commits_go_first_from_a_full_list() {
        let mut ends = Ends::default();
        let version = |opening: u64, count: u64| Version(opening << COUNT_BITS | count);
        ends.note(Version(0));
        ends.note(version(1, 7));
        for opening in 2..3 * ENDS_MAX as u64 {
            ends.note(version(opening, 1));
        }
        assert!(ends.0.len() == ENDS_MAX && ends.survived(version(1, 7)));
        assert!(!ends.survived(version(1, 8)) && !ends.survived(version(2, 1)));
        assert_eq!(Ends::open(Some(&ends.seal())), Ok(ends.clone()));
        assert!(Ends::open(Some(&ends.seal()[1..])).is_err());
        for opening in 1000..1000 + ENDS_MAX as u64 {
            ends.note(version(opening, 2));
        }
        assert!(ends.0.len() == ENDS_MAX && !ends.survived(version(1, 7)));
    }

    proptest! {
        /// Goal: what is said of every version ever given is the truth. Method: random commits,
        /// syncs, restarts and crashes that keep some batches; the model is the list of the
        /// batches that the disk holds.
        #[test]
        fn survived_is_exact(steps in prop::collection::vec((0u8..12, 0usize..6), 1..120)) {
            let disk = MemoryDisk::new();
            disk.hold_syncs(true);
            let (mut kv, first) = open_on(&disk);
            let (mut given, mut held, mut durable) = (vec![first], vec![first], 0);
            for (what, keep) in steps {
                match what {
                    0..7 => {
                        let version = commit(&mut kv);
                        given.push(version);
                        held.push(version);
                    }
                    7 => {
                        kv.sync(Box::new(|_| ()));
                        disk.end_syncs(disk.syncs_held());
                        durable = held.len();
                    }
                    _ => {
                        if what > 8 {
                            disk.crash_keeping(keep);
                            held.truncate(durable + keep);
                            durable = held.len();
                        }
                        let (next, version) = open_on(&disk);
                        kv = next;
                        given.push(version);
                        held.push(version);
                    }
                }
                for version in &given {
                    prop_assert_eq!(kv.survived(*version), held.contains(version));
                }
            }
        }
    }
}
