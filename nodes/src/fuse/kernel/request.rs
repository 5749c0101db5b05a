//! Requests: from the kernel's bytes to [`Operation`]. Whatever the bytes are, nothing here panics
//! or reads past them; what is not as it should be is [`Malformed`], and the caller is told EINVAL.

use std::ffi::OsStr;

use super::abi::{self, Fields, IN_HEADER_BYTES, Malformed, fattr, opcode, time_from};
use super::types::{
    AccessFlags, FileHandle, INodeNo, InitFlags, LockOwner, OpenFlags, RenameFlags, SetAttr,
    TimeOrNow, WriteFlags,
};

/// The thread and user that ask (struct fuse_in_header).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    unique: u64,
    uid: u32,
    gid: u32,
    pid: u32,
    opcode: u32,
    inode: INodeNo,
}

impl Request {
    /// The request's number; the kernel gives none twice.
    pub fn unique(&self) -> u64 {
        self.unique
    }

    pub fn uid(&self) -> u32 {
        self.uid
    }

    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// The thread that asks, or 0 if it is in a pid namespace that the mount does not see.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn opcode(&self) -> u32 {
        self.opcode
    }

    pub fn inode(&self) -> INodeNo {
        self.inode
    }

    /// Reads the header; the rest is the operation's. `Err` holds the number to answer, if there
    /// is one.
    pub fn parse(bytes: &[u8]) -> Result<(Request, Fields<'_>), Option<u64>> {
        let mut fields = Fields(bytes);
        let (length, request) = Request::header(&mut fields).map_err(|_| None)?;
        if length as usize != bytes.len() {
            return Err(Some(request.unique));
        }
        debug_assert_eq!(fields.0.len(), bytes.len() - IN_HEADER_BYTES);
        Ok((request, fields))
    }

    fn header(fields: &mut Fields<'_>) -> Result<(u32, Request), Malformed> {
        let length = fields.u32()?;
        let opcode = fields.u32()?;
        let unique = fields.u64()?;
        let inode = INodeNo(fields.u64()?);
        let (uid, gid, pid) = (fields.u32()?, fields.u32()?, fields.u32()?);
        fields.take(4)?; // total_extlen: only after flags that are not asked for
        Ok((length, Request { unique, uid, gid, pid, opcode, inode }))
    }
}

/// What both sides say first (struct fuse_init_in).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: InitFlags,
}

/// One thing that the kernel asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation<'a> {
    Lookup {
        name: &'a OsStr,
    },
    Forget {
        lookups: u64,
    },
    BatchForget(Forgets<'a>),
    GetAttr {
        handle: Option<FileHandle>,
    },
    SetAttr(SetAttr),
    ReadLink,
    Symlink {
        name: &'a OsStr,
        target: &'a OsStr,
    },
    MkNod {
        name: &'a OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
    },
    MkDir {
        name: &'a OsStr,
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a OsStr,
    },
    RmDir {
        name: &'a OsStr,
    },
    Rename {
        name: &'a OsStr,
        to: INodeNo,
        to_name: &'a OsStr,
        flags: RenameFlags,
    },
    Link {
        from: INodeNo,
        name: &'a OsStr,
    },
    Open {
        flags: OpenFlags,
    },
    Create {
        name: &'a OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
    },
    Read(Read),
    Write(Write<'a>),
    StatFs,
    Release(Release),
    ReleaseDir(Release),
    Flush {
        handle: FileHandle,
        owner: LockOwner,
    },
    Fsync {
        handle: FileHandle,
        datasync: bool,
    },
    FsyncDir {
        handle: FileHandle,
        datasync: bool,
    },
    OpenDir {
        flags: OpenFlags,
    },
    ReadDir(Read),
    ReadDirPlus(Read),
    Access {
        mask: AccessFlags,
    },
    Lseek {
        handle: FileHandle,
        offset: i64,
        whence: i32,
    },
    Init(Init),
    /// The number of the request that a signal has interrupted.
    Interrupt {
        unique: u64,
    },
    Destroy,
    /// What was asked for by a notification; nothing is.
    NotifyReply,
    /// Of a newer kernel, or not supported.
    Unknown,
}

/// Also of directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub handle: FileHandle,
    pub offset: u64,
    pub size: u32,
    pub flags: OpenFlags,
    pub owner: Option<LockOwner>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    pub handle: FileHandle,
    pub offset: u64,
    pub data: &'a [u8],
    pub write_flags: WriteFlags,
    pub flags: OpenFlags,
    pub owner: Option<LockOwner>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    pub handle: FileHandle,
    pub flags: OpenFlags,
    pub owner: Option<LockOwner>,
    pub flush: bool,
}

/// Inodes that the kernel forgets, and how many lookups of each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forgets<'a> {
    /// Of struct fuse_forget_one, whole.
    bytes: &'a [u8],
}

