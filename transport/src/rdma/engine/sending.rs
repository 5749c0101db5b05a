//! Frames on their way out: inline, in segments, or into the landing that was offered for them.

use std::collections::VecDeque;

use bytes::Bytes;
use t3fs_runtime::Lane;
use t3fs_runtime::wire::{Crc32c, Frame, FrameKind, crc32c};

use super::source::Source;
use super::{Doing, ENTRIES_OF_PACKET, Engine, LANES, Landing, Now};
use crate::flow::Lost;
use crate::frame::{Head, Kind};
use crate::lanes::{Lanes, bulk_bytes};
use crate::rdma::dock::{Dock, Purpose};
use crate::rdma::memory::PIECE_MAX;
use crate::rdma::nic::{Access, QueuePair};
use crate::rdma::packet::{
    Builder, FRAME, HEAD, LANDING, LANDINGS_MAX, ROOM, Region, SEGMENT, Segment, Way,
};

/// A reply of at most so many payload bytes fits in a packet; it is not worth a landing.
const SMALL_REPLY: usize = 7 << 10;
const _: () = assert!(FRAME + SMALL_REPLY < ROOM);
/// Landings of the other side that are remembered. Replies to older asks are fetched.
const OFFERS_MAX: usize = 4096;

/// A frame that has been taken out of its lane and is not wholly sent or announced.
pub(super) struct Sending {
    head: Head,
    way: Way,
    /// What goes into the packet behind the head.
    inline: Vec<Bytes>,
    inline_bytes: usize,
    /// What goes by segments: lengths and body, then payload.
    rest: Source,
    payload: Source,
    /// Where the payload goes when it is landed, and its checksum as far as it went.
    landing: VecDeque<Region>,
    crc: Crc32c,
    /// The landing to ask for; 0: none.
    reply_room: usize,
    placed: bool,
}

/// What a frame takes of a packet, and how its bytes travel.
struct Plan {
    rest_in_segments: bool,
    payload_inline: bool,
    need: usize,
}

impl Plan {
    fn of(frame: &Frame) -> Plan {
        let landings = if wants_landing(frame) { LANDINGS_MAX * LANDING } else { 0 };
        let rest = 4 * frame.payload.bulks.len() + frame.payload.body.len();
        let (fixed, payload) = (FRAME + landings, bulk_bytes(frame));
        let rest_in_segments = fixed + rest > ROOM;
        let payload_inline =
            if rest_in_segments { payload == 0 } else { fixed + rest + payload <= ROOM };
        let rest = if rest_in_segments { 0 } else { rest };
        let need = fixed + rest + if payload_inline { payload } else { 0 };
        Plan { rest_in_segments, payload_inline, need }
    }

    /// All of it goes into the packet.
    fn is_inline(&self) -> bool {
        self.payload_inline && !self.rest_in_segments
    }
}

fn is_reply(frame: &Frame) -> bool {
    matches!(frame.kind, FrameKind::Reply | FrameKind::Refused)
}

fn wants_landing(frame: &Frame) -> bool {
    matches!(frame.kind, FrameKind::Ask | FrameKind::AskFor)
        && frame.reply_room > SMALL_REPLY
        && frame.reply_room <= LANDINGS_MAX * PIECE_MAX
}

/// The lengths of its payloads, which stand before its body.
fn table(frame: &Frame) -> impl Iterator<Item = [u8; 4]> {
    frame.payload.bulks.iter().map(|b| (b.len() as u32).to_le_bytes())
}

/// Its head, but for the sequence number.
fn head_of(frame: &Frame) -> Head {
    let body = &frame.payload.body;
    Head {
        kind: Kind::Message(frame.kind),
        lane: frame.lane,
        slot: frame.slot,
        epoch: frame.epoch,
        sequence: 0,
        ask: frame.ask,
        ttl_us: frame.ttl_us,
        body: body.len() as u32,
        bulks: frame.payload.bulks.len() as u32,
        bulk_bytes: bulk_bytes(frame) as u32,
        rest_crc: 0,
    }
}

/// Whether all that waits fits in a packet of so many bytes.
pub(super) fn is_little(lanes: &Lanes, bytes: usize) -> bool {
    let Some(room) = bytes.checked_sub(HEAD) else { return false };
    let (link_frames, mut frames) = (lanes.has_ping() || lanes.has_pong(), LANES.iter());
    match lanes.load().frames {
        0 => room >= if link_frames { 2 * FRAME } else { 0 },
        1 if !link_frames => {
            frames.find_map(|lane| lanes.peek(*lane)).is_some_and(|frame| fits(frame, room))
        }
        _ => false,
    }
}

/// Whether all of a frame fits in so many bytes.
fn fits(frame: &Frame, room: usize) -> bool {
    let plan = Plan::of(frame);
    plan.is_inline() && plan.need <= room
}

