//! Content without an inode: found by asking storage which files it has, and removed.
//!
//! Nothing points to such chunks, so only a look at all of them finds them. They are made by late
//! writes of a client that has died, after the content of its file was removed, and by a crash of
//! the store that took the create of a file with content.
//!
//! *Why a file that is being made is never taken for an orphan.* 1. Its number comes out of a batch
//! that was reserved on stable storage. 2. The transaction that makes its inode commits. 3. Only
//! then does its client learn the number and write chunks. A look lists chunks first and reads the
//! store afterwards: where a chunk is listed, the create had committed before the read, and the
//! inode is seen unless it was removed since, or lost. Numbers that were never reserved belong to
//! somebody else, who uses storage without this store; they are left alone.
//!
//! *Two looks.* A file whose removal is under way may have been listed before its chunks went and
//! be looked up after its inode went. So a suspect is removed only if a second look, some time
//! later, lists it again and does not find it again. Every removal is logged: it means that
//! something was lost before, or that a client died.
//!
//! Several servers may do all this at once; the start and the pauses are random, so that they
//! hardly do.

use core::time::Duration;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use t3fs_runtime::slot::before;
use t3fs_runtime::{Cx, Me, Slot, Time};

use super::chains::{inodes_on, remove_from};
use super::kv::client::{Stop, Txn};
use super::kv::known::KnownStore;
use super::schema::*;
use super::{MetaServer, refresh_view};
use crate::proto::ids::{ChainId, InodeId};
use crate::proto::meta::MetaError;

/// Files in one listing.
const PAGE: u32 = 1024;
/// Pause between two listings.
const PAGE_PAUSE: Duration = Duration::from_millis(20);
/// Suspects of one scan; the rest is for the next.
const SUSPECTS_MAX: usize = 4096;
/// Numbers that one line of the log names.
const NAMED_MAX: usize = 16;
/// Longest wait for a page.
const PAGE_LIMIT: Duration = Duration::from_secs(10);

/// When orphans are looked for.
#[derive(Clone, Copy, Debug)]
pub struct OrphanTimes {
    /// From the start of a server to its first scan; up to twice that.
    pub first: Duration,
    /// Between two scans; up to a half more.
    pub every: Duration,
    /// From the first look at a suspect to the second.
    pub again: Duration,
}

impl Default for OrphanTimes {
    fn default() -> OrphanTimes {
        let seconds = Duration::from_secs;
        OrphanTimes { first: seconds(180), every: seconds(600), again: seconds(60) }
    }
}

/// The state of the task that looks.
pub(super) struct Orphans {
    times: OrphanTimes,
    asleep: Option<Slot<()>>,
    /// Somebody wants a scan that begins after now.
    wanted: bool,
    /// When the last scan began.
    last: Option<Time>,
}

impl Orphans {
    pub fn new(times: OrphanTimes) -> Orphans {
        Orphans { times, asleep: None, wanted: false, last: None }
    }

    /// Has orphans looked for now, unless that was done lately: a full cluster asks all the time.
    pub fn hurry(&mut self, now: Time) {
        if self.last.is_some_and(|last| now.since(last) < self.times.every) {
            return;
        }
        self.wanted = true;
        if let Some(asleep) = self.asleep.take() {
            asleep.fill(());
        }
    }
}

/// For ever: looks now and then, and when told.
pub(super) async fn watch(me: Me<MetaServer>, cx: Cx) {
    let times = me.with(|m| m.orphans.times);
    let jitter = |of: Duration| Duration::from_micros(cx.rand() % of.as_micros().max(1) as u64);
    let mut pause = times.first + jitter(times.first);
    loop {
        let woken = Slot::new();
        let wanted = me.with(|m| {
            m.orphans.asleep = Some(woken.clone());
            m.orphans.wanted
        });
        if !wanted {
            let _ = before(cx.sleep(pause), woken).await;
        }
        let now = cx.now();
        me.with(|m| (m.orphans.wanted, m.orphans.last) = (false, Some(now)));
        if let Err(why) = scan(&me, &cx, times.again).await {
            tracing::debug!("orphans are looked for again later: {why}");
        }
        pause = times.every + jitter(times.every / 2);
    }
}

