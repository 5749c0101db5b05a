//! The formats of metadata's values.
//!
//! A type here is frozen: what changes gets a new version, and readers keep the one before.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::wire::{self, Wire, WireError};

use super::counter;
use crate::proto::ids::{ChainId, InodeId, RequestId, SessionId};
use crate::proto::meta::{Attr, FileType, Gone, Layout, MetaError, Stamp, Stripes};

const INODE: u16 = 0x1201;
const DIRENT: u16 = 0x1202;
const TIMES: u16 = 0x1203;
const GARBAGE: u16 = 0x1204;
const RECENT: u16 = 0x1205;
const ALLOC: u16 = 0x1206;
const HOLD: u16 = 0x1207;
const SHARES: u16 = 0x1208;
const TURNS: u16 = 0x1209;

/// Of `AttrV2::flags`: the file may have holes.
const SPARSE: u32 = 1;
/// Of `AttrV2::flags`: the time of the last write was set by hand, and nobody has written since.
const MTIME_SET: u32 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum KindV1 {
    File,
    Directory,
    Symlink,
    Special { mode_type: u32, rdev: u32 },
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum StripesV1 {
    Range { table: u32, table_version: u32, base: u32, count: u32, seed: u64 },
    List { chains: Vec<u32> },
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct LayoutV1 {
    pub chunk_size: u32,
    pub stripes: StripesV1,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct AttrV1 {
    pub kind: KindV1,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub length: u64,
    pub truncations: u64,
    pub layout: Option<LayoutV1>,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct AttrV2 {
    pub kind: KindV1,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub length: u64,
    pub truncations: u64,
    pub times_set: u64,
    /// Grows with every change of the inode.
    pub changes: u64,
    pub birth_ns: i64,
    /// Bit 0: may have holes. Bit 1: `mtime_ns` was set by hand since the last write. Other bits
    /// are kept as they are.
    pub flags: u32,
    pub layout: Option<LayoutV1>,
}

/// Read only; [`InodeV2`] is written.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct InodeV1 {
    pub attr: AttrV1,
    /// Of a directory; the root's is itself. Else 0.
    pub parent: u64,
    /// Of a symlink. Else empty.
    pub target: Vec<u8>,
}

/// Of a directory: `nlink` is always 2, and the times are not the last word (see `T`, `N`).
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct InodeV2 {
    pub attr: AttrV2,
    /// Of a directory; the root's is itself. Else 0.
    pub parent: u64,
    /// Of a symlink. Else empty.
    pub target: Vec<u8>,
    /// The project that its space is counted for; 0: none.
    pub project: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct DirentV1 {
    pub inode: u64,
    pub kind: KindV1,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct TimesV1 {
    pub mtime_ns: i64,
    pub ctime_ns: i64,
}

/// How a file's content is kept redundant. Kind 0: whole copies on the targets of its chains, with
/// the other fields 0. Other kinds are not known yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct RedundancyV1 {
    pub kind: u32,
    /// Of a kind that cuts stripes: parts with data, and parts with what is computed from them.
    pub data: u16,
    pub parity: u16,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct LayoutV2 {
    pub chunk_size: u32,
    pub stripes: StripesV1,
    pub redundancy: RedundancyV1,
}

/// As [`InodeV2`], and written only for an inode that has more than that can say.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct InodeV3 {
    /// Its `layout` is `None`: see the one below.
    pub attr: AttrV2,
    pub parent: u64,
    pub target: Vec<u8>,
    pub project: u32,
    pub layout: Option<LayoutV2>,
    /// Of a directory: for new files in it. This build keeps it and does not heed it.
    pub for_children: Option<LayoutV2>,
    /// Kept as they are.
    pub spare: [u64; 4],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GarbageV1 {
    pub since_ns: i64,
}

/// Under which key of `g` an entry is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct DueV1 {
    pub bucket: u8,
    pub due_ns: u64,
}

/// As [`GarbageV2`], and written only for an entry that was read so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct GarbageV3 {
    pub since_ns: i64,
    pub condemned: bool,
    /// 0: all content of the inode, and the inode. Other kinds are not known yet.
    pub kind: u32,
    /// Whose usage the content counts for until it is gone: its user, group and project.
    pub uid: u32,
    pub gid: u32,
    pub project: u32,
    /// Bytes of content, as far as is known.
    pub length: u64,
    pub due: Option<DueV1>,
}

/// Written when a collector begins to remove the content. Until then the inode can be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GarbageV2 {
    pub since_ns: i64,
    pub condemned: bool,
}

/// Earlier builds wrote an empty value: not open for writing, since long ago.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct HoldV1 {
    /// The session may write: when it ends, what it has stored becomes part of the file.
    pub write: bool,
    pub since_ns: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SharesV1 {
    pub since_ns: i64,
}

/// One who is at the end of a file, about to append to it or to cut it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct TurnV1 {
    /// The request that took the turn.
    pub session: u64,
    pub seq: u64,
    pub at: AtEndV1,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum AtEndV1 {
    Cut,
    /// Has the bytes from `from` to `to`. `stored`: up to where they are there, once that is known.
    Append {
        from: u64,
        to: u64,
        stored: Option<u64>,
    },
}

/// In the order in which they came.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct TurnsV1 {
    pub turns: Vec<TurnV1>,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct NumberedV1 {
    pub inode: u64,
    pub attr: AttrV1,
}

/// Boxed, so that the archive is as long as what it holds and not as the longest variant.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum AnswerV1 {
    Attr { of: Box<NumberedV1> },
    Gone { removed: Option<Box<NumberedV1>>, moved: Option<Box<NumberedV1>> },
}

/// Read only; [`RecentV3`] is written.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct RecentV1 {
    pub seq: u64,
    pub answer: AnswerV1,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct NumberedV2 {
    pub inode: u64,
    pub attr: AttrV2,
}

/// Boxed as [`AnswerV1`] is.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum AnswerV3 {
    Attr { of: Box<NumberedV2> },
    Gone { removed: Option<Box<NumberedV2>>, moved: Option<Box<NumberedV2>> },
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct RecentV3 {
    pub seq: u64,
    pub answer: AnswerV3,
}

/// Stands where a `RecentV3` does, under the same type: the request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct RefusedV2 {
    pub seq: u64,
    /// Index into `REFUSALS`.
    pub why: u8,
}

