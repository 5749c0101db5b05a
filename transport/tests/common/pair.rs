//! The pairs of shards that the suite of `t3fs_runtime::conformance` runs on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use t3fs_runtime::conformance::{self, Fault, Job, Wire};
use t3fs_runtime::{Addr, NodeId};
use t3fs_transport::rdma::faults::Faults;
use t3fs_transport::rdma::{Devices, Nics, soft};
use t3fs_transport::{Address, Fabric, LinkConfig};

use super::places::usually;
use super::{Echo, Node, Proxy, config, node};

const ASKER: u32 = 1;
const RECEIVER: u32 = 2;
const QUEUE_BYTES: usize = 8 << 20;

/// Two ends of a way: who asks (the first shard of a node), and who answers.
pub struct Pair {
    /// Who asks; then who answers, where that is another.
    pub nodes: Vec<Node>,
    pub to: Addr<Echo>,
    proxy: Option<Proxy>,
    fabric: Fabric,
    nics: Nics,
    /// Of the devices, where the pair uses any.
    faults: Faults,
}

/// The devices at the place where nodes live. `None`: there are none, which fails the test if
/// `T3FS_RDMA_REQUIRED` is set.
pub fn devices() -> Option<Nics> {
    let ip = super::places::of(NodeId(ASKER)).ip;
    let found = Devices::find(&[]);
    let why = found.port_at(ip).err();
    let Some(why) = why else { return Some(Nics::Devices(Arc::new(found))) };
    assert!(std::env::var_os("T3FS_RDMA_REQUIRED").is_none(), "{why}");
    println!("not tested with devices: {why}");
    None
}

/// A new wire of stand-ins for devices.
pub fn stand_in() -> Nics {
    Nics::Soft(soft::Wire::default())
}

impl Pair {
    /// Two shards of one process.
    pub fn local() -> Pair {
        let nodes = vec![node(config(ASKER, 1, 2), false)];
        let to = nodes[0].addr(1);
        Pair {
            nodes,
            to,
            proxy: None,
            fabric: Fabric::Tcp,
            nics: Nics::None,
            faults: Faults::default(),
        }
    }

    /// Two nodes, of which the second has so many shards and answers on the last.
    pub fn tcp(shards: u16) -> Pair {
        Pair::two(Fabric::Tcp, Nics::None, shards)
    }

    /// The same by queue pairs.
    pub fn rdma(nics: Nics, shards: u16) -> Pair {
        Pair::two(Fabric::Rdma, nics, shards)
    }

    fn two(fabric: Fabric, nics: Nics, shards: u16) -> Pair {
        let asker = node(with_nics(config(ASKER, 1, 1), &nics), false);
        let nodes = vec![asker, receiver(1, shards, &nics)];
        let socket = nodes[1].at.unwrap();
        nodes[0].peers.set_addresses(nodes[1].id, vec![Address { fabric, socket }]);
        let to = nodes[1].addr(shards - 1);
        Pair { nodes, to, proxy: None, fabric, nics, faults: Faults::default() }
    }

    /// Two nodes with a proxy between them that does what goes wrong, and with short limits.
    pub fn tcp_with_faults() -> Pair {
        Pair::with_faults(Fabric::Tcp, Nics::None)
    }

    pub fn rdma_with_faults(nics: Nics) -> Pair {
        Pair::with_faults(Fabric::Rdma, nics)
    }

    fn with_faults(fabric: Fabric, nics: Nics) -> Pair {
        let faults = Faults::default();
        let nics = match nics {
            Nics::None => nics,
            _ => Nics::Faulty(Box::new(nics), faults.clone()),
        };
        let mut c = with_nics(config(ASKER, 1, 1), &nics);
        c.limits.ping_after = usually(Duration::from_millis(250));
        c.limits.dead_after = usually(Duration::from_millis(1000));
        c.limits.queue_bytes = QUEUE_BYTES;
        let nodes = vec![node(c, false), receiver(1, 1, &nics)];
        let to = nodes[1].addr(0);
        let mut pair = Pair { nodes, to, proxy: None, fabric, nics, faults };
        pair.connect();
        pair
    }

    /// Puts a proxy before the receiver.
    fn connect(&mut self) {
        let proxy = Proxy::before(self.nodes[1].at.unwrap(), NodeId(ASKER));
        let address = Address { fabric: self.fabric, socket: proxy.at };
        self.nodes[0].peers.set_addresses(NodeId(RECEIVER), vec![address]);
        self.proxy = Some(proxy);
    }

    /// What the stand-ins for devices are joined by.
    pub fn soft(&self) -> Option<&soft::Wire> {
        let nics = match &self.nics {
            Nics::Faulty(nics, _) => nics,
            nics => nics,
        };
        match nics {
            Nics::Soft(wire) => Some(wire),
            _ => None,
        }
    }

    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("a pair with faults")
    }
}

fn receiver(incarnation: u32, shards: u16, nics: &Nics) -> Node {
    node(with_nics(config(RECEIVER, incarnation, shards), nics), true)
}

/// With these devices where the node lives.
pub fn with_nics(mut config: LinkConfig, nics: &Nics) -> LinkConfig {
    if !matches!(nics, Nics::None) {
        config.device_ips = vec![super::places::of(config.node).ip];
        config.limits.rdma_memory = 16 << 20;
        config.limits.rdma_receive_buffers = 128;
        config.limits.rdma_connections = 32;
        config.limits.handshake = usually(config.limits.handshake);
        config.limits.dead_after = usually(config.limits.dead_after);
    }
    LinkConfig { nics: nics.clone(), ..config }
}

impl conformance::Pair for Pair {
    fn wire(&self) -> Wire {
        Wire {
            in_order: true,
            repeats: false,
            loss_told: Some(usually(Duration::from_secs(2))),
            silence_told: Some(usually(Duration::from_secs(8))),
            queue_bytes: Some(QUEUE_BYTES),
        }
    }

    fn to(&self) -> Addr<Echo> {
        self.to
    }

    fn spawn(&self, task: Job) {
        let remotes = &self.nodes[0].shards.as_ref().expect("the node runs").remotes;
        remotes[0].run(Box::new(move |shard| {
            let cx = shard.cx();
            cx.spawn(task(cx.clone()));
        }));
    }

    fn wait(&self, limit: Duration, done: &dyn Fn() -> bool) -> bool {
        let end = Instant::now() + limit;
        while !done() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn disturb(&mut self, what: Fault) {
        let faults = &self.proxy().faults;
        match what {
            Fault::Cut => self.proxy().cut(),
            Fault::Hold | Fault::Release => {
                let hold = what == Fault::Hold;
                faults.hold.store(hold, Ordering::Relaxed);
                self.faults.hold(hold);
            }
            Fault::Damage(at) => match self.fabric {
                Fabric::Rdma => self.faults.flip_packet(at),
                Fabric::Tcp => faults.flip.store(at as u64, Ordering::Relaxed),
            },
            Fault::Restart => {
                self.proxy().cut();
                self.nodes[1].stop();
                self.nodes[1] = receiver(self.nodes[1].incarnation + 1, 1, &self.nics);
                self.to = self.nodes[1].addr(0);
                self.connect();
            }
        }
    }
}
