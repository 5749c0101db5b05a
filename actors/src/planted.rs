//! Mistakes that tests plant to see that the simulator finds them.
//!
//! One list for all actors. A configuration carries at most one; outside of tests it is `None`, and
//! a planted mistake costs one branch on that.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlantedBug {
    /// Meta: an append is given the end of the file and does not move it.
    AppendAtKnownEnd,
    /// Client: an append goes where the client believes the end to be, although there are others.
    AppendAtOwnEnd,
    /// Client: once the first chunk of an append is stored, the rest is sent like any other write.
    AppendGuardEnds,
    /// Client: an append that is stored waits for those before it, and nobody may read meanwhile.
    AppendWaitsInside,
    /// Kv: a barrier is answered without waiting for the sync.
    BarrierAnswersAtOnce,
    /// Kv: a barrier never says that what it stands for was lost.
    BarrierForgetsVersion,
    /// Host: a target of which there is no data always begins empty.
    BornEmpty,
    /// Client: a close does not tell meta the length.
    CloseKeepsLength,
    /// Storage: the head commits before its successor has answered.
    CommitBeforeSuccessor,
    /// Storage: of the updates that a crash left pending only the first sixteen are driven on.
    DriveOnlySixteen,
    /// Client: a flight that failed sets no error.
    FailedFlightIsSilent,
    /// Engine: a chunk with too many writers forgets one of them instead of refusing a new one.
    FullWritersTableEvicts,
    /// Mgmtd: a challenger counts the time in which it could not read the record.
    GapCounts,
    /// Mgmtd: a node gets a lease while its end is being stored.
    GrantToCondemned,
    /// Meta: the collector removes files that living sessions hold.
    HoldsIgnored,
    /// Host: a target whose disk is not there counts as one without data.
    MissingDiskForgotten,
    /// Host: the data of a target is removed although its chain may need it.
    NeededIsRemoved,
    /// Mgmtd: state is written without looking at the lease.
    NoFence,
    /// Storage: leases are not looked at.
    NoLeaseCheck,
    /// Client: the kernel may remember names for a while, although other processes use the file
    /// system.
    NamesKeptThoughShared,
    /// Host: what mgmtd says of an old copy of a target is not looked at.
    OldCopyBegins,
    /// Client and meta: a file is opened without the hold that was asked for.
    OpenWithoutHold,
    /// Mgmtd: a challenger takes over although it has promised not to.
    PromiseForgotten,
    /// Engine: bytes from disk are not compared with their checksums.
    ReadSkipsGranuleCheck,
    /// Storage: a removal that reached its limit says that nothing is left.
    RemoveChunksSaysNothingLeft,
    /// Host: a target begins although its chain has another host's in its place.
    ReplacedBegins,
    /// Meta: a report that a cut has made stale is dropped and answered as if it had been taken.
    ReportIgnoresTruncations,
    /// Storage: a chunk that is brought to a successor forgets its writers.
    ResyncDropsRecents,
    /// Storage: a resync takes the first page of its list for the whole.
    ResyncStopsAfterOnePage,
    /// Client: dirty bytes of one chain may take all the room that there is.
    RoomWithoutReserve,
    /// Mgmtd: a change of state is given up when the store does not answer at once.
    SaveGivesUp,
    /// Meta: the length is set whatever the content was when the caller looked.
    SeenContentIgnored,
    /// Storage: a syncing target says that it is up to date when the resync begins.
    ServeBeforeSync,
    /// Client: a report that a cut made stale counts as taken.
    StaleReportIsTaken,
    /// Host: a target that a human has stopped begins again.
    StoppedBegins,
    /// Storage: a successor that has no space is taken for done.
    SuccessorNoSpaceIsDone,
    /// Host: a target is looked for only on the disk that it was on.
    SwappedDiskForgotten,
    /// Client: a wait for bytes on their way to storage does not end with its deadline.
    WaitIgnoresDeadline,
    /// Storage: chunks that are sent whole are cut at 64 KiB.
    WholeSendsCut,
}
