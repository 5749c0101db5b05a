//! Which formats a store holds beyond those that every build knows: one record in the metadata
//! store and one on every target, each bit of which stands for a change of a format.
//!
//! A build that meets a bit that it does not know refuses, by the kind of the bit:
//!
//! - *compatible*: nothing. Earlier builds do no harm.
//! - *read-only compatible*: earlier builds may read, and must not write.
//! - *incompatible*: earlier builds must not even read: they would misread.
//!
//! No record counts as one without bits: earlier builds wrote none. The bits are listed here and
//! nowhere else, and a number is never used again.
//!
//! *While processes run.* Every transaction that writes has read the record of the store it writes
//! to, in its first message, and depends on it (`meta::kv::client`). So the commit that sets a bit
//! comes after all transactions of processes that do not know the bit, or those are refused.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::wire::{self, WireError};

const KIND: u16 = 0x120a;
/// Where the metadata store keeps its record.
const KEY: &[u8] = b"F";

/// A sealed record without bits: what nearly every transaction finds.
const NONE: [u8; 28] = {
    let mut sealed = [0; 28];
    [sealed[0], sealed[1], sealed[2]] = [KIND as u8, (KIND >> 8) as u8, 1];
    sealed
};

/// Sealed as type 0x120a, version 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct FeaturesV1 {
    pub compatible: u64,
    pub readonly_compatible: u64,
    pub incompatible: u64,
}

/// The bits that this build knows, of one kind of record.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// What has the record, as the subject of a sentence.
    of: &'static str,
    readonly_compatible: &'static [Bit],
    incompatible: &'static [Bit],
}

/// The number of a bit and what it stands for.
type Bit = (u32, &'static str);

/// Of the metadata store. None yet.
pub const STORE: Known =
    Known { of: "the metadata store", readonly_compatible: &[], incompatible: &[] };

/// Of a target. None yet.
pub const TARGET: Known = Known { of: "the target", readonly_compatible: &[], incompatible: &[] };

impl Known {
    /// Whether this build may read and write; a refusal is a sentence that says what to do.
    pub fn check(&self, found: &FeaturesV1) -> Result<(), String> {
        self.check_reading(found)?;
        let unknown = unknown(found.readonly_compatible, self.readonly_compatible);
        self.refuse(unknown, "not write", "read-only compatible")
    }

    /// Whether this build may read.
    pub fn check_reading(&self, found: &FeaturesV1) -> Result<(), String> {
        self.refuse(unknown(found.incompatible, self.incompatible), "not use", "incompatible")
    }

    fn refuse(&self, bits: Vec<u32>, what: &str, kind: &str) -> Result<(), String> {
        if bits.is_empty() {
            return Ok(());
        }
        let bits: Vec<_> = bits.iter().map(u32::to_string).collect();
        Err(format!(
            "{} has features that this build does not know ({kind}: {}), so it must {what} it: \
             start a t3fs-node at least as new as the one that set them",
            self.of,
            bits.join(", ")
        ))
    }
}

/// Bits that are set and not listed.
fn unknown(found: u64, known: &[Bit]) -> Vec<u32> {
    let known = known.iter().fold(0, |mask, (bit, _)| mask | 1u64 << bit);
    (0..64).filter(|bit| (found & !known) >> bit & 1 == 1).collect()
}

impl FeaturesV1 {
    /// A record, or none; a refusal is a sentence.
    pub fn open(stored: Option<&[u8]>) -> Result<FeaturesV1, String> {
        let Some(bytes) = stored.filter(|bytes| *bytes != NONE) else {
            return Ok(FeaturesV1::default());
        };
        wire::open(KIND, 1, bytes).map_err(|e| match e {
            WireError::Version { .. } => {
                format!("the feature record is of a later format ({e})")
            }
            e => format!("the feature record cannot be read ({e})"),
        })
    }

    pub fn seal(&self) -> Bytes {
        wire::seal(KIND, 1, self).into()
    }
}

/// The key of the metadata store's record.
pub fn key() -> Bytes {
    Bytes::from_static(KEY)
}

#[cfg(test)]
mod golden {
    use super::*;

    t3fs_runtime::samples! { "/src/golden/features.txt":
        struct FeaturesV1 { compatible, readonly_compatible, incompatible }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: each kind of bit refuses what it should, by number, and what is known passes.
    #[test]
    fn unknown_bits_are_refused_by_kind() {
        let known =
            Known { of: "it", readonly_compatible: &[(1, "one")], incompatible: &[(63, "two")] };
        let of = |compatible, readonly_compatible, incompatible| FeaturesV1 {
            compatible,
            readonly_compatible,
            incompatible,
        };
        for passes in [of(0, 0, 0), of(u64::MAX, 0, 0), of(0, 2, 1 << 63)] {
            assert_eq!(known.check(&passes), Ok(()));
        }
        let readonly = of(0, 2 | 1 << 7, 0);
        assert_eq!(known.check_reading(&readonly), Ok(()));
        assert!(known.check(&readonly).unwrap_err().contains("read-only compatible: 7)"));
        let none = of(0, 0, 1 << 63 | 1 | 1 << 5);
        for refused in [known.check(&none), known.check_reading(&none)] {
            assert!(refused.unwrap_err().contains("(incompatible: 0, 5)"));
        }
        assert!(STORE.check(&of(0, 0, 1)).is_err() && TARGET.check(&of(0, 1, 0)).is_err());
    }

    #[test]
    fn records_come_back_and_none_has_no_bits() {
        let record = FeaturesV1 { compatible: 1, readonly_compatible: 2, incompatible: 3 };
        assert_eq!(FeaturesV1::open(Some(&record.seal())), Ok(record));
        assert_eq!(FeaturesV1::open(None), Ok(FeaturesV1::default()));
        assert_eq!(FeaturesV1::default().seal()[..], NONE);
        let mut later = record.seal().to_vec();
        later[2] = 2;
        assert!(FeaturesV1::open(Some(&later)).unwrap_err().contains("later format"));
        assert!(FeaturesV1::open(Some(b"x")).is_err());
    }
}
