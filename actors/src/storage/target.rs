//! The actor of one target: the chain protocol, top to bottom.

use core::time::Duration;

use t3fs_runtime::{Actor, Addr, AskError, Bulk, Cx, DiskId, Handle, Me, join_all};

use super::core::{Begin, Core};
use super::engine::{ChunkInfo, Engine, EngineError, Op, Update};
use crate::agent::Agent;
use crate::proto::agent::{GetRouting, ReportTarget};
use crate::proto::ids::{ChainId, ChunkId, ChunkVersion, InodeId, RequestId, TargetId};
use crate::proto::mgmtd::TargetReport;
use crate::proto::storage::*;

/// Mistakes that tests plant to see that the simulator finds them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlantedBug {
    /// The head commits before its successor has answered.
    CommitBeforeSuccessor,
}

pub struct StorageConfig {
    pub engine: Engine,
    pub target: TargetId,
    pub chain: ChainId,
    pub agent: Addr<Agent>,
    pub disk: DiskId,
    /// `None` outside of tests.
    pub planted_bug: Option<PlantedBug>,
}

/// One target.
pub struct Storage {
    core: Core,
    engine: Engine,
    agent: Addr<Agent>,
    disk: DiskId,
    planted_bug: Option<PlantedBug>,
    /// A routing fetch is under way; others wait for its result by polling their own.
    fetching: bool,
    lease: LeaseHeld,
}

impl Actor for Storage {
    type Msg = StorageMsg;
}

/// Longest pause between attempts at a successor.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(200);
/// Chunks removed side by side by one request.
const REMOVE_WIDTH: usize = 16;
/// How often emptied chunks are looked at.
const PURGE_EVERY: Duration = Duration::from_secs(10);
/// What a target's journal takes at most, in bytes: six segments of the default size.
const JOURNAL_MAX: u64 = 192 << 20;
/// Most chunks in one listing.
const LIST_MAX: u32 = 4096;

impl From<EngineError> for StorageError {
    fn from(e: EngineError) -> Self {
        match e {
            EngineError::NoSpace | EngineError::TooManyChunks => StorageError::NoSpace,
            EngineError::TooManyWriters => StorageError::TooManyWriters,
            EngineError::VersionGap { have, sent } => StorageError::VersionGap { have, sent },
            EngineError::Corrupt { .. } => StorageError::Corrupt(e.to_string()),
            EngineError::InvalidArgument(s) => StorageError::InvalidArgument(s),
            other => StorageError::Failed(other.to_string()),
        }
    }
}

/// The chunk's lock; passed on at the end of its scope.
struct Locked {
    me: Me<Storage>,
    chunk: ChunkId,
}

impl Locked {
    async fn take(me: &Me<Storage>, chunk: ChunkId) -> Locked {
        // Made before the wait: were this future dropped in line, the line skips it.
        if let Some(place) = me.with(|s| s.core.lock(chunk)) {
            place.await;
        }
        Locked { me: me.clone(), chunk }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.me.with(|s| s.core.unlock(self.chunk));
    }
}

impl Storage {
    /// Starts the actor, fetches routing, and drives on what a crash left pending.
    pub fn start(cx: &Cx, config: StorageConfig) -> Addr<Storage> {
        let pending = config.engine.pending();
        let actor = Storage {
            core: Core::new(config.target, config.chain),
            engine: config.engine,
            agent: config.agent,
            disk: config.disk,
            planted_bug: config.planted_bug,
            fetching: false,
            lease: LeaseHeld::default(),
        };
        let (addr, me) = cx.start_with(actor);
        let cx2 = cx.outlive();
        cx.spawn(async move {
            let cx = &cx2;
            let report = TargetReport::online(config.target, addr.raw());
            while cx.ask(config.agent, ReportTarget { report }).await.is_err() {
                cx.sleep(Duration::from_millis(20)).await;
            }
            while me.with(|s| s.core.chain().is_err()) {
                Self::fetch_routing(&me, cx).await;
                if me.with(|s| s.core.chain().is_err()) {
                    cx.sleep(Duration::from_millis(20)).await;
                }
            }
            if !pending.is_empty() {
                tracing::info!(target = config.target.0, n = pending.len(), "driving on updates");
            }
            for chunk in pending {
                let _lock = Locked::take(&me, chunk).await;
                Self::redrive(&me, chunk, cx).await;
            }
            Self::find_empty(&me, cx).await;
            loop {
                cx.sleep(PURGE_EVERY).await;
                while let Some(chunk) = me.with(|s| s.core.purgeable(cx.now())) {
                    Self::purge(&me, chunk, cx).await;
                }
            }
        });
        addr
    }

