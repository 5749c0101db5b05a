//! Bringing a returning target up to date, by difference.
//!
//! The last serving target of a chain does it for its syncing successor. It opens a session, waits
//! until nothing from before is under way on either side, lists both sides page by page, and sends
//! what differs: the whole chunk, under the chunk's lock, so that client writes (which go to the
//! successor the same way meanwhile) and the resync never overtake each other. The successor takes
//! what it is sent whatever it has: it may hold updates that nobody was ever told of, under
//! versions that the chain has used again. When all is sent, `SyncDone`. Whatever happens in
//! between, a change of the chain, a restart, an error: it begins again, and finds less to do.
//!
//! A message that the network delivers late must not bring old content back, so messages of a
//! session are numbered, and each says below which number nothing is under way any more.

use core::time::Duration;
use std::collections::BTreeSet;

use t3fs_runtime::slot::before;
use t3fs_runtime::{Addr, Ask, AskError, Bulk, Cx, Handle, Me, RawAddr, join_all};

use super::core::updated;
use super::engine::{ChunkInfo, EngineError, Recent};
use super::sync_out::SyncOut;
use super::target::{LOCK_MAX, Locked, Target, TargetEvent};
use crate::planted::PlantedBug;
use crate::proto::ids::{ChainVersion, ChunkId, ChunkVersion};
use crate::proto::storage::Storage;
use crate::proto::storage::*;
use crate::timing::is_longer;

/// Chunks and bytes under way to the successor, at most (one chunk may be larger).
const WIDTH: usize = 16;
pub const RESYNC_BYTES_MAX: usize = 32 << 20;
/// Pause after an attempt that failed, and after one that the chain has not taken note of yet.
const PAUSE: Duration = Duration::from_millis(100);
const SETTLE: Duration = Duration::from_secs(5);
/// Attempts at one chunk before the whole starts again.
const ATTEMPTS: u32 = 5;
const ASK_MAX: Duration = Duration::from_secs(5);
const _: () = assert!(!is_longer(ASK_MAX, 1, <SyncStart as Ask<Storage>>::TIMEOUT));
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Why an attempt ended early.
type Early = String;

fn lost(e: AskError) -> Early {
    e.to_string()
}

/// A message of a session that is under way; given up when dropped.
struct Open<'a> {
    me: &'a Me<Target>,
    session: u64,
    number: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.me.with(|s| {
            if let Some(out) = s.sync_out.as_mut().filter(|o| o.session == self.session) {
                out.open.remove(&self.number);
            }
        });
    }
}

impl Target {
    /// For ever: brings the successor up to date whenever there is one to be brought.
    pub(super) async fn resync(me: Me<Self>, cx: Cx) {
        loop {
            let change = me.with(|s| s.core.member.change());
            let Some(peer) = me.with(|s| s.core.member.to_sync()) else {
                change.await;
                continue;
            };
            // Whatever it waits for, a change of the chain ends it: what is under way then may
            // itself wait for a session with the new successor.
            let pause = match before(Self::bring(&me, peer, &cx), change.clone()).await {
                Some(Ok(())) => SETTLE,
                Some(Err(why)) => {
                    tracing::warn!("a resync for {:?} begins again: {why}", peer.0);
                    PAUSE
                }
                None => continue,
            };
            // Ended by the one or the other: it looks again.
            let _ = before(cx.sleep(pause), change).await;
        }
    }

