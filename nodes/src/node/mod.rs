//! The running node: budget -> shards -> links -> store -> mgmtd -> agent -> targets -> meta ->
//! clients, and the way back down. Which of these there are, [`Assembly`] says; a cluster in one
//! process (`up`) has them all and needs no link.
//!
//! A process is a list of parts ([`roles::parts`]): [`Node::start`] goes down the list, and
//! [`Node::stop`] back up ([`ending`]). The main thread drives: it gives each shard one step at a
//! time and waits for the answer.

mod assembly;
pub mod budget;
pub mod check;
mod contact;
pub mod doctor;
pub mod ending;
mod keeper;
mod link;
pub mod meters;
mod names;
mod news;
mod parts;
mod reach;
mod role_names;
mod roles;
pub mod tuning;

use std::sync::Arc;
use std::time::{Duration, Instant};

use t3fs_actors::client::FsSpace;
use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::kv::Kv;
use t3fs_actors::proto::mgmtd::Mgmtd;
use t3fs_runtime::glommio::{Layout, Remote, Shards, launch};
use t3fs_runtime::{Addr, Ask, Cx, NodeId, RawAddr};
use t3fs_transport::Peers;

use crate::config::host::Host;
use crate::config::roles::Role;
use crate::door::{self, Door};
use crate::failure::{Failure, failed};
use crate::{limits, logging};
pub use assembly::{ALONE, Assembly, KvPlace, LinkPlan, Targets};
use budget::Budget;
use contact::Contact;
pub use contact::Membership;
pub use parts::DISKS_TAG;
use role_names::RoleNames;
use roles::Part;

/// How long one step of the start may take on a shard.
const STEP_MAX: Duration = Duration::from_secs(120);
/// How long an idle shard looks for work before it sleeps. Waking a sleeping thread costs tens of
/// microseconds, looking costs core time that nobody else can use.
const SPIN: Duration = Duration::from_micros(30);
/// Between two attempts to reach what is not there yet.
const RETRY: Duration = Duration::from_millis(200);
/// For the first attempt of a client to begin, after which is said what it waits for, and for the
/// longest.
const ATTEMPT_MIN: Duration = Duration::from_secs(2);
const ATTEMPT: Duration = Duration::from_secs(15);
/// How often it is said that something is still waited for.
const REMIND: Duration = Duration::from_secs(10);
const _: () = assert!(ATTEMPT_MIN.as_millis() < ATTEMPT.as_millis());
const _: () = assert!(ATTEMPT.as_millis() < STEP_MAX.as_millis());
const _: () = assert!(RETRY.as_millis() < REMIND.as_millis());

/// Asked while something is waited for: an error ends the wait.
pub type GoOn<'a> = &'a dyn Fn() -> Result<(), Failure>;

/// The running actors.
pub struct Node {
    shards: Shards,
    /// With the locks of the folders.
    assembly: Arc<Assembly>,
    budget: Budget,
    /// Those that have begun to start, in this order.
    parts: Vec<Part>,
    peers: Option<Peers>,
    /// Of this process.
    kv: Option<Addr<Kv>>,
    /// The one that this process uses, here or elsewhere.
    store: Option<Addr<Kv>>,
    /// The node that is the store, and how it was named to us.
    kv_named: Option<(NodeId, Host)>,
    mgmtd: Option<Addr<Mgmtd>>,
    agent: Option<Addr<Agent>>,
    metas: Vec<RawAddr>,
    contact: Contact,
    role_names: RoleNames,
    reach: Option<reach::Watch>,
    /// How it introduces itself when it serves.
    about: String,
}

/// Does something on a shard and waits for what comes of it.
pub fn on_shard<T, F>(remote: &Remote, what: &'static str, f: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: AsyncFnOnce(Cx) -> T + Send + 'static,
{
    let until = Instant::now() + STEP_MAX;
    ending::heard(&ending::begin(remote, f), what, &mut || until)
}

/// Tries until it works or `go_on` says no; then the last reason is told too.
fn until_done<T>(
    what: &str,
    go_on: GoOn<'_>,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut said: Option<Instant> = None;
    loop {
        let why = match attempt() {
            Ok(done) => return Ok(done),
            Err(why) => why,
        };
        go_on().map_err(|stop| failed(format!("{what}: {why} ({stop})")))?;
        if said.is_none_or(|at| at.elapsed() > REMIND) {
            logging::warn(&format!("waiting for {what}: {why}"));
            said = Some(Instant::now());
        }
        std::thread::sleep(RETRY);
    }
}

/// The same, but a refusal is final.
fn until_answered<T>(
    what: &str,
    go_on: GoOn<'_>,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    until_done(what, go_on, || match attempt() {
        Err(why) if why.is_refusal() => Ok(Err(why)),
        other => other.map(Ok),
    })?
}

