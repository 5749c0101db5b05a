//! Removing what has no name any more: a file's chunks on every chain of its layout, then its
//! inode.
//!
//! One task, the collector, starts when something loses its last name (and at the start of the
//! server and now and then, for what another server left that has died), works through the garbage entries and ends. It stays only while files without a name
//! are held open by a session, whose end mgmtd's routing tells, or while a chain cannot be reached.
//! Everything here may run twice, or on several servers at once.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures::StreamExt;
use t3fs_runtime::slot::before;
use t3fs_runtime::{Addr, Cx, Me, Slot, Time};

use super::kv::client::{Txn, transact};
use super::kv::{KeyRange, KvError, key_after};
use super::ops::Done;
use super::place::chains_of;
use super::schema::*;
use super::{Meta, refresh_routing};
use crate::proto::ids::{ChainId, InodeId, RequestId, RoutingVersion, SessionId};
use crate::proto::kv::Durability;
use crate::proto::mgmtd::Routing;
use crate::proto::storage::RemoveChunks;

/// Files whose content is removed at the same time.
const PARALLEL: usize = 16;
/// Garbage entries read at a time.
const PAGE: usize = 256;
/// Inodes whose records are cleared in one transaction.
const FORGET: usize = 64;
/// Chunks that one message removes at most.
const CHUNKS: u32 = 1024;
/// Times that a chain is asked before its file is left for the next pass.
const ATTEMPTS: u32 = 5;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);
/// Pause before what is held by a session is looked at again.
const HELD_PAUSE: Duration = Duration::from_secs(5);
/// Shortest and longest pause after a pass that left something undone.
const FAILED_PAUSE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];
/// Shortest pause between two looks for what other servers left.
const LOOK_PAUSE: Duration = Duration::from_secs(30);
/// Longest wait for one transaction.
const TXN_LIMIT: Duration = Duration::from_secs(10);

/// The collector's state: whether its task lives, and whether there is news for it.
pub struct Collector {
    running: bool,
    news: bool,
    asleep: Option<Slot<()>>,
    /// Number of the last request to storage.
    seq: u64,
    /// Routing by which answers kept for dead sessions were last removed.
    swept: RoutingVersion,
    /// Dead sessions whose answers are still kept, and since when this server knows.
    dead: BTreeMap<SessionId, Time>,
    keep_answers: Duration,
}

impl Collector {
    pub fn new(keep_answers: Duration) -> Collector {
        Collector {
            running: false,
            news: false,
            asleep: None,
            seq: 0,
            swept: RoutingVersion(0),
            dead: BTreeMap::new(),
            keep_answers,
        }
    }

    /// Whether the answers kept for a dead session may go.
    fn forgettable(&mut self, session: SessionId, now: Time) -> bool {
        let since = *self.dead.entry(session).or_insert(now);
        let may = now.since(since) >= self.keep_answers;
        if may {
            self.dead.remove(&session);
        }
        may
    }

    /// Says that there is garbage; whether the task must be started.
    fn kick(&mut self) -> bool {
        self.news = true;
        if let Some(asleep) = self.asleep.take() {
            asleep.fill(());
        }
        !core::mem::replace(&mut self.running, true)
    }

    /// A request number larger than any before, here and in earlier runs.
    fn request(&mut self, wall_us: u64) -> RequestId {
        self.seq = wall_us.max(self.seq + 1);
        RequestId { session: SessionId(0), seq: self.seq }
    }

    /// Whether to go on at once. If not, and nothing is left, the task ends.
    fn next(&mut self, rest: Rest) -> Next {
        match rest {
            Rest::Failed => Next::Sleep,
            Rest::None | Rest::Held if self.news => Next::Pass,
            Rest::Held => {
                let asleep = Slot::new();
                self.asleep = Some(asleep.clone());
                Next::Doze(asleep)
            }
            Rest::None => {
                self.running = false;
                Next::End
            }
        }
    }
}

/// What a pass left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Rest {
    None,
    Held,
    Failed,
}

enum Next {
    Pass,
    Sleep,
    Doze(Slot<()>),
    End,
}

/// For ever: looks now and then for what another server left.
pub(super) async fn watch(me: Me<Meta>, cx: Cx) {
    loop {
        kick(&me, &cx);
        // Servers that started together do not look together.
        let jitter = Duration::from_micros(cx.rand() % LOOK_PAUSE.as_micros() as u64);
        cx.sleep(LOOK_PAUSE + jitter).await;
    }
}

