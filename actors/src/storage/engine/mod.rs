//! stub for compiling
use crate::proto::ids::*;
use bytes::Bytes;
use t3fs_runtime::Cx;
#[derive(Clone)]
pub struct Engine;
#[derive(Clone, Debug, Default)]
pub struct State {
    pub version: ChunkVersion,
    pub chain_version: ChainVersion,
    pub len: u32,
    pub checksum: u32,
}
#[derive(Clone, Debug, Default)]
pub struct Pending {
    pub version: ChunkVersion,
    pub chain_version: ChainVersion,
    pub len: u32,
    pub checksum: u32,
    pub removal: bool,
}
#[derive(Clone, Debug)]
pub struct Recent {
    pub session: SessionId,
    pub seq: u64,
    pub version: ChunkVersion,
}
#[derive(Clone, Debug)]
pub struct ChunkInfo {
    pub committed: Option<State>,
    pub pending: Option<Pending>,
    pub recent: Vec<Recent>,
}
pub enum Op {
    Write { offset: u32, data: Bytes },
    Truncate { len: u32 },
    Remove,
    Replace { data: Bytes },
}
pub struct Update {
    pub chunk: ChunkId,
    pub version: ChunkVersion,
    pub chain_version: ChainVersion,
    pub op: Op,
    pub request: Option<RequestId>,
    pub commit: bool,
}
pub struct Applied {
    pub version: ChunkVersion,
    pub len: u32,
    pub checksum: u32,
}
pub struct Read {
    pub version: ChunkVersion,
    pub chunk_len: u32,
    pub data: Bytes,
}
pub struct Space {
    pub used: u64,
    pub reusable: u64,
    pub chunks: u64,
}
#[derive(Debug)]
pub enum EngineError {
    NotFound,
    NoSpace,
    TooManyChunks,
    TooManyWriters,
    VersionGap { have: ChunkVersion, sent: ChunkVersion },
    Stale { have: ChunkVersion },
    Busy,
    Corrupt { chunk: ChunkId },
    InvalidArgument(String),
    Failed(String),
}
impl std::fmt::Display for EngineError {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}
impl Engine {
    pub fn pending(&self) -> Vec<ChunkId> {
        vec![]
    }
    pub fn forget_sessions(&self, _: &dyn Fn(SessionId) -> bool) {}
    pub fn info(&self, _: ChunkId) -> Option<ChunkInfo> {
        None
    }
    pub fn fresh_version(&self) -> ChunkVersion {
        ChunkVersion(1)
    }
    pub async fn apply(&self, _: &Cx, _: Update) -> Result<Applied, EngineError> {
        Err(EngineError::Busy)
    }
    pub async fn read_pending(&self, _: &Cx, _: ChunkId) -> Result<Update, EngineError> {
        Err(EngineError::Busy)
    }
    pub fn commit(
        &self,
        _: &Cx,
        _: ChunkId,
        _: ChunkVersion,
        _: ChainVersion,
    ) -> Result<(), EngineError> {
        Ok(())
    }
    pub async fn read(&self, _: &Cx, _: ChunkId, _: u32, _: u32) -> Result<Read, EngineError> {
        Err(EngineError::Busy)
    }
    pub fn list(&self, _: ChunkId, _: usize) -> Vec<(ChunkId, ChunkInfo)> {
        vec![]
    }
    pub fn space(&self) -> Space {
        Space { used: 0, reusable: 0, chunks: 0 }
    }
}
