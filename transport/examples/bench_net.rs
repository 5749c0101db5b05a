//! `cargo ops bench net`: round trips and bulk rate of a TCP link beside plain std sockets.
//!
//! Client and server are processes of their own, pinned to one core each; the plain program's
//! threads are pinned to the same cores. Runs are interleaved; rates are medians, the ratio is the
//! median of the rounds' ratios, so that the machine's moods hit both. The plain program is the
//! usual blocking one: a buffered reader, one write per message. Arguments: rounds, and a part of a
//! row's name.

use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rkyv::{Archive, Deserialize, Serialize};
use rustix::thread::{CpuSet, sched_setaffinity};
use t3fs_runtime::glommio::{Layout, Shards, launch};
use t3fs_runtime::{
    Actor, Addr, Bulk, Cx, Handle, Me, NodeId, RawAddr, Shard, buf::Carry, join_all, no_bulk,
    protocol,
};
use t3fs_transport::{Config, Peers, links};

struct Server;

#[derive(Clone, Archive, Serialize, Deserialize)]
struct Ping {
    n: u64,
}
no_bulk!(Ping);

#[derive(Clone, Archive, Serialize, Deserialize)]
struct Put {
    #[rkyv(with = rkyv::with::Skip)]
    data: Bulk,
}

impl Carry for Put {
    fn bulks(&mut self, each: &mut dyn FnMut(&mut Bulk)) {
        each(&mut self.data);
    }
}

protocol! { Server as ServerMsg = 0x7e00 {
    1 v 1 Ping -> u64, Control, 10_000 ms;
    2 v 1 Put -> u64, Bulk, 10_000 ms;
} }

impl Actor for Server {
    type Msg = ServerMsg;
}
impl Handle<Ping> for Server {
    async fn handle(_: &Me<Self>, m: Ping, _: &Cx) -> u64 {
        m.n
    }
}
impl Handle<Put> for Server {
    async fn handle(_: &Me<Self>, m: Put, _: &Cx) -> u64 {
        m.data.len() as u64
    }
}

/// Threads started by this thread from now on run on this core.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).expect("the core exists");
}

struct Node {
    shards: Shards,
    at: SocketAddr,
}

fn node(id: u32, core: usize, spin: Duration, peer: Option<(u32, SocketAddr)>) -> Node {
    let layout = Layout {
        node: NodeId(id),
        epoch: 1,
        // A pinned shard's core is its index; only pinned shards spin.
        shards: core + 1,
        disks: vec![],
        pin: true,
        io_memory: 1 << 20,
        spin,
    };
    let peers = Peers::new(Config {
        node: NodeId(id),
        incarnation: 1,
        shards: layout.shards as u16,
        cluster: "bench".into(),
        secret: b"sixteen bytes and more".to_vec(),
        ..Config::default()
    })
    .expect("a good configuration");
    if let Some((node, at)) = peer {
        peers.set_addresses(NodeId(node), vec![at]);
    }
    let (tx, rx) = mpsc::channel();
    let start = Arc::new(move |shard: Rc<Shard>| -> Pin<Box<dyn Future<Output = ()>>> {
        let (tx, peers) = (tx.clone(), peers.clone());
        Box::pin(async move {
            let links = links::start(&shard, &peers);
            shard.cx().start(Server);
            if shard.cx().shard_index() == 0 {
                let any = "127.0.0.1:0".parse().expect("an address");
                tx.send(links.listen(any).expect("a free port")).expect("main waits");
            }
        })
    });
    let shards = launch(&layout, start).expect("io_uring works");
    Node { shards, at: rx.recv().expect("the shard starts") }
}

/// A client node here and a server node in a process of its own.
struct Link {
    client: Node,
    server: Child,
}

/// The argument that makes this program a server; the spin in microseconds follows.
const SERVE: &str = "--serve";

/// Prints where it listens, and serves until it is killed.
fn serve(spin: Duration) -> ! {
    let it = node(2, 1, spin, None);
    println!("{}", it.at);
    loop {
        std::thread::park();
    }
}

