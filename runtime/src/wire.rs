//! Bytes that leave a process: the `{type, version}` envelope around rkyv, and frames.
//!
//! rkyv has no evolution of its own (bytes of one struct may pass validation as another), so every
//! stored value and every frame body starts with two little-endian `u16`: what it is, and which
//! version of that. Archived types are frozen as `FooV1`; golden files pin them.
//!
//! ```text
//! sealed value   [type u16][version u16][rkyv bytes ...]
//! frame          [magic u32 "t3f1"][crc32c u32 of all that follows]
//!                [kind u8][lane u8][shard u16][slot u16][from_shard u16][epoch u32]
//!                [from_node u32][ask u64][ttl_us u64][bulks u32][body u32]
//!                [bulk lengths u32 * bulks][body ...][bulk bytes ...]
//! ```

use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::{Archive, Deserialize, Serialize};

use crate::addr::NodeId;
use crate::buf::{Bulk, Carry};
use crate::caller::{Caller, GROUPS_MAX};
use crate::lane::Lane;
pub use crate::wire_error::WireError;

/// Types that can be archived and restored with this workspace's one rkyv format.
pub trait Wire:
    Sized
    + Archive<
        Archived: for<'a> CheckBytes<HighValidator<'a, Error>>
                      + Deserialize<Self, HighDeserializer<Error>>,
    > + for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>>
{
}

impl<T> Wire for T where
    T: Sized
        + Archive<
            Archived: for<'a> CheckBytes<HighValidator<'a, Error>>
                          + Deserialize<T, HighDeserializer<Error>>,
        > + for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>>
{
}

/// A value as stored or sent: envelope, then rkyv.
pub fn seal<T: Wire>(kind: u16, version: u16, value: &T) -> Vec<u8> {
    seal_in_scratch(kind, version, value, <[u8]>::to_vec)
}

thread_local! {
    /// Room to seal in: how long a value gets is not known before.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// More room than that is not kept.
const SCRATCH_MAX: usize = 64 << 10;

fn seal_in_scratch<T: Wire, R>(
    kind: u16,
    version: u16,
    value: &T,
    take: impl FnOnce(&[u8]) -> R,
) -> R {
    let mut out = SCRATCH.take();
    out.clear();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&version.to_le_bytes());
    let out = rkyv::api::high::to_bytes_in::<_, Error>(value, out);
    let out = out.expect("in-memory serialisation cannot fail");
    let taken = take(&out);
    if out.capacity() <= SCRATCH_MAX {
        SCRATCH.set(out);
    }
    taken
}

/// What an envelope says it holds.
pub fn envelope(bytes: &[u8]) -> Result<(u16, u16), WireError> {
    match bytes {
        [a, b, c, d, ..] => Ok((u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]))),
        _ => Err(WireError::Short { have: bytes.len(), need: 4 }),
    }
}

/// Opens a sealed value of exactly this type and version.
pub fn open<T: Wire>(kind: u16, version: u16, bytes: &[u8]) -> Result<T, WireError> {
    let (k, v) = envelope(bytes)?;
    if k != kind {
        return Err(WireError::Type { want: kind, found: k });
    }
    if v != version {
        return Err(WireError::Version { kind, newest: version, found: v });
    }
    rkyv::from_bytes::<T, Error>(&bytes[4..]).map_err(|_| WireError::Corrupt("rkyv validation"))
}

/// A message or reply in transit: sealed body and its payloads.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Payload {
    pub body: Bytes,
    pub bulks: Vec<Bulk>,
}

impl Payload {
    /// Bytes of all of it.
    pub fn size(&self) -> usize {
        self.body.len() + self.bulks.iter().map(|b| b.len()).sum::<usize>()
    }
}

/// Seals a message and takes its payloads out.
pub fn pack<T: Wire + Carry>(kind: u16, version: u16, mut value: T) -> Payload {
    let mut bulks = Vec::new();
    value.bulks(&mut |b| bulks.push(std::mem::take(b)));
    Payload { body: seal_in_scratch(kind, version, &value, Bytes::copy_from_slice), bulks }
}

