//! Reading one entry or inode. Snapshot reads only: nothing commits.

use super::*;

/// The attributes of what `name` names in `parent`; `.` and `..` as well.
pub async fn lookup(txn: &mut Txn<'_>, parent: InodeId, name: &[u8]) -> Done<Attr> {
    if name == b"." || name == b".." {
        let [directory] = txn.fetch([&inode_key(parent)]).await?;
        let directory = open_directory(parent, directory.as_ref())?;
        let named = if name == b"." { parent } else { directory.parent };
        return get_attr(txn, named).await;
    }
    check_name(name)?;
    let [entry] = txn.fetch([&dirent_key(parent, name)]).await?;
    let Some(entry) = entry else {
        let [directory] = txn.fetch([&inode_key(parent)]).await?;
        open_directory(parent, directory.as_ref())?;
        return Err(MetaError::NotFound.into());
    };
    let (inode, kind) = open_dirent(parent, &entry)?;
    if kind != FileType::Directory {
        let [found] = txn.fetch([&inode_key(inode)]).await?;
        return Ok(open_named(inode, found.as_ref())?.attr);
    }
    let keys = [&inode_key(inode), &times_key(inode), &subdirs_key(inode)];
    let [found, times, subdirs] = txn.fetch(keys).await?;
    let mut found = open_named(inode, found.as_ref())?;
    found.refresh(times.as_ref(), subdirs.as_ref())?;
    Ok(found.attr)
}

/// Also of an inode that has lost its last name but not its content.
pub async fn get_attr(txn: &mut Txn<'_>, inode: InodeId) -> Done<Attr> {
    // The inode may be a directory: two more keys in one message cost less than a second message.
    let keys = [&inode_key(inode), &times_key(inode), &subdirs_key(inode)];
    let [found, times, subdirs] = txn.fetch(keys).await?;
    let mut found = Inode::open(inode, found.as_ref().ok_or(MetaError::Stale)?)?;
    found.refresh(times.as_ref(), subdirs.as_ref())?;
    if found.attr.nlink == 0 {
        // Content that is going must not be taken for holes.
        let [garbage] = txn.fetch([&garbage_key(inode)]).await?;
        let garbage = garbage.map(|bytes| GarbageV3::open(inode, &bytes)).transpose()?;
        if garbage.is_some_and(|g| g.condemned) {
            return Err(MetaError::Stale.into());
        }
    }
    Ok(found.attr)
}

pub async fn read_link(txn: &mut Txn<'_>, inode: InodeId) -> Done<Vec<u8>> {
    let [found] = txn.fetch([&inode_key(inode)]).await?;
    let found = Inode::open(inode, found.as_ref().ok_or(MetaError::Stale)?)?;
    if found.attr.kind != FileType::Symlink {
        return Err(MetaError::InvalidArgument("not a symlink".into()).into());
    }
    Ok(found.target)
}
