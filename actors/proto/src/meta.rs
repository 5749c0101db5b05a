//! What meta is asked: file system operations as transactions. Times are nanoseconds since the Unix
//! epoch, lengths bytes. Every mutation carries a [`RequestId`]-like `op` so that a retry whose
//! first attempt went through gets the first answer.
//!
//! Permission is the client's matter (the kernel checks with `default_permissions`); meta checks
//! structure: names, types, emptiness, loops, limits.

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::{no_bulk, protocol};

use super::ids::{ChainId, InodeId, RequestId, SessionId};

/// The root directory.
pub const ROOT: InodeId = InodeId(1);
/// Longest name, bytes.
pub const NAME_MAX: usize = 255;
/// Longest symlink target, bytes.
pub const SYMLINK_MAX: usize = 4095;
/// Most files in one [`DropHolds`], [`ShareOpens`] or [`NoteReads`].
pub const HOLDS_MAX: usize = 256;
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
    /// Grows when the length is set: what is behind it goes, so a length reported for an earlier
    /// one is stale.
    pub truncations: u64,
    /// Grows when the time of the last write is set by hand: a time reported for an earlier one is
    /// stale.
    pub times_set: u64,
    /// Grows with every change of the inode itself: of two answers the one with the larger number
    /// is the later. Times and links of a directory that follow from its entries do not count.
    pub changes: u64,
    /// The file may have holes: its length does not say how much it stores.
    pub sparse: bool,
    /// When the inode was made; 0: it was made by a build that did not record it.
    pub birth_ns: i64,
    /// `Some` for files.
    pub layout: Option<Layout>,
    /// When the store had it so. [`Stamp::default`]: at some time before; an answer that was kept.
    pub as_of: Stamp,
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

/// A place in the metadata store's order of commits. It grows with every commit, also across
/// restarts and losses of the store; 0 is before all.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Archive, Serialize, Deserialize,
)]
pub struct Stamp(pub u64);

impl From<super::kv::Version> for Stamp {
    fn from(version: super::kv::Version) -> Stamp {
        Stamp(version.0)
    }
}

impl Stamp {
    /// Which run of the store gave it. A store that restarts may have lost the last moments of the
    /// run before; of one run nothing is lost that is before something that is there.
    pub fn run(self) -> u64 {
        self.0 >> 40
    }
}

/// An inode after a change, and where the change stands in the order of commits. A client keeps the
/// newest stamp of what it may have to promise to be on stable storage: see [`SyncMeta`].
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Changed {
    pub attr: Attr,
    pub stamp: Stamp,
}

/// Sets the length exactly. The caller has removed the chunks behind the new end, and did so when
/// the file was as `seen`: if anybody has written or cut since, the answer is
/// [`MetaError::Changed`], nothing is done, and the caller looks and cuts again. So it is while
/// anybody has a turn at the end of the file: a caller who is refused takes one ([`BeginCut`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SetLength {
    pub length: u64,
    pub seen: SeenContent,
    /// The `op` of the caller's [`BeginCut`], which is over with this.
    pub turn: Option<RequestId>,
}

/// What tells whether a file's content may have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SeenContent {
    pub length: u64,
    pub truncations: u64,
    pub changes: u64,
}

impl SeenContent {
    pub fn of(attr: &Attr) -> SeenContent {
        let Attr { length, truncations, changes, .. } = *attr;
        SeenContent { length, truncations, changes }
    }
}

/// Changes what is given.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SetAttr {
    pub inode: InodeId,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    pub ctime: Option<SetTime>,
    pub length: Option<SetLength>,
    pub op: RequestId,
}

