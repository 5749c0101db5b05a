//! The chunk engine: one target, in one folder of one disk, on one shard.
//!
//! Promises: an update that was answered survives any crash; one that was not is wholly there or
//! wholly absent; committed content always verifies against its granule checksums; at any time each
//! extent has one owner, and after quiescence used space is what rows refer to.
//!
//! Code map, from the bottom up. *Formats*: `layout` (where things lie), `sums`, `codec`, `block`,
//! `record`, `superblock`, `opening`, `checkpoint`. *Plain state*: `row` and `index` (chunks as a
//! function of the journal), `bitmap`, `allocator`, `pins`, `cache`, `journal`, and `state`, which
//! puts them together. *Async shell*: `log` (group commit), `data` (data files), `read`, `update`,
//! `applier` (small updates in place), `keeper` (checkpoints, trimming, time), `recover`, `engine`.
//!
//! Architecture invariant: state changes in sync methods only, and rows only by installing a
//! durable record, in memory as in recovery.

mod allocator;
mod applier;
mod bitmap;
mod block;
mod cache;
mod checkpoint;
mod codec;
mod data;
#[allow(clippy::module_inception)]
mod engine;
mod error;
mod index;
mod journal;
mod keeper;
mod layout;
mod log;
mod opening;
mod pins;
mod read;
mod record;
mod recover;
mod row;
mod state;
mod sums;
mod superblock;
mod update;

use bytes::Bytes;

pub use engine::Engine;
pub use error::EngineError;
pub use index::INDEX_ROW_BYTES;
pub use layout::{CHUNK_MAX, GRANULE, SUPERBLOCK};
pub(super) use opening::{advance, confirm};
pub use recover::{JOURNAL_BUFFERS_BYTES_MAX, identity};
pub use row::{Recent, StoredVersion};
pub use superblock::TargetIdentity;

use crate::proto::ids::{ChainVersion, ChunkId, ChunkVersion, RequestId};

/// Most sessions a chunk remembers the last update of, unless a test wants fewer.
pub const WRITERS_MAX: usize = 64;

/// Bytes of a segment of the journal, unless told otherwise.
pub const JOURNAL_SEGMENT_BYTES: u64 = 32 << 20;
/// Free bytes of the disk that new chunks do not touch, unless told otherwise.
pub const RESERVE_BYTES: u64 = 64 << 20;
/// Bytes of the largest update that travels inside the journal, unless told otherwise.
const SMALL_UPDATE_MAX: usize = 64 << 10;
/// What a record of the journal holds beside the bytes of an update, at most.
const RECORD_HEAD_MAX: usize = 16 << 10;

// A group holds several small updates, and a segment several groups.
const _: () = assert!(4 * (SMALL_UPDATE_MAX + RECORD_HEAD_MAX) <= journal::GROUP_MAX);
const _: () = assert!(4 * journal::GROUP_MAX as u64 <= JOURNAL_SEGMENT_BYTES);
// Of small updates, one that travels in the journal is no chunk by itself.
const _: () = assert!(SMALL_UPDATE_MAX.is_multiple_of(GRANULE));

#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Small updates kept in memory until they are applied in place; beyond it updates wait.
    pub overlay_bytes: usize,
    /// Checksum pages kept in memory.
    pub checksum_cache_bytes: usize,
    /// Chunks accepted; the index keeps [`INDEX_ROW_BYTES`] for each.
    pub chunks_max: usize,
    pub journal_segment_bytes: u64,
    /// Updates of at most so many bytes, in whole granules, travel inside the journal.
    pub small_update_max: usize,
    /// Free bytes of the disk that new chunks do not touch.
    pub reserve_bytes: u64,
    /// Data files grow and shrink by so much, or by one block.
    pub group_bytes: u64,
    /// Sessions that a chunk remembers the last update of; a new one is refused when it is full.
    pub writers_max: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            overlay_bytes: 16 << 20,
            checksum_cache_bytes: 8 << 20,
            chunks_max: 1 << 20,
            journal_segment_bytes: JOURNAL_SEGMENT_BYTES,
            small_update_max: SMALL_UPDATE_MAX,
            reserve_bytes: RESERVE_BYTES,
            group_bytes: 4 << 20,
            writers_max: WRITERS_MAX,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    Write {
        offset: u32,
        data: Bytes,
    },
    /// Shortens, or extends with zeros.
    Truncate {
        len: u32,
    },
    Remove,
    /// The whole content; any higher version may be given.
    Replace {
        data: Bytes,
    },
}

/// One update of one chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Update {
    pub chunk: ChunkId,
    pub version: ChunkVersion,
    pub chain_version: ChainVersion,
    pub op: Op,
    pub request: Option<RequestId>,
    /// Commit it in the same record (the tail of a chain does).
    pub commit: bool,
}

/// The version that an update made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    pub version: ChunkVersion,
    pub len: u32,
    pub checksum: u32,
}

/// An update that is stored but not committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    pub version: ChunkVersion,
    pub chain_version: ChainVersion,
    pub len: u32,
    pub checksum: u32,
    /// The update removes the chunk.
    pub removal: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkInfo {
    pub committed: Option<StoredVersion>,
    pub pending: Option<Pending>,
    /// The last update of each session, with that of the pending version.
    pub recent: Vec<Recent>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    pub version: ChunkVersion,
    pub chunk_len: u32,
    pub data: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// Bytes of slots in use, with their checksum pages.
    pub used: u64,
    /// Bytes of data files on disk that are free for new chunks.
    pub reusable: u64,
    pub chunks: u64,
    pub pending: usize,
    /// Slots in use.
    pub extents: u64,
    pub overlay_bytes: usize,
    pub journal_bytes: u64,
}
