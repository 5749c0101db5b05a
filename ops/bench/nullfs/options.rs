//! How nullfs is mounted: exactly as the product mounts itself (`nodes/src/mount*`), so that the
//! ratio between the two shows the product's own work and not a kernel setting. Change both
//! together.

use std::time::Duration;

use fuser::{Config, FopenFlags, InitFlags, KernelConfig, MountOption, SessionACL};
use rustix::fs::OFlags;

/// What `df` shows.
pub const FS_NAME: &str = "hf3fs.null";

/// How long the kernel may answer from its caches of names and attributes.
pub const TTL: Duration = Duration::from_secs(1);

/// Largest write that the kernel sends in one request.
pub const WRITE_BYTES_MAX: u32 = 1 << 20;

/// Read-ahead and asynchronous requests that the kernel keeps in flight.
pub const BACKGROUND_REQUESTS_MAX: u16 = 64;

/// Asked for one by one, because an older kernel refuses a set that holds one it does not know.
const INIT_FLAGS: [InitFlags; 5] = [
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_ASYNC_DIO,
];

/// Flags of a file that is opened with `flags` as in open(2).
///
/// Writes to one file run in parallel only while nobody has it open for the page cache, and since
/// Linux 6.9 everybody has who did not ask for FOPEN_DIRECT_IO, those with O_DIRECT included. Set for
/// them, 16 threads write 4 KiB blocks at 61 k/s instead of 22 k/s here (nullfs, 2 cores).
pub fn open_flags(flags: i32) -> FopenFlags {
    let mut answer = FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
    if OFlags::from_bits_retain(flags as u32).contains(OFlags::DIRECT) {
        answer |= FopenFlags::FOPEN_DIRECT_IO;
    }
    answer
}

/// Event loops: one per core, at least two so that a request that waits does not stop all others.
pub fn event_loops() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2))
}

pub fn mount_config() -> Config {
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName(FS_NAME.into()), MountOption::DefaultPermissions];
    // Without root, `allow_other` needs a line in /etc/fuse.conf that a fresh machine does not
    // have.
    let is_root = rustix::process::geteuid().is_root();
    config.acl = if is_root { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(event_loops());
    config.clone_fd = true;
    config
}

/// Answers the kernel's offer of capabilities.
pub fn configure(kernel: &mut KernelConfig) -> std::io::Result<()> {
    let refused = |what| std::io::Error::other(format!("the fuse crate refused {what}"));
    for flag in INIT_FLAGS {
        // Refused means that this kernel lacks it; each of them only makes things faster.
        let _ = kernel.add_capabilities(flag);
    }
    kernel.set_max_write(WRITE_BYTES_MAX).map_err(|_| refused("max_write"))?;
    kernel.set_max_background(BACKGROUND_REQUESTS_MAX).map_err(|_| refused("max_background"))?;
    Ok(())
}
