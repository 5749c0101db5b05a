//! Every limit of a process, computed once at start, in one place. Full is an answer.

/// Bytes and counts this process may use. Summed and reported at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub shards: usize,
    /// I/O memory that glommio keeps registered, per shard.
    pub io_memory: usize,
    /// Small updates held in memory until they are applied in place, per target.
    pub overlay_bytes: usize,
    /// Granule checksums kept in memory, per target.
    pub checksum_cache_bytes: usize,
    /// Dirty file data of the client, over all files of a shard.
    pub write_buffer_bytes: usize,
    /// Read-ahead and read payloads in flight, per shard.
    pub read_bytes_in_flight: usize,
    /// Attributes and entries the client keeps.
    pub cached_inodes: usize,
    /// Chunks a target accepts; its index keeps about 200 B for each.
    pub chunks_per_target: usize,
    /// Targets that memory is kept for.
    pub targets: usize,
    /// Memory that RDMA devices may reach, pinned, per shard. Zero where there is no device.
    pub rdma_memory: usize,
}

impl Budget {
    /// For a machine with this much memory and this many cores.
    pub fn for_machine(memory_bytes: u64, shards: usize, targets: usize) -> Budget {
        let shards = shards.max(1);
        let share = usize::try_from(memory_bytes / 16).unwrap_or(usize::MAX);
        let per_target = share / targets.max(1);
        Budget {
            shards,
            io_memory: 8 << 20,
            overlay_bytes: (per_target / 8).clamp(8 << 20, 64 << 20),
            checksum_cache_bytes: (per_target / 8).clamp(4 << 20, 64 << 20),
            write_buffer_bytes: (share / shards / 8).clamp(16 << 20, 64 << 20),
            read_bytes_in_flight: 64 << 20,
            cached_inodes: 65_536,
            chunks_per_target: (per_target / 256).max(1 << 20),
            targets,
            rdma_memory: 0,
        }
    }

    /// The part that is taken at the start and kept: what the devices pin and glommio registers.
    pub fn pinned_bytes(&self) -> usize {
        self.shards * (self.rdma_memory + self.io_memory)
    }

    /// The most that buffers and caches may hold, all shards and targets together.
    pub fn sum_bytes(&self) -> usize {
        let per_shard = self.write_buffer_bytes + self.read_bytes_in_flight;
        let per_target = self.overlay_bytes + self.checksum_cache_bytes;
        self.pinned_bytes() + self.shards * per_shard + self.targets * per_target
    }

    /// For the log, once at the start.
    pub fn report(&self) -> String {
        let mib = |bytes: usize| bytes >> 20;
        format!(
            "memory: at most {} MiB in buffers and caches, of which {} MiB are pinned ({} shards with \
             {} MiB for RDMA and {} MiB for the disks each)",
            mib(self.sum_bytes()),
            mib(self.pinned_bytes()),
            self.shards,
            mib(self.rdma_memory),
            mib(self.io_memory)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_holds_every_part() {
        let plain = Budget::for_machine(16 << 30, 2, 4);
        assert_eq!(plain.pinned_bytes(), 16 << 20);
        let rdma = Budget { rdma_memory: 64 << 20, ..plain };
        assert_eq!(rdma.sum_bytes() - plain.sum_bytes(), 128 << 20);
        let said = rdma.report();
        assert!(said.contains("144 MiB are pinned") && said.contains("64 MiB for RDMA"), "{said}");
    }
}
