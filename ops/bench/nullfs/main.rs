//! `nullfs DIR`: an empty FUSE file system, the ceiling that the product's mount is measured
//! against.
//!
//! Names and attributes live in memory, written data is dropped, reads answer zeros of the file's
//! length. It promises the product's own settings towards the kernel and the product's own way to
//! it, for it is compiled with these files, and as little work per request as a FUSE file system
//! can do (`tree.rs`).
//! Runs until SIGTERM, SIGINT or umount.

/// As `t3fs_nodes::limits`, of which the settings need this.
mod limits {
    pub fn cores() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}

// Not through a dependency: `cargo ops` would then have to build the whole product first. These are
// the product's own files, of which an empty file system does not use all.
#[allow(dead_code, unused_imports)]
#[path = "../../../nodes/src/failure.rs"]
mod failure;
#[allow(dead_code, unused_imports)]
#[path = "../../../nodes/src/fuse/kernel/mod.rs"]
mod kernel;
#[allow(dead_code, unused_imports)]
#[path = "../../../nodes/src/mount/mod.rs"]
mod mount;
#[path = "../../../nodes/src/fuse/options.rs"]
mod options;
mod serve;
mod tree;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kernel::Session;
use mount::mountinfo;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The cluster that `df` shows.
const CLUSTER: &str = "null";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), None) = (args.next(), args.next()) else {
        eprintln!("usage: nullfs DIR");
        return ExitCode::from(2);
    };
    let dir = PathBuf::from(dir);
    match serve_until_unmounted(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("nullfs: {}: {err}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn serve_until_unmounted(dir: &Path) -> io::Result<()> {
    // Relative paths mean the folder that we were started in, also for the unmount at the end.
    let dir = dir.canonicalize()?;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let failed = |failure: failure::Failure| io::Error::other(failure.line);
    let device = mount::mount(&dir, CLUSTER).map_err(failed)?;
    let found = mountinfo::at(&dir)?.ok_or_else(|| io::Error::other("unmounted at once"))?;
    let devices = mount::device::several(device, options::event_loops())?;
    let acl = options::acl(mount::allow_other());
    let session = Session::new(serve::NullFs::default(), devices, acl)?;
    mount::widen_read_ahead(found.device);
    std::thread::spawn(move || {
        for _signal in signals.forever() {
            // Nothing in here is worth waiting for: where a user still holds a file open, detach.
            if mount::unmount(&dir, false).is_err() && mount::unmount(&dir, true).is_err() {
                eprintln!("nullfs: could not unmount {}", dir.display());
            }
        }
    });
    println!("mounted {}", mount::source(CLUSTER));
    session.run()
}
