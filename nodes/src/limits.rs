//! What the machine and its limits allow this process: cores, memory, open files.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The control groups that this process can see; those of a container begin with its own.
const GROUPS: &str = "/sys/fs/cgroup";

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Of the machine, or of the container if that has less. What is kept on disk may be counted by
    /// it: it stays when somebody sets a limit for the service.
    pub machine: u64,
    /// What this process may use: less, if its control group or one above that says so.
    pub allowed: u64,
}

pub fn memory() -> Memory {
    let info = rustix::system::sysinfo();
    #[allow(clippy::unnecessary_cast)] // the kernel's `unsigned long`, 32 bits on some machines
    let machine = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = |folder: &Path| {
        let text = std::fs::read_to_string(folder.join("memory.max")).ok()?;
        text.trim().parse::<u64>().ok() // "max" is none
    };
    let machine = limit(Path::new(GROUPS)).map_or(machine, |limit| limit.min(machine));
    let folders = group_folders(&group);
    let allowed = folders.iter().filter_map(|folder| limit(folder)).fold(machine, u64::min);
    Memory { machine, allowed }
}

/// The folder of a process's control group and of all above it (cgroup v2), from
/// `/proc/self/cgroup`.
fn group_folders(text: &str) -> Vec<PathBuf> {
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let root = Path::new(GROUPS);
    root.join(own).ancestors().take_while(|at| at.starts_with(root)).map(Path::to_owned).collect()
}

/// Raises soft limits to the hard ones: files (targets and store keep theirs open), and locked
/// memory (io_uring before Linux 5.12 counts its rings there; a start-up probe explains a lack).
pub fn raise() {
    for (resource, name) in [(Resource::Nofile, "open files"), (Resource::Memlock, "memory lock")] {
        let now = getrlimit(resource);
        if now.current == now.maximum {
            continue;
        }
        let wanted = Rlimit { current: now.maximum, maximum: now.maximum };
        if let Err(e) = setrlimit(resource, wanted) {
            tracing::warn!("the limit of {name} stays at {:?}: {e}", now.current);
        }
    }
}

/// Tells the kernel that its memory reclaim may wait for this process, so that this process never
/// waits for reclaim through its own mount. Needs CAP_SYS_RESOURCE; inherited by later threads.
pub fn mark_as_io_flusher() {
    if let Err(e) = rustix::process::configure_io_flusher_behavior(true) {
        tracing::debug!("PR_SET_IO_FLUSHER is not permitted: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_within_those_above_it() {
        let folders = group_folders("1:name=systemd:/x\n0::/system.slice/t3fs.service\n");
        let told: Vec<_> = folders.iter().map(|at| at.to_str().unwrap()).collect();
        let root = "/sys/fs/cgroup";
        let (slice, own) =
            (format!("{root}/system.slice"), format!("{root}/system.slice/t3fs.service"));
        assert_eq!(told, [own.as_str(), slice.as_str(), root]);
        assert_eq!(group_folders("0::/\n"), [Path::new(root)]);
        assert_eq!(group_folders(""), [Path::new(root)]);
    }
}
