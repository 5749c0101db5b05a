//! What a storage target is asked: by clients (no version given), and by its predecessor in the
//! chain.

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::buf::Carry;
use t3fs_runtime::{Bulk, no_bulk, protocol};

use super::ids::{
    ChainVersion, ChunkId, ChunkVersion, InodeId, RequestId, SessionId, TargetId, ViewVersion,
};
use super::mgmtd::{ClusterView, TargetSpace};

/// What an update does to a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum UpdateKind {
    /// `data` at `offset`; a gap before it reads as zeros.
    Write {
        offset: u32,
    },
    /// Cuts or extends with zeros to this length.
    Truncate {
        len: u32,
    },
    Remove,
    /// `data` is the whole content (from a predecessor that drives a pending update on).
    Replace,
}

impl UpdateKind {
    /// Whether content that was there before stays.
    pub fn is_partial(self) -> bool {
        match self {
            UpdateKind::Write { .. } | UpdateKind::Truncate { .. } => true,
            UpdateKind::Remove | UpdateKind::Replace => false,
        }
    }
}

/// One update of one chunk.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct UpdateChunk {
    pub chunk: ChunkId,
    pub chain_version: ChainVersion,
    pub kind: UpdateKind,
    #[rkyv(with = rkyv::with::Skip)]
    pub data: Bulk,
    pub request: RequestId,
    /// `None` from a client to the head; the head's choice from there on.
    pub version: Option<ChunkVersion>,
    /// The chain's version when the head numbered it: with `version`, it names the update for good.
    /// A client leaves it open.
    pub born: ChainVersion,
    /// Targets behind the receiver.
    pub hops: u8,
}

/// An update is durable on this target and all behind it, and visible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Updated {
    pub version: ChunkVersion,
    /// The chunk's length after the update.
    pub len: u32,
    /// Digest over length and granule checksums: equal on all replicas.
    pub checksum: u32,
}

/// Reads committed content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ReadChunk {
    pub chunk: ChunkId,
    pub chain_version: ChainVersion,
    pub offset: u32,
    pub len: u32,
}

/// A hint: this will be asked for next, by [`ReadChunk`] with the same range. Costs nothing but the
/// time of the disk when it is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ReadAhead {
    pub chunk: ChunkId,
    pub chain_version: ChainVersion,
    pub offset: u32,
    pub len: u32,
}

/// From its own node, which is about to close the target's files: it serves no more, and says no
/// more of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Retire;

/// Shorter than asked at the chunk's end; a chunk that was never written is `None` in the reply.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ChunkData {
    pub version: ChunkVersion,
    /// Length of the whole chunk.
    pub chunk_len: u32,
    #[rkyv(with = rkyv::with::Skip)]
    pub data: Bulk,
}

/// To the head: removes the chunks of these files from index `from` on. At most `limit` chunks in
/// one call.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct RemoveChunks {
    pub inodes: Vec<InodeId>,
    pub chain_version: ChainVersion,
    pub from: u32,
    pub limit: u32,
    /// Its `seq` is used for each chunk. One that was answered is not carried out again, so every
    /// page of a removal has a number of its own.
    pub request: RequestId,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Removed {
    pub count: u32,
    /// Files that may have more chunks: ask again for these.
    pub left: Vec<InodeId>,
}

/// Chunks in order from `from` on (inclusive), for checks and resync.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ListChunks {
    pub from: ChunkId,
    pub limit: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ChunkSummary {
    pub chunk: ChunkId,
    pub version: ChunkVersion,
    /// See [`UpdateChunk::born`].
    pub chain_version: ChainVersion,
    pub len: u32,
    pub checksum: u32,
    /// An update is stored but not committed.
    pub pending: bool,
}

/// Which chunks of a file hold bytes on this target: at most `limit` of them, from index `from` on
/// (inclusive). Any serving target of the chain answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct FileExtents {
    pub inode: InodeId,
    pub chain_version: ChainVersion,
    pub from: u32,
    pub limit: u32,
}

