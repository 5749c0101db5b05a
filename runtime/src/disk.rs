//! Disks: files below one folder, in aligned blocks, with explicit durability.
//!
//! Promises every backend keeps: an operation once started runs to its end; a write is durable only
//! after a later [`Disk::sync`] of the same file has succeeded, until then a crash may keep, lose
//! or tear it (at 512-byte granularity) in any order; a created, renamed or removed name is durable
//! only after [`Disk::sync_dir`]. Offsets and lengths of reads and writes are multiples of
//! [`ALIGN`].

use std::rc::Rc;

use crate::backend::Backend;
use crate::slot::Slot;

/// Alignment of every offset, length and buffer.
pub const ALIGN: usize = 4096;

/// One data folder (usually one device) of this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct DiskId(pub u16);

/// An open file; valid on the shard that opened it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct FileId(pub u32);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskError {
    NotFound,
    Exists,
    NoSpace,
    /// The device or the kernel refused; the text names operation, file and reason.
    Io(String),
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DiskError::NotFound => f.write_str("no such file"),
            DiskError::Exists => f.write_str("file exists"),
            DiskError::NoSpace => f.write_str("no space left on device"),
            DiskError::Io(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for DiskError {}

/// Memory that a backend can read into and write from.
pub trait DiskMemory {
    fn as_slice(&self) -> &[u8];
    /// `None` for memory that came from a read.
    fn as_mut_slice(&mut self) -> Option<&mut [u8]>;
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any>;
}

/// An aligned buffer of the backend's own kind.
pub struct DiskBuf(pub Box<dyn DiskMemory>);

impl std::ops::Deref for DiskBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl std::ops::DerefMut for DiskBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().expect("buffers from alloc are writable, those from read are not")
    }
}

/// A buffer whose bytes are decided from the start on. What it held before is seen by nobody.
pub struct Filling {
    buf: DiskBuf,
    filled: usize,
}

impl Filling {
    pub fn put(&mut self, bytes: &[u8]) {
        self.buf[self.filled..][..bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    /// Zeros up to byte `end`, which can be changed through what is returned.
    pub fn zeros_to(&mut self, end: usize) -> &mut [u8] {
        let zeros = &mut self.buf[self.filled..end];
        zeros.fill(0);
        self.filled = end;
        zeros
    }

    /// What has been decided so far.
    pub fn filled(&self) -> &[u8] {
        &self.buf[..self.filled]
    }

    /// With zeros to the end.
    pub fn done(mut self) -> DiskBuf {
        self.zeros_to(self.buf.len());
        self.buf
    }
}

/// Plain heap memory, for the simulator and for buffered files.
impl DiskMemory for Vec<u8> {
    fn as_slice(&self) -> &[u8] {
        self
    }
    fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        Some(self)
    }
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    Existing,
    /// Fails with `Exists` when it is there.
    New,
    OrCreate,
}

/// Capacity of the file system below a disk, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskSpace {
    pub capacity: u64,
    pub free: u64,
    /// Names the file system among those of this host, so that two disks on one are counted once;
    /// 0 is unknown.
    pub file_system: u64,
}

pub enum DiskOp {
    Open {
        path: String,
        mode: OpenMode,
    },
    Close {
        file: FileId,
    },
    /// A buffer with whatever its memory held before.
    Alloc {
        len: usize,
    },
    Read {
        file: FileId,
        offset: u64,
        len: usize,
    },
    Write {
        file: FileId,
        offset: u64,
        buf: DiskBuf,
    },
    Sync {
        file: FileId,
    },
    /// Reserves `[offset, offset+len)` and grows the file to cover it; it reads as zeros.
    Allocate {
        file: FileId,
        offset: u64,
        len: u64,
    },
    /// Gives the space of a range back; it reads as zeros.
    Punch {
        file: FileId,
        offset: u64,
        len: u64,
    },
    Truncate {
        file: FileId,
        len: u64,
    },
    MakeDir {
        path: String,
    },
    List {
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        path: String,
    },
    SyncDir {
        path: String,
    },
    Space,
}

pub enum DiskReply {
    Done,
    Opened { file: FileId, len: u64 },
    Buf(DiskBuf),
    Names(Vec<String>),
    Space(DiskSpace),
}

pub type DiskResult = Result<DiskReply, DiskError>;

/// A handle to one disk; cheap to clone.
#[derive(Clone)]
pub struct Disk {
    pub(crate) backend: Rc<dyn Backend>,
    pub(crate) id: DiskId,
}

macro_rules! reply {
    ($r:expr, $p:pat => $v:expr) => {
        match $r? {
            $p => Ok($v),
            _ => unreachable!("a backend answers each operation with its own kind of reply"),
        }
    };
}

