//! Turns at the end of a file: clients that use it together append to it and cut it one after the
//! other.
//!
//! Both take several steps. An append is stored after its place is known, and is part of the file
//! only then: a reader never finds a place that nobody has filled. A cut removes what is stored
//! before it sets the length: no append may be on its way to a place that is cut meanwhile, and
//! given to somebody else. So who appends or cuts takes a turn, in the transaction that gives it
//! its place, and ends it when it is done. Turns are kept under `E`, without an entry when there
//! are none. Those of ended sessions are passed over.
//!
//! *Appends* go side by side: each has its place behind those before it. The length moves over them
//! in their order. One that was not stored leaves a hole if others are behind it. *A cut* waits for
//! the turns before it, and appends that come wait for the cut: nobody starves.
//!
//! *Duplicates.* The end of a turn is kept under `R` as the answer to the request that took it. One
//! that comes late takes no turn.
//!
//! A client that is alone takes no turn to append. A cut is tried without one first.

use super::*;
use crate::proto::meta::{Append, Appended, BeginCut};

/// Whether a session lives, as far as is known.
pub type Alive<'a> = &'a dyn Fn(SessionId) -> bool;

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

    /// A session that begins anew has forgotten what it had begun before: what that was.
    fn begin(&mut self, op: RequestId, at: AtEndV1) -> Vec<RequestId> {
        let own = self.now.iter().filter(|turn| turn.session == op.session.0);
        let own: Vec<RequestId> = own.map(|turn| RequestId { seq: turn.seq, ..op }).collect();
        own.iter().for_each(|op| self.finish(*op, 0));
        self.now.push(TurnV1 { session: op.session.0, seq: op.seq, at });
        self.changed = true;
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
    fn pass(&mut self, length: &mut u64, alive: Alive<'_>) -> bool {
        let mut hole = false;
        while let Some(turn) = self.now.first() {
            match turn.at {
                AtEndV1::Append { from, stored: Some(end), .. } => {
                    hole |= end > from && from > *length;
                    *length = end.max(*length);
                }
                _ if !alive(SessionId(turn.session)) => {}
                _ => break,
            }
            self.now.remove(0);
            self.changed = true;
        }
        hole
    }

    /// The same with the attributes of the file. Whether they have changed.
    pub fn settle(&mut self, attr: &mut Attr, alive: Alive<'_>) -> bool {
        let before = attr.length;
        attr.sparse |= self.pass(&mut attr.length, alive);
        attr.length != before
    }
}

/// Whether the turn that a request took is over.
fn is_over(op: RequestId, recent: Option<&Bytes>) -> Result<bool, MetaError> {
    recent.map_or(Ok(false), |bytes| Ok(open_recent(op, bytes)?.0 >= op.seq))
}

/// Notes that the turn of a request is over.
fn note_over(txn: &mut Txn<'_>, op: RequestId) {
    let over = seal_refused(op.seq, &MetaError::Stale).expect("a refusal that is kept");
    txn.set(recent_key(op), over);
}

fn begin(txn: &mut Txn<'_>, turns: &mut Turns, op: RequestId, at: AtEndV1) {
    turns.begin(op, at).into_iter().for_each(|over| note_over(txn, over));
}

/// Ends a turn. The caller stores the turns.
pub async fn finish(
    txn: &mut Txn<'_>,
    turns: &mut Turns,
    op: RequestId,
    end: u64,
) -> Result<(), Stop<MetaError>> {
    turns.finish(op, end);
    let [recent] = txn.read([&recent_key(op)]).await?;
    if !is_over(op, recent.as_ref())? {
        note_over(txn, op);
    }
    Ok(())
}

/// A file, and who has turns at its end.
async fn read(txn: &mut Txn<'_>, inode: InodeId, op: RequestId) -> Done<(Inode, Turns)> {
    let keys = [&inode_key(inode), &turns_key(inode), &recent_key(op)];
    let [found, turns, recent] = txn.read(keys).await?;
    let found = Inode::open(inode, found.as_ref().ok_or(MetaError::Stale)?)?;
    attr::layout_of(&found.attr)?;
    let turns = Turns::open(inode, turns.as_ref())?;
    if !turns.has(op) && is_over(op, recent.as_ref())? {
        return Err(MetaError::Stale.into()); // nobody waits for it
    }
    Ok((found, turns))
}

