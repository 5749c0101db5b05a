//! Connections over TCP after their handshake: frames out of bytes (`transport/src/tcp/reader.rs`).
//!
//! What must hold: the reader ends by itself; what it delivers, written again, are the bytes it has
//! read; it asks for no more memory than a first piece and a multiple of what has come.

use std::rc::Rc;

use bytes::BytesMut;
use t3fs_runtime::wire::{Frame, FrameKind, Payload, crc32c};
use t3fs_runtime::{Lane, NodeId};
use t3fs_transport::fuzzing::{Item, TcpReader, tcp_write};

use crate::input::Input;
use crate::memory::measured;
use crate::wires::{Tape, Wire, run};

const HEAD: usize = 48;
/// Memory for what has not come yet: the landing buffer, and the first piece of something big.
const AHEAD_MAX: usize = 5 << 20;
/// Memory for a byte that has come: an empty payload of four bytes is a `Bytes` in a `Vec` that
/// grows.
const FACTOR: usize = 24;
/// Frames and bytes of one input, so that it takes milliseconds.
const FRAMES_MAX: usize = 16;
const BYTES_MAX: usize = 128 << 10;
/// Longer connections come in big pieces.
const SLOW_MAX: usize = 16 << 10;

/// Bytes as they are, or with what no fuzzer guesses put right.
pub fn any_bytes(input: &[u8]) {
    let mut input = Input::new(input);
    let (right, piece, early) = (input.byte(), input.byte(), input.byte());
    let mut stream = input.0.to_vec();
    put_right(&mut stream, right);
    check(stream, piece, usize::from(early));
}

/// Frames as a peer sends them, then damaged: what is delivered is what was sent, up to the damage.
pub fn damaged_frames(input: &[u8]) {
    let mut input = Input::new(input);
    let (right, piece, early) = (input.byte(), input.byte(), input.byte());
    let cut = input.u32() as usize;
    let damages: [u8; 16] = input.array();
    let (mut items, mut bytes) = (Vec::new(), 0);
    while !input.is_empty() && items.len() < FRAMES_MAX && bytes < BYTES_MAX {
        let item = item(&mut input);
        if let Item::Frame(frame) = &item {
            bytes += frame.payload.body.len();
            bytes += frame.payload.bulks.iter().map(|b| b.len()).sum::<usize>();
        }
        items.push(item);
    }
    let mut stream = tcp_write(&items);
    let damaged = Input::new(&damages).damage(&mut stream);
    let whole = cut.is_multiple_of(2);
    if !whole {
        stream.truncate(cut / 2 % (stream.len() + 1));
    }
    put_right(&mut stream, right);
    let got = check(stream, piece, usize::from(early));
    if right == 0 || !damaged {
        assert!(got.len() <= items.len() && got[..] == items[..got.len()], "not what was sent");
    }
    if whole && !damaged {
        assert_eq!(got.len(), items.len(), "something was lost");
    }
}

fn item(input: &mut Input) -> Item {
    let what = input.byte();
    let kind = match what % 8 {
        0 => return Item::Ping,
        1 => return Item::Pong,
        2 | 3 => FrameKind::Ask,
        4 => FrameKind::Tell,
        5 | 6 => FrameKind::Reply,
        _ => FrameKind::Refused,
    };
    let lane = if what & 8 == 0 { Lane::Control } else { Lane::Bulk };
    let mut payload = Payload { body: vec![input.byte(); input.size()].into(), bulks: Vec::new() };
    // Few payloads, or as many as a frame may have and nothing in them.
    let bulks = match input.byte() {
        few @ 0..=7 => usize::from(few),
        many => usize::from(many) * 4,
    };
    for i in 0..bulks {
        let len = if i < 8 { input.size() } else { 0 };
        payload.bulks.push(vec![i as u8; len].into());
    }
    Item::Frame(Frame {
        kind,
        lane,
        shard: 3,
        slot: input.u16(),
        epoch: input.u32(),
        from_node: NodeId(1),
        from_shard: 2,
        ask: input.u64(),
        ttl_us: input.u64(),
        reply_room: 0,
        caller: None,
        older: None,
        payload,
    })
}

/// Reads a connection to its end.
fn check(stream: Vec<u8>, piece: u8, early: usize) -> Vec<Item> {
    let bytes = stream.clone();
    let (land, tape) = stream.split_at(early.min(stream.len()));
    let piece = if bytes.len() > SLOW_MAX { 7 * (piece % 2) } else { piece };
    let wire = Rc::new(Wire::new(Tape(tape.to_vec()), piece));
    let (items, asked) = measured(|| {
        let mut reader = TcpReader::new(wire.clone(), BytesMut::from(land));
        let mut items = Vec::new();
        while let Ok(item) = run(reader.next()) {
            items.push(item);
        }
        items
    });
    let most = AHEAD_MAX + FACTOR * bytes.len();
    assert!(asked <= most, "{} bytes made it ask for {asked} bytes of memory", bytes.len());
    let again = tcp_write(&items);
    assert!(bytes.starts_with(&again), "what was read is not what it is written as");
    items
}

/// Bits of the input's first byte: what is put right.
const HEADS: u8 = 1;
const SEQUENCE: u8 = 2;
const BODIES: u8 = 4;
const SUMS: u8 = 8;
const PAYLOADS: u8 = 16;

/// Puts checksums, sequence numbers and sums right, frame by frame, as far as the lengths in the
/// heads lead. The layout is drawn in `transport/src/frame.rs`.
fn put_right(mut stream: &mut [u8], what: u8) {
    for sequence in 0u32.. {
        if stream.len() < HEAD {
            return;
        }
        let word = |b: &[u8], i: usize| u32::from_le_bytes(b[i..i + 4].try_into().expect("4"));
        let (body, bulks) = (word(stream, 32) as usize, word(stream, 36) as usize);
        let (table, rest) = (HEAD + 4 * bulks, HEAD + 4 * bulks + body);
        let here = rest <= stream.len();
        if here && what & SUMS != 0 {
            let lengths = stream[HEAD..table].chunks_exact(4);
            let sum: usize = lengths.map(|c| word(c, 0) as usize).sum();
            stream[40..44].copy_from_slice(&(sum as u32).to_le_bytes());
        }
        if here && what & BODIES != 0 {
            let crc = crc32c(&stream[HEAD..rest]);
            stream[44..48].copy_from_slice(&crc.to_le_bytes());
        }
        if what & SEQUENCE != 0 {
            stream[12..16].copy_from_slice(&sequence.to_le_bytes());
        }
        if what & HEADS != 0 {
            let crc = crc32c(&stream[4..HEAD]);
            stream[..4].copy_from_slice(&crc.to_le_bytes());
        }
        let bytes = word(stream, 40) as usize;
        let (payload, end) = (rest + bytes, rest + bytes + if bytes > 0 { 4 } else { 0 });
        if end > stream.len() {
            return;
        }
        if bytes > 0 && what & PAYLOADS != 0 {
            let crc = crc32c(&stream[rest..payload]);
            stream[payload..end].copy_from_slice(&crc.to_le_bytes());
        }
        stream = &mut stream[end..];
    }
}
