//! Keys and values of metadata, to the byte.
//!
//! Numbers in keys are big-endian, so that byte order is number order. Values are sealed
//! (`runtime::wire`: `[type u16][version u16][rkyv]`), but for the counters, which the store itself
//! adds to.
//!
//! ```text
//! 'I' [inode u64]                 InodeV1     attributes
//! 'D' [parent u64] [name ...]     DirentV1    a directory's entries, in byte order of names
//! 'T' [inode u64]                 TimesV1     times of the last change of a directory's entries
//! 'N' [inode u64]                 u64 LE      a directory's subdirectories; absent is 0
//! 'G' [inode u64]                 GarbageV1   an inode without a name, whose content must go
//! 'H' [inode u64] [session u64]   (empty)     this session still has that inode open
//! 'R' [session u64] [slot u16]    RecentV1    what a request was answered; slot = seq %
//!                              or RefusedV2   RECENT_SLOTS
//! 'A'                             AllocV1     first inode number not reserved yet
//! 'C'                             u64 LE      inodes that exist
//! ```
//!
//! *Why `T` and `N` are keys of their own.* Everything that makes or removes an entry changes its
//! directory's times, and with directories its link count. In the inode, that would be a
//! read-modify-write of one key by every create in a directory: optimistic transactions would
//! refuse each other. So these writes are blind (a set, an atomic add), which conflict with nobody,
//! and creates in one directory only share a *read* of its inode, which chmod, rename and rmdir of
//! the directory write. A directory's mtime is `T`'s if there is a `T`; its ctime the later of
//! both; its link count 2 + `N`.
//!
//! A type here is frozen: what changes gets a new version, and readers keep the one before.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::wire::{self, Wire, WireError};

use crate::meta::kv::KeyRange;
use crate::proto::ids::{ChainId, InodeId, RequestId, SessionId};
use crate::proto::meta::{Attr, FileType, Gone, Layout, MetaError, Stripes};

const INODE: u16 = 0x1201;
const DIRENT: u16 = 0x1202;
const TIMES: u16 = 0x1203;
const GARBAGE: u16 = 0x1204;
const RECENT: u16 = 0x1205;
const ALLOC: u16 = 0x1206;

/// First number given to an inode that is not the root.
pub const INODE_MIN: u64 = 0x1000;
/// Answers kept per session. A client has no unanswered request this far behind its newest.
pub const RECENT_SLOTS: u64 = 4096;

fn key(prefix: u8, number: u64, tail: &[u8]) -> Bytes {
    let mut key = Vec::with_capacity(9 + tail.len());
    key.push(prefix);
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(tail);
    key.into()
}

pub fn inode_key(inode: InodeId) -> Bytes {
    key(b'I', inode.0, &[])
}

pub fn dirent_key(parent: InodeId, name: &[u8]) -> Bytes {
    key(b'D', parent.0, name)
}

/// All entries of a directory.
pub fn dirent_range(parent: InodeId) -> KeyRange {
    KeyRange::new(key(b'D', parent.0, &[]), key(b'D', parent.0 + 1, &[]))
}

pub fn times_key(inode: InodeId) -> Bytes {
    key(b'T', inode.0, &[])
}

pub fn subdirs_key(inode: InodeId) -> Bytes {
    key(b'N', inode.0, &[])
}

pub fn garbage_key(inode: InodeId) -> Bytes {
    key(b'G', inode.0, &[])
}

pub fn hold_key(inode: InodeId, session: SessionId) -> Bytes {
    key(b'H', inode.0, &session.0.to_be_bytes())
}

/// All holds on an inode.
pub fn hold_range(inode: InodeId) -> KeyRange {
    KeyRange::new(key(b'H', inode.0, &[]), key(b'H', inode.0 + 1, &[]))
}

pub fn recent_key(op: RequestId) -> Bytes {
    let slot = (op.seq % RECENT_SLOTS) as u16;
    key(b'R', op.session.0, &slot.to_be_bytes())
}

/// All answers kept for sessions from this one on.
pub fn recent_from(session: SessionId) -> KeyRange {
    KeyRange::new(key(b'R', session.0, &[]), &b"S"[..])
}

/// All answers kept for one session.
pub fn recent_range(session: SessionId) -> KeyRange {
    KeyRange::new(key(b'R', session.0, &[]), key(b'R', session.0 + 1, &[]))
}

pub fn alloc_key() -> Bytes {
    Bytes::from_static(b"A")
}

pub fn count_key() -> Bytes {
    Bytes::from_static(b"C")
}

/// All keys with this prefix byte.
pub fn all(prefix: u8) -> KeyRange {
    KeyRange::prefix(vec![prefix])
}

/// The number behind a key's prefix byte, and the rest.
pub fn split_key(key: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = key.get(1..)?.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
}

