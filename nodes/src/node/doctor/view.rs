//! What the doctor knows, as `--json` prints it: of this host, of a running process, and of its
//! links to each peer. It travels as one line from the process to the command.

use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DoctorView {
    pub version: String,
    pub host: HostReport,
    /// `None`: no process was asked.
    pub process: Option<ProcessReport>,
}

/// What this host and this program have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostReport {
    /// Whether the program was built with RDMA.
    pub built_with_rdma: bool,
    /// The setting: auto, tcp or rdma.
    pub fabric: String,
    /// Why RDMA is not used at all.
    pub why_not_rdma: Option<String>,
    pub device_filter: Vec<String>,
    pub devices: Vec<PortReport>,
}

/// A port of an RDMA device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortReport {
    pub name: String,
    pub port: u8,
    /// State, addresses, and whether it is used, for people.
    pub about: String,
    pub addresses: Vec<String>,
    pub why_not: Option<String>,
}

/// A running process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessReport {
    pub pid: u32,
    pub cluster: String,
    pub node: u32,
    pub roles: String,
    /// Whether it has links at all; a cluster of one process that does not listen has none.
    pub linked: bool,
    /// What others are told, best first.
    pub addresses: Vec<String>,
    pub shards: usize,
    /// Memory that RDMA devices may reach, all shards together: now, and at most.
    pub pinned_bytes: u64,
    pub pinned_bytes_max: u64,
    /// Of that, what connections and payloads use.
    pub pinned_bytes_used: u64,
    /// Why the list of servers may be incomplete.
    pub trouble: Option<String>,
    pub peers: Vec<PeerReport>,
}

/// Another process of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerReport {
    pub node: u32,
    /// `client` for those that do not listen.
    pub roles: String,
    /// As it announces them, best first.
    pub addresses: Vec<String>,
    /// The addresses that are tried last for now.
    pub avoided: Vec<String>,
    pub reachable: bool,
    pub why_unreachable: Option<String>,
    pub links: Vec<LinkReport>,
    /// If a link that is up does without RDMA.
    pub not_rdma: Option<NoRdma>,
}

/// What is in the way of RDMA, and what to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoRdma {
    pub reason: String,
    pub change: String,
}

/// A pair of shards.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkReport {
    pub shard: u16,
    pub remote_shard: u16,
    /// up, connecting or down.
    pub state: String,
    pub address: Option<String>,
    /// RDMA or TCP, of a link that is up.
    pub carrier: Option<String>,
    /// Connections made so far.
    pub epoch: u64,
    /// For how long the connection has been up.
    pub up_seconds: Option<u64>,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Payload that moved one-sided: read from the peer's memory, and written into it.
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub last_error: Option<String>,
}

impl DoctorView {
    /// Peers that no link reaches.
    pub fn unreachable(&self) -> Vec<u32> {
        let peers = self.process.iter().flat_map(|p| &p.peers);
        peers.filter(|p| !p.reachable).map(|p| p.node).collect()
    }
}
