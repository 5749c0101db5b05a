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
            (Failure::Lost, _) if self.losses.iter().any(|l| *l < sight.ended) => Ok(()),
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
                if view.may_be_unlinked(self, sight.ended) =>
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

/// Failures of writes that happened behind the users' backs.
fn is_of_storage(failure: &Failure) -> bool {
    match failure {
        Failure::Unavailable { text } => text.starts_with("chain"),
        Failure::NoSpace | Failure::Damaged { .. } => true,
        _ => false,
    }
}

impl View {
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
                    if owes.is_none() && is_of_storage(failure) {
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
