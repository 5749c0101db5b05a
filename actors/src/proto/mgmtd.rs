//! What mgmtd is asked, and the routing it hands out.

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::{NodeId, RawAddr, no_bulk, protocol};

use super::ids::{ChainId, ChainVersion, RoutingVersion, SessionId, TargetId};
use crate::mgmtd::Mgmtd;

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

/// Everything a node needs to find the others.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct Routing {
    pub version: RoutingVersion,
    pub cluster: String,
    /// Sorted by id.
    pub chains: Vec<Chain>,
    pub tables: Vec<ChainTable>,
    pub metas: Vec<RawAddr>,
    /// Clients whose lease runs, sorted. A session that is not here and not newer than
    /// `session_max` is dead: what replicas remember of it may go.
    pub sessions: Vec<SessionId>,
    pub session_max: SessionId,
}

impl Routing {
    pub fn chain(&self, id: ChainId) -> Option<&Chain> {
        self.chains.binary_search_by_key(&id, |c| c.id).ok().map(|i| &self.chains[i])
    }

    pub fn table(&self, id: u32, version: u32) -> Option<&ChainTable> {
        self.tables.iter().find(|t| t.id == id && t.version == version)
    }

    pub fn session_alive(&self, s: SessionId) -> bool {
        s > self.session_max || self.sessions.binary_search(&s).is_ok()
    }
}

/// A target as its node reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct TargetReport {
    pub target: TargetId,
    pub addr: RawAddr,
}

/// A node is up, with these actors. Repeated at every start.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Register {
    pub node: NodeId,
    pub metas: Vec<RawAddr>,
    pub targets: Vec<TargetReport>,
}

/// The routing, if it is newer than what the caller has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GetRouting {
    pub have: RoutingVersion,
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

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum MgmtdError {
    /// The store below could not be reached in time; ask again.
    Unavailable(String),
    /// The request contradicts what is recorded; the text says which.
    Refused(String),
}

impl std::fmt::Display for MgmtdError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MgmtdError::Unavailable(why) => write!(f, "mgmtd cannot reach its store: {why}"),
            MgmtdError::Refused(why) => write!(f, "mgmtd refused: {why}"),
        }
    }
}

no_bulk!(
    Register,
    GetRouting,
    CreateChains,
    OpenSession,
    CloseSession,
    ExtendSession,
    Routing,
    RoutingVersion,
    SessionId
);

protocol! { Mgmtd as MgmtdMsg = 0x0100 {
    1 v 1 Register -> Result<RoutingVersion, MgmtdError>, Control, 5_000 ms;
    2 v 1 GetRouting -> Option<Routing>, Control, 2_000 ms;
    3 v 1 CreateChains -> Result<RoutingVersion, MgmtdError>, Control, 5_000 ms;
    4 v 1 OpenSession -> Result<SessionId, MgmtdError>, Control, 5_000 ms;
    5 v 1 CloseSession -> Result<(), MgmtdError>, Control, 5_000 ms;
    6 v 1 ExtendSession -> Result<bool, MgmtdError>, Control, 5_000 ms;
} }
