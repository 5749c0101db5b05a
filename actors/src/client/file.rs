//! What a client knows of one file that is open or has data on its way: the synchronous core.
//!
//! Three layers make up what a user of this client sees. `known` is the inode as meta last told it.
//! `stored` is what this client has written, storage has acknowledged, and meta does not know yet.
//! `chunks` are bytes that have not reached storage. The length is the largest of the three, the
//! time of the last write that of the latest.
//!
//! *Cuts.* Another client may cut the file at any time; meta counts cuts (`Attr::truncations`).
//! What was stored before a cut that this client learns of may have gone with it, so it is moved
//! from `stored` to `doubtful`, and is claimed again only as far as storage says that it is there
//! ([`FileCore::settle_doubt`]).
//!
//! *Turns.* A client that is not alone appends and cuts in turn with others (`meta/ops/turns.rs`).
//! What lands while its append is under way is told with the end of the turn, not before: others
//! may have their places before it. The turn ends when nothing of it is on its way any more, also
//! if the program has not waited for that: its place is not given to others before.
//!
//! *Errors of writes in the background* are counted, and every handle remembers the count it has
//! been told of, as Linux does it (`errseq_t`): each handle that was open when a write failed hears
//! of it once, at fsync or close. Lost bytes never become part of the length.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bytes::Bytes;
use t3fs_runtime::Time;

use super::FsError;
use super::chunk::ChunkBuffer;
use super::gate::Gate;
use crate::proto::ids::{InodeId, RequestId, SessionId};
use crate::proto::meta::{Attr, Stamp};

/// One open of a file by one program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct HandleId(pub u64);

#[derive(Clone, Copy, Debug)]
struct Handle {
    /// Errors that this handle has been told of, or that were before it.
    told: u64,
}

/// The hold by which meta keeps the file's content for this client, and whether it is one of a
/// writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hold {
    pub(super) session: SessionId,
    pub(super) write: bool,
    /// The store may have lost it.
    pub(super) doubtful: bool,
}

impl Hold {
    pub(super) fn new(session: SessionId, write: bool) -> Hold {
        Hold { session, write, doubtful: false }
    }
}

/// What meta is to be told of writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Unreported {
    /// Behind the last byte that storage has acknowledged; 0 when there is none.
    pub(super) end: u64,
    /// Time of the last write.
    pub(super) mtime_ns: Option<i64>,
    pub(super) clear_suid: bool,
    /// A write left a hole.
    pub(super) sparse: bool,
}

impl Unreported {
    fn is_empty(&self) -> bool {
        *self == Unreported::default()
    }

    /// Both together, `earlier` having come before.
    fn after(self, earlier: Unreported) -> Unreported {
        Unreported {
            end: self.end.max(earlier.end),
            mtime_ns: self.mtime_ns.or(earlier.mtime_ns),
            clear_suid: self.clear_suid || earlier.clear_suid,
            sparse: self.sparse || earlier.sparse,
        }
    }
}

/// The turn of this client at the end of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Turn {
    op: RequestId,
    /// The turn is to append; else to cut.
    appends: bool,
    /// The turn is an append that has its place: what lands is part of that.
    placed: bool,
    /// The task that took the turn has gone.
    left: bool,
    /// Behind the last byte of its append that is buffered, until it counts as stored.
    end: u64,
    /// Behind the last one that is stored for sure.
    stored: u64,
    /// What is between the two could not be stored.
    failed: bool,
}

impl Turn {
    /// What meta is told of its append when nothing of it is on its way any more.
    fn told(&self) -> u64 {
        if self.failed { self.stored } else { self.end }
    }
}

/// A turn that meta is told to be over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OverTurn {
    pub(super) op: RequestId,
    /// Behind what is stored of its append; 0 for nothing.
    pub(super) end: u64,
}

/// In which session's name what is buffered goes where it was appended: to nobody else's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Placed {
    Under(SessionId),
    /// That session is over, and others may have appended in the same place.
    Lost,
}