impl Forgets<'_> {
    const ONE: usize = 16;

    pub fn iter(&self) -> impl Iterator<Item = (INodeNo, u64)> + '_ {
        self.bytes.chunks_exact(Forgets::ONE).filter_map(|one| {
            let mut fields = Fields(one);
            Some((INodeNo(fields.u64().ok()?), fields.u64().ok()?))
        })
    }
}

impl<'a> Operation<'a> {
    /// Reads what follows the header.
    pub fn parse(opcode: u32, f: Fields<'a>) -> Result<Operation<'a>, Malformed> {
        let f = &mut { f };
        Ok(match opcode {
            opcode::LOOKUP => Operation::Lookup { name: f.name()? },
            opcode::FORGET => Operation::Forget { lookups: f.u64()? },
            opcode::BATCH_FORGET => {
                let count = f.u32()? as usize;
                f.u32()?;
                let bytes = count.checked_mul(Forgets::ONE).ok_or(Malformed)?;
                Operation::BatchForget(Forgets { bytes: f.take(bytes)? })
            }
            opcode::GETATTR => {
                let (flags, _, handle) = (f.u32()?, f.u32()?, f.u64()?);
                let given = flags & abi::GETATTR_FH != 0;
                Operation::GetAttr { handle: given.then_some(FileHandle(handle)) }
            }
            opcode::SETATTR => Operation::SetAttr(set_attr(f)?),
            opcode::READLINK => Operation::ReadLink,
            opcode::SYMLINK => Operation::Symlink { name: f.name()?, target: f.string()? },
            opcode::MKNOD => {
                let (mode, rdev, umask, _) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
                Operation::MkNod { mode, rdev, umask, name: f.name()? }
            }
            opcode::MKDIR => {
                let (mode, umask) = (f.u32()?, f.u32()?);
                Operation::MkDir { mode, umask, name: f.name()? }
            }
            opcode::UNLINK => Operation::Unlink { name: f.name()? },
            opcode::RMDIR => Operation::RmDir { name: f.name()? },
            opcode::RENAME => {
                let to = INodeNo(f.u64()?);
                let (name, to_name) = (f.name()?, f.name()?);
                Operation::Rename { name, to, to_name, flags: RenameFlags::empty() }
            }
            opcode::RENAME2 => {
                let to = INodeNo(f.u64()?);
                let (flags, _) = (RenameFlags::from_bits(f.u32()?), f.u32()?);
                let (name, to_name) = (f.name()?, f.name()?);
                Operation::Rename { name, to, to_name, flags }
            }
            opcode::LINK => Operation::Link { from: INodeNo(f.u64()?), name: f.name()? },
            opcode::OPEN => Operation::Open { flags: open_flags(f)? },
            opcode::OPENDIR => Operation::OpenDir { flags: open_flags(f)? },
            opcode::CREATE => {
                let (flags, mode, umask, _) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
                Operation::Create { flags: flags as i32, mode, umask, name: f.name()? }
            }
            opcode::READ => Operation::Read(read(f)?),
            opcode::READDIR => Operation::ReadDir(read(f)?),
            opcode::READDIRPLUS => Operation::ReadDirPlus(read(f)?),
            opcode::WRITE => Operation::Write(write(f)?),
            opcode::STATFS => Operation::StatFs,
            opcode::RELEASE => Operation::Release(release(f)?),
            opcode::RELEASEDIR => Operation::ReleaseDir(release(f)?),
            opcode::FLUSH => {
                let (handle, _, _) = (FileHandle(f.u64()?), f.u32()?, f.u32()?);
                Operation::Flush { handle, owner: LockOwner(f.u64()?) }
            }
            opcode::FSYNC | opcode::FSYNCDIR => {
                let (handle, flags, _) = (FileHandle(f.u64()?), f.u32()?, f.u32()?);
                let datasync = flags & abi::FSYNC_DATASYNC != 0;
                match opcode {
                    opcode::FSYNC => Operation::Fsync { handle, datasync },
                    _ => Operation::FsyncDir { handle, datasync },
                }
            }
            opcode::ACCESS => {
                let (mask, _) = (f.u32()?, f.u32()?);
                Operation::Access { mask: AccessFlags(mask as i32) }
            }
            opcode::LSEEK => {
                let (handle, offset, whence) = (FileHandle(f.u64()?), f.i64()?, f.u32()?);
                Operation::Lseek { handle, offset, whence: whence as i32 }
            }
            opcode::INIT => Operation::Init(init(f)?),
            opcode::INTERRUPT => Operation::Interrupt { unique: f.u64()? },
            opcode::DESTROY => Operation::Destroy,
            opcode::NOTIFY_REPLY => Operation::NotifyReply,
            _ => Operation::Unknown,
        })
    }

    /// Whether the kernel waits for an answer.
    pub fn is_answered(opcode: u32) -> bool {
        let unanswered =
            [opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT, opcode::NOTIFY_REPLY];
        !unanswered.contains(&opcode)
    }
}

/// struct fuse_open_in
fn open_flags(f: &mut Fields<'_>) -> Result<OpenFlags, Malformed> {
    let (flags, _) = (f.u32()?, f.u32()?);
    Ok(OpenFlags(flags as i32))
}

/// struct fuse_init_in; older kernels end it before `flags2`.
fn init(f: &mut Fields<'_>) -> Result<Init, Malformed> {
    let (major, minor) = (f.u32()?, f.u32()?);
    // All that is understood of another major version is its number.
    if major != abi::MAJOR {
        return Ok(Init { major, minor, max_readahead: 0, flags: InitFlags::empty() });
    }
    let (max_readahead, low) = (f.u32()?, f.u32()?);
    let extended = u64::from(low) & InitFlags::FUSE_INIT_EXT.bits() != 0;
    let high = if extended { f.u32()? } else { 0 };
    let flags = InitFlags::from_bits(u64::from(high) << 32 | u64::from(low));
    Ok(Init { major, minor, max_readahead, flags })
}

/// struct fuse_read_in
fn read(f: &mut Fields<'_>) -> Result<Read, Malformed> {
    let (handle, offset) = (FileHandle(f.u64()?), f.u64()?);
    let (size, read_flags, owner) = (f.u32()?, f.u32()?, LockOwner(f.u64()?));
    let (flags, _) = (OpenFlags(f.u32()? as i32), f.u32()?);
    let owner = (read_flags & abi::READ_LOCKOWNER != 0).then_some(owner);
    Ok(Read { handle, offset, size, flags, owner })
}

/// struct fuse_write_in and the data.
fn write<'a>(f: &mut Fields<'a>) -> Result<Write<'a>, Malformed> {
    let (handle, offset) = (FileHandle(f.u64()?), f.u64()?);
    let (size, write_flags, owner) = (f.u32()?, f.u32()?, LockOwner(f.u64()?));
    let (flags, _) = (OpenFlags(f.u32()? as i32), f.u32()?);
    let data = f.take(size as usize)?;
    // What lies behind the data, or an end that no file can have, is not the kernel's doing.
    if !f.0.is_empty() || offset.checked_add(u64::from(size)).is_none() {
        return Err(Malformed);
    }
    let owner = (write_flags & abi::WRITE_LOCKOWNER != 0).then_some(owner);
    let write_flags = WriteFlags::from_bits(write_flags);
    Ok(Write { handle, offset, data, write_flags, flags, owner })
}

