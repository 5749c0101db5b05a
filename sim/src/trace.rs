//! The log of a run: always a hash of every event, text only when somebody reads it.
//!
//! Two runs of one seed give the same hash, and the same text byte for byte; the hash covers what
//! the text leaves out (every poll), so a divergence shows even in a run that printed nothing.

use std::cell::{Cell, RefCell};
use std::fmt;

/// Takes the lines of a log, each without its line feed.
pub type Sink = Box<dyn FnMut(&str)>;

#[derive(Default)]
pub struct Trace {
    hash: Cell<u64>,
    events: Cell<u64>,
    sink: RefCell<Option<Sink>>,
    verbose: Cell<bool>,
}

impl Trace {
    pub fn write_to(&self, sink: Sink) {
        self.verbose.set(true);
        *self.sink.borrow_mut() = Some(sink);
    }

    /// Adds a word to the hash only.
    pub fn mix(&self, word: u64) {
        let h = self.hash.get().rotate_left(23) ^ word;
        self.hash.set(h.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    }

    /// One event: `words` identify it in the hash, `text` in the log. `format_args!` costs nothing
    /// while nobody reads.
    pub fn event(&self, at_us: u64, words: &[u64], text: fmt::Arguments<'_>) {
        self.events.set(self.events.get() + 1);
        self.mix(at_us);
        for w in words {
            self.mix(*w);
        }
        if self.verbose.get()
            && let Some(sink) = self.sink.borrow_mut().as_mut()
        {
            sink(&format!("{:>6}.{:06} {text}", at_us / 1_000_000, at_us % 1_000_000));
        }
    }

    /// Digest of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }

    pub fn events(&self) -> u64 {
        self.events.get()
    }
}

/// FNV-1a, for words that stand for text or bytes in the hash.
pub fn digest(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01B3))
}
