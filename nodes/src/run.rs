//! `t3fs-node --roles ..`: a part of a cluster of several processes, and `t3fs-node mount DIR`, the
//! part that only mounts.
//!
//! As in `up`, everything is looked at before anything is created.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use t3fs_runtime::NodeId;
use t3fs_transport::Address;

use crate::cli::{Background, MountArgs, RunArgs};
use crate::config::definitions::{find, key};
use crate::config::host::Host;
use crate::config::roles::{Role, Roles};
use crate::config::secret::Secret;
use crate::config::settings::default_folder;
use crate::config::values::{Listen, ListenAt};
use crate::config::{self, Settings, Tunables};
use crate::data::lock::{FolderLock, Tried};
use crate::data::server::{self, Found};
use crate::data::{folder, incarnation};
use crate::fabric::FabricPlan;
use crate::failure::{Failure, failed, refused};
use crate::logging::{say, tell};
use crate::mount::{self, place};
use crate::node::{Assembly, KvPlace, LinkPlan, Targets};
use crate::service::{self, ServiceJob};
use crate::up::{clear_place, label};
use crate::{detach, limits, logging};

/// Below the state folder.
const KV_FOLDER: &str = "kv";
/// What a mount keeps, below the place for data: not a cluster's name, which begins with no dot.
const MOUNTS: &str = ".mounts";
/// How long `mount` tries before it gives up.
const MOUNT_PATIENCE: Duration = Duration::from_secs(30);
/// Numbers of clients have the top bit; those of servers do not.
const CLIENT_BIT: u32 = 1 << 31;

/// `t3fs-node run`.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let (settings, tunables) = config::load(args.settings.flags()?)?;
    if settings.roles.is_empty() {
        let roles = find(key::roles).expect("it is defined");
        return Err(refused(format!(
            "no roles; say {} with any of mgmtd, meta, storage, kv, client, or set {} or {} in the \
             configuration file (`t3fs-node help` shows the other commands)",
            roles.flag(),
            roles.variable(),
            roles.name
        )));
    }
    let mount = match (&settings.mount, settings.roles.has(Role::Client)) {
        (Some(dir), true) => Some(dir.clone()),
        (None, true) => return Err(refused("the role client needs --mount DIR")),
        (_, false) => None,
    };
    part(settings, tunables, mount, &args.background, None)
}

/// `t3fs-node mount`.
pub fn mount(args: &MountArgs) -> Result<(), Failure> {
    let (mut settings, tunables) = config::load(args.settings.flags()?)?;
    settings.roles = Roles::new(&[Role::Client]);
    part(settings, tunables, Some(args.dir.clone()), &args.background, Some(MOUNT_PATIENCE))
}

/// Where a process keeps what it must remember, looked at.
enum Home {
    Server(Box<Found>),
    /// Of a process that only mounts; nothing in it outlives it but logs.
    Mount {
        folder: PathBuf,
    },
}

fn part(
    settings: Settings,
    tunables: Tunables,
    mount: Option<PathBuf>,
    background: &Background,
    patience: Option<Duration>,
) -> Result<(), Failure> {
    if background.detach && !background.detached {
        return detach::start();
    }
    if background.detached {
        detach::leave_terminal()?;
    }
    let dir = mount.as_deref().map(place::resolve).transpose()?;
    let secret = secret(&settings)?;
    let fabric = FabricPlan::find(&settings)?;
    let (listen, advertise) = listening(&settings, &fabric)?;
    let kv = kv(&settings, &advertise)?;
    if settings.cluster.is_empty() && !settings.roles.has(Role::Mgmtd) {
        return Err(refused(
            "cluster is not set; say --cluster TCP://HOST:PORT with the addresses of the mgmtds",
        ));
    }
    let home = home(&settings, dir.as_deref())?;
    let mut found = place::MountPlace::Free;
    if let Some(dir) = &dir {
        found = place::check(dir, &mount::source(&settings.cluster_id))?;
        mount::preflight(settings.mount_options)?;
    }
    t3fs_runtime::glommio::probe(&[] as &[PathBuf]).map_err(refused)?;

    // From here on things are created.
    limits::raise();
    if dir.is_some() {
        limits::mark_as_io_flusher();
    }
    let log = tunables.log.as_deref();
    if !background.detached {
        logging::to_stderr(log, if settings.roles.is_server() { "info" } else { "warn" })?;
    }
    tell(&format!("t3fs-node {}", env!("CARGO_PKG_VERSION")));
    let made = make(&settings, home)?;
    if background.detached {
        logging::to_files(&made.folder.join("log"), log)?;
    }
    logging::abort_on_panic();
    for remark in &made.remarks {
        say(remark);
    }
    if let Some(dir) = &dir {
        clear_place(dir, found)?;
    }
    let assembly = Assembly {
        cluster: settings.cluster_id.clone(),
        node: made.node,
        incarnation: made.incarnation,
        identity: made.identity,
        shards: settings.shards,
        leases: settings.leases(),
        link: Some(LinkPlan {
            secret,
            listen,
            advertise,
            mgmtds: settings.cluster.clone(),
            fabric,
        }),
        kv: match kv {
            KvPlace::Here(_) => KvPlace::Here(made.folder.join(KV_FOLDER)),
            elsewhere => elsewhere,
        },
        state: made.folder.clone(),
        targets: made.targets,
        label: label(dir.as_deref().unwrap_or(Path::new("server"))),
        roles: settings.roles.clone(),
        mount_options: settings.mount_options,
        settings,
        tunables,
    };
    let (home, lock) = (made.folder, made.lock);
    let detached = background.detached;
    service::serve(ServiceJob { assembly, mount: dir, home, lock, detached, patience })
}

