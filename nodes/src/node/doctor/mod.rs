//! A process looks at its own links, for `t3fs-node doctor`. Servers that it has had nothing to ask
//! so far are asked who they are, so that the answer is about all of them.

pub mod host;
pub mod view;
mod why;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use t3fs_actors::proto::agent::Agent;

use t3fs_actors::proto::mgmtd::{ListNodes, NodeInfo, NodeStatus};
use t3fs_runtime::glommio::Remote;
use t3fs_runtime::{Addr, Cx, NodeId, Time, join_all};
use t3fs_transport::{Fabric, LinkState, LinkStats, PeerState, Peers, source_towards};

use super::assembly::{Assembly, LinkPlan};
use super::link::{self, AGENT};
use super::on_shard;
use crate::config::roles::name_of;
use crate::fabric::FabricPlan;
use crate::failure::Failure;
use host::host;
use view::{DoctorView, LinkReport, PeerReport, ProcessReport};
use why::{RdmaCase, why_not_rdma};

/// How long mgmtd may take to list the servers.
const LIST: Duration = Duration::from_secs(2);

/// The nodes that could not be reached, and why.
type Unreached = Vec<(NodeId, String)>;

/// Looks from other threads.
#[derive(Clone)]
pub struct Doctor {
    pub(in crate::node) remotes: Vec<Remote>,
    pub(in crate::node) agent: Addr<Agent>,
    pub(in crate::node) peers: Option<Peers>,
    pub(in crate::node) assembly: Arc<Assembly>,
}

impl Doctor {
    /// Takes as long as it takes to connect to those that there was no need for so far.
    pub fn look(&self) -> Result<DoctorView, Failure> {
        let a = &self.assembly;
        let mut process = ProcessReport {
            pid: std::process::id(),
            cluster: a.cluster.clone(),
            node: a.node.0,
            roles: a.roles.to_string(),
            shards: a.shards,
            ..ProcessReport::default()
        };
        let version = env!("CARGO_PKG_VERSION").into();
        let (Some(peers), Some(plan)) = (self.peers.clone(), &a.link) else {
            let host = host(&FabricPlan::idle());
            return Ok(DoctorView { version, host, process: Some(process) });
        };
        process.linked = true;
        process.addresses = plan.advertise.iter().map(ToString::to_string).collect();
        process.pinned_bytes_max = (a.shards * plan.fabric.pinned_bytes()) as u64;
        let (states, failed) = self.reach_all(&peers)?;
        let agent = self.agent;
        // Last, so that it names whoever was heard of meanwhile.
        let (servers, now) = on_shard(&self.remotes[0], "doctor", async move |cx: Cx| {
            (cx.within(LIST).ask(agent, ListNodes).await, cx.now())
        })?;
        let memory = peers.rdma_memory();
        process.pinned_bytes = memory.pinned as u64;
        process.pinned_bytes_used = memory.used as u64;
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
        let shown = states.iter().filter(|p| !p.addresses.is_empty() || !p.links.is_empty());
        process.peers = shown.map(|p| peer(p, plan, &peers, &servers, now)).collect();
        for peer in process.peers.iter_mut().filter(|p| !p.reachable) {
            let why = failed.iter().find(|(node, _)| node.0 == peer.node);
            peer.why_unreachable = why.map(|(_, why)| why.clone());
        }
        Ok(DoctorView { version, host: host(&plan.fabric), process: Some(process) })
    }

    /// One connection to everyone who can be dialled and has none, all at once; again while others
    /// are heard of. Returns all peers, none of them unasked, and who could not be reached and why.
    fn reach_all(&self, peers: &Peers) -> Result<(Vec<PeerState>, Unreached), Failure> {
        let (mut asked, mut failed) = (BTreeSet::new(), Unreached::new());
        loop {
            self.report()?;
            let mut states = peers.snapshot();
            states.retain(|p| p.node != self.assembly.node);
            let lonely = states.iter().filter(|p| !is_up(p) && !p.addresses.is_empty());
            let lonely: Vec<PeerState> = lonely.filter(|p| asked.insert(p.node)).cloned().collect();
            if lonely.is_empty() {
                return Ok((states, failed));
            }
            failed.extend(on_shard(&self.remotes[0], "doctor", async move |_: Cx| {
                join_all(lonely.into_iter().map(reach)).await.into_iter().flatten()
            })?);
        }
    }

