//! Making names: files, directories, symlinks, hard links.

use super::*;
use crate::proto::meta::{LINKS_MAX, Layout, MakeLink, NewEntry, SYMLINK_MAX};

const SETGID: u32 = 0o2000;
/// Permission bits.
pub const MODE_BITS: u32 = 0o7777;

/// What the new inode is, decided outside the transaction, the same in every attempt.
#[derive(Clone, Debug)]
pub struct NewInode {
    pub inode: InodeId,
    pub kind: FileType,
    /// `Some` for files.
    pub layout: Option<Layout>,
    /// Of a symlink.
    pub target: Vec<u8>,
}

/// Makes an inode and the entry that names it; a file for `hold` to write to.
pub async fn create(
    txn: &mut Txn<'_>,
    entry: &NewEntry,
    new: &NewInode,
    hold: Option<SessionId>,
    now_ns: i64,
) -> Done<Attr> {
    check_name(&entry.name)?;
    if new.target.len() > SYMLINK_MAX {
        return Err(MetaError::NameTooLong.into());
    }
    let name_key = dirent_key(entry.parent, &entry.name);
    let (directory_key, recent) = (inode_key(entry.parent), recent_key(entry.op));
    let [directory, taken, recent] = txn.read([&directory_key, &name_key, &recent]).await?;
    if let Some(attr) = answered_attr(entry.op, recent.as_ref())? {
        return Ok(attr);
    }
    let directory = open_directory(entry.parent, directory.as_ref())?;
    if taken.is_some() {
        return Err(MetaError::Exists.into());
    }
    let attr = new_attr(entry, new, &directory.attr, now_ns);
    let parent = if new.kind == FileType::Directory { entry.parent } else { InodeId(0) };
    let mut inode = Inode::new(attr, parent, new.target.clone());
    store(txn, &mut inode);
    if let Some(session) = hold.filter(|_| new.kind == FileType::File) {
        let hold = HoldV1 { write: true, since_ns: now_ns };
        txn.set(hold_key(new.inode, session), hold.seal());
    }
    txn.set(name_key, seal_dirent(new.inode, new.kind));
    touch(txn, entry.parent, now_ns);
    add_subdirs(txn, entry.parent, i64::from(inode.is_directory()));
    txn.add(count_key(), 1);
    let answer = Answer::Attr(inode.attr);
    keep_answer(txn, entry.op, &answer);
    match answer {
        Answer::Attr(attr) => Ok(attr),
        Answer::Gone(_) | Answer::Refused(_) => unreachable!("made above"),
    }
}

/// A setgid directory hands its group down, and the bit to directories.
fn new_attr(entry: &NewEntry, new: &NewInode, directory: &Attr, now_ns: i64) -> Attr {
    let inherit = directory.mode & SETGID != 0;
    let is_directory = new.kind == FileType::Directory;
    let mode = match new.kind {
        FileType::Symlink => 0o777,
        FileType::Directory if inherit => entry.mode & MODE_BITS | SETGID,
        _ => entry.mode & MODE_BITS,
    };
    Attr {
        inode: new.inode,
        kind: new.kind,
        mode,
        uid: entry.uid,
        gid: if inherit { directory.gid } else { entry.gid },
        nlink: if is_directory { 2 } else { 1 },
        atime_ns: now_ns,
        mtime_ns: now_ns,
        ctime_ns: now_ns,
        length: new.target.len() as u64,
        truncations: 0,
        times_set: 0,
        changes: 0,
        sparse: false,
        birth_ns: now_ns,
        layout: new.layout.clone(),
        as_of: Stamp::default(),
    }
}

/// Gives an inode another name. One that has lost its last is `Stale`: it is on its way out.
pub async fn link(txn: &mut Txn<'_>, m: &MakeLink, now_ns: i64) -> Done<Attr> {
    check_name(&m.name)?;
    let (directory, name) = (inode_key(m.parent), dirent_key(m.parent, &m.name));
    let (target, recent) = (inode_key(m.inode), recent_key(m.op));
    let [directory, taken, found, recent] = txn.read([&directory, &name, &target, &recent]).await?;
    if let Some(attr) = answered_attr(m.op, recent.as_ref())? {
        return Ok(attr);
    }
    open_directory(m.parent, directory.as_ref())?;
    let mut inode = Inode::open(m.inode, found.as_ref().ok_or(MetaError::Stale)?)?;
    if inode.is_directory() {
        return Err(MetaError::IsDirectory.into());
    }
    if inode.attr.nlink == 0 {
        return Err(MetaError::Stale.into());
    }
    if taken.is_some() {
        return Err(MetaError::Exists.into());
    }
    if inode.attr.nlink >= LINKS_MAX {
        return Err(MetaError::TooManyLinks.into());
    }
    inode.attr.nlink += 1;
    inode.attr.ctime_ns = now_ns;
    store(txn, &mut inode);
    txn.set(name, seal_dirent(m.inode, inode.attr.kind));
    touch(txn, m.parent, now_ns);
    keep_answer(txn, m.op, &Answer::Attr(inode.attr.clone()));
    Ok(inode.attr)
}
