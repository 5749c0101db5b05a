//! What one SEND carries: whole frames side by side, and what the sender has opened for the
//! receiver to fetch.
//!
//! ```text
//! packet    [crc32c u32 of all that follows][length u16, head included][credits returned u16]
//!           [segments released: control u16, bulk u16][0 u32][items ...]     little-endian
//! frame     [1 u8][way u8][landings u8][0 u8][crc32c u32 of a landed payload]
//!           [head, 48 bytes, as over TCP, but its checksums are 0]
//!           [{address u64, key u32, length u32} * landings]
//!           [lengths and body, unless in segments][payload, if inline]
//! segment   [2 u8][lane u8][0 u16][length u32][key u32][crc32c u32][address u64]
//! ```
//!
//! The packet's checksum stands for all that is in it, those of segments and landings for what is
//! elsewhere, so a frame has none of its own.
//!
//! `way` says how a frame's bytes travel: bit 0: lengths and body are in segments; bits 1 and 2:
//! the payload is inline (0), in segments (1) or landed (2), that is in the receiver's memory
//! already. The segments of a frame follow it, in this packet or later ones, before the next frame
//! of its lane: first those of lengths and body, then those of the payload.

use t3fs_runtime::Lane;
use t3fs_runtime::wire::crc32c;

use super::nic::{PACKET, Remote};
use crate::frame::{self, Head};

pub(crate) const HEAD: usize = 16;
/// A frame without its bytes.
pub(crate) const FRAME: usize = 8 + frame::HEAD;
pub(crate) const LANDING: usize = 16;
pub(crate) const SEGMENT: usize = 24;
/// Memory that an ask may offer for the payload of its reply, in pieces.
pub(crate) const LANDINGS_MAX: usize = 4;
/// Segments of a lane that may be announced and not released.
pub(crate) const SEGMENTS_MAX: usize = 32;
/// Room for items.
pub(crate) const ROOM: usize = PACKET - HEAD;
// A packet's length is a u16. An ask with all its landings fits, and a lane's segments.
const _: () = assert!(PACKET <= u16::MAX as usize);
const _: () = assert!(FRAME + LANDINGS_MAX * LANDING <= ROOM && SEGMENTS_MAX * SEGMENT <= ROOM);

const ITEM_FRAME: u8 = 1;
const ITEM_SEGMENT: u8 = 2;

/// How a frame's payload travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Inline,
    Segments,
    Landed,
}

/// Memory of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) remote: Remote,
    pub(crate) len: u32,
}

/// Memory that the receiver fetches, and what must be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) region: Region,
    pub(crate) crc: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FrameItem<'a> {
    pub(crate) head: Head,
    /// Lengths and body are in segments.
    pub(crate) rest_in_segments: bool,
    pub(crate) way: Way,
    pub(crate) landed_crc: u32,
    pub(crate) landings: Vec<Region>,
    pub(crate) rest: &'a [u8],
    pub(crate) payload: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Frame(FrameItem<'a>),
    Segment(Lane, Segment),
}

/// What stands at the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PacketHead {
    pub(crate) credits: u16,
    /// By lane.
    pub(crate) released: [u16; 2],
}

