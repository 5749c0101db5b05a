//! The client: what a mount (FUSE, USRBIO) and other users of the file system call on their shard.
//!
//! Plain async methods on a handle of one shard; several requests run at once. It keeps the
//! routing, opens, write buffers and file lengths; it stripes, retries with request ids, and never
//! lets a retry take effect twice.

mod append;
mod chunk;
mod cluster_session;
mod data;
mod extents;
mod file;
mod gate;
mod names;
mod opens;
mod pieces;
mod push;
mod report;
mod retry;
mod room;
mod sharing;
mod stamps;
mod truncate;
mod wait;

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use t3fs_runtime::{Addr, Bell, Cx, Time};

use crate::planted::PlantedBug;
use crate::proto::agent::Agent;
use crate::proto::ids::InodeId;
use crate::proto::meta::{MetaError, SyncMeta};
use crate::proto::storage::StorageError;
pub use cluster_session::ClusterSession;
pub use extents::Seek;
use file::File;
pub use file::HandleId;
use opens::DoubtedHolds;
pub use pieces::{At, Written};
use room::Room;
pub use sharing::CACHE_TIME;
use sharing::Sharing;
pub use stamps::CHANGES_BYTES_MAX;
use stamps::Stamps;

pub use crate::proto::meta::{Attr, DirEntry, DirPage, FileType, RenameMode, SetTime};
pub use crate::timing::IO_TIMEOUT;

/// How an operation fails, as a file system's user sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FsError {
    /// There is no such name in the directory, which is there.
    NotFound,
    /// The inode is gone: another client has removed it.
    Stale,
    /// The content is not as it was seen; never leaves the client.
    Changed,
    /// What the metadata store had acknowledged is lost.
    Lost,
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

/// How long a client that ends waits for meta to hear that its files are closed. What meta has not
/// heard, the end of the session tells.
const GOODBYE_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub agent: Addr<Agent>,
    /// For people: host name and mount point.
    pub label: String,
    /// Dirty bytes held before writers wait.
    pub write_buffer_bytes: usize,
    /// Bytes asked of storage at a time before readers wait.
    pub read_bytes: usize,
    /// How long an operation waits for a cluster that does not answer; `None`: for ever.
    pub io_timeout: Option<Duration>,
}

impl ClientConfig {
    /// With buffers of a few MiB and the usual time to wait.
    pub fn new(agent: Addr<Agent>, label: &str) -> ClientConfig {
        ClientConfig {
            agent,
            label: label.into(),
            write_buffer_bytes: 1 << 20,
            read_bytes: 16 << 20,
            io_timeout: Some(IO_TIMEOUT),
        }
    }
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

/// The maker of something: the caller's ids and the mode with the umask applied.
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
            FsError::Changed => "the content has changed meanwhile",
            FsError::Lost => "the metadata store lost what it had acknowledged",
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
            MetaError::NotFound => FsError::NotFound,
            MetaError::Stale => FsError::Stale,
            MetaError::Changed => FsError::Changed,
            MetaError::Lost => FsError::Lost,
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
    cluster: ClusterSession,
    /// Files that are open, held, or have data on its way.
    files: RefCell<BTreeMap<InodeId, Rc<File>>>,
    /// Opens that were asked and not answered.
    opening: RefCell<BTreeMap<InodeId, u32>>,
    /// Inodes whose hold or last name is on its way, and opens that wait for that.
    changing: RefCell<BTreeMap<InodeId, (u32, Bell)>>,
    /// Closed files that are still held, and since when.
    idle: RefCell<VecDeque<(Time, InodeId)>>,
    /// Closed files without a name that are still held.
    nameless: RefCell<Vec<InodeId>>,
    /// Files that may be held though they are not open.
    doubted: RefCell<DoubtedHolds>,
    /// Files whose time of access meta is to hear of.
    reads: RefCell<BTreeMap<InodeId, i64>>,
    next_handle: Cell<u64>,
    sharing: Sharing,
    stamps: RefCell<Stamps>,
    /// The latest run of the store that this client has heard of.
    run: Cell<u64>,
    /// Bytes in write buffers and in flight to storage.
    room: Room,
    /// Bytes asked of storage.
    reading: Room,
    /// The task that flushes buffers by age runs.
    sweeping: Cell<bool>,
    /// When meta was asked for the space of removed files, and whether there were any.
    reclaims: Cell<Option<(Time, bool)>>,
    /// A barrier in the background is under way.
    barrier: Cell<bool>,
    space: Cell<Option<(Time, FsSpace)>>,
}

