//! The cluster of this check: one KV host, two mgmtds, meta servers, chains over storage nodes, and
//! nodes of clients.

use core::time::Duration;
use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::mgmtd::Mgmtd;

use t3fs_actors::agent::{AgentConfig, NodeAgent, ServerInfo};
use t3fs_actors::meta::kv::MemoryDisk;
use t3fs_actors::meta::kv::actor::KvServer;
use t3fs_actors::meta::{MetaConfig, MetaServer, OrphanTimes};
use t3fs_actors::mgmtd::{MgmtdConfig, MgmtdServer, Timing};
use t3fs_actors::proto::agent::Announce;
use t3fs_actors::proto::ids::{ChainId, TargetId};
use t3fs_actors::proto::mgmtd::{CreateChains, TargetReport};
use t3fs_actors::storage::engine::{Engine, EngineError, TargetIdentity};
use t3fs_actors::storage::{RESYNC_PAGE, StorageConfig, Target};
use t3fs_runtime::{Addr, Cx, DiskId, NodeId, RawAddr};

use super::door::first_actor;
use crate::checks::Run;
use crate::checks::chain::engine_config;
use crate::rng::Rng;
use crate::world::{Boot, NodeSpec};

/// Bytes of each storage node's disk.
pub(super) const DISK_BYTES: u64 = 256 << 20;
/// Content without an inode is found while a run comes to rest.
const ORPHANS: OrphanTimes = OrphanTimes {
    first: Duration::from_secs(10),
    every: Duration::from_secs(20),
    again: Duration::from_secs(10),
};
/// A client that has crashed is given up after this; longer than any client of a run is away.
const SESSION_LEASE: Duration = Duration::from_secs(20);

/// What a seed draws of the cluster.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub(super) metas: u64,
    pub(super) chains: u32,
    pub(super) replicas: u32,
    pub(super) servers: u32,
    pub(super) chunk_size: u32,
    pub(super) stripe: u32,
}

impl Sizes {
    pub(super) fn draw(rng: &Rng) -> Sizes {
        let chains = 1 + rng.below(3) as u32;
        let replicas = *rng.pick(&[1, 2, 2, 3]);
        Sizes {
            metas: *rng.pick(&[1, 2, 2, 3]),
            chains,
            replicas,
            servers: replicas.max(1 + rng.below(3) as u32),
            chunk_size: *rng.pick(&[4 << 10, 8 << 10, 16 << 10, 64 << 10]),
            stripe: 1 + rng.below(u64::from(chains)) as u32,
        }
    }
}

/// Where things are.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) sizes: Sizes,
    kv: NodeId,
    mgmtds: Vec<NodeId>,
    /// Disks fail now and then: a target may not open at the first attempt.
    bad_disks: bool,
}

impl Plan {
    fn agent(&self, cx: &Cx, server: Option<ServerInfo>) -> Addr<Agent> {
        let mgmtds = self.mgmtds.iter().map(|n| first_actor::<Mgmtd>(*n)).collect();
        NodeAgent::start(
            cx,
            AgentConfig { server, timing: timing(), ..AgentConfig::new("sim", mgmtds) },
        )
    }

    /// Chains, and on which server each target is.
    pub(super) fn chains(&self) -> Vec<(ChainId, Vec<TargetId>)> {
        let Sizes { chains, replicas, servers, .. } = self.sizes;
        let of = |c: u32, i: u32| TargetId(c * 10 + 1 + (c + i) % servers);
        let chain = |c| (ChainId(c), (0..replicas).map(|i| of(c, i)).collect());
        (1..=chains).map(chain).collect()
    }

    async fn meta_node(self, cx: Cx) {
        let agent = self.agent(&cx, Some(ServerInfo::default()));
        let Sizes { chunk_size, stripe, .. } = self.sizes;
        let config = MetaConfig {
            chunk_size,
            stripe,
            orphans: ORPHANS,
            ..MetaConfig::new(first_actor(self.kv), agent)
        };
        let meta = loop {
            let limit = cx.within(Duration::from_secs(5));
            match MetaServer::start(&limit, config.clone()).await {
                Ok(meta) => break meta,
                Err(_) => cx.sleep(Duration::from_millis(50)).await,
            }
        };
        announce(&cx, agent, Announce { metas: vec![meta.raw()], targets: Vec::new() }).await;
    }

    /// Starts a storage node: opens (or makes) its targets, serves them, announces them.
    async fn storage_node(self, cx: Cx, number: u32) {
        let agent = self.agent(&cx, Some(ServerInfo::default()));
        let mut targets = Vec::new();
        for (chain, members) in self.chains() {
            let Some(target) = members.into_iter().find(|t| t.0 % 10 == number) else { continue };
            let addr = self.target(&cx, chain, target, agent).await;
            targets.push(TargetReport::online(target, addr));
        }
        announce(&cx, agent, Announce { metas: Vec::new(), targets }).await;
    }

