//! The deliberate bugs by the names that the command line has for them.

use t3fs_actors::planted::PlantedBug;

/// The planted bug that a mutant of storage, a host or the engine is.
pub(super) fn planted(mutant: Option<&str>) -> Option<PlantedBug> {
    let bug = match mutant? {
        "born-empty" => PlantedBug::BornEmpty,
        "commit-early" => PlantedBug::CommitBeforeSuccessor,
        "drive-only-sixteen" => PlantedBug::DriveOnlySixteen,
        "full-writers-table-evicts" => PlantedBug::FullWritersTableEvicts,
        "missing-disk-forgotten" => PlantedBug::MissingDiskForgotten,
        "needed-is-removed" => PlantedBug::NeededIsRemoved,
        "no-lease-check" => PlantedBug::NoLeaseCheck,
        "old-copy-begins" => PlantedBug::OldCopyBegins,
        "read-skips-granule-check" => PlantedBug::ReadSkipsGranuleCheck,
        "remove-chunks-says-nothing-left" => PlantedBug::RemoveChunksSaysNothingLeft,
        "replaced-begins" => PlantedBug::ReplacedBegins,
        "resync-drops-recents" => PlantedBug::ResyncDropsRecents,
        "resync-stops-after-one-page" => PlantedBug::ResyncStopsAfterOnePage,
        "serve-before-sync" => PlantedBug::ServeBeforeSync,
        "stopped-begins" => PlantedBug::StoppedBegins,
        "successor-no-space-is-done" => PlantedBug::SuccessorNoSpaceIsDone,
        "swapped-disk-forgotten" => PlantedBug::SwappedDiskForgotten,
        "whole-sends-cut" => PlantedBug::WholeSendsCut,
        _ => return None,
    };
    Some(bug)
}
