//! One connection over a queue pair: what is sent, fetched, pushed and opened, and in what order.
//!
//! No runtime in here: the shell (`../shell.rs`) says what has completed and which packet has come,
//! calls [`Engine::pump`], and posts what is queued. A peer that breaks the rules gets an error,
//! which ends the connection.
//!
//! - *Credits.* A packet costs the sender a credit, which the head of a packet of the other
//!   side returns. The last one is used only to return credits, when half of them are due: so one
//!   side at least can always go on. Who has too much waiting for its turn returns none meanwhile.
//! - *Segments* are opened to the other side, announced, fetched in order and released in order.
//! - *Landings* are opened with an ask, and closed before the reply is delivered.
//! - Frames of a lane are delivered in the order in which they began; lanes pass each other.
//!
//! Read next: `sending.rs`, `receiving.rs`.

mod gather;
mod receiving;
mod sending;
mod source;
#[cfg(test)]
mod tests;
mod unattended;

pub use unattended::FOREIGN;

use std::collections::{BTreeMap, VecDeque};

use t3fs_runtime::{Lane, NodeId, Time};

use super::dock::{Dock, Purpose};
use super::memory::PoolPiece;
use super::nic::{Access, Local, PACKET, QueuePair, Remote, Window, Work};
use super::packet::{self, Builder, PacketHead, Region};
use crate::flow::{Incoming, Lost};
use crate::lanes::Lanes;
use crate::limits::LinkLimits;
use receiving::LaneIn;
use sending::Sending;

const LANES: [Lane; 2] = [Lane::Control, Lane::Bulk];
/// Entries of the send queue that one packet may need with all that goes before it.
const ENTRIES_OF_PACKET: usize = 8;
const _: () = assert!(LinkLimits::DEFAULT.rdma_send_queue >= 4 * ENTRIES_OF_PACKET);
/// Waiting for its turn beyond this many bytes, no credits are returned.
const WAITING_MAX: usize = 256 << 10;
/// Payload bytes that one turn brings into registered memory.
const EFFORT: usize = 1 << 20;

/// The time, where it is needed: to look at the clock costs as much as to lay out a small packet.
pub(crate) type Now<'a> = &'a dyn Fn() -> Time;

/// Memory that a packet is laid out in.
enum Room {
    Piece(PoolPiece),
    Copy(Vec<u8>),
}

impl Room {
    fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Room::Piece(piece) => piece.as_mut_slice(),
            Room::Copy(bytes) => bytes,
        }
    }

    fn filled(self, len: usize) -> Doing {
        match self {
            Room::Piece(mut piece) => {
                piece.set_len(len);
                Doing::Send(piece)
            }
            Room::Copy(bytes) => Doing::SendCopy(bytes, len),
        }
    }
}

/// What both sides have agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Packets that the other side takes before it returns credits.
    pub(crate) credits: u16,
    /// Packets that we take.
    pub(crate) granted: u16,
    /// READs of ours that may be under way.
    pub(crate) reads_max: usize,
    /// Entries of our send queue.
    pub(crate) send_queue: usize,
    /// Segments that we have open at a time, by lane.
    pub(crate) segments_max: usize,
    /// Packets up to this length are copied when they are posted.
    pub(crate) copied_max: usize,
}

/// The node and shard at the other end, and the shard of ours at this one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) node: NodeId,
    pub(crate) shard: u16,
    pub(crate) here: u16,
}

/// What went over a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) packets_sent: u64,
    pub(crate) packets_received: u64,
    pub(crate) frames_sent: u64,
    /// Bytes fetched by READ, and pushed by WRITE.
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    /// Bytes of packets.
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

/// Memory that is open to the other side.
struct Exposure {
    piece: PoolPiece,
    window: Box<dyn Window>,
    then: Then,
}

/// What happens when an exposure has been closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Free,
    /// The bytes are payload of a frame that came.
    Deliver {
        lane: Lane,
        serial: u64,
    },
}

/// Memory offered for the payload of a reply.
struct Landing {
    /// The asker does not wait longer.
    until: Time,
    exposures: Vec<u64>,
    bytes: usize,
}

/// One entry of the send queue, and the memory that it needs until it has completed.
struct Task {
    id: u64,
    doing: Doing,
}

