//! One function per part of the node: what is started on a shard, and how it is closed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::kv::Kv;
use t3fs_actors::proto::mgmtd::Mgmtd;
use t3fs_actors::proto::storage::Storage;

use t3fs_actors::agent::{AgentConfig, AgentEvent, NodeAgent, ServerInfo};
use t3fs_actors::client::{Client, ClientConfig, SetAttrs};
use t3fs_actors::meta::kv::actor::KvServer;
use t3fs_actors::meta::kv::client::Stop;
use t3fs_actors::meta::kv::known::KnownStore;
use t3fs_actors::meta::kv::{KEYS_END, RangeLimit, Store};
use t3fs_actors::meta::{MetaConfig, MetaServer};
use t3fs_actors::mgmtd::{MgmtdConfig, MgmtdServer, Timing};
use t3fs_actors::proto::agent::{Announce, GetView, ReportTarget};
use t3fs_actors::proto::ids::{TargetId, ViewVersion};
use t3fs_actors::proto::kv::Barrier;
use t3fs_actors::proto::meta::ROOT;
use t3fs_actors::proto::mgmtd::{CreateChains, LocalState, Routing, TargetReport};
use t3fs_actors::proto::storage::Retire;
use t3fs_actors::storage::engine::{
    CHUNK_MAX, Engine, EngineConfig, EngineError, GRANULE, TargetIdentity,
};
use t3fs_actors::storage::host::{Place, target_dir};
use t3fs_actors::storage::{RESYNC_PAGE, StorageConfig, Target};
use t3fs_runtime::{Addr, AskError, Cx, DiskError, DiskId, RawAddr, Slot};

use super::assembly::{Assembly, Targets};
use super::budget::Budget;
use super::contact::Contact;
use super::link::Addresses;
use super::news::News;
use crate::config::roles::Role;
use crate::data::Data;
use crate::data::store_file::StoreFile;
use crate::door;
use crate::failure::{Failure, failed, refused};
use crate::kv_fjall::FjallStore;

/// Bytes of a chunk of a new file, and chains that it is spread over at most.
const CHUNK_SIZE: u32 = 1 << 20;
const STRIPE: u32 = 16;
const _: () = assert!(CHUNK_SIZE <= CHUNK_MAX && CHUNK_SIZE.is_multiple_of(GRANULE as u32));
/// Longer than any disk makes a process wait.
const ONE_PROCESS_LEASE: Duration = Duration::from_secs(600);
/// How long the last heartbeat, which says that targets have stopped, may take to leave.
const LAST_WORDS: Duration = Duration::from_millis(100);

thread_local! {
    /// Targets of this shard, to be closed at the end.
    static TARGETS: RefCell<Vec<Running>> = const { RefCell::new(Vec::new()) };
    /// Targets of this shard that are open or being opened. Two engines on one folder destroy it.
    static TAKEN: RefCell<BTreeSet<TargetId>> = const { RefCell::new(BTreeSet::new()) };
    /// On the first shard of a server: filled once its host has begun what it can.
    static FIRST: Cell<Option<Slot<()>>> = const { Cell::new(None) };
    /// On the first shard: the store that this process uses.
    static STORE: RefCell<Option<KnownStore>> = const { RefCell::new(None) };
}

/// The right to open a target, given back when dropped.
struct Taken(TargetId);

impl Taken {
    /// `None`: somebody else has it.
    fn take(target: TargetId) -> Option<Taken> {
        TAKEN.with(|t| t.borrow_mut().insert(target)).then_some(Taken(target))
    }

    /// The target stays open until the process ends.
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // A shard that has ended has no list any more, and nobody who asks it.
        let _ = TAKEN.try_with(|t| t.borrow_mut().remove(&self.0));
    }
}

struct Running {
    engine: Engine,
    target: TargetId,
    addr: RawAddr,
    /// On a server: its chain goes on without it.
    in_cluster: bool,
}

/// The store of this process, and whether there is nothing in it.
pub fn start_kv(cx: &Cx, folder: &Path) -> Result<(Addr<Kv>, bool), Failure> {
    let cannot = |e| failed(format!("the metadata store does not open: {e}"));
    let store = FjallStore::open(folder).map_err(cannot)?;
    let one = RangeLimit { rows: 1, bytes: usize::MAX };
    let first = store.snapshot().range(b"", KEYS_END, one, false).map_err(cannot)?;
    let kv = KvServer::start(cx, Box::new(store)).map_err(failed)?;
    Ok((kv, first.rows.is_empty()))
}

