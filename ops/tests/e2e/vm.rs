//! Goal: what needs another kernel than this machine may have. Method: `cargo ops vm` starts these
//! tests in the VM of `ops/rdma-vm`, one after another in one boot. Software emulates the VM's
//! processors, so everything is 10 to 20 times slower there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use t3fs_ops::process::Process;

use crate::harness::{Watchdog, binary, conformance, run};
use crate::loop_disk::LoopDisk;
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

/// Bytes that the kernel sends from where they lie arrive as they were. Method: the suite between
/// two network cards, which unlike all else here do not have them copied; the log must show that.
#[test]
#[ignore = "needs network cards: cargo ops vm"]
fn the_suite_between_network_cards() {
    let mut places = Vec::new();
    for (card, ip) in [("card0", "10.8.2.1"), ("card1", "10.8.2.2")] {
        let address = format!("{ip}/24");
        run(Command::new("ip").args(["netns", "add", card]));
        run(Command::new("ip").args(["link", "set", card, "netns", card]));
        run(Command::new("ip").args(["-n", card, "addr", "add", &address, "dev", card]));
        for up in ["lo", card] {
            run(Command::new("ip").args(["-n", card, "link", "set", up, "up"]));
        }
        places.push(format!("{ip}@/run/netns/{card}"));
    }
    let log = tempfile::NamedTempFile::new().expect("a file");
    let mut suite = Command::new(conformance());
    suite
        .args(["tcp::a_cut", "tcp::a_slow_receiver", "tcp::big", "tcp::damage", "tcp::order"])
        .args(["--test-threads=1", "--nocapture"])
        .env("T3FS_TEST_PLACES", places.join(","))
        .env("T3FS_TEST_SLOW", SLOW.to_string())
        .env("RUST_LOG", "t3fs_runtime::glommio::zero_copy=trace")
        .env("RUST_BACKTRACE", "0");
    passes(Process::start(suite, log.path()).expect("the suite"));
    let log = fs::read_to_string(log.path()).expect("the log");
    let copied = |yes: &str| log.matches(&format!("copied: {yes}")).count();
    println!("writes done with: {} not copied, {} copied", copied("false"), copied("true"));
    assert!(copied("false") > copied("true"), "{}", copied("true"));
}

/// In [`a_tree`], not counting what may be too small to be worth it.
const TREE_BYTES: u64 = 11 << 20;

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
#[ignore = "needs RDMA devices: cargo ops vm"]
fn the_suite_over_rdma() {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let mut suite = Command::new(conformance());
    suite
        .args(["rdma::", "--test-threads=1"])
        .env("T3FS_RDMA_REQUIRED", "1")
        .env("T3FS_TEST_PLACES", "10.8.0.1,10.8.0.1")
        .env("T3FS_TEST_SLOW", SLOW.to_string())
        .env("RUST_BACKTRACE", "0");
    passes(Process::start(suite, log.path()).expect("the suite"));
}

/// A storage process is killed and comes back; and all of it by queue pairs only, payloads moved
/// one-sided.
#[test]
#[ignore = "needs RDMA devices: cargo ops vm"]
fn a_cluster_over_rdma_loses_a_storage_and_gets_it_back() {
    let begun = Instant::now();
    let step = |what: &str| println!("{:5.1} s: {what}", begun.elapsed().as_secs_f64());
    let mut rack = Rack::new("rdma", None);
    step("mounted");
    let first = a_tree(&rack, "first", 1);
    rack.copy(&first, "first");
    step("copied");
    rack.compare(&first, "first");
    step("compared");
    let (read, written) = one_sided(&rack);
    step(&format!("stores have read {read} bytes by READ and written {written} by WRITE"));
    assert!(read > 3 * TREE_BYTES, "three replicas are pulled: {read}");
    assert!(written > TREE_BYTES, "what is read is pushed: {written}");

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
    one_sided(&rack);
}

/// Bytes that the stores have moved themselves, by READ and by WRITE. No link is anything but RDMA.
fn one_sided(rack: &Rack) -> (u64, u64) {
    let stores = ["storage1", "storage2", "storage3"];
    let links: Vec<_> = stores.iter().flat_map(|name| rack.links(name)).collect();
    assert!(links.len() >= 2 * stores.len(), "{links:?}");
    assert!(links.iter().all(|(_, link)| link["carrier"] == "RDMA"), "{links:?}");
    let sum = |key: &str| links.iter().filter_map(|(_, link)| link[key].as_u64()).sum();
    (sum("read_bytes"), sum("written_bytes"))
}

#[test]
#[ignore = "needs RDMA devices: cargo ops vm"]
fn a_cluster_in_which_one_has_no_rdma() {
    let rack = Rack::new("auto", Some("storage3"));
    let tree = a_tree(&rack, "tree", 7);
    rack.copy(&tree, "tree");
    rack.compare(&tree, "tree");
    let carriers = |name: &str| {
        let links = rack.links(name).into_iter();
        links.map(|(peer, link)| (peer, link["carrier"].as_str().unwrap_or_default().to_owned()))
    };
    let mut kinds = [0, 0];
    for (peer, carrier) in carriers("storage1").chain(carriers("storage2")) {
        let without = peer == 23;
        assert_eq!(carrier, if without { "TCP" } else { "RDMA" }, "with node {peer}");
        kinds[usize::from(without)] += 1;
    }
    assert!(kinds.iter().all(|n| *n > 0), "{kinds:?}");
    assert!(carriers("storage3").all(|(_, carrier)| carrier == "TCP"));
    rack.becomes_whole();
}

/// Regression: on Linux 6.1 `up` never came to an end with its data on a device without queues for
/// polled I/O. The executor asked whether the device can be polled by a polled read, which the
/// kernel tried for ever. Method: ext4 on a loop device.
#[test]
#[ignore = "needs Debian's kernel: cargo ops vm"]
fn a_disk_that_cannot_be_polled_is_used() {
    let place = tempfile::tempdir().expect("a folder");
    let disk = LoopDisk::new(place.path(), 1200);
    let mount_point = place.path().join("mnt");
    fs::create_dir(&mount_point).expect("a mount point");
    let _watchdog = Watchdog::start(mount_point.clone());
    let data = disk.dir.join("data");
    run(within_a_minute(binary())
        .arg("up")
        .arg(&mount_point)
        .arg("--data")
        .arg(&data)
        .arg("--detach"));
    let content = vec![7; 3 << 20];
    fs::write(mount_point.join("file"), &content).expect("write");
    assert!(fs::read(mount_point.join("file")).expect("read") == content);
    run(within_a_minute(binary()).arg("down").arg(&mount_point));
}

/// What does not end by itself ends after a minute.
fn within_a_minute(program: PathBuf) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "60"]).arg(program);
    command
}
