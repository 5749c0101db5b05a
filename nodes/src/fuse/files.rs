//! Content: open, write, and what goes with them.

use std::time::SystemTime;

use bytes::Bytes;
use t3fs_actors::client::{
    At, Attr, FileType, FsError, HandleId, Owner, SetAttrs, SetTime, Written,
};
use t3fs_actors::proto::ids::InodeId;

use super::names;
use super::open_flags::writes;
use crate::door::Here;
use crate::door::atime::Atime;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;
/// How often others may make and remove a file while it is to be created.
const ATTEMPTS: u32 = 20;

/// Opens, and empties the file if asked to.
pub async fn open(
    here: &Here,
    inode: InodeId,
    flags: i32,
    uid: u32,
) -> Result<(Attr, HandleId), FsError> {
    if writes(flags) {
        here.door.begin_writing(inode, flags);
    }
    let opened = async {
        let (attr, handle) = here.client.open(&here.cx, inode, writes(flags)).await?;
        if flags & libc::O_TRUNC == 0 || !writes(flags) {
            return Ok((attr, handle));
        }
        let emptied = here.client.setattr(&here.cx, inode, emptying(&attr, uid)).await;
        if emptied.is_err()
            && let Err(e) = here.client.release(&here.cx, inode, handle).await
        {
            tracing::warn!("inode {inode} was not released after a failed open: {e:?}");
        }
        Ok((emptied?, handle))
    };
    let opened = opened.await;
    if opened.is_err() && writes(flags) {
        here.door.end_writing(inode, flags);
    }
    opened
}

/// O_TRUNC. The kernel leaves setuid bits to us here (elsewhere it clears them itself).
fn emptying(attr: &Attr, uid: u32) -> SetAttrs {
    let mut mode = attr.mode;
    if uid != 0 {
        mode &= !SETUID;
        if mode & GROUP_EXECUTE != 0 {
            mode &= !SETGID;
        }
    }
    SetAttrs {
        length: Some(0),
        mode: (mode != attr.mode).then_some(mode),
        mtime: Some(SetTime::Now),
        ..SetAttrs::default()
    }
}

/// fsync(2), of a file or a directory, on its shard; what others of this process were told of it
/// counts too.
pub async fn fsync(
    here: &Here,
    inode: InodeId,
    handle: Option<HandleId>,
    datasync: bool,
) -> Result<(), FsError> {
    let mine = here.door.shard_of(inode);
    for shard in (0..here.door.shards()).filter(|shard| *shard != mine) {
        let give = async move |there: &Here| Ok(there.client.give_stamps(inode));
        let stamps = here.at_shard(shard, give).await?;
        here.client.take_stamps(&here.cx, inode, stamps);
    }
    here.client.fsync(&here.cx, inode, handle, datasync).await
}

/// Makes and opens a file, or opens the one that somebody else has made meanwhile: the kernel,
/// which has seen no such file, has not checked whether the caller may open it.
///
/// # Errors
/// `Stale` lets the kernel look the name up anew, and check.
pub async fn create(
    here: &Here,
    parent: InodeId,
    name: &[u8],
    owner: Owner,
    flags: i32,
) -> Result<(Attr, HandleId), FsError> {
    for _ in 0..ATTEMPTS {
        let made = names::create(here, parent, name, owner, flags).await;
        if !matches!(made, Err(FsError::Exists)) || flags & libc::O_EXCL != 0 {
            return made;
        }
        let attr = match here.client.lookup(&here.cx, parent, name).await {
            Err(FsError::NotFound) => continue, // removed again
            found => found?,
        };
        if attr.kind != FileType::File || !may_open(&attr, owner, flags) {
            return Err(FsError::Stale);
        }
        let inode = attr.inode;
        let open = async move |there: &Here| open(there, inode, flags, owner.uid).await;
        match here.at(inode, open).await {
            Err(FsError::Stale) => {}
            opened => return opened,
        }
    }
    Err(FsError::Stale)
}

/// Whether the mode alone lets the caller open a file. Supplementary groups and capabilities are
/// not looked at: `false` leaves it to the kernel.
fn may_open(attr: &Attr, caller: Owner, flags: i32) -> bool {
    if caller.uid == 0 {
        return true;
    }
    let class = match () {
        () if caller.uid == attr.uid => 6,
        () if caller.gid == attr.gid => 3,
        () => 0,
    };
    let wanted = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => 0o4,
        libc::O_WRONLY => 0o2,
        _ => 0o6,
    };
    attr.mode >> class & wanted == wanted
}

