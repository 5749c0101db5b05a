//! Changing attributes, and what writers say of a file.
//!
//! *Lengths.* `truncations` of a file never decreases, and between two cuts its length only grows.
//! A report or an append names the cut that its sender knows; if a later one has been made, nothing
//! is taken, and the sender learns how the file is now. A cut names the content that its caller has
//! seen: the caller has removed the chunks behind the new end, which must be nobody else's. Appends
//! and cuts of several clients have an order: see `turns`.
//!
//! *Times.* A time that was set by hand stands until somebody writes after it; a report of earlier
//! writes is told apart by `times_set`.

use super::create::MODE_BITS;
use super::turns::{self, Ended, IsOver, Turns};
use super::*;
use crate::proto::meta::{
    Changed, EndTurn, ReportWrite, Reported, SeenContent, SetAttr, SetLength, SetTime,
};

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;

/// Changes what is given; `ctime` also without being named.
pub async fn set_attr(txn: &mut Txn<'_>, m: &SetAttr, now_ns: i64, over: IsOver<'_>) -> Done<Attr> {
    let (key, recent) = (inode_key(m.inode), recent_key(m.op));
    let (times, subdirs) = (times_key(m.inode), subdirs_key(m.inode));
    let [found, times, subdirs, recent] = txn.fetch([&key, &times, &subdirs, &recent]).await?;
    txn.depend(&key);
    txn.depend(&recent_key(m.op));
    if let Some(attr) = answered_attr(m.op, recent.as_ref())? {
        return Ok(attr);
    }
    let mut inode = Inode::open(m.inode, found.as_ref().ok_or(MetaError::Stale)?)?;
    inode.refresh(times.as_ref(), subdirs.as_ref())?;
    if let Some(length) = m.length {
        take_turn(txn, &mut inode.attr, length.turn, over).await?;
        set_length(txn, &mut inode.attr, length)?;
        set_mtime(&mut inode, now_ns, false);
    }
    let at = |time: SetTime| match time {
        SetTime::Now => now_ns,
        SetTime::At { ns } => ns,
    };
    if let Some(mtime) = m.mtime {
        set_mtime(&mut inode, at(mtime), matches!(mtime, SetTime::At { .. }));
        inode.attr.times_set = next_number(txn, inode.attr.times_set);
    }
    let attr = &mut inode.attr;
    attr.mode = m.mode.map_or(attr.mode, |mode| mode & MODE_BITS);
    attr.uid = m.uid.unwrap_or(attr.uid);
    attr.gid = m.gid.unwrap_or(attr.gid);
    attr.atime_ns = m.atime.map_or(attr.atime_ns, at);
    attr.ctime_ns = m.ctime.map_or(now_ns, at);
    if m.mtime.is_some() && attr.kind == FileType::Directory {
        // Where its later changes by entries go: the last of both to commit counts.
        let times = TimesV1 { mtime_ns: attr.mtime_ns, ctime_ns: attr.ctime_ns };
        txn.set(times_key(m.inode), seal_times(times));
    }
    store(txn, &mut inode);
    keep_answer(txn, m.op, &Answer::Attr(inode.attr.clone()));
    Ok(inode.attr)
}

/// Refuses a cut while anybody else has a turn at the file. Its own is over.
async fn take_turn(
    txn: &mut Txn<'_>,
    attr: &mut Attr,
    turn: Option<RequestId>,
    over: IsOver<'_>,
) -> Done<()> {
    let inode = attr.inode;
    let [stored] = txn.read([&turns_key(inode)]).await?;
    let mut turns = Turns::open(inode, stored.as_ref())?;
    turns.settle(attr, over);
    match turn {
        Some(op) if turns.is_first(op) => drop(turns::finish(txn, &mut turns, op, 0).await?),
        _ if turns.is_empty() => {}
        _ => return Err(MetaError::Changed.into()),
    }
    turns.store(txn, inode);
    Ok(())
}

fn set_mtime(inode: &mut Inode, mtime_ns: i64, by_hand: bool) {
    inode.attr.mtime_ns = mtime_ns;
    inode.note_mtime_set(by_hand);
}

/// A write is newer than a time that was set by hand before it. Of two writes the later counts,
/// whichever is heard of first.
fn written(inode: &mut Inode, mtime_ns: i64) {
    let before = if inode.mtime_set() { i64::MIN } else { inode.attr.mtime_ns };
    set_mtime(inode, mtime_ns.max(before), false);
}

fn set_length(txn: &Txn<'_>, attr: &mut Attr, m: SetLength) -> Result<(), MetaError> {
    check_length(layout_of(attr)?, m.length)?;
    if m.seen != SeenContent::of(attr) && !txn.is_planted(PlantedBug::SeenContentIgnored) {
        return Err(MetaError::Changed);
    }
    attr.truncations = next_number(txn, attr.truncations);
    attr.sparse = m.length > 0 && (attr.sparse || m.length > attr.length);
    attr.length = m.length;
    Ok(())
}

/// Writing by other than root takes what makes a program somebody else.
fn clear_suid(attr: &mut Attr) {
    attr.mode &= !SETUID;
    // Without group execution the bit means mandatory locking, not an identity.
    if attr.mode & GROUP_EXECUTE != 0 {
        attr.mode &= !SETGID;
    }
}

