//! What a link needs of an RDMA device, and nothing more: reliable connected queue pairs with a
//! shared receive queue, one-sided transfers, memory windows, and completions.
//!
//! One [`Nic`] a shard and device port in use; nothing of it leaves the shard but pieces of
//! memory. `verbs/` is the real one; `soft.rs` moves bytes within this process for tests that run
//! without a device.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::memory::PoolPiece;

/// Bytes of a packet, and so of a receive buffer.
pub const PACKET: usize = 8 << 10;

/// What the other side must know of a queue pair to connect to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) queue_pair: u32,
    pub(crate) first_packet: u32,
    pub(crate) gid: [u8; 16],
    /// 0 on Ethernet.
    pub(crate) lid: u16,
    /// log2 of the path MTU in bytes.
    pub(crate) mtu_log2: u8,
    /// READs that may be outstanding towards this side, and that this side keeps outstanding.
    pub(crate) reads_max: u8,
}

/// Memory of the other side, opened to one queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) address: u64,
    pub(crate) key: u32,
}

/// Part of a piece of registered memory.
#[derive(Clone, Copy)]
pub(crate) struct Local<'a> {
    pub(crate) piece: &'a PoolPiece,
    pub(crate) at: u32,
    pub(crate) len: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// What is posted to a queue pair. The caller keeps all memory that is named until the work has
/// completed: work completes in the order posted, so one completion stands for all before it.
pub(crate) enum Work<'a> {
    Send {
        id: u64,
        packet: Local<'a>,
        signal: bool,
    },
    /// The same with bytes that need not be kept; at most `QueuePair::copied_max`.
    SendCopy {
        id: u64,
        packet: &'a [u8],
        signal: bool,
    },
    Read {
        id: u64,
        into: Local<'a>,
        from: Remote,
    },
    Write {
        id: u64,
        from: Local<'a>,
        to: Remote,
        signal: bool,
    },
    /// Opens memory to the other side of this queue pair, by the key that `window.next_key()` has
    /// returned; it is valid for what is posted afterwards.
    Open {
        id: u64,
        window: &'a dyn Window,
        memory: Local<'a>,
        access: Access,
        signal: bool,
    },
    /// Closes it again; nothing of the other side reaches the memory after the completion.
    Close {
        id: u64,
        window: &'a dyn Window,
    },
}

/// A memory window of type 2: open to one queue pair at a time, each time with another key.
pub(crate) trait Window: Any {
    /// Prepares the next opening and returns its key.
    fn next_key(&self) -> u32;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A packet came: receive buffer and length. The buffer is given back by `Nic::repost`.
    Received {
        slot: u16,
        len: u32,
    },
    Done,
    /// The queue pair is in the error state from now on.
    Failed(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) queue_pair: u32,
    pub(crate) id: u64,
    pub(crate) outcome: Outcome,
}

pub(crate) trait QueuePair {
    fn number(&self) -> u32;
    fn endpoint(&self) -> Endpoint;
    /// Ready to send and to receive afterwards.
    fn connect(&self, to: &Endpoint) -> Result<(), String>;
    /// Bytes that `Work::SendCopy` takes.
    fn copied_max(&self) -> usize;
    /// All at once, with one doorbell. `Err`: the queue pair is lost.
    fn post(&self, work: &[Work<'_>]) -> Result<(), String>;
    /// Into the error state: everything outstanding completes as failed, nothing of the other side
    /// reaches our memory any more. Dropping it destroys it.
    fn fail(&self);
}

pub(crate) trait Nic {
    /// A queue pair in its initial state, which uses the shared receive buffers.
    fn queue_pair(&self) -> Result<Rc<dyn QueuePair>, String>;
    fn window(&self) -> Result<Box<dyn Window>, String>;
    /// Appends what has completed, some at a time; how many. Looks so many times until there is
    /// something.
    fn poll(&self, into: &mut VecDeque<Completion>, looks: usize) -> usize;
    /// The packet in a receive buffer.
    fn received(&self, slot: u16, len: u32) -> &[u8];
    /// Gives a receive buffer back to the shared queue.
    fn repost(&self, slot: u16);
    /// Receive buffers of this shard, all connections together.
    fn slots(&self) -> usize;
    /// Asks for an event at the next packet or failure, and at the next completion of work of our
    /// own if it is waited for; poll once more after it, before waiting.
    fn arm(&self, for_own_work: bool) -> Result<(), String>;
    /// Readable when there has been an event; `None` where `poll` is all there is.
    fn events(&self) -> Option<BorrowedFd<'_>>;
    /// Takes the events that have come.
    fn take_events(&self);
    /// Entries of a queue pair's send queue.
    fn send_queue(&self) -> usize;
}
