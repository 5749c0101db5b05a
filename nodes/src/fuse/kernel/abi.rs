//! The bytes of the FUSE protocol: numbers, and how structures are read and written. Safe code
//! only: a structure is its fields, one after the other, in the machine's byte order.
//!
//! Source: Linux, include/uapi/linux/fuse.h, protocol 7.31 (Linux 5.4) to 7.45. Every structure
//! that is used here has kept its layout since 7.31; newer kernels put more behind it only after a
//! flag of INIT has been agreed on.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::types::{FileAttr, Ttl};

pub const MAJOR: u32 = 7;
/// What is offered. The kernel and we both go by the smaller of the two.
pub const MINOR: u32 = 40;
/// Linux 5.4. Older kernels are refused.
pub const MINOR_MIN: u32 = 31;

/// struct fuse_in_header
pub const IN_HEADER_BYTES: usize = 40;
/// struct fuse_out_header
pub const OUT_HEADER_BYTES: usize = 16;
/// struct fuse_write_in
pub const WRITE_IN_BYTES: usize = 40;
/// struct fuse_dirent without its name
const DIRENT_BYTES: usize = 24;
/// The least that the kernel wants a read buffer to hold (FUSE_MIN_READ_BUFFER).
pub const READ_BUFFER_MIN: usize = 8192;
/// The number of an interrupt is that of the request it is about, with this bit.
pub const INTERRUPT_BIT: u64 = 1;

/// What a request asks for (enum fuse_opcode); those that are answered here.
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const NOTIFY_REPLY: u32 = 41;
    pub const BATCH_FORGET: u32 = 42;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
}

/// What a notification says (enum fuse_notify_code).
pub mod notice {
    pub const INVAL_INODE: i32 = 2;
    pub const INVAL_ENTRY: i32 = 3;
    pub const DELETE: i32 = 6;
}

/// Bits of `fuse_setattr_in.valid`.
pub mod fattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const CTIME: u32 = 1 << 10;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

pub const GETATTR_FH: u32 = 1 << 0;
pub const READ_LOCKOWNER: u32 = 1 << 1;
pub const WRITE_LOCKOWNER: u32 = 1 << 1;
pub const RELEASE_FLUSH: u32 = 1 << 0;
pub const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
pub const FSYNC_DATASYNC: u32 = 1 << 0;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads one field after the other.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self.0.split_at_checked(bytes).ok_or(Malformed)?;
        self.0 = rest;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*field)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_ne_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_ne_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_ne_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_ne_bytes)
    }

    /// A string and the zero that ends it.
    pub fn string(&mut self) -> Result<&'a OsStr, Malformed> {
        let end = self.0.iter().position(|b| *b == 0).ok_or(Malformed)?;
        let string = self.take(end)?;
        self.take(1)?;
        Ok(OsStr::from_bytes(string))
    }

    /// A string that can name something in a directory.
    pub fn name(&mut self) -> Result<&'a OsStr, Malformed> {
        let name = self.string()?;
        let bad = name.is_empty() || name.as_bytes().contains(&b'/');
        if bad { Err(Malformed) } else { Ok(name) }
    }
}

/// Seconds (before 1970 below zero) and the nanoseconds that come on top.
pub fn time_from(seconds: i64, nanos: u32) -> Result<SystemTime, Malformed> {
    if nanos >= 1_000_000_000 {
        return Err(Malformed);
    }
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time =
        if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    time.and_then(|t| t.checked_add(Duration::from_nanos(nanos.into()))).ok_or(Malformed)
}

fn time_to(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(e) => {
            let before = e.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |s| -s);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanos => (seconds.saturating_sub(1), 1_000_000_000 - nanos),
            }
        }
    }
}

