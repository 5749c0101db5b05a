//! The actor of one target: what it is, what it does of its own accord, and what it tells.
//! Updates are in `write.rs`, bringing another target up to date in `resync.rs`.

use core::time::Duration;
use std::rc::Rc;

use t3fs_runtime::line::{Grant, Turn};
use t3fs_runtime::slot::before;
use t3fs_runtime::{Actor, Addr, Bulk, Cx, DiskId, Handle, Me, RawAddr, Slot, Time, join_all};

use super::ahead::{Ahead, ChunkRange, HintedRead};
use super::core::{Core, LINE_MAX};
use super::engine::{ChunkInfo, Engine, EngineError, JOURNAL_SEGMENT_BYTES, Read};
use super::removals::Removals;
use super::sync_out::SyncOut;
use crate::planted::PlantedBug;
use crate::proto::agent::Agent;
use crate::proto::agent::{GetView, ReportTarget};
use crate::proto::ids::{ChainId, ChainVersion, ChunkId, RequestId, TargetId};
use crate::proto::mgmtd::{ClusterView, LocalState, TargetReport, TargetSpace};
use crate::proto::storage::Storage;
use crate::proto::storage::*;

pub struct StorageConfig {
    pub engine: Engine,
    pub target: TargetId,
    pub chain: ChainId,
    pub agent: Addr<Agent>,
    pub disk: DiskId,
    /// Chunks that a resync lists at a time: [`RESYNC_PAGE`] outside of tests.
    pub resync_page: u32,
    /// `None` outside of tests.
    pub watch: Option<Rc<dyn Fn(&TargetEvent)>>,
}

/// What a target does that only a member in good standing may, for those who check it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetEvent {
    /// The target answers a read.
    Served { target: TargetId, chain: ChainId },
    /// The target acknowledges an update that nobody else has.
    AckedAlone { target: TargetId, chain: ChainId },
    /// Its predecessor has told it that everything is here.
    Synced { target: TargetId, chain: ChainId, chain_version: ChainVersion },
}

/// One target.
pub struct Target {
    pub(super) core: Core,
    pub(super) engine: Engine,
    ahead: Ahead,
    pub(super) removals: Removals,
    agent: Addr<Agent>,
    target: TargetId,
    /// Its own address.
    pub(super) me: RawAddr,
    disk: DiskId,
    pub(super) resync_page: u32,
    /// The planted mistake: leases are not looked at.
    ignores_lease: bool,
    /// In which version of the chain a successor said last that it has no space, and when.
    pub(super) full_behind: Option<(ChainVersion, Time)>,
    /// A routing fetch is under way; others wait for its result by polling their own.
    fetching: bool,
    /// The session with the successor that is brought up to date.
    pub(super) sync_out: Option<SyncOut>,
    /// Sessions so far.
    pub(super) sync_sessions: u64,
    pub(super) stats: ResyncStats,
    /// Filled to tell the agent now.
    pub(super) tell: Slot<()>,
    /// Its node speaks for it from now on.
    silent: bool,
    watch: Option<Rc<dyn Fn(&TargetEvent)>>,
}

impl Actor for Target {
    type Protocol = Storage;
}

/// Pending updates driven on side by side.
const DRIVE_WIDTH: usize = 16;
/// How long one of them is driven before others have their turn, and the pause before it has its
/// next.
pub(super) const DRIVE_MAX: Duration = Duration::from_secs(30);
const DRIVE_PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for a chunk's lock of what the target does of its own accord.
pub(super) const LOCK_MAX: Duration = Duration::from_secs(30);
/// Longest wait for newer routing.
const FETCH_MAX: Duration = Duration::from_millis(500);
/// How often the agent is told how full the target is, and that its disk still works.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How often emptied chunks are looked at.
const PURGE_EVERY: Duration = Duration::from_secs(10);
/// What a target's journal takes at most, in bytes: six segments of the default size.
const JOURNAL_MAX: u64 = 6 * JOURNAL_SEGMENT_BYTES;
/// Chunks that a resync lists at a time.
pub const RESYNC_PAGE: u32 = 1024;
/// Most chunks in one listing.
pub(super) const LIST_MAX: u32 = 4096;
// A listing that was cut short would be taken for all that there is.
const _: () = assert!(RESYNC_PAGE <= LIST_MAX);

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
pub(super) struct Locked {
    _grant: Grant<ChunkId>,
}

