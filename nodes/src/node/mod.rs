//! The running node: budget -> shards -> links -> store -> mgmtd -> agent -> targets -> meta ->
//! clients, and the way back down. Which of these there are, [`Assembly`] says; a cluster in one
//! process (`up`) has them all and needs no link.
//!
//! The main thread drives: it gives each shard one step at a time and waits for the answer, so the
//! order of start and stop is the order of the lines in [`Node::start`] and [`Node::stop`]; the way
//! down is in [`ending`].

mod assembly;
pub mod check;
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
pub mod tuning;

use std::sync::Arc;
use std::time::{Duration, Instant};
use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::kv::Kv;

use t3fs_actors::client::FsSpace;
use t3fs_runtime::budget::Budget;
use t3fs_runtime::glommio::{Layout, Remote, Shards, launch};
use t3fs_runtime::{Addr, Ask, Cx, NodeId, RawAddr};
use t3fs_transport::{Fabric, Peers};

use crate::config::host::Host;
use crate::config::roles::Role;
use crate::failure::{Failure, failed};
use crate::fuse::hub::{self, Hub};
use crate::limits;
pub use assembly::{ALONE, Assembly, KvPlace, LinkPlan, Targets};
use keeper::Keeper;
use link::{Addresses, Trouble};
pub use parts::DISKS_TAG;
use role_names::RoleNames;

/// How long one step of the start may take on a shard.
const STEP_MAX: Duration = Duration::from_secs(120);
/// How long an idle shard looks for work before it sleeps. Waking a sleeping thread costs tens of
/// microseconds, looking costs core time that nobody else can use.
const SPIN: Duration = Duration::from_micros(30);
/// Between two attempts to reach what is not there yet.
const RETRY: Duration = Duration::from_millis(200);
/// For one attempt of a client to begin.
const ATTEMPT: Duration = Duration::from_secs(15);
/// How often it is said that something is still waited for.
const REMIND: Duration = Duration::from_secs(10);

/// Asked while something is waited for: an error ends the wait.
pub type GoOn<'a> = &'a dyn Fn() -> Result<(), Failure>;

/// The running actors.
pub struct Node {
    shards: Shards,
    peers: Option<Peers>,
    /// Of this process.
    kv: Option<Addr<Kv>>,
    /// The one that this process uses, here or elsewhere.
    store: Option<Addr<Kv>>,
    agent: Addr<Agent>,
    keeper: Option<Keeper>,
    /// With the locks of the folders.
    assembly: Arc<Assembly>,
    trouble: Trouble,
    reach: Option<reach::Watch>,
    /// How it introduces itself when it serves.
    about: String,
    pub budget: Budget,
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
            tracing::warn!("waiting for {what}: {why}");
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
    pub fn start(assembly: Assembly, go_on: GoOn<'_>) -> Result<Node, Failure> {
        let a = Arc::new(assembly);
        let mut budget =
            Budget::for_machine(limits::memory_bytes(), a.shards, a.targets_expected());
        if let Some(plan) = &a.link {
            budget.rdma_memory = plan.fabric.pinned_bytes();
            tracing::info!("{}", plan.fabric.describe());
        }
        tracing::info!("{}", budget.report());
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
        let shards = launch(&layout, link::install(peers.clone())).map_err(failed)?;
        let mut starting = Starting {
            a,
            go_on,
            budget,
            remotes: shards.remotes.clone(),
            peers: peers.clone(),
            trouble: Trouble::default(),
            role_names: RoleNames::default(),
            kv_named: None,
            reach: None,
            about: String::new(),
        };
        match starting.run() {
            Ok(Started { kv, store, agent, keeper }) => {
                let Starting { a: assembly, about, trouble, reach, .. } = starting;
                let node = Node {
                    shards,
                    peers,
                    kv,
                    store,
                    agent,
                    keeper,
                    assembly,
                    trouble,
                    reach,
                    about,
                    budget,
                };
                Ok(node)
            }
            Err(e) => {
                drop(starting.reach.take());
                shards.stop();
                Err(e)
            }
        }
    }

    /// For the FUSE threads.
    pub fn hub(&self) -> Arc<Hub> {
        let bytes_max = self.budget.write_buffer_bytes * self.budget.shards;
        let (node, atime) = (self.assembly.node, self.assembly.mount_options.atime());
        Hub::new(node, self.shards.remotes.clone(), bytes_max, atime)
    }

    /// For checks from other threads.
    pub fn checker(&self) -> check::Checker {
        check::Checker { remote: self.shards.remotes[0].clone(), agent: self.agent, kv: self.store }
    }

