//! What the settings mean: texts become addresses, roles and limits, or are refused.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use t3fs_transport::{Address, Fabric, FabricUse};

use super::host::{Host, MgmtdPlace};
use super::roles::{KV_PORT, MGMTD_PORT, Roles};
use super::secret::Secret;
use crate::failure::{Failure, refused};
use crate::mount::{self, MountOptions};

/// Longest name of a cluster, in bytes (the original's limit).
const CLUSTER_ID_MAX: usize = 31;
pub const REPLICAS_MAX: u8 = 3;
const SHARDS_MAX: u16 = 256;
/// Numbers of servers; those of clients have the top bit.
const NODE_ID_MAX: u32 = 0x7fff_ffff;
const MGMTDS_MAX: usize = 16;
const TARGETS_PER_DISK_MAX: u16 = 64;
const KV_SCHEME: &str = "t3fs-kv://";
const ADVERTISE_MAX: usize = 16;
/// How long an operation waits for a silent cluster, in seconds: unless told, and at most.
const IO_TIMEOUT_S: u32 = 600;
const IO_TIMEOUT_S_MAX: u32 = 7 * 24 * 60 * 60;
/// Registered memory of a shard, in bytes: what is enough for most, and what can be asked for.
const RDMA_MEMORY: u64 = 64 << 20;
/// Receive buffers are 8 MiB of it, and writes and reads need several of a megabyte.
const RDMA_MEMORY_MIN: u64 = 32 << 20;
const RDMA_MEMORY_MAX: u64 = 16 << 30;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub cluster_id: String,
    pub roles: Roles,
    pub node_id: Option<u32>,
    /// Where mgmtds are.
    pub cluster: Vec<MgmtdPlace>,
    pub kv: Option<Host>,
    pub listen: Option<ListenAt>,
    /// Empty: what follows from `listen`.
    pub advertise: Vec<Advertised>,
    pub fabric: FabricUse,
    /// Empty: all.
    pub device_filter: Vec<String>,
    /// Bytes for each shard.
    pub rdma_memory: usize,
    pub secret: Option<Secret>,
    /// As given.
    pub data: Option<Vec<PathBuf>>,
    pub state: Option<PathBuf>,
    pub mount: Option<PathBuf>,
    pub mount_options: MountOptions,
    /// How long an operation waits for a silent cluster. `None`: for ever.
    pub io_timeout: Option<Duration>,
    /// `None`: what the cluster was created with, 1 for a new one.
    pub replicas: Option<u8>,
    pub targets_per_disk: u16,
    pub leases: Leases,
    pub shards: usize,
    pub log: Option<String>,
}

/// `None` for the port: that of the first role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub ip: IpAddr,
    pub port: Option<u16>,
}

/// The same, of a host that may be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAt {
    host: Host,
    pub port: Option<u16>,
}

impl ListenAt {
    /// An address of this host; may wait for a name server.
    pub fn here(&self) -> Result<Listen, Failure> {
        let port = self.port;
        if let Some(at) = self.host.address() {
            return Ok(Listen { ip: at.ip(), port });
        }
        let all = self.host.look_up().map_err(|why| refused(format!("listen: {why}")))?;
        let ours = all.iter().find(|at| TcpListener::bind(SocketAddr::new(at.ip(), 0)).is_ok());
        ours.map(|at| Listen { ip: at.ip(), port }).ok_or_else(|| {
            let all: Vec<String> = all.iter().map(|at| at.ip().to_string()).collect();
            refused(format!(
                "listen names a host whose addresses ({}) are none of this machine's; give one \
                 that is",
                all.join(", ")
            ))
        })
    }
}

/// An address that others are told. `None`: the fabric was not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertised {
    pub fabric: Option<Fabric>,
    pub socket: SocketAddr,
}

/// How fast the cluster notices that a node is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leases {
    pub heartbeat: Duration,
    pub node: Duration,
    pub mgmtd: Duration,
}

/// As flags, environment and file have it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    cluster_id: Option<String>,
    roles: Option<Vec<String>>,
    node_id: Option<u32>,
    cluster: Option<Vec<String>>,
    kv: Option<String>,
    listen: Option<String>,
    advertise: Option<String>,
    fabric: Option<String>,
    device_filter: Option<Vec<String>>,
    rdma_memory: Option<u64>,
    secret: Option<String>,
    secret_file: Option<PathBuf>,
    data: Option<Vec<PathBuf>>,
    state: Option<PathBuf>,
    mount: Option<PathBuf>,
    mount_options: Option<Vec<String>>,
    io_timeout: Option<u32>,
    hard: Option<bool>,
    replicas: Option<u8>,
    targets_per_disk: Option<u16>,
    heartbeat_ms: Option<u32>,
    node_lease_ms: Option<u32>,
    mgmtd_lease_ms: Option<u32>,
    shards: Option<u16>,
    log: Option<String>,
}