/// Everything that was acknowledged before the question came in is in it, unless a later update
/// has taken it away. An update that is stored here but not known to be committed counts with the
/// longer of both lengths, since it may be acknowledged yet.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct Extents {
    /// Index and length in bytes, never 0, in order of the index.
    pub chunks: Vec<(u32, u32)>,
    /// There are more behind the last of `chunks`.
    pub more: bool,
    /// The chunk with the highest index, from `from` on, and its length; whatever the limit is.
    pub last: Option<(u32, u32)>,
    /// Sum of the lengths in bytes of all chunks from `from` on, whatever the limit is.
    pub stored: u64,
}

/// Which files have chunks with bytes here, at most `limit` of them, from inode `from` on
/// (inclusive), in order; fewer than `limit` (and than 4096) only at the end. A serving target
/// answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ListInodes {
    pub from: InodeId,
    pub limit: u32,
}

/// Reads every committed byte of the listed chunks and verifies it against its checksums.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ScrubChunks {
    pub chunks: Vec<ChunkId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GetSpace;

/// The last update of one client to a chunk, as a replica remembers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct RecentWriter {
    pub session: SessionId,
    pub seq: u64,
    pub version: ChunkVersion,
}

/// To a syncing successor: its predecessor begins to bring it up to date. Answered when nothing of
/// earlier chain versions is under way there any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SyncStart {
    pub chain_version: ChainVersion,
    /// Larger than that of any earlier attempt of the sender.
    pub session: u64,
}

/// To a syncing successor: the chunk is this, whatever is known of it there.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SyncChunk {
    pub chunk: ChunkId,
    pub chain_version: ChainVersion,
    pub session: u64,
    /// Of this message within the session.
    pub number: u64,
    /// Messages with lower numbers were answered or given up.
    pub floor: u64,
    /// `None`: there is no such chunk.
    pub content: Option<SyncContent>,
    #[rkyv(with = rkyv::with::Skip)]
    pub data: Bulk,
}

/// What goes with the data of a chunk.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SyncContent {
    pub version: ChunkVersion,
    /// See [`UpdateChunk::born`].
    pub born: ChainVersion,
    pub recents: Vec<RecentWriter>,
}

/// To a syncing successor: everything was sent and stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SyncDone {
    pub chain_version: ChainVersion,
    pub session: u64,
}

/// A newer view of the cluster, told by whoever has it.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct NewView {
    pub view: ClusterView,
}

/// What this target has done to bring successors up to date.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GetResync;

/// Since the target's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct ResyncStats {
    pub begun: u64,
    pub done: u64,
    /// Chunks of its own looked at.
    pub compared: u64,
    /// Chunks sent, also for client writes meanwhile.
    pub sent: u64,
    pub sent_bytes: u64,
    pub removed: u64,
}

/// From the agent: this target may serve until `until_us` of the process's own clock (`Cx::now`),
/// once its view of the cluster is no older than `view`: a lease renewed after a death comes with
/// the news.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct LeaseHeld {
    pub until_us: u64,
    pub view: ViewVersion,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum StorageError {
    /// The sender's routing is older; it should fetch and ask again.
    StaleChain {
        mine: ChainVersion,
    },
    /// The receiver's routing is older than the sender's; ask again soon.
    BehindChain {
        mine: ChainVersion,
    },
    /// Not the head (for a client's update), or not serving.
    WrongTarget,
    /// The target has restarted and is reconciling; ask again soon.
    NotReady,
    /// A version is missing in between: only a correct predecessor's loss can cause it.
    VersionGap {
        have: ChunkVersion,
        sent: ChunkVersion,
    },
    /// This request number was followed by a later one of the same sender.
    Superseded,
    /// The client's session has ended, and with it what is known of its earlier requests.
    SessionEnded,
    NoSpace,
    /// Too many clients write this chunk at once.
    TooManyWriters,
    InvalidArgument(String),
    /// Stored bytes do not match their checksum.
    Corrupt(String),
    /// The disk failed; the target is out until an operator looks.
    Failed(String),
}

