//! What mgmtd is asked, and the view of the cluster it hands out.

use std::sync::Arc;

use rkyv::with::Unshare;
use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::{NodeId, RawAddr, no_bulk, protocol};

use super::ids::{ChainId, ChainVersion, SessionId, TargetId, ViewVersion};

/// A target's part in its chain, as everyone but the target's own node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum TargetState {
    /// Reads and writes.
    Serving,
    /// Takes writes at the tail, serves no reads yet.
    Syncing,
    /// Its node is back; it waits for its turn to sync.
    Waiting,
    /// Served last before the chain went silent: the chain waits for it.
    LastServing,
    Offline,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ChainTarget {
    pub target: TargetId,
    pub node: NodeId,
    /// `None` until its node has registered.
    pub addr: Option<RawAddr>,
    pub state: TargetState,
    /// Its node has had it once: with its data gone it is not a new one.
    pub made: bool,
}

/// A replica set: head first.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Chain {
    pub id: ChainId,
    pub version: ChainVersion,
    pub targets: Vec<ChainTarget>,
}

impl Chain {
    /// The targets that take writes, in chain order.
    pub fn writers(&self) -> impl Iterator<Item = &ChainTarget> {
        self.targets
            .iter()
            .filter(|t| matches!(t.state, TargetState::Serving | TargetState::Syncing))
    }
}

/// An ordered list of chains that file layouts index into. A version never changes.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ChainTable {
    pub id: u32,
    pub version: u32,
    pub chains: Vec<ChainId>,
}

/// What a process does in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Archive, Serialize, Deserialize)]
pub enum Role {
    Mgmtd,
    Kv,
    Meta,
    Storage,
}

/// Whether mgmtd hears of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum NodeStatus {
    Alive,
    /// Not heard of for a whole node lease: it has stopped serving by itself before.
    Dead,
}

/// A server as everyone knows it.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct NodeInfo {
    pub node: NodeId,
    /// Which run of its process this is: higher than any earlier one.
    pub incarnation: u32,
    /// [`NodeReport::identity`].
    pub identity: String,
    pub status: NodeStatus,
    /// Sorted.
    pub roles: Vec<Role>,
    /// Where its links are accepted, as configured: mgmtd does not look into them.
    pub addresses: Vec<String>,
    pub tags: Vec<(String, String)>,
    /// Meta actors of this run.
    pub metas: Vec<RawAddr>,
    /// Storage actors of this run.
    pub targets: Vec<(TargetId, RawAddr)>,
}

/// Where everything is: all that a node needs to find the others.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct Routing {
    pub cluster: String,
    /// Sorted by id.
    pub nodes: Vec<NodeInfo>,
    /// Sorted by id.
    pub chains: Vec<Chain>,
    pub tables: Vec<ChainTable>,
    /// Of nodes that are alive, sorted.
    pub metas: Vec<RawAddr>,
}

impl Routing {
    pub fn chain(&self, id: ChainId) -> Option<&Chain> {
        self.chains.binary_search_by_key(&id, |c| c.id).ok().map(|i| &self.chains[i])
    }

    pub fn node(&self, id: NodeId) -> Option<&NodeInfo> {
        self.nodes.binary_search_by_key(&id, |n| n.node).ok().map(|i| &self.nodes[i])
    }

    pub fn table(&self, id: u32, version: u32) -> Option<&ChainTable> {
        self.tables.iter().find(|t| t.id == id && t.version == version)
    }
}

/// Clients whose lease runs. A session that is not among them and not newer than `max` is dead:
/// what replicas remember of it may go.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct Sessions {
    /// Sorted.
    pub alive: Vec<SessionId>,
    /// The largest number that was given to one.
    pub max: SessionId,
}

impl Sessions {
    pub fn is_alive(&self, s: SessionId) -> bool {
        s > self.max || self.alive.binary_search(&s).is_ok()
    }

    /// Whether a session may have ended between this and `now`. Numbers are given in order, so one
    /// that came and went between them shows as a gap.
    pub fn ended_until(&self, now: &Sessions) -> bool {
        let new = now.alive.iter().filter(|session| **session > self.max).count();
        let given = now.max.0.saturating_sub(self.max.0);
        self.alive.iter().any(|session| !now.is_alive(*session)) || given > new as u64
    }

