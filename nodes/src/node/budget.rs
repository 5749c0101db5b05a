//! Every limit of a process in bytes: those that depend on the machine are chosen here, once, at
//! the start; those that are constants stand beside their owners and are added up here. Full is an
//! answer.
//!
//! Not in the sum, because it grows with what there is to serve and has a bound of its own kind:
//! - *A link* (a connected pair of shards): [`t3fs_transport::LinkLimits::link_bytes_max`]. Said in
//!   the report.
//! - *An open directory*: [`crate::fuse::CURSOR_BYTES_MAX`]. Said in the report.
//! - *Requests*: as many as `door/admit.rs` lets in, a few KiB each, beside the data that they
//!   write, which is in the sum. Those of a peer: as many as it has credits for
//!   (`runtime/src/ask.rs`), each with at most one chunk.
//! - *What a client knows of files*: about 1 KiB for each open one, and for the last 4096 closed.
//! - *Snapshots of the store*: as long as its conflict window, five seconds.
//! - *The view of the cluster*: routing and sessions, once per process: about 200 B for each
//!   target, and 8 B for each session.
//! - *Maps of free blocks*: a bit for each block of data files, so 32 MiB for 1 TiB in blocks of
//!   4 KiB, and 128 KiB in blocks of 1 MiB.

use std::fmt::Write;

use t3fs_actors::client::CHANGES_BYTES_MAX;
use t3fs_actors::meta::kv::HISTORY_BYTES_MAX;
use t3fs_actors::storage::engine::{INDEX_ROW_BYTES, JOURNAL_BUFFERS_BYTES_MAX};
use t3fs_actors::storage::{READ_AHEAD_BYTES_MAX, REMOVALS_BYTES_MAX, RESYNC_BYTES_MAX};
use t3fs_runtime::glommio::INBOX_BYTES;
use t3fs_transport::{IDLE_PAYLOAD_BYTES_MAX, LinkLimits};

use super::assembly::{Assembly, KvPlace};
use crate::config::definitions::key;
use crate::config::roles::Role;
use crate::limits::Memory;
use crate::{door, fuse, kv_fjall};

/// Bytes and counts this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes that the machine, or this process's control group, has for it.
    pub memory_bytes: u64,
    pub shards: usize,
    /// Targets that memory is kept for.
    pub targets: usize,
    /// Whether programs use its mount.
    pub is_client: bool,
    /// Whether the metadata store is in it.
    pub has_store: bool,
    /// Whether it talks to others.
    pub is_linked: bool,
    /// Bytes of I/O memory that glommio keeps registered, per shard.
    pub io_memory: usize,
    /// Bytes that RDMA devices may reach, pinned, per shard. Zero where there is no device.
    pub rdma_memory: usize,
    /// Bytes of small updates held in memory until they are applied in place, per target.
    pub overlay_bytes: usize,
    /// Bytes of granule checksums kept in memory, per target.
    pub checksum_cache_bytes: usize,
    /// Chunks a target accepts; its index keeps [`INDEX_ROW_BYTES`] for each.
    pub chunks_per_target: usize,
    /// Bytes of dirty file data of the client, over all files of a shard.
    pub write_buffer_bytes: usize,
    /// Bytes of read-ahead and read payloads in flight, per shard.
    pub read_bytes_in_flight: usize,
}

/// Memory that somebody may hold.
struct Holding {
    what: &'static str,
    /// At most, in the whole process.
    bytes: usize,
    /// Taken at the start, and never given back to the system.
    pinned: bool,
    /// What makes it less.
    lower: &'static str,
}

const FEWER_SHARDS: &str = key::shards;
const FEWER_TARGETS: &str = "the number of targets on this node";
const NO_STORE: &str = "the number of roles (the metadata store elsewhere)";

