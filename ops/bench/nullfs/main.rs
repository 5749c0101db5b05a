//! `nullfs DIR`: an empty FUSE file system, the ceiling that the product's mount is measured
//! against.
//!
//! Names and attributes live in memory, written data is dropped, reads answer zeros of the file's
//! length. It promises the product's own settings towards the kernel, for it is compiled with the
//! product's file of them, and as little work per request as a FUSE file system can do (`tree.rs`).
//! Runs until SIGTERM, SIGINT or umount.

/// As `t3fs_nodes::limits`, of which the settings need this.
mod limits {
    pub fn cores() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}

// Not through a dependency: `cargo ops` would then have to build the whole product first.
#[path = "../../../nodes/src/fuse/options.rs"]
mod options;
mod serve;
mod tree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fuser::{MountOption, Session};
use rustix::mount::{UnmountFlags, unmount};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use t3fs_ops::mounts;

/// What `df` shows.
const SOURCE: &str = "hf3fs.null";

/// As `t3fs_nodes::mount` sets it.
const READ_AHEAD_KIB: u32 = 1024;

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
    let is_root = rustix::process::geteuid().is_root();
    // Without root, `allow_other` needs a line in /etc/fuse.conf that a fresh machine does not
    // have.
    let (_, mut config) = options::session(is_root);
    config.mount_options =
        vec![MountOption::FSName(SOURCE.into()), MountOption::DefaultPermissions];
    let mut session = Session::new(serve::NullFs::default(), &dir, &config)?;
    if is_root {
        widen_read_ahead(&dir)?;
    }
    let mut unmounter = session.unmount_callable();
    std::thread::spawn(move || {
        for _signal in signals.forever() {
            // Nothing in here is worth waiting for: where a user still holds a file open, detach.
            if unmounter.unmount().is_err() && unmount(&dir, UnmountFlags::DETACH).is_err() {
                eprintln!("nullfs: could not unmount {}", dir.display());
            }
        }
    });
    println!("mounted {SOURCE}");
    session.run()
}

fn widen_read_ahead(dir: &Path) -> io::Result<()> {
    let mount = mounts::find(dir).ok_or_else(|| io::Error::other("the mount is not listed"))?;
    // The numbers of a FUSE mount's device are zero and the number of its connection.
    let path = format!("/sys/class/bdi/0:{}/read_ahead_kb", mount.connection);
    fs::write(path, READ_AHEAD_KIB.to_string())
}