/// What an operation refuses because of what it found. Only ever longer.
const REFUSALS: [MetaError; 9] = [
    MetaError::NotFound,
    MetaError::Exists,
    MetaError::NotDirectory,
    MetaError::IsDirectory,
    MetaError::NotEmpty,
    MetaError::NameTooLong,
    MetaError::TooManyLinks,
    MetaError::FileTooLarge,
    MetaError::Stale,
];

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct AllocV1 {
    pub next: u64,
}

/// Opens a stored value, or says what is wrong with it and what to do.
fn open<T: Wire>(
    kind: u16,
    version: u16,
    what: &str,
    of: u64,
    bytes: &[u8],
) -> Result<T, MetaError> {
    wire::open(kind, version, bytes).map_err(|e| {
        MetaError::Damaged(match e {
            WireError::Version { newest, found, .. } => format!(
                "{what} {of:#x} is stored in version {found} of its format and this build knows \
                 version {newest}: start a t3fs-node at least as new as the one that wrote it"
            ),
            e => format!("{what} {of:#x} cannot be read ({e}): run `t3fs-node check`"),
        })
    })
}

/// The version that an envelope claims.
fn version(bytes: &[u8]) -> Option<u16> {
    bytes.get(2..4).map(|version| u16::from_le_bytes([version[0], version[1]]))
}

/// An inode in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    pub attr: Attr,
    pub parent: InodeId,
    pub target: Vec<u8>,
    /// [`AttrV2::flags`] without `SPARSE`, which is `attr.sparse`.
    flags: u32,
    pub project: u32,
    /// What an [`InodeV3`] says beyond an [`InodeV2`], if it was one.
    more: Option<Box<MoreOfInode>>,
}

/// What this build keeps and makes nothing of.
#[derive(Clone, PartialEq, Eq, Debug)]
struct MoreOfInode {
    for_children: Option<LayoutV2>,
    spare: [u64; 4],
}

impl Inode {
    pub fn new(attr: Attr, parent: InodeId, target: Vec<u8>) -> Inode {
        Inode { attr, parent, target, flags: 0, project: 0, more: None }
    }