/// A writer reports what it wrote and what storage has acknowledged.
///
/// The length becomes at least `end`. The time of the last write becomes `mtime_ns` if it was set
/// by hand before, else the later of both: a write always shows, whatever stamp the file had.
/// `durable`: the reply waits for stable storage.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ReportWrite {
    pub inode: InodeId,
    /// End of the bytes written since the last report; 0 when there are none.
    pub end: u64,
    /// [`Attr::truncations`] and [`Attr::times_set`] as the writer knows them. If either has
    /// grown, nothing is taken: see [`Reported::Stale`].
    pub truncations: u64,
    pub times_set: u64,
    pub mtime_ns: Option<i64>,
    pub atime_ns: Option<i64>,
    /// Writing by other than root clears setuid and setgid.
    pub clear_suid: bool,
    /// A write has left a hole.
    pub sparse: bool,
    /// An [`Append`] or [`BeginCut`] whose sender has done with it.
    pub turn: Option<EndTurn>,
    pub durable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct EndTurn {
    pub op: RequestId,
    /// Of an append: behind what was stored of it; 0 for nothing.
    pub end: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Reported {
    Taken(Changed),
    /// All is taken, but the turn is not over: an append that has its place before this one is not
    /// stored yet. Ask again.
    Waits,
    /// All is taken but the turn: its session is over, and the place may be somebody else's.
    Passed(Changed),
    /// The file was cut, or its times were set, since the writer looked: this is how it is now.
    /// What was written before the cut may have gone with it. The writer asks storage for the end
    /// of what is there and reports again.
    Stale(Attr),
}

/// Takes a turn at the end of the file, and with it the next `len` bytes behind the end for its
/// sender: appends of several clients never overlap. They become part of the file, in the order of
/// turns, when they are stored and their sender says so ([`ReportWrite::turn`]), or when it says
/// that they are not, or when its session ends.
///
/// `end` and `truncations` are as in [`ReportWrite`]: what the sender has written itself and not
/// reported counts too. A session has one turn at a file: an earlier one is over.
///
/// A file waits that another session has open for writing and has kept to itself: it may have
/// appended where it believes the end to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Append {
    pub inode: InodeId,
    pub len: u64,
    pub end: u64,
    pub truncations: u64,
    /// In whose name the sender holds the file: its own session, or one of the same process.
    pub holder: SessionId,
    pub op: RequestId,
    /// The number under which the same append was asked for before, and is no more: a place that
    /// was given to it meanwhile is this one's.
    pub instead_of: Option<RequestId>,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Appended {
    /// `stamp`: of the transaction that took the place.
    At { offset: u64, stamp: Stamp },
    /// A cut is before it, or one who keeps to itself what it appends. Ask again.
    Waits,
    /// As [`Reported::Stale`]; only when `end` was given. Nothing was taken. Ask again.
    Stale(Attr),
}

/// Takes a turn at the end of the file to cut it: no append begins any more. `false`: others have
/// theirs before; ask again. It is over with [`SetLength::turn`] or [`ReportWrite::turn`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct BeginCut {
    pub inode: InodeId,
    pub op: RequestId,
}

/// Opens a file. With a session, the file's content stays until the session has dropped the hold
/// ([`DropHolds`]) or has ended, whoever removes its names; to ask again is harmless. Without one
/// the caller answers for that itself (it names its session in [`Unlink::hold`]).
///
/// # Errors
/// `Stale` when the last name is gone and the session does not hold the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct OpenFile {
    pub inode: InodeId,
    pub hold: Option<SessionId>,
    /// The session may write. When it ends without dropping the hold, what it has stored and not
    /// reported becomes part of the file.
    pub write: bool,
    /// With a hold: a duplicate that the network delivers late must not bring a hold back.
    pub op: RequestId,
}

/// The session has these files open no longer. Files without a name go.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct DropHolds {
    pub session: SessionId,
    pub inodes: Vec<InodeId>,
    pub op: RequestId,
}

/// A session that has kept to itself what it has open makes it known: from the last of these
/// messages on (`all`) it opens every file with a hold. `holds` are files and whether they are
/// open for writing. Files that are gone are in the answer.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ShareOpens {
    pub session: SessionId,
    pub holds: Vec<(InodeId, bool)>,
    pub all: bool,
    pub op: RequestId,
}

/// The opposite of [`ShareOpens`] with `all`: the session is alone and keeps its opens for reading
/// to itself from now on. Answered when that is on stable storage.
///
/// # Errors
/// `Changed` when another living session has not shared yet: try again later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct KeepOpens {
    pub session: SessionId,
}

/// Sessions that live and keep what they have open to themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ListKeepers;

/// Whether writers of ended sessions may have stored what is not part of their files yet: who is
/// alone appends behind that only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct WritersLeft;

/// Files that were read, and when: their time of access becomes at least that. Files that are gone
/// are passed over. At most [`HOLDS_MAX`] at a time.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct NoteReads {
    pub reads: Vec<(InodeId, i64)>,
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
    /// Of a file: opens it for writing as well, as [`OpenFile`] does.
    pub hold: Option<SessionId>,
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
/// stays until [`DropHolds`] or the session's end.
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
    pub stamp: Stamp,
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

