//! What the record says of each change: when it was settled, whether it is hard or doubtful. Built
//! once, in the order in which operations returned.

use std::collections::{BTreeMap, BTreeSet};

use super::name_changes::{self, NameChange, name_changes};
use super::*;

pub(super) enum Kind {
    Write { tag: u8 },
    Cut,
}

/// A write or a cut of one file.
pub(super) struct Change {
    pub(super) op: usize,
    pub(super) life: Life,
    pub(super) begun: Stamp,
    /// When it returned Ok.
    pub(super) ended: Option<Stamp>,
    pub(super) kind: Kind,
    /// Where it begins; of a cut, the new length. `None`: an append that was not told.
    pub(super) from: Option<u64>,
    /// Of a write.
    pub(super) len: u64,
    /// What it was to be; an append may have been cut short.
    pub(super) asked: u64,
    pub(super) append: bool,
    pub(super) settled: Option<Stamp>,
    pub(super) hard: Option<Stamp>,
    pub(super) doubtful: bool,
    /// Its client has had the file closed since: it may have forgotten what it was told of it.
    let_go: bool,
}

/// One descriptor.
pub(super) struct Handle {
    pub(super) life: Life,
    pub(super) file: File,
    pub(super) opened: Stamp,
    pub(super) begun: Stamp,
    /// When its close began.
    pub(super) closed: Stamp,
    /// When it was told last that the store has lost changes.
    told_lost: Option<Stamp>,
}

/// The record, sorted by what it is about.
pub(super) struct View {
    pub(super) changes: ByFile<Vec<Change>>,
    pub(super) names: BTreeMap<Name, Vec<NameChange>>,
    pub(super) handles: BTreeMap<HandleNo, Handle>,
    /// The create of each file, and when that became hard.
    pub(super) made: ByFile<usize>,
    /// Files that were seen, and were made by creates that nobody heard of.
    pub(super) foundlings: BTreeSet<File>,
    pub(super) created_hard: ByFile<Stamp>,
    /// Clients that have left something undone.
    pub(super) crashed: BTreeSet<Life>,
}

/// What is not hard yet, by client and file: the places of changes.
type Open = BTreeMap<(Life, File), Vec<usize>>;

impl View {
    pub(super) fn build(files: &Files) -> Result<View, String> {
        let (made, foundlings) = who_made(files)?;
        let mut view = View {
            changes: BTreeMap::new(),
            names: BTreeMap::new(),
            handles: BTreeMap::new(),
            made,
            foundlings,
            created_hard: BTreeMap::new(),
            crashed: BTreeSet::new(),
        };
        let mut place = BTreeMap::new();
        for (i, op) in files.ops.iter().enumerate() {
            if let Some((file, change)) = change(i, op) {
                let list = view.changes.entry(file).or_default();
                place.insert(i, list.len());
                list.push(change);
            }
        }
        let mut returns: Vec<usize> = (0..files.ops.len()).collect();
        returns.retain(|i| files.ops[*i].told.is_some());
        returns.sort_by_key(|i| files.ops[*i].told.as_ref().map(|t| t.0));
        let mut open = Open::new();
        let mut errors: BTreeMap<(Life, File), Stamp> = BTreeMap::new();
        let mut opens: BTreeMap<(Life, File), u32> = BTreeMap::new();
        for i in returns {
            view.took_place(files, i, place.get(&i).copied(), &mut open, &mut errors);
            view.count_opens(&files.ops[i], &mut opens);
        }
        view.crashed = view.crashed(files);
        if files.excuses.impatient || files.excuses.no_space || files.excuses.bad_disks {
            // Its client has failed to store it, perhaps, and has crashed before it could say so.
            let crashed = &view.crashed;
            let unsettled = view.changes.values_mut().flatten().filter(|c| c.settled.is_none());
            let unsaid = unsettled.filter(|c| crashed.contains(&c.life));
            unsaid.for_each(|c| c.doubtful = true);
        }
        view.names = name_changes(files, &view.made, &view.created_hard);
        Ok(view)
    }

    fn crashed(&self, files: &Files) -> BTreeSet<Life> {
        let unanswered = files.ops.iter().filter(|o| o.told.is_none()).map(|o| o.life);
        let unclosed = self.handles.values().filter(|h| h.closed == Stamp::LAST).map(|h| h.life);
        unanswered.chain(unclosed).collect()
    }

    /// When the other descriptors of a client's file were opened that are open at this moment: each
    /// of them hears of what fails from then on.
    fn others(&self, key: (Life, File), not: HandleNo, now: Stamp) -> Vec<Stamp> {
        let mine = self.handles.iter().filter(|(n, h)| **n != not && (h.life, h.file) == key);
        mine.filter(|(_, h)| h.closed > now).map(|(_, h)| h.opened).collect()
    }

