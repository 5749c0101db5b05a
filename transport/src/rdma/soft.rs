//! A stand-in for RDMA devices: moves bytes within this process, for tests on machines without a
//! device. It keeps the rules that links rely on: order, receive buffers that may be lacking, keys
//! that are checked at each access, the error state with all that it ends.
//!
//! All pairs of one [`Wire`] work under its one lock, so memory is touched by one thread at a time.

use std::any::Any;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::event::{EventfdFlags, eventfd};

use super::memory::RdmaPool;
use super::nic::{
    Access, Completion, Endpoint, Local, Nic, Outcome, PACKET, QueuePair, Remote, Window, Work,
};

const SEND_QUEUE: usize = 64;
const READS: u8 = 4;
const COPIED_MAX: usize = 256;

/// What stand-ins are joined by. Clones are the same.
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    nics: BTreeMap<u64, Port>,
    pairs: BTreeMap<u32, Pair>,
    next: u32,
    faults: Faults,
}

#[derive(Default)]
struct Faults {
    hold: bool,
    flip_packet: Option<usize>,
    flip_transfer: Option<usize>,
}

/// What makes an event.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Armed {
    #[default]
    Nothing,
    Solicited,
    All,
}

struct Port {
    /// Where the receive buffers begin.
    slots: usize,
    free: VecDeque<u16>,
    completions: VecDeque<Completion>,
    armed: Armed,
    event: Arc<OwnedFd>,
}

struct Pair {
    nic: u64,
    first_packet: u32,
    peer: Option<Endpoint>,
    failed: bool,
    work: VecDeque<Op>,
    /// What is open to the peer, by key.
    windows: BTreeMap<u32, Opening>,
}

struct Opening {
    at: u64,
    len: u64,
    access: Access,
}

struct Op {
    id: u64,
    signal: bool,
    what: What,
}

enum What {
    Send { at: u64, len: usize },
    SendCopy { packet: Vec<u8> },
    Read { at: u64, len: usize, from: Remote },
    Write { at: u64, len: usize, to: Remote },
    Open { key: u32, opening: Opening },
    Close { key: u32 },
}

/// What becomes of the first work of a pair.
enum Step {
    Done,
    /// The work has to wait for the other side.
    Wait,
    /// The queue pair of this side is lost.
    Lost(&'static str),
    /// Both sides' pairs are lost: the other side was reached in a way that it did not allow.
    BothLost(&'static str),
}

impl Wire {
    /// A device of one shard, for the memory of this pool.
    pub(crate) fn nic(&self, pool: &RdmaPool, slots: usize) -> Result<SoftNic, String> {
        let memory = RdmaPool::new(slots * PACKET)?;
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|e| format!("no descriptor for events: {e}"))?;
        let event = Arc::new(event);
        let mut state = self.state();
        state.next += 1;
        let id = u64::from(state.next);
        let port = Port {
            slots: memory.span().0,
            free: (0..slots as u16).collect(),
            completions: VecDeque::new(),
            armed: Armed::Nothing,
            event: Arc::clone(&event),
        };
        state.nics.insert(id, port);
        drop(state);
        Ok(SoftNic { id, wire: self.clone(), pool: pool.clone(), memory, slots, event })
    }

    /// Nothing passes until it is taken back: a dead cable.
    pub fn hold(&self, hold: bool) {
        let mut state = self.state();
        state.faults.hold = hold;
        if !hold {
            state.advance_all();
        }
    }

    /// Damages a byte of the next packet, or of the next transfer into or out of memory.
    pub fn flip_packet(&self, at: usize) {
        self.state().faults.flip_packet = Some(at);
    }

    pub fn flip_transfer(&self, at: usize) {
        self.state().faults.flip_transfer = Some(at);
    }

    /// All queue pairs go to the error state.
    pub fn break_pairs(&self) {
        let mut state = self.state();
        let all: Vec<u32> = state.pairs.keys().copied().collect();
        for pair in all {
            state.fail(pair, "broken by the test");
        }
    }

    /// Queue pairs that there are.
    pub fn pairs(&self) -> usize {
        self.state().pairs.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while held")
    }
}

impl State {
    fn complete(&mut self, nic: u64, completion: Completion) {
        let Some(port) = self.nics.get_mut(&nic) else { return };
        let solicited = completion.outcome != Outcome::Done;
        port.completions.push_back(completion);
        if port.armed == Armed::All || (solicited && port.armed == Armed::Solicited) {
            port.armed = Armed::Nothing;
            // The event counter is full only when nobody reads it, and is readable all the same.
            let _ = rustix::io::write(&port.event, &1u64.to_ne_bytes());
        }
    }

