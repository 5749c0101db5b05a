//! What operations have done to names, and when that became hard.

use std::collections::BTreeMap;

use super::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holds {
    Nothing,
    /// The file that this create made.
    Made(File),
    /// The file of a create that nobody heard of: one of the foundlings, or none.
    Unheard,
    /// What the other name held.
    From(Name),
}

/// What an operation does to one name.
pub(super) struct NameChange {
    pub(super) op: usize,
    pub(super) begun: Stamp,
    /// When it returned Ok.
    pub(super) ended: Option<Stamp>,
    pub(super) hard: Option<Stamp>,
    pub(super) holds: Holds,
}

/// Whether an operation on names may have acted although it was not told Ok: its answer was lost,
/// or the store lost what it had done and it was tried again on what others did then, by its sender
/// or by a duplicate that came late.
fn is_unknown(files: &Files, op: &Op) -> bool {
    match &op.told {
        None | Some((_, Told::Failed(Failure::Unavailable { .. }))) => true,
        Some((_, Told::Failed(_))) => was_lost(files, op),
        Some(_) => false,
    }
}

/// A create that may have made a file that nobody was told of.
pub(super) fn is_unheard_create(files: &Files, op: &Op) -> bool {
    matches!(op.act, Act::Create { .. }) && is_unknown(files, op)
}

/// Whether a power loss of the store may have taken back what an operation did.
pub(super) fn was_lost(files: &Files, op: &Op) -> bool {
    let until = op.told.as_ref().map_or(u64::MAX, |t| files.soft_until(t.0.at_us));
    files.losses.iter().any(|l| (op.begun.at_us..=until).contains(&l.at_us))
}

/// Every change of every name.
pub(super) fn name_changes(
    files: &Files,
    made: &ByFile<usize>,
    created_hard: &ByFile<Stamp>,
) -> BTreeMap<Name, Vec<NameChange>> {
    let mut all: BTreeMap<Name, Vec<NameChange>> = BTreeMap::new();
    for (i, op) in files.ops.iter().enumerate() {
        let ended = match &op.told {
            _ if is_unknown(files, op) => None,
            None | Some((_, Told::Failed(_))) => continue,
            Some((at, _)) => Some(*at),
        };
        let mut hard = ended.and_then(|e| synced(files, op.life, (op.begun, e)));
        let changes = match &op.act {
            Act::Create { name, .. } => {
                let made = made.iter().find(|(_, c)| **c == i).map(|(f, _)| *f);
                let synced = made.and_then(|f| created_hard.get(&f).copied());
                hard = [hard, synced].into_iter().flatten().min();
                vec![(*name, made.map_or(Holds::Unheard, Holds::Made))]
            }
            Act::Unlink { name } => vec![(*name, Holds::Nothing)],
            Act::Rename { from, to, how: Move::Exchange } => {
                vec![(*from, Holds::From(*to)), (*to, Holds::From(*from))]
            }
            Act::Rename { from, to, .. } => {
                vec![(*from, Holds::Nothing), (*to, Holds::From(*from))]
            }
            _ => continue,
        };
        // What the store has lost a late duplicate of its request may do again.
        let again = ended.is_some() && was_lost(files, op);
        for (name, holds) in changes {
            let of_name = all.entry(name).or_default();
            of_name.push(NameChange { op: i, begun: op.begun, ended, hard, holds });
            if again {
                let holds = if let Holds::Made(_) = holds { Holds::Unheard } else { holds };
                let (ended, hard) = (None, None);
                of_name.push(NameChange { op: i, begun: op.begun, ended, hard, holds });
            }
        }
    }
    all
}

/// When an fsync of the same client returned that began after its operation on names had returned,
/// if the store did not lose power in between: what is lost is said by the file's own fsync.
fn synced(files: &Files, life: Life, (begun, ended): (Stamp, Stamp)) -> Option<Stamp> {
    let push = |op: &Op| match (&op.act, &op.told) {
        (Act::Push { durable: true, .. }, Some((at, Told::Done))) => {
            (op.life == life && op.begun > ended).then_some(*at)
        }
        _ => None,
    };
    let first = files.ops.iter().filter_map(push).min()?;
    let lost = files.losses.iter().any(|l| *l < first && *l > begun);
    (!lost).then_some(first)
}
