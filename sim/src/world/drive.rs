//! The loop: one step is one poll of one ready task, or one event.

use core::time::Duration;
use std::cell::RefCell;
use std::rc::Rc;

use t3fs_runtime::{Cx, NodeId};

use super::crashpoints::Phase;
use super::{Event, Sim};
use crate::exec::{Owner, TaskId};

/// Why a run ended without what it was to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Halt {
    /// The node that the future ran on went down.
    Crashed,
    /// Nothing is left that could ever happen.
    Idle,
    /// The limit of virtual time was reached.
    Late,
    /// A hook or [`Sim::stop`] said so.
    Stopped,
}

/// Polls without time moving on, after which the run is taken for a livelock.
const POLLS_AT_ONCE_MAX: u64 = 2_000_000;

impl Sim {
    /// Runs a future on the node's first shard until it is done, for at most an hour of virtual
    /// time.
    pub fn block_on<T, F>(&self, id: NodeId, f: impl FnOnce(Cx) -> F) -> Result<T, Halt>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        let result = Rc::new(RefCell::new(None));
        let place = Rc::clone(&result);
        let owner = self.node(id, |n| n.owner());
        let work = f(self.cx(id, 0));
        self.0.tasks.spawn(
            owner,
            Box::pin(async move {
                let value = work.await;
                *place.borrow_mut() = Some(value);
            }),
        );
        let done = || result.borrow().is_some() || !self.0.alive(owner);
        self.run_until(done, Duration::from_secs(3600))?;
        let value = result.borrow_mut().take();
        value.ok_or(Halt::Crashed)
    }

    /// Lets this much virtual time pass.
    pub fn run_for(&self, d: Duration) -> Result<(), Halt> {
        match self.run_until(|| false, d) {
            Err(Halt::Late) => Ok(()),
            Err(Halt::Idle) => {
                self.0.now.set(self.now_us() + d.as_micros() as u64);
                Ok(())
            }
            other => other,
        }
    }

    /// Runs until `done`, which is looked at after every step, for at most `limit` of virtual time.
    pub fn run_until(&self, done: impl Fn() -> bool, limit: Duration) -> Result<(), Halt> {
        let end = self.now_us().saturating_add(limit.as_micros() as u64);
        loop {
            if done() {
                return Ok(());
            }
            if self.0.stop.take() {
                return Err(Halt::Stopped);
            }
            self.step(end)?;
        }
    }

    /// Makes the current run return [`Halt::Stopped`] before its next step.
    pub fn stop(&self) {
        self.0.stop.set(true);
    }

    fn step(&self, end: u64) -> Result<(), Halt> {
        let w = &*self.0;
        // What is due now may come before or after what is ready now.
        let due = w.agenda.borrow().first_at().is_some_and(|at| at <= w.now.get());
        if !(due && w.schedule_rng.coin())
            && let Some((id, owner)) = w.tasks.next_ready(&w.schedule_rng)
        {
            self.run_task(id, owner);
            self.do_soon();
            return Ok(());
        }
        let mut agenda = w.agenda.borrow_mut();
        let Some(at) = agenda.first_at() else { return Err(Halt::Idle) };
        if at > end {
            w.now.set(end);
            return Err(Halt::Late);
        }
        let (at, event) = agenda.pop().expect("just seen");
        drop(agenda);
        if at > w.now.get() {
            w.now.set(at);
            w.polls_at_once.set(0);
        }
        self.happen(event);
        self.do_soon();
        Ok(())
    }

    fn do_soon(&self) {
        while !self.0.soon.borrow().is_empty() {
            for act in self.0.soon.take() {
                act(self);
            }
        }
    }

    fn run_task(&self, id: TaskId, owner: Owner) {
        let w = &*self.0;
        if w.paused.get() > 0 && self.is_paused(owner.node) {
            return self.node(NodeId(owner.node), |n| n.parked.push(id));
        }
        let slow = w.schedule.get();
        if w.schedule_rng.chance(slow.slow_poll_ppm) {
            w.count(|s| s.slow_polls += 1);
            let wait = 1 + w.schedule_rng.below(slow.slow_poll_us.max(1));
            return w.later(w.now.get() + wait, Event::Poll(id));
        }
        let n = w.polls_at_once.get() + 1;
        w.polls_at_once.set(n);
        assert!(n < POLLS_AT_ONCE_MAX, "livelock: {n} polls at {} us", w.now.get());
        w.polls.set(w.polls.get() + 1);
        w.trace.mix(id.word());
        w.polling.set(true);
        if w.metered.get() {
            let began = core_time_ns();
            w.tasks.poll(id);
            let took = core_time_ns() - began;
            w.meter(owner.node, |cost| cost.poll_ns += took);
        } else {
            w.tasks.poll(id);
        }
        w.polling.set(false);
    }

    fn is_paused(&self, node: u32) -> bool {
        node != 0 && self.node(NodeId(node), |n| n.paused_until.is_some())
    }

    pub(crate) fn happen(&self, event: Event) {
        let w = &*self.0;
        if w.paused.get() > 0
            && let Some(node) = event.node()
            && self.is_paused(node)
        {
            return self.node(NodeId(node), |n| n.parked_events.push(event));
        }
        match event {
            Event::Wake { owner, slot } => {
                if w.alive(owner) {
                    slot.fill(());
                }
            }
            Event::Disk { owner, disk, ticket, slot } => {
                if !w.alive(owner) {
                    return; // the crash has settled what became of it
                }
                let d = w.disk_slot(owner.node, disk);
                let result = d.disk.borrow_mut().finish(ticket, &w.disk_rng);
                w.disk_event(owner, disk, ticket, Phase::Finished);
                slot.fill(result);
            }
            Event::Parcel { owner, shard, parcel } => {
                if w.alive(owner) {
                    let s =
                        self.node(NodeId(owner.node), |n| Rc::clone(&n.shards[usize::from(shard)]));
                    s.on_parcel(parcel);
                }
            }
            Event::Frame(flight) => w.arrive(flight),
            Event::Poll(id) => w.tasks.requeue(id),
            Event::Act(act) => act(self),
        }
    }
}

impl Event {
    /// The node whose process must run for this to reach it.
    fn node(&self) -> Option<u32> {
        match self {
            Event::Wake { owner, .. } | Event::Disk { owner, .. } | Event::Parcel { owner, .. } => {
                Some(owner.node)
            }
            Event::Frame(flight) => Some(flight.to()),
            Event::Poll(_) | Event::Act(_) => None,
        }
    }
}

/// Core time of this thread: what other programs on the machine take does not count.
fn core_time_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