/// A file that is open or has data on its way.
pub(super) struct File {
    pub(super) core: RefCell<FileCore>,
    /// Truncation is alone; writes, reads and flushes go side by side.
    pub(super) gate: Gate,
    /// A report in the background is under way.
    pub(super) reporter: Cell<bool>,
}

impl File {
    pub(super) fn new(attr: Attr) -> File {
        File {
            core: RefCell::new(FileCore::new(attr)),
            gate: Gate::default(),
            reporter: Cell::new(false),
        }
    }
}

pub(super) struct FileCore {
    known: Attr,
    stored: Unreported,
    doubtful: Option<Unreported>,
    /// A report is under way that speaks for this much.
    reporting: Option<Unreported>,
    pub(super) chunks: BTreeMap<u32, ChunkBuffer>,
    handles: BTreeMap<HandleId, Handle>,
    errors: u64,
    last_error: Option<FsError>,
    pub(super) hold: Option<Hold>,
    turn: Option<Turn>,
    /// What is buffered has been appended.
    placed: Option<Placed>,
    /// More of the append is still to be buffered.
    appending: bool,
    /// Somebody else has cut the file, and the kernel does not know.
    cut_elsewhere: bool,
    /// A truncation is under way: until it is done users see this much of what is this client's
    /// own.
    shown_end: u64,
    /// The inode does not exist any more though this client has it open.
    gone: bool,
    reading: Sequence,
}

impl FileCore {
    fn new(attr: Attr) -> FileCore {
        FileCore {
            known: attr,
            stored: Unreported::default(),
            doubtful: None,
            reporting: None,
            chunks: BTreeMap::new(),
            handles: BTreeMap::new(),
            errors: 0,
            last_error: None,
            hold: None,
            turn: None,
            placed: None,
            appending: false,
            cut_elsewhere: false,
            shown_end: 0,
            gone: false,
            reading: Sequence::default(),
        }
    }

    pub(super) fn inode(&self) -> InodeId {
        self.known.inode
    }

    /// The file may have holes, as far as is known here.
    pub(super) fn is_sparse(&self) -> bool {
        let unreported = [Some(self.stored), self.doubtful, self.reporting];
        self.known.sparse || unreported.into_iter().flatten().any(|u| u.sparse)
    }

    /// The inode as meta last told it.
    pub(super) fn known(&self) -> &Attr {
        &self.known
    }

    /// A program has read; whether `moves` says that the time of access follows.
    pub(super) fn was_read(&mut self, now_ns: i64, moves: impl FnOnce(&Attr) -> bool) -> bool {
        let moved = moves(&self.known);
        if moved {
            self.known.atime_ns = now_ns;
        }
        moved
    }

    /// Behind the last byte that this client has written and meta does not count yet. An append in
    /// its turn is no part of the file before it is stored, and those before it are.
    pub(super) fn own_end(&self) -> u64 {
        let size = self.known.layout.as_ref().map_or(0, |l| u64::from(l.chunk_size));
        let in_turn = self.turn.is_some_and(|turn| turn.placed);
        let buffered = self.chunks.iter().next_back().filter(|_| !in_turn);
        let buffered = buffered.map_or(0, |(i, c)| u64::from(*i) * size + u64::from(c.end()));
        let doubtful = self.doubtful.map_or(0, |d| d.end);
        let reporting = self.reporting.map_or(0, |r| r.end);
        buffered.max(self.stored.end).max(doubtful).max(reporting)
    }

    /// As this client's users see it.
    pub(super) fn length(&self) -> u64 {
        self.known.length.max(self.own_end()).max(self.shown_end)
    }

    /// A truncation begins: it takes away piece by piece what users see until it is done.
    pub(super) fn begin_cut(&mut self) {
        self.shown_end = self.own_end();
    }

    /// The cut is done, or has failed.
    pub(super) fn end_cut(&mut self) {
        self.shown_end = 0;
    }

    /// As this client's users see it.
    pub(super) fn attr(&self) -> Attr {
        let mut attr = self.known.clone();
        attr.length = self.length();
        attr.sparse |= self.stored.sparse;
        if let Some(ns) = self.unreported_time() {
            attr.mtime_ns = attr.mtime_ns.max(ns);
            attr.ctime_ns = attr.ctime_ns.max(ns);
        }
        attr
    }

