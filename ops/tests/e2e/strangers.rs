//! Goal: who does not belong to the cluster is refused at every port with a line in the log, and
//! costs nothing that stays. Method: 10,000 connections of every kind to the ports of a running
//! cluster, while a mount works; then files, memory and logs of every process.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use t3fs_ops::command;

use crate::cluster::{Cluster, MANAGERS, STORES};
use crate::harness::skip_without_hosts;
use crate::load::Load;

/// Over all ports and kinds.
const CONNECTIONS: usize = 10_000;
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longer than a handshake may take.
const SETTLE: Duration = Duration::from_secs(4);
const FILES_MORE_MAX: usize = 30;
const MEMORY_MORE_MAX: u64 = 64 << 20;

/// What a stranger does.
#[derive(Clone, Copy, Debug)]
enum Stranger {
    /// Bytes of another protocol.
    Garbage,
    /// A handshake of a protocol that is older than any.
    Older,
    WrongCluster,
    /// All is right but the proof.
    WrongSecret,
    /// Opens and goes.
    Leaves,
    /// Opens, says half a message, and stays.
    HalfOpen,
}

const ALL: [Stranger; 6] = [
    Stranger::Garbage,
    Stranger::Older,
    Stranger::WrongCluster,
    Stranger::WrongSecret,
    Stranger::Leaves,
    Stranger::HalfOpen,
];

/// A message of the handshake, as `transport/src/tcp/handshake.rs` draws it.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"t3hs".to_vec();
    bytes.extend([kind, 0]);
    bytes.extend((body.len() as u16).to_le_bytes());
    bytes.extend(body);
    bytes
}

fn hello(version: u16, cluster: &str) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(version.to_le_bytes());
    body.extend(version.to_le_bytes());
    body.extend((1u32 << 31 | 77).to_le_bytes()); // a client
    body.extend(1u32.to_le_bytes());
    body.extend([0; 8]); // shards, and any node
    body.extend([7; 32]);
    body.extend(cluster.as_bytes());
    message(1, &body)
}

/// One visit. Returns the connection if it is to stay open.
fn visit(at: SocketAddr, who: Stranger) -> std::io::Result<Option<TcpStream>> {
    let mut stream = TcpStream::connect_timeout(&at, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let first = match who {
        Stranger::Garbage => b"GET / HTTP/1.1\r\nHost: t3fs\r\n\r\n".to_vec(),
        Stranger::Older => hello(0, "example"),
        Stranger::WrongCluster => hello(1, "another"),
        Stranger::WrongSecret => hello(1, "example"),
        Stranger::Leaves => return Ok(None),
        Stranger::HalfOpen => {
            stream.write_all(&hello(1, "example")[..20])?;
            return Ok(Some(stream));
        }
    };
    stream.write_all(&first)?;
    if let Stranger::WrongSecret = who {
        let mut challenge = [0; 8 + 34];
        stream.read_exact(&mut challenge)?;
        assert_eq!(challenge[4], 2, "a challenge");
        stream.write_all(&message(3, &[9; 32]))?;
    }
    // A refusal, or nothing; then the end, also as a reset where it did not read all we sent.
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(err) if err.kind() != std::io::ErrorKind::ConnectionReset => Err(err),
        _ => Ok(None),
    }
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[test]
fn strangers_are_refused_at_every_port_and_leave_nothing() {
    if skip_without_hosts(&[]) {
        return;
    }
    let mut cluster = Cluster::mounted("cluster-strangers");
    let mut doors: Vec<(String, SocketAddr)> = Vec::new();
    for (hosts, port) in [(&["kv"][..], 8003), (&MANAGERS[..], 8000), (&STORES[..], 8002)] {
        for host in hosts {
            doors.push(((*host).to_owned(), cluster.hosts.get(host).at(port)));
        }
    }
    let pids: Vec<u32> = doors.iter().map(|(host, _)| cluster.process(host).pid()).collect();
    let before: Vec<(usize, u64)> = pids.iter().map(|p| (open_files(*p), memory(*p))).collect();

    let load = Load::start(&cluster.mount_point("client1"), &cluster.mount_point("client2"));
    let stranger = cluster.hosts.get("client2").clone();
    let failed = stranger.inside(|| {
        let (mut failed, mut open) = (Vec::new(), Vec::new());
        for number in 0..CONNECTIONS {
            let (host, at) = &doors[number % doors.len()];
            let who = ALL[number / doors.len() % ALL.len()];
            match visit(*at, who) {
                Ok(stays) => open.extend(stays),
                Err(err) => failed.push(format!("{who:?} at {host}: {err}")),
            }
        }
        // All that stay, at the end, together.
        drop(open);
        failed
    });
    assert!(
        failed.is_empty(),
        "{} of {CONNECTIONS}: {:?}",
        failed.len(),
        &failed[..5.min(failed.len())]
    );
    load.finish_without_error("strangers came to every port");

    thread::sleep(SETTLE);
    for ((host, _), (pid, (files, bytes))) in doors.iter().zip(pids.iter().zip(&before)) {
        assert!(cluster.process(host).is_running(), "{host} has ended");
        let fits = command::poll_until(SETTLE, || open_files(*pid) <= files + FILES_MORE_MAX);
        assert!(fits, "{host}: {} open files, {files} before", open_files(*pid));
        let now = memory(*pid);
        assert!(now <= bytes + MEMORY_MORE_MAX, "{host}: {now} bytes, {bytes} before");
        let log = cluster.process(host).log();
        for says in ["link protocol", "protocol version", "cluster's name", "cluster secret"] {
            let line = log.lines().find(|l| l.contains("refused a connection") && l.contains(says));
            assert!(line.is_some_and(|l| l.contains("10.99.0.9")), "{host} does not say {says:?}");
        }
    }
}
