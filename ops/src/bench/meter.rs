//! Clocks around the measured part of a job: wall time, and core time of client and server.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::procfs;

/// One row, measured once in one folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    pub row: String,
    pub operations: u64,
    pub bytes: u64,
    pub wall_us: u64,
    /// Of the job's process and the server's together.
    pub core_us: u64,
}

impl Sample {
    pub fn operations_per_second(&self) -> f64 {
        self.operations as f64 / (self.wall_us as f64 / 1e6)
    }

    /// In units of 10^6 bytes.
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.wall_us as f64
    }

    pub fn core_us_per_operation(&self) -> f64 {
        self.core_us as f64 / self.operations as f64
    }
}

/// Adds up the time of the parts of a job that are measured; what happens between them is free.
pub struct Meter {
    /// The process that serves the folder; `None` if the kernel does.
    servers: Vec<u32>,
    wall: Duration,
    core: Duration,
}

impl Meter {
    pub fn new(servers: &[u32]) -> Meter {
        Meter { servers: servers.to_vec(), wall: Duration::ZERO, core: Duration::ZERO }
    }

    /// Runs `part` with the clocks on.
    pub fn measure<R>(&mut self, part: impl FnOnce() -> R) -> R {
        let core_before = self.core_time();
        let start = Instant::now();
        let result = part();
        self.wall += start.elapsed();
        self.core += self.core_time().saturating_sub(core_before);
        result
    }

    /// Measured so far.
    pub fn wall(&self) -> Duration {
        self.wall
    }

    pub fn sample(&self, row: &str, operations: u64, bytes: u64) -> Sample {
        Sample {
            row: row.to_owned(),
            operations: operations.max(1),
            bytes,
            wall_us: (self.wall.as_micros() as u64).max(1),
            core_us: self.core.as_micros() as u64,
        }
    }

    fn core_time(&self) -> Duration {
        // A server that is gone fails the job itself; here it only stops counting.
        let servers = self.servers.iter().filter_map(|pid| procfs::core_time(*pid));
        servers.sum::<Duration>() + procfs::own_core_time()
    }
}
