//! Nodes in one test process: each a launch of its own with its own shards and links, an actor
//! that answers, and a proxy between two nodes that can hold, damage and cut what passes.
//!
//! Nodes listen on this machine's loopback, unless `places.rs` was told of other networks.
#![allow(dead_code, unused_imports)] // each test file uses its own part

pub mod pair;
pub mod places;

use std::cell::RefCell;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

pub use t3fs_runtime::conformance::echo::{Echo, Echoing, Ping, Slow, Store, pattern};
use t3fs_runtime::glommio::{Layout, Shards, launch};
use t3fs_runtime::{Addr, Cx, NodeId, RawAddr, Shard};
use t3fs_transport::{LinkConfig, NodeLinks, Peers, links as node_links};

thread_local! {
    static LINKS: RefCell<Option<NodeLinks>> = const { RefCell::new(None) };
}

/// The links of the shard that this code runs on.
pub fn links() -> NodeLinks {
    LINKS.with_borrow(|l| l.clone()).expect("called on a shard with links")
}

pub struct Node {
    pub id: NodeId,
    pub incarnation: u32,
    pub peers: Peers,
    pub shards: Option<Shards>,
    pub at: Option<SocketAddr>,
}

pub const SECRET: &[u8] = b"a secret of the test cluster";

pub fn config(node: u32, incarnation: u32, shards: u16) -> LinkConfig {
    let mut config = LinkConfig {
        node: NodeId(node),
        incarnation,
        shards,
        cluster: "test".into(),
        secret: SECRET.to_vec(),
        ..LinkConfig::default()
    };
    let limits = &mut config.limits;
    for limit in
        [&mut limits.connect, &mut limits.handshake, &mut limits.ping_after, &mut limits.dead_after]
    {
        *limit = places::usually(*limit);
    }
    config
}

/// Starts a node with an [`Echo`] in slot 0 of each shard.
pub fn node(config: LinkConfig, listen: bool) -> Node {
    if std::env::var_os("RUST_LOG").is_some() {
        // Another test of this process may have done it.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).try_init();
    }
    let layout = Layout {
        node: config.node,
        epoch: config.incarnation,
        shards: usize::from(config.shards),
        disks: vec![],
        pin: false,
        io_memory: 1 << 20,
        spin: Duration::ZERO,
    };
    let (id, incarnation, count) = (config.node, config.incarnation, config.shards);
    let place = places::of(id);
    let peers = Peers::new(config).unwrap();
    peers.publish(7, 0, 0);
    let (tx, rx) = mpsc::channel();
    let shared = peers.clone();
    let start = Arc::new(move |shard: Rc<Shard>| -> Pin<Box<dyn Future<Output = ()>>> {
        let (tx, peers, place) = (tx.clone(), shared.clone(), place.clone());
        Box::pin(async move {
            place.enter();
            let links = node_links::start(&shard, &peers);
            let cx = shard.cx();
            cx.start(Echoing::default());
            let at = (listen && cx.shard_index() == 0)
                .then(|| links.listen((place.ip, 0).into()).unwrap());
            LINKS.with_borrow_mut(|l| *l = Some(links));
            tx.send(at).unwrap();
        })
    });
    let shards = launch(&layout, start).unwrap();
    let mut at = None;
    for _ in 0..count {
        at = at.or(rx.recv_timeout(Duration::from_secs(20)).unwrap());
    }
    Node { id, incarnation, peers, shards: Some(shards), at }
}

impl Node {
    pub fn addr(&self, shard: u16) -> Addr<Echo> {
        Addr::from_raw(RawAddr { node: self.id, shard, slot: 0, epoch: self.incarnation })
    }