/// Everything acknowledged so far is on stable storage when this is answered, and the change that
/// the caller was told of with `stamp` (and with it all before it) has not been lost.
///
/// # Errors
/// `Lost`: the store has lost it, with the last moments before a loss of power.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct SyncMeta {
    pub stamp: Stamp,
}

/// Inodes in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct CountInodes;

/// Space is short: remove the content of inodes without a name, with no time of grace. Whether
/// there are any, held ones included.
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
    /// The content is not as the caller has seen it: look again.
    Changed,
    /// What was acknowledged is lost: the store came back without it.
    Lost,
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
            MetaError::Changed => "the content has changed meanwhile",
            MetaError::Lost => "the metadata store lost what it had acknowledged",
            MetaError::InvalidArgument(s) | MetaError::Unavailable(s) | MetaError::Damaged(s) => s,
        })
    }
}

no_bulk!(
    Attr,
    Changed,
    Lookup,
    GetAttr,
    SetAttr,
    ReportWrite,
    EndTurn,
    Reported,
    Append,
    Appended,
    BeginCut,
    OpenFile,
    DropHolds,
    ShareOpens,
    KeepOpens,
    ListKeepers,
    WritersLeft,
    NoteReads,
    CreateFile,
    MakeDir,
    MakeSymlink,
    ReadLink,
    MakeLink,
    Unlink,
    RemoveDir,
    Rename,
    Gone,
    ReadDir,
    DirPage,
    SyncMeta,
    CountInodes,
    CollectGarbage
);

// What may wait for a disk has the bulk lane, so that lookups never queue behind it.
protocol! { Meta as MetaMsg, MetaReply = 0x0200 {
    1 v 3 Lookup -> Result<Attr, MetaError>, Control, 10_000 ms;
    2 v 3 GetAttr -> Result<Attr, MetaError>, Control, 10_000 ms;
    3 v 4 SetAttr -> Result<Changed, MetaError>, Control, 10_000 ms;
    4 v 4 ReportWrite -> Result<Reported, MetaError>, Bulk, 10_000 ms;
    5 v 3 CreateFile -> Result<Changed, MetaError>, Control, 10_000 ms;
    6 v 3 MakeDir -> Result<Changed, MetaError>, Control, 10_000 ms;
    7 v 3 MakeSymlink -> Result<Changed, MetaError>, Control, 10_000 ms;
    8 v 1 ReadLink -> Result<Vec<u8>, MetaError>, Control, 10_000 ms;
    9 v 3 MakeLink -> Result<Changed, MetaError>, Control, 10_000 ms;
    10 v 3 Unlink -> Result<Gone, MetaError>, Control, 10_000 ms;
    11 v 3 RemoveDir -> Result<Gone, MetaError>, Control, 10_000 ms;
    12 v 3 Rename -> Result<Gone, MetaError>, Control, 10_000 ms;
    14 v 3 ReadDir -> Result<DirPage, MetaError>, Control, 10_000 ms;
    15 v 2 SyncMeta -> Result<(), MetaError>, Bulk, 10_000 ms;
    16 v 1 CountInodes -> Result<u64, MetaError>, Control, 10_000 ms;
    17 v 2 CollectGarbage -> Result<bool, MetaError>, Control, 1_000 ms;
    18 v 4 Append -> Result<Appended, MetaError>, Control, 10_000 ms;
    19 v 2 OpenFile -> Result<Changed, MetaError>, Control, 10_000 ms;
    20 v 1 DropHolds -> Result<(), MetaError>, Control, 10_000 ms;
    21 v 1 ShareOpens -> Result<Vec<InodeId>, MetaError>, Control, 10_000 ms;
    22 v 1 KeepOpens -> Result<(), MetaError>, Bulk, 10_000 ms;
    23 v 1 ListKeepers -> Result<Vec<SessionId>, MetaError>, Control, 10_000 ms;
    24 v 1 NoteReads -> Result<(), MetaError>, Bulk, 10_000 ms;
    25 v 1 BeginCut -> Result<bool, MetaError>, Control, 10_000 ms;
    26 v 1 WritersLeft -> Result<bool, MetaError>, Control, 10_000 ms;
} }