/// Moves times of access forward. They are no change that anybody waits for: `ctime` stays.
pub async fn note_reads(txn: &mut Txn<'_>, reads: &[(InodeId, i64)]) -> Done<()> {
    let keys: Vec<Bytes> = reads.iter().map(|(inode, _)| inode_key(*inode)).collect();
    let stored = txn.fetch_all(keys.clone()).await?;
    for (((inode, read_ns), key), stored) in reads.iter().zip(&keys).zip(stored) {
        let Some(stored) = stored else { continue };
        let mut inode = Inode::open(*inode, &stored)?;
        if inode.attr.atime_ns < *read_ns {
            txn.depend(key);
            inode.attr.atime_ns = *read_ns;
            store(txn, &mut inode);
        }
    }
    Ok(())
}

/// Takes a writer's report. One that brings nothing new writes nothing.
///
/// A writer may know of a later cut than is stored: the store lost it in a crash. Its number is
/// taken then, so that the writer's next reports are not taken for stale.
pub async fn report_write(
    txn: &mut Txn<'_>,
    m: &ReportWrite,
    now_ns: i64,
    over: IsOver<'_>,
) -> Done<Reported> {
    let key = inode_key(m.inode);
    let [found] = txn.read([&key]).await?;
    let mut inode = Inode::open(m.inode, found.as_ref().ok_or(MetaError::Stale)?)?;
    check_length(layout_of(&inode.attr)?, m.end)?;
    let mut end = m.end;
    if m.truncations < inode.attr.truncations || m.times_set < inode.attr.times_set {
        if !txn.is_planted(PlantedBug::ReportIgnoresTruncations) {
            return Ok(Reported::Stale(inode.attr));
        }
        end = if m.truncations < inode.attr.truncations { 0 } else { end };
    }
    let before = inode.clone();
    let (mut waits, mut passed) = (false, false);
    if let Some(EndTurn { op, end }) = m.turn {
        let [stored] = txn.read([&turns_key(m.inode)]).await?;
        let mut turns = Turns::open(m.inode, stored.as_ref())?;
        check_length(layout_of(&inode.attr)?, end)?;
        passed = turns::finish(txn, &mut turns, op, end).await? == Ended::Passed;
        turns.settle(&mut inode.attr, over);
        waits = turns.has(op);
        turns.store(txn, m.inode);
    }
    let attr = &mut inode.attr;
    attr.length = attr.length.max(end);
    attr.truncations = attr.truncations.max(m.truncations);
    attr.times_set = attr.times_set.max(m.times_set);
    attr.sparse |= m.sparse;
    if m.clear_suid {
        clear_suid(attr);
    }
    if let Some(mtime_ns) = m.mtime_ns {
        written(&mut inode, mtime_ns);
    }
    if inode != before {
        inode.attr.ctime_ns = inode.attr.ctime_ns.max(now_ns);
    }
    let atime_ns = inode.attr.atime_ns;
    inode.attr.atime_ns = atime_ns.max(m.atime_ns.unwrap_or(i64::MIN));
    if inode != before {
        store(txn, &mut inode);
    }
    if waits {
        return Ok(Reported::Waits);
    }
    let changed = Changed { attr: inode.attr, stamp: Stamp::default() };
    Ok(if passed { Reported::Passed(changed) } else { Reported::Taken(changed) })
}

/// What became of a dead writer's hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// The hold is cleared.
    Cleared,
    /// The file was cut since the end of what is stored was asked for.
    Cut,
    /// Appends are under way: what is stored may be theirs.
    AtEnd,
}

/// Makes what a session that is over has stored part of the file and clears its hold.
pub async fn end_writer(
    txn: &mut Txn<'_>,
    inode: InodeId,
    session: SessionId,
    end: u64,
    truncations: u64,
    over: IsOver<'_>,
    now_ns: i64,
) -> Done<Writer> {
    let (key, hold_key) = (inode_key(inode), hold_key(inode, session));
    let [found, held, turns] = txn.read([&key, &hold_key, &turns_key(inode)]).await?;
    if held.is_none() {
        return Ok(Writer::Cleared); // another server was here
    }
    let mut turns = Turns::open(inode, turns.as_ref())?;
    let found = found.map(|bytes| Inode::open(inode, &bytes)).transpose()?;
    if let Some(mut inode) = found.filter(|inode| inode.attr.nlink > 0) {
        if inode.attr.truncations != truncations {
            return Ok(Writer::Cut);
        }
        let before = inode.clone();
        turns.settle(&mut inode.attr, over);
        if !turns.is_empty() {
            return Ok(Writer::AtEnd);
        }
        turns.store(txn, inode.attr.inode);
        // Of several writes under way some may have arrived, and of an append none.
        if end != inode.attr.length || !inode.attr.sparse {
            check_length(layout_of(&inode.attr)?, end)?;
            inode.attr.sparse = inode.attr.sparse || end > 0 || inode.attr.length > 0;
        }
        if end > inode.attr.length {
            inode.attr.length = end;
            written(&mut inode, now_ns);
            inode.attr.ctime_ns = inode.attr.ctime_ns.max(now_ns);
        }
        if inode != before {
            store(txn, &mut inode);
        }
    }
    txn.clear(hold_key);
    Ok(Writer::Cleared)
}