/// On the first shard: which store it is that mgmtd and meta use, as the folder says, and shall say.
pub fn know_store(kv: Addr<Kv>, at: String, state: &Path) -> Result<(), Failure> {
    let file = StoreFile::new(state);
    let known = file.read()?;
    STORE.set(Some(KnownStore::remembered(kv, at, known, Box::new(file))));
    Ok(())
}

fn known_store() -> KnownStore {
    STORE.with_borrow(|store| store.clone()).expect("known before anybody uses it")
}

/// Whether the store is this cluster's.
pub async fn check_store(cx: &Cx, a: &Assembly) -> Result<(), Failure> {
    let store = known_store();
    MgmtdServer::check_store(&cx.within(Duration::from_secs(10)), &store, &a.cluster)
        .await
        .map_err(|stop| stopped(&store, stop))
}

/// A refusal is final; what the store did not do may be tried again.
fn stopped(store: &KnownStore, stop: Stop<String>) -> Failure {
    match stop {
        Stop::Refused(why) => refused(why),
        Stop::Kv(e) => {
            failed(store.trouble().unwrap_or_else(|| format!("the metadata store: {e}")))
        }
    }
}

pub fn start_mgmtd(cx: &Cx, a: &Assembly) -> Addr<Mgmtd> {
    // Without a link nobody else can be primary.
    let alone = a.link.is_none();
    let timing = timing(a);
    let store = known_store();
    let config = MgmtdConfig { alone, timing, ..MgmtdConfig::new(store.kv(), &a.cluster) };
    MgmtdServer::start(cx, MgmtdConfig { store, ..config })
}

fn timing(a: &Assembly) -> Timing {
    // mgmtd and targets of one process stand still together: silence between them is no death.
    let node_lease = match a.targets {
        Targets::Local(_) => ONE_PROCESS_LEASE,
        Targets::Assigned { .. } | Targets::None => a.leases.node,
    };
    Timing {
        heartbeat: a.leases.heartbeat,
        node_lease,
        mgmtd_lease: a.leases.mgmtd,
        ..Timing::default()
    }
}

pub fn start_agent(
    cx: &Cx,
    a: &Assembly,
    mgmtd: Option<Addr<Mgmtd>>,
    addresses: Option<Addresses>,
    contact: Contact,
) -> Addr<Agent> {
    let told = a.roles.has(Role::Mgmtd).then(News::default);
    let watch = move |seen: &AgentEvent<'_>| {
        let view = match seen {
            AgentEvent::View(view) => view,
            AgentEvent::Heartbeat(answer) => return contact.note_heartbeat(*answer),
            AgentEvent::Lease { .. } => return,
        };
        if let Some(told) = &told {
            told.tell(view);
        }
        if let Some(addresses) = &addresses {
            addresses.learn(&view.routing);
        }
    };
    let config = AgentConfig {
        cluster: a.cluster.clone(),
        mgmtds: mgmtd.into_iter().collect(),
        server: a.roles.is_server().then(|| server_info(a, mgmtd)),
        timing: timing(a),
        watch: Some(Rc::new(watch)),
    };
    NodeAgent::start(cx, config)
}

fn server_info(a: &Assembly, mgmtd: Option<Addr<Mgmtd>>) -> ServerInfo {
    let told = a.link.iter().flat_map(|plan| &plan.advertise);
    let mut tags = Vec::new();
    if let Targets::Assigned { server, .. } = &a.targets {
        // For who makes chains.
        tags.push((DISKS_TAG.to_owned(), server.disks.len().to_string()));
    }
    let addresses = told.map(ToString::to_string).collect();
    let (identity, mgmtd) = (a.identity.clone(), mgmtd.map(Addr::raw));
    ServerInfo { identity, roles: a.roles.served(), addresses, tags, mgmtd }
}

/// The tag that says how many disks a storage node has.
pub const DISKS_TAG: &str = "disks";

pub async fn start_meta(
    cx: &Cx,
    agent: Addr<Agent>,
    node_lease: Duration,
) -> Result<RawAddr, Failure> {
    let (chunk_size, stripe, store) = (CHUNK_SIZE, STRIPE, known_store());
    let config = MetaConfig::new(store.kv(), agent);
    let config = MetaConfig { chunk_size, stripe, node_lease, store: store.clone(), ..config };
    let meta = MetaServer::start(cx, config).await;
    Ok(meta.map_err(|stop| stopped(&store, stop))?.raw())
}

/// What came of the wish to start a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    Runs,
    /// There is no data of the target.
    Absent,
    /// An earlier attempt, which nobody waited for any more, still opens it or has opened it.
    Already,
}