impl Locked {
    /// For a request: waits until its deadline. `NotReady`: that has passed, or too many wait;
    /// nothing was begun, and the sender may ask again under the same request id.
    pub(super) async fn take(
        me: &Me<Target>,
        chunk: ChunkId,
        cx: &Cx,
    ) -> Result<Locked, StorageError> {
        Self::within(me, chunk, LINE_MAX, cx).await
    }

    /// For what the target does of its own accord, a few things at a time, however long the line
    /// is; waits [`LOCK_MAX`] at most.
    pub(super) async fn take_own(
        me: &Me<Target>,
        chunk: ChunkId,
        cx: &Cx,
    ) -> Result<Locked, StorageError> {
        Self::within(me, chunk, usize::MAX, &cx.within(LOCK_MAX)).await
    }

    async fn within(
        me: &Me<Target>,
        chunk: ChunkId,
        line_max: usize,
        cx: &Cx,
    ) -> Result<Locked, StorageError> {
        let place = match me.with(|s| s.core.lock(chunk, line_max))? {
            Turn::Now(grant) => return Ok(Locked { _grant: grant }),
            Turn::Waits(place) => place,
        };
        let grant = cx.in_time(place).await.ok_or(StorageError::NotReady)?;
        // What is late does not begin, however it got its turn.
        if cx.expired() { Err(StorageError::NotReady) } else { Ok(Locked { _grant: grant }) }
    }
}

/// A fetch of routing, over when dropped: whoever waits for it may be stopped by a change of the
/// chain.
struct Fetching(Me<Target>);

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.with(|s| s.fetching = false);
    }
}

impl Target {
    /// Starts the actor and what it does of its own accord.
    pub fn start(cx: &Cx, config: StorageConfig) -> Addr<Storage> {
        let actor = Target {
            core: Core::new(config.target, config.chain),
            engine: config.engine,
            ahead: Ahead::default(),
            removals: Removals::default(),
            agent: config.agent,
            target: config.target,
            me: RawAddr::default(),
            disk: config.disk,
            resync_page: config.resync_page,
            ignores_lease: PlantedBug::NoLeaseCheck.is_in(cx),
            full_behind: None,
            fetching: false,
            sync_out: None,
            sync_sessions: 0,
            stats: ResyncStats::default(),
            tell: Slot::new(),
            silent: false,
            watch: config.watch,
        };
        let (addr, me) = cx.start_with(actor);
        me.with(|s| s.me = addr.raw());
        cx.spawn(Self::report(me.clone(), cx.outlive()));
        cx.spawn(Self::drive(me.clone(), cx.outlive()));
        cx.spawn(Self::resync(me.clone(), cx.outlive()));
        cx.spawn(Self::purge_all(me, cx.outlive()));
        addr
    }

    /// Until its node speaks for it: tells the agent what this target is, at once when that
    /// changes.
    async fn report(me: Me<Self>, cx: Cx) {
        let mut pause = Duration::from_millis(20);
        loop {
            let (agent, report, tell, silent) = me.with(|s| {
                s.tell = Slot::new();
                (s.agent, s.state(), s.tell.clone(), s.silent)
            });
            if silent {
                return;
            }
            let told = cx.within(FETCH_MAX).ask(agent, ReportTarget { report }).await.is_ok();
            pause = if told { TELL_EVERY } else { (pause * 2).min(TELL_EVERY) };
            // Ended either way: it tells again.
            let _ = before(cx.sleep(pause), tell).await;
        }
    }

