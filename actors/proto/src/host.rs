//! What the host of a storage node is asked about its targets: by people, through tools.
//!
//! The host opens by itself what the routing names here, and makes what it may. These messages say
//! what a human wants beside that.

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::{no_bulk, protocol};

use super::ids::{ChainId, TargetId};

/// What a host makes of one of its targets. Texts are sentences for people.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum HostTargetState {
    Runs,
    /// It begins, or begins again, when its chain has settled.
    Waits(String),
    /// A human must look.
    StaysAway(String),
    /// The disk that it is on is not there.
    DiskMissing,
    /// Its chain goes on without it, for good. Its data stays until it is removed.
    Retired(String),
    /// By `StopTarget`, until `MakeTarget`. Its data stays.
    Stopped,
    /// By `RemoveTarget`, until `MakeTarget`. Its data is gone.
    Removed,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct HostTarget {
    pub target: TargetId,
    pub chain: ChainId,
    /// `None`: it has no place yet.
    pub disk: Option<u16>,
    pub state: HostTargetState,
}

/// Every target that this host has, had, or is to have, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ListHostTargets;

/// Where a target is to be made once a chain names it here. A target that was stopped or removed
/// comes back, and one that stayed away is tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct MakeTarget {
    pub target: TargetId,
    pub chain: ChainId,
    /// `None`: where it is, else the disk with the fewest.
    pub disk: Option<u16>,
}

/// Ends a target's service: mgmtd hears first that it is offline. Its data stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct StopTarget {
    pub target: TargetId,
}

/// Removes the data of a target that does not run and that nobody needs: that no chain names here,
/// or whose chain others serve without it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct RemoveTarget {
    pub target: TargetId,
}

/// Why a host does not do what it is asked. Nothing was changed, unless it says so.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum HostError {
    /// The host knows no such target.
    NoSuchTarget,
    /// The target is, or is to be, of another chain.
    OtherChain(ChainId),
    /// The host has no such disk.
    NoSuchDisk(u16),
    /// The target is on this disk: its place cannot be chosen.
    Elsewhere(u16),
    /// The target runs: stop it first.
    Runs,
    /// The chain may need what the target has.
    Needed(ChainId),
    /// It is noted, and will be done; or mgmtd, which has to be asked, does not answer; or the host
    /// has just started, and knows nothing of the cluster yet. Ask again.
    Unavailable(String),
}

impl std::fmt::Display for HostError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HostError::NoSuchTarget => f.write_str("there is no such target here"),
            HostError::OtherChain(chain) => write!(f, "the target is of chain {chain}"),
            HostError::NoSuchDisk(disk) => write!(f, "there is no disk {disk} here"),
            HostError::Elsewhere(disk) => write!(f, "the target is on disk {disk}"),
            HostError::Runs => f.write_str("the target runs; stop it first"),
            HostError::Needed(chain) => write!(f, "chain {chain} may need the target's data"),
            HostError::Unavailable(why) => write!(f, "not done yet: {why}"),
        }
    }
}

no_bulk!(HostTarget, ListHostTargets, MakeTarget, StopTarget, RemoveTarget);

protocol! { StorageHost as StorageHostMsg, StorageHostReply = 0x0700 {
    1 v 1 ListHostTargets -> Vec<HostTarget>, Control, 2_000 ms;
    2 v 1 MakeTarget -> Result<(), HostError>, Control, 10_000 ms;
    3 v 1 StopTarget -> Result<(), HostError>, Control, 10_000 ms;
    4 v 1 RemoveTarget -> Result<(), HostError>, Control, 10_000 ms;
} }
