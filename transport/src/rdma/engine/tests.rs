//! Goal: frames arrive whole, in the order of their lane, whatever their sizes and however little
//! memory, credits and buffers there are; a peer that breaks the rules ends the connection; all
//! memory comes back. Method: two engines on the stand-in for devices, driven by hand.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use t3fs_runtime::wire::{BODY_MAX, BULK_MAX, Frame, FrameKind, Payload};
use t3fs_runtime::{Lane, NodeId, Time};

use super::*;
use crate::frame::{Head, Kind};
use crate::limits::LinkLimits;
use crate::pool::HeapPool;
use crate::rdma::memory::RdmaPool;
use crate::rdma::nic::{Nic, Outcome};
use crate::rdma::packet::{Segment, Way};
use crate::rdma::soft::Wire;

struct Side {
    pair: Option<Rc<dyn QueuePair>>,
    engine: Engine,
    lanes: Lanes,
    dock: Dock,
    nic: Rc<dyn Nic>,
    arrived: Vec<Frame>,
    pongs: usize,
}

/// How much there is of everything.
#[derive(Clone, Copy, Debug)]
struct Size {
    pool: usize,
    slots: usize,
    credits: u16,
}

const PLENTY: Size = Size { pool: 16 << 20, slots: 64, credits: 16 };

impl Side {
    fn new(wire: &Wire, size: Size) -> Side {
        let pool = RdmaPool::new(size.pool).unwrap();
        let nic: Rc<dyn Nic> = Rc::new(wire.nic(&pool, size.slots).unwrap());
        let dock = Dock::new(Rc::clone(&nic), pool, HeapPool::default());
        let terms = Terms {
            credits: size.credits,
            granted: size.credits,
            reads_max: 4,
            send_queue: nic.send_queue(),
            segments_max: 16,
            copied_max: 256,
        };
        let ends = Ends { node: NodeId(7), shard: 1, here: 2 };
        Side {
            pair: Some(nic.queue_pair().unwrap()),
            engine: Engine::new(terms, ends),
            lanes: Lanes::new(&LinkLimits { queue_bytes: 256 << 20, ..LinkLimits::default() }),
            dock,
            nic,
            arrived: Vec::new(),
            pongs: 0,
        }
    }

    /// Takes what has completed and goes on; whether anything happened.
    fn turn(&mut self) -> Result<bool, Lost> {
        let mut completions = std::collections::VecDeque::new();
        let mut happened = self.nic.poll(&mut completions, 1) > 0;
        for c in completions {
            match c.outcome {
                Outcome::Received { slot, len } => {
                    let done = self.engine.on_packet(self.nic.received(slot, len), &self.dock);
                    self.nic.repost(slot);
                    done?;
                }
                Outcome::Done => self.engine.on_done(c.id, &self.dock)?,
                Outcome::Failed(why) => return Err(why.into()),
            }
        }
        while let Some(incoming) = self.engine.arrived() {
            happened = true;
            match incoming {
                Incoming::Frame(f) => self.arrived.push(f),
                Incoming::Ping => self.lanes.pong(),
                Incoming::Pong => self.pongs += 1,
            }
        }
        let before = self.engine.next_task;
        self.engine.pump(&mut self.lanes, &self.dock, &Time::default);
        happened |=
            self.engine.more || !self.engine.queued.is_empty() || self.engine.next_task > before;
        self.engine.post(&**self.pair.as_ref().unwrap())?;
        Ok(happened)
    }

    /// As a link does: at once if nothing is before it, else queued.
    fn send(&mut self, frame: &Frame) {
        let pair = &**self.pair.as_ref().unwrap();
        if !self.lanes.is_empty() || !self.engine.send_alone(frame, pair).unwrap() {
            self.lanes.push(frame.clone()).unwrap();
        }
    }

    fn used(&self) -> usize {
        self.dock.pool.bytes() - self.dock.pool.free_bytes()
    }