    /// Removed chunks whose rows an earlier run of this process did not purge.
    async fn find_empty(me: &Me<Self>, cx: &Cx) {
        let mut from = ChunkId::default();
        loop {
            let page = me.with(|s| s.engine.list(from, LIST_MAX as usize));
            let now = cx.now();
            for (chunk, info) in &page {
                if info.committed.is_some_and(|c| c.len == 0) {
                    me.with(|s| s.core.emptied(*chunk, now));
                }
            }
            match page.last().and_then(|(c, _)| c.next()) {
                Some(next) if page.len() == LIST_MAX as usize => from = next,
                _ => return,
            }
            cx.sleep(Duration::ZERO).await; // others may go first
        }
    }

    /// At the head: takes an emptied chunk's row away, on all targets, unless it was written again.
    async fn purge(me: &Me<Self>, chunk: ChunkId, cx: &Cx) {
        let ready = me.with(|s| {
            let empty = s
                .engine
                .info(chunk)
                .is_some_and(|i| i.pending.is_none() && i.committed.is_some_and(|c| c.len == 0));
            let chain = s.core.chain().ok().map(|c| (c.version, c.writers().count()));
            chain.filter(|_| empty && s.core.is_head())
        });
        let Some((chain_version, targets)) = ready else { return };
        let u = UpdateChunk {
            chunk,
            chain_version,
            kind: UpdateKind::Remove,
            data: Bulk::default(),
            request: RequestId::default(),
            version: None,
            hops: targets.saturating_sub(1) as u8,
        };
        // A refusal (the chain has changed) leaves the row to the next start or removal.
        if let Err(e) = Self::carry_out(me, u, cx).await {
            tracing::debug!("row of {chunk} not purged: {e}");
        }
    }

    async fn fetch_routing(me: &Me<Self>, cx: &Cx) {
        let Some((agent, have)) = me.with(|s| {
            let free = !std::mem::replace(&mut s.fetching, true);
            free.then_some((s.agent, s.core.routing.version))
        }) else {
            return cx.sleep(Duration::from_millis(5)).await;
        };
        let got = cx.ask(agent, GetRouting { have, fresh: false }).await;
        me.with(|s| {
            s.fetching = false;
            // No answer: the caller tries again, it needs the routing to go on.
            if let Ok(Some(r)) = got {
                s.adopt(r);
            }
        });
    }