/// struct fuse_release_in
fn release(f: &mut Fields<'_>) -> Result<Release, Malformed> {
    let (handle, flags) = (FileHandle(f.u64()?), OpenFlags(f.u32()? as i32));
    let (release_flags, owner) = (f.u32()?, LockOwner(f.u64()?));
    let owner = (release_flags & abi::RELEASE_FLOCK_UNLOCK != 0).then_some(owner);
    Ok(Release { handle, flags, owner, flush: release_flags & abi::RELEASE_FLUSH != 0 })
}

/// struct fuse_setattr_in
fn set_attr(f: &mut Fields<'_>) -> Result<SetAttr, Malformed> {
    let (valid, _, handle, size, _owner) = (f.u32()?, f.u32()?, f.u64()?, f.u64()?, f.u64()?);
    let (atime, mtime, ctime) = (f.i64()?, f.i64()?, f.i64()?);
    let (atime_ns, mtime_ns, ctime_ns) = (f.u32()?, f.u32()?, f.u32()?);
    let (mode, _) = (f.u32()?, f.u32()?);
    let (uid, gid) = (f.u32()?, f.u32()?);
    f.u32()?;
    let has = |bit| valid & bit != 0;
    let time = |set, now, seconds, nanos| {
        Ok(if !has(set) {
            None
        } else if has(now) {
            Some(TimeOrNow::Now)
        } else {
            Some(TimeOrNow::SpecificTime(time_from(seconds, nanos)?))
        })
    };
    Ok(SetAttr {
        mode: has(fattr::MODE).then_some(mode),
        uid: has(fattr::UID).then_some(uid),
        gid: has(fattr::GID).then_some(gid),
        size: has(fattr::SIZE).then_some(size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, atime, atime_ns)?,
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, mtime, mtime_ns)?,
        ctime: if has(fattr::CTIME) { Some(time_from(ctime, ctime_ns)?) } else { None },
        handle: has(fattr::FH).then_some(FileHandle(handle)),
        kill_suidgid: has(fattr::KILL_SUIDGID),
    })
}
