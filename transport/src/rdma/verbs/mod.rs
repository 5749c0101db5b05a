//! The real thing: `Nic` over libibverbs, which is looked for at run time. Where it is missing,
//! every call answers that it is not supported: no devices are found, and nothing else is reached.
//!
//! Read next: `discover.rs` (what there is), `device.rs` (a shard's use of one), `queue_pair.rs`.

mod device;
mod discover;
mod handles;
mod queue_pair;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

pub(super) use discover::discover;

use super::memory::RdmaPool;
use super::nic::{Completion, Nic, QueuePair, Window};
use super::report::PortRef;
use device::Device;
use device::window::VerbsWindow;
use queue_pair::VerbsQueuePair;

/// How much a shard asks of a device. It gets less of `queue_pairs` where the device has less.
#[derive(Clone, Debug)]
pub(crate) struct NicSettings {
    /// Of `PACKET` bytes each, for all connections together.
    pub(crate) receive_buffers: usize,
    /// Work that may be outstanding on one queue pair.
    pub(crate) send_queue: usize,
    /// Connections at a time.
    pub(crate) queue_pairs: usize,
}

/// A shard's use of one port of a device.
pub(crate) struct VerbsNic(Rc<Device>);

impl VerbsNic {
    /// Opens the device, registers the pool with it, and posts the receive buffers. The error is a
    /// sentence.
    pub(crate) fn open(
        port: &PortRef,
        pool: &RdmaPool,
        settings: &NicSettings,
    ) -> Result<VerbsNic, String> {
        let device = Device::open(port, pool, settings);
        device.map(|d| VerbsNic(Rc::new(d))).map_err(|why| format!("{}: {why}", port.device))
    }

    /// The key by which a peer would reach the whole pool, if that were open.
    #[cfg(test)]
    fn pool_key(&self) -> u32 {
        self.0.pool_key()
    }
}

impl Nic for VerbsNic {
    fn queue_pair(&self) -> Result<Rc<dyn QueuePair>, String> {
        Ok(Rc::new(VerbsQueuePair::new(&self.0)?))
    }

    fn window(&self) -> Result<Box<dyn Window>, String> {
        Ok(Box::new(VerbsWindow::new(&self.0)?))
    }

    fn poll(&self, into: &mut VecDeque<Completion>, looks: usize) -> usize {
        self.0.poll(into, looks)
    }

    fn received(&self, slot: u16, len: u32) -> &[u8] {
        self.0.slots.packet(slot, len)
    }

    fn repost(&self, slot: u16) {
        self.0.repost(slot);
    }

    fn slots(&self) -> usize {
        self.0.slots.count()
    }

    fn arm(&self, for_own_work: bool) -> Result<(), String> {
        self.0.arm(for_own_work)
    }

    fn events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.events())
    }

    fn take_events(&self) {
        self.0.take_events();
    }

    fn send_queue(&self) -> usize {
        self.0.send_queue
    }
}