    fn advance_all(&mut self) {
        let all: Vec<u32> = self.pairs.keys().copied().collect();
        all.into_iter().for_each(|pair| self.advance(pair));
    }

    /// Does what a pair can do.
    fn advance(&mut self, number: u32) {
        loop {
            let Some(pair) = self.pairs.get_mut(&number).filter(|p| !p.failed) else { return };
            let Some(op) = pair.work.pop_front() else { return };
            let nic = pair.nic;
            match self.step(number, &op) {
                Step::Done => {
                    if op.signal {
                        let id = op.id;
                        self.complete(
                            nic,
                            Completion { queue_pair: number, id, outcome: Outcome::Done },
                        );
                    }
                }
                Step::Wait => {
                    let pair = self.pairs.get_mut(&number).expect("it is there");
                    return pair.work.push_front(op);
                }
                Step::Lost(why) => {
                    self.pairs.get_mut(&number).expect("it is there").work.push_front(op);
                    return self.fail(number, why);
                }
                Step::BothLost(why) => {
                    let pair = self.pairs.get_mut(&number).expect("it is there");
                    pair.work.push_front(op);
                    let peer = pair.peer.expect("it was reached").queue_pair;
                    self.fail(number, why);
                    return self.fail(peer, "the peer reached for memory that is not open");
                }
            }
        }
    }

    fn fail(&mut self, number: u32, why: &'static str) {
        let Some(pair) = self.pairs.get_mut(&number) else { return };
        if std::mem::replace(&mut pair.failed, true) {
            return;
        }
        pair.windows.clear();
        let (nic, work) = (pair.nic, std::mem::take(&mut pair.work));
        let last = work.back().map_or(0, |op| op.id);
        for op in work {
            let outcome = Outcome::Failed(why);
            self.complete(nic, Completion { queue_pair: number, id: op.id, outcome });
        }
        // An idle pair tells as well, as devices do by an event of their own.
        let outcome = Outcome::Failed(why);
        self.complete(nic, Completion { queue_pair: number, id: last, outcome });
    }

    fn step(&mut self, number: u32, op: &Op) -> Step {
        match &op.what {
            What::Open { key, opening: Opening { at, len, access } } => {
                let opening = Opening { at: *at, len: *len, access: *access };
                let pair = self.pairs.get_mut(&number).expect("it is there");
                pair.windows.insert(*key, opening);
                return Step::Done;
            }
            What::Close { key } => {
                let pair = self.pairs.get_mut(&number).expect("it is there");
                return match pair.windows.remove(key) {
                    Some(_) => Step::Done,
                    None => Step::Lost("a window that is not open was closed"),
                };
            }
            _ => {}
        }
        if self.faults.hold {
            return Step::Wait;
        }
        let pair = &self.pairs[&number];
        let Some(peer) = pair.peer else { return Step::Lost("not connected") };
        // A peer that is not there does not answer. A device would give up after some seconds.
        let Some(other) = self.pairs.get(&peer.queue_pair) else { return Step::Wait };
        if other.failed || other.peer.is_none() || other.first_packet != peer.first_packet {
            return Step::Wait;
        }
        match &op.what {
            What::Send { at, len } => self.send(peer.queue_pair, *at, *len),
            What::SendCopy { packet } => {
                self.send(peer.queue_pair, packet.as_ptr() as u64, packet.len())
            }
            What::Read { at, len, from } => {
                if !other.allows(*from, *len, Access::Read) {
                    return Step::BothLost("memory of the peer is not open");
                }
                self.copy(from.address, *at, *len);
                Step::Done
            }
            What::Write { at, len, to } => {
                if !other.allows(*to, *len, Access::Write) {
                    return Step::BothLost("memory of the peer is not open");
                }
                self.copy(*at, to.address, *len);
                Step::Done
            }
            What::Open { .. } | What::Close { .. } => unreachable!("done above"),
        }
    }

