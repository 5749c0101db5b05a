//! `t3fs-node doctor`: by what fabric processes talk to each other, why, and what keeps a faster
//! one from being used.
//!
//! A running process is asked over its control socket and looks at its own links
//! (`node/doctor/`); with `--cluster` the doctor joins for a moment and looks at its own; without
//! either it says what this host has.

pub mod table;

use std::time::{Duration, Instant};

use t3fs_actors::proto::agent::GetView;
use t3fs_actors::proto::ids::ViewVersion;

use crate::cli::DoctorArgs;
use crate::config::definitions::key;
use crate::config::{self, Settings, Tunables};
use crate::control;
use crate::fabric::FabricPlan;
use crate::failure::{Failure, failed};
use crate::logging::{self, tell};
use crate::node::Node;
use crate::node::doctor::host::host;
use crate::node::doctor::view::DoctorView;
use crate::run::visitor;
use crate::running::{home_of, only_home};
use crate::service::END_MAX;

/// How long mgmtd may take to be found.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let (settings, tunables) = config::load(args.settings.flags()?)?;
    let view = match &args.place {
        Some(place) => control::ask_for(&home_of(place)?, "doctor")?,
        None if args.settings.given(key::cluster).is_some() => join(&settings, tunables)?,
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

fn host_only(settings: &Settings) -> DoctorView {
    let version = env!("CARGO_PKG_VERSION").into();
    DoctorView { version, host: host(&FabricPlan::look(settings)), process: None }
}

/// Joins the cluster for as long as it takes to look at it.
fn join(settings: &Settings, tunables: Tunables) -> Result<DoctorView, Failure> {
    logging::to_stderr(tunables.log.as_deref(), "error")?;
    let visitor = visitor(settings, tunables, "doctor", FabricPlan::look(settings))?;
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
