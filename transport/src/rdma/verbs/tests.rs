//! Verbs as devices really do them. Run where there are some, as in `ops/rdma-vm`; elsewhere each
//! test says that it was skipped, and with `T3FS_RDMA_REQUIRED=1` it fails.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Settings, VerbsNic};
use crate::rdma::devices::{Devices, PortRef};
use crate::rdma::memory::{PIECE_MAX, Piece, Pool};
use crate::rdma::nic::*;

const PATIENCE: Duration = Duration::from_secs(20);
const SETTINGS: Settings = Settings { receive_buffers: 64, send_queue: 64, queue_pairs: 32 };

/// Ports to test with; none: the test is skipped.
fn ports() -> Vec<PortRef> {
    let devices = Devices::find(&[]);
    for port in devices.report() {
        eprintln!("{port}");
    }
    let addresses = devices.addresses();
    let ports: Vec<_> = addresses.iter().filter_map(|a| devices.port_at(*a).ok()).collect();
    if ports.is_empty() {
        let why = devices.why_none().unwrap_or_default();
        let required = std::env::var("T3FS_RDMA_REQUIRED").is_ok_and(|v| v == "1");
        assert!(!required, "no RDMA device, and one is required: {why}");
        eprintln!("SKIPPED, no RDMA device: {why}");
    }
    ports
}

/// One end: a device in use, with memory.
struct End {
    nic: VerbsNic,
    pool: Pool,
    seen: Vec<Completion>,
    packets: VecDeque<(u32, Vec<u8>)>,
}

impl End {
    fn new(port: &PortRef, settings: &Settings) -> End {
        let pool = Pool::new(8 << 20).unwrap();
        let nic = VerbsNic::open(port, &pool, settings).unwrap();
        End { nic, pool, seen: Vec::new(), packets: VecDeque::new() }
    }

    fn piece(&self, len: usize, first: u8) -> Piece {
        let mut piece = self.pool.take(len).unwrap();
        let bytes = &mut piece.as_mut_slice()[..len];
        bytes.iter_mut().enumerate().for_each(|(i, b)| *b = first.wrapping_add((i / 7) as u8));
        piece
    }

    fn poll(&mut self) {
        let mut new = Vec::new();
        self.nic.poll(&mut new);
        for one in new {
            match one.outcome {
                Outcome::Received { slot, len } => {
                    let packet = self.nic.received(slot, len).to_vec();
                    self.nic.repost(slot);
                    self.packets.push_back((one.queue_pair, packet));
                }
                _ => self.seen.push(one),
            }
        }
    }

    /// What became of this work.
    fn outcome(&mut self, queue_pair: &Rc<dyn QueuePair>, id: u64) -> Outcome {
        let until = Instant::now() + PATIENCE;
        loop {
            self.poll();
            let is = |c: &Completion| c.queue_pair == queue_pair.number() && c.id == id;
            if let Some(at) = self.seen.iter().position(is) {
                return self.seen.remove(at).outcome;
            }
            assert!(Instant::now() < until, "work {id} does not complete; seen: {:?}", self.seen);
        }
    }

    /// The next packet, and the queue pair that it came by.
    fn packet(&mut self) -> (u32, Vec<u8>) {
        let until = Instant::now() + PATIENCE;
        loop {
            self.poll();
            if let Some(packet) = self.packets.pop_front() {
                return packet;
            }
            assert!(Instant::now() < until, "no packet comes; seen: {:?}", self.seen);
        }
    }
}

fn whole(piece: &Piece, len: usize) -> Local<'_> {
    Local { piece, at: 0, len: len as u32 }
}

fn connected(a: &End, b: &End) -> (Rc<dyn QueuePair>, Rc<dyn QueuePair>) {
    let (x, y) = (a.nic.queue_pair().unwrap(), b.nic.queue_pair().unwrap());
    x.connect(&y.endpoint()).unwrap();
    y.connect(&x.endpoint()).unwrap();
    (x, y)
}

/// Opens memory, and waits until it is.
fn open(
    end: &mut End,
    to: &Rc<dyn QueuePair>,
    window: &dyn Window,
    memory: Local<'_>,
    access: Access,
) -> Remote {
    let key = window.next_key();
    let address = memory.piece.address() + u64::from(memory.at);
    to.post(&[Work::Open { id: 900, window, memory, access, signal: true }]).unwrap();
    assert_eq!(end.outcome(to, 900), Outcome::Done, "open");
    Remote { address, key }
}

/// Every pair of ports of which one reaches the other: a port and itself at least.
fn pairs() -> Vec<(PortRef, PortRef)> {
    let ports = ports();
    let all = ports.iter().flat_map(|a| ports.iter().map(move |b| (a.clone(), b.clone())));
    all.filter(|(a, b)| a == b).collect()
}