/// Has garbage collected, soon.
pub(super) fn kick(me: &Me<Meta>, cx: &Cx) {
    if me.with(|m| m.collector.kick()) {
        cx.spawn(collector(me.clone(), cx.outlive()));
    }
}

async fn collector(me: Me<Meta>, cx: Cx) {
    let [shortest, longest] = FAILED_PAUSE;
    let mut pause = shortest;
    loop {
        me.with(|m| m.collector.news = false);
        let rest = match pass(&me, &cx).await {
            Ok(rest) => rest,
            Err(e) => {
                tracing::warn!("garbage collection goes on later: {e}");
                Rest::Failed
            }
        };
        match me.with(|m| m.collector.next(rest)) {
            Next::Pass => pause = shortest,
            Next::Sleep => {
                cx.sleep(pause).await;
                pause = longest.min(pause * 2);
            }
            Next::Doze(woken) => {
                pause = shortest;
                // Woken or not: another pass.
                let _ = before(cx.sleep(HELD_PAUSE), woken).await;
            }
            Next::End => return,
        }
    }
}

/// Goes through all garbage entries once.
async fn pass(me: &Me<Meta>, cx: &Cx) -> Done<Rest> {
    let kv = me.with(|m| m.kv);
    let KeyRange { mut begin, end } = all(b'G');
    let mut rest = Rest::None;
    sweep_sessions(me, cx).await?;
    loop {
        let page_cx = cx.within(TXN_LIMIT);
        let mut txn = Txn::new(&page_cx, kv);
        let page = txn.fetch_range(&KeyRange::new(begin, end.clone()), PAGE, false).await?;
        let Some((last, _)) = page.rows.last() else { return Ok(rest) };
        begin = key_after(last);
        let inodes = page.rows.iter().filter_map(|(key, _)| split_key(key));
        let inodes: Vec<_> = inodes.map(|(inode, _)| InodeId(inode)).collect();
        let holds = read_holds(&mut txn, &inodes).await?;
        if !holds.is_empty() {
            refresh_routing(me, cx).await;
        }
        let routing = me.with(|m| Rc::clone(&m.place.routing));
        let found = txn.fetch_all(inodes.iter().map(|i| inode_key(*i)).collect()).await?;
        drop(txn);

        let mut work = Vec::new();
        for (inode, stored) in inodes.into_iter().zip(found) {
            let sessions = holds.get(&inode).map_or(&[][..], Vec::as_slice);
            if sessions.iter().any(|s| routing.session_alive(*s)) {
                rest = rest.max(Rest::Held);
                continue;
            }
            let found = stored.as_deref().map(|bytes| Inode::open(inode, bytes)).transpose()?;
            work.push(remove_content(me, cx, inode, found));
        }
        let mut empty = Vec::new();
        let mut results = futures::stream::iter(work).buffer_unordered(PARALLEL);
        while let Some(result) = results.next().await {
            match result {
                Ok(inode) => empty.push(inode),
                Err(why) => {
                    tracing::debug!("left for the next pass: {why}");
                    rest = Rest::Failed;
                }
            }
        }
        empty.sort_unstable();
        for inodes in empty.chunks(FORGET) {
            let cx = cx.within(TXN_LIMIT);
            let forget = async |txn: &mut Txn<'_>| forget(txn, inodes, &routing).await;
            transact(&cx, kv, Durability::Soon, forget).await?;
        }
        if !page.more {
            return Ok(rest);
        }
    }
}

/// Who holds these inodes, which are in order.
async fn read_holds(
    txn: &mut Txn<'_>,
    inodes: &[InodeId],
) -> Result<BTreeMap<InodeId, Vec<SessionId>>, KvError> {
    let mut holds = BTreeMap::<_, Vec<_>>::new();
    let (Some(first), Some(last)) = (inodes.first(), inodes.last()) else { return Ok(holds) };
    let mut range = KeyRange::new(hold_range(*first).begin, hold_range(*last).end);
    loop {
        let page = txn.fetch_range(&range, 0, false).await?;
        for (key, _) in page.rows {
            let Some((inode, session)) = split_key(&key) else { continue };
            let session = session.try_into().map_or(0, u64::from_be_bytes);
            holds.entry(InodeId(inode)).or_default().push(SessionId(session));
        }
        if !page.more {
            return Ok(holds);
        }
        range.begin = page.covered.end;
    }
}