impl Sending {
    fn new(frame: Frame, plan: &Plan, landing: Vec<Region>) -> Sending {
        let table: Vec<u8> = table(&frame).flatten().collect();
        let head = head_of(&frame);
        let bytes = bulk_bytes(&frame);
        let reply_room = if wants_landing(&frame) { frame.reply_room } else { 0 };
        let room = landing.iter().map(|r| r.len as usize).sum::<usize>();
        let way = match plan.payload_inline {
            true => Way::Inline,
            false if bytes <= room => Way::Landed,
            false => Way::Segments,
        };
        let rest = [Bytes::from(table), frame.payload.body];
        let payload = frame.payload.bulks.into_iter().map(|b| b.0);
        let mut inline = Vec::new();
        let (rest, payload) = match (plan.rest_in_segments, way) {
            (true, _) => (Source::new(rest), Source::new(payload)),
            (false, Way::Inline) => {
                inline.extend(rest.into_iter().chain(payload));
                (Source::default(), Source::default())
            }
            (false, _) => {
                inline.extend(rest);
                (Source::default(), Source::new(payload))
            }
        };
        Sending {
            head,
            way,
            inline_bytes: inline.iter().map(Bytes::len).sum(),
            inline,
            rest,
            payload,
            landing: landing.into(),
            crc: Crc32c::default(),
            reply_room,
            placed: false,
        }
    }
}

impl Engine {
    /// Puts into a packet what there is to send: control before bulk.
    pub(super) fn fill(
        &mut self,
        b: &mut Builder<'_>,
        lanes: &mut Lanes,
        dock: &Dock,
        now: Now<'_>,
    ) {
        if lanes.has_pong() && b.room() >= FRAME {
            lanes.take_pong();
            self.link_frame(Kind::Pong, b);
        }
        if lanes.has_ping() && b.room() >= FRAME {
            lanes.take_ping();
            self.link_frame(Kind::Ping, b);
        }
        for lane in LANES {
            while self.fill_lane(lane, b, lanes, dock, now) {}
        }
    }

    fn link_frame(&mut self, kind: Kind, b: &mut Builder<'_>) {
        let head = Head::bare(kind, self.next_sequence());
        b.frame(&head, false, Way::Inline, 0, &[]);
    }

    fn next_sequence(&mut self) -> u32 {
        self.counts.frames_sent += 1;
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        sequence
    }

    /// One step of a lane; false when it has nothing, or cannot go on in this packet.
    fn fill_lane(
        &mut self,
        lane: Lane,
        b: &mut Builder<'_>,
        lanes: &mut Lanes,
        dock: &Dock,
        now: Now<'_>,
    ) -> bool {
        if let Some(mut sending) = self.sending[lane as usize].take() {
            let whole = self.go_on(&mut sending, b, dock, now);
            if !whole {
                self.sending[lane as usize] = Some(sending);
            }
            return whole;
        }
        let Some(frame) = lanes.peek(lane) else { return false };
        let plan = Plan::of(frame);
        if b.room() < plan.need || self.queue_room() < ENTRIES_OF_PACKET {
            return false;
        }
        let frame = lanes.take(lane).expect("just seen");
        let landing = if is_reply(&frame) { self.offers.remove(&frame.ask) } else { None };
        if plan.is_inline() && !wants_landing(&frame) {
            self.put(&frame, b);
            return true;
        }
        self.sending[lane as usize] = Some(Sending::new(frame, &plan, landing.unwrap_or_default()));
        true
    }

    /// Sends a small frame past its lane, where nothing waits. False: nothing was done, it does not
    /// go like that.
    pub(crate) fn send_alone(&mut self, frame: &Frame, pair: &dyn QueuePair) -> Result<bool, Lost> {
        // Room for another packet stays, so that nothing has to wait for work of our own.
        let free = self.queue_room() >= 2 * ENTRIES_OF_PACKET && self.credits > 1;
        let idle = self.queued.is_empty() && self.sending.iter().all(Option::is_none);
        let room = self.terms.copied_max.saturating_sub(HEAD);
        if !free || !idle || wants_landing(frame) || !fits(frame, room) {
            return Ok(false);
        }
        if !self.offers.is_empty() && is_reply(frame) {
            self.offers.remove(&frame.ask);
        }
        let mut bytes = self.spare_room();
        let mut b = Builder::new(&mut bytes);
        self.put(frame, &mut b);
        let len = b.seal(self.packet_head());
        self.count_packet(len);
        self.post_alone(bytes, len, pair).map(|()| true)
    }

    /// Puts all of a frame into the packet.
    fn put(&mut self, frame: &Frame, b: &mut Builder<'_>) {
        let head = Head { sequence: self.next_sequence(), ..head_of(frame) };
        b.frame(&head, false, Way::Inline, 0, &[]);
        table(frame).for_each(|length| b.bytes(&length));
        b.bytes(&frame.payload.body);
        frame.payload.bulks.iter().for_each(|bulk| b.bytes(bulk));
    }