    /// Takes what has changed; twice is as good as once.
    fn apply(&mut self, change: SessionsChange) {
        for s in change.opened {
            if let Err(i) = self.alive.binary_search(&s) {
                self.alive.insert(i, s);
            }
        }
        self.alive.retain(|s| change.ended.binary_search(s).is_err());
        self.max = change.max;
    }
}

/// What is known of the cluster. Its parts are never changed, but replaced: all actors of a process
/// share them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct ClusterView {
    /// Of the cluster's state: every change of either part makes the next.
    pub version: ViewVersion,
    #[rkyv(with = Unshare)]
    pub routing: Arc<Routing>,
    #[rkyv(with = Unshare)]
    pub sessions: Arc<Sessions>,
}

/// What changed between two views: whole parts, so that applying it twice is harmless.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ViewDelta {
    /// Applies to this version and all up to `version`.
    pub from: ViewVersion,
    pub version: ViewVersion,
    pub routing: Option<RoutingChange>,
    pub sessions: Option<SessionsChange>,
}

/// The parts of the routing that have changed.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct RoutingChange {
    pub nodes: Vec<NodeInfo>,
    pub chains: Vec<Chain>,
    pub tables: Vec<ChainTable>,
    /// All of them, if they changed.
    pub metas: Option<Vec<RawAddr>>,
}

/// Sessions that have begun and ended; one that did both has ended.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SessionsChange {
    pub opened: Vec<SessionId>,
    /// Sorted.
    pub ended: Vec<SessionId>,
    pub max: SessionId,
}

/// A newer view, as little of it as the sender can tell.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum ViewUpdate {
    Delta(ViewDelta),
    Full(ClusterView),
}

impl ViewUpdate {
    /// Which version it leads to.
    pub fn version(&self) -> ViewVersion {
        match self {
            ViewUpdate::Delta(d) => d.version,
            ViewUpdate::Full(v) => v.version,
        }
    }
}

impl Routing {
    fn apply(&mut self, change: RoutingChange) {
        for n in change.nodes {
            match self.nodes.binary_search_by_key(&n.node, |x| x.node) {
                Ok(i) => self.nodes[i] = n,
                Err(i) => self.nodes.insert(i, n),
            }
        }
        for c in change.chains {
            match self.chains.binary_search_by_key(&c.id, |x| x.id) {
                Ok(i) => self.chains[i] = c,
                Err(i) => self.chains.insert(i, c),
            }
        }
        for t in change.tables {
            self.tables.retain(|x| (x.id, x.version) != (t.id, t.version));
            self.tables.push(t);
        }
        self.tables.sort_by_key(|t| (t.id, t.version));
        if let Some(metas) = change.metas {
            self.metas = metas;
        }
    }
}

impl ClusterView {
    /// Takes what is newer. `false`: it is not, or parts between are missing.
    pub fn apply(&mut self, update: ViewUpdate) -> bool {
        let d = match update {
            ViewUpdate::Full(v) if v.version > self.version => {
                *self = v;
                return true;
            }
            ViewUpdate::Delta(d) if d.from <= self.version && d.version > self.version => d,
            _ => return false,
        };
        self.version = d.version;
        if let Some(change) = d.routing {
            Arc::make_mut(&mut self.routing).apply(change);
        }
        if let Some(change) = d.sessions {
            Arc::make_mut(&mut self.sessions).apply(change);
        }
        true
    }
}

/// A target's state as its own node sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Archive, Serialize, Deserialize)]
pub enum LocalState {
    /// It has all that its chain has acknowledged.
    UpToDate,
    /// It answers, and may lack something.
    Online,
    /// It does not serve, and has stopped before this was said. It serves again only in a later
    /// version of its chain: until it sees one, the lease it has is void.
    Offline,
}

/// A target as its node reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct TargetReport {
    pub target: TargetId,
    pub addr: RawAddr,
    pub local: LocalState,
    /// The chain as the target knew it when it came to `local`. `UpToDate` counts only with the
    /// version that the chain has: after a change the target says it again, if it still is.
    pub chain_version: ChainVersion,
    pub used_bytes: u64,
}

impl TargetReport {
    /// A target that has just come up.
    pub fn online(target: TargetId, addr: RawAddr) -> TargetReport {
        let chain_version = ChainVersion(0);
        TargetReport { target, addr, local: LocalState::Online, chain_version, used_bytes: 0 }
    }
}

