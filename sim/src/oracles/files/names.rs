//! Names: registers that hold a file or nothing.

use std::collections::BTreeSet;

use super::name_changes::{Holds, NameChange, was_lost};
use super::settle::View;
use super::*;

/// What an observation of a name asks.
#[derive(Clone, Copy)]
enum Want {
    Nothing,
    File(File),
    Any,
}

/// Renames that were followed for one observation: each explains it at most once.
type Followed = BTreeSet<(usize, Name)>;

impl NameChange {
    fn before(&self, later: &NameChange) -> bool {
        self.ended.is_some_and(|e| e < later.begun)
    }

    fn seen(&self, files: &Files, sight: &Sight) -> bool {
        let Some(ended) = self.ended.filter(|e| *e < sight.begun) else { return false };
        let until = files.soft_until(ended.at_us);
        let hit = |l: &&Stamp| (self.begun.at_us..=until).contains(&l.at_us) && **l < sight.ended;
        let hard = self.hard;
        let kept = |l: &Stamp| hard.is_some_and(|h| h < *l || h < sight.begun);
        files.losses.iter().filter(hit).all(kept)
    }
}

/// The names that an operation is about.
pub(super) fn names_of(act: &Act) -> Vec<Name> {
    match act {
        Act::Create { name, .. } | Act::Open { name, .. } => vec![*name],
        Act::Unlink { name } | Act::Look { name } => vec![*name],
        Act::Rename { from, to, .. } => vec![*from, *to],
        _ => Vec::new(),
    }
}

/// The names that a file may have had.
pub(super) fn names_had(files: &Files, view: &View, file: File) -> BTreeSet<Name> {
    let mut had = BTreeSet::new();
    for op in &files.ops {
        match (&op.act, &op.told) {
            (
                Act::Create { name, .. } | Act::Open { name, .. } | Act::Look { name },
                Some((_, Told::File { file: f, .. })),
            ) if *f == file => {
                had.insert(*name);
            }
            (Act::Create { name, .. }, _) if view.foundlings.contains(&file) => {
                had.insert(*name);
            }
            (Act::List { .. }, Some((_, Told::Entries(all)))) => {
                had.extend(all.iter().filter(|e| e.file == file).map(|e| e.name));
            }
            _ => {}
        }
    }
    loop {
        let before = had.len();
        for op in &files.ops {
            let Act::Rename { from, to, how } = &op.act else { continue };
            if had.contains(from) {
                had.insert(*to);
            }
            if *how == Move::Exchange && had.contains(to) {
                had.insert(*from);
            }
        }
        if had.len() == before {
            return had;
        }
    }
}

impl View {
    fn holds(
        &self,
        files: &Files,
        change: &NameChange,
        want: Want,
        sight: Sight,
        followed: &mut Followed,
    ) -> bool {
        match (change.holds, want) {
            (Holds::Nothing, Want::Nothing) => true,
            (Holds::Nothing, _) | (_, Want::Nothing) => false,
            (Holds::Made(_) | Holds::Unheard, Want::Any) => true,
            (Holds::Made(made), Want::File(file)) => made == file,
            (Holds::Unheard, Want::File(file)) => self.foundlings.contains(&file),
            (Holds::From(other), want) => {
                if !followed.insert((change.op, other)) {
                    return false;
                }
                // What the rename itself saw, whenever between its two ends.
                let ended = change.ended.unwrap_or(sight.ended);
                let inner = Sight { begun: change.begun, ended, ..sight };
                self.explained(files, other, want, inner, change.op, followed).is_ok()
            }
        }
    }

