//! `nullfs DIR`: an empty FUSE file system, the ceiling that the product's mount is measured
//! against.
//!
//! Names and attributes live in memory, written data is dropped, reads answer zeros of the file's
//! length. It promises the product's own mount options and number of event loops (`options.rs`),
//! and as little work per request as a FUSE file system can do (`tree.rs`). Runs until SIGTERM,
//! SIGINT or umount.

mod options;
mod serve;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fuser::Session;
use rustix::mount::{UnmountFlags, unmount};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

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

fn serve_until_unmounted(dir: &Path) -> std::io::Result<()> {
    // Relative paths mean the folder that we were started in, also for the unmount at the end.
    let dir = dir.canonicalize()?;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut session = Session::new(serve::NullFs::default(), &dir, &options::mount_config())?;
    let mut unmounter = session.unmount_callable();
    std::thread::spawn(move || {
        for _signal in signals.forever() {
            // Nothing in here is worth waiting for: where a user still holds a file open, detach.
            if unmounter.unmount().is_err() && unmount(&dir, UnmountFlags::DETACH).is_err() {
                eprintln!("nullfs: could not unmount {}", dir.display());
            }
        }
    });
    println!("mounted {}", options::FS_NAME);
    session.run()
}
