//! Verbs as devices really do them. Run where there are some, as in `ops/rdma-vm`; elsewhere each
//! test says that it was skipped, and with `T3FS_RDMA_REQUIRED=1` it fails.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{NicSettings, VerbsNic};
use crate::rdma::devices::Devices;
use crate::rdma::memory::{PIECE_MAX, PoolPiece, RdmaPool};
use crate::rdma::nic::*;
use crate::rdma::report::PortRef;

const PATIENCE: Duration = Duration::from_secs(20);
const SETTINGS: NicSettings = NicSettings { receive_buffers: 64, send_queue: 64, queue_pairs: 32 };

/// Ports to test with, for one test at a time: they count what the process has.
pub(super) struct Ports {
    all: std::vec::IntoIter<(PortRef, IpAddr)>,
    _alone: MutexGuard<'static, ()>,
}

impl Iterator for Ports {
    type Item = (PortRef, IpAddr);

    fn next(&mut self) -> Option<(PortRef, IpAddr)> {
        self.all.next()
    }
}

/// None: the test is skipped.
pub(super) fn ports() -> Ports {
    static ONE: Mutex<()> = Mutex::new(());
    let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let devices = Devices::find(&[]);
    for port in devices.report() {
        eprintln!("{port}");
    }
    let addresses = devices.addresses();
    let found = addresses.into_iter().filter_map(|a| Some((devices.port_at(a).ok()?, a)));
    let all: Vec<_> = found.collect();
    if all.is_empty() {
        let why = devices.why_none().unwrap_or_default();
        let required = std::env::var("T3FS_RDMA_REQUIRED").is_ok_and(|v| v == "1");
        assert!(!required, "no RDMA device, and one is required: {why}");
        eprintln!("SKIPPED, no RDMA device: {why}");
    }
    Ports { all: all.into_iter(), _alone }
}

/// One end: a device in use, with memory.
pub(super) struct End {
    pub(super) nic: VerbsNic,
    pool: RdmaPool,
    seen: Vec<Completion>,
    pub(super) packets: VecDeque<(u32, Vec<u8>)>,
}

impl End {
    pub(super) fn new(port: &PortRef, settings: &NicSettings) -> End {
        let pool = RdmaPool::new(8 << 20).unwrap();
        let nic = VerbsNic::open(port, &pool, settings).unwrap();
        End { nic, pool, seen: Vec::new(), packets: VecDeque::new() }
    }

    pub(super) fn piece(&self, len: usize, first: u8) -> PoolPiece {
        let mut piece = self.pool.take(len).unwrap();
        let bytes = &mut piece.as_mut_slice()[..len];
        bytes.iter_mut().enumerate().for_each(|(i, b)| *b = first.wrapping_add((i / 7) as u8));
        piece
    }