    async fn bring(me: &Me<Self>, peer: (RawAddr, ChainVersion), cx: &Cx) -> Result<(), Early> {
        let (to, chain_version) = peer;
        let session = me.with(|s| {
            s.sync_sessions += 1;
            s.stats.begun += 1;
            // Above those of earlier runs of this process, and above our own.
            u64::from(s.me.epoch) << 32 | s.sync_sessions
        });
        let begin = SyncStart { chain_version, session };
        let started = cx.within(ASK_MAX).ask(Addr::<Storage>::from_raw(to), begin).await;
        started.map_err(lost)?.map_err(|e| e.to_string())?;
        me.with(|s| {
            let open = BTreeSet::new();
            s.sync_out = Some(SyncOut { to, chain_version, session, number: 0, open });
        });
        // What began before the successor came does not show in the list yet.
        Self::quiesce(me, cx).await.map_err(|e| format!("an update does not end: {e}"))?;
        let before = me.with(|s| s.stats);
        let mut told = cx.now();
        let mut from = ChunkId::default();
        loop {
            let (work, next) = Self::compare(me, peer, from, cx).await?;
            for some in batches(work) {
                let sent = some.into_iter().map(|c| Self::bring_one(me, peer, c, cx));
                join_all(sent).await.into_iter().collect::<Result<(), _>>()?;
            }
            let Some(next) = next else { break };
            if PlantedBug::ResyncStopsAfterOnePage.is_in(cx) {
                break;
            }
            from = next;
            if cx.now().since(told) > TELL_EVERY {
                told = cx.now();
                let s = me.with(|s| s.stats);
                let (sent, compared) = (s.sent - before.sent, s.compared - before.compared);
                tracing::info!("resync: at {from}, {sent} of {compared} chunks sent");
            }
        }
        let end = SyncDone { chain_version, session };
        let done = cx.within(ASK_MAX).ask(Addr::<Storage>::from_raw(to), end).await;
        done.map_err(lost)?.map_err(|e| e.to_string())?;
        let s = me.with(|s| {
            s.stats.done += 1;
            s.stats
        });
        tracing::info!(
            "a successor is up to date: {} of {} chunks sent ({} bytes), {} removed",
            s.sent - before.sent,
            s.compared - before.compared,
            s.sent_bytes - before.sent_bytes,
            s.removed - before.removed,
        );
        Ok(())
    }

    /// Waits until every update that is under way now is done. `NotReady`: one takes too long.
    async fn quiesce(me: &Me<Self>, cx: &Cx) -> Result<(), StorageError> {
        for chunk in me.with(|s| s.core.locked()) {
            drop(Locked::take_own(me, chunk, cx).await?);
        }
        Ok(())
    }

    /// What differs from `from` on, with its length, and where the next page begins.
    async fn compare(
        me: &Me<Self>,
        peer: (RawAddr, ChainVersion),
        from: ChunkId,
        cx: &Cx,
    ) -> Result<(Vec<(ChunkId, u32)>, Option<ChunkId>), Early> {
        let to = Addr::<Storage>::from_raw(peer.0);
        let page = me.with(|s| s.resync_page);
        let ask = ListChunks { from, limit: page };
        let theirs = cx.within(ASK_MAX).ask(to, ask).await.map_err(lost)?;
        let theirs = theirs.map_err(|e| e.to_string())?;
        Self::still(me, peer)?;
        // Ours is listed later: a chunk that changes in between shows as different.
        let mine = me.with(|s| s.engine.list(from, page as usize));
        let (work, next) = differences(&mine, &theirs, page as usize);
        me.with(|s| s.stats.compared += mine.len() as u64);
        Ok((work, next))
    }

    fn still(me: &Me<Self>, peer: (RawAddr, ChainVersion)) -> Result<(), Early> {
        match me.with(|s| s.core.member.to_sync()) == Some(peer) {
            true => Ok(()),
            false => Err("the chain has changed".into()),
        }
    }

