//! The checks of chains, their members and meta servers can fail.

use t3fs_sim::checks::{ALL, run_seed};

/// Goal: what the checks promise to find, they find. Method: each deliberate bug of a storage
/// target, its engine, or those who use the metadata store, within 500 seeds.
#[test]
fn deliberate_bugs_are_found() {
    for check in
        ALL.iter().filter(|c| ["chain", "engine", "hosts", "members", "metas"].contains(&c.name))
    {
        for mutant in check.mutants {
            let found = (1..=500).find(|seed| {
                let run = || run_seed(check, *seed, Some(mutant), None).result.is_err();
                std::panic::catch_unwind(run).unwrap_or(true)
            });
            assert!(found.is_some(), "{} --mutant {mutant} was not found", check.name);
        }
    }
}

/// Goal: stories that the check once told do not come back.
///
/// Method: the seeds of their first telling, which still draw what they drew as long as the check
/// draws the same. Members 34: the resync waited for a lock whose holder waited for a session with
/// the successor that had come meanwhile. Members 9: a head's failed disk became an error of its
/// client although two other replicas were about. Hosts 1927: a host that had just started removed,
/// when asked, what its chain waited for, of which it had not heard yet.
#[test]
fn old_stories_do_not_come_back() {
    for (name, seeds) in [("members", &[9, 34, 113][..]), ("hosts", &[1927])] {
        let check = ALL.iter().find(|c| c.name == name).expect("it exists");
        for seed in seeds {
            assert_eq!(run_seed(check, *seed, None, None).result, Ok(()), "{name} {seed}");
        }
    }
}