    fn unreported_time(&self) -> Option<i64> {
        let reporting = self.reporting.and_then(|r| r.mtime_ns);
        self.stored.mtime_ns.or(reporting).or(self.doubtful.and_then(|d| d.mtime_ns))
    }

    /// Takes an answer of meta. One that was overtaken by what is known changes nothing.
    pub(super) fn merge(&mut self, fresh: Attr) {
        debug_assert_eq!(fresh.inode, self.known.inode);
        let (run, known_run) = (fresh.as_of.run(), self.known.as_of.run());
        // In a later run of the store changes may have been lost and their numbers been given anew.
        let overtaken = match fresh.as_of != Stamp::default() && run != known_run {
            true => run < known_run,
            false => fresh.changes < self.known.changes,
        };
        if overtaken {
            return;
        }
        if fresh.truncations > self.known.truncations {
            self.cut_elsewhere = true;
            self.doubt();
            // What is buffered behind the new end leaves a hole before it.
            self.stored.sparse |= !self.chunks.is_empty();
        }
        let as_of = fresh.as_of.max(self.known.as_of);
        self.known = Attr { as_of, ..fresh };
    }

    /// Whether somebody else has cut the file since this was asked last: what the kernel remembers
    /// of its content is old.
    pub(super) fn take_cut_elsewhere(&mut self) -> bool {
        std::mem::take(&mut self.cut_elsewhere)
    }

    /// The client has a turn at the end of the file, or may have one soon.
    pub(super) fn begin_turn(&mut self, op: RequestId, appends: bool) {
        let (placed, left, end, stored, failed) = (false, false, 0, 0, false);
        self.turn = Some(Turn { op, appends, placed, left, end, stored, failed });
    }

    /// The turn to append has come to this client.
    pub(super) fn take_place(&mut self) {
        self.turn = self.turn.map(|turn| Turn { placed: true, ..turn });
    }

    /// An append is buffered up to here in the place that goes with the turn; what was buffered
    /// before is stored.
    pub(super) fn fill_turn(&mut self, end: u64) {
        self.turn = self.turn.map(|turn| Turn { end, stored: turn.end, ..turn });
    }

    /// The task that took the turn has done what there was to do, or has given up.
    pub(super) fn leave_turn(&mut self) {
        self.turn = self.turn.map(|turn| Turn { left: true, ..turn });
        self.end_append(); // perhaps nothing was buffered
    }

    /// Forgets the buffer of a chunk in which nothing is left.
    pub(super) fn drop_clean(&mut self, index: u32) {
        if self.chunks.get(&index).is_some_and(ChunkBuffer::is_clean) {
            self.chunks.remove(&index);
        }
        self.end_placed();
    }

    /// Nothing that was appended is on its way any more, unless there is.
    fn end_placed(&mut self) {
        if self.chunks.is_empty() && !self.appending {
            self.placed = None;
        }
    }

    /// What is buffered from now on, until `end_append`, is appended in a session's name. `false`:
    /// another's is still on its way.
    pub(super) fn place(&mut self, session: SessionId) -> bool {
        let is_placed =
            *self.placed.get_or_insert(Placed::Under(session)) == Placed::Under(session);
        self.appending |= is_placed;
        is_placed
    }

    /// All of an append is buffered, or given up. Until then what lands of it says nothing about
    /// the rest.
    pub(super) fn end_append(&mut self) {
        self.appending = false;
        self.end_placed();
    }

    /// What becomes of appends on their way, if there are any.
    pub(super) fn placed(&self) -> Option<Placed> {
        self.placed
    }

    /// Appends on their way are in the name of a session that is not this one.
    pub(super) fn is_adrift(&self, session: SessionId) -> bool {
        let under = |p| matches!(p, Placed::Under(under) if under != session);
        self.placed.is_some_and(under)
    }

