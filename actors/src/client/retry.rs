//! When a request is tried again, and when an attempt is given up early.
//!
//! Pauses grow, and end at once when the routing changes what the request hangs on: a chain that
//! lost its dead head is asked again within milliseconds of the news. The same news ends an attempt
//! whose receiver may never answer. An attempt given up is of unknown outcome: it is tried again
//! with the same request id.

use core::time::Duration;
use std::cell::{Cell, RefCell};

use t3fs_runtime::slot::before;
use t3fs_runtime::{Cx, RawAddr, Slot, Time};

use crate::proto::ids::ChainId;
use crate::proto::mgmtd::Routing;
use crate::timing::is_longer;

pub(super) const PAUSE_MIN: Duration = Duration::from_millis(2);
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(250);
const _: () = assert!(is_longer(PAUSE_MAX, 1, PAUSE_MIN));
/// Longest pause between two looks whether another client is done with a file.
const TURN_PAUSE: Duration = Duration::from_millis(20);

/// What a request hangs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Subject {
    Chain(ChainId),
    /// A meta server; without one, whether there is any.
    Meta(Option<RawAddr>),
}

impl Subject {
    fn changed(self, old: &Routing, new: &Routing) -> bool {
        match self {
            Subject::Chain(id) => old.chain(id) != new.chain(id),
            Subject::Meta(Some(a)) => old.metas.contains(&a) && !new.metas.contains(&a),
            Subject::Meta(None) => old.metas != new.metas,
        }
    }
}

/// Requests that wait, and what news would end their wait.
#[derive(Default)]
pub(super) struct Watchers {
    slots: RefCell<Vec<(Subject, Slot<()>)>>,
    /// The task that looks for news while somebody waits runs.
    pub(super) looking: Cell<bool>,
}

impl Watchers {
    pub(super) fn watch(&self, subject: Subject) -> Slot<()> {
        let slot = Slot::new();
        self.slots.borrow_mut().push((subject, slot.clone()));
        slot
    }

    pub(super) fn news(&self, old: &Routing, new: &Routing) {
        self.slots.borrow_mut().retain(|(subject, slot)| {
            let changed = subject.changed(old, new);
            if changed {
                slot.fill(());
            }
            !changed && !slot.abandoned()
        });
    }

    /// Whether nobody waits any more.
    pub(super) fn idle(&self) -> bool {
        let mut slots = self.slots.borrow_mut();
        slots.retain(|(_, slot)| !slot.abandoned());
        slots.is_empty()
    }
}

/// Pauses that grow, until patience ends.
pub(super) struct Retry {
    until: Time,
    pause: Duration,
    longest: Duration,
}

impl Retry {
    pub(super) fn new(cx: &Cx, patience: Duration) -> Retry {
        let until = cx.deadline().min(cx.now() + patience);
        Retry { until, pause: PAUSE_MIN, longest: PAUSE_MAX }
    }

    /// For what others of the cluster have in hand, and do not keep long.
    pub(super) fn in_turn(cx: &Cx, patience: Duration) -> Retry {
        Retry { longest: TURN_PAUSE, ..Retry::new(cx, patience) }
    }

    /// `false` when there is no time left. `news` ends the pause.
    pub(super) async fn again(&mut self, cx: &Cx, news: Slot<()>) -> bool {
        if cx.now() + self.pause >= self.until {
            return false;
        }
        let jitter = cx.rand() % (self.pause.as_micros() as u64 / 2).max(1);
        // Ended either way: the caller tries again.
        let _ = before(cx.sleep(self.pause + Duration::from_micros(jitter)), news).await;
        self.pause = (self.pause * 2).min(self.longest);
        true
    }
}

/// Operations that wait this long are told of.
const SILENCE_MIN: Duration = Duration::from_millis(1_500);
/// Between two lines about one silence.
const SILENCE_LINES: Duration = Duration::from_secs(10);

/// Says, not too often, who keeps operations waiting, and when that is over.
#[derive(Default)]
pub(super) struct Silence {
    /// The kind of server that does not answer, and when that was said last.
    said: Cell<Option<(&'static str, Time)>>,
}

impl Silence {
    /// An operation has waited for so long.
    pub(super) fn lasts(&self, who: &'static str, waited: Duration, now: Time, why: &str) {
        let said = self.said.get();
        if waited >= SILENCE_MIN && said.is_none_or(|(_, at)| now.since(at) >= SILENCE_LINES) {
            tracing::warn!("operations wait for {who}: {why}");
            self.said.set(Some((who, now)));
        }
    }

    /// A server of that kind has answered.
    pub(super) fn end(&self, who: &'static str) {
        if self.said.get().is_some_and(|(silent, _)| silent == who) {
            tracing::info!("{who} answers again");
            self.said.set(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ids::ChainVersion;
    use crate::proto::mgmtd::Chain;

    fn routing(version: u32, metas: Vec<RawAddr>) -> Routing {
        let chain = |id, v| Chain { id: ChainId(id), version: ChainVersion(v), targets: vec![] };
        Routing { chains: vec![chain(1, 1), chain(2, version)], metas, ..Routing::default() }
    }

    /// Goal: news wakes those it concerns, and nobody else; who has left is forgotten.
    #[test]
    fn news_wakes_whom_it_concerns() {
        let meta = RawAddr { slot: 3, ..RawAddr::default() };
        let w = Watchers::default();
        let (one, two) = (w.watch(Subject::Chain(ChainId(1))), w.watch(Subject::Chain(ChainId(2))));
        let lost = w.watch(Subject::Meta(Some(meta)));
        w.news(&routing(1, vec![meta]), &routing(2, vec![meta]));
        let done = |s: &Slot<()>| futures::FutureExt::now_or_never(s.clone()).is_some();
        assert!(!done(&one) && done(&two) && !done(&lost));
        w.news(&routing(2, vec![meta]), &routing(2, vec![]));
        assert!(done(&lost) && !w.idle());
        drop(one);
        assert!(w.idle());
    }
}
