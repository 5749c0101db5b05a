//! The FUSE mount: the kernel's requests, answered by the client actor of the inode's shard.
//!
//! A FUSE thread takes a request, passes it to a shard (`door`) and takes the next; the shard's
//! task writes the reply itself. Nothing is answered from a cache here: the kernel keeps names and
//! attributes for as long as the client says that it may (`Client::cache_time`), and a second cache
//! with the same age limit would only be asked when it is as old as the kernel's. `options` has
//! everything that the kernel is told at mount, and `kernel` speaks its protocol.
//!
//! A caller that is killed is answered EINTR while its request goes on. Whoever has opened
//! something for it hears so from the reply, and releases it again: nobody else will.

mod attr;
mod dir;
mod errno;
mod files;
pub mod kernel;
mod names;
mod open_flags;
pub mod options;
pub(crate) mod told;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use t3fs_actors::client::{self, Attr, FsError, FsSpace, HandleId, Owner, Seek, SetAttrs};
use t3fs_actors::proto::ids::InodeId;
use t3fs_actors::proto::meta::{NAME_MAX, SYMLINK_MAX};
use t3fs_runtime::Caller;

pub(crate) use dir::CURSOR_BYTES_MAX;
use dir::{Cursor, Item};
use errno::errno;
use kernel::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, SetAttr, WriteFlags,
};
use kernel::{ReplyLseek, Ttl};

use crate::door::{Door, Here};

/// Inode numbers are never used twice, so one generation is enough.
const GENERATION: Generation = Generation(0);
/// The unit in which statfs(2) counts.
const STATFS_BLOCK: u64 = 4096;

/// The file system as the kernel's requests find it.
pub struct Fs {
    door: Arc<Door>,
    /// Open directories by handle. A cursor is out of the map while a shard works with it; the
    /// kernel has one request per handle at a time.
    dirs: Arc<DashMap<u64, Cursor>>,
    next_dir: AtomicU64,
    /// Directories removed by this mount that the kernel still knows, as they were last: somebody's
    /// working directory.
    removed: Arc<DashMap<u64, Attr>>,
}

impl Fs {
    pub fn new(door: Arc<Door>) -> Fs {
        Fs { door, dirs: Arc::default(), next_dir: AtomicU64::new(1), removed: Arc::default() }
    }

    fn run<F>(&self, req: &Request, inode: INodeNo, request: F)
    where
        F: AsyncFnOnce(Here) + Send + 'static,
    {
        self.door.run(self.caller(req), InodeId(inode.0), request);
    }

    fn caller(&self, req: &Request) -> Arc<Caller> {
        self.door.caller(req.uid(), req.gid())
    }
}

/// A name that can exist; longer ones are refused here, as no server would take them.
fn name_of(name: &OsStr) -> Result<Vec<u8>, Errno> {
    let name = name.as_bytes();
    if name.len() > NAME_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(name.to_vec()) }
}

/// The kernel has applied the umask already (`options`).
fn owner(req: &Request, mode: u32) -> Owner {
    Owner { uid: req.uid(), gid: req.gid(), mode: mode & 0o7777 }
}

fn answer(reply: ReplyEmpty, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(&e)),
    };
}

async fn answer_entry(here: &Here, reply: ReplyEntry, result: Result<Attr, FsError>) {
    match result {
        Ok(a) => reply.entry(told::ttl(here), &told::attributes(here, &a).await, GENERATION),
        Err(e) => reply.error(errno(&e)),
    };
}

async fn answer_attr(here: &Here, reply: ReplyAttr, result: Result<Attr, FsError>) {
    match result {
        Ok(a) => reply.attr(told::ttl(here), &told::attributes(here, &a).await),
        Err(e) => reply.error(errno(&e)),
    };
}

