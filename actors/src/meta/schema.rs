//! Keys and values of metadata, to the byte.
//!
//! Numbers in keys are big-endian, so that byte order is number order. Values are sealed
//! (`runtime::wire`: `[type u16][version u16][rkyv]`), but for the counters, which the store itself
//! adds to.
//!
//! ```text
//! 'F'                             FeaturesV1  which formats are used (see `crate::features`)
//! 'B'                             StoreIdentityV1  which store it is (see `kv::known`)
//! 'I' [inode u64]                 InodeV2     attributes (InodeV1 is read, InodeV3 written where
//!                                             it says more)
//! 'D' [parent u64] [name ...]     DirentV1    a directory's entries, in byte order of names
//! 'T' [inode u64]                 TimesV1     times of the last change of a directory's entries
//! 'N' [inode u64]                 u64 LE      a directory's subdirectories; absent is 0
//! 'G' [inode u64]                 GarbageV2   an inode without a name, whose content must go
//!                                             (GarbageV1 is read, GarbageV3 kept)
//! 'H' [inode u64] [session u64]   HoldV1      this session has that inode open
//! 'S' [session u64]               SharesV1    this session opens every file with a hold
//! 'E' [inode u64]                 TurnsV1     who is about to move the end of that file
//! 'R' [session u64] [slot u16]    RecentV3    what a request was answered; slot = seq %
//!                              or RefusedV2   RECENT_SLOTS (RecentV1 is read)
//! 'A'                             AllocV1     first inode number not reserved yet
//! 'C'                             u64 LE      inodes that exist: the sum of this and all
//! 'C' [shard u8]                  u64 LE      of these, modulo 2^64
//! 'M' ...                                     mgmtd's (see `mgmtd::store`)
//!
//! Reserved; written by later builds, under a bit of the feature record, and cleared by this one:
//! 'N' [inode u64] [shard u8]      u64 LE      parts of a directory's count of subdirectories
//! 'X' [inode u64] [kind u8] ...               all else that belongs to an inode and goes with it:
//!                                             kind 'x' extended attributes, 'l' locks
//! 'g' [bucket u8] [due_ns u64]
//!     [inode u64]                             `G` entries by when they are due; one that has such
//!                                             a key says so (GarbageV3)
//! Reserved; cleared by those who write them:
//! 'Q' [kind u8] [id u32] [shard u8]           usage of quotas by project ('p'), user ('u') and
//!                                             group ('g'); limits under 'q'
//! 'U' [name ...]                              users, and 'u' [token ...] who has a token
//! 'K' [name ...]                              configurations
//! ```
//! A prefix that is not listed belongs to nobody; `fsck` looks at what it knows and leaves the
//! rest.
//!
//! *Which version is written.* The lowest that says all, so that earlier builds beside this one
//! read it: what a later version adds is written only where it is used. A value of a later version
//! that is read here and written again keeps what this build makes nothing of.
//!
//! *Why garbage stays under its inode.* Whether a file is condemned is asked by its number, by
//! those who open it, and answered by one key that they depend on. When there is too much garbage
//! to look through, `g` becomes an index of it, written with it and cleared with it.
//!
//! *Why `T` and `N` are keys of their own.* Everything that makes or removes an entry changes its
//! directory's times, and with directories its link count. In the inode, that would be a
//! read-modify-write of one key by every create in a directory: optimistic transactions would
//! refuse each other. So these writes are blind (a set, an atomic add), which conflict with nobody,
//! and creates in one directory only share a *read* of its inode, which chmod, rename and rmdir of
//! the directory write. A directory's mtime is `T`'s if there is a `T`; its ctime the later of
//! both; its link count 2 + `N`.
//!
//! `values` holds the formats of the values.

use bytes::Bytes;

use crate::meta::kv::KeyRange;
use crate::proto::ids::{InodeId, RequestId, SessionId};

mod values;
pub use values::*;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

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

/// The garbage entries of all inodes from one to another.
pub fn garbage_range(first: InodeId, last: InodeId) -> KeyRange {
    KeyRange::new(garbage_key(first), key(b'G', last.0, &[0]))
}

/// The key by which a garbage entry is found when it is due.
pub fn due_key(due: DueV1, inode: InodeId) -> Bytes {
    let DueV1 { bucket, due_ns } = due;
    [&[b'g', bucket][..], &due_ns.to_be_bytes(), &inode.0.to_be_bytes()].concat().into()
}

/// A directory's count of subdirectories, and the parts of it that later builds may keep.
pub fn subdirs_range(inode: InodeId) -> KeyRange {
    KeyRange::new(key(b'N', inode.0, &[]), key(b'N', inode.0 + 1, &[]))
}

/// All that belongs to an inode and goes with it, beside what has a prefix of its own.
pub fn belongings_range(inode: InodeId) -> KeyRange {
    KeyRange::new(key(b'X', inode.0, &[]), key(b'X', inode.0 + 1, &[]))
}

pub fn hold_key(inode: InodeId, session: SessionId) -> Bytes {
    key(b'H', inode.0, &session.0.to_be_bytes())
}

/// All holds on an inode.
pub fn hold_range(inode: InodeId) -> KeyRange {
    KeyRange::new(key(b'H', inode.0, &[]), key(b'H', inode.0 + 1, &[]))
}

/// The inode and the session of a hold's key.
pub fn split_hold(key: &[u8]) -> Option<(InodeId, SessionId)> {
    let (inode, session) = split_key(key)?;
    Some((InodeId(inode), SessionId(u64::from_be_bytes(session.try_into().ok()?))))
}

pub fn shares_key(session: SessionId) -> Bytes {
    key(b'S', session.0, &[])
}

pub fn turns_key(inode: InodeId) -> Bytes {
    key(b'E', inode.0, &[])
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

/// What all parts of a counter come to.
pub fn sum<'a>(parts: impl Iterator<Item = &'a Bytes>) -> u64 {
    parts.fold(0, |sum, part| sum.wrapping_add(counter(Some(part))))
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
