//! Who a target is: one small file, written once.
//!
//! ```text
//!    0  u32   crc32c of bytes 8 .. 8 + length
//!    4  u32   length of what follows
//!    8  sealed value (see `runtime::wire`), type 0x0501, version = format version of the target:
//!       rkyv of SuperblockV1 { cluster: String, target: u32, chain: u32, uuid: [u64; 2] }
//!       zeros to the feature record
//! 2048  u32   crc32c of bytes 2056 .. 2056 + length
//! 2052  u32   length of what follows
//! 2056  sealed FeaturesV1 (see `crate::features`)
//!       zeros to 4 KiB
//! ```
//! Earlier builds wrote zeros from the end of the identity on: no features, and did not look. Who
//! sets the first bit that is not compatible raises [`FORMAT`] of that target too.
//! It is written under a temporary name, synced, renamed, and the folder synced; a folder without
//! it is no target.

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::wire::{self, WireError, crc32c};

use super::layout::GRANULE;
use crate::features::{self, FeaturesV1};
use crate::proto::ids::{ChainId, TargetId};

/// Who a target is, kept in its superblock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetIdentity {
    pub cluster: String,
    pub target: TargetId,
    pub chain: ChainId,
}

const KIND: u16 = 0x0501;
/// Version of everything below a target's folder.
pub const FORMAT: u16 = 1;
/// Where the feature record is.
const FEATURES_AT: usize = 2048;
const DAMAGED: &str = "its superblock is damaged; restore the target from its chain";

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct SuperblockV1 {
    pub cluster: String,
    pub target: u32,
    pub chain: u32,
    pub uuid: [u64; 2],
}

pub fn encode(id: &TargetIdentity, uuid: [u64; 2]) -> Vec<u8> {
    let (target, chain) = (id.target.0, id.chain.0);
    let s = SuperblockV1 { cluster: id.cluster.clone(), target, chain, uuid };
    let body = wire::seal(KIND, FORMAT, &s);
    assert!(8 + body.len() <= FEATURES_AT, "the cluster's name is too long");
    let mut out = vec![0; GRANULE];
    put(&body, &mut out[..FEATURES_AT]);
    put(&FeaturesV1::default().seal(), &mut out[FEATURES_AT..]);
    out
}

/// Lays out a sealed value behind its checksum and length.
fn put(body: &[u8], out: &mut [u8]) {
    out[8..8 + body.len()].copy_from_slice(body);
    out[0..4].copy_from_slice(&crc32c(body).to_le_bytes());
    out[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
}

/// The sealed value that [`put`] has laid out, if it is undamaged.
pub(super) fn take(bytes: &[u8]) -> Option<&[u8]> {
    let u32_at = |i: usize| Some(u32::from_le_bytes(*bytes.get(i..i + 4)?.first_chunk()?));
    let body = bytes.get(8..)?.get(..u32_at(4)? as usize)?;
    (crc32c(body) == u32_at(0)?).then_some(body)
}

/// The features of a target; earlier builds wrote none.
fn features(bytes: &[u8]) -> Result<FeaturesV1, String> {
    let record = bytes.get(FEATURES_AT..GRANULE).ok_or(DAMAGED)?;
    if record.iter().all(|byte| *byte == 0) {
        return Ok(FeaturesV1::default());
    }
    FeaturesV1::open(Some(take(record).ok_or(DAMAGED)?))
}

/// A sealed value as a block that shows whether it is whole.
pub(super) fn block(body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; (8 + body.len()).next_multiple_of(GRANULE)];
    put(body, &mut out);
    out
}

/// Reads a superblock; a refusal is a sentence that says what to do.
pub fn read(bytes: &[u8]) -> Result<SuperblockV1, String> {
    let body = bytes.get(..FEATURES_AT).and_then(take).ok_or(DAMAGED)?;
    match wire::open(KIND, FORMAT, body) {
        Ok(s) => Ok(s),
        Err(WireError::Version { found, .. }) if found > FORMAT => Err(format!(
            "it was written by a newer t3fs (format {found}, this build knows {FORMAT}); start a \
             newer build"
        )),
        Err(e) => Err(format!("{DAMAGED} ({e})")),
    }
}

/// Reads a superblock and compares it.
pub fn check(bytes: &[u8], expect: &TargetIdentity) -> Result<SuperblockV1, String> {
    let s = read(bytes)?;
    if s.cluster != expect.cluster {
        return Err(format!(
            "it belongs to cluster {:?}, not to {:?}; give another data folder",
            s.cluster, expect.cluster
        ));
    }
    if (s.target, s.chain) != (expect.target.0, expect.chain.0) {
        return Err(format!(
            "it holds target {} of chain {}, expected target {} of chain {}; were the data \
             folders mixed up?",
            s.target, s.chain, expect.target, expect.chain
        ));
    }
    features::TARGET.check(&features(bytes)?)?;
    Ok(s)
}

#[cfg(test)]
mod golden {
    use super::*;

    t3fs_runtime::samples! { "/src/storage/engine/golden/superblock.txt":
        struct SuperblockV1 { cluster, target, chain, uuid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> TargetIdentity {
        TargetIdentity { cluster: "home".into(), target: TargetId(5), chain: ChainId(9) }
    }

    /// Goal: a target is used only with features that are known, and one of an earlier build has
    /// none. Method: each kind of bit, no record, and a record that is damaged.
    #[test]
    fn features_that_are_not_known() {
        let plain = encode(&id(), [1, 2]);
        let with = |features: FeaturesV1| {
            let mut b = plain.clone();
            put(&features.seal(), &mut b[FEATURES_AT..]);
            check(&b, &id())
        };
        let none = FeaturesV1::default();
        assert!(with(FeaturesV1 { compatible: 1, ..none }).is_ok());
        let why = with(FeaturesV1 { incompatible: 8, ..none }).expect_err("unknown");
        assert!(why.contains("the target has features") && why.contains("incompatible: 3"));
        assert!(with(FeaturesV1 { readonly_compatible: 1, ..none }).is_err());
        let mut earlier = plain.clone();
        earlier[FEATURES_AT..].fill(0);
        assert!(check(&earlier, &id()).is_ok());
        let record = FEATURES_AT..FEATURES_AT + 8 + none.seal().len();
        for i in record {
            let mut bad = plain.clone();
            bad[i] ^= 1;
            assert!(check(&bad, &id()).is_err(), "byte {i}");
        }
    }

    #[test]
    fn refuses_what_is_not_ours_and_says_why() {
        let b = encode(&id(), [1, 2]);
        assert_eq!(check(&b, &id()).map(|s| s.uuid), Ok([1, 2]));
        let why = |e: TargetIdentity| check(&b, &e).expect_err("not ours");
        assert!(why(TargetIdentity { cluster: "x".into(), ..id() }).contains("cluster \"home\""));
        assert!(why(TargetIdentity { target: TargetId(6), ..id() }).contains("target 5"));
        let mut newer = b.clone();
        newer[10] = 2;
        let body = u32::from_le_bytes(b[4..8].try_into().expect("4")) as usize;
        let crc = crc32c(&newer[8..8 + body]);
        newer[..4].copy_from_slice(&crc.to_le_bytes());
        assert!(check(&newer, &id()).expect_err("newer").contains("newer t3fs (format 2"));
        for i in 0..8 + body {
            let mut bad = b.clone();
            bad[i] ^= 1;
            assert!(check(&bad, &id()).is_err(), "byte {i}");
        }
    }
}
