//! What the embedded key-value store is asked by transactions.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::{no_bulk, protocol};

use crate::meta::kv::actor::Kv;
use crate::meta::kv::{CommitRequest, KvError, Version, Versionstamp};

/// Where a transaction reads: everything committed before this call is seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GetReadVersion;

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GetKey {
    pub version: Version,
    pub key: Bytes,
}

/// Several keys at one version in one message.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GetKeys {
    pub version: Version,
    pub keys: Vec<Bytes>,
}

/// Rows of `[begin, end)`, at most `limit`.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct GetRange {
    pub version: Version,
    pub begin: Bytes,
    pub end: Bytes,
    pub limit: u32,
    pub reverse: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Rows {
    pub rows: Vec<(Bytes, Bytes)>,
    pub more: bool,
}

/// How long a commit waits before it is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Durability {
    /// Ordered; on stable storage within 50 ms. A crash keeps a prefix.
    Soon,
    /// On stable storage.
    Now,
}

#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
pub struct Commit {
    pub request: CommitRequest,
    pub durability: Durability,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Committed {
    pub version: Version,
    pub stamp: Versionstamp,
}

/// Waits until everything committed before is on stable storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Barrier;

no_bulk!(
    GetReadVersion, GetKey, GetKeys, GetRange, Rows, Commit, Committed, Barrier, Version
);

protocol! { Kv as KvMsg = 0x0500 {
    1 v 1 GetReadVersion -> Result<Version, KvError>, Control, 5_000 ms;
    2 v 1 GetKey -> Result<Option<Bytes>, KvError>, Control, 5_000 ms;
    3 v 1 GetKeys -> Result<Vec<Option<Bytes>>, KvError>, Control, 5_000 ms;
    4 v 1 GetRange -> Result<Rows, KvError>, Control, 5_000 ms;
    5 v 1 Commit -> Result<Committed, KvError>, Control, 5_000 ms;
    6 v 1 Barrier -> Result<(), KvError>, Control, 10_000 ms;
} }
