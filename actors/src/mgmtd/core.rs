//! What mgmtd knows and decides, without awaiting.
//!
//! [`State`] is what survives, and its view is all of it that anyone sees. [`Live`] is what this
//! primary has heard since it took over. [`settle`] makes the next state of the two.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use t3fs_runtime::{Addr, NodeId, RawAddr, Time};

use super::chain_table;
use super::session_record::SessionV2;
use crate::proto::ids::{ChainId, ChainVersion, SessionId, TargetId, ViewVersion};
use crate::proto::mgmtd::Mgmtd;
use crate::proto::mgmtd::*;

/// What survives a change of primary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct State {
    /// Counts all changes.
    pub(super) version: ViewVersion,
    /// Shared with states before and after that differ in something else.
    pub(super) routing: Arc<Routing>,
    pub(super) sessions: Rc<BTreeMap<SessionId, Rc<SessionV2>>>,
    /// The largest number that was given to a session.
    pub(super) session_max: SessionId,
    /// The latest opening of every target that has said so.
    pub(super) openings: Rc<BTreeMap<TargetId, Opening>>,
}

impl State {
    pub(super) fn new(cluster: &str) -> State {
        let routing = Routing {
            cluster: cluster.into(),
            tables: vec![ChainTable { id: 1, version: 1, chains: Vec::new() }],
            ..Routing::default()
        };
        State { version: ViewVersion(1), routing: Arc::new(routing), ..State::nothing() }
    }

    /// What is before anything is stored.
    pub(super) fn nothing() -> State {
        State {
            version: ViewVersion(0),
            routing: Arc::default(),
            sessions: Rc::default(),
            session_max: SessionId(0),
            openings: Rc::default(),
        }
    }

    /// The state as all others see it.
    pub(super) fn view(&self) -> ClusterView {
        let alive = self.sessions.keys().copied().collect();
        ClusterView {
            version: self.version,
            routing: Arc::clone(&self.routing),
            sessions: Arc::new(Sessions { alive, max: self.session_max }),
        }
    }

    pub(super) fn is_alive(&self, session: SessionId) -> bool {
        session > self.session_max || self.sessions.contains_key(&session)
    }

    /// Makes chains; the same chain again is no change, a different one under its id is refused.
    pub(super) fn create_chains(&mut self, m: &CreateChains) -> Result<(), String> {
        let mut new = Vec::new();
        for (id, targets) in &m.chains {
            if targets.is_empty() {
                return Err(format!("chain {id} has no targets"));
            }
            if let Some(c) = self.routing.chain(*id) {
                let mut has: Vec<TargetId> = c.targets.iter().map(|t| t.target).collect();
                let mut asked: Vec<TargetId> = targets.iter().map(|t| t.0).collect();
                has.sort();
                asked.sort();
                if has != asked {
                    return Err(format!("chain {id} exists with other targets"));
                }
                continue;
            }
            for (t, _) in targets {
                if let Some(c) = self.holder(*t) {
                    return Err(format!("target {t} is in chain {c} already"));
                }
            }
            new.push((*id, targets.clone()));
        }
        if new.is_empty() {
            return Ok(());
        }
        let routing = Arc::make_mut(&mut self.routing);
        let mut table = routing.tables.last().expect("table 1 exists from the start").clone();
        for (id, targets) in new {
            let targets = targets.into_iter().map(|(target, node)| ChainTarget {
                target,
                node,
                addr: None,
                state: TargetState::Serving,
                made: false,
            });
            let chain = Chain { id, version: ChainVersion(1), targets: targets.collect() };
            routing.chains.push(chain);
            table.chains.push(id);
        }
        routing.chains.sort_by_key(|c| c.id);
        // A table version never changes once it is told, so growth is a new version.
        if routing.tables.last().is_some_and(|t| t.chains.is_empty()) {
            routing.tables.pop();
        } else {
            table.version += 1;
        }
        routing.tables.push(table);
        derive(routing);
        Ok(())
    }

