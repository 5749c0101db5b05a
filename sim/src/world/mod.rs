//! The world: nodes, virtual time, and the loop that moves it.
//!
//! ```
//! use t3fs_runtime::{DiskId, disk::OpenMode};
//! use t3fs_sim::{Crash, NodeSpec, World};
//!
//! let world = World::new(7);
//! let node = world.add_node(NodeSpec::new().disk(1 << 30));
//! let len = world.block_on(node, |cx| async move {
//!     cx.disk(DiskId(0)).open("journal", OpenMode::New).await.unwrap().1
//! });
//! assert_eq!(len, Ok(0));
//! world.crash(node, Crash::Power); // the name was not synced: it may be gone
//! world.restart(node);
//! ```
//!
//! One step is one poll of one ready task, chosen at random; when none is ready, time jumps to the
//! next event. A [`World`] owns everything and ends it when dropped; [`Sim`] is the handle that
//! tasks and closures keep. Read next: `drive.rs` (the loop), `backend.rs` (what actors see),
//! `node.rs` and `net.rs` (what there is), `crashpoints.rs`.

mod backend;
mod crashpoints;
mod drive;
mod net;
mod node;

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;

use t3fs_runtime::disk::{DiskId, DiskResult};
use t3fs_runtime::shard::Parcel;
use t3fs_runtime::{Cx, NodeId, Shard, Slot};

use crate::agenda::Agenda;
use crate::disk::{SimDisk, Ticket};
use crate::exec::{Owner, TaskId, Tasks};
use crate::rng::{Rng, Stream};
use crate::trace::{Sink, Trace};
use backend::SimBackend;
use crashpoints::DiskHook;
pub use crashpoints::{DiskEvent, Go, Phase};
pub use drive::Halt;
use net::{Flight, Net};
pub use net::{NetFaults, NetSpeed, NetStats};
pub(crate) use node::undrifted;
pub use node::{Boot, NodeSpec};
use node::{CrashIn, DiskSlot, Node};

/// What a node costs: real time of its polls, and frames. Nothing of it decides anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCost {
    pub poll_ns: u64,
    pub sent: u64,
    pub sent_bytes: u64,
    pub received: u64,
    pub received_bytes: u64,
}

/// How a node goes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process ends; what it wrote stays written.
    Process,
    /// The machine loses power; unsynced writes are kept, lost or torn.
    Power,
}

/// Something that happens at a time.
pub(crate) enum Event {
    Wake {
        owner: Owner,
        slot: Slot<()>,
    },
    Disk {
        owner: Owner,
        disk: DiskId,
        ticket: Ticket,
        slot: Slot<DiskResult>,
    },
    Parcel {
        owner: Owner,
        shard: u16,
        parcel: Parcel,
    },
    Frame(Flight),
    /// A poll that was put off.
    Poll(TaskId),
    Act(Act),
}

pub(crate) type Act = Box<dyn FnOnce(&Sim)>;

pub(crate) const HARNESS: Owner = Owner { node: 0, run: 0 };

pub(crate) struct Inner {
    seed: u64,
    /// See [`Sim::plant`].
    planted: Cell<Option<&'static str>>,
    pub(crate) now: Cell<u64>,
    pub(crate) tasks: Tasks,
    pub(crate) agenda: RefCell<Agenda<Event>>,
    pub(crate) nodes: RefCell<Vec<Node>>,
    pub(crate) trace: Trace,
    pub(crate) schedule_rng: Rng,
    pub(crate) net_rng: Rng,
    pub(crate) disk_rng: Rng,
    pub(crate) actors_rng: Rng,
    pub(crate) stop: Cell<bool>,
    /// What cannot happen inside a step, to be done right after it.
    pub(crate) soon: RefCell<Vec<Act>>,
    pub(crate) polling: Cell<bool>,
    pub(crate) polls_at_once: Cell<u64>,
    pub(crate) polls: Cell<u64>,
    /// Of nodes that are metered, if any are.
    pub(crate) costs: RefCell<BTreeMap<u32, NodeCost>>,
    pub(crate) metered: Cell<bool>,
    pub(crate) disk_events: Cell<u64>,
    pub(crate) disk_hook: RefCell<Option<DiskHook>>,
    /// When the last parcel between two shards of a node arrives: rings are first in, first out.
    rings: RefCell<BTreeMap<(u32, u16, u16), u64>>,
    pub(crate) net: RefCell<Net>,
    pub(crate) schedule: Cell<ScheduleFaults>,
    /// Nodes that are paused now.
    pub(crate) paused: Cell<u32>,
    pub(crate) stats: Cell<WorldStats>,
    /// Counts unleashings and heals.
    pub(crate) fault_round: Cell<u32>,
}

