//! What the client keeps of a file that is open or being written: its length, and its dirty ranges.
//!
//! Synchronous. Per chunk there is at most one contiguous dirty range, and at most one range in
//! flight to storage; both are readable, the dirty one on top.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use t3fs_runtime::{Slot, Time};

use super::FsError;
use crate::proto::meta::Attr;

/// A contiguous range of dirty bytes of one chunk.
pub(super) struct Dirty {
    pub(super) start: u32,
    len: u32,
    parts: Vec<Bytes>,
    pub(super) since: Time,
}

impl Dirty {
    fn end(&self) -> u32 {
        self.start + self.len
    }

    fn flat(&mut self) -> Bytes {
        if self.parts.len() != 1 {
            let mut all = BytesMut::with_capacity(self.len as usize);
            for p in &self.parts {
                all.extend_from_slice(p);
            }
            self.parts = vec![all.freeze()];
        }
        self.parts[0].clone()
    }
}

/// Dirty and flying bytes of one chunk.
#[derive(Default)]
pub(super) struct ChunkBuffer {
    pub(super) dirty: Option<Dirty>,
    pub(super) flying: Option<(u32, Bytes)>,
    /// Who waits for the flight to end.
    pub(super) landed: Vec<Slot<()>>,
}

/// What a write did to its chunk's buffer.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Put {
    /// Taken; `full`: the range reaches the chunk's end, or cannot grow, and should go now.
    Taken { added: usize, full: bool },
    /// It does not touch the dirty range: that has to go first.
    Apart,
}

impl ChunkBuffer {
    /// Adds bytes at `at`, over what is there.
    pub(super) fn put(&mut self, at: u32, data: &Bytes, chunk_size: u32, now: Time) -> Put {
        let end = at + data.len() as u32;
        debug_assert!(end <= chunk_size);
        let Some(d) = &mut self.dirty else {
            self.dirty = Some(Dirty {
                start: at,
                len: data.len() as u32,
                parts: vec![data.clone()],
                since: now,
            });
            return Put::Taken { added: data.len(), full: end == chunk_size };
        };
        if at > d.end() || end < d.start {
            return Put::Apart;
        }
        let before = d.len;
        if at == d.end() {
            d.parts.push(data.clone());
            d.len += data.len() as u32;
        } else {
            let (start, stop) = (at.min(d.start), end.max(d.end()));
            let old = d.flat();
            let mut all = BytesMut::zeroed((stop - start) as usize);
            let o = (d.start - start) as usize;
            all[o..o + old.len()].copy_from_slice(&old);
            let n = (at - start) as usize;
            all[n..n + data.len()].copy_from_slice(data);
            d.start = start;
            d.len = stop - start;
            d.parts = vec![all.freeze()];
        }
        Put::Taken { added: (d.len - before) as usize, full: d.end() == chunk_size }
    }

    /// Moves the dirty range into flight. `None` when there is none or one is flying already.
    pub(super) fn take_off(&mut self) -> Option<(u32, Bytes)> {
        if self.flying.is_some() {
            return None;
        }
        let mut d = self.dirty.take()?;
        self.flying = Some((d.start, d.flat()));
        self.flying.clone()
    }

    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_none() && self.flying.is_none()
    }

    /// Whether any buffered byte lies in `[from, to)`.
    pub(super) fn touches(&self, from: u32, to: u32) -> bool {
        let hit = |s: u32, e: u32| s < to && from < e;
        self.dirty.as_ref().is_some_and(|d| hit(d.start, d.end()))
            || self.flying.as_ref().is_some_and(|(s, b)| hit(*s, s + b.len() as u32))
    }

    /// The bytes `[from, to)` if the buffer alone has them all.
    pub(super) fn covers(&mut self, from: u32, to: u32) -> Option<Bytes> {
        if let Some(d) = &mut self.dirty {
            if d.start <= from && to <= d.end() {
                let (a, b) = ((from - d.start) as usize, (to - d.start) as usize);
                return Some(d.flat().slice(a..b));
            }
            if d.start < to && from < d.end() {
                return None; // part dirty, part not: the flight alone would be stale
            }
        }
        let (start, b) = self.flying.as_ref()?;
        let end = start + b.len() as u32;
        (*start <= from && to <= end)
            .then(|| b.slice((from - start) as usize..(to - start) as usize))
    }

    /// Drops dirty bytes from `len` on; gives how many.
    pub(super) fn cut(&mut self, len: u32) -> usize {
        let Some(d) = &mut self.dirty else { return 0 };
        if d.end() <= len {
            return 0;
        }
        let before = d.len;
        if d.start >= len {
            self.dirty = None;
            return before as usize;
        }
        let keep = len - d.start;
        let flat = d.flat().slice(..keep as usize);
        d.parts = vec![flat];
        d.len = keep;
        (before - keep) as usize
    }
}