    async fn bring_one(
        me: &Me<Self>,
        peer: (RawAddr, ChainVersion),
        (chunk, _): (ChunkId, u32),
        cx: &Cx,
    ) -> Result<(), Early> {
        let locked = Locked::take_own(me, chunk, cx).await;
        let _lock = locked.map_err(|_| format!("an update of chunk {chunk} does not end"))?;
        let mut why = String::new();
        for attempt in 0..ATTEMPTS {
            Self::still(me, peer)?;
            if attempt > 0 {
                Self::pause_or_change(me, PAUSE, cx).await;
            }
            if me.with(|s| s.engine.info(chunk).is_some_and(|i| i.pending.is_some())) {
                // The chunk goes to the successor whole, and is committed with that.
                let drive = Self::redrive(me, chunk, cx);
                let done = cx.within(LOCK_MAX).in_time(drive).await;
                return match done {
                    Some(r) => r.map(drop).map_err(|e| e.to_string()),
                    None => Err(format!("the pending update of chunk {chunk} does not go on")),
                };
            }
            match Self::send_whole(me, chunk, cx).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(e @ (StorageError::Corrupt(_) | StorageError::Failed(_)))) => {
                    tracing::error!("chunk {chunk} cannot be brought to a replica: {e}");
                    return Err(e.to_string());
                }
                Ok(Err(e)) => why = e.to_string(),
                Err(e) => why = lost(e),
            }
        }
        Err(format!("chunk {chunk}: {why}"))
    }

    /// Sends a chunk as it is here, its pending version if there is one, to the syncing successor.
    /// The caller holds the lock.
    pub(super) async fn send_whole(
        me: &Me<Self>,
        chunk: ChunkId,
        cx: &Cx,
    ) -> Result<Result<Updated, StorageError>, AskError> {
        let (content, data) = match Self::content(me, chunk, cx).await {
            Ok(c) => c,
            Err(e) => return Ok(Err(e.into())),
        };
        let (bytes, removes) = (data.len() as u64, content.is_none());
        let step = me.with(|s| {
            let peer = s.core.member.to_sync();
            let out = s.sync_out.as_mut().filter(|o| o.is_for(peer))?;
            let (number, floor) = out.next();
            let (chain_version, session) = (out.chain_version, out.session);
            let data = Bulk(data);
            let m = SyncChunk { chunk, chain_version, session, number, floor, content, data };
            Some((out.to, m, s.core.member.change()))
        });
        let Some((to, m, change)) = step else {
            return Err(AskError::NotSent("no session with the successor yet"));
        };
        let _open = Open { me, session: m.session, number: m.number };
        let ask = cx.within(ASK_MAX);
        let ask = ask.ask(Addr::<Storage>::from_raw(to), m);
        let answer = before(ask, change).await;
        me.with(|s| {
            if let Some(Ok(Ok(_))) = answer {
                let (sent, removed) = if removes { (0, 1) } else { (1, 0) };
                s.stats.sent += sent;
                s.stats.removed += removed;
                s.stats.sent_bytes += bytes;
            }
        });
        answer.unwrap_or(Err(AskError::Unknown("the chain has changed")))
    }

    /// What the successor is to have of a chunk.
    async fn content(
        me: &Me<Self>,
        chunk: ChunkId,
        cx: &Cx,
    ) -> Result<(Option<SyncContent>, bytes::Bytes), EngineError> {
        let (engine, info) = me.with(|s| (s.engine.clone(), s.engine.info(chunk)));
        let Some(info) = info else { return Ok((None, bytes::Bytes::new())) };
        let recents = info.recent.iter().map(|r| RecentWriter {
            session: r.session,
            seq: r.seq,
            version: r.version,
        });
        let mut recents: Vec<_> = recents.collect();
        if PlantedBug::ResyncDropsRecents.is_in(cx) {
            recents.clear();
        }
        if let Some(p) = info.pending {
            let super::engine::Op::Replace { data } = engine.read_pending(cx, chunk).await?.op
            else {
                return Ok((None, bytes::Bytes::new()));
            };
            // The successor is the last one: it commits.
            let (version, born) = (p.version, p.chain_version);
            let data = Self::whole_data(cx, data);
            return Ok((Some(SyncContent { version, born, recents }), data));
        }
        let read = engine.read(cx, chunk, 0, u32::MAX).await?;
        let born = info.committed.map_or(ChainVersion(0), |c| c.chain_version);
        let data = Self::whole_data(cx, read.data);
        Ok((Some(SyncContent { version: read.version, born, recents }), data))
    }

    async fn take_chunk(me: &Me<Self>, m: SyncChunk, cx: &Cx) -> Result<Updated, StorageError> {
        let _lock = Locked::take(me, m.chunk, cx).await?;
        let engine = me.with(|s| {
            s.core.member.admit_sync(&m)?;
            Ok::<_, StorageError>(s.engine.clone())
        })?;
        let cx = &cx.outlive(); // begun: the sender may give up, the update may not
        let gone =
            SyncContent { version: ChunkVersion(1), born: m.chain_version, recents: Vec::new() };
        let removed = m.content.is_none();
        let c = m.content.unwrap_or(gone);
        let recents =
            c.recents.iter().map(|r| Recent { session: r.session, seq: r.seq, version: r.version });
        let (versions, data) = ((c.version, c.born), (!removed).then_some(m.data.0));
        let done = engine.overwrite(cx, m.chunk, versions, data, recents.collect()).await;
        match done {
            Ok(_) => {
                let info = me.with(|s| s.engine.info(m.chunk));
                Ok(updated(info.and_then(|i| i.committed).as_ref()))
            }
            Err(EngineError::Busy) => Err(StorageError::NotReady),
            Err(EngineError::NoSpace | EngineError::TooManyChunks) => {
                // Writers of the whole chain would wait for it.
                let chunk = m.chunk;
                tracing::error!("this target is too full for its chain, at {chunk}: it leaves it");
                me.with(|s| {
                    s.core.member.retire();
                    s.tell.fill(());
                });
                Err(StorageError::NoSpace)
            }
            Err(e) => Err(me.with(|s| s.refusal(e))),
        }
    }
}

