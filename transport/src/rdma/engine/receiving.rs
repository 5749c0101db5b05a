//! Frames on their way in: put together from packets, fetched segments and landings, and delivered
//! in the order of their lane.

use std::collections::VecDeque;

use bytes::Bytes;
use t3fs_runtime::wire::{Crc32c, Frame, FrameKind, Payload};
use t3fs_runtime::{Bulk, Lane};

use super::gather::Gather;
use super::{Doing, Engine, LANES, Then, WAITING_MAX};
use crate::flow::{Incoming, Lost};
use crate::frame::{Head, Kind, lengths};
use crate::rdma::dock::{Dock, Purpose};
use crate::rdma::memory::{PIECE_MAX, PoolPiece};
use crate::rdma::nic::Remote;
use crate::rdma::packet::{FrameItem, SEGMENTS_MAX, Segment, Way};

/// Fetched pieces with less in them are copied: they would keep memory for little.
const KEEP_MIN: usize = 16 << 10;

/// What has come of one lane and is not delivered.
#[derive(Default)]
pub(super) struct LaneIn {
    queue: VecDeque<Assembly>,
    /// Segments that are not wholly fetched, in order; the first `started` are under way.
    fetches: VecDeque<Fetch>,
    started: usize,
    /// Of the segment that is arriving.
    crc: Crc32c,
    /// Bytes of packets whose frames wait here.
    waiting: usize,
}

impl LaneIn {
    /// Whether a READ is to be started.
    pub(super) fn has_to_fetch(&self) -> bool {
        self.started < self.fetches.len()
    }
}

struct Fetch {
    segment: Segment,
    /// Bytes whose READ was queued.
    asked: u32,
}

/// A frame of which something may be missing.
struct Assembly {
    serial: u64,
    head: Head,
    way: Way,
    /// Bytes of it that came in packets.
    inline: usize,
    /// Lengths and body.
    rest: Gather,
    /// Known once the lengths are.
    payload: Option<Gather>,
    body: Bytes,
    /// Bytes of segments that are still to be announced.
    unannounced: [usize; 2],
    landed_crc: u32,
    landed: Vec<PoolPiece>,
    /// Landings that are being closed.
    closing: usize,
}

impl Assembly {
    fn is_whole(&self) -> bool {
        self.closing == 0 && self.payload.as_ref().is_some_and(Gather::is_whole)
    }

    /// Whether fetched bytes belong to it.
    fn is_fetching(&self) -> bool {
        let segments = self.way == Way::Segments;
        match &self.payload {
            None => true,
            Some(payload) => segments && !payload.is_whole(),
        }
    }

    /// Lengths and body have come: what they say of the payload is looked at.
    fn open_rest(&mut self, rest: Bytes) -> Result<(), &'static str> {
        let mut body = rest;
        let table = body.split_to(4 * self.head.bulks as usize);
        self.payload = Some(Gather::new(lengths(&table, self.head.bulk_bytes)?));
        self.body = body;
        Ok(())
    }
}

fn is_reply(head: &Head) -> bool {
    matches!(head.kind, Kind::Message(FrameKind::Reply | FrameKind::Refused))
}

impl Engine {
    /// Whether so much waits for its turn that no credits are returned.
    pub(super) fn is_holding(&self) -> bool {
        self.lanes.iter().map(|l| l.waiting).sum::<usize>() > WAITING_MAX
    }

    pub(super) fn frame(
        &mut self,
        item: FrameItem<'_>,
        packet: usize,
        dock: &Dock,
    ) -> Result<(), Lost> {
        let head = item.head;
        let (lane, ask) = (head.lane, head.ask);
        if head.sequence != self.sequence_in {
            return Err("a frame is missing or repeated".into());
        }
        self.sequence_in = self.sequence_in.wrapping_add(1);
        if item.rest_in_segments && head.rest() == 0 {
            return Err("nothing in segments".into());
        }
        if self.lanes[lane as usize].queue.back().is_some_and(|a| a.unannounced != [0; 2]) {
            return Err("a frame begins before the one before it is announced".into());
        }
        if self.is_plain(&item) {
            self.hand_over(&head, Bytes::copy_from_slice(item.rest), Vec::new());
            return Ok(());
        }
        let payload = head.bulk_bytes as usize;
        let inline = (item.rest.len() + item.payload.len() + 64).min(packet);
        let mut a = Assembly {
            serial: self.next_serial,
            head,
            way: item.way,
            inline,
            rest: Gather::default(),
            payload: None,
            body: Bytes::new(),
            unannounced: [
                if item.rest_in_segments { head.rest() } else { 0 },
                if item.way == Way::Segments { payload } else { 0 },
            ],
            landed_crc: item.landed_crc,
            landed: Vec::new(),
            closing: 0,
        };
        self.next_serial += 1;
        match item.rest_in_segments {
            true => a.rest = Gather::new([head.rest()]),
            false => a.open_rest(Bytes::copy_from_slice(item.rest))?,
        }
        if let (Way::Inline, Some(gather)) = (item.way, &mut a.payload) {
            gather.feed(item.payload, &dock.heap);
        }
        self.settle_landing(&mut a)?;
        self.note_offer(ask, item.landings);
        let l = &mut self.lanes[lane as usize];
        if l.queue.is_empty() && a.is_whole() {
            self.hand_over_whole(a);
            return Ok(());
        }
        l.waiting += a.inline;
        l.queue.push_back(a);
        self.deliver(lane);
        Ok(())
    }

