//! `nullfs DIR`: an empty FUSE file system, the ceiling that the product's mount is measured
//! against.
//!
//! Names and attributes live in memory, written data is dropped, reads answer zeros of the file's
//! length. It has the product's own way to the kernel and its settings, and does as little work per
//! request as a FUSE file system can do (`tree.rs`).
//! Runs until SIGTERM, SIGINT or umount.

mod serve;
mod tree;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use t3fs_nodes::failure::Failure;
use t3fs_nodes::fuse::kernel::Session;
use t3fs_nodes::fuse::options;
use t3fs_nodes::mount::options::MountOptions;
use t3fs_nodes::mount::{self, mountinfo};

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
    let failed = |failure: Failure| io::Error::other(failure.line);
    let device = mount::mount(&dir, CLUSTER, MountOptions::default()).map_err(failed)?;
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
