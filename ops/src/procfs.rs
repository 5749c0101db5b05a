//! What /proc tells about processes: core time and memory.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Core time (user and system) of the threads of process `pid`, ended ones included; `None` if it
/// is gone. Resolution is the kernel's tick, usually 10 ms.
pub fn core_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = ticks_in_stat(&stat)?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// `utime + stime`, fields 14 and 15 of proc_pid_stat(5). The command name (field 2) may hold
/// spaces and parentheses, so fields are counted from the last one.
fn ticks_in_stat(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Core time of this process, exact.
pub fn own_core_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now (`VmRSS`).
    pub resident_kib: u64,
    /// Most that was ever resident (`VmHWM`).
    pub peak_kib: u64,
}

pub fn memory(pid: u32) -> Option<Memory> {
    memory_in_status(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn memory_in_status(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse().ok()
    };
    Some(Memory { resident_kib: field("VmRSS:")?, peak_kib: field("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    //! Goal: the right fields are read. Method: lines as the kernel prints them, and our own
    //! process.
    use super::*;

    #[test]
    fn ticks_are_read_behind_any_command_name() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14";
        assert_eq!(ticks_in_stat(stat), Some(11 + 12));
    }

    #[test]
    fn memory_is_read_from_status() {
        let status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(memory_in_status(status), Some(Memory { resident_kib: 1024, peak_kib: 2048 }));
    }

    #[test]
    fn our_own_process_has_both() {
        let pid = std::process::id();
        assert!(core_time(pid).is_some());
        assert!(memory(pid).is_some_and(|memory| memory.resident_kib > 0));
        assert!(own_core_time() > Duration::ZERO);
    }
}
