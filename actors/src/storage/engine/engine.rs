//! The engine as the storage actor uses it.

use std::rc::Rc;

use bytes::Bytes;
use t3fs_runtime::disk::OpenMode;
use t3fs_runtime::{Cx, DiskId, Slot};

use super::error::EngineError;
use super::layout::SUPERBLOCK;
use super::log::fresh_segment;
use super::read::Which;
use super::recover::{self, FIRST_SEGMENT};
use super::row::{Change, Recent, Row};
use super::state::Inner;
use super::superblock::{TargetIdentity, encode};
use super::{Applied, ChunkInfo, EngineConfig, Op, Pending, Read, Space, Update};
use crate::planted::PlantedBug;
use crate::proto::ids::{ChainVersion, ChunkId, ChunkVersion, SessionId};

/// One open target. A clone is the same engine.
#[derive(Clone)]
pub struct Engine(Rc<Inner>);

/// `None`: a removal has been committed, its record is on its way.
fn info_of(row: &Row) -> Option<ChunkInfo> {
    let committed = row.view().map(|v| v.state);
    let pending = row.pending().filter(|p| !p.committing);
    if committed.is_none() && pending.is_none() {
        return None;
    }
    let mut recent = row.recent().to_vec();
    if let Some(p) = row.pending() {
        for r in &p.recents {
            super::row::remember(&mut recent, *r);
        }
        if let Some(r) = p.request {
            super::row::remember(&mut recent, Recent::of(r, p.state.version));
        }
    }
    let pending = pending.map(|p| Pending {
        version: p.state.version,
        chain_version: p.state.chain_version,
        len: p.state.len,
        checksum: p.state.checksum,
        removal: matches!(p.change, Change::Removed),
    });
    Some(ChunkInfo { committed, pending, recent })
}

/// The length of the committed content or of the pending one, whichever is longer.
fn longest(row: &Row) -> u32 {
    let committed = row.view().map_or(0, |v| v.state.len);
    committed.max(row.pending().map_or(0, |p| if p.committing { 0 } else { p.state.len }))
}

impl Engine {
    /// Makes a new target in a folder that holds none.
    pub async fn create(
        cx: &Cx,
        disk_id: DiskId,
        dir: &str,
        id: &TargetIdentity,
        cfg: EngineConfig,
    ) -> Result<Engine, EngineError> {
        let disk = cx.disk(disk_id);
        disk.make_dir(dir).await?;
        let names = disk.list(dir).await?;
        if names.iter().any(|n| n == SUPERBLOCK) {
            let why = format!("target folder {dir} holds a target already; open it instead");
            return Err(EngineError::BadFormat(why));
        }
        // What an unfinished creation left.
        for name in names {
            disk.remove(&format!("{dir}/{name}")).await?;
        }
        let bytes = cfg.journal_segment_bytes;
        let segment = fresh_segment(cx, disk_id, dir, FIRST_SEGMENT, bytes).await?;
        disk.close(segment).await?;
        let temporary = format!("{dir}/{SUPERBLOCK}.tmp");
        let (file, _) = disk.open(&temporary, OpenMode::OrCreate).await?;
        let block = encode(id, [cx.rand(), cx.rand()]);
        let mut buf = disk.alloc(block.len()).await;
        buf.copy_from_slice(&block);
        disk.write(file, 0, buf).await?;
        disk.sync(file).await?;
        disk.close(file).await?;
        disk.rename(&temporary, &format!("{dir}/{SUPERBLOCK}")).await?;
        disk.sync_dir(dir).await?;
        // The folder itself, in each of those above it.
        let mut above = dir;
        while !above.is_empty() {
            above = above.rsplit_once('/').map_or("", |(parent, _)| parent);
            disk.sync_dir(above).await?;
        }
        Engine::open(cx, disk_id, dir, id, cfg).await
    }

