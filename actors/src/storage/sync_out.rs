//! What a target remembers of the session in which it brings its successor up to date
//! (`resync.rs`).

use std::collections::BTreeSet;

use t3fs_runtime::RawAddr;

use crate::proto::ids::ChainVersion;

/// A session with a syncing successor.
pub(super) struct SyncOut {
    pub(super) to: RawAddr,
    pub(super) chain_version: ChainVersion,
    pub(super) session: u64,
    pub(super) number: u64,
    /// Messages without an answer.
    pub(super) open: BTreeSet<u64>,
}

impl SyncOut {
    pub(super) fn is_for(&self, peer: Option<(RawAddr, ChainVersion)>) -> bool {
        peer == Some((self.to, self.chain_version))
    }

    pub(super) fn next(&mut self) -> (u64, u64) {
        self.number += 1;
        self.open.insert(self.number);
        (self.number, *self.open.first().expect("just put in"))
    }
}
