//! `t3fs-node doctor`: by what fabric processes talk to each other, why, and what keeps a faster
//! one from being used.
//!
//! A running process is asked over its control socket and looks at its own links
//! (`node/doctor.rs`); with `--cluster` the doctor joins for a moment and looks at its own; without
//! either it says what this host has.

pub mod table;
pub mod view;
pub mod why;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use t3fs_actors::proto::agent::GetView;
use t3fs_actors::proto::ids::ViewVersion;
use t3fs_transport::FabricUse;
use t3fs_transport::rdma::{DeviceReport, Devices};

use crate::cli::DoctorArgs;
use crate::config::{self, Settings};
use crate::control;
use crate::data::lock::{FolderLock, Tried};
use crate::down;
use crate::fabric::FabricPlan;
use crate::failure::{Failure, failed, refused};
use crate::logging::{self, tell};
use crate::node::Node;
use crate::registry;
use crate::run::visitor;
use crate::service::END_MAX;
use view::{Device, Host, View};

/// How long mgmtd may take to be found.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let settings = config::load(args.flags()?)?;
    logging::check(settings.log.as_deref())?;
    let view = match &args.place {
        Some(place) => control::ask_for(&home_of(place)?, "doctor")?,
        None if !args.cluster.is_empty() => join(&settings)?,
        None if args.host => host_only(&settings),
        None => match only_home(&settings)? {
            Some(home) => control::ask_for(&home, "doctor")?,
            None => host_only(&settings),
        },
    };
    if args.json {
        tell(&serde_json::to_string(&view).expect("texts and numbers"));
    } else {
        table::render(&view).iter().for_each(|line| tell(line));
        if view.process.is_none() && !args.host {
            tell(
                "no process was asked; say `t3fs-node doctor` with a mount, a state or data \
                 folder, or --cluster",
            );
        }
    }
    match view.unreachable().as_slice() {
        [] => Ok(()),
        nodes => {
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            Err(failed(format!("cannot be reached: node {}", nodes.join(", node "))))
        }
    }
}

/// What this host and this program have.
pub fn host(plan: &FabricPlan) -> Host {
    let before = plan.devices.as_ref().map(|d| d.report()).unwrap_or_default();
    let now = plan.devices.as_ref().map(|_| Devices::find(&plan.filter));
    let now = now.as_ref().map(Devices::report).unwrap_or_default();
    Host {
        built_with_rdma: cfg!(feature = "rdma"),
        fabric: match plan.wanted {
            FabricUse::Auto => "auto".into(),
            FabricUse::Tcp => "tcp".into(),
            FabricUse::Rdma => "rdma".into(),
        },
        why_not_rdma: plan.why_not_rdma(),
        device_filter: plan.filter.clone(),
        devices: devices(&before, &now),
    }
}

/// The devices as they are, with what is otherwise than when the process looked.
fn devices(before: &[DeviceReport], now: &[DeviceReport]) -> Vec<Device> {
    let same = |a: &DeviceReport, b: &DeviceReport| (&a.device, a.port) == (&b.device, b.port);
    let device = |d: &DeviceReport, news: String| Device {
        name: d.device.clone(),
        port: d.port,
        about: format!("{d}{news}"),
        addresses: d.addresses().iter().map(ToString::to_string).collect(),
        why_not: d.unusable.clone(),
    };
    let here = now.iter().map(|d| {
        let was = before.iter().find(|b| same(b, d)).map(|b| &b.unusable);
        let news = match (was, &d.unusable) {
            (Some(None), Some(_)) => "; it was usable when the process started".into(),
            (Some(Some(why)), None) => {
                format!("; NOT USED: when the process started, {why}; start it again")
            }
            (None, None) => "; NOT USED: not there when the process started; start it again".into(),
            _ => String::new(),
        };
        device(d, news)
    });
    let gone = before.iter().filter(|b| !now.iter().any(|d| same(b, d)));
    here.chain(gone.map(|b| device(b, "; GONE since the process started".into()))).collect()
}

fn host_only(settings: &Settings) -> View {
    let version = env!("CARGO_PKG_VERSION").into();
    View { version, host: host(&FabricPlan::look(settings)), process: None }
}

/// The folder with the control socket of the process that is meant.
pub fn home_of(place: &Path) -> Result<PathBuf, Failure> {
    // Not a path below a mount, which may hang: those that are mounted are looked up first.
    let mounted = registry::running()?.into_iter().find(|i| i.mount_point == place);
    if let Some(instance) = mounted {
        return Ok(instance.data);
    }
    if is_served(place) {
        return Ok(place.to_owned());
    }
    down::home_of_mount(place).map_err(|why| {
        failed(format!("{why}; {} is no folder of a running process either", place.display()))
    })
}

/// Whether a process that runs has its control socket there.
fn is_served(folder: &Path) -> bool {
    folder.join(control::NAME).exists()
        && matches!(FolderLock::try_existing(folder), Ok(Tried::Held(_)))
}

/// The process of this host, if there is just one.
pub fn only_home(settings: &Settings) -> Result<Option<PathBuf>, Failure> {
    let mut homes: Vec<PathBuf> = registry::running()?.into_iter().map(|i| i.data).collect();
    // Servers without a mount are in no list: the place that the settings name, and the default.
    homes.extend(settings.node_id.and_then(|id| settings.state_or_default(id).ok()));
    if let Ok(any) = config::settings::default_folder("any", "") {
        let siblings = std::fs::read_dir(any.parent().expect("it has a name"));
        homes.extend(siblings.into_iter().flatten().flatten().map(|e| e.path()));
    }
    homes.retain(|home| is_served(home));
    homes.sort();
    homes.dedup();
    match homes.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        many => {
            let many: Vec<String> = many.iter().map(|h| h.display().to_string()).collect();
            let list = many.join(", ");
            Err(refused(format!("several t3fs-nodes are running, name the folder of one: {list}")))
        }
    }
}

/// Joins the cluster for as long as it takes to look at it.
fn join(settings: &Settings) -> Result<View, Failure> {
    logging::to_stderr(settings.log.as_deref(), "error")?;
    let visitor = visitor(settings, "doctor", FabricPlan::look(settings))?;
    let node = Node::start(visitor, &|| Ok(()))?;
    let began = Instant::now();
    let found = loop {
        let asked = node.ask_agent(GetView { have: ViewVersion(0), fresh: true })?;
        if asked.is_some() {
            break Ok(());
        }
        if began.elapsed() > PATIENCE {
            break Err(failed(format!("no mgmtd answers{}", node.trouble())));
        }
        std::thread::sleep(LOOK);
    };
    let view = found.and_then(|()| node.doctor().look());
    let until = Instant::now() + END_MAX;
    node.stop(&mut || until)?;
    view
}
