//! `Cx`: the only door out of an actor. How actors are started through it: `actor.rs`.

use core::time::Duration;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use super::Shard;
use super::disk::Disk;
use crate::addr::{Addr, NodeId};
use crate::ask::AskError;
use crate::caller::Caller;
use crate::disk::DiskId;
use crate::meter::Meters;
use crate::protocol::{Ask, Protocol};
use crate::slot::{Slot, before};
use crate::time::Time;

/// Time, randomness, timers, disks, peers and tasks, within the deadline of one request and for its
/// caller.
#[derive(Clone)]
pub struct Cx {
    pub(crate) shard: Rc<Shard>,
    deadline: Time,
    caller: Option<Arc<Caller>>,
}

impl Cx {
    pub(crate) fn new(shard: Rc<Shard>, deadline: Time, caller: Option<Arc<Caller>>) -> Cx {
        Cx { shard, deadline, caller }
    }

    pub fn now(&self) -> Time {
        self.shard.backend.now()
    }

    /// Microseconds since the Unix epoch; for timestamps that users see, never for order.
    pub fn wall_us(&self) -> u64 {
        self.shard.backend.wall_us()
    }

    pub fn rand(&self) -> u64 {
        self.shard.backend.rand()
    }

    /// The mistake that tests have planted in this world, by its name; `None` in production. What
    /// the names mean only the actors know.
    #[inline]
    pub fn planted(&self) -> Option<&'static str> {
        self.shard.planted
    }

    pub fn node(&self) -> NodeId {
        self.shard.node
    }

    pub fn shard_index(&self) -> u16 {
        self.shard.index
    }

    /// When the sender of the request stops waiting.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    pub fn expired(&self) -> bool {
        self.now() >= self.deadline
    }

    /// In whose name this is done; `None`: by the system itself.
    pub fn caller(&self) -> Option<&Arc<Caller>> {
        self.caller.as_ref()
    }

    /// The same door for a caller, whom all that is asked through it names.
    pub fn of(&self, caller: Arc<Caller>) -> Cx {
        Cx { caller: Some(caller), ..self.clone() }
    }

    /// For work that has passed its point of no return: the caller may leave, the work may not.
    pub fn outlive(&self) -> Cx {
        Cx { deadline: Time::NEVER, ..self.clone() }
    }

    /// The same door with an earlier deadline.
    pub fn within(&self, limit: Duration) -> Cx {
        let deadline = self.deadline.min(self.now() + limit);
        Cx { deadline, ..self.clone() }
    }

    pub async fn sleep(&self, d: Duration) {
        let done = Slot::new();
        self.shard.backend.wake_at(self.now() + d, done.clone());
        done.await;
    }

    /// The value, or `None` when this context's deadline passes first. Who waits for others waits
    /// through this.
    pub async fn in_time<T>(&self, value: impl Future<Output = T>) -> Option<T> {
        let (late, _timer) = self.shard.timer(self.deadline);
        before(value, late).await
    }

    /// Ready once the shard has run what was ready and looked for new I/O, without having slept.
    pub fn turn(&self) -> Slot<()> {
        let done = Slot::new();
        self.shard.backend.turn(done.clone());
        done
    }

    /// Whether I/O may wait for a turn of the shard. Who polls something takes turns at once then,
    /// and now and then otherwise.
    pub fn turn_is_due(&self) -> bool {
        self.shard.backend.turn_is_due()
    }

    /// Runs a task on this shard. It is queued, never polled inside the caller.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shard.backend.spawn(Box::pin(task));
    }

    /// Counts so many of a stage of work, under a name of its own, for whoever looks at meters.
    pub fn count(&self, stage: &'static str, n: u64) {
        self.shard.count_stage(stage, n);
    }

    /// What has been counted on this shard so far.
    pub fn meters(&self) -> Meters {
        self.shard.meters()
    }

    pub fn disk(&self, id: DiskId) -> Disk {
        Disk::new(Rc::clone(&self.shard.backend), id)
    }

    /// Sends a request and waits for its reply, at most until the earlier of this context's
    /// deadline and the message's own timeout. Waits in line for a credit until then.
    pub async fn ask<P, M>(&self, to: Addr<P>, message: M) -> Result<M::Reply, AskError>
    where
        P: Protocol,
        M: Ask<P>,
    {
        let deadline = self.deadline.min(self.now() + M::TIMEOUT);
        self.shard.ask(to, message, deadline, self.caller.clone()).await
    }

    /// Sends a message and lets its reply go. Never waits: without a credit it is `NotSent`.
    pub fn tell<P, M>(&self, to: Addr<P>, message: M) -> Result<(), AskError>
    where
        P: Protocol,
        M: Ask<P>,
    {
        self.shard.tell(to, message, self.caller.clone())
    }
}
