//! The pairs of shards that the suite of `t3fs_runtime::conformance` runs on.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use t3fs_runtime::conformance::{self, Fault, Job, Wire};
use t3fs_runtime::{Addr, NodeId};
use t3fs_transport::Config;

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
}

impl Pair {
    /// Two shards of one process.
    pub fn local() -> Pair {
        let nodes = vec![node(config(ASKER, 1, 2), false)];
        let to = nodes[0].addr(1);
        Pair { nodes, to, proxy: None }
    }

    /// Two nodes, of which the second has so many shards and answers on the last.
    pub fn tcp(shards: u16) -> Pair {
        let nodes = vec![node(patient(config(ASKER, 1, 1)), false), receiver(1, shards)];
        nodes[0].peers.set_addresses(nodes[1].id, vec![nodes[1].at.unwrap()]);
        let to = nodes[1].addr(shards - 1);
        Pair { nodes, to, proxy: None }
    }

    /// Two nodes with a proxy between them that does what goes wrong, and with short limits.
    pub fn tcp_with_faults() -> Pair {
        let mut c = patient(config(ASKER, 1, 1));
        c.limits.ping_after = usually(Duration::from_millis(250));
        c.limits.dead_after = usually(Duration::from_millis(1000));
        c.limits.queue_bytes = QUEUE_BYTES;
        let nodes = vec![node(c, false), receiver(1, 1)];
        let to = nodes[1].addr(0);
        let mut pair = Pair { nodes, to, proxy: None };
        pair.connect();
        pair
    }

    /// Puts a proxy before the receiver.
    fn connect(&mut self) {
        let proxy = Proxy::before(self.nodes[1].at.unwrap(), NodeId(ASKER));
        self.nodes[0].peers.set_addresses(NodeId(RECEIVER), vec![proxy.at]);
        self.proxy = Some(proxy);
    }

    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("a pair with faults")
    }
}

fn receiver(incarnation: u32, shards: u16) -> Node {
    node(patient(config(RECEIVER, incarnation, shards)), true)
}

/// Limits that fit the place.
fn patient(mut c: Config) -> Config {
    let limits = [
        &mut c.limits.connect,
        &mut c.limits.handshake,
        &mut c.limits.ping_after,
        &mut c.limits.dead_after,
    ];
    for limit in limits {
        *limit = usually(*limit);
    }
    c
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
            Fault::Hold => faults.hold.store(true, Ordering::Relaxed),
            Fault::Release => faults.hold.store(false, Ordering::Relaxed),
            Fault::Damage(at) => faults.flip.store(at as u64, Ordering::Relaxed),
            Fault::Restart => {
                self.proxy().cut();
                self.nodes[1].stop();
                self.nodes[1] = receiver(self.nodes[1].incarnation + 1, 1);
                self.to = self.nodes[1].addr(0);
                self.connect();
            }
        }
    }
}
