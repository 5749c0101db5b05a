//! Payloads put together from what arrives, in order: kept where they lie, or copied.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::pool::HeapPool;

/// Shorter payloads are copied: they would keep a whole piece.
const KEEP_MIN: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Gather {
    /// Of those that are not whole.
    lengths: VecDeque<usize>,
    building: BytesMut,
    done: Vec<Bytes>,
}

impl Gather {
    pub(super) fn new(lengths: impl IntoIterator<Item = usize>) -> Gather {
        let lengths = lengths.into_iter().collect();
        let mut gather = Gather { lengths, ..Gather::default() };
        gather.pass_empty();
        gather
    }

    pub(super) fn is_whole(&self) -> bool {
        self.lengths.is_empty()
    }

    pub(super) fn into_parts(self) -> Vec<Bytes> {
        self.done
    }

    /// The next bytes, no more than are missing. Those of `shared` may stay where they are.
    pub(super) fn feed_shared(&mut self, shared: &Bytes, heap: &HeapPool) {
        let mut at = 0;
        while at < shared.len() {
            let len = self.lengths[0];
            if self.building.is_empty() && len >= KEEP_MIN && shared.len() - at >= len {
                self.done.push(shared.slice(at..at + len));
                self.lengths.pop_front();
                self.pass_empty();
                at += len;
            } else {
                at += self.copy(&shared[at..], heap);
            }
        }
    }

    /// The same, always copied.
    pub(super) fn feed(&mut self, bytes: &[u8], heap: &HeapPool) {
        let mut at = 0;
        while at < bytes.len() {
            at += self.copy(&bytes[at..], heap);
        }
    }

    fn copy(&mut self, bytes: &[u8], heap: &HeapPool) -> usize {
        let len = self.lengths[0];
        if self.building.is_empty() {
            self.building = heap.take(len);
        }
        let n = bytes.len().min(len - self.building.len());
        self.building.extend_from_slice(&bytes[..n]);
        if self.building.len() == len {
            self.done.push(heap.lend(std::mem::take(&mut self.building)));
            self.lengths.pop_front();
            self.pass_empty();
        }
        n
    }

    fn pass_empty(&mut self) {
        while self.lengths.front() == Some(&0) {
            self.lengths.pop_front();
            self.done.push(Bytes::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: payloads are the same however their bytes are cut, and only whole large ones stay.
    #[test]
    fn payloads_come_together() {
        let heap = HeapPool::default();
        let all: Bytes = (0..100_000u32).map(|n| n as u8).collect::<Vec<_>>().into();
        let lengths = [0, 10, 40_000, 0, 59_990, 0];
        for step in [7, 1000, 45_000, 100_000] {
            let mut gather = Gather::new(lengths);
            let mut at = 0;
            while at < all.len() {
                assert!(!gather.is_whole());
                let end = (at + step).min(all.len());
                gather.feed_shared(&all.slice(at..end), &heap);
                at = end;
            }
            assert!(gather.is_whole());
            let parts = gather.into_parts();
            assert_eq!(parts.iter().map(Bytes::len).collect::<Vec<_>>(), lengths);
            assert_eq!(parts.concat(), all);
            let stays = parts.iter().filter(|p| all.as_ptr_range().contains(&p.as_ptr())).count();
            assert_eq!(stays >= 2, step == 100_000, "steps of {step}");
        }
        assert!(Gather::new([0, 0]).is_whole() && Gather::new([]).is_whole());
    }
}
