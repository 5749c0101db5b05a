//! Holds: which sessions have a file open, and which sessions make holds.
//!
//! A file without a name can be opened with a hold until a collector condemns it (`garbage`): who
//! has looked a name up opens what was there, though another has replaced it meanwhile. The hold
//! depends on the garbage entry, and condemning on the holds, so one of them comes first.

use super::*;
use crate::proto::meta::{DropHolds, OpenFile, ShareOpens};

/// Opens a file. With a hold that is there already nothing is written.
pub async fn open(txn: &mut Txn<'_>, m: &OpenFile, now_ns: i64) -> Done<Attr> {
    let Some(session) = m.hold.filter(|_| !txn.is_planted(PlantedBug::OpenWithoutHold)) else {
        let attr = lookup::get_attr(txn, m.inode).await?;
        return if attr.nlink == 0 { Err(MetaError::Stale.into()) } else { Ok(attr) };
    };
    let (key, hold_key) = (inode_key(m.inode), hold_key(m.inode, session));
    let [found, held, recent] = txn.read([&key, &hold_key, &recent_key(m.op)]).await?;
    if let Some(attr) = answered_attr(m.op, recent.as_ref())? {
        return Ok(attr);
    }
    let inode = Inode::open(m.inode, found.as_ref().ok_or(MetaError::Stale)?)?;
    if inode.attr.kind != FileType::File {
        return lookup::get_attr(txn, m.inode).await;
    }
    let held = held.map(|held| HoldV1::open(m.inode, &held)).transpose()?;
    if inode.attr.nlink == 0 {
        let [garbage] = txn.read([&garbage_key(m.inode)]).await?;
        let garbage = garbage.map(|bytes| GarbageV3::open(m.inode, &bytes)).transpose()?;
        if garbage.is_none_or(|g| g.condemned) {
            return Err(MetaError::Stale.into());
        }
    }
    // Also when there is nothing to do: a duplicate may come after the hold was dropped.
    hold(txn, hold_key, held, m.write, now_ns);
    keep_answer(txn, m.op, &Answer::Attr(inode.attr.clone()));
    Ok(inode.attr)
}

/// Makes a hold, or one for reading a hold for writing.
fn hold(txn: &mut Txn<'_>, key: Bytes, held: Option<HoldV1>, write: bool, now_ns: i64) {
    let HoldV1 { write: writes, since_ns } = match held {
        Some(held) if held.write || !write => return,
        Some(held) => held,
        None => HoldV1 { write, since_ns: now_ns },
    };
    txn.set(key, HoldV1 { write: writes || write, since_ns }.seal());
}

/// Clears holds. A duplicate that comes late clears nothing that was made since.
pub async fn drop_holds(txn: &mut Txn<'_>, m: &DropHolds) -> Done<()> {
    let [recent] = txn.read([&recent_key(m.op)]).await?;
    if answered_gone(m.op, recent.as_ref())?.is_some() {
        return Ok(());
    }
    for inode in &m.inodes {
        txn.clear(hold_key(*inode, m.session));
    }
    keep_answer(txn, m.op, &Answer::Gone(Gone::default()));
    Ok(())
}

/// Holds for what a session has open, whether or not it still has a name: nothing that a session
/// keeps to itself is removed. Gives what is gone all the same.
pub async fn share(txn: &mut Txn<'_>, m: &ShareOpens, now_ns: i64) -> Done<Vec<InodeId>> {
    let ShareOpens { session, holds, all, op } = m;
    let session = *session;
    let [recent] = txn.read([&recent_key(*op)]).await?;
    if answered_gone(*op, recent.as_ref())?.is_some() {
        // Nobody waits for a duplicate but one that lost the answer, and that asks about the files
        // that are gone when it uses them.
        return Ok(Vec::new());
    }
    let keys = |(inode, _): &(InodeId, bool)| {
        [inode_key(*inode), hold_key(*inode, session), garbage_key(*inode)]
    };
    let keys: Vec<Bytes> = holds.iter().flat_map(keys).collect();
    let stored = txn.fetch_all(keys.clone()).await?;
    for key in &keys {
        txn.depend(key);
    }
    let mut gone = Vec::new();
    for ((inode, write), stored) in holds.iter().zip(stored.chunks(3)) {
        let garbage =
            stored[2].as_deref().map(|bytes| GarbageV3::open(*inode, bytes)).transpose()?;
        if stored[0].is_none() || garbage.is_some_and(|g| g.condemned) {
            gone.push(*inode);
            continue;
        }
        let held = stored[1].as_deref().map(|held| HoldV1::open(*inode, held)).transpose()?;
        hold(txn, hold_key(*inode, session), held, *write, now_ns);
    }
    if *all {
        txn.set(shares_key(session), seal_shares(now_ns));
    }
    keep_answer(txn, *op, &Answer::Gone(Gone::default()));
    Ok(gone)
}
