//! What a target knows of its chain, and what that makes it: head, middle, tail, one that is being
//! brought up to date, or none of these.
//!
//! Sync core: routing and leases come in, decisions go out. Three rules carry the weight.
//! *Fencing*: a request of another chain version is refused, in both directions, so that members of
//! two versions never work together. *Lease*: who has not heard of mgmtd for two thirds of the
//! node lease answers no reads and acknowledges nothing alone, for the chain may go on without it.
//! *Return*: only `Serving` drives updates on and serves; whoever comes back any other way takes
//! nothing but what its predecessor overwrites it with, and is up to date when that one says so,
//! for exactly this chain version.

use crate::proto::storage::Storage;
use t3fs_runtime::{Addr, Bell, RawAddr, Slot, Time};

use crate::proto::ids::{ChainId, ChainVersion, SessionId, TargetId, ViewVersion};
use crate::proto::mgmtd::{Chain, ClusterView, TargetState};
use crate::proto::storage::{StorageError, SyncChunk, UpdateChunk};

/// The replica that comes after this target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NextReplica {
    /// The target is not (or no longer) one that drives updates.
    Out,
    /// Nobody: what is stored here is stored everywhere.
    Tail(ChainVersion),
    To(Successor),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Successor {
    /// `None`: its node has not registered yet.
    pub(super) addr: Option<RawAddr>,
    pub(super) chain_version: ChainVersion,
    /// Targets behind it.
    pub(super) hops: u8,
    pub(super) syncing: bool,
}

/// The leave to serve, as the agent passes it on.
#[derive(Clone, Copy, Debug)]
struct Lease {
    /// Held without a gap from here on.
    since: Time,
    until: Time,
    /// What mgmtd knew when it gave the lease: it is worth nothing to who knows less.
    view: ViewVersion,
}

/// A predecessor brings this target up to date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SyncIn {
    chain_version: ChainVersion,
    session: u64,
    /// Messages numbered below were answered or given up: one that comes late must change nothing.
    floor: u64,
}

pub(super) struct Membership {
    target: TargetId,
    chain_id: ChainId,
    pub(super) view: ClusterView,
    lease: Lease,
    sync_in: Option<SyncIn>,
    /// Everything of the chain is here, as of this chain version.
    synced: Option<ChainVersion>,
    /// Its disk has failed or is too full: it serves no more in this run of the process.
    retired: bool,
    /// For the tasks that wait for the chain to change.
    changed: Bell,
}

impl Membership {
    pub(super) fn new(target: TargetId, chain_id: ChainId) -> Membership {
        let lease = Lease { since: Time::default(), until: Time::default(), view: ViewVersion(0) };
        Membership {
            target,
            chain_id,
            view: ClusterView::default(),
            lease,
            sync_in: None,
            synced: None,
            retired: false,
            changed: Bell::default(),
        }
    }

    /// Adopts a view unless it is older than what we have. Whoever waits for a change of the chain
    /// is woken by one.
    pub(super) fn adopt(&mut self, view: ClusterView) -> bool {
        if view.version <= self.view.version {
            return false;
        }
        let chain = |view: &ClusterView| view.routing.chain(self.chain_id).cloned();
        let changed = chain(&self.view) != chain(&view);
        self.view = view;
        if changed {
            let version = self.chain().map(|c| c.version).ok();
            self.sync_in = self.sync_in.filter(|s| Some(s.chain_version) == version);
            self.synced = self.synced.filter(|v| Some(*v) == version);
            self.changed.ring(());
        }
        true
    }

    /// Fills when the chain changes.
    pub(super) fn change(&mut self) -> Slot<()> {
        self.changed.wait()
    }

    pub(super) fn chain(&self) -> Result<&Chain, StorageError> {
        self.view.routing.chain(self.chain_id).ok_or(StorageError::NotReady)
    }

    fn state(&self) -> Option<TargetState> {
        let chain = self.chain().ok()?;
        chain.targets.iter().find(|t| t.target == self.target).map(|t| t.state)
    }

    pub(super) fn serving(&self) -> bool {
        !self.retired && self.state() == Some(TargetState::Serving)
    }

    pub(super) fn syncing(&self) -> bool {
        !self.retired && self.state() == Some(TargetState::Syncing)
    }