impl Budget {
    /// For what the process is made of, and so much memory. Chunks that were taken once must not be
    /// too many after somebody gave the service a limit, so their number goes by the machine.
    pub fn new(a: &Assembly, memory: Memory) -> Budget {
        let targets = a.targets_expected();
        let by_machine = Budget::for_machine(memory.machine, a.shards, targets);
        Budget {
            is_client: a.roles.has(Role::Client),
            has_store: matches!(a.kv, KvPlace::Here(_)),
            is_linked: a.link.is_some(),
            rdma_memory: a.link.as_ref().map_or(0, |plan| plan.fabric.pinned_bytes()),
            chunks_per_target: by_machine.chunks_per_target,
            ..Budget::for_machine(memory.allowed, a.shards, targets)
        }
    }

    /// For a machine with so many bytes of memory, whatever else the process is.
    fn for_machine(memory_bytes: u64, shards: usize, targets: usize) -> Budget {
        let shards = shards.max(1);
        let share = usize::try_from(memory_bytes / 16).unwrap_or(usize::MAX);
        let per_target = share / targets.max(1);
        Budget {
            memory_bytes,
            shards,
            targets,
            is_client: false,
            has_store: false,
            is_linked: false,
            io_memory: 8 << 20,
            rdma_memory: 0,
            overlay_bytes: (per_target / 8).clamp(8 << 20, 64 << 20),
            checksum_cache_bytes: (per_target / 8).clamp(4 << 20, 64 << 20),
            chunks_per_target: (per_target / 256).max(1 << 20),
            write_buffer_bytes: (share / shards / 8).clamp(16 << 20, 64 << 20),
            read_bytes_in_flight: 64 << 20,
        }
    }

    /// Written data that may be under way at a time, over all shards, in bytes.
    pub fn bytes_in_flight_max(&self) -> usize {
        self.shards * self.write_buffer_bytes
    }

    /// All that can be told before anything is served.
    fn holdings(&self) -> Vec<Holding> {
        let Budget { shards, targets, .. } = *self;
        let if_so = |so: bool, bytes: usize| if so { bytes } else { 0 };
        let pinned = |what, bytes, lower| Holding { what, bytes, pinned: true, lower };
        let held = |what, bytes, lower| Holding { what, bytes, pinned: false, lower };
        let client = |bytes| if_so(self.is_client, bytes);
        let received = if_so(self.is_linked, IDLE_PAYLOAD_BYTES_MAX);
        let index = self.chunks_per_target.saturating_mul(INDEX_ROW_BYTES);
        let resync = if_so(self.is_linked, RESYNC_BYTES_MAX);
        let store = if_so(self.has_store, kv_fjall::BYTES_MAX);
        let window = if_so(self.has_store, HISTORY_BYTES_MAX);
        let waiting = door::held_bytes_max(self.bytes_in_flight_max());
        let all = [
            pinned("disk I/O", shards * self.io_memory, FEWER_SHARDS),
            pinned("RDMA", shards * self.rdma_memory, key::rdma_memory),
            held("inboxes", shards * INBOX_BYTES, FEWER_SHARDS),
            held("received payloads to use again", shards * received, FEWER_SHARDS),
            held("FUSE requests", client(fuse::options::request_buffers_bytes()), FEWER_SHARDS),
            held("writes under way and waiting", client(waiting), FEWER_SHARDS),
            held("write buffers", client(self.bytes_in_flight_max()), FEWER_SHARDS),
            held("reads", client(shards * self.read_bytes_in_flight), FEWER_SHARDS),
            held("changes to sync", client(shards * CHANGES_BYTES_MAX), FEWER_SHARDS),
            held("store's caches and memtables", store, NO_STORE),
            held("store's conflict window", window, NO_STORE),
            held("overlays", targets * self.overlay_bytes, FEWER_TARGETS),
            held("checksums", targets * self.checksum_cache_bytes, FEWER_TARGETS),
            held("indexes of full targets", targets.saturating_mul(index), FEWER_TARGETS),
            held("journal buffers", targets * JOURNAL_BUFFERS_BYTES_MAX, FEWER_TARGETS),
            held("read-ahead", targets * READ_AHEAD_BYTES_MAX, FEWER_TARGETS),
            held("resyncs", targets * resync, FEWER_TARGETS),
            held("removals", targets * REMOVALS_BYTES_MAX, FEWER_TARGETS),
        ];
        all.into_iter().filter(|holding| holding.bytes > 0).collect()
    }

