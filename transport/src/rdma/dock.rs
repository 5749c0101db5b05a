//! The memory that the connections of a shard share, and who may have how much of it.
//!
//! Memory in the hands of others (payloads that were delivered, landings) never takes more than
//! half of the pool, with what waits to be fetched never more than three quarters. So there is
//! always memory that comes back by itself, for packets and for fetching: waiting ends.

use std::cell::RefCell;
use std::rc::Rc;

use super::memory::{PIECE_MAX, PoolPiece, RdmaPool};
use super::nic::{Nic, PACKET, Window};
use crate::pool::HeapPool;

/// What memory is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Comes back when the packet has arrived.
    Packet,
    /// Comes back when it is filled, unless there is plenty.
    Fetch,
    /// Comes back when the other side has fetched it.
    Segment,
    /// Comes back when the asker is done with the reply.
    Landing,
}

/// Smaller pieces than this are not tried when larger ones are not to be had.
const SMALLEST: usize = 16 << 10;
const _: () = assert!(SMALLEST >= PACKET && SMALLEST <= PIECE_MAX);

pub(crate) struct Dock {
    pub(crate) pool: RdmaPool,
    /// Where payloads are copied to when the pool is scarce.
    pub(crate) heap: HeapPool,
    nic: Rc<dyn Nic>,
    windows: RefCell<Vec<Box<dyn Window>>>,
}

impl Dock {
    pub(crate) fn new(nic: Rc<dyn Nic>, pool: RdmaPool, heap: HeapPool) -> Dock {
        Dock { pool, heap, nic, windows: RefCell::default() }
    }

    /// A piece with room for so many bytes, if that leaves enough for more urgent purposes.
    pub(crate) fn take(&self, purpose: Purpose, len: usize) -> Option<PoolPiece> {
        let stays = match purpose {
            Purpose::Packet | Purpose::Fetch => 0,
            Purpose::Segment => self.pool.bytes() / 4,
            Purpose::Landing => self.pool.bytes() / 2,
        };
        if self.pool.free_bytes() < stays + len.next_power_of_two() {
            return None;
        }
        self.pool.take(len)
    }

    /// The same, or a smaller piece when there is none of that size: free memory may be scattered.
    pub(crate) fn take_some(&self, purpose: Purpose, len: usize) -> Option<PoolPiece> {
        let mut want = len.min(PIECE_MAX);
        loop {
            if let Some(piece) = self.take(purpose, want) {
                return Some(piece);
            }
            if want <= SMALLEST {
                return None;
            }
            want = (want / 2).max(SMALLEST);
        }
    }

    /// Whether payloads are copied out of the pool rather than delivered in it.
    pub(crate) fn is_scarce(&self) -> bool {
        2 * self.pool.free_bytes() < self.pool.bytes()
    }

    /// A window that is not open; `None` when the device has no more.
    pub(crate) fn window(&self) -> Option<Box<dyn Window>> {
        let spare = self.windows.borrow_mut().pop();
        spare.or_else(|| self.nic.window().ok())
    }

    /// Takes back a window that was closed.
    pub(crate) fn give_back(&self, window: Box<dyn Window>) {
        self.windows.borrow_mut().push(window);
    }
}
