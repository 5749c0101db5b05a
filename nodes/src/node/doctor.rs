//! A process looks at its own links, for `t3fs-node doctor`. Servers that it has had nothing to ask
//! so far are asked who they are, so that the answer is about all of them.

use std::sync::Arc;
use std::time::Duration;

use t3fs_actors::agent::Agent;
use t3fs_actors::proto::mgmtd::{ListNodes, NodeInfo, NodeStatus};
use t3fs_runtime::glommio::Remote;
use t3fs_runtime::{Addr, Cx, NodeId, Time, join_all};
use t3fs_transport::{LinkState, LinkStats, PeerState, Peers, source_towards};

use super::assembly::{Assembly, LinkPlan};
use super::link::{self, AGENT};
use super::on_shard;
use crate::doctor::host;
use crate::doctor::view::{Link, Peer, Process, View};
use crate::doctor::why::{Case, why_not_rdma};
use crate::fabric::FabricPlan;
use crate::failure::Failure;

/// How long mgmtd may take to list the servers.
const LIST: Duration = Duration::from_secs(2);
/// Shards say how their links do at least so often.
const REPORTED: Duration = Duration::from_millis(1250);

/// Looks from other threads.
#[derive(Clone)]
pub struct Doctor {
    pub(super) remote: Remote,
    pub(super) agent: Addr<Agent>,
    pub(super) peers: Option<Peers>,
    pub(super) assembly: Arc<Assembly>,
}

impl Doctor {
    /// Takes a second or two.
    pub fn look(&self) -> Result<View, Failure> {
        let a = &self.assembly;
        let mut process = Process {
            pid: std::process::id(),
            cluster: a.cluster.clone(),
            node: a.node.0,
            roles: a.roles.to_string(),
            shards: a.shards,
            ..Process::default()
        };
        let version = env!("CARGO_PKG_VERSION").into();
        let (Some(peers), Some(plan)) = (self.peers.clone(), &a.link) else {
            let host = host(&FabricPlan::idle());
            return Ok(View { version, host, process: Some(process) });
        };
        process.linked = true;
        process.addresses = plan.advertise.iter().map(ToString::to_string).collect();
        process.pinned_bytes = (a.shards * plan.fabric.pinned_bytes()) as u64;
        let (agent, asked) = (self.agent, peers.clone());
        let (servers, now) = on_shard(&self.remote, "doctor", async move |cx: Cx| {
            let servers = cx.within(LIST).ask(agent, ListNodes).await;
            reach_all(&cx, &asked).await;
            (servers, cx.now())
        })?;
        let servers = match servers {
            Ok(Ok(lines)) => lines.into_iter().map(|line| line.info).collect(),
            Ok(Err(why)) => {
                process.trouble = Some(why.to_string());
                Vec::new()
            }
            Err(why) => {
                process.trouble = Some(why.to_string());
                Vec::new()
            }
        };
        let states = peers.snapshot().into_iter().filter(|p| p.node != a.node);
        let shown = states.filter(|p| !p.addresses.is_empty() || !p.links.is_empty());
        process.peers = shown.map(|p| peer(p, plan, &peers, &servers, now)).collect();
        Ok(View { version, host: host(&plan.fabric), process: Some(process) })
    }
}

fn is_up(peer: &PeerState) -> bool {
    peer.links.iter().any(|l| l.state == LinkState::Up)
}

/// One connection to everyone who can be dialled and has none, all at once.
async fn reach_all(cx: &Cx, peers: &Peers) {
    let me = cx.node();
    let lonely = peers.snapshot().into_iter().filter(|p| p.node != me && !is_up(p));
    let lonely: Vec<PeerState> = lonely.filter(|p| !p.addresses.is_empty()).collect();
    if lonely.is_empty() {
        return;
    }
    let reach = async |peer: PeerState| {
        for address in peer.addresses {
            match link::find(address.socket, AGENT).await {
                Ok(_) => return,
                Err(why) => tracing::info!("node {} at {address}: {why}", peer.node.0),
            }
        }
    };
    join_all(lonely.into_iter().map(reach)).await;
    cx.sleep(REPORTED).await;
}

fn peer(state: PeerState, plan: &LinkPlan, peers: &Peers, servers: &[NodeInfo], now: Time) -> Peer {
    let avoided = peers.avoided(state.node, now);
    let by_tcp = state.links.iter().find(|l| l.state == LinkState::Up);
    let last = state.links.iter().find_map(|l| l.last_error.as_deref());
    let here = plan.fabric.why_not_rdma();
    let case = Case {
        node: state.node.0,
        fabric: plan.fabric.wanted,
        here: here.as_deref(),
        built_with_rdma: cfg!(feature = "rdma"),
        device_ips: &plan.fabric.device_ips(),
        addresses: &state.addresses,
        avoided: &avoided,
        source: &source_towards,
        handshake: None,
        last_error: last,
    };
    Peer {
        node: state.node.0,
        roles: roles(state.node, servers),
        reachable: is_up(&state),
        not_rdma: by_tcp.map(|_| why_not_rdma(&case)),
        addresses: state.addresses.iter().map(ToString::to_string).collect(),
        avoided: avoided.iter().map(ToString::to_string).collect(),
        links: state.links.iter().map(|l| link_of(l, now)).collect(),
    }
}

fn roles(node: NodeId, servers: &[NodeInfo]) -> String {
    let Some(info) = servers.iter().find(|s| s.node == node) else { return "client".into() };
    let roles: Vec<String> =
        info.roles.iter().map(|r| format!("{r:?}").to_ascii_lowercase()).collect();
    let dead = if info.status == NodeStatus::Dead { ", dead to mgmtd" } else { "" };
    format!("{}{dead}", roles.join(","))
}

fn link_of(l: &LinkStats, now: Time) -> Link {
    let up = l.state == LinkState::Up;
    Link {
        shard: l.local_shard,
        remote_shard: l.remote_shard,
        state: match l.state {
            LinkState::Up => "up".into(),
            LinkState::Connecting => "connecting".into(),
            LinkState::Down => "down".into(),
        },
        address: l.socket.map(|s| s.to_string()),
        carrier: up.then(|| "TCP".into()),
        epoch: l.epoch,
        up_seconds: l.since.map(|since| now.since(since).as_secs()),
        sent_bytes: l.bytes_sent,
        received_bytes: l.bytes_received,
        pulled_bytes: 0,
        pushed_bytes: 0,
        last_error: l.last_error.clone(),
    }
}