/// Space of one target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct TargetSpace {
    /// Of the disk below, shared with its other targets.
    pub disk_capacity: u64,
    pub disk_free: u64,
    /// In this target's data files but free for new chunks.
    pub reusable: u64,
    /// Held by chunks.
    pub used: u64,
    pub chunks: u64,
    pub disk: u16,
    /// The file system of that disk, among those of the target's node: `disk_capacity` and
    /// `disk_free` are to be counted once for each. 0 is unknown.
    pub file_system: u64,
}

/// How full a target and the disk below it are, as its node last heard from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct TargetFill {
    pub target: TargetId,
    pub space: TargetSpace,
}

/// The targets of one node that have said how full they are.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct NodeSpaces {
    pub node: NodeId,
    pub targets: Vec<TargetFill>,
}

/// How full the nodes that live are. An agent answers from what it has, if that is younger than a
/// second or the primary does not answer within one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GetSpaces;

/// What runs in a server.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Actors {
    pub metas: Vec<RawAddr>,
    pub targets: Vec<TargetReport>,
}

/// A server of itself.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct NodeReport {
    /// Of its state folder, drawn when that was made: two servers with one number are told apart by
    /// it. Empty where there is none.
    pub identity: String,
    pub roles: Vec<Role>,
    pub addresses: Vec<String>,
    pub tags: Vec<(String, String)>,
    /// The mgmtd of this process, where the primary asks it.
    pub mgmtd: Option<RawAddr>,
    /// Of targets whose disks answer; changes of it change no routing.
    pub spaces: Vec<TargetFill>,
    /// `None` while it is starting. From then on complete: what is missing does not run.
    pub actors: Option<Actors>,
}

/// An agent lives; it registers its node, extends its sessions, and asks for newer routing.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Heartbeat {
    pub cluster: String,
    /// Of the primary it is meant for, as the agent knows it; 0 for none. Another primary takes
    /// nothing from it: it may be old.
    pub term: u64,
    /// The sender: node and incarnation are its process's.
    pub agent: RawAddr,
    /// Grows with every heartbeat of an incarnation.
    pub number: u64,
    pub have: ViewVersion,
    /// `None` from a process of clients.
    pub node: Option<NodeReport>,
    pub sessions: Vec<SessionId>,
}

/// The sender has a lease from before it sent the heartbeat.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct HeartbeatReply {
    pub term: u64,
    /// How long the lease is; the sender may take less of it.
    pub lease_us: u64,
    /// `None`: there is nothing newer.
    pub news: Option<ViewUpdate>,
    /// Those of the sender's sessions that have ended.
    pub ended: Vec<SessionId>,
}

/// The view of the cluster, if it is newer than what the caller has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct FetchView {
    pub have: ViewVersion,
}

/// Every server with what it last reported; for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ListNodes;

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct NodeLine {
    pub info: NodeInfo,
    /// Since its last heartbeat, or since this primary took over.
    pub silent_us: u64,
    pub targets: Vec<TargetReport>,
}

/// One opening of a target: drawn, and kept beside its data, before the target says anything to
/// anybody. The number grows, the nonce tells openings of two copies apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct Opening {
    pub number: u64,
    pub nonce: u64,
}

/// A target has been opened, and is to begin.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct TargetClaim {
    pub target: TargetId,
    pub opening: Opening,
    /// The latest opening before it in which the target began; number 0 for none.
    pub confirmed: Opening,
    /// Openings after that one of which mgmtd may have heard: no answer has come.
    pub tried: Vec<Opening>,
}

/// Are the disks of these targets the latest? mgmtd stores the latest opening of every target that
/// a chain names. Asking twice is as good as once.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ClaimTargets {
    pub claims: Vec<TargetClaim>,
}

/// What mgmtd says to an opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Claimed {
    /// It is the latest, and stored as that.
    Latest,
    /// The latest is another, which the data does not know: it is an old copy. Number 0: the data
    /// has begun before, and the target never has as far as mgmtd's store knows, so the data is of
    /// another store.
    OldCopy { latest: Opening },
}

/// Makes chains over targets and appends them to chain table 1.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct CreateChains {
    /// Targets of each new chain, head first.
    pub chains: Vec<(ChainId, Vec<(TargetId, NodeId)>)>,
}

