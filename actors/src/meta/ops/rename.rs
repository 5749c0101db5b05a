//! Moving and exchanging names.

use super::remove::{check_empty, drop_directory, drop_link, finish};
use super::*;
use crate::proto::meta::{ROOT, Rename, RenameMode};

/// Deepest directory that a directory can be moved into.
const DEPTH_MAX: usize = 10_000;

/// One side: an entry and where it is.
struct Side {
    directory: InodeId,
    key: Bytes,
    inode: InodeId,
    kind: FileType,
}

/// Moves `m.name` to `m.new_name`, taking the place of what is there, or exchanges the two.
pub async fn rename(txn: &mut Txn<'_>, m: &Rename, now_ns: i64) -> Done<Gone> {
    check_name(&m.name)?;
    check_name(&m.new_name)?;
    let from_key = dirent_key(m.parent, &m.name);
    let to_key = dirent_key(m.new_parent, &m.new_name);
    let (old_directory, new_directory) = (inode_key(m.parent), inode_key(m.new_parent));
    let recent = recent_key(m.op);
    let keys = [&from_key, &to_key, &old_directory, &new_directory, &recent];
    let [from, to, old_directory, new_directory, recent] = txn.read(keys).await?;
    if let Some(gone) = answered_gone(m.op, recent.as_ref())? {
        return Ok(gone);
    }
    open_directory(m.parent, old_directory.as_ref())?;
    open_directory(m.new_parent, new_directory.as_ref())?;

    let side = |directory, key, entry: Option<Bytes>| -> Result<_, MetaError> {
        let Some(entry) = entry else { return Ok(None) };
        let (inode, kind) = open_dirent(directory, &entry)?;
        Ok(Some(Side { directory, key, inode, kind }))
    };
    let to = side(m.new_parent, to_key.clone(), to)?;
    let from = side(m.parent, from_key, from)?.ok_or(MetaError::NotFound)?;
    match (&to, m.mode) {
        (Some(_), RenameMode::NoReplace) => return Err(MetaError::Exists.into()),
        (None, RenameMode::Exchange) => return Err(MetaError::NotFound.into()),
        _ => {}
    }
    if to.as_ref().is_some_and(|to| to.inode == from.inode) {
        // Two names of one file, or one name twice: POSIX asks for nothing to happen.
        let moved = read_named(txn, from.inode, from.kind).await?;
        return Ok(Gone { moved: Some(moved.attr), ..Gone::default() });
    }
    check_no_loop(txn, &from, m.new_parent).await?;
    let gone = match to {
        Some(to) if m.mode == RenameMode::Exchange => {
            check_no_loop(txn, &to, m.parent).await?;
            exchange(txn, from, to, now_ns).await?
        }
        to => replace(txn, m, from, to_key, to, now_ns).await?,
    };
    Ok(finish(txn, m.op, gone))
}

async fn replace(
    txn: &mut Txn<'_>,
    m: &Rename,
    from: Side,
    to_key: Bytes,
    to: Option<Side>,
    now_ns: i64,
) -> Done<Gone> {
    let is_directory = from.kind == FileType::Directory;
    let moved = read_named(txn, from.inode, from.kind).await?;
    let mut removed = None;
    if let Some(to) = to {
        let replaces_directory = to.kind == FileType::Directory;
        match (is_directory, replaces_directory) {
            (true, false) => return Err(MetaError::NotDirectory.into()),
            (false, true) => return Err(MetaError::IsDirectory.into()),
            _ => {}
        }
        let replaced = read_named(txn, to.inode, to.kind).await?;
        removed = Some(if replaces_directory {
            check_empty(txn, to.inode).await?;
            add_subdirs(txn, m.new_parent, -1);
            drop_directory(txn, replaced, now_ns)
        } else {
            drop_link(txn, replaced, m.hold, now_ns)
        });
    }
    txn.clear(from.key);
    txn.set(to_key, seal_dirent(from.inode, from.kind));
    if is_directory && m.parent != m.new_parent {
        add_subdirs(txn, m.parent, -1);
        add_subdirs(txn, m.new_parent, 1);
    }
    let moved = settle(txn, moved, m.new_parent, now_ns);
    touch_both(txn, m.parent, m.new_parent, now_ns);
    Ok(Gone { removed, moved: Some(moved), stamp: Stamp::default() })
}

async fn exchange(txn: &mut Txn<'_>, from: Side, to: Side, now_ns: i64) -> Done<Gone> {
    let moved = read_named(txn, from.inode, from.kind).await?;
    let other = read_named(txn, to.inode, to.kind).await?;
    txn.set(from.key, seal_dirent(to.inode, to.kind));
    txn.set(to.key, seal_dirent(from.inode, from.kind));
    if from.directory != to.directory {
        let directories = |kind| i64::from(kind == FileType::Directory);
        let change = directories(from.kind) - directories(to.kind);
        add_subdirs(txn, from.directory, -change);
        add_subdirs(txn, to.directory, change);
    }
    let moved = settle(txn, moved, to.directory, now_ns);
    settle(txn, other, from.directory, now_ns);
    touch_both(txn, from.directory, to.directory, now_ns);
    Ok(Gone { moved: Some(moved), ..Gone::default() })
}

/// Stores a moved inode: changed now, and a directory's `..` is where it is.
fn settle(txn: &mut Txn<'_>, mut moved: Inode, directory: InodeId, now_ns: i64) -> Attr {
    moved.attr.ctime_ns = now_ns;
    if moved.is_directory() {
        moved.parent = directory;
    }
    store(txn, &mut moved);
    moved.attr
}

fn touch_both(txn: &mut Txn<'_>, one: InodeId, other: InodeId, now_ns: i64) {
    touch(txn, one, now_ns);
    if other != one {
        touch(txn, other, now_ns);
    }
}

/// Refuses to move a directory into itself. The commit depends on every directory from `into` up to
/// the root, so that two such moves that would make a loop together conflict.
async fn check_no_loop(txn: &mut Txn<'_>, moved: &Side, into: InodeId) -> Done<()> {
    if moved.kind != FileType::Directory || moved.directory == into {
        return Ok(());
    }
    let mut at = into;
    for _ in 0..DEPTH_MAX {
        if at == moved.inode {
            let why = "a directory cannot be moved into itself";
            return Err(MetaError::InvalidArgument(why.into()).into());
        }
        if at == ROOT {
            return Ok(());
        }
        let [directory] = txn.read([&inode_key(at)]).await?;
        at = open_named(at, directory.as_ref())?.parent;
    }
    Err(MetaError::Damaged(format!(
        "directory {:#x} is not below the root: run `t3fs-node check`",
        into.0
    ))
    .into())
}
