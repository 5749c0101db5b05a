//! Goal: whoever merely reaches the port gets nothing, is told why where that helps an honest
//! mistake, and costs nothing afterwards. Method: nodes with a wrong configuration, hand-made
//! bytes, half-open connections and floods against one listening node; then its descriptors and
//! memory.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::*;
use t3fs_runtime::wire::SPOKEN_MAX;
use t3fs_transport::HandshakeRefusal;

/// The tests count descriptors of the process: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn server() -> Node {
    let mut c = config(2, 10, 2);
    c.limits.handshake = Duration::from_millis(500);
    c.limits.handshakes_max = 64;
    node(c, true)
}

/// A hello as `handshake.rs` draws it.
fn hello(version: u16, node: u32, cluster: &str, wanted: u32, shard: u16) -> Vec<u8> {
    let mut body = Vec::new();
    for v in [version, version] {
        body.extend_from_slice(&v.to_le_bytes());
    }
    body.extend_from_slice(&node.to_le_bytes());
    body.extend_from_slice(&1u32.to_le_bytes());
    body.extend_from_slice(&0u16.to_le_bytes());
    body.extend_from_slice(&shard.to_le_bytes());
    body.extend_from_slice(&wanted.to_le_bytes());
    body.extend_from_slice(&[9; 32]);
    body.extend_from_slice(cluster.as_bytes());
    message(1, &body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut m = b"t3hs".to_vec();
    m.extend_from_slice(&[kind, 0]);
    m.extend_from_slice(&(body.len() as u16).to_le_bytes());
    m.extend_from_slice(body);
    m
}

fn connect(at: SocketAddr) -> TcpStream {
    let s = TcpStream::connect(at).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    s
}

/// Everything the server says until it closes.
fn answer(mut s: TcpStream, bytes: &[u8]) -> Vec<u8> {
    s.write_all(bytes).unwrap();
    rest(s)
}

fn rest(mut s: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match s.read_to_end(&mut all) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        Err(e) => panic!("the server neither answered nor closed: {e}"),
    }
    all
}

fn count(n: &Node, why: HandshakeRefusal) -> u64 {
    n.peers.refused().iter().find(|(r, _)| *r == why).map_or(0, |(_, n)| *n)
}

fn refusal(why: HandshakeRefusal) -> Vec<u8> {
    message(9, &[why as u8])
}

/// An honest node still gets in.
fn still_serves(b: &Node) {
    let a = node(config(77, 1, 1), false);
    let (at, to) = (b.at.unwrap(), b.addr(1));
    let r = a.on(0, move |cx| async move {
        links().resolve(at).await.unwrap();
        cx.ask(to, Ping { n: 8 }).await
    });
    assert_eq!(r, Ok(8));
}

#[test]
fn each_mistake_has_its_own_answer() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let b = server();
    let at = b.at.unwrap();
    let said = |bytes: Vec<u8>| answer(connect(at), &bytes);
    assert_eq!(said(hello(0, 5, "test", 0, 0)), refusal(HandshakeRefusal::Version));
    assert_eq!(said(hello(SPOKEN_MAX + 1, 5, "test", 0, 0)), refusal(HandshakeRefusal::Version));
    assert_eq!(said(hello(1, 5, "best", 0, 0)), refusal(HandshakeRefusal::Cluster));
    assert_eq!(said(hello(1, 5, "test", 6, 0)), refusal(HandshakeRefusal::OtherNode));
    assert_eq!(said(hello(1, 2, "test", 0, 0)), refusal(HandshakeRefusal::SameNode));
    assert_eq!(said(hello(1, 5, "test", 0, 2)), refusal(HandshakeRefusal::NoShard));
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], b"t3hs\x01\x00\xff\xff", b"x"] {
        assert_eq!(said(garbage.to_vec()), b"");
    }
    // A frame, or anything else, before the handshake is over.
    let early = [hello(1, 5, "test", 0, 0), message(4, b"")].concat();
    assert!(said(early).starts_with(b"t3hs\x02"), "only the challenge");
    // A proof that proves nothing.
    let wrong = [hello(1, 5, "test", 0, 0), message(3, &[1; 32])].concat();
    assert!(said(wrong).ends_with(&refusal(HandshakeRefusal::Secret)));
    assert_eq!(count(&b, HandshakeRefusal::Version), 2);
    assert_eq!(count(&b, HandshakeRefusal::Garbage), 5);
    assert_eq!(count(&b, HandshakeRefusal::Secret), 1);
    still_serves(&b);
}