    /// Whether a frame is all there, nothing is before it, and it settles nothing: as most are.
    fn is_plain(&self, item: &FrameItem<'_>) -> bool {
        let inline = item.way == Way::Inline && !item.rest_in_segments && item.head.bulks == 0;
        inline
            && item.landings.is_empty()
            && self.lanes[item.head.lane as usize].queue.is_empty()
            && (self.landings.is_empty() || !is_reply(&item.head))
    }

    /// A reply ends its ask's landing: closed, then delivered or given back.
    fn settle_landing(&mut self, a: &mut Assembly) -> Result<(), Lost> {
        let landing = if is_reply(&a.head) { self.landings.remove(&a.head.ask) } else { None };
        let landed = a.way == Way::Landed;
        let Some(landing) = landing else {
            return if landed { Err("memory was not offered for this".into()) } else { Ok(()) };
        };
        if landed && a.head.bulk_bytes as usize > landing.bytes {
            return Err("more was landed than there was room".into());
        }
        for id in landing.exposures {
            if landed {
                let exposure = self.exposures.get_mut(&id).expect("open until now");
                exposure.then = Then::Deliver { lane: a.head.lane, serial: a.serial };
                a.closing += 1;
            }
            self.close(id);
        }
        Ok(())
    }

    pub(super) fn segment(&mut self, lane: Lane, segment: Segment) -> Result<(), Lost> {
        let l = &mut self.lanes[lane as usize];
        let a = l.queue.back_mut().filter(|a| a.unannounced != [0; 2]);
        let a = a.ok_or("a segment of no frame")?;
        let part = usize::from(a.unannounced[0] == 0);
        let len = segment.region.len as usize;
        if len == 0 || len > PIECE_MAX || len > a.unannounced[part] {
            return Err("a segment of impossible length".into());
        }
        if l.fetches.len() >= SEGMENTS_MAX {
            return Err("more segments than may be announced".into());
        }
        a.unannounced[part] -= len;
        l.fetches.push_back(Fetch { segment, asked: 0 });
        Ok(())
    }

    /// Queues READs of what is announced, control first, as far as there is memory.
    pub(super) fn start_reads(&mut self, dock: &Dock) {
        for lane in LANES {
            loop {
                let room = self.queue_room();
                let l = &mut self.lanes[lane as usize];
                let Some(fetch) = l.fetches.get_mut(l.started) else { break };
                if self.reads >= self.terms.reads_max || room == 0 {
                    return;
                }
                let Segment { region, .. } = fetch.segment;
                let left = region.len - fetch.asked;
                let Some(mut piece) = dock.take_some(Purpose::Fetch, left as usize) else {
                    self.starved = true;
                    return;
                };
                let n = (left as usize).min(piece.capacity());
                piece.set_len(n);
                let address = region.remote.address.wrapping_add(u64::from(fetch.asked));
                fetch.asked += n as u32;
                let last = fetch.asked == region.len;
                l.started += usize::from(last);
                self.reads += 1;
                let from = Remote { address, key: region.remote.key };
                self.queue(Doing::Read { lane, into: piece, from, last });
            }
        }
    }