    /// Targets have been opened. Data that knows the latest opening of its target, as the one in
    /// which it began last or as one that it has tried since, is the latest, and its opening is the
    /// latest from here on. All else is a copy of earlier data, whatever its chain has come to.
    ///
    /// Data that has begun before, of a target that was never made as far as this store knows, is
    /// of another store: it is told so by a latest opening of number 0, of which there is none.
    pub(super) fn claim(&mut self, m: &ClaimTargets) -> Vec<Claimed> {
        let mut out = Vec::with_capacity(m.claims.len());
        for c in &m.claims {
            let latest = self.openings.get(&c.target).copied();
            if latest.is_none() && c.confirmed.number > 0 && self.is_unmade(c.target) {
                out.push(Claimed::OldCopy { latest: Opening::default() });
                continue;
            }
            let known = latest.is_none_or(|latest| {
                // A primary of an earlier build has stored nothing of what began meanwhile.
                let later = c.confirmed.number > latest.number;
                later || [c.opening, c.confirmed].contains(&latest) || c.tried.contains(&latest)
            });
            match latest.filter(|_| !known) {
                Some(latest) => out.push(Claimed::OldCopy { latest }),
                None => out.push(Claimed::Latest),
            }
            if known && latest != Some(c.opening) && self.holder(c.target).is_some() {
                Rc::make_mut(&mut self.openings).insert(c.target, c.opening);
            }
        }
        out
    }

    /// A chain names it, and its node has not had it yet.
    fn is_unmade(&self, t: TargetId) -> bool {
        let mut members = self.routing.chains.iter().flat_map(|c| &c.targets);
        members.any(|m| m.target == t && !m.made)
    }

    fn holder(&self, t: TargetId) -> Option<ChainId> {
        let holds = |c: &&Chain| c.targets.iter().any(|x| x.target == t);
        self.routing.chains.iter().find(holds).map(|c| c.id)
    }

    /// Mgmtds that live, as far as it is known.
    pub(super) fn mgmtds(&self) -> Vec<NodeId> {
        let is = |n: &&NodeInfo| n.status == NodeStatus::Alive && n.roles.contains(&Role::Mgmtd);
        self.routing.nodes.iter().filter(is).map(|n| n.node).collect()
    }

    /// Counts the version up if this differs from `before`.
    pub(super) fn finish(&mut self, before: &State) -> bool {
        let changed = self != before;
        if changed {
            self.version = ViewVersion(before.version.0 + 1);
        }
        changed
    }
}

/// What follows from the rest: addresses of targets, which of them have been there, and the metas.
pub(super) fn derive(r: &mut Routing) {
    let mut known: BTreeMap<(NodeId, TargetId), RawAddr> = BTreeMap::new();
    for n in &r.nodes {
        known.extend(n.targets.iter().map(|(t, a)| ((n.node, *t), *a)));
    }
    for t in r.chains.iter_mut().flat_map(|c| &mut c.targets) {
        t.addr = known.get(&(t.node, t.target)).copied();
        // Stored together with its address: before anybody could ask it for anything.
        t.made |= t.addr.is_some();
    }
    let alive = r.nodes.iter().filter(|n| n.status == NodeStatus::Alive);
    r.metas = alive.flat_map(|n| n.metas.iter().copied()).collect();
    r.metas.sort();
}

/// An agent as last heard.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) agent: RawAddr,
    number: u64,
    pub(super) at: Time,
    /// When its process began to start, as far as it was heard.
    began: Time,
    pub(super) report: Option<NodeReport>,
}

/// In which version each part of the state has changed last since this primary took over.
#[derive(Clone, Debug, Default)]
struct Changes {
    /// Changes up to this version are not known.
    from: ViewVersion,
    /// Anything of the routing.
    routing: ViewVersion,
    nodes: BTreeMap<NodeId, ViewVersion>,
    chains: BTreeMap<ChainId, ViewVersion>,
    tables: BTreeMap<(u32, u32), ViewVersion>,
    metas: ViewVersion,
    /// The latest sessions that have begun, or ended.
    sessions: VecDeque<(ViewVersion, SessionId)>,
}

/// Begins and ends of sessions that are told one by one. Who has missed more is told everything.
const SESSIONS_TOLD: usize = 4096;

/// What a primary has heard itself.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) node_lease: Duration,
    session_lease: Duration,
    /// Everyone counts as heard of at this time: silence before it was ours.
    since: Time,
    pub(super) agents: BTreeMap<NodeId, Heard>,
    sessions: BTreeMap<SessionId, Time>,
    /// Chains whose targets are not all up for the first time yet, and how long that may take.
    newborn: BTreeMap<ChainId, Time>,
    changes: Changes,
    /// A report has come that may change something.
    dirty: bool,
}

