//! Is DIR a place to mount on? A stale mount of this cluster may be replaced; everything else that
//! is mounted there is refused with the command that takes it away.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

use super::mountinfo::{self, Mount};
use crate::failure::{Failure, refused};

/// How long a mount may take to answer before it counts as hanging.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What is at the mount point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Free,
    /// Left by a killed process of the same cluster.
    Stale,
}

/// Absolute, without links. Only what is above DIR is looked at: DIR itself may be a dead mount.
pub fn resolve(dir: &Path) -> Result<PathBuf, Failure> {
    let cannot = |e: io::Error| {
        let hint = match e.kind() {
            io::ErrorKind::NotFound => "; make it first with `mkdir -p`",
            _ => "",
        };
        refused(format!("cannot mount on {}: {e}{hint}", dir.display()))
    };
    let absolute = std::path::absolute(dir).map_err(cannot)?;
    let real = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().map_err(cannot)?.join(name),
        // `..` at the end, or the root.
        _ => return absolute.canonicalize().map_err(cannot),
    };
    let mounted = mountinfo::at(&real).map_err(cannot)?.is_some();
    if mounted { Ok(real) } else { real.canonicalize().map_err(cannot) }
}

/// Looks at a resolved DIR. `source` is what our own mount would be called; its data lock is free.
pub fn check(dir: &Path, source: &str) -> Result<Place, Failure> {
    let found = mountinfo::at(dir)
        .map_err(|e| refused(format!("/proc/self/mountinfo cannot be read: {e}; mount /proc")))?;
    match found {
        None => folder(dir).map(|()| Place::Free),
        Some(mount) => mounted(dir, &mount, source, answer(dir)),
    }
}

fn folder(dir: &Path) -> Result<(), Failure> {
    let shown = dir.display();
    let meta = std::fs::symlink_metadata(dir)
        .map_err(|e| refused(format!("cannot mount on {shown}: {e}; make it with `mkdir -p`")))?;
    if meta.is_dir() {
        return Ok(());
    }
    Err(refused(format!("{shown} is not a folder; give a folder to mount on")))
}

/// Whether a mount on DIR, where none is yet, would hide something.
pub fn is_filled(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
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

fn mounted(dir: &Path, mount: &Mount, source: &str, answer: Answer) -> Result<Place, Failure> {
    let ours = mount.is_fuse() && mount.source == source;
    if ours && answer == Answer::Dead {
        return Ok(Place::Stale);
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
        Answer::Alive if mount.is_fuse() && what.starts_with("hf3fs.") => {
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
        assert_eq!(look("fuse", "hf3fs.a", Answer::Dead), Ok(Place::Stale));
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
    fn a_file_is_no_mount_point_and_nothing_neither() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "").unwrap();
        assert!(check(&resolve(&file).unwrap(), "x").unwrap_err().line.contains("not a folder"));
        assert!(resolve(&dir.path().join("none")).unwrap_err().line.contains("mkdir"));
        assert_eq!(check(&resolve(dir.path()).unwrap(), "x"), Ok(Place::Free));
    }
}
