//! The deliberate bugs by the names that the command line has for them.

use t3fs_actors::planted::PlantedBug;

/// The planted bug that a mutant of storage or the engine is.
pub(super) fn planted(mutant: Option<&str>) -> Option<PlantedBug> {
    let bug = match mutant? {
        "born-empty" => PlantedBug::BornEmpty,
        "commit-early" => PlantedBug::CommitBeforeSuccessor,
        "drive-only-sixteen" => PlantedBug::DriveOnlySixteen,
        "full-writers-table-evicts" => PlantedBug::FullWritersTableEvicts,
        "no-lease-check" => PlantedBug::NoLeaseCheck,
        "read-skips-granule-check" => PlantedBug::ReadSkipsGranuleCheck,
        "remove-chunks-says-nothing-left" => PlantedBug::RemoveChunksSaysNothingLeft,
        "resync-drops-recents" => PlantedBug::ResyncDropsRecents,
        "resync-stops-after-one-page" => PlantedBug::ResyncStopsAfterOnePage,
        "serve-before-sync" => PlantedBug::ServeBeforeSync,
        "successor-no-space-is-done" => PlantedBug::SuccessorNoSpaceIsDone,
        "whole-sends-cut" => PlantedBug::WholeSendsCut,
        _ => return None,
    };
    Some(bug)
}
