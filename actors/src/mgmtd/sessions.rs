//! Sessions and the processes they belong to.
//!
//! A server has a fixed number and is one process at a time. When mgmtd hears of a run of it, the
//! sessions of its earlier runs end at once: those runs are gone. A process of clients alone draws
//! another number for every run, so an earlier incarnation under its number is no earlier run of
//! it, but a stranger that drew the same: such sessions end by their lease only.

use t3fs_runtime::NodeId;

use super::core::{Live, State};
use super::store::{ProcessV1, SessionV2};
use crate::proto::ids::SessionId;
use crate::proto::mgmtd::OpenSessionFor;

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
        let same = |s: &SessionV2| s.nonce == m.open.nonce && s.label == m.open.label;
        if let Some((id, _)) = self.sessions.iter().find(|(_, s)| same(s)) {
            return Ok(*id);
        }
        if live.latest_run(self, by.node).is_some() {
            let outrun = |p: &ProcessV1| p.node == by.node && p.incarnation < by.incarnation;
            self.sessions.retain(|_, s| !s.process.as_ref().is_some_and(outrun));
        }
        let id = SessionId(self.routing.session_max.0 + 1);
        self.routing.session_max = id;
        let (label, nonce) = (m.open.label.clone(), m.open.nonce);
        self.sessions.insert(id, SessionV2 { label, nonce, process: Some(by) });
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
