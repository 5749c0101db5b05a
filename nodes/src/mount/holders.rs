//! The processes that hold a mount: found in /proc alone, so it works while the file system hangs.
//!
//! Folders and programs are compared by the path that the kernel shows, open files by the mount in
//! `fdinfo`, memory maps by device number. Links in /proc are read, never followed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::mountinfo::{self, Device};

/// A process that keeps the mount from going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// As the kernel shows it, at most 15 bytes.
    pub command: String,
    pub how: &'static str,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}: {})", self.pid, self.command, self.how)
    }
}

/// What keeps the mount from going.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    pub processes: Vec<Holder>,
    /// Other mounts below it.
    pub mounts: Vec<PathBuf>,
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.processes.iter().map(ToString::to_string).collect();
        parts.extend(self.mounts.iter().map(|m| format!("the mount {}", m.display())));
        if parts.is_empty() {
            parts.push("a process that this user cannot see".into());
        }
        f.write_str(&parts.join(", "))
    }
}

/// Everything that holds the mount at `point`. Processes of other users show only to root.
pub fn find(point: &Path) -> Holders {
    let Ok(Some(mount)) = mountinfo::at(point) else { return Holders::default() };
    let own = std::process::id();
    let pids = fs::read_dir("/proc").into_iter().flatten().filter_map(|e| {
        let pid: u32 = e.ok()?.file_name().to_str()?.parse().ok()?;
        (pid != own).then_some(pid)
    });
    let processes = pids.filter_map(|pid| {
        let how = how_held(pid, point, mount.device)?;
        // The process may end while we look; then it holds nothing any more.
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(Holder { pid, command: command.trim_end().to_owned(), how })
    });
    let below = mountinfo::all().unwrap_or_default();
    Holders {
        processes: processes.collect(),
        mounts: below.into_iter().filter(|m| m.parent == mount.id).map(|m| m.point).collect(),
    }
}

fn how_held(pid: u32, point: &Path, device: Device) -> Option<&'static str> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    for (link, how) in [("cwd", "current folder"), ("root", "root folder"), ("exe", "program")] {
        if fs::read_link(proc.join(link)).is_ok_and(|to| to.starts_with(point)) {
            return Some(how);
        }
    }
    // The same mount has another id in another mount namespace.
    let table = mountinfo::parse(&fs::read(proc.join("mountinfo")).ok()?);
    let ids: BTreeMap<u64, Device> = table.into_iter().map(|m| (m.id, m.device)).collect();
    for fd in fs::read_dir(proc.join("fdinfo")).into_iter().flatten().flatten() {
        let id = fs::read_to_string(fd.path()).ok().and_then(|text| mount_id(&text));
        if id.is_some_and(|id| ids.get(&id) == Some(&device)) {
            return Some("open file");
        }
    }
    let maps = fs::read_to_string(proc.join("maps")).ok()?;
    maps.lines().any(|l| map_device(l) == Some(device)).then_some("mapped file")
}

fn mount_id(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|l| l.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// The device of one line of /proc/PID/maps: `address perms offset major:minor inode path`.
fn map_device(line: &str) -> Option<Device> {
    let (major, minor) = line.split_ascii_whitespace().nth(3)?.split_once(':')?;
    let hex = |s| u32::from_str_radix(s, 16).ok();
    Some(Device { major: hex(major)?, minor: hex(minor)? })
}

#[cfg(test)]
mod tests {
    //! Goal: each way of holding is seen. Method: lines as the kernel prints them, and our own
    //! child.
    use super::*;

    #[test]
    fn proc_lines_are_understood() {
        assert_eq!(mount_id("pos:\t0\nflags:\t02100000\nmnt_id:\t29\nino:\t1\n"), Some(29));
        let line = "7f00-7f10 r--s 00000000 00:39 1234    /mnt/x (deleted)";
        assert_eq!(map_device(line), Some(Device { major: 0, minor: 0x39 }));
        assert_eq!(map_device("7f00-7f10 rw-p 0"), None);
    }

    #[test]
    fn a_child_holds_the_root_mount() {
        let mut child = std::process::Command::new("sleep").arg("5").spawn().unwrap();
        let found = find(Path::new("/"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.processes.iter().any(|h| h.pid == child.id()), "{found}");
    }
}