/// The value of a counter key.
pub fn counter(value: Option<&Bytes>) -> u64 {
    let mut number = [0; 8];
    if let Some(value) = value {
        let kept = value.len().min(8);
        number[..kept].copy_from_slice(&value[..kept]);
    }
    u64::from_le_bytes(number)
}

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

/// Of a directory: `nlink` is always 2, and the times are not the last word (see `T`, `N`).
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct InodeV1 {
    pub attr: AttrV1,
    /// Of a directory; the root's is itself. Else 0.
    pub parent: u64,
    /// Of a symlink. Else empty.
    pub target: Vec<u8>,
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

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GarbageV1 {
    pub since_ns: i64,
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

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct RecentV1 {
    pub seq: u64,
    pub answer: AnswerV1,
}

/// Stands where a `RecentV1` does, under the same type: the request was refused.
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
fn open<T: Wire>(kind: u16, what: &str, of: u64, bytes: &[u8]) -> Result<T, MetaError> {
    wire::open(kind, 1, bytes).map_err(|e| {
        MetaError::Damaged(match e {
            WireError::Version { newest, found, .. } => format!(
                "{what} {of:#x} is stored in version {found} of its format and this build knows \
                 version {newest}: start a t3fs-node at least as new as the one that wrote it"
            ),
            e => format!("{what} {of:#x} cannot be read ({e}): run `t3fs-node check`"),
        })
    })
}

/// An inode in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    pub attr: Attr,
    pub parent: InodeId,
    pub target: Vec<u8>,
}

impl Inode {
    pub fn open(inode: InodeId, bytes: &[u8]) -> Result<Inode, MetaError> {
        let v: InodeV1 = open(INODE, "inode", inode.0, bytes)?;
        let attr = v.attr.with(inode);
        Ok(Inode { attr, parent: InodeId(v.parent), target: v.target })
    }

    pub fn seal(&self) -> Bytes {
        let mut attr = AttrV1::of(&self.attr);
        if attr.kind == KindV1::Directory {
            attr.nlink = 2;
        }
        let v = InodeV1 { attr, parent: self.parent.0, target: self.target.clone() };
        wire::seal(INODE, 1, &v).into()
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
    open(TIMES, "times of directory", inode.0, bytes)
}

pub fn seal_times(times: TimesV1) -> Bytes {
    wire::seal(TIMES, 1, &times).into()
}

pub fn open_dirent(parent: InodeId, bytes: &[u8]) -> Result<(InodeId, FileType), MetaError> {
    let v: DirentV1 = open(DIRENT, "an entry of directory", parent.0, bytes)?;
    Ok((InodeId(v.inode), v.kind.into()))
}

pub fn seal_dirent(inode: InodeId, kind: FileType) -> Bytes {
    wire::seal(DIRENT, 1, &DirentV1 { inode: inode.0, kind: kind.into() }).into()
}

pub fn seal_garbage(since_ns: i64) -> Bytes {
    wire::seal(GARBAGE, 1, &GarbageV1 { since_ns }).into()
}

pub fn open_garbage(inode: InodeId, bytes: &[u8]) -> Result<GarbageV1, MetaError> {
    open(GARBAGE, "garbage entry of inode", inode.0, bytes)
}

pub fn open_alloc(bytes: &[u8]) -> Result<u64, MetaError> {
    open::<AllocV1>(ALLOC, "the record of inode numbers", 0, bytes).map(|v| v.next)
}

pub fn seal_alloc(next: u64) -> Bytes {
    wire::seal(ALLOC, 1, &AllocV1 { next }).into()
}

/// What a request was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Attr(Attr),
    Gone(Gone),
    Refused(MetaError),
}

pub fn open_recent(op: RequestId, bytes: &[u8]) -> Result<(u64, Answer), MetaError> {
    if let Ok(v) = wire::open::<RefusedV2>(RECENT, 2, bytes)
        && let Some(why) = REFUSALS.get(usize::from(v.why))
    {
        return Ok((v.seq, Answer::Refused(why.clone())));
    }
    let v: RecentV1 = open(RECENT, "an answer kept for session", op.session.0, bytes)?;
    let attr = |v: Box<NumberedV1>| v.attr.with(InodeId(v.inode));
    let answer = match v.answer {
        AnswerV1::Attr { of } => Answer::Attr(attr(of)),
        AnswerV1::Gone { removed, moved } => {
            Answer::Gone(Gone { removed: removed.map(attr), moved: moved.map(attr) })
        }
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
    let numbered = |a: &Attr| Box::new(NumberedV1 { inode: a.inode.0, attr: AttrV1::of(a) });
    let answer = match answer {
        Answer::Attr(a) => AnswerV1::Attr { of: numbered(a) },
        Answer::Gone(g) => AnswerV1::Gone {
            removed: g.removed.as_ref().map(numbered),
            moved: g.moved.as_ref().map(numbered),
        },
        Answer::Refused(_) => unreachable!("sealed by `seal_refused`"),
    };
    wire::seal(RECENT, 1, &RecentV1 { seq, answer }).into()
}

impl AttrV1 {
    fn of(a: &Attr) -> AttrV1 {
        AttrV1 {
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
            layout: self.layout.map(Layout::from),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn attr() -> Attr {
        Attr {
            inode: InodeId(0x1234),
            kind: FileType::File,
            mode: 0o6644,
            uid: 1000,
            gid: 100,
            nlink: 3,
            atime_ns: 1,
            mtime_ns: -2,
            ctime_ns: 3 << 40,
            length: 5 << 33,
            truncations: 7,
            layout: Some(Layout {
                chunk_size: 1 << 20,
                stripes: Stripes::Range { table: 1, table_version: 2, base: 3, count: 4, seed: 5 },
            }),
        }
    }

    fn file() -> Inode {
        Inode { attr: attr(), parent: InodeId(0), target: Vec::new() }
    }

    fn symlink() -> Inode {
        let attr = Attr { kind: FileType::Symlink, layout: None, length: 6, ..attr() };
        Inode { attr, parent: InodeId(0), target: b"target".to_vec() }
    }

    fn listed() -> Inode {
        let stripes = Stripes::List { chains: vec![ChainId(9), ChainId(8)] };
        let layout = Some(Layout { chunk_size: 4096, stripes });
        Inode { attr: Attr { layout, ..attr() }, ..file() }
    }

    /// Goal: what an earlier build stored stays readable, and this build stores the same bytes.
    /// Method: each kind of value against its bytes in `golden/`.
    #[test]
    fn stored_bytes_do_not_change() {
        let special = FileType::Special { mode_type: 0o020000, rdev: 0x0103 };
        let gone = Gone { removed: Some(attr()), moved: None };
        let values = [
            ("inode_v1_file", file().seal()),
            ("inode_v1_symlink", symlink().seal()),
            ("inode_v1_listed", listed().seal()),
            ("dirent_v1", seal_dirent(InodeId(0x1234), FileType::Directory)),
            ("dirent_v1_special", seal_dirent(InodeId(0x1235), special)),
            ("times_v1", seal_times(TimesV1 { mtime_ns: -1, ctime_ns: 2 })),
            ("garbage_v1", seal_garbage(77)),
            ("recent_v1_attr", seal_recent(5, &Answer::Attr(attr()))),
            ("recent_v1_gone", seal_recent(6, &Answer::Gone(gone))),
            ("alloc_v1", seal_alloc(0x2000)),
            ("refused_v2", seal_refused(7, &MetaError::Exists).expect("kept")),
        ];
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let now: Vec<_> = values.iter().map(|(n, v)| format!("{n} {}", hex(v))).collect();
        let golden: Vec<_> = include_str!("golden/values.txt").lines().collect();
        assert_eq!(now, golden, "\n{}", now.join("\n"));
    }

    #[test]
    fn values_come_back() {
        let op = RequestId::default();
        for inode in [file(), symlink(), listed()] {
            assert_eq!(Inode::open(inode.attr.inode, &inode.seal()), Ok(inode));
        }
        let answer = Answer::Gone(Gone { removed: None, moved: Some(attr()) });
        assert_eq!(open_recent(op, &seal_recent(9, &answer)), Ok((9, answer)));
        assert_eq!(open_alloc(&seal_alloc(5)), Ok(5));
    }

    /// Goal: a newer format is never misread, and the message says what to do.
    #[test]
    fn a_newer_version_is_refused() {
        let mut bytes = file().seal().to_vec();
        bytes[2] = 2;
        let refused = Inode::open(InodeId(0x1234), &bytes).unwrap_err();
        assert!(matches!(&refused, MetaError::Damaged(s) if s.contains("start a t3fs-node")));
        bytes[0] ^= 1;
        let refused = Inode::open(InodeId(0x1234), &bytes).unwrap_err();
        assert!(matches!(&refused, MetaError::Damaged(s) if s.contains("check")));
    }

    #[test]
    fn keys_are_as_drawn() {
        let dirent = dirent_key(InodeId(258), b"name");
        assert_eq!(&dirent[..], b"D\0\0\0\0\0\0\x01\x02name");
        assert_eq!(split_key(&dirent), Some((258, &b"name"[..])));
        assert!(dirent_range(InodeId(258)).contains(&dirent));
        assert!(!dirent_range(InodeId(257)).contains(&dirent));
        let op = RequestId { session: SessionId(3), seq: RECENT_SLOTS + 2 };
        assert_eq!(&recent_key(op)[..], b"R\0\0\0\0\0\0\0\x03\0\x02");
        assert!(recent_range(op.session).contains(&recent_key(op)));
        assert!(recent_from(SessionId(0)).contains(&recent_key(op)));
        assert!(!recent_from(SessionId(4)).contains(&recent_key(op)));
    }
}
