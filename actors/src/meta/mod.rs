//! Metadata: inodes and directory entries as transactions on an ordered key-value store.
//!
//! A meta server keeps nothing but caches and inode numbers in hand, so any number of them may
//! serve one store. `schema` draws what is stored, `ops` holds the operations, `garbage` removes
//! what has no name any more, `holds` says who has a file open, `ended` clears what dead sessions
//! leave, `orphans` finds content without an inode, `fsck` checks it all. This file is the actor:
//! it decides what an operation needs from outside (a number, a layout, the time) and runs it as a
//! transaction; `handlers` says which operation answers which message.

use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;

use t3fs_runtime::{Actor, Addr, Bell, Cx, Me, Slot};

use crate::features::{self, FeaturesV1};
use crate::proto::agent::Agent;
use crate::proto::ids::{InodeId, RequestId};
use crate::proto::kv::Durability;
use crate::proto::kv::Kv;
use crate::proto::meta::Meta;
use crate::proto::meta::*;
use crate::proto::mgmtd::{ClusterView, Sessions};
use crate::timing::{KEEP_ANSWERS, Timing, is_longer};

mod chains;
mod ended;
pub mod fsck;
mod garbage;
mod handlers;
mod holds;
mod ids;
pub mod kv;
mod ops;
mod orphans;
mod over;
mod place;
mod schema;
#[cfg(test)]
mod tests;

use garbage::Collector;
use ids::InodeIds;
use kv::KvError;
use kv::client::{Stop, Txn, transact, transact_at};
use kv::known::KnownStore;
use ops::{Done, keep_refusal};
pub use orphans::OrphanTimes;
use orphans::Orphans;
use over::EndedSessions;
use place::{Cluster, Outside, Placement};
use schema::*;

/// What a meta server is started with.
#[derive(Clone, Debug)]
pub struct MetaConfig {
    pub store: KnownStore,
    pub agent: Addr<Agent>,
    /// Bytes; of new files.
    pub chunk_size: u32,
    /// Chains per new file, at most.
    pub stripe: u32,
    /// The chain table for new files.
    pub table: u32,
    /// Owner and group of the root directory when it is made.
    pub root_owner: (u32, u32),
    /// How long the answers to a session's requests are kept after its end: longer than a client
    /// repeats them without asking whether the session lives.
    pub keep_answers: Duration,
    /// How long nothing is removed after a restart of the store. After a loss of power it may lack
    /// holds of the last moments before. Their owners hear of that when they next ask anything,
    /// which is within a second while they do not know their holds on stable storage, and hold
    /// what they have open again.
    pub hold_again: Duration,
    /// What is known at the start; asked for when it is not enough.
    pub view: ClusterView,
    /// When content without an inode is looked for.
    pub orphans: OrphanTimes,
    /// How long targets of other processes serve without word from mgmtd, at most.
    pub node_lease: Duration,
}

/// See [`MetaConfig::hold_again`].
const HOLD_AGAIN: Duration = Duration::from_secs(10);
// Those whose holds are not known to be on stable storage ask at least every second.
const _: () = assert!(is_longer(HOLD_AGAIN, 2, Duration::from_secs(1)));

impl MetaConfig {
    /// With 1 MiB chunks on one chain of table 1, a root of uid 0, and routing to be asked for.
    pub fn new(kv: Addr<Kv>, agent: Addr<Agent>) -> MetaConfig {
        MetaConfig {
            store: KnownStore::new(kv),
            agent,
            chunk_size: 1 << 20,
            stripe: 1,
            table: 1,
            root_owner: (0, 0),
            keep_answers: KEEP_ANSWERS,
            hold_again: HOLD_AGAIN,
            view: ClusterView::default(),
            orphans: OrphanTimes::default(),
            node_lease: Timing::default().node_lease,
        }
    }
}

/// A metadata server.
pub struct MetaServer {
    store: KnownStore,
    outside: Rc<dyn Outside>,
    ids: InodeIds,
    place: Placement,
    over: EndedSessions,
    /// Somebody waits for a hold of an ended session.
    holds_left: bool,
    /// Filled to have ended sessions looked for now.
    look: Slot<()>,
    /// By which all that had ended was cleared.
    cleared: Option<Arc<Sessions>>,
    /// For the tasks that wait for the routing that has been asked for.
    refreshing: Option<Bell>,
    collector: Collector,
    orphans: Orphans,
}

