//! A door that lets many in at a time, or one alone; first come, first served.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use t3fs_runtime::{Cx, Slot};

use super::FsError;
use super::wait::until_deadline;

#[derive(Default)]
pub(super) struct Gate {
    /// -1: one alone is inside; else how many share.
    inside: Cell<i32>,
    line: RefCell<VecDeque<(bool, Slot<()>)>>,
}

pub(super) struct Inside<'a>(&'a Gate);

/// A place in the line. Whoever gives up waiting leaves it, and passes on a turn that came too
/// late.
struct Place<'a> {
    gate: &'a Gate,
    turn: Slot<()>,
    taken: bool,
}

impl Gate {
    /// Enters with others.
    ///
    /// # Errors
    /// `Unavailable` when the deadline comes first.
    pub(super) async fn share(&self, cx: &Cx) -> Result<Inside<'_>, FsError> {
        self.enter(cx, false).await
    }

    /// Enters alone.
    ///
    /// # Errors
    /// As [`Gate::share`].
    pub(super) async fn alone(&self, cx: &Cx) -> Result<Inside<'_>, FsError> {
        self.enter(cx, true).await
    }

    async fn enter(&self, cx: &Cx, alone: bool) -> Result<Inside<'_>, FsError> {
        if self.is_free(alone) && self.line.borrow().is_empty() {
            self.go_in(alone);
            return Ok(Inside(self));
        }
        let turn = Slot::new();
        self.line.borrow_mut().push_back((alone, turn.clone()));
        let mut place = Place { gate: self, turn: turn.clone(), taken: false };
        until_deadline(cx, turn, "the file is being truncated or waits for its storage").await?;
        place.taken = true;
        Ok(Inside(self))
    }

    fn is_free(&self, alone: bool) -> bool {
        if alone { self.inside.get() == 0 } else { self.inside.get() >= 0 }
    }

    fn go_in(&self, alone: bool) {
        self.inside.set(if alone { -1 } else { self.inside.get() + 1 });
    }

    fn leave(&self) {
        let n = self.inside.get();
        self.inside.set(if n < 0 { 0 } else { n - 1 });
        self.admit();
    }

    fn admit(&self) {
        loop {
            let Some(alone) = self.line.borrow().front().map(|(a, _)| *a) else { return };
            if !self.is_free(alone) {
                return;
            }
            let (_, turn) = self.line.borrow_mut().pop_front().expect("looked at it");
            self.go_in(alone);
            turn.fill(());
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut line = self.gate.line.borrow_mut();
        let before = line.len();
        line.retain(|(_, turn)| !turn.is(&self.turn));
        let still_waits = line.len() < before;
        drop(line);
        if still_waits {
            self.gate.admit(); // those behind it may go in now
        } else {
            self.gate.leave(); // its turn had come
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use std::rc::Rc;
    use t3fs_runtime::glommio::run_alone;

    /// Goal: who gives up in line, before or after its turn came, holds nobody up.
    #[test]
    fn who_gives_up_holds_nobody_up() {
        run_alone(vec![], async |shard| {
            let (cx, gate) = (shard.cx(), Rc::new(Gate::default()));
            let first = gate.share(&cx).await.unwrap();
            let short = cx.within(Duration::from_millis(5));
            assert!(gate.alone(&short).await.is_err());
            drop(gate.share(&cx).await.unwrap());
            drop(first);
            drop(gate.alone(&cx).await.unwrap());
            assert_eq!(gate.inside.get(), 0);
        })
        .unwrap();
    }
}
