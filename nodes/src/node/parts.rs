//! One function per part of the node: what is started on a shard, and how it is closed.

use std::cell::RefCell;

use t3fs_actors::agent::{Agent, AgentConfig, ServerInfo};
use t3fs_actors::client::{Client, ClientConfig, SetAttrs};
use t3fs_actors::meta::kv::actor::Kv;
use t3fs_actors::meta::{Meta, MetaConfig};
use t3fs_actors::mgmtd::{Mgmtd, MgmtdConfig};
use t3fs_actors::proto::agent::{Announce, GetRouting};
use t3fs_actors::proto::ids::RoutingVersion;
use t3fs_actors::proto::kv::Barrier;
use t3fs_actors::proto::meta::ROOT;
use t3fs_actors::proto::mgmtd::{CreateChains, Role, Routing, TargetReport};
use t3fs_actors::storage::engine::{Engine, EngineConfig, TargetIdentity};
use t3fs_actors::storage::{Storage, StorageConfig};
use t3fs_runtime::budget::Budget;
use t3fs_runtime::{Addr, AskError, Cx, DiskError, DiskId, NodeId, RawAddr};

use crate::data::Data;
use crate::failure::{Failure, failed};
use crate::fuse::hub;
use crate::kv_fjall::FjallStore;

/// Where the parts that there is one of live.
#[derive(Clone)]
pub struct Core {
    pub agent: Addr<Agent>,
    pub metas: Vec<RawAddr>,
    kv: Addr<Kv>,
}

/// Below the first data folder.
const KV_FOLDER: &str = "kv";
/// Bytes of a chunk of a new file, and chains that it is spread over at most.
const CHUNK_SIZE: u32 = 1 << 20;
const STRIPE: u32 = 16;

thread_local! {
    /// Targets of this shard, to be closed at the end.
    static TARGETS: RefCell<Vec<Engine>> = const { RefCell::new(Vec::new()) };
}

/// The store, mgmtd, the agent and meta, on the first shard.
pub async fn start_core(cx: &Cx, data: &Data) -> Result<Core, Failure> {
    let store = FjallStore::open(&data.first.join(KV_FOLDER))
        .map_err(|e| failed(format!("the metadata store does not open: {e}")))?;
    let kv = Kv::start(cx, Box::new(store)).map_err(failed)?;
    let cluster = &data.cluster.cluster;
    Mgmtd::check_store(cx, kv, cluster).await.map_err(failed)?;
    let mgmtd = Mgmtd::start(cx, MgmtdConfig { alone: true, ..MgmtdConfig::new(kv, cluster) });
    let roles = vec![Role::Mgmtd, Role::Kv, Role::Meta, Role::Storage];
    let server = Some(ServerInfo { roles, ..ServerInfo::default() });
    let agent = Agent::start(cx, AgentConfig { server, ..AgentConfig::new(cluster, vec![mgmtd]) });
    let config = MetaConfig {
        kv,
        agent,
        chunk_size: CHUNK_SIZE,
        stripe: STRIPE,
        table: 1,
        root_owner: (0, 0),
        routing: Routing::default(),
    };
    let meta = Meta::start(cx, config).await.map_err(failed)?;
    Ok(Core { agent, metas: vec![meta.raw()], kv })
}

/// The targets of this shard: target i of a disk on shard i modulo the number of shards.
pub async fn start_targets(
    cx: &Cx,
    data: &Data,
    budget: &Budget,
    agent: Addr<Agent>,
    index: usize,
    shards: usize,
) -> Result<Vec<TargetReport>, Failure> {
    // Engines are made before their chains are: a target of a chain that mgmtd knows was there.
    let known = routing(cx, agent).await?;
    let mut reports = Vec::new();
    for disk in &data.disks {
        let record = &data.cluster.disks[disk.index];
        let mine = record.targets.iter().enumerate().filter(|(i, _)| i % shards == index);
        for (_, &target) in mine {
            let chain = data.cluster.chains.iter().find(|c| c.targets.contains(&target));
            let Some(chain) = chain.map(|c| c.id) else { continue };
            let id = DiskId(disk.index as u16);
            let existed = known.chain(chain).is_some();
            let identity = TargetIdentity { cluster: data.cluster.cluster.clone(), target, chain };
            let engine = open_target(cx, id, &identity, existed, budget).await.map_err(|why| {
                failed(format!("target {target} in {}: {why}", disk.folder.display()))
            })?;
            TARGETS.with(|t| t.borrow_mut().push(engine.clone()));
            let config =
                StorageConfig { engine, target, chain, agent, disk: id, planted_bug: None };
            reports.push(TargetReport::online(target, Storage::start(cx, config).raw()));
        }
    }
    Ok(reports)
}

