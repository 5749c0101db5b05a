//! Mistakes that tests plant to see that the simulator finds them.
//!
//! One list for all actors. A configuration carries at most one; outside of tests it is `None`, and
//! a planted mistake costs one branch on that.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlantedBug {
    /// Storage: the head commits before its successor has answered.
    CommitBeforeSuccessor,
    /// Storage: of the updates that a crash left pending only the first sixteen are driven on.
    DriveOnlySixteen,
    /// Engine: a chunk with too many writers forgets one of them instead of refusing a new one.
    FullWritersTableEvicts,
    /// Mgmtd: a node gets a lease while its end is being stored.
    GrantToCondemned,
    /// Mgmtd: state is written without looking at the lease.
    NoFence,
    /// Storage: leases are not looked at.
    NoLeaseCheck,
    /// Engine: bytes from disk are not compared with their checksums.
    ReadSkipsGranuleCheck,
    /// Storage: a removal that reached its limit says that nothing is left.
    RemoveChunksSaysNothingLeft,
    /// Storage: a chunk that is brought to a successor forgets its writers.
    ResyncDropsRecents,
    /// Storage: a resync takes the first page of its list for the whole.
    ResyncStopsAfterOnePage,
    /// Storage: a syncing target says that it is up to date when the resync begins.
    ServeBeforeSync,
    /// Storage: a successor that has no space is taken for done.
    SuccessorNoSpaceIsDone,
    /// Storage: chunks that are sent whole are cut at 64 KiB.
    WholeSendsCut,
}
