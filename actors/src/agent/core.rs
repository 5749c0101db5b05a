//! What an agent knows and decides, without awaiting.

use core::time::Duration;
use std::collections::BTreeMap;

use t3fs_runtime::{Addr, RawAddr, Time};

use super::{AgentConfig, ServerInfo};
use crate::mgmtd::{Mgmtd, Timing, usable};
use crate::proto::agent::{Announce, RoutingNews, WatchRouting};
use crate::proto::ids::{RoutingVersion, SessionId, TargetId};
use crate::proto::mgmtd::*;
use crate::storage::Storage;

/// When to send the next heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    Wait,
    Now,
}

/// What an answer brought.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Took {
    /// The routing is newer now.
    pub(super) routing: bool,
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

/// Heartbeats that may wait for an answer of the same primary: one lost costs no lease.
const ASKED_MAX: u8 = 3;
/// A client of this process that is silent for this long is gone, without having said so.
const SESSION_SILENCE: Duration = Duration::from_secs(30);

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
    routing: Routing,
    metas: Vec<RawAddr>,
    targets: BTreeMap<TargetId, TargetReport>,
    /// All actors of this process run.
    announced: bool,
    sessions: BTreeMap<SessionId, Session>,
    /// Grows with every change of the list of sessions that have not ended.
    own_number: u64,
    lease: Time,
    /// Why the primary refuses us; said once.
    refusal: Option<String>,
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
            routing: Routing::default(),
            metas: Vec::new(),
            targets: BTreeMap::new(),
            announced: false,
            sessions: BTreeMap::new(),
            own_number: 0,
            lease: Time::from_us(0),
            refusal: None,
        };
        core.set_mgmtds(config.mgmtds);
        core
    }

    pub(super) fn routing(&self) -> &Routing {
        &self.routing
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
        if self.routing.version == RoutingVersion(0) {
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
            roles: s.roles.clone(),
            addresses: s.addresses.clone(),
            tags: s.tags.clone(),
            mgmtd: s.mgmtd,
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
            have: self.routing.version,
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
        self.refusal = None;
        if r.term >= self.term {
            self.term = r.term;
            self.primary = self.mgmtds.iter().any(|c| c.addr == by).then_some(by);
        }
        self.end(&r.ended);
        let newest = r.routing.as_ref().map_or(self.routing.version, RoutingUpdate::version);
        let mut took = r.routing.map(|u| self.take(u)).unwrap_or_default();
        // With a gap in the routing, what came with the lease is not known: no lease.
        if self.routing.version >= newest {
            // mgmtd was perhaps told another length: it waits no longer than it grants.
            let life = self.timing.node_lease.min(Duration::from_micros(r.lease_us));
            self.lease = self.lease.max(sent + usable(life));
            took.lease = (!named.is_empty()).then_some(self.lease);
            took.named = named.to_vec();
        }
        took
    }

    /// An answer that gives nothing.
    pub(super) fn refused(&mut self, by: Addr<Mgmtd>, e: MgmtdError) -> Next {
        self.done(by);
        match e {
            MgmtdError::OtherTerm { term } if term > self.term => {
                self.term = term;
                self.primary = Some(by);
                Next::Now
            }
            MgmtdError::NotPrimary { hint } => {
                let was = self.primary == Some(by);
                if was {
                    self.primary = None;
                }
                let known = hint.filter(|n| *n != by.raw().node);
                if let Some(n) = known
                    && self.primary.is_none()
                    && was
                {
                    let named = |c: &&Candidate| c.addr.raw().node == n;
                    self.primary = self.mgmtds.iter().find(named).map(|c| c.addr);
                }
                if was { Next::Now } else { Next::Wait }
            }
            MgmtdError::Refused(why) => {
                if self.refusal.as_ref() != Some(&why) {
                    tracing::error!("{why}");
                    self.refusal = Some(why);
                }
                Next::Wait
            }
            MgmtdError::OtherTerm { .. } | MgmtdError::Unavailable(_) => Next::Wait,
        }
    }

    pub(super) fn unanswered(&mut self, by: Addr<Mgmtd>) -> Next {
        self.done(by);
        if self.primary != Some(by) {
            return Next::Wait;
        }
        self.primary = None;
        Next::Now
    }

    pub(super) fn take(&mut self, update: RoutingUpdate) -> Took {
        let took = Took { routing: self.routing.apply(update), ..Took::default() };
        let ended = self.sessions.keys().filter(|id| !self.routing.session_alive(**id));
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
    pub(super) fn newest(&self) -> (RoutingVersion, u64) {
        (self.routing.version, self.own_number)
    }

    /// Whether there is something new for who asks this.
    pub(super) fn has_news(&self, m: &WatchRouting) -> bool {
        self.routing.version > m.have || self.own_number != m.own_number
    }

    pub(super) fn news(&self, m: &WatchRouting) -> RoutingNews {
        RoutingNews {
            routing: (self.routing.version > m.have).then(|| self.routing.clone()),
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

    pub(super) fn targets_named(&self, named: &[TargetId]) -> Vec<Addr<Storage>> {
        let of = |t| self.targets.get(t).map(|r| Addr::from_raw(r.addr));
        named.iter().filter_map(of).collect()
    }

    /// The session's client lives. `false`: the session has ended.
    pub(super) fn extend(&mut self, id: SessionId, now: Time) -> bool {
        let ended = !self.routing.session_alive(id);
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
mod tests {
    use t3fs_runtime::NodeId;

    use super::*;

    fn raw(node: u32, slot: u16) -> RawAddr {
        RawAddr { node: NodeId(node), shard: 0, slot, epoch: 1 }
    }

    fn mgmtd(node: u32) -> Addr<Mgmtd> {
        Addr::from_raw(raw(node, 0))
    }

    fn at(ms: u64) -> Time {
        Time::from_us(ms * 1000)
    }

    fn server() -> Core {
        let server = Some(ServerInfo::default());
        Core::new(AgentConfig {
            server,
            ..AgentConfig::new("t", vec![mgmtd(1), mgmtd(2), mgmtd(3)])
        })
    }

    fn reply(term: u64, routing: Option<RoutingUpdate>) -> HeartbeatReply {
        HeartbeatReply { term, lease_us: 1_500_000, routing, ended: Vec::new() }
    }

    fn full(version: u64) -> Option<RoutingUpdate> {
        let r = Routing { version: RoutingVersion(version), ..Routing::default() };
        Some(RoutingUpdate::Full(r))
    }

    fn asked(c: &mut Core) -> Vec<Addr<Mgmtd>> {
        c.heartbeats(at(0)).into_iter().map(|(to, _)| to).collect()
    }

    /// Goal: all are tried until one leads; one that is silent or leads no more is left, after a
    /// hint to whom it names.
    #[test]
    fn it_finds_the_primary() {
        let mut c = server();
        assert_eq!(asked(&mut c), [mgmtd(1), mgmtd(2), mgmtd(3)]);
        assert_eq!(asked(&mut c), [], "nobody is asked twice while nobody leads");
        let other = MgmtdError::NotPrimary { hint: Some(NodeId(2)) };
        assert_eq!(c.refused(mgmtd(1), other.clone()), Next::Wait);
        assert_eq!(c.refused(mgmtd(2), MgmtdError::OtherTerm { term: 7 }), Next::Now);
        assert_eq!(asked(&mut c), [mgmtd(2)]);
        c.answered(mgmtd(2), reply(7, full(1)), &[], at(0));
        assert_eq!((c.primary(), c.term), (Some(mgmtd(2)), 7));
        // A late answer of an earlier primary changes nothing.
        c.answered(mgmtd(1), reply(6, None), &[], at(0));
        assert_eq!(c.primary(), Some(mgmtd(2)));
        let gone = MgmtdError::NotPrimary { hint: Some(NodeId(3)) };
        assert_eq!(c.refused(mgmtd(2), gone), Next::Now);
        assert_eq!(c.primary(), Some(mgmtd(3)));
        assert_eq!(c.unanswered(mgmtd(3)), Next::Now);
        assert_eq!(c.primary(), None);
    }

    /// Goal: a lease is counted from the sending, for the targets that were named as alive, and
    /// never without the routing that came with it.
    #[test]
    fn leases() {
        let mut c = server();
        c.report(TargetReport::online(TargetId(1), raw(9, 1)));
        let (_, early) = c.heartbeats(at(0)).remove(0);
        assert_eq!(named(&early), [], "it is not announced yet");
        let away = TargetReport {
            local: LocalState::Offline,
            ..TargetReport::online(TargetId(2), raw(9, 2))
        };
        c.announce(Announce { metas: Vec::new(), targets: vec![away] });
        let message = c.message();
        assert_eq!(message.node.as_ref().unwrap().actors.as_ref().unwrap().targets.len(), 2);
        let alive = named(&message);
        assert_eq!(alive, [TargetId(1)]);
        let took = c.answered(mgmtd(1), reply(1, full(5)), &alive, at(100));
        assert_eq!((took.routing, took.lease, &took.named), (true, Some(at(1100)), &alive));
        let gap = RoutingDelta {
            from: RoutingVersion(7),
            version: RoutingVersion(8),
            nodes: Vec::new(),
            chains: Vec::new(),
            tables: Vec::new(),
            metas: None,
            sessions: None,
            session_max: SessionId(0),
        };
        let update = Some(RoutingUpdate::Delta(gap.clone()));
        assert_eq!(c.answered(mgmtd(1), reply(1, update), &alive, at(300)), Took::default());
        // What a push has brought before is no gap.
        c.take(full(9).unwrap());
        let update = Some(RoutingUpdate::Delta(gap));
        let took = c.answered(mgmtd(1), reply(1, update), &alive, at(400));
        assert_eq!((took.routing, took.lease), (false, Some(at(1400))));
        let took = c.answered(mgmtd(1), reply(1, None), &alive, at(200));
        assert_eq!(took.lease, Some(at(1400)), "an answer that comes late shortens nothing");
    }

    /// Regression: an agent that was told a longer lease than mgmtd served on after mgmtd had given
    /// its chains to others. Method: grants shorter and longer than the agent's own length.
    #[test]
    fn the_shorter_lease_counts() {
        let granted = |ms: u64| HeartbeatReply { lease_us: ms * 1000, ..reply(1, None) };
        let mut c = server();
        let took = c.answered(mgmtd(1), granted(600), &[TargetId(1)], at(0));
        assert_eq!(took.lease, Some(at(400)));
        let took = c.answered(mgmtd(1), granted(10_000), &[TargetId(1)], at(100));
        assert_eq!(took.lease, Some(at(1100)));
    }

    /// Goal: a session is extended while its client says that it lives, and its end is told.
    #[test]
    fn sessions() {
        let mut c = server();
        let id = SessionId(4);
        assert!(c.extend(id, at(0)));
        assert_eq!(c.message().sessions, [id]);
        let ended = HeartbeatReply { ended: vec![id], ..reply(1, None) };
        c.answered(mgmtd(1), ended, &[], at(10));
        assert!(!c.extend(id, at(20)));
        assert_eq!(c.message().sessions, []);
        assert!(c.extend(SessionId(5), at(20)));
        c.heartbeats(at(40_000));
        assert_eq!(c.message().sessions, [], "its client was silent");
    }

    /// Goal: news are what the asker does not have: newer routing, or another list of sessions,
    /// whichever way the list has changed. Routing that lacks a session ends it.
    #[test]
    fn news_are_told_once() {
        let mut c = server();
        let mut seen = WatchRouting { have: RoutingVersion(0), own_number: 0 };
        assert!(!c.has_news(&seen), "nothing is known, nothing is open");
        let mut told = |c: &Core| {
            assert!(c.has_news(&seen));
            let news = c.news(&seen);
            seen.have = news.routing.as_ref().map_or(seen.have, |r| r.version);
            seen.own_number = news.own_number;
            assert!(!c.has_news(&seen));
            (news.routing.map(|r| r.version.0), news.own)
        };
        let [a, b, d, e] = [4, 5, 6, 7].map(SessionId);
        c.take(full(3).unwrap());
        assert_eq!(told(&c), (Some(3), vec![]));
        c.extend(a, at(0));
        c.extend(b, at(0));
        c.extend(b, at(1));
        assert_eq!(told(&c), (None, vec![a, b]));
        c.forget(a);
        assert_eq!(told(&c), (None, vec![b]));
        c.answered(mgmtd(1), HeartbeatReply { ended: vec![b], ..reply(1, None) }, &[], at(10));
        assert_eq!(told(&c), (None, vec![]));
        c.extend(d, at(20));
        c.extend(e, at(20));
        assert_eq!(told(&c), (None, vec![d, e]));
        let (version, sessions) = (RoutingVersion(4), vec![e]);
        let r = Routing { version, sessions, session_max: e, ..Routing::default() };
        c.take(RoutingUpdate::Full(r));
        assert_eq!(told(&c), (Some(4), vec![e]));
        assert!(!c.extend(d, at(30)), "it has ended");
        c.heartbeats(at(60_000));
        assert_eq!(told(&c), (None, vec![]), "its client was silent");
        assert!(!c.extend(d, at(60_000)), "and did not come back");
        assert!(!c.has_news(&seen));
    }
}
