//! `cargo ops bench net`: round trips and bulk rate of links beside what everybody else uses.
//!
//! Client and server are processes of their own, pinned to one core each. A TCP link is compared
//! with blocking programs over std sockets, whose threads are pinned to the same cores; an RDMA
//! link, where there is a device, with perftest (`ib_send_lat`, `ib_read_bw`, `ib_write_bw`) on it.
//! Runs are interleaved; rates are medians, the ratio is the median of the rounds' ratios, so that
//! the machine's moods hit both. Trips beside perftest are by the typical time of one, which is
//! what perftest prints. Arguments: rounds, and a part of a row's name.

mod link;
mod perftest;
mod plain;

use std::time::Duration;

use link::{Link, Pace, SERVE, serve};
use perftest::Perftest;
use plain::{SMALL, plain, plain_threads};
use t3fs_transport::Fabric;
use t3fs_transport::rdma::Devices;

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Core time in seconds that a process has used so far, all threads; this one's includes those that
/// have ended.
fn core_time(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let behind_name = stat.rsplit(')').next().expect("a name in parentheses");
    let ticks = behind_name.split_whitespace().skip(11).take(2);
    ticks.map(|t| t.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}

/// One table: how often, and which rows.
struct Table {
    rounds: usize,
    only: String,
}

impl Table {
    fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }

    fn title(&self, ours: &str, theirs: &str) {
        let (a, b) = ("core us", "core us");
        println!("{ours:<44} {:>9} {theirs:>9} {:<6} {:>6} {a:>9} {b:>9}", "link", "", "ratio");
    }

    /// Measures both in turn, and prints a row: rates, their ratio, and core time per operation of
    /// both sides together (of perftest it is unknown).
    fn row(
        &self,
        name: &str,
        unit: &str,
        time: Duration,
        link: (&Link, &dyn Fn(&Link) -> f64),
        other: &dyn Fn() -> f64,
    ) {
        if !self.wants(name) {
            return;
        }
        let (me, server) = (std::process::id(), link.0.server());
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let (mut used_a, mut used_b) = (0.0, 0.0);
        let mut done = Vec::new();
        for _ in 0..self.rounds {
            let before = core_time(me) + core_time(server);
            a.push((link.1)(link.0));
            done.push(link.0.take_rate().unwrap_or_else(|| a[a.len() - 1]));
            let between = core_time(me) + core_time(server);
            b.push(other());
            used_a += between - before;
            used_b += core_time(me) + core_time(server) - between;
        }
        let us = |used: f64, rates: &[f64]| {
            used * 1e6 / (rates.iter().sum::<f64>() * time.as_secs_f64())
        };
        let (ua, ub) = (us(used_a, &done), us(used_b, &b));
        let ratio = median(a.iter().zip(&b).map(|(a, b)| a / b).collect());
        let (a, b) = (median(a), median(b));
        println!("{name:<44} {a:>9.0} {b:>9.0} {unit:<6} {ratio:>6.2} {ua:>9.1} {ub:>9.1}");
    }
}

/// Length of one run over TCP.
const TIME: Duration = Duration::from_millis(400);
/// Length of one run over RDMA, which may be in an emulated machine.
const LONG: Duration = Duration::from_secs(2);
/// Requests in flight over RDMA; perftest keeps 128.
const DEPTH: usize = 32;
const SIZES: [(&str, usize); 2] = [("1 MiB", 1 << 20), ("64 KiB", 64 << 10)];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [serve_it, pace, fabric] = &args[..]
        && serve_it == SERVE
    {
        let fabric = if fabric == "Rdma" { Fabric::Rdma } else { Fabric::Tcp };
        serve(Pace::named(pace).expect("a pace"), fabric);
    }
    let table = Table {
        rounds: args.first().and_then(|a| a.parse().ok()).unwrap_or(7),
        only: args.get(1).cloned().unwrap_or_default(),
    };
    let devices = Devices::find(&[]);
    match devices.why_none() {
        Some(why) => println!("no RDMA rows: {why}"),
        None => rdma(&table, &devices),
    }
    tcp(&table);
    // The shards' threads end with the process.
    std::process::exit(0);
}

fn tcp(table: &Table) {
    let t = TIME;
    let parked = Link::new(Pace::Usual, Fabric::Tcp);
    let busy = Link::new(Pace::Looking, Fabric::Tcp);
    table.title("TCP", "sockets");
    for in_flight in [1, 16] {
        let other = || plain(SMALL, in_flight, t);
        for (kind, link) in [("parked", &parked), ("busy", &busy)] {
            let name = format!("round trips, {in_flight} in flight, {kind}");
            table.row(&name, "/s", t, (link, &|l| l.trips(in_flight, t)), &other);
        }
    }
    let name = "round trips, 16 beside 16 threads, parked";
    table.row(name, "/s", t, (&parked, &|l| l.trips(16, t)), &|| plain_threads(16, t));
    for (size, len) in SIZES {
        let name = format!("bulk, {size}, 4 in flight");
        let other = || plain(len, 4, t) * len as f64 / f64::from(1 << 20);
        table.row(&name, "MiB/s", t, (&parked, &|l| l.bulk(len, 4, t)), &other);
    }
    parked.end();
    busy.end();
}

fn bulk_row(size: &str, how: &str) -> String {
    format!("RDMA bulk, {size}, {DEPTH} in flight, {how}")
}

fn rdma(table: &Table, devices: &Devices) {
    let t = LONG;
    let perftest = Perftest::on(devices);
    table.title(&format!("RDMA, {perftest}"), "perftest");
    // With events, or polling: perftest knows nothing in between.
    let trips = [
        (Pace::Looking, "RDMA trips, polling", false),
        (Pace::Usual, "RDMA trips, as nodes are set", true),
        (Pace::Asleep, "RDMA trips, asleep in between", true),
    ];
    for (pace, name, events) in trips.into_iter().filter(|(_, name, _)| table.wants(name)) {
        let link = Link::new(pace, Fabric::Rdma);
        let typical = |l: &Link| l.typical_trips(t);
        table.row(name, "/s", t, (&link, &typical), &|| perftest.trips(events));
        link.end();
    }
    let mut rows = SIZES.iter().flat_map(|(size, _)| ["READ", "WRITE"].map(|h| bulk_row(size, h)));
    if !rows.any(|name| table.wants(&name)) {
        return;
    }
    let parked = Link::new(Pace::Usual, Fabric::Rdma);
    for (size, len) in SIZES {
        let name = bulk_row(size, "READ");
        let read = || perftest.rate("ib_read_bw", len);
        table.row(&name, "MiB/s", t, (&parked, &|l| l.bulk(len, DEPTH, t)), &read);
        let name = bulk_row(size, "WRITE");
        let write = || perftest.rate("ib_write_bw", len);
        table.row(&name, "MiB/s", t, (&parked, &|l| l.fetched(len, DEPTH, t)), &write);
    }
    std::thread::sleep(Duration::from_secs(2)); // the link reports once a second
    let moved = parked.one_sided();
    println!(
        "moved one-sided by this side's device: {} MiB (the peer's READs move the rest)",
        (moved.bytes_read + moved.bytes_written) >> 20
    );
    parked.end();
}