impl Disk {
    /// For tests and tools that drive a backend without an actor.
    pub fn new(backend: Rc<dyn Backend>, id: DiskId) -> Disk {
        Disk { backend, id }
    }

    pub fn id(&self) -> DiskId {
        self.id
    }

    async fn run(&self, op: DiskOp) -> DiskResult {
        let done = Slot::new();
        self.backend.disk(self.id, op, done.clone());
        done.await
    }

    /// Opens a file by path below the disk's folder; gives its length in bytes.
    pub async fn open(&self, path: &str, mode: OpenMode) -> Result<(FileId, u64), DiskError> {
        let op = DiskOp::Open { path: path.into(), mode };
        reply!(self.run(op).await, DiskReply::Opened { file, len } => (file, len))
    }

    pub async fn close(&self, file: FileId) -> Result<(), DiskError> {
        reply!(self.run(DiskOp::Close { file }).await, DiskReply::Done => ())
    }

    /// A zeroed, writable, aligned buffer of `len` bytes (a multiple of [`ALIGN`]).
    /// Completes at once.
    pub async fn alloc(&self, len: usize) -> DiskBuf {
        self.fill(len).await.done()
    }

    /// Like [`Disk::alloc`], to be filled from its start: what is put there is not zeroed before.
    pub async fn fill(&self, len: usize) -> Filling {
        assert!(len > 0 && len.is_multiple_of(ALIGN), "{len}");
        match self.run(DiskOp::Alloc { len }).await {
            Ok(DiskReply::Buf(buf)) => Filling { buf, filled: 0 },
            _ => unreachable!("allocation answers with a buffer or ends the process"),
        }
    }

    /// Reads exactly `len` bytes. A range past the end of the file is an error.
    pub async fn read(&self, file: FileId, offset: u64, len: usize) -> Result<DiskBuf, DiskError> {
        assert!(len > 0 && len.is_multiple_of(ALIGN) && offset.is_multiple_of(ALIGN as u64));
        reply!(self.run(DiskOp::Read { file, offset, len }).await, DiskReply::Buf(b) => b)
    }

    /// Writes the whole buffer. Not durable before [`Disk::sync`].
    pub async fn write(&self, file: FileId, offset: u64, buf: DiskBuf) -> Result<(), DiskError> {
        assert!(!buf.is_empty() && buf.len().is_multiple_of(ALIGN));
        assert!(offset.is_multiple_of(ALIGN as u64));
        reply!(self.run(DiskOp::Write { file, offset, buf }).await, DiskReply::Done => ())
    }

    /// Makes all writes of this file that completed before this call durable (fdatasync).
    pub async fn sync(&self, file: FileId) -> Result<(), DiskError> {
        reply!(self.run(DiskOp::Sync { file }).await, DiskReply::Done => ())
    }

    pub async fn allocate(&self, file: FileId, offset: u64, len: u64) -> Result<(), DiskError> {
        reply!(self.run(DiskOp::Allocate { file, offset, len }).await, DiskReply::Done => ())
    }

    pub async fn punch(&self, file: FileId, offset: u64, len: u64) -> Result<(), DiskError> {
        reply!(self.run(DiskOp::Punch { file, offset, len }).await, DiskReply::Done => ())
    }

    pub async fn truncate(&self, file: FileId, len: u64) -> Result<(), DiskError> {
        reply!(self.run(DiskOp::Truncate { file, len }).await, DiskReply::Done => ())
    }

    /// Creates a folder and its parents; fine when it is there.
    pub async fn make_dir(&self, path: &str) -> Result<(), DiskError> {
        reply!(self.run(DiskOp::MakeDir { path: path.into() }).await, DiskReply::Done => ())
    }

    /// Names in a folder, sorted by bytes.
    pub async fn list(&self, path: &str) -> Result<Vec<String>, DiskError> {
        reply!(self.run(DiskOp::List { path: path.into() }).await, DiskReply::Names(n) => n)
    }

    pub async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let op = DiskOp::Rename { from: from.into(), to: to.into() };
        reply!(self.run(op).await, DiskReply::Done => ())
    }

    pub async fn remove(&self, path: &str) -> Result<(), DiskError> {
        reply!(self.run(DiskOp::Remove { path: path.into() }).await, DiskReply::Done => ())
    }

    pub async fn sync_dir(&self, path: &str) -> Result<(), DiskError> {
        reply!(self.run(DiskOp::SyncDir { path: path.into() }).await, DiskReply::Done => ())
    }

    pub async fn space(&self) -> Result<DiskSpace, DiskError> {
        reply!(self.run(DiskOp::Space).await, DiskReply::Space(s) => s)
    }
}