    pub fn open(inode: InodeId, bytes: &[u8]) -> Result<Inode, MetaError> {
        if version(bytes) == Some(1) {
            let v: InodeV1 = open(INODE, 1, "inode", inode.0, bytes)?;
            return Ok(Inode::new(v.attr.with(inode), InodeId(v.parent), v.target));
        }
        if version(bytes) == Some(2) {
            let v: InodeV2 = open(INODE, 2, "inode", inode.0, bytes)?;
            let InodeV2 { attr, parent, target, project } = v;
            let (flags, parent) = (attr.flags & !SPARSE, InodeId(parent));
            return Ok(Inode {
                attr: attr.with(inode),
                parent,
                target,
                flags,
                project,
                more: None,
            });
        }
        let v: InodeV3 = open(INODE, 3, "inode", inode.0, bytes)?;
        let InodeV3 { attr, parent, target, project, layout, for_children, spare } = v;
        let layout = layout.map(|layout| layout.replicated(inode)).transpose()?;
        let (flags, parent) = (attr.flags & !SPARSE, InodeId(parent));
        let attr = Attr { layout: layout.map(Layout::from), ..attr.with(inode) };
        let more = Some(Box::new(MoreOfInode { for_children, spare }));
        Ok(Inode { attr, parent, target, flags, project, more })
    }

    pub fn seal(&self) -> Bytes {
        let mut attr = AttrV2::of(&self.attr);
        attr.flags |= self.flags;
        if attr.kind == KindV1::Directory {
            attr.nlink = 2;
        }
        let (parent, target, project) = (self.parent.0, self.target.clone(), self.project);
        let Some(more) = &self.more else {
            return wire::seal(INODE, 2, &InodeV2 { attr, parent, target, project }).into();
        };
        let layout = attr.layout.take().map(LayoutV2::of);
        let MoreOfInode { for_children, spare } = (**more).clone();
        let v = InodeV3 { attr, parent, target, project, layout, for_children, spare };
        wire::seal(INODE, 3, &v).into()
    }

    /// Whether the time of the last write was set by hand, and nobody has written since.
    pub fn mtime_set(&self) -> bool {
        self.flags & MTIME_SET != 0
    }

    pub fn note_mtime_set(&mut self, by_hand: bool) {
        self.flags = if by_hand { self.flags | MTIME_SET } else { self.flags & !MTIME_SET };
    }

    pub fn is_directory(&self) -> bool {
        self.attr.kind == FileType::Directory
    }

    /// Brings a directory's attributes up to date with its `T` and `N`.
    pub fn refresh(
        &mut self,
        times: Option<&Bytes>,
        subdirs: Option<&Bytes>,
    ) -> Result<(), MetaError> {
        if !self.is_directory() {
            return Ok(());
        }
        if let Some(bytes) = times {
            let times = open_times(self.attr.inode, bytes)?;
            self.attr.mtime_ns = times.mtime_ns;
            self.attr.ctime_ns = self.attr.ctime_ns.max(times.ctime_ns);
        }
        self.attr.nlink = u32::try_from(counter(subdirs) + 2).unwrap_or(u32::MAX);
        Ok(())
    }
}

pub fn open_times(inode: InodeId, bytes: &[u8]) -> Result<TimesV1, MetaError> {
    open(TIMES, 1, "times of directory", inode.0, bytes)
}

pub fn seal_times(times: TimesV1) -> Bytes {
    wire::seal(TIMES, 1, &times).into()
}

pub fn open_dirent(parent: InodeId, bytes: &[u8]) -> Result<(InodeId, FileType), MetaError> {
    let v: DirentV1 = open(DIRENT, 1, "an entry of directory", parent.0, bytes)?;
    Ok((InodeId(v.inode), v.kind.into()))
}

pub fn seal_dirent(inode: InodeId, kind: FileType) -> Bytes {
    wire::seal(DIRENT, 1, &DirentV1 { inode: inode.0, kind: kind.into() }).into()
}

impl GarbageV3 {
    /// Of a file that has lost its last name.
    pub fn new(since_ns: i64) -> GarbageV3 {
        GarbageV3 { since_ns, ..GarbageV3::default() }
    }

    pub fn open(inode: InodeId, bytes: &[u8]) -> Result<GarbageV3, MetaError> {
        let what = "garbage entry of inode";
        match version(bytes) {
            Some(1) => {
                let GarbageV1 { since_ns } = open(GARBAGE, 1, what, inode.0, bytes)?;
                Ok(GarbageV3::new(since_ns))
            }
            Some(2) => {
                let GarbageV2 { since_ns, condemned } = open(GARBAGE, 2, what, inode.0, bytes)?;
                Ok(GarbageV3 { condemned, ..GarbageV3::new(since_ns) })
            }
            _ => {
                let garbage: GarbageV3 = open(GARBAGE, 3, what, inode.0, bytes)?;
                match garbage.kind {
                    0 => Ok(garbage),
                    kind => Err(later("the garbage of inode", inode, kind)),
                }
            }
        }
    }