fn secret(settings: &Settings) -> Result<Secret, Failure> {
    settings.shared_secret().cloned().ok_or_else(|| {
        let named = |key| find(key).expect("it is defined");
        refused(format!(
            "no secret; set {} or {} to what all of the cluster share (make one with `(umask 077; \
             openssl rand -hex 32 > FILE)`)",
            named(key::secret).variable(),
            named(key::secret_file).flag()
        ))
    })
}

/// Where a server listens, and what others are told; clients do not.
fn listening(
    settings: &Settings,
    fabric: &FabricPlan,
) -> Result<(Option<SocketAddr>, Vec<Address>), Failure> {
    if !settings.roles.is_server() {
        return Ok((None, Vec::new()));
    }
    let loopback = Listen { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: None };
    let listen = settings.listen.as_ref().map_or(Ok(loopback), ListenAt::here)?;
    let (listen, told) = fabric.addresses(listen, settings.roles.port(), &settings.advertise)?;
    // A name that cannot be looked up yet says nothing of where its host is.
    let hosts = settings.cluster.iter().map(|p| &p.host).chain(&settings.kv);
    let others: Vec<SocketAddr> = hosts.filter_map(|h| h.look_up().ok()).flatten().collect();
    told.iter().try_for_each(|own| can_be_found(&others, own.socket))?;
    Ok((Some(listen), told))
}

/// A server that tells other hosts to look for it on themselves would seem to serve and be reached
/// by nobody.
fn can_be_found(others: &[SocketAddr], own: SocketAddr) -> Result<(), Failure> {
    let here_only = |at: &SocketAddr| at.ip().to_canonical().is_loopback();
    match others.iter().find(|at| !here_only(at)) {
        Some(far) if here_only(&own) => Err(refused(format!(
            "others would be told to find this server at {own}, which means their own machine, and \
             the cluster has {far}; say --listen IP with this machine's address (and --advertise \
             if others use another one)"
        ))),
        _ => Ok(()),
    }
}

/// `own`: what others are told of this process. Whoever is kv by mistake would begin a second
/// store, so the address that all are told must be its own.
fn kv(settings: &Settings, own: &[Address]) -> Result<KvPlace, Failure> {
    let needed = settings.roles.has(Role::Mgmtd) || settings.roles.has(Role::Meta);
    match (settings.roles.has(Role::Kv), needed, &settings.kv) {
        (true, _, Some(at)) if !is_own(at, own)? => {
            let own = own.first().expect("a kv listens").socket;
            Err(refused(format!(
                "this process has the role kv and is at t3fs-kv://{own}, but kv is \
                 t3fs-kv://{at}; a cluster has one store, so leave kv out of the roles here, or \
                 set kv to what is right (or listen and advertise)"
            )))
        }
        (true, ..) => Ok(KvPlace::Here(PathBuf::new())),
        (false, true, Some(at)) => Ok(KvPlace::There(at.clone())),
        (false, true, None) => Err(refused(
            "kv is not set; say --kv t3fs-kv://HOST:PORT, where the metadata store is, or \
             add kv to the roles",
        )),
        (false, false, _) => Ok(KvPlace::Unused),
    }
}

