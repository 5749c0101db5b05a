//! What users of a file system may see: an in-memory judge of what POSIX and close-to-open
//! consistency allow, under crashes of clients and of the metadata store.
//!
//! Users record what they asked and what they were told; [`Files::judge`] then says whether every
//! answer was allowed. Nothing is simulated here: an answer is refused only if no order of the
//! operations explains it. The rules, in the words used below:
//!
//! - *A change* is a write or a cut (truncation). Each write fills its range with a byte of its own
//!   (its tag), so a byte that is read names the change that put it there; 0 is a hole or a cut.
//! - *Settled*: a change is settled when a flush, close or fsync that began after it returned Ok,
//!   by a descriptor of its client that was open before it: a later one hears not of its failure.
//!   A cut is settled when it returns. From then on every open that begins later must see it.
//! - *Hard*: a change is hard when an fsync covered it. Before that, a power loss of the metadata
//!   store soon after ([`SOFT_US`]) may have taken it back; a later fsync that returns Ok says that
//!   it is there after all.
//! - *Before*: change x is before change y if x was settled when y began, or both are of one
//!   client and x had returned when y began. Changes that are not ordered may win either way.
//! - A byte may have a tag if no change that the reader must see is after the change of that tag.
//!   A client must see its own changes at once, everybody else's settled ones from its open on.
//! - Names are registers that hold a file or nothing, with the same rules; a change of a name is
//!   settled when it returns.
//! - An operation that is *due* by some time ends by then, with whatever answer.
//! - A change is *doubtful* once its client was told an error for the file before it was settled:
//!   nothing is promised of it any more.
//!
//! `content` judges bytes, lengths and appends, `names` names, `errors` what failed and why.

mod content;
mod errors;
mod name_changes;
mod names;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

/// Changes of the metadata store that were acknowledged for longer than this are on its disk.
const SOFT_US: u64 = 150_000;
/// The same if the store's host may stand still, again and again, before it loses its power.
const SOFT_PAUSED_US: u64 = 2_500_000;

/// One run of one client: ends with its crash.
pub type Life = u32;
/// A file, by the number of its inode.
pub type File = u64;
/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Name {
    pub dir: u8,
    pub name: u8,
}
/// An open descriptor; unique in a run.
pub type HandleNo = u32;

/// When something was recorded: a counter that orders all, and virtual time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Stamp {
    pub order: u64,
    pub at_us: u64,
}

impl Stamp {
    /// After everything.
    const LAST: Stamp = Stamp { order: u64::MAX, at_us: u64::MAX };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    Replace,
    NoReplace,
    Exchange,
}

/// What a user asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// Makes a file that must not exist, and opens it.
    Create {
        name: Name,
        handle: HandleNo,
    },
    Open {
        name: Name,
        handle: HandleNo,
    },
    Unlink {
        name: Name,
    },
    Rename {
        from: Name,
        to: Name,
        how: Move,
    },
    /// stat by name.
    Look {
        name: Name,
    },
    List {
        dir: u8,
    },
    /// Fills a range with `tag`, which no other write has. `at` is `None` for an append.
    Write {
        file: File,
        at: Option<u64>,
        len: u64,
        tag: u8,
    },
    /// truncate(2) or ftruncate(2). `open`: the file is open here.
    Cut {
        file: File,
        len: u64,
        open: bool,
    },
    Read {
        file: File,
        from: u64,
        len: u64,
    },
    /// fstat.
    Stat {
        file: File,
    },
    /// What close(2) does to data, or fsync (`durable`).
    Push {
        file: File,
        handle: HandleNo,
        durable: bool,
    },
    /// The same as a push that is not durable, and the descriptor is gone.
    Close {
        file: File,
        handle: HandleNo,
    },
}

/// Why something failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    NotFound,
    Exists,
    /// The file is gone.
    Stale,
    /// Not in time. The outcome is not known.
    Unavailable {
        text: String,
    },
    NoSpace,
    /// Stored bytes are damaged, or a disk failed.
    Damaged {
        text: String,
    },
    /// The metadata store has lost what it had acknowledged.
    Lost,
    /// Anything else, which nobody has a reason to say.
    Other {
        text: String,
    },
}

impl Failure {
    /// Of writes that happened behind the users' backs. What did not end in time has not failed
    /// yet.
    fn is_of_storage(&self) -> bool {
        match self {
            Failure::Unavailable { text } => text.starts_with("chain"),
            Failure::NoSpace | Failure::Damaged { .. } => true,
            _ => false,
        }
    }
}

/// A listed name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub name: Name,
    pub file: File,
    pub length: u64,
}

/// What a user was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Done,
    /// Create, Open, Look, Stat.
    File {
        file: File,
        length: u64,
    },
    /// Where an append went.
    Appended {
        at: u64,
        len: u64,
    },
    Bytes(Vec<u8>),
    Entries(Vec<Entry>),
    Failed(Failure),
}

