//! What the key-value store is asked by transactions; the contract is that of [`contract`].
//!
//! Reads go on the control lane: they are answered at once. Commits and barriers may wait for a
//! disk, so they have the bulk lane: however many wait there, reads go on.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::{no_bulk, protocol};

mod contract;
mod request;

pub use contract::*;
pub use request::{CommitRequest, Mutation, check_range, check_read_key};

/// Several keys at one version. `at`: `None` for everything committed before this call; the reply
/// says which version that was.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GetKeys {
    pub at: Option<Version>,
    pub keys: Vec<Bytes>,
}

/// Values in the order of the keys.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Values {
    pub version: Version,
    pub values: Vec<Option<Bytes>>,
}

/// One page of a range: at most `limit` rows, 0 for as many as a page holds. `at` as in
/// [`GetKeys`].
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GetRange {
    pub at: Option<Version>,
    pub range: KeyRange,
    pub limit: u32,
    pub reverse: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Page {
    pub version: Version,
    pub page: RangePage,
}

/// How long a commit waits before it is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Durability {
    /// Ordered; a sync begins within 50 ms. After power loss a prefix of all commits is left.
    Soon,
    /// On stable storage, with everything ordered before it.
    Now,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Commit {
    pub request: CommitRequest,
    pub durability: Durability,
}

/// Waits until everything committed before is on stable storage. A caller that was told of a commit
/// with `version` learns whether it is still there, and with it all commits before it; version 0
/// only waits.
///
/// # Errors
/// [`KvError::Lost`]: the commit was acknowledged, and a crash took it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct Barrier {
    pub version: Version,
}

/// Part of a range. A page with `more` has at least one row.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub struct RangePage {
    pub rows: Vec<(Bytes, Bytes)>,
    /// Rows of the range are left after these.
    pub more: bool,
}

/// What a commit was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Committed {
    /// The commit's version; of a read-only transaction, its read version.
    pub version: Version,
    /// The commit's stamp; of a read-only transaction, [`Versionstamp::NONE`].
    pub versionstamp: Versionstamp,
}

no_bulk!(GetKeys, Values, GetRange, Page, Commit, Committed, Barrier);

protocol! { Kv as KvMsg, KvReply = 0x0500 {
    1 v 1 GetKeys -> Result<Values, KvError>, Control, 5_000 ms;
    2 v 1 GetRange -> Result<Page, KvError>, Control, 5_000 ms;
    3 v 1 Commit -> Result<Committed, KvError>, Bulk, 5_000 ms;
    4 v 2 Barrier -> Result<(), KvError>, Bulk, 10_000 ms;
} }