    /// Ends the target's service when its disk has failed.
    fn look_at_disk(&mut self) {
        if let Some(why) = self.engine.failure()
            && self.core.member.retire()
        {
            tracing::error!("target {} serves no more: {why}", self.target);
            self.tell.fill(());
        }
    }

    /// What the sender of an update is told when the engine does not take it. With other replicas
    /// about, a failed disk is no error: the chain goes on without it, and the sender with that.
    pub(super) fn refusal(&mut self, e: EngineError) -> StorageError {
        self.look_at_disk();
        let others = self.core.member.chain().is_ok_and(|c| c.targets.len() > 1);
        if others && self.core.member.retired() { StorageError::NotReady } else { e.into() }
    }

    /// What mgmtd is to know of this target.
    fn state(&mut self) -> TargetReport {
        self.look_at_disk();
        let member = &self.core.member;
        let (local, chain_version) = match member.up_to_date() {
            _ if member.retired() => (LocalState::Offline, ChainVersion(0)),
            Some(version) => (LocalState::UpToDate, version),
            None => (LocalState::Online, ChainVersion(0)),
        };
        let used_bytes = self.engine.space().used;
        TargetReport { target: self.target, addr: self.me, local, chain_version, used_bytes }
    }

    /// For ever: while this target serves, drives on what is pending, after a start and after each
    /// change of the chain: a dead tail may have acknowledged it, a new successor lacks it.
    async fn drive(me: Me<Self>, cx: Cx) {
        let mut was_head = false;
        loop {
            let change = me.with(|s| s.core.member.change());
            if me.with(|s| s.core.member.chain().is_err()) {
                Self::fetch_routing(&me, false, &cx).await;
                // Ended by the one or the other: it looks again.
                let _ = before(cx.sleep(Duration::from_millis(200)), change).await;
                continue;
            }
            let (serves, is_head) = me.with(|s| (s.core.member.serving(), s.core.member.is_head()));
            let all_done = !serves || Self::drive_all(&me, &cx).await;
            if is_head && !was_head {
                Self::find_empty(&me, &cx).await;
            }
            was_head = is_head;
            if all_done {
                change.await;
            } else {
                // Ended by the one or the other: it looks again.
                let _ = before(cx.sleep(DRIVE_PAUSE), change).await;
            }
        }
    }

    /// `false`: some were given up for now.
    async fn drive_all(me: &Me<Self>, cx: &Cx) -> bool {
        let mut pending = me.with(|s| s.engine.pending());
        if PlantedBug::DriveOnlySixteen.is_in(cx) {
            pending.truncate(DRIVE_WIDTH);
        }
        let mut all_done = true;
        for some in pending.chunks(DRIVE_WIDTH) {
            let done = join_all(some.iter().map(|c| Self::drive_one(me, *c, cx))).await;
            all_done &= done.into_iter().all(|d| d);
        }
        all_done
    }

    /// `false`: it takes too long for now. The update stays pending, so that others can be driven;
    /// it is stored as it was, and to be sent again.
    async fn drive_one(me: &Me<Self>, chunk: ChunkId, cx: &Cx) -> bool {
        let Ok(_lock) = Locked::take_own(me, chunk, cx).await else { return false };
        match cx.within(DRIVE_MAX).in_time(Self::redrive(me, chunk, cx)).await {
            Some(Ok(_)) => {}
            // The predecessor that brings this target up to date decides what becomes of it.
            Some(Err(StorageError::WrongTarget)) => {}
            Some(Err(e)) => tracing::error!("chunk {chunk} keeps an update that cannot go on: {e}"),
            None => {
                tracing::warn!("an update of chunk {chunk} does not get to all replicas yet");
                return false;
            }
        }
        true
    }