impl Actor for MetaServer {
    type Protocol = Meta;
}

impl MetaServer {
    /// Makes the root directory if there is none, and serves. Waits for the store until `cx`'s
    /// deadline, and gives up sooner when the store does not answer at all: the caller tries again,
    /// unless it is refused, by a sentence.
    pub async fn start(cx: &Cx, config: MetaConfig) -> Result<Addr<Meta>, Stop<String>> {
        let outside = Rc::new(Cluster { agent: config.agent });
        MetaServer::start_beside(cx, config, outside).await
    }

    fn new(config: MetaConfig, outside: Rc<dyn Outside>) -> MetaServer {
        let MetaConfig { chunk_size, stripe, table, view, keep_answers, hold_again, .. } = config;
        let MetaConfig { orphans, node_lease, .. } = config;
        MetaServer {
            store: config.store,
            outside,
            ids: InodeIds::default(),
            place: Placement::new(view, chunk_size, stripe, table),
            over: EndedSessions::new(node_lease),
            holds_left: false,
            look: Slot::new(),
            cleared: None,
            refreshing: None,
            collector: Collector::new(keep_answers, hold_again),
            orphans: Orphans::new(orphans),
        }
    }

    /// The same with another outside world.
    async fn start_beside(
        cx: &Cx,
        config: MetaConfig,
        outside: Rc<dyn Outside>,
    ) -> Result<Addr<Meta>, Stop<String>> {
        let now_ns = now_ns(cx);
        transact(cx, &config.store, Durability::Now, async |txn| {
            make_root(txn, config.root_owner, now_ns).await
        })
        .await
        .map_err(|stop| match stop {
            Stop::Refused(e) => Stop::Refused(format!("metadata cannot be served: {e}")),
            Stop::Kv(e) => Stop::Kv(e),
        })?;
        let (meta, me) = cx.start_with(MetaServer::new(config, outside));
        cx.spawn(garbage::watch(me.clone(), cx.outlive()));
        cx.spawn(ended::watch(me.clone(), cx.outlive()));
        cx.spawn(orphans::watch(me, cx.outlive()));
        Ok(meta)
    }
}

async fn make_root(txn: &mut Txn<'_>, (uid, gid): (u32, u32), now_ns: i64) -> Done<()> {
    // Also where nothing is written: who may not write does not serve.
    features::STORE.check(&txn.features().await?).map_err(MetaError::Unavailable)?;
    let key = inode_key(ROOT);
    let [root] = txn.read([&key]).await?;
    if let Some(root) = root {
        return match Inode::open(ROOT, &root)?.is_directory() {
            true => Ok(()),
            false => Err(MetaError::Damaged("the root is not a directory".into()).into()),
        };
    }
    let attr = Attr {
        inode: ROOT,
        kind: FileType::Directory,
        mode: 0o755,
        uid,
        gid,
        nlink: 2,
        atime_ns: now_ns,
        mtime_ns: now_ns,
        ctime_ns: now_ns,
        length: 0,
        truncations: 0,
        times_set: 0,
        changes: 0,
        sparse: false,
        birth_ns: now_ns,
        layout: None,
        as_of: Stamp::default(),
    };
    txn.set(key, Inode::new(attr, ROOT, Vec::new()).seal());
    txn.set(features::key(), FeaturesV1::default().seal());
    txn.add(count_key(), 1);
    Ok(())
}

fn now_ns(cx: &Cx) -> i64 {
    i64::try_from(cx.wall_us() * 1000).unwrap_or(i64::MAX)
}

impl From<Stop<MetaError>> for MetaError {
    fn from(stop: Stop<MetaError>) -> MetaError {
        match stop {
            Stop::Refused(e) => e,
            Stop::Kv(KvError::Lost) => MetaError::Lost,
            Stop::Kv(e) => MetaError::Unavailable(format!("the metadata store: {e}")),
        }
    }
}