/// Goal: packets go back and forth, of all sizes, inline and not. Method: an echo.
#[test]
fn packets_go_back_and_forth() {
    for (a, b) in pairs() {
        let (mut a, mut b) = (End::new(&a, &SETTINGS), End::new(&b, &SETTINGS));
        let (x, y) = connected(&a, &b);
        for (id, len) in [0, 1, 63, 64, 200, 256, 1000, 4096, PACKET].into_iter().enumerate() {
            let id = id as u64;
            let out = a.piece(len.max(1), id as u8);
            x.post(&[Work::Send { id, packet: whole(&out, len), signal: true }]).unwrap();
            let (by, packet) = b.packet();
            assert_eq!((by, packet.len()), (y.number(), len));
            let mut back = b.pool.take(PACKET).unwrap();
            back.as_mut_slice()[..len].copy_from_slice(&packet);
            y.post(&[Work::Send { id, packet: whole(&back, len), signal: true }]).unwrap();
            let (by, packet) = a.packet();
            assert_eq!(by, x.number());
            assert!(packet == out.as_ref()[..len], "{len} bytes are the same");
            assert_eq!(a.outcome(&x, id), Outcome::Done);
            assert_eq!(b.outcome(&y, id), Outcome::Done);
        }
    }
}

/// Goal: memory moves one-sided through windows, and order is kept. Method: READ and WRITE of a
/// megabyte; a SEND posted with the WRITE, in one list, is received only when the bytes are there.
#[test]
fn memory_moves_through_windows() {
    for (a, b) in pairs() {
        let (mut a, mut b) = (End::new(&a, &SETTINGS), End::new(&b, &SETTINGS));
        let (x, y) = connected(&a, &b);
        let window = b.nic.window().unwrap();

        let source = b.piece(PIECE_MAX, 3);
        let from = open(&mut b, &y, &*window, whole(&source, PIECE_MAX), Access::Read);
        let target = a.piece(PIECE_MAX, 99);
        x.post(&[Work::Read { id: 1, into: whole(&target, PIECE_MAX), from }]).unwrap();
        assert_eq!(a.outcome(&x, 1), Outcome::Done);
        assert!(target.as_ref() == source.as_ref());
        y.post(&[Work::Close { id: 2, window: &*window }]).unwrap();
        assert_eq!(b.outcome(&y, 2), Outcome::Done);

        let landing = b.piece(PIECE_MAX, 200);
        let to = open(&mut b, &y, &*window, whole(&landing, PIECE_MAX), Access::Write);
        assert_ne!(to.key, from.key);
        let bytes = a.piece(PIECE_MAX, 17);
        x.post(&[
            Work::Write { id: 3, from: whole(&bytes, PIECE_MAX), to, signal: false },
            Work::Send { id: 4, packet: whole(&bytes, 5), signal: true },
        ])
        .unwrap();
        b.packet();
        assert!(landing.as_ref() == bytes.as_ref());
        assert_eq!(a.outcome(&x, 4), Outcome::Done);
    }
}

/// What a peer tries that it must not.
#[derive(Clone, Copy, Debug)]
enum Trespass {
    AfterClose,
    FromAnotherQueuePair,
    OtherAccess,
    BeyondTheEnd,
    BeforeTheStart,
    WithoutWindow,
}

/// Goal: a window opens what it names, to whom it names, for as long as it is open. Method: one
/// trespass each on a fresh connection: it fails, the memory is as it was, and both queue pairs are
/// in the error state.
#[test]
fn windows_keep_peers_out() {
    use Trespass::*;
    for (a, b) in pairs() {
        let all = [
            AfterClose,
            FromAnotherQueuePair,
            OtherAccess,
            BeyondTheEnd,
            BeforeTheStart,
            WithoutWindow,
        ];
        for trespass in all {
            trespass_fails(&a, &b, trespass);
        }
    }
}

fn trespass_fails(a: &PortRef, b: &PortRef, trespass: Trespass) {
    let (mut a, mut b) = (End::new(a, &SETTINGS), End::new(b, &SETTINGS));
    let (x, y) = connected(&a, &b);
    let (x2, _y2) = connected(&a, &b);
    let window = b.nic.window().unwrap();
    let memory = b.piece(64 << 10, 1);
    let before = memory.as_ref().to_vec();
    let (at, len) = (16 << 10, 16 << 10);
    let inner = Local { piece: &memory, at, len };
    let access =
        if matches!(trespass, Trespass::OtherAccess) { Access::Read } else { Access::Write };
    let mut to = open(&mut b, &y, &*window, inner, access);
    let mut by = &x;
    match trespass {
        Trespass::AfterClose => {
            y.post(&[Work::Close { id: 1, window: &*window }]).unwrap();
            assert_eq!(b.outcome(&y, 1), Outcome::Done);
        }
        Trespass::FromAnotherQueuePair => by = &x2,
        Trespass::OtherAccess => {}
        Trespass::BeyondTheEnd => to.address += 1,
        Trespass::BeforeTheStart => to.address -= 1,
        Trespass::WithoutWindow => to.key = 0x123,
    }
    let bytes = a.piece(len as usize, 77);
    by.post(&[Work::Write { id: 2, from: whole(&bytes, len as usize), to, signal: true }]).unwrap();
    let outcome = a.outcome(by, 2);
    let same = memory.as_ref() == before;
    eprintln!("{trespass:?}: {outcome:?}, memory as before: {same}");
    assert!(matches!(outcome, Outcome::Failed(_)), "{trespass:?} is not refused");
    assert!(same, "{trespass:?} changed memory");
    by.post(&[Work::Send { id: 3, packet: whole(&bytes, 1), signal: true }]).unwrap();
    assert!(matches!(a.outcome(by, 3), Outcome::Failed(_)), "the queue pair is in error");
}