/// Agents remembered at most; a client beyond that is not pushed changes.
const AGENTS_MAX: usize = 1 << 16;

/// What is known of a target's local state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum KnownState {
    Is(LocalState),
    /// Its node has been silent for less than a lease, or has just restarted.
    Unknown,
    /// Its node runs but is not done starting.
    Starting,
}

impl Live {
    pub(super) fn new(
        node_lease: Duration,
        session_lease: Duration,
        state: &State,
        now: Time,
    ) -> Live {
        Live {
            node_lease,
            session_lease,
            since: now,
            agents: BTreeMap::new(),
            sessions: BTreeMap::new(),
            newborn: BTreeMap::new(),
            changes: Changes { from: state.version, ..Changes::default() },
            dirty: true,
        }
    }

    /// Leave to act begins (again): nobody could be heard before.
    pub(super) fn hear_all(&mut self, now: Time) {
        self.since = now;
    }

    fn heard(&self, node: NodeId) -> Time {
        self.agents.get(&node).map_or(self.since, |h| h.at.max(self.since))
    }

    pub(super) fn silent(&self, node: NodeId, now: Time) -> Duration {
        now.since(self.heard(node))
    }

    /// Where the mgmtd of a node is asked.
    pub(super) fn mgmtd(&self, node: NodeId) -> Option<Addr<Mgmtd>> {
        let report = self.agents.get(&node)?.report.as_ref()?;
        report.mgmtd.map(Addr::from_raw)
    }

    /// How full the targets of nodes that live are.
    pub(super) fn spaces(&self, now: Time) -> Vec<NodeSpaces> {
        let lives = self.agents.iter().filter(|(node, _)| !self.is_dead(**node, now));
        let told = lives.filter_map(|(node, h)| {
            let targets = h.report.as_ref()?.spaces.clone();
            (!targets.is_empty()).then_some(NodeSpaces { node: *node, targets })
        });
        told.collect()
    }

    fn is_dead(&self, node: NodeId, now: Time) -> bool {
        self.silent(node, now) > self.node_lease
    }

    /// Takes a heartbeat meant for this primary. An error says why nothing was taken.
    pub(super) fn hear(
        &mut self,
        state: &State,
        m: Heartbeat,
        now: Time,
    ) -> Result<(), MgmtdError> {
        let (node, incarnation) = (m.agent.node, m.agent.epoch);
        let known = state.routing.node(node);
        let stored = known.map_or(0, |n| n.incarnation);
        let heard = self.agents.get(&node);
        if let (Some(report), Some(known)) = (&m.node, known)
            && report.identity != known.identity
            && ![&report.identity, &known.identity].contains(&&String::new())
            && !self.is_dead(node, now)
        {
            return Err(MgmtdError::Refused(format!(
                "node {} is another server, which lives{}: start this one with another --node-id, \
                 or end that one first",
                node.0,
                known.addresses.first().map(|at| format!(" at {at}")).unwrap_or_default()
            )));
        }
        let latest = heard.map_or(0, |h| h.agent.epoch).max(stored);
        if incarnation < latest {
            return Err(MgmtdError::Refused(format!(
                "node {} is known with incarnation {latest}, later than {incarnation}; is its \
                 number used twice, or was its state folder restored?",
                node.0
            )));
        }
        let same = heard.filter(|h| h.agent.epoch == incarnation);
        if same.is_some_and(|h| m.number <= h.number) {
            return Err(MgmtdError::Unavailable("a later heartbeat has come before".into()));
        }
        let complete = |r: &NodeReport| r.actors.is_some();
        // One that dies again and again before it is done keeps nobody waiting.
        let goes_on =
            same.is_some() || heard.is_some_and(|h| !h.report.as_ref().is_some_and(complete));
        let began = heard.filter(|_| goes_on).map_or(now, |h| h.began);
        self.dirty |= same.is_none_or(|h| matters(h.report.as_ref(), m.node.as_ref()));
        // One that was dead comes back even if nothing else about it is new.
        let status = state.routing.node(node).map(|n| n.status);
        self.dirty |= m.node.is_some() && status != Some(NodeStatus::Alive);
        if heard.is_some() || self.agents.len() < AGENTS_MAX || m.node.is_some() {
            let heard = Heard { agent: m.agent, number: m.number, at: now, began, report: m.node };
            self.agents.insert(node, heard);
        }
        for s in m.sessions.into_iter().filter(|s| state.sessions.contains_key(s)) {
            self.sessions.insert(s, now);
        }
        Ok(())
    }