/// Removes a file's chunks from every chain of its layout.
async fn remove_content(
    me: &Me<Meta>,
    cx: &Cx,
    inode: InodeId,
    found: Option<Inode>,
) -> Result<InodeId, String> {
    if let Some(layout) = found.as_ref().and_then(|f| f.attr.layout.as_ref()) {
        let chains = |routing: &Routing| chains_of(routing, layout);
        let mut known = me.with(|m| chains(&m.place.routing));
        if known.is_none() {
            refresh_routing(me, cx).await;
            known = me.with(|m| chains(&m.place.routing));
        }
        let mut known = known.ok_or("the routing has no such chain table")?;
        known.sort_unstable();
        known.dedup();
        for chain in known {
            remove_from(me, cx, inode, chain).await?;
        }
    }
    Ok(inode)
}

/// Clears the records of inodes without content, unless a living session holds them after all.
///
/// The commit depends on the garbage entries alone: another collector may have been here. A hold is
/// only made with the garbage entry, so none can come later.
async fn forget(txn: &mut Txn<'_>, inodes: &[InodeId], routing: &Routing) -> Done<()> {
    let mut holds = read_holds(txn, inodes).await?;
    let keys = inodes.iter().flat_map(|i| [inode_key(*i), garbage_key(*i)]).collect();
    let mut stored = txn.fetch_all(keys).await?.into_iter();
    let mut next = || stored.next().expect("one value per key").is_some();
    for inode in inodes {
        let (found, garbage) = (next(), next());
        let sessions = holds.remove(inode).unwrap_or_default();
        if !garbage || sessions.iter().any(|s| routing.session_alive(*s)) {
            continue;
        }
        txn.depend(&garbage_key(*inode));
        txn.clear(garbage_key(*inode));
        txn.clear(inode_key(*inode));
        txn.add(count_key(), -i64::from(found));
        for session in sessions {
            txn.clear(hold_key(*inode, session));
        }
    }
    Ok(())
}

/// Removes a file's chunks from one chain.
async fn remove_from(me: &Me<Meta>, cx: &Cx, inode: InodeId, chain: ChainId) -> Result<(), String> {
    let mut why = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            let jitter = Duration::from_micros(cx.rand() % ATTEMPT_PAUSE.as_micros() as u64);
            cx.sleep(ATTEMPT_PAUSE * (1 << attempt) + jitter).await;
            refresh_routing(me, cx).await;
        }
        let (outside, routing) = me.with(|m| (Rc::clone(&m.outside), Rc::clone(&m.place.routing)));
        let Some(chain) = routing.chain(chain) else {
            why = format!("the routing has no chain {chain}");
            continue;
        };
        let Some(head) = chain.writers().next().and_then(|head| head.addr) else {
            why = format!("chain {} has no head", chain.id);
            continue;
        };
        loop {
            let wall_us = cx.wall_us();
            let request = me.with(|m| m.collector.request(wall_us));
            let chain_version = chain.version;
            let message = RemoveChunks { inode, chain_version, from: 0, limit: CHUNKS, request };
            match outside.remove_chunks(cx, Addr::from_raw(head), message).await {
                Ok(Ok(removed)) if removed.more => {}
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(e)) => {
                    why = format!("chain {}: {e}", chain.id);
                    break;
                }
                Err(e) => {
                    why = format!("chain {}: {e}", chain.id);
                    break;
                }
            }
        }
    }
    Err(why)
}

/// Removes the answers kept for sessions that ended a while ago.
async fn sweep_sessions(me: &Me<Meta>, cx: &Cx) -> Done<()> {
    if me.with(|m| m.place.routing.version) == RoutingVersion::default() {
        refresh_routing(me, cx).await;
    }
    let (kv, routing, swept) = me.with(|m| (m.kv, Rc::clone(&m.place.routing), m.collector.swept));
    if routing.version == swept && me.with(|m| m.collector.dead.is_empty()) {
        return Ok(());
    }
    let mut from = SessionId(0);
    let mut kept = BTreeSet::new();
    loop {
        let cx = cx.within(TXN_LIMIT);
        let page = Txn::new(&cx, kv).fetch_range(&recent_from(from), 1, false).await?;
        let Some((session, _)) = page.rows.first().and_then(|(key, _)| split_key(key)) else {
            break;
        };
        let session = SessionId(session);
        kept.insert(session);
        let now = cx.now();
        if !routing.session_alive(session) && me.with(|m| m.collector.forgettable(session, now)) {
            transact(&cx, kv, Durability::Soon, async |txn| -> Done<()> {
                txn.clear_range(recent_range(session));
                Ok(())
            })
            .await?;
        }
        from = SessionId(session.0 + 1);
    }
    me.with(|m| {
        m.collector.swept = routing.version;
        m.collector.dead.retain(|s, _| kept.contains(s)); // another server may have been here
    });
    Ok(())
}