/// Of these files, in any order, those that have no inode though their numbers were given to files.
/// What holds content and is not in the answer belongs to a file.
pub async fn without_inode(
    cx: &Cx,
    store: &KnownStore,
    inodes: &[InodeId],
) -> Result<Vec<InodeId>, Stop<MetaError>> {
    let mut keys = vec![alloc_key()];
    keys.extend(inodes.iter().map(|inode| inode_key(*inode)));
    let mut found = Txn::new(cx, store).fetch_all(keys).await?.into_iter();
    let next = found.next().flatten().map(|bytes| open_alloc(&bytes)).transpose()?;
    let given = INODE_MIN..next.unwrap_or(INODE_MIN);
    let missing = inodes.iter().zip(found).filter(|(_, stored)| stored.is_none());
    Ok(missing.map(|(inode, _)| *inode).filter(|inode| given.contains(&inode.0)).collect())
}

/// Looks at every chain, twice at what it suspects, and removes that.
async fn scan(me: &Me<MetaServer>, cx: &Cx, again: Duration) -> Result<(), String> {
    refresh_view(me, cx).await;
    let routing = me.with(|m| Arc::clone(&m.place.view.routing));
    let mut suspects = BTreeMap::<ChainId, Vec<InodeId>>::new();
    let mut count = 0;
    let mut trouble = Ok(());
    for chain in routing.chains.iter().map(|chain| chain.id) {
        // A chain that does not answer is not a reason to leave the others.
        match look(me, cx, chain, SUSPECTS_MAX - count).await {
            Ok(found) if found.is_empty() => {}
            Ok(found) => {
                count += found.len();
                suspects.insert(chain, found);
            }
            Err(why) => trouble = Err(why),
        }
    }
    if suspects.is_empty() {
        return trouble;
    }
    cx.sleep(again).await;
    for (chain, found) in suspects {
        if let Err(why) = look_again(me, cx, chain, &found).await {
            trouble = Err(why);
        }
    }
    trouble
}

/// The suspects of one chain, at most so many.
async fn look(
    me: &Me<MetaServer>,
    cx: &Cx,
    chain: ChainId,
    most: usize,
) -> Result<Vec<InodeId>, String> {
    let store = me.with(|m| m.store.clone());
    let (mut from, mut suspects) = (InodeId(0), Vec::new());
    while suspects.len() < most {
        let page_cx = cx.within(PAGE_LIMIT);
        let listed = inodes_on(me, &page_cx, chain, from, PAGE).await?;
        let missing = without_inode(&page_cx, &store, &listed).await.map_err(|e| e.to_string())?;
        suspects.extend(missing.into_iter().take(most - suspects.len()));
        let Some(last) = listed.last().filter(|_| listed.len() >= PAGE as usize) else { break };
        from = InodeId(last.0 + 1);
        cx.sleep(PAGE_PAUSE).await;
    }
    Ok(suspects)
}

/// Removes the suspects of a chain that are suspects again.
async fn look_again(
    me: &Me<MetaServer>,
    cx: &Cx,
    chain: ChainId,
    suspects: &[InodeId],
) -> Result<(), String> {
    let store = me.with(|m| m.store.clone());
    let mut listed = Vec::new();
    for inode in suspects {
        let page_cx = cx.within(PAGE_LIMIT);
        listed.extend(
            inodes_on(me, &page_cx, chain, *inode, 1).await?.first().filter(|i| *i == inode),
        );
    }
    let page_cx = cx.within(PAGE_LIMIT);
    let orphans = without_inode(&page_cx, &store, &listed).await.map_err(|e| e.to_string())?;
    if orphans.is_empty() {
        return Ok(());
    }
    let mut named = String::new();
    for inode in orphans.iter().take(NAMED_MAX) {
        let _ = write!(named, " {:#x}", inode.0);
    }
    let more = if orphans.len() > NAMED_MAX { " and more" } else { "" };
    tracing::warn!(
        "chain {chain} has content of {} files that do not exist; it is removed:{named}{more}",
        orphans.len()
    );
    remove_from(me, cx, orphans, chain).await
}
