//! A client node in this process and a server node in one of its own, joined by a link.

use std::cell::Cell;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::{Arc, LazyLock, mpsc};
use std::time::{Duration, Instant};

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::glommio::{Layout, Shards, launch};
use t3fs_runtime::{
    Actor, Addr, Bulk, Cx, Handle, Me, NodeId, RawAddr, Shard, buf::Carry, join_all, no_bulk,
    protocol,
};
use t3fs_transport::rdma::{Devices, Nics};
use t3fs_transport::{Address, Fabric, LinkConfig, LinkLimits, OneSided, Peers, links};

/// What is asked for by [`Get`].
static ANSWER: LazyLock<Bulk> = LazyLock::new(|| vec![9; 1 << 20].into());

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

/// The answer has so many bytes of payload.
#[derive(Clone, Archive, Serialize, Deserialize)]
struct Get {
    len: u32,
}

impl Carry for Get {
    fn reply_room(&self) -> usize {
        self.len as usize
    }
}

#[derive(Clone, Archive, Serialize, Deserialize)]
struct Got {
    #[rkyv(with = rkyv::with::Skip)]
    data: Bulk,
}

impl Carry for Got {
    fn bulks(&mut self, each: &mut dyn FnMut(&mut Bulk)) {
        each(&mut self.data);
    }
}

protocol! { ServerApi as ServerMsg, ServerReply = 0x7e00 {
    1 v 1 Ping -> u64, Control, 30_000 ms;
    2 v 1 Put -> u64, Bulk, 30_000 ms;
    3 v 1 Get -> Got, Bulk, 30_000 ms;
} }

impl Actor for Server {
    type Protocol = ServerApi;
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
impl Handle<Get> for Server {
    async fn handle(_: &Me<Self>, m: Get, _: &Cx) -> Got {
        Got { data: Bulk(ANSWER.0.slice(..m.len as usize)) }
    }
}

const SERVER: u32 = 2;

/// How shards wait for what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As those of a node do: devices are looked at for a while, then shards sleep.
    Usual,
    /// They look before they sleep; at devices for ever, as perftest does.
    Looking,
    /// They sleep at once.
    Asleep,
}

impl Pace {
    const ALL: [Pace; 3] = [Pace::Usual, Pace::Looking, Pace::Asleep];

    fn spin(self) -> Duration {
        match self {
            Pace::Usual | Pace::Asleep => Duration::ZERO,
            Pace::Looking => Duration::from_micros(500),
        }
    }

    fn limits(self) -> LinkLimits {
        let usual = LinkLimits::default();
        let rdma_spin = match self {
            Pace::Usual => usual.rdma_spin,
            Pace::Looking => Duration::from_secs(1),
            Pace::Asleep => Duration::ZERO,
        };
        LinkLimits { rdma_spin, ..usual }
    }

    fn name(self) -> String {
        format!("{self:?}")
    }

    pub fn named(name: &str) -> Option<Pace> {
        Pace::ALL.into_iter().find(|pace| pace.name() == name)
    }
}

struct Node {
    peers: Peers,
    shards: Shards,
    at: SocketAddr,
}