    /// What was placed goes on in the name of another session, or not at all.
    pub(super) fn replace(&mut self, placed: Placed) {
        self.placed = self.placed.and(Some(placed));
    }

    /// There is a turn whose program has given it up.
    pub(super) fn is_leaving_turn(&self) -> bool {
        self.turn.is_some_and(|turn| turn.left)
    }

    /// The turn whose end meta is to be told: nothing of it is on its way any more.
    fn turn_over(&self) -> Option<Turn> {
        self.turn.filter(|turn| turn.left && self.chunks.is_empty())
    }

    /// The turn that meta has not been told the end of.
    pub(super) fn open_turn(&self) -> Option<RequestId> {
        self.turn.map(|turn| turn.op)
    }

    /// Meta knows that this turn is over, or there never was one.
    pub(super) fn forget_turn(&mut self, op: RequestId) {
        self.turn = self.turn.filter(|turn| turn.op != op);
    }

    /// Takes the answer to a question that was asked after everything that is known was: it is how
    /// the inode is, even if the store has lost changes since.
    pub(super) fn look(&mut self, fresh: Attr) {
        if fresh.truncations != self.known.truncations {
            self.doubt();
        }
        self.known = fresh;
    }

    /// Takes the answer to this client's own truncation, which nothing was beside: it has set the
    /// length and the times. That setuid has to go, and that there are holes, is still to be told.
    pub(super) fn cut(&mut self, attr: Attr) {
        let as_of = attr.as_of.max(self.known.as_of);
        self.known = Attr { as_of, ..attr };
        let clear_suid = self.stored.clear_suid;
        let sparse = self.is_sparse() && !self.known.sparse && self.known.length > 0;
        self.forget_unreported();
        self.turn = self.turn.filter(|turn| turn.appends); // its own is over with it
        (self.stored.clear_suid, self.stored.sparse) = (clear_suid, sparse);
    }

    /// The file was cut by somebody: what was stored before may be gone.
    fn doubt(&mut self) {
        let reporting = self.reporting.unwrap_or_default();
        if self.stored.end > 0 || reporting.end > 0 {
            let earlier = reporting.after(self.doubtful.take().unwrap_or_default());
            self.doubtful = Some(std::mem::take(&mut self.stored).after(earlier));
            self.reporting = None;
        }
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.is_some()
    }

    /// Storage says where the content ends; what is behind it was cut.
    pub(super) fn settle_doubt(&mut self, stored_end: u64) {
        if let Some(mut d) = self.doubtful.take() {
            d.end = d.end.min(stored_end);
            // What was written before the part that is left may be gone.
            d.sparse |= d.end > self.known.length;
            self.stored = self.stored.after(d);
        }
    }

    /// A program has written, at this wall time.
    pub(super) fn wrote(&mut self, now_ns: i64, privileged: bool, hole: bool) {
        self.stored.mtime_ns = Some(self.stored.mtime_ns.map_or(now_ns, |t| t.max(now_ns)));
        self.stored.clear_suid |= !privileged;
        self.stored.sparse |= hole;
    }

    /// A flight that took off when the file had this many truncations has been stored up to `end`.
    pub(super) fn landed(&mut self, end: u64, truncations: u64) {
        if self.turn.is_some_and(|turn| turn.placed) {
            return; // all of it counts together
        }
        if truncations == self.known.truncations {
            self.stored.end = self.stored.end.max(end);
        } else {
            self.doubtful.get_or_insert_default().end = self.doubtful.map_or(0, |d| d.end).max(end);
        }
    }

    /// Whether meta lacks anything: the length only, or anything at all.
    pub(super) fn length_unreported(&self) -> bool {
        let appended = self.turn_over().is_some_and(|turn| turn.told() > 0);
        let end = self.stored.end.max(self.reporting.map_or(0, |r| r.end));
        appended || self.doubtful.is_some() || end > self.known.length
    }

    pub(super) fn unreported(&self) -> bool {
        !self.gone
            && (self.doubtful.is_some()
                || self.reporting.is_some()
                || self.turn_over().is_some()
                || !self.stored.is_empty())
    }

