//! The pairs of shards that the suite of `t3fs_runtime::conformance` runs on.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use t3fs_runtime::conformance::{self, Fault, Job, Wire};
use t3fs_runtime::{Addr, NodeId};
use t3fs_transport::rdma::{Nics, soft};
use t3fs_transport::{Address, Config, Fabric};

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
    /// Between stand-ins for devices.
    soft: Option<soft::Wire>,
}

impl Pair {
    /// Two shards of one process.
    pub fn local() -> Pair {
        let nodes = vec![node(config(ASKER, 1, 2), false)];
        let to = nodes[0].addr(1);
        Pair { nodes, to, proxy: None, fabric: Fabric::Tcp, soft: None }
    }

    /// Two nodes, of which the second has so many shards and answers on the last.
    pub fn tcp(shards: u16) -> Pair {
        Pair::two(Fabric::Tcp, None, shards)
    }

    /// The same by queue pairs of stand-ins for devices.
    pub fn rdma_soft(shards: u16) -> Pair {
        Pair::two(Fabric::Rdma, Some(soft::Wire::default()), shards)
    }

    fn two(fabric: Fabric, soft: Option<soft::Wire>, shards: u16) -> Pair {
        let asker = node(with_nics(config(ASKER, 1, 1), &soft), false);
        let nodes = vec![asker, receiver(1, shards, &soft)];
        let socket = nodes[1].at.unwrap();
        nodes[0].peers.set_addresses(nodes[1].id, vec![Address { fabric, socket }]);
        let to = nodes[1].addr(shards - 1);
        Pair { nodes, to, proxy: None, fabric, soft }
    }

    /// Two nodes with a proxy between them that does what goes wrong, and with short limits.
    pub fn tcp_with_faults() -> Pair {
        Pair::with_faults(Fabric::Tcp, None)
    }

    pub fn rdma_soft_with_faults() -> Pair {
        Pair::with_faults(Fabric::Rdma, Some(soft::Wire::default()))
    }

    fn with_faults(fabric: Fabric, soft: Option<soft::Wire>) -> Pair {
        let mut c = with_nics(config(ASKER, 1, 1), &soft);
        c.limits.ping_after = usually(Duration::from_millis(250));
        c.limits.dead_after = usually(Duration::from_millis(1000));
        c.limits.queue_bytes = QUEUE_BYTES;
        let nodes = vec![node(c, false), receiver(1, 1, &soft)];
        let to = nodes[1].addr(0);
        let mut pair = Pair { nodes, to, proxy: None, fabric, soft };
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
    pub fn soft(&self) -> &soft::Wire {
        self.soft.as_ref().expect("a pair with queue pairs of the stand-in")
    }

    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("a pair with faults")
    }
}

fn receiver(incarnation: u32, shards: u16, soft: &Option<soft::Wire>) -> Node {
    node(with_nics(config(RECEIVER, incarnation, shards), soft), true)
}

/// With a stand-in for a device at the loopback address.
pub fn with_nics(mut config: Config, soft: &Option<soft::Wire>) -> Config {
    if let Some(wire) = soft {
        config.nics = Nics::Soft(wire.clone());
        config.device_ips = vec!["127.0.0.1".parse().unwrap()];
        config.limits.rdma_memory = 16 << 20;
        config.limits.rdma_receive_buffers = 128;
    }
    config
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
                self.soft.iter().for_each(|wire| wire.hold(hold));
            }
            Fault::Damage(at) => match &self.soft {
                Some(wire) => wire.flip_packet(at),
                None => faults.flip.store(at as u64, Ordering::Relaxed),
            },
            Fault::Restart => {
                self.proxy().cut();
                self.nodes[1].stop();
                self.nodes[1] = receiver(self.nodes[1].incarnation + 1, 1, &self.soft);
                self.to = self.nodes[1].addr(0);
                self.connect();
            }
        }
    }
}
