//! Mistakes that checks plant, to see that they would find them. Production plants none.

/// One mistake. What it breaks is named; where, a search for the variant tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlantedBug {
    /// An append is given the end of the file and does not move it.
    AppendAtKnownEnd,
    /// A client takes the end of a file as it knows it for an append, although there are others.
    AppendAtOwnEnd,
    /// A barrier is answered without waiting for the sync.
    BarrierAnswersAtOnce,
    /// A barrier never says that what it stands for was lost.
    BarrierForgetsVersion,
    /// The head commits before its successor has answered.
    CommitBeforeSuccessor,
    /// A flight that failed sets no error.
    FailedFlightIsSilent,
    /// The collector removes files that living sessions hold.
    HoldsIgnored,
    /// Leases are not looked at.
    NoLeaseCheck,
    /// A file is opened without the hold that was asked for.
    OpenWithoutHold,
    /// A report that a cut has made stale is dropped and answered as if it had been taken.
    ReportIgnoresTruncations,
    /// The length is set whatever the content was when the caller looked.
    SeenContentIgnored,
    /// A syncing target says that it is up to date when the resync begins.
    ServeBeforeSync,
    /// An inode that is gone counts as written and synced.
    StaleIsSuccess,
    /// A report that a cut made stale counts as taken.
    StaleReportIsTaken,
}
