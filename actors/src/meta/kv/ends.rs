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
        match self.0.last() {
            _ if found == Version(0) => return,
            // Nothing was committed since the list was written.
            Some(last) if opening(*last) == opening(found) => return,
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
