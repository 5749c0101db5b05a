//! How a chain changes: what each target was (public state) and what its node says of it (local
//! state) make what it becomes. The rules are a table; this file is all of them.
//!
//! As in 3FS: targets are taken group by group (serving, last serving, syncing, waiting, offline),
//! within a group in chain order, and the first row that fits decides. The new order is the groups
//! in that same order, so whoever comes back stands behind everyone who stayed.

use crate::proto::mgmtd::LocalState::{self, Offline as Gone, Online, UpToDate};
use crate::proto::mgmtd::TargetState::{self, LastServing, Offline, Serving, Syncing, Waiting};

/// What must be true of the new chain as far as it is decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    Always,
    SomeServes,
    NoneServes,
    SomeServesAndNoneSyncs,
    NoneIsLast,
}

struct Row {
    was: TargetState,
    local: &'static [LocalState],
    when: When,
    becomes: TargetState,
}

const fn row(
    was: TargetState,
    local: &'static [LocalState],
    when: When,
    becomes: TargetState,
) -> Row {
    Row { was, local, when, becomes }
}

const ALIVE: &[LocalState] = &[UpToDate, Online];
const ANY: &[LocalState] = &[UpToDate, Online, Gone];

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row(Serving,     ALIVE,       When::Always,                 Serving),
    // The first of them; it goes to the end again if another one serves.
    row(Serving,     &[Gone],     When::NoneIsLast,             LastServing),
    row(Serving,     &[Gone],     When::Always,                 Offline),
    row(LastServing, ALIVE,       When::NoneServes,             Serving),
    row(LastServing, &[Gone],     When::NoneServes,             LastServing),
    row(LastServing, ANY,         When::Always,                 Offline),
    row(Syncing,     &[UpToDate], When::Always,                 Serving),
    row(Syncing,     &[Online],   When::SomeServes,             Syncing),
    row(Syncing,     &[Online],   When::Always,                 Waiting),
    row(Syncing,     &[Gone],     When::Always,                 Offline),
    row(Waiting,     &[Online],   When::SomeServesAndNoneSyncs, Syncing),
    row(Waiting,     ALIVE,       When::Always,                 Waiting),
    row(Waiting,     &[Gone],     When::Always,                 Offline),
    row(Offline,     &[Online],   When::SomeServesAndNoneSyncs, Syncing),
    row(Offline,     ALIVE,       When::Always,                 Waiting),
    row(Offline,     &[Gone],     When::Always,                 Offline),
];

const GROUPS: [TargetState; 5] = [Serving, LastServing, Syncing, Waiting, Offline];

/// What is known of a target: what it was, what its node says of it, and whether that is more than
/// silence: its node lives and does not have it.
pub(super) type Known = (TargetState, LocalState, Denied);
pub(super) type Denied = bool;

