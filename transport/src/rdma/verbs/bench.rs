//! What `Nic` reaches beside perftest, on the same device, in turns: the base for what a whole link
//! may reach. Ignored among the tests; run it where there is a device and perftest is installed:
//!
//! `ops/rdma-vm --timeout 600 -- TEST_BINARY verbs::bench --ignored --nocapture`

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::NicSettings;
use super::tests::{End, open, ports, whole};
use crate::rdma::memory::PIECE_MAX;
use crate::rdma::nic::*;
use crate::rdma::report::PortRef;

const SETTINGS: NicSettings = NicSettings { receive_buffers: 128, send_queue: 128, queue_pairs: 4 };
const ROUNDS: usize = 5;
const TRIPS: usize = 1000;
const MESSAGE: usize = 64;
/// Bytes that are moved for a rate.
const VOLUME: usize = 32 << 20;
/// Transfers outstanding.
const DEPTH: usize = 8;
/// Work is signalled this often.
const SIGNAL: usize = 32;

/// Both columns of a row, a number a round.
struct Row {
    name: String,
    unit: &'static str,
    ours: Vec<f64>,
    perftest: Vec<f64>,
}

/// Goal: know what of the device `Nic` leaves to its users. Method: short rounds of perftest and of
/// the same traffic between two threads here, in turns; medians are printed.
#[test]
#[ignore = "a benchmark"]
fn beside_perftest() {
    let mut ports = ports();
    let Some((port, address)) = ports.next() else { return };
    let sizes = [64 << 10, PIECE_MAX];
    let mut rows = vec![row("send 64 B, polled", "us"), row("send 64 B, events", "us")];
    rows.extend(sizes.map(|size| row(&format!("read {} KiB", size >> 10), "MiB/s")));
    rows.extend(sizes.map(|size| row(&format!("write {} KiB", size >> 10), "MiB/s")));
    for _ in 0..ROUNDS {
        for (events, row) in [false, true].into_iter().zip(&mut rows) {
            row.ours.push(trips(&port, events));
            let mut options = vec!["-s".into(), MESSAGE.to_string()];
            options.extend(["-n".into(), TRIPS.to_string()]);
            options.extend(events.then(|| "-e".into()));
            row.perftest.extend(perftest("ib_send_lat", &port, address, &options, 4));
        }
        for (i, row) in rows.iter_mut().skip(2).enumerate() {
            let size = sizes[i % 2];
            row.ours.push(rate(&port, size, i < 2));
            let program = if i < 2 { "ib_read_bw" } else { "ib_write_bw" };
            let mut options = vec!["-s".into(), size.to_string()];
            options.extend(["-n".into(), (VOLUME / size).to_string()]);
            row.perftest.extend(perftest(program, &port, address, &options, 3));
        }
    }
    println!("{:22} {:>10} {:>10} {:>6}", "", "ours", "perftest", "ratio");
    for row in &mut rows {
        let (ours, theirs) = (median(&mut row.ours), median(&mut row.perftest));
        let ratio = if row.unit == "us" { theirs / ours } else { ours / theirs };
        println!("{:22} {ours:10.1} {theirs:10.1} {ratio:6.2} {}", row.name, row.unit);
    }
}

