//! From an operation to the method of [`Filesystem`] that answers it.

use std::path::Path;
use std::sync::Arc;

use super::Filesystem;
use super::abi::opcode;
use super::channel::Channel;
use super::reply::{
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Ticket,
};
use super::request::{Operation, Request};
use super::types::Errno;

/// Whether a request may end early, with EINTR. What gives back what was opened is done in any
/// case; the kernel does not interrupt it, as nobody waits for it.
pub fn may_end(opcode: u32) -> bool {
    ![opcode::INIT, opcode::DESTROY, opcode::RELEASE, opcode::RELEASEDIR].contains(&opcode)
}

/// Whether it is part of close(2).
pub fn closes(opcode: u32) -> bool {
    opcode == opcode::FLUSH
}

/// Whether the kernel may ask for it in nobody's name, or in that of one who was let in before.
pub fn is_for_anybody(opcode: u32) -> bool {
    const FOR_ANYBODY: [u32; 14] = [
        opcode::INIT,
        opcode::DESTROY,
        opcode::INTERRUPT,
        opcode::NOTIFY_REPLY,
        opcode::FORGET,
        opcode::BATCH_FORGET,
        opcode::READ,
        opcode::WRITE,
        opcode::FSYNC,
        opcode::RELEASE,
        opcode::READDIR,
        opcode::READDIRPLUS,
        opcode::FSYNCDIR,
        opcode::RELEASEDIR,
    ];
    FOR_ANYBODY.contains(&opcode)
}

/// Calls the file system. The request has been noted in the channel, if it is to be answered.
pub fn to<F: Filesystem>(
    fs: &F,
    channel: &Arc<Channel>,
    request: &Request,
    operation: Operation<'_>,
) {
    let r = request;
    let ino = r.inode();
    let ticket = || Ticket::new(channel, r.unique());
    let entry = || ReplyEntry::new(ticket());
    let empty = || ReplyEmpty::new(ticket());
    match operation {
        Operation::Forget { lookups } => fs.forget(r, ino, lookups),
        Operation::BatchForget(all) => fs.batch_forget(r, &mut all.iter()),
        Operation::Interrupt { unique } => channel.interrupt(unique),
        Operation::NotifyReply => {}
        Operation::Lookup { name } => fs.lookup(r, ino, name, entry()),
        Operation::GetAttr { handle } => fs.getattr(r, ino, handle, ReplyAttr::new(ticket())),
        Operation::SetAttr(set) => fs.setattr(r, ino, set, ReplyAttr::new(ticket())),
        Operation::ReadLink => fs.readlink(r, ino, ReplyData::new(ticket())),
        Operation::Symlink { name, target } => {
            fs.symlink(r, ino, name, Path::new(target), entry());
        }
        Operation::MkNod { name, mode, umask, rdev } => {
            fs.mknod(r, ino, name, mode, umask, rdev, entry());
        }
        Operation::MkDir { name, mode, umask } => fs.mkdir(r, ino, name, mode, umask, entry()),
        Operation::Unlink { name } => fs.unlink(r, ino, name, empty()),
        Operation::RmDir { name } => fs.rmdir(r, ino, name, empty()),
        Operation::Rename { name, to, to_name, flags } => {
            fs.rename(r, ino, name, to, to_name, flags, empty());
        }
        Operation::Link { from, name } => fs.link(r, from, ino, name, entry()),
        Operation::Open { flags } => fs.open(r, ino, flags, ReplyOpen::new(ticket())),
        Operation::Create { name, mode, umask, flags } => {
            fs.create(r, ino, name, mode, umask, flags, ReplyCreate::new(ticket()));
        }
        Operation::Read(a) => {
            let reply = ReplyData::new(ticket());
            fs.read(r, ino, a.handle, a.offset, a.size, a.flags, a.owner, reply);
        }
        Operation::Write(a) => {
            let reply = ReplyWrite::new(ticket());
            let (handle, offset) = (a.handle, a.offset);
            fs.write(r, ino, handle, offset, a.data, a.write_flags, a.flags, a.owner, reply);
        }
        Operation::Flush { handle, owner } => fs.flush(r, ino, handle, owner, empty()),
        Operation::Release(a) => {
            fs.release(r, ino, a.handle, a.flags, a.owner, a.flush, empty());
        }
        Operation::Fsync { handle, datasync } => fs.fsync(r, ino, handle, datasync, empty()),
        Operation::OpenDir { flags } => fs.opendir(r, ino, flags, ReplyOpen::new(ticket())),
        Operation::ReadDir(a) => {
            fs.readdir(r, ino, a.handle, a.offset, ReplyDirectory::new(ticket(), a.size));
        }
        Operation::ReadDirPlus(a) => {
            let reply = ReplyDirectoryPlus::new(ticket(), a.size);
            fs.readdirplus(r, ino, a.handle, a.offset, reply);
        }
        Operation::ReleaseDir(a) => fs.releasedir(r, ino, a.handle, a.flags, empty()),
        Operation::FsyncDir { handle, datasync } => fs.fsyncdir(r, ino, handle, datasync, empty()),
        Operation::StatFs => fs.statfs(r, ino, ReplyStatfs::new(ticket())),
        Operation::Access { mask } => fs.access(r, ino, mask, empty()),
        Operation::Lseek { handle, offset, whence } => {
            fs.lseek(r, ino, handle, offset, whence, ReplyLseek::new(ticket()));
        }
        Operation::Destroy => _ = ticket().answer(&[]),
        // Only once, before the event loops.
        Operation::Init(_) => _ = ticket().error(Errno::EIO),
        Operation::Unknown => _ = ticket().error(Errno::ENOSYS),
    }
}
