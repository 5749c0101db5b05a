//! Is DIR a place to mount on? DIR is a folder with nothing in it, or not there: then it is made,
//! with what is missing above it. A stale mount of this cluster may be replaced; everything else
//! that is mounted there is refused with the command that takes it away.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::Access;
use rustix::io::Errno;

use super::mountinfo::{self, Mount};
use crate::data::folder;
use crate::failure::{Failure, failed, refused};

/// How long a mount may take to answer before it counts as hanging.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What is at the mount point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountPlace {
    Free,
    /// Nothing; [`make`] makes the folder.
    Absent,
    /// Left by a killed process of the same cluster.
    Stale,
}

/// Absolute, without links, whether DIR is there or not. Only what is above DIR is looked at: DIR
/// itself may be a dead mount.
pub fn resolve(dir: &Path) -> Result<PathBuf, Failure> {
    let cannot = |e: io::Error| refused(format!("cannot mount on {}: {e}", dir.display()));
    let absent = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let absolute = std::path::absolute(dir).map_err(cannot)?;
    let real = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => match parent.canonicalize() {
            Ok(parent) => parent.join(name),
            Err(e) if absent(&e) => return folder::resolve(dir),
            Err(e) => return Err(cannot(e)),
        },
        // `..` at the end, or the root.
        _ => return absolute.canonicalize().map_err(cannot),
    };
    if mountinfo::at(&real).map_err(cannot)?.is_some() {
        return Ok(real);
    }
    match real.canonicalize() {
        Err(e) if absent(&e) => folder::resolve(&real),
        other => other.map_err(cannot),
    }
}

/// Looks at a resolved DIR. `source` is what our own mount would be called; its data lock is free.
pub fn check(dir: &Path, source: &str) -> Result<MountPlace, Failure> {
    let found = mountinfo::at(dir)
        .map_err(|e| refused(format!("/proc/self/mountinfo cannot be read: {e}; mount /proc")))?;
    match found {
        None => empty_folder(dir),
        Some(mount) => mounted(dir, &mount, source, answer(dir)),
    }
}

fn empty_folder(dir: &Path) -> Result<MountPlace, Failure> {
    let shown = dir.display();
    not_in_sources(dir)?;
    match std::fs::symlink_metadata(dir) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => {
            return Err(refused(format!("{shown} is not a folder; give a folder to mount on")));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return can_be_made(dir),
        Err(e) => return Err(refused(format!("cannot mount on {shown}: {e}"))),
    }
    // A folder that we may not read is somebody else's, which mounting itself refuses.
    let first = std::fs::read_dir(dir).ok().and_then(|mut entries| entries.next()?.ok());
    match first {
        None => Ok(MountPlace::Free),
        Some(entry) => Err(refused(format!(
            "{shown} is not empty (there is {:?} in it), and a mount would hide what it holds; \
             give an empty folder, or one that is not there",
            entry.file_name().to_string_lossy()
        ))),
    }
}

/// What would have to be made is below a folder in which this user may make something.
fn can_be_made(dir: &Path) -> Result<MountPlace, Failure> {
    let above = dir.ancestors().skip(1).find(|a| a.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::access(above, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Ok(MountPlace::Absent),
        Err(e) => Err(refused(format!(
            "{} is not there, and cannot be made in {}: {e}; choose a place of yours",
            dir.display(),
            above.display()
        ))),
    }
}

/// Makes an absent DIR, for its owner to write and everybody to look into, and what is missing
/// above it. A folder made so stays when the mount ends.
pub fn make(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.map_err(|e| failed(format!("cannot make {}: {e}", dir.display())))
}

/// A mount on the sources that this command was started from, or among them, would hide them or be
/// found by every search through them. Below their `target` only builds are.
fn not_in_sources(dir: &Path) -> Result<(), Failure> {
    let places = [std::env::current_dir(), std::env::current_exe()];
    for place in places.iter().flatten() {
        let Some(sources) = place.ancestors().find(|a| a.join("nodes/Cargo.toml").is_file()) else {
            continue;
        };
        let builds = sources.join("target");
        if sources.starts_with(dir) || (dir.starts_with(sources) && !dir.starts_with(builds)) {
            return Err(refused(format!(
                "{} is where the sources of t3fs are ({}); give a folder outside of them",
                dir.display(),
                sources.display()
            )));
        }
    }
    Ok(())
}

/// What a mount says when it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Alive,
    /// ENOTCONN: the process behind it is gone.
    Dead,
    Silent,
}