/// A client begins.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct OpenSession {
    /// For people: host name and purpose.
    pub label: String,
    /// The client's own random number, the same over retries.
    pub nonce: u64,
}

/// The same as the agent of its process passes it on.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct OpenSessionFor {
    /// The agent: node and incarnation are its process's. When a later run of a server is heard of,
    /// sessions of its earlier runs end.
    pub agent: RawAddr,
    pub open: OpenSession,
}

/// A client is done; what replicas keep for its retries may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct CloseSession {
    pub session: SessionId,
}

/// A client lives. `false`: its session has ended, open a new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ExtendSession {
    pub session: SessionId,
}

/// From the primary, which cannot renew its lease, to another mgmtd: not to take over before so
/// long after this comes. The answer says whether it is promised.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Refrain {
    pub holder: NodeId,
    pub incarnation: u32,
    pub term: u64,
    pub for_us: u64,
    /// The primary cannot read the store either. A mgmtd that can refuses.
    pub blind: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum MgmtdError {
    /// Ask another one: this one perhaps.
    NotPrimary { hint: Option<NodeId> },
    /// The heartbeat was meant for another primary than the present one, which has this term.
    OtherTerm { term: u64 },
    /// No primary, or its store, could be reached in time; ask again.
    Unavailable(String),
    /// The request contradicts what is recorded; the text says which.
    Refused(String),
}

impl std::fmt::Display for MgmtdError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MgmtdError::NotPrimary { hint: None } => f.write_str("this mgmtd is not the primary"),
            MgmtdError::NotPrimary { hint: Some(n) } => {
                write!(f, "this mgmtd is not the primary, node {} may be", n.0)
            }
            MgmtdError::OtherTerm { term } => write!(f, "the primary of term {term} leads"),
            MgmtdError::Unavailable(why) => write!(f, "mgmtd cannot answer: {why}"),
            MgmtdError::Refused(why) => write!(f, "mgmtd refused: {why}"),
        }
    }
}

no_bulk!(
    Heartbeat,
    HeartbeatReply,
    FetchView,
    ViewUpdate,
    ListNodes,
    NodeLine,
    CreateChains,
    OpenSession,
    OpenSessionFor,
    CloseSession,
    ExtendSession,
    Refrain,
    TargetFill,
    NodeSpaces,
    GetSpaces,
    ClusterView,
    ViewVersion,
    SessionId,
    ClaimTargets,
    Claimed
);

protocol! { Mgmtd as MgmtdMsg, MgmtdReply = 0x0100 {
    1 v 5 Heartbeat -> Result<HeartbeatReply, MgmtdError>, Control, 2_000 ms;
    2 v 3 FetchView -> Result<Option<ViewUpdate>, MgmtdError>, Control, 2_000 ms;
    3 v 2 CreateChains -> Result<ViewVersion, MgmtdError>, Control, 5_000 ms;
    4 v 3 OpenSessionFor -> Result<SessionId, MgmtdError>, Control, 5_000 ms;
    5 v 2 CloseSession -> Result<(), MgmtdError>, Control, 5_000 ms;
    7 v 1 ListNodes -> Result<Vec<NodeLine>, MgmtdError>, Control, 2_000 ms;
    8 v 1 Refrain -> bool, Control, 1_000 ms;
    9 v 1 GetSpaces -> Result<Vec<NodeSpaces>, MgmtdError>, Control, 2_000 ms;
    16 v 1 ClaimTargets -> Result<Vec<Claimed>, MgmtdError>, Control, 5_000 ms;
} }

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no end of a session passes unnoticed, and none is seen where there is none.
    #[test]
    fn an_end_shows_between_two_looks() {
        let sessions = |alive: &[u64], max| Sessions {
            alive: alive.iter().map(|s| SessionId(*s)).collect(),
            max: SessionId(max),
        };
        let before = sessions(&[1, 2], 2);
        assert!(!before.ended_until(&sessions(&[1, 2], 2)));
        assert!(!before.ended_until(&sessions(&[1, 2, 3, 4], 4)));
        assert!(before.ended_until(&sessions(&[1], 2)));
        assert!(before.ended_until(&sessions(&[1, 2, 4], 4)), "3 came and went");
    }
}
