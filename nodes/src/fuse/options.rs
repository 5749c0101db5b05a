//! What the kernel is told about this file system. `ops/bench/nullfs/options.rs` repeats it, so
//! that the benchmark compares our work and not a setting: change both together.
//!
//! Not asked for, on purpose: `WRITEBACK_CACHE` (write buffering is the client's, and the kernel's
//! would write back through us under memory pressure), `HANDLE_KILLPRIV` (without it the kernel
//! clears setuid bits itself, with a setattr), `DONT_MASK` (the
//! kernel applies the umask before it asks), `AUTO_INVAL_DATA` (it drops the page cache after our
//! own writes), `POSIX_LOCKS` and `FLOCK_LOCKS` (locks are the kernel's, local), `EXPORT_SUPPORT`.

use super::kernel::{FopenFlags, InitFlags, KernelConfig, SessionAcl};
use super::open_flags::is_direct;

/// Largest read or write in one request.
pub const IO_BYTES_MAX: u32 = 1 << 20;

/// Read-ahead and asynchronous requests that the kernel keeps in flight.
pub const BACKGROUND_REQUESTS_MAX: u16 = 64;

/// What programs are told to write in one call (`st_blksize`): each call is one request.
pub const PREFERRED_IO_BYTES: u32 = 128 << 10;
const _: () = assert!(PREFERRED_IO_BYTES <= IO_BYTES_MAX);

/// Asked for one by one, because an older kernel refuses a set that holds one it does not know.
const INIT_FLAGS: [InitFlags; 7] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    // Opening with O_TRUNC is one request; `files::open` does it.
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // Files that are open with O_DIRECT can still be mapped.
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// Event loops: one per core, at least two so that a request that waits does not stop all others.
pub fn event_loops() -> usize {
    crate::limits::cores().max(2)
}

/// What event loops read requests into, in bytes: each has room for the largest, with its head.
pub fn request_buffers_bytes() -> usize {
    event_loops() * (IO_BYTES_MAX as usize + 4096)
}

/// The users that may use the mount.
pub fn acl(allow_other: bool) -> SessionAcl {
    if allow_other { SessionAcl::All } else { SessionAcl::Owner }
}

/// Answers the kernel's offer of capabilities.
pub fn configure(kernel: &mut KernelConfig) -> std::io::Result<()> {
    let refused = |what| std::io::Error::other(format!("{what} is out of bounds"));
    for flag in INIT_FLAGS {
        // Refused means that this kernel lacks it; all is right without, and some things slower.
        let _ = kernel.add_capabilities(flag);
    }
    kernel.set_max_write(IO_BYTES_MAX).map_err(|_| refused("max_write"))?;
    kernel.set_max_background(BACKGROUND_REQUESTS_MAX).map_err(|_| refused("max_background"))?;
    if let Err(most) = kernel.set_max_readahead(IO_BYTES_MAX) {
        kernel.set_max_readahead(most).map_err(|_| refused("max_readahead"))?;
    }
    Ok(())
}

/// How a file that is opened with these flags is cached.
pub fn of_open(flags: i32) -> FopenFlags {
    let mut f = FopenFlags::empty();
    if is_direct(flags) {
        f |= FopenFlags::FOPEN_DIRECT_IO;
    }
    if flags & libc::O_DIRECT != 0 {
        f |= FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES; // several writers of one file at once
    }
    if flags & libc::O_ACCMODE == libc::O_RDONLY {
        // Closing has nothing to hand over: one request less.
        f |= FopenFlags::FOPEN_NOFLUSH;
    }
    f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_files_bypass_the_page_cache_and_readers_are_not_flushed() {
        let f = of_open(libc::O_RDWR | libc::O_DIRECT);
        assert_eq!(f, FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
        assert_eq!(of_open(libc::O_RDONLY), FopenFlags::FOPEN_NOFLUSH);
        assert_eq!(of_open(libc::O_WRONLY), FopenFlags::empty());
    }
}
