//! What a user without privileges gets past nobody: neither by a race nor by O_DIRECT. Needs root,
//! to be that user.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::case::{At, Count, Two, Wrong};
use crate::names::at_once;

const NOBODY: u32 = 65_534;

/// Runs `work` on a thread that is `nobody`, for the kernel.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Wrong> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            become_nobody()?;
            Ok(work())
        });
        thread.join().expect("no panic")
    })
}

fn become_nobody() -> Result<(), Wrong> {
    rustix::thread::set_thread_groups(&[]).at("no groups")?;
    rustix::thread::set_thread_gid(Gid::from_raw(NOBODY)).at("another group")?;
    rustix::thread::set_thread_uid(Uid::from_raw(NOBODY)).at("another user")
}

/// A write by somebody without privileges takes set-user-ID and set-group-ID away, buffered or not,
/// and both mounts show it.
pub fn set_user_id(two: &Two) -> Count {
    let mut count = Count::default();
    for round in two.rounds() {
        for dir in [&two.a, &two.b] {
            for direct in [false, true] {
                let name = format!("s{round}-{}", count.tried);
                let what = format!("round {round}, O_DIRECT: {direct}, file {name}");
                count.expect(what, set_user_id_once(two, dir, &name, direct));
            }
        }
    }
    count
}

fn set_user_id_once(two: &Two, dir: &Path, name: &str, direct: bool) -> Result<(), Wrong> {
    const LENGTH: usize = 8192;
    let path = two.a.join(name);
    fs::write(&path, [1; LENGTH]).at("create")?;
    chown(&path, Some(NOBODY), Some(NOBODY)).at("chown")?;
    fs::set_permissions(&path, PermissionsExt::from_mode(0o6755)).at("chmod")?;
    // Folders above may be closed to others; what is open is not.
    let folder = File::open(dir).at("open of the folder")?;
    let flags = OFlags::WRONLY | if direct { OFlags::DIRECT } else { OFlags::empty() };
    as_nobody(|| {
        let file = rustix::fs::openat(&folder, name, flags, Mode::empty()).at("open")?;
        let mut memory = vec![2; 2 * LENGTH];
        let start = memory.as_ptr().align_offset(4096);
        let block = &mut memory[start..start + 4096];
        File::from(file).write_all_at(block, 0).at("write")
    })??;
    for dir in [&two.a, &two.b] {
        let mode = fs::metadata(dir.join(name)).at("stat")?.mode() & 0o7777;
        if mode != 0o755 {
            return Err(format!("mode {mode:o} after a write, seen in {}", dir.display()));
        }
    }
    Ok(())
}

/// Root makes a file for itself in the moment in which nobody opens the same name with O_CREAT:
/// either it is nobody's own, or it is not opened.
pub fn create_past_permissions(two: &Two) -> Count {
    let mut count = Count::default();
    for dir in [&two.a, &two.b] {
        fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).expect("chmod of our folder");
    }
    for round in two.rounds() {
        let name = format!("p{round}");
        let dir = if round.is_multiple_of(2) { &two.a } else { &two.b };
        let outcome = create_once(two, dir, &name);
        count.expect(format!("round {round}, {name} in {}", dir.display()), outcome);
    }
    count
}

fn create_once(two: &Two, dir: &Path, name: &str) -> Result<(), Wrong> {
    let folder = File::open(dir).at("open of the folder")?;
    let root = || {
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(two.a.join(name))?;
        file.write_all_at(b"secret", 0)
    };
    let nobody = || {
        become_nobody()?;
        let flags = OFlags::RDWR | OFlags::CREATE;
        let opened = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o666));
        Ok::<_, Wrong>(opened.map(File::from))
    };
    // The first runs on a thread of its own, which may become another user.
    let (nobody, root) = at_once(nobody, root);
    match (root, nobody?) {
        (Ok(()), Err(Errno::ACCESS)) => Ok(()),
        (Ok(()), Err(other)) => Err(format!("nobody is told: {other}")),
        (Ok(()), Ok(_)) => Err("root's new file is open to nobody".into()),
        (Err(err), Ok(file)) if err.kind() == std::io::ErrorKind::AlreadyExists => {
            let owner = file.metadata().at("fstat")?.uid();
            if owner == NOBODY { Ok(()) } else { Err(format!("nobody has opened {owner}'s file")) }
        }
        (Err(err), nobody) => Err(format!("root: {err}; nobody: {:?}", nobody.map(drop))),
    }
}
