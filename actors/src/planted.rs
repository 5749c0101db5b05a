//! Deliberate mistakes, planted by the simulator to see that its checks find them. `None` in every
//! configuration outside of tests.

/// One mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlantedBug {
    /// A client takes the end of a file as it knows it for an append, although there are others.
    AppendAtOwnEnd,
    /// The head commits before its successor has answered.
    CommitBeforeSuccessor,
    /// A flight that failed sets no error.
    FailedFlightIsSilent,
    /// Leases are not looked at.
    NoLeaseCheck,
    /// A client that is not alone opens files without a hold.
    OpenWithoutHold,
    /// A syncing target says that it is up to date when the resync begins.
    ServeBeforeSync,
    /// An inode that is gone counts as written and synced.
    StaleIsSuccess,
    /// A report that a cut made stale counts as taken.
    StaleReportIsTaken,
}