    fn explained(
        &self,
        files: &Files,
        name: Name,
        want: Want,
        sight: Sight,
        not: usize,
        followed: &mut Followed,
    ) -> Result<(), String> {
        let all = self.names.get(&name).map_or(&[][..], Vec::as_slice);
        let begun = || all.iter().filter(|c| c.begun < sight.ended && c.op != not);
        let must = || begun().filter(|c| c.seen(files, &sight));
        let mut after = must().next_back();
        if matches!(want, Want::Nothing) && after.is_none() {
            return Ok(()); // as in the beginning
        }
        for source in begun() {
            match must().find(|x| source.before(x)) {
                Some(x) => after = Some(x),
                None if self.holds(files, source, want, sight, followed) => return Ok(()),
                None => {}
            }
        }
        // A late duplicate of a create that the store had lost puts a file there anew.
        let again = |op: &Op| {
            let here = matches!(op.act, Act::Create { name: n, .. } if n == name);
            here && op.begun < sight.ended && was_lost(files, op)
        };
        if let Want::File(file) = want
            && self.foundlings.contains(&file)
            && files.ops.iter().any(again)
        {
            return Ok(());
        }
        Err(match after {
            Some(x) => format!("it was changed: {}", files.line(x.op)),
            None => "nobody put it there".to_owned(),
        })
    }

    /// Whether a name may hold this.
    pub(super) fn name_may_be(
        &self,
        files: &Files,
        name: Name,
        file: Option<File>,
        sight: Sight,
        not: usize,
    ) -> Result<(), String> {
        let (want, what) = match file {
            None => (Want::Nothing, "nothing".to_owned()),
            Some(f) => (Want::File(f), format!("file {f:#x}")),
        };
        let explained = self.explained(files, name, want, sight, not, &mut Followed::new());
        explained.map_err(|why| format!("{name:?} holds {what}, {why}"))
    }

    pub(super) fn name_may_be_taken(
        &self,
        files: &Files,
        name: Name,
        sight: Sight,
        not: usize,
    ) -> Result<(), String> {
        let explained = self.explained(files, name, Want::Any, sight, not, &mut Followed::new());
        explained.map_err(|why| format!("{name:?} holds a file, {why}"))
    }

    pub(super) fn listing_may_be(
        &self,
        files: &Files,
        dir: u8,
        entries: &[Entry],
        sight: Sight,
        not: usize,
    ) -> Result<(), String> {
        for e in entries {
            self.name_may_be(files, e.name, Some(e.file), sight, not)?;
            self.length_may_be(files, e.file, (e.length, e.length), sight)
                .map_err(|why| format!("{:?}, file {:#x}: {why}", e.name, e.file))?;
        }
        for name in self.names.keys().filter(|n| n.dir == dir) {
            if !entries.iter().any(|e| e.name == *name) {
                self.name_may_be(files, *name, None, sight, not)?;
            }
        }
        Ok(())
    }

    /// Whether anything that takes a file's last name may have happened between.
    pub(super) fn may_be_unlinked(
        &self,
        files: &Files,
        file: File,
        after: Stamp,
        by: Stamp,
    ) -> bool {
        let had = names_had(files, self, file);
        let meanwhile = |op: &&Op| op.begun < by && op.told.as_ref().is_none_or(|t| t.0 > after);
        files.ops.iter().filter(meanwhile).any(|op| {
            let takes = match &op.act {
                Act::Unlink { name } => had.contains(name),
                Act::Rename { to, how: Move::Replace, .. } => had.contains(to),
                _ => false,
            };
            let refused = matches!(
                op.told,
                Some((_, Told::Failed(Failure::NotFound | Failure::Exists | Failure::Stale)))
            );
            takes && !refused
        })
    }

    /// Whether some change of this name may be under way meanwhile.
    pub(super) fn name_moves(&self, name: Name, sight: &Sight) -> bool {
        let all = self.names.get(&name).map_or(&[][..], Vec::as_slice);
        all.iter().any(|c| c.begun < sight.ended && c.ended.is_none_or(|e| e > sight.begun))
    }

    /// Whether a power loss of the store may have taken the file itself.
    pub(super) fn create_lost(&self, files: &Files, file: File, sight: &Sight) -> bool {
        let Some(create) = self.made.get(&file).map(|c| &files.ops[*c]) else {
            return files.losses.iter().any(|l| *l < sight.ended);
        };
        let ended = create.told.as_ref().map_or(Stamp::LAST, |t| t.0);
        let until = files.soft_until(ended.at_us);
        let hard = self.created_hard.get(&file).copied();
        files.losses.iter().any(|l| {
            let hit = (create.begun.at_us..=until).contains(&l.at_us) && *l < sight.ended;
            hit && hard.is_none_or(|h| h > *l && h > sight.begun)
        })
    }
}
