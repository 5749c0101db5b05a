//! Our end of the FUSE protocol: requests from the kernel, answers and notifications to it.
//!
//! ```text
//!             /dev/fuse (one descriptor for each event loop)
//!   kernel ------------------------------------------------> session: EventLoop::serve
//!                                                              | request: bytes -> Operation
//!                                                              | inflight: noted
//!                                                              v dispatch
//!                              Filesystem::lookup(.., ReplyEntry) and so on; returns at once
//!                                                              :
//!   kernel <---- channel: answered once <---- reply <---------- a shard's task, later
//!   kernel ----> FUSE_INTERRUPT ----> interrupts: marked; answered EINTR if its caller dies
//!   kernel <---- notify: what to forget
//! ```
//! It promises that each request is answered once, by whoever comes first; that no bytes of the
//! kernel break it; and that a process which is killed while it waits for us is gone within a
//! second, however long the answer takes. `ops/bench/nullfs` is compiled with the same files.
//! Decision 012 says why it is our own. Read next: `request.rs`, `session.rs`, `interrupts.rs`.

mod abi;
mod channel;
mod dispatch;
mod fatal;
mod inflight;
mod init;
mod interrupts;
mod notify;
mod reply;
mod request;
mod session;
mod types;

#[cfg(test)]
mod mounted;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io;
use std::path::Path;

pub use init::KernelConfig;
pub use notify::{Notifier, TooMuch};
pub use reply::{
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
};
pub use request::Request;
pub use session::{Session, SessionAcl};
pub use types::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, InitFlags,
    LockOwner, OpenFlags, RenameFlags, SetAttr, TimeOrNow, Ttl, WriteFlags,
};

/// What a file system answers. A method returns soon and may keep its reply for later, on any
/// thread. What is not written answers ENOSYS, and the kernel does without from then on where it
/// can.
pub trait Filesystem: Send + Sync + 'static {
    /// Before all others: chooses among what the kernel offers.
    ///
    /// # Errors
    /// Why there can be no mount.
    fn init(&mut self, _request: &Request, _config: &mut KernelConfig) -> io::Result<()> {
        Ok(())
    }

    fn lookup(&self, _: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::ENOSYS);
    }

    /// The kernel no longer knows the inode from so many of its lookups. Not answered.
    fn forget(&self, _: &Request, _ino: INodeNo, _lookups: u64) {}

    fn batch_forget(&self, request: &Request, all: &mut dyn Iterator<Item = (INodeNo, u64)>) {
        for (ino, lookups) in all {
            self.forget(request, ino, lookups);
        }
    }

    /// With a handle if it is fstat(2).
    fn getattr(&self, _: &Request, _ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.error(Errno::ENOSYS);
    }

    fn setattr(&self, _: &Request, _ino: INodeNo, _set: SetAttr, reply: ReplyAttr) {
        reply.error(Errno::ENOSYS);
    }

    fn readlink(&self, _: &Request, _ino: INodeNo, reply: ReplyData) {
        reply.error(Errno::ENOSYS);
    }

    fn mknod(
        &self,
        _: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn mkdir(
        &self,
        _: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn unlink(&self, _: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn rmdir(&self, _: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn symlink(
        &self,
        _: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn rename(
        &self,
        _: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn link(
        &self,
        _: &Request,
        _ino: INodeNo,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn open(&self, _: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        _: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        _: FileHandle,
        _offset: u64,
        _size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        _: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// Each close(2) of a descriptor.
    fn flush(&self, _: &Request, _ino: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// The last one. Nobody waits for it, and it is never interrupted.
    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        _: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Nothing was opened that would have to be closed.
        let _ = reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _: &Request,
        _ino: INodeNo,
        _: FileHandle,
        _offset: u64,
        reply: ReplyDirectory,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn readdirplus(
        &self,
        _: &Request,
        _ino: INodeNo,
        _: FileHandle,
        _offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn releasedir(
        &self,
        _: &Request,
        _ino: INodeNo,
        _: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _: &Request,
        _ino: INodeNo,
        _: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn statfs(&self, _: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// SEEK_DATA and SEEK_HOLE only; the kernel does the others itself, and after ENOSYS these too.
    fn lseek(
        &self,
        _: &Request,
        _ino: INodeNo,
        _: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