    pub fn seal(self) -> Bytes {
        let GarbageV3 { since_ns, condemned, .. } = self;
        if self == (GarbageV3 { condemned, ..GarbageV3::new(since_ns) }) {
            return wire::seal(GARBAGE, 2, &GarbageV2 { since_ns, condemned }).into();
        }
        wire::seal(GARBAGE, 3, &self).into()
    }
}

/// A kind of something that only later builds know.
fn later(what: &str, inode: InodeId, kind: u32) -> MetaError {
    MetaError::Damaged(format!(
        "{what} {:#x} is of kind {kind}, which this build does not know: start a t3fs-node at \
         least as new as the one that wrote it",
        inode.0
    ))
}

impl LayoutV2 {
    /// Of a file whose content is kept in whole copies.
    fn of(layout: LayoutV1) -> LayoutV2 {
        let LayoutV1 { chunk_size, stripes } = layout;
        LayoutV2 { chunk_size, stripes, redundancy: RedundancyV1::default() }
    }

    /// The same without the kind of redundancy, which must be the one that is known.
    fn replicated(self, inode: InodeId) -> Result<LayoutV1, MetaError> {
        let LayoutV2 { chunk_size, stripes, redundancy } = self;
        if redundancy != RedundancyV1::default() {
            return Err(later("the redundancy of inode", inode, redundancy.kind));
        }
        Ok(LayoutV1 { chunk_size, stripes })
    }
}

impl HoldV1 {
    pub fn open(inode: InodeId, bytes: &[u8]) -> Result<HoldV1, MetaError> {
        match bytes {
            b"" => Ok(HoldV1::default()),
            bytes => open(HOLD, 1, "a hold on inode", inode.0, bytes),
        }
    }

    pub fn seal(self) -> Bytes {
        wire::seal(HOLD, 1, &self).into()
    }
}

pub fn seal_shares(since_ns: i64) -> Bytes {
    wire::seal(SHARES, 1, &SharesV1 { since_ns }).into()
}

pub fn open_shares(session: SessionId, bytes: &[u8]) -> Result<SharesV1, MetaError> {
    open(SHARES, 1, "the record of session", session.0, bytes)
}

impl TurnsV1 {
    pub fn open(inode: InodeId, bytes: &[u8]) -> Result<TurnsV1, MetaError> {
        open(TURNS, 1, "turns at the end of file", inode.0, bytes)
    }

    pub fn seal(&self) -> Bytes {
        wire::seal(TURNS, 1, self).into()
    }
}

pub fn open_alloc(bytes: &[u8]) -> Result<u64, MetaError> {
    open::<AllocV1>(ALLOC, 1, "the record of inode numbers", 0, bytes).map(|v| v.next)
}

pub fn seal_alloc(next: u64) -> Bytes {
    wire::seal(ALLOC, 1, &AllocV1 { next }).into()
}

/// What a request was answered; without its stamp: whoever asks again gets a later one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Attr(Attr),
    Gone(Gone),
    Refused(MetaError),
}

impl Answer {
    fn gone(removed: Option<Attr>, moved: Option<Attr>) -> Answer {
        Answer::Gone(Gone { removed, moved, stamp: Stamp::default() })
    }
}

pub fn open_recent(op: RequestId, bytes: &[u8]) -> Result<(u64, Answer), MetaError> {
    if let Ok(v) = wire::open::<RefusedV2>(RECENT, 2, bytes)
        && let Some(why) = REFUSALS.get(usize::from(v.why))
    {
        return Ok((v.seq, Answer::Refused(why.clone())));
    }
    let what = "an answer kept for session";
    if version(bytes) == Some(1) {
        let v: RecentV1 = open(RECENT, 1, what, op.session.0, bytes)?;
        let attr = |v: Box<NumberedV1>| v.attr.with(InodeId(v.inode));
        let answer = match v.answer {
            AnswerV1::Attr { of } => Answer::Attr(attr(of)),
            AnswerV1::Gone { removed, moved } => Answer::gone(removed.map(attr), moved.map(attr)),
        };
        return Ok((v.seq, answer));
    }
    let v: RecentV3 = open(RECENT, 3, what, op.session.0, bytes)?;
    let attr = |v: Box<NumberedV2>| v.attr.with(InodeId(v.inode));
    let answer = match v.answer {
        AnswerV3::Attr { of } => Answer::Attr(attr(of)),
        AnswerV3::Gone { removed, moved } => Answer::gone(removed.map(attr), moved.map(attr)),
    };
    Ok((v.seq, answer))
}