    fn report(&self) -> Result<(), Failure> {
        let mut all = self.remotes.iter();
        all.try_for_each(|r| on_shard(r, "doctor", async |_: Cx| link::report()))
    }
}

fn is_up(peer: &PeerState) -> bool {
    peer.links.iter().any(|l| l.state == LinkState::Up)
}

/// Why a peer could not be reached; none if it was.
async fn reach(peer: PeerState) -> Option<(NodeId, String)> {
    let mut whys: Vec<String> = Vec::new();
    for address in peer.addresses {
        match link::find(address.socket, AGENT).await {
            Ok(_) => return None,
            Err(why) => whys.push(why.line),
        }
    }
    Some((peer.node, whys.join("; ")))
}

fn peer(
    state: &PeerState,
    plan: &LinkPlan,
    peers: &Peers,
    servers: &[NodeInfo],
    now: Time,
) -> PeerReport {
    let avoided = peers.avoided(state.node, now);
    let tcp = |l: &&LinkStats| l.state == LinkState::Up && l.carrier != Some(Fabric::Rdma);
    let by_tcp = state.links.iter().find(tcp);
    let handshake = by_tcp.and_then(|l| l.why_not_rdma.as_deref());
    let last = state.links.iter().find_map(|l| l.last_error.as_deref());
    let here = plan.fabric.why_not_rdma();
    let case = RdmaCase {
        node: state.node.0,
        fabric: plan.fabric.wanted,
        here: here.as_deref(),
        built_with_rdma: cfg!(feature = "rdma"),
        device_ips: &plan.fabric.device_ips(),
        addresses: &state.addresses,
        avoided: &avoided,
        source: &source_towards,
        handshake: handshake.filter(|why| !why.is_empty()),
        last_error: last,
    };
    PeerReport {
        node: state.node.0,
        roles: roles(state, servers),
        // Nobody dials those that do not listen.
        reachable: is_up(state) || state.addresses.is_empty(),
        not_rdma: by_tcp.map(|_| why_not_rdma(&case)),
        addresses: state.addresses.iter().map(ToString::to_string).collect(),
        why_unreachable: None,
        avoided: avoided.iter().map(ToString::to_string).collect(),
        links: state.links.iter().map(|l| link_of(l, now)).collect(),
    }
}

fn roles(peer: &PeerState, servers: &[NodeInfo]) -> String {
    let Some(info) = servers.iter().find(|s| s.node == peer.node) else {
        return if peer.addresses.is_empty() { "client".into() } else { "server".into() };
    };
    let roles: Vec<&str> = info.roles.iter().map(|role| name_of(*role)).collect();
    let dead = if info.status == NodeStatus::Dead { ", dead to mgmtd" } else { "" };
    format!("{}{dead}", roles.join(","))
}

fn link_of(l: &LinkStats, now: Time) -> LinkReport {
    LinkReport {
        shard: l.local_shard,
        remote_shard: l.remote_shard,
        state: match l.state {
            LinkState::Up => "up".into(),
            LinkState::Connecting => "connecting".into(),
            LinkState::Down => "down".into(),
        },
        address: l.socket.map(|s| s.to_string()),
        carrier: l.carrier.map(|c| match c {
            Fabric::Rdma => "RDMA".into(),
            Fabric::Tcp => "TCP".into(),
        }),
        epoch: l.epoch,
        up_seconds: l.since.map(|since| now.since(since).as_secs()),
        sent_bytes: l.bytes_sent,
        received_bytes: l.bytes_received,
        read_bytes: l.one_sided.bytes_read,
        written_bytes: l.one_sided.bytes_written,
        last_error: l.last_error.clone(),
    }
}