    /// For the log, once at the start: one line.
    pub fn report(&self) -> String {
        let all = self.holdings();
        let pinned = all.iter().filter(|holding| holding.pinned);
        let mut line = format!(
            "memory: at most {} MiB in buffers and caches, of which {} MiB are pinned ({} shards, \
             {} targets):",
            mib(sum(&all)),
            mib(pinned.map(|holding| holding.bytes).sum()),
            self.shards,
            self.targets
        );
        for (index, holding) in all.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(line, "{comma} {} {}", holding.what, mib(holding.bytes));
        }
        if self.is_linked {
            let link = LinkLimits::default().link_bytes_max();
            let _ = write!(line, "; besides, each link up to {}", mib(link));
        }
        if self.is_client {
            let _ = write!(line, "; each open directory up to {}", mib(fuse::CURSOR_BYTES_MAX));
        }
        line
    }

    /// What to say when there may be more than the machine has: what takes most, and what makes
    /// that less.
    pub fn warning(&self) -> Option<String> {
        let mut all = self.holdings();
        let (sum, have) = (sum(&all), usize::try_from(self.memory_bytes).unwrap_or(usize::MAX));
        if sum <= have {
            return None;
        }
        all.sort_by_key(|holding| std::cmp::Reverse(holding.bytes));
        let (mut told, mut lower) = (Vec::new(), Vec::new());
        for holding in all.iter().take(3) {
            told.push(format!("{} {}", holding.what, mib(holding.bytes)));
            if !lower.contains(&holding.lower) {
                lower.push(holding.lower);
            }
        }
        Some(format!(
            "buffers and caches may grow to {} MiB, and this process has {} MiB: give it more \
             memory, or lower {} (most is for {})",
            mib(sum),
            mib(have),
            lower.join(" or "),
            told.join(", ")
        ))
    }
}

fn sum(all: &[Holding]) -> usize {
    all.iter().fold(0, |sum, holding| sum.saturating_add(holding.bytes))
}

/// Rounded up, so that nothing that is there is told as nothing.
fn mib(bytes: usize) -> usize {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole cluster in one process with devices.
    fn everything(memory_bytes: u64) -> Budget {
        Budget {
            is_client: true,
            has_store: true,
            is_linked: true,
            rdma_memory: 64 << 20,
            ..Budget::for_machine(memory_bytes, 2, 4)
        }
    }

    #[test]
    fn the_sum_holds_every_part() {
        let plain = Budget::for_machine(16 << 30, 2, 4);
        let rdma = Budget { rdma_memory: 64 << 20, ..plain };
        assert_eq!(sum(&rdma.holdings()) - sum(&plain.holdings()), 128 << 20);
        let more = Budget { write_buffer_bytes: plain.write_buffer_bytes + 1, ..plain };
        assert_eq!(sum(&more.holdings()), sum(&plain.holdings()), "it is no client");
        let all = everything(16 << 30);
        let said = all.report();
        assert!(said.contains("144 MiB are pinned") && said.contains("RDMA 128"), "{said}");
        assert_eq!(all.holdings().len(), 18, "{said}");
        assert!(!Budget::for_machine(16 << 30, 2, 0).report().contains("overlays"));
    }

    /// Goal: too little memory is said, with what to do. Method: machines of two sizes.
    #[test]
    fn too_little_memory_is_told() {
        assert_eq!(everything(64 << 30).warning(), None);
        let said = everything(1 << 30).warning().expect("1 GiB is too little");
        assert!(said.contains("has 1024 MiB") && said.contains(FEWER_TARGETS), "{said}");
    }
}