/// Opens a message and puts its payloads back.
pub fn unpack<T: Wire + Carry>(kind: u16, version: u16, p: Payload) -> Result<T, WireError> {
    let mut value: T = open(kind, version, &p.body)?;
    let mut rest = p.bulks.into_iter();
    let mut missing = false;
    value.bulks(&mut |b| match rest.next() {
        Some(x) => *b = x,
        None => missing = true,
    });
    if missing || rest.next().is_some() {
        return Err(WireError::Corrupt("number of payloads"));
    }
    Ok(value)
}

/// Why the receiver did not take an ask: the body of a [`FrameKind::Refused`] frame is its number.
/// A number that a later build has made up says no more than that it was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Refusal {
    /// The address is of another incarnation of the process. An earlier one may have handled what
    /// a link has repeated.
    OtherIncarnation = 1,
    NoSuchActor = 2,
    /// Its deadline had passed before it was begun.
    Late = 3,
    /// Not a message, or not one of this protocol.
    Unreadable = 4,
    /// A message, or a version of one, that the receiver does not know yet.
    Unknown = 5,
}

impl Refusal {
    pub fn payload(self) -> Payload {
        Payload { body: Bytes::copy_from_slice(&[self as u8]), bulks: Vec::new() }
    }

    pub fn of(payload: &Payload) -> Option<Refusal> {
        let all = [
            Refusal::OtherIncarnation,
            Refusal::NoSuchActor,
            Refusal::Late,
            Refusal::Unreadable,
            Refusal::Unknown,
        ];
        all.into_iter().find(|r| payload.body[..] == [*r as u8])
    }

    /// What whoever asked is told.
    pub fn says(self) -> &'static str {
        match self {
            Refusal::OtherIncarnation => "the receiver has restarted",
            Refusal::NoSuchActor => "no such actor",
            Refusal::Late => "deadline passed before it was handled",
            Refusal::Unreadable => "the receiver cannot read it",
            Refusal::Unknown => "the receiver is older and does not know it yet",
        }
    }
}

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    Ask,
    /// A message that wants no reply.
    Tell,
    Reply,
    /// The receiver did not take the ask: see [`Refusal`].
    Refused,
    /// An ask with a [`Caller`] in front of its message.
    AskFor,
}

impl FrameKind {
    /// By its number on the wire.
    pub fn of(number: u8) -> Option<FrameKind> {
        use FrameKind::{Ask, AskFor, Refused, Reply, Tell};
        [Ask, Tell, Reply, Refused, AskFor].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// What two processes speak with each other: how frames are carried, and the messages. Grows by one
/// whenever a message gets another version, or carrying another rule. Peers agree at connect on the
/// most that both know.
///
/// 1: frames over TCP. 2: queue pairs (`transport/src/links/agree.rs`). 3: callers.
pub const SPOKEN_MAX: u16 = 3;
/// From here on frames may name their callers.
const SPOKEN_CALLER: u16 = 3;
/// The least that this build still speaks.
pub const SPOKEN_MIN: u16 = 1;

/// A message as an earlier build knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Older {
    /// Those who speak this or more know the newest version.
    pub until: u16,
    pub payload: Payload,
}

/// One message between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    pub lane: Lane,
    /// Receiving shard, slot and incarnation.
    pub shard: u16,
    pub slot: u16,
    pub epoch: u32,
    pub from_node: NodeId,
    pub from_shard: u16,
    /// The sender's number for the ask; a reply repeats it.
    pub ask: u64,
    /// Time left until the sender stops waiting.
    pub ttl_us: u64,
    /// See [`Carry::reply_room`]: for the sender's link, not on the wire.
    pub reply_room: usize,
    pub payload: Payload,
    /// In whose name an ask is; in the body once the frame is settled.
    pub caller: Option<Arc<Caller>>,
    /// What goes instead to peers that speak less: for the sender's link, not on the wire.
    pub older: Option<Box<Older>>,
}