/// Gives the sender the bytes behind the end. `kept`: a client that does not answer may append too.
pub async fn append(
    txn: &mut Txn<'_>,
    m: &Append,
    alive: Alive<'_>,
    kept: bool,
    bug: Option<PlantedBug>,
) -> Done<Appended> {
    let (mut inode, mut turns) = read(txn, m.inode, m.op).await?;
    let at = |offset| Appended::At { offset, stamp: Stamp::default() };
    if let Some(from) = turns.place(m.op) {
        return Ok(at(from));
    }
    if turns.settle(&mut inode.attr, alive) {
        store(txn, &mut inode);
    }
    let mut from = inode.attr.length.max(turns.end());
    if bug == Some(PlantedBug::AppendAtKnownEnd) {
        return Ok(at(inode.attr.length));
    }
    if m.truncations >= inode.attr.truncations {
        from = from.max(m.end);
    } else if m.end > 0 {
        turns.store(txn, m.inode);
        return Ok(Appended::Stale(inode.attr));
    }
    let to = from.checked_add(m.len).ok_or(MetaError::FileTooLarge)?;
    attr::check_length(attr::layout_of(&inode.attr)?, to)?;
    let waits = turns.is_cutting() || kept;
    if !waits {
        begin(txn, &mut turns, m.op, AtEndV1::Append { from, to, stored: None });
    }
    turns.store(txn, m.inode);
    Ok(if waits { Appended::Waits } else { at(from) })
}

/// Has the sender wait for its turn to cut.
pub async fn begin_cut(txn: &mut Txn<'_>, m: &BeginCut, alive: Alive<'_>) -> Done<bool> {
    let (mut inode, mut turns) = read(txn, m.inode, m.op).await?;
    if turns.settle(&mut inode.attr, alive) {
        store(txn, &mut inode);
    }
    if !turns.has(m.op) {
        begin(txn, &mut turns, m.op, AtEndV1::Cut);
    }
    let first = turns.is_first(m.op);
    turns.store(txn, m.inode);
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Alive<'_> = &|_| true;

    fn op(session: u64, seq: u64) -> RequestId {
        RequestId { session: SessionId(session), seq }
    }

    fn append(from: u64, to: u64) -> AtEndV1 {
        AtEndV1::Append { from, to, stored: None }
    }

    /// Goal: the length moves over appends in the order of their places, whichever is stored first.
    #[test]
    fn the_length_moves_in_order() {
        let (mut turns, mut length) = (Turns::default(), 5);
        turns.begin(op(1, 1), append(5, 10));
        turns.begin(op(2, 1), append(10, 20));
        turns.finish(op(2, 1), 20);
        assert!(!turns.pass(&mut length, ALL) && turns.has(op(2, 1)));
        assert_eq!((length, turns.end()), (5, 20));
        turns.finish(op(1, 1), 10);
        assert!(!turns.pass(&mut length, ALL) && turns.is_empty());
        assert_eq!(length, 20);
    }

    /// Goal: what was not stored is a hole if others are behind it, and else is given anew.
    #[test]
    fn an_append_that_failed_leaves_a_hole_only_before_others() {
        let (mut turns, mut length) = (Turns::default(), 5);
        turns.begin(op(1, 1), append(5, 10));
        turns.finish(op(1, 1), 0);
        assert!(!turns.pass(&mut length, ALL) && turns.is_empty());
        assert_eq!((length, turns.end()), (5, 0));
        turns.begin(op(1, 2), append(5, 10));
        turns.begin(op(2, 1), append(10, 20));
        turns.finish(op(1, 2), 0);
        turns.finish(op(2, 1), 20);
        assert!(turns.pass(&mut length, ALL));
        assert_eq!(length, 20);
    }

    /// Goal: nobody waits for a session that has ended, nor for what a session has forgotten.
    #[test]
    fn who_has_left_is_passed_over() {
        let (mut turns, mut length) = (Turns::default(), 0);
        turns.begin(op(1, 1), AtEndV1::Cut);
        turns.begin(op(2, 1), append(0, 10));
        turns.begin(op(3, 1), append(10, 20));
        assert_eq!(turns.begin(op(3, 2), AtEndV1::Cut), [op(3, 1)]);
        assert!(!turns.is_first(op(2, 1)) && turns.is_cutting());
        turns.pass(&mut length, &|session| session != SessionId(1));
        assert!(turns.is_first(op(2, 1)));
        turns.pass(&mut length, &|session| session == SessionId(3));
        assert!(turns.is_first(op(3, 2)), "its own append is over");
        turns.finish(op(3, 2), 0);
        assert!(turns.is_empty());
        assert_eq!(length, 0);
    }
}
