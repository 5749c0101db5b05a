//! Timers of a shard: one timerfd, polled like a socket.
//!
//! glommio has timers of its own, but while one is pending it sets and cancels a kernel timeout
//! each time the shard parks, and a shard always has a deadline pending. A timerfd stays polled
//! across parks, and is set only when the earliest deadline changes. It counts CLOCK_BOOTTIME, as
//! `Time` does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::net::Readable;
use crate::slot::Slot;
use crate::time::Time;

/// Microseconds of CLOCK_BOOTTIME: goes on while the machine sleeps, as leases need.
pub fn boot_time_us() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid clock id and a pointer to a timespec of our own.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut t) };
    assert_eq!(rc, 0, "CLOCK_BOOTTIME exists since Linux 2.6.39");
    t.tv_sec as u64 * 1_000_000 + t.tv_nsec as u64 / 1_000
}

#[derive(Default)]
pub(super) struct Timers(RefCell<State>);

#[derive(Default)]
struct State {
    /// Open while [`Timers::run`] runs.
    fd: Option<Rc<OwnedFd>>,
    due: BTreeMap<(Time, u64), Slot<()>>,
    next: u64,
    /// What the descriptor is set to.
    set: Option<Time>,
    ending: Option<Slot<()>>,
}

impl Timers {
    pub(super) fn new() -> Rc<Timers> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Boottime, flags)
            .expect("the process has a descriptor left for each shard's timer");
        Rc::new(Timers(RefCell::new(State { fd: Some(Rc::new(fd)), ..State::default() })))
    }

    pub(super) fn wake_at(&self, at: Time, done: Slot<()>) {
        if at == Time::NEVER {
            return;
        }
        let mut s = self.0.borrow_mut();
        let key = (at, s.next);
        s.next += 1;
        s.due.insert(key, done);
        s.set_to_first();
    }

    /// Fills the slots whose time has come, until [`Timers::end`].
    pub(super) async fn run(self: Rc<Self>) {
        let fd = self.0.borrow().fd.clone().expect("run once, before the end");
        let mut readable = Readable::default();
        loop {
            let fired = poll_fn(|cx| readable.poll(fd.as_fd(), cx)).await;
            if fired.is_err() {
                // The process has no descriptor left: look again and again until it has.
                ::glommio::timer::sleep(Duration::from_millis(1)).await;
            }
            let mut count = [0; 8];
            // Nothing to read: it was set anew just now.
            let _ = rustix::io::read(&fd, &mut count);
            let (due, ending) = {
                let mut s = self.0.borrow_mut();
                let later = s.due.split_off(&(Time::from_us(boot_time_us() + 1), 0));
                let due = std::mem::replace(&mut s.due, later);
                s.set = None;
                s.set_to_first();
                (due, s.ending.take())
            };
            for slot in due.into_values() {
                slot.fill(());
            }
            if let Some(ending) = ending {
                self.0.borrow_mut().fd = None;
                return ending.fill(());
            }
        }
    }

    /// Closes the descriptor; what still waits is never filled. For the end of the shard: tasks
    /// that are left over keep the shard, and all it has, from being dropped.
    pub(super) async fn end(&self) {
        let ended = Slot::new();
        self.0.borrow_mut().ending = Some(ended.clone());
        self.wake_at(Time::from_us(0), Slot::new());
        ended.await;
    }
}

impl State {
    /// Sets the descriptor to the earliest deadline, if it is not.
    fn set_to_first(&mut self) {
        let Some(first) = self.due.first_key_value().map(|(k, _)| k.0) else { return };
        let Some(fd) = self.fd.as_ref().filter(|_| self.set != Some(first)) else { return };
        // Zero would switch it off.
        let us = first.us().max(1);
        let to = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: (us / 1_000_000) as i64,
                tv_nsec: (us % 1_000_000) as i64 * 1_000,
            },
        };
        timerfd_settime(fd, TimerfdTimerFlags::ABSTIME, &to)
            .expect("a valid time for a descriptor of our own");
        self.set = Some(first);
    }
}
