//! Packets of a queue pair (`transport/src/rdma/packet.rs`), and one side of such a connection
//! (`transport/src/rdma/engine/`) against a peer that sends any packets, without a device.
//!
//! What must hold: a packet that is taken is laid out as the same bytes; a side comes to rest after
//! each packet, asks for no more memory than what it was sent allows, and gives all of its
//! registered memory back when the connection ends.

use t3fs_runtime::wire::{Crc32c, Frame, FrameKind, Payload, crc32c};
use t3fs_runtime::{Lane, NodeId};
use t3fs_transport::fuzzing::{RdmaSide, TRANSFERRED, packet_again};

use crate::input::Input;
use crate::memory::measured;

const PACKET: usize = 8 << 10;
const HEAD: usize = 16;
/// A frame's beginning, in which the head that TCP has too begins after 8 bytes.
const FRAME: usize = 56;
const LANDING: usize = 16;
const SEGMENT: usize = 24;
const PACKETS_MAX: usize = 32;
/// Memory for what has been announced by a packet: frames and segments are small, what they speak
/// of is fetched into registered memory, and copied from there.
const MEMORY_MIN: usize = 24 << 20;

/// Bytes as they are, or with checksums and length put right.
pub fn any_packet(input: &[u8]) {
    let mut input = Input::new(input);
    let right = input.byte() & 1 == 1;
    let mut packet = input.0.to_vec();
    if right && packet.len() >= HEAD {
        let len = (packet.len() as u16).to_le_bytes();
        packet[4..6].copy_from_slice(&len);
        put_frames_right(&mut packet[HEAD..]);
        seal(&mut packet);
    }
    let (again, asked) = measured(|| packet_again(&packet));
    assert!(asked <= 2 * PACKET + 1024, "a packet asked for {asked} bytes");
    if let Ok(again) = again {
        assert_eq!(again, packet, "what was read is not what it is written as");
    }
}