impl Task {
    fn is_copied(&self) -> bool {
        matches!(self.doing, Doing::SendCopy(..))
    }
}

enum Doing {
    Send(PoolPiece),
    /// The first so many bytes, which are not needed any more once it is posted.
    SendCopy(Vec<u8>, usize),
    Read {
        lane: Lane,
        into: PoolPiece,
        from: Remote,
        last: bool,
    },
    Write {
        from: PoolPiece,
        to: Remote,
    },
    Open {
        exposure: u64,
        access: Access,
    },
    Close {
        exposure: u64,
    },
}

pub(crate) struct Engine {
    terms: Terms,
    ends: Ends,
    counts: Counts,
    /// Tasks that are to be posted, and those that have been.
    queued: VecDeque<Task>,
    posted: VecDeque<Task>,
    next_task: u64,
    /// Entries since the last one that tells of its completion.
    silent: usize,
    /// Room for a packet that is copied, used again and again.
    spare: Vec<u8>,
    /// Exposures whose closing has not completed.
    closing: usize,
    exposures: BTreeMap<u64, Exposure>,
    next_exposure: u64,
    // Out:
    credits: u16,
    sequence: u32,
    sending: [Option<Sending>; 2],
    /// Segments that the other side has not released.
    announced: [VecDeque<u64>; 2],
    /// Landings of the other side, by its ask.
    offers: BTreeMap<u64, Vec<Region>>,
    /// There was no memory for something.
    starved: bool,
    /// There is more to send than one turn takes.
    more: bool,
    /// Payload bytes that were looked at or copied: arrived since somebody asked, and sent in this
    /// turn.
    effort_in: usize,
    effort_out: usize,
    // In:
    unreturned: u16,
    released: [u16; 2],
    sequence_in: u32,
    lanes: [LaneIn; 2],
    next_serial: u64,
    reads: usize,
    landings: BTreeMap<u64, Landing>,
    arrived: VecDeque<Incoming>,
}