    async fn purge_all(me: Me<Self>, cx: Cx) {
        loop {
            cx.sleep(PURGE_EVERY).await;
            while let Some(chunk) = me.with(|s| s.core.purgeable(cx.now())) {
                Self::purge(&me, chunk, &cx).await;
            }
        }
    }

    /// Removed chunks whose rows an earlier head did not purge.
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
            let member = &s.core.member;
            let chain = member.chain().ok().map(|c| (c.version, c.writers().count()));
            chain.filter(|_| empty && member.is_head())
        });
        let Some((chain_version, targets)) = ready else { return };
        let u = UpdateChunk {
            chunk,
            chain_version,
            kind: UpdateKind::Remove,
            data: Bulk::default(),
            request: RequestId::default(),
            version: None,
            born: chain_version,
            hops: targets.saturating_sub(1) as u8,
        };
        if let Err(e) = Self::carry_out(me, u, &cx.within(LOCK_MAX)).await {
            tracing::debug!("row of {chunk} not purged yet: {e}");
            let now = cx.now();
            me.with(|s| s.core.emptied(chunk, now));
        }
    }

    /// Asks the agent for newer routing; `fresh`: because mgmtd certainly has some.
    pub(super) async fn fetch_routing(me: &Me<Self>, fresh: bool, cx: &Cx) {
        let Some((agent, have)) = me.with(|s| {
            let free = !std::mem::replace(&mut s.fetching, true);
            free.then_some((s.agent, s.core.member.view.version))
        }) else {
            return cx.sleep(Duration::from_millis(5)).await;
        };
        let fetching = Fetching(me.clone());
        let got = cx.within(FETCH_MAX).ask(agent, GetView { have, fresh }).await;
        drop(fetching);
        me.with(|s| {
            // No answer: the caller tries again, it needs the routing to go on.
            if let Ok(Some(r)) = got {
                s.adopt(r);
            }
        });
    }

    fn adopt(&mut self, view: ClusterView) {
        let known = &self.core.member.view;
        let chain = self.core.member.chain_id();
        let version = |v: &ClusterView| v.routing.chain(chain).map(|c| c.version);
        if version(known) != version(&view) {
            self.tell.fill(());
            self.ahead.clear();
        }
        let ended = known.sessions.ended_until(&view.sessions);
        if self.core.member.adopt(view) && ended {
            let sessions = &self.core.member.view.sessions;
            self.engine.forget_sessions(&|s| sessions.is_alive(s));
        }
    }

    pub(super) fn happened(&self, what: impl FnOnce(TargetId, ChainId) -> TargetEvent) {
        if let Some(watch) = &self.watch {
            watch(&what(self.target, self.core.member.chain_id()));
        }
    }

    /// Refuses what needs a lease.
    pub(super) fn leased(&self, now: Time) -> Result<(), StorageError> {
        self.leased_since(now, now)
    }

    /// Refuses what needs a lease that was held all the time from `start` on.
    pub(super) fn leased_since(&self, start: Time, now: Time) -> Result<(), StorageError> {
        let held = self.core.member.held_since(now).is_some_and(|since| since <= start);
        if held || self.ignores_lease {
            return Ok(());
        }
        Err(StorageError::NotReady)
    }
}