/// The refusal of a request; `None`: it is of a kind that is not kept.
pub fn seal_refused(seq: u64, why: &MetaError) -> Option<Bytes> {
    let why = REFUSALS.iter().position(|r| r == why)? as u8;
    Some(wire::seal(RECENT, 2, &RefusedV2 { seq, why }).into())
}

/// What a request that was carried out was answered.
pub fn seal_recent(seq: u64, answer: &Answer) -> Bytes {
    let numbered = |a: &Attr| Box::new(NumberedV2 { inode: a.inode.0, attr: AttrV2::of(a) });
    let answer = match answer {
        Answer::Attr(a) => AnswerV3::Attr { of: numbered(a) },
        Answer::Gone(g) => AnswerV3::Gone {
            removed: g.removed.as_ref().map(numbered),
            moved: g.moved.as_ref().map(numbered),
        },
        Answer::Refused(_) => unreachable!("sealed by `seal_refused`"),
    };
    wire::seal(RECENT, 3, &RecentV3 { seq, answer }).into()
}

impl AttrV1 {
    fn with(self, inode: InodeId) -> Attr {
        Attr {
            inode,
            kind: self.kind.into(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            atime_ns: self.atime_ns,
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
            length: self.length,
            truncations: self.truncations,
            times_set: 0,
            changes: 0,
            // It was not recorded.
            sparse: self.kind == KindV1::File,
            birth_ns: 0,
            layout: self.layout.map(Layout::from),
            as_of: Stamp::default(),
        }
    }
}

impl AttrV2 {
    fn of(a: &Attr) -> AttrV2 {
        AttrV2 {
            kind: a.kind.into(),
            mode: a.mode,
            uid: a.uid,
            gid: a.gid,
            nlink: a.nlink,
            atime_ns: a.atime_ns,
            mtime_ns: a.mtime_ns,
            ctime_ns: a.ctime_ns,
            length: a.length,
            truncations: a.truncations,
            times_set: a.times_set,
            changes: a.changes,
            birth_ns: a.birth_ns,
            flags: if a.sparse { SPARSE } else { 0 },
            layout: a.layout.as_ref().map(LayoutV1::from),
        }
    }

    fn with(self, inode: InodeId) -> Attr {
        Attr {
            inode,
            kind: self.kind.into(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            atime_ns: self.atime_ns,
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
            length: self.length,
            truncations: self.truncations,
            times_set: self.times_set,
            changes: self.changes,
            sparse: self.flags & SPARSE != 0,
            birth_ns: self.birth_ns,
            layout: self.layout.map(Layout::from),
            as_of: Stamp::default(),
        }
    }
}

impl From<FileType> for KindV1 {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::File => KindV1::File,
            FileType::Directory => KindV1::Directory,
            FileType::Symlink => KindV1::Symlink,
            FileType::Special { mode_type, rdev } => KindV1::Special { mode_type, rdev },
        }
    }
}

impl From<KindV1> for FileType {
    fn from(kind: KindV1) -> Self {
        match kind {
            KindV1::File => FileType::File,
            KindV1::Directory => FileType::Directory,
            KindV1::Symlink => FileType::Symlink,
            KindV1::Special { mode_type, rdev } => FileType::Special { mode_type, rdev },
        }
    }
}

impl From<&Layout> for LayoutV1 {
    fn from(layout: &Layout) -> Self {
        let stripes = match &layout.stripes {
            &Stripes::Range { table, table_version, base, count, seed } => {
                StripesV1::Range { table, table_version, base, count, seed }
            }
            Stripes::List { chains } => {
                StripesV1::List { chains: chains.iter().map(|c| c.0).collect() }
            }
        };
        LayoutV1 { chunk_size: layout.chunk_size, stripes }
    }
}

impl From<LayoutV1> for Layout {
    fn from(layout: LayoutV1) -> Self {
        let stripes = match layout.stripes {
            StripesV1::Range { table, table_version, base, count, seed } => {
                Stripes::Range { table, table_version, base, count, seed }
            }
            StripesV1::List { chains } => {
                Stripes::List { chains: chains.into_iter().map(ChainId).collect() }
            }
        };
        Layout { chunk_size: layout.chunk_size, stripes }
    }
}
