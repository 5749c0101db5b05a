//! The FUSE operations of nullfs: each one a look into `tree.rs` and an answer.

use std::ffi::OsStr;
use std::io;
use std::time::SystemTime;

use rustix::fs::OFlags;

use t3fs_actors::client::CACHE_TIME as TTL;
use t3fs_nodes::fuse::kernel::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, SetAttr, TimeOrNow, WriteFlags,
};
use t3fs_nodes::fuse::options;

use crate::tree::Tree;

/// What every read is answered from; as long as the longest read that the kernel sends.
static ZEROS: [u8; options::IO_BYTES_MAX as usize] = [0; options::IO_BYTES_MAX as usize];

#[derive(Default)]
pub struct NullFs {
    tree: Tree,
}

fn owner(req: &Request) -> (u32, u32) {
    (req.uid(), req.gid())
}

/// Permission bits of a new inode. The kernel has already applied the umask to `mode`.
fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

fn time(value: TimeOrNow) -> SystemTime {
    match value {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

fn answer_entry(reply: ReplyEntry, attr: Option<FileAttr>) {
    match attr {
        Some(attr) => reply.entry(TTL, &attr, Generation(0)),
        None => reply.error(Errno::ENOENT),
    };
}

fn answer_attr(reply: ReplyAttr, attr: Option<FileAttr>) {
    match attr {
        Some(attr) => reply.attr(TTL, &attr),
        None => reply.error(Errno::ENOENT),
    };
}

fn answer_empty(reply: ReplyEmpty, done: Option<()>) {
    match done {
        Some(()) => reply.ok(),
        None => reply.error(Errno::ENOENT),
    };
}

impl Filesystem for NullFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        options::configure(config)
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(reply, self.tree.lookup(parent.0, name));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        answer_attr(reply, self.tree.attr(ino.0));
    }

    fn setattr(&self, _req: &Request, ino: INodeNo, set: SetAttr, reply: ReplyAttr) {
        let SetAttr { mode, uid, gid, size, atime, mtime, .. } = set;
        let changed = self.tree.change(ino.0, |attr| {
            attr.perm = mode.map_or(attr.perm, permissions);
            attr.uid = uid.unwrap_or(attr.uid);
            attr.gid = gid.unwrap_or(attr.gid);
            attr.size = size.unwrap_or(attr.size);
            attr.atime = atime.map_or(attr.atime, time);
            attr.mtime = mtime.map_or(attr.mtime, time);
        });
        answer_attr(reply, changed);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let perm = permissions(mode);
        let added = self.tree.add(parent.0, name, FileType::Directory, perm, owner(req));
        answer_entry(reply, added);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(reply, self.tree.remove(parent.0, name));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if self.tree.is_full(parent.0, name) {
            reply.error(Errno::ENOTEMPTY);
            return;
        }
        answer_empty(reply, self.tree.remove(parent.0, name));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            reply.error(Errno::EINVAL);
            return;
        }
        answer_empty(reply, self.tree.rename((parent.0, name), (newparent.0, newname)));
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        // The settings ask the kernel to leave this to us.
        if flags.0 as u32 & OFlags::TRUNC.bits() != 0 {
            self.tree.change(ino.0, |attr| attr.size = 0);
        }
        // Nothing is kept for an open file, so there is nothing to close if its caller was killed.
        let _ = reply.opened(FileHandle(0), options::of_open(flags.0));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let perm = permissions(mode);
        match self.tree.add(parent.0, name, FileType::RegularFile, perm, owner(req)) {
            Some(attr) => {
                let open_flags = options::of_open(flags);
                // As above.
                let _ = reply.created(TTL, &attr, Generation(0), FileHandle(0), open_flags);
            }
            None => _ = reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let length = self.tree.attr(ino.0).map_or(0, |attr| attr.size);
        let rest = length.saturating_sub(offset).min(u64::from(size));
        reply.data(&ZEROS[..ZEROS.len().min(rest as usize)]);
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let end = offset + data.len() as u64;
        // An inode that is gone was removed while open: its data is dropped like all other data.
        self.tree.change(ino.0, |attr| {
            attr.size = attr.size.max(end);
            attr.mtime = SystemTime::now();
        });
        reply.written(data.len() as u32);
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.tree.open_listing(ino.0) {
            Some(handle) => {
                if !reply.opened(FileHandle(handle), FopenFlags::empty()) {
                    self.tree.close_listing(handle);
                }
            }
            None => _ = reply.error(Errno::ENOENT),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(listing) = self.tree.listing(fh.0) else {
            reply.error(Errno::EBADF);
            return;
        };
        for (index, entry) in listing.iter().enumerate().skip(offset as usize) {
            let next = index as u64 + 1;
            if reply.add(INodeNo(entry.ino), next, entry.kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(listing) = self.tree.listing(fh.0) else {
            reply.error(Errno::EBADF);
            return;
        };
        for (index, entry) in listing.iter().enumerate().skip(offset as usize) {
            let next = index as u64 + 1;
            // Removed since the folder was opened: such entries may be left out.
            let Some(attr) = self.tree.attr(entry.ino) else {
                continue;
            };
            if reply.add(INodeNo(entry.ino), next, &entry.name, TTL, &attr, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.tree.close_listing(fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // One TiB of 4 KiB blocks, all free, so that no client holds back.
        let blocks = 1 << 28;
        let inodes_max = 1 << 32;
        let inodes_free = inodes_max - self.tree.inodes();
        reply.statfs(blocks, blocks, blocks, inodes_max, inodes_free, 4096, 255, 4096);
    }
}