impl Engine {
    pub(crate) fn new(terms: Terms, ends: Ends) -> Engine {
        Engine {
            terms,
            ends,
            counts: Counts::default(),
            queued: VecDeque::new(),
            posted: VecDeque::new(),
            next_task: 0,
            silent: 0,
            spare: Vec::new(),
            closing: 0,
            exposures: BTreeMap::new(),
            next_exposure: 0,
            credits: terms.credits,
            sequence: 0,
            sending: Default::default(),
            announced: Default::default(),
            offers: BTreeMap::new(),
            starved: false,
            more: false,
            effort_in: 0,
            effort_out: 0,
            unreturned: 0,
            released: [0; 2],
            sequence_in: 0,
            lanes: Default::default(),
            next_serial: 0,
            reads: 0,
            landings: BTreeMap::new(),
            arrived: VecDeque::new(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether it would go on if there were memory.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved
    }

    /// Whether it would go on if it had another turn.
    pub(crate) fn has_more(&self) -> bool {
        self.more
    }

    /// Payload bytes looked at since the last time.
    pub(crate) fn take_effort(&mut self) -> usize {
        std::mem::take(&mut self.effort_in)
    }

    /// Whether something waits for work of our own to complete; packets are waited for always.
    pub(crate) fn awaits_own_work(&self) -> bool {
        self.reads > 0
            || self.closing > 0
            || self.starved
            || !self.queued.is_empty()
            || self.queue_room() < ENTRIES_OF_PACKET
    }

    /// Whether there is nothing to do for [`Engine::pump`] but what waits in the lanes.
    pub(crate) fn is_at_rest(&self) -> bool {
        !self.starved
            && !self.more
            && self.queued.is_empty()
            && self.sending.iter().all(Option::is_none)
            && self.lanes.iter().all(|lane| !lane.has_to_fetch())
            && !self.owes_news()
    }

    /// Whether nothing is on its way out.
    pub(crate) fn is_idle(&self) -> bool {
        self.sending.iter().all(Option::is_none)
            && self.announced.iter().all(VecDeque::is_empty)
            && self.queued.is_empty()
    }

    /// Whether something has come that nobody has taken.
    pub(crate) fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// The next frame or ping that has come and whose turn it is.
    pub(crate) fn arrived(&mut self) -> Option<Incoming> {
        self.arrived.pop_front()
    }

    /// Bytes of landings whose askers have given up.
    pub(crate) fn abandoned(&self, now: Time) -> usize {
        self.landings.values().filter(|l| l.until < now).map(|l| l.bytes).sum()
    }

    /// A packet has come. The error says what is wrong with it.
    pub(crate) fn on_packet(&mut self, bytes: &[u8], dock: &Dock) -> Result<(), Lost> {
        let (head, mut items) = packet::open(bytes)?;
        self.counts.packets_received += 1;
        self.counts.bytes_received += bytes.len() as u64;
        self.unreturned += 1;
        if self.unreturned > self.terms.granted {
            return Err("more packets than were allowed".into());
        }
        if head.credits > self.terms.credits - self.credits {
            return Err("more credits than there are".into());
        }
        self.credits += head.credits;
        for lane in LANES {
            for _ in 0..head.released[lane as usize] {
                let released = self.announced[lane as usize].pop_front();
                self.close(released.ok_or("a segment that nobody announced is released")?);
            }
        }
        while let Some(item) = items.next()? {
            match item {
                packet::Item::Frame(frame) => self.frame(frame, bytes.len(), dock)?,
                packet::Item::Segment(lane, segment) => self.segment(lane, segment)?,
            }
        }
        Ok(())
    }

    /// What was posted under this id, and all before it, has completed.
    pub(crate) fn on_done(&mut self, id: u64, dock: &Dock) -> Result<(), Lost> {
        while self.posted.front().is_some_and(|t| t.id <= id) {
            let task = self.posted.pop_front().expect("just seen");
            match task.doing {
                Doing::Send(_) | Doing::SendCopy(..) | Doing::Write { .. } | Doing::Open { .. } => {
                }
                Doing::Read { lane, into, last, .. } => self.fetched(lane, into, last, dock)?,
                Doing::Close { exposure } => self.closed(exposure, dock)?,
            }
        }
        Ok(())
    }

    /// Queues all that can be done now: fetching, and packets out of the lanes.
    pub(crate) fn pump(&mut self, lanes: &mut Lanes, dock: &Dock, now: Now<'_>) {
        (self.starved, self.more, self.effort_out) = (false, false, 0);
        self.start_reads(dock);
        while self.queue_room() >= ENTRIES_OF_PACKET {
            let wants =
                self.owes_news() || !lanes.is_empty() || self.sending.iter().any(Option::is_some);
            let may = match self.credits {
                0 => false,
                1 => self.must_return(),
                _ => wants,
            };
            if !may {
                return;
            }
            let Some(mut room) = self.room(lanes, dock) else {
                self.starved = true;
                return;
            };
            let mut b = Builder::new(room.as_mut_slice());
            if self.credits > 1 {
                self.fill(&mut b, lanes, dock, now);
            }
            if b.is_empty() && !self.owes_news() {
                return;
            }
            let last = b.is_empty();
            let len = b.seal(self.packet_head());
            self.count_packet(len);
            self.queue(room.filled(len));
            if last {
                return;
            }
        }
    }

    /// Room for the next packet. Where a small one is all that there is to send, it takes none of
    /// the memory that devices know, and its completion need not be told.
    fn room(&mut self, lanes: &Lanes, dock: &Dock) -> Option<Room> {
        let small = self.sending.iter().all(Option::is_none)
            && sending::is_little(lanes, self.terms.copied_max);
        if !small {
            return dock.take(Purpose::Packet, PACKET).map(Room::Piece);
        }
        Some(Room::Copy(self.spare_room()))
    }

    fn spare_room(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.resize(self.terms.copied_max, 0);
        bytes
    }

    fn count_packet(&mut self, len: usize) {
        self.credits -= 1;
        self.counts.packets_sent += 1;
        self.counts.bytes_sent += len as u64;
    }

    /// Posts what is queued, as far as the send queue has room, with one doorbell.
    pub(crate) fn post(&mut self, pair: &dyn QueuePair) -> Result<(), Lost> {
        let n = self.queued.len().min(self.terms.send_queue - self.posted.len());
        if n == 0 {
            return Ok(());
        }
        let copies = self.queued.iter().take(n).all(Task::is_copied);
        let told = self.is_told(n, copies);
        let work = self.queued.iter().take(n).enumerate();
        let work = work.map(|(i, task)| self.work(task, told && i + 1 == n));
        let done = pair.post(&work.collect::<Vec<_>>());
        for mut task in self.queued.drain(..n) {
            if let Doing::SendCopy(bytes, _) = &mut task.doing {
                self.spare = std::mem::take(bytes);
            }
            self.posted.push_back(task);
        }
        done
    }

    /// Posts a packet of so many bytes at once; nothing is queued.
    fn post_alone(&mut self, bytes: Vec<u8>, len: usize, pair: &dyn QueuePair) -> Result<(), Lost> {
        let (id, signal) = (self.next_task, self.is_told(1, true));
        self.next_task += 1;
        let done = pair.post(&[Work::SendCopy { id, packet: &bytes[..len], signal }]);
        self.spare = bytes;
        self.posted.push_back(Task { id, doing: Doing::SendCopy(Vec::new(), 0) });
        done
    }

    /// Whether the completion of the last of so many entries is to be told: of copies only every
    /// now and then.
    fn is_told(&mut self, entries: usize, copies: bool) -> bool {
        let told = !copies || self.silent + entries >= self.terms.send_queue / 4;
        self.silent = if told { 0 } else { self.silent + entries };
        told
    }

    fn work<'a>(&'a self, task: &'a Task, signal: bool) -> Work<'a> {
        let whole = |piece: &'a PoolPiece| Local { piece, at: 0, len: piece.as_ref().len() as u32 };
        let id = task.id;
        match &task.doing {
            Doing::Send(piece) => Work::Send { id, packet: whole(piece), signal },
            Doing::SendCopy(bytes, len) => Work::SendCopy { id, packet: &bytes[..*len], signal },
            Doing::Read { into, from, .. } => Work::Read { id, into: whole(into), from: *from },
            Doing::Write { from, to } => Work::Write { id, from: whole(from), to: *to, signal },
            Doing::Open { exposure, access } => {
                let e = &self.exposures[exposure];
                let (window, memory) = (&*e.window, whole(&e.piece));
                Work::Open { id, window, memory, access: *access, signal }
            }
            Doing::Close { exposure } => {
                Work::Close { id, window: &*self.exposures[exposure].window }
            }
        }
    }

    fn queue(&mut self, doing: Doing) {
        let id = self.next_task;
        self.next_task += 1;
        self.queued.push_back(Task { id, doing });
    }

    fn queue_room(&self) -> usize {
        self.terms.send_queue.saturating_sub(self.posted.len() + self.queued.len())
    }

    /// Opens memory to the other side; the task is queued before whatever tells of it.
    fn open(&mut self, piece: PoolPiece, window: Box<dyn Window>, access: Access) -> (u64, Region) {
        let (id, key) = (self.next_exposure, window.next_key());
        self.next_exposure += 1;
        let remote = Remote { address: piece.address(), key };
        let region = Region { remote, len: piece.as_ref().len() as u32 };
        self.exposures.insert(id, Exposure { piece, window, then: Then::Free });
        self.queue(Doing::Open { exposure: id, access });
        (id, region)
    }

    fn close(&mut self, exposure: u64) {
        self.closing += 1;
        self.queue(Doing::Close { exposure });
    }

    fn closed(&mut self, exposure: u64, dock: &Dock) -> Result<(), Lost> {
        self.closing -= 1;
        let Exposure { piece, window, then } =
            self.exposures.remove(&exposure).expect("closed once, by us");
        dock.give_back(window);
        match then {
            Then::Free => Ok(()),
            Then::Deliver { lane, serial } => self.landed(lane, serial, piece, dock),
        }
    }

    /// Whether credits are to be returned even without anything to say.
    fn must_return(&self) -> bool {
        2 * self.unreturned >= self.terms.granted && !self.is_holding()
    }

    fn owes_news(&self) -> bool {
        self.released != [0; 2] || self.must_return()
    }

    fn packet_head(&mut self) -> PacketHead {
        let credits = if self.is_holding() { 0 } else { std::mem::take(&mut self.unreturned) };
        PacketHead { credits, released: std::mem::take(&mut self.released) }
    }
}
