//! An update's way through a target: admitted, stored, forwarded, committed.

use core::time::Duration;

use bytes::Bytes;
use t3fs_runtime::slot::before;
use t3fs_runtime::{Addr, Ask, AskError, Bulk, Cx, Handle, Me, Time, join_all};

use super::core::{Begin, updated};
use super::engine::{Engine, EngineError, Op, Update};
use super::membership::{NextReplica, Successor};
use super::target::{DRIVE_MAX, LIST_MAX, Locked, Target, TargetEvent};
use crate::planted::PlantedBug;
use crate::proto::ids::{ChunkId, ChunkVersion, InodeId, RequestId};
use crate::proto::storage::Storage;
use crate::proto::storage::*;
use crate::timing::is_longer;

/// Longest pause between attempts at a successor.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(200);
/// Longest wait for one attempt's answer. A change of the chain ends it at once.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// How long a successor that had no space is taken to have none: longer than between two attempts
/// of an update that waits for it, so that further ones are refused as long as it does.
const FULL_FOR: Duration = Duration::from_secs(3);
const _: () = assert!(is_longer(FULL_FOR, 2, RETRY_PAUSE_MAX));
// An attempt whose answer is lost leaves time for others while its sender waits.
const _: () = assert!(is_longer(<UpdateChunk as Ask<Storage>>::TIMEOUT, 1, ATTEMPT_MAX));
const _: () = assert!(is_longer(DRIVE_MAX, 2, ATTEMPT_MAX));
/// How often it is said that an update waits for a successor.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Chunks removed side by side by one request.
const REMOVE_WIDTH: usize = 16;

/// What became of one attempt at the successor.
enum Attempt {
    Done,
    /// The successor lacks what a change of a part builds upon: the version before, or sound bytes.
    Lacking,
    /// The successor will not take it for now, for a reason of its own.
    Refused(StorageError),
    /// The successor knows a later version of the chain.
    Behind,
    /// Nobody knows, or the chain has changed.
    Again,
}

impl Target {
    /// Whether an update would be stored here and then wait with its chunk's lock for a successor
    /// that said just now that it has no space. What fits into what there is may go on, and what
    /// was done before is answered.
    fn would_wait_for_space(&self, u: &UpdateChunk, now: Time) -> bool {
        let UpdateKind::Write { offset } = u.kind else { return false };
        let NextReplica::To(next) = self.core.member.next() else { return false };
        let is_full = self.full_behind.is_some_and(|(chain_version, said)| {
            chain_version == next.chain_version && now.since(said) < FULL_FOR
        });
        if !is_full {
            return false;
        }
        let info = self.engine.info(u.chunk);
        let there = info.as_ref().and_then(|i| i.committed.as_ref()).map_or(0, |c| c.len);
        let grows = u64::from(offset) + u.data.len() as u64 > u64::from(there);
        let begun = self.core.begin(u, info.as_ref(), ChunkVersion(u64::MAX));
        let begins = |begun| matches!(begun, Ok(Begin::Apply(_) | Begin::Unfinished));
        match begun {
            Ok(Begin::Redrive(_)) => true,
            begun => grows && begins(begun),
        }
    }

    /// One update, from admission to commit. A client's removal empties the chunk: its row stays
    /// for a while, with what is known of its writers, and is purged later.
    async fn update(me: &Me<Self>, mut u: UpdateChunk, cx: &Cx) -> Result<Updated, StorageError> {
        Self::admitted(me, &u, cx).await?;
        if u.version.is_none() && u.kind == UpdateKind::Remove {
            (u.kind, u.data) = (UpdateKind::Replace, Bulk::default());
        }
        let emptied = u.version.is_none() && u.kind == UpdateKind::Replace && u.data.is_empty();
        let chunk = u.chunk;
        let now = cx.now();
        if me.with(|s| s.would_wait_for_space(&u, now)) {
            return Err(StorageError::NoSpace);
        }
        let updated = Self::carry_out(me, u, cx).await?;
        if emptied {
            let now = cx.now();
            me.with(|s| s.core.emptied(chunk, now));
        }
        Ok(updated)
    }