    /// For the doctor, from other threads.
    pub fn doctor(&self) -> doctor::Doctor {
        doctor::Doctor {
            remotes: self.shards.remotes.clone(),
            agent: self.agent,
            peers: self.peers.clone(),
            assembly: Arc::clone(&self.assembly),
        }
    }

    /// To change settings, from other threads. Of one process there is one.
    pub fn tuning(&self) -> tuning::Tuning {
        let remotes = self.shards.remotes.clone();
        let Assembly { settings, tunables, .. } = &*self.assembly;
        tuning::Tuning::new(settings.clone(), tunables.clone(), remotes)
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
        self.trouble.hint()
    }

    /// Asks this process's agent.
    pub fn ask_agent<M>(&self, message: M) -> Result<M::Reply, Failure>
    where
        M: Ask<Agent>,
    {
        let agent = self.agent;
        let asked = on_shard(&self.shards.remotes[0], "agent", async move |cx: Cx| {
            cx.ask(agent, message).await
        })?;
        asked.map_err(|e| failed(format!("the agent did not answer: {e}")))
    }

    pub fn space(&self) -> Result<FsSpace, Failure> {
        on_shard(&self.shards.remotes[0], "free space", async |cx: Cx| match hub::client() {
            Some(client) => client.statfs(&cx).await.map_err(|e| failed(format!("{e}"))),
            None => Err(failed("the client has stopped")),
        })?
    }
}

/// What the start has made.
struct Started {
    kv: Option<Addr<Kv>>,
    store: Option<Addr<Kv>>,
    agent: Addr<Agent>,
    keeper: Option<Keeper>,
}

/// What the start works with. The order matters: each part asks those before it.
struct Starting<'a> {
    a: Arc<Assembly>,
    go_on: GoOn<'a>,
    budget: Budget,
    remotes: Vec<Remote>,
    peers: Option<Peers>,
    trouble: Trouble,
    role_names: RoleNames,
    /// The node that is the store, and how it was named to us.
    kv_named: Option<(NodeId, Host)>,
    reach: Option<reach::Watch>,
    about: String,
}