    /// Sessions whose clients have been silent for a session lease.
    fn overdue<'a>(&'a self, state: &'a State, now: Time) -> impl Iterator<Item = SessionId> + 'a {
        state.sessions.keys().copied().filter(move |id| {
            let heard = self.sessions.get(id).copied().unwrap_or_default().max(self.since);
            now.since(heard) > self.session_lease
        })
    }

    /// Whether something was heard that [`settle`] has not seen.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether [`settle`] may change something, be it only because time has passed. Looks at all
    /// that there is: for a timer, not for every message.
    pub(super) fn is_due(&self, state: &State, now: Time) -> bool {
        let dies = |n: &NodeInfo| n.status == NodeStatus::Alive && self.is_dead(n.node, now);
        let starting = |h: &Heard| h.report.as_ref().is_some_and(|r| r.actors.is_none());
        self.dirty
            || state.routing.nodes.iter().any(dies)
            || self.agents.values().any(starting)
            || self.newborn.values().any(|until| now >= *until)
            || self.overdue(state, now).next().is_some()
    }

    /// A settling begins that sees everything heard so far.
    pub(super) fn clean(&mut self) {
        self.dirty = false;
    }

    /// It was not stored, or it may go on from where it ended.
    pub(super) fn again(&mut self) {
        self.dirty = true;
    }

    fn seen(&self, chain: &Chain, t: &ChainTarget, now: Time) -> KnownState {
        if self.is_dead(t.node, now) {
            return KnownState::Is(LocalState::Offline);
        }
        let Some(h) = self.agents.get(&t.node) else { return KnownState::Unknown };
        let Some(report) = &h.report else { return KnownState::Is(LocalState::Offline) };
        let Some(actors) = &report.actors else {
            let waited = now.since(h.began.max(self.since));
            return if waited > self.node_lease {
                KnownState::Starting
            } else {
                KnownState::Unknown
            };
        };
        let found = actors.targets.iter().find(|r| r.target == t.target);
        KnownState::Is(match found {
            None => LocalState::Offline,
            Some(r) if r.local == LocalState::UpToDate && r.chain_version != chain.version => {
                LocalState::Online
            }
            Some(r) => r.local,
        })
    }

    /// What is known of the chain's targets, or `None` while it is too early to judge.
    fn known(&self, c: &Chain, now: Time) -> Option<Vec<chain_table::Known>> {
        let seen: Vec<KnownState> = c.targets.iter().map(|t| self.seen(c, t, now)).collect();
        let alive =
            |s: &KnownState| matches!(s, KnownState::Is(LocalState::Online | LocalState::UpToDate));
        let holds =
            |t: &ChainTarget| matches!(t.state, TargetState::Serving | TargetState::LastServing);
        let starts =
            c.targets.iter().zip(&seen).any(|(t, s)| holds(t) && *s == KnownState::Starting);
        // Its targets are still being made; those of a node that has died meanwhile will not be.
        let newborn = self.newborn.get(&c.id).is_some_and(|until| now < *until);
        let is_born = |(t, s): (&ChainTarget, &KnownState)| alive(s) || self.is_dead(t.node, now);
        let born = seen.iter().any(alive) && c.targets.iter().zip(&seen).all(is_born);
        if seen.contains(&KnownState::Unknown)
            || (starts && !seen.iter().any(alive))
            || (newborn && !born)
        {
            return None;
        }
        let local = |s: &KnownState| match s {
            KnownState::Is(l) => *l,
            KnownState::Unknown | KnownState::Starting => LocalState::Offline,
        };
        let denied = |t: &ChainTarget, s: &KnownState| {
            *s == KnownState::Is(LocalState::Offline) && !self.is_dead(t.node, now)
        };
        let known = |(t, s): (&ChainTarget, &KnownState)| (t.state, local(s), denied(t, s));
        Some(c.targets.iter().zip(&seen).map(known).collect())
    }

