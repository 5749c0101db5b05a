//! The contract of the key-value store, which is FoundationDB's: what a version, a range of keys
//! and a refusal are. `t3fs_actors::meta::kv` says what is promised.

use bytes::Bytes;
use core::fmt;
use t3fs_runtime::wire::BODY_MAX;

/// Age after which a read version can neither be read from nor commit, in microseconds.
/// FoundationDB's 5 s.
pub const WINDOW_US: u64 = 5_000_000;
/// Longest key, in bytes. FoundationDB's.
pub const KEY_BYTES_MAX: usize = 10_000;
/// Longest value, in bytes. FoundationDB's.
pub const VALUE_BYTES_MAX: usize = 100_000;
/// Most bytes of keys, values and conflict ranges in one commit. FoundationDB's.
pub const TRANSACTION_BYTES_MAX: usize = 10_000_000;
/// Most rows in one page of a range read; a limit of 0 asks for this many.
pub const RANGE_ROWS_MAX: usize = 10_000;
/// A page of a range read ends with the row that reaches this many bytes.
pub const RANGE_BYTES_MAX: usize = 1 << 20;

// A commit, and a page with the row that ends it, travel in the body of one message.
const _: () = assert!(TRANSACTION_BYTES_MAX < BODY_MAX);
const _: () = assert!(RANGE_BYTES_MAX + KEY_BYTES_MAX + VALUE_BYTES_MAX < BODY_MAX);

/// First key that is not a user's.
pub const KEYS_END: &[u8] = b"\xff";
/// The one key above [`KEYS_END`] that users may read, and write as a versionstamped value.
pub const METADATA_VERSION_KEY: &[u8] = b"\xff/metadataVersion";

/// Place of a commit in the one order of all commits; also names the snapshot right after it.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a versionstamped mutation writes: version (u64 big-endian), then the place in the commit
/// batch (u16 big-endian; always 0 here, because every commit has a version of its own).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Versionstamp(pub [u8; Versionstamp::BYTES]);

impl Versionstamp {
    pub const BYTES: usize = 10;
    /// The stamp of no commit, that of a read-only transaction.
    pub const NONE: Versionstamp = Versionstamp([0xff; Versionstamp::BYTES]);

    pub fn new(version: Version, order: u16) -> Self {
        let mut stamp = [0; Self::BYTES];
        stamp[..8].copy_from_slice(&version.0.to_be_bytes());
        stamp[8..].copy_from_slice(&order.to_be_bytes());
        Versionstamp(stamp)
    }
}

/// Keys from `begin` up to, not including, `end`.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct KeyRange {
    pub begin: Bytes,
    pub end: Bytes,
}

impl KeyRange {
    pub fn new(begin: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        KeyRange { begin: begin.into(), end: end.into() }
    }

    /// The range that holds just `key`.
    pub fn point(key: &Bytes) -> Self {
        KeyRange { begin: key.clone(), end: key_after(key) }
    }

    /// All keys that start with `prefix`. `prefix` must hold a byte other than `\xff`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let begin = prefix.into();
        let keep = begin.iter().rposition(|byte| *byte != 0xff);
        let keep = keep.expect("a prefix of \\xff alone has no end") + 1;
        let mut end = begin[..keep].to_vec();
        end[keep - 1] += 1;
        KeyRange { begin, end: end.into() }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.begin[..] <= *key && *key < self.end[..]
    }

    pub fn is_empty(&self) -> bool {
        self.begin >= self.end
    }

    /// Cuts the range after `last`, the last key read of it.
    pub fn end_at(&mut self, last: &Bytes, reverse: bool) {
        if reverse {
            self.begin = last.clone();
        } else {
            self.end = key_after(last);
        }
    }
}

/// The first key after `key`.
pub fn key_after(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// Why the store of keys and values did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum KvError {
    /// Something read was written by another commit since the read version. Nothing was written.
    Conflict,
    /// The read version has left the window, or memory for it has run out. Nothing was written.
    TooOld,
    /// The read version has not been given out by this resolver. Nothing was written.
    FutureVersion,
    /// The store does not answer, or too much waits for it; try later. Nothing was written.
    Throttled,
    /// `commit_unknown_result`: the commit may or may not have happened.
    Unknown,
    /// `what` measures `size`, more than `max`. Nothing was written.
    TooLarge { what: String, size: u64, max: u64 },
    /// The request breaks the contract, as said. Nothing was written.
    Invalid(String),
    /// The store failed. Nothing of this request was written.
    Store(String),
    /// What was acknowledged with this version is not there any more: a crash took it.
    Lost,
}

impl KvError {
    /// Whether the transaction, run again from a new read version, may succeed. After
    /// [`KvError::Unknown`] only if running it twice is harmless.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Conflict | Self::TooOld | Self::FutureVersion => true,
            Self::Throttled | Self::Unknown => true,
            Self::TooLarge { .. } | Self::Invalid(_) | Self::Store(_) | Self::Lost => false,
        }
    }

    /// Whether the commit may have happened all the same.
    pub fn is_maybe_committed(&self) -> bool {
        matches!(self, Self::Unknown)
    }
}

impl fmt::Display for KvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict => f.write_str("conflict with another commit"),
            Self::TooOld => write!(f, "read version older than {} s", WINDOW_US / 1_000_000),
            Self::FutureVersion => f.write_str("read version not given out by this store"),
            Self::Throttled => f.write_str("it does not answer"),
            Self::Unknown => f.write_str("commit result unknown: it may have happened"),
            Self::TooLarge { what, size, max } => write!(f, "{what} of {size}, at most {max}"),
            Self::Invalid(why) => write!(f, "invalid request: {why}"),
            Self::Store(why) => write!(f, "store failed: {why}"),
            Self::Lost => f.write_str("a crash of the store took what it had acknowledged"),
        }
    }
}

impl core::error::Error for KvError {}

#[cfg(test)]
mod tests {
    use super::super::{CommitRequest, Mutation};
    use super::*;

    #[test]
    fn prefix_ends_before_the_next_sibling() {
        assert_eq!(KeyRange::prefix(&b"ab"[..]), KeyRange::new(&b"ab"[..], &b"ac"[..]));
        assert_eq!(KeyRange::prefix(&b"a\xff"[..]), KeyRange::new(&b"a\xff"[..], &b"b"[..]));
    }

    #[test]
    fn versionstamps_order_like_versions() {
        let stamps: Vec<_> = [1u64, 255, 256, 1 << 40, u64::MAX >> 1]
            .map(|version| Versionstamp::new(Version(version), 0))
            .into();
        assert!(stamps.is_sorted());
        assert_eq!(stamps[1].0, [0, 0, 0, 0, 0, 0, 0, 255, 0, 0]);
    }

    #[test]
    fn commit_requests_survive_the_wire() {
        let request = CommitRequest {
            read_version: Version(7),
            read_keys: vec![Bytes::from_static(b"k")],
            read_ranges: vec![KeyRange::prefix(&b"p"[..])],
            write_conflicts: vec![],
            mutations: vec![Mutation::Add { key: Bytes::from_static(b"n"), operand: 3 }],
        };
        let frame = rkyv::to_bytes::<rkyv::rancor::Error>(&request).unwrap();
        let back = rkyv::from_bytes::<CommitRequest, rkyv::rancor::Error>(&frame).unwrap();
        assert_eq!(back, request);
    }
}