    /// What a report that leaves now speaks for, and the turn that is over with it. A report that
    /// another one overtakes is harmless.
    pub(super) fn begin_report(&mut self) -> (Unreported, Option<OverTurn>) {
        let over = self.turn_over();
        let claim = std::mem::take(&mut self.stored).after(self.reporting.unwrap_or_default());
        self.reporting = Some(claim);
        (claim, over.map(|turn| OverTurn { op: turn.op, end: turn.told() }))
    }

    /// Ends a report. `taken`: meta knows all of it; else it goes back to what is unreported. While
    /// a report is under way its content still counts as unreported: an fsync beside it sends its
    /// own.
    pub(super) fn end_report(&mut self, claim: Unreported, taken: bool) {
        if taken {
            // A later report of the same, still under way, has nothing to add but what is in
            // `stored`.
            if self.reporting == Some(claim) {
                self.reporting = None;
            }
            return;
        }
        if let Some(r) = self.reporting.take() {
            self.stored = self.stored.after(r);
        }
    }

    /// Takes everything for reported that is not; only a deliberate bug does that.
    pub(super) fn forget_unreported(&mut self) {
        (self.stored, self.doubtful, self.reporting) = (Unreported::default(), None, None);
    }

    /// The inode is gone. Whoever has it open learns that at fsync or close.
    pub(super) fn lose(&mut self) {
        if !self.gone {
            self.gone = true;
            self.fail(FsError::Stale);
        }
        self.forget_unreported();
        self.turn = None; // gone with the inode
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// A write in the background has failed. What was written behind it leaves a hole.
    pub(super) fn fail(&mut self, why: FsError) {
        self.stored.sparse = true;
        self.errors += 1;
        self.last_error = Some(why);
    }

    /// The same of bytes in flight.
    pub(super) fn fail_flight(&mut self, why: FsError) {
        if let Some(turn) = self.turn.as_mut().filter(|turn| turn.placed) {
            turn.failed = true;
        }
        self.fail(why);
    }

    /// Background failures so far.
    pub(super) fn failures(&self) -> u64 {
        self.errors
    }

    /// The error that came after the first `count`, if there is one.
    pub(super) fn failed_since(&self, count: u64) -> Result<(), FsError> {
        match &self.last_error {
            Some(e) if self.errors > count => Err(e.clone()),
            _ => Ok(()),
        }
    }

    /// The store has lost changes, the hold perhaps among them.
    pub(super) fn doubt_hold(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.doubtful = true;
        }
    }

    /// Tells a handle what it has not heard.
    pub(super) fn hear(&mut self, handle: HandleId) -> Result<(), FsError> {
        let Some(h) = self.handles.get_mut(&handle) else { return Ok(()) };
        let told = std::mem::replace(&mut h.told, self.errors);
        self.failed_since(told)
    }

    pub(super) fn add_handle(&mut self, handle: HandleId) {
        self.handles.insert(handle, Handle { told: self.errors });
    }

    pub(super) fn remove_handle(&mut self, handle: HandleId) {
        self.handles.remove(&handle);
    }

    /// Somebody has it open.
    pub(super) fn is_open(&self) -> bool {
        !self.handles.is_empty()
    }

    /// Nobody has it open, nothing is on its way, and meta keeps nothing for it.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_open() && !self.is_busy() && self.hold.is_none()
    }

    /// Something is on its way.
    pub(super) fn is_busy(&self) -> bool {
        let on_its_way = !self.chunks.is_empty() || self.placed.is_some() || self.turn.is_some();
        self.unreported() || on_its_way
    }

    /// A read came; whether the next one in sequence is foreseen.
    pub(super) fn goes_on(&mut self, offset: u64, len: u64) -> bool {
        self.reading.goes_on(offset, len)
    }

    /// Moves the next range of a chunk into flight: where it begins, its bytes, and the number of
    /// truncations by which [`FileCore::landed`] judges it.
    pub(super) fn take_off(&mut self, index: u32) -> Option<(u32, Bytes, u64)> {
        let (start, data) = self.chunks.get_mut(&index)?.take_off()?;
        Some((start, data, self.known.truncations))
    }

    /// Chunks whose oldest dirty byte is at least that old and that have no flight.
    pub(super) fn due(&self, now: Time, age: core::time::Duration) -> Vec<u32> {
        let due = |c: &ChunkBuffer| {
            !c.is_flying() && c.oldest().is_some_and(|since| now.since(since) >= age)
        };
        self.chunks.iter().filter(|(_, c)| due(c)).map(|(i, _)| *i).collect()
    }
}

