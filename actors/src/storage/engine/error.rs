//! What can be wrong with a request to the engine, and what to do about it.

use std::fmt;

use t3fs_runtime::DiskError;

use super::WRITERS_MAX;
use crate::proto::ids::{ChunkId, ChunkVersion};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineError {
    NotFound,
    NoSpace,
    TooManyChunks,
    /// The table of recent writers of this chunk is full of live sessions.
    TooManyWriters,
    /// Updates before this one are missing.
    VersionGap {
        have: ChunkVersion,
        sent: ChunkVersion,
    },
    /// The version that was sent, or a later one, is committed already.
    Stale {
        have: ChunkVersion,
    },
    /// Another update of the chunk is pending or under way.
    Busy,
    InvalidArgument(String),
    /// A granule (or its checksum page) is not what was written.
    Corrupt {
        chunk: ChunkId,
        granule: u32,
        stored: u32,
        found: u32,
    },
    BadFormat(String),
    /// An earlier disk error or `close` stopped all updates of this target.
    Failed(String),
    Disk(DiskError),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use EngineError::*;
        match self {
            NotFound => f.write_str("no such chunk on this target"),
            NoSpace => f.write_str("the target's disk is full; remove files or add a disk"),
            TooManyChunks => f.write_str(
                "the target holds as many chunks as its memory budget allows; give the node more \
                 memory or add a target",
            ),
            TooManyWriters => write!(
                f,
                "{WRITERS_MAX} live clients have written this chunk; wait until one of their \
                 sessions ends"
            ),
            VersionGap { have, sent } => {
                write!(f, "version {sent} sent, {have} is committed; send what lies between first")
            }
            Stale { have } => write!(f, "version {have} is committed already; nothing to do"),
            Busy => f.write_str(
                "another update of the chunk is pending or under way; see it through, then send \
                 this again",
            ),
            InvalidArgument(why) => f.write_str(why),
            Corrupt { chunk, granule, stored, found } => write!(
                f,
                "chunk {chunk}, granule {granule}: checksum {found:#010x} where {stored:#010x} was \
                 written; read another replica and replace this one"
            ),
            BadFormat(why) => f.write_str(why),
            Failed(why) => {
                write!(f, "the target takes no updates any more: {why}; check the disk, restart")
            }
            Disk(e) => write!(f, "disk: {e}"),
        }
    }
}

impl std::error::Error for EngineError {}

impl From<DiskError> for EngineError {
    fn from(e: DiskError) -> Self {
        match e {
            DiskError::NoSpace => EngineError::NoSpace,
            e => EngineError::Disk(e),
        }
    }
}