fn node(id: u32, core: usize, pace: Pace, fabric: Fabric, peer: Option<SocketAddr>) -> Node {
    let layout = Layout {
        node: NodeId(id),
        epoch: 1,
        // A pinned shard's core is its index; only pinned shards spin.
        shards: core + 1,
        disks: vec![],
        pin: true,
        io_memory: 1 << 20,
        spin: pace.spin(),
    };
    let devices = Devices::find(&[]);
    let device_ips = devices.addresses();
    let (nics, ip) = match fabric {
        Fabric::Tcp => (Nics::None, IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Fabric::Rdma => (Nics::Devices(Arc::new(devices)), device_ips[0]),
    };
    let peers = Peers::new(LinkConfig {
        node: NodeId(id),
        incarnation: 1,
        shards: layout.shards as u16,
        cluster: "bench".into(),
        secret: b"sixteen bytes and more".to_vec(),
        nics,
        device_ips,
        limits: pace.limits(),
        ..LinkConfig::default()
    })
    .expect("a good configuration");
    if let Some(socket) = peer {
        peers.set_addresses(NodeId(SERVER), vec![Address { fabric, socket }]);
    }
    let (tx, rx) = mpsc::channel();
    let shared = peers.clone();
    let start = Arc::new(move |shard: Rc<Shard>| -> Pin<Box<dyn Future<Output = ()>>> {
        let (tx, peers) = (tx.clone(), shared.clone());
        Box::pin(async move {
            let links = links::start(&shard, &peers);
            shard.cx().start(Server);
            if shard.cx().shard_index() == 0 {
                let any = SocketAddr::new(ip, 0);
                tx.send(links.listen(any).expect("a free port")).expect("main waits");
            }
        })
    });
    let shards = launch(&layout, start).expect("io_uring works");
    Node { peers, shards, at: rx.recv().expect("the shard starts") }
}

/// A client node here and a server node in a process of its own.
pub struct Link {
    client: Node,
    server: Child,
    rate: Cell<Option<f64>>,
}

/// The argument that makes this program a server; pace and fabric follow.
pub const SERVE: &str = "--serve";

/// Prints where it listens, and serves until it is killed.
pub fn serve(pace: Pace, fabric: Fabric) -> ! {
    let it = node(SERVER, 1, pace, fabric, None);
    println!("{}", it.at);
    loop {
        std::thread::park();
    }
}

impl Link {
    pub fn new(pace: Pace, fabric: Fabric) -> Link {
        let mut server = Command::new(std::env::current_exe().expect("this program"))
            .args([SERVE, &pace.name(), &format!("{fabric:?}")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs");
        let mut at = String::new();
        let mut said = BufReader::new(server.stdout.take().expect("piped"));
        said.read_line(&mut at).expect("the server says where it is");
        let at = at.trim().parse().expect("an address");
        let client = node(1, 0, pace, fabric, Some(at));
        let link = Link { client, server, rate: Cell::default() };
        link.run(|cx, to| async move {
            // Opening a device takes its time.
            let patience = Instant::now() + Duration::from_secs(30);
            while let Err(e) = cx.ask(to, Ping { n: 0 }).await {
                assert!(Instant::now() < patience, "{e:?}");
                cx.sleep(Duration::from_millis(100)).await;
            }
        });
        let links = link.client.peers.snapshot().into_iter().flat_map(|p| p.links);
        for l in links.filter(|l| l.carrier != Some(fabric) && l.carrier.is_some()) {
            println!("not on {fabric:?}: {}", l.why_not_rdma.unwrap_or_default());
        }
        link
    }

    fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        f: impl FnOnce(Cx, Addr<ServerApi>) -> F + Send + 'static,
    ) -> T {
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
    pub fn trips(&self, in_flight: usize, time: Duration) -> f64 {
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

    /// Round trips per second of one asker, by the time that a trip typically takes (the median),
    /// as perftest has it.
    pub fn typical_trips(&self, time: Duration) -> f64 {
        let mut took = self.run(move |cx, to| async move {
            let (mut all, mut last) = (Vec::with_capacity(1 << 20), Instant::now());
            let end = last + time;
            while last < end {
                cx.ask(to, Ping { n: all.len() as u64 }).await.expect("answered");
                let now = Instant::now();
                all.push((now - last).as_secs_f64());
                last = now;
            }
            all
        });
        let per_second = took.len() as f64 / took.iter().sum::<f64>();
        self.rate.set(Some(per_second));
        took.sort_by(f64::total_cmp);
        1.0 / took[took.len() / 2]
    }

    /// What was done per second in the last measurement, if that is not what it has returned.
    pub fn take_rate(&self) -> Option<f64> {
        self.rate.take()
    }

    /// MiB per second, in requests of `len` bytes, so many in flight.
    pub fn bulk(&self, len: usize, in_flight: usize, time: Duration) -> f64 {
        self.run(move |cx, to| async move {
            let data = Bulk::from(vec![7; len]);
            let (begun, end) = (Instant::now(), Instant::now() + time);
            let loops = (0..in_flight).map(async |_| {
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

    /// The same the other way: answers carry the payload.
    pub fn fetched(&self, len: usize, in_flight: usize, time: Duration) -> f64 {
        self.run(move |cx, to| async move {
            let (begun, end) = (Instant::now(), Instant::now() + time);
            let loops = (0..in_flight).map(async |_| {
                let mut n = 0;
                while Instant::now() < end {
                    let got = cx.ask(to, Get { len: len as u32 }).await.expect("answered");
                    n += got.data.len() as u64;
                }
                n
            });
            let n: u64 = join_all(loops).await.into_iter().sum();
            n as f64 / begun.elapsed().as_secs_f64() / 1048576.0
        })
    }

    /// What went over the link so far, as fresh as its last report.
    pub fn one_sided(&self) -> OneSided {
        let links = self.client.peers.snapshot().into_iter().flat_map(|p| p.links);
        links.map(|l| l.one_sided).fold(OneSided::default(), |a, b| a + b)
    }

    pub fn server(&self) -> u32 {
        self.server.id()
    }

    pub fn end(mut self) {
        self.server.kill().expect("our own child");
        self.server.wait().expect("our own child");
        // Else they would look at the device beside whatever is measured next.
        self.client.shards.stop();
    }
}
