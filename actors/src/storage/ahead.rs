//! Read-ahead: what clients that read in sequence will ask for next, read before they do.
//!
//! Synchronous. A hint starts a read of one range of one chunk; the read that comes for it takes
//! the bytes, or waits for them. They are used only while the version they are of is still the
//! committed one, so a hint never makes a read see anything that it would not see without.

use std::collections::VecDeque;

use t3fs_runtime::{Bell, Slot};

use super::engine::Read;
use crate::proto::ids::ChunkId;

/// Bytes that one target keeps for hints; the oldest go first.
pub const READ_AHEAD_BYTES_MAX: usize = 16 << 20;
/// Hints remembered, whatever their size.
const HINTS_MAX: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChunkRange {
    pub(super) chunk: ChunkId,
    pub(super) offset: u32,
    pub(super) len: u32,
}

enum State {
    /// For the reads that wait for it.
    Reading(Bell),
    Here(Read),
}

/// What there is for a read.
pub(super) enum HintedRead {
    Here(Read),
    /// The bytes are on their way: look again then.
    Soon(Slot<()>),
    Nothing,
}

#[derive(Default)]
pub(super) struct Ahead {
    hints: VecDeque<Hint>,
    bytes: usize,
    next: u64,
}

struct Hint {
    number: u64,
    range: ChunkRange,
    state: State,
}

impl Ahead {
    /// A number if the caller should read this range, and then tell [`Ahead::read`].
    pub(super) fn begin(&mut self, range: ChunkRange) -> Option<u64> {
        let len = range.len as usize;
        if len > READ_AHEAD_BYTES_MAX / 4 || self.hints.iter().any(|h| h.range == range) {
            return None;
        }
        while self.bytes + len > READ_AHEAD_BYTES_MAX || self.hints.len() == HINTS_MAX {
            self.remove(0);
        }
        self.bytes += len;
        self.next += 1;
        let (number, state) = (self.next, State::Reading(Bell::default()));
        self.hints.push_back(Hint { number, range, state });
        Some(number)
    }

    /// Takes a hint out; who waits for it looks again and finds nothing.
    fn remove(&mut self, at: usize) {
        let hint = self.hints.remove(at).expect("it is there");
        self.bytes -= hint.range.len as usize;
        wake(hint.state);
    }

    /// Forgets everything: what a version means may change.
    pub(super) fn clear(&mut self) {
        while !self.hints.is_empty() {
            self.remove(0);
        }
    }

    /// The read of a range has ended; nothing is kept of one that failed or was dropped meanwhile.
    pub(super) fn read(&mut self, number: u64, read: Option<Read>) {
        let Some(at) = self.hints.iter().position(|h| h.number == number) else { return };
        match read {
            Some(read) => wake(std::mem::replace(&mut self.hints[at].state, State::Here(read))),
            None => self.remove(at),
        }
    }

    /// Takes what a hint has brought.
    pub(super) fn take(&mut self, range: ChunkRange) -> HintedRead {
        let Some(at) = self.hints.iter().position(|h| h.range == range) else {
            return HintedRead::Nothing;
        };
        if let State::Reading(bell) = &mut self.hints[at].state {
            return HintedRead::Soon(bell.wait());
        }
        self.bytes -= range.len as usize;
        match self.hints.remove(at).map(|h| h.state) {
            Some(State::Here(read)) => HintedRead::Here(read),
            _ => unreachable!("it was not being read"),
        }
    }
}

fn wake(state: State) {
    if let State::Reading(mut bell) = state {
        bell.ring(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ids::ChunkVersion;

    fn range(offset: u32, len: u32) -> ChunkRange {
        ChunkRange { chunk: ChunkId::default(), offset, len }
    }

    fn read() -> Read {
        Read { version: ChunkVersion(1), chunk_len: 9, data: Default::default() }
    }

    /// Goal: a hint is read once, waited for, taken once; a failed one leaves nothing.
    #[test]
    fn a_hint_is_taken_once() {
        let mut a = Ahead::default();
        let first = a.begin(range(0, 100)).expect("it is new");
        assert_eq!(a.begin(range(0, 100)), None);
        let HintedRead::Soon(slot) = a.take(range(0, 100)) else { panic!("it is being read") };
        a.read(first, Some(read()));
        assert!(futures::FutureExt::now_or_never(slot).is_some());
        assert!(matches!(a.take(range(0, 100)), HintedRead::Here(_)));
        assert!(matches!(a.take(range(0, 100)), HintedRead::Nothing));
        let second = a.begin(range(5, 5)).expect("it is new");
        a.read(second, None);
        assert!(matches!(a.take(range(5, 5)), HintedRead::Nothing));
        assert_eq!((a.bytes, a.hints.len()), (0, 0));
    }

    /// Goal: hints that nobody comes for are bounded in bytes and number.
    #[test]
    fn old_hints_make_room() {
        let mut a = Ahead::default();
        for i in 0..100 {
            let number = a.begin(range(i, 1 << 20)).expect("it is new");
            a.read(number, Some(read()));
            assert!(a.bytes <= READ_AHEAD_BYTES_MAX);
        }
        assert!(matches!(a.take(range(0, 1 << 20)), HintedRead::Nothing));
        assert!(matches!(a.take(range(99, 1 << 20)), HintedRead::Here(_)));
        for i in 0..1000 {
            a.begin(range(i, 1));
        }
        assert!(a.hints.len() <= HINTS_MAX);
        assert_eq!(a.begin(range(0, u32::MAX)), None, "too long to be kept");
        a.clear();
        assert_eq!((a.bytes, a.hints.len()), (0, 0));
    }
}
