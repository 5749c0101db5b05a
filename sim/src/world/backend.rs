//! The port of one simulated shard.

use std::rc::{Rc, Weak};

use t3fs_runtime::disk::{DiskBuf, DiskId, DiskOp, DiskReply, DiskResult};
use t3fs_runtime::shard::{Backend, LocalTask, Parcel};
use t3fs_runtime::wire::Frame;
use t3fs_runtime::{NodeId, Slot, Time};

use super::crashpoints::Phase;
use super::node::{drifted, undrifted};
use super::{Event, Inner};
use crate::exec::Owner;

pub(crate) struct SimBackend {
    world: Weak<Inner>,
    owner: Owner,
    shard: u16,
    drift_ppm: i64,
}

impl SimBackend {
    pub(crate) fn new(world: Weak<Inner>, owner: Owner, shard: u16, drift_ppm: i64) -> SimBackend {
        SimBackend { world, owner, shard, drift_ppm }
    }

    /// The world, while this run of the node lives in it. What a dropped task still calls on its
    /// way out reaches nobody.
    fn alive(&self) -> Option<Rc<Inner>> {
        self.world.upgrade().filter(|w| w.alive(self.owner))
    }
}

impl Backend for SimBackend {
    fn now(&self) -> Time {
        let now = self.world.upgrade().map_or(0, |w| w.now.get());
        Time::from_us(drifted(now, self.drift_ppm))
    }

    fn wall_us(&self) -> u64 {
        // 2026-01-01; what users see, so the same drift as the node's clock.
        1_767_225_600_000_000 + self.now().us()
    }

    fn rand(&self) -> u64 {
        self.world.upgrade().map_or(0, |w| w.actors_rng.draw())
    }

    fn planted(&self) -> Option<&'static str> {
        self.world.upgrade().and_then(|w| w.planted.get())
    }

    fn spawn(&self, task: LocalTask) {
        match self.alive() {
            Some(w) => w.tasks.spawn(self.owner, task),
            None => drop(task),
        }
    }

    fn wake_at(&self, at: Time, done: Slot<()>) {
        let Some(w) = self.alive() else { return };
        if at != Time::NEVER {
            let at = undrifted(at.us(), self.drift_ppm).max(w.now.get());
            w.later(at, Event::Wake { owner: self.owner, slot: done });
        }
    }

    fn disk(&self, disk: DiskId, op: DiskOp, done: Slot<DiskResult>) {
        if let DiskOp::Alloc { len } = op {
            let used_before = vec![0xa5; len];
            return done.fill(Ok(DiskReply::Buf(DiskBuf(Box::new(used_before)))));
        }
        let Some(w) = self.alive() else { return };
        let slot = w.disk_slot(self.owner.node, disk);
        let ticket = slot.disk.borrow_mut().start(op, self.shard);
        let (cost, busy) = slot.disk.borrow().cost_us(ticket, &w.disk_rng);
        let begin = slot.busy_until.get().max(w.now.get());
        slot.busy_until.set(begin + busy);
        w.disk_event(self.owner, disk, ticket, Phase::Started);
        w.later(begin + cost, Event::Disk { owner: self.owner, disk, ticket, slot: done });
    }

    fn send(&self, to: NodeId, frame: Frame) -> Result<(), &'static str> {
        match self.alive() {
            Some(w) => w.send(NodeId(self.owner.node), to, frame),
            None => Err("this process is gone"),
        }
    }

    fn pass(&self, shard: u16, parcel: Parcel) -> Result<(), Parcel> {
        match self.alive() {
            Some(w) => w.pass(self.owner, self.shard, shard, parcel),
            None => Err(parcel),
        }
    }
}
