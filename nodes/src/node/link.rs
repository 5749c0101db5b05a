//! This process's links to others: set up, who is found through them, and how addresses become
//! known. `transport` moves the bytes; what service numbers mean is said here.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use t3fs_actors::agent::Agent;
use t3fs_actors::proto::agent::SetMgmtds;
use t3fs_actors::proto::mgmtd::Routing;
use t3fs_runtime::glommio::Start;
use t3fs_runtime::{Addr, Cx, NodeId, RawAddr, Shard};
use t3fs_transport::{Address, Config, NodeLinks, Peers};

use super::assembly::{Assembly, LinkPlan};
use crate::failure::{Failure, failed};

/// Services on a node's card (decision 007).
pub const MGMTD: u16 = 1;
pub const KV: u16 = 2;
pub const AGENT: u16 = 3;

/// How often mgmtds that did not answer are tried, and those that did are looked at.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_secs(5);

thread_local! {
    static LINKS: RefCell<Option<NodeLinks>> = const { RefCell::new(None) };
}

fn links() -> NodeLinks {
    LINKS.with(|l| l.borrow().clone()).expect("links are installed before anything is asked")
}

pub(super) fn peers(a: &Assembly, plan: &LinkPlan) -> Result<Peers, Failure> {
    let shards = u16::try_from(a.shards).expect("checked by the settings");
    let (secret, cluster) = (plan.secret.bytes().to_vec(), a.cluster.clone());
    let (node, incarnation) = (a.node, a.incarnation);
    let (fabric, device_ips) = (plan.fabric.wanted, plan.fabric.device_ips());
    let who = Config { node, incarnation, shards, cluster, secret, ..Config::default() };
    Peers::new(Config { fabric, device_ips, ..who }).map_err(failed)
}

/// What each shard does first.
pub(super) fn install(peers: Option<Peers>) -> Start {
    Arc::new(move |shard: Rc<Shard>| -> Pin<Box<dyn Future<Output = ()>>> {
        if let Some(peers) = &peers {
            let links = t3fs_transport::links::start(&shard, peers);
            LINKS.with(|l| *l.borrow_mut() = Some(links));
        }
        Box::pin(async {})
    })
}

/// On the first shard.
pub(super) fn listen(at: SocketAddr) -> Result<SocketAddr, Failure> {
    links().listen(at).map_err(failed)
}

/// On each shard, at the end.
pub(super) fn stop() {
    links().stop();
}

/// Where a service of the node at an address lives, in whatever incarnation.
pub(super) async fn find(at: SocketAddr, service: u16) -> Result<RawAddr, Failure> {
    let known = links().resolve(at).await.map_err(failed)?;
    let (shard, slot) = known.card.find(service).ok_or_else(|| {
        let what = if service == KV { "kv" } else { "mgmtd" };
        failed(format!("node {} at {at} has no role {what}", known.node.0))
    })?;
    Ok(RawAddr { node: known.node, shard, slot, epoch: RawAddr::ANY_EPOCH })
}

/// Why mgmtds were not found the last time, for people.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<String>>);

impl Trouble {
    /// In brackets, or nothing.
    pub(super) fn hint(&self) -> String {
        let why = self.0.lock().expect("no panic while held");
        if why.is_empty() { String::new() } else { format!(" ({why})") }
    }

    /// Somebody answered, and will not have us: time does not mend that.
    pub(super) fn is_refusal(&self) -> bool {
        self.0.lock().expect("no panic while held").contains("refused there")
    }

    fn note(&self, why: String) {
        *self.0.lock().expect("no panic while held") = why;
    }
}

/// Tells the agent where mgmtds are, for ever: also those that start later or move. On the first
/// shard.
pub(super) fn keep_finding_mgmtds(
    cx: &Cx,
    agent: Addr<Agent>,
    own: Option<RawAddr>,
    peers: Peers,
    mgmtds: Vec<Address>,
    own_addresses: Vec<Address>,
    trouble: Trouble,
) {
    let mut others: Vec<SocketAddr> = mgmtds.into_iter().map(|a| a.socket).collect();
    others.retain(|at| own_addresses.iter().all(|own| own.socket != *at));
    others.dedup();
    if others.is_empty() {
        return;
    }
    let cx = cx.outlive();
    cx.clone().spawn(async move {
        let mut found: Vec<Option<RawAddr>> = vec![None; others.len()];
        loop {
            let before = found.clone();
            let mut whys = String::new();
            let mut answered: Vec<RawAddr> = Vec::new();
            // One process may be named by several addresses; it is asked at one of them.
            let is_at = |a: &RawAddr, at: SocketAddr| {
                peers.addresses(a.node).iter().any(|known| known.socket == at)
            };
            for (at, known) in others.iter().zip(&mut found) {
                if let Some(same) = answered.iter().find(|a| is_at(a, *at)) {
                    *known = Some(*same);
                    continue;
                }
                match find(*at, MGMTD).await {
                    Ok(addr) => {
                        *known = Some(addr);
                        answered.push(addr);
                    }
                    // What is known stays: it is the agent that finds out who leads.
                    Err(why) => {
                        let comma = if whys.is_empty() { "" } else { "; " };
                        whys += &format!("{comma}{why}");
                    }
                }
            }
            for (at, known) in others.iter().zip(&mut found) {
                *known = known.or_else(|| answered.iter().find(|a| is_at(a, *at)).copied());
            }
            trouble.note(whys);
            if found != before {
                let mut all: Vec<RawAddr> = Vec::new();
                for addr in own.iter().chain(found.iter().flatten()) {
                    if !all.contains(addr) {
                        all.push(*addr);
                    }
                }
                if let Err(e) = cx.ask(agent, SetMgmtds { mgmtds: all }).await {
                    tracing::warn!("the agent was not told of the mgmtds: {e}");
                    found = before;
                }
            }
            let all = found.iter().all(Option::is_some);
            cx.sleep(if all { LOOK_AGAIN } else { LOOK }).await;
        }
    });
}

/// Takes addresses out of the routing.
pub(super) struct Addresses {
    peers: Peers,
    known: RefCell<Vec<(NodeId, Vec<String>)>>,
}

impl Addresses {
    pub(super) fn new(peers: Peers) -> Addresses {
        Addresses { peers, known: RefCell::default() }
    }

    pub(super) fn learn(&self, routing: &Routing) {
        let all: Vec<_> = routing.nodes.iter().map(|n| (n.node, n.addresses.clone())).collect();
        let mut known = self.known.borrow_mut();
        if *known == all {
            return;
        }
        for (node, texts) in &all {
            if known.iter().any(|(n, t)| n == node && t == texts) {
                continue;
            }
            // Those that this build cannot speak to are left out.
            let addresses: Vec<Address> = texts.iter().filter_map(|t| t.parse().ok()).collect();
            if !addresses.is_empty() {
                self.peers.set_addresses(*node, addresses);
            }
        }
        *known = all;
    }
}
