//! Single stories of a storage target: the target is real, between toys that say what a story
//! needs. Random ones, with real neighbours, are in the checks `chain`, `members` and `files`.

mod extents;
mod target;
mod waiting;

use std::sync::Arc;
use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::agent::GetView;
use t3fs_actors::proto::ids::{ChainId, ChainVersion, TargetId, ViewVersion};

use t3fs_actors::proto::mgmtd::{Chain, ChainTarget, ClusterView, Routing, TargetState};
use t3fs_actors::storage::engine::{Engine, EngineConfig, TargetIdentity};
use t3fs_actors::storage::{RESYNC_PAGE, StorageConfig, Target};
use t3fs_runtime::{Actor, Addr, Cx, DiskId, Handle, Me, NodeId, RawAddr, protocol};

/// The toys: an agent, perhaps a successor, and who asks.
const TOYS: NodeId = NodeId(1);
/// The target.
const STORE: NodeId = NodeId(2);
const CHAIN: ChainId = ChainId(1);

fn addr(node: NodeId, slot: u16) -> RawAddr {
    RawAddr { node, shard: 0, slot, epoch: RawAddr::ANY_EPOCH }
}

/// The target, serving, and behind it perhaps a toy in this state.
fn view(version: u32, successor: Option<TargetState>) -> ClusterView {
    let target = |id, addr: RawAddr, state| ChainTarget {
        target: TargetId(id),
        node: addr.node,
        addr: Some(addr),
        state,
        made: true,
    };
    let mut targets = vec![target(1, addr(STORE, 0), TargetState::Serving)];
    targets.extend(successor.map(|state| target(2, addr(TOYS, 1), state)));
    let chains = vec![Chain { id: CHAIN, version: ChainVersion(version), targets }];
    ClusterView {
        version: ViewVersion(version.into()),
        routing: Arc::new(Routing { chains, ..Routing::default() }),
        ..ClusterView::default()
    }
}

/// Always has the same view.
struct ToyAgent(ClusterView);

protocol! { ToyAgentApi as ToyAgentMsg, ToyAgentReply = 0x0600 {
    1 v 2 GetView -> Option<ClusterView>, Control, 5_000 ms;
} }

impl Actor for ToyAgent {
    type Protocol = ToyAgentApi;
}

impl Handle<GetView> for ToyAgent {
    async fn handle(me: &Me<Self>, _: GetView, _: &Cx) -> Option<ClusterView> {
        Some(me.with(|s| s.0.clone()))
    }
}

async fn start_target(cx: Cx) -> Engine {
    let (disk, target) = (DiskId(0), TargetId(1));
    let identity = TargetIdentity { cluster: "sim".into(), target, chain: CHAIN };
    let config = EngineConfig { reserve_bytes: 0, ..EngineConfig::default() };
    let engine = Engine::create(&cx, disk, "target", &identity, config).await.unwrap();
    let config = StorageConfig {
        engine: engine.clone(),
        target,
        chain: CHAIN,
        agent: Addr::<Agent>::from_raw(addr(TOYS, 0)),
        disk,
        resync_page: RESYNC_PAGE,
        watch: None,
    };
    Target::start(&cx, config);
    engine
}
