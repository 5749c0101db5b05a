//! The check `files` and its deliberate bugs.

use t3fs_sim::checks::{ALL, run_seed};

/// Goal: the check can fail. Method: each deliberate bug must be found within 500 seeds; an
/// assertion of ours that it breaks counts too.
#[test]
fn deliberate_bugs_of_clients_and_meta_are_found() {
    let check = ALL.iter().find(|c| c.name == "files").expect("it exists");
    for mutant in check.mutants {
        let found = (1..=500).find(|seed| {
            let run = || run_seed(check, *seed, Some(mutant), None).result.is_err();
            std::panic::catch_unwind(run).unwrap_or(true)
        });
        assert!(found.is_some(), "files --mutant {mutant} was not found");
    }
}

/// Goal: stories that the check once told do not come back. Method: the seeds of their first
/// telling. 19: a listing repeated a length that another client had cut. 253: a stat saw a
/// truncation half done. 851: after a loss of power the store's answers were taken for old ones.
/// 906: an append that found no space left the file longer than it was. 671: a truncation under way
/// hid another's. 227: a read ended at another's append under way, though something was stored
/// behind it. 1932: the oracle forgot that an append may be lost before an older one has its place.
/// 3815: a lookup that was answered late said the length from before this client's own write.
/// 5570: an fdatasync told no length, since the file was known to be longer; another had cut it.
/// 787: after two losses an fsync knew of the later one only.
/// 5377: the answer to an unlink, from before a truncation, was taken for newer than the cut's.
/// 8007: a removal of nothing came again 5 s later and removed what had been written since.
/// 610: a hole that nobody knew of. 25429: bytes behind the end, from before a loss of the store's
/// power, came back after a truncation to nothing.
/// 4637: the oracle asked who made a file before it was seen. 53953: clients with nothing to do
/// heard too late that the store had lost their holds. 54360: an append that a client had kept
/// lay over those of others when its session had ended. 57144: a report from before a loss of the
/// store knew a truncation by the number of a later one. 64699: a question for the end that came
/// late took a place that nobody knew of. 65364: a cut did not see a write that was stored and
/// not committed. 502162: an append showed in the length that then found no room. 520289: a hold
/// stayed for an append that had failed before a byte of it was buffered. 2046508: of two that
/// appended on one mount one ended the other's turn, which heard that the file is gone. 2155904: a
/// rename of unknown outcome moved a file behind the last look, so that nobody removed it. 5022869:
/// a question for a place that came late took one that nobody filled.
#[test]
fn old_stories_of_files_do_not_come_back() {
    let check = ALL.iter().find(|c| c.name == "files").expect("it exists");
    let seeds = [19, 227, 253, 610, 671, 787, 851, 906, 1932, 3815, 4637, 5377, 5570, 8007, 25429];
    let later = [53953, 54360, 57144, 64699, 65364, 502162, 520289, 2046508, 2155904, 5022869];
    for seed in seeds.into_iter().chain(later) {
        assert_eq!(run_seed(check, seed, None, None).result, Ok(()), "seed {seed}");
    }
}