#[test]
fn a_wrong_configuration_is_told_to_its_owner() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let b = server();
    let at = b.at.unwrap();
    let resolve = |c: t3fs_transport::LinkConfig| {
        let a = node(c, false);
        a.on(0, move |_| async move { links().resolve(at).await }).map(|k| k.node)
    };
    let mut c = config(5, 1, 1);
    c.secret = b"quite another secret".to_vec();
    assert!(resolve(c).unwrap_err().why.contains("wrong cluster secret"));
    let mut c = config(5, 1, 1);
    c.cluster = "prod".into();
    assert!(resolve(c).unwrap_err().why.contains("cluster ids"));
    assert!(resolve(config(2, 1, 1)).unwrap_err().why.contains("same node id"));
    // A server that does not know the secret gets nothing from a client either.
    let fake = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let fake_at = fake.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut s, _) = fake.accept().unwrap();
        let mut buf = [0; 4096];
        let _ = s.read(&mut buf).unwrap();
        s.write_all(&message(2, &[&[1, 0][..], &[3; 32]].concat())).unwrap();
        let n = s.read(&mut buf).unwrap();
        // The client's proof sent back, as if it were ours.
        let mut welcome = vec![2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
        welcome.extend_from_slice(&buf[8..n]);
        s.write_all(&message(4, &welcome)).unwrap();
        s
    });
    let a = node(config(5, 1, 1), false);
    let r = a.on(0, move |_| async move { links().resolve(fake_at).await });
    assert!(r.unwrap_err().why.contains("wrong cluster secret"));
    drop(thread.join().unwrap());
    still_serves(&b);
}

#[test]
fn half_open_connections_are_ended() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let b = server();
    let before = open_files();
    let begun = Instant::now();
    let silent: Vec<_> = (0..300)
        .map(|i| {
            let mut s = connect(b.at.unwrap());
            let h = hello(1, 5, "test", 0, 0);
            s.write_all(&h[..i % h.len()]).unwrap();
            s
        })
        .collect();
    // While they hang there, an honest node gets in: the oldest gives way.
    still_serves(&b);
    for s in silent {
        rest(s);
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    settle(before);
    let ended = count(&b, HandshakeRefusal::Silent) + count(&b, HandshakeRefusal::Full);
    assert_eq!(ended, 300);
}

fn settle(files: usize) {
    let begun = Instant::now();
    while open_files() > files + 2 {
        let open: Vec<_> = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|f| std::fs::read_link(f.ok()?.path()).ok())
            .collect();
        assert!(begun.elapsed() < Duration::from_secs(5), "{files} files before, now {open:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn ten_thousand_strangers_leave_nothing_behind() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let b = server();
    let at = b.at.unwrap();
    let round = |n: usize| {
        for i in 0..n {
            let mut s = connect(at);
            let h = hello(1, 5, "test", 0, 0);
            let _ = match i % 5 {
                0 => s.write_all(&h),
                1 => s.write_all(&[h, message(3, &[1; 32])].concat()),
                2 => s.write_all(b"GET / HTTP/1.1\r\n\r\n"),
                3 => s.write_all(&h[..20]),
                _ => Ok(()),
            };
        }
    };
    // The last of them wait to be accepted, and run out of time, after the client has gone.
    let all_refused = |n: u64| {
        let begun = Instant::now();
        loop {
            let refused: u64 = b.peers.refused().iter().map(|(_, n)| n).sum();
            if (b.peers.accepted(), refused) == (n, n) {
                return;
            }
            let late = begun.elapsed() > Duration::from_secs(30);
            assert!(!late, "{} accepted, {refused} refused, {n} came", b.peers.accepted());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    round(1_000);
    all_refused(1_000);
    let (files, memory) = (open_files(), resident_kib());
    round(10_000);
    all_refused(11_000);
    settle(files);
    let grown = resident_kib().saturating_sub(memory);
    assert!(grown < 8 << 10, "{grown} KiB more than before");
    still_serves(&b);
}

#[test]
fn many_links_leave_nothing_behind() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let b = server();
    let (at, to) = (b.at.unwrap(), b.addr(1));
    let a = node(config(5, 1, 1), false);
    a.peers.set_addresses(b.id, vec![at]);
    let round = |n: u64| {
        a.on(0, move |cx| async move {
            for n in 0..n {
                links().close(to.raw().node);
                assert_eq!(cx.ask(to, Ping { n }).await, Ok(n));
            }
        });
    };
    round(500);
    let (files, memory) = (open_files(), resident_kib());
    let begun = Instant::now();
    let rounds = if std::env::var_os("T3FS_NIGHTLY").is_some() { 10_000 } else { 1_000 };
    round(rounds);
    eprintln!("{:?} for each of {rounds} links", begun.elapsed() / rounds as u32);
    settle(files);
    let grown = resident_kib().saturating_sub(memory);
    assert!(grown < 8 << 10, "{grown} KiB more than before");
}