    pub(super) fn poll(&mut self) {
        let mut new = std::collections::VecDeque::new();
        self.nic.poll(&mut new, 1);
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
    pub(super) fn outcome(&mut self, queue_pair: &Rc<dyn QueuePair>, id: u64) -> Outcome {
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

pub(super) fn whole(piece: &PoolPiece, len: usize) -> Local<'_> {
    Local { piece, at: 0, len: len as u32 }
}

fn connected(a: &End, b: &End) -> (Rc<dyn QueuePair>, Rc<dyn QueuePair>) {
    let (x, y) = (a.nic.queue_pair().unwrap(), b.nic.queue_pair().unwrap());
    x.connect(&y.endpoint()).unwrap();
    y.connect(&x.endpoint()).unwrap();
    (x, y)
}

/// Opens memory, and waits until it is.
pub(super) fn open(
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

/// Both ends for each test. Two ports of one host do not reach each other: the kernel finds the way
/// from one to the other within itself, devices do not.
fn pairs() -> impl Iterator<Item = (PortRef, PortRef)> {
    ports().map(|(port, _)| (port.clone(), port))
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
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trespass {
    AfterClose,
    FromAnotherQueuePair,
    OtherAccess,
    BeyondTheEnd,
    BeforeTheStart,
    BeyondThePool,
    BeforeThePool,
    UnknownKey,
    KeyOfThePool,
}

/// Goal: a window opens what it names, to whom it names, for as long as it is open. Method: one
/// trespass each on a fresh connection: it fails, the memory is as it was, and the queue pair takes
/// no more work.
#[test]
fn windows_keep_peers_out() {
    use Trespass::*;
    let everywhere = [
        AfterClose,
        FromAnotherQueuePair,
        OtherAccess,
        BeyondThePool,
        BeforeThePool,
        UnknownKey,
        KeyOfThePool,
    ];
    for (a, b) in pairs() {
        for trespass in everywhere {
            trespass_fails(&a, &b, trespass);
        }
        // soft-RoCE takes the bounds of the pool for those of its windows.
        if !b.software {
            trespass_fails(&a, &b, BeyondTheEnd);
            trespass_fails(&a, &b, BeforeTheStart);
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
    let len: u32 = 16 << 10;
    let inner = Local { piece: &memory, at: len, len };
    let access = match trespass {
        Trespass::OtherAccess => Access::Read,
        _ => Access::Write,
    };
    let mut to = open(&mut b, &y, &*window, inner, access);
    let mut by = &x;
    let (base, bytes) = b.pool.span();
    match trespass {
        Trespass::AfterClose => {
            y.post(&[Work::Close { id: 1, window: &*window }]).unwrap();
            assert_eq!(b.outcome(&y, 1), Outcome::Done);
        }
        Trespass::FromAnotherQueuePair => by = &x2,
        Trespass::OtherAccess => {}
        Trespass::BeyondTheEnd => to.address += 1,
        Trespass::BeforeTheStart => to.address -= 1,
        Trespass::BeyondThePool => to.address = (base + bytes) as u64 - 1,
        Trespass::BeforeThePool => to.address = base as u64 - 1,
        Trespass::UnknownKey => to.key = !to.key,
        Trespass::KeyOfThePool => to.key = b.nic.pool_key(),
    }
    let bytes = a.piece(len as usize, 77);
    by.post(&[Work::Write { id: 2, from: whole(&bytes, len as usize), to, signal: true }]).unwrap();
    let outcome = a.outcome(by, 2);
    assert!(matches!(outcome, Outcome::Failed(_)), "{trespass:?} is not refused");
    assert!(memory.as_ref() == before, "{trespass:?} changed memory");
    let after = by.post(&[Work::Send { id: 3, packet: whole(&bytes, 1), signal: true }]);
    assert!(after.is_err() || matches!(a.outcome(by, 3), Outcome::Failed(_)), "{trespass:?}");
    eprintln!("{trespass:?}: {outcome:?}");
}

/// Goal: a window serves for ever: its 256 keys come round, and it survives queue pairs that fail
/// before, while and after it is opened to them. Method: open, use and close it 600 times; then
/// open it to queue pairs that have failed, in every order, and use it on a fresh one each time.
#[test]
fn windows_are_used_again() {
    for (a, b) in pairs() {
        let (mut a, mut b) = (End::new(&a, &SETTINGS), End::new(&b, &SETTINGS));
        let window = b.nic.window().unwrap();
        let memory = b.piece(PACKET, 1);
        let out = a.piece(PACKET, 9);
        let all = whole(&memory, 100);
        let (x, y) = connected(&a, &b);
        let mut last = 0;
        for round in 0..600 {
            let to = open(&mut b, &y, &*window, all, Access::Write);
            assert_ne!(to.key, std::mem::replace(&mut last, to.key), "round {round}");
            let work = Work::Write { id: 1, from: whole(&out, 100), to, signal: true };
            x.post(&[work]).unwrap();
            assert_eq!(a.outcome(&x, 1), Outcome::Done, "round {round}");
            y.post(&[Work::Close { id: 2, window: &*window }]).unwrap();
            assert_eq!(b.outcome(&y, 2), Outcome::Done, "round {round}");
        }
        for round in 0..6 {
            let (_x, y) = connected(&a, &b);
            let (work, again) = (
                Work::Open {
                    id: 3,
                    window: &*window,
                    memory: all,
                    access: Access::Write,
                    signal: true,
                },
                Work::Close { id: 4, window: &*window },
            );
            window.next_key();
            match round % 3 {
                0 => {
                    y.fail();
                    let _ = y.post(&[work]);
                }
                1 => {
                    let _ = y.post(&[work, again]);
                    y.fail();
                }
                _ => {
                    y.post(&[work]).unwrap();
                    assert_eq!(b.outcome(&y, 3), Outcome::Done);
                    y.fail();
                }
            }
            // With the failed one still there, and after it.
            let kept = (round < 3).then_some(y);
            b.seen.clear();
            let (x, y) = connected(&a, &b);
            let to = open(&mut b, &y, &*window, all, Access::Write);
            let work = Work::Write { id: 5, from: whole(&out, 100), to, signal: true };
            x.post(&[work]).unwrap();
            assert_eq!(a.outcome(&x, 5), Outcome::Done, "round {round}");
            drop(kept);
        }
    }
}

/// Goal: one set of receive buffers serves all queue pairs, and runs over more often than it has
/// buffers. Method: many connections send in turns; each packet arrives once, in order, by the
/// queue pair that it was meant for.
#[test]
fn receive_buffers_are_shared() {
    const CONNECTIONS: usize = 12;
    const ROUNDS: u64 = 20;
    let settings = NicSettings { receive_buffers: 16, ..SETTINGS };
    for (a, b) in pairs() {
        let (mut a, mut b) = (End::new(&a, &settings), End::new(&b, &settings));
        let all: Vec<_> = (0..CONNECTIONS).map(|_| connected(&a, &b)).collect();
        for round in 0..ROUNDS {
            let mut sent = Vec::new();
            for (i, (x, _)) in all.iter().enumerate() {
                let mut out = a.pool.take(PACKET).unwrap();
                out.as_mut_slice()[..2].copy_from_slice(&[i as u8, round as u8]);
                let work = Work::Send { id: round, packet: whole(&out, 300), signal: true };
                x.post(&[work]).unwrap();
                sent.push(out);
            }
            for _ in 0..CONNECTIONS {
                let (by, packet) = b.packet();
                let [i, r] = packet[..2] else { panic!("a short packet") };
                assert_eq!((by, r), (all[usize::from(i)].1.number(), round as u8));
            }
            for (x, _) in &all {
                assert_eq!(a.outcome(x, round), Outcome::Done);
            }
        }
        assert!(b.packets.is_empty());
    }
}

/// Goal: nobody needs to poll in order to learn of a completion. Method: arm, see the descriptor
/// silent, send, and wait for the descriptor alone.
#[test]
fn a_completion_wakes_who_waits() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let readable = |end: &End, ms: i64| {
        let events = end.nic.events().unwrap();
        let wait = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
        poll(&mut [PollFd::new(&events, PollFlags::IN)], Some(&wait)).unwrap() == 1
    };
    for (a, b) in pairs() {
        let (mut a, mut b) = (End::new(&a, &SETTINGS), End::new(&b, &SETTINGS));
        let (x, _y) = connected(&a, &b);
        for id in 0..5 {
            b.nic.arm(true).unwrap();
            b.poll();
            assert!(!readable(&b, 20), "nothing has happened yet");
            let out = a.piece(100, 1);
            x.post(&[Work::Send { id, packet: whole(&out, 100), signal: true }]).unwrap();
            assert!(readable(&b, 10_000), "an event comes");
            b.nic.take_events();
            assert!(!readable(&b, 20), "the events have been taken");
            assert_eq!(b.packet().1.len(), 100);
            assert_eq!(a.outcome(&x, id), Outcome::Done);
        }
    }
}

/// Goal: failing a queue pair ends all that is outstanding, soon, and tells its peer on the next
/// occasion. Method: work that cannot complete (the peer has stopped), then `fail`; the peer's next
/// message fails too.
#[test]
fn failing_ends_what_is_outstanding() {
    for (a, b) in pairs() {
        let (mut a, mut b) = (End::new(&a, &SETTINGS), End::new(&b, &SETTINGS));
        let (x, y) = connected(&a, &b);
        y.fail();
        let out = a.piece(PACKET, 1);
        for id in 0..10 {
            x.post(&[Work::Send { id, packet: whole(&out, PACKET), signal: id == 9 }]).unwrap();
        }
        x.fail();
        x.fail();
        for id in 0..10 {
            assert!(matches!(a.outcome(&x, id), Outcome::Failed(_)), "work {id}");
        }
        let back = b.piece(PACKET, 1);
        let after = y.post(&[Work::Send { id: 0, packet: whole(&back, 1), signal: true }]);
        assert!(after.is_err() || matches!(b.outcome(&y, 0), Outcome::Failed(_)));
    }
}

/// Goal: a peer that is gone is noticed within about two seconds. Method: the other queue pair is
/// destroyed; the next message fails in that time.
#[test]
fn a_dead_peer_is_noticed() {
    for (a, b) in pairs() {
        let (mut a, b) = (End::new(&a, &SETTINGS), End::new(&b, &SETTINGS));
        let (x, y) = connected(&a, &b);
        drop(y);
        let out = a.piece(100, 1);
        let start = Instant::now();
        x.post(&[Work::Send { id: 1, packet: whole(&out, 100), signal: true }]).unwrap();
        let outcome = a.outcome(&x, 1);
        eprintln!("a dead peer: {outcome:?} after {:?}", start.elapsed());
        assert!(matches!(outcome, Outcome::Failed(_)));
        assert!(start.elapsed() < Duration::from_secs(5), "in a slow virtual machine");
    }
}

/// Goal: connections come and go without leaving anything behind: no queue pair, no window, no
/// receive buffer, no descriptor, and no completion that the next one could take for its own.
/// Method: many times connect, open a window and leave it open, leave messages unread on both
/// sides, and drop everything; a window outlives several queue pairs. In the end all receive
/// buffers serve.
#[test]
fn nothing_is_left_behind() {
    // Whoever sets it runs this test alone.
    let rounds = std::env::var("T3FS_RDMA_ROUNDS").ok().map(|v| v.parse::<u64>().unwrap());
    let (alone, rounds) = (rounds.is_some(), rounds.unwrap_or(150));
    let settings = NicSettings { receive_buffers: 16, queue_pairs: 4, ..SETTINGS };
    for (a, b) in pairs() {
        let (mut a, mut b) = (End::new(&a, &settings), End::new(&b, &settings));
        let lasting = b.nic.window().unwrap();
        let memory = b.piece(PACKET, 1);
        let (out, back) = (a.piece(PACKET, 1), b.piece(PACKET, 2));
        let mut before = None;
        for round in 0..rounds {
            let (x, y) = connected(&a, &b);
            let passing = b.nic.window().unwrap();
            for window in [&lasting, &passing] {
                let local = Local { piece: &memory, at: 0, len: PACKET as u32 };
                let to = open(&mut b, &y, &**window, local, Access::Write);
                let bytes = whole(&out, 100);
                x.post(&[Work::Write { id: 1, from: bytes, to, signal: true }]).unwrap();
                assert_eq!(a.outcome(&x, 1), Outcome::Done, "round {round}");
            }
            for id in 2..5 {
                x.post(&[Work::Send { id, packet: whole(&out, 100), signal: true }]).unwrap();
                y.post(&[Work::Send { id, packet: whole(&back, 100), signal: true }]).unwrap();
            }
            if round % 2 == 0 {
                assert_eq!(a.outcome(&x, 4), Outcome::Done);
            }
            drop((x, y));
            let stale = a.seen.drain(..).chain(b.seen.drain(..)).count();
            assert!(stale <= 6, "{stale} completions");
            let taken = a.packets.drain(..).chain(b.packets.drain(..)).count();
            assert!(taken <= 6, "{taken} packets");
            if round == 20 {
                before = Some(usage());
            }
        }
        let (x, _y) = connected(&a, &b);
        for id in 0..32 {
            x.post(&[Work::Send { id, packet: whole(&out, 10), signal: true }]).unwrap();
            if id % 16 == 15 {
                (0..16).for_each(|_| assert_eq!(b.packet().1.len(), 10));
                assert_eq!(a.outcome(&x, id), Outcome::Done);
            }
        }
        let (before, after) = (before.unwrap(), usage());
        eprintln!("after {rounds} connections: {before:?} then {after:?} (descriptors, KiB)");
        assert!(before.0 > 0 && before.0 == after.0, "descriptors: {before:?}, {after:?}");
        assert!(!alone || after.1 < before.1 + 2048, "memory: {before:?}, {after:?}");
    }
}

/// Open descriptors of verbs, and resident memory in KiB, of this process.
fn usage() -> (usize, usize) {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let names = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let of_verbs = |name: &PathBuf| name.to_string_lossy().contains("infiniband");
    let descriptors = names.filter(of_verbs).count();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    (descriptors, line.split_whitespace().nth(1).unwrap().parse().unwrap())
}

/// Goal: limits are answers. Method: one queue pair more than agreed is refused with a sentence,
/// and to be had again when another is gone; a device that is not there cannot be opened.
#[test]
fn limits_are_answers() {
    let settings = NicSettings { queue_pairs: 3, ..SETTINGS };
    for (port, _) in ports() {
        let end = End::new(&port, &settings);
        let mut all: Vec<_> = (0..3).map(|_| end.nic.queue_pair().unwrap()).collect();
        let Err(why) = end.nic.queue_pair() else { panic!("one more than agreed") };
        assert_eq!(why, "all 3 queue pairs of the device are in use");
        all.pop();
        all.push(end.nic.queue_pair().unwrap());
        let gone = PortRef { device: "nonesuch0".into(), ..port };
        let Err(why) = VerbsNic::open(&gone, &end.pool, &settings) else { panic!("opened") };
        assert_eq!(why, "nonesuch0: the device is gone");
    }
}