    fn send(&mut self, to: u32, at: u64, len: usize) -> Step {
        let nic = self.pairs[&to].nic;
        let Some(port) = self.nics.get_mut(&nic) else { return Step::Wait };
        let Some(slot) = port.free.pop_front() else { return Step::Wait };
        let into = port.slots + usize::from(slot) * PACKET;
        // SAFETY: the sender keeps its packet until this is done; the slot is free, so nobody looks
        // at it; both are alive while their nics are, and larger than a packet.
        unsafe { std::ptr::copy_nonoverlapping(at as *const u8, into as *mut u8, len) };
        if let Some(at) = self.faults.flip_packet.take() {
            // SAFETY: within the slot.
            unsafe { *((into + at % len) as *mut u8) ^= 1 };
        }
        let outcome = Outcome::Received { slot, len: len as u32 };
        self.complete(nic, Completion { queue_pair: to, id: 0, outcome });
        Step::Done
    }

    fn copy(&mut self, from: u64, to: u64, len: usize) {
        // SAFETY: the one who posted this keeps its own memory until it is done; the other side's
        // is open, so kept until it is closed, which needs the lock that we have.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, len) };
        if len > 0
            && let Some(at) = self.faults.flip_transfer.take()
        {
            // SAFETY: within what was just written.
            unsafe { *((to as usize + at % len) as *mut u8) ^= 1 };
        }
    }
}

impl Pair {
    fn allows(&self, remote: Remote, len: usize, access: Access) -> bool {
        let end = remote.address.checked_add(len as u64);
        self.windows.get(&remote.key).is_some_and(|w| {
            w.access == access
                && remote.address >= w.at
                && end.is_some_and(|end| end <= w.at + w.len)
        })
    }
}

/// A stand-in for one shard's use of a device.
pub(crate) struct SoftNic {
    id: u64,
    wire: Wire,
    pool: RdmaPool,
    memory: RdmaPool,
    slots: usize,
    event: Arc<OwnedFd>,
}

struct SoftPair {
    number: u32,
    endpoint: Endpoint,
    wire: Wire,
    pool: RdmaPool,
}

struct SoftWindow(Cell<u32>);

impl Window for SoftWindow {
    fn next_key(&self) -> u32 {
        let key = self.0.get();
        self.0.set(key & !0xff | (key + 1) & 0xff);
        self.0.get()
    }
}

fn key_of(window: &dyn Window) -> u32 {
    let window: &dyn Any = window;
    window.downcast_ref::<SoftWindow>().expect("a window of this device").0.get()
}

impl Nic for SoftNic {
    fn queue_pair(&self) -> Result<Rc<dyn QueuePair>, String> {
        let mut state = self.wire.state();
        state.next += 1;
        let number = state.next;
        let first_packet = number.wrapping_mul(0x9E37_79B1) & 0xff_ffff;
        let pair = Pair {
            nic: self.id,
            first_packet,
            peer: None,
            failed: false,
            work: VecDeque::new(),
            windows: BTreeMap::new(),
        };
        state.pairs.insert(number, pair);
        let endpoint = Endpoint {
            queue_pair: number,
            first_packet,
            gid: [0; 16],
            lid: 0,
            mtu_log2: 12,
            reads_max: READS,
        };
        let (wire, pool) = (self.wire.clone(), self.pool.clone());
        Ok(Rc::new(SoftPair { number, endpoint, wire, pool }))
    }

    fn window(&self) -> Result<Box<dyn Window>, String> {
        let mut state = self.wire.state();
        state.next += 1;
        Ok(Box::new(SoftWindow(Cell::new(state.next << 8))))
    }

    fn poll(&self, into: &mut VecDeque<Completion>, looks: usize) -> usize {
        let look = |_| {
            let mut state = self.wire.state();
            let port = state.nics.get_mut(&self.id).expect("until it is dropped");
            let n = port.completions.len().min(32);
            into.extend(port.completions.drain(..n));
            n
        };
        (0..looks).map(look).find(|n| *n > 0).unwrap_or(0)
    }

    fn received(&self, slot: u16, len: u32) -> &[u8] {
        assert!(usize::from(slot) < self.slots && len as usize <= PACKET);
        let at = self.memory.span().0 + usize::from(slot) * PACKET;
        // SAFETY: within our mapping; nothing is written to a slot before it is given back.
        unsafe { std::slice::from_raw_parts(at as *const u8, len as usize) }
    }