/// Chunks that are not the same on both sides, with the length of ours, and where to go on. Both
/// lists are in order, from the same chunk on, and complete unless they have `limit` rows.
fn differences(
    mine: &[(ChunkId, ChunkInfo)],
    theirs: &[ChunkSummary],
    limit: usize,
) -> (Vec<(ChunkId, u32)>, Option<ChunkId>) {
    let last = |full: bool, id: Option<ChunkId>| id.filter(|_| full);
    let ends = [
        last(mine.len() >= limit, mine.last().map(|m| m.0)),
        last(theirs.len() >= limit, theirs.last().map(|t| t.chunk)),
    ];
    let end = ends.into_iter().flatten().min();
    let within = |c: ChunkId| end.is_none_or(|e| c <= e);
    let mut theirs = theirs.iter().filter(|t| within(t.chunk)).peekable();
    let mut work = Vec::new();
    for (chunk, info) in mine.iter().filter(|m| within(m.0)) {
        while let Some(t) = theirs.next_if(|t| t.chunk < *chunk) {
            work.push((t.chunk, 0));
        }
        let other = theirs.next_if(|t| t.chunk == *chunk);
        if other.is_none_or(|t| !same(info, t)) {
            work.push((*chunk, info.committed.map_or(0, |c| c.len)));
        }
    }
    work.extend(theirs.map(|t| (t.chunk, 0)));
    (work, end.and_then(ChunkId::next))
}

/// One chain version has one head, which gives a number to one update: so the same version born in
/// the same chain version is the same update with the same history.
fn same(mine: &ChunkInfo, theirs: &ChunkSummary) -> bool {
    let settled = mine.pending.is_none() && !theirs.pending;
    settled
        && mine.committed.is_some_and(|c| {
            (c.version, c.chain_version, c.len, c.checksum)
                == (theirs.version, theirs.chain_version, theirs.len, theirs.checksum)
        })
}

/// What may be under way at the same time.
fn batches(work: Vec<(ChunkId, u32)>) -> Vec<Vec<(ChunkId, u32)>> {
    let mut out: Vec<Vec<(ChunkId, u32)>> = Vec::new();
    let mut bytes = 0;
    for w in work {
        match out.last_mut() {
            Some(some)
                if some.len() < WIDTH && bytes + u64::from(w.1) <= RESYNC_BYTES_MAX as u64 =>
            {
                bytes += u64::from(w.1);
                some.push(w);
            }
            _ => {
                bytes = u64::from(w.1);
                out.push(vec![w]);
            }
        }
    }
    out
}

