//! The usual blocking programs over std sockets: a buffered reader, one write per message.

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

/// Threads started by this thread from now on run on this core.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).expect("the core exists");
}

pub const SMALL: usize = 64;

/// The plain program: requests of `len` bytes, answers of [`SMALL`] bytes.
pub fn plain(len: usize, in_flight: usize, time: Duration) -> f64 {
    let door = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = door.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        pin(1);
        let (mut s, _) = door.accept().expect("the client comes");
        s.set_nodelay(true).expect("a socket");
        let mut from = BufReader::with_capacity(64 << 10, s.try_clone().expect("a descriptor"));
        let mut request = vec![0; len];
        while from.read_exact(&mut request).is_ok() && s.write_all(&request[..SMALL]).is_ok() {}
    });
    let client = std::thread::spawn(move || {
        pin(0);
        let mut s = TcpStream::connect(at).expect("the server listens");
        s.set_nodelay(true).expect("a socket");
        let mut from = BufReader::with_capacity(64 << 10, s.try_clone().expect("a descriptor"));
        let (request, mut answer) = (vec![7; len], [0; SMALL]);
        let (begun, end) = (Instant::now(), Instant::now() + time);
        let mut n = 0u64;
        for _ in 0..in_flight {
            s.write_all(&request).expect("connected");
        }
        loop {
            from.read_exact(&mut answer).expect("connected");
            n += 1;
            if Instant::now() >= end {
                return n as f64 / begun.elapsed().as_secs_f64();
            }
            s.write_all(&request).expect("connected");
        }
    });
    let rate = client.join().expect("no panic");
    server.join().expect("no panic");
    rate
}

/// The plain program with a connection and two threads for each request in flight.
pub fn plain_threads(in_flight: usize, time: Duration) -> f64 {
    let all: Vec<_> =
        (0..in_flight).map(|_| std::thread::spawn(move || plain(SMALL, 1, time))).collect();
    all.into_iter().map(|t| t.join().expect("no panic")).sum()
}
