//! What an agent knows and decides, without awaiting.

use core::time::Duration;
use std::collections::BTreeMap;

use t3fs_runtime::{Addr, NodeId, RawAddr, Time};

use super::{AgentConfig, ServerInfo};
use crate::mgmtd::{Timing, usable};
use crate::proto::agent::{Announce, ViewNews, WatchView};
use crate::proto::ids::{SessionId, TargetId, ViewVersion};
use crate::proto::mgmtd::Mgmtd;
use crate::proto::mgmtd::*;
use crate::proto::storage::Storage;
use crate::timing::SESSION_SILENCE;

/// When to send the next heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AskAgain {
    Wait,
    Now,
}

/// What an answer brought.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Took {
    /// The view is newer now.
    pub(super) view: bool,
    /// The lease of `named` lasts until then.
    pub(super) lease: Option<Time>,
    pub(super) named: Vec<TargetId>,
}

/// What a target's report brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reported {
    /// Its actor is new here.
    pub(super) attached: bool,
    /// mgmtd should hear it soon.
    pub(super) urgent: bool,
}

struct Candidate {
    addr: Addr<Mgmtd>,
    /// Heartbeats to it that are under way.
    asked: u8,
}

struct Session {
    /// When its client last said that it lives.
    wanted: Time,
    ended: bool,
}

/// How often it is said that the primary refuses this process.
const REFUSAL_QUIET: Duration = Duration::from_secs(60);

/// Heartbeats that may wait for an answer of the same primary: one lost costs no lease.
const ASKED_MAX: u8 = 3;

pub(super) struct Core {
    cluster: String,
    timing: Timing,
    server: Option<ServerInfo>,
    pub(super) agent: RawAddr,
    mgmtds: Vec<Candidate>,
    primary: Option<Addr<Mgmtd>>,
    /// The term of the primary, as far as it is known.
    term: u64,
    number: u64,
    view: ClusterView,
    metas: Vec<RawAddr>,
    targets: BTreeMap<TargetId, TargetReport>,
    /// How full they are, of those that said it the last time they were asked.
    pub(super) spaces: Vec<TargetFill>,
    /// All actors of this process run.
    announced: bool,
    sessions: BTreeMap<SessionId, Session>,
    /// Grows with every change of the list of sessions that have not ended.
    own_number: u64,
    lease: Time,
    /// When it was said last that the primary refuses this process.
    refusal_said: Option<Time>,
}

/// Targets that a heartbeat says are alive: those that its answer gives a lease.
pub(super) fn named(m: &Heartbeat) -> Vec<TargetId> {
    let actors = m.node.as_ref().and_then(|n| n.actors.as_ref());
    let targets = actors.map(|a| &a.targets[..]).unwrap_or_default();
    targets.iter().filter(|t| t.local != LocalState::Offline).map(|t| t.target).collect()
}

impl Core {
    pub(super) fn new(config: AgentConfig) -> Core {
        let mut core = Core {
            cluster: config.cluster,
            timing: config.timing,
            server: config.server,
            agent: RawAddr::default(),
            mgmtds: Vec::new(),
            primary: None,
            term: 0,
            number: 0,
            view: ClusterView::default(),
            metas: Vec::new(),
            targets: BTreeMap::new(),
            spaces: Vec::new(),
            announced: false,
            sessions: BTreeMap::new(),
            own_number: 0,
            lease: Time::from_us(0),
            refusal_said: None,
        };
        core.set_mgmtds(config.mgmtds);
        core
    }

    pub(super) fn view(&self) -> &ClusterView {
        &self.view
    }

    pub(super) fn primary(&self) -> Option<Addr<Mgmtd>> {
        self.primary
    }

    pub(super) fn set_mgmtds(&mut self, mgmtds: Vec<Addr<Mgmtd>>) {
        self.primary = self.primary.filter(|p| mgmtds.contains(p));
        let asked = |a| self.mgmtds.iter().find(|c| c.addr == a).map_or(0, |c| c.asked);
        self.mgmtds =
            mgmtds.into_iter().map(|addr| Candidate { addr, asked: asked(addr) }).collect();
    }

