//! What failed: whether there was a reason, and whether everybody heard of it who should.

use std::collections::BTreeMap;

use super::settle::View;
use super::*;

impl Files {
    /// Whether there was a reason to say so.
    pub(super) fn excused(
        &self,
        view: &View,
        i: usize,
        op: &Op,
        sight: Sight,
        failure: &Failure,
    ) -> Result<(), String> {
        let refuse = |why: &str| Err(why.to_owned());
        match (failure, &op.act) {
            (Failure::Unavailable { .. }, _) if self.excuses.faults => Ok(()),
            (Failure::NoSpace, _) if self.excuses.no_space => Ok(()),
            (Failure::Damaged { .. }, _) if self.excuses.bad_disks => Ok(()),
            (Failure::Lost, _) if view.may_miss(self, op, sight) => Ok(()),
            (Failure::Exists, Act::Create { name, .. }) => {
                view.name_may_be_taken(self, *name, sight, i)
            }
            (Failure::Exists, Act::Rename { to, how: Move::NoReplace, .. }) => {
                view.name_may_be_taken(self, *to, sight, i)
            }
            (Failure::NotFound, Act::Rename { from, to, how }) => {
                let gone = view.name_may_be(self, *from, None, sight, i);
                match how {
                    Move::Exchange => gone.or(view.name_may_be(self, *to, None, sight, i)),
                    Move::Replace | Move::NoReplace => gone,
                }
            }
            (
                Failure::NotFound,
                Act::Open { name, .. } | Act::Look { name } | Act::Unlink { name },
            ) => view.name_may_be(self, *name, None, sight, i),
            (Failure::Stale, Act::Open { name, .. }) => {
                let lost = self.losses.iter().any(|l| *l > sight.begun && *l < sight.ended);
                match view.name_moves(*name, &sight) || lost {
                    true => Ok(()),
                    false => refuse("a name that nobody changes is not stale"),
                }
            }
            (Failure::Stale, Act::Cut { open: false, .. })
                if view.file_of(op).is_some_and(|file| {
                    view.may_be_unlinked(self, file, Stamp::default(), sight.ended)
                }) =>
            {
                Ok(())
            }
            (Failure::Stale, _) => match view.file_of(op) {
                Some(file) if view.gone(self, file, &sight) => Ok(()),
                _ => refuse("who has a file open can use it until the close"),
            },
            _ => refuse("there is no reason for this failure"),
        }
    }
}

impl View {
    /// Whether the store may have lost, with its power, a change of the file or of its names that
    /// this client was told of.
    fn may_miss(&self, files: &Files, op: &Op, sight: Sight) -> bool {
        let Some(file) = self.file_of(op) else { return false };
        let changes = self.changes.get(&file).map_or(&[][..], Vec::as_slice);
        let mine = |l: &Stamp| {
            changes
                .iter()
                .filter(|c| c.life == op.life && c.begun < *l)
                .any(|c| c.settled.is_none_or(|s| files.soft_until(s.at_us) >= l.at_us))
        };
        let had = names::names_had(files, self, file);
        let names = |o: &Op| match &o.act {
            Act::Unlink { name } => had.contains(name),
            Act::Rename { from, to, .. } => had.contains(from) || had.contains(to),
            _ => false,
        };
        let told = |l: &Stamp| {
            files.ops.iter().filter(|o| o.life == op.life && o.begun < *l).any(|o| {
                let until = o.told.as_ref().map_or(u64::MAX, |t| files.soft_until(t.0.at_us));
                (self.file_of(o) == Some(file) || names(o)) && l.at_us <= until
            })
        };
        files.losses.iter().filter(|l| **l < sight.ended).any(|l| mine(l) || told(l))
    }

    /// Whether the store may have lost an open file together with its power.
    fn gone(&self, files: &Files, file: File, sight: &Sight) -> bool {
        self.create_lost(files, file, sight) || self.hold_lost(files, file, sight)
    }

    /// Every descriptor that was open when a write in the background failed hears of it once, at
    /// its next fsync or close.
    ///
    /// When a failure happened is not seen from outside, only when one descriptor heard of it. So
    /// this asks less: the other descriptor was open before the first write that may have failed,
    /// has heard of nothing since, and asks after that one was told.
    pub(super) fn heard(&self, files: &Files) -> Result<(), String> {
        let mut returns: Vec<&Op> = files.ops.iter().filter(|o| o.told.is_some()).collect();
        returns.sort_by_key(|o| o.told.as_ref().map(|t| t.0));
        // What each descriptor has to hear: who heard it before.
        let mut owed: BTreeMap<HandleNo, Stamp> = BTreeMap::new();
        let mut heard: BTreeMap<HandleNo, Stamp> = BTreeMap::new();
        for op in returns {
            let (Act::Push { file, handle, .. } | Act::Close { file, handle }) = &op.act else {
                continue;
            };
            let Some((ended, told)) = &op.told else { continue };
            let owes = owed.get(handle).copied();
            match told {
                Told::Failed(failure) => {
                    owed.remove(handle);
                    heard.insert(*handle, *ended);
                    if owes.is_none() && failure.is_of_storage() {
                        self.owe(op, *file, *handle, *ended, &heard, &mut owed);
                    }
                }
                _ if owes.is_some_and(|at| at < op.begun) => {
                    let i = files.ops.iter().position(|o| std::ptr::eq(o, op)).unwrap_or(0);
                    let story = files.story(self, Some(*file), op);
                    let what = "another descriptor was told that a write failed, this one not";
                    return Err(format!("{}\n  {what}\n{story}", files.line(i)));
                }
                _ => {}
            }
            if matches!(op.act, Act::Close { .. }) {
                owed.remove(handle);
            }
        }
        Ok(())
    }

    fn owe(
        &self,
        op: &Op,
        file: File,
        told: HandleNo,
        at: Stamp,
        heard: &BTreeMap<HandleNo, Stamp>,
        owed: &mut BTreeMap<HandleNo, Stamp>,
    ) {
        let changes = self.changes.get(&file).map_or(&[][..], Vec::as_slice);
        let suspects = changes.iter().filter(|c| {
            c.life == op.life && c.begun < at && c.settled.is_none_or(|s| s > op.begun)
        });
        let Some(first) = suspects.map(|c| c.begun).min() else { return };
        for (other, h) in &self.handles {
            let same = *other != told && (h.life, h.file) == (op.life, file) && h.opened < first;
            if same && heard.get(other).is_none_or(|last| *last < first) {
                owed.insert(*other, at);
            }
        }
    }
}