/// Writes one field after the other.
pub trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u16(&mut self, n: u16) {
        self.put(&n.to_ne_bytes());
    }

    fn put_u32(&mut self, n: u32) {
        self.put(&n.to_ne_bytes());
    }

    fn put_u64(&mut self, n: u64) {
        self.put(&n.to_ne_bytes());
    }

    fn put_i64(&mut self, n: i64) {
        self.put(&n.to_ne_bytes());
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// struct fuse_out_header
pub fn out_header(body_bytes: usize, error: i32, unique: u64) -> [u8; OUT_HEADER_BYTES] {
    let mut header = [0; OUT_HEADER_BYTES];
    let bytes = u32::try_from(OUT_HEADER_BYTES + body_bytes).expect("replies are at most 1 MiB");
    header[..4].copy_from_slice(&bytes.to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// struct fuse_attr
fn put_attr(out: &mut impl Put, a: &FileAttr) {
    let times = [a.atime, a.mtime, a.ctime].map(time_to);
    out.put_u64(a.ino.0);
    out.put_u64(a.size);
    out.put_u64(a.blocks);
    for (seconds, _) in times {
        out.put_i64(seconds);
    }
    for (_, nanos) in times {
        out.put_u32(nanos);
    }
    out.put_u32(a.kind.mode_type() | u32::from(a.perm));
    out.put_u32(a.nlink);
    out.put_u32(a.uid);
    out.put_u32(a.gid);
    out.put_u32(a.rdev);
    out.put_u32(a.blksize);
    out.put_u32(0); // flags
}

/// struct fuse_entry_out
pub fn put_entry(out: &mut impl Put, ttl: Ttl, a: &FileAttr, generation: u64) {
    out.put_u64(a.ino.0);
    out.put_u64(generation);
    out.put_u64(ttl.entry.as_secs());
    out.put_u64(ttl.attr.as_secs());
    out.put_u32(ttl.entry.subsec_nanos());
    out.put_u32(ttl.attr.subsec_nanos());
    put_attr(out, a);
}

/// struct fuse_attr_out
pub fn put_attr_out(out: &mut impl Put, ttl: Duration, a: &FileAttr) {
    out.put_u64(ttl.as_secs());
    out.put_u32(ttl.subsec_nanos());
    out.put_u32(0);
    put_attr(out, a);
}

/// struct fuse_open_out
pub fn put_open(out: &mut impl Put, handle: u64, flags: u32) {
    out.put_u64(handle);
    out.put_u32(flags);
    out.put_u32(0);
}

/// How long struct fuse_dirent is with this name and what fills it up.
pub fn dirent_bytes(name: &OsStr) -> usize {
    (DIRENT_BYTES + name.len()).next_multiple_of(8)
}

/// struct fuse_dirent
pub fn put_dirent(out: &mut impl Put, ino: u64, offset: u64, mode_type: u32, name: &OsStr) {
    out.put_u64(ino);
    out.put_u64(offset);
    out.put_u32(name.len() as u32);
    out.put_u32(mode_type >> 12); // DT_DIR and so on
    out.put(name.as_bytes());
    let fill = dirent_bytes(name) - DIRENT_BYTES - name.len();
    out.put(&[0; 8][..fill]);
}

/// struct fuse_entry_out
pub const ENTRY_OUT_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    //! Goal: layouts are those of the header. Method: lengths and offsets as C has them.
    use super::super::types::sample_attr as attr;
    use super::*;

    #[test]
    fn structures_have_the_lengths_of_the_header() {
        let bytes = |put: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            put(&mut out);
            out.len()
        };
        let ttl = Ttl::from(Duration::from_secs(1));
        assert_eq!(bytes(&|o| put_attr(o, &attr())), 88);
        assert_eq!(bytes(&|o| put_entry(o, ttl, &attr(), 0)), ENTRY_OUT_BYTES);
        assert_eq!(bytes(&|o| put_attr_out(o, ttl.attr, &attr())), 104);
        assert_eq!(bytes(&|o| put_open(o, 1, 2)), 16);
        for (name, want) in [("a", 32), ("12345678", 32), ("123456789", 40)] {
            assert_eq!(bytes(&|o| put_dirent(o, 1, 2, 0, OsStr::new(name))), want, "{name}");
        }
    }

    #[test]
    fn times_before_1970_go_both_ways() {
        for (seconds, nanos) in [(0, 0), (-1, 0), (-2, 500_000_000), (1 << 40, 999_999_999)] {
            let time = time_from(seconds, nanos).unwrap();
            assert_eq!(time_to(time), (seconds, nanos));
        }
        assert_eq!(time_from(0, 1_000_000_000), Err(Malformed));
        let edges = [i64::MIN, i64::MAX].map(|s| time_from(s, 999_999_999));
        for time in edges.into_iter().flatten() {
            time_to(time);
        }
    }
}
