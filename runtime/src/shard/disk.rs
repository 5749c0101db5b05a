//! [`Disk`]: how an actor asks a disk of its shard. What a disk promises: `crate::disk`.

use std::rc::Rc;

use super::backend::Backend;
use crate::disk::{
    ALIGN, DiskBuf, DiskError, DiskId, DiskOp, DiskReply, DiskResult, DiskSpace, FileId, Filling,
    OpenMode,
};
use crate::slot::Slot;

/// A handle to one disk; cheap to clone.
#[derive(Clone)]
pub struct Disk {
    backend: Rc<dyn Backend>,
    id: DiskId,
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
    /// An actor has its disks from `Cx::disk`; tests may have a backend and no actor.
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
            Ok(DiskReply::Buf(buf)) => Filling::begin(buf),
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
