//! What must survive when the file system's process is killed, and a check that it did.
//!
//! `crash-writer` does random operations below one folder of the mount and logs each, outside the
//! mount, before it begins and after it ended (`log.rs`). Then somebody kills the file system.
//! After its restart `verify.rs` compares what is there with what the log promises: every byte that
//! an acknowledged fsync covered, and a namespace that is the outcome of a prefix of the
//! operations, no shorter than up to the last acknowledged fsync. `model.rs` is the namespace after
//! a prefix; `writer.rs` does the operations.

pub mod log;
pub mod model;
pub mod verify;
pub mod writer;

/// Content of a write: position and seed decide every byte, so any range can be checked by itself.
pub fn content(seed: u64, offset: u64, bytes: &mut [u8]) {
    for (position, byte) in (offset..).zip(bytes) {
        let mut word = (position / 8).wrapping_add(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^= word >> 31;
        *byte = word.to_le_bytes()[(position % 8) as usize];
    }
}
