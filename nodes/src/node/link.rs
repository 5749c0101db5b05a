//! This process's links to others: set up, who is found through them, and how addresses become
//! known. `transport` moves the bytes; what service numbers mean is said here.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use t3fs_actors::proto::agent::Agent;

use t3fs_actors::proto::agent::SetMgmtds;
use t3fs_actors::proto::mgmtd::{NodeInfo, Routing};
use t3fs_runtime::glommio::Start;
use t3fs_runtime::{Addr, Cx, NodeId, RawAddr, Shard};
use t3fs_transport::{Address, LinkConfig, NodeLinks, Peers};

use super::assembly::{Assembly, LinkPlan};
use super::contact::Contact;
use super::names::Names;
use super::role_names::RoleNames;
use crate::failure::{Failure, failed, refused};

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
    let who = LinkConfig { node, incarnation, shards, cluster, secret, ..LinkConfig::default() };
    let (nics, limits) = (plan.fabric.nics(), plan.fabric.limits());
    Peers::new(LinkConfig { fabric, device_ips, nics, limits, ..who }).map_err(failed)
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

/// On each shard: what `Peers` knows of its links is fresh afterwards.
pub(super) fn report() {
    links().report();
}

/// On each shard, at the end.
pub(super) fn stop() {
    links().stop();
}

/// Where a service of the node at an address lives, in whatever incarnation.
pub(super) async fn find(at: SocketAddr, service: u16) -> Result<RawAddr, Failure> {
    let known = links().resolve(at).await.map_err(|e| match e.refused_there {
        true => refused(e.why),
        false => failed(e.why),
    })?;
    let (shard, slot) = known.card.find(service).ok_or_else(|| {
        let what = if service == KV { "kv" } else { "mgmtd" };
        failed(format!("node {} at {at} has no role {what}", known.node.0))
    })?;
    Ok(RawAddr { node: known.node, shard, slot, epoch: RawAddr::ANY_EPOCH })
}

/// The same at the first of several addresses that answers; else what all said.
pub(super) async fn find_any(all: &[SocketAddr], service: u16) -> Result<RawAddr, Failure> {
    let mut whys = Vec::new();
    for at in all {
        match find(*at, service).await {
            Ok(found) => return Ok(found),
            Err(why) => whys.push(why),
        }
    }
    Err(together(whys))
}

/// A refusal if one of them is.
fn together(whys: Vec<Failure>) -> Failure {
    let lines: Vec<&str> = whys.iter().map(|why| why.line.as_str()).collect();
    match whys.iter().any(Failure::is_refusal) {
        true => refused(lines.join("; ")),
        false => failed(lines.join("; ")),
    }
}

/// Tells the agent where mgmtds are, for ever: also those that start later or move. On the first
/// shard.
pub(super) fn keep_finding_mgmtds(
    cx: &Cx,
    agent: Addr<Agent>,
    own: Option<RawAddr>,
    peers: Peers,
    mgmtds: Names,
    own_addresses: Vec<Address>,
    contact: Contact,
) {
    let is_own = move |at: &SocketAddr| own_addresses.iter().any(|own| own.socket == *at);
    if mgmtds.now().iter().all(|k| !k.addresses.is_empty() && k.addresses.iter().all(&is_own)) {
        return;
    }
    let cx = cx.outlive();
    cx.clone().spawn(async move {
        // By where they were found.
        let mut found: BTreeMap<SocketAddr, RawAddr> = BTreeMap::new();
        let mut told: Vec<RawAddr> = Vec::new();
        loop {
            let (mut whys, mut all_found) = (Vec::new(), true);
            let mut answered: Vec<RawAddr> = Vec::new();
            // One process may be named by several addresses; it is asked at one of them.
            let is_at = |a: &RawAddr, at: SocketAddr| {
                peers.addresses(a.node).iter().any(|known| known.socket == at)
            };
            let mut all: Vec<RawAddr> = own.into_iter().collect();
            for host in mgmtds.now() {
                whys.extend(host.why.map(failed));
                let mut here = false;
                // A name may stand for several mgmtds, or for one with several addresses.
                for at in host.addresses {
                    if is_own(&at) {
                        here = true;
                        continue;
                    }
                    if let Some(same) = answered.iter().find(|a| is_at(a, at)) {
                        found.insert(at, *same);
                    } else {
                        match find(at, MGMTD).await {
                            Ok(addr) => {
                                found.insert(at, addr);
                                answered.push(addr);
                            }
                            // What is known stays: it is the agent that finds out who leads.
                            Err(why) => whys.push(why),
                        }
                    }
                    here |= found.contains_key(&at);
                    if let Some(addr) = found.get(&at).filter(|a| !all.contains(a)) {
                        all.push(*addr);
                    }
                }
                all_found &= here;
            }
            if !whys.is_empty() {
                mgmtds.look_again();
            }
            contact.note_look((!whys.is_empty()).then(|| together(whys)));
            if all != told {
                match cx.ask(agent, SetMgmtds { mgmtds: all.clone() }).await {
                    Ok(_) => told = all,
                    Err(e) => tracing::warn!("the agent was not told of the mgmtds: {e}"),
                }
            }
            cx.sleep(if all_found { LOOK_AGAIN } else { LOOK }).await;
        }
    });
}

