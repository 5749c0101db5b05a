//! What must hold once everything has healed: the judge has no complaint about what is there, the
//! names are whole, nothing is left of what is gone, replicas are the same.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use t3fs_actors::proto::storage::Storage;

use t3fs_actors::client::{ClusterSession, FsError};
use t3fs_actors::meta::fsck::fsck;
use t3fs_actors::proto::ids::{ChunkId, InodeId};
use t3fs_actors::proto::meta::{Attr, GetAttr};
use t3fs_actors::proto::mgmtd::TargetState;
use t3fs_actors::proto::storage::{ChunkSummary, GetSpace, ListChunks};
use t3fs_runtime::{Addr, Cx, NodeId};

use super::cluster::Plan;
use super::door::first_actor;
use super::user::{Stage, User};
use crate::oracles::files::Entry;
use crate::world::Sim;

/// How long the cluster may take until it is at rest: sessions of crashed clients end, garbage is
/// found by whoever did not hear of it.
const REST: Duration = Duration::from_secs(150);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks at all names and files; the judge hears of it.
pub(super) async fn look_at_all(user: &mut User, sound: bool) -> Result<Vec<Entry>, String> {
    let found = list_all(user).await?;
    for entry in &found {
        let read = user.read_all(entry.name).await;
        if let Err(e) = read
            && sound
        {
            return Err(format!("after heal, {:?} cannot be read: {e}", entry.name));
        }
    }
    Ok(found)
}

async fn list_all(user: &mut User) -> Result<Vec<Entry>, String> {
    let mut found = Vec::new();
    for dir in 0..2 {
        let listed = user.list(dir).await;
        found.extend(listed.map_err(|e| format!("after heal, directory {dir}: {e}"))?);
    }
    Ok(found)
}

/// What must be so in the end.
struct Rest {
    /// Nothing else has content.
    files: BTreeSet<InodeId>,
    /// Bytes may lie behind the end of files.
    loose: bool,
}

/// What one look at the cluster found not to be at rest.
async fn unrest(
    cx: &Cx,
    kv: NodeId,
    cluster: &ClusterSession,
    plan: &Plan,
    wanted: &Rest,
) -> Result<(), String> {
    let report = fsck(cx, first_actor(kv)).await.map_err(|e| format!("fsck: {e:?}"))?;
    if !report.problems.is_empty() {
        return Err(format!("names: {:?}", report.problems));
    }
    if report.garbage > 0 {
        let (holds, sharing) = (report.holds, report.sharing);
        let living = &cluster.sessions().alive;
        return Err(format!(
            "{} files are garbage; sessions {living:?} live, {sharing:?} share, {holds:?}",
            report.garbage
        ));
    }
    let mut ends = BTreeMap::new();
    for inode in &wanted.files {
        let attr: Attr = match cluster.meta(cx, GetAttr { inode: *inode }).await {
            // A removal of unknown outcome took its name after it was seen.
            Err(FsError::Stale) => continue,
            attr => attr.map_err(|e| e.to_string())?,
        };
        ends.insert(*inode, if wanted.loose { u64::MAX } else { attr.length });
    }
    let routing = cluster.routing();
    for (id, members) in plan.chains() {
        let chain = routing.chain(id).ok_or("a chain is gone")?;
        let mut lists: Vec<Vec<ChunkSummary>> = Vec::new();
        for t in chain.targets.iter().filter(|t| t.state == TargetState::Serving) {
            let Some(addr) = t.addr else { continue };
            let m = ListChunks { from: ChunkId::default(), limit: 4096 };
            if let Ok(Ok(l)) = cx.ask(Addr::<Storage>::from_raw(addr), m).await {
                lists.push(l);
            }
        }
        if lists.len() != members.len() {
            return Err(format!("chain {id} does not serve: {:?}", chain.targets));
        }
        let all = || lists.iter().flatten();
        if let Some(c) = all().find(|c| c.pending) {
            return Err(format!("chain {id}: {} stays pending", c.chunk));
        }
        if !lists.windows(2).all(|w| w[0] == w[1]) {
            return Err(format!("chain {id}: the replicas differ: {lists:?}"));
        }
        // A removed chunk keeps an empty row for a while.
        let stored = || all().filter(|c| c.len > 0);
        if let Some(c) = stored().find(|c| !ends.contains_key(&c.chunk.inode)) {
            return Err(format!("chain {id}: {} belongs to no file", c.chunk));
        }
        let end = |c: &ChunkSummary| {
            u64::from(c.chunk.index) * u64::from(plan.sizes.chunk_size) + u64::from(c.len)
        };
        if let Some(c) = stored().find(|c| end(c) > ends[&c.chunk.inode]) {
            return Err(format!("chain {id}: {} has bytes behind the end of its file", c.chunk));
        }
    }
    Ok(())
}

/// Waits until nothing is left over.
async fn rest(
    cx: &Cx,
    kv: NodeId,
    cluster: &ClusterSession,
    plan: &Plan,
    wanted: &Rest,
) -> Result<(), String> {
    let until = cx.now() + REST;
    let mut pause = LOOK_EVERY;
    loop {
        let Err(why) = unrest(cx, kv, cluster, plan, wanted).await else { return Ok(()) };
        if cx.now() >= until {
            return Err(format!("the cluster does not come to rest: {why}"));
        }
        cx.sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
        cluster.refresh(cx).await;
    }
}

/// Space that chunks hold, over all targets.
async fn space_used(cx: &Cx, cluster: &ClusterSession) -> Result<u64, String> {
    let mut used = 0;
    for t in cluster.routing().chains.iter().flat_map(|c| &c.targets) {
        let addr = t.addr.ok_or("a target has no address")?;
        let space = cx.ask(Addr::<Storage>::from_raw(addr), GetSpace).await;
        let space = space.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        used += space.used;
    }
    Ok(used)
}

/// Everything that must hold in the end. `sound`: disks were never bad, so nobody has an excuse.
pub(super) async fn settle(
    stage: Rc<Stage>,
    cx: Cx,
    sim: Sim,
    plan: Plan,
    kv: NodeId,
    sound: bool,
) -> Result<(), String> {
    let mut user = User::outside(Rc::clone(&stage), cx.clone(), sim).await;
    let found = look_at_all(&mut user, sound).await?;
    stage.files.borrow().judge()?;
    if !sound {
        return Ok(());
    }
    let cluster = user.door().cluster().clone();
    let files = found.iter().map(|e| InodeId(e.file)).collect();
    let wanted = Rest { files, loose: stage.options.leaves_bytes_behind() };
    rest(&cx, kv, &cluster, &plan, &wanted).await?;
    // Listed anew: a rename whose outcome nobody knows may have come true while the cluster rested.
    for entry in list_all(&mut user).await? {
        user.unlink(entry.name).await;
    }
    rest(&cx, kv, &cluster, &plan, &Rest { files: BTreeSet::new(), loose: false }).await?;
    // What somebody reads, and answers late, is freed after that.
    let until = cx.now() + REST;
    loop {
        match space_used(&cx, &cluster).await? {
            0 => return Ok(()),
            used if cx.now() >= until => {
                return Err(format!("all files are removed, and chunks hold {used} bytes"));
            }
            _ => cx.sleep(LOOK_EVERY).await,
        }
    }
}