const MAGIC: u32 = u32::from_le_bytes(*b"t3f1");
const HEAD: usize = 48;
/// Largest frame body and largest payload taken from a peer.
pub const BODY_MAX: usize = 16 << 20;
pub const BULK_MAX: usize = 64 << 20;
pub const BULKS_MAX: usize = 1024;
const _: () = assert!(SPOKEN_MIN <= SPOKEN_MAX && SCRATCH_MAX <= BODY_MAX);
// A caller with all its groups leaves most of a body to the message.
const _: () = assert!(4 * GROUPS_MAX < BODY_MAX / 4);

impl Frame {
    /// Settles what goes to a peer that speaks so much: which version of the message, and whether
    /// its caller does.
    pub fn settle(&mut self, spoken: u16) {
        if let Some(older) = self.older.take_if(|older| spoken < older.until) {
            self.payload = older.payload;
        }
        self.older = None;
        let caller = self.caller.take().filter(|_| spoken >= SPOKEN_CALLER);
        if let (FrameKind::Ask, Some(caller)) = (self.kind, caller) {
            self.kind = FrameKind::AskFor;
            self.payload.body = caller.before(&self.payload.body);
        }
    }

    /// The caller of an ask, taken off its body.
    pub(crate) fn take_caller(&mut self) -> Result<Option<Arc<Caller>>, WireError> {
        if self.kind != FrameKind::AskFor {
            return Ok(None);
        }
        let (caller, body) = Caller::split(std::mem::take(&mut self.payload.body))?;
        (self.kind, self.payload.body) = (FrameKind::Ask, body);
        Ok(Some(caller))
    }

    pub fn encode(&self) -> Vec<u8> {
        let bulk: usize = self.payload.bulks.iter().map(|b| b.len()).sum();
        let n = self.payload.bulks.len();
        let mut o = Vec::with_capacity(HEAD + 4 * n + self.payload.body.len() + bulk);
        o.extend_from_slice(&MAGIC.to_le_bytes());
        o.extend_from_slice(&[0; 4]);
        o.push(self.kind as u8);
        o.push(self.lane as u8);
        o.extend_from_slice(&self.shard.to_le_bytes());
        o.extend_from_slice(&self.slot.to_le_bytes());
        o.extend_from_slice(&self.from_shard.to_le_bytes());
        o.extend_from_slice(&self.epoch.to_le_bytes());
        o.extend_from_slice(&self.from_node.0.to_le_bytes());
        o.extend_from_slice(&self.ask.to_le_bytes());
        o.extend_from_slice(&self.ttl_us.to_le_bytes());
        o.extend_from_slice(&(n as u32).to_le_bytes());
        o.extend_from_slice(&(self.payload.body.len() as u32).to_le_bytes());
        debug_assert_eq!(o.len(), HEAD);
        for b in &self.payload.bulks {
            o.extend_from_slice(&(b.len() as u32).to_le_bytes());
        }
        o.extend_from_slice(&self.payload.body);
        for b in &self.payload.bulks {
            o.extend_from_slice(b);
        }
        let crc = crc32c(&o[8..]);
        o[4..8].copy_from_slice(&crc.to_le_bytes());
        o
    }