impl Handle<ReadChunk> for Target {
    /// CRAQ's apportioned read: any serving target answers from what it has committed; while an
    /// update is pending here only the tail knows whether it counts, so the tail is asked.
    async fn handle(
        me: &Me<Self>,
        m: ReadChunk,
        cx: &Cx,
    ) -> Result<Option<ChunkData>, StorageError> {
        let start = cx.now();
        if let Err(StorageError::BehindChain { .. } | StorageError::NotReady) =
            me.with(|s| s.core.member.admit_read(m.chain_version))
        {
            Self::fetch_routing(me, true, cx).await;
        }
        let dirty = |s: &Target| s.engine.info(m.chunk).is_some_and(|i| i.pending.is_some());
        let (engine, tail) = me.with(|s| {
            s.core.member.admit_read(m.chain_version)?;
            s.leased(start)?;
            let tail = dirty(s).then(|| s.core.member.tail());
            Ok::<_, StorageError>((s.engine.clone(), tail))
        })?;
        match tail {
            Some(Some(tail)) => {
                cx.count("reads of updated chunks passed to the tail", 1);
                let change = me.with(|s| s.core.member.change());
                let answer = before(cx.ask(tail, m), change).await;
                return answer.and_then(Result::ok).unwrap_or(Err(StorageError::NotReady));
            }
            // The tail itself: an earlier tail, or a successor that is about to be one, may have
            // told of it.
            Some(None) => {
                let _lock = Locked::take(me, m.chunk, cx).await?;
                Self::redrive(me, m.chunk, &cx.outlive()).await?;
            }
            None => {}
        }
        let read = match Self::read_before(me, &m).await {
            Some(read) => {
                cx.count("reads answered from what a hint had read", 1);
                Ok(read)
            }
            None => engine.read(cx, m.chunk, m.offset, m.len).await,
        };
        let now = cx.now();
        me.with(|s| {
            s.core.member.admit_read(m.chain_version)?;
            s.leased_since(start, now)?;
            s.happened(|target, chain| TargetEvent::Served { target, chain });
            Ok::<_, StorageError>(())
        })?;
        match read {
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

impl Handle<ReadAhead> for Target {
    async fn handle(me: &Me<Self>, m: ReadAhead, cx: &Cx) {
        let range = ChunkRange { chunk: m.chunk, offset: m.offset, len: m.len };
        let wanted = me.with(|s| {
            let clean = s.engine.info(m.chunk).is_some_and(|i| i.pending.is_none());
            let serves = s.core.member.admit_read(m.chain_version).is_ok();
            let number = if clean && serves { s.ahead.begin(range) } else { None };
            number.map(|n| (n, s.engine.clone()))
        });
        let Some((number, engine)) = wanted else { return };
        // Its end has to be told, or whoever waits for it waits for ever.
        let read = engine.read(&cx.outlive(), m.chunk, m.offset, m.len).await;
        me.with(|s| s.ahead.read(number, read.ok()));
    }
}

impl Target {
    /// What a hint has read of this range, if it is of the version that is committed now.
    async fn read_before(me: &Me<Self>, m: &ReadChunk) -> Option<Read> {
        let range = ChunkRange { chunk: m.chunk, offset: m.offset, len: m.len };
        loop {
            match me.with(|s| s.ahead.take(range)) {
                HintedRead::Here(read) => {
                    let info = me.with(|s| s.engine.info(m.chunk))?;
                    let same = info.committed.is_some_and(|c| c.version == read.version);
                    return (same && info.pending.is_none()).then_some(read);
                }
                HintedRead::Soon(read) => read.await,
                HintedRead::Nothing => return None,
            }
        }
    }
}

impl Handle<ListChunks> for Target {
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

impl Handle<ScrubChunks> for Target {
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

impl Handle<GetSpace> for Target {
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
            file_system: below.file_system,
        })
    }
}

impl Handle<Retire> for Target {
    async fn handle(me: &Me<Self>, _: Retire, _: &Cx) {
        me.with(|s| {
            s.silent = true;
            s.core.member.retire();
            s.tell.fill(());
        });
    }
}

impl Handle<LeaseHeld> for Target {
    async fn handle(me: &Me<Self>, m: LeaseHeld, cx: &Cx) {
        let now = cx.now();
        let behind = me.with(|s| {
            s.core.member.grant(Time::from_us(m.until_us), m.view, now);
            s.core.member.view.version < m.view
        });
        if behind {
            Self::fetch_routing(me, false, cx).await;
        }
    }
}

impl Handle<NewView> for Target {
    async fn handle(me: &Me<Self>, m: NewView, _: &Cx) {
        me.with(|s| s.adopt(m.view));
    }
}