impl Starting<'_> {
    fn run(&mut self) -> Result<Started, Failure> {
        let (local_kv, kv) = self.kv()?;
        let mgmtd = self.mgmtd(kv)?;
        let addresses = self.peers.clone().map(|p| Addresses::new(p, self.role_names.clone()));
        let a = Arc::clone(&self.a);
        let agent = on_shard(&self.remotes[0], "agent", async move |cx: Cx| {
            parts::start_agent(&cx, &a, mgmtd, addresses)
        })?;
        self.open_the_door(mgmtd.map(Addr::raw), agent, local_kv)?;
        if let Some(peers) = self.peers.clone().filter(|_| !self.a.roles.is_empty()) {
            let (roles, named) = (self.role_names.clone(), self.kv_named.take());
            self.reach = Some(reach::watch(peers, roles, self.remotes[0].clone(), named));
        }
        let mut keeper = None;
        if self.a.roles.has(Role::Storage) {
            keeper = Some(self.storage(agent)?);
        }
        let metas = self.metas(kv, agent)?;
        on_shard(&self.remotes[0], "announcement", async move |cx: Cx| {
            parts::announce(&cx, agent, metas).await
        })??;
        if self.a.roles.has(Role::Client) {
            self.clients(agent)?;
        }
        Ok(Started { kv: local_kv, store: kv, agent, keeper })
    }

    /// The store of this process, and the one to use.
    fn kv(&mut self) -> Result<(Option<Addr<Kv>>, Option<Addr<Kv>>), Failure> {
        match self.a.kv.clone() {
            KvPlace::Here(folder) => {
                let kv = on_shard(&self.remotes[0], "metadata store", async move |cx: Cx| {
                    parts::start_kv(&cx, &folder)
                })??;
                Ok((Some(kv), Some(kv)))
            }
            KvPlace::There(at) => {
                let what = format!("the metadata store at t3fs-kv://{at}");
                let found = until_done(&what, self.go_on, || {
                    let all = at.look_up().map_err(failed)?;
                    on_shard(&self.remotes[0], "metadata store", async move |_: Cx| {
                        link::find_any(&all, link::KV).await
                    })?
                })?;
                self.role_names.note(found.node, "kv");
                self.kv_named = Some((found.node, at));
                Ok((None, Some(Addr::from_raw(found))))
            }
            KvPlace::Unused => Ok((None, None)),
        }
    }

    fn mgmtd(
        &self,
        kv: Option<Addr<Kv>>,
    ) -> Result<Option<Addr<t3fs_actors::proto::mgmtd::Mgmtd>>, Failure> {
        if !self.a.roles.has(Role::Mgmtd) {
            return Ok(None);
        }
        let kv = kv.expect("a mgmtd is given a store");
        until_answered("the metadata store", self.go_on, || {
            let a = Arc::clone(&self.a);
            on_shard(&self.remotes[0], "mgmtd", async move |cx: Cx| {
                parts::check_store(&cx, &a, kv).await
            })?
        })?;
        let a = Arc::clone(&self.a);
        on_shard(&self.remotes[0], "mgmtd", async move |cx: Cx| {
            Some(parts::start_mgmtd(&cx, &a, kv))
        })
    }

    /// From here on others can connect, and this process looks for the mgmtds.
    fn open_the_door(
        &mut self,
        mgmtd: Option<RawAddr>,
        agent: Addr<Agent>,
        kv: Option<Addr<Kv>>,
    ) -> Result<(), Failure> {
        self.about = format!(" as {}", self.a.roles);
        let (Some(peers), Some(plan)) = (&self.peers, &self.a.link) else { return Ok(()) };
        let published =
            [(link::MGMTD, mgmtd), (link::KV, kv.map(Addr::raw)), (link::AGENT, Some(agent.raw()))];
        for (service, addr) in published {
            if let Some(addr) = addr {
                peers.publish(service, addr.shard, addr.slot);
            }
        }
        if let Some(at) = plan.listen {
            let bound =
                on_shard(&self.remotes[0], "listening", async move |_: Cx| link::listen(at))??;
            let served = plan.advertise.iter().filter(|a| a.fabric == Fabric::Rdma);
            let also: String = served.map(|a| format!(" and {a}")).collect();
            self.about += &format!(", node {}, at TCP://{bound}{also}", self.a.node.0);
        }
        let mgmtds = names::Names::start(plan.mgmtds.iter().map(|p| p.host.clone()).collect());
        let (own, trouble) = (plan.advertise.clone(), self.trouble.clone());
        let peers = peers.clone();
        on_shard(&self.remotes[0], "mgmtd", async move |cx: Cx| {
            link::keep_finding_mgmtds(&cx, agent, mgmtd, peers, mgmtds, own, trouble);
        })
    }

    fn storage(&self, agent: Addr<Agent>) -> Result<Keeper, Failure> {
        let keeper = Keeper::new(Arc::clone(&self.a), self.budget, agent, self.remotes.clone());
        match &self.a.targets {
            Targets::Local(data) => {
                let known = until_done("mgmtd", self.go_on, || {
                    on_shard(&self.remotes[0], "mgmtd", async move |cx: Cx| {
                        parts::routing(&cx, agent).await
                    })?
                })?;
                keeper.start_local(data, &known)?;
                let data = Arc::clone(data);
                on_shard(&self.remotes[0], "chains", async move |cx: Cx| {
                    parts::create_chains(&cx, &data, agent).await
                })??;
                Ok(keeper)
            }
            Targets::Assigned { .. } => keeper.start_assigned(),
            Targets::None => unreachable!("the role storage has folders"),
        }
    }

    fn metas(&self, kv: Option<Addr<Kv>>, agent: Addr<Agent>) -> Result<Vec<RawAddr>, Failure> {
        if !self.a.roles.has(Role::Meta) {
            return Ok(Vec::new());
        }
        let kv = kv.expect("a meta is given a store");
        let lease = self.a.leases.node;
        let meta = until_answered("the metadata store", self.go_on, || {
            on_shard(&self.remotes[0], "meta", async move |cx: Cx| {
                parts::start_meta(&cx.within(STEP_MAX / 4), kv, agent, lease).await
            })?
        })?;
        Ok(vec![meta])
    }

    fn clients(&self, agent: Addr<Agent>) -> Result<(), Failure> {
        let go_on = || match self.trouble.is_refusal() && !self.a.roles.is_server() {
            true => Err(failed("not trying again")),
            false => (self.go_on)(),
        };
        for (index, remote) in self.remotes.iter().enumerate() {
            until_done("the cluster", &go_on, || {
                let (label, budget) = (format!("{} shard {index}", self.a.label), self.budget);
                let io_timeout = self.a.tunables.patience();
                let started = on_shard(remote, "client", async move |cx: Cx| {
                    let cx = cx.within(ATTEMPT);
                    parts::start_client(&cx, agent, &label, io_timeout, &budget).await
                })?;
                // A user whose process finds no mgmtd need not hear what that has led to.
                started.map_err(|e| match self.trouble.hint() {
                    why if why.is_empty() => e,
                    why => failed(format!("no mgmtd can be used{why}")),
                })
            })?;
        }
        if let Targets::Local(_) = self.a.targets {
            on_shard(&self.remotes[0], "root directory", parts::give_root_to_user)??;
        }
        Ok(())
    }
}