    /// Opens a target and recovers what a crash left. Refuses another cluster's or target's folder
    /// and a newer format with a sentence that says what to do.
    pub async fn open(
        cx: &Cx,
        disk: DiskId,
        dir: &str,
        expect: &TargetIdentity,
        cfg: EngineConfig,
    ) -> Result<Engine, EngineError> {
        cfg.check();
        recover::open(cx, disk, dir, expect, cfg).await.map(Engine)
    }

    pub fn info(&self, chunk: ChunkId) -> Option<ChunkInfo> {
        self.0.with(|s| s.index.get(chunk).and_then(info_of))
    }

    /// Carries out one update; durable when it returns. The caller may leave, the update goes on.
    pub async fn apply(&self, cx: &Cx, u: Update) -> Result<Applied, EngineError> {
        self.apply_with(cx, u, Vec::new()).await
    }

    /// The same, with the writers that the sender's replica remembers: for a replacement that
    /// brings a replica up to date.
    pub async fn apply_with(
        &self,
        cx: &Cx,
        u: Update,
        recents: Vec<Recent>,
    ) -> Result<Applied, EngineError> {
        self.run(cx, u, recents, false).await
    }

    /// Makes a chunk what another replica says it is, committed, instead of all that is known of
    /// it here: also instead of pending and higher versions. No content: it is removed. Durable
    /// when it returns; a crash before leaves it as it was or as it is to be.
    pub async fn overwrite(
        &self,
        cx: &Cx,
        chunk: ChunkId,
        (version, chain_version): (ChunkVersion, ChainVersion),
        content: Option<Bytes>,
        recents: Vec<Recent>,
    ) -> Result<Applied, EngineError> {
        let op = content.map_or(Op::Remove, |data| Op::Replace { data });
        let removes = op == Op::Remove;
        let u = Update { chunk, version, chain_version, op, request: None, commit: true };
        match self.run(cx, u, recents, true).await {
            Err(EngineError::NotFound) if removes => Ok(Applied { version, len: 0, checksum: 0 }),
            other => other,
        }
    }

    async fn run(
        &self,
        cx: &Cx,
        u: Update,
        recents: Vec<Recent>,
        overwrite: bool,
    ) -> Result<Applied, EngineError> {
        self.0.with(|s| match s.begin(&u, overwrite, &self.0.cfg) {
            Err(EngineError::TooManyWriters) if PlantedBug::FullWritersTableEvicts.is_in(cx) => {
                s.index.evict_writer(u.chunk);
                s.begin(&u, overwrite, &self.0.cfg)
            }
            begun => begun,
        })?;
        let done = Slot::new();
        let (inner, answer, cx) = (Rc::clone(&self.0), done.clone(), cx.outlive());
        cx.clone().spawn(async move {
            let r = inner.update(&cx, &u, recents, overwrite).await;
            inner.with(|s| s.busy.remove(&u.chunk));
            answer.fill(r);
        });
        done.await
    }

    /// Makes the pending version the committed one: visible at once, durable with a later group.
    /// A crash before that leaves it pending. Fine when it is committed already.
    pub fn commit(
        &self,
        cx: &Cx,
        chunk: ChunkId,
        version: ChunkVersion,
        chain_version: ChainVersion,
    ) -> Result<(), EngineError> {
        if self.0.with(|s| s.commit(chunk, version, chain_version))? {
            self.0.write_lazily(cx);
        }
        Ok(())
    }

    /// Reads committed content, short at the end of the chunk.
    pub async fn read(
        &self,
        cx: &Cx,
        chunk: ChunkId,
        offset: u32,
        len: u32,
    ) -> Result<Read, EngineError> {
        let (state, data) = self.0.read_content(cx, chunk, Which::Committed, offset, len).await?;
        Ok(Read { version: state.version, chunk_len: state.len, data: data.into() })
    }

