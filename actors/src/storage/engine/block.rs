//! Checksummed blocks: the container of journal groups and of checkpoint slices.
//!
//! ```text
//! all integers little-endian; a block begins at a multiple of 4 KiB
//!    0  u32   magic: "t3jb" in a journal, "t3cb" in a checkpoint
//!    4  u32   crc32c of bytes 8 .. 32 + payload length
//!    8  u32   payload length
//!   12  u32   epoch: grows by one each time the target is opened
//!   16  u64   block sequence: one more than the block before
//!   24  u64   journal: update sequence number (usn) of the first record, the n-th has n more;
//!             checkpoint: rows in all blocks up to and with this one
//!   32  payload, then zeros to the next multiple of 4 KiB
//! ```

use t3fs_runtime::wire::crc32c;

use super::layout::GRANULE;

pub const HEADER: usize = 32;
pub const JOURNAL: u32 = u32::from_le_bytes(*b"t3jb");
pub const CHECKPOINT: u32 = u32::from_le_bytes(*b"t3cb");

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub magic: u32,
    pub payload: u32,
    pub epoch: u32,
    pub seq: u64,
    pub first: u64,
}

/// Bytes on disk of a block with this payload.
pub fn block_len(payload: usize) -> usize {
    (HEADER + payload).next_multiple_of(GRANULE)
}

/// Lays a block out in `out`, whose length is [`block_len`] of the payload.
pub fn seal(magic: u32, epoch: u32, seq: u64, first: u64, payload: &[u8], out: &mut [u8]) {
    assert_eq!(out.len(), block_len(payload.len()));
    out[0..4].copy_from_slice(&magic.to_le_bytes());
    out[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    out[12..16].copy_from_slice(&epoch.to_le_bytes());
    out[16..24].copy_from_slice(&seq.to_le_bytes());
    out[24..32].copy_from_slice(&first.to_le_bytes());
    let end = HEADER + payload.len();
    out[HEADER..end].copy_from_slice(payload);
    let crc = crc32c(&out[8..end]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// What the first 32 bytes say, before the checksum was looked at.
pub fn header(bytes: &[u8], magic: u32) -> Option<Header> {
    let u32_at = |i: usize| u32::from_le_bytes(bytes[i..i + 4].try_into().expect("4"));
    let u64_at = |i: usize| u64::from_le_bytes(bytes[i..i + 8].try_into().expect("8"));
    if bytes.len() < HEADER || u32_at(0) != magic {
        return None;
    }
    Some(Header {
        magic,
        payload: u32_at(8),
        epoch: u32_at(12),
        seq: u64_at(16),
        first: u64_at(24),
    })
}

/// The payload of the whole block at the start of `bytes`, if it is undamaged.
pub fn open(bytes: &[u8], magic: u32) -> Option<(Header, &[u8])> {
    let h = header(bytes, magic)?;
    let end = HEADER.checked_add(h.payload as usize)?;
    let body = bytes.get(8..end)?;
    let crc = u32::from_le_bytes(bytes[4..8].try_into().expect("4"));
    (crc == crc32c(body)).then(|| (h, &bytes[HEADER..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no damaged block is believed. Method: flip each byte, cut at each sector.
    #[test]
    fn a_damaged_block_is_refused() {
        let payload: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        let mut b = vec![0; block_len(payload.len())];
        seal(JOURNAL, 3, 77, 1000, &payload, &mut b);
        let (h, p) = open(&b, JOURNAL).expect("as written");
        assert_eq!((h.epoch, h.seq, h.first, p), (3, 77, 1000, &payload[..]));
        assert!(open(&b, CHECKPOINT).is_none());
        for i in 0..HEADER + payload.len() {
            b[i] ^= 4;
            assert!(open(&b, JOURNAL).is_none(), "byte {i}");
            b[i] ^= 4;
        }
        for cut in (0..HEADER + payload.len()).step_by(512) {
            let mut torn = b.clone();
            torn[cut..].fill(0);
            assert!(open(&torn, JOURNAL).is_none(), "cut at {cut}");
        }
    }
}
