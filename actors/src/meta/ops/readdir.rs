//! Listing a directory, with attributes, in two messages a page.

use super::*;
use crate::meta::kv::{KeyRange, key_after};
use crate::proto::meta::{DirEntry, DirPage, ReadDir};

/// Most entries in one page.
pub const READDIR_MAX: u32 = 4096;

/// Entries after `m.after` in byte order of names, as of one moment.
pub async fn read_dir(txn: &mut Txn<'_>, m: &ReadDir) -> Done<DirPage> {
    let limit = if m.limit == 0 { READDIR_MAX } else { m.limit.min(READDIR_MAX) };
    let KeyRange { begin, end } = dirent_range(m.inode);
    let begin = if m.after.is_empty() {
        begin
    } else {
        key_after(&dirent_key(m.inode, &m.after))
    };
    let page = txn.fetch_range(&KeyRange { begin, end }, limit as usize, false).await?;

    let mut keys = vec![inode_key(m.inode)];
    let mut entries = Vec::with_capacity(page.rows.len());
    for (key, value) in page.rows {
        let (inode, kind) = open_dirent(m.inode, &value)?;
        keys.push(inode_key(inode));
        if kind == FileType::Directory {
            keys.extend([times_key(inode), subdirs_key(inode)]);
        }
        entries.push((key.slice(9..), inode, kind));
    }
    let mut values = txn.fetch_all(keys).await?.into_iter();
    let mut next = || values.next().expect("one value per key");

    let directory = open_directory(m.inode, next().as_ref())?;
    let mut listed = Vec::with_capacity(entries.len());
    for (name, inode, kind) in entries {
        let mut found = open_named(inode, next().as_ref())?;
        if kind == FileType::Directory {
            found.refresh(next().as_ref(), next().as_ref())?;
        }
        listed.push(DirEntry { name: name.into(), attr: found.attr });
    }
    Ok(DirPage { entries: listed, more: page.more, parent: directory.parent })
}
