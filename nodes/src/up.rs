//! `t3fs-node up DIR`: a whole cluster in one process, from the command line to what is served.
//!
//! [`prepare`] only looks; everything that can be refused is refused there. Then the data folders
//! are created, and [`crate::service`] does the rest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::UpArgs;
use crate::config::roles::Roles;
use crate::config::secret::Secret;
use crate::config::{self, Settings, Tunables};
use crate::data::Data;
use crate::data::plan::{Plan, Wanted, plan};
use crate::fabric::FabricPlan;
use crate::failure::{Failure, refused};
use crate::logging::{say, tell};
use crate::mount::{self, place};
use crate::node::{ALONE, Assembly, KvPlace, LinkPlan, Targets};
use crate::service::{self, ServiceJob};
use crate::{detach, limits, logging};

/// Below the first data folder.
const KV_FOLDER: &str = "kv";

/// All that was looked at and found good.
struct Prepared {
    settings: Settings,
    tunables: Tunables,
    dir: PathBuf,
    found: place::MountPlace,
    plan: Plan,
    /// `None`: it talks to nobody.
    fabric: Option<FabricPlan>,
}

pub fn run(args: &UpArgs) -> Result<(), Failure> {
    let background = &args.background;
    if background.detach && !background.detached {
        return detach::start();
    }
    if background.detached {
        detach::leave_terminal()?;
    }
    let Prepared { settings, tunables, dir, found, plan, fabric } = prepare(args)?;
    // From here on things are created.
    limits::raise();
    limits::mark_as_io_flusher();
    let log = tunables.log.as_deref();
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
    clear_place(&dir, found)?;
    let home = data.first.clone();
    let assembly = assembly(settings, tunables, fabric, &dir, data)?;
    service::serve(ServiceJob {
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
    let (settings, tunables) = config::load(args.settings.flags()?)?;
    let dir = place::resolve(&args.dir)?;
    let plan = plan(&Wanted {
        cluster: &settings.cluster_id,
        folders: &settings.data_or_default()?,
        replicas: settings.replicas,
        targets_per_disk: settings.shards,
        mount_point: &dir,
    })?;
    let found = place::check(&dir, &mount::source(&settings.cluster_id))?;
    mount::preflight(settings.mount_options)?;
    // No folder: only whether io_uring works. Folders are probed once they exist.
    t3fs_runtime::glommio::probe(&[] as &[PathBuf]).map_err(refused)?;
    let fabric = settings.listen.is_some().then(|| FabricPlan::find(&settings)).transpose()?;
    Ok(Prepared { settings, tunables, dir, found, plan, fabric })
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
fn assembly(
    settings: Settings,
    tunables: Tunables,
    fabric: Option<FabricPlan>,
    dir: &Path,
    data: Data,
) -> Result<Assembly, Failure> {
    let link = match (&settings.listen, fabric) {
        (None, _) | (_, None) => None,
        (Some(listen), Some(fabric)) => {
            let secret = match settings.shared_secret() {
                Some(secret) => secret.clone(),
                None => Secret::of_folder(&data.first)?,
            };
            let (listen, advertise) = fabric.addresses(listen.here()?, 0, &settings.advertise)?;
            Some(LinkPlan { secret, listen: Some(listen), advertise, mgmtds: Vec::new(), fabric })
        }
    };
    Ok(Assembly {
        cluster: settings.cluster_id.clone(),
        node: ALONE,
        incarnation: data.incarnation,
        identity: data.cluster.cluster_uuid.clone(),
        roles: Roles::all(),
        shards: settings.shards,
        leases: settings.leases(),
        link,
        kv: KvPlace::Here(data.first.join(KV_FOLDER)),
        state: data.first.clone(),
        targets: Targets::Local(Arc::new(data)),
        label: label(dir),
        mount_options: settings.mount_options,
        settings,
        tunables,
    })
}

/// For people: host name and mount point.
pub fn label(dir: &Path) -> String {
    format!("{} {}", rustix::system::uname().nodename().to_string_lossy(), dir.display())
}

/// The mount point as it is needed.
pub fn clear_place(dir: &Path, found: place::MountPlace) -> Result<(), Failure> {
    match found {
        place::MountPlace::Free => Ok(()),
        place::MountPlace::Absent => place::make(dir),
        place::MountPlace::Stale => service::replace_stale(dir),
    }
}