impl Link {
    fn new(spin: Duration) -> Link {
        let mut server = Command::new(std::env::current_exe().expect("this program"))
            .args([SERVE, &spin.as_micros().to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs");
        let mut at = String::new();
        let mut said = BufReader::new(server.stdout.take().expect("piped"));
        said.read_line(&mut at).expect("the server says where it is");
        let at = at.trim().parse().expect("an address");
        Link { client: node(1, 0, spin, Some((2, at))), server }
    }

    fn run<F: Future<Output = f64> + 'static>(
        &self,
        f: impl FnOnce(Cx, Addr<Server>) -> F + Send + 'static,
    ) -> f64 {
        let (tx, rx) = mpsc::channel();
        self.client.shards.remotes[0].run(Box::new(move |shard: &Rc<Shard>| {
            let cx = shard.cx();
            let to = RawAddr { node: NodeId(2), shard: 1, slot: 0, epoch: 1 };
            cx.clone().spawn(async move {
                tx.send(f(cx, Addr::from_raw(to)).await).expect("main waits");
            });
        }));
        rx.recv().expect("the job ends")
    }

    /// Round trips per second with so many in flight.
    fn trips(&self, in_flight: usize, time: Duration) -> f64 {
        self.run(move |cx, to| async move {
            let end = Instant::now() + time;
            let begun = Instant::now();
            let loops = (0..in_flight).map(async |_| {
                let mut n = 0u64;
                while Instant::now() < end {
                    cx.ask(to, Ping { n }).await.expect("answered");
                    n += 1;
                }
                n
            });
            let n: u64 = join_all(loops).await.into_iter().sum();
            n as f64 / begun.elapsed().as_secs_f64()
        })
    }

    /// MiB per second, in requests of `len` bytes, four in flight.
    fn bulk(&self, len: usize, time: Duration) -> f64 {
        self.run(move |cx, to| async move {
            let data = Bulk::from(vec![7; len]);
            let (begun, end) = (Instant::now(), Instant::now() + time);
            let loops = (0..4).map(async |_| {
                let mut n = 0;
                while Instant::now() < end {
                    n += cx.ask(to, Put { data: data.clone() }).await.expect("answered");
                }
                n
            });
            let n: u64 = join_all(loops).await.into_iter().sum();
            n as f64 / begun.elapsed().as_secs_f64() / 1048576.0
        })
    }
}

const SMALL: usize = 64;

/// The plain program: requests of `len` bytes, answers of [`SMALL`] bytes.
fn plain(len: usize, in_flight: usize, time: Duration) -> f64 {
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
fn plain_threads(in_flight: usize, time: Duration) -> f64 {
    let all: Vec<_> =
        (0..in_flight).map(|_| std::thread::spawn(move || plain(SMALL, 1, time))).collect();
    all.into_iter().map(|t| t.join().expect("no panic")).sum()
}

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

/// Measures both in turn, and prints a row: rates, their ratio, and core time per operation of both
/// sides together.
fn row(
    name: &str,
    unit: &str,
    rounds: usize,
    server: u32,
    link: impl Fn() -> f64,
    plain: impl Fn() -> f64,
) {
    let me = std::process::id();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let (mut used_a, mut used_b) = (0.0, 0.0);
    for _ in 0..rounds {
        let before = core_time(me) + core_time(server);
        a.push(link());
        let between = core_time(me) + core_time(server);
        b.push(plain());
        used_a += between - before;
        used_b += core_time(me) + core_time(server) - between;
    }
    let time = TIME.as_secs_f64();
    let us = |used: f64, rates: &[f64]| used * 1e6 / (rates.iter().sum::<f64>() * time);
    let (ua, ub) = (us(used_a, &a), us(used_b, &b));
    let ratio = median(a.iter().zip(&b).map(|(a, b)| a / b).collect());
    let (a, b) = (median(a), median(b));
    println!("{name:<44} {a:>9.0} {b:>9.0} {unit:<6} {ratio:>6.2} {ua:>9.1} {ub:>9.1}");
}

/// Length of one run.
const TIME: Duration = Duration::from_millis(400);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [serve_it, spin] = &args[..]
        && serve_it == SERVE
    {
        serve(Duration::from_micros(spin.parse().expect("microseconds")));
    }
    let rounds = args.first().and_then(|a| a.parse().ok()).unwrap_or(7);
    let only = args.get(1).cloned().unwrap_or_default();
    let t = TIME;
    let mut parked = Link::new(Duration::ZERO);
    let mut busy = Link::new(Duration::from_micros(500));
    let (p, b) = (parked.server.id(), busy.server.id());
    println!(
        "{:<44} {:>9} {:>9} {:<6} {:>6} {:>9} {:>9}",
        "", "link", "plain", "", "ratio", "core us", "core us"
    );
    let want = |name: &str| name.contains(&only);
    if want("trip1,") {
        let one = || plain(SMALL, 1, t);
        row("round trips, 1 in flight, parked", "/s", rounds, p, || parked.trips(1, t), one);
        row("round trips, 1 in flight, busy", "/s", rounds, b, || busy.trips(1, t), one);
    }
    if want("trip16") {
        let piped = || plain(SMALL, 16, t);
        let name = "round trips, 16 in flight, parked";
        row(name, "/s", rounds, p, || parked.trips(16, t), piped);
        row("round trips, 16 in flight, busy", "/s", rounds, b, || busy.trips(16, t), piped);
        let name = "the same, beside 16 connections and threads";
        row(name, "/s", rounds, p, || parked.trips(16, t), || plain_threads(16, t));
    }
    for (name, len) in
        [("bulk, 1 MiB, 4 in flight", 1 << 20), ("bulk, 64 KiB, 4 in flight", 64 << 10)]
    {
        if want(name) {
            let mib = len as f64 / 1048576.0;
            row(name, "MiB/s", rounds, p, || parked.bulk(len, t), || plain(len, 4, t) * mib);
        }
    }
    for link in [&mut parked, &mut busy] {
        link.server.kill().expect("our own child");
        link.server.wait().expect("our own child");
    }
    // The shards' threads end with the process.
    std::process::exit(0);
}
