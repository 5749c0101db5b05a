//! Which sessions are over: nothing that they have begun reaches storage any more.
//!
//! A session ends at mgmtd, and storage refuses its writes as soon as it hears of that. A target
//! that has not heard yet serves no longer than the lease that came with what it knows. So what is
//! a dead session's (its turns at the end of files, what it had stored and not reported) is passed
//! on to others only when its end has been known here for longer than any such lease.

use core::time::Duration;
use std::sync::Arc;

use t3fs_runtime::Time;

use crate::proto::ids::SessionId;
use crate::proto::mgmtd::{ClusterView, Sessions};

/// The sessions that are known, and those that were known already a while ago.
pub(super) struct EndedSessions {
    fence: Duration,
    known: Option<(Time, Arc<Sessions>)>,
    settled: Option<Arc<Sessions>>,
}

impl EndedSessions {
    /// Waits longer than a target serves by what it knew before, whatever its clock does.
    pub(super) fn new(node_lease: Duration) -> EndedSessions {
        EndedSessions { fence: node_lease * 4 / 3, known: None, settled: None }
    }

    /// How long the end of a session has to be known.
    pub(super) fn fence(&self) -> Duration {
        self.fence
    }

    /// Takes the view as it is now, for what will be over later.
    pub(super) fn look(&mut self, now: Time, view: &ClusterView) {
        if view.version.0 == 0 {
            return; // nothing is known
        }
        match &self.known {
            Some((since, _)) if now.since(*since) < self.fence => {}
            earlier => {
                self.settled = earlier.as_ref().map(|(_, sessions)| Arc::clone(sessions));
                self.known = Some((now, Arc::clone(&view.sessions)));
            }
        }
    }

    /// By what is known now; without a view nobody is over.
    pub(super) fn sessions(&self) -> impl Fn(SessionId) -> bool + use<> {
        let settled = self.settled.clone();
        move |session| settled.as_ref().is_some_and(|sessions| !sessions.is_alive(session))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ids::ViewVersion;

    /// Goal: a session is over when its end has been known for as long as a lease lasts, no sooner;
    /// one that nobody has heard of is not.
    #[test]
    fn a_session_is_over_when_no_lease_can_speak_for_it() {
        let view = |alive: &[u64], max| {
            let alive = alive.iter().map(|s| SessionId(*s)).collect();
            let sessions = Arc::new(Sessions { alive, max: SessionId(max) });
            ClusterView { version: ViewVersion(1), sessions, ..ClusterView::default() }
        };
        let mut over = EndedSessions::new(Duration::from_secs(3));
        let at = |fences: u64, us| Time::from_us(fences * 4_000_000 + us);
        let (both, one) = (view(&[1, 2], 2), view(&[1], 2));
        over.look(at(0, 0), &ClusterView::default());
        over.look(at(0, 1), &both);
        assert!(!over.sessions()(SessionId(2)));
        over.look(at(1, 0), &one); // too soon to be taken
        over.look(at(1, 1), &one);
        assert!(!over.sessions()(SessionId(2)), "its end is news");
        over.look(at(2, 0), &one);
        assert!(!over.sessions()(SessionId(2)));
        over.look(at(2, 1), &one);
        assert!(over.sessions()(SessionId(2)) && !over.sessions()(SessionId(1)));
        assert!(!over.sessions()(SessionId(3)), "not known yet");
    }
}
