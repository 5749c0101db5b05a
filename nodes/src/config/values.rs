//! What the values of settings mean: texts become addresses, roles and so on, or are refused. Each
//! function is named by the definition of its setting.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use t3fs_transport::{Address, Fabric, FabricUse};

use super::host::{Host, MgmtdPlace};
use super::roles::{KV_PORT, MGMTD_PORT, Roles};
use crate::failure::{Failure, refused};
use crate::mount::{self, MountOptions};
use crate::{limits, logging};

/// Longest name of a cluster, in bytes (the original's limit).
const CLUSTER_ID_MAX: usize = 31;
const MGMTDS_MAX: usize = 16;
const KV_SCHEME: &str = "t3fs-kv://";
const ADVERTISE_MAX: usize = 16;
/// Most shards that follow from the number of cores.
pub(super) const SHARDS_MAX: usize = 256;

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

/// A value that may be left out.
pub(super) fn opt<G, T>(
    one: impl FnOnce(G) -> Result<T, Failure>,
) -> impl FnOnce(Option<G>) -> Result<Option<T>, Failure> {
    |given| given.map(one).transpose()
}

/// A value that can be anything.
pub(super) fn as_is<T>(given: T) -> Result<T, Failure> {
    Ok(given)
}

/// A number within limits that its type holds.
pub(super) fn number<T>(n: u64) -> Result<T, Failure>
where
    T: TryFrom<u64, Error: std::fmt::Debug>,
{
    Ok(T::try_from(n).expect("the limits of a setting fit its type"))
}

pub(super) fn seconds(n: u64) -> Result<Duration, Failure> {
    Ok(Duration::from_secs(n))
}

pub(super) fn cluster_id(name: String) -> Result<String, Failure> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    // The id becomes the name of a folder, so "." and ".." are out.
    let fine = (1..=CLUSTER_ID_MAX).contains(&name.len())
        && name.bytes().all(good)
        && !name.starts_with('.');
    if fine {
        return Ok(name);
    }
    Err(refused(format!(
        "cluster id {name:?} is not usable; take 1 to {CLUSTER_ID_MAX} of a-z A-Z 0-9 . _ - and \
         begin with no dot"
    )))
}

pub(super) fn roles(names: Option<Vec<String>>) -> Result<Roles, Failure> {
    Roles::parse(&names.unwrap_or_default())
}

pub(super) fn data(folders: Vec<PathBuf>) -> Result<Vec<PathBuf>, Failure> {
    if folders.is_empty() || folders.iter().any(|folder| folder.as_os_str().is_empty()) {
        return Err(refused("data names no folder; give at least one, or leave it out"));
    }
    Ok(folders)
}

/// Without a number, what the cores allow.
pub(super) fn shards(n: Option<u64>) -> Result<usize, Failure> {
    n.map_or_else(|| Ok(limits::cores().saturating_sub(1).clamp(1, SHARDS_MAX)), number)
}

pub(super) fn log(filter: String) -> Result<String, Failure> {
    logging::check(&filter)?;
    Ok(filter)
}

pub(super) fn mount_options(words: Option<Vec<String>>) -> Result<MountOptions, Failure> {
    let words = words.unwrap_or_default();
    let words = words.iter().flat_map(|w| w.split(',')).map(str::trim);
    MountOptions::of_words(words).map_err(mount::unknown_option)
}

pub(super) fn mgmtds(texts: Option<Vec<String>>) -> Result<Vec<MgmtdPlace>, Failure> {
    let texts = texts.unwrap_or_default();
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
fn mgmtd_address(text: &str) -> Result<MgmtdPlace, Failure> {
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
pub(super) fn kv(text: String) -> Result<Host, Failure> {
    let host = text.strip_prefix(KV_SCHEME).and_then(|rest| Host::parse(rest, KV_PORT));
    host.ok_or_else(|| {
        refused(format!("kv is {text:?}; write {KV_SCHEME}HOST:PORT, as in {KV_SCHEME}10.0.0.1"))
    })
}

pub(super) fn listen(text: String) -> Result<ListenAt, Failure> {
    Host::parse_open(&text).map(|(host, port)| ListenAt { host, port }).ok_or_else(|| {
        refused(format!(
            "listen is {text:?}; give an address, with or without a port, as in 10.0.0.5:8000"
        ))
    })
}

pub(super) fn advertise(texts: Option<String>) -> Result<Vec<Advertised>, Failure> {
    let texts = texts.unwrap_or_default();
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

pub(super) fn fabric(text: String) -> Result<FabricUse, Failure> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(FabricUse::Auto),
        "tcp" => Ok(FabricUse::Tcp),
        "rdma" => Ok(FabricUse::Rdma),
        _ => Err(refused(format!("fabric is {text:?}; it can be auto, tcp or rdma"))),
    }
}

pub(super) fn device_filter(names: Option<Vec<String>>) -> Result<Vec<String>, Failure> {
    let names = names.unwrap_or_default();
    let names = names.iter().flat_map(|n| n.split(',')).map(str::trim);
    Ok(names.filter(|n| !n.is_empty()).map(str::to_owned).collect())
}