    fn took_place(
        &mut self,
        files: &Files,
        i: usize,
        place: Option<usize>,
        open: &mut Open,
        errors: &mut BTreeMap<(Life, File), Stamp>,
    ) {
        let op = &files.ops[i];
        let Some((ended, told)) = &op.told else { return };
        let Some(file) = self.file_of(op) else { return };
        let key = (op.life, file);
        match (&op.act, told) {
            (Act::Create { handle, .. } | Act::Open { handle, .. }, Told::File { .. }) => {
                let closed = files.ops.iter().find_map(|o| match &o.act {
                    Act::Close { handle: h, .. } if h == handle => Some(o.begun),
                    _ => None,
                });
                let (life, begun, closed) = (op.life, op.begun, closed.unwrap_or(Stamp::LAST));
                let (opened, told_lost) = (*ended, None);
                let h = Handle { life, file, opened, begun, closed, told_lost };
                self.handles.insert(*handle, h);
            }
            (Act::Read { .. } | Act::Stat { .. } | Act::Look { .. }, _) => {}
            // A failed write says nothing of what was written before.
            (Act::Write { .. }, Told::Failed(_)) => {
                let place = place.expect("a write is a change");
                self.changes.entry(file).or_default()[place].doubtful = true;
            }
            (act, Told::Failed(failure)) => {
                // A cut drops what is buffered behind the new end, and every descriptor is told if
                // it fails then.
                let dropped = matches!(act, Act::Cut { .. }) || may_have_dropped(failure);
                if dropped {
                    errors.insert(key, *ended);
                }
                if let Act::Push { handle, .. } | Act::Close { handle, .. } = act
                    && *failure == Failure::Lost
                    && let Some(h) = self.handles.get_mut(handle)
                {
                    h.told_lost = Some(*ended);
                }
                let others: Vec<Stamp> = match act {
                    Act::Close { handle, .. } => self.others(key, *handle, *ended),
                    _ => vec![Stamp::default()],
                };
                let list = self.changes.entry(file).or_default();
                for c in list.iter_mut().filter(|c| c.life == op.life && c.settled.is_none()) {
                    let unheard = !others.iter().any(|opened| *opened < c.begun);
                    c.doubtful |= c.begun < *ended && (dropped || unheard);
                }
                open.entry(key).or_default().retain(|p| !list[*p].doubtful);
            }
            (Act::Write { .. }, _) => {
                let place = place.expect("a write is a change");
                let failed_meanwhile = errors.get(&key).is_some_and(|e| *e > op.begun);
                let list = self.changes.entry(file).or_default();
                list[place].doubtful |= failed_meanwhile;
                if !failed_meanwhile {
                    open.entry(key).or_default().push(place);
                }
            }
            (Act::Cut { .. }, _) => {
                let place = place.expect("a cut is a change");
                self.changes.entry(file).or_default()[place].settled = Some(*ended);
                open.entry(key).or_default().push(place);
            }
            (Act::Push { durable, handle, .. }, _) => {
                if *durable {
                    self.created_hard.entry(file).or_insert(*ended);
                }
                self.settle(files, key, *handle, (op.begun, *ended), *durable, open);
            }
            (Act::Close { handle, .. }, _) => {
                self.settle(files, key, *handle, (op.begun, *ended), false, open);
            }
            _ => {}
        }
    }

    /// Notes which changes their clients have let go of.
    fn count_opens(&mut self, op: &Op, opens: &mut BTreeMap<(Life, File), u32>) {
        let Some(file) = self.file_of(op) else { return };
        let count = opens.entry((op.life, file)).or_default();
        match (&op.act, &op.told) {
            (Act::Create { .. } | Act::Open { .. }, Some((_, Told::File { .. }))) => *count += 1,
            (Act::Close { .. }, _) => *count = count.saturating_sub(1),
            (Act::Cut { .. }, _) => {}
            _ => return,
        }
        if *count == 0 {
            let list = self.changes.entry(file).or_default();
            let mine = list.iter_mut().filter(|c| c.life == op.life && c.ended.is_some());
            mine.for_each(|c| c.let_go = true);
        }
    }