fn seal(packet: &mut [u8]) {
    let crc = crc32c(&packet[4..]);
    packet[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The checksums of all heads, as far as lengths lead.
fn put_frames_right(mut items: &mut [u8]) {
    loop {
        let len = match items {
            [2, ..] => SEGMENT,
            [1, way, landings, ..] => {
                let (way, landings) = (*way, usize::from(*landings));
                let Some(head) = items.get_mut(8..FRAME) else { return };
                let crc = crc32c(&head[4..]);
                head[..4].copy_from_slice(&crc.to_le_bytes());
                let word =
                    |i: usize| u32::from_le_bytes(head[i..i + 4].try_into().expect("4")) as usize;
                let rest = if way & 1 == 0 { 4 * word(36) + word(32) } else { 0 };
                let payload = if way >> 1 == 0 { word(40) } else { 0 };
                FRAME + LANDING * landings + rest + payload
            }
            _ => return,
        };
        let Some(next) = items.get_mut(len..) else { return };
        items = next;
    }
}

/// A peer that knows the rules, and breaks them where the input says so.
pub fn any_peer(input: &[u8]) {
    let mut input = Input::new(input);
    let mut side = RdmaSide::new(ours(&mut input));
    let (mut sequence, mut packets) = (0, 0);
    let mut held = Vec::new();
    let (ended, asked) = measured(|| {
        side.step(None)?;
        while !input.is_empty() && packets < PACKETS_MAX {
            packets += 1;
            let packet = packet(&mut input, &mut sequence);
            let arrived = side.step(Some(&packet))?;
            // Kept, as an actor may, or dropped.
            if input.byte() & 1 == 0 {
                held.extend(arrived);
            }
        }
        Ok::<_, String>(())
    });
    let _ = ended;
    let most = MEMORY_MIN + packets * 64 * PACKET;
    assert!(asked <= most, "{packets} packets asked for {asked} bytes");
    drop(held);
    assert_eq!(side.end(), 0, "registered memory is lost");
}

/// What this side has to send: asks with room for replies, and something large.
fn ours(input: &mut Input) -> Vec<Frame> {
    let frame = |kind, ask, body: usize, reply_room| Frame {
        kind,
        lane: Lane::Bulk,
        shard: 2,
        slot: 1,
        epoch: 1,
        from_node: NodeId(9),
        from_shard: 3,
        ask,
        ttl_us: 1_000_000,
        reply_room,
        caller: None,
        older: None,
        payload: Payload { body: vec![7; body].into(), bulks: Vec::new() },
    };
    let what = input.byte();
    let mut frames = Vec::new();
    if what & 1 != 0 {
        frames.push(frame(FrameKind::Ask, 1, 10, 40_000));
    }
    if what & 2 != 0 {
        frames.push(frame(FrameKind::Ask, 2, 10, 400_000));
    }
    if what & 4 != 0 {
        frames.push(frame(FrameKind::Tell, 0, 300_000, 0));
    }
    frames
}

fn packet(input: &mut Input, sequence: &mut u32) -> Vec<u8> {
    let mut p = vec![0; HEAD];
    p[6] = input.byte() % 8; // credits
    let released = input.byte();
    (p[8], p[10]) = (released & 1, released >> 4 & 3);
    for _ in 0..1 + input.byte() % 4 {
        let before = p.len();
        match input.byte() % 4 {
            0 => segment(input, &mut p),
            _ => frame(input, &mut p, sequence),
        }
        if p.len() > PACKET {
            p.truncate(before);
        }
    }
    let damaged = input.byte().is_multiple_of(8);
    if damaged {
        input.damage(&mut p);
    }
    let len = (p.len() as u16).to_le_bytes();
    p[4..6].copy_from_slice(&len);
    seal(&mut p);
    p
}

/// So many bytes as transfers bring them.
fn transferred(len: usize) -> Vec<u8> {
    (0..len).map(|i| TRANSFERRED[i % TRANSFERRED.len()]).collect()
}

fn segment(input: &mut Input, p: &mut Vec<u8>) {
    let (lane, len) = (input.byte() % 2, input.size() as u32);
    p.extend_from_slice(&[2, lane, 0, 0]);
    p.extend_from_slice(&len.to_le_bytes());
    p.extend_from_slice(&input.u32().to_le_bytes());
    p.extend_from_slice(&crc32c(&transferred(len as usize)).to_le_bytes());
    p.extend_from_slice(&input.u64().to_le_bytes());
}

fn frame(input: &mut Input, p: &mut Vec<u8>, sequence: &mut u32) {
    let bits = input.byte();
    let (in_segments, way) = (bits & 1, bits >> 1 & 3);
    let (kind, lane) = (bits >> 3 & 3, bits >> 5 & 1);
    let (ask, landings) = (u64::from(input.byte() % 4), input.byte() % 6);
    let (body, bulks) = (input.size(), usize::from(input.byte() % 16));
    // Lengths that are fetched are ones.
    let lengths: Vec<u32> =
        (0..bulks).map(|_| if in_segments == 1 { 1 } else { input.size() as u32 }).collect();
    let payload: usize = lengths.iter().map(|l| *l as usize).sum();
    let mut rest: Vec<u8> = lengths.iter().flat_map(|l| l.to_le_bytes()).collect();
    rest.extend_from_slice(&transferred(body));
    let mut landed = Crc32c::default();
    landed.update(&transferred(payload));
    p.extend_from_slice(&[1, in_segments | way << 1, landings, 0]);
    p.extend_from_slice(&landed.value().to_le_bytes());
    let mut head = [0; 48];
    (head[4], head[5]) = (kind, lane);
    head[12..16].copy_from_slice(&sequence.to_le_bytes());
    head[16..24].copy_from_slice(&ask.to_le_bytes());
    head[32..36].copy_from_slice(&(body as u32).to_le_bytes());
    head[36..40].copy_from_slice(&(bulks as u32).to_le_bytes());
    head[40..44].copy_from_slice(&(payload as u32).to_le_bytes());
    head[44..48].copy_from_slice(&crc32c(&rest).to_le_bytes());
    let crc = crc32c(&head[4..]);
    head[..4].copy_from_slice(&crc.to_le_bytes());
    p.extend_from_slice(&head);
    for _ in 0..landings {
        p.extend_from_slice(&input.u64().to_le_bytes());
        p.extend_from_slice(&input.u32().to_le_bytes());
        p.extend_from_slice(&(input.size() as u32).to_le_bytes());
    }
    if in_segments == 0 {
        p.extend_from_slice(&rest);
    }
    if way == 0 && p.len() + payload <= PACKET {
        p.extend_from_slice(&transferred(payload));
    }
    *sequence += u32::from(p.len() <= PACKET);
}