/// Runs an operation as a transaction; with its place in the order of commits.
async fn run<T>(
    me: &Me<MetaServer>,
    cx: &Cx,
    durability: Durability,
    body: impl AsyncFnMut(&mut Txn<'_>) -> Done<T>,
) -> Result<(T, Stamp), MetaError> {
    let store = me.with(|m| m.store.clone());
    let (done, version) = transact_at(cx, &store, durability, body).await?;
    Ok((done, version.into()))
}

/// What an operation that acts once has done.
struct Once<T> {
    done: T,
    /// Its place in the order of commits, or a later one: of what the answer was read from.
    stamp: Stamp,
    /// An earlier attempt has done it, and this is the answer that was kept.
    kept: bool,
}

impl<T> Once<T> {
    /// When the store had what the answer tells.
    fn as_of(&self) -> Stamp {
        if self.kept { Stamp::default() } else { self.stamp }
    }
}

/// Runs an operation that a request id names: whatever comes under that id again, to whichever
/// server, gets the same answer.
async fn once<T>(
    me: &Me<MetaServer>,
    cx: &Cx,
    op: RequestId,
    mut body: impl AsyncFnMut(&mut Txn<'_>) -> Done<T>,
) -> Result<Once<T>, MetaError> {
    let store = me.with(|m| m.store.clone());
    let mut kept = false;
    let mut body = async |txn: &mut Txn<'_>| {
        let done = body(txn).await;
        kept = txn.buffer().is_read_only();
        done
    };
    let (done, version) = match transact_at(cx, &store, Durability::Soon, &mut body).await {
        Err(Stop::Refused(why)) if op != RequestId::default() => {
            let refused = async |txn: &mut Txn<'_>| keep_refusal(txn, op, &why).await;
            if transact(cx, &store, Durability::Soon, refused).await? {
                return Err(why);
            }
            transact_at(cx, &store, Durability::Soon, &mut body).await?
        }
        other => other?,
    };
    Ok(Once { done, stamp: version.into(), kept })
}

/// Runs an operation that writes nothing; with its place in the order of commits.
async fn look<T>(
    me: &Me<MetaServer>,
    cx: &Cx,
    body: impl AsyncFnMut(&mut Txn<'_>) -> Done<T>,
) -> Result<(T, Stamp), MetaError> {
    run(me, cx, Durability::Soon, body).await
}

/// A number that no inode ever had.
async fn inode_id(me: &Me<MetaServer>, cx: &Cx) -> Result<InodeId, MetaError> {
    loop {
        let take = me.with(|m| m.ids.take());
        if take.reserve {
            let (me, cx) =
                (me.clone(), cx.outlive().within(<CreateFile as t3fs_runtime::Ask<Meta>>::TIMEOUT));
            let store = me.with(|m| m.store.clone());
            cx.clone().spawn(async move {
                let batch = ids::reserve(&cx, &store).await;
                me.with(|m| m.ids.reserved(batch.map_err(MetaError::from)));
            });
        }
        match take.given {
            Ok(inode) => return Ok(inode),
            Err(place) => place.await?,
        }
    }
}

/// Asks the agent for a newer view; those who ask meanwhile wait for the same answer.
async fn refresh_view(me: &Me<MetaServer>, cx: &Cx) {
    let joined = me.with(|m| match &mut m.refreshing {
        Some(bell) => Some(bell.wait()),
        None => {
            m.refreshing = Some(Bell::default());
            None
        }
    });
    if let Some(refreshed) = joined {
        return refreshed.await;
    }
    let _refreshing = Refreshing(me);
    let (outside, have) = me.with(|m| (Rc::clone(&m.outside), m.place.view.version));
    if let Some(view) = outside.view(cx, have).await {
        me.with(|m| m.place.learn(view));
    }
}

/// Who asks the agent, for others too: they go on when it is dropped, with or without an answer.
struct Refreshing<'a>(&'a Me<MetaServer>);

impl Drop for Refreshing<'_> {
    fn drop(&mut self) {
        self.0.with(|m| m.refreshing.take()).unwrap_or_default().ring(());
    }
}

/// Asks whoever leads the cluster for a newer view: afterwards it is no older than this call.
async fn fresh_view(me: &Me<MetaServer>, cx: &Cx) -> Result<(), MetaError> {
    let (outside, have) = me.with(|m| (Rc::clone(&m.outside), m.place.view.version));
    let newer = outside.fresh_view(cx, have).await.map_err(MetaError::Unavailable)?;
    if let Some(view) = newer {
        me.with(|m| m.place.learn(view));
    }
    Ok(())
}

/// A new file's layout.
async fn layout(me: &Me<MetaServer>, cx: &Cx) -> Result<Layout, MetaError> {
    if let Some(layout) = me.with(|m| m.place.layout()) {
        return Ok(layout);
    }
    refresh_view(me, cx).await;
    me.with(|m| m.place.layout().ok_or_else(|| m.place.no_table()))
}