    fn settle(
        &mut self,
        files: &Files,
        key: (Life, File),
        handle: HandleNo,
        (begun, ended): (Stamp, Stamp),
        durable: bool,
        open: &mut Open,
    ) {
        let (opened, told) =
            self.handles.get(&handle).map_or((Stamp::LAST, None), |h| (h.opened, h.told_lost));
        let list = self.changes.entry(key.1).or_default();
        open.entry(key).or_default().retain(|p| {
            let c = &mut list[*p];
            // A descriptor that was opened later is not told of failures from before.
            if c.ended.is_none_or(|e| e > begun) || opened > c.begun {
                return true;
            }
            c.settled.get_or_insert(ended);
            let lost = files.losses.iter().any(|l| c.begun < *l && *l < ended);
            // Every descriptor is told of a loss once, and answers for what comes after.
            let told = c.let_go || told.is_some_and(|t| c.begun < t);
            if durable && !(told && lost) {
                c.hard = Some(ended);
            }
            !durable
        });
    }

    /// The file that an operation is about, once it is known.
    pub(super) fn file_of(&self, op: &Op) -> Option<File> {
        match (&op.act, &op.told) {
            (
                Act::Write { file, .. }
                | Act::Cut { file, .. }
                | Act::Read { file, .. }
                | Act::Stat { file }
                | Act::Push { file, .. }
                | Act::Close { file, .. },
                _,
            ) => Some(*file),
            (_, Some((_, Told::File { file, .. }))) => Some(*file),
            _ => None,
        }
    }

    /// When this client's latest open of the file began that had returned by then.
    pub(super) fn opened(&self, life: Life, file: File, by: Stamp) -> Stamp {
        let mine = self.handles.values().filter(|h| (h.life, h.file) == (life, file));
        mine.filter(|h| h.opened < by).map(|h| h.begun).max().unwrap_or_default()
    }
}

/// Whether what failed like this may have told, once and for all, of bytes that were not stored or
/// of changes that were lost. Other failures leave things as they are: the next fsync answers for
/// all.
fn may_have_dropped(failure: &Failure) -> bool {
    *failure == Failure::Lost || failure.is_of_storage()
}

fn change(i: usize, op: &Op) -> Option<(File, Change)> {
    let ok = op.told.as_ref().filter(|(_, told)| !matches!(told, Told::Failed(_)));
    let (file, kind, from, len, asked) = match &op.act {
        Act::Write { file, at, len: asked, tag } => {
            let (at, len) = match ok {
                Some((_, Told::Appended { at, len })) => (Some(*at), *len),
                _ => (*at, *asked),
            };
            (*file, Kind::Write { tag: *tag }, at, len, *asked)
        }
        Act::Cut { file, len, .. } => (*file, Kind::Cut, Some(*len), 0, 0),
        _ => return None,
    };
    let change = Change {
        op: i,
        life: op.life,
        begun: op.begun,
        ended: ok.map(|t| t.0),
        kind,
        from,
        len,
        asked,
        append: matches!(op.act, Act::Write { at: None, .. }),
        settled: None,
        hard: None,
        doubtful: false,
        let_go: false,
    };
    Some((file, change))
}

/// Which create made each file, and the files that somebody saw whose create nobody heard of.
fn who_made(files: &Files) -> Result<(ByFile<usize>, BTreeSet<File>), String> {
    let (mut made, mut foundlings) = (BTreeMap::new(), BTreeSet::new());
    for (i, op) in files.ops.iter().enumerate() {
        if let (Act::Create { .. }, Some((_, Told::File { file, .. }))) = (&op.act, &op.told)
            && let Some(other) = made.insert(*file, i)
        {
            let both = format!("{}\n  {}", files.line(other), files.line(i));
            return Err(format!("two creates made one file:\n  {both}"));
        }
    }
    let mut told: Vec<(usize, &Op)> = files.ops.iter().enumerate().collect();
    told.sort_by_key(|(_, op)| op.told.as_ref().map_or(u64::MAX, |t| t.0.order));
    for (i, op) in told {
        let seen: Vec<File> = match &op.told {
            Some((_, Told::File { file, .. })) => vec![*file],
            Some((_, Told::Entries(all))) => all.iter().map(|e| e.file).collect(),
            _ => continue,
        };
        for file in seen {
            if !made.contains_key(&file) {
                foundlings.insert(file);
            }
        }
        let begun = |o: &&Op| o.begun.order <= op.told.as_ref().map_or(0, |t| t.0.order);
        // One that the store has lost may be carried out again by a late duplicate of its request.
        let lost = |o: &Op| matches!(o.act, Act::Create { .. }) && name_changes::was_lost(files, o);
        let unheard = files.ops.iter().filter(begun);
        let unheard = unheard.filter(|o| name_changes::is_unheard_create(files, o) || lost(o));
        if foundlings.len() > unheard.count() {
            return Err(format!("nobody made one of {foundlings:x?}: {}", files.line(i)));
        }
    }
    Ok((made, foundlings))
}