/// Whether reads come one behind the other.
#[derive(Clone, Copy, Default)]
struct Sequence {
    next: u64,
    reads: u32,
}

impl Sequence {
    /// Reads in sequence before the next one is foreseen.
    const READS: u32 = 2;

    /// A read came; whether the next one is foreseen.
    fn goes_on(&mut self, offset: u64, len: u64) -> bool {
        self.reads = if offset == self.next { self.reads.saturating_add(1) } else { 1 };
        self.next = offset + len;
        self.reads >= Self::READS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::meta::FileType;

    fn attr(changes: u64, truncations: u64, length: u64) -> Attr {
        Attr {
            inode: InodeId(1),
            kind: FileType::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            length,
            truncations,
            times_set: 0,
            changes,
            sparse: false,
            birth_ns: 0,
            layout: None,
            as_of: Stamp::default(),
        }
    }

    /// Regression (review): a listing that was read before a truncation and arrived after it put
    /// the old length back, and what was written next was never reported.
    #[test]
    fn an_answer_that_was_overtaken_changes_nothing() {
        let mut f = FileCore::new(attr(3, 1, 0));
        f.merge(attr(2, 0, 1000));
        assert_eq!(f.length(), 0);
        f.merge(attr(4, 1, 10));
        assert_eq!(f.length(), 10);
        f.merge(attr(5, 2, 5));
        assert_eq!(f.length(), 5);
    }

    /// Regression (check `files`, seed 851): after a loss of power the store counts changes from
    /// where it was before; answers with smaller numbers were taken for old ones, an append among
    /// them.
    #[test]
    fn a_later_run_of_the_store_counts_anew() {
        let mut f = FileCore::new(attr(9, 0, 100));
        let as_of = Stamp(1 << 40);
        f.merge(Attr { as_of, ..attr(7, 0, 40) });
        assert_eq!(f.length(), 40);
        f.merge(Attr { as_of, ..attr(6, 0, 30) });
        assert_eq!(f.length(), 40);
        f.merge(Attr { as_of: Stamp(5), ..attr(11, 0, 200) }); // late, and lost
        assert_eq!(f.length(), 40);
        f.merge(attr(6, 0, 20)); // kept by the store as the answer to an earlier attempt
        assert_eq!(f.length(), 40);
    }

    /// Goal: what was stored before a cut by another client is claimed as far as it is there, what
    /// was stored after it whole. Method: a flight that takes off before the cut is known and one
    /// that takes off after it.
    #[test]
    fn a_cut_elsewhere_puts_what_was_stored_in_doubt() {
        let mut f = FileCore::new(attr(1, 0, 0));
        f.wrote(7, true, false);
        f.landed(100, 0);
        assert_eq!((f.length(), f.is_doubtful()), (100, false));
        f.merge(attr(2, 1, 0));
        assert!(f.is_doubtful() && f.unreported());
        f.landed(40, 0); // took off before the cut was known
        f.landed(20, 1);
        f.settle_doubt(30);
        assert_eq!((f.length(), f.is_doubtful()), (30, false));
        let (claim, _) = f.begin_report();
        assert_eq!((claim.end, claim.mtime_ns), (30, Some(7)));
        f.end_report(claim, true);
        assert!(!f.unreported());
    }

    /// Goal: a report that a cut makes stale while it is under way loses nothing and claims nothing
    /// that is gone, in whichever order the answers come.
    #[test]
    fn a_report_under_way_is_doubted_too() {
        let mut f = FileCore::new(attr(1, 0, 0));
        f.landed(100, 0);
        let (claim, _) = f.begin_report();
        f.merge(attr(2, 1, 0)); // a getattr tells of the cut first
        assert!(f.is_doubtful());
        f.end_report(claim, false);
        f.settle_doubt(0);
        assert_eq!(f.length(), 0);
        assert!(!f.unreported(), "nothing is left to tell");
    }

    /// Goal: an append is told as it was stored, however often. Regression (review, issue 10): what
    /// another program's writes met while it waited for its turn counted as a failure of its own,
    /// so that it was no part of the file though it was acknowledged; and only the first report of
    /// it told its end.
    #[test]
    fn a_turn_tells_what_was_stored_in_it() {
        let op = RequestId { session: SessionId(1), seq: 1 };
        let mut f = FileCore::new(attr(1, 0, 50));
        f.begin_turn(op, true);
        f.fail_flight(FsError::NoSpace); // somebody else's
        f.take_place();
        f.chunks.entry(0).or_default().put(50, &Bytes::from_static(b"abc"), 64, Time::from_us(1));
        assert_eq!(f.length(), 50, "it may fail yet");
        f.chunks.clear();
        f.fill_turn(60);
        f.landed(60, 0);
        assert_eq!(f.begin_report().1, None, "it is not over");
        f.leave_turn();
        for _ in 0..2 {
            let (claim, over) = f.begin_report();
            assert_eq!((claim.end, over), (0, Some(OverTurn { op, end: 60 })));
            f.end_report(claim, false);
        }
        f.forget_turn(op);
        f.begin_turn(op, true);
        f.take_place();
        f.fill_turn(60);
        f.landed(60, 0);
        f.fill_turn(70); // the second of two chunks
        f.fail_flight(FsError::NoSpace);
        f.leave_turn();
        assert_eq!(f.begin_report().1, Some(OverTurn { op, end: 60 }));
    }

    /// Regression (review): a report counted as done when it left, so that an fsync beside it had
    /// nothing to say; and what it was to say was forgotten when it failed.
    #[test]
    fn a_report_under_way_counts_as_unreported() {
        let mut f = FileCore::new(attr(1, 0, 0));
        f.wrote(7, false, false);
        f.landed(10, 0);
        let (first, _) = f.begin_report();
        assert!(f.length_unreported());
        let (second, _) = f.begin_report();
        assert_eq!(first, second, "the later one says all that the earlier one does");
        f.end_report(first, false);
        assert!(f.unreported() && f.begin_report().0.clear_suid);
    }

    /// Goal: each handle that was open hears of a failure once, one that is opened later does not,
    /// and lost bytes are no length (Linux, `errseq_t`).
    #[test]
    fn every_open_handle_hears_of_a_failure_once() {
        let mut f = FileCore::new(attr(1, 0, 0));
        let [a, b, c] = [1, 2, 3].map(HandleId);
        f.add_handle(a);
        f.add_handle(b);
        f.fail(FsError::NoSpace);
        f.add_handle(c);
        assert_eq!(f.hear(a), Err(FsError::NoSpace));
        assert_eq!(f.hear(a), Ok(()));
        assert_eq!(f.hear(b), Err(FsError::NoSpace));
        assert_eq!(f.hear(c), Ok(()));
        assert_eq!(f.length(), 0);
    }

    /// Goal: users of a client see their own writes at once, wherever these are.
    #[test]
    fn the_length_counts_what_is_buffered() {
        let layout = Some(crate::proto::meta::Layout {
            chunk_size: 64,
            stripes: crate::proto::meta::Stripes::List { chains: Vec::new() },
        });
        let mut f = FileCore::new(Attr { layout, ..attr(1, 0, 10) });
        let data = Bytes::from_static(b"abc");
        f.chunks.entry(2).or_default().put(4, &data, 64, Time::from_us(1));
        assert_eq!((f.length(), f.known().length), (2 * 64 + 7, 10));
        f.chunks.clear(); // as a failed flight leaves it
        assert_eq!(f.length(), 10);
    }
}