fn row(name: &str, unit: &'static str) -> Row {
    Row { name: name.into(), unit, ours: Vec::new(), perftest: Vec::new() }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A column of the last row that a program of perftest prints; nothing when it fails.
fn perftest(
    program: &str,
    port: &PortRef,
    address: IpAddr,
    options: &[String],
    column: usize,
) -> Option<f64> {
    let start = |peer: Option<String>| {
        let (gid, device) = (port.gid_index.to_string(), port.device());
        let mut command = Command::new(program);
        command.args(["-F", "-d", device, "-x", &gid]).args(options).args(peer);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
    };
    let mut server = start(None).inspect_err(|e| eprintln!("{program}: {e}")).ok()?;
    // Nothing tells when it listens.
    thread::sleep(Duration::from_secs(2));
    let client = start(Some(address.to_string())).ok()?.wait_with_output().ok()?;
    if !client.status.success() {
        let _ = server.kill();
    }
    let _ = server.wait();
    let text = String::from_utf8_lossy(&client.stdout).into_owned();
    let bytes = &options[1];
    let line = text.lines().find(|l| l.split_whitespace().next() == Some(bytes))?;
    line.split_whitespace().nth(column)?.parse().ok()
}

/// A thread's end of a connection to a peer in another thread.
struct Joined {
    end: End,
    queue_pair: Rc<dyn QueuePair>,
    tell: Sender<Remote>,
    hear: Receiver<Remote>,
}

/// Runs both sides, each in a thread with a device of its own; what the first returns.
fn pair<T: Send>(
    port: &PortRef,
    first: impl FnOnce(Joined) -> T + Send,
    second: impl FnOnce(Joined) + Send,
) -> T {
    let (to_a, from_b) = channel();
    let (to_b, from_a) = channel();
    let (tell_a, hear_a) = channel();
    let (tell_b, hear_b) = channel();
    let join = |to: Sender<Endpoint>, from: Receiver<Endpoint>, tell, hear| {
        let end = End::new(port, &SETTINGS);
        let queue_pair = end.nic.queue_pair().unwrap();
        to.send(queue_pair.endpoint()).unwrap();
        queue_pair.connect(&from.recv().unwrap()).unwrap();
        Joined { end, queue_pair, tell, hear }
    };
    thread::scope(|scope| {
        scope.spawn(move || second(join(to_a, from_a, tell_a, hear_b)));
        scope.spawn(move || first(join(to_b, from_b, tell_b, hear_a))).join().unwrap()
    })
}

/// Microseconds one way, the median of many trips there and back.
fn trips(port: &PortRef, events: bool) -> f64 {
    let first = |mut me: Joined| {
        let out = me.end.piece(MESSAGE, 1);
        let mut times = Vec::new();
        // The peer is connected when it says so.
        me.hear.recv().unwrap();
        for trip in 0..TRIPS {
            let start = Instant::now();
            send(&me, &out, trip);
            receive(&mut me, events);
            times.push(start.elapsed().as_secs_f64() * 1e6 / 2.0);
        }
        median(&mut times)
    };
    let second = |mut me: Joined| {
        let out = me.end.piece(MESSAGE, 2);
        me.tell.send(Remote { address: 0, key: 0 }).unwrap();
        for trip in 0..TRIPS {
            receive(&mut me, events);
            send(&me, &out, trip);
        }
        me.end.outcome(&me.queue_pair, last_signalled());
    };
    pair(port, first, second)
}

fn last_signalled() -> u64 {
    ((TRIPS - 1) / SIGNAL * SIGNAL) as u64
}

fn send(me: &Joined, out: &crate::rdma::memory::PoolPiece, trip: usize) {
    let signal = trip.is_multiple_of(SIGNAL);
    let packet = whole(out, MESSAGE);
    me.queue_pair.post(&[Work::Send { id: trip as u64, packet, signal }]).unwrap();
}

fn receive(me: &mut Joined, events: bool) {
    loop {
        me.end.poll();
        if me.end.packets.pop_front().is_some() {
            return;
        }
        if events {
            me.end.nic.arm(true).unwrap();
            me.end.poll();
            if me.end.packets.pop_front().is_some() {
                return;
            }
            let descriptor = me.end.nic.events().unwrap();
            poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None).unwrap();
            me.end.nic.take_events();
        }
    }
}

/// MiB a second, one-sided through a window.
fn rate(port: &PortRef, size: usize, read: bool) -> f64 {
    let first = move |mut me: Joined| {
        let mine = me.end.piece(PIECE_MAX, 1);
        let remote = me.hear.recv().unwrap();
        let start = Instant::now();
        let total = VOLUME / size;
        for id in 0..total + DEPTH {
            if id >= DEPTH {
                let done = me.end.outcome(&me.queue_pair, (id - DEPTH) as u64);
                assert_eq!(done, Outcome::Done);
            }
            if id < total {
                let (id, local) = (id as u64, whole(&mine, size));
                let work = match read {
                    true => Work::Read { id, into: local, from: remote },
                    false => Work::Write { id, from: local, to: remote, signal: true },
                };
                me.queue_pair.post(&[work]).unwrap();
            }
        }
        let taken = start.elapsed().as_secs_f64();
        me.tell.send(remote).unwrap();
        VOLUME as f64 / f64::from(1 << 20) / taken
    };
    let second = move |mut me: Joined| {
        let memory = me.end.piece(PIECE_MAX, 2);
        let window = me.end.nic.window().unwrap();
        let access = if read { Access::Read } else { Access::Write };
        let all = whole(&memory, PIECE_MAX);
        let remote = open(&mut me.end, &me.queue_pair, &*window, all, access);
        me.tell.send(remote).unwrap();
        me.hear.recv().unwrap();
    };
    pair(port, first, second)
}
