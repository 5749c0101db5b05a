//! Goal: links keep their promises on bad networks, and so does a cluster. Method: the conformance
//! suite of the transport, its two nodes on two hosts whose network loses, limits or is cut; then a
//! cluster whose hosts have such lines.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use t3fs_ops::hosts::{Cut, Hosts};
use t3fs_ops::process::Process;
use t3fs_ops::workspace;

use crate::cluster::Cluster;
use crate::harness::{conformance, is_nightly, program_limit, run, skip_without_hosts};
use crate::load::Load;

/// Two hosts, and a folder for what the suite prints.
pub struct Net {
    pub hosts: Hosts,
    log: tempfile::NamedTempFile,
}

impl Net {
    pub fn new() -> Net {
        let hosts = Hosts::new(&["a", "b"]).expect("hosts");
        Net { hosts, log: tempfile::NamedTempFile::new().expect("a file") }
    }

    /// Starts the tests of the suite whose names hold one of `which`. Everything may take `slow`
    /// times as long as usual; what is much slower has no time for two tests at once.
    pub fn suite(&self, which: &[&str], slow: u32) -> Process {
        let place = |host: &str| self.hosts.get(host).place();
        let mut suite = Command::new(conformance());
        suite
            .args(which)
            .arg(if slow < 10 { "--test-threads=4" } else { "--test-threads=1" })
            .env("T3FS_TEST_PLACES", format!("{},{}", place("a"), place("b")))
            .env("T3FS_TEST_SLOW", slow.to_string())
            .env("RUST_BACKTRACE", "0");
        Process::start(suite, self.log.path()).expect("the suite")
    }
}

#[track_caller]
pub fn passes(mut suite: Process) {
    let status = suite.wait(program_limit());
    let log = suite.log();
    println!("{log}");
    assert!(status.is_some_and(|s| s.success()), "the suite: {status:?}");
    assert!(log.contains("test result: ok.") && !log.contains(" 0 passed"), "nothing ran");
}

#[test]
fn the_suite_where_packets_are_lost() {
    if skip_without_hosts(&[]) {
        return;
    }
    let mut net = Net::new();
    net.hosts.loss("b", 1).expect("loss");
    for _ in 0..if is_nightly() { 10 } else { 1 } {
        passes(net.suite(&["tcp::"], 3));
    }
}

#[test]
fn the_suite_over_a_limited_line() {
    if skip_without_hosts(&[]) {
        return;
    }
    let mut net = Net::new();
    net.hosts.slow("b", if is_nightly() { "100mbit" } else { "400mbit" }).expect("slow");
    passes(net.suite(&["tcp::"], 3));
}

/// Cuts that are over before silence is taken for death are not noticed; long ones end connections,
/// and what callers are told of their asks stays true.
#[test]
fn the_suite_while_the_line_is_cut_and_mended() {
    if skip_without_hosts(&[]) {
        return;
    }
    let mut net = Net::new();
    let cut = |net: &mut Net, suite: &mut Process, away: Duration, times_max: usize| {
        let begun = Instant::now();
        let mut cuts = 0;
        while cuts < times_max && suite.is_running() && begun.elapsed() < program_limit() {
            thread::sleep(Duration::from_millis(700));
            net.hosts.cut("b", Cut::Both).expect("a cut");
            thread::sleep(away);
            net.hosts.heal("b").expect("healed");
            cuts += 1;
        }
        println!("{cuts} cuts of {away:?}");
        assert!(cuts > 1, "the suite is over before the first cut");
    };
    let mut suite = net.suite(&["tcp::"], 4);
    cut(&mut net, &mut suite, Duration::from_millis(400), usize::MAX);
    passes(suite);
    let mut suite = net.suite(&["tcp::outcomes_are_honest"], 1);
    // After these it is well again: what is cut most of the time connects nobody.
    cut(&mut net, &mut suite, Duration::from_millis(2_500), if is_nightly() { 5 } else { 2 });
    passes(suite);
}

#[test]
fn a_cluster_on_bad_lines() {
    if skip_without_hosts(&["cp", "diff"]) {
        return;
    }
    let mut cluster = Cluster::mounted("cluster-lines");
    for (host, percent) in [("storage1", 1), ("manager1", 1), ("client1", 1)] {
        cluster.hosts.loss(host, percent).expect("loss");
    }
    cluster.hosts.slow("storage2", "200mbit").expect("slow");
    let tree = workspace::root().join("transport");
    let copy = |client: &str| cluster.mount_point(client).join("tree");
    let load = Load::start(&cluster.mount_point("client2"), &cluster.mount_point("client1"));
    run(Command::new("cp").arg("-a").arg(&tree).arg(copy("client1")));
    run(Command::new("diff").arg("-r").arg(&tree).arg(copy("client2")));
    thread::sleep(Duration::from_secs(if is_nightly() { 120 } else { 3 }));
    load.finish_without_error("packets were lost and a line was slow");
    for host in ["storage1", "manager1", "client1", "storage2"] {
        cluster.hosts.heal(host).expect("healed");
    }
    cluster.becomes_whole("client1", Duration::from_secs(60));
}
