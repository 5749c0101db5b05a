//! The askers that wait for news: one slot each, filled when there is something new, or to make
//! room.

use std::collections::VecDeque;

use t3fs_runtime::Slot;

use crate::proto::ids::ViewVersion;

/// Askers that wait at most. One more sends the first of them home, and that asks again.
const WATCHERS_MAX: usize = 1024;

#[derive(Default)]
pub(super) struct Watchers {
    waiting: VecDeque<Slot<()>>,
    /// What was new when they were woken the last time.
    told: (ViewVersion, u64),
}

impl Watchers {
    /// A place in the line. Places of those who have left meanwhile are cleared first.
    pub(super) fn wait(&mut self) -> Slot<()> {
        self.waiting.retain(|w| !w.abandoned());
        if self.waiting.len() >= WATCHERS_MAX
            && let Some(first) = self.waiting.pop_front()
        {
            first.fill(());
        }
        let slot = Slot::new();
        self.waiting.push_back(slot.clone());
        slot
    }

    /// Wakes all if this is not what they were told.
    pub(super) fn tell(&mut self, newest: (ViewVersion, u64)) {
        if std::mem::replace(&mut self.told, newest) != newest {
            self.waiting.drain(..).for_each(|w| w.fill(()));
        }
    }

    pub(super) fn check(&self) {
        assert!(self.waiting.len() <= WATCHERS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// Goal: news wake everyone once; those who left take no room, and those who stay too many do
    /// not either.
    #[test]
    fn waiting_is_bounded() {
        let mut w = Watchers::default();
        let newest = |v| (ViewVersion(v), 0);
        let (first, second) = (w.wait(), w.wait());
        w.tell(newest(1));
        assert!(first.now_or_never().is_some() && second.now_or_never().is_some());
        let third = w.wait();
        w.tell(newest(1));
        assert!(third.clone().now_or_never().is_none(), "it is nothing new");
        for _ in 0..3 * WATCHERS_MAX {
            drop(w.wait());
        }
        assert_eq!(w.waiting.len(), 2, "one who waits, one who has just left");
        let many: Vec<_> = (0..WATCHERS_MAX).map(|_| w.wait()).collect();
        w.check();
        assert!(third.now_or_never().is_some(), "there was no room");
        w.tell(newest(2));
        assert!(many.into_iter().all(|w| w.now_or_never().is_some()));
    }
}