impl std::fmt::Display for StorageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StorageError::StaleChain { mine } => write!(f, "chain is at version {mine} already"),
            StorageError::BehindChain { mine } => write!(f, "target knows chain version {mine}"),
            StorageError::WrongTarget => f.write_str("not the target for this"),
            StorageError::NotReady => f.write_str("target is starting"),
            StorageError::VersionGap { have, sent } => {
                write!(f, "chunk is at version {have}, {sent} does not follow")
            }
            StorageError::Superseded => f.write_str("a later request of the same client is done"),
            StorageError::SessionEnded => f.write_str("the client's session has ended"),
            StorageError::NoSpace => f.write_str("no space left on the target"),
            StorageError::TooManyWriters => f.write_str("too many clients write this chunk"),
            StorageError::InvalidArgument(s)
            | StorageError::Corrupt(s)
            | StorageError::Failed(s) => f.write_str(s),
        }
    }
}

impl Carry for UpdateChunk {
    fn bulks(&mut self, each: &mut dyn FnMut(&mut Bulk)) {
        each(&mut self.data);
    }
}

impl Carry for SyncChunk {
    fn bulks(&mut self, each: &mut dyn FnMut(&mut Bulk)) {
        each(&mut self.data);
    }
}

impl Carry for ReadChunk {
    fn reply_room(&self) -> usize {
        self.len as usize
    }
}

impl Carry for ChunkData {
    fn bulks(&mut self, each: &mut dyn FnMut(&mut Bulk)) {
        each(&mut self.data);
    }
}

no_bulk!(
    Updated,
    ReadAhead,
    Retire,
    RemoveChunks,
    Removed,
    ListChunks,
    ChunkSummary,
    FileExtents,
    Extents,
    ListInodes,
    ScrubChunks,
    TargetSpace,
    GetSpace,
    NewView,
    SyncStart,
    SyncDone,
    GetResync,
    ResyncStats,
    LeaseHeld,
    TargetId,
    InodeId
);

protocol! { Storage as StorageMsg, StorageReply = 0x0300 {
    1 v 2 UpdateChunk -> Result<Updated, StorageError>, Bulk, 10_000 ms, hops |m| m.hops;
    2 v 1 ReadChunk -> Result<Option<ChunkData>, StorageError>, Bulk, 10_000 ms;
    3 v 2 RemoveChunks -> Result<Removed, StorageError>, Bulk, 10_000 ms;
    4 v 1 ListChunks -> Result<Vec<ChunkSummary>, StorageError>, Control, 10_000 ms;
    5 v 1 ScrubChunks -> Result<u64, StorageError>, Bulk, 60_000 ms;
    6 v 2 GetSpace -> Result<TargetSpace, StorageError>, Control, 5_000 ms;
    7 v 2 NewView -> (), Control, 5_000 ms;
    8 v 1 LeaseHeld -> (), Control, 1_000 ms;
    9 v 1 SyncStart -> Result<(), StorageError>, Control, 5_000 ms;
    10 v 1 SyncChunk -> Result<Updated, StorageError>, Bulk, 10_000 ms;
    11 v 1 SyncDone -> Result<(), StorageError>, Control, 5_000 ms;
    12 v 1 GetResync -> ResyncStats, Control, 5_000 ms;
    13 v 1 ReadAhead -> (), Control, 1_000 ms;
    14 v 1 Retire -> (), Control, 5_000 ms;
    15 v 1 FileExtents -> Result<Extents, StorageError>, Control, 10_000 ms;
    16 v 1 ListInodes -> Result<Vec<InodeId>, StorageError>, Control, 10_000 ms;
} }
