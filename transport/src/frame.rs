//! A frame on the wire of a connection.
//!
//! ```text
//! head, 48 bytes     [crc32c u32 of the other 44][kind u8][lane u8][slot u16][epoch u32]
//!                    [sequence u32][ask u64][ttl_us u64][body u32][bulks u32]
//!                    [bulk bytes u32][crc32c u32 of lengths and body]
//! lengths            [u32 * bulks]
//! body               [...]
//! bulk bytes         [...]
//! bulk checksum      [crc32c u32 of the bulk bytes], only with bulk bytes
//! ```
//!
//! Nodes and shards are not in it: a connection belongs to one shard of each side, and the
//! handshake has said which. `sequence` counts the frames of a connection, so that one which is
//! repeated, left out or spliced in ends the connection.

use t3fs_runtime::Lane;
use t3fs_runtime::wire::{BODY_MAX, BULK_MAX, BULKS_MAX, FrameKind, crc32c};

pub(crate) const HEAD: usize = 48;

/// Kinds of frames on a connection: those of the runtime, and the link's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Message(FrameKind),
    Ping,
    Pong,
}

/// What stands at the beginning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) lane: Lane,
    pub(crate) slot: u16,
    pub(crate) epoch: u32,
    pub(crate) sequence: u32,
    pub(crate) ask: u64,
    pub(crate) ttl_us: u64,
    pub(crate) body: u32,
    pub(crate) bulks: u32,
    pub(crate) bulk_bytes: u32,
    pub(crate) rest_crc: u32,
}

impl Head {
    pub(crate) fn encode(&self) -> [u8; HEAD] {
        let mut o = self.lay_out();
        let crc = crc32c(&o[4..]);
        o[..4].copy_from_slice(&crc.to_le_bytes());
        o
    }

    /// With a checksum of 0.
    pub(crate) fn lay_out(&self) -> [u8; HEAD] {
        let mut o = [0; HEAD];
        o[4] = match self.kind {
            Kind::Message(k) => k as u8,
            Kind::Ping => 16,
            Kind::Pong => 17,
        };
        o[5] = self.lane as u8;
        o[6..8].copy_from_slice(&self.slot.to_le_bytes());
        o[8..12].copy_from_slice(&self.epoch.to_le_bytes());
        o[12..16].copy_from_slice(&self.sequence.to_le_bytes());
        o[16..24].copy_from_slice(&self.ask.to_le_bytes());
        o[24..32].copy_from_slice(&self.ttl_us.to_le_bytes());
        o[32..36].copy_from_slice(&self.body.to_le_bytes());
        o[36..40].copy_from_slice(&self.bulks.to_le_bytes());
        o[40..44].copy_from_slice(&self.bulk_bytes.to_le_bytes());
        o[44..48].copy_from_slice(&self.rest_crc.to_le_bytes());
        o
    }

    /// Opens a head; its lengths are within bounds afterwards. The error says what is wrong.
    pub(crate) fn decode(b: &[u8; HEAD]) -> Result<Head, &'static str> {
        if b[..4] != crc32c(&b[4..]).to_le_bytes() {
            return Err("corrupt frame head");
        }
        Head::parse(b)
    }

    /// The same where something else vouches for the bytes: its checksum is not looked at.
    pub(crate) fn parse(b: &[u8; HEAD]) -> Result<Head, &'static str> {
        let u16_at = |i: usize| u16::from_le_bytes(b[i..i + 2].try_into().expect("2"));
        let u32_at = |i: usize| u32::from_le_bytes(b[i..i + 4].try_into().expect("4"));
        let u64_at = |i: usize| u64::from_le_bytes(b[i..i + 8].try_into().expect("8"));
        let kind = match b[4] {
            16 => Kind::Ping,
            17 => Kind::Pong,
            n => Kind::Message(FrameKind::of(n).ok_or("unknown kind of frame")?),
        };
        let lane = match b[5] {
            0 => Lane::Control,
            1 => Lane::Bulk,
            _ => return Err("unknown lane"),
        };
        let head = Head {
            kind,
            lane,
            slot: u16_at(6),
            epoch: u32_at(8),
            sequence: u32_at(12),
            ask: u64_at(16),
            ttl_us: u64_at(24),
            body: u32_at(32),
            bulks: u32_at(36),
            bulk_bytes: u32_at(40),
            rest_crc: u32_at(44),
        };
        if !fits(head.body as usize, head.bulks as usize, head.bulk_bytes as usize) {
            return Err("larger than a frame may be");
        }
        if head.bulks == 0 && head.bulk_bytes != 0 {
            return Err("bytes of no payload");
        }
        if matches!(kind, Kind::Ping | Kind::Pong) && head != Head::bare(kind, head.sequence) {
            return Err("a ping that carries something");
        }
        Ok(head)
    }

    /// A frame of the link itself: nothing but its kind.
    pub(crate) fn bare(kind: Kind, sequence: u32) -> Head {
        Head {
            kind,
            lane: Lane::Control,
            slot: 0,
            epoch: 0,
            sequence,
            ask: 0,
            ttl_us: 0,
            body: 0,
            bulks: 0,
            bulk_bytes: 0,
            rest_crc: 0,
        }
    }

    /// Bytes of lengths and body.
    pub(crate) fn rest(&self) -> usize {
        4 * self.bulks as usize + self.body as usize
    }
}

