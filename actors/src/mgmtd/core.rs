//! What mgmtd knows and decides, without awaiting.

use core::time::Duration;
use std::collections::BTreeMap;

use t3fs_runtime::{RawAddr, Time};

use super::store::{SessionV1, Stored, StoredChain};
use crate::proto::ids::{ChainId, ChainVersion, RoutingVersion, SessionId, TargetId};
use crate::proto::mgmtd::*;

#[derive(Clone)]
pub(super) struct Core {
    routing: Routing,
    sessions: BTreeMap<SessionId, (SessionV1, Time)>,
}

impl Core {
    pub(super) fn new(cluster: &str) -> Core {
        let routing = Routing {
            version: RoutingVersion(1),
            cluster: cluster.into(),
            tables: vec![ChainTable { id: 1, version: 1, chains: Vec::new() }],
            ..Routing::default()
        };
        Core { routing, sessions: BTreeMap::new() }
    }

    /// What was stored, with every address unknown and every session given its full life again.
    pub(super) fn restore(s: Stored, now: Time) -> Core {
        let chains = s.chains.iter().map(|(id, c)| Chain {
            id: *id,
            version: c.version,
            targets: c
                .targets
                .iter()
                .map(|(target, node, state)| ChainTarget {
                    target: *target,
                    node: *node,
                    addr: None,
                    state: *state,
                })
                .collect(),
        });
        let mut core = Core {
            routing: Routing {
                version: RoutingVersion(s.version.0 + 1),
                cluster: s.cluster,
                chains: chains.collect(),
                tables: s.tables,
                session_max: s.session_max,
                ..Routing::default()
            },
            sessions: s.sessions.into_iter().map(|(id, v)| (id, (v, now))).collect(),
        };
        core.list_sessions();
        core
    }

    /// What has to survive of this.
    pub(super) fn stored(&self) -> Stored {
        let r = &self.routing;
        let chains = r.chains.iter().map(|c| {
            let targets = c.targets.iter().map(|t| (t.target, t.node, t.state)).collect();
            (c.id, StoredChain { version: c.version, targets })
        });
        Stored {
            cluster: r.cluster.clone(),
            version: r.version,
            session_max: r.session_max,
            chains: chains.collect(),
            tables: r.tables.clone(),
            sessions: self.sessions.iter().map(|(id, (s, _))| (*id, s.clone())).collect(),
        }
    }

    pub(super) fn invariants(&self) {
        assert!(self.routing.chains.is_sorted_by_key(|c| c.id));
        assert_eq!(self.routing.sessions.len(), self.sessions.len());
    }

    pub(super) fn routing(&self) -> &Routing {
        &self.routing
    }

    fn changed(&mut self) -> RoutingVersion {
        self.routing.version.0 += 1;
        self.routing.version
    }

    fn list_sessions(&mut self) {
        self.routing.sessions = self.sessions.keys().copied().collect();
    }

    /// A node is up. Its addresses replace those of its earlier incarnation.
    pub(super) fn register(&mut self, m: &Register) -> RoutingVersion {
        let of = |t: TargetId| m.targets.iter().find(|r| r.target == t).map(|r| r.addr);
        let mut new = false;
        for t in self.routing.chains.iter_mut().flat_map(|c| &mut c.targets) {
            if t.node == m.node || of(t.target).is_some() {
                let addr = of(t.target);
                new |= t.addr != addr || t.node != m.node;
                t.addr = addr;
                t.node = m.node;
            }
        }
        for c in &mut self.routing.chains {
            new |= drop_absent(c, m);
        }
        let others = self.routing.metas.iter().filter(|a| a.node != m.node);
        let mut metas: Vec<RawAddr> = others.chain(&m.metas).copied().collect();
        metas.sort();
        new |= metas != self.routing.metas;
        self.routing.metas = metas;
        if new { self.changed() } else { self.routing.version }
    }

