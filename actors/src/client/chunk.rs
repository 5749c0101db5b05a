//! The write buffer of one chunk: disjoint dirty ranges, and at most one range in flight to
//! storage. All of them are readable, dirty ones on top. Synchronous.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use t3fs_runtime::{Bell, Slot, Time};

/// Dirty ranges of one chunk; the next one that touches none of them waits for a flight.
pub(super) const RANGES_MAX: usize = 64;
/// Pieces of one range; more are copied into one.
const PARTS_MAX: usize = 256;

/// A contiguous range of dirty bytes of one chunk, in pieces as they were written.
struct Dirty {
    start: u32,
    len: u32,
    parts: Vec<Bytes>,
    since: Time,
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

    /// Adds the pieces that hold the bytes `[from, to)` of the chunk.
    fn pieces(&self, from: u32, to: u32, out: &mut Vec<Bytes>) {
        let mut at = self.start;
        for p in &self.parts {
            let end = at + p.len() as u32;
            let (a, b) = (from.max(at), to.min(end));
            if a < b {
                out.push(p.slice((a - at) as usize..(b - at) as usize));
            }
            at = end;
        }
    }
}

/// A range on its way to storage.
pub(super) struct Flight {
    pub(super) start: u32,
    pub(super) data: Bytes,
    since: Time,
}

impl Flight {
    fn end(&self) -> u32 {
        self.start + self.data.len() as u32
    }
}

/// Dirty and flying bytes of one chunk.
#[derive(Default)]
pub(super) struct ChunkBuffer {
    /// By start; no two touch.
    dirty: BTreeMap<u32, Dirty>,
    flying: Option<Flight>,
    /// What became dirty until then is to go, one flight after the other.
    wanted: Option<Time>,
    /// For the tasks that wait for the flight to end.
    landed: Bell,
}

/// What a write did to its chunk's buffer.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Put {
    /// Taken; `full`: the range reaches the chunk's end, and should go now.
    Taken { added: usize, full: bool },
    /// There are too many ranges already: some have to go first.
    Apart,
}

impl ChunkBuffer {
    /// Adds bytes at `at`, over what is there.
    pub(super) fn put(&mut self, at: u32, data: &Bytes, chunk_size: u32, now: Time) -> Put {
        let len = data.len() as u32;
        let end = at + len;
        debug_assert!(end <= chunk_size);
        let full = end == chunk_size;
        let touched = self.dirty.range(..=end).rev().take_while(|(_, d)| d.end() >= at);
        let touched: Vec<u32> = touched.map(|(start, _)| *start).collect();
        let [last, .., first] = touched[..] else {
            let Some(only) = touched.first().and_then(|s| self.dirty.get_mut(s)) else {
                if self.dirty.len() >= RANGES_MAX {
                    return Put::Apart;
                }
                let parts = vec![data.clone()];
                self.dirty.insert(at, Dirty { start: at, len, parts, since: now });
                return Put::Taken { added: data.len(), full };
            };
            if at == only.end() {
                only.parts.push(data.clone());
                only.len += len;
                if only.parts.len() > PARTS_MAX {
                    only.flat();
                }
                return Put::Taken { added: data.len(), full };
            }
            let start = only.start;
            return Put::Taken { added: self.merge(start, start, at, data), full };
        };
        Put::Taken { added: self.merge(first, last, at, data), full }
    }

    /// Makes one range of those that start at `first` to `last` and the data; how many bytes came
    /// in addition.
    fn merge(&mut self, first: u32, last: u32, at: u32, data: &Bytes) -> usize {
        let end = at + data.len() as u32;
        let starts: Vec<u32> = self.dirty.range(first..=last).map(|(s, _)| *s).collect();
        let old: Vec<Dirty> = starts.iter().filter_map(|s| self.dirty.remove(s)).collect();
        let (left, right) = (&old[0], &old[old.len() - 1]);
        let start = at.min(left.start);
        let stop = end.max(right.end());
        let mut parts = Vec::new();
        left.pieces(left.start, at, &mut parts);
        parts.push(data.clone());
        right.pieces(end, right.end(), &mut parts);
        let since = old.iter().map(|d| d.since).min().expect("at least one");
        let mut merged = Dirty { start, len: stop - start, parts, since };
        if merged.parts.len() > PARTS_MAX {
            merged.flat();
        }
        let before: u32 = old.iter().map(|d| d.len).sum();
        let added = merged.len - before;
        self.dirty.insert(start, merged);
        added as usize
    }

