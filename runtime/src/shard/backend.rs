//! The port: everything a shard asks of the world below it. Object-safe, so nothing above is
//! generic.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use super::Shard;
use crate::addr::NodeId;
use crate::disk::{DiskId, DiskOp, DiskResult};
use crate::net::Net;
use crate::slot::Slot;
use crate::time::Time;
use crate::wire::Frame;

/// A task of one shard.
pub type LocalTask = Pin<Box<dyn Future<Output = ()>>>;

/// What crosses between two shards of one process: values, not bytes.
pub struct Parcel(pub(crate) Box<dyn Errand>);

/// What a parcel has done where it arrives.
pub(crate) trait Errand: Send {
    fn run(self: Box<Self>, there: &Rc<Shard>);
}

/// Implemented by `runtime::glommio` and by the simulator, once per shard.
pub trait Backend {
    fn now(&self) -> Time;
    /// Microseconds since the Unix epoch, for timestamps that users see; may jump.
    fn wall_us(&self) -> u64;
    fn rand(&self) -> u64;
    /// The mistake that what runs here is to make, by its name, so that tests can see that it is
    /// found. A shard asks once, when it is made. Nobody plants any in production.
    fn planted(&self) -> Option<&'static str> {
        None
    }
    /// Queues a task; never polls it inside the caller.
    fn spawn(&self, task: LocalTask);
    fn wake_at(&self, at: Time, done: Slot<()>);
    /// Fills the slot once the shard has run what was ready and looked for new I/O, without having
    /// slept: for who polls something. A task that only wakes itself would keep the shard from I/O.
    fn turn(&self, done: Slot<()>) {
        self.wake_at(self.now(), done);
    }
    /// Whether something that only a turn brings forward is known to wait.
    fn turn_is_due(&self) -> bool {
        true
    }
    /// Starts a disk operation. It runs to its end even if nobody waits for it any more.
    fn disk(&self, disk: DiskId, op: DiskOp, done: Slot<DiskResult>);
    /// Byte streams for links, where the backend has them; the simulator's wire takes frames.
    fn net(&self) -> Option<Rc<dyn Net>> {
        None
    }
    /// Hands a frame to the link to another node. `Err` means it was certainly not sent.
    fn send(&self, to: NodeId, frame: Frame) -> Result<(), &'static str>;
    /// Hands a parcel to another shard of this process; given back when that shard's ring is full.
    fn pass(&self, shard: u16, parcel: Parcel) -> Result<(), Parcel>;
}
