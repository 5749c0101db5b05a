//! The client: what a mount (FUSE, USRBIO) and other users of the file system call on their shard.
//!
//! Plain async methods on a handle of one shard; several requests run at once. It keeps the routing,
//! opens, write buffers and file lengths; it stripes, retries with request ids, and never lets a
//! retry take effect twice.

use bytes::Bytes;
use t3fs_runtime::{Addr, Cx};

use crate::mgmtd::Mgmtd;
use crate::proto::ids::InodeId;
pub use crate::proto::meta::{Attr, DirEntry, DirPage, FileType, RenameMode, SetTime};

/// How an operation fails, as a file system's user sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FsError {
    NotFound,
    Exists,
    NotDirectory,
    IsDirectory,
    NotEmpty,
    NameTooLong,
    TooManyLinks,
    InvalidArgument,
    FileTooLarge,
    NoSpace,
    /// The cluster did not answer in time; the text says who.
    Unavailable(String),
    /// Stored data is damaged or a disk failed; the text says where.
    Io(String),
}

#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub mgmtd: Addr<Mgmtd>,
    /// For people: host name and mount point.
    pub label: String,
    /// Dirty bytes held before writers wait.
    pub write_buffer_bytes: usize,
}

/// Attributes to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttrs {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub length: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    pub ctime: Option<SetTime>,
}

/// Who makes something: the caller's ids and the mode with the umask applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsSpace {
    /// Bytes that users can store, replicas taken into account.
    pub capacity: u64,
    pub free: u64,
    pub inodes: u64,
}

/// A handle; a clone is the same client.
#[derive(Clone)]
pub struct Client;

impl Client {
    /// Opens a session with mgmtd and waits until the cluster can be used (at most 30 s).
    pub async fn start(_cx: &Cx, _config: ClientConfig) -> Result<Client, FsError> {
        std::future::pending().await
    }

    pub async fn lookup(&self, _: &Cx, _parent: InodeId, _name: &[u8]) -> Result<Attr, FsError> {
        std::future::pending().await
    }

    /// With the length as this client's own unflushed writes make it.
    pub async fn getattr(&self, _: &Cx, _inode: InodeId) -> Result<Attr, FsError> {
        std::future::pending().await
    }

    pub async fn setattr(&self, _: &Cx, _: InodeId, _: SetAttrs) -> Result<Attr, FsError> {
        std::future::pending().await
    }

    /// Makes a file (or special file) and, for a file, opens it: pairs with `release`.
    pub async fn create(
        &self,
        _: &Cx,
        _parent: InodeId,
        _name: &[u8],
        _owner: Owner,
        _kind: FileType,
    ) -> Result<Attr, FsError> {
        std::future::pending().await
    }

    /// Pairs with `release`; the content of an open file stays when its last name goes.
    pub async fn open(&self, _: &Cx, _inode: InodeId) -> Result<Attr, FsError> {
        std::future::pending().await
    }

    pub async fn release(&self, _: &Cx, _inode: InodeId) -> Result<(), FsError> {
        std::future::pending().await
    }

    /// Up to `len` bytes; shorter only at the end of the file.
    pub async fn read(
        &self,
        _: &Cx,
        _inode: InodeId,
        _offset: u64,
        _len: u32,
    ) -> Result<Bytes, FsError> {
        std::future::pending().await
    }

    /// Buffers; a failure of an earlier write in the background shows in flush and fsync.
    /// `privileged`: the writer is root, so setuid bits stay.
    pub async fn write(
        &self,
        _: &Cx,
        _inode: InodeId,
        _offset: u64,
        _data: Bytes,
        _privileged: bool,
    ) -> Result<(), FsError> {
        std::future::pending().await
    }

    /// close(2): hands everything to storage and the length to meta.
    pub async fn flush(&self, _: &Cx, _inode: InodeId) -> Result<(), FsError> {
        std::future::pending().await
    }

    /// Content and attributes are on stable storage when it returns.
    pub async fn fsync(&self, _: &Cx, _inode: InodeId, _datasync: bool) -> Result<(), FsError> {
        std::future::pending().await
    }

    pub async fn mkdir(
        &self,
        _: &Cx,
        _parent: InodeId,
        _name: &[u8],
        _owner: Owner,
    ) -> Result<Attr, FsError> {
        std::future::pending().await
    }

    pub async fn symlink(
        &self,
        _: &Cx,
        _parent: InodeId,
        _name: &[u8],
        _target: &[u8],
        _owner: Owner,
    ) -> Result<Attr, FsError> {
        std::future::pending().await
    }

    pub async fn readlink(&self, _: &Cx, _inode: InodeId) -> Result<Vec<u8>, FsError> {
        std::future::pending().await
    }

    pub async fn link(
        &self,
        _: &Cx,
        _inode: InodeId,
        _parent: InodeId,
        _name: &[u8],
    ) -> Result<Attr, FsError> {
        std::future::pending().await
    }

    /// The inode that lost its name, after.
    pub async fn unlink(&self, _: &Cx, _parent: InodeId, _name: &[u8]) -> Result<Attr, FsError> {
        std::future::pending().await
    }

    pub async fn rmdir(&self, _: &Cx, _parent: InodeId, _name: &[u8]) -> Result<(), FsError> {
        std::future::pending().await
    }

    pub async fn rename(
        &self,
        _: &Cx,
        _parent: InodeId,
        _name: &[u8],
        _new_parent: InodeId,
        _new_name: &[u8],
        _mode: RenameMode,
    ) -> Result<(), FsError> {
        std::future::pending().await
    }

    /// Entries after the name `after`, in byte order, without `.` and `..`.
    pub async fn readdir(
        &self,
        _: &Cx,
        _inode: InodeId,
        _after: &[u8],
        _limit: u32,
    ) -> Result<DirPage, FsError> {
        std::future::pending().await
    }

    pub async fn statfs(&self, _: &Cx) -> Result<FsSpace, FsError> {
        std::future::pending().await
    }

    /// Hands every buffered byte and length to stable storage.
    pub async fn sync_all(&self, _: &Cx) -> Result<(), FsError> {
        std::future::pending().await
    }

    /// `sync_all`, then ends the session.
    pub async fn stop(&self, _: &Cx) -> Result<(), FsError> {
        std::future::pending().await
    }
}