    fn repost(&self, slot: u16) {
        let mut state = self.wire.state();
        let port = state.nics.get_mut(&self.id).expect("until it is dropped");
        assert!(!port.free.contains(&slot), "slot {slot} is given back twice");
        let lacked = port.free.is_empty();
        port.free.push_back(slot);
        if lacked {
            state.advance_all();
        }
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn arm(&self, for_own_work: bool) -> Result<(), String> {
        let armed = if for_own_work { Armed::All } else { Armed::Solicited };
        self.wire.state().nics.get_mut(&self.id).expect("until it is dropped").armed = armed;
        Ok(())
    }

    fn events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }

    fn take_events(&self) {
        // Nothing there is as good.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    fn send_queue(&self) -> usize {
        SEND_QUEUE
    }
}

impl Drop for SoftNic {
    fn drop(&mut self) {
        self.wire.state().nics.remove(&self.id);
    }
}

impl SoftPair {
    fn place(&self, local: &Local<'_>) -> (u64, usize) {
        let at = local.piece.address() + u64::from(local.at);
        let (base, len) = self.pool.span();
        let end = at + u64::from(local.len);
        assert!(at >= base as u64 && end <= (base + len) as u64, "a piece of another pool");
        (at, local.len as usize)
    }

    fn op(&self, work: &Work<'_>) -> Op {
        match work {
            Work::Send { id, packet, signal } => {
                let (at, len) = self.place(packet);
                Op { id: *id, signal: *signal, what: What::Send { at, len } }
            }
            Work::SendCopy { id, packet, signal } => {
                assert!(packet.len() <= COPIED_MAX, "too much to be copied");
                let what = What::SendCopy { packet: packet.to_vec() };
                Op { id: *id, signal: *signal, what }
            }
            Work::Read { id, into, from } => {
                let (at, len) = self.place(into);
                Op { id: *id, signal: true, what: What::Read { at, len, from: *from } }
            }
            Work::Write { id, from, to, signal } => {
                let (at, len) = self.place(from);
                Op { id: *id, signal: *signal, what: What::Write { at, len, to: *to } }
            }
            Work::Open { id, window, memory, access, signal } => {
                let (at, len) = self.place(memory);
                let opening = Opening { at, len: len as u64, access: *access };
                let what = What::Open { key: key_of(*window), opening };
                Op { id: *id, signal: *signal, what }
            }
            Work::Close { id, window } => {
                Op { id: *id, signal: true, what: What::Close { key: key_of(*window) } }
            }
        }
    }
}

impl QueuePair for SoftPair {
    fn number(&self) -> u32 {
        self.number
    }

    fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    fn copied_max(&self) -> usize {
        COPIED_MAX
    }

    fn connect(&self, to: &Endpoint) -> Result<(), String> {
        let mut state = self.wire.state();
        state.pairs.get_mut(&self.number).expect("until it is dropped").peer = Some(*to);
        state.advance_all();
        Ok(())
    }

    fn post(&self, work: &[Work<'_>]) -> Result<(), String> {
        let mut state = self.wire.state();
        let pair = state.pairs.get_mut(&self.number).expect("until it is dropped");
        if pair.failed {
            return Err("the queue pair is in the error state".into());
        }
        pair.work.extend(work.iter().map(|w| self.op(w)));
        assert!(pair.work.len() <= SEND_QUEUE, "the send queue is full");
        state.advance(self.number);
        Ok(())
    }

    fn fail(&self) {
        self.wire.state().fail(self.number, "the queue pair was given up");
    }
}

impl Drop for SoftPair {
    fn drop(&mut self) {
        let mut state = self.wire.state();
        let pair = state.pairs.remove(&self.number).expect("dropped once");
        let nic = pair.nic;
        if let Some(port) = state.nics.get_mut(&nic) {
            // As verbs do: completions of a pair that is gone are gone, their buffers are not.
            let mut free = Vec::new();
            port.completions.retain(|c| {
                let of_it = c.queue_pair == self.number;
                if of_it && let Outcome::Received { slot, .. } = c.outcome {
                    free.push(slot);
                }
                !of_it
            });
            port.free.extend(free);
        }
        state.advance_all();
    }
}
