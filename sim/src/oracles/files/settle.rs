//! What the record says of each change: when it was settled, whether it is hard or doubtful. Built
//! once, in the order in which operations returned.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{NameChange, name_changes};
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
        if files.excuses.impatient {
            // Its client has run out of patience, perhaps, and has crashed before it could say so.
            let unsettled = view.changes.values_mut().flatten().filter(|c| c.settled.is_none());
            unsettled.for_each(|c| c.doubtful = true);
        }
        view.names = name_changes(files, &view);
        Ok(view)
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
                let h = Handle { life: op.life, file, opened: *ended, begun: op.begun };
                self.handles.insert(*handle, h);
            }
            (Act::Read { .. } | Act::Stat { .. } | Act::Look { .. }, _) => {}
            (_, Told::Failed(failure)) => {
                // Who is told that the store has lost something is promised nothing of it any more.
                let lost = *failure == Failure::Lost;
                errors.insert(key, *ended);
                let list = self.changes.entry(file).or_default();
                for c in list.iter_mut().filter(|c| c.life == op.life && c.settled.is_none()) {
                    c.doubtful |= c.begun < *ended;
                }
                open.entry(key).or_default().retain(|p| list[*p].settled.is_some() && !lost);
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
        let opened = self.handles.get(&handle).map_or(Stamp::LAST, |h| h.opened);
        let list = self.changes.entry(key.1).or_default();
        open.entry(key).or_default().retain(|p| {
            let c = &mut list[*p];
            // Whoever opened later is not told of failures from before.
            if c.ended.is_none_or(|e| e > begun) || opened > c.begun {
                return true;
            }
            c.settled.get_or_insert(ended);
            let lost = files.losses.iter().any(|l| c.begun < *l && *l < ended);
            if durable && !(c.let_go && lost) {
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

fn change(i: usize, op: &Op) -> Option<(File, Change)> {
    let ok = op.told.as_ref().filter(|(_, told)| !matches!(told, Told::Failed(_)));
    let (file, kind, from, len) = match &op.act {
        Act::Write { file, at, len, tag } => {
            let at = match ok {
                Some((_, Told::At(at))) => Some(*at),
                _ => *at,
            };
            (*file, Kind::Write { tag: *tag }, at, *len)
        }
        Act::Cut { file, len, .. } => (*file, Kind::Cut, Some(*len), 0),
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
        let lost = |o: &Op| {
            let soft = o.begun.at_us..=o.told.as_ref().map_or(u64::MAX, |t| t.0.at_us + SOFT_US);
            matches!(o.act, Act::Create { .. })
                && files.losses.iter().any(|l| soft.contains(&l.at_us))
        };
        let unheard = files.ops.iter().filter(begun);
        let unheard = unheard.filter(|o| names::is_unheard_create(files, o) || lost(o));
        if foundlings.len() > unheard.count() {
            return Err(format!("nobody made one of {foundlings:x?}: {}", files.line(i)));
        }
    }
    Ok((made, foundlings))
}