    pub(super) async fn carry_out(
        me: &Me<Self>,
        u: UpdateChunk,
        cx: &Cx,
    ) -> Result<Updated, StorageError> {
        let _lock = Locked::take(me, u.chunk, cx).await?;
        let from_client = u.version.is_none();
        let version = loop {
            let now = cx.now();
            let begun = me.with(|s| {
                s.core.member.admit(&u)?;
                let info = s.engine.info(u.chunk);
                if from_client {
                    s.leased(now)?;
                    s.core.member.admit_session(u.request.session)?;
                }
                if from_client && u.kind == UpdateKind::Remove {
                    let committed = info.as_ref().and_then(|i| i.committed.as_ref());
                    if committed.is_some_and(|c| c.len > 0) {
                        return Ok(Begin::Done(updated(committed))); // written again meanwhile
                    }
                }
                s.core.begin(&u, info.as_ref(), s.engine.fresh_version())
            })?;
            match begun {
                Begin::Done(updated) => return Ok(updated),
                Begin::Redrive(_) => return Self::redrive(me, u.chunk, &cx.outlive()).await,
                Begin::Unfinished => {
                    Self::redrive(me, u.chunk, &cx.outlive()).await?;
                    if cx.expired() {
                        return Err(StorageError::NotReady); // nothing of this one was begun
                    }
                }
                Begin::Apply(version) => break version,
            }
        };
        let cx = &cx.outlive(); // begun: the sender may give up, the update may not
        let updated = Self::store(me, u, version, cx).await?;
        if from_client {
            // A target that acknowledges alone asks itself again whether it still may.
            let now = cx.now();
            me.with(|s| {
                if s.core.member.alone() {
                    s.leased(now)?;
                    s.happened(|target, chain| TargetEvent::AckedAlone { target, chain });
                }
                Ok::<_, StorageError>(())
            })?;
        }
        Ok(updated)
    }

    /// Stores a version, has all behind store it, and commits it. The caller holds the lock.
    async fn store(
        me: &Me<Self>,
        u: UpdateChunk,
        version: ChunkVersion,
        cx: &Cx,
    ) -> Result<Updated, StorageError> {
        let early = PlantedBug::CommitBeforeSuccessor.is_in(cx);
        let (engine, is_tail) =
            me.with(|s| (s.engine.clone(), matches!(s.core.member.next(), NextReplica::Tail(_))));
        let op = match u.kind {
            UpdateKind::Write { offset } => Op::Write { offset, data: u.data.0.clone() },
            UpdateKind::Truncate { len } => Op::Truncate { len },
            UpdateKind::Remove => Op::Remove,
            UpdateKind::Replace => Op::Replace { data: u.data.0.clone() },
        };
        let chunk = u.chunk;
        let update = Update {
            chunk,
            version,
            chain_version: u.born,
            op,
            request: Some(u.request),
            commit: is_tail || early,
        };
        let applied = engine.apply(cx, update).await;
        let applied = applied.map_err(|e| me.with(|s| s.refusal(e)))?;
        let out =
            Updated { version: applied.version, len: applied.len, checksum: applied.checksum };
        // A tail may have got a successor while it wrote.
        if is_tail && me.with(|s| !matches!(s.core.member.next(), NextReplica::To(_))) {
            return Ok(out);
        }
        if early {
            let (me, cx) = (me.clone(), cx.clone());
            let task = cx.clone();
            cx.spawn(async move { drop(Self::forward(&me, u, version, &task).await) });
            return Ok(out);
        }
        Self::forward(me, u, version, cx).await?;
        Self::commit(me, chunk, version, cx);
        Ok(out)
    }

    /// Waits out a routing that is behind the sender's; refuses what is not for us.
    async fn admitted(me: &Me<Self>, u: &UpdateChunk, cx: &Cx) -> Result<(), StorageError> {
        match me.with(|s| s.core.member.admit(u)) {
            Err(StorageError::BehindChain { .. } | StorageError::NotReady) => {
                Self::fetch_routing(me, true, cx).await;
                me.with(|s| s.core.member.admit(u))
            }
            other => other,
        }
    }

    /// Sends a stored version to the successor until that has it, whatever it takes: the chain may
    /// change meanwhile, the version may not. At the (new) tail there is nothing to do; out of the
    /// chain nothing may be done: it stays pending.
    async fn forward(
        me: &Me<Self>,
        mut u: UpdateChunk,
        version: ChunkVersion,
        cx: &Cx,
    ) -> Result<(), StorageError> {
        let mut pause = Duration::from_millis(1);
        let mut said: Option<Time> = None;
        u.version = Some(version);
        loop {
            let next = match me.with(|s| s.core.member.next()) {
                NextReplica::Out => return Err(StorageError::WrongTarget),
                NextReplica::Tail(_) => return Ok(()),
                NextReplica::To(next) => next,
            };
            let mut behind = false;
            match Self::attempt(me, &mut u, next, cx).await {
                Attempt::Done => return Ok(()),
                Attempt::Lacking => {
                    u = Self::whole(me, &u, cx).await?;
                    continue;
                }
                Attempt::Refused(why) => {
                    // The update stays pending until there is room, or the successor leaves.
                    // One that is being brought up to date leaves the chain instead.
                    if why == StorageError::NoSpace && !next.syncing {
                        let said = (next.chain_version, cx.now());
                        me.with(|s| s.full_behind = Some(said));
                    }
                    if said.is_none_or(|said| cx.now().since(said) >= SAY_EVERY) {
                        said = Some(cx.now());
                        let chunk = u.chunk;
                        tracing::warn!("{chunk} version {version} waits for a successor: {why}");
                    }
                    pause = RETRY_PAUSE_MAX;
                }
                Attempt::Behind => behind = true,
                Attempt::Again => {}
            }
            Self::pause_or_change(me, pause, cx).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
            // The agent's news come by themselves; only the successor may know more than it.
            if behind {
                Self::fetch_routing(me, true, cx).await;
            }
        }
    }

