//! The words of the protocol: error numbers, flags, attributes.

use std::time::{Duration, SystemTime};

/// An error number that the caller will see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(pub const $name: Errno = Errno(libc::$name);)*
        }
    };
}

errnos! {
    EACCES EAGAIN EBADF EEXIST EFBIG EINTR EINVAL EIO EISDIR EMLINK ENAMETOOLONG ENODATA ENODEV
    ENOENT ENOMEM ENOSPC ENOSYS ENOTDIR ENOTEMPTY ENXIO EOPNOTSUPP EPERM EPROTO ERANGE EROFS ESTALE
    EXDEV
}

/// The kernel's name of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct INodeNo(pub u64);

impl INodeNo {
    pub const ROOT: INodeNo = INodeNo(1);
}

/// What `open` and `opendir` have called what they opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileHandle(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(pub u64);

/// Who holds locks of the file, in the kernel's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockOwner(pub u64);

/// The flags of open(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlags(pub i32);

/// What access(2) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessFlags(pub i32);

/// A set of bits with names.
macro_rules! flags {
    ($(#[$doc:meta])* $name:ident($bits:ty) {
        $($(#[$flag_doc:meta])* $flag:ident = $value:expr;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name($bits);

        impl $name {
            $($(#[$flag_doc])* pub const $flag: $name = $name($value);)*

            pub const fn empty() -> $name {
                $name(0)
            }

            /// Also bits that have no name here.
            pub const fn from_bits(bits: $bits) -> $name {
                $name(bits)
            }

            pub const fn bits(self) -> $bits {
                self.0
            }

            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            pub const fn contains(self, other: $name) -> bool {
                self.0 & other.0 == other.0
            }
        }

        impl std::ops::BitOr for $name {
            type Output = $name;
            fn bitor(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
        }

        impl std::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: $name) {
                self.0 |= other.0;
            }
        }

        impl std::ops::BitAnd for $name {
            type Output = $name;
            fn bitand(self, other: $name) -> $name {
                $name(self.0 & other.0)
            }
        }
    };
}

flags! {
    /// renameat2(2)
    RenameFlags(u32) {
        RENAME_NOREPLACE = 1 << 0;
        RENAME_EXCHANGE = 1 << 1;
        RENAME_WHITEOUT = 1 << 2;
    }
}

flags! {
    /// fuse_write_in.write_flags
    WriteFlags(u32) {
        /// From the page cache: the handle is a guess.
        FUSE_WRITE_CACHE = 1 << 0;
        FUSE_WRITE_LOCKOWNER = 1 << 1;
        /// Set-user-ID and set-group-ID bits must go.
        FUSE_WRITE_KILL_SUIDGID = 1 << 2;
    }
}

flags! {
    /// fuse_open_out.open_flags
    FopenFlags(u32) {
        FOPEN_DIRECT_IO = 1 << 0;
        FOPEN_KEEP_CACHE = 1 << 1;
        FOPEN_NONSEEKABLE = 1 << 2;
        FOPEN_CACHE_DIR = 1 << 3;
        FOPEN_STREAM = 1 << 4;
        FOPEN_NOFLUSH = 1 << 5;
        FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6;
    }
}

flags! {
    /// What both sides agree on in INIT: `flags`, and `flags2` from bit 32 on.
    InitFlags(u64) {
        FUSE_ASYNC_READ = 1 << 0;
        FUSE_ATOMIC_O_TRUNC = 1 << 3;
        FUSE_BIG_WRITES = 1 << 5;
        FUSE_DONT_MASK = 1 << 6;
        FUSE_AUTO_INVAL_DATA = 1 << 12;
        FUSE_DO_READDIRPLUS = 1 << 13;
        FUSE_READDIRPLUS_AUTO = 1 << 14;
        FUSE_ASYNC_DIO = 1 << 15;
        FUSE_WRITEBACK_CACHE = 1 << 16;
        FUSE_PARALLEL_DIROPS = 1 << 18;
        FUSE_HANDLE_KILLPRIV = 1 << 19;
        FUSE_MAX_PAGES = 1 << 22;
        FUSE_CACHE_SYMLINKS = 1 << 23;
        FUSE_EXPLICIT_INVAL_DATA = 1 << 25;
        FUSE_HANDLE_KILLPRIV_V2 = 1 << 28;
        FUSE_INIT_EXT = 1 << 30;
        FUSE_DIRECT_IO_ALLOW_MMAP = 1 << 36;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    NamedPipe,
    CharDevice,
    BlockDevice,
    Directory,
    RegularFile,
    Symlink,
    Socket,
}

impl FileType {
    /// The bits of `st_mode` below S_IFMT.
    pub fn mode_type(self) -> u32 {
        match self {
            FileType::NamedPipe => libc::S_IFIFO,
            FileType::CharDevice => libc::S_IFCHR,
            FileType::BlockDevice => libc::S_IFBLK,
            FileType::Directory => libc::S_IFDIR,
            FileType::RegularFile => libc::S_IFREG,
            FileType::Symlink => libc::S_IFLNK,
            FileType::Socket => libc::S_IFSOCK,
        }
    }
}

/// What stat(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileAttr {
    pub ino: INodeNo,
    /// Bytes.
    pub size: u64,
    /// Of 512 bytes.
    pub blocks: u64,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    pub kind: FileType,
    /// Permissions, with set-user-ID, set-group-ID and sticky bit.
    pub perm: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub blksize: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeOrNow {
    SpecificTime(SystemTime),
    Now,
}

/// What `setattr` is to change; `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<TimeOrNow>,
    pub mtime: Option<TimeOrNow>,
    pub ctime: Option<SystemTime>,
    /// Of ftruncate(2).
    pub handle: Option<FileHandle>,
    /// Set-user-ID and set-group-ID bits must go (only with FUSE_HANDLE_KILLPRIV_V2).
    pub kill_suidgid: bool,
}

/// For how long the kernel may answer by itself: from a name, and from attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    pub entry: Duration,
    pub attr: Duration,
}

impl From<Duration> for Ttl {
    fn from(both: Duration) -> Ttl {
        Ttl { entry: both, attr: both }
    }
}

impl From<&Duration> for Ttl {
    fn from(both: &Duration) -> Ttl {
        Ttl::from(*both)
    }
}

/// For tests of layouts: no two fields alike.
#[cfg(test)]
pub fn sample_attr() -> FileAttr {
    use std::time::UNIX_EPOCH;
    let time = |seconds, nanos| UNIX_EPOCH + Duration::new(seconds, nanos);
    FileAttr {
        ino: INodeNo(0x11),
        size: 0x22,
        blocks: 0x33,
        atime: time(0x44, 0x55),
        mtime: time(0x66, 0x77),
        ctime: time(0x88, 0x99),
        kind: FileType::RegularFile,
        perm: 0o644,
        nlink: 0xaa,
        uid: 0xbb,
        gid: 0xcc,
        rdev: 0xdd,
        blksize: 0xee,
    }
}