/// Whether `at` is one of a process's own addresses. A name must be known to say that.
fn is_own(at: &Host, own: &[Address]) -> Result<bool, Failure> {
    let all = at.look_up().map_err(|why| refused(format!("kv is t3fs-kv://{at}: {why}")))?;
    Ok(all.iter().any(|at| own.iter().any(|own| own.socket == *at)))
}

fn home(settings: &Settings, mount: Option<&Path>) -> Result<Home, Failure> {
    if !settings.roles.is_server() {
        let dir = mount.expect("a process that is no server mounts");
        // One name in one folder, whatever the path.
        let name = dir.to_string_lossy().replace('%', "%25").replace('/', "%2F");
        let folder = match &settings.state {
            Some(state) => folder::resolve(state)?,
            None => default_folder(&format!("{MOUNTS}/{name}"), "say --state FOLDER")?,
        };
        if folder.starts_with(dir) || dir.starts_with(&folder) {
            return Err(refused(format!(
                "the state folder {} and the mount point {} are one inside the other; choose \
                 another --state",
                folder.display(),
                dir.display()
            )));
        }
        return match FolderLock::try_existing(&folder) {
            Ok(Tried::Held(pid)) => {
                let who = pid.map_or("another process".into(), |p| format!("process {p}"));
                let shown = dir.display();
                Err(refused(format!(
                    "{shown} is served by {who}; end it with `t3fs-node down {shown}`"
                )))
            }
            Ok(_) => Ok(Home::Mount { folder }),
            Err(e) => Err(refused(format!("{} cannot be used: {e}", folder.display()))),
        };
    }
    let node_id = settings.node_id.ok_or_else(|| {
        refused("node_id is not set; say --node-id N, a number that no other server has")
    })?;
    let none: &[PathBuf] = &[];
    let data = settings.data.as_deref().unwrap_or(none);
    let found = server::look(&server::Wanted {
        cluster: &settings.cluster_id,
        node_id,
        state: &settings.state_or_default(node_id)?,
        data: settings.roles.has(Role::Storage).then_some(data),
        mount_point: mount,
    })?;
    Ok(Home::Server(Box::new(found)))
}

/// What there is once everything is created.
struct Made {
    folder: PathBuf,
    node: NodeId,
    incarnation: u32,
    identity: String,
    targets: Targets,
    lock: Option<FolderLock>,
    remarks: Vec<String>,
}

fn make(settings: &Settings, home: Home) -> Result<Made, Failure> {
    match home {
        Home::Server(found) => {
            let mut server = found.commit()?;
            let remarks = std::mem::take(&mut server.remarks);
            let (folder, node) = (server.state.clone(), NodeId(server.file.node_id));
            let (incarnation, identity) = (server.incarnation, server.file.node_uuid.clone());
            let server = Arc::new(server);
            let per_disk = usize::from(settings.targets_per_disk);
            let targets = Targets::Assigned { server, per_disk };
            Ok(Made { folder, node, incarnation, identity, targets, lock: None, remarks })
        }
        Home::Mount { folder } => {
            folder::make(&folder)?;
            let cannot = |e| failed(format!("cannot lock {}: {e}", folder.display()));
            let lock = match FolderLock::try_create(&folder).map_err(cannot)? {
                Tried::Locked(mut lock) => {
                    lock.sign().map_err(cannot)?;
                    lock
                }
                Tried::Held(_) | Tried::None => {
                    return Err(refused("another process is just mounting there"));
                }
            };
            let node = client_number()?;
            let (incarnation, identity) = (incarnation::by_clock(), String::new());
            let (targets, remarks) = (Targets::None, Vec::new());
            let lock = Some(lock);
            Ok(Made { folder, node, incarnation, identity, targets, lock, remarks })
        }
    }
}