    /// The pending version as an update that makes it from anything: to drive a chain again.
    pub async fn read_pending(&self, cx: &Cx, chunk: ChunkId) -> Result<Update, EngineError> {
        let info = self.info(chunk).ok_or(EngineError::NotFound)?;
        let pending = info.pending.ok_or(EngineError::NotFound)?;
        let request = self.0.with(|s| s.index.get(chunk)?.pending()?.request);
        let op = if pending.removal {
            Op::Remove
        } else {
            let len = pending.len;
            let content = self.0.read_content(cx, chunk, Which::Pending, 0, len).await?;
            if content.0.version != pending.version {
                return Err(EngineError::Busy);
            }
            Op::Replace { data: content.1.into() }
        };
        Ok(Update {
            chunk,
            version: pending.version,
            chain_version: pending.chain_version,
            op,
            request,
            commit: false,
        })
    }

    /// Above every version this target ever used for any chunk: what a new chunk begins with.
    pub fn fresh_version(&self) -> ChunkVersion {
        self.0.with(|s| ChunkVersion(s.journal.top_version + 1))
    }

    /// Chunks with a pending version.
    pub fn pending(&self) -> Vec<ChunkId> {
        self.0.with(|s| {
            let waits = |c: &&ChunkId| {
                s.index.get(**c).and_then(|r| r.pending()).is_some_and(|p| !p.committing)
            };
            s.index.pending().iter().filter(waits).copied().collect()
        })
    }

    /// Chunks from `from` (inclusive) on, in order.
    pub fn list(&self, from: ChunkId, limit: usize) -> Vec<(ChunkId, ChunkInfo)> {
        self.0.with(|s| {
            let rows = s.index.range(from).filter_map(|(c, r)| Some((*c, info_of(r)?)));
            rows.take(limit).collect()
        })
    }

    /// The next `rows` chunks from `from` (inclusive) on, in order, with the length that each has,
    /// or will have once its pending version is committed, whichever is longer.
    pub fn lengths(&self, from: ChunkId, rows: usize) -> Vec<(ChunkId, u32)> {
        self.0.with(|s| s.index.range(from).take(rows).map(|(c, r)| (*c, longest(r))).collect())
    }

    /// Why the target takes no updates any more, if so: its disk has failed.
    pub fn failure(&self) -> Option<String> {
        self.0.with(|s| s.failed.clone())
    }

    pub fn space(&self) -> Space {
        self.0.with(|s| {
            let j = &s.journal;
            let segments = j.tail.segment - j.checkpoint + 1 + u32::from(j.spare.is_some());
            Space {
                used: s.allocator.used(),
                reusable: s.allocator.present() - s.allocator.used(),
                chunks: s.index.len() as u64,
                pending: s.index.pending().len(),
                extents: s.allocator.used_slots(),
                overlay_bytes: s.overlay(),
                journal_bytes: (u64::from(segments) + j.retired.len() as u64)
                    * self.0.cfg.journal_segment_bytes,
            }
        })
    }

    /// Drops what is remembered of sessions that are gone.
    pub fn forget_sessions(&self, live: &dyn Fn(SessionId) -> bool) {
        self.0.with(|s| s.index.forget(live));
    }

    /// Applies, checkpoints and syncs everything. Every later call answers `Failed`.
    pub async fn close(&self, cx: &Cx) -> Result<(), EngineError> {
        self.0.close(cx).await
    }

    /// Checks what must hold between updates, by a scan of all rows; for tests.
    pub fn assert_sound(&self) {
        self.0.with(|s| s.assert_sound());
    }

    /// Writes a checkpoint now instead of when it is due.
    pub async fn checkpoint(&self, cx: &Cx) {
        if !self.0.with(|s| std::mem::replace(&mut s.checkpointing, true)) {
            self.0.checkpoint_now(cx).await;
        }
    }
}

impl EngineConfig {
    fn check(&self) {
        let record = (self.small_update_max + super::RECORD_HEAD_MAX) as u64;
        assert!(self.journal_segment_bytes >= 2 * record, "a segment holds several small updates");
        assert!(self.journal_segment_bytes.is_multiple_of(4096));
    }
}