    async fn attempt(me: &Me<Self>, u: &mut UpdateChunk, next: Successor, cx: &Cx) -> Attempt {
        let Some(to) = next.addr else { return Attempt::Again };
        let answer = if next.syncing {
            Self::send_whole(me, u.chunk, cx).await
        } else {
            (u.chain_version, u.hops) = (next.chain_version, next.hops);
            let change = me.with(|s| s.core.member.change());
            let attempt = cx.within(ATTEMPT_MAX);
            let ask = attempt.ask::<Storage, _>(Addr::from_raw(to), u.clone());
            before(ask, change).await.unwrap_or(Err(AskError::Unknown("the chain has changed")))
        };
        match answer {
            Ok(Ok(_)) => Attempt::Done,
            Ok(Err(StorageError::VersionGap { .. })) if !next.syncing => Attempt::Lacking,
            // The bytes around the change are rotten there: the whole content needs none of them.
            Ok(Err(StorageError::Corrupt(_))) if !next.syncing && u.kind.is_partial() => {
                Attempt::Lacking
            }
            Ok(Err(StorageError::StaleChain { .. })) => Attempt::Behind,
            Ok(Err(StorageError::NoSpace)) if PlantedBug::SuccessorNoSpaceIsDone.is_in(cx) => {
                Attempt::Done
            }
            Ok(Err(
                e @ (StorageError::NoSpace
                | StorageError::TooManyWriters
                | StorageError::Corrupt(_)
                | StorageError::Failed(_)
                | StorageError::InvalidArgument(_)),
            )) => Attempt::Refused(e),
            Ok(Err(_)) | Err(AskError::NotSent(_) | AskError::Unknown(_)) => Attempt::Again,
        }
    }

    /// A pause that a change of the chain ends.
    pub(super) async fn pause_or_change(me: &Me<Self>, pause: Duration, cx: &Cx) {
        let change = me.with(|s| s.core.member.change());
        // Ended either way: the caller looks again.
        let _ = before(cx.sleep(pause), change).await;
    }

    /// The pending update of a chunk as a replacement of its whole content.
    async fn whole(me: &Me<Self>, u: &UpdateChunk, cx: &Cx) -> Result<UpdateChunk, StorageError> {
        let engine = me.with(|s| s.engine.clone());
        let mut out = u.clone();
        match engine.read_pending(cx, u.chunk).await {
            Ok(p) => {
                out.kind = UpdateKind::Remove;
                if let Op::Replace { data } = p.op {
                    out.kind = UpdateKind::Replace;
                    out.data = Bulk(Self::whole_data(cx, data));
                }
                return Ok(out);
            }
            // Committed here when this was the tail: the chain has grown meanwhile.
            Err(EngineError::NotFound) => {}
            Err(e) => return Err(e.into()),
        }
        let read = engine.read(cx, u.chunk, 0, u32::MAX).await?;
        if Some(read.version) != u.version {
            // Only a planted bug can have let a later one pass.
            return Err(StorageError::Failed(format!("{} has moved on", u.chunk)));
        }
        (out.kind, out.data) = (UpdateKind::Replace, Bulk(Self::whole_data(cx, read.data)));
        Ok(out)
    }

    /// The content of a chunk that is sent whole.
    pub(super) fn whole_data(cx: &Cx, mut data: Bytes) -> Bytes {
        if PlantedBug::WholeSendsCut.is_in(cx) {
            data.truncate(64 << 10);
        }
        data
    }