    /// The state has changed from `old` to `new`.
    pub(super) fn adopt(&mut self, old: &State, new: &State, now: Time) {
        if !Arc::ptr_eq(&old.routing, &new.routing) {
            self.adopt_routing(&old.routing, &new.routing, new.version, now);
        }
        if old.sessions != new.sessions || old.session_max != new.session_max {
            let begun = (old.session_max.0 + 1..=new.session_max.0).map(SessionId);
            let ended = old.sessions.keys().filter(|id| !new.sessions.contains_key(id)).copied();
            for id in begun.clone().filter(|id| new.sessions.contains_key(id)) {
                self.sessions.insert(id, now);
            }
            let told = &mut self.changes.sessions;
            told.extend(ended.chain(begun).map(|id| (new.version, id)));
            self.sessions.retain(|id, _| new.sessions.contains_key(id));
            while told.len() > SESSIONS_TOLD
                && let Some((version, _)) = told.pop_front()
            {
                self.changes.from = self.changes.from.max(version);
            }
        }
        // A client process that is silent for long is gone; a server is kept by its record.
        let life = self.session_lease;
        self.agents.retain(|_, h| h.report.is_some() || now.since(h.at) <= life);
    }

    fn adopt_routing(&mut self, old: &Routing, new: &Routing, v: ViewVersion, now: Time) {
        self.changes.routing = v;
        for n in new.nodes.iter().filter(|n| old.node(n.node) != Some(n)) {
            self.changes.nodes.insert(n.node, v);
        }
        for c in new.chains.iter().filter(|c| old.chain(c.id) != Some(c)) {
            self.changes.chains.insert(c.id, v);
            if old.chain(c.id).is_none() {
                self.newborn.insert(c.id, now + self.node_lease * 10);
                self.dirty = true;
            }
        }
        for t in new.tables.iter().filter(|t| old.table(t.id, t.version) != Some(t)) {
            self.changes.tables.insert((t.id, t.version), v);
        }
        if old.metas != new.metas {
            self.changes.metas = v;
        }
        let up = |c: &Chain| c.targets.iter().all(|t| t.addr.is_some());
        let grown = |id: &ChainId| new.chain(*id).is_some_and(up);
        self.newborn.retain(|id, until| now < *until && !grown(id));
    }

    /// What is newer than `have`.
    pub(super) fn update(&self, state: &State, have: ViewVersion) -> Option<ViewUpdate> {
        if have >= state.version {
            return None;
        }
        let changes = &self.changes;
        if have < changes.from {
            return Some(ViewUpdate::Full(state.view()));
        }
        Some(ViewUpdate::Delta(ViewDelta {
            from: have,
            version: state.version,
            routing: (changes.routing > have).then(|| changes.of_routing(&state.routing, have)),
            sessions: changes.of_sessions(state, have),
        }))
    }

    /// Whether the routing has changed since that version.
    pub(super) fn routing_changed(&self, since: ViewVersion) -> bool {
        self.changes.routing > since
    }
}

impl Changes {
    fn of_routing(&self, r: &Routing, have: ViewVersion) -> RoutingChange {
        let newer = |v: Option<&ViewVersion>| v.is_some_and(|v| *v > have);
        let nodes = r.nodes.iter().filter(|n| newer(self.nodes.get(&n.node)));
        let chains = r.chains.iter().filter(|c| newer(self.chains.get(&c.id)));
        let tables = r.tables.iter().filter(|t| newer(self.tables.get(&(t.id, t.version))));
        RoutingChange {
            nodes: nodes.cloned().collect(),
            chains: chains.cloned().collect(),
            tables: tables.cloned().collect(),
            metas: (self.metas > have).then(|| r.metas.clone()),
        }
    }

    fn of_sessions(&self, state: &State, have: ViewVersion) -> Option<SessionsChange> {
        let first = self.sessions.partition_point(|(version, _)| *version <= have);
        let mut changed: Vec<SessionId> = self.sessions.range(first..).map(|(_, id)| *id).collect();
        if changed.is_empty() {
            return None;
        }
        changed.sort_unstable();
        changed.dedup();
        let (opened, ended) = changed.into_iter().partition(|id| state.sessions.contains_key(id));
        Some(SessionsChange { opened, ended, max: state.session_max })
    }
}

/// Whether a new report can change the state. How full targets are does not.
fn matters(old: Option<&NodeReport>, new: Option<&NodeReport>) -> bool {
    let (Some(a), Some(b)) = (old, new) else { return old.is_some() != new.is_some() };
    let told = |r: &NodeReport| {
        let of = |t: &TargetReport| (t.target, t.addr, t.local, t.chain_version);
        r.actors.as_ref().map(|x| (x.metas.clone(), x.targets.iter().map(of).collect::<Vec<_>>()))
    };
    (&a.roles, &a.addresses, &a.tags) != (&b.roles, &b.addresses, &b.tags) || told(a) != told(b)
}