    /// Makes chains; the same chain again is no change, a different one under its id is refused.
    pub(super) fn create_chains(&mut self, m: &CreateChains) -> Result<RoutingVersion, String> {
        let mut new = Vec::new();
        for (id, targets) in &m.chains {
            if targets.is_empty() {
                return Err(format!("chain {id} has no targets"));
            }
            if let Some(c) = self.routing.chain(*id) {
                let same = c.targets.iter().map(|t| t.target).eq(targets.iter().map(|t| t.0));
                if !same {
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
            return Ok(self.routing.version);
        }
        let mut table = self.routing.tables.last().expect("table 1 exists from the start").clone();
        for (id, targets) in new {
            let targets = targets.into_iter().map(|(target, node)| ChainTarget {
                target,
                node,
                addr: None,
                state: TargetState::Serving,
            });
            let chain = Chain { id, version: ChainVersion(1), targets: targets.collect() };
            self.routing.chains.push(chain);
            table.chains.push(id);
        }
        self.routing.chains.sort_by_key(|c| c.id);
        // A table version never changes once it is told, so growth is a new version.
        if self.routing.tables.last().is_some_and(|t| t.chains.is_empty()) {
            self.routing.tables.pop();
        } else {
            table.version += 1;
        }
        self.routing.tables.push(table);
        Ok(self.changed())
    }

    fn holder(&self, t: TargetId) -> Option<ChainId> {
        let holds = |c: &&Chain| c.targets.iter().any(|x| x.target == t);
        self.routing.chains.iter().find(holds).map(|c| c.id)
    }

    /// A retry with the same nonce gets the same session.
    pub(super) fn open_session(&mut self, m: &OpenSession, now: Time) -> SessionId {
        let same = |s: &SessionV1| s.nonce == m.nonce && s.label == m.label;
        if let Some((id, _)) = self.sessions.iter().find(|(_, (s, _))| same(s)) {
            return *id;
        }
        let id = SessionId(self.routing.session_max.0 + 1);
        self.routing.session_max = id;
        self.sessions.insert(id, (SessionV1 { label: m.label.clone(), nonce: m.nonce }, now));
        self.list_sessions();
        self.changed();
        id
    }

    pub(super) fn close_session(&mut self, id: SessionId) -> Result<(), String> {
        if self.sessions.remove(&id).is_some() {
            self.list_sessions();
            self.changed();
        }
        Ok(())
    }

    pub(super) fn extend(&mut self, id: SessionId, now: Time) -> bool {
        match self.sessions.get_mut(&id) {
            Some((_, heard)) => {
                *heard = now;
                true
            }
            None => false,
        }
    }

    /// Sessions not heard of for `life`.
    pub(super) fn overdue(&self, now: Time, life: Duration) -> Vec<SessionId> {
        let late = |heard: &Time| now.since(*heard) > life;
        self.sessions.iter().filter(|(_, (_, h))| late(h)).map(|(id, _)| *id).collect()
    }
}

/// Takes targets out of a chain that their node came up without (a missing disk), as long as one
/// that serves is left. They go behind the others: whoever comes back is behind in content too.
fn drop_absent(c: &mut Chain, m: &Register) -> bool {
    let gone = |t: &ChainTarget| t.node == m.node && t.addr.is_none();
    let serving = |t: &&ChainTarget| t.state == TargetState::Serving;
    let absent = c.targets.iter().filter(serving).filter(|t| gone(t)).count();
    if absent == 0 || !c.targets.iter().filter(serving).any(|t| !gone(t)) {
        return false;
    }
    for t in c.targets.iter_mut().filter(|t| t.state == TargetState::Serving) {
        if gone(t) {
            t.state = TargetState::Offline;
        }
    }
    c.targets.sort_by_key(|t| t.state != TargetState::Serving);
    c.version.0 += 1;
    true
}

#[cfg(test)]
mod tests {
    use t3fs_runtime::NodeId;

    use super::*;

    fn chains(n: u32) -> CreateChains {
        let chain = |i| (ChainId(i), vec![(TargetId(i * 10), NodeId(1))]);
        CreateChains { chains: (1..=n).map(chain).collect() }
    }

    fn raw(slot: u16, epoch: u32) -> RawAddr {
        RawAddr { node: NodeId(1), shard: 0, slot, epoch }
    }

    /// Goal: the same request twice is one change; contradictions are refused.
    #[test]
    fn chains_are_made_once() {
        let mut c = Core::new("t");
        let v = c.create_chains(&chains(2)).unwrap();
        assert_eq!(c.create_chains(&chains(2)), Ok(v));
        assert!(c.create_chains(&chains(3)).unwrap() > v);
        let versions: Vec<_> =
            c.routing.tables.iter().map(|t| (t.version, t.chains.len())).collect();
        assert_eq!(versions, [(1, 2), (2, 3)], "a table version never changes");
        let other = CreateChains { chains: vec![(ChainId(1), vec![(TargetId(99), NodeId(1))])] };
        assert!(c.create_chains(&other).unwrap_err().contains("other targets"));
        let taken = CreateChains { chains: vec![(ChainId(9), vec![(TargetId(10), NodeId(1))])] };
        assert!(c.create_chains(&taken).unwrap_err().contains("in chain 1"));
    }

    /// Goal: a restarted node's new addresses replace the old ones and raise the version once.
    #[test]
    fn registration_replaces_addresses() {
        let mut c = Core::new("t");
        c.create_chains(&chains(1)).unwrap();
        let mut m = Register {
            node: NodeId(1),
            metas: vec![raw(1, 5)],
            targets: vec![TargetReport { target: TargetId(10), addr: raw(2, 5) }],
        };
        let v = c.register(&m);
        assert_eq!(c.register(&m), v);
        m.metas = vec![raw(1, 6)];
        m.targets[0].addr = raw(2, 6);
        assert!(c.register(&m) > v);
        assert_eq!(c.routing.metas, [raw(1, 6)]);
        assert_eq!(c.routing.chains[0].targets[0].addr, Some(raw(2, 6)));
    }

    /// Goal: a chain goes on without the replica of a missing disk, and never without all.
    #[test]
    fn a_missing_replica_is_taken_out() {
        let mut c = Core::new("t");
        let targets = vec![(TargetId(1), NodeId(1)), (TargetId(2), NodeId(1))];
        c.create_chains(&CreateChains { chains: vec![(ChainId(1), targets)] }).unwrap();
        let mut m = Register { node: NodeId(1), metas: vec![], targets: vec![] };
        c.register(&m);
        assert_eq!(c.routing.chains[0].version, ChainVersion(1), "nobody is left to serve");
        m.targets = vec![TargetReport { target: TargetId(2), addr: raw(2, 5) }];
        c.register(&m);
        let chain = &c.routing.chains[0];
        assert_eq!(chain.version, ChainVersion(2));
        let states: Vec<_> = chain.targets.iter().map(|t| (t.target.0, t.state)).collect();
        assert_eq!(states, [(2, TargetState::Serving), (1, TargetState::Offline)]);
    }

    /// Goal: sessions survive a restart with their ids, end when silent, and ids are never reused.
    #[test]
    fn sessions_live_and_end() {
        let mut c = Core::new("t");
        let now = Time::from_us(0);
        let ask = |n| OpenSession { label: "x".into(), nonce: n };
        let a = c.open_session(&ask(1), now);
        assert_eq!(c.open_session(&ask(1), now), a);
        let b = c.open_session(&ask(2), now);
        let mut c = Core::restore(c.stored(), Time::from_us(10));
        assert!(c.routing.session_alive(a) && c.routing.session_alive(b));
        let later = Time::from_us(10) + Duration::from_secs(61);
        assert!(c.extend(b, later));
        assert_eq!(c.overdue(later, Duration::from_secs(60)), [a]);
        c.close_session(a).unwrap();
        assert!(!c.routing.session_alive(a) && !c.extend(a, later));
        assert!(c.open_session(&ask(3), later) > b);
        assert!(c.routing.session_alive(SessionId(99)), "newer than this routing knows");
    }
}
