//! Asking: what can become of an ask, and credits.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::addr::RawAddr;
use crate::lane::Lane;
use crate::slot::Slot;
use crate::wire::Refusal;

/// What happened to a request that got no reply. A refusal is the actor's own reply type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskError {
    /// The request was certainly not handled.
    NotSent(&'static str),
    /// The request may have been handled, or may yet be. Never undo on this; ask again,
    /// idempotently.
    Unknown(&'static str),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::NotSent(why) => write!(f, "not sent: {why}"),
            AskError::Unknown(why) => write!(f, "outcome unknown: {why}"),
        }
    }
}

impl AskError {
    /// Whether the receiver is of an earlier build, which does not know such a message.
    pub fn receiver_is_older(&self) -> bool {
        *self == AskError::NotSent(Refusal::Unknown.says())
    }
}

/// Requests one shard may have in flight at one actor, per lane and hop class.
pub const IN_FLIGHT_MAX: [usize; 2] = [64, 256];
/// Requests that may wait for a credit behind those; the next one is told `NotSent`.
pub const WAITING_MAX: usize = 8192;
const _: () = assert!(WAITING_MAX > IN_FLIGHT_MAX[0] && WAITING_MAX > IN_FLIGHT_MAX[1]);

/// The sender's side of a bounded lane: credits in hand, and who waits for one, in order.
#[derive(Clone)]
pub struct Credits(Rc<RefCell<CreditState>>);

struct CreditState {
    free: usize,
    limit: usize,
    waiting: VecDeque<Slot<Credit>>,
    /// Credits given to those who waited and have not run since.
    handed: usize,
}

/// Leave to have one request in flight; returned on drop.
pub struct Credit {
    of: Credits,
    /// The credit was given to an asker that waited and has not run since.
    handed: bool,
}

impl Credits {
    pub fn new(limit: usize) -> Credits {
        let state = CreditState { free: limit, limit, waiting: VecDeque::new(), handed: 0 };
        Credits(Rc::new(RefCell::new(state)))
    }

    /// A credit at once, or none; never overtakes those who wait.
    pub fn try_take(&self) -> Option<Credit> {
        let mut s = self.0.borrow_mut();
        if s.free == 0 || s.handed > 0 {
            return None;
        }
        s.free -= 1;
        Some(Credit { of: self.clone(), handed: false })
    }

    /// A place in the queue for the next credit, or `None` when the queue is full. Who gets it
    /// calls [`Credit::accept`], and until then keeps others waiting: it has to be polled, or
    /// dropped.
    pub fn queue(&self) -> Option<Slot<Credit>> {
        let mut s = self.0.borrow_mut();
        debug_assert!(s.free == 0 || s.handed > 0);
        s.waiting.retain(|w| !w.abandoned());
        if s.waiting.len() >= WAITING_MAX {
            return None;
        }
        let slot = Slot::new();
        s.waiting.push_back(slot.clone());
        Some(slot)
    }

    /// Gives what is free to those who wait, in order; they will run in that order, too.
    fn pass_on(&self) {
        loop {
            let mut s = self.0.borrow_mut();
            if s.free == 0 {
                return;
            }
            let Some(next) = s.waiting.pop_front() else { return };
            if next.abandoned() {
                continue;
            }
            s.free -= 1;
            s.handed += 1;
            drop(s);
            next.fill(Credit { of: self.clone(), handed: true });
        }
    }

    /// One who waited has run.
    fn arrived(&self) {
        let mut s = self.0.borrow_mut();
        s.handed -= 1;
        let last = s.handed == 0;
        drop(s);
        if last {
            self.pass_on();
        }
    }

    /// Whether all credits are here and nobody waits: new ones would be the same.
    fn is_idle(&self) -> bool {
        // An asker that has a credit, or waits for one, has a clone too.
        Rc::strong_count(&self.0) == 1
    }
}

