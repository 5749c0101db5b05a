//! Turns at the end of a file: clients that use it together append to it and cut it one after the
//! other.
//!
//! Both take several steps. An append is stored after its place is known, and is part of the file
//! only then: a reader never finds a place that nobody has filled. A cut removes what is stored
//! before it sets the length: no append may be on its way to a place that is cut meanwhile, and
//! given to somebody else. So who appends or cuts takes a turn, in the transaction that gives it
//! its place, and ends it when it is done. Turns are kept under `E`, without an entry when there
//! are none. Those of sessions that are over are passed over.
//!
//! *Appends* go side by side: each has its place behind those before it. The length moves over them
//! in their order. One that was not stored leaves a hole if others are behind it. *A cut* waits for
//! the turns before it, and appends that come wait for the cut: nobody starves.
//!
//! *Duplicates.* The end of a turn is kept under `R` as the answer to the request that took it. One
//! that comes late takes no turn. A client that has to wait asks again under the same number, so
//! that no earlier question of its takes a turn behind its back.
//!
//! A client that is alone takes no turn to append. A cut is tried without one first.

use super::*;
use crate::proto::meta::{Append, Appended, BeginCut};

/// Whether a session is over: nothing of it reaches storage any more.
pub type IsOver<'a> = &'a dyn Fn(SessionId) -> bool;

/// The turns at one file, as a transaction changes them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Turns {
    now: Vec<TurnV1>,
    /// As they are stored.
    stored: usize,
    changed: bool,
}

fn is(turn: &TurnV1, op: RequestId) -> bool {
    (turn.session, turn.seq) == (op.session.0, op.seq)
}

impl Turns {
    pub fn open(inode: InodeId, bytes: Option<&Bytes>) -> Result<Turns, MetaError> {
        let now = match bytes {
            Some(bytes) => TurnsV1::open(inode, bytes)?.turns,
            None => Vec::new(),
        };
        Ok(Turns { stored: now.len(), now, changed: false })
    }

    pub fn store(self, txn: &mut Txn<'_>, inode: InodeId) {
        if self.changed {
            match self.now.is_empty() {
                true if self.stored == 0 => {}
                true => txn.clear(turns_key(inode)),
                false => txn.set(turns_key(inode), TurnsV1 { turns: self.now }.seal()),
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.now.is_empty()
    }

    pub fn has(&self, op: RequestId) -> bool {
        self.now.iter().any(|turn| is(turn, op))
    }

    /// Whether its sender has asked anew since.
    fn has_newer(&self, op: RequestId) -> bool {
        self.now.iter().any(|turn| turn.session == op.session.0 && turn.seq > op.seq)
    }

    /// Whether it is this one's turn.
    pub fn is_first(&self, op: RequestId) -> bool {
        self.now.first().is_some_and(|turn| is(turn, op))
    }

    fn is_cutting(&self) -> bool {
        self.now.iter().any(|turn| turn.at == AtEndV1::Cut)
    }

    /// Where the append of this request goes, if it has its turn.
    fn place(&self, op: RequestId) -> Option<u64> {
        self.now.iter().find(|turn| is(turn, op)).and_then(|turn| match turn.at {
            AtEndV1::Append { from, .. } => Some(from),
            AtEndV1::Cut => None,
        })
    }

    /// Behind all places that are given.
    fn end(&self) -> u64 {
        let end = |turn: &TurnV1| match turn.at {
            AtEndV1::Append { to, .. } => to,
            AtEndV1::Cut => 0,
        };
        self.now.iter().map(end).max().unwrap_or(0)
    }

    fn begin(&mut self, op: RequestId, at: AtEndV1) {
        self.now.push(TurnV1 { session: op.session.0, seq: op.seq, at });
        self.changed = true;
    }

    /// The place that was given to an earlier request for the same append is this one's.
    fn inherit(&mut self, op: RequestId, from: RequestId, len: u64) {
        let unused = |turn: &&mut TurnV1| match turn.at {
            AtEndV1::Append { from, to, stored: None } => to - from == len,
            AtEndV1::Append { .. } | AtEndV1::Cut => false,
        };
        let turn = self.now.iter_mut().find(|turn| is(turn, from)).filter(unused);
        if let Some(turn) = turn {
            turn.seq = op.seq;
            self.changed = true;
        }
    }

    /// A session that asks anew has forgotten what it had begun before, perhaps without ever
    /// hearing of it: what that was. Its place is given anew if nobody is behind it.
    fn forget(&mut self, op: RequestId) -> Vec<RequestId> {
        let own = self.now.iter().filter(|turn| turn.session == op.session.0 && !is(turn, op));
        let own: Vec<RequestId> = own.map(|turn| RequestId { seq: turn.seq, ..op }).collect();
        own.iter().for_each(|op| self.finish(*op, 0));
        let unused = |turn: &TurnV1| matches!(turn.at, AtEndV1::Append { stored: Some(0), .. });
        while self.now.last().is_some_and(unused) {
            self.now.pop();
        }
        own
    }

    /// Its sender is done with this turn; an append is stored up to `end`.
    pub fn finish(&mut self, op: RequestId, end: u64) {
        let Some(place) = self.now.iter().position(|turn| is(turn, op)) else { return };
        match &mut self.now[place].at {
            AtEndV1::Append { stored: Some(_), .. } => return,
            AtEndV1::Append { to, stored, .. } => *stored = Some(end.min(*to)),
            AtEndV1::Cut => drop(self.now.remove(place)),
        }
        self.changed = true;
    }

    /// Takes what is done from the front, and moves the end of the file over it. Whether that
    /// leaves a hole.
    fn pass(&mut self, length: &mut u64, over: IsOver<'_>) -> bool {
        let mut hole = false;
        while let Some(turn) = self.now.first() {
            match turn.at {
                AtEndV1::Append { from, stored: Some(end), .. } => {
                    hole |= end > from && from > *length;
                    *length = end.max(*length);
                }
                _ if over(SessionId(turn.session)) => {}
                _ => break,
            }
            self.now.remove(0);
            self.changed = true;
        }
        hole
    }

    /// The same with the attributes of the file. Whether they have changed.
    pub fn settle(&mut self, attr: &mut Attr, over: IsOver<'_>) -> bool {
        let before = attr.length;
        attr.sparse |= self.pass(&mut attr.length, over);
        attr.length != before
    }
}

/// How the turn that a request took has ended, which is kept as if the request had been refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// As its sender has said.
    Told,
    /// Its session was over: the place may be somebody else's.
    Passed,
}

impl Ended {
    fn of(op: RequestId, recent: Option<&Bytes>) -> Result<Option<Ended>, MetaError> {
        let Some(bytes) = recent else { return Ok(None) };
        let (seq, answer) = open_recent(op, bytes)?;
        let passed = seq == op.seq && answer == Answer::Refused(Ended::Passed.kept_as());
        Ok((seq >= op.seq).then_some(if passed { Ended::Passed } else { Ended::Told }))
    }