/// Lays a packet out in the memory given, and no longer than that.
pub(crate) struct Builder<'a> {
    into: &'a mut [u8],
    len: usize,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(into: &'a mut [u8]) -> Builder<'a> {
        let len = into.len().min(PACKET);
        Builder { into: &mut into[..len], len: HEAD }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == HEAD
    }

    /// Bytes that still fit.
    pub(crate) fn room(&self) -> usize {
        self.into.len() - self.len
    }

    fn put(&mut self, bytes: &[u8]) {
        self.into[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// The beginning of a frame; its inline bytes follow by [`Builder::bytes`].
    pub(crate) fn frame(
        &mut self,
        head: &Head,
        rest_in_segments: bool,
        way: Way,
        landed_crc: u32,
        landings: &[Region],
    ) {
        let way = u8::from(rest_in_segments) | (way as u8) << 1;
        self.put(&[ITEM_FRAME, way, landings.len() as u8, 0]);
        self.put(&landed_crc.to_le_bytes());
        self.put(&head.lay_out());
        for l in landings {
            self.put(&l.remote.address.to_le_bytes());
            self.put(&l.remote.key.to_le_bytes());
            self.put(&l.len.to_le_bytes());
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.put(bytes);
    }

    pub(crate) fn segment(&mut self, lane: Lane, s: &Segment) {
        self.put(&[ITEM_SEGMENT, lane as u8, 0, 0]);
        self.put(&s.region.len.to_le_bytes());
        self.put(&s.region.remote.key.to_le_bytes());
        self.put(&s.crc.to_le_bytes());
        self.put(&s.region.remote.address.to_le_bytes());
    }

    /// Completes the packet; its length.
    pub(crate) fn seal(self, head: PacketHead) -> usize {
        let Builder { into, len } = self;
        into[4..6].copy_from_slice(&(len as u16).to_le_bytes());
        into[6..8].copy_from_slice(&head.credits.to_le_bytes());
        into[8..10].copy_from_slice(&head.released[0].to_le_bytes());
        into[10..12].copy_from_slice(&head.released[1].to_le_bytes());
        into[12..16].fill(0);
        let crc = crc32c(&into[4..len]);
        into[..4].copy_from_slice(&crc.to_le_bytes());
        len
    }
}

/// A packet that has come: its items, one after the other.
pub(crate) struct Items<'a> {
    rest: &'a [u8],
}

/// Opens a packet. The error says what is wrong.
pub(crate) fn open(bytes: &[u8]) -> Result<(PacketHead, Items<'_>), &'static str> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>().filter(|_| bytes.len() <= PACKET)
    else {
        return Err("a packet of impossible length");
    };
    let u16_at = |i: usize| u16::from_le_bytes([head[i], head[i + 1]]);
    if usize::from(u16_at(4)) != bytes.len() || head[..4] != crc32c(&bytes[4..]).to_le_bytes() {
        return Err("corrupt packet");
    }
    if head[12..] != [0; 4] {
        return Err("a packet against the rules");
    }
    Ok((PacketHead { credits: u16_at(6), released: [u16_at(8), u16_at(10)] }, Items { rest }))
}

const CUT_OFF: &str = "an item that is cut off";

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(CUT_OFF)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], &'static str> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(CUT_OFF)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, &'static str> {
        self.array().map(|[byte]| *byte)
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(|bytes| u16::from_le_bytes(*bytes))
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

impl<'a> Items<'a> {
    /// The next item, whole; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Item<'a>>, &'static str> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut b = Cursor(self.rest);
        let item = match b.u8()? {
            ITEM_FRAME => Item::Frame(frame_item(&mut b)?),
            ITEM_SEGMENT => segment_item(&mut b)?,
            _ => return Err("unknown kind of item"),
        };
        self.rest = b.0;
        Ok(Some(item))
    }
}

fn frame_item<'a>(b: &mut Cursor<'a>) -> Result<FrameItem<'a>, &'static str> {
    let [bits, landings, zero, crc @ ..] = *b.array::<7>()?;
    let (landings, landed_crc) = (usize::from(landings), u32::from_le_bytes(crc));
    let head = b.array::<{ frame::HEAD }>()?;
    let own_checksum = head[..4] != [0; 4];
    let head = Head::parse(head)?;
    let rest_in_segments = bits & 1 != 0;
    let way = match bits >> 1 {
        0 => Way::Inline,
        1 => Way::Segments,
        2 => Way::Landed,
        _ => return Err("unknown way of a payload"),
    };
    let payload = head.bulk_bytes as usize;
    let inline = way == Way::Inline;
    let checksums = own_checksum || head.rest_crc != 0;
    if landings > LANDINGS_MAX
        || zero != 0
        || checksums
        || (rest_in_segments && inline && payload > 0)
    {
        return Err("a frame against the rules");
    }
    let mut offered = Vec::new();
    for _ in 0..landings {
        let (address, key, len) = (b.u64()?, b.u32()?, b.u32()?);
        offered.push(Region { remote: Remote { address, key }, len });
    }
    let rest = b.take(if rest_in_segments { 0 } else { head.rest() })?;
    let payload = b.take(if inline { payload } else { 0 })?;
    Ok(FrameItem { head, rest_in_segments, way, landed_crc, landings: offered, rest, payload })
}