    async fn target(
        &self,
        cx: &Cx,
        chain: ChainId,
        target: TargetId,
        agent: Addr<Agent>,
    ) -> RawAddr {
        let identity = TargetIdentity { cluster: "sim".into(), target, chain };
        let (disk, dir) = (DiskId(0), format!("target-{target}"));
        let engine = loop {
            let names = cx.disk(disk).list(&dir).await.unwrap_or_default();
            let made = names.iter().any(|n| n == "superblock");
            let opened = match made {
                true => Engine::open(cx, disk, &dir, &identity, engine_config()).await,
                false => Engine::create(cx, disk, &dir, &identity, engine_config()).await,
            };
            match opened {
                Ok(engine) => break engine,
                // A full one opens when somebody has made room.
                Err(e) if self.bad_disks || e == EngineError::NoSpace => {
                    cx.sleep(Duration::from_millis(200)).await;
                }
                Err(e) => panic!("target {target} does not open: {e}"),
            }
        };
        let config = StorageConfig {
            engine,
            target,
            chain,
            agent,
            disk,
            resync_page: RESYNC_PAGE,
            watch: None,
        };
        Target::start(cx, config).raw()
    }
}

async fn announce(cx: &Cx, agent: Addr<Agent>, m: Announce) {
    while cx.ask(agent, m.clone()).await.is_err() {
        cx.sleep(Duration::from_millis(20)).await;
    }
}

fn timing() -> Timing {
    Timing { session_lease: SESSION_LEASE, ..Timing::default() }
}

/// A cluster in a world.
pub(super) struct Cluster {
    pub(super) plan: Plan,
    pub(super) kv: NodeId,
    /// What the KV host keeps.
    pub(super) store: MemoryDisk,
    pub(super) mgmtds: Vec<NodeId>,
    pub(super) metas: Vec<NodeId>,
    pub(super) servers: Vec<NodeId>,
    pub(super) clients: Vec<NodeId>,
    /// A node for looking at everything from outside.
    pub(super) outside: NodeId,
}

impl Cluster {
    /// `client` is what the node of a client does, from each of its starts on; there are so many.
    pub(super) fn build<F>(
        run: &Run<'_>,
        sizes: Sizes,
        bad_disks: bool,
        clients: u32,
        client: impl Fn(Cx, u32) -> F + Clone + 'static,
    ) -> Cluster
    where
        F: Future<Output = ()> + 'static,
    {
        let world = run.world;
        let store = MemoryDisk::new();
        let disk = store.clone();
        let kv = world.add_node(NodeSpec::new().boot(move |b: &Boot| {
            KvServer::start(&b.cx, Box::new(disk.open())).expect("a store");
        }));
        let mgmtd = |_| {
            world.add_node(NodeSpec::new().boot(move |b: &Boot| {
                let config =
                    MgmtdConfig { timing: timing(), ..MgmtdConfig::new(first_actor(kv), "sim") };
                MgmtdServer::start(&b.cx, config);
            }))
        };
        let mgmtds: Vec<NodeId> = (0..2).map(mgmtd).collect();
        let plan = Plan { sizes, kv, mgmtds: mgmtds.clone(), bad_disks };
        let meta = |_| {
            let p = plan.clone();
            world.add_node(NodeSpec::new().boot(move |b: &Boot| {
                b.cx.spawn(p.clone().meta_node(b.cx.clone()));
            }))
        };
        let metas = (0..plan.sizes.metas).map(meta).collect();
        let server = |number: u32| {
            let p = plan.clone();
            world.add_node(NodeSpec::new().disk(DISK_BYTES).boot(move |b: &Boot| {
                b.cx.spawn(p.clone().storage_node(b.cx.clone(), number));
            }))
        };
        let servers = (1..=plan.sizes.servers).map(server).collect();
        let client = |i: u32| {
            let (p, client) = (plan.clone(), client.clone());
            world.add_node(NodeSpec::new().boot(move |b: &Boot| {
                p.agent(&b.cx, None);
                b.cx.spawn(client(b.cx.clone(), i));
            }))
        };
        let clients = (0..clients).map(client).collect();
        let p = plan.clone();
        let outside = world.add_node(NodeSpec::new().boot(move |b: &Boot| {
            p.agent(&b.cx, None);
        }));
        Cluster { plan, kv, store, mgmtds, metas, servers, clients, outside }
    }

    pub(super) fn make_chains(&self, run: &Run<'_>) -> Result<(), String> {
        let node = |t: TargetId| (t, self.servers[(t.0 % 10) as usize - 1]);
        let chains = self.plan.chains().into_iter();
        let chains = chains.map(|(c, ts)| (c, ts.into_iter().map(node).collect())).collect();
        let m = CreateChains { chains };
        run.world
            .block_on(self.outside, |cx| async move {
                let agent = first_actor::<Agent>(cx.node());
                while !matches!(cx.ask(agent, m.clone()).await, Ok(Ok(_))) {
                    cx.sleep(Duration::from_millis(10)).await;
                }
            })
            .map_err(|h| format!("no chain: {h:?}"))
    }
}