impl Node {
    /// Starts everything. What it returns serves others, and can serve a mount if it is a client.
    /// If a part does not start, it and those before it are stopped.
    pub fn start(assembly: Assembly, go_on: GoOn<'_>) -> Result<Node, Failure> {
        let mut node = Node::launch(assembly)?;
        for part in roles::parts(&node.assembly) {
            let (name, start) = (part.name, part.start);
            tracing::debug!("starting {name}");
            node.parts.push(part);
            if let Err(why) = start(&mut node, go_on) {
                // Every step of the end has its least time.
                let now = Instant::now();
                if let Err(stop) = node.stop(&mut || now) {
                    tracing::warn!("after {name} did not start: {stop}");
                }
                return Err(why);
            }
        }
        Ok(node)
    }

    /// The shards, with their links if there are any.
    fn launch(assembly: Assembly) -> Result<Node, Failure> {
        let a = Arc::new(assembly);
        if let Some(plan) = &a.link {
            tracing::info!("{}", plan.fabric.describe());
        }
        let given: Vec<String> = a.settings.given.iter().map(ToString::to_string).collect();
        match given.is_empty() {
            true => tracing::info!("all settings have their defaults"),
            false => tracing::info!("settings that were given: {}", given.join(", ")),
        }
        let budget = Budget::new(&a, limits::memory());
        tracing::info!("{}", budget.report());
        if let Some(warning) = budget.warning() {
            tracing::warn!("{warning}");
        }
        let peers = a.link.as_ref().map(|plan| link::peers(&a, plan)).transpose()?;
        let layout = Layout {
            node: a.node,
            epoch: a.incarnation,
            shards: a.shards,
            disks: a.folders(),
            // FUSE threads and the programs that use the mount want the cores too.
            pin: false,
            io_memory: budget.io_memory,
            spin: SPIN,
        };
        Ok(Node {
            shards: launch(&layout, link::install(peers.clone())).map_err(failed)?,
            budget,
            parts: Vec::new(),
            peers,
            kv: None,
            store: None,
            kv_named: None,
            mgmtd: None,
            agent: None,
            metas: Vec::new(),
            contact: Contact::default(),
            role_names: RoleNames::default(),
            reach: None,
            about: format!(" as {}", a.roles),
            assembly: a,
        })
    }

    /// What is there once in a process lives here.
    fn first_shard(&self) -> &Remote {
        &self.shards.remotes[0]
    }

    fn agent(&self) -> Addr<Agent> {
        self.agent.expect("it starts before all who ask it")
    }

    /// For the threads that take requests of programs.
    pub fn door(&self) -> Arc<Door> {
        let bytes_max = self.budget.bytes_in_flight_max();
        let (node, atime) = (self.assembly.node, self.assembly.mount_options.atime());
        Door::new(node, self.shards.remotes.clone(), bytes_max, atime)
    }

    /// For checks from other threads.
    pub fn checker(&self) -> check::Checker {
        check::Checker { remote: self.first_shard().clone(), agent: self.agent(), kv: self.store }
    }

    /// For the doctor, from other threads.
    pub fn doctor(&self) -> doctor::Doctor {
        doctor::Doctor {
            remotes: self.shards.remotes.clone(),
            agent: self.agent(),
            peers: self.peers.clone(),
            assembly: Arc::clone(&self.assembly),
        }
    }

    /// To change settings, from other threads. Of one process there is one.
    pub fn tuning(&self) -> tuning::Tuning {
        let remotes = self.shards.remotes.clone();
        let Assembly { settings, tunables, roles, .. } = &*self.assembly;
        let mounts = roles.has(Role::Client);
        tuning::Tuning::new(settings.clone(), tunables.clone(), remotes, mounts)
    }

    /// What its shards have counted, from other threads.
    pub fn meters(&self) -> meters::MeterReader {
        meters::MeterReader { remotes: self.shards.remotes.clone() }
    }

    /// Roles and address, for people.
    pub fn describe(&self) -> &str {
        &self.about
    }

    /// Why mgmtds cannot be reached, if so, in brackets.
    pub fn trouble(&self) -> String {
        self.contact.hint()
    }

    /// How it stands with its cluster.
    pub fn membership(&self) -> Membership {
        self.contact.membership()
    }

    /// Whether it needs no mgmtd to do what it is there for.
    pub fn serves_alone(&self) -> bool {
        self.assembly.link.is_none() || self.assembly.roles.has(Role::Kv)
    }

    /// Where its mgmtds should be, for people.
    pub fn mgmtds(&self) -> String {
        let named = self.assembly.link.iter().flat_map(|plan| &plan.mgmtds);
        named.map(|place| place.host.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Says this once it has become a member of its cluster.
    pub fn say_as_member(&self, line: String) {
        self.contact.keep(line);
    }

    /// Asks this process's agent.
    pub fn ask_agent<M>(&self, message: M) -> Result<M::Reply, Failure>
    where
        M: Ask<Agent>,
    {
        let agent = self.agent();
        let asked = on_shard(self.first_shard(), "agent", async move |cx: Cx| {
            cx.ask(agent, message).await
        })?;
        asked.map_err(|e| failed(format!("the agent did not answer: {e}")))
    }

    pub fn space(&self) -> Result<FsSpace, Failure> {
        on_shard(self.first_shard(), "free space", async |cx: Cx| match door::client() {
            Some(client) => client.statfs(&cx).await.map_err(|e| failed(format!("{e}"))),
            None => Err(failed("the client has stopped")),
        })?
    }
}