/// Opens a target, or makes it before its chain is made. One that is gone is not made again: empty,
/// it would serve as if nothing had ever been written.
async fn open_target(
    cx: &Cx,
    disk: DiskId,
    identity: &TargetIdentity,
    existed: bool,
    budget: &Budget,
) -> Result<Engine, String> {
    let config = EngineConfig {
        overlay_bytes: budget.overlay_bytes,
        checksum_cache_bytes: budget.checksum_cache_bytes,
        chunks_max: budget.chunks_per_target,
        ..EngineConfig::default()
    };
    let dir = format!("targets/{}", identity.target);
    let is_there = match cx.disk(disk).list(&dir).await {
        Ok(names) => names.iter().any(|n| n == "superblock"),
        Err(DiskError::NotFound) => false,
        Err(e) => return Err(e.to_string()),
    };
    let opened = if is_there {
        Engine::open(cx, disk, &dir, identity, config).await
    } else if existed {
        return Err(format!(
            "{dir} is gone; restore it, or leave this --data out if its chains have other replicas"
        ));
    } else {
        Engine::create(cx, disk, &dir, identity, config).await
    };
    opened.map_err(|e| e.to_string())
}

async fn routing(cx: &Cx, agent: Addr<Agent>) -> Result<Routing, Failure> {
    let got = cx.ask(agent, GetRouting { have: RoutingVersion(0), fresh: true }).await;
    let got = got.map_err(|e| failed(format!("the agent did not answer: {e}")))?;
    got.ok_or_else(|| failed("mgmtd did not answer"))
}

/// Makes the chains that mgmtd does not have yet (first start, added disk), then tells it what runs
/// here.
pub async fn register(
    cx: &Cx,
    data: &Data,
    node: NodeId,
    agent: Addr<Agent>,
    metas: Vec<RawAddr>,
    targets: Vec<TargetReport>,
) -> Result<(), Failure> {
    let routing = routing(cx, agent).await?;
    let new = data.cluster.chains.iter().filter(|c| routing.chain(c.id).is_none());
    let chains: Vec<_> =
        new.map(|c| (c.id, c.targets.iter().map(|t| (*t, node)).collect())).collect();
    if !chains.is_empty() {
        let made = cx.ask(agent, CreateChains { chains }).await.map_err(no_answer)?;
        made.map_err(|e| failed(e.to_string()))?;
    }
    cx.ask(agent, Announce { metas, targets }).await.map_err(no_answer)
}

fn no_answer(e: AskError) -> Failure {
    failed(format!("the agent did not answer: {e}"))
}

/// This shard's client, for the FUSE threads.
pub async fn start_client(
    cx: &Cx,
    agent: Addr<Agent>,
    label: String,
    budget: &Budget,
) -> Result<(), Failure> {
    let config = ClientConfig { agent, label, write_buffer_bytes: budget.write_buffer_bytes };
    let client = Client::start(cx, config)
        .await
        .map_err(|e| failed(format!("the cluster cannot be used: {e}")))?;
    hub::set_client(Some(client));
    Ok(())
}

/// A cluster that a user made is that user's: the root directory begins as root's.
pub async fn give_root_to_user(cx: Cx) -> Result<(), Failure> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        return Ok(());
    }
    let client = hub::client().ok_or_else(|| failed("the client has stopped"))?;
    let cannot = |e| failed(format!("the root directory cannot be used: {e}"));
    let root = client.getattr(&cx, ROOT).await.map_err(cannot)?;
    if root.uid == 0 {
        let set =
            SetAttrs { uid: Some(uid.as_raw()), gid: Some(gid.as_raw()), ..SetAttrs::default() };
        client.setattr(&cx, ROOT, set).await.map_err(cannot)?;
    }
    Ok(())
}

/// Engines write down where they are, so that the next start has little to recover.
pub async fn close_targets(cx: Cx) -> Result<(), Failure> {
    let targets = TARGETS.with(|t| std::mem::take(&mut *t.borrow_mut()));
    for engine in targets {
        engine.close(&cx).await.map_err(|e| failed(format!("a target did not close: {e}")))?;
    }
    Ok(())
}

/// After everyone who could still ask it: all metadata on stable storage.
pub async fn close_core(cx: Cx, kv: Addr<Kv>) -> Result<(), Failure> {
    match cx.ask(kv, Barrier).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(failed(format!("the metadata store did not sync: {e}"))),
        Err(e) => Err(failed(format!("the metadata store did not answer: {e}"))),
    }
}

impl Core {
    pub fn kv(&self) -> Addr<Kv> {
        self.kv
    }
}
