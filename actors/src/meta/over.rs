//! Which sessions are over: nothing that they have begun reaches storage any more.
//!
//! A session ends at mgmtd, and storage refuses its writes as soon as it hears of that. A target
//! that has not heard yet serves no longer than the lease that came with what it knows. So what is
//! a dead session's (its turns at the end of files, what it had stored and not reported) is passed
//! on to others only when its end has been known here for longer than any such lease.

use core::time::Duration;
use std::rc::Rc;

use t3fs_runtime::Time;

use crate::proto::ids::SessionId;
use crate::proto::mgmtd::Routing;

/// A routing that is known, and one that was known already a while ago.
pub(super) struct Over {
    fence: Duration,
    known: Option<(Time, Rc<Routing>)>,
    settled: Option<Rc<Routing>>,
}

impl Over {
    /// Waits longer than a target serves by what it knew before, whatever its clock does.
    pub(super) fn new(node_lease: Duration) -> Over {
        Over { fence: node_lease * 4 / 3, known: None, settled: None }
    }

    /// How long the end of a session has to be known.
    pub(super) fn fence(&self) -> Duration {
        self.fence
    }

    /// Takes the routing as it is now, for what will be over later.
    pub(super) fn look(&mut self, now: Time, routing: &Rc<Routing>) {
        if routing.version.0 == 0 {
            return; // nothing is known
        }
        match &self.known {
            Some((since, _)) if now.since(*since) < self.fence => {}
            earlier => {
                self.settled = earlier.as_ref().map(|(_, routing)| Rc::clone(routing));
                self.known = Some((now, Rc::clone(routing)));
            }
        }
    }

    /// By what is known now; without a routing nobody is over.
    pub(super) fn sessions(&self) -> impl Fn(SessionId) -> bool + use<> {
        let settled = self.settled.clone();
        move |session| settled.as_ref().is_some_and(|routing| !routing.session_alive(session))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ids::RoutingVersion;

    /// Goal: a session is over when its end has been known for as long as a lease lasts, no sooner;
    /// one that nobody has heard of is not.
    #[test]
    fn a_session_is_over_when_no_lease_can_speak_for_it() {
        let routing = |sessions: &[u64], max| {
            let sessions = sessions.iter().map(|s| SessionId(*s)).collect();
            let (version, session_max) = (RoutingVersion(1), SessionId(max));
            Rc::new(Routing { version, sessions, session_max, ..Routing::default() })
        };
        let mut over = Over::new(Duration::from_secs(3));
        let at = |fences: u64, us| Time::from_us(fences * 4_000_000 + us);
        let (both, one) = (routing(&[1, 2], 2), routing(&[1], 2));
        over.look(at(0, 0), &Rc::default());
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
