//! FUSE_INTERRUPT: a signal has come for a thread that waits for an answer.
//!
//! The kernel tells of a signal once for each request, whatever the signal is, and then waits for
//! the answer; only an answer lets even a killed process go. What the signal means is found out
//! here, by one thread that sleeps while nothing is interrupted: [`super::fatal`] has the rules. A
//! call that ends early is answered EINTR. What was begun on a shard goes on, and its answer is
//! swallowed (`Channel::answer` says so to the one who gives it).
//!
//! What the kernel does by itself (fs/fuse/dev.c and file.c; seen on Linux 6.18):
//! - A request that nobody has read yet is taken back when its caller is killed, unless it is
//!   forced. RELEASE and read-ahead are sent in the background: nobody waits, none is interrupted.
//! - FLUSH is forced: a caller waits until it is answered. Yet close(2) is interrupted as any other
//!   call is, so an answer of EINTR ends it.
//! - A process that exits with files open does not wait for their FLUSH: `fuse_flush` leaves that
//!   to a kernel thread. Kernels that do not have this yet wait. There, one that a signal has ended
//!   still has it in its pending set and counts as dying; one that exits by itself waits until
//!   FLUSH is answered, and no signal reaches it any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::fatal;
use super::inflight::{Marks, PendingRequest};

#[derive(Default)]
struct State {
    marks: Marks,
    ended: bool,
}

/// The interrupted requests of a mount.
#[derive(Default)]
pub struct Interrupts {
    state: Mutex<State>,
    changed: Condvar,
    any_ending: AtomicBool,
}

impl Interrupts {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn interrupted(&self, request: &PendingRequest) {
        self.lock().marks.interrupted(request, Instant::now());
        self.changed.notify_one();
    }

    /// Whether [`Interrupts::closing`] wants to know. One load on the way of each FLUSH.
    pub fn any_ending(&self) -> bool {
        self.any_ending.load(Ordering::Relaxed)
    }

    pub fn closing(&self, request: &PendingRequest) {
        let mut state = self.lock();
        state.marks.closing(request, Instant::now());
        self.any_ending.store(state.marks.any_ending(), Ordering::Relaxed);
        drop(state);
        self.changed.notify_one();
    }

    /// Lets [`Interrupts::watch`] return.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_one();
    }

    /// Finds the calls of threads that die, until [`Interrupts::end`]: hands those that still wait
    /// (`waits`) to the one who ends them (`end`).
    pub fn watch(&self, waits: impl Fn(u64) -> bool, end: impl Fn(u64)) {
        let mut state = self.lock();
        while !state.ended {
            let now = Instant::now();
            let Some(look) = state.marks.next_look() else {
                let woken = self.changed.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if look > now {
                let woken = self.changed.wait_timeout(state, look - now);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let due = state.marks.due(now);
            drop(state);
            let looks = due
                .into_iter()
                .map(|(unique, thread)| (unique, waits(unique).then(|| fatal::fate(thread))));
            let looks: Vec<_> = looks.collect();
            state = self.lock();
            let ended =
                looks.into_iter().filter(|(unique, fate)| state.marks.looked(*unique, *fate, now));
            let ended: Vec<u64> = ended.map(|(unique, _)| unique).collect();
            self.any_ending.store(state.marks.any_ending(), Ordering::Relaxed);
            drop(state);
            ended.into_iter().for_each(&end);
            state = self.lock();
        }
    }
}
