//! Bytes to be sent, brought into registered memory piece by piece.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::rdma::dock::{Dock, Purpose};
use crate::rdma::memory::{PIECE_MAX, PoolPiece};

/// Bytes that lie in the pool are sent from there when there are so many in one place.
const BORROW_MIN: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Source {
    parts: VecDeque<Bytes>,
    left: usize,
}

impl Source {
    pub(super) fn new(parts: impl IntoIterator<Item = Bytes>) -> Source {
        let parts: VecDeque<Bytes> = parts.into_iter().filter(|p| !p.is_empty()).collect();
        let left = parts.iter().map(Bytes::len).sum();
        Source { parts, left }
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// The next bytes, at most `max`; `None`: there is no memory for them now, or nothing is left.
    pub(super) fn next(&mut self, max: usize, dock: &Dock) -> Option<PoolPiece> {
        let stays = |part: &Bytes| part.len() >= BORROW_MIN && dock.pool.locate(part);
        let first = self.parts.front_mut()?;
        if stays(first) {
            let part = first.split_to(first.len().min(max).min(PIECE_MAX));
            if first.is_empty() {
                self.parts.pop_front();
            }
            self.left -= part.len();
            return PoolPiece::borrowed(&dock.pool, part);
        }
        let run = self.parts.iter().take_while(|p| !stays(p)).map(Bytes::len).sum::<usize>();
        let mut piece = dock.take_some(Purpose::Segment, run.min(max))?;
        let n = run.min(max).min(piece.capacity());
        self.copy(&mut piece.as_mut_slice()[..n]);
        piece.set_len(n);
        Some(piece)
    }

    fn copy(&mut self, mut into: &mut [u8]) {
        self.left -= into.len();
        while !into.is_empty() {
            let first = self.parts.front_mut().expect("no more is taken than is there");
            let n = first.len().min(into.len());
            let (now, later) = into.split_at_mut(n);
            now.copy_from_slice(&first.split_to(n));
            into = later;
            if first.is_empty() {
                self.parts.pop_front();
            }
        }
    }
}