    /// The queue pair goes, then what it could reach.
    fn end(&mut self) {
        self.pair = None;
        let engine = Engine::new(self.engine.terms, self.engine.ends);
        self.engine = engine;
        self.arrived.clear();
    }
}

fn pair(size: Size) -> (Side, Side, Wire) {
    let wire = Wire::default();
    let (a, b) = (Side::new(&wire, size), Side::new(&wire, size));
    let (pa, pb) = (a.pair.as_ref().unwrap(), b.pair.as_ref().unwrap());
    pa.connect(&pb.endpoint()).unwrap();
    pb.connect(&pa.endpoint()).unwrap();
    (a, b, wire)
}

/// Until nothing happens any more.
fn run(a: &mut Side, b: &mut Side) -> Result<(), Lost> {
    for _ in 0..100_000 {
        let (in_a, in_b) = (a.turn()?, b.turn()?);
        if !in_a && !in_b {
            return Ok(());
        }
    }
    panic!("they never come to rest");
}

fn frame(kind: FrameKind, lane: Lane, ask: u64, body: usize, bulks: &[usize]) -> Frame {
    let fill = |n: usize, seed: u64| -> Bytes {
        (0..n)
            .map(|i| (i as u64 * 7 + i as u64 / 256).wrapping_add(seed) as u8)
            .collect::<Vec<_>>()
            .into()
    };
    Frame {
        kind,
        lane,
        shard: 2,
        slot: 3,
        epoch: 4,
        from_node: NodeId(7),
        from_shard: 1,
        ask,
        ttl_us: 1_000_000,
        reply_room: 0,
        caller: None,
        older: None,
        payload: Payload {
            body: fill(body, ask),
            bulks: bulks.iter().map(|n| fill(*n, !ask).into()).collect(),
        },
    }
}

fn of_lane(frames: &[Frame], lane: Lane) -> Vec<Frame> {
    frames.iter().filter(|f| f.lane == lane).cloned().collect()
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![0..200usize, 6_000..9_000usize, 15_000..80_000usize, 1_000_000..1_100_000usize]
}