impl Handle<SyncStart> for Target {
    async fn handle(me: &Me<Self>, m: SyncStart, cx: &Cx) -> Result<(), StorageError> {
        if let Err(StorageError::BehindChain { .. } | StorageError::NotReady) =
            me.with(|s| s.core.member.sync_start(m.chain_version, m.session))
        {
            Self::fetch_routing(me, true, cx).await;
        }
        me.with(|s| s.core.member.sync_start(m.chain_version, m.session))?;
        Self::quiesce(me, cx).await?;
        if PlantedBug::ServeBeforeSync.is_in(cx) {
            me.with(|s| {
                s.tell.fill(());
                s.core.member.sync_done(m.chain_version, m.session)
            })?;
        }
        Ok(())
    }
}

impl Handle<GetResync> for Target {
    async fn handle(me: &Me<Self>, _: GetResync, _: &Cx) -> ResyncStats {
        me.with(|s| s.stats)
    }
}

impl Handle<SyncChunk> for Target {
    async fn handle(me: &Me<Self>, m: SyncChunk, cx: &Cx) -> Result<Updated, StorageError> {
        Self::take_chunk(me, m, cx).await
    }
}

impl Handle<SyncDone> for Target {
    async fn handle(me: &Me<Self>, m: SyncDone, _: &Cx) -> Result<(), StorageError> {
        me.with(|s| {
            s.core.member.sync_done(m.chain_version, m.session)?;
            let chain_version = m.chain_version;
            s.happened(|target, chain| TargetEvent::Synced { target, chain, chain_version });
            s.tell.fill(());
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ids::InodeId;
    use crate::storage::engine::StoredVersion;

    fn id(n: u32) -> ChunkId {
        ChunkId { inode: InodeId(1), index: n }
    }

    fn ours(n: u32, version: u64) -> (ChunkId, ChunkInfo) {
        let chain_version = ChainVersion(1);
        let state =
            StoredVersion { version: ChunkVersion(version), chain_version, len: 10, checksum: 7 };
        (id(n), ChunkInfo { committed: Some(state), pending: None, recent: Vec::new() })
    }

    fn other(n: u32, version: u64) -> ChunkSummary {
        ChunkSummary {
            chunk: id(n),
            version: ChunkVersion(version),
            chain_version: ChainVersion(1),
            len: 10,
            checksum: 7,
            pending: false,
        }
    }

    /// Goal: everything that differs is named once, and nothing else. Method: each kind of
    /// difference on one page.
    ///
    /// Regression (sim check members, seed 113): with the chain version of the commit in its place
    /// the birth of a chunk differed between equal replicas, after a crash that lost a commit.
    #[test]
    fn differences_are_found() {
        let mut divergent = other(5, 3);
        divergent.chain_version = ChainVersion(2);
        let mut dirty = other(6, 3);
        dirty.pending = true;
        let mine = [ours(1, 3), ours(3, 3), ours(4, 3), ours(5, 3), ours(6, 3)];
        let theirs = [other(1, 3), other(2, 9), other(4, 9), divergent, dirty, other(7, 1)];
        let (work, next) = differences(&mine, &theirs, 100);
        let found: Vec<u32> = work.iter().map(|w| w.0.index).collect();
        assert_eq!((found, next), (vec![2, 3, 4, 5, 6, 7], None));
    }

    /// Goal: no chunk falls between two pages of unequal reach.
    #[test]
    fn pages_go_on_where_the_shorter_ends() {
        let mine = [ours(1, 1), ours(2, 1), ours(3, 1)];
        let theirs = [other(1, 1), other(8, 1), other(9, 1)];
        let (work, next) = differences(&mine, &theirs, 3);
        assert!(work.iter().all(|w| w.0.index == 2 || w.0.index == 3));
        assert_eq!((work.len(), next), (2, Some(id(4))));
        let (work, next) = differences(&[], &theirs, 3);
        assert_eq!((work.len(), next), (3, Some(id(10))));
        assert_eq!(differences(&[], &[], 3), (vec![], None));
    }

    #[test]
    fn batches_are_bounded() {
        let many = batches((0..40).map(|n| (id(n), 1)).collect());
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [16, 16, 8]);
        let large = batches((0..4).map(|n| (id(n), 20 << 20)).collect());
        assert_eq!(large.len(), 4);
    }
}