/// A process that joins for a moment, to ask: it serves nobody.
pub fn visitor(
    settings: &Settings,
    tunables: Tunables,
    label: &str,
    fabric: FabricPlan,
) -> Result<Assembly, Failure> {
    Ok(Assembly {
        cluster: settings.cluster_id.clone(),
        node: client_number()?,
        incarnation: incarnation::by_clock(),
        identity: String::new(),
        roles: Roles::default(),
        shards: 1,
        leases: settings.leases(),
        link: Some(LinkPlan {
            secret: secret(settings)?,
            listen: None,
            advertise: Vec::new(),
            mgmtds: settings.cluster.clone(),
            fabric,
        }),
        kv: KvPlace::Unused,
        state: PathBuf::new(),
        targets: Targets::None,
        label: label.into(),
        mount_options: settings.mount_options,
        settings: settings.clone(),
        tunables,
    })
}

/// A number for a process that is no server: random, so that nobody has to hand them out.
fn client_number() -> Result<NodeId, Failure> {
    let mut bytes = [0; 4];
    let flags = rustix::rand::GetRandomFlags::empty();
    let got = rustix::rand::getrandom(&mut bytes, flags)
        .map_err(|e| failed(format!("the kernel gives no random numbers: {e}")))?;
    assert_eq!(got, bytes.len(), "so few come whole");
    Ok(NodeId(u32::from_le_bytes(bytes) | CLIENT_BIT))
}

#[cfg(test)]
mod tests {
    //! Goal: settings that would tear a cluster apart are refused with what to do. Method: pairs of
    //! settings that differ in one value.
    use super::*;
    use crate::config::Flags;

    fn settings(values: &[(&'static str, &str)]) -> Settings {
        let set = |flags: Flags, (key, value): &(&'static str, &str)| match *key {
            "roles" | "cluster" => flags.set(key, Some(vec![*value])),
            _ => flags.set(key, Some(*value)),
        };
        let flags = values.iter().fold(Flags::default(), set);
        config::load_from(flags, std::iter::empty()).unwrap().0
    }

    /// On a host without devices.
    fn heard(s: &Settings) -> Result<(Option<SocketAddr>, Vec<Address>), Failure> {
        let tcp = Settings { fabric: t3fs_transport::FabricUse::Tcp, ..s.clone() };
        listening(s, &FabricPlan::find(&tcp)?)
    }

    #[test]
    fn a_kv_by_mistake_does_not_begin_a_second_store() {
        let kv_at = |at: &str, listen: &str| {
            let s = settings(&[("roles", "kv"), ("listen", listen), ("kv", at)]);
            let (_, own) = heard(&s).unwrap();
            kv(&s, &own)
        };
        assert!(matches!(kv_at("t3fs-kv://10.0.0.9", "10.0.0.9"), Ok(KvPlace::Here(_))));
        for (at, listen) in [("10.0.0.9", "10.0.0.8"), ("10.0.0.9", "10.0.0.9:8000")] {
            let Err(why) = kv_at(&format!("t3fs-kv://{at}"), listen) else { panic!("{listen}") };
            assert!(why.line.contains("t3fs-kv://10.0.0.9:8003"), "{why}");
            assert!(why.line.contains("t3fs-kv://10.0.0.") && why.line.contains("one store"));
        }
        let s = settings(&[("roles", "kv")]);
        let (_, own) = heard(&s).unwrap();
        assert!(matches!(kv(&s, &own), Ok(KvPlace::Here(_))), "nobody said where it is");
    }

    #[test]
    fn a_server_of_other_hosts_that_only_this_one_can_find() {
        let far = ("cluster", "TCP://10.0.0.1:8000");
        let near = ("cluster", "TCP://127.0.0.1:8000");
        let kv = ("kv", "t3fs-kv://10.0.0.9");
        let role = ("roles", "storage");
        let here = ("listen", "127.0.0.1");
        let mapped = ("advertise", "[::ffff:127.0.0.1]:8002");
        let open = ("listen", "10.0.0.5");
        for wrong in
            [&[role, far][..], &[role, near, kv], &[role, far, here], &[role, far, open, mapped]]
        {
            let why = heard(&settings(wrong)).unwrap_err();
            assert!(why.line.contains("127.0.0.1") && why.line.contains("--listen"), "{why}");
        }
        let told = ("advertise", "10.0.0.5:8002");
        for right in [&[role, near][..], &[role, far, open], &[role, far, here, told]] {
            heard(&settings(right)).unwrap();
        }
        assert_eq!(heard(&settings(&[("roles", "client"), far])), Ok((None, Vec::new())));
    }
}