    fn kept_as(self) -> MetaError {
        match self {
            Ended::Told => MetaError::Stale,
            Ended::Passed => MetaError::NotFound,
        }
    }

    /// Whatever comes under this request later is told so.
    fn note(self, txn: &mut Txn<'_>, op: RequestId) {
        let ended = seal_refused(op.seq, &self.kept_as()).expect("a refusal that is kept");
        txn.set(recent_key(op), ended);
    }
}

/// Ends a turn. The caller stores the turns.
pub async fn finish(txn: &mut Txn<'_>, turns: &mut Turns, op: RequestId, end: u64) -> Done<Ended> {
    let [recent] = txn.read([&recent_key(op)]).await?;
    let before = Ended::of(op, recent.as_ref())?;
    let ended = before.unwrap_or(if turns.has(op) { Ended::Told } else { Ended::Passed });
    turns.finish(op, end);
    if before.is_none() {
        ended.note(txn, op);
    }
    Ok(ended)
}

/// A file, and who has turns at its end.
async fn read(
    txn: &mut Txn<'_>,
    inode: InodeId,
    op: RequestId,
    earlier: Option<(RequestId, u64)>,
) -> Done<(Inode, Turns)> {
    let keys = [&inode_key(inode), &turns_key(inode), &recent_key(op)];
    let [found, turns, recent] = txn.read(keys).await?;
    let found = Inode::open(inode, found.as_ref().ok_or(MetaError::Stale)?)?;
    layout_of(&found.attr)?;
    let mut turns = Turns::open(inode, turns.as_ref())?;
    if !turns.has(op) && Ended::of(op, recent.as_ref())?.is_some() {
        return Err(MetaError::Stale.into()); // nobody waits for it
    }
    if turns.has_newer(op) {
        return Err(MetaError::Stale.into());
    }
    if let Some((earlier, len)) = earlier.filter(|(earlier, _)| earlier.session == op.session) {
        turns.inherit(op, earlier, len);
        Ended::Told.note(txn, earlier);
    }
    turns.forget(op).into_iter().for_each(|over| Ended::Told.note(txn, over));
    Ok((found, turns))
}

/// Gives the sender the bytes behind the end. `kept`: a client that does not answer may append too.
pub async fn append(txn: &mut Txn<'_>, m: &Append, over: IsOver<'_>, kept: bool) -> Done<Appended> {
    let earlier = m.instead_of.map(|op| (op, m.len));
    let (mut inode, mut turns) = read(txn, m.inode, m.op, earlier).await?;
    let at = |offset| Appended::At { offset, stamp: Stamp::default() };
    if let Some(from) = turns.place(m.op) {
        turns.store(txn, m.inode);
        return Ok(at(from));
    }
    if turns.settle(&mut inode.attr, over) {
        store(txn, &mut inode);
    }
    let mut from = inode.attr.length.max(turns.end());
    if txn.is_planted(PlantedBug::AppendAtKnownEnd) {
        return Ok(at(inode.attr.length));
    }
    if m.truncations >= inode.attr.truncations {
        from = from.max(m.end);
    } else if m.end > 0 {
        turns.store(txn, m.inode);
        return Ok(Appended::Stale(inode.attr));
    }
    let to = from.checked_add(m.len).ok_or(MetaError::FileTooLarge)?;
    check_length(layout_of(&inode.attr)?, to)?;
    let waits = turns.is_cutting() || kept;
    if !waits {
        turns.begin(m.op, AtEndV1::Append { from, to, stored: None });
    }
    turns.store(txn, m.inode);
    Ok(if waits { Appended::Waits } else { at(from) })
}

/// Has the sender wait for its turn to cut.
pub async fn begin_cut(txn: &mut Txn<'_>, m: &BeginCut, over: IsOver<'_>) -> Done<bool> {
    let (mut inode, mut turns) = read(txn, m.inode, m.op, None).await?;
    if turns.settle(&mut inode.attr, over) {
        store(txn, &mut inode);
    }
    if !turns.has(m.op) {
        turns.begin(m.op, AtEndV1::Cut);
    }
    let first = turns.is_first(m.op);
    turns.store(txn, m.inode);
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: IsOver<'_> = &|_| false;

    fn op(session: u64, seq: u64) -> RequestId {
        RequestId { session: SessionId(session), seq }
    }

    fn append(from: u64, to: u64) -> AtEndV1 {
        AtEndV1::Append { from, to, stored: None }
    }

    /// Goal: an append that is asked for under another number has the place that a question of its,
    /// which came late, was given; another append has not. Regression (seeds 3073255, 5022869): the
    /// place was ended with nothing in it, and others were behind it: a hole of zeros.
    #[test]
    fn a_place_is_inherited() {
        let mut turns = Turns::default();
        turns.begin(op(1, 1), append(5, 10));
        turns.begin(op(2, 1), append(10, 20));
        turns.inherit(op(1, 2), op(1, 1), 4);
        assert_eq!(turns.place(op(1, 2)), None, "it is not as long");
        turns.inherit(op(1, 2), op(1, 1), 5);
        assert_eq!((turns.place(op(1, 1)), turns.place(op(1, 2))), (None, Some(5)));
        assert_eq!(turns.forget(op(1, 2)), []);
        turns.finish(op(1, 2), 10);
        turns.inherit(op(1, 3), op(1, 2), 5);
        assert_eq!(turns.place(op(1, 3)), None, "what is stored is in its place");
    }

    /// Goal: the length moves over appends in the order of their places, whichever is stored first.
    #[test]
    fn the_length_moves_in_order() {
        let (mut turns, mut length) = (Turns::default(), 5);
        turns.begin(op(1, 1), append(5, 10));
        turns.begin(op(2, 1), append(10, 20));
        turns.finish(op(2, 1), 20);
        assert!(!turns.pass(&mut length, NONE) && turns.has(op(2, 1)));
        assert_eq!((length, turns.end()), (5, 20));
        turns.finish(op(1, 1), 10);
        assert!(!turns.pass(&mut length, NONE) && turns.is_empty());
        assert_eq!(length, 20);
    }

    /// Goal: what was not stored is a hole if others are behind it, and else is given anew.
    #[test]
    fn an_append_that_failed_leaves_a_hole_only_before_others() {
        let (mut turns, mut length) = (Turns::default(), 5);
        turns.begin(op(1, 1), append(5, 10));
        turns.finish(op(1, 1), 0);
        assert!(!turns.pass(&mut length, NONE) && turns.is_empty());
        assert_eq!((length, turns.end()), (5, 0));
        turns.begin(op(1, 2), append(5, 10));
        turns.begin(op(2, 1), append(10, 20));
        turns.finish(op(1, 2), 0);
        turns.finish(op(2, 1), 20);
        assert!(turns.pass(&mut length, NONE));
        assert_eq!(length, 20);
    }

    /// Goal: nobody waits for a session that has ended, nor for what a session has forgotten.
    #[test]
    fn who_has_left_is_passed_over() {
        let (mut turns, mut length) = (Turns::default(), 0);
        turns.begin(op(1, 1), AtEndV1::Cut);
        turns.begin(op(2, 1), append(0, 10));
        turns.begin(op(3, 1), append(10, 20));
        assert_eq!(turns.forget(op(3, 2)), [op(3, 1)]);
        turns.begin(op(3, 2), AtEndV1::Cut);
        assert!(!turns.is_first(op(2, 1)) && turns.is_cutting());
        turns.pass(&mut length, &|session| session == SessionId(1));
        assert!(turns.is_first(op(2, 1)));
        turns.pass(&mut length, &|session| session != SessionId(3));
        assert!(turns.is_first(op(3, 2)), "its own append is over");
        turns.finish(op(3, 2), 0);
        assert!(turns.is_empty());
        assert_eq!(length, 0);
    }
}
