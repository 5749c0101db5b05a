//! Who a target is: one small file, written once.
//!
//! ```text
//!    0  u32   crc32c of bytes 8 .. 8 + length
//!    4  u32   length of what follows
//!    8  sealed value (see `runtime::wire`), type 0x0501, version = format version of the target:
//!       rkyv of SuperblockV1 { cluster: String, target: u32, chain: u32, uuid: [u64; 2] }
//!       zeros to 4 KiB
//! ```
//! It is written under a temporary name, synced, renamed, and the folder synced; a folder without
//! it is no target.

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::wire::{self, WireError, crc32c};

use super::layout::GRANULE;
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
    block(&wire::seal(KIND, FORMAT, &s))
}

/// A sealed value as a block that shows whether it is whole.
pub(super) fn block(body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; (8 + body.len()).next_multiple_of(GRANULE)];
    out[8..8 + body.len()].copy_from_slice(body);
    out[0..4].copy_from_slice(&crc32c(body).to_le_bytes());
    out[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
    out
}

/// The sealed value of a block, if that is whole.
pub(super) fn body(bytes: &[u8]) -> Option<&[u8]> {
    let u32_at = |i: usize| Some(u32::from_le_bytes(bytes.get(i..i + 4)?.try_into().expect("4")));
    let body = bytes.get(8..)?.get(..u32_at(4)? as usize)?;
    (Some(crc32c(body)) == u32_at(0)).then_some(body)
}

/// Reads a superblock; a refusal is a sentence that says what to do.
pub fn read(bytes: &[u8]) -> Result<SuperblockV1, String> {
    let damaged = "its superblock is damaged; restore the target from its chain";
    let body = body(bytes).ok_or(damaged)?;
    match wire::open(KIND, FORMAT, body) {
        Ok(s) => Ok(s),
        Err(WireError::Version { found, .. }) if found > FORMAT => Err(format!(
            "it was written by a newer t3fs (format {found}, this build knows {FORMAT}); start \
                 a newer build"
        )),
        Err(e) => Err(format!("{damaged} ({e})")),
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
    Ok(s)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> TargetIdentity {
        TargetIdentity { cluster: "home".into(), target: TargetId(5), chain: ChainId(9) }
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