/// What a run does that explains failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Excuses {
    /// Anything at all goes wrong: requests may run out of patience.
    pub faults: bool,
    /// Clients give up after a short while, also in the background.
    pub impatient: bool,
    pub no_space: bool,
    pub bad_disks: bool,
    /// Hosts stand still for a while.
    pub pauses: bool,
}

#[derive(Clone, Debug)]
struct Op {
    life: Life,
    begun: Stamp,
    act: Act,
    /// When it has to have ended, in virtual time.
    due_us: Option<u64>,
    /// `None`: nobody was told, the client has crashed.
    told: Option<(Stamp, Told)>,
}

/// Names a recorded operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpId(usize);

/// How an observation was made: what it must have seen, and what it may have seen.
#[derive(Clone, Copy, Debug)]
struct Sight {
    /// The operation that observes.
    op: usize,
    life: Life,
    begun: Stamp,
    ended: Stamp,
    /// Must have seen what others settled before this.
    since: Stamp,
}

/// The record, and its judge.
pub struct Files {
    ops: Vec<Op>,
    /// When the metadata store lost what was not on its disk.
    losses: Vec<Stamp>,
    /// When its process was down and its host was not.
    downs: Vec<core::ops::Range<u64>>,
    order: u64,
    lives: Life,
    handles: HandleNo,
    tags: u8,
    excuses: Excuses,
}

impl Files {
    pub fn new(excuses: Excuses) -> Files {
        let (ops, losses, downs) = (Vec::new(), Vec::new(), Vec::new());
        Files { ops, losses, downs, order: 0, lives: 0, handles: 0, tags: 0, excuses }
    }

    fn stamp(&mut self, at_us: u64) -> Stamp {
        self.order += 1;
        Stamp { order: self.order, at_us }
    }

    /// A client starts.
    pub fn life(&mut self) -> Life {
        self.lives += 1;
        self.lives
    }

    pub fn handle(&mut self) -> HandleNo {
        self.handles += 1;
        self.handles
    }

    /// A byte that no write has had; `None` when they are used up.
    pub fn tag(&mut self) -> Option<u8> {
        self.tags = self.tags.checked_add(1)?;
        Some(self.tags)
    }

    /// `due_us`: when it has to have ended, whatever the answer.
    pub fn begin(&mut self, at_us: u64, life: Life, act: Act, due_us: Option<u64>) -> OpId {
        let begun = self.stamp(at_us);
        self.ops.push(Op { life, begun, act, due_us, told: None });
        OpId(self.ops.len() - 1)
    }

    /// Without this call the outcome stays unknown.
    pub fn end(&mut self, at_us: u64, op: OpId, told: Told) {
        let ended = self.stamp(at_us);
        let was = self.ops[op.0].told.replace((ended, told));
        assert!(was.is_none(), "an operation returns once");
    }

    /// The metadata store loses power: what was not on its disk is gone.
    pub fn store_lost(&mut self, at_us: u64) {
        let at = self.stamp(at_us);
        self.losses.push(at);
    }

    /// The process of the metadata store is down for so long, and syncs nothing meanwhile.
    pub fn store_down(&mut self, from_us: u64, until_us: u64) {
        self.downs.push(from_us..until_us);
    }

    /// Until when a power loss may take back what the metadata store acknowledged at that time.
    fn soft_until(&self, at_us: u64) -> u64 {
        let soft = if self.excuses.pauses { SOFT_PAUSED_US } else { SOFT_US };
        let mut until = at_us.saturating_add(soft);
        for down in self.downs.iter().filter(|d| d.end > at_us) {
            if down.start <= until {
                until = until.saturating_add(down.end - down.start.max(at_us));
            }
        }
        until
    }

    /// Operations recorded.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Operations that have not returned, those of crashed clients included.
    pub fn waiting(&self) -> Vec<String> {
        let open = |i: &usize| self.ops[*i].told.is_none();
        (0..self.ops.len()).filter(open).map(|i| self.line(i)).collect()
    }

    /// Whether everything that was told was allowed. The first answer that was not, with the
    /// history of its file.
    pub fn judge(&self) -> Result<(), String> {
        let view = settle::View::build(self)?;
        let mut ended: Vec<usize> = (0..self.ops.len()).collect();
        ended.retain(|i| self.ops[*i].told.is_some());
        ended.sort_by_key(|i| self.ops[*i].told.as_ref().map(|t| t.0));
        for i in ended {
            let op = &self.ops[i];
            let Some((at, told)) = &op.told else { continue };
            self.judge_one(&view, i, op, *at, told).map_err(|why| {
                let file = view.file_of(op);
                format!("{}\n  {why}\n{}", self.line(i), self.story(&view, file, op))
            })?;
        }
        view.heard(self)
    }