    /// When the oldest dirty byte became dirty.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.dirty.values().map(|d| d.since).min()
    }

    pub(super) fn is_flying(&self) -> bool {
        self.flying.is_some()
    }

    /// Fills when the flight that is under way has ended; `None` when there is none.
    pub(super) fn landing(&mut self) -> Option<Slot<()>> {
        self.is_flying().then(|| self.landed.wait())
    }

    /// From now on what is dirty at this moment goes, one flight after the other.
    pub(super) fn send(&mut self, now: Time) {
        self.wanted = Some(now);
    }

    /// Moves the oldest range that was sent into flight. `None` when there is none, or one is
    /// flying already.
    pub(super) fn take_off(&mut self) -> Option<(u32, Bytes)> {
        if self.flying.is_some() {
            return None;
        }
        let wanted = self.wanted?;
        let (since, start) = self.dirty.values().map(|d| (d.since, d.start)).min()?;
        if since > wanted {
            return None;
        }
        let data = self.dirty.remove(&start)?.flat();
        self.flying = Some(Flight { start, data: data.clone(), since });
        Some((start, data))
    }

    /// The flight is over. The bell is to be rung for those who have waited for it.
    #[must_use]
    pub(super) fn land(&mut self) -> Bell {
        self.flying = None;
        std::mem::take(&mut self.landed)
    }

    /// Drops everything that was sent and has not taken off: it would fail as the flight before it
    /// did. Gives how many bytes.
    pub(super) fn drop_sent(&mut self) -> usize {
        let Some(wanted) = self.wanted.take() else { return 0 };
        let before: usize = self.dirty.values().map(|d| d.len as usize).sum();
        self.dirty.retain(|_, d| d.since > wanted);
        before - self.dirty.values().map(|d| d.len as usize).sum::<usize>()
    }

    /// Behind the last buffered byte.
    pub(super) fn end(&self) -> u32 {
        let dirty = self.dirty.values().next_back().map_or(0, Dirty::end);
        dirty.max(self.flying.as_ref().map_or(0, Flight::end))
    }

    /// Whether something is still on its way that was dirty at that moment.
    pub(super) fn holds(&self, at: Time) -> bool {
        let flying = self.flying.as_ref().map(|f| f.since);
        flying.into_iter().chain(self.oldest()).any(|since| since <= at)
    }

    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.flying.is_none()
    }

    /// Whether any dirty byte lies in `[from, to)`.
    fn dirties(&self, from: u32, to: u32) -> bool {
        self.dirty.range(..to).next_back().is_some_and(|(_, d)| from < d.end())
    }

    /// Whether any buffered byte lies in `[from, to)`.
    pub(super) fn touches(&self, from: u32, to: u32) -> bool {
        let flies = |f: &Flight| f.start < to && from < f.end();
        self.dirties(from, to) || self.flying.as_ref().is_some_and(flies)
    }

    /// The bytes `[from, to)` if the buffer alone has them all.
    pub(super) fn covers(&mut self, from: u32, to: u32) -> Option<Bytes> {
        if let Some((_, d)) = self.dirty.range_mut(..=from).next_back()
            && to <= d.end()
        {
            let (a, b) = ((from - d.start) as usize, (to - d.start) as usize);
            return Some(d.flat().slice(a..b));
        }
        if self.dirties(from, to) {
            return None; // part dirty, part not: the flight alone would be stale
        }
        let f = self.flying.as_ref()?;
        (f.start <= from && to <= f.end())
            .then(|| f.data.slice((from - f.start) as usize..(to - f.start) as usize))
    }

    /// Drops dirty bytes from `len` on; gives how many.
    pub(super) fn cut(&mut self, len: u32) -> usize {
        let mut dropped: usize = self.dirty.split_off(&len).values().map(|d| d.len as usize).sum();
        if let Some((_, d)) = self.dirty.iter_mut().next_back()
            && d.end() > len
        {
            let keep = len - d.start;
            dropped += (d.len - keep) as usize;
            let flat = d.flat().slice(..keep as usize);
            d.parts = vec![flat];
            d.len = keep;
        }
        dropped
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
        assert_eq!(b.covers(6, 16).unwrap(), &b"XYZbcdefgh"[..]);
        assert!(b.take_off().is_none(), "nobody has sent it");
        b.send(Time::from_us(1));
        assert_eq!(b.take_off().unwrap(), (6, Bytes::from_static(b"XYZbcdefgh")));
        assert!(b.take_off().is_none());
        put(&mut b, 9, b"new");
        assert_eq!(b.covers(9, 12).unwrap(), &b"new"[..]);
        assert_eq!(b.covers(6, 16), None, "the flight alone would show old bytes at 9");
        assert!(b.touches(6, 7) && !b.touches(16, 60));
        assert_eq!(b.cut(10), 2);
        assert_eq!(b.covers(9, 10).unwrap(), &b"n"[..]);
        assert_eq!(b.cut(0), 1);
        assert!(b.dirty.is_empty());
    }

    /// Goal: random writes, cuts and flights never lose or mix a byte. Method: beside a plain
    /// array of what is buffered; every range is read back after every step.
    #[test]
    fn ranges_are_what_was_written() {
        const SIZE: usize = 64;
        let mut seed = 1u64;
        let mut next = move |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % n
        };
        for _ in 0..40 {
            let mut b = ChunkBuffer::default();
            let (mut dirty, mut flying) = ([None::<u8>; SIZE], [None::<u8>; SIZE]);
            for step in 1..60u64 {
                match next(8) {
                    0 => {
                        b.send(Time::from_us(step));
                        if let Some((start, data)) = b.take_off() {
                            flying = [None; SIZE];
                            for (i, byte) in data.iter().enumerate() {
                                let at = start as usize + i;
                                assert_eq!(dirty[at].take(), Some(*byte));
                                flying[at] = Some(*byte);
                            }
                        }
                    }
                    1 => {
                        b.land().ring(());
                        flying = [None; SIZE];
                    }
                    2 => {
                        let len = next(SIZE as u64 + 1) as usize;
                        let gone = dirty[len..].iter_mut().filter_map(Option::take).count();
                        assert_eq!(b.cut(len as u32), gone);
                    }
                    _ => {
                        let at = next(SIZE as u64) as usize;
                        let len = 1 + next((SIZE - at).min(9) as u64) as usize;
                        let data: Vec<u8> = (0..len).map(|_| next(256) as u8).collect();
                        let was = dirty.iter().flatten().count();
                        for (i, byte) in data.iter().enumerate() {
                            dirty[at + i] = Some(*byte);
                        }
                        let added = dirty.iter().flatten().count() - was;
                        let now = Time::from_us(step);
                        let done = b.put(at as u32, &data.into(), SIZE as u32, now);
                        assert_eq!(done, Put::Taken { added, full: at + len == SIZE });
                    }
                }
                for from in 0..SIZE {
                    for to in from + 1..SIZE {
                        let d = &dirty[from..to];
                        let all = |m: &[Option<u8>]| m.iter().copied().collect::<Option<Vec<_>>>();
                        let want = match all(d) {
                            Some(bytes) => Some(bytes),
                            None if d.iter().all(Option::is_none) => all(&flying[from..to]),
                            None => None,
                        };
                        assert_eq!(b.covers(from as u32, to as u32).map(|x| x.to_vec()), want);
                        let any =
                            dirty[from..to].iter().chain(&flying[from..to]).any(Option::is_some);
                        assert_eq!(b.touches(from as u32, to as u32), any);
                    }
                }
            }
        }
    }

    #[test]
    fn a_range_at_the_chunks_end_is_full_and_ranges_are_bounded() {
        let mut b = ChunkBuffer::default();
        assert_eq!(put(&mut b, 60, b"abcd"), Put::Taken { added: 4, full: true });
        let byte = Bytes::from_static(b"x");
        for i in 1..RANGES_MAX as u32 {
            let done = b.put(100 + 2 * i, &byte, 1000, Time::from_us(2));
            assert_eq!(done, Put::Taken { added: 1, full: false });
        }
        assert_eq!(b.put(900, &byte, 1000, Time::from_us(2)), Put::Apart);
        assert_eq!((b.oldest(), b.holds(Time::from_us(0))), (Some(Time::from_us(1)), false));
    }
}
