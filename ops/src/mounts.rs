//! FUSE mounts seen from outside: found in mountinfo, cut off through fusectl, detached.
//!
//! Nothing here touches a path below a mount point, so it works while the file system hangs. A
//! process that waits for a hung FUSE server cannot be killed; aborting the connection frees it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::command;

const FUSECTL: &str = "/sys/fs/fuse/connections";

/// A FUSE mount as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FuseMount {
    pub mount_point: PathBuf,
    /// What `df` shows in its first column.
    pub source: String,
    /// The name of the connection below fusectl.
    pub connection: u32,
}

/// All FUSE mounts that this process can see, in the order they were made.
pub fn fuse_mounts() -> io::Result<Vec<FuseMount>> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mountinfo.lines().filter_map(parse_line).collect())
}

/// The FUSE mount on top of `mount_point`, which must be absolute and free of links.
pub fn find(mount_point: &Path) -> Option<FuseMount> {
    let mounts = fuse_mounts().ok()?;
    mounts.into_iter().rev().find(|mount| mount.mount_point == mount_point)
}

/// One line of proc_pid_mountinfo(5), if it is a FUSE mount.
fn parse_line(line: &str) -> Option<FuseMount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let device = left.nth(2)?;
    let mount_point = left.nth(1)?;
    let mut right = right.split(' ');
    let kind = right.next()?;
    if kind != "fuse" && !kind.starts_with("fuse.") {
        return None;
    }
    let (_, minor) = device.split_once(':')?;
    Some(FuseMount {
        mount_point: unescape(mount_point).into(),
        source: unescape(right.next()?),
        connection: minor.parse().ok()?,
    })
}

/// Resolves the `\040` forms that the kernel writes for space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    let mut pieces = field.split('\\');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let code = piece.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                text.push(code as char);
                text.push_str(&piece[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(piece);
            }
        }
    }
    text
}

/// Ends the connection between the kernel and the server of `mount_point`: every request in flight
/// and every later one fails. Needs root; mounts fusectl if the machine has not.
pub fn abort(mount_point: &Path) -> io::Result<()> {
    let Some(found) = find(mount_point) else {
        return Ok(());
    };
    let connections = Path::new(FUSECTL);
    if fs::read_dir(connections)?.next().is_none() {
        mount("none", connections, "fusectl", MountFlags::empty(), None)?;
    }
    fs::write(connections.join(found.connection.to_string()).join("abort"), "1")
}

/// Takes the mount out of the name space; processes that use it keep it until they close their
/// files.
pub fn detach(mount_point: &Path) -> io::Result<()> {
    match unmount(mount_point, UnmountFlags::DETACH) {
        Err(rustix::io::Errno::PERM) => {
            let mut fusermount = Command::new("fusermount3");
            fusermount.args(["-u", "-z", "--"]).arg(mount_point).stdin(Stdio::null());
            let done = command::finish(&mut fusermount, Duration::from_secs(10))?;
            if done.success() { Ok(()) } else { Err(io::Error::other(done.stderr)) }
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    //! Goal: only FUSE mounts are found, with names as they are. Method: lines as the kernel prints
    //! them.
    use super::*;

    #[test]
    fn a_fuse_line_is_understood() {
        let line = "36 35 0:57 / /mnt/a\\040b rw,nosuid - fuse hf3fs.t3fs rw,user_id=0";
        let want = FuseMount {
            mount_point: "/mnt/a b".into(),
            source: "hf3fs.t3fs".into(),
            connection: 57,
        };
        assert_eq!(parse_line(line), Some(want));
    }

    #[test]
    fn other_file_systems_are_left_out() {
        assert_eq!(parse_line("36 35 0:57 / /sys/fs/fuse rw - fusectl none rw"), None);
        assert_eq!(parse_line("22 1 254:0 / / rw shared:1 - ext4 /dev/root rw"), None);
    }
}
