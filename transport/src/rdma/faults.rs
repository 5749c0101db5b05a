//! What can go wrong with a device, at will: for tests of whatever is above it.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::nic::{Completion, Nic, QueuePair, Window};

/// Faults of some devices. Clones are the same.
#[derive(Clone, Default)]
pub struct Faults(Arc<Switches>);

#[derive(Default)]
struct Switches {
    hold: AtomicBool,
    flip: AtomicUsize,
}

impl Faults {
    /// Nothing completes and nothing arrives until it is taken back: a dead cable.
    pub fn hold(&self, hold: bool) {
        self.0.hold.store(hold, Ordering::Relaxed);
    }

    /// Damages a byte of the next packet that arrives, so many bytes in, counted from 1.
    pub fn flip_packet(&self, at: usize) {
        self.0.flip.store(at, Ordering::Relaxed);
    }

    pub(super) fn around(&self, nic: Rc<dyn Nic>) -> Rc<dyn Nic> {
        Rc::new(Faulty { nic, faults: self.clone() })
    }
}

struct Faulty {
    nic: Rc<dyn Nic>,
    faults: Faults,
}

impl Nic for Faulty {
    fn queue_pair(&self) -> Result<Rc<dyn QueuePair>, String> {
        self.nic.queue_pair()
    }

    fn window(&self) -> Result<Box<dyn Window>, String> {
        self.nic.window()
    }

    fn poll(&self, into: &mut VecDeque<Completion>, looks: usize) -> usize {
        match self.faults.0.hold.load(Ordering::Relaxed) {
            true => 0,
            false => self.nic.poll(into, looks),
        }
    }

    fn received(&self, slot: u16, len: u32) -> &[u8] {
        let packet = self.nic.received(slot, len);
        let at = self.faults.0.flip.swap(0, Ordering::Relaxed);
        if at > 0 && !packet.is_empty() {
            let byte = packet[(at - 1).min(packet.len() - 1)..].as_ptr().cast_mut();
            // SAFETY: within a receive buffer, which is mapped memory that the device is done with
            // and that nobody looks at before this returns.
            unsafe { byte.write_volatile(byte.read_volatile() ^ 1) };
        }
        self.nic.received(slot, len)
    }

    fn repost(&self, slot: u16) {
        self.nic.repost(slot);
    }

    fn slots(&self) -> usize {
        self.nic.slots()
    }

    fn arm(&self, for_own_work: bool) -> Result<(), String> {
        self.nic.arm(for_own_work)
    }

    /// What was held makes no event when it is let go.
    fn events(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn take_events(&self) {
        self.nic.take_events();
    }

    fn send_queue(&self) -> usize {
        self.nic.send_queue()
    }
}