/// The new chain: positions in the old one, in the new order, with their new states.
pub(super) fn next(chain: &[Known]) -> Vec<(usize, TargetState)> {
    let mut new: Vec<(usize, TargetState)> = Vec::with_capacity(chain.len());
    for group in GROUPS {
        // All who serve have the same. One whose node is silent may come back with it.
        let of_group = |denied| {
            let all = chain.iter().enumerate();
            all.filter(move |(_, t)| t.0 == group && t.2 == denied)
        };
        for (i, (was, local, _)) in of_group(false).chain(of_group(true)) {
            let some = |state| new.iter().any(|(_, s)| *s == state);
            let holds = |when| match when {
                When::Always => true,
                When::SomeServes => some(Serving),
                When::NoneServes => !some(Serving),
                When::SomeServesAndNoneSyncs => some(Serving) && !some(Syncing),
                When::NoneIsLast => !some(LastServing),
            };
            let fits = |r: &&Row| r.was == *was && r.local.contains(local) && holds(r.when);
            let row = TABLE.iter().find(fits).expect("the table covers every case");
            new.push((i, row.becomes));
        }
    }
    if new.iter().any(|(_, s)| *s == Serving) {
        // The other replicas keep serving. The replica that the chain waited for had acknowledged
        // nothing that they lack.
        let (last, mut rest): (Vec<_>, Vec<_>) = new.into_iter().partition(|t| t.1 == LastServing);
        rest.extend(last.into_iter().map(|(i, _)| (i, Offline)));
        new = rest;
    }
    new.sort_by_key(|(_, s)| GROUPS.iter().position(|g| g == s));
    new
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn states(chain: &[(TargetState, LocalState)]) -> Vec<(usize, TargetState)> {
        next(&chain.iter().map(|(was, local)| (*was, *local, false)).collect::<Vec<_>>())
    }

    /// Regression (review): of two that served the one whose data were gone was waited for, for
    /// good, while the other came back with everything.
    #[test]
    fn one_who_may_come_back_is_waited_for() {
        let c = [(Serving, Gone, true), (Serving, Gone, false), (Offline, Gone, false)];
        assert_eq!(next(&c), [(1, LastServing), (0, Offline), (2, Offline)]);
        let c = [(Serving, Gone, true), (Serving, Gone, true)];
        assert_eq!(next(&c), [(0, LastServing), (1, Offline)]);
        let c = [(Serving, UpToDate, false), (Serving, Gone, true), (Serving, UpToDate, false)];
        assert_eq!(next(&c), [(0, Serving), (2, Serving), (1, Offline)]);
    }

    /// Goal: the cases that a designer would draw on paper.
    #[test]
    fn cases_on_paper() {
        // One of three dies: it goes to the end.
        let c = [(Serving, UpToDate), (Serving, Gone), (Serving, UpToDate)];
        assert_eq!(states(&c), [(0, Serving), (2, Serving), (1, Offline)]);
        // The first of three dies, behind an older absence: the newest absence is last.
        let c = [(Serving, Gone), (Serving, UpToDate), (Offline, Gone)];
        assert_eq!(states(&c), [(1, Serving), (2, Offline), (0, Offline)]);
        // All die at once: the first in order is waited for.
        let c = [(Serving, Gone), (Serving, Gone), (Syncing, Gone)];
        assert_eq!(states(&c), [(0, LastServing), (1, Offline), (2, Offline)]);
        // The last one comes back and serves; the others sync, one at a time.
        let c = [(LastServing, Online), (Offline, Online), (Offline, Online)];
        assert_eq!(states(&c), [(0, Serving), (1, Syncing), (2, Waiting)]);
        let c = [(Serving, UpToDate), (Syncing, UpToDate), (Waiting, Online)];
        assert_eq!(states(&c), [(0, Serving), (1, Serving), (2, Syncing)]);
        // Nobody to copy from: wait.
        let c = [(Serving, Gone), (Syncing, Online)];
        assert_eq!(states(&c), [(0, LastServing), (1, Waiting)]);
        // The synced one has seen all writes of the chain that died before it: it serves on.
        let c = [(Serving, Gone), (Syncing, UpToDate)];
        assert_eq!(states(&c), [(1, Serving), (0, Offline)]);
    }

    proptest! {
        /// Goal: a chain is never left without someone who has everything: after any change
        /// somebody serves or is waited for; at most one syncs, and only behind one who serves;
        /// nobody is lost or doubled; nobody begins to serve without having been entitled to.
        #[test]
        fn a_chain_keeps_its_content(
            steps in prop::collection::vec(prop::collection::vec(0usize..4, 4), 1..20)
        ) {
            let mut chain: Vec<(u32, TargetState)> = (0..4).map(|i| (i, Serving)).collect();
            for step in steps {
                let with_local: Vec<_> = chain
                    .iter()
                    .map(|(id, s)| {
                        let step = step[*id as usize];
                        (*s, [UpToDate, Online, Gone, Gone][step], step == 3)
                    })
                    .collect();
                let new = next(&with_local);
                let count = |s| new.iter().filter(|t| t.1 == s).count();
                prop_assert!(count(Serving) > 0 || count(LastServing) == 1);
                prop_assert!(count(Serving) == 0 || count(LastServing) == 0);
                prop_assert!(count(Syncing) <= 1);
                prop_assert!(count(Syncing) == 0 || count(Serving) > 0);
                let mut all: Vec<usize> = new.iter().map(|t| t.0).collect();
                all.sort_unstable();
                prop_assert_eq!(all, vec![0, 1, 2, 3]);
                for (i, s) in &new {
                    let (was, local, _) = with_local[*i];
                    let may_serve = match was {
                        Serving | LastServing => local != Gone,
                        Syncing => local == UpToDate,
                        Waiting | Offline => false,
                    };
                    prop_assert!(*s != Serving || may_serve);
                }
                chain = new.iter().map(|(i, s)| (chain[*i].0, *s)).collect();
            }
        }
    }
}
