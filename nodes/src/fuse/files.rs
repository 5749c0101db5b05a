//! Content: open, write, and what goes with them.

use bytes::Bytes;
use t3fs_actors::client::{Attr, FileType, FsError, Owner, SetAttrs, SetTime};
use t3fs_actors::proto::ids::InodeId;

use super::hub::Here;
use super::names;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;
/// How often others may make and remove a file while it is to be created.
const ATTEMPTS: u32 = 20;

/// Whether a file that is opened so can be written.
pub fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// Opens, and empties the file if asked to.
pub async fn open(here: &Here, inode: InodeId, flags: i32, uid: u32) -> Result<Attr, FsError> {
    if writes(flags) {
        here.hub.begin_writing(inode);
    }
    let opened = async {
        let attr = here.client.open(&here.cx, inode).await?;
        if flags & libc::O_TRUNC == 0 || !writes(flags) {
            return Ok(attr);
        }
        let emptied = here.client.setattr(&here.cx, inode, emptying(&attr, uid)).await;
        if emptied.is_err()
            && let Err(e) = here.client.release(&here.cx, inode).await
        {
            tracing::warn!("inode {inode} was not released after a failed open: {e:?}");
        }
        emptied
    };
    let opened = opened.await;
    if opened.is_err() && writes(flags) {
        here.hub.end_writing(inode);
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

/// Makes and opens a file, or opens the one that somebody else has made meanwhile.
pub async fn create(
    here: &Here,
    parent: InodeId,
    name: &[u8],
    owner: Owner,
    flags: i32,
) -> Result<Attr, FsError> {
    for _ in 0..ATTEMPTS {
        let made = names::create(here, parent, name, owner, writes(flags)).await;
        if made != Err(FsError::Exists) || flags & libc::O_EXCL != 0 {
            return made;
        }
        let attr = match here.client.lookup(&here.cx, parent, name).await {
            Err(FsError::NotFound) => continue, // removed again
            found => found?,
        };
        if attr.kind != FileType::File {
            return Err(FsError::Exists);
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

pub async fn release(here: &Here, inode: InodeId, flags: i32) -> Result<(), FsError> {
    let done = here.client.release(&here.cx, inode).await;
    if writes(flags) {
        here.hub.end_writing(inode);
    }
    done
}

/// Releases what was opened for a caller that was killed meanwhile.
pub async fn close_unheard(here: &Here, inode: InodeId, flags: i32) {
    if let Err(e) = release(here, inode, flags).await {
        tracing::warn!("inode {inode} was not released after its caller was killed: {e:?}");
    }
}

/// Writes, and makes it durable when the file was opened for that (the kernel leaves O_SYNC to us).
pub async fn write(
    here: &Here,
    inode: InodeId,
    offset: u64,
    data: Bytes,
    flags: i32,
    privileged: bool,
) -> Result<(), FsError> {
    here.client.write(&here.cx, inode, offset, data, privileged).await?;
    // O_SYNC holds the bit of O_DSYNC.
    if flags & libc::O_DSYNC == 0 {
        return Ok(());
    }
    let datasync = flags & libc::O_SYNC != libc::O_SYNC;
    here.client.fsync(&here.cx, inode, datasync).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_by_others_than_root_takes_setuid_bits() {
        let attr = |mode| Attr {
            inode: InodeId(5),
            kind: FileType::File,
            mode,
            uid: 0,
            gid: 0,
            nlink: 1,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            length: 9,
            truncations: 0,
            layout: None,
        };
        assert_eq!(emptying(&attr(0o6755), 0).mode, None);
        assert_eq!(emptying(&attr(0o6755), 1000).mode, Some(0o755));
        // Without group execute the bit means mandatory locking and stays.
        assert_eq!(emptying(&attr(0o6745), 1000).mode, Some(0o2745));
        assert_eq!(emptying(&attr(0o644), 1000).mode, None);
        assert_eq!(emptying(&attr(0o644), 1000).length, Some(0));
    }

    #[test]
    fn only_read_only_opens_do_not_write() {
        assert!(!writes(libc::O_RDONLY | libc::O_DIRECT));
        assert!(writes(libc::O_WRONLY) && writes(libc::O_RDWR | libc::O_APPEND));
    }
}
