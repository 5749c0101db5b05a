//! Crash points: every start and every end of a disk operation, shown to a hook.
//!
//! Two ways to use them. Stop the run at the n-th one, crash the node and look at what comes up; or
//! clone the disk at each one and explore many crash states of the clone in worlds of their own.

use t3fs_runtime::NodeId;
use t3fs_runtime::disk::DiskId;

use super::{Inner, Sim};
use crate::disk::{OpKind, SimDisk, Ticket};
use crate::exec::Owner;

/// Whether an operation begins or has ended (and has not been answered yet).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Started,
    Finished,
}

/// A possible crash point: the disk between two of its operations' steps.
pub struct DiskEvent<'a> {
    pub node: NodeId,
    pub disk: DiskId,
    /// Counts these events over the whole world, from 1.
    pub number: u64,
    pub phase: Phase,
    /// `None` when it finished.
    pub kind: Option<OpKind>,
    /// Clone it to keep the moment.
    pub state: &'a SimDisk,
}

/// What a hook wants of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Go {
    On,
    /// The run ends before anything else happens; the operation under way stays under way.
    Stop,
}

pub(crate) type DiskHook = Box<dyn FnMut(&DiskEvent<'_>) -> Go>;

impl Inner {
    pub(crate) fn disk_event(&self, owner: Owner, disk: DiskId, ticket: Ticket, phase: Phase) {
        let number = self.disk_events.get() + 1;
        self.disk_events.set(number);
        let slot = self.disk_slot(owner.node, disk);
        let state = slot.disk.borrow();
        let kind = (phase == Phase::Started).then(|| state.kind(ticket));
        self.trace.event(
            self.now.get(),
            &[2, u64::from(owner.node), u64::from(disk.0), ticket.word(), phase as u64],
            format_args!("n{} disk {} op {} {phase:?} {kind:?}", owner.node, disk.0, ticket.word()),
        );
        self.count_down(owner);
        let Some(mut hook) = self.disk_hook.borrow_mut().take() else { return };
        let node = NodeId(owner.node);
        if hook(&DiskEvent { node, disk, number, phase, kind, state: &state }) == Go::Stop {
            self.stop.set(true);
        }
        let mut place = self.disk_hook.borrow_mut();
        if place.is_none() {
            *place = Some(hook);
        }
    }

    /// One disk event nearer to a crash that was asked for.
    fn count_down(&self, owner: Owner) {
        let mut nodes = self.nodes.borrow_mut();
        let n = &mut nodes[owner.node as usize - 1];
        let Some(c) = &mut n.crash_in else { return };
        c.disk_events = c.disk_events.saturating_sub(1);
        if c.disk_events > 0 {
            return;
        }
        let (id, c) = (n.id, *c);
        n.crash_in = None;
        self.soon.borrow_mut().push(Box::new(move |sim| {
            if !sim.0.alive(owner) {
                return;
            }
            sim.crash(id, c.how);
            sim.at(sim.now_us() + c.down_us, move |sim| sim.restart(id));
        }));
    }
}

impl Sim {
    /// Calls `hook` at every start and end of a disk operation, on any node. It may clone the disk
    /// it is shown and build other worlds, but not touch this one beyond [`Sim::stop`].
    pub fn on_disk_event(&self, hook: impl FnMut(&DiskEvent<'_>) -> Go + 'static) {
        *self.0.disk_hook.borrow_mut() = Some(Box::new(hook));
    }

    /// Ends the run at the `n`-th disk event from now.
    pub fn stop_at_disk_event(&self, n: u64) {
        let at = self.0.disk_events.get() + n;
        self.on_disk_event(move |e| if e.number == at { Go::Stop } else { Go::On });
    }
}
