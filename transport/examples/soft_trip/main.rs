//! Scratch: trips over the stand-in, for callgrind.
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::glommio::{Layout, Shards, launch};
use t3fs_runtime::{Actor, Addr, Cx, Handle, Me, NodeId, RawAddr, Shard, no_bulk, protocol};
use t3fs_transport::rdma::{Nics, soft};
use t3fs_transport::{Address, Config, Fabric, Limits, Peers, links};

struct Server;
#[derive(Clone, Archive, Serialize, Deserialize)]
struct Ping {
    n: u64,
}
no_bulk!(Ping);
protocol! { Server as ServerMsg = 0x7e00 {
    1 v 1 Ping -> u64, Control, 30_000 ms;
} }
impl Actor for Server {
    type Msg = ServerMsg;
}
impl Handle<Ping> for Server {
    async fn handle(_: &Me<Self>, m: Ping, _: &Cx) -> u64 {
        m.n
    }
}

fn node(id: u32, nics: &Nics, peer: Option<SocketAddr>) -> (Shards, SocketAddr) {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let layout = Layout {
        node: NodeId(id),
        epoch: 1,
        shards: 1,
        disks: vec![],
        pin: false,
        io_memory: 1 << 20,
        spin: Duration::from_micros(500),
    };
    let peers = Peers::new(Config {
        node: NodeId(id),
        incarnation: 1,
        shards: 1,
        cluster: "bench".into(),
        secret: b"sixteen bytes and more".to_vec(),
        nics: nics.clone(),
        device_ips: vec![ip],
        limits: Limits { rdma_spin: Duration::from_secs(1), ..Limits::default() },
        ..Config::default()
    })
    .unwrap();
    if let Some(socket) = peer {
        peers.set_addresses(NodeId(2), vec![Address { fabric: Fabric::Rdma, socket }]);
    }
    let (tx, rx) = mpsc::channel();
    let start = Arc::new(move |shard: Rc<Shard>| -> Pin<Box<dyn Future<Output = ()>>> {
        let (tx, peers) = (tx.clone(), peers.clone());
        Box::pin(async move {
            let links = links::start(&shard, &peers);
            shard.cx().start(Server);
            tx.send(links.listen(SocketAddr::new(ip, 0)).unwrap()).unwrap();
        })
    });
    let shards = launch(&layout, start).unwrap();
    (shards, rx.recv().unwrap())
}

fn main() {
    let trips: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let nics = Nics::Soft(soft::Wire::default());
    let (_server, at) = node(2, &nics, None);
    let (client, _) = node(1, &nics, Some(at));
    let (tx, rx) = mpsc::channel();
    client.remotes[0].run(Box::new(move |shard: &Rc<Shard>| {
        let cx = shard.cx();
        cx.clone().spawn(async move {
            let to =
                Addr::<Server>::from_raw(RawAddr { node: NodeId(2), shard: 0, slot: 0, epoch: 1 });
            while cx.ask(to, Ping { n: 0 }).await.is_err() {
                cx.sleep(Duration::from_millis(100)).await;
            }
            let mut took = Vec::new();
            for n in 0..trips {
                let at = Instant::now();
                cx.ask(to, Ping { n }).await.unwrap();
                took.push(at.elapsed());
            }
            took.sort();
            tx.send(took).unwrap();
        });
    }));
    let took = rx.recv().unwrap();
    println!("median {:?}", took[took.len() / 2]);
    std::process::exit(0);
}
