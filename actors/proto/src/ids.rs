//! Identifiers and versions: newtypes, so that one is never taken for another.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::golden::{Numbers, Sample};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($t:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default,
            Archive, Serialize, Deserialize,
        )]
        pub struct $name(pub $t);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Sample for $name {
            fn sample(n: &mut Numbers) -> Self {
                $name(Sample::sample(n))
            }
        }
    };
}

id!(
    /// A file, directory or symlink. 1 is the root.
    InodeId(u64)
);
id!(
    /// A replica set with an order.
    ChainId(u32)
);
id!(
    /// One replica's store on one disk.
    TargetId(u32)
);
id!(
    /// Grows with every change of a chain's members or states.
    ChainVersion(u32)
);
id!(
    /// Grows with every update of a chunk, across removal and new creation too; 0 is "never
    /// written".
    ChunkVersion(u64)
);
id!(
    /// Grows with every change of the cluster's routing.
    ViewVersion(u64)
);
id!(
    /// One run of one client, as registered with mgmtd.
    SessionId(u64)
);

/// Inode numbers are smaller, so that a [`ChunkId`] has room for more than an inode.
pub const INODE_END: u64 = 1 << 48;

/// One stripe unit of a file's content.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    Archive,
    Serialize,
    Deserialize,
)]
pub struct ChunkId {
    /// Smaller than [`INODE_END`]. Of the 16 bits above, the upper 8 are reserved for which track
    /// of the content it is (parity, say) and the lower 8 for a generation of it (a snapshot's);
    /// 0 until a build knows better.
    pub inode: InodeId,
    /// Offset in the file divided by its chunk size.
    pub index: u32,
}

impl ChunkId {
    /// The next id in order, if there is one.
    pub fn next(self) -> Option<ChunkId> {
        match self.index.checked_add(1) {
            Some(index) => Some(ChunkId { index, ..self }),
            None => Some(ChunkId { inode: InodeId(self.inode.0.checked_add(1)?), index: 0 }),
        }
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}.{}", self.inode.0, self.index)
    }
}

/// Names one update of one client for good, over all its retries: the client numbers its updates of
/// a chunk in order and has one in flight at a time, so the last number is all a replica keeps.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    Archive,
    Serialize,
    Deserialize,
)]
pub struct RequestId {
    pub session: SessionId,
    pub seq: u64,
}
