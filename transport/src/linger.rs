//! Whether to look for the next bytes a little longer before sleeping.
//!
//! Waking a parked shard costs as long as many round trips. With several requests in flight, both
//! sides of a link would otherwise work and sleep in turns: each takes a batch, answers it with one
//! write, and parks while the other does the same. So after a batch the reader keeps its shard
//! awake for about as long as a wake-up costs (spin-then-block; Karlin, Li, Manasse and Owicki
//! 1991: never more than twice the best cost). A lone request in flight is not worth it, and a peer
//! that is slow to answer is soon not lingered for.

use std::time::{Duration, Instant};

/// A wake-up on another core costs 35 to 120 us on small virtual machines.
const LONGEST: Duration = Duration::from_micros(100);
/// Frames since the last wait that tell of several requests in flight.
const BATCH_MIN: u32 = 4;
/// After misses in a row, 1, 2, 4 .. 2^this batches are not lingered behind.
const SKIP_LOG_MAX: u32 = 8;

#[derive(Default)]
pub(crate) struct Linger {
    frames: u32,
    until: Option<Instant>,
    misses: u32,
    skip: u32,
}

impl Linger {
    /// A frame has come.
    pub(crate) fn frame(&mut self) {
        self.frames = self.frames.saturating_add(1);
    }

    /// There is nothing at the moment: whether to look again at once.
    pub(crate) fn again(&mut self, now: impl Fn() -> Instant) -> bool {
        if let Some(until) = self.until {
            if now() < until {
                return true;
            }
            self.until = None;
            self.skip = 1 << self.misses;
            self.misses = (self.misses + 1).min(SKIP_LOG_MAX);
            return false;
        }
        let batch = std::mem::take(&mut self.frames) >= BATCH_MIN;
        if !batch {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.until = Some(now() + LONGEST);
        true
    }

    /// Something is there.
    pub(crate) fn found(&mut self) {
        if self.until.take().is_some() {
            self.misses = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One batch, then nothing for `gap`; whether it was lingered, and found.
    fn batch(l: &mut Linger, frames: u32, gap: Duration) -> (bool, bool) {
        let start = Instant::now();
        (0..frames).for_each(|_| l.frame());
        let lingered = l.again(|| start);
        let found = lingered && l.again(|| start + gap);
        l.found();
        (lingered, found)
    }

    #[test]
    fn batches_that_are_soon_followed_are_lingered_behind() {
        let mut l = Linger::default();
        for _ in 0..100 {
            assert_eq!(batch(&mut l, 16, LONGEST / 2), (true, true));
            assert_eq!(batch(&mut l, 1, LONGEST / 2), (false, false), "a lone request");
        }
    }

    /// Goal: a slow peer costs next to nothing, and one that has become fast is soon noticed.
    #[test]
    fn a_slow_peer_is_hardly_lingered_for() {
        let mut l = Linger::default();
        let slow = (0..5000).filter(|_| batch(&mut l, 16, LONGEST * 2).0).count();
        assert!((5..40).contains(&slow), "{slow}");
        let fast = (0..1000).filter(|_| batch(&mut l, 16, LONGEST / 2).1).count();
        assert!(fast > 700, "{fast}");
    }
}