    fn judge_one(
        &self,
        view: &settle::View,
        i: usize,
        op: &Op,
        ended: Stamp,
        told: &Told,
    ) -> Result<(), String> {
        if op.due_us.is_some_and(|due| ended.at_us > due) {
            return Err("it took longer than it may".into());
        }
        let sight = Sight { op: i, life: op.life, begun: op.begun, ended, since: op.begun };
        if let Told::Failed(failure) = told {
            return self.excused(view, i, op, sight, failure);
        }
        match (&op.act, told) {
            (Act::Create { name, .. }, Told::File { file, length }) => {
                // Other users may have found and written it before its maker was told.
                view.name_may_be(self, *name, None, sight, i)?;
                view.length_may_be(self, *file, (*length, *length), sight)
            }
            (Act::Open { name, .. } | Act::Look { name }, Told::File { file, length }) => {
                view.name_may_be(self, *name, Some(*file), sight, i)?;
                view.length_may_be(self, *file, (*length, *length), sight)
            }
            (Act::Unlink { name }, Told::Done) => view.name_may_be_taken(self, *name, sight, i),
            (Act::Rename { from, to, how }, Told::Done) => {
                view.name_may_be_taken(self, *from, sight, i)?;
                match how {
                    Move::Replace => Ok(()),
                    Move::NoReplace => view.name_may_be(self, *to, None, sight, i),
                    Move::Exchange => view.name_may_be_taken(self, *to, sight, i),
                }
            }
            (Act::List { dir }, Told::Entries(entries)) => {
                view.listing_may_be(self, *dir, entries, sight, i)
            }
            (Act::Write { file, at: None, .. }, Told::Appended { at, len }) => {
                view.append_may_be_at(self, *file, *at, *len, sight)
            }
            (Act::Stat { file }, Told::File { length, .. }) => {
                view.length_may_be(self, *file, (*length, *length), sight)
            }
            (Act::Read { file, from, len }, Told::Bytes(bytes)) => {
                let since = view.opened(op.life, *file, op.begun);
                view.bytes_may_be(self, *file, *from, *len, bytes, Sight { since, ..sight })
            }
            (Act::Write { at: Some(_), .. }, Told::Done)
            | (Act::Cut { .. } | Act::Push { .. } | Act::Close { .. }, Told::Done) => Ok(()),
            (act, told) => Err(format!("{told:?} is no answer to {act:?}")),
        }
    }

    /// One operation as a line.
    fn line(&self, i: usize) -> String {
        let op = &self.ops[i];
        let begun = Seconds(op.begun.at_us);
        let (act, life) = (&op.act, op.life);
        match &op.told {
            None => format!("op {i} of life {life}, {begun}: {act:?}, not answered"),
            Some((at, told)) => {
                let told = match told {
                    Told::Bytes(b) => runs(b),
                    other => format!("{other:?}"),
                };
                format!("op {i} of life {life}, {begun}-{}: {act:?} told {told}", Seconds(at.at_us))
            }
        }
    }

    /// Everything that has to do with a file, or with the names of an operation.
    fn story(&self, view: &settle::View, file: Option<File>, broken: &Op) -> String {
        let mut names = names::names_of(&broken.act);
        if let Act::List { dir } = &broken.act {
            names.extend(view.names.keys().filter(|n| n.dir == *dir));
        }
        let about = |op: &Op| match file.is_some() && view.file_of(op) == file {
            true => true,
            false => names::names_of(&op.act).iter().any(|n| names.contains(n)),
        };
        let mut lines: Vec<(u64, String)> = (0..self.ops.len())
            .filter(|i| about(&self.ops[*i]))
            .map(|i| (self.ops[i].begun.order, format!("    {}", self.line(i))))
            .collect();
        let lost = |s: &Stamp| (s.order, format!("    {}: the store lost power", Seconds(s.at_us)));
        lines.extend(self.losses.iter().map(lost));
        lines.sort();
        let lines: Vec<String> = lines.into_iter().map(|l| l.1).collect();
        format!("  all of it:\n{}", lines.join("\n"))
    }
}

struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// Bytes in short: values and how many of each.
fn runs(bytes: &[u8]) -> String {
    let mut parts: Vec<(u8, usize)> = Vec::new();
    for b in bytes {
        match parts.last_mut() {
            Some((value, n)) if value == b => *n += 1,
            _ => parts.push((*b, 1)),
        }
    }
    let parts: Vec<String> = parts.iter().map(|(value, n)| format!("{value}*{n}")).collect();
    format!("{} bytes [{}]", bytes.len(), parts.join(" "))
}

type ByFile<T> = BTreeMap<File, T>;