fn some_frames() -> impl Strategy<Value = Vec<Frame>> {
    let bulks = proptest::collection::vec(sizes(), 0..4);
    let one = (any::<bool>(), sizes(), bulks).prop_map(|(control, body, bulks)| {
        let lane = if control { Lane::Control } else { Lane::Bulk };
        frame(FrameKind::Tell, lane, body as u64, body, &bulks)
    });
    proptest::collection::vec(one, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn frames_arrive_whole_and_in_order(
        from_a in some_frames(),
        from_b in some_frames(),
        pool in 1..5usize,
        slots in 1..8usize,
        credits in 4..20u16,
        turns in proptest::collection::vec(0..3u8, 12),
    ) {
        let (mut a, mut b, _) = pair(Size { pool: pool << 20, slots, credits });
        // With some turns in between, so that frames meet what is on its way.
        for (n, turns) in turns.into_iter().enumerate() {
            from_a.get(n).into_iter().for_each(|f| a.send(f));
            from_b.get(n).into_iter().for_each(|f| b.send(f));
            for _ in 0..turns {
                a.turn().unwrap();
                b.turn().unwrap();
            }
        }
        run(&mut a, &mut b).unwrap();
        for lane in LANES {
            prop_assert_eq!(of_lane(&b.arrived, lane), of_lane(&from_a, lane));
            prop_assert_eq!(of_lane(&a.arrived, lane), of_lane(&from_b, lane));
        }
        prop_assert!(a.engine.is_idle() && b.engine.is_idle());
        a.arrived.clear();
        b.arrived.clear();
        prop_assert_eq!((a.used(), b.used()), (0, 0), "all memory came back");
    }

    /// Asks offer landings, replies of all sizes use them or not.
    #[test]
    fn replies_land(rooms in proptest::collection::vec((sizes(), sizes()), 1..12)) {
        let (mut a, mut b, _) = pair(Size { pool: 8 << 20, ..PLENTY });
        for (n, (room, _)) in rooms.iter().enumerate() {
            let mut ask = frame(FrameKind::Ask, Lane::Bulk, n as u64, 10, &[]);
            ask.reply_room = *room;
            a.send(&ask);
        }
        run(&mut a, &mut b).unwrap();
        prop_assert_eq!(b.arrived.len(), rooms.len());
        let mut sent = Vec::new();
        for (n, (room, reply)) in rooms.iter().enumerate().rev() {
            let len = if n % 3 == 0 { *reply } else { (*reply).min(*room) };
            let body = if n % 4 == 0 { 20_000 } else { 10 };
            let bulks = [len / 3, 0, len - len / 3];
            sent.push(frame(FrameKind::Reply, Lane::Bulk, n as u64, body, &bulks));
        }
        sent.iter().for_each(|f| b.send(f));
        run(&mut a, &mut b).unwrap();
        prop_assert_eq!(&a.arrived, &sent);
        prop_assert!(a.engine.landings.is_empty() && b.engine.offers.is_empty());
        a.arrived.clear();
        prop_assert_eq!((a.used(), b.used()), (0, 0));
    }
}

/// Goal: small packets need no memory of the device and hardly any completions, and a stream of
/// them never stalls for want of either. Method: many times what the send queue holds, one at a
/// time.
#[test]
fn small_packets_are_silent() {
    let (mut a, mut b, _) = pair(PLENTY);
    let (mut told, mut silent_most) = (0, 0);
    for ask in 0..1000 {
        let sent = frame(FrameKind::Tell, Lane::Control, ask, 30, &[20]);
        let posted = a.engine.posted.len();
        match ask % 2 {
            0 => a.lanes.push(sent.clone()).unwrap(),
            _ => a.send(&sent),
        }
        assert_eq!(a.lanes.is_empty(), ask % 2 == 1, "it needs no queue");
        run(&mut a, &mut b).unwrap();
        assert_eq!((a.used(), b.used()), (0, 0), "copied when posted");
        assert_eq!(b.arrived.pop(), Some(sent));
        told += usize::from(a.engine.posted.len() <= posted);
        silent_most = silent_most.max(a.engine.posted.len());
    }
    let queue = a.engine.terms.send_queue;
    assert!(told >= 1000 / (queue / 4) - 1 && told < 100, "{told} of 1000 told");
    assert!(silent_most < queue / 4, "{silent_most} entries of {queue} are not known to be done");
}

/// Goal: what does not fit where it would be copied, and what shares a packet, takes registered
/// memory, until it is told to be sent.
#[test]
fn larger_packets_are_told() {
    let (mut a, mut b, _) = pair(PLENTY);
    let one = frame(FrameKind::Tell, Lane::Control, 1, 300, &[]);
    let many = (2..5).map(|ask| frame(FrameKind::Tell, Lane::Control, ask, 10, &[]));
    for batch in [vec![one], many.collect()] {
        batch.iter().for_each(|f| a.lanes.push(f.clone()).unwrap());
        a.engine.pump(&mut a.lanes, &a.dock, &Time::default);
        assert!(a.used() > 0);
        run(&mut a, &mut b).unwrap();
        assert_eq!((a.used(), a.engine.posted.len()), (0, 0));
        assert_eq!(std::mem::take(&mut b.arrived), batch);
    }
}

#[test]
fn payloads_move_one_sided() {
    let (mut a, mut b, _) = pair(PLENTY);
    let mut ask = frame(FrameKind::Ask, Lane::Bulk, 1, 10, &[1 << 20]);
    ask.reply_room = 1 << 20;
    a.lanes.push(ask).unwrap();
    run(&mut a, &mut b).unwrap();
    let got = b.arrived.pop().unwrap().payload.bulks.pop().unwrap();
    assert_eq!(b.engine.counts().bytes_read, 1 << 20);
    assert!(b.dock.pool.locate(&got), "it stays where it was fetched to");
    // Sent on as it is: no memory is taken for it.
    let before = b.used();
    let mut reply = frame(FrameKind::Reply, Lane::Bulk, 1, 10, &[]);
    reply.payload.bulks = vec![got.clone()];
    b.lanes.push(reply).unwrap();
    b.turn().unwrap();
    assert!(b.used() <= before + PACKET);
    run(&mut a, &mut b).unwrap();
    assert_eq!(b.engine.counts().bytes_written, 1 << 20);
    assert_eq!(a.arrived[0].payload.bulks[0], got);
    assert!(a.dock.pool.locate(&a.arrived[0].payload.bulks[0]));
}

/// Method: the largest frames through a pool much smaller than they are, both ways at once.
#[test]
fn the_largest_frames_pass() {
    let (mut a, mut b, _) = pair(Size { pool: 2 << 20, ..PLENTY });
    let big = [
        frame(FrameKind::Tell, Lane::Bulk, 1, 100, &[BULK_MAX]),
        frame(FrameKind::Tell, Lane::Control, 2, BODY_MAX, &[]),
        frame(FrameKind::Tell, Lane::Bulk, 3, 100, &[1000; 1024]),
    ];
    for f in &big {
        a.lanes.push(f.clone()).unwrap();
        b.lanes.push(f.clone()).unwrap();
    }
    run(&mut a, &mut b).unwrap();
    for arrived in [&a.arrived, &b.arrived] {
        assert_eq!(of_lane(arrived, Lane::Bulk), of_lane(&big, Lane::Bulk));
        assert_eq!(of_lane(arrived, Lane::Control), of_lane(&big, Lane::Control));
    }
}

/// Goal: who keeps payloads does not stop the others. Method: nothing that arrives is dropped.
#[test]
fn kept_payloads_leave_memory_for_others() {
    let (mut a, mut b, _) = pair(Size { pool: 4 << 20, ..PLENTY });
    for n in 0..32 {
        a.lanes.push(frame(FrameKind::Tell, Lane::Bulk, n, 10, &[1 << 20])).unwrap();
        run(&mut a, &mut b).unwrap();
    }
    assert_eq!(b.arrived.len(), 32);
    assert!(b.used() <= 2 << 20, "{} bytes", b.used());
}

#[test]
fn pings_are_answered_and_control_passes_bulk() {
    let (mut a, mut b, wire) = pair(PLENTY);
    a.lanes.push(frame(FrameKind::Tell, Lane::Bulk, 1, 10, &[30 << 20])).unwrap();
    for _ in 0..3 {
        a.turn().unwrap();
        b.turn().unwrap();
    }
    a.lanes.ping();
    a.lanes.push(frame(FrameKind::Tell, Lane::Control, 2, 10, &[])).unwrap();
    while b.arrived.is_empty() || a.pongs == 0 {
        a.turn().unwrap();
        b.turn().unwrap();
    }
    assert_eq!(b.arrived[0].lane, Lane::Control);
    run(&mut a, &mut b).unwrap();
    assert_eq!(b.arrived.len(), 2);
    drop(wire);
}

/// Goal: damage anywhere is noticed. Method: a byte of a packet, a fetched or a landed payload.
#[test]
fn damage_ends_the_connection() {
    for (what, expected) in [(0, "corrupt packet"), (1, "corrupt payload"), (2, "corrupt payload")]
    {
        let (mut a, mut b, wire) = pair(PLENTY);
        let mut ask = frame(FrameKind::Ask, Lane::Bulk, 1, 10, &[]);
        ask.reply_room = 100_000;
        a.lanes.push(ask).unwrap();
        run(&mut a, &mut b).unwrap();
        let kind = if what == 2 { FrameKind::Reply } else { FrameKind::Tell };
        b.lanes.push(frame(kind, Lane::Bulk, 1, 10, &[100_000])).unwrap();
        match what {
            0 => wire.flip_packet(60),
            _ => wire.flip_transfer(77_777),
        }
        assert_eq!(run(&mut a, &mut b), Err(expected.into()));
        assert!(a.arrived.is_empty());
    }
}

/// Goal: memory that is not open, or not open any more, is not reached. Method: a segment with a
/// wrong key, then one that was released.
#[test]
fn a_wrong_or_freed_region_is_refused() {
    let (mut a, mut b, _) = pair(PLENTY);
    a.lanes.push(frame(FrameKind::Tell, Lane::Bulk, 1, 10, &[50_000])).unwrap();
    a.turn().unwrap();
    let open: Vec<_> = a.engine.exposures.values().collect();
    let remote = Remote { address: open[0].piece.address(), key: 12345 };
    run(&mut a, &mut b).unwrap();
    for remote in [remote, Remote { key: remote.key + 1, ..remote }] {
        let piece = b.dock.take(Purpose::Fetch, 4096).unwrap();
        b.engine.queue(Doing::Read { lane: Lane::Bulk, into: piece, from: remote, last: true });
    }
    let lost = run(&mut a, &mut b).unwrap_err();
    assert!(lost.contains("open"), "{lost}");
}

#[test]
fn loss_gives_all_memory_back() {
    let (mut a, mut b, wire) = pair(PLENTY);
    let mut ask = frame(FrameKind::Ask, Lane::Bulk, 1, 10, &[3 << 20]);
    ask.reply_room = 1 << 20;
    a.lanes.push(ask).unwrap();
    a.turn().unwrap();
    b.turn().unwrap();
    assert!(a.used() > 0 && b.used() > 0);
    wire.break_pairs();
    assert!(a.turn().is_err() && b.turn().is_err());
    a.end();
    b.end();
    assert_eq!((a.used(), b.used()), (0, 0));
    assert_eq!(wire.pairs(), 0);
}

#[test]
fn landings_of_askers_that_gave_up_are_counted() {
    let (mut a, mut b, _) = pair(PLENTY);
    let mut ask = frame(FrameKind::Ask, Lane::Bulk, 1, 10, &[]);
    ask.reply_room = 1 << 20;
    a.lanes.push(ask).unwrap();
    run(&mut a, &mut b).unwrap();
    let late = Time::default() + Duration::from_secs(2);
    assert_eq!((a.engine.abandoned(Time::default()), a.engine.abandoned(late)), (0, 1 << 20));
    b.lanes.push(frame(FrameKind::Refused, Lane::Bulk, 1, 10, &[])).unwrap();
    run(&mut a, &mut b).unwrap();
    assert_eq!(a.engine.abandoned(late), 0);
    a.arrived.clear();
    assert_eq!(a.used(), 0);
}

fn head(kind: Kind, sequence: u32, bulk_bytes: u32) -> Head {
    let bulks = u32::from(bulk_bytes > 0);
    let (lane, slot, epoch, ask, ttl_us, body, rest_crc) = (Lane::Bulk, 0, 0, 9, 0, 0, 0);
    Head { kind, lane, slot, epoch, sequence, ask, ttl_us, body, bulks, bulk_bytes, rest_crc }
}

/// Goal: each rule that a peer can break ends the connection with its own reason. Method: packets
/// laid out by hand.
#[test]
fn rules_that_a_peer_can_break() {
    let tell = Kind::Message(FrameKind::Tell);
    let reply = Kind::Message(FrameKind::Reply);
    let region = Region { remote: Remote { address: 4096, key: 1 }, len: 100 };
    let segment = |len| Segment { region: Region { len, ..region }, crc: 0 };
    type Lay<'a> = &'a dyn Fn(&mut Builder<'_>);
    let cases: [(&str, PacketHead, Lay<'_>); 10] = [
        ("missing or repeated", PacketHead::default(), &|b| {
            b.frame(&head(tell, 1, 0), false, Way::Inline, 0, &[]);
        }),
        ("credits", PacketHead { credits: 1, ..Default::default() }, &|_| {}),
        ("released", PacketHead { released: [0, 1], ..Default::default() }, &|_| {}),
        ("segment of no frame", PacketHead::default(), &|b| b.segment(Lane::Bulk, &segment(5))),
        ("impossible length", PacketHead::default(), &|b| {
            b.frame(&head(tell, 0, 99), false, Way::Segments, 0, &[]);
            b.bytes(&99u32.to_le_bytes());
            b.segment(Lane::Bulk, &segment(100));
        }),
        ("more segments", PacketHead::default(), &|b| {
            b.frame(&head(tell, 0, 99), false, Way::Segments, 0, &[]);
            b.bytes(&99u32.to_le_bytes());
            (0..99).for_each(|_| b.segment(Lane::Bulk, &segment(1)));
        }),
        ("before the one before it", PacketHead::default(), &|b| {
            b.frame(&head(tell, 0, 99), false, Way::Segments, 0, &[]);
            b.bytes(&99u32.to_le_bytes());
            b.frame(&head(tell, 1, 0), false, Way::Inline, 0, &[]);
        }),
        ("not offered", PacketHead::default(), &|b| {
            b.frame(&head(reply, 0, 99), false, Way::Landed, 0, &[]);
            b.bytes(&99u32.to_le_bytes());
        }),
        ("do not add up", PacketHead::default(), &|b| {
            b.frame(&head(tell, 0, 99), false, Way::Segments, 0, &[]);
            b.bytes(&98u32.to_le_bytes());
        }),
        ("nothing in segments", PacketHead::default(), &|b| {
            b.frame(&head(tell, 0, 0), true, Way::Inline, 0, &[]);
        }),
    ];
    for (expected, packet_head, lay) in cases {
        let (_, mut b, _) = pair(PLENTY);
        let mut bytes = vec![0; PACKET];
        let mut builder = Builder::new(&mut bytes);
        lay(&mut builder);
        let len = builder.seal(packet_head);
        let why = b.engine.on_packet(&bytes[..len], &b.dock).unwrap_err();
        let sum = expected == "do not add up" && why.contains("corrupt");
        assert!(why.contains(expected) || sum, "{expected}: {why}");
    }
    let (_, mut b, _) = pair(PLENTY);
    let mut bytes = vec![0; PACKET];
    let len = Builder::new(&mut bytes).seal(PacketHead::default());
    let all = (0..17).map(|_| b.engine.on_packet(&bytes[..len], &b.dock)).collect::<Vec<_>>();
    assert!(all[..16].iter().all(Result::is_ok) && all[16].is_err());
}

proptest! {
    /// Goal: no items in any order break the receiver. Method: random items in well-formed packets.
    #[test]
    fn any_items_are_taken_or_refused(
        items in proptest::collection::vec((0..6u8, 0..3u32, 0..40_000u32), 0..20),
    ) {
        let (_, mut b, _) = pair(PLENTY);
        let mut sequence = 0;
        for (what, kind, n) in items {
            let mut bytes = vec![0; PACKET];
            let mut builder = Builder::new(&mut bytes);
            let kinds = [FrameKind::Ask, FrameKind::Reply, FrameKind::Tell];
            let kind = Kind::Message(kinds[kind as usize]);
            let region = Region { remote: Remote { address: u64::from(n), key: n }, len: n };
            match what {
                0 => builder.segment(Lane::Bulk, &Segment { region, crc: 0 }),
                1 => builder.segment(Lane::Control, &Segment { region, crc: 0 }),
                way => {
                    let way = [Way::Segments, Way::Landed][usize::from(way) % 2];
                    builder.frame(&head(kind, sequence, n), what > 4 && n > 0, way, 0, &[region]);
                    if n > 0 && what <= 4 {
                        builder.bytes(&n.to_le_bytes());
                    }
                    sequence += 1;
                }
            }
            let len = builder.seal(PacketHead::default());
            let _ = b.engine.on_packet(&bytes[..len], &b.dock);
            b.engine.pump(&mut b.lanes, &b.dock, &Time::default);
        }
    }
}