/// A handle; a clone is the same client.
#[derive(Clone)]
pub struct Client(Rc<Inner>);

impl Client {
    /// How long an operation that begins now waits for a cluster that does not answer; `None`: for
    /// ever.
    pub fn io_timeout(&self) -> Option<Duration> {
        self.0.cluster.io_timeout()
    }

    /// Operations that begin from now on wait so long. Those that wait already go by what held.
    pub fn set_io_timeout(&self, io_timeout: Option<Duration>) {
        self.0.cluster.set_patience(io_timeout);
    }

    /// Opens a session with mgmtd and waits until the cluster can be used (at most 30 s).
    pub async fn start(cx: &Cx, config: ClientConfig) -> Result<Client, FsError> {
        let cluster = ClusterSession::open(cx, config.agent, &config.label).await?;
        cluster.set_patience(config.io_timeout);
        let room = match PlantedBug::RoomWithoutReserve.is_in(cx) {
            true => Room::without_reserve,
            false => Room::new,
        };
        let client = Client(Rc::new(Inner {
            cluster,
            files: RefCell::default(),
            opening: RefCell::default(),
            changing: RefCell::default(),
            idle: RefCell::default(),
            nameless: RefCell::default(),
            doubted: RefCell::default(),
            reads: RefCell::default(),
            next_handle: Cell::new(1),
            sharing: Sharing::default(),
            stamps: RefCell::default(),
            run: Cell::new(0),
            room: room(config.write_buffer_bytes),
            reading: Room::new(config.read_bytes),
            sweeping: Cell::new(false),
            reclaims: Cell::new(None),
            barrier: Cell::new(false),
            space: Cell::new(None),
        }));
        if let Err(e) = client.join(cx).await {
            // Nobody is to wait for a session that never serves.
            client.0.cluster.close(cx).await;
            return Err(e);
        }
        Ok(client)
    }

    /// The connection to the cluster, for checks and tools.
    pub fn cluster(&self) -> &ClusterSession {
        &self.0.cluster
    }

    fn file(&self, inode: InodeId) -> Option<Rc<File>> {
        self.0.files.borrow().get(&inode).cloned()
    }

    /// Hands every buffered byte and length to stable storage.
    pub async fn sync_all(&self, cx: &Cx) -> Result<(), FsError> {
        let files: Vec<Rc<File>> = self.0.files.borrow().values().cloned().collect();
        let mut result = Ok(());
        for file in files {
            let done = self.flush_all(cx, &file).await;
            result = result.and(done);
        }
        self.0.cluster.meta(cx, SyncMeta::default()).await?;
        result
    }

    /// `sync_all`, unless all that this client has changed is on stable storage already: one whose
    /// users have only read waits for nobody.
    pub async fn sync_own(&self, cx: &Cx) -> Result<(), FsError> {
        let unreported = |file: &Rc<File>| file.core.borrow().is_busy();
        let holds_changes = self.0.room.total() > 0
            || !self.0.stamps.borrow().is_empty()
            || self.0.files.borrow().values().any(unreported);
        if holds_changes { self.sync_all(cx).await } else { Ok(()) }
    }

    /// `sync_own`, then ends the session.
    pub async fn stop(&self, cx: &Cx) -> Result<(), FsError> {
        let synced = self.sync_own(cx).await;
        self.drop_all_holds(&cx.within(GOODBYE_MAX)).await;
        self.0.cluster.close(cx).await;
        synced
    }
}