/// Opens a target, or makes it if it may be made, and starts its actor, which reports itself to the
/// agent. However long that takes, it happens once at a time.
pub async fn start_target(
    cx: &Cx,
    cluster: &str,
    place: Place,
    create: bool,
    in_cluster: bool,
    budget: &Budget,
    agent: Addr<Agent>,
) -> Result<Started, Failure> {
    let Place { target, chain, disk } = place;
    let Some(taken) = Taken::take(target) else { return Ok(Started::Already) };
    let identity = TargetIdentity { cluster: cluster.to_owned(), target, chain };
    let Some(engine) = open_target(cx, disk, &identity, create, budget).await.map_err(failed)?
    else {
        return Ok(Started::Absent);
    };
    let config = StorageConfig {
        engine: engine.clone(),
        target,
        chain,
        agent,
        disk,
        resync_page: RESYNC_PAGE,
        watch: None,
    };
    let addr = Target::start(cx, config).raw();
    TARGETS.with(|t| t.borrow_mut().push(Running { engine, target, addr, in_cluster }));
    taken.keep();
    Ok(Started::Runs)
}

/// Makes an empty target, for a start later.
pub async fn make_target(
    cx: &Cx,
    cluster: &str,
    place: Place,
    budget: &Budget,
) -> Result<(), Failure> {
    let Place { target, chain, disk } = place;
    let Some(_taken) = Taken::take(target) else { return Err(failed("it is being opened")) };
    let identity = TargetIdentity { cluster: cluster.to_owned(), target, chain };
    let (dir, config) = (target_dir(target), engine_config(budget));
    let cannot = |e: EngineError| failed(e.to_string());
    let made = Engine::create(cx, disk, &dir, &identity, config).await.map_err(cannot)?;
    made.close(cx).await.map_err(cannot)
}

/// Ends a target, whose chain goes on without it.
pub async fn stop_target(cx: &Cx, target: TargetId, agent: Addr<Agent>) -> Result<(), Failure> {
    let running = TARGETS.with_borrow_mut(|all| {
        let at = all.iter().position(|r| r.target == target)?;
        Some(all.remove(at))
    });
    let Some(Running { engine, addr, .. }) = running else { return Ok(()) };
    let retired = cx.ask(Addr::<Storage>::from_raw(addr), Retire).await;
    report_offline(cx, agent, target, addr).await;
    engine.close(cx).await.map_err(|e| failed(e.to_string()))?;
    TAKEN.with_borrow_mut(|taken| taken.remove(&target));
    retired.map_err(|e| failed(format!("it did not retire: {e}")))
}

/// If it is not told, the lease tells.
async fn report_offline(cx: &Cx, agent: Addr<Agent>, target: TargetId, addr: RawAddr) {
    let report = TargetReport { local: LocalState::Offline, ..TargetReport::online(target, addr) };
    let _ = cx.ask(agent, ReportTarget { report }).await;
}

/// Filled once the host of this process, on this shard, has begun what it can.
pub fn expect_host(first: Slot<()>) {
    FIRST.set(Some(first));
}

fn engine_config(budget: &Budget) -> EngineConfig {
    EngineConfig {
        overlay_bytes: budget.overlay_bytes,
        checksum_cache_bytes: budget.checksum_cache_bytes,
        chunks_max: budget.chunks_per_target,
        ..EngineConfig::default()
    }
}

async fn open_target(
    cx: &Cx,
    disk: DiskId,
    identity: &TargetIdentity,
    create: bool,
    budget: &Budget,
) -> Result<Option<Engine>, String> {
    let config = engine_config(budget);
    let dir = target_dir(identity.target);
    let is_there = match cx.disk(disk).list(&dir).await {
        Ok(names) => names.iter().any(|n| n == "superblock"),
        Err(DiskError::NotFound) => false,
        Err(e) => return Err(e.to_string()),
    };
    let opened = if is_there {
        Engine::open(cx, disk, &dir, identity, config).await
    } else if !create {
        return Ok(None);
    } else {
        Engine::create(cx, disk, &dir, identity, config).await
    };
    opened.map(Some).map_err(|e| e.to_string())
}

/// What the primary knows now.
pub async fn routing(cx: &Cx, agent: Addr<Agent>) -> Result<Arc<Routing>, Failure> {
    let got = cx.ask(agent, GetView { have: ViewVersion(0), fresh: true }).await;
    let got = got.map_err(|e| failed(format!("the agent did not answer: {e}")))?;
    got.map(|view| view.routing).ok_or_else(|| failed("mgmtd did not answer"))
}

