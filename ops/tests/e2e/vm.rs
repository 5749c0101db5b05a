//! Goal: what needs another kernel than this machine may have. Method: `cargo ops vm` starts these
//! tests in the VM of `ops/rdma-vm`, one after another in one boot. Software emulates the VM's
//! processors, so everything is 10 to 20 times slower there.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::networks::{Net, passes};
use crate::rack::Rack;

/// How much slower than usual.
const SLOW: u32 = 10;

#[test]
#[ignore = "needs netem: cargo ops vm"]
fn the_suite_over_a_long_way() {
    let mut net = Net::new();
    net.hosts.far("b", Duration::from_millis(20), 0).expect("netem");
    passes(net.suite(&["tcp::"], SLOW));
    // With losses a window of a few packets is all that is ever open: what moves megabytes would
    // take minutes.
    net.hosts.far("b", Duration::from_millis(20), 1).expect("netem");
    let small = [
        "tcp::a_cut_is_told_and_mended",
        "tcp::a_deadline_ends_the_wait",
        "tcp::a_half_open_peer_is_noticed",
        "tcp::a_later_version",
        "tcp::a_receiver_is_not_flooded",
        "tcp::a_restarted_receiver_is_another",
        "tcp::a_slow_handler_is_not_silence",
    ];
    passes(net.suite(&small, SLOW));
}

/// Files of all sizes, some MiB together, that differ from each other and in themselves.
fn a_tree(rack: &Rack, name: &str, seed: u8) -> PathBuf {
    let tree = rack.path(name);
    fs::create_dir_all(tree.join("deeper")).expect("a folder");
    let sizes = [0, 1, 4_096, 70_000, 600_000, 3 << 20, (8 << 20) + 5];
    for (number, size) in sizes.into_iter().enumerate() {
        let byte = |i: usize| ((i >> 3) as u8).wrapping_mul(31).wrapping_add(seed + number as u8);
        let content: Vec<u8> = (0..size).map(byte).collect();
        let folder = if number % 2 == 0 { tree.clone() } else { tree.join("deeper") };
        fs::write(folder.join(format!("file{number}")), content).expect("a file");
    }
    tree
}

#[test]
#[ignore = "a cluster on the addresses of the VM: cargo ops vm"]
fn a_cluster_loses_a_storage_and_gets_it_back() {
    let begun = Instant::now();
    let step = |what: &str| println!("{:5.1} s: {what}", begun.elapsed().as_secs_f64());
    let mut rack = Rack::new("TCP");
    step("mounted");
    let first = a_tree(&rack, "first", 1);
    rack.copy(&first, "first");
    step("copied");
    rack.compare(&first, "first");
    step("compared");
    rack.kill("storage2");
    let second = a_tree(&rack, "second", 101);
    rack.copy(&second, "second");
    step("copied without storage2");
    rack.start("storage2", &[]);
    rack.wait_for("storage2", "serves cluster");
    rack.becomes_whole();
    step("whole again");
    rack.compare(&first, "first");
    rack.compare(&second, "second");
    step("compared");
}
