//! A simulated process: its shards and disks while it runs, and how it starts again.

use std::cell::RefCell;
use std::rc::Rc;

use t3fs_runtime::wire::{SPOKEN_MAX, SPOKEN_MIN};
use t3fs_runtime::{Cx, NodeId, Shard};

use super::{Crash, Event};
use crate::disk::SimDisk;
use crate::exec::{Owner, TaskId};

/// What starts a node's actors: called once per shard, in order, at the first start and at every
/// later one. It may start actors and spawn tasks through the given door, and nothing of it is left
/// after a crash but the disks.
pub type BootFn = Rc<dyn Fn(&Boot)>;

/// A shard that is about to run.
pub struct Boot {
    pub cx: Cx,
    pub shard: u16,
    /// Incarnation of the process: larger than any earlier one of this node.
    pub epoch: u32,
    pub node: NodeId,
}

/// How to make a node.
#[derive(Clone)]
pub struct NodeSpec {
    pub(crate) shards: u16,
    pub(crate) disks: Vec<SimDisk>,
    pub(crate) boot: BootFn,
    pub(crate) drift_ppm: i64,
    pub(crate) speaks: u16,
}

impl Default for NodeSpec {
    fn default() -> Self {
        let boot: BootFn = Rc::new(|_| {});
        NodeSpec { shards: 1, disks: Vec::new(), boot, drift_ppm: 0, speaks: SPOKEN_MAX }
    }
}

impl NodeSpec {
    pub fn new() -> NodeSpec {
        NodeSpec::default()
    }

    pub fn shards(mut self, n: u16) -> NodeSpec {
        self.shards = n;
        self
    }

    /// One more disk, empty, of so many bytes; `DiskId`s count from 0.
    pub fn disk(self, capacity: u64) -> NodeSpec {
        let n = self.disks.len() as u16;
        self.disk_image(SimDisk::new(n, capacity))
    }

    /// One more disk, with what a snapshot holds.
    pub fn disk_image(mut self, disk: SimDisk) -> NodeSpec {
        self.disks.push(disk);
        self
    }

    /// Makes the node's clock run faster (or slower) than true time.
    pub fn drift_ppm(mut self, ppm: i64) -> NodeSpec {
        assert!(ppm.abs() <= 100_000, "{ppm} ppm is no clock");
        self.drift_ppm = ppm;
        self
    }

    /// Makes it a node of an earlier build, as its peers see it.
    pub fn speaks(mut self, spoken: u16) -> NodeSpec {
        assert!((SPOKEN_MIN..=SPOKEN_MAX).contains(&spoken), "nobody speaks {spoken}");
        self.speaks = spoken;
        self
    }

    pub fn boot(mut self, boot: impl Fn(&Boot) + 'static) -> NodeSpec {
        self.boot = Rc::new(boot);
        self
    }
}

pub(crate) struct DiskSlot {
    pub disk: RefCell<SimDisk>,
    /// The device is busy with earlier transfers until then.
    pub busy_until: std::cell::Cell<u64>,
}

#[derive(Clone, Copy)]
pub(crate) struct CrashIn {
    pub disk_events: u64,
    pub how: Crash,
    pub down_us: u64,
}

pub(crate) struct Node {
    pub id: NodeId,
    /// Which run of the process this is, and its actors' epoch.
    pub run: u32,
    pub up: bool,
    pub shards: Vec<Rc<Shard>>,
    pub disks: Vec<Rc<DiskSlot>>,
    pub shard_count: u16,
    pub boot: BootFn,
    /// Disk events until the node goes down, how, and for how long.
    pub crash_in: Option<CrashIn>,
    /// The process is stopped until then.
    pub paused_until: Option<u64>,
    /// What would have run, and what would have reached it, since then.
    pub parked: Vec<TaskId>,
    pub parked_events: Vec<Event>,
    /// How much faster than true time the node's clock runs, in parts per million.
    pub drift_ppm: i64,
    /// See `wire::SPOKEN_MAX`.
    pub speaks: u16,
}

impl Node {
    pub(crate) fn owner(&self) -> Owner {
        Owner { node: self.id.0, run: self.run }
    }
}

pub(crate) fn drifted(true_us: u64, ppm: i64) -> u64 {
    if ppm == 0 {
        return true_us;
    }
    true_us.saturating_add_signed(((i128::from(true_us) * i128::from(ppm)) / 1_000_000) as i64)
}

/// The first true time at which a clock shows `local_us` or later.
pub(crate) fn undrifted(local_us: u64, ppm: i64) -> u64 {
    if ppm == 0 || local_us == u64::MAX {
        return local_us;
    }
    let guess = (i128::from(local_us) * 1_000_000 / i128::from(1_000_000 + ppm)) as u64;
    let mut t = guess.saturating_sub(2);
    while drifted(t, ppm) < local_us {
        t += 1;
    }
    t
}
