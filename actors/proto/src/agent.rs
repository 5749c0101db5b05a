//! What the agent of a process is asked: by the actors beside it, and told by mgmtd.
//!
//! Sessions and chains go through it in mgmtd's own messages: it passes them on to the primary, and
//! says of a new session which process it belongs to. `ClaimTargets` is answered `None` if the
//! primary is of an earlier build, which does not know it.

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::{RawAddr, no_bulk, protocol};

use super::ids::{SessionId, ViewVersion};
use super::mgmtd::{
    ClaimTargets, Claimed, CloseSession, ClusterView, CreateChains, ExtendSession, GetSpaces,
    ListNodes, MgmtdError, NodeLine, NodeSpaces, OpenSession, TargetReport, ViewUpdate,
};

/// The view of the cluster, if the agent has a newer one than the caller: answered at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GetView {
    pub have: ViewVersion,
    /// Asks the primary first, and waits for it as long as the request may.
    pub fresh: bool,
}

/// Waits for news: of the cluster, and of which sessions of this process are open. Answered at once
/// if the agent knows more than the caller, else as soon as it does, and with nothing new shortly
/// before the caller stops waiting. A client has one of these open all the time: asks for news have
/// credits of their own, and cost nothing while there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct WatchView {
    pub have: ViewVersion,
    /// [`ViewNews::own_number`] of the latest answer, 0 before the first.
    pub own_number: u64,
}

/// What the agent knows.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ViewNews {
    /// `None`: there is none newer than the caller's.
    pub view: Option<ClusterView>,
    /// Sessions that were opened through this agent and have not ended, sorted; always all of them.
    pub own: Vec<SessionId>,
    /// Grows with every change of `own`, from 0 for the list that is empty because none was opened.
    pub own_number: u64,
}

/// A target of this process runs, or its state has changed. Told again after every change, it is
/// what heartbeats report. The first one makes the agent tell the target of routing and leases.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ReportTarget {
    pub report: TargetReport,
}

/// All actors of this process run: its metas are these, and its targets those that have reported
/// themselves or are in this list. Until then the node is starting, and targets get no lease.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Announce {
    pub metas: Vec<RawAddr>,
    pub targets: Vec<TargetReport>,
}

/// Where mgmtds may be, from now on. One that leads and is not in the list is left.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SetMgmtds {
    pub mgmtds: Vec<RawAddr>,
}

/// From the primary: the cluster has changed. A lost one is made good by the next heartbeat.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ViewChanged {
    pub term: u64,
    pub update: ViewUpdate,
}

no_bulk!(GetView, WatchView, ViewNews, ReportTarget, Announce, SetMgmtds, ViewChanged);

protocol! { Agent as AgentMsg, AgentReply = 0x0600 {
    1 v 2 GetView -> Option<ClusterView>, Control, 5_000 ms;
    2 v 1 ReportTarget -> (), Control, 1_000 ms;
    3 v 1 Announce -> (), Control, 5_000 ms;
    4 v 1 SetMgmtds -> (), Control, 5_000 ms;
    5 v 2 ViewChanged -> (), Control, 1_000 ms;
    6 v 1 CreateChains -> Result<ViewVersion, MgmtdError>, Control, 10_000 ms;
    7 v 1 OpenSession -> Result<SessionId, MgmtdError>, Control, 10_000 ms;
    8 v 1 CloseSession -> Result<(), MgmtdError>, Control, 5_000 ms;
    9 v 1 ExtendSession -> bool, Control, 5_000 ms;
    10 v 1 ListNodes -> Result<Vec<NodeLine>, MgmtdError>, Control, 5_000 ms;
    11 v 2 WatchView -> ViewNews, Control, 20_000 ms, hops |_watch| 1;
    12 v 1 GetSpaces -> Option<Vec<NodeSpaces>>, Control, 5_000 ms;
    16 v 1 ClaimTargets -> Result<Option<Vec<Claimed>>, MgmtdError>, Control, 5_000 ms;
} }
