//! What the machine and its limits allow this process: cores, memory, open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Memory this process may use: the machine's, or its control group's if that is less.
pub fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    #[allow(clippy::unnecessary_cast)] // the kernel's `unsigned long`, 32 bits on some machines
    let machine = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|s| s.trim().parse::<u64>().ok());
    group.map_or(machine, |g| g.min(machine))
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