    pub(super) fn chain_id(&self) -> ChainId {
        self.chain_id
    }

    /// Ends this target's service for good. `false`: it had ended.
    pub(super) fn retire(&mut self) -> bool {
        self.changed.ring(());
        !std::mem::replace(&mut self.retired, true)
    }

    pub(super) fn retired(&self) -> bool {
        self.retired
    }

    pub(super) fn is_head(&self) -> bool {
        let head = self.chain().ok().and_then(|c| c.writers().next());
        self.serving() && head.is_some_and(|t| t.target == self.target)
    }

    /// Whether a report may call this target up to date, and for which chain version.
    pub(super) fn up_to_date(&self) -> Option<ChainVersion> {
        match self.state()? {
            TargetState::Serving => self.chain().ok().map(|c| c.version),
            TargetState::Syncing => self.synced,
            _ => None,
        }
    }

    fn check_version(&self, theirs: ChainVersion) -> Result<&Chain, StorageError> {
        let chain = self.chain()?;
        if theirs < chain.version {
            return Err(StorageError::StaleChain { mine: chain.version });
        }
        if theirs > chain.version {
            return Err(StorageError::BehindChain { mine: chain.version });
        }
        Ok(chain)
    }

    /// Whether this update may come here: chain version, and head for clients, else not head.
    pub(super) fn admit(&self, u: &UpdateChunk) -> Result<(), StorageError> {
        self.check_version(u.chain_version)?;
        if !self.serving() || self.is_head() == u.version.is_some() {
            return Err(StorageError::WrongTarget);
        }
        Ok(())
    }

    /// What is remembered of a session's requests goes with the session, so a late retry could not
    /// be told from a new request.
    pub(super) fn admit_session(&self, session: SessionId) -> Result<(), StorageError> {
        let own = session == SessionId(0); // meta's and storage's own, which may come twice
        match own || self.view.sessions.is_alive(session) {
            true => Ok(()),
            false => Err(StorageError::SessionEnded),
        }
    }

    pub(super) fn admit_read(&self, version: ChainVersion) -> Result<(), StorageError> {
        self.check_version(version)?;
        if self.serving() { Ok(()) } else { Err(StorageError::WrongTarget) }
    }

    /// Whether what this target stores is acknowledged by nobody but itself.
    pub(super) fn alone(&self) -> bool {
        self.is_head() && matches!(self.next(), NextReplica::Tail(_))
    }

    /// The next target that takes writes.
    pub(super) fn next(&self) -> NextReplica {
        let Ok(chain) = self.chain() else { return NextReplica::Out };
        if !self.serving() {
            return NextReplica::Out;
        }
        let mut rest = chain.writers().skip_while(|t| t.target != self.target).skip(1);
        match rest.next() {
            None => NextReplica::Tail(chain.version),
            Some(t) => NextReplica::To(Successor {
                addr: t.addr,
                chain_version: chain.version,
                hops: rest.count() as u8,
                syncing: t.state == TargetState::Syncing,
            }),
        }
    }

    /// The successor that this target has to bring up to date, and in which chain version.
    pub(super) fn to_sync(&self) -> Option<(RawAddr, ChainVersion)> {
        match self.next() {
            NextReplica::To(s) if s.syncing => Some((s.addr?, s.chain_version)),
            _ => None,
        }
    }

    /// The last target that serves reads, unless that is this one.
    pub(super) fn tail(&self) -> Option<Addr<Storage>> {
        let chain = self.chain().ok()?;
        let tail = chain.targets.iter().rfind(|t| t.state == TargetState::Serving)?;
        if tail.target == self.target {
            return None;
        }
        tail.addr.map(Addr::from_raw)
    }

    /// mgmtd heard of this node, and told it all up to `view`.
    pub(super) fn grant(&mut self, until: Time, view: ViewVersion, now: Time) {
        if now >= self.lease.until {
            self.lease.since = now;
        }
        self.lease.until = self.lease.until.max(until);
        self.lease.view = self.lease.view.max(view);
    }

    /// Since when the lease is held without a gap; `None` without one.
    pub(super) fn held_since(&self, now: Time) -> Option<Time> {
        let l = &self.lease;
        (now < l.until && self.view.version >= l.view).then_some(l.since)
    }

