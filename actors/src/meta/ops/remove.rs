//! Taking names away, and what an inode without a name leaves behind.

use super::*;
use crate::proto::meta::{RemoveDir, Unlink};

/// Removes a name that is not a directory.
pub async fn unlink(txn: &mut Txn<'_>, m: &Unlink, now_ns: i64) -> Done<Gone> {
    check_name(&m.name)?;
    let name_key = dirent_key(m.parent, &m.name);
    let found = find(txn, m.parent, &name_key, m.op).await?;
    let (inode, kind) = match found {
        Found::Answered(gone) => return Ok(*gone),
        Found::Entry(inode, kind) => (inode, kind),
    };
    if kind == FileType::Directory {
        return Err(MetaError::IsDirectory.into());
    }
    let inode = read_named(txn, inode, kind).await?;
    txn.clear(name_key);
    touch(txn, m.parent, now_ns);
    let removed = drop_link(txn, inode, m.hold, now_ns);
    Ok(finish(txn, m.op, Gone { removed: Some(removed), ..Gone::default() }))
}

/// Removes an empty directory.
pub async fn remove_dir(txn: &mut Txn<'_>, m: &RemoveDir, now_ns: i64) -> Done<Gone> {
    if m.name == b".." {
        return Err(MetaError::NotEmpty.into());
    }
    check_name(&m.name)?;
    let name_key = dirent_key(m.parent, &m.name);
    let found = find(txn, m.parent, &name_key, m.op).await?;
    let (inode, kind) = match found {
        Found::Answered(gone) => return Ok(*gone),
        Found::Entry(inode, kind) => (inode, kind),
    };
    if kind != FileType::Directory {
        return Err(MetaError::NotDirectory.into());
    }
    let directory = read_named(txn, inode, kind).await?;
    check_empty(txn, inode).await?;
    txn.clear(name_key);
    touch(txn, m.parent, now_ns);
    add_subdirs(txn, m.parent, -1);
    let removed = drop_directory(txn, directory, now_ns);
    Ok(finish(txn, m.op, Gone { removed: Some(removed), ..Gone::default() }))
}

enum Found {
    Answered(Box<Gone>),
    Entry(InodeId, FileType),
}

/// Reads the entry that is to go. The commit depends on it, so its directory cannot go before it.
async fn find(txn: &mut Txn<'_>, parent: InodeId, name_key: &Bytes, op: RequestId) -> Done<Found> {
    let [entry, recent] = txn.read([name_key, &recent_key(op)]).await?;
    if let Some(gone) = answered_gone(op, recent.as_ref())? {
        return Ok(Found::Answered(Box::new(gone)));
    }
    let Some(entry) = entry else {
        let [directory] = txn.fetch([&inode_key(parent)]).await?;
        open_directory(parent, directory.as_ref())?;
        return Err(MetaError::NotFound.into());
    };
    let (inode, kind) = open_dirent(parent, &entry)?;
    Ok(Found::Entry(inode, kind))
}

/// `NotEmpty`, or the commit depends on its staying empty.
pub(super) async fn check_empty(txn: &mut Txn<'_>, directory: InodeId) -> Done<()> {
    let page = txn.read_range(&dirent_range(directory), 1, false).await?;
    if page.rows.is_empty() { Ok(()) } else { Err(MetaError::NotEmpty.into()) }
}

/// Takes one name from an inode that is no directory. With the last, a file becomes garbage, which
/// waits while a session holds it; other kinds have no content and go at once, unless held.
pub(super) fn drop_link(
    txn: &mut Txn<'_>,
    mut inode: Inode,
    hold: Option<SessionId>,
    now_ns: i64,
) -> Attr {
    assert!(!inode.is_directory());
    let key = inode_key(inode.attr.inode);
    inode.attr.nlink = inode.attr.nlink.saturating_sub(1);
    inode.attr.ctime_ns = now_ns;
    if inode.attr.nlink > 0 {
        store(txn, &mut inode);
    } else if inode.attr.kind != FileType::File && hold.is_none() {
        txn.clear(key);
        txn.clear_range(belongings_range(inode.attr.inode));
        txn.add(count_key(), -1);
    } else {
        store(txn, &mut inode);
        txn.set(garbage_key(inode.attr.inode), GarbageV3::new(now_ns).seal());
        if let Some(session) = hold {
            // Without a name it does not matter any more whether the session may write.
            let hold = HoldV1 { write: false, since_ns: now_ns };
            txn.set(hold_key(inode.attr.inode, session), hold.seal());
        }
    }
    inode.attr
}

/// Removes a directory's inode, which no entry names any more.
pub(super) fn drop_directory(txn: &mut Txn<'_>, mut directory: Inode, now_ns: i64) -> Attr {
    assert!(directory.is_directory());
    let inode = directory.attr.inode;
    txn.clear(inode_key(inode));
    txn.clear(times_key(inode));
    txn.clear_range(subdirs_range(inode));
    txn.clear_range(belongings_range(inode));
    txn.add(count_key(), -1);
    directory.attr.nlink = 0;
    directory.attr.ctime_ns = now_ns;
    directory.attr
}

/// Keeps the answer and gives it.
pub(super) fn finish(txn: &mut Txn<'_>, op: RequestId, gone: Gone) -> Gone {
    keep_answer(txn, op, &Answer::Gone(gone.clone()));
    gone
}