/// Whether a frame of these sizes may be sent. All payloads of a frame together are bounded.
pub(crate) fn fits(body: usize, bulks: usize, bulk_bytes: usize) -> bool {
    body <= BODY_MAX && bulks <= BULKS_MAX && bulk_bytes <= BULK_MAX
}

/// The lengths of a frame's payloads, which must add up to what its head says.
pub(crate) fn lengths(table: &[u8], bulk_bytes: u32) -> Result<Vec<usize>, &'static str> {
    let each = table.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("4")));
    let lengths: Vec<usize> = each.map(|n| n as usize).collect();
    match lengths.iter().sum::<usize>() == bulk_bytes as usize {
        true => Ok(lengths),
        false => Err("payload lengths do not add up"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        Head {
            kind: Kind::Message(FrameKind::Reply),
            lane: Lane::Bulk,
            slot: 0x0102,
            epoch: 0x0304_0506,
            sequence: 7,
            ask: 0x0a0b_0c0d_0e0f_1011,
            ttl_us: 99,
            body: 5,
            bulks: 2,
            bulk_bytes: 1 << 20,
            rest_crc: 0xdead_beef,
        }
    }

    /// Goal: the format stays what it is. Method: bytes written down once.
    #[test]
    fn the_head_is_golden() {
        let bytes = head().encode();
        let golden = "02010201060504030700000011100f0e0d0c0b0a\
                      6300000000000000050000000200000000001000efbeadde";
        let hex: String = bytes[4..].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, golden);
        assert_eq!(Head::decode(&bytes), Ok(head()));
    }

    #[test]
    fn a_damaged_head_is_refused() {
        let good = head().encode();
        for bit in 0..8 * HEAD {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn sizes_are_bounded_and_agree() {
        let big = Head { bulk_bytes: BULK_MAX as u32 + 1, ..head() };
        assert!(Head::decode(&big.encode()).is_err());
        let many = Head { bulks: BULKS_MAX as u32 + 1, ..head() };
        assert!(Head::decode(&many.encode()).is_err());
        let long = Head { body: BODY_MAX as u32 + 1, ..head() };
        assert!(Head::decode(&long.encode()).is_err());
        let nobodys = Head { bulks: 0, ..head() };
        assert!(Head::decode(&nobodys.encode()).is_err(), "bytes of no payload");
        let ping = Head::bare(Kind::Ping, 7);
        assert_eq!(Head::decode(&ping.encode()), Ok(ping));
        assert!(Head::decode(&Head { ask: 1, ..ping }.encode()).is_err(), "a ping of something");
        assert_eq!(lengths(&[1, 0, 0, 0, 2, 0, 0, 0], 3), Ok(vec![1, 2]));
        assert!(lengths(&[1, 0, 0, 0, 2, 0, 0, 0], 4).is_err());
    }

    proptest! {
        /// Goal: no bytes break the decoder, even with a right checksum.
        #[test]
        fn any_head_is_parsed_or_refused(bytes: [u8; HEAD]) {
            let _ = Head::decode(&bytes);
            let mut sealed = bytes;
            sealed[4] %= 20;
            sealed[5] %= 3;
            let crc = crc32c(&sealed[4..]);
            sealed[..4].copy_from_slice(&crc.to_le_bytes());
            if let Ok(h) = Head::decode(&sealed) {
                prop_assert_eq!(h.encode(), sealed);
                prop_assert!(h.rest() <= 4 * BULKS_MAX + BODY_MAX);
            }
        }
    }
}