impl Raw {
    pub(super) fn check(self) -> Result<Settings, Failure> {
        let cluster_id = self.cluster_id.unwrap_or_else(|| "t3fs".into());
        check_cluster_id(&cluster_id)?;
        if let Some(data) = &self.data
            && (data.is_empty() || data.iter().any(|f| f.as_os_str().is_empty()))
        {
            return Err(refused("data names no folder; give at least one, or leave it out"));
        }
        let shards = self.shards.map(|n| within("shards", n, 1, SHARDS_MAX)).transpose()?;
        let cores = || crate::limits::cores().saturating_sub(1).clamp(1, usize::from(SHARDS_MAX));
        let targets = self.targets_per_disk.unwrap_or(2);
        let leases = leases(self.heartbeat_ms, self.node_lease_ms, self.mgmtd_lease_ms)?;
        Ok(Settings {
            cluster_id,
            roles: Roles::parse(&self.roles.unwrap_or_default())?,
            node_id: self.node_id.map(|n| within("node_id", n, 1, NODE_ID_MAX)).transpose()?,
            cluster: mgmtds(&self.cluster.unwrap_or_default())?,
            kv: self.kv.as_deref().map(kv_address).transpose()?,
            listen: self.listen.as_deref().map(listen).transpose()?,
            advertise: advertise(self.advertise.as_deref().unwrap_or_default())?,
            fabric: fabric(self.fabric.as_deref().unwrap_or("auto"))?,
            device_filter: device_filter(&self.device_filter.unwrap_or_default()),
            rdma_memory: rdma_memory(self.rdma_memory.unwrap_or(RDMA_MEMORY))?,
            secret: Secret::from_settings(self.secret, self.secret_file.as_deref())?,
            data: self.data,
            state: self.state,
            mount: self.mount,
            mount_options: mount_options(&self.mount_options.unwrap_or_default())?,
            io_timeout: io_timeout(self.io_timeout, self.hard.unwrap_or(false))?,
            replicas: self.replicas.map(|n| within("replicas", n, 1, REPLICAS_MAX)).transpose()?,
            targets_per_disk: within("targets_per_disk", targets, 1, TARGETS_PER_DISK_MAX)?,
            leases,
            shards: shards.map_or_else(cores, usize::from),
            log: self.log,
        })
    }
}

impl Settings {
    /// Data folders of `up`: as given, or the place where data goes by default.
    pub fn data_or_default(&self) -> Result<Vec<PathBuf>, Failure> {
        match &self.data {
            Some(folders) => Ok(folders.clone()),
            None => Ok(vec![default_folder(&self.cluster_id, "say --data FOLDER")?]),
        }
    }

    /// The state folder of a server.
    pub fn state_or_default(&self, node: u32) -> Result<PathBuf, Failure> {
        match &self.state {
            Some(folder) => Ok(folder.clone()),
            // A cluster's name may hold a dot too: "a.node1" of cluster a and "a" with ".node1".
            // Whoever calls a cluster so is told by the identity file.
            None => {
                default_folder(&format!("{}.node{node}", self.cluster_id), "say --state FOLDER")
            }
        }
    }
}

fn within<T>(name: &str, n: T, min: T, max: T) -> Result<T, Failure>
where
    T: PartialOrd + Copy + std::fmt::Display,
{
    if (min..=max).contains(&n) {
        return Ok(n);
    }
    Err(refused(format!("{name} is {n}; it can be {min} to {max}")))
}

fn leases(
    heartbeat: Option<u32>,
    node: Option<u32>,
    mgmtd: Option<u32>,
) -> Result<Leases, Failure> {
    let heartbeat = within("heartbeat_ms", heartbeat.unwrap_or(200), 20, 60_000)?;
    let node = within("node_lease_ms", node.unwrap_or(1500), 100, 600_000)?;
    let mgmtd = within("mgmtd_lease_ms", mgmtd.unwrap_or(1500), 100, 600_000)?;
    // A server stops at two thirds of its lease; one lost heartbeat must not end it.
    if node / 3 < heartbeat {
        return Err(refused(format!(
            "node_lease_ms is {node}; it must be at least 3 times heartbeat_ms, here {heartbeat}"
        )));
    }
    let ms = |n: u32| Duration::from_millis(u64::from(n));
    Ok(Leases { heartbeat: ms(heartbeat), node: ms(node), mgmtd: ms(mgmtd) })
}

pub(super) fn check_cluster_id(name: &str) -> Result<(), Failure> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    // The id becomes the name of a folder, so "." and ".." are out.
    let fine = (1..=CLUSTER_ID_MAX).contains(&name.len())
        && name.bytes().all(good)
        && !name.starts_with('.');
    if fine {
        return Ok(());
    }
    Err(refused(format!(
        "cluster id {name:?} is not usable; take 1 to {CLUSTER_ID_MAX} of a-z A-Z 0-9 . _ - and \
         begin with no dot"
    )))
}

