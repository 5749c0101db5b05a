//! Sessions and the processes they belong to.
//!
//! A server has a fixed number and is one process at a time. When mgmtd hears of a run of it, the
//! sessions of its earlier runs end at once: those runs are gone. A process of clients alone draws
//! another number for every run, so an earlier incarnation under its number is no earlier run of
//! it, but a stranger that drew the same: such sessions end by their lease only.
//!
//! A job starts on many hosts at the same time: what comes while a change is being stored goes into
//! one change after it.

use std::rc::Rc;

use t3fs_runtime::{Cx, Me, NodeId, Slot, Time};

use super::core::{Live, State};
use super::session_record::{ProcessV1, SessionV2};
use super::{LINE_MAX, MgmtdServer};
use crate::proto::ids::SessionId;
use crate::proto::mgmtd::{MgmtdError, OpenSessionFor};

/// What is to become of a session.
pub(super) enum SessionChange {
    Open(OpenSessionFor),
    Close(SessionId),
}

/// A change that waits for its turn, until its asker's deadline.
pub(super) struct Wanted {
    change: SessionChange,
    until: Time,
    answer: Answer,
}

type Answer = Slot<Result<SessionId, MgmtdError>>;

impl MgmtdServer {
    /// Makes the change, together with others that wait.
    pub(super) async fn change_session(
        me: &Me<Self>,
        cx: &Cx,
        change: SessionChange,
    ) -> Result<SessionId, MgmtdError> {
        let (answer, is_first) = me.with(|m| {
            m.leading(cx.now())?;
            let mut wanted = m.wanted.borrow_mut();
            wanted.retain(|w| !w.answer.abandoned());
            if wanted.len() >= LINE_MAX {
                return Err(MgmtdError::Unavailable("too many sessions begin and end".into()));
            }
            let (answer, is_first) = (Slot::new(), wanted.is_empty());
            wanted.push(Wanted { change, until: cx.deadline(), answer: answer.clone() });
            Ok((answer, is_first))
        })?;
        if is_first {
            let (me, long) = (me.clone(), cx.outlive());
            cx.spawn(async move { Self::change_sessions(&me, &long).await });
        }
        answer.await
    }

    /// Makes all changes that wait when it is their turn.
    async fn change_sessions(me: &Me<Self>, cx: &Cx) {
        let wanted = me.with(|m| Rc::clone(&m.wanted));
        let mut made: Vec<(Answer, Result<SessionId, MgmtdError>)> = Vec::new();
        let done = Self::change(me, cx, |state, live, now| {
            for w in wanted.take() {
                let result = match w.change {
                    _ if now >= w.until => Err(MgmtdError::Unavailable(
                        "it was not this request's turn in time".into(),
                    )),
                    SessionChange::Open(m) => {
                        state.open_session(&m, live).map_err(MgmtdError::Refused)
                    }
                    SessionChange::Close(session) => {
                        if state.sessions.contains_key(&session) {
                            Rc::make_mut(&mut state.sessions).remove(&session);
                        }
                        Ok(session)
                    }
                };
                made.push((w.answer, result));
            }
            Ok(())
        });
        let Err(why) = done.await else {
            return made.into_iter().for_each(|(answer, result)| answer.fill(result));
        };
        if made.is_empty() {
            made.extend(wanted.take().into_iter().map(|w| (w.answer, Err(why.clone()))));
        }
        for (answer, result) in made {
            answer.fill(result.and(Err(why.clone())));
        }
    }
}

impl State {
    /// A retry with the same nonce gets the same session. Sessions of earlier runs end.
    pub(super) fn open_session(
        &mut self,
        m: &OpenSessionFor,
        live: &Live,
    ) -> Result<SessionId, String> {
        let by = ProcessV1 { node: m.agent.node, incarnation: m.agent.epoch };
        if let Some(latest) = live.latest_run(self, by.node).filter(|l| *l > by.incarnation) {
            return Err(format!(
                "node {} runs as incarnation {latest}, which is later than {}",
                by.node.0, by.incarnation
            ));
        }
        let same = |s: &Rc<SessionV2>| s.nonce == m.open.nonce && s.label == m.open.label;
        if let Some((id, _)) = self.sessions.iter().find(|(_, s)| same(s)) {
            return Ok(*id);
        }
        if live.latest_run(self, by.node).is_some() {
            let outrun = |p: &ProcessV1| p.node == by.node && p.incarnation < by.incarnation;
            if self.sessions.values().any(|s| s.process.as_ref().is_some_and(outrun)) {
                let sessions = Rc::make_mut(&mut self.sessions);
                sessions.retain(|_, s| !s.process.as_ref().is_some_and(outrun));
            }
        }
        let id = SessionId(self.session_max.0 + 1);
        self.session_max = id;
        let (label, nonce) = (m.open.label.clone(), m.open.nonce);
        let session = SessionV2 { label, nonce, process: Some(by) };
        Rc::make_mut(&mut self.sessions).insert(id, Rc::new(session));
        Ok(id)
    }
}

impl Live {
    /// The latest incarnation of a server that is known; `None` for other processes.
    fn latest_run(&self, state: &State, node: NodeId) -> Option<u32> {
        let heard = self.agents.get(&node).filter(|h| h.report.is_some()).map(|h| h.agent.epoch);
        heard.max(state.routing.node(node).map(|n| n.incarnation))
    }

    /// Sessions of earlier runs of servers.
    pub(super) fn outrun<'a>(&'a self, state: &'a State) -> impl Iterator<Item = SessionId> + 'a {
        let outrun = |p: &ProcessV1| self.latest_run(state, p.node) > Some(p.incarnation);
        let sessions = state.sessions.iter();
        sessions.filter(move |(_, s)| s.process.as_ref().is_some_and(outrun)).map(|(id, _)| *id)
    }
}