    fn adopt(&mut self, routing: crate::proto::mgmtd::Routing) {
        if self.core.adopt(routing) {
            let routing = &self.core.routing;
            self.engine.forget_sessions(&|s| routing.session_alive(s));
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
        let updated = Self::carry_out(me, u, cx).await?;
        if emptied {
            let now = cx.now();
            me.with(|s| s.core.emptied(chunk, now));
        }
        Ok(updated)
    }

    async fn carry_out(me: &Me<Self>, u: UpdateChunk, cx: &Cx) -> Result<Updated, StorageError> {
        let _lock = Locked::take(me, u.chunk).await;
        let version = loop {
            let begun = me.with(|s| {
                s.core.admit(&u)?;
                let info = s.engine.info(u.chunk);
                if u.version.is_none() && u.kind == UpdateKind::Remove {
                    let len = info.as_ref().and_then(|i| i.committed).map_or(0, |c| c.len);
                    if len > 0 {
                        return Ok(Begin::Done(summary(info.as_ref()))); // written again meanwhile
                    }
                }
                s.core.begin(&u, info.as_ref(), s.engine.fresh_version())
            })?;
            match begun {
                Begin::Done(updated) => return Ok(updated),
                Begin::Redrive(_) => return Ok(Self::redrive(me, u.chunk, &cx.outlive()).await),
                Begin::Unfinished => {
                    Self::redrive(me, u.chunk, &cx.outlive()).await;
                }
                Begin::Apply(version) => break version,
            }
        };
        let cx = &cx.outlive(); // begun: the sender may give up, the update may not
        let (engine, is_tail) = me.with(|s| (s.engine.clone(), s.core.successor().is_none()));
        let op = match u.kind {
            UpdateKind::Write { offset } => Op::Write { offset, data: u.data.0.clone() },
            UpdateKind::Truncate { len } => Op::Truncate { len },
            UpdateKind::Remove => Op::Remove,
            UpdateKind::Replace => Op::Replace { data: u.data.0.clone() },
        };
        let early = me.with(|s| s.planted_bug == Some(PlantedBug::CommitBeforeSuccessor));
        let applied = engine
            .apply(
                cx,
                Update {
                    chunk: u.chunk,
                    version,
                    chain_version: u.chain_version,
                    op,
                    request: Some(u.request),
                    commit: is_tail || early,
                },
            )
            .await?;
        let updated =
            Updated { version: applied.version, len: applied.len, checksum: applied.checksum };
        if is_tail {
            return Ok(updated);
        }
        if early {
            let (me, cx) = (me.clone(), cx.clone());
            let task = cx.clone();
            cx.spawn(async move { Self::forward(&me, u, version, &task).await });
            return Ok(updated);
        }
        let chunk = u.chunk;
        Self::forward(me, u, version, cx).await;
        Self::commit(me, chunk, version, cx);
        Ok(updated)
    }

    /// Waits out a routing that is behind the sender's; refuses what is not for us.
    async fn admitted(me: &Me<Self>, u: &UpdateChunk, cx: &Cx) -> Result<(), StorageError> {
        match me.with(|s| s.core.admit(u)) {
            Err(StorageError::BehindChain { .. } | StorageError::NotReady) => {
                Self::fetch_routing(me, cx).await;
                me.with(|s| s.core.admit(u))
            }
            other => other,
        }
    }

    /// Sends a stored version to the successor until that has it, whatever it takes: the chain may
    /// change meanwhile, the version may not. At the (new) tail there is nothing to do.
    async fn forward(me: &Me<Self>, mut u: UpdateChunk, version: ChunkVersion, cx: &Cx) {
        let mut pause = Duration::from_millis(1);
        u.version = Some(version);
        while let Some((next, chain_version, hops)) = me.with(|s| s.core.successor()) {
            u.chain_version = chain_version;
            u.hops = hops;
            if let Some(next) = next {
                let attempt = cx.within(Duration::from_secs(5));
                match attempt.ask::<Storage, _>(Addr::from_raw(next), u.clone()).await {
                    Ok(Ok(_)) => return,
                    Ok(Err(StorageError::VersionGap { .. })) => {
                        u = Self::whole(me, &u, cx).await;
                        continue;
                    }
                    Ok(Err(
                        StorageError::NoSpace
                        | StorageError::TooManyWriters
                        | StorageError::Corrupt(_)
                        | StorageError::Failed(_)
                        | StorageError::InvalidArgument(_),
                    )) => {
                        // It stays pending here: an operator makes room, or the chain drops it.
                        pause = RETRY_PAUSE_MAX;
                    }
                    Ok(Err(_)) | Err(AskError::NotSent(_) | AskError::Unknown(_)) => {}
                }
            }
            cx.sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
            Self::fetch_routing(me, cx).await;
        }
    }

    /// The pending update of a chunk as a replacement of its whole content.
    async fn whole(me: &Me<Self>, u: &UpdateChunk, cx: &Cx) -> UpdateChunk {
        let engine = me.with(|s| s.engine.clone());
        let mut out = u.clone();
        match engine.read_pending(cx, u.chunk).await {
            Ok(p) => {
                out.kind = UpdateKind::Remove;
                if let Op::Replace { data } = p.op {
                    out.kind = UpdateKind::Replace;
                    out.data = Bulk(data);
                }
            }
            Err(e) => {
                // Only a planted bug can have committed it already.
                let planted = me.with(|s| s.planted_bug.is_some());
                assert!(planted, "the pending content of {} is gone: {e}", u.chunk);
            }
        }
        out
    }

    /// Drives a stored, uncommitted update to the end of the chain and commits it.
    /// The caller holds the chunk's lock.
    async fn redrive(me: &Me<Self>, chunk: ChunkId, cx: &Cx) -> Updated {
        let info = me.with(|s| s.engine.info(chunk));
        let Some(p) = info.as_ref().and_then(|i| i.pending) else {
            return summary(info.as_ref());
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
            hops: 0,
        };
        let u = Self::whole(me, &u, cx).await;
        Self::forward(me, u, version, cx).await;
        Self::commit(me, chunk, version, cx);
        let info = me.with(|s| s.engine.info(chunk));
        let mut out = summary(info.as_ref());
        out.version = out.version.max(version);
        out
    }

    fn commit(me: &Me<Self>, chunk: ChunkId, version: ChunkVersion, cx: &Cx) {
        let done = me.with(|s| {
            let chain_version = s.core.chain().map(|c| c.version).unwrap_or_default();
            let pending = s.engine.info(chunk).and_then(|i| i.pending.map(|p| p.version));
            match pending {
                Some(p) if p == version => s.engine.commit(cx, chunk, version, chain_version),
                _ => Ok(()),
            }
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
        let hops = me.with(|s| s.core.successor().map_or(0, |n| n.2 + 1));
        let u = UpdateChunk {
            chunk,
            chain_version: m.chain_version,
            kind: UpdateKind::Remove,
            data: Bulk::default(),
            request: m.request,
            version: None,
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

fn summary(info: Option<&ChunkInfo>) -> Updated {
    let c = info.and_then(|i| i.committed.as_ref());
    c.map_or(Updated { version: ChunkVersion(0), len: 0, checksum: 0 }, |c| Updated {
        version: c.version,
        len: c.len,
        checksum: c.checksum,
    })
}

impl Handle<UpdateChunk> for Storage {
    async fn handle(me: &Me<Self>, m: UpdateChunk, cx: &Cx) -> Result<Updated, StorageError> {
        Self::update(me, m, cx).await
    }
}

impl Handle<ReadChunk> for Storage {
    /// CRAQ's apportioned read: any serving target answers from what it has committed; while an
    /// update is pending here only the tail knows whether it counts, so the tail is asked.
    async fn handle(
        me: &Me<Self>,
        m: ReadChunk,
        cx: &Cx,
    ) -> Result<Option<ChunkData>, StorageError> {
        if let Err(StorageError::BehindChain { .. } | StorageError::NotReady) =
            me.with(|s| s.core.admit_read(m.chain_version))
        {
            Self::fetch_routing(me, cx).await;
        }
        let (engine, tail) = me.with(|s| {
            s.core.admit_read(m.chain_version)?;
            let dirty = s.engine.info(m.chunk).is_some_and(|i| i.pending.is_some());
            Ok::<_, StorageError>((s.engine.clone(), s.core.tail().filter(|_| dirty)))
        })?;
        if let Some(tail) = tail {
            return cx.ask(tail, m).await.unwrap_or(Err(StorageError::NotReady));
        }
        match engine.read(cx, m.chunk, m.offset, m.len).await {
            Ok(r) if r.chunk_len == 0 => Ok(None), // removed, its row not purged yet
            Ok(r) => Ok(Some(ChunkData {
                version: r.version,
                chunk_len: r.chunk_len,
                data: Bulk(r.data),
            })),
            Err(EngineError::NotFound) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl Handle<RemoveChunks> for Storage {
    async fn handle(me: &Me<Self>, m: RemoveChunks, cx: &Cx) -> Result<Removed, StorageError> {
        if !me.with(|s| s.core.is_head()) {
            return Err(StorageError::WrongTarget);
        }
        let limit = m.limit.clamp(1, LIST_MAX) as usize;
        let (take, more) = me.with(|s| full_chunks(&s.engine, m.inode, m.from, limit));
        for some in take.chunks(REMOVE_WIDTH) {
            for r in join_all(some.iter().map(|c| Self::remove_one(me, *c, &m, cx))).await {
                r?;
            }
        }
        Ok(Removed { count: take.len() as u32, more })
    }
}

impl Handle<ListChunks> for Storage {
    async fn handle(
        me: &Me<Self>,
        m: ListChunks,
        _: &Cx,
    ) -> Result<Vec<ChunkSummary>, StorageError> {
        let listed = me.with(|s| s.engine.list(m.from, m.limit.clamp(1, LIST_MAX) as usize));
        let row = |(chunk, i): (ChunkId, ChunkInfo)| {
            let c = i.committed.unwrap_or_default();
            ChunkSummary {
                chunk,
                version: c.version,
                chain_version: c.chain_version,
                len: c.len,
                checksum: c.checksum,
                pending: i.pending.is_some(),
            }
        };
        Ok(listed.into_iter().map(row).collect())
    }
}

impl Handle<ScrubChunks> for Storage {
    async fn handle(me: &Me<Self>, m: ScrubChunks, cx: &Cx) -> Result<u64, StorageError> {
        let engine = me.with(|s| s.engine.clone());
        let mut bytes = 0;
        for chunk in m.chunks {
            match engine.read(cx, chunk, 0, u32::MAX).await {
                Ok(r) => bytes += r.data.len() as u64,
                Err(EngineError::NotFound) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(bytes)
    }
}

impl Handle<GetSpace> for Storage {
    async fn handle(me: &Me<Self>, _: GetSpace, cx: &Cx) -> Result<TargetSpace, StorageError> {
        let (engine, disk) = me.with(|s| (s.engine.clone(), s.disk));
        let below = cx.disk(disk).space().await.map_err(|e| StorageError::Failed(e.to_string()))?;
        let s = engine.space();
        // The journal grows and shrinks up to a limit: that much is never promised to users.
        let journal = JOURNAL_MAX.saturating_sub(s.journal_bytes);
        Ok(TargetSpace {
            disk_capacity: below.capacity,
            disk_free: below.free.saturating_sub(journal),
            reusable: s.reusable,
            used: s.used,
            chunks: s.chunks,
            disk: disk.0,
        })
    }
}

impl Handle<NewRouting> for Storage {
    async fn handle(me: &Me<Self>, m: NewRouting, _: &Cx) {
        me.with(|s| s.adopt(m.routing));
    }
}

impl Handle<LeaseHeld> for Storage {
    async fn handle(me: &Me<Self>, m: LeaseHeld, _: &Cx) {
        me.with(|s| {
            if m.until_us > s.lease.until_us {
                s.lease = m;
            }
        });
    }
}
