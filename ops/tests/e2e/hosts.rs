//! Goal: the harness of several hosts does what it says, each fault by its effect. Method: sockets
//! made on one host connect to listeners on another; UDP datagrams tell directions apart.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use t3fs_ops::command;
use t3fs_ops::hosts::{Cut, Host, Hosts};
use t3fs_ops::process::Process;

use crate::harness::skip_without_hosts;

const PORT: u16 = 7000;
/// Longer than a healthy answer on a busy machine, shorter than TCP's first retry twice over.
const PATIENCE: Duration = Duration::from_millis(700);

/// Answers every connection with one byte, as long as the test runs.
fn greeter(host: &Host) {
    let at = host.at(PORT);
    let listener = host.inside(|| TcpListener::bind(at)).expect("a free port");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            // A client that was cut off gets nothing.
            let _ = stream.write_all(b"!");
        }
    });
}

/// Whether `from` gets an answer from a greeter.
fn reaches(from: &Host, to: SocketAddr) -> bool {
    from.inside(|| {
        let Ok(mut stream) = TcpStream::connect_timeout(&to, PATIENCE) else { return false };
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        stream.read_exact(&mut [0]).is_ok()
    })
}

/// How many of `count` datagrams arrive.
fn datagrams(from: &Host, to: &Host, count: usize) -> usize {
    let at = to.at(PORT);
    let receiver = to.inside(|| UdpSocket::bind(at)).expect("a free port");
    receiver.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
    let sender = from.inside(|| UdpSocket::bind(from.at(0))).expect("a free port");
    let mut arrived = 0;
    for _ in 0..count {
        sender.send_to(b"x", at).expect("sent, whatever becomes of it");
        // One at a time, so that no buffer overflows.
        if receiver.recv(&mut [0; 8]).is_ok() {
            arrived += 1;
        }
    }
    arrived
}

#[test]
fn each_cut_stops_its_direction_and_heal_mends_it() {
    if skip_without_hosts(&[]) {
        return;
    }
    let mut hosts = Hosts::new(&["a", "b", "c"]).expect("hosts");
    for host in hosts.all() {
        greeter(host);
    }
    let at = |hosts: &Hosts, name: &str| hosts.get(name).at(PORT);
    assert!(reaches(hosts.get("a"), at(&hosts, "b")) && reaches(hosts.get("b"), at(&hosts, "a")));
    for (cut, out, inwards) in [(Cut::Both, 0, 0), (Cut::In, 2, 0), (Cut::Out, 0, 2)] {
        hosts.cut("a", cut).expect("a cut");
        assert!(!reaches(hosts.get("a"), at(&hosts, "b")), "{cut:?}");
        assert!(!reaches(hosts.get("b"), at(&hosts, "a")), "{cut:?}");
        assert_eq!(datagrams(hosts.get("a"), hosts.get("c"), 2), out, "{cut:?}");
        assert_eq!(datagrams(hosts.get("c"), hosts.get("a"), 2), inwards, "{cut:?}");
        assert!(reaches(hosts.get("b"), at(&hosts, "c")), "{cut:?}: others are not touched");
        assert!(reaches(hosts.get("a"), at(&hosts, "a")), "{cut:?}: a host always has itself");
        hosts.heal("a").expect("healed");
        assert!(reaches(hosts.get("a"), at(&hosts, "b")), "{cut:?}");
    }
}

#[test]
fn loss_loses_some() {
    if skip_without_hosts(&[]) {
        return;
    }
    let mut hosts = Hosts::new(&["a", "b"]).expect("hosts");
    assert_eq!(datagrams(hosts.get("a"), hosts.get("b"), 30), 30);
    hosts.loss("a", 50).expect("loss");
    // 30 fair coins: outside of 4..=26 once in 50,000 runs.
    let arrived = datagrams(hosts.get("a"), hosts.get("b"), 30);
    assert!((4..=26).contains(&arrived), "{arrived} of 30 arrived");
    hosts.heal("a").expect("healed");
    assert_eq!(datagrams(hosts.get("a"), hosts.get("b"), 30), 30);
}

#[test]
fn a_slow_line_is_as_slow_as_asked() {
    if skip_without_hosts(&[]) {
        return;
    }
    const BYTES: usize = 1 << 20;
    let mut hosts = Hosts::new(&["a", "b"]).expect("hosts");
    let copy = |hosts: &Hosts| {
        let at = hosts.get("b").at(PORT);
        let listener = hosts.get("b").inside(|| TcpListener::bind(at)).expect("a free port");
        let sink = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a sender");
            std::io::copy(&mut stream, &mut std::io::sink()).expect("all of it")
        });
        let start = Instant::now();
        let mut stream = hosts.get("a").inside(|| TcpStream::connect(at)).expect("a line");
        stream.write_all(&vec![7; BYTES]).expect("sent");
        drop(stream);
        assert_eq!(sink.join().expect("no panic"), BYTES as u64);
        start.elapsed()
    };
    let fast = copy(&hosts);
    // 1 MiB at 8 Mbit/s takes a second.
    hosts.slow("a", "8mbit").expect("slow");
    let slow = copy(&hosts);
    assert!(slow > Duration::from_millis(700), "{slow:?}, unlimited {fast:?}");
    hosts.heal("a").expect("healed");
    let healed = copy(&hosts);
    assert!(healed < slow / 2, "{healed:?} after {slow:?}");
}

#[test]
fn processes_run_on_their_host_and_end_with_it() {
    if skip_without_hosts(&["sleep"]) {
        return;
    }
    let log = tempfile::NamedTempFile::new().expect("a file");
    let hosts = Hosts::new(&["a"]).expect("hosts");
    let mut show = hosts.get("a").command("ip");
    show.args(["-br", "addr", "show", "eth0"]);
    let mut shown = Process::start(show, log.path()).expect("ip");
    shown.wait_for("10.99.0.1/24", Duration::from_secs(10)).expect("its address");

    let mut sleep = hosts.get("a").command("sleep");
    sleep.arg("600");
    let mut sleep = Process::start(sleep, log.path()).expect("sleep");
    // Until then it is nsenter, which may be on no host yet.
    let comm = format!("/proc/{}/comm", sleep.pid());
    let sleeps = || fs::read_to_string(&comm).is_ok_and(|name| name == "sleep\n");
    assert!(command::poll_until(Duration::from_secs(10), sleeps), "it does not start");
    drop(hosts);
    assert!(sleep.wait(Duration::from_secs(10)).is_some(), "it outlived its host");
}

#[test]
fn what_a_killed_run_left_goes_with_the_next() {
    if skip_without_hosts(&["sh"]) {
        return;
    }
    // A process that has ended and been waited for: its number is free.
    let mut gone = Command::new("true").spawn().expect("true");
    gone.wait().expect("it ends");
    let name = format!("t3fs-{}-0-left", gone.id());
    let added = Command::new("ip").args(["netns", "add", &name]).status().expect("ip");
    assert!(added.success());
    let left = Path::new("/run/netns").join(&name);
    assert!(left.exists());
    drop(Hosts::new(&[]).expect("no hosts, but a switch"));
    assert!(!left.exists());
}