/// A server's record, made of what it says of itself.
fn info(h: &Heard, report: &NodeReport) -> NodeInfo {
    let mut roles = report.roles.clone();
    roles.sort();
    let (mut metas, mut targets) = (Vec::new(), Vec::new());
    if let Some(a) = &report.actors {
        metas.clone_from(&a.metas);
        targets = a.targets.iter().map(|t| (t.target, t.addr)).collect();
    }
    metas.sort();
    targets.sort();
    NodeInfo {
        node: h.agent.node,
        incarnation: h.agent.epoch,
        identity: report.identity.clone(),
        status: NodeStatus::Alive,
        roles,
        addresses: report.addresses.clone(),
        tags: report.tags.clone(),
        metas,
        targets,
    }
}

/// Brings the state up to what has been heard: registrations, deaths, chains, ends of sessions.
pub(super) fn settle(state: &mut State, live: &Live, now: Time) {
    let mut routing = Routing::clone(&state.routing);
    settle_routing(&mut routing, live, now);
    if routing != *state.routing {
        state.routing = Arc::new(routing);
    }
    let ended: Vec<SessionId> = live.overdue(state, now).chain(live.outrun(state)).collect();
    if !ended.is_empty() {
        let sessions = Rc::make_mut(&mut state.sessions);
        ended.iter().for_each(|id| drop(sessions.remove(id)));
    }
}

fn settle_routing(routing: &mut Routing, live: &Live, now: Time) {
    for h in live.agents.values() {
        let Some(report) = &h.report else { continue };
        if live.is_dead(h.agent.node, now) {
            continue;
        }
        let new = info(h, report);
        match routing.nodes.binary_search_by_key(&new.node, |n| n.node) {
            Ok(i) => routing.nodes[i] = new,
            Err(i) => routing.nodes.insert(i, new),
        }
    }
    for n in &mut routing.nodes {
        if live.is_dead(n.node, now) {
            n.status = NodeStatus::Dead;
        }
    }
    move_targets(routing);
    for c in &mut routing.chains {
        let Some(old) = live.known(c, now) else { continue };
        let new = chain_table::next(&old);
        let same = new.iter().enumerate().all(|(i, (from, s))| i == *from && old[i].0 == *s);
        if !same {
            let moved =
                |(i, state): (usize, TargetState)| ChainTarget { state, ..c.targets[i].clone() };
            c.targets = new.into_iter().map(moved).collect();
            c.version.0 += 1;
        }
    }
    derive(routing);
}

/// A target whose disk was moved is where it is reported now.
fn move_targets(r: &mut Routing) {
    let mut found: BTreeMap<TargetId, NodeId> = BTreeMap::new();
    let mut here: BTreeSet<(NodeId, TargetId)> = BTreeSet::new();
    for n in r.nodes.iter().filter(|n| n.status == NodeStatus::Alive) {
        for (t, _) in &n.targets {
            found.insert(*t, n.node);
            here.insert((n.node, *t));
        }
    }
    for t in r.chains.iter_mut().flat_map(|c| &mut c.targets) {
        if !here.contains(&(t.node, t.target))
            && let Some(node) = found.get(&t.target)
        {
            t.node = *node;
        }
    }
}

/// Nodes that must not be given a lease until the change from `old` to `new` is stored: what they
/// know of themselves is about to end.
pub(super) fn condemned(old: &Routing, new: &Routing) -> BTreeSet<NodeId> {
    let dies = |n: &&NodeInfo| {
        n.status == NodeStatus::Dead
            && old.node(n.node).is_some_and(|o| o.status == NodeStatus::Alive)
    };
    let mut out: BTreeSet<NodeId> = new.nodes.iter().filter(dies).map(|n| n.node).collect();
    for c in &new.chains {
        let Some(before) = old.chain(c.id).filter(|o| o.version != c.version) else { continue };
        let serves = |c: &Chain, t: TargetId| {
            c.targets.iter().any(|x| x.target == t && x.state == TargetState::Serving)
        };
        for t in &before.targets {
            if serves(before, t.target) && !serves(c, t.target) {
                out.insert(t.node);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
