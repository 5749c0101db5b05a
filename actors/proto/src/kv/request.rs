//! What a client sends to commit: mutations and conflict ranges, and the check that they are legal.

use super::{
    KEY_BYTES_MAX, KEYS_END, KeyRange, KvError, METADATA_VERSION_KEY, TRANSACTION_BYTES_MAX,
    VALUE_BYTES_MAX, Version, Versionstamp,
};
use bytes::Bytes;

/// One write. The mutations of a commit take effect in order.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Mutation {
    Set {
        key: Bytes,
        value: Bytes,
    },
    Clear {
        key: Bytes,
    },
    /// Clears `begin <= key < end`. Nothing happens if `begin >= end`.
    ClearRange {
        begin: Bytes,
        end: Bytes,
    },
    /// Sets `key` with the ten bytes at `offset` replaced by the commit's versionstamp.
    SetVersionstampedKey {
        key: Bytes,
        offset: u32,
        value: Bytes,
    },
    /// Sets `value` with the ten bytes at `offset` replaced by the commit's versionstamp.
    SetVersionstampedValue {
        key: Bytes,
        value: Bytes,
        offset: u32,
    },
    /// Adds to a little-endian u64, wrapping. An absent value counts as 0, a shorter one is
    /// extended with zeros, a longer one is cut (FoundationDB's `add` with 8 bytes).
    Add {
        key: Bytes,
        operand: u64,
    },
}

/// A transaction to commit.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub struct CommitRequest {
    /// What the reads were made at. Without reads it plays no part.
    pub read_version: Version,
    /// Keys that must not have been written since `read_version`.
    pub read_keys: Vec<Bytes>,
    /// Ranges in which nothing may have been written since `read_version`.
    pub read_ranges: Vec<KeyRange>,
    /// Ranges that others' reads shall conflict with, beside those of `mutations`.
    pub write_conflicts: Vec<KeyRange>,
    pub mutations: Vec<Mutation>,
}

impl CommitRequest {
    /// Nothing to commit: the transaction is serialised at its read version.
    pub fn is_read_only(&self) -> bool {
        self.mutations.is_empty() && self.write_conflicts.is_empty()
    }

    pub fn has_reads(&self) -> bool {
        !self.read_keys.is_empty() || !self.read_ranges.is_empty()
    }

    /// Bytes of all keys, values and conflict ranges.
    pub fn size(&self) -> usize {
        let ranges = self.read_ranges.iter().chain(&self.write_conflicts);
        let ranges = ranges.map(|range| range.begin.len() + range.end.len());
        let keys = self.read_keys.iter().map(Bytes::len);
        let mutations = self.mutations.iter().map(Mutation::size);
        ranges.chain(keys).chain(mutations).sum()
    }

    /// Refuses what the contract does not allow.
    pub fn check(&self) -> Result<(), KvError> {
        limit("transaction in bytes", self.size(), TRANSACTION_BYTES_MAX)?;
        for key in &self.read_keys {
            check_read_key(key)?;
        }
        for range in self.read_ranges.iter().chain(&self.write_conflicts) {
            check_range(&range.begin, &range.end)?;
        }
        self.mutations.iter().try_for_each(Mutation::check)
    }
}

impl Mutation {
    fn size(&self) -> usize {
        match self {
            Self::Set { key, value }
            | Self::SetVersionstampedKey { key, value, .. }
            | Self::SetVersionstampedValue { key, value, .. } => key.len() + value.len(),
            Self::Clear { key } => key.len(),
            Self::ClearRange { begin, end } => begin.len() + end.len(),
            Self::Add { key, .. } => key.len() + 8,
        }
    }

    fn check(&self) -> Result<(), KvError> {
        match self {
            Self::Set { key, value } => check_write_key(key).and_then(|()| check_value(value)),
            Self::Clear { key } | Self::Add { key, .. } => check_write_key(key),
            Self::ClearRange { begin, end } => check_range(begin, end),
            Self::SetVersionstampedKey { key, offset, value } => {
                check_write_key(key)?;
                check_stamp_offset(key, *offset)?;
                check_value(value)
            }
            Self::SetVersionstampedValue { key, value, offset } => {
                if key[..] != *METADATA_VERSION_KEY {
                    check_write_key(key)?;
                }
                check_stamp_offset(value, *offset)?;
                check_value(value)
            }
        }
    }
}

pub fn check_read_key(key: &[u8]) -> Result<(), KvError> {
    if key == METADATA_VERSION_KEY { Ok(()) } else { check_write_key(key) }
}

pub fn check_range(begin: &[u8], end: &[u8]) -> Result<(), KvError> {
    limit("key in bytes", begin.len().max(end.len()), KEY_BYTES_MAX + 1)?;
    if end > KEYS_END {
        return Err(KvError::Invalid(format!("range ends at {}", end.escape_ascii())));
    }
    Ok(())
}

fn check_write_key(key: &[u8]) -> Result<(), KvError> {
    limit("key in bytes", key.len(), KEY_BYTES_MAX)?;
    if key.is_empty() {
        return Err(KvError::Invalid("the empty key".into()));
    }
    if key >= KEYS_END {
        return Err(KvError::Invalid(format!("key {} is reserved", key.escape_ascii())));
    }
    Ok(())
}

fn check_value(value: &[u8]) -> Result<(), KvError> {
    limit("value in bytes", value.len(), VALUE_BYTES_MAX)
}

fn check_stamp_offset(bytes: &[u8], offset: u32) -> Result<(), KvError> {
    let end = offset as usize + Versionstamp::BYTES;
    if end > bytes.len() {
        return Err(KvError::Invalid(format!("a stamp at {offset} ends beyond {}", bytes.len())));
    }
    Ok(())
}

fn limit(what: &str, size: usize, max: usize) -> Result<(), KvError> {
    if size > max {
        return Err(KvError::TooLarge { what: what.into(), size: size as u64, max: max as u64 });
    }
    Ok(())
}