fn answer_statfs(reply: ReplyStatfs, result: Result<FsSpace, FsError>) {
    match result {
        Ok(s) => {
            let free = s.free / STATFS_BLOCK;
            reply.statfs(
                s.capacity / STATFS_BLOCK,
                free,
                free,
                s.inodes.saturating_add(free),
                free, // a new file takes at least a block
                STATFS_BLOCK as u32,
                NAME_MAX as u32,
                STATFS_BLOCK as u32,
            )
        }
        Err(e) => reply.error(errno(&e)),
    };
}

/// Unwraps, or replies with the error and returns.
macro_rules! or_reply {
    ($result:expr, $reply:expr) => {
        match $result {
            Ok(v) => v,
            Err(e) => {
                $reply.error(e);
                return;
            }
        }
    };
}

/// An open directory that is gone lists nothing more, as on any file system.
macro_rules! answer_listing {
    ($listed:expr, $reply:expr) => {
        match $listed {
            Ok(()) | Err(FsError::Stale) => $reply.ok(),
            Err(e) => $reply.error(errno(&e)),
        };
    };
}

impl Filesystem for Fs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        options::configure(config)
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = or_reply!(name_of(name), reply);
        self.run(req, parent, async move |here| {
            answer_entry(&here, reply, names::lookup(&here, InodeId(parent.0), &name).await).await;
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, _lookups: u64) {
        if !self.removed.is_empty() {
            self.removed.remove(&ino.0);
        }
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if let Some(last) = self.removed.get(&ino.0) {
            reply.attr(client::CACHE_TIME, &attr::to_kernel(&last));
            return;
        }
        self.run(req, ino, async move |here| {
            let attr = here.client.getattr(&here.cx, InodeId(ino.0)).await;
            here.forget_if_cut(InodeId(ino.0)).await;
            answer_attr(&here, reply, attr).await;
        });
    }

    fn setattr(&self, req: &Request, ino: INodeNo, set: SetAttr, reply: ReplyAttr) {
        let SetAttr { mode, uid, gid, size, atime, mtime, ctime, .. } = set;
        let set = SetAttrs {
            mode: mode.map(|m| m & 0o7777),
            uid,
            gid,
            length: size,
            atime: atime.map(attr::set_time),
            mtime: mtime.map(attr::set_time),
            ctime: ctime.map(attr::set_ctime),
        };
        self.run(req, ino, async move |here| {
            answer_attr(&here, reply, here.client.setattr(&here.cx, InodeId(ino.0), set).await)
                .await;
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.run(req, ino, async move |here| {
            match here.client.readlink(&here.cx, InodeId(ino.0)).await {
                Ok(target) => reply.data(&target),
                Err(e) => reply.error(errno(&e)),
            };
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let name = or_reply!(name_of(name), reply);
        let kind = or_reply!(attr::kind_of_mknod(mode, rdev).ok_or(Errno::EINVAL), reply);
        let owner = owner(req, mode);
        self.run(req, parent, async move |here| {
            answer_entry(
                &here,
                reply,
                names::mknod(&here, InodeId(parent.0), &name, owner, kind).await,
            )
            .await;
        });
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
        let name = or_reply!(name_of(name), reply);
        let owner = owner(req, mode);
        self.run(req, parent, async move |here| {
            let made = here.client.mkdir(&here.cx, InodeId(parent.0), &name, owner).await;
            answer_entry(&here, reply, made).await;
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = or_reply!(name_of(name), reply);
        self.run(req, parent, async move |here| {
            answer(reply, names::unlink(&here, InodeId(parent.0), name).await);
        });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = or_reply!(name_of(name), reply);
        let removed = Arc::clone(&self.removed);
        self.run(req, parent, async move |here| {
            let gone = here.client.rmdir(&here.cx, InodeId(parent.0), &name).await;
            let gone = gone.map(|directory| _ = removed.insert(directory.inode.0, directory));
            answer(reply, gone);
        });
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let name = or_reply!(name_of(link_name), reply);
        let target = target.as_os_str().as_bytes().to_vec();
        if target.len() > SYMLINK_MAX {
            reply.error(Errno::ENAMETOOLONG);
            return;
        }
        let owner = owner(req, 0o777);
        self.run(req, parent, async move |here| {
            let client = &here.client;
            let made = client.symlink(&here.cx, InodeId(parent.0), &name, &target, owner).await;
            answer_entry(&here, reply, made).await;
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let from = (InodeId(parent.0), or_reply!(name_of(name), reply));
        let to = (InodeId(newparent.0), or_reply!(name_of(newname), reply));
        let mode = or_reply!(names::rename_mode(flags).ok_or(Errno::EINVAL), reply);
        self.run(req, newparent, async move |here| {
            answer(reply, names::rename(&here, from, to, mode).await);
        });
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let name = or_reply!(name_of(newname), reply);
        self.run(req, ino, async move |here| {
            let (inode, parent) = (InodeId(ino.0), InodeId(newparent.0));
            answer_entry(&here, reply, here.client.link(&here.cx, inode, parent, &name).await)
                .await;
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let uid = req.uid();
        self.run(req, ino, async move |here| {
            let inode = InodeId(ino.0);
            let taken = match files::open(&here, inode, flags.0, uid).await {
                Ok((_, handle)) => (
                    handle,
                    reply.opened(FileHandle(handle.0), told::caching(&here, inode, flags.0)),
                ),
                Err(e) => {
                    reply.error(errno(&e));
                    return;
                }
            };
            if let (handle, false) = taken {
                files::close_unheard(&here, inode, handle, flags.0).await;
            }
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.run(req, ino, async move |here| {
            match files::read(&here, InodeId(ino.0), offset, size).await {
                Ok(data) => reply.data(&data),
                Err(e) => reply.error(errno(&e)),
            };
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = Bytes::copy_from_slice(data);
        let size = data.len();
        // Past its cache the kernel leaves setuid bits to us.
        let direct = open_flags::is_direct(flags.0) && req.uid() != 0;
        let write = files::Write {
            inode: InodeId(ino.0),
            handle: HandleId(fh.0),
            offset,
            data,
            flags: flags.0,
            cached: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            privileged: !direct && !write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        let wanted = reply.wanted();
        self.door.run_write(self.caller(req), write.inode, size, wanted, async move |here| {
            let inode = write.inode;
            let written = files::write(&here, write).await;
            here.forget_if_cut(inode).await;
            match written {
                Ok(written) => reply.written(written.len as u32),
                Err(e) => reply.error(errno(&e)),
            };
        });
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.run(req, ino, async move |here| {
            let flushed = here.client.flush(&here.cx, InodeId(ino.0), HandleId(fh.0)).await;
            here.forget_if_cut(InodeId(ino.0)).await;
            answer(reply, flushed);
        });
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.run(req, ino, async move |here| {
            answer(reply, files::release(&here, InodeId(ino.0), HandleId(fh.0), flags.0).await);
        });
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.run(req, ino, async move |here| {
            let handle = Some(HandleId(fh.0));
            let synced = files::fsync(&here, InodeId(ino.0), handle, datasync).await;
            here.forget_if_cut(InodeId(ino.0)).await;
            answer(reply, synced);
        });
    }

    /// Asks whether it is still there: here the kernel can look its path up anew, later it cannot.
    /// Of what this mount has removed the kernel knows, and lists nothing.
    fn opendir(&self, req: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let handle = self.next_dir.fetch_add(1, Ordering::Relaxed);
        // Of a directory nothing is kept before it is read: there is nothing to close again.
        if self.removed.contains_key(&ino.0) {
            let _ = reply.opened(FileHandle(handle), FopenFlags::empty());
            return;
        }
        self.run(req, ino, async move |here| {
            match files::open_dir(&here, InodeId(ino.0)).await {
                Ok(()) => reply.opened(FileHandle(handle), FopenFlags::empty()),
                Err(e) => reply.error(errno(&e)),
            };
        });
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let dirs = Arc::clone(&self.dirs);
        self.run(req, ino, async move |here| {
            let mut cursor = dirs.remove(&fh.0).map(|(_, c)| c).unwrap_or_default();
            let inode = InodeId(ino.0);
            let add = |next: u64, item: Item<'_>| {
                let dots = FileType::Directory;
                match item {
                    Item::Dot(i) => reply.add(INodeNo(i.0), next, dots, "."),
                    Item::DotDot(i) => reply.add(INodeNo(i.0), next, dots, ".."),
                    Item::Entry(e) => {
                        let (kind, _) = attr::kind_to_kernel(e.attr.kind);
                        let name = OsStr::from_bytes(&e.name);
                        reply.add(INodeNo(e.attr.inode.0), next, kind, name)
                    }
                }
            };
            let listed = dir::list(&here, inode, &mut cursor, offset, false, add).await;
            dirs.insert(fh.0, cursor);
            answer_listing!(listed, reply);
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let dirs = Arc::clone(&self.dirs);
        self.run(req, ino, async move |here| {
            let mut cursor = dirs.remove(&fh.0).map(|(_, c)| c).unwrap_or_default();
            let inode = InodeId(ino.0);
            let ttl = told::ttl(&here);
            let mut put = |next: u64, name: &OsStr, ttl: Ttl, a: &FileAttr| {
                reply.add(a.ino, next, name, ttl, a, GENERATION)
            };
            let add = |next: u64, item: Item<'_>| match item {
                Item::Dot(i) => put(next, OsStr::new("."), ttl, &attr::of_dots(i)),
                Item::DotDot(i) => put(next, OsStr::new(".."), ttl, &attr::of_dots(i)),
                Item::Entry(e) => {
                    // How much a sparse file takes is asked for when somebody wants to know.
                    let attr_ttl = if e.attr.sparse { Duration::ZERO } else { ttl.attr };
                    let ttl = Ttl { attr: attr_ttl, ..ttl };
                    put(next, OsStr::from_bytes(&e.name), ttl, &attr::to_kernel(&e.attr))
                }
            };
            let listed = dir::list(&here, inode, &mut cursor, offset, true, add).await;
            dirs.insert(fh.0, cursor);
            answer_listing!(listed, reply);
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.dirs.remove(&fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.run(req, ino, async move |here| {
            answer(reply, files::fsync(&here, InodeId(ino.0), None, datasync).await);
        });
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.run(req, ino, async move |here| {
            answer_statfs(reply, here.client.statfs(&here.cx).await);
        });
    }

    /// Not asked with `default_permissions`; the kernel has checked.
    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
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
        let name = or_reply!(name_of(name), reply);
        let owner = owner(req, mode);
        self.run(req, parent, async move |here| {
            let (a, handle) =
                match files::create(&here, InodeId(parent.0), &name, owner, flags).await {
                    Ok(made) => made,
                    Err(e) => {
                        reply.error(errno(&e));
                        return;
                    }
                };
            let open_flags = options::of_open(flags);
            let told = told::attributes(&here, &a).await;
            if !reply.created(told::ttl(&here), &told, GENERATION, FileHandle(handle.0), open_flags)
            {
                let close = async move |there: &Here| {
                    files::close_unheard(there, a.inode, handle, flags).await;
                    Ok(())
                };
                // The close fails only where everything ends.
                let _ = here.at(a.inode, close).await;
            }
        });
    }

    /// Where data or a hole begins.
    fn lseek(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => {
                reply.error(Errno::EINVAL);
                return;
            }
        };
        let Ok(from) = u64::try_from(offset) else {
            reply.error(Errno::ENXIO);
            return;
        };
        self.run(req, ino, async move |here| {
            match here.client.seek(&here.cx, InodeId(ino.0), from, what).await {
                Ok(Some(found)) => reply.offset(found as i64),
                Ok(None) => reply.error(Errno::ENXIO),
                Err(e) => reply.error(errno(&e)),
            };
        });
    }
}