fn segment_item<'a>(b: &mut Cursor<'_>) -> Result<Item<'a>, &'static str> {
    let lane = match b.u8()? {
        0 => Lane::Control,
        1 => Lane::Bulk,
        _ => return Err("unknown lane"),
    };
    if b.u16()? != 0 {
        return Err("a segment against the rules");
    }
    let (len, key, crc, address) = (b.u32()?, b.u32()?, b.u32()?, b.u64()?);
    let region = Region { remote: Remote { address, key }, len };
    Ok(Item::Segment(lane, Segment { region, crc }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use t3fs_runtime::wire::FrameKind;

    use super::*;
    use crate::frame::Kind;

    fn head(body: u32, bulks: u32, bulk_bytes: u32) -> Head {
        Head {
            kind: Kind::Message(FrameKind::Ask),
            lane: Lane::Bulk,
            slot: 1,
            epoch: 2,
            sequence: 3,
            ask: 4,
            ttl_us: 5,
            body,
            bulks,
            bulk_bytes,
            rest_crc: 0,
        }
    }

    fn region(n: u64) -> Region {
        Region { remote: Remote { address: 0x0102_0304 + n, key: 0x0a0b }, len: 77 }
    }

    fn packet() -> Vec<u8> {
        let mut bytes = vec![0xff; PACKET];
        let mut b = Builder::new(&mut bytes);
        b.frame(&head(4, 1, 3), false, Way::Inline, 0, &[region(0), region(1)]);
        b.bytes(b"\x03\0\0\0body");
        b.bytes(b"pay");
        b.frame(&head(1 << 20, 1, 9), true, Way::Segments, 0, &[]);
        b.segment(Lane::Bulk, &Segment { region: region(2), crc: 8 });
        let len = b.seal(PacketHead { credits: 7, released: [1, 2] });
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn items_come_back() {
        let bytes = packet();
        let (head_, mut items) = open(&bytes).unwrap();
        assert_eq!(head_, PacketHead { credits: 7, released: [1, 2] });
        let Some(Item::Frame(first)) = items.next().unwrap() else { panic!() };
        assert_eq!((first.rest, first.payload), (&b"\x03\0\0\0body"[..], &b"pay"[..]));
        assert_eq!(first.landings, [region(0), region(1)]);
        let Some(Item::Frame(second)) = items.next().unwrap() else { panic!() };
        assert!(second.rest_in_segments && second.way == Way::Segments && second.rest.is_empty());
        let third = Item::Segment(Lane::Bulk, Segment { region: region(2), crc: 8 });
        assert_eq!(items.next(), Ok(Some(third)));
        assert_eq!(items.next(), Ok(None));
    }

    /// Goal: the format stays what it is. Method: the bytes of one packet, written down once.
    #[test]
    fn the_packet_is_golden() {
        let mut bytes = vec![0; PACKET];
        let mut b = Builder::new(&mut bytes);
        b.segment(Lane::Control, &Segment { region: region(0), crc: 0x0c0d_0e0f });
        let len = b.seal(PacketHead { credits: 1, released: [2, 3] });
        let hex: String = bytes[4..len].iter().map(|b| format!("{b:02x}")).collect();
        let golden = "28000100020003000000000002000000\
                      4d0000000b0a00000f0e0d0c0403020100000000";
        assert_eq!(hex, golden.replace(' ', ""));
    }

    #[test]
    fn damage_is_noticed() {
        let good = packet();
        for bit in 0..8 * good.len() {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(open(&good[..len]).is_err());
        }
    }

    proptest! {
        /// Goal: no bytes break the parser, even with a right checksum.
        #[test]
        fn any_packet_is_parsed_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 17..400),
            first in 0..4u8,
        ) {
            bytes[12..16].fill(0);
            bytes[16] = first;
            let len = bytes.len();
            bytes[4..6].copy_from_slice(&(len as u16).to_le_bytes());
            let crc = crc32c(&bytes[4..]);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
            let (_, mut items) = open(&bytes).unwrap();
            let mut n = 0;
            while let Ok(Some(_)) = items.next() {
                n += 1;
            }
            prop_assert!(n <= len);
        }
    }
}
