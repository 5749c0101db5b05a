//! Granule checksums, the digest of a chunk, and checksum pages.
//!
//! The sum of a granule is the CRC32C of its 4 KiB, the last one of a chunk padded with zeros; a
//! CRC of 0 is kept as 1. A granule of nothing but zeros has sum 0 and is never read from disk, so
//! a hole and written zeros are the same and the digest is a function of the content alone:
//! CRC32C over `len` (u32) and the sums of all granules in order, little-endian.
//!
//! ```text
//! checksum page, 4 KiB, little-endian
//!    0  u32   magic "t3cp"
//!    4  u32   crc32c of bytes 8..4096
//!    8  u64   inode of the chunk
//!   16  u32   index of the chunk
//!   20  u32   which page of the chunk
//!   24  8 B   zeros
//!   32  256 * u32   granule sums; granules behind the end of the chunk have 0
//! 1056  zeros
//! ```

use std::rc::Rc;

use t3fs_runtime::wire::crc32c;

use super::layout::{GRANULE, PAGE_GRANULES};
use crate::proto::ids::ChunkId;

/// The sums of one MiB.
pub type Page = Rc<[u32; PAGE_GRANULES as usize]>;

const MAGIC: u32 = u32::from_le_bytes(*b"t3cp");
const SUMS_AT: usize = 32;

static ZEROS: [u8; GRANULE] = [0; GRANULE];

/// The sum of one whole granule.
pub fn granule_sum(granule: &[u8]) -> u32 {
    assert_eq!(granule.len(), GRANULE);
    // The first bytes tell nearly every written granule from zeros; a run of zeros is compared.
    if granule[..16] == ZEROS[..16] && granule == ZEROS {
        return 0;
    }
    crc32c(granule).max(1)
}

/// The digest that replicas compare.
pub fn digest(len: u32, sums: &[u32]) -> u32 {
    let mut bytes = Vec::with_capacity(4 + 4 * sums.len());
    bytes.extend_from_slice(&len.to_le_bytes());
    for s in sums {
        bytes.extend_from_slice(&s.to_le_bytes());
    }
    crc32c(&bytes)
}

/// Writes a checksum page into `out` (4 KiB of zeros).
pub fn encode_page(chunk: ChunkId, page: u32, sums: &[u32], out: &mut [u8]) {
    assert!(out.len() == GRANULE && sums.len() <= PAGE_GRANULES as usize);
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[8..16].copy_from_slice(&chunk.inode.0.to_le_bytes());
    out[16..20].copy_from_slice(&chunk.index.to_le_bytes());
    out[20..24].copy_from_slice(&page.to_le_bytes());
    for (i, s) in sums.iter().enumerate() {
        out[SUMS_AT + 4 * i..][..4].copy_from_slice(&s.to_le_bytes());
    }
    let crc = crc32c(&out[8..]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a checksum page; `None` when it is damaged or of another chunk.
pub fn decode_page(chunk: ChunkId, page: u32, bytes: &[u8]) -> Option<Page> {
    let u32_at = |i: usize| u32::from_le_bytes(bytes[i..i + 4].try_into().expect("4"));
    let inode = u64::from_le_bytes(bytes[8..16].try_into().expect("8"));
    let ours = u32_at(0) == MAGIC
        && inode == chunk.inode.0
        && u32_at(16) == chunk.index
        && u32_at(20) == page
        && u32_at(4) == crc32c(&bytes[8..GRANULE]);
    ours.then(|| Rc::new(core::array::from_fn(|i| u32_at(SUMS_AT + 4 * i))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ids::InodeId;

    #[test]
    fn zeros_sum_to_zero_and_nothing_else_does() {
        assert_eq!(granule_sum(&[0; GRANULE]), 0);
        let mut g = [0; GRANULE];
        g[GRANULE - 1] = 1;
        assert_ne!(granule_sum(&g), 0);
    }

    /// Goal: no damaged or foreign page is believed. Method: flip every byte.
    #[test]
    fn a_damaged_page_is_refused() {
        let chunk = ChunkId { inode: InodeId(7), index: 3 };
        let mut bytes = vec![0; GRANULE];
        encode_page(chunk, 1, &[5, 6, 7], &mut bytes);
        let page = decode_page(chunk, 1, &bytes).expect("as written");
        assert_eq!(page[..4], [5, 6, 7, 0]);
        assert!(decode_page(chunk, 0, &bytes).is_none());
        assert!(decode_page(ChunkId { index: 4, ..chunk }, 1, &bytes).is_none());
        for i in 0..GRANULE {
            bytes[i] ^= 1;
            assert!(decode_page(chunk, 1, &bytes).is_none(), "byte {i}");
            bytes[i] ^= 1;
        }
    }
}
