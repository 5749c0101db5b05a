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
        }
    }
}