/// The credits of one shard, for each receiver, lane and hop class.
#[derive(Default)]
pub(crate) struct CreditBook {
    of: FxHashMap<(RawAddr, Lane, u8), Credits>,
    /// Entries that were in use when it was last swept.
    in_use: usize,
}

/// Entries below which a [`CreditBook`] is not swept.
const SWEEP_MIN: usize = 1024;

impl CreditBook {
    pub(crate) fn of(&mut self, to: RawAddr, lane: Lane, hops: u8) -> Credits {
        let key = (to, lane, hops);
        // Processes come and go, each with an address of its own, and nothing says when one is
        // not needed any more.
        if self.of.len() >= SWEEP_MIN.max(2 * self.in_use) && !self.of.contains_key(&key) {
            self.of.retain(|_, c| !c.is_idle());
            self.in_use = self.of.len();
        }
        let new = || Credits::new(IN_FLIGHT_MAX[lane as usize]);
        self.of.entry(key).or_insert_with(new).clone()
    }
}

impl Credit {
    /// The asker that waited for the credit has it now.
    pub fn accept(mut self) -> Credit {
        if std::mem::take(&mut self.handed) {
            self.of.arrived();
        }
        self
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        {
            let mut s = self.of.0.borrow_mut();
            s.free += 1;
            assert!(s.free <= s.limit);
        }
        self.of.pass_on();
        if self.handed {
            self.of.arrived();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::NodeId;

    /// Regression: every process that was ever asked left an entry. Goal: idle entries go, those
    /// in use stay what they are.
    #[test]
    fn the_book_forgets_who_is_gone() {
        let mut book = CreditBook::default();
        let of = |epoch| RawAddr { node: NodeId(1), shard: 0, slot: 0, epoch };
        let mut held = Vec::new();
        for epoch in 1..=100_000 {
            let c = book.of(of(epoch), Lane::Control, 0);
            let credit = c.try_take().unwrap();
            if epoch % 100 == 1 {
                held.push((epoch, credit));
            }
            assert!(book.of.len() <= SWEEP_MIN.max(2 * held.len()));
        }
        let limit = IN_FLIGHT_MAX[Lane::Control as usize];
        for (epoch, _) in &held {
            let c = book.of(of(*epoch), Lane::Control, 0);
            assert_eq!(c.0.borrow().free, limit - 1, "still in flight");
        }
    }

    /// Goal: credits go round in order and none is lost when a waiter gives up.
    #[test]
    fn credits_pass_to_the_next_waiter() {
        let c = Credits::new(1);
        let held = c.try_take().unwrap();
        assert!(c.try_take().is_none());
        let first = c.queue().unwrap();
        let second = c.queue().unwrap();
        drop(first);
        drop(held);
        let got = second.now_or_never().expect("passed on").accept();
        assert!(c.try_take().is_none());
        drop(got);
        assert!(c.try_take().is_some());
    }

    /// Regression (conformance, `outcomes_are_honest` under load): after a cut many credits came
    /// back at once, and who asked next took one before those who had waited for theirs had run.
    #[test]
    fn nobody_overtakes_who_was_handed_a_credit() {
        let c = Credits::new(2);
        let (one, two) = (c.try_take().unwrap(), c.try_take().unwrap());
        let first = c.queue().unwrap();
        drop((one, two));
        assert!(c.try_take().is_none(), "the first has not run");
        let mut second = c.queue().unwrap();
        assert!((&mut second).now_or_never().is_none(), "the first has not run");
        let first = first.now_or_never().expect("handed").accept();
        let second = second.now_or_never().expect("its turn").accept();
        drop(first);
        let given_up = {
            assert!(c.try_take().is_some());
            let third = c.try_take().unwrap();
            let place = c.queue().unwrap();
            drop(third);
            place
        };
        assert!(c.try_take().is_none());
        drop(given_up);
        assert!(c.try_take().is_some(), "who was handed a credit and left gives it back");
        drop(second);
    }
}