    /// A READ has completed.
    pub(super) fn fetched(
        &mut self,
        lane: Lane,
        piece: PoolPiece,
        last: bool,
        dock: &Dock,
    ) -> Result<(), Lost> {
        self.reads -= 1;
        let l = &mut self.lanes[lane as usize];
        let bytes = piece.as_ref();
        self.counts.bytes_read += bytes.len() as u64;
        self.effort_in += bytes.len();
        l.crc.update(bytes);
        let a = l.queue.iter_mut().find(|a| a.is_fetching()).expect("segments are of frames");
        let keep = bytes.len() >= KEEP_MIN && !dock.is_scarce();
        if let Some(payload) = &mut a.payload {
            match keep {
                true => payload.feed_shared(&piece.into_bytes(), &dock.heap),
                false => payload.feed(bytes, &dock.heap),
            }
        } else {
            a.rest.feed(bytes, &dock.heap);
            if a.rest.is_whole() {
                let whole = std::mem::take(&mut a.rest).into_parts().pop();
                a.open_rest(whole.expect("one length was given"))?;
                let landed = (a.way == Way::Landed && a.closing == 0).then_some(a.serial);
                if let Some(serial) = landed {
                    self.take_landed(lane, serial, dock)?;
                }
            }
        }
        let l = &mut self.lanes[lane as usize];
        if last {
            let fetch = l.fetches.pop_front().expect("asked for");
            l.started -= 1;
            if std::mem::take(&mut l.crc).value() != fetch.segment.crc {
                return Err("corrupt payload".into());
            }
            self.released[lane as usize] += 1;
            self.deliver(lane);
        }
        Ok(())
    }

    /// A landing has been closed: nobody else writes there any more.
    pub(super) fn landed(
        &mut self,
        lane: Lane,
        serial: u64,
        piece: PoolPiece,
        dock: &Dock,
    ) -> Result<(), Lost> {
        let queue = &mut self.lanes[lane as usize].queue;
        let a = queue.iter_mut().find(|a| a.serial == serial).expect("waits for its landing");
        a.landed.push(piece);
        a.closing -= 1;
        if a.closing > 0 {
            return Ok(());
        }
        // Lengths in segments: their READs may still be under way.
        match a.payload.is_some() {
            true => self.take_landed(lane, serial, dock),
            false => Ok(()),
        }
    }

    fn take_landed(&mut self, lane: Lane, serial: u64, dock: &Dock) -> Result<(), Lost> {
        let queue = &mut self.lanes[lane as usize].queue;
        let a = queue.iter_mut().find(|a| a.serial == serial).expect("waits for its landing");
        let gather = a.payload.as_mut().expect("lengths are known");
        let (mut left, mut crc) = (a.head.bulk_bytes as usize, Crc32c::default());
        for mut piece in a.landed.drain(..) {
            let n = left.min(piece.as_ref().len());
            left -= n;
            piece.set_len(n);
            crc.update(piece.as_ref());
            self.effort_in += n;
            match n >= KEEP_MIN && !dock.is_scarce() {
                true => gather.feed_shared(&piece.into_bytes(), &dock.heap),
                false => gather.feed(piece.as_ref(), &dock.heap),
            }
        }
        if crc.value() != a.landed_crc {
            return Err("corrupt payload".into());
        }
        self.deliver(lane);
        Ok(())
    }

    /// Hands over what is whole and has nothing before it.
    fn deliver(&mut self, lane: Lane) {
        loop {
            let l = &mut self.lanes[lane as usize];
            if !l.queue.front().is_some_and(Assembly::is_whole) {
                return;
            }
            let a = l.queue.pop_front().expect("just seen");
            l.waiting -= a.inline;
            self.hand_over_whole(a);
        }
    }

    fn hand_over_whole(&mut self, a: Assembly) {
        let bulks = a.payload.expect("whole").into_parts().into_iter().map(Bulk).collect();
        self.hand_over(&a.head, a.body, bulks);
    }

    fn hand_over(&mut self, head: &Head, body: Bytes, bulks: Vec<Bulk>) {
        let kind = match head.kind {
            Kind::Ping => return self.arrived.push_back(Incoming::Ping),
            Kind::Pong => return self.arrived.push_back(Incoming::Pong),
            Kind::Message(kind) => kind,
        };
        self.arrived.push_back(Incoming::Frame(Frame {
            kind,
            lane: head.lane,
            shard: self.ends.here,
            slot: head.slot,
            epoch: head.epoch,
            from_node: self.ends.node,
            from_shard: self.ends.shard,
            ask: head.ask,
            ttl_us: head.ttl_us,
            reply_room: 0,
            caller: None,
            older: None,
            payload: Payload { body, bulks },
        }));
    }
}
