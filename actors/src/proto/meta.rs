//! What meta is asked: file system operations as transactions. Times are nanoseconds since the Unix
//! epoch, lengths bytes. Every mutation carries a [`RequestId`]-like `op` so that a retry whose
//! first attempt went through gets the first answer.
//!
//! Permission is the client's matter (the kernel checks with `default_permissions`); meta checks
//! structure: names, types, emptiness, loops, limits.

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::{no_bulk, protocol};

use super::ids::{ChainId, InodeId, RequestId, SessionId};
use crate::meta::Meta;

/// The root directory.
pub const ROOT: InodeId = InodeId(1);
/// Longest name, bytes.
pub const NAME_MAX: usize = 255;
/// Longest symlink target, bytes.
pub const SYMLINK_MAX: usize = 4095;
/// Most hard links of a file.
pub const LINKS_MAX: u32 = 65_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum FileType {
    File,
    Directory,
    Symlink,
    /// A fifo, socket or device node: kept as metadata only.
    Special {
        mode_type: u32,
        rdev: u32,
    },
}

/// Where a file's chunks live. Chunk `k` is on `chains[k % chains.len()]`.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Layout {
    pub chunk_size: u32,
    pub stripes: Stripes,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Stripes {
    /// `count` entries of a chain table from `base` on (wrapping), shuffled with `seed` unless 0.
    Range {
        table: u32,
        table_version: u32,
        base: u32,
        count: u32,
        seed: u64,
    },
    List {
        chains: Vec<ChainId>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Attr {
    pub inode: InodeId,
    pub kind: FileType,
    /// Permission bits, 07777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    /// Bytes of content; of a symlink: of its target.
    pub length: u64,
    /// Grows when the length is cut: a length reported for an earlier one is stale.
    pub truncations: u64,
    /// `Some` for files.
    pub layout: Option<Layout>,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Lookup {
    pub parent: InodeId,
    pub name: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GetAttr {
    pub inode: InodeId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum SetTime {
    Now,
    At { ns: i64 },
}

/// Changes what is given. `length` is set exactly (the caller has cut the chunks already).
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SetAttr {
    pub inode: InodeId,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    pub ctime: Option<SetTime>,
    pub length: Option<u64>,
    pub op: RequestId,
}

/// A writer reports what it wrote: the length only grows (unless a truncation came between), times
/// only move forward. `durable`: the reply waits for stable storage.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ReportWrite {
    pub inode: InodeId,
    pub length: u64,
    pub truncations: u64,
    pub mtime_ns: Option<i64>,
    pub atime_ns: Option<i64>,
    /// Writing by other than root clears setuid and setgid.
    pub clear_suid: bool,
    pub durable: bool,
}

/// What is common to everything that makes a name.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct NewEntry {
    pub parent: InodeId,
    pub name: Vec<u8>,
    /// Permission bits with the umask applied.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub op: RequestId,
}

/// Makes a file (or special file); `Exists` when the name is taken.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct CreateFile {
    pub entry: NewEntry,
    /// `File` or `Special`.
    pub kind: FileType,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct MakeDir {
    pub entry: NewEntry,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct MakeSymlink {
    pub entry: NewEntry,
    pub target: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ReadLink {
    pub inode: InodeId,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct MakeLink {
    pub inode: InodeId,
    pub parent: InodeId,
    pub name: Vec<u8>,
    pub op: RequestId,
}

/// Removes a name that is not a directory. `hold`: this session has the file open, so its content
/// stays until `ReleaseHold` or the session's end.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Unlink {
    pub parent: InodeId,
    pub name: Vec<u8>,
    pub hold: Option<SessionId>,
    pub op: RequestId,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct RemoveDir {
    pub parent: InodeId,
    pub name: Vec<u8>,
    pub op: RequestId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Rename {
    pub parent: InodeId,
    pub name: Vec<u8>,
    pub new_parent: InodeId,
    pub new_name: Vec<u8>,
    pub mode: RenameMode,
    /// As in [`Unlink`], for the file that is replaced; the client names the inodes it holds open.
    pub hold: Option<SessionId>,
    pub op: RequestId,
}

/// What an unlink or rename took away.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct Gone {
    /// The inode that lost a name, with its attributes after.
    pub removed: Option<Attr>,
    /// Rename: the moved inode, with its attributes after.
    pub moved: Option<Attr>,
}

/// The last descriptor of an unlinked, held file was closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ReleaseHold {
    pub inode: InodeId,
    pub session: SessionId,
}

/// Entries in byte order of names, after `after` (exclusive), with attributes.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ReadDir {
    pub inode: InodeId,
    pub after: Vec<u8>,
    pub limit: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct DirEntry {
    pub name: Vec<u8>,
    pub attr: Attr,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct DirPage {
    pub entries: Vec<DirEntry>,
    pub more: bool,
    pub parent: InodeId,
}

/// Everything acknowledged so far is on stable storage when this is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SyncMeta;

/// Inodes in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct CountInodes;

/// Told, not asked: look for inodes without a name and remove their content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct CollectGarbage;

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum MetaError {
    /// There is no such name in the directory, which is there.
    NotFound,
    Exists,
    NotDirectory,
    IsDirectory,
    NotEmpty,
    NameTooLong,
    TooManyLinks,
    /// A directory into itself, a bad name, a length on a directory.
    InvalidArgument(String),
    FileTooLarge,
    NoSpace,
    /// The store or a storage target could not be reached in time; the outcome is unknown.
    Unavailable(String),
    /// What is stored contradicts itself or is of a newer format; the text says what to do.
    Damaged(String),
    /// An inode given by its number is gone: whoever knew it by a name looks that up anew.
    Stale,
}

impl std::fmt::Display for MetaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            MetaError::NotFound => "no such file or directory",
            MetaError::Exists => "file exists",
            MetaError::NotDirectory => "not a directory",
            MetaError::IsDirectory => "is a directory",
            MetaError::NotEmpty => "directory not empty",
            MetaError::NameTooLong => "name too long",
            MetaError::TooManyLinks => "too many links",
            MetaError::FileTooLarge => "file too large",
            MetaError::NoSpace => "no space left",
            MetaError::Stale => "stale file handle",
            MetaError::InvalidArgument(s) | MetaError::Unavailable(s) | MetaError::Damaged(s) => s,
        })
    }
}

no_bulk!(
    Attr,
    Lookup,
    GetAttr,
    SetAttr,
    ReportWrite,
    CreateFile,
    MakeDir,
    MakeSymlink,
    ReadLink,
    MakeLink,
    Unlink,
    RemoveDir,
    Rename,
    Gone,
    ReleaseHold,
    ReadDir,
    DirPage,
    SyncMeta,
    CountInodes,
    CollectGarbage
);

// What may wait for a disk has the bulk lane, so that lookups never queue behind it.
protocol! { Meta as MetaMsg = 0x0200 {
    1 v 1 Lookup -> Result<Attr, MetaError>, Control, 10_000 ms;
    2 v 1 GetAttr -> Result<Attr, MetaError>, Control, 10_000 ms;
    3 v 1 SetAttr -> Result<Attr, MetaError>, Control, 10_000 ms;
    4 v 1 ReportWrite -> Result<Attr, MetaError>, Bulk, 10_000 ms;
    5 v 1 CreateFile -> Result<Attr, MetaError>, Control, 10_000 ms;
    6 v 1 MakeDir -> Result<Attr, MetaError>, Control, 10_000 ms;
    7 v 1 MakeSymlink -> Result<Attr, MetaError>, Control, 10_000 ms;
    8 v 1 ReadLink -> Result<Vec<u8>, MetaError>, Control, 10_000 ms;
    9 v 1 MakeLink -> Result<Attr, MetaError>, Control, 10_000 ms;
    10 v 1 Unlink -> Result<Gone, MetaError>, Control, 10_000 ms;
    11 v 1 RemoveDir -> Result<Gone, MetaError>, Control, 10_000 ms;
    12 v 1 Rename -> Result<Gone, MetaError>, Control, 10_000 ms;
    13 v 1 ReleaseHold -> Result<(), MetaError>, Control, 10_000 ms;
    14 v 1 ReadDir -> Result<DirPage, MetaError>, Control, 10_000 ms;
    15 v 1 SyncMeta -> Result<(), MetaError>, Bulk, 10_000 ms;
    16 v 1 CountInodes -> Result<u64, MetaError>, Control, 10_000 ms;
    17 v 1 CollectGarbage -> (), Control, 1_000 ms;
} }
