//! A client session as it is stored (`store.rs`) and as the state has it (`core.rs`).

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::NodeId;

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub(super) struct SessionV2 {
    pub(super) label: String,
    pub(super) nonce: u64,
    /// `None`: it was opened before mgmtd took note of it.
    pub(super) process: Option<ProcessV1>,
}

/// A run of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub(super) struct ProcessV1 {
    pub(super) node: NodeId,
    pub(super) incarnation: u32,
}