    pub fn decode(bytes: Bytes) -> Result<Frame, WireError> {
        if bytes.len() < HEAD {
            return Err(WireError::Short { have: bytes.len(), need: HEAD });
        }
        let u16_at = |i: usize| u16::from_le_bytes(bytes[i..i + 2].try_into().expect("2"));
        let u32_at = |i: usize| u32::from_le_bytes(bytes[i..i + 4].try_into().expect("4"));
        let u64_at = |i: usize| u64::from_le_bytes(bytes[i..i + 8].try_into().expect("8"));
        if u32_at(0) != MAGIC {
            return Err(WireError::Corrupt("magic"));
        }
        if u32_at(4) != crc32c(&bytes[8..]) {
            return Err(WireError::Corrupt("frame checksum"));
        }
        let kind = FrameKind::of(bytes[8]).ok_or(WireError::Corrupt("frame kind"))?;
        let lane = match bytes[9] {
            0 => Lane::Control,
            1 => Lane::Bulk,
            _ => return Err(WireError::Corrupt("lane")),
        };
        let (n, body_len) = (u32_at(40) as usize, u32_at(44) as usize);
        if n > BULKS_MAX || body_len > BODY_MAX {
            return Err(WireError::Corrupt("frame lengths"));
        }
        let mut at = HEAD + 4 * n;
        if bytes.len() < at + body_len {
            return Err(WireError::Short { have: bytes.len(), need: at + body_len });
        }
        let lengths: Vec<usize> = (0..n).map(|i| u32_at(HEAD + 4 * i) as usize).collect();
        let body = bytes.slice(at..at + body_len);
        at += body_len;
        let mut bulks = Vec::with_capacity(n);
        for len in lengths {
            if len > BULK_MAX || bytes.len() < at + len {
                return Err(WireError::Short { have: bytes.len(), need: at + len });
            }
            bulks.push(Bulk(bytes.slice(at..at + len)));
            at += len;
        }
        if at != bytes.len() {
            return Err(WireError::Corrupt("bytes behind the frame"));
        }
        Ok(Frame {
            kind,
            lane,
            shard: u16_at(10),
            slot: u16_at(12),
            from_shard: u16_at(14),
            epoch: u32_at(16),
            from_node: NodeId(u32_at(20)),
            ask: u64_at(24),
            ttl_us: u64_at(32),
            reply_room: 0,
            older: None,
            caller: None,
            payload: Payload { body, bulks },
        })
    }
}

/// A CRC32C over bytes that come piece by piece.
pub struct Crc32c(crc_fast::Digest);

impl Default for Crc32c {
    fn default() -> Self {
        Crc32c(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }
}

impl Crc32c {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// CRC32C (Castagnoli, RFC 3720), the one checksum of frames, granules and journal blocks.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame {
            kind: FrameKind::Ask,
            lane: Lane::Bulk,
            shard: 3,
            slot: 9,
            epoch: 77,
            from_node: NodeId(5),
            from_shard: 1,
            ask: 1 << 40,
            ttl_us: 123_456,
            reply_room: 0,
            older: None,
            caller: None,
            payload: Payload {
                body: Bytes::from_static(b"body"),
                bulks: vec![vec![1u8; 5000].into(), Bulk::default(), vec![2u8; 3].into()],
            },
        }
    }

    /// Goal: what was sent is what arrives. Method: one round trip with empty and odd payloads.
    #[test]
    fn a_frame_comes_back() {
        assert_eq!(Frame::decode(frame().encode().into()), Ok(frame()));
    }

    /// Goal: no damaged frame is taken for a good one. Method: flip each byte, cut at each length.
    #[test]
    fn a_damaged_frame_is_refused() {
        let good = frame().encode();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 0x40;
            assert!(Frame::decode(bad.into()).is_err(), "byte {i} flipped");
            assert!(Frame::decode(good[..i].to_vec().into()).is_err(), "cut to {i}");
        }
    }

    #[test]
    fn crc32c_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        let mut pieces = Crc32c::default();
        pieces.update(b"1234");
        pieces.update(b"56789");
        assert_eq!(pieces.value(), 0xE306_9283);
    }

    #[test]
    fn an_envelope_names_type_and_version() {
        let b = seal(7, 2, &String::from("x"));
        assert_eq!(open::<String>(7, 2, &b), Ok("x".into()));
        assert_eq!(open::<String>(8, 2, &b), Err(WireError::Type { want: 8, found: 7 }));
        assert!(matches!(open::<String>(7, 1, &b), Err(WireError::Version { .. })));
        assert!(matches!(open::<String>(7, 2, &b[..3]), Err(WireError::Short { .. })));
    }
}
