//! One function per part of the node: what is started on a shard, and how it is closed.

use std::cell::RefCell;

use t3fs_actors::client::{Client, ClientConfig, SetAttrs};
use t3fs_actors::meta::Meta;
use t3fs_actors::mgmtd::Mgmtd;
use t3fs_actors::proto::ids::RoutingVersion;
use t3fs_actors::proto::meta::ROOT;
use t3fs_actors::proto::mgmtd::{CreateChains, GetRouting, MgmtdError, Register, TargetReport};
use t3fs_runtime::budget::Budget;
use t3fs_runtime::{Addr, AskError, Cx, NodeId, RawAddr};

use crate::data::Data;
use crate::failure::{Failure, failed};
use crate::fuse::hub;

/// Where the parts that there is one of live.
#[derive(Clone)]
pub struct Core {
    pub mgmtd: Addr<Mgmtd>,
    pub metas: Vec<RawAddr>,
}

thread_local! {
    /// Targets of this shard, to be closed at the end.
    static TARGETS: RefCell<Vec<()>> = const { RefCell::new(Vec::new()) };
}

/// The store, mgmtd and meta, on the first shard.
pub async fn start_core(cx: &Cx, _data: &Data) -> Result<Core, Failure> {
    let mgmtd = cx.start(Mgmtd);
    let meta = cx.start(Meta);
    Ok(Core { mgmtd, metas: vec![meta.raw()] })
}

/// The targets of this shard: target i of a disk on shard i modulo the number of shards.
pub async fn start_targets(
    _cx: &Cx,
    _data: &Data,
    _budget: &Budget,
    _mgmtd: Addr<Mgmtd>,
    _index: usize,
    _shards: usize,
) -> Result<Vec<TargetReport>, Failure> {
    Ok(Vec::new())
}

/// Makes the chains that mgmtd does not have yet (first start, added disk), then tells it what runs
/// here.
pub async fn register(
    cx: &Cx,
    data: &Data,
    node: NodeId,
    mgmtd: Addr<Mgmtd>,
    metas: Vec<RawAddr>,
    targets: Vec<TargetReport>,
) -> Result<(), Failure> {
    let routing = cx
        .ask(mgmtd, GetRouting { have: RoutingVersion(0) })
        .await
        .map_err(|e| failed(format!("mgmtd did not answer: {e}")))?
        .unwrap_or_default();
    let new = data.cluster.chains.iter().filter(|c| routing.chain(c.id).is_none());
    let chains: Vec<_> =
        new.map(|c| (c.id, c.targets.iter().map(|t| (*t, node)).collect())).collect();
    if !chains.is_empty() {
        accepted(cx.ask(mgmtd, CreateChains { chains }).await)?;
    }
    accepted(cx.ask(mgmtd, Register { node, metas, targets }).await)
}

fn accepted(r: Result<Result<RoutingVersion, MgmtdError>, AskError>) -> Result<(), Failure> {
    match r {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(failed(e.to_string())),
        Err(e) => Err(failed(format!("mgmtd did not answer: {e}"))),
    }
}

/// This shard's client, for the FUSE threads.
pub async fn start_client(
    cx: &Cx,
    mgmtd: Addr<Mgmtd>,
    label: String,
    budget: &Budget,
) -> Result<(), Failure> {
    let config = ClientConfig { mgmtd, label, write_buffer_bytes: budget.write_buffer_bytes };
    let client = Client::start(cx, config)
        .await
        .map_err(|e| failed(format!("the cluster cannot be used: {e:?}")))?;
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
    let cannot = |e| failed(format!("the root directory cannot be used: {e:?}"));
    let root = client.getattr(&cx, ROOT).await.map_err(cannot)?;
    if root.uid == 0 {
        let set =
            SetAttrs { uid: Some(uid.as_raw()), gid: Some(gid.as_raw()), ..SetAttrs::default() };
        client.setattr(&cx, ROOT, set).await.map_err(cannot)?;
    }
    Ok(())
}

/// Engines write down where they are, so that the next start has little to recover.
pub async fn close_targets(_: Cx) -> Result<(), Failure> {
    TARGETS.with(|t| t.borrow_mut().clear());
    Ok(())
}

/// After everyone who could still ask it.
pub async fn close_core(_: Cx) {}