    pub(super) fn every(&self) -> Duration {
        if self.view.version == ViewVersion(0) {
            return self.timing.heartbeat / 8; // somebody waits for the cluster
        }
        if self.server.is_none() && self.primary.is_some() {
            return self.timing.client_heartbeat;
        }
        self.timing.heartbeat
    }

    /// How long one heartbeat waits for its answer: an answer that comes later is worth little.
    pub(super) fn patience(&self) -> Duration {
        self.timing.node_lease / 3
    }

    /// The heartbeats to send now: to the primary, or to all if it is not known.
    pub(super) fn heartbeats(&mut self, now: Time) -> Vec<(Addr<Mgmtd>, Heartbeat)> {
        let before = self.own().len();
        self.sessions.retain(|_, s| now.since(s.wanted) < SESSION_SILENCE);
        self.own_number += u64::from(self.own().len() != before);
        let primary = self.primary;
        let due = |c: &Candidate| match primary {
            None => c.asked == 0,
            Some(p) => p == c.addr && c.asked < ASKED_MAX,
        };
        let to: Vec<Addr<Mgmtd>> = self.mgmtds.iter().filter(|c| due(c)).map(|c| c.addr).collect();
        for c in self.mgmtds.iter_mut().filter(|c| due(c)) {
            c.asked += 1;
        }
        if to.is_empty() {
            return Vec::new();
        }
        self.number += 1;
        let message = self.message();
        to.into_iter().map(|a| (a, message.clone())).collect()
    }

    fn message(&self) -> Heartbeat {
        let node = self.server.as_ref().map(|s| NodeReport {
            identity: s.identity.clone(),
            roles: s.roles.clone(),
            addresses: s.addresses.clone(),
            tags: s.tags.clone(),
            mgmtd: s.mgmtd,
            spaces: self.spaces.clone(),
            actors: self.announced.then(|| Actors {
                metas: self.metas.clone(),
                targets: self.targets.values().copied().collect(),
            }),
        });
        Heartbeat {
            cluster: self.cluster.clone(),
            term: self.term,
            agent: self.agent,
            number: self.number,
            have: self.view.version,
            node,
            sessions: self.own(),
        }
    }

    fn done(&mut self, by: Addr<Mgmtd>) {
        if let Some(c) = self.mgmtds.iter_mut().find(|c| c.addr == by) {
            c.asked = c.asked.saturating_sub(1);
        }
    }

    pub(super) fn answered(
        &mut self,
        by: Addr<Mgmtd>,
        r: HeartbeatReply,
        named: &[TargetId],
        sent: Time,
    ) -> Took {
        self.done(by);
        if r.term >= self.term {
            self.term = r.term;
            self.primary = self.mgmtds.iter().any(|c| c.addr == by).then_some(by);
        }
        self.end(&r.ended);
        let newest = r.news.as_ref().map_or(self.view.version, ViewUpdate::version);
        let mut took = r.news.map(|u| self.take(u)).unwrap_or_default();
        // With a gap in the view, what came with the lease is not known: no lease.
        if self.view.version >= newest {
            // mgmtd was perhaps told another length: it waits no longer than it grants.
            let life = self.timing.node_lease.min(Duration::from_micros(r.lease_us));
            self.lease = self.lease.max(sent + usable(life));
            took.lease = (!named.is_empty()).then_some(self.lease);
            took.named = named.to_vec();
        }
        took
    }

    /// A heartbeat's answer that gives nothing.
    pub(super) fn refused(&mut self, by: Addr<Mgmtd>, e: MgmtdError, now: Time) -> AskAgain {
        self.done(by);
        match e {
            MgmtdError::OtherTerm { term } if term > self.term => {
                self.term = term;
                self.primary = Some(by);
                AskAgain::Now
            }
            MgmtdError::NotPrimary { hint } => self.does_not_lead(by, hint),
            MgmtdError::Refused(why) => {
                if self.refusal_said.is_none_or(|at| now.since(at) >= REFUSAL_QUIET) {
                    tracing::error!("mgmtd refuses this process: {why}");
                    self.refusal_said = Some(now);
                }
                AskAgain::Wait
            }
            MgmtdError::OtherTerm { .. } | MgmtdError::Unavailable(_) => AskAgain::Wait,
        }
    }