pub async fn release(
    here: &Here,
    inode: InodeId,
    handle: HandleId,
    flags: i32,
) -> Result<(), FsError> {
    let done = here.client.release(&here.cx, inode, handle).await;
    if writes(flags) {
        here.door.end_writing(inode, flags);
    }
    done
}

/// Releases what was opened for a caller that was killed meanwhile.
pub async fn close_unheard(here: &Here, inode: InodeId, handle: HandleId, flags: i32) {
    if let Err(e) = release(here, inode, handle, flags).await {
        tracing::warn!("inode {inode} was not released after its caller was killed: {e:?}");
    }
}

/// Whether a directory is there to be listed, and takes note that it will be.
pub async fn open_dir(here: &Here, inode: InodeId) -> Result<(), FsError> {
    let attr = here.client.getattr(&here.cx, inode).await?;
    if here.door.atime.wants_move(&attr, SystemTime::now()) {
        here.client.note_read(&here.cx, inode);
    }
    Ok(())
}

/// Reads, and takes note of that.
pub async fn read(here: &Here, inode: InodeId, offset: u64, len: u32) -> Result<Bytes, FsError> {
    let data = here.client.read(&here.cx, inode, offset, len).await?;
    let atime = here.door.atime;
    if atime != Atime::Never {
        here.client.was_read(&here.cx, inode, |attr| atime.wants_move(attr, SystemTime::now()));
    }
    Ok(data)
}

/// One write(2), as the kernel passes it on.
pub struct Write {
    pub inode: InodeId,
    pub handle: HandleId,
    /// Where the kernel believes that it goes.
    pub offset: u64,
    pub data: Bytes,
    /// Of the open file.
    pub flags: i32,
    /// The kernel writes pages of its cache: they are where it says, whatever the file is open for.
    pub cached: bool,
    /// Setuid bits stay.
    pub privileged: bool,
}

/// Writes, and makes it durable when the file was opened for that (the kernel leaves O_SYNC to us).
pub async fn write(here: &Here, w: Write) -> Result<Written, FsError> {
    let append = w.flags & libc::O_APPEND != 0 && !w.cached;
    let len = w.data.len();
    let at = if append { At::End } else { At::Offset(w.offset) };
    let written = here.client.write(&here.cx, w.inode, at, w.data, w.privileged).await?;
    // O_SYNC holds the bit of O_DSYNC.
    if w.flags & libc::O_DSYNC != 0 {
        let datasync = w.flags & libc::O_SYNC != libc::O_SYNC;
        // Why it is short the next write is told.
        let handle = Some(w.handle).filter(|_| written.len == len);
        fsync(here, w.inode, handle, datasync).await?;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use t3fs_actors::proto::meta::Stamp;

    fn file(mode: u32, uid: u32, gid: u32) -> Attr {
        Attr {
            inode: InodeId(5),
            kind: FileType::File,
            mode,
            uid,
            gid,
            nlink: 1,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            length: 9,
            truncations: 0,
            times_set: 0,
            changes: 0,
            sparse: false,
            birth_ns: 0,
            layout: None,
            as_of: Stamp::default(),
        }
    }

    #[test]
    fn truncation_by_others_than_root_takes_setuid_bits() {
        let attr = |mode| file(mode, 0, 0);
        assert_eq!(emptying(&attr(0o6755), 0).mode, None);
        assert_eq!(emptying(&attr(0o6755), 1000).mode, Some(0o755));
        // Without group execute the bit means mandatory locking and stays.
        assert_eq!(emptying(&attr(0o6745), 1000).mode, Some(0o2745));
        assert_eq!(emptying(&attr(0o644), 1000).mode, None);
        assert_eq!(emptying(&attr(0o644), 1000).length, Some(0));
    }

    /// Goal: a file that appears under an O_CREAT is opened only if its mode lets the caller.
    #[test]
    fn a_file_that_appeared_is_opened_only_by_whom_its_mode_lets() {
        let attr = file(0o640, 7, 8);
        let may = |uid, gid, flags| may_open(&attr, Owner { uid, gid, mode: 0 }, flags);
        assert!(may(0, 0, libc::O_RDWR) && may(7, 1, libc::O_RDWR) && may(1, 8, libc::O_RDONLY));
        assert!(!may(1, 8, libc::O_WRONLY) && !may(1, 1, libc::O_RDONLY));
    }
}