    /// Runs something on a shard and waits for it.
    pub fn on<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        shard: usize,
        f: impl FnOnce(Cx) -> F + Send + 'static,
    ) -> T {
        let rx = self.begin(shard, f);
        rx.recv_timeout(Duration::from_secs(120)).expect("the test's step ends")
    }

    /// Begins something on a shard.
    pub fn begin<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        shard: usize,
        f: impl FnOnce(Cx) -> F + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (tx, rx) = mpsc::channel();
        let remotes = &self.shards.as_ref().expect("the node runs").remotes;
        remotes[shard].run(Box::new(move |shard: &Rc<Shard>| {
            let cx = shard.cx();
            cx.clone().spawn(async move {
                let _ = tx.send(f(cx).await); // the test may have ended
            });
        }));
        rx
    }

    /// Closes all links, as an orderly end of the process does.
    pub fn stop(&mut self) {
        if let Some(shards) = self.shards.take() {
            let (tx, rx) = mpsc::channel();
            for r in &shards.remotes {
                let tx = tx.clone();
                r.run(Box::new(move |_| {
                    links().stop();
                    tx.send(()).unwrap();
                }));
            }
            for _ in &shards.remotes {
                rx.recv_timeout(Duration::from_secs(20)).unwrap();
            }
            // The readers and writers see the end and let go of their sockets.
            std::thread::sleep(Duration::from_millis(50));
            shards.stop();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A shard that has panicked would not stop, and hide why.
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

/// What a proxy does to the bytes that pass towards the server.
#[derive(Default)]
pub struct Faults {
    /// Takes nothing from either side any more: a peer behind a dead cable.
    pub hold: AtomicBool,
    /// Bytes that pass in a millisecond; 0 is as many as come.
    pub per_ms: AtomicU64,
    /// Flips a bit of the byte this far into the next chunk; 0 is off.
    pub flip: AtomicU64,
    /// Sends the next chunk twice.
    pub twice: AtomicBool,
    pub passed: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

/// A proxy before a server.
pub struct Proxy {
    pub at: SocketAddr,
    pub faults: Arc<Faults>,
}

impl Proxy {
    /// Lives where `asker` does.
    pub fn before(server: SocketAddr, asker: NodeId) -> Proxy {
        let place = places::of(asker);
        let faults = Arc::new(Faults::default());
        let f = Arc::clone(&faults);
        let (tx, rx) = mpsc::channel();
        std::thread::spawn(move || {
            place.enter();
            let door = TcpListener::bind((place.ip, 0)).unwrap();
            tx.send(door.local_addr().unwrap()).unwrap();
            for client in door.incoming().map_while(Result::ok) {
                let Ok(up) = TcpStream::connect(server) else { continue };
                for s in [&client, &up] {
                    s.set_nodelay(true).unwrap();
                    f.open.lock().unwrap().push(s.try_clone().unwrap());
                }
                let (c2, u2) = (client.try_clone().unwrap(), up.try_clone().unwrap());
                let (f1, f2) = (Arc::clone(&f), Arc::clone(&f));
                std::thread::spawn(move || pump(client, up, &f1, true));
                std::thread::spawn(move || pump(u2, c2, &f2, false));
            }
        });
        Proxy { at: rx.recv().unwrap(), faults }
    }

    /// Writes into all connections, both ways.
    pub fn inject(&self, bytes: &[u8]) {
        for mut s in self.faults.open.lock().unwrap().iter() {
            let _ = s.write_all(bytes); // it may be closed
        }
    }

    /// Cuts all connections at once.
    pub fn cut(&self) {
        for s in self.faults.open.lock().unwrap().drain(..) {
            let _ = s.shutdown(Shutdown::Both); // it may be closed
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, f: &Faults, towards_server: bool) {
    let mut buf = vec![0; 64 << 10];
    let mut due = Instant::now();
    loop {
        while f.hold.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let n = from.read(&mut buf).unwrap_or(0);
        while f.hold.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if n == 0 {
            break;
        }
        let per_ms = f.per_ms.load(Ordering::Relaxed);
        if towards_server && per_ms > 0 {
            // Sleeping too long is made up for, having nothing to do is not.
            let late = Instant::now().checked_sub(Duration::from_millis(100));
            due = late.map_or(due, |late| due.max(late));
            due += Duration::from_micros(n as u64 * 1000 / per_ms);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        if towards_server {
            let flip = f.flip.swap(0, Ordering::Relaxed) as usize;
            if flip > 0 {
                buf[flip.min(n) - 1] ^= 1;
            }
            if f.twice.swap(false, Ordering::Relaxed) && to.write_all(&buf[..n]).is_err() {
                break;
            }
        }
        f.passed.fetch_add(n as u64, Ordering::Relaxed);
        if to.write_all(&buf[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Open descriptors of this process.
pub fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Resident memory of this process, in KiB.
pub fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
