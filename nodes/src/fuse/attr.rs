//! Attributes as the kernel wants them, and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use t3fs_actors::client::{Attr, FileType, SetTime};
use t3fs_actors::proto::ids::InodeId;

use super::kernel::{self, FileAttr, INodeNo, TimeOrNow};
use super::options::PREFERRED_IO_BYTES;

/// The unit of `st_blocks`.
pub const BLOCK_BYTES: u64 = 512;

pub fn to_kernel(a: &Attr) -> FileAttr {
    let (kind, rdev) = kind_to_kernel(a.kind);
    let is_file = a.kind == FileType::File;
    FileAttr {
        ino: INodeNo(a.inode.0),
        size: if kind == kernel::FileType::Directory { 0 } else { a.length },
        blocks: if is_file { a.length.div_ceil(BLOCK_BYTES) } else { 0 },
        atime: time_to_kernel(a.atime_ns),
        mtime: time_to_kernel(a.mtime_ns),
        ctime: time_to_kernel(a.ctime_ns),
        kind,
        perm: (a.mode & 0o7777) as u16,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev,
        blksize: if is_file { PREFERRED_IO_BYTES } else { 4096 },
    }
}

/// `.` and `..` in a listing: the kernel takes number and type from it and nothing else.
pub fn of_dots(inode: InodeId) -> FileAttr {
    FileAttr {
        ino: INodeNo(inode.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        kind: kernel::FileType::Directory,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
    }
}

/// The type, and the device number of a special file.
pub fn kind_to_kernel(kind: FileType) -> (kernel::FileType, u32) {
    match kind {
        FileType::File => (kernel::FileType::RegularFile, 0),
        FileType::Directory => (kernel::FileType::Directory, 0),
        FileType::Symlink => (kernel::FileType::Symlink, 0),
        FileType::Special { mode_type, rdev } => {
            let kind = match mode_type & libc::S_IFMT {
                libc::S_IFIFO => kernel::FileType::NamedPipe,
                libc::S_IFCHR => kernel::FileType::CharDevice,
                libc::S_IFBLK => kernel::FileType::BlockDevice,
                // Nothing else is ever stored; a socket does no harm.
                _ => kernel::FileType::Socket,
            };
            (kind, rdev)
        }
    }
}

/// The type that mknod(2) asks for; `None` for what cannot be made that way.
pub fn kind_of_mknod(mode: u32, rdev: u32) -> Option<FileType> {
    match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => Some(FileType::File),
        mode_type @ (libc::S_IFCHR | libc::S_IFBLK) => Some(FileType::Special { mode_type, rdev }),
        mode_type @ (libc::S_IFIFO | libc::S_IFSOCK) => {
            Some(FileType::Special { mode_type, rdev: 0 })
        }
        _ => None,
    }
}

fn time_to_kernel(ns: i64) -> SystemTime {
    let d = Duration::from_nanos(ns.unsigned_abs());
    let t = if ns < 0 { UNIX_EPOCH.checked_sub(d) } else { UNIX_EPOCH.checked_add(d) };
    t.unwrap_or(UNIX_EPOCH)
}

/// Nanoseconds since the epoch, as far as they can be told (years 1678 to 2262).
fn time_from_kernel(t: SystemTime) -> i64 {
    match t.duration_since(UNIX_EPOCH) {
        Ok(d) => i64::try_from(d.as_nanos()).unwrap_or(i64::MAX),
        Err(e) => i64::try_from(e.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

pub fn set_time(t: TimeOrNow) -> SetTime {
    match t {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(t) => SetTime::At { ns: time_from_kernel(t) },
    }
}

pub fn set_ctime(t: SystemTime) -> SetTime {
    SetTime::At { ns: time_from_kernel(t) }
}

#[cfg(test)]
mod tests {
    //! Goal: nothing is lost on the way to the kernel and back.
    use super::*;

    #[test]
    fn special_files_keep_type_and_device() {
        for (mode, want) in [
            (libc::S_IFIFO, kernel::FileType::NamedPipe),
            (libc::S_IFCHR, kernel::FileType::CharDevice),
            (libc::S_IFBLK, kernel::FileType::BlockDevice),
            (libc::S_IFSOCK, kernel::FileType::Socket),
            (libc::S_IFREG, kernel::FileType::RegularFile),
        ] {
            let kind = kind_of_mknod(mode | 0o644, 77).unwrap();
            let device = matches!(mode, libc::S_IFCHR | libc::S_IFBLK);
            assert_eq!(kind_to_kernel(kind), (want, if device { 77 } else { 0 }));
        }
        assert_eq!(kind_of_mknod(libc::S_IFDIR, 0), None);
        assert_eq!(kind_of_mknod(libc::S_IFLNK, 0), None);
    }

    #[test]
    fn times_come_back() {
        for ns in [0, 1, -1, -1_500_000_000, 1_771_027_200_123_456_789, i64::MAX] {
            assert_eq!(time_from_kernel(time_to_kernel(ns)), ns);
        }
    }
}