/// Makes the chains of a cluster in one process that mgmtd does not have yet (first start, added
/// disk).
pub async fn create_chains(cx: &Cx, data: &Data, agent: Addr<Agent>) -> Result<(), Failure> {
    let routing = routing(cx, agent).await?;
    let new = data.cluster.chains.iter().filter(|c| routing.chain(c.id).is_none());
    let chains: Vec<_> =
        new.map(|c| (c.id, c.targets.iter().map(|t| (*t, cx.node())).collect())).collect();
    if !chains.is_empty() {
        let made = cx.ask(agent, CreateChains { chains }).await.map_err(no_answer)?;
        made.map_err(|e| failed(e.to_string()))?;
    }
    Ok(())
}

/// Everything runs, and targets have reported themselves; or they do soon: the host of a server
/// needs a mgmtd for that, which need not be there yet.
pub async fn announce(cx: &Cx, agent: Addr<Agent>, metas: Vec<RawAddr>) -> Result<(), Failure> {
    let m = Announce { metas, targets: Vec::new() };
    let Some(first) = FIRST.take() else { return cx.ask(agent, m).await.map_err(no_answer) };
    let cx = cx.outlive();
    cx.clone().spawn(async move {
        first.await;
        while let Err(e) = cx.ask(agent, m.clone()).await {
            tracing::warn!("the agent did not answer: {e}");
            cx.sleep(LAST_WORDS).await;
        }
    });
    Ok(())
}

fn no_answer(e: AskError) -> Failure {
    failed(format!("the agent did not answer: {e}"))
}

/// Starts the client of this shard, for the FUSE threads.
pub async fn start_client(
    cx: &Cx,
    agent: Addr<Agent>,
    label: &str,
    io_timeout: Option<Duration>,
    budget: &Budget,
) -> Result<(), Failure> {
    let config = ClientConfig {
        write_buffer_bytes: budget.write_buffer_bytes,
        read_bytes: budget.read_bytes_in_flight,
        io_timeout,
        ..ClientConfig::new(agent, label)
    };
    let client = Client::start(cx, config)
        .await
        .map_err(|e| failed(format!("the cluster cannot be used: {e}")))?;
    door::set_client(Some(client));
    Ok(())
}

/// A cluster that a user made is that user's: the root directory begins as root's.
pub async fn give_root_to_user(cx: Cx) -> Result<(), Failure> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        return Ok(());
    }
    let client = door::client().ok_or_else(|| failed("the client has stopped"))?;
    let cannot = |e| failed(format!("the root directory cannot be used: {e}"));
    let root = client.getattr(&cx, ROOT).await.map_err(cannot)?;
    if root.uid == 0 {
        let set =
            SetAttrs { uid: Some(uid.as_raw()), gid: Some(gid.as_raw()), ..SetAttrs::default() };
        client.setattr(&cx, ROOT, set).await.map_err(cannot)?;
    }
    Ok(())
}

/// Engines write down where they are, so that the next start has little to recover. On a server
/// mgmtd hears that they have stopped, so that their chains go on without waiting for a lease.
pub async fn close_targets(cx: &Cx, agent: Addr<Agent>) -> Result<(), Failure> {
    let targets = TARGETS.with(|t| std::mem::take(&mut *t.borrow_mut()));
    let mut result = Ok(());
    let mut told = false;
    // All of them first: a chain of this process may pass through several.
    for Running { addr, .. } in &targets {
        if let Err(e) = cx.ask(Addr::<Storage>::from_raw(*addr), Retire).await {
            result = result.and(Err(failed(format!("a target did not retire: {e}"))));
        }
    }
    for Running { engine, target, addr, in_cluster } in targets {
        let closed = engine.close(cx).await;
        result = result.and(closed.map_err(|e| failed(format!("a target did not close: {e}"))));
        if in_cluster {
            report_offline(cx, agent, target, addr).await;
            told = true;
        }
    }
    if told {
        cx.sleep(LAST_WORDS).await;
    }
    result
}

/// After everyone who could still ask it: all metadata on stable storage.
pub async fn close_kv(cx: &Cx, kv: Addr<Kv>) -> Result<(), Failure> {
    match cx.ask(kv, Barrier::default()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(failed(format!("the metadata store did not sync: {e}"))),
        Err(e) => Err(failed(format!("the metadata store did not answer: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_opened_once_at_a_time() {
        let opening = Taken::take(TargetId(7)).unwrap();
        assert!(Taken::take(TargetId(7)).is_none(), "still being opened");
        assert!(Taken::take(TargetId(8)).is_some(), "another one");
        drop(opening); // it could not be opened
        Taken::take(TargetId(7)).unwrap().keep();
        assert!(Taken::take(TargetId(7)).is_none(), "open");
    }
}