    /// An mgmtd says so to whatever it was asked; `hint`: who it believes does.
    pub(super) fn does_not_lead(&mut self, by: Addr<Mgmtd>, hint: Option<NodeId>) -> AskAgain {
        if self.primary != Some(by) {
            return AskAgain::Wait;
        }
        let hint = hint.filter(|n| *n != by.raw().node);
        let named = |c: &&Candidate| Some(c.addr.raw().node) == hint;
        self.primary = self.mgmtds.iter().find(named).map(|c| c.addr);
        AskAgain::Now
    }

    pub(super) fn unanswered(&mut self, by: Addr<Mgmtd>) -> AskAgain {
        self.done(by);
        if self.primary != Some(by) {
            return AskAgain::Wait;
        }
        self.primary = None;
        AskAgain::Now
    }

    pub(super) fn take(&mut self, update: ViewUpdate) -> Took {
        let took = Took { view: self.view.apply(update), ..Took::default() };
        let ended = self.sessions.keys().filter(|id| !self.view.sessions.is_alive(**id));
        let ended: Vec<SessionId> = ended.copied().collect();
        self.end(&ended);
        took
    }

    fn end(&mut self, ended: &[SessionId]) {
        for id in ended {
            if let Some(s) = self.sessions.get_mut(id)
                && !std::mem::replace(&mut s.ended, true)
            {
                self.own_number += 1;
            }
        }
    }

    /// Sessions that were opened here and have not ended.
    fn own(&self) -> Vec<SessionId> {
        self.sessions.iter().filter(|(_, s)| !s.ended).map(|(id, _)| *id).collect()
    }

    /// What a watcher has to have seen to know everything.
    pub(super) fn newest(&self) -> (ViewVersion, u64) {
        (self.view.version, self.own_number)
    }

    /// Whether there is something new for who asks this.
    pub(super) fn has_news(&self, m: &WatchView) -> bool {
        self.view.version > m.have || self.own_number != m.own_number
    }

    pub(super) fn news(&self, m: &WatchView) -> ViewNews {
        ViewNews {
            view: (self.view.version > m.have).then(|| self.view.clone()),
            own: self.own(),
            own_number: self.own_number,
        }
    }

    /// What is new in a report.
    pub(super) fn report(&mut self, r: TargetReport) -> Reported {
        let old = self.targets.insert(r.target, r);
        let said = |r: TargetReport| (r.addr, r.local, r.chain_version);
        Reported {
            attached: old.map(|o| o.addr) != Some(r.addr),
            urgent: self.announced && old.map(said) != Some(said(r)),
        }
    }

    pub(super) fn announce(&mut self, m: Announce) {
        self.metas = m.metas;
        for r in m.targets {
            self.targets.entry(r.target).or_insert(r);
        }
        self.announced = true;
    }

    pub(super) fn targets(&self) -> Vec<Addr<Storage>> {
        self.targets.values().map(|t| Addr::from_raw(t.addr)).collect()
    }

    /// The same with their numbers.
    pub(super) fn numbered(&self) -> Vec<(TargetId, Addr<Storage>)> {
        self.targets.iter().map(|(id, t)| (*id, Addr::from_raw(t.addr))).collect()
    }

    pub(super) fn targets_named(&self, named: &[TargetId]) -> Vec<Addr<Storage>> {
        let of = |t| self.targets.get(t).map(|r| Addr::from_raw(r.addr));
        named.iter().filter_map(of).collect()
    }

    /// The session's client lives. `false`: the session has ended.
    pub(super) fn extend(&mut self, id: SessionId, now: Time) -> bool {
        let ended = !self.view.sessions.is_alive(id);
        let s = self.sessions.entry(id).or_insert_with(|| {
            self.own_number += u64::from(!ended);
            Session { wanted: now, ended }
        });
        s.wanted = now;
        !s.ended
    }

    pub(super) fn forget(&mut self, id: SessionId) {
        let was = self.sessions.remove(&id);
        self.own_number += u64::from(was.is_some_and(|s| !s.ended));
    }
}

#[cfg(test)]
mod tests;
