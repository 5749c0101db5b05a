//! `t3fs-node up DIR`: a whole cluster in one process, from the command line to what is served.
//!
//! [`prepare`] only looks; everything that can be refused is refused there. Then the data folders
//! are created, and [`crate::service`] does the rest.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::UpArgs;
use crate::config::roles::Roles;
use crate::config::secret::Secret;
use crate::config::settings::Listen;
use crate::config::{self, Settings};
use crate::data::Data;
use crate::data::plan::{Plan, Wanted, plan};
use crate::failure::{Failure, refused};
use crate::logging::{say, tell};
use crate::mount::{self, place};
use crate::node::{ALONE, Assembly, KvPlace, LinkPlan, Targets};
use crate::service::{self, Job};
use crate::{detach, limits, logging};

/// Below the first data folder.
const KV_FOLDER: &str = "kv";

/// All that was looked at and found good.
struct Prepared {
    settings: Settings,
    dir: PathBuf,
    stale: bool,
    plan: Plan,
}

pub fn run(args: &UpArgs) -> Result<(), Failure> {
    let background = &args.background;
    if background.detach && !background.detached {
        return detach::start();
    }
    if background.detached {
        detach::leave_terminal()?;
    }
    let Prepared { settings, dir, stale, plan } = prepare(args)?;
    // From here on things are created.
    limits::raise();
    limits::mark_as_io_flusher();
    let log = settings.log.as_deref();
    if !background.detached {
        logging::to_stderr(log, "warn")?;
    }
    tell(&format!("t3fs-node {}", env!("CARGO_PKG_VERSION")));
    let data = plan.commit()?;
    if background.detached {
        logging::to_files(&data.first.join("log"), log)?;
    }
    logging::abort_on_panic();
    describe(&data);
    clear_place(&dir, stale)?;
    let home = data.first.clone();
    let assembly = assembly(&settings, &dir, data)?;
    service::serve(Job {
        assembly,
        mount: Some(dir),
        home,
        // The data's locks are in the assembly.
        lock: None,
        detached: background.detached,
        patience: None,
    })
}

/// Everything that can be refused, without touching anything.
fn prepare(args: &UpArgs) -> Result<Prepared, Failure> {
    let settings = config::load(args.flags()?)?;
    logging::check(settings.log.as_deref())?;
    let dir = place::resolve(&args.dir)?;
    let plan = plan(&Wanted {
        cluster: &settings.cluster_id,
        folders: &settings.data_or_default()?,
        replicas: settings.replicas,
        targets_per_disk: settings.shards,
        mount_point: &dir,
    })?;
    let found = place::check(&dir, &mount::source(&settings.cluster_id))?;
    mount::preflight()?;
    // No folder: only whether io_uring works. Folders are probed once they exist.
    t3fs_runtime::glommio::probe(&[] as &[PathBuf]).map_err(refused)?;
    Ok(Prepared { settings, dir, stale: found == place::Place::Stale, plan })
}

fn describe(data: &Data) {
    let folders: Vec<String> = data.disks.iter().map(|d| d.folder.display().to_string()).collect();
    let (what, replicas) = (if data.created { "new" } else { "existing" }, data.cluster.replicas);
    let copies = if replicas == 1 { "1 replica".into() } else { format!("{replicas} replicas") };
    let (name, folders) = (&data.cluster.cluster, folders.join(" and "));
    tell(&format!("{what} cluster {name}, {copies}, data in {folders}"));
    for remark in &data.remarks {
        say(remark);
    }
}

/// Every role; others can join if it was told where to listen.
fn assembly(settings: &Settings, dir: &Path, data: Data) -> Result<Assembly, Failure> {
    let link = match settings.listen {
        None => None,
        Some(listen) => {
            let secret = match &settings.secret {
                Some(secret) => secret.clone(),
                None => Secret::of_folder(&data.first)?,
            };
            let (listen, advertise) = addresses(listen, 0, settings.advertise)?;
            let listen = Some(listen);
            Some(LinkPlan { secret, listen, advertise: Some(advertise), mgmtds: Vec::new() })
        }
    };
    Ok(Assembly {
        cluster: settings.cluster_id.clone(),
        node: ALONE,
        incarnation: data.incarnation,
        roles: Roles::all(),
        shards: settings.shards,
        leases: settings.leases,
        link,
        kv: KvPlace::Here(data.first.join(KV_FOLDER)),
        targets: Targets::Local(Arc::new(data)),
        label: label(dir),
    })
}

/// For people: host name and mount point.
pub fn label(dir: &Path) -> String {
    format!("{} {}", rustix::system::uname().nodename().to_string_lossy(), dir.display())
}

/// Where to listen, and what others are told of it.
pub fn addresses(
    listen: Listen,
    port: u16,
    advertise: Option<SocketAddr>,
) -> Result<(SocketAddr, SocketAddr), Failure> {
    let mut at = SocketAddr::new(listen.ip, listen.port.unwrap_or(port));
    if at.port() == 0 {
        // What is announced must be known before anything listens.
        let free = TcpListener::bind(at).and_then(|l| l.local_addr());
        at = free.map_err(|e| refused(format!("cannot listen at {at}: {e}")))?;
    }
    match advertise {
        Some(advertise) => Ok((at, advertise)),
        None if at.ip().is_unspecified() => Err(refused(format!(
            "listen is {at}, which others cannot use; say with --advertise what they shall use"
        ))),
        None => Ok((at, at)),
    }
}

/// The mount point as it is needed, and what the user should know of it.
pub fn clear_place(dir: &Path, stale: bool) -> Result<(), Failure> {
    if stale {
        service::replace_stale(dir)?;
    }
    if place::is_filled(dir) {
        say(&format!("{} is not empty; what is in it is hidden now", dir.display()));
    }
    Ok(())
}
