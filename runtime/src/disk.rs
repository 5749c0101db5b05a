//! Disks: files below one folder, in aligned blocks, with explicit durability.
//!
//! Promises every backend keeps: an operation once started runs to its end; a write is durable only
//! after a later `Disk::sync` of the same file has succeeded, until then a crash may keep, lose
//! or tear it (at 512-byte granularity) in any order; a created, renamed or removed name is durable
//! only after `Disk::sync_dir`. Offsets and lengths of reads and writes are multiples of
//! [`ALIGN`]. Here is what can be asked of a disk; [`crate::Disk`] asks it.

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
    pub(crate) fn begin(buf: DiskBuf) -> Filling {
        Filling { buf, filled: 0 }
    }

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