    /// Drives a stored, uncommitted update to the end of the chain and commits it.
    /// The caller holds the chunk's lock.
    pub(super) async fn redrive(
        me: &Me<Self>,
        chunk: ChunkId,
        cx: &Cx,
    ) -> Result<Updated, StorageError> {
        let info = me.with(|s| s.engine.info(chunk));
        let committed =
            |i: Option<&super::engine::ChunkInfo>| updated(i.and_then(|i| i.committed.as_ref()));
        let Some(p) = info.as_ref().and_then(|i| i.pending) else {
            return Ok(committed(info.as_ref()));
        };
        let version = p.version;
        let request = info
            .iter()
            .flat_map(|i| i.recent.iter())
            .find(|r| r.version == version)
            .map_or(RequestId::default(), |r| RequestId { session: r.session, seq: r.seq });
        let u = UpdateChunk {
            chunk,
            chain_version: p.chain_version,
            kind: UpdateKind::Remove,
            data: Bulk::default(),
            request,
            version: Some(version),
            born: p.chain_version,
            hops: 0,
        };
        let u = Self::whole(me, &u, cx).await?;
        Self::forward(me, u, version, cx).await?;
        Self::commit(me, chunk, version, cx);
        let info = me.with(|s| s.engine.info(chunk));
        let mut out = committed(info.as_ref());
        out.version = out.version.max(version);
        Ok(out)
    }

    fn commit(me: &Me<Self>, chunk: ChunkId, version: ChunkVersion, cx: &Cx) {
        let done = me.with(|s| match s.engine.info(chunk).and_then(|i| i.pending) {
            Some(p) if p.version == version => s.engine.commit(cx, chunk, version, p.chain_version),
            _ => Ok(()),
        });
        match done {
            Ok(()) => {}
            // Stored, and driven on again at the next start: the target was closed, or its disk
            // failed, while the chain was answering.
            Err(EngineError::Failed(why)) => {
                tracing::warn!("{chunk} version {version} stays pending: {why}");
            }
            Err(e) => panic!("commit of {chunk} version {version}: {e}"),
        }
    }

    async fn remove_one(
        me: &Me<Self>,
        chunk: ChunkId,
        m: &RemoveChunks,
        cx: &Cx,
    ) -> Result<(), StorageError> {
        let hops = me.with(|s| match s.core.member.next() {
            NextReplica::To(n) => n.hops + 1,
            NextReplica::Tail(_) | NextReplica::Out => 0,
        });
        let u = UpdateChunk {
            chunk,
            chain_version: m.chain_version,
            kind: UpdateKind::Remove,
            data: Bulk::default(),
            request: m.request,
            version: None,
            born: m.chain_version,
            hops,
        };
        Self::update(me, u, cx).await.map(drop)
    }
}

/// Chunks of a file that hold anything, at most `limit` of them, and whether there are more.
fn full_chunks(engine: &Engine, inode: InodeId, from: u32, limit: usize) -> (Vec<ChunkId>, bool) {
    let mut found = Vec::new();
    let mut at = ChunkId { inode, index: from };
    loop {
        let page = engine.list(at, limit + 1);
        for (chunk, info) in &page {
            if chunk.inode != inode {
                return (found, false);
            }
            let empty = info.pending.is_none() && info.committed.is_some_and(|c| c.len == 0);
            if !empty {
                if found.len() == limit {
                    return (found, true);
                }
                found.push(*chunk);
            }
        }
        match page.last().and_then(|(c, _)| c.next()) {
            Some(next) if page.len() > limit => at = next,
            _ => return (found, false),
        }
    }
}

/// A request to remove chunks that is being carried out.
struct UnderWay {
    target: Me<Target>,
    request: RequestId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.target.with(|s| s.removals.end(self.request));
    }
}

impl Handle<UpdateChunk> for Target {
    async fn handle(me: &Me<Self>, m: UpdateChunk, cx: &Cx) -> Result<Updated, StorageError> {
        Self::update(me, m, cx).await
    }
}

impl Handle<RemoveChunks> for Target {
    async fn handle(me: &Me<Self>, m: RemoveChunks, cx: &Cx) -> Result<Removed, StorageError> {
        if !me.with(|s| s.core.member.is_head()) {
            return Err(StorageError::WrongTarget);
        }
        if let Some(answer) = me.with(|s| s.removals.begin(m.request)) {
            return answer.ok_or(StorageError::NotReady); // the first of it is under way
        }
        let _under_way = UnderWay { target: me.clone(), request: m.request };
        let limit = m.limit.clamp(1, LIST_MAX) as usize;
        let (mut take, mut left) = (Vec::new(), Vec::new());
        for inode in &m.inodes {
            let room = limit - take.len();
            let (some, more) = me.with(|s| full_chunks(&s.engine, *inode, m.from, room));
            take.extend(some);
            if more {
                left.push(*inode);
            }
        }
        if PlantedBug::RemoveChunksSaysNothingLeft.is_in(cx) {
            left.clear();
        }
        for some in take.chunks(REMOVE_WIDTH) {
            for r in join_all(some.iter().map(|c| Self::remove_one(me, *c, &m, cx))).await {
                r?;
            }
        }
        let removed = Removed { count: take.len() as u32, left };
        me.with(|s| s.removals.keep(m.request, &removed, cx.now()));
        Ok(removed)
    }
}