fn mount_options(words: &[String]) -> Result<MountOptions, Failure> {
    let words = words.iter().flat_map(|w| w.split(',')).map(str::trim);
    MountOptions::of_words(words).map_err(mount::unknown_option)
}

/// `hard` goes before any time.
fn io_timeout(seconds: Option<u32>, hard: bool) -> Result<Option<Duration>, Failure> {
    let seconds = within("io_timeout", seconds.unwrap_or(IO_TIMEOUT_S), 1, IO_TIMEOUT_S_MAX)?;
    Ok((!hard).then(|| Duration::from_secs(seconds.into())))
}

fn mgmtds(texts: &[String]) -> Result<Vec<MgmtdPlace>, Failure> {
    let texts = texts.iter().map(|t| t.trim()).filter(|t| !t.is_empty());
    let mut all: Vec<MgmtdPlace> = texts.map(mgmtd_address).collect::<Result<_, _>>()?;
    all.sort();
    all.dedup();
    if all.len() > MGMTDS_MAX {
        return Err(refused(format!("cluster names {} mgmtds, at most {MGMTDS_MAX}", all.len())));
    }
    Ok(all)
}

/// `TCP://host:port` or `RDMA://host:port`, or what is left of it without the parts that can be
/// guessed.
pub fn mgmtd_address(text: &str) -> Result<MgmtdPlace, Failure> {
    let (fabric, rest) = match text.strip_prefix("RDMA://") {
        Some(rest) => (Fabric::Rdma, rest),
        None => (Fabric::Tcp, text.strip_prefix("TCP://").unwrap_or(text)),
    };
    Host::parse(rest, MGMTD_PORT).map(|host| MgmtdPlace { fabric, host }).ok_or_else(|| {
        refused(format!(
            "cluster names {text:?}, which is no address; write TCP://HOST:PORT or \
             RDMA://HOST:PORT"
        ))
    })
}

/// `t3fs-kv://HOST:PORT`.
fn kv_address(text: &str) -> Result<Host, Failure> {
    let host = text.strip_prefix(KV_SCHEME).and_then(|rest| Host::parse(rest, KV_PORT));
    host.ok_or_else(|| {
        refused(format!("kv is {text:?}; write {KV_SCHEME}HOST:PORT, as in {KV_SCHEME}10.0.0.1"))
    })
}

fn listen(text: &str) -> Result<ListenAt, Failure> {
    Host::parse_open(text).map(|(host, port)| ListenAt { host, port }).ok_or_else(|| {
        refused(format!(
            "listen is {text:?}; give an address, with or without a port, as in 10.0.0.5:8000"
        ))
    })
}

fn advertise(texts: &str) -> Result<Vec<Advertised>, Failure> {
    let one = |text: &str| {
        let parsed = match text.parse::<Address>() {
            Ok(a) => Some(Advertised { fabric: Some(a.fabric), socket: a.socket }),
            Err(_) => text.parse().ok().map(|socket| Advertised { fabric: None, socket }),
        };
        parsed.filter(|a| !a.socket.ip().is_unspecified() && a.socket.port() != 0).ok_or_else(|| {
            refused(format!(
                "advertise names {text:?}; give the address and port that others shall use, as in \
                 10.0.0.5:8000 or RDMA://10.8.0.5:8000"
            ))
        })
    };
    let texts = texts.split(',').map(str::trim).filter(|t| !t.is_empty());
    let all = texts.map(one).collect::<Result<Vec<_>, _>>()?;
    if all.len() > ADVERTISE_MAX {
        return Err(refused(format!("advertise names more than {ADVERTISE_MAX} addresses")));
    }
    Ok(all)
}

fn fabric(text: &str) -> Result<FabricUse, Failure> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(FabricUse::Auto),
        "tcp" => Ok(FabricUse::Tcp),
        "rdma" => Ok(FabricUse::Rdma),
        _ => Err(refused(format!("fabric is {text:?}; it can be auto, tcp or rdma"))),
    }
}

fn device_filter(names: &[String]) -> Vec<String> {
    let names = names.iter().flat_map(|n| n.split(',')).map(str::trim);
    names.filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

fn rdma_memory(bytes: u64) -> Result<usize, Failure> {
    let bytes = within("rdma_memory", bytes, RDMA_MEMORY_MIN, RDMA_MEMORY_MAX)?;
    Ok(usize::try_from(bytes).expect("64-bit"))
}

/// Where data of this name goes by default.
pub fn default_folder(name: &str, hint: &str) -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/t3fs").join(name));
    }
    match user_data_home() {
        Ok(home) => Ok(home.join("t3fs").join(name)),
        Err(e) => Err(refused(format!("{e}; {hint}"))),
    }
}

/// `$XDG_DATA_HOME`, or where it is by default.
pub fn user_data_home() -> Result<PathBuf, Failure> {
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    var("XDG_DATA_HOME")
        .or_else(|| var("HOME").map(|h| h.join(".local/share")))
        .ok_or_else(|| refused("neither XDG_DATA_HOME nor HOME is set"))
}