    /// Takes a frame further; whether it is through.
    fn go_on(&mut self, s: &mut Sending, b: &mut Builder<'_>, dock: &Dock, now: Now<'_>) -> bool {
        if s.way == Way::Landed && !self.push(s, dock) {
            return false;
        }
        if !s.placed && !self.place(s, b, dock, now) {
            return false;
        }
        self.announce(s, b, dock)
    }

    /// Writes the payload into the other side's memory; whether all of it is on its way.
    fn push(&mut self, s: &mut Sending, dock: &Dock) -> bool {
        while s.payload.left() > 0 {
            // One entry stays for the packet behind it.
            if self.queue_room() < 2 || self.is_enough() {
                return false;
            }
            let region = s.landing.front_mut().expect("the landing is large enough");
            let Some(piece) = s.payload.next(region.len as usize, dock) else {
                self.starved = true;
                return false;
            };
            let (len, to) = (piece.as_ref().len() as u32, region.remote);
            region.remote.address += u64::from(len);
            region.len -= len;
            if region.len == 0 {
                s.landing.pop_front();
            }
            s.crc.update(piece.as_ref());
            self.effort_out += piece.as_ref().len();
            self.counts.bytes_written += u64::from(len);
            self.queue(Doing::Write { from: piece, to });
        }
        true
    }

    fn is_enough(&mut self) -> bool {
        let enough = self.effort_out >= super::EFFORT;
        self.more |= enough;
        enough
    }

    /// Puts the frame's head and inline bytes into the packet, if they fit.
    fn place(&mut self, s: &mut Sending, b: &mut Builder<'_>, dock: &Dock, now: Now<'_>) -> bool {
        let landings = if s.reply_room > 0 { LANDINGS_MAX * LANDING } else { 0 };
        if b.room() < FRAME + landings + s.inline_bytes || self.queue_room() < LANDINGS_MAX + 1 {
            return false;
        }
        let landings = match landings {
            0 => Vec::new(),
            _ => self.offer_landing(&s.head, s.reply_room, dock, now),
        };
        s.head.sequence = self.next_sequence();
        b.frame(&s.head, s.rest.left() > 0, s.way, s.crc.value(), &landings);
        s.inline.iter().for_each(|bytes| b.bytes(bytes));
        s.inline.clear();
        s.placed = true;
        true
    }

    /// Opens memory for the payload of a reply; nothing where there is not enough to spare.
    fn offer_landing(
        &mut self,
        head: &Head,
        room: usize,
        dock: &Dock,
        now: Now<'_>,
    ) -> Vec<Region> {
        let mut parts = Vec::new();
        let mut left = room;
        while left > 0 {
            let n = left.min(PIECE_MAX);
            let (Some(mut piece), Some(window)) = (dock.take(Purpose::Landing, n), dock.window())
            else {
                parts.into_iter().for_each(|(_, window)| dock.give_back(window));
                return Vec::new();
            };
            piece.set_len(n);
            parts.push((piece, window));
            left -= n;
        }
        let opened =
            parts.into_iter().map(|(piece, window)| self.open(piece, window, Access::Write));
        let (exposures, regions) = opened.unzip();
        let until = now() + core::time::Duration::from_micros(head.ttl_us);
        self.landings.insert(head.ask, Landing { until, exposures, bytes: room });
        regions
    }

    /// Opens and announces segments; whether all are announced.
    fn announce(&mut self, s: &mut Sending, b: &mut Builder<'_>, dock: &Dock) -> bool {
        let lane = s.head.lane as usize;
        loop {
            let source = match s.rest.left() {
                0 if s.way == Way::Segments => &mut s.payload,
                _ => &mut s.rest,
            };
            if source.left() == 0 {
                return true;
            }
            let full = b.room() < SEGMENT
                || self.announced[lane].len() >= self.terms.segments_max
                || self.queue_room() < 2;
            if full || self.is_enough() {
                return false;
            }
            let Some(window) = dock.window() else {
                self.starved = true;
                return false;
            };
            let Some(piece) = source.next(PIECE_MAX, dock) else {
                dock.give_back(window);
                self.starved = true;
                return false;
            };
            let crc = crc32c(piece.as_ref());
            self.effort_out += piece.as_ref().len();
            let (exposure, region) = self.open(piece, window, Access::Read);
            self.announced[lane].push_back(exposure);
            b.segment(s.head.lane, &Segment { region, crc });
        }
    }

    /// Remembers where the reply to an ask of the other side may be pushed.
    pub(super) fn note_offer(&mut self, ask: u64, regions: Vec<Region>) {
        if regions.is_empty() {
            return;
        }
        if self.offers.len() >= OFFERS_MAX {
            self.offers.pop_first();
        }
        self.offers.insert(ask, regions);
    }
}