/// A file that is open or has data on its way.
pub(super) struct File {
    /// As meta last told, with what this client did since.
    pub(super) attr: RefCell<Attr>,
    pub(super) opens: Cell<u32>,
    pub(super) chunks: RefCell<BTreeMap<u32, ChunkBuffer>>,
    /// The length or times have changed and meta does not know.
    pub(super) unreported: Cell<bool>,
    pub(super) length_unreported: Cell<bool>,
    pub(super) clear_suid: Cell<bool>,
    /// The last name is gone; content goes with the last close.
    pub(super) held: Cell<bool>,
    /// A background failure, told to the next flush or fsync.
    pub(super) error: RefCell<Option<FsError>>,
    /// Truncation is under way: writes, reads and flushes wait in line.
    pub(super) gate: super::data::Gate,
}

impl File {
    pub(super) fn new(attr: Attr) -> File {
        File {
            attr: RefCell::new(attr),
            opens: Cell::new(0),
            chunks: RefCell::default(),
            unreported: Cell::new(false),
            length_unreported: Cell::new(false),
            clear_suid: Cell::new(false),
            held: Cell::new(false),
            error: RefCell::default(),
            gate: super::data::Gate::default(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.opens.get() == 0 && !self.unreported.get() && self.chunks.borrow().is_empty()
    }

    /// What meta says now, with what it does not know yet laid over.
    pub(super) fn merge(&self, mut fresh: Attr) -> Attr {
        let mine = self.attr.borrow();
        if fresh.truncations == mine.truncations {
            fresh.length = fresh.length.max(mine.length);
        }
        if self.unreported.get() {
            fresh.mtime_ns = fresh.mtime_ns.max(mine.mtime_ns);
            fresh.ctime_ns = fresh.ctime_ns.max(mine.ctime_ns);
        }
        drop(mine);
        *self.attr.borrow_mut() = fresh.clone();
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(b: &mut ChunkBuffer, at: u32, bytes: &[u8]) -> Put {
        b.put(at, &Bytes::copy_from_slice(bytes), 64, Time::from_us(1))
    }

    /// Goal: a buffer reads back what was written, newest on top. Method: appends, overlaps on
    /// either side, a flight in between.
    #[test]
    fn ranges_merge_and_newest_wins() {
        let mut b = ChunkBuffer::default();
        assert_eq!(put(&mut b, 8, b"abcd"), Put::Taken { added: 4, full: false });
        assert_eq!(put(&mut b, 12, b"efgh"), Put::Taken { added: 4, full: false });
        assert_eq!(put(&mut b, 6, b"XYZ"), Put::Taken { added: 2, full: false });
        assert_eq!(put(&mut b, 30, b"far"), Put::Apart);
        assert_eq!(b.covers(6, 16).unwrap(), &b"XYZbcdefgh"[..]);
        assert_eq!(b.take_off().unwrap(), (6, Bytes::from_static(b"XYZbcdefgh")));
        assert!(b.take_off().is_none());
        put(&mut b, 9, b"new");
        assert_eq!(b.covers(9, 12).unwrap(), &b"new"[..]);
        assert_eq!(b.covers(6, 16), None, "the flight alone would show old bytes at 9");
        assert!(b.touches(6, 7) && !b.touches(16, 60));
        assert_eq!(b.cut(10), 2);
        assert_eq!(b.covers(9, 10).unwrap(), &b"n"[..]);
        assert_eq!(b.cut(0), 1);
        assert!(b.dirty.is_none());
    }

    #[test]
    fn a_range_at_the_chunks_end_is_full() {
        let mut b = ChunkBuffer::default();
        assert_eq!(put(&mut b, 60, b"abcd"), Put::Taken { added: 4, full: true });
    }
}
