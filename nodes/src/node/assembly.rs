//! What a process is made of, decided before anything is started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use t3fs_runtime::NodeId;
use t3fs_transport::Address;

use crate::config::host::{Host, MgmtdPlace};
use crate::config::roles::{Role, Roles};
use crate::config::secret::Secret;
use crate::config::{Leases, Settings, Tunables};
use crate::data::Data;
use crate::data::server::Server;
use crate::fabric::FabricPlan;
use crate::mount::MountOptions;

/// The number of the only process of a cluster.
pub const ALONE: NodeId = NodeId(1);

pub struct Assembly {
    pub cluster: String,
    pub node: NodeId,
    /// Larger at every start of the node.
    pub incarnation: u32,
    /// Of its state folder, drawn when that was made. Empty: it has none.
    pub identity: String,
    pub roles: Roles,
    pub shards: usize,
    pub leases: Leases,
    /// `None`: a cluster in one process.
    pub link: Option<LinkPlan>,
    pub kv: KvPlace,
    /// Where it remembers which store it has used.
    pub state: PathBuf,
    pub targets: Targets,
    /// For people: host name and mount point.
    pub label: String,
    /// How it mounts, if it is a client.
    pub mount_options: MountOptions,
    /// What it was told, for those who ask whether it would be told something else.
    pub settings: Settings,
    /// Those that may change, as they were at the start.
    pub tunables: Tunables,
}

/// How it meets others.
pub struct LinkPlan {
    pub secret: Secret,
    /// `None`: nobody needs to find it.
    pub listen: Option<SocketAddr>,
    /// What others are told, best first; empty where nobody needs to find it.
    pub advertise: Vec<Address>,
    /// Where mgmtds may be, best first; this process's own may be among them.
    pub mgmtds: Vec<MgmtdPlace>,
    pub fabric: FabricPlan,
}

/// The metadata store.
#[derive(Clone)]
pub enum KvPlace {
    /// In this folder.
    Here(PathBuf),
    There(Host),
    Unused,
}

/// Where storage targets come from.
pub enum Targets {
    /// From the cluster file of a cluster in one process.
    Local(Arc<Data>),
    /// From the routing: mgmtd says which there are.
    Assigned {
        server: Arc<Server>,
        per_disk: usize,
    },
    None,
}

impl Assembly {
    /// Whether something here uses the metadata store.
    pub(super) fn uses_store(&self) -> bool {
        self.roles.has(Role::Mgmtd) || self.roles.has(Role::Meta)
    }

    /// The folder of each disk; those of missing ones are named but never opened.
    pub fn folders(&self) -> Vec<PathBuf> {
        match &self.targets {
            Targets::Local(d) => d.cluster.disks.iter().map(|d| d.folder.clone()).collect(),
            Targets::Assigned { server, .. } => {
                server.file.disks.iter().map(|d| d.folder.clone()).collect()
            }
            Targets::None => Vec::new(),
        }
    }

    /// For how many targets memory is kept.
    pub(super) fn targets_expected(&self) -> usize {
        match &self.targets {
            Targets::Local(d) => {
                d.disks.iter().map(|disk| d.cluster.disks[disk.index].targets.len()).sum()
            }
            Targets::Assigned { server, per_disk } => {
                server.file.targets.len().max(server.disks.len() * per_disk)
            }
            Targets::None => 0,
        }
    }
}
