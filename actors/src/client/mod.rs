//! The client: what a mount (FUSE, USRBIO) and other users of the file system call on their shard.
//!
//! Plain async methods on a handle of one shard; several requests run at once. It keeps the
//! routing, opens, write buffers and file lengths; it stripes, retries with request ids, and never
//! lets a retry take effect twice.

mod buffer;
mod data;
mod link;
mod names;
mod retry;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use t3fs_runtime::{Addr, Cx, Slot};

use crate::agent::Agent;
use crate::proto::ids::InodeId;
use crate::proto::meta::MetaError;
use crate::proto::storage::StorageError;
use buffer::File;
pub use link::Link;

pub use crate::proto::meta::{Attr, DirEntry, DirPage, FileType, RenameMode, SetTime};

/// How an operation fails, as a file system's user sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FsError {
    /// There is no such name in the directory, which is there.
    NotFound,
    /// The inode is gone: another client has removed it.
    Stale,
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
    pub agent: Addr<Agent>,
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

impl std::fmt::Display for FsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FsError::NotFound => "no such file or directory",
            FsError::Stale => "stale file handle",
            FsError::Exists => "file exists",
            FsError::NotDirectory => "not a directory",
            FsError::IsDirectory => "is a directory",
            FsError::NotEmpty => "directory not empty",
            FsError::NameTooLong => "name too long",
            FsError::TooManyLinks => "too many links",
            FsError::InvalidArgument => "invalid argument",
            FsError::FileTooLarge => "file too large",
            FsError::NoSpace => "no space left",
            FsError::Unavailable(s) | FsError::Io(s) => s,
        })
    }
}

impl From<MetaError> for FsError {
    fn from(e: MetaError) -> Self {
        match e {
            MetaError::Changed | MetaError::Lost => FsError::Io(e.to_string()),
            MetaError::NotFound => FsError::NotFound,
            MetaError::Stale => FsError::Stale,
            MetaError::Exists => FsError::Exists,
            MetaError::NotDirectory => FsError::NotDirectory,
            MetaError::IsDirectory => FsError::IsDirectory,
            MetaError::NotEmpty => FsError::NotEmpty,
            MetaError::NameTooLong => FsError::NameTooLong,
            MetaError::TooManyLinks => FsError::TooManyLinks,
            MetaError::InvalidArgument(_) => FsError::InvalidArgument,
            MetaError::FileTooLarge => FsError::FileTooLarge,
            MetaError::NoSpace => FsError::NoSpace,
            MetaError::Unavailable(s) => FsError::Unavailable(s),
            MetaError::Damaged(s) => FsError::Io(s),
        }
    }
}

impl From<StorageError> for FsError {
    fn from(e: StorageError) -> Self {
        match e {
            StorageError::NoSpace => FsError::NoSpace,
            StorageError::StaleChain { .. }
            | StorageError::BehindChain { .. }
            | StorageError::WrongTarget
            | StorageError::NotReady => FsError::Unavailable(e.to_string()),
            other => FsError::Io(other.to_string()),
        }
    }
}

struct Inner {
    link: Link,
    write_buffer_bytes: usize,
    /// Files that are open or have data on its way.
    files: RefCell<BTreeMap<InodeId, Rc<File>>>,
    /// Bytes in write buffers and in flight to storage.
    dirty: Cell<usize>,
    /// Writers that wait for `dirty` to sink.
    waiting: RefCell<Vec<Slot<()>>>,
    /// The task that flushes buffers by age runs.
    sweeping: Cell<bool>,
    space: Cell<Option<(t3fs_runtime::Time, FsSpace)>>,
}

/// A handle; a clone is the same client.
#[derive(Clone)]
pub struct Client(Rc<Inner>);

impl Client {
    /// Opens a session with mgmtd and waits until the cluster can be used (at most 30 s).
    pub async fn start(cx: &Cx, config: ClientConfig) -> Result<Client, FsError> {
        let link = Link::open(cx, config.agent, &config.label).await?;
        Ok(Client(Rc::new(Inner {
            link,
            write_buffer_bytes: config.write_buffer_bytes,
            files: RefCell::default(),
            dirty: Cell::new(0),
            waiting: RefCell::default(),
            sweeping: Cell::new(false),
            space: Cell::new(None),
        })))
    }

    /// The connection to the cluster, for checks and tools.
    pub fn cluster(&self) -> &Link {
        &self.0.link
    }

    fn file(&self, inode: InodeId) -> Option<Rc<File>> {
        self.0.files.borrow().get(&inode).cloned()
    }

    /// Hands every buffered byte and length to stable storage.
    pub async fn sync_all(&self, cx: &Cx) -> Result<(), FsError> {
        let files: Vec<InodeId> = self.0.files.borrow().keys().copied().collect();
        let mut result = Ok(());
        for inode in files {
            let done = self.flush(cx, inode).await;
            result = result.and(done);
        }
        self.0.link.meta(cx, crate::proto::meta::SyncMeta::default()).await?;
        result
    }

    /// `sync_all`, then ends the session.
    pub async fn stop(&self, cx: &Cx) -> Result<(), FsError> {
        let synced = self.sync_all(cx).await;
        self.0.link.close(cx).await;
        synced
    }
}