/// On a thread of its own: it may never come back.
fn answer(dir: &Path) -> Answer {
    let (say, hear) = mpsc::channel();
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        // Nobody listens when it took too long.
        // statfs always asks the process; stat may be answered from attributes the kernel keeps.
        let _ = say.send(rustix::fs::statfs(&dir).map(drop));
    });
    match hear.recv_timeout(ANSWER_MAX) {
        Ok(Err(Errno::NOTCONN)) => Answer::Dead,
        Ok(_) => Answer::Alive,
        Err(_) => Answer::Silent,
    }
}

fn mounted(dir: &Path, mount: &Mount, source: &str, answer: Answer) -> Result<MountPlace, Failure> {
    let ours = mount.is_fuse() && mount.source == source;
    if ours && answer == Answer::Dead {
        return Ok(MountPlace::Stale);
    }
    let shown = dir.display();
    let what = &mount.source;
    let root = rustix::process::geteuid().is_root();
    let unmount = if root || !mount.is_fuse() { "umount" } else { "fusermount3 -u" };
    let lazy = if unmount == "umount" { "umount -l" } else { "fusermount3 -u -z" };
    Err(refused(match answer {
        Answer::Dead => {
            format!("{shown} is a dead mount of {what}; take it away with `{lazy} {shown}`")
        }
        Answer::Silent => format!(
            "{shown} is a mount of {what} that does not answer; take it away with `{lazy} {shown}`"
        ),
        Answer::Alive if mount.is_ours() => {
            format!(
                "{shown} is already a mount of {what}; end it with `t3fs-node down {shown}` \
                 (or, if that knows nothing of it, `{unmount} {shown}`)"
            )
        }
        Answer::Alive => format!(
            "{shown} is already a mount of {what} ({}); choose another folder, or take it away \
             with `{unmount} {shown}`",
            mount.kind
        ),
    }))
}

#[cfg(test)]
mod tests {
    //! Goal: only a dead mount of the same cluster is replaced.
    use super::*;

    fn mount(kind: &str, source: &str) -> Mount {
        let line = format!("36 22 0:57 / /m rw - {kind} {source} rw");
        mountinfo::parse(line.as_bytes()).remove(0)
    }

    #[test]
    fn only_our_own_dead_mount_is_stale() {
        let dir = Path::new("/m");
        let look = |kind, source, answer| mounted(dir, &mount(kind, source), "hf3fs.a", answer);
        assert_eq!(look("fuse", "hf3fs.a", Answer::Dead), Ok(MountPlace::Stale));
        assert_eq!(look("fuse.t3fs", "hf3fs.a", Answer::Dead), Ok(MountPlace::Stale));
        for (kind, source, answer, says) in [
            ("fuse", "hf3fs.b", Answer::Dead, "umount -l /m"),
            ("fuse", "hf3fs.a", Answer::Alive, "t3fs-node down /m"),
            ("fuse", "hf3fs.a", Answer::Silent, "umount -l /m"),
            ("ext4", "/dev/sda", Answer::Alive, "umount /m"),
            ("ext4", "hf3fs.a", Answer::Dead, "umount -l /m"),
        ] {
            let line = look(kind, source, answer).unwrap_err().line;
            assert!(line.contains(says) || line.contains("fusermount3"), "{line}");
        }
    }

    #[test]
    fn an_empty_folder_or_none_is_a_place_and_all_else_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "").unwrap();
        assert!(check(&resolve(&file).unwrap(), "x").unwrap_err().line.contains("not a folder"));
        assert!(check(&resolve(dir.path()).unwrap(), "x").unwrap_err().line.contains("\"f\""));
        let new = resolve(&dir.path().join("not/there")).unwrap();
        assert_eq!(check(&new, "x"), Ok(MountPlace::Absent));
        assert!(!new.exists(), "looking makes nothing");
        make(&new).unwrap();
        assert_eq!(check(&new, "x"), Ok(MountPlace::Free));
        assert!(resolve(&file.join("below")).is_err(), "a file has nothing below it");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for inside in [sources.to_owned(), sources.join("nodes/src/none")] {
            let why = check(&resolve(&inside).unwrap(), "x").unwrap_err().line;
            assert!(why.contains("sources of t3fs"), "{why}");
        }
        assert_eq!(check(&sources.join("target/none"), "x"), Ok(MountPlace::Absent));
    }
}
