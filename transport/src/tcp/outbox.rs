//! Frames laid out as bytes of a stream, staged for writing.
//!
//! Small frames are laid side by side and leave with one write; payloads are written from where
//! they are. A payload's checksum is taken piece by piece just before the piece is written, while
//! it is warm in the cache. Frames are never interleaved: a control frame waits for at most the
//! bulk frame that has begun.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use t3fs_runtime::Lane;
use t3fs_runtime::wire::{Crc32c, Frame};

use crate::frame::{Head, Kind};
use crate::lanes::{Lanes, bulk_bytes};

/// Bytes staged ahead of the socket.
const STAGE: usize = 512 << 10;
/// Payloads are staged in pieces of this size.
const PIECE: usize = 128 << 10;
/// Shorter pieces are copied beside their head: cheaper than one more slice.
const COPY_MAX: usize = 4 << 10;
/// First size of the buffer that small things are laid into.
const SMALL: usize = 32 << 10;
const _: () = assert!(COPY_MAX < SMALL && SMALL < STAGE && COPY_MAX < PIECE && 2 * PIECE <= STAGE);

/// The payloads of the frame that is being staged.
struct Tail {
    bulks: VecDeque<Bytes>,
    crc: Crc32c,
}

#[derive(Default)]
pub(crate) struct Outbox {
    sequence: u32,
    tail: Option<Tail>,
    small: BytesMut,
    staged: VecDeque<Bytes>,
    staged_bytes: usize,
    pub(crate) frames_staged: u64,
}

impl Outbox {
    /// Whether everything staged is written. Payloads of a frame may be left to stage.
    pub(crate) fn is_empty(&self) -> bool {
        self.staged.is_empty() && self.tail.is_none()
    }

    /// Fills the stage from the lanes, control first.
    pub(crate) fn stage(&mut self, lanes: &mut Lanes) {
        while self.staged_bytes + self.small.len() < STAGE {
            if self.tail.is_some() {
                self.stage_piece();
            } else if lanes.take_pong() {
                self.stage_bare(Kind::Pong);
            } else if lanes.take_ping() {
                self.stage_bare(Kind::Ping);
            } else if let Some(frame) = lanes.take(Lane::Control).or_else(|| lanes.take(Lane::Bulk))
            {
                self.stage_frame(frame);
            } else {
                break;
            }
        }
        self.flush_small();
        self.staged.make_contiguous();
    }

    fn stage_frame(&mut self, frame: Frame) {
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

    /// What is staged, for one write.
    pub(crate) fn staged(&self) -> &[Bytes] {
        let (staged, wrapped) = self.staged.as_slices();
        assert!(wrapped.is_empty(), "laid out when it was staged");
        staged
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
    use t3fs_runtime::wire::{FrameKind, Payload, crc32c};
    use t3fs_runtime::{Bulk, NodeId};

    use super::*;
    use crate::frame::HEAD;
    use crate::limits::LinkLimits;

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
            reply_room: 0,
            caller: None,
            older: None,
            payload: Payload { body: Bytes::from_static(b"body"), bulks },
        }
    }

    /// All bytes, through writes of at most `step` bytes.
    fn drain(o: &mut Outbox, lanes: &mut Lanes, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            o.stage(lanes);
            if o.is_empty() {
                return all;
            }
            let mut left = step;
            for s in o.staged() {
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
            let (mut o, mut lanes) = (Outbox::default(), Lanes::new(&LinkLimits::default()));
            lanes.push(frame(FrameKind::Ask, Lane::Bulk, 1, 300_000)).unwrap();
            lanes.push(frame(FrameKind::Ask, Lane::Bulk, 2, 4096)).unwrap();
            lanes.push(frame(FrameKind::Reply, Lane::Control, 3, 0)).unwrap();
            lanes.push(frame(FrameKind::Ask, Lane::Control, 4, 5)).unwrap();
            assert_eq!(asks_of(&drain(&mut o, &mut lanes, step)), [3, 4, 1, 2], "writes of {step}");
            assert!(o.is_empty() && lanes.is_empty());
        }
    }
}