/// What may go wrong within a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScheduleFaults {
    /// Chance, per million polls, that a ready task waits although nothing else runs.
    pub slow_poll_ppm: u32,
    pub slow_poll_us: u64,
    /// Chance, per million parcels, that the other shard's ring is full.
    pub full_ring_ppm: u32,
}

/// What happened to nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorldStats {
    pub kills: u64,
    pub power_losses: u64,
    /// Starts after a crash.
    pub restarts: u64,
    pub pauses: u64,
    pub slow_polls: u64,
    pub full_rings: u64,
    pub parcels: u64,
}

/// Owns a simulated cluster; dropping it ends every node and frees everything.
pub struct World(Sim);

/// A handle to a world, for harness tasks, hooks and closures.
#[derive(Clone)]
pub struct Sim(pub(crate) Rc<Inner>);

impl Deref for World {
    type Target = Sim;
    fn deref(&self) -> &Sim {
        &self.0
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl World {
    pub fn new(seed: u64) -> World {
        World(Sim(Rc::new(Inner {
            seed,
            planted: Cell::new(None),
            now: Cell::new(0),
            tasks: Tasks::new(),
            agenda: RefCell::new(Agenda::new()),
            nodes: RefCell::default(),
            trace: Trace::default(),
            schedule_rng: Rng::stream(seed, Stream::Schedule),
            net_rng: Rng::stream(seed, Stream::Net),
            disk_rng: Rng::stream(seed, Stream::Disk),
            actors_rng: Rng::stream(seed, Stream::Actors),
            stop: Cell::new(false),
            soon: RefCell::default(),
            polling: Cell::new(false),
            polls_at_once: Cell::new(0),
            polls: Cell::new(0),
            costs: RefCell::default(),
            metered: Cell::new(false),
            disk_events: Cell::new(0),
            disk_hook: RefCell::new(None),
            rings: RefCell::default(),
            net: RefCell::default(),
            schedule: Cell::default(),
            paused: Cell::new(0),
            stats: Cell::default(),
            fault_round: Cell::new(0),
        })))
    }

    /// A handle that tasks may keep; it does not keep the nodes running.
    pub fn handle(&self) -> Sim {
        self.0.clone()
    }
}

impl Inner {
    /// Adds to what a metered node costs.
    pub(crate) fn meter(&self, node: u32, add: impl FnOnce(&mut NodeCost)) {
        if self.metered.get()
            && let Some(cost) = self.costs.borrow_mut().get_mut(&node)
        {
            add(cost);
        }
    }

    pub(crate) fn later(&self, at_us: u64, event: Event) {
        self.agenda.borrow_mut().push(at_us, event);
    }

    pub(crate) fn alive(&self, owner: Owner) -> bool {
        owner == HARNESS
            || self
                .nodes
                .borrow()
                .get(owner.node as usize - 1)
                .is_some_and(|n| n.up && n.run == owner.run)
    }

    pub(crate) fn disk_slot(&self, node: u32, disk: DiskId) -> Rc<DiskSlot> {
        let nodes = self.nodes.borrow();
        let found = nodes[node as usize - 1].disks.get(usize::from(disk.0)).cloned();
        found.unwrap_or_else(|| panic!("node {node} has no disk {}", disk.0))
    }

    pub(crate) fn count(&self, f: impl FnOnce(&mut WorldStats)) {
        let mut s = self.stats.get();
        f(&mut s);
        self.stats.set(s);
    }

    pub(crate) fn pass(
        &self,
        owner: Owner,
        from: u16,
        to: u16,
        parcel: Parcel,
    ) -> Result<(), Parcel> {
        let nodes = self.nodes.borrow();
        if to >= nodes[owner.node as usize - 1].shard_count {
            return Err(parcel);
        }
        if self.schedule_rng.chance(self.schedule.get().full_ring_ppm) {
            self.count(|s| s.full_rings += 1);
            return Err(parcel);
        }
        self.count(|s| s.parcels += 1);
        let mut rings = self.rings.borrow_mut();
        let last = rings.entry((owner.node, from, to)).or_insert(0);
        *last = (*last).max(self.now.get() + self.schedule_rng.below(8));
        self.later(*last, Event::Parcel { owner, shard: to, parcel });
        Ok(())
    }
}

impl Sim {
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// Whatever starts from here on makes this mistake, by the name that it has for `--mutant`.
    pub fn plant(&self, mistake: Option<&'static str>) {
        self.0.planted.set(mistake);
    }

    /// The mistake that is planted here.
    pub fn planted(&self) -> Option<&'static str> {
        self.0.planted.get()
    }

    /// True virtual time since the start, in microseconds.
    pub fn now_us(&self) -> u64 {
        self.0.now.get()
    }

    /// Counts what a node costs from here on.
    pub fn meter(&self, node: NodeId) {
        self.0.metered.set(true);
        self.0.costs.borrow_mut().insert(node.0, NodeCost::default());
    }

    /// What a metered node has cost.
    pub fn cost(&self, node: NodeId) -> NodeCost {
        self.0.costs.borrow().get(&node.0).copied().unwrap_or_default()
    }

    /// A generator for a purpose of the harness, named by `label`.
    pub fn rng(&self, label: u64) -> Rng {
        Rng::stream(self.0.seed, Stream::Workload).fork(label)
    }

    pub fn log_to(&self, sink: Sink) {
        self.0.trace.write_to(sink);
    }

    /// Digest of everything that has happened.
    pub fn log_hash(&self) -> u64 {
        self.0.trace.hash()
    }

    /// Polls so far; with the events, the work a run has done.
    pub fn polls(&self) -> u64 {
        self.0.polls.get()
    }

    pub fn events(&self) -> u64 {
        self.0.trace.events()
    }

    /// Adds an event of the harness to the log.
    pub fn note(&self, words: &[u64], text: std::fmt::Arguments<'_>) {
        self.0.trace.event(self.0.now.get(), words, text);
    }

    /// Adds a node and starts it.
    pub fn add_node(&self, spec: NodeSpec) -> NodeId {
        let disk =
            |d: SimDisk| Rc::new(DiskSlot { disk: RefCell::new(d), busy_until: Cell::new(0) });
        let mut nodes = self.0.nodes.borrow_mut();
        let id = NodeId(nodes.len() as u32 + 1);
        nodes.push(Node {
            id,
            run: 0,
            up: false,
            shards: Vec::new(),
            disks: spec.disks.into_iter().map(disk).collect(),
            shard_count: spec.shards,
            boot: spec.boot,
            crash_in: None,
            paused_until: None,
            parked: Vec::new(),
            parked_events: Vec::new(),
            drift_ppm: spec.drift_ppm,
            speaks: spec.speaks,
        });
        drop(nodes);
        self.restart(id);
        id
    }

    pub(crate) fn node<R>(&self, id: NodeId, f: impl FnOnce(&mut Node) -> R) -> R {
        f(&mut self.0.nodes.borrow_mut()[id.0 as usize - 1])
    }

    pub fn is_up(&self, id: NodeId) -> bool {
        self.node(id, |n| n.up)
    }

    pub fn nodes(&self) -> Vec<NodeId> {
        self.0.nodes.borrow().iter().map(|n| n.id).collect()
    }

    /// Starts a node that is down, as a new incarnation on the disks it has. Starts nothing when
    /// it is up.
    pub fn restart(&self, id: NodeId) {
        if self.is_up(id) {
            return;
        }
        let (owner, count, boot, drift) = self.node(id, |n| {
            n.run += 1;
            n.up = true;
            (n.owner(), n.shard_count, Rc::clone(&n.boot), n.drift_ppm)
        });
        if owner.run > 1 {
            self.0.count(|s| s.restarts += 1);
        }
        self.note(&[3, id.0.into(), owner.run.into()], format_args!("n{} up #{}", id.0, owner.run));
        for shard in 0..count {
            let backend = SimBackend::new(Rc::downgrade(&self.0), owner, shard, drift);
            let made = Shard::new(id, shard, owner.run, Rc::new(backend));
            self.node(id, |n| n.shards.push(made));
        }
        for shard in 0..count {
            boot(&Boot { cx: self.cx(id, shard), shard, epoch: owner.run, node: id });
        }
    }

    /// Ends a node: its tasks, actors and everything they hold at once, then its disks' unsynced
    /// state. From inside a task it happens right after the task's poll.
    pub fn crash(&self, id: NodeId, how: Crash) {
        if self.0.polling.get() {
            return self.soon(move |sim| sim.crash(id, how));
        }
        if !self.is_up(id) {
            return;
        }
        self.note(&[4, id.0.into(), how as u64], format_args!("n{} crash {how:?}", id.0));
        self.0.count(|s| match how {
            Crash::Process => s.kills += 1,
            Crash::Power => s.power_losses += 1,
        });
        self.unpause(id);
        let (owner, shards, disks) = self.node(id, |n| {
            n.up = false;
            n.crash_in = None;
            (n.owner(), std::mem::take(&mut n.shards), n.disks.clone())
        });
        self.0.tasks.end(|o| o == owner);
        for shard in shards {
            let left = Rc::downgrade(&shard);
            drop(shard);
            assert_eq!(left.strong_count(), 0, "node {}: something keeps a dead shard", id.0);
        }
        for slot in disks {
            let mut d = slot.disk.borrow_mut();
            match how {
                Crash::Process => d.kill(&self.0.disk_rng),
                Crash::Power => d.crash(&self.0.disk_rng),
            }
            slot.busy_until.set(0);
        }
        self.0.rings.borrow_mut().retain(|(node, _, _), _| *node != id.0);
    }

    /// Stops a node for a while, as a debugger, a hypervisor or a long page fault does: nothing of
    /// it runs, nothing reaches it, its clock goes on.
    pub fn pause(&self, id: NodeId, d: Duration) {
        let until = self.now_us() + d.as_micros() as u64;
        if !self.is_up(id) || self.node(id, |n| n.paused_until.is_some()) {
            return;
        }
        self.0.count(|s| s.pauses += 1);
        self.note(&[5, id.0.into(), until], format_args!("n{} paused for {d:?}", id.0));
        self.node(id, |n| n.paused_until = Some(until));
        self.0.paused.set(self.0.paused.get() + 1);
        self.at(until, move |sim| {
            if sim.node(id, |n| n.paused_until == Some(until)) {
                sim.unpause(id);
            }
        });
    }

    /// Ends a node's pause now.
    pub fn unpause(&self, id: NodeId) {
        let (was, tasks, events) = self.node(id, |n| {
            let was = n.paused_until.take().is_some();
            (was, std::mem::take(&mut n.parked), std::mem::take(&mut n.parked_events))
        });
        if was {
            self.0.paused.set(self.0.paused.get() - 1);
        }
        tasks.into_iter().for_each(|t| self.0.tasks.requeue(t));
        events.into_iter().for_each(|e| self.happen(e));
    }

    pub fn set_schedule_faults(&self, faults: ScheduleFaults) {
        self.0.schedule.set(faults);
    }

    pub fn stats(&self) -> WorldStats {
        self.0.stats.get()
    }

    /// Does something to the world right after the step under way.
    pub(crate) fn soon(&self, act: impl FnOnce(&Sim) + 'static) {
        self.0.soon.borrow_mut().push(Box::new(act));
    }

    /// Crashes a running node in the middle of its `disk_events`-th disk event from now (each
    /// operation has two, its start and its end), and starts it again after a while.
    pub fn crash_at_disk_event(&self, id: NodeId, how: Crash, disk_events: u64, down: Duration) {
        let down_us = down.as_micros() as u64;
        self.node(id, |n| n.crash_in = Some(CrashIn { disk_events, how, down_us }));
    }

    /// A door to a shard of a running node.
    pub fn cx(&self, id: NodeId, shard: u16) -> Cx {
        self.node(id, |n| {
            assert!(n.up, "node {} is down", id.0);
            n.shards[usize::from(shard)].cx()
        })
    }

    /// Counters of a shard of a running node.
    pub fn shard_stats(&self, id: NodeId, shard: u16) -> t3fs_runtime::shard::ShardStats {
        self.node(id, |n| n.shards[usize::from(shard)].stats())
    }

    /// Runs a task on a shard; it goes with the node.
    pub fn spawn<F>(&self, id: NodeId, shard: u16, task: impl FnOnce(Cx) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let cx = self.cx(id, shard);
        let owner = self.node(id, |n| n.owner());
        self.0.tasks.spawn(owner, Box::pin(task(cx)));
    }

    /// Runs a task that belongs to no node: scripts of faults, observers.
    pub fn spawn_harness(&self, task: impl Future<Output = ()> + 'static) {
        self.0.tasks.spawn(HARNESS, Box::pin(task));
    }

    /// Waits in virtual time; for harness tasks.
    pub async fn sleep(&self, d: Duration) {
        let slot = Slot::new();
        let at = self.now_us() + d.as_micros() as u64;
        self.0.later(at, Event::Wake { owner: HARNESS, slot: slot.clone() });
        slot.await;
    }

    /// Does something to the world at a time (now, when that has passed).
    pub fn at(&self, at_us: u64, act: impl FnOnce(&Sim) + 'static) {
        self.0.later(at_us.max(self.now_us()), Event::Act(Box::new(act)));
    }

    /// A snapshot of a disk, also of a node that is down.
    pub fn disk(&self, id: NodeId, disk: DiskId) -> SimDisk {
        self.0.disk_slot(id.0, disk).disk.borrow().clone()
    }

    /// Changes a disk from outside: faults, capacity, damage.
    pub fn with_disk<R>(&self, id: NodeId, disk: DiskId, f: impl FnOnce(&mut SimDisk) -> R) -> R {
        f(&mut self.0.disk_slot(id.0, disk).disk.borrow_mut())
    }

    fn end(&self) {
        for id in self.nodes() {
            self.node(id, |n| n.up = false);
        }
        let w = &*self.0;
        w.tasks.end(|_| true);
        drop(w.disk_hook.borrow_mut().take());
        let events = w.agenda.borrow_mut().take_all();
        drop(events);
        let acts = std::mem::take(&mut *w.soon.borrow_mut());
        drop(acts);
        let nodes = std::mem::take(&mut *w.nodes.borrow_mut());
        drop(nodes);
    }
}
