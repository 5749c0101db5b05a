//! What one connection has to send: two bounded lanes of frames, and the bytes staged for writing.
//!
//! Small frames are laid side by side and leave with one write; payloads are written from where
//! they are. A payload's checksum is taken piece by piece just before the piece is written, while
//! it is warm in the cache. Frames are never interleaved: a control frame waits for at most the
//! bulk frame that has begun.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{BufMut, Bytes, BytesMut};
use t3fs_runtime::wire::{Crc32c, Frame, FrameKind};

use super::frame::{Head, Kind, fits};
use crate::peers::Limits;

/// Bytes staged ahead of the socket.
const STAGE: usize = 512 << 10;
/// Payloads are staged in pieces of this size.
const PIECE: usize = 128 << 10;
/// Shorter pieces are copied beside their head: cheaper than one more slice.
const COPY_MAX: usize = 4 << 10;
/// First size of the buffer that small things are laid into.
const SMALL: usize = 32 << 10;
/// Slices of one write.
pub(crate) const SLICES: usize = 16;

/// Frames and bytes that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

#[derive(Default)]
struct Lanes {
    queues: [VecDeque<Frame>; 2],
    /// Asks, then replies: the former can be refused, the latter have a larger bound.
    load: [Load; 2],
}

/// The payloads of the frame that is being staged.
struct Tail {
    bulks: VecDeque<Bytes>,
    crc: Crc32c,
}

pub(crate) struct Outbox {
    bounds: [Load; 2],
    lanes: Lanes,
    ping: bool,
    pong: bool,
    sequence: u32,
    tail: Option<Tail>,
    small: BytesMut,
    staged: VecDeque<Bytes>,
    staged_bytes: usize,
    pub(crate) frames_staged: u64,
}

fn is_reply(frame: &Frame) -> usize {
    usize::from(matches!(frame.kind, FrameKind::Reply | FrameKind::Refused))
}

fn size(frame: &Frame) -> usize {
    frame.payload.body.len() + bulk_bytes(frame)
}

fn bulk_bytes(frame: &Frame) -> usize {
    frame.payload.bulks.iter().map(|b| b.len()).sum()
}

impl Outbox {
    pub(crate) fn new(limits: &Limits) -> Outbox {
        Outbox {
            bounds: [
                Load { frames: limits.queue_frames, bytes: limits.queue_bytes },
                Load { frames: limits.reply_frames, bytes: limits.reply_bytes },
            ],
            lanes: Lanes::default(),
            ping: false,
            pong: false,
            sequence: 0,
            tail: None,
            small: BytesMut::new(),
            staged: VecDeque::new(),
            staged_bytes: 0,
            frames_staged: 0,
        }
    }