/// Takes out of the routing where nodes are, and which processes they are.
pub(super) struct Addresses {
    peers: Peers,
    roles: RoleNames,
    known: RefCell<Vec<(NodeId, u32, Vec<String>)>>,
}

impl Addresses {
    pub(super) fn new(peers: Peers, roles: RoleNames) -> Addresses {
        Addresses { peers, roles, known: RefCell::default() }
    }

    pub(super) fn learn(&self, routing: &Routing) {
        self.roles.learn(routing);
        let told = |n: &NodeInfo| (n.node, n.incarnation, n.addresses.clone());
        let all: Vec<_> = routing.nodes.iter().map(told).collect();
        let mut known = self.known.borrow_mut();
        if *known == all {
            return;
        }
        for (node, incarnation, texts) in &all {
            self.peers.set_incarnation(*node, *incarnation);
            if known.iter().any(|(n, _, t)| n == node && t == texts) {
                continue;
            }
            // Addresses that this build cannot speak to are left out.
            let addresses: Vec<Address> = texts.iter().filter_map(|t| t.parse().ok()).collect();
            if !addresses.is_empty() {
                self.peers.set_addresses(*node, addresses);
            }
        }
        *known = all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use t3fs_actors::proto::mgmtd::NodeStatus;

    /// Goal: of what a node announces the understood part is used; a node that announces nothing
    /// of it keeps what was known. Method: routings with addresses of three kinds.
    #[test]
    fn addresses_of_unknown_kinds_are_left_out() {
        let config = LinkConfig {
            node: NodeId(1),
            cluster: "c".into(),
            secret: vec![7; 16],
            ..LinkConfig::default()
        };
        let peers = Peers::new(config).unwrap();
        let addresses = Addresses::new(peers.clone(), RoleNames::default());
        let routing = |texts: &[&str]| Routing {
            nodes: vec![NodeInfo {
                node: NodeId(2),
                incarnation: 1,
                identity: String::new(),
                status: NodeStatus::Alive,
                roles: Vec::new(),
                addresses: texts.iter().map(|t| (*t).to_owned()).collect(),
                tags: Vec::new(),
                metas: Vec::new(),
                targets: Vec::new(),
            }],
            ..Routing::default()
        };
        let known = || -> Vec<String> {
            peers.addresses(NodeId(2)).iter().map(ToString::to_string).collect()
        };
        addresses.learn(&routing(&["CXL://7", "RDMA://10.8.0.2:8000", "TCP://10.0.0.2:8000"]));
        assert_eq!(known(), ["RDMA://10.8.0.2:8000", "TCP://10.0.0.2:8000"]);
        addresses.learn(&routing(&["CXL://7"]));
        assert_eq!(known(), ["RDMA://10.8.0.2:8000", "TCP://10.0.0.2:8000"]);
        addresses.learn(&routing(&["TCP://10.0.0.2:8000"]));
        assert_eq!(known(), ["TCP://10.0.0.2:8000"]);
    }
}
