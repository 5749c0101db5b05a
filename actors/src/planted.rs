//! Mistakes that tests plant to see that the simulator finds them.
//!
//! One list for all actors. A world has at most one, and what runs in it asks ([`Cx::planted`]);
//! production has none, and a mistake costs one branch on that there.

use t3fs_runtime::Cx;

#[derive(Clone, Copy)]
pub(crate) enum PlantedBug {
    /// Mgmtd and meta: whatever metadata store answers is used.
    AnyStoreIsTaken,
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

impl PlantedBug {
    /// Whether it is planted in the world behind this door.
    pub(crate) fn is_in(self, cx: &Cx) -> bool {
        self.is(cx.planted())
    }

    /// Whether it is the one that is planted, for a core without a door, which keeps what
    /// [`Cx::planted`] said when the core was made.
    pub(crate) fn is(self, planted: Option<&'static str>) -> bool {
        planted.is_some_and(|name| name == self.name())
    }

    /// What `--mutant` of the simulator calls it.
    fn name(self) -> &'static str {
        match self {
            PlantedBug::AnyStoreIsTaken => "any-store-is-taken",
            PlantedBug::AppendAtKnownEnd => "append-at-known-end",
            PlantedBug::AppendAtOwnEnd => "append-at-own-end",
            PlantedBug::AppendGuardEnds => "append-guard-ends",
            PlantedBug::AppendWaitsInside => "append-waits-inside",
            PlantedBug::BarrierAnswersAtOnce => "barrier-at-once",
            PlantedBug::BarrierForgetsVersion => "barrier-forgets",
            PlantedBug::BornEmpty => "born-empty",
            PlantedBug::CloseKeepsLength => "close-keeps-length",
            PlantedBug::CommitBeforeSuccessor => "commit-early",
            PlantedBug::DriveOnlySixteen => "drive-only-sixteen",
            PlantedBug::FailedFlightIsSilent => "failed-flight-silent",
            PlantedBug::FullWritersTableEvicts => "full-writers-table-evicts",
            PlantedBug::GapCounts => "gap-counts",
            PlantedBug::GrantToCondemned => "grant-to-condemned",
            PlantedBug::HoldsIgnored => "holds-ignored",
            PlantedBug::MissingDiskForgotten => "missing-disk-forgotten",
            PlantedBug::NeededIsRemoved => "needed-is-removed",
            PlantedBug::NoFence => "no-fence",
            PlantedBug::NoLeaseCheck => "no-lease-check",
            PlantedBug::NamesKeptThoughShared => "names-kept",
            PlantedBug::OldCopyBegins => "old-copy-begins",
            PlantedBug::OpenWithoutHold => "open-without-hold",
            PlantedBug::PromiseForgotten => "promise-forgotten",
            PlantedBug::ReadSkipsGranuleCheck => "read-skips-granule-check",
            PlantedBug::RemoveChunksSaysNothingLeft => "remove-chunks-says-nothing-left",
            PlantedBug::ReplacedBegins => "replaced-begins",
            PlantedBug::ReportIgnoresTruncations => "report-ignores-cuts",
            PlantedBug::ResyncDropsRecents => "resync-drops-recents",
            PlantedBug::ResyncStopsAfterOnePage => "resync-stops-after-one-page",
            PlantedBug::RoomWithoutReserve => "room-without-reserve",
            PlantedBug::SaveGivesUp => "save-gives-up",
            PlantedBug::SeenContentIgnored => "seen-ignored",
            PlantedBug::ServeBeforeSync => "serve-before-sync",
            PlantedBug::StaleReportIsTaken => "stale-report-taken",
            PlantedBug::StoppedBegins => "stopped-begins",
            PlantedBug::SuccessorNoSpaceIsDone => "successor-no-space-is-done",
            PlantedBug::SwappedDiskForgotten => "swapped-disk-forgotten",
            PlantedBug::WaitIgnoresDeadline => "wait-ignores-deadline",
            PlantedBug::WholeSendsCut => "whole-sends-cut",
        }
    }
}

/// Worlds with mistakes, for tests of actors.
#[cfg(test)]
pub(crate) mod worlds {
    use std::rc::Rc;

    use t3fs_runtime::disk::{DiskId, DiskOp, DiskResult};
    use t3fs_runtime::shard::{Backend, LocalTask, Parcel, Shard};
    use t3fs_runtime::wire::Frame;
    use t3fs_runtime::{Cx, NodeId, Slot, Time};

    use super::PlantedBug;

    /// Another shard on this thread, alone in a world with a mistake.
    pub(crate) fn with(bug: PlantedBug, cx: &Cx) -> Cx {
        let planted = Some(bug.name());
        Shard::new(cx.node(), 0, 1, Rc::new(Planted { cx: cx.clone(), planted })).cx()
    }

    /// What is behind another door, and a mistake; without disks and other shards.
    struct Planted {
        cx: Cx,
        planted: Option<&'static str>,
    }

    impl Backend for Planted {
        fn now(&self) -> Time {
            self.cx.now()
        }

        fn wall_us(&self) -> u64 {
            self.cx.wall_us()
        }

        fn rand(&self) -> u64 {
            self.cx.rand()
        }

        fn planted(&self) -> Option<&'static str> {
            self.planted
        }

        fn spawn(&self, task: LocalTask) {
            self.cx.spawn(task);
        }

        fn wake_at(&self, at: Time, done: Slot<()>) {
            let cx = self.cx.clone();
            self.cx.spawn(async move {
                cx.sleep(at.since(cx.now())).await;
                done.fill(());
            });
        }

        fn disk(&self, _: DiskId, _: DiskOp, _: Slot<DiskResult>) {
            panic!("this world has no disks");
        }

        fn send(&self, _: NodeId, _: Frame) -> Result<(), &'static str> {
            Err("no other node")
        }

        fn pass(&self, _: u16, parcel: Parcel) -> Result<(), Parcel> {
            Err(parcel)
        }
    }
}