    /// Queues a frame behind those of its lane. A frame may always wait alone.
    pub(crate) fn push(&mut self, frame: Frame) -> Result<(), &'static str> {
        let p = &frame.payload;
        if !fits(p.body.len(), p.bulks.len(), bulk_bytes(&frame)) {
            return Err("the message is larger than a frame may be");
        }
        let (class, size) = (is_reply(&frame), size(&frame));
        let (load, bound) = (&mut self.lanes.load[class], self.bounds[class]);
        let full = load.frames >= bound.frames || load.bytes + size > bound.bytes;
        if full && load.frames > 0 {
            return Err("the link's queue is full");
        }
        load.frames += 1;
        load.bytes += size;
        self.lanes.queues[frame.lane as usize].push_back(frame);
        Ok(())
    }

    pub(crate) fn ping(&mut self) {
        self.ping = true;
    }

    pub(crate) fn pong(&mut self) {
        self.pong = true;
    }

    /// Whether nothing waits, staged or not.
    pub(crate) fn is_empty(&self) -> bool {
        self.staged.is_empty() && !self.has_more()
    }

    fn has_more(&self) -> bool {
        self.tail.is_some()
            || self.ping
            || self.pong
            || self.lanes.queues.iter().any(|q| !q.is_empty())
    }

    /// What waits behind the staged bytes.
    pub(crate) fn load(&self) -> Load {
        let [asks, replies] = self.lanes.load;
        Load { frames: asks.frames + replies.frames, bytes: asks.bytes + replies.bytes }
    }

    /// Empties the lanes; the asks among what waited, which were certainly not sent.
    pub(crate) fn take_unsent(&mut self) -> Vec<u64> {
        let lanes = std::mem::take(&mut self.lanes);
        let asks = lanes.queues.into_iter().flatten().filter(|f| is_reply(f) == 0);
        asks.map(|f| f.ask).collect()
    }

    /// Fills the stage from the lanes, control first.
    pub(crate) fn stage(&mut self) {
        while self.staged_bytes + self.small.len() < STAGE {
            if self.tail.is_some() {
                self.stage_piece();
            } else if !self.stage_frame() {
                break;
            }
        }
        self.flush_small();
    }

    fn stage_frame(&mut self) -> bool {
        if std::mem::take(&mut self.pong) {
            self.stage_bare(Kind::Pong);
            return true;
        }
        if std::mem::take(&mut self.ping) {
            self.stage_bare(Kind::Ping);
            return true;
        }
        let [control, bulk] = &mut self.lanes.queues;
        let Some(frame) = control.pop_front().or_else(|| bulk.pop_front()) else {
            return false;
        };
        let load = &mut self.lanes.load[is_reply(&frame)];
        load.frames -= 1;
        load.bytes -= size(&frame);
        let bytes = bulk_bytes(&frame);
        let (body, mut table) = (&frame.payload.body, Vec::new());
        for b in &frame.payload.bulks {
            table.extend_from_slice(&(b.len() as u32).to_le_bytes());
        }
        let mut crc = Crc32c::default();
        crc.update(&table);
        crc.update(body);
        let head = Head {
            kind: Kind::Message(frame.kind),
            lane: frame.lane,
            slot: frame.slot,
            epoch: frame.epoch,
            sequence: self.sequence,
            ask: frame.ask,
            ttl_us: frame.ttl_us,
            body: body.len() as u32,
            bulks: frame.payload.bulks.len() as u32,
            bulk_bytes: bytes as u32,
            rest_crc: crc.value(),
        };
        self.stage_head(head, &table);
        if body.len() <= COPY_MAX {
            self.small.extend_from_slice(body);
        } else {
            self.stage_big(body.clone());
        }
        if bytes > 0 {
            let bulks = frame.payload.bulks.into_iter().map(|b| b.0).collect();
            self.tail = Some(Tail { bulks, crc: Crc32c::default() });
        }
        true
    }

    fn stage_bare(&mut self, kind: Kind) {
        let head = Head::bare(kind, self.sequence);
        self.stage_head(head, &[]);
    }

    /// Head and lengths.
    fn stage_head(&mut self, head: Head, table: &[u8]) {
        if self.small.capacity() - self.small.len() < COPY_MAX {
            self.small.reserve(SMALL);
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.frames_staged += 1;
        self.small.extend_from_slice(&head.encode());
        self.small.extend_from_slice(table);
    }

    /// The next piece of the payloads, or their checksum behind the last.
    fn stage_piece(&mut self) {
        let tail = self.tail.as_mut().expect("called with a tail");
        let Some(first) = tail.bulks.front_mut() else {
            let crc = tail.crc.value();
            self.small.put_u32_le(crc);
            self.tail = None;
            return;
        };
        let piece = first.split_to(first.len().min(PIECE));
        if first.is_empty() {
            tail.bulks.pop_front();
        }
        tail.crc.update(&piece);
        if piece.len() <= COPY_MAX {
            self.small.extend_from_slice(&piece);
        } else {
            self.stage_big(piece);
        }
    }

    fn stage_big(&mut self, bytes: Bytes) {
        self.flush_small();
        self.staged_bytes += bytes.len();
        self.staged.push_back(bytes);
    }

    fn flush_small(&mut self) {
        if !self.small.is_empty() {
            let small = self.small.split().freeze();
            self.staged_bytes += small.len();
            self.staged.push_back(small);
        }
    }

    /// The first staged bytes, for one write; how many slices were set.
    pub(crate) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut n = 0;
        for (slot, bytes) in into.iter_mut().zip(&self.staged) {
            *slot = IoSlice::new(bytes);
            n += 1;
        }
        n
    }

    /// The socket has taken so many of the staged bytes.
    pub(crate) fn written(&mut self, mut n: usize) {
        self.staged_bytes -= n;
        while n > 0 {
            let first = self.staged.front_mut().expect("no more is written than was staged");
            if first.len() > n {
                let _ = first.split_to(n);
                return;
            }
            n -= first.len();
            self.staged.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use t3fs_runtime::wire::{Payload, crc32c};
    use t3fs_runtime::{Bulk, Lane, NodeId};

    use super::super::frame::HEAD;
    use super::*;

    fn frame(kind: FrameKind, lane: Lane, ask: u64, bulk: usize) -> Frame {
        let bulks = if bulk > 0 { vec![Bulk::from(vec![ask as u8; bulk])] } else { vec![] };
        Frame {
            kind,
            lane,
            shard: 0,
            slot: 0,
            epoch: 1,
            from_node: NodeId(1),
            from_shard: 0,
            ask,
            ttl_us: 1,
            payload: Payload { body: Bytes::from_static(b"body"), bulks },
        }
    }

    /// All bytes, through writes of at most `step` bytes.
    fn drain(o: &mut Outbox, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            o.stage();
            if o.is_empty() {
                return all;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let n = o.slices(&mut slices);
            let mut left = step;
            for s in &slices[..n] {
                let take = s.len().min(left);
                all.extend_from_slice(&s[..take]);
                left -= take;
            }
            o.written(step - left);
        }
    }

    fn asks_of(bytes: &[u8]) -> Vec<u64> {
        let (mut at, mut asks) = (0, Vec::new());
        while at < bytes.len() {
            let h = Head::decode(bytes[at..at + HEAD].try_into().unwrap()).unwrap();
            assert_eq!(h.sequence as usize, asks.len());
            at += HEAD;
            assert_eq!(crc32c(&bytes[at..at + h.rest()]), h.rest_crc);
            at += h.rest();
            if h.bulk_bytes > 0 {
                let bulk = &bytes[at..at + h.bulk_bytes as usize];
                assert!(bulk.iter().all(|b| *b == h.ask as u8));
                at += bulk.len();
                assert_eq!(crc32c(bulk).to_le_bytes(), bytes[at..at + 4]);
                at += 4;
            }
            asks.push(h.ask);
        }
        asks
    }

    /// Goal: however the socket takes the bytes, they are the same, control first, in order per
    /// lane.
    #[test]
    fn control_goes_first_and_bytes_are_whole() {
        for step in [1 << 20, 100_000, 4096, 17] {
            let mut o = Outbox::new(&Limits::default());
            o.push(frame(FrameKind::Ask, Lane::Bulk, 1, 300_000)).unwrap();
            o.push(frame(FrameKind::Ask, Lane::Bulk, 2, 4096)).unwrap();
            o.push(frame(FrameKind::Reply, Lane::Control, 3, 0)).unwrap();
            o.push(frame(FrameKind::Ask, Lane::Control, 4, 5)).unwrap();
            assert_eq!(asks_of(&drain(&mut o, step)), [3, 4, 1, 2], "writes of {step}");
            assert_eq!(o.load(), Load::default());
        }
    }

    #[test]
    fn queues_are_bounded_and_one_frame_always_fits() {
        let limits = Limits { queue_frames: 3, queue_bytes: 1000, ..Limits::default() };
        let mut o = Outbox::new(&limits);
        o.push(frame(FrameKind::Ask, Lane::Bulk, 1, 5000)).unwrap();
        assert!(o.push(frame(FrameKind::Ask, Lane::Bulk, 2, 1)).is_err());
        assert!(o.push(frame(FrameKind::Reply, Lane::Bulk, 3, 5000)).is_ok(), "replies apart");
        drain(&mut o, 4096);
        for ask in 0..3 {
            o.push(frame(FrameKind::Ask, Lane::Control, ask, 0)).unwrap();
        }
        assert!(o.push(frame(FrameKind::Ask, Lane::Control, 3, 0)).is_err());
        assert_eq!(o.take_unsent(), [0, 1, 2]);
    }

    #[test]
    fn an_oversize_frame_is_refused() {
        let mut o = Outbox::new(&Limits::default());
        let big = frame(FrameKind::Ask, Lane::Bulk, 1, t3fs_runtime::wire::BULK_MAX + 1);
        assert!(o.push(big).unwrap_err().contains("larger"));
    }
}