    /// A predecessor begins to bring this target up to date. A later session ends an earlier one.
    pub(super) fn sync_start(
        &mut self,
        chain_version: ChainVersion,
        session: u64,
    ) -> Result<(), StorageError> {
        self.check_version(chain_version)?;
        if !self.syncing() {
            return Err(StorageError::WrongTarget);
        }
        if self.sync_in.is_some_and(|s| s.session > session) {
            return Err(StorageError::NotReady);
        }
        if self.sync_in.is_none_or(|s| s.session < session) {
            self.sync_in = Some(SyncIn { chain_version, session, floor: 0 });
        }
        Ok(())
    }

    /// Whether this content may overwrite what is here. The caller holds the chunk's lock.
    pub(super) fn admit_sync(&mut self, m: &SyncChunk) -> Result<(), StorageError> {
        self.check_version(m.chain_version)?;
        if !self.syncing() {
            return Err(StorageError::WrongTarget);
        }
        let s = self.sync_in.as_mut().filter(|s| s.session == m.session);
        let s = s.ok_or(StorageError::NotReady)?;
        s.floor = s.floor.max(m.floor);
        if m.number < s.floor { Err(StorageError::Superseded) } else { Ok(()) }
    }

    /// The predecessor has brought all. From here on this target reports that it is up to date.
    pub(super) fn sync_done(
        &mut self,
        chain_version: ChainVersion,
        session: u64,
    ) -> Result<(), StorageError> {
        self.check_version(chain_version)?;
        if self.sync_in.is_none_or(|s| s.session != session) {
            return Err(StorageError::NotReady);
        }
        self.synced = Some(chain_version);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ids::ChunkId;
    use crate::proto::mgmtd::{ChainTarget, Routing};
    use std::sync::Arc;
    use t3fs_runtime::{Bulk, NodeId};

    const ME: TargetId = TargetId(2);

    /// Targets 1, 2, .. in these states; target 2 is the one under test.
    fn view(version: u32, states: &[(u32, TargetState)]) -> ClusterView {
        let target = |(t, state): &(u32, TargetState)| ChainTarget {
            target: TargetId(*t),
            node: NodeId(*t),
            addr: Some(RawAddr { node: NodeId(*t), ..RawAddr::default() }),
            state: *state,
            made: true,
        };
        let targets = states.iter().map(target).collect();
        let chain = Chain { id: ChainId(1), version: ChainVersion(version), targets };
        let routing = Routing { chains: vec![chain], ..Routing::default() };
        ClusterView {
            version: ViewVersion(version.into()),
            routing: Arc::new(routing),
            ..ClusterView::default()
        }
    }

    fn member(version: u32, states: &[(u32, TargetState)]) -> Membership {
        let mut m = Membership::new(ME, ChainId(1));
        assert!(m.adopt(view(version, states)));
        m
    }

    fn message(chain_version: u32, session: u64, number: u64, floor: u64) -> SyncChunk {
        SyncChunk {
            chunk: ChunkId::default(),
            chain_version: ChainVersion(chain_version),
            session,
            number,
            floor,
            content: None,
            data: Bulk::default(),
        }
    }

    use TargetState::{LastServing, Offline, Serving, Syncing, Waiting};

    /// Goal: whoever does not serve never takes itself for the tail, where it would acknowledge
    /// what nobody else has. Method: every state, alone and behind others.
    #[test]
    fn only_who_serves_drives_updates() {
        for state in [Syncing, Waiting, LastServing, Offline] {
            let m = member(3, &[(1, Serving), (2, state)]);
            assert_eq!(m.next(), NextReplica::Out, "{state:?}");
            assert!(!m.is_head() && m.admit_read(ChainVersion(3)).is_err());
            assert_eq!(member(3, &[(2, state)]).next(), NextReplica::Out);
        }
        let m = member(3, &[(2, Serving), (3, Syncing)]);
        assert!(matches!(m.next(), NextReplica::To(s) if s.syncing && s.hops == 0));
        assert_eq!(m.to_sync().map(|p| p.1), Some(ChainVersion(3)));
        assert_eq!(m.tail(), None, "a syncing target is asked for nothing");
        assert_eq!(
            member(3, &[(1, Serving), (2, Serving)]).next(),
            NextReplica::Tail(ChainVersion(3))
        );
        assert_eq!(member(3, &[(1, Serving)]).next(), NextReplica::Out);
    }

    /// Goal: requests of another chain version are refused in both directions, with the reason.
    #[test]
    fn other_chain_versions_are_refused() {
        let m = member(5, &[(1, Serving), (2, Serving)]);
        let mine = ChainVersion(5);
        assert_eq!(m.admit_read(ChainVersion(4)), Err(StorageError::StaleChain { mine }));
        assert_eq!(m.admit_read(ChainVersion(6)), Err(StorageError::BehindChain { mine }));
        assert_eq!(m.admit_read(mine), Ok(()));
    }

    /// Goal: a lease counts from when it was held without a gap, and only for who knows what mgmtd
    /// knew: it may be given to one that has been taken out of its chain meanwhile.
    #[test]
    fn a_lease_has_no_gaps_and_comes_with_the_news() {
        let at = Time::from_us;
        let mut m = member(1, &[(1, Serving), (2, Serving)]);
        assert_eq!(m.held_since(at(5)), None);
        m.grant(at(100), ViewVersion(1), at(10));
        m.grant(at(200), ViewVersion(1), at(90));
        assert_eq!(m.held_since(at(150)), Some(at(10)));
        assert_eq!(m.held_since(at(200)), None);
        m.grant(at(400), ViewVersion(2), at(300));
        assert_eq!(m.held_since(at(310)), None, "routing 2 is not here yet");
        m.adopt(view(2, &[(1, Serving), (2, Serving)]));
        assert_eq!(m.held_since(at(320)), Some(at(300)));
    }

    /// Goal: a message of a resync that the network delivers late changes nothing. Method: numbers
    /// below the floor, an older session, another chain version, before any session.
    #[test]
    fn late_messages_of_a_resync_are_refused() {
        let mut m = member(4, &[(1, Serving), (2, Syncing)]);
        assert_eq!(m.admit_sync(&message(4, 7, 1, 1)), Err(StorageError::NotReady));
        m.sync_start(ChainVersion(4), 7).unwrap();
        assert_eq!(m.admit_sync(&message(4, 7, 1, 1)), Ok(()));
        assert_eq!(m.admit_sync(&message(4, 7, 3, 2)), Ok(()));
        assert_eq!(m.admit_sync(&message(4, 7, 2, 1)), Ok(()), "still under way");
        assert_eq!(m.admit_sync(&message(4, 7, 1, 1)), Err(StorageError::Superseded));
        m.sync_start(ChainVersion(4), 8).unwrap();
        assert_eq!(m.sync_start(ChainVersion(4), 7), Err(StorageError::NotReady));
        assert_eq!(m.admit_sync(&message(4, 7, 9, 9)), Err(StorageError::NotReady));
        assert!(matches!(m.admit_sync(&message(3, 8, 9, 9)), Err(StorageError::StaleChain { .. })));
    }

    /// Goal: up to date means for one chain version: what happened in between is not known.
    #[test]
    fn up_to_date_ends_with_the_chain_version() {
        let mut m = member(4, &[(1, Serving), (2, Syncing)]);
        assert_eq!(m.sync_done(ChainVersion(4), 7), Err(StorageError::NotReady));
        m.sync_start(ChainVersion(4), 7).unwrap();
        assert_eq!(m.up_to_date(), None);
        m.sync_done(ChainVersion(4), 7).unwrap();
        assert_eq!(m.up_to_date(), Some(ChainVersion(4)));
        m.adopt(view(6, &[(1, Serving), (2, Syncing)]));
        assert_eq!(m.up_to_date(), None);
        assert_eq!(m.admit_sync(&message(6, 7, 1, 1)), Err(StorageError::NotReady));
    }

    /// Goal: a failed disk ends it all, and wakes who waits.
    #[test]
    fn a_retired_target_does_nothing_more() {
        let mut m = member(4, &[(2, Serving), (3, Serving)]);
        let woken = m.change();
        assert!(m.retire() && !m.retire());
        assert_eq!(futures::FutureExt::now_or_never(woken), Some(()));
        assert!(!m.serving() && !m.is_head() && m.next() == NextReplica::Out);
    }
}
