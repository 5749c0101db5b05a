//! Opening a target: the newest checkpoint, the journal behind it, then the allocator from the
//! rows.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use t3fs_runtime::disk::OpenMode;
use t3fs_runtime::{Bell, Cx, Disk, DiskError, DiskId, FileId};

use super::EngineConfig;
use super::allocator::Allocator;
use super::block::{self, CHECKPOINT, HEADER, Header, JOURNAL};
use super::checkpoint::{CheckpointItem, Start, decode_item};
use super::codec::Take;
use super::error::EngineError;
use super::index::Index;
use super::journal::{GROUP_MAX, Journal, Tail};
use super::layout::{Class, GRANULE, SUPERBLOCK, checkpoint_name, journal_name, numbered};
use super::log::fresh_segment;
use super::record::Record;
use super::row::Row;
use super::state::{DataFile, EngineState, Inner};
use super::superblock::{self, TargetIdentity, check};
use crate::proto::ids::{ChainId, ChunkId, TargetId};

pub const FIRST_SEGMENT: u32 = 1;
/// Length of one read of a journal segment or checkpoint.
const WINDOW: usize = 4 << 20;
/// What an engine holds besides its configured caches, in bytes: the block of the journal that is
/// being written, and while it opens the window that it reads.
pub const JOURNAL_BUFFERS_BYTES_MAX: usize = GROUP_MAX + WINDOW;

fn bad<T>(dir: &str, why: impl std::fmt::Display) -> Result<T, EngineError> {
    Err(EngineError::BadFormat(format!("target folder {dir}: {why}")))
}

/// A file read from front to back in large pieces.
struct Scan<'a> {
    disk: &'a Disk,
    file: FileId,
    len: u64,
    /// Where `have` begins in the file.
    at: u64,
    have: Vec<u8>,
}

impl Scan<'_> {
    /// At least `n` bytes from the current place, or what there is.
    async fn peek(&mut self, n: usize) -> Result<&[u8], DiskError> {
        while self.have.len() < n {
            let from = self.at + self.have.len() as u64;
            let left = (self.len - from) as usize / GRANULE * GRANULE;
            if left == 0 {
                break;
            }
            let want = (n - self.have.len()).next_multiple_of(GRANULE).max(WINDOW).min(left);
            let piece = self.disk.read(self.file, from, want).await?;
            self.have.extend_from_slice(&piece);
        }
        Ok(&self.have)
    }

    fn skip(&mut self, n: usize) {
        self.have.drain(..n);
        self.at += n as u64;
    }

    /// The block here, if there is an undamaged one no longer than `max`.
    async fn block(
        &mut self,
        magic: u32,
        max: usize,
    ) -> Result<Option<(Header, &[u8])>, DiskError> {
        let Some(h) = block::header(self.peek(GRANULE).await?, magic) else { return Ok(None) };
        if h.payload as usize > max {
            return Ok(None);
        }
        Ok(block::open(self.peek(HEADER + h.payload as usize).await?, magic))
    }
}

/// What a checkpoint held.
#[derive(Default)]
struct Loaded {
    rows: Vec<(ChunkId, Row)>,
    gone: BTreeMap<ChunkId, u64>,
    epoch: u32,
    bytes: u64,
}

/// The state of the log while it is replayed.
struct Replay<'a> {
    dir: &'a str,
    index: Index,
    gone: BTreeMap<ChunkId, u64>,
    next: Start,
    epoch: u32,
}

async fn load_checkpoint(
    disk: &Disk,
    dir: &str,
    segment: u32,
) -> Result<(Start, Loaded), EngineError> {
    let name = checkpoint_name(segment);
    let (file, len) = disk.open(&format!("{dir}/{name}"), OpenMode::Existing).await?;
    let mut scan = Scan { disk, file, len, at: 0, have: Vec::new() };
    let mut out = Loaded { bytes: len, ..Loaded::default() };
    let mut start = None;
    for seq in 0.. {
        let found = scan.block(CHECKPOINT, usize::MAX).await?;
        let Some((h, payload)) = found.filter(|(h, _)| h.seq == seq) else {
            return bad(dir, format!("{name} is damaged; replace this target from its chain"));
        };
        let skip = block::block_len(payload.len());
        if payload.is_empty() {
            if h.first != out.rows.len() as u64 {
                return bad(dir, format!("{name} lacks rows; replace this target from its chain"));
            }
            break;
        }
        let mut items = || {
            if seq == 0 {
                out.epoch = h.epoch;
                start = Some(Start::decode(payload)?);
                return Ok(());
            }
            let mut t = Take(payload);
            while !t.0.is_empty() {
                match decode_item(&mut t)? {
                    CheckpointItem::Row(chunk, row) => out.rows.push((chunk, row)),
                    CheckpointItem::Gone(chunk, usn) => drop(out.gone.insert(chunk, usn)),
                }
            }
            Ok::<(), super::codec::Malformed>(())
        };
        if let Err(e) = items() {
            return bad(dir, format!("{name}: {}; was it written by a newer t3fs?", e.0));
        }
        scan.skip(skip);
    }
    disk.close(file).await?;
    if !out.rows.is_sorted_by(|a, b| a.0 < b.0) {
        return bad(dir, format!("{name} is out of order; replace this target from its chain"));
    }
    Ok((start.expect("the first block was read"), out))
}

impl Replay<'_> {
    /// Replays one segment; returns whether it had any valid block.
    async fn segment(&mut self, disk: &Disk, number: u32) -> Result<bool, EngineError> {
        let name = journal_name(number);
        let opened = disk.open(&format!("{}/{name}", self.dir), OpenMode::Existing).await?;
        let (file, len) = opened;
        let mut scan = Scan { disk, file, len, at: 0, have: Vec::new() };
        let mut any = false;
        loop {
            let found = scan.block(JOURNAL, GROUP_MAX).await?;
            let follows = |h: &Header| h.seq == self.next.seq && h.epoch >= self.epoch;
            let Some((h, payload)) = found.filter(|(h, _)| follows(h)) else { break };
            self.take(&name, h, payload)?;
            any = true;
            let len = block::block_len(payload.len());
            scan.skip(len);
        }
        self.look_behind(&mut scan, &name).await?;
        if any {
            // What we read may be in a cache only, and we are about to build on it.
            disk.sync(file).await?;
        }
        disk.close(file).await?;
        Ok(any)
    }

    /// Whether a segment that is not reached holds a part of the log.
    async fn begins(&self, disk: &Disk, number: u32) -> Result<bool, EngineError> {
        let name = format!("{}/{}", self.dir, journal_name(number));
        let (file, len) = disk.open(&name, OpenMode::Existing).await?;
        let mut scan = Scan { disk, file, len, at: 0, have: Vec::new() };
        let found = scan.block(JOURNAL, GROUP_MAX).await?;
        let begins = found.is_some_and(|(h, _)| h.seq >= self.next.seq && h.epoch >= self.epoch);
        disk.close(file).await?;
        Ok(begins)
    }

    /// One group is in flight at a time, so nothing valid follows a torn block. If something does,
    /// the block was damaged later, and going on would lose what was acknowledged.
    async fn look_behind(&self, scan: &mut Scan<'_>, name: &str) -> Result<(), EngineError> {
        let window = scan.peek(2 * GROUP_MAX).await?;
        for at in (0..window.len()).step_by(GRANULE) {
            let Some(h) = block::header(&window[at..], JOURNAL) else { continue };
            let later = h.seq > self.next.seq && h.epoch >= self.epoch;
            if later && block::open(&window[at..], JOURNAL).is_some() {
                return bad(
                    self.dir,
                    format!(
                        "{name} is damaged in front of block {}; replace this target from its \
                         chain",
                        h.seq
                    ),
                );
            }
        }
        Ok(())
    }

    fn take(&mut self, name: &str, h: Header, payload: &[u8]) -> Result<(), EngineError> {
        let mut t = Take(payload);
        let mut usn = h.first;
        while !t.0.is_empty() {
            let record = match Record::decode(&mut t) {
                Ok(r) => r,
                Err(e) => {
                    let why = format!("{name}, block {}: {}; a newer t3fs?", h.seq, e.0);
                    return bad(self.dir, why);
                }
            };
            let chunk = record.chunk();
            self.next.version = self.next.version.max(record.version().0);
            let row = self.index.get(chunk).map_or(0, |r| r.usn);
            let gone = self.gone.get(&chunk).copied().unwrap_or(0);
            if usn > row.max(gone)
                && let Err(why) = self.index.install(usn, record)
            {
                return bad(self.dir, format!("{name}: {why}; replace this target"));
            }
            usn += 1;
        }
        self.next.usn = self.next.usn.max(usn);
        self.next.seq = h.seq + 1;
        self.epoch = h.epoch;
        Ok(())
    }
}

/// Opens the target in `dir`.
pub async fn open(
    cx: &Cx,
    disk_id: DiskId,
    dir: &str,
    expect: &TargetIdentity,
    cfg: EngineConfig,
) -> Result<Rc<Inner>, EngineError> {
    let disk = cx.disk(disk_id);
    check_superblock(&disk, dir, expect).await?;
    // Names we are about to trust must not go back.
    disk.sync_dir(dir).await?;
    let names = disk.list(dir).await?;
    let checkpoint = names.iter().filter_map(|n| numbered("checkpoint", n)).max();
    let (start, loaded) = match checkpoint {
        Some(n) => load_checkpoint(&disk, dir, n).await?,
        None => (Start { seq: 1, usn: 1, version: 0 }, Loaded::default()),
    };
    let first = checkpoint.unwrap_or(FIRST_SEGMENT);
    let segments: BTreeSet<u32> = names.iter().filter_map(|n| numbered("journal", n)).collect();
    let bytes = loaded.bytes;
    let mut log = Replay {
        dir,
        next: above(&loaded.rows, start),
        index: Index::from_rows(loaded.rows),
        gone: loaded.gone,
        epoch: loaded.epoch,
    };
    let last = replay(&disk, &mut log, first, &segments).await?;
    let segment = last.map_or(first, |n| n + 1);
    let keep = first..=segment;
    for name in &names {
        let old_journal = numbered("journal", name).is_some_and(|n| !keep.contains(&n));
        let old_checkpoint = numbered("checkpoint", name).is_some_and(|n| Some(n) != checkpoint);
        if old_journal || old_checkpoint || name.ends_with(".tmp") {
            disk.remove(&format!("{dir}/{name}")).await?;
        }
    }
    let file = writable_segment(cx, disk_id, dir, segment, &segments, &cfg).await?;
    let mut allocator = Allocator::new(cfg.group_bytes);
    let files = open_data(&disk, dir, &names, &mut allocator).await?;
    if let Err(why) = claim_all(&log.index, &mut allocator) {
        return bad(dir, format!("{why}; replace this target from its chain"));
    }
    let tail = Tail { segment, file, at: 0 };
    let journal = Journal::new(tail, log.epoch + 1, log.next, first);
    let mut state = EngineState::new(log.index, allocator, journal, &cfg);
    state.dirty = dirty(&state.index);
    state.files = files;
    state.checkpoint_bytes = bytes;
    let inner = Inner::new(disk_id, dir, cfg, state);
    inner.prepare_in_background(cx);
    inner.tend(cx);
    Ok(inner)
}

/// Rows may be younger than the start of the segment that their checkpoint goes with.
fn above(rows: &[(ChunkId, Row)], mut start: Start) -> Start {
    for (_, row) in rows {
        start.usn = start.usn.max(row.usn + 1);
        let pending = row.pending().map_or(0, |p| p.state.version.0);
        start.version = start.version.max(row.state.version.0).max(pending);
    }
    start
}

async fn check_superblock(
    disk: &Disk,
    dir: &str,
    expect: &TargetIdentity,
) -> Result<(), EngineError> {
    match superblock_bytes(disk, dir).await? {
        None => bad(dir, "no target was ever finished here"),
        Some(b) if b.is_empty() => bad(dir, EMPTY_SUPERBLOCK),
        Some(b) => check(&b, expect).map(drop).or_else(|why| bad(dir, why)),
    }
}

const EMPTY_SUPERBLOCK: &str = "its superblock is empty; restore the target from its chain";

/// `None`: there is none.
async fn superblock_bytes(disk: &Disk, dir: &str) -> Result<Option<Vec<u8>>, DiskError> {
    let (file, len) = match disk.open(&format!("{dir}/{SUPERBLOCK}"), OpenMode::Existing).await {
        Ok(f) => f,
        Err(DiskError::NotFound) => return Ok(None),
        Err(e) => return Err(e),
    };
    let len = (len as usize / GRANULE * GRANULE).min(16 * GRANULE);
    let bytes = if len == 0 { None } else { Some(disk.read(file, 0, len).await) };
    disk.close(file).await?;
    Ok(Some(bytes.transpose()?.map(|b| b.to_vec()).unwrap_or_default()))
}

/// Which target is in `dir`: `None` if none was ever finished there. A superblock that cannot be
/// understood is refused with a sentence that says what to do.
pub async fn identity(
    cx: &Cx,
    disk: DiskId,
    dir: &str,
) -> Result<Option<TargetIdentity>, EngineError> {
    let Some(bytes) = superblock_bytes(&cx.disk(disk), dir).await? else { return Ok(None) };
    if bytes.is_empty() {
        return bad(dir, EMPTY_SUPERBLOCK);
    }
    let s = superblock::read(&bytes).or_else(|why| bad(dir, why))?;
    let (target, chain) = (TargetId(s.target), ChainId(s.chain));
    Ok(Some(TargetIdentity { cluster: s.cluster, target, chain }))
}

/// Replays all segments from `first` on; the last one that had a valid block.
async fn replay(
    disk: &Disk,
    log: &mut Replay<'_>,
    first: u32,
    segments: &BTreeSet<u32>,
) -> Result<Option<u32>, EngineError> {
    if !segments.contains(&first) {
        let why = format!("{} is missing; replace this target", journal_name(first));
        return bad(log.dir, why);
    }
    let mut last = None;
    let mut next = first;
    while segments.contains(&next) {
        if log.segment(disk, next).await? {
            last = Some(next);
        }
        next += 1;
    }
    // An opening removes the segments behind the one it writes to, and a crash may bring some of
    // them back: they hold nothing of the log. If one does, the one in front of it was lost.
    for &n in segments.range(next..) {
        if log.begins(disk, n).await? {
            let why = format!("{} is missing; replace this target", journal_name(next));
            return bad(log.dir, why);
        }
    }
    Ok(last)
}

/// An empty segment may be there already; one of another length is made anew.
async fn writable_segment(
    cx: &Cx,
    disk_id: DiskId,
    dir: &str,
    segment: u32,
    there: &BTreeSet<u32>,
    cfg: &EngineConfig,
) -> Result<FileId, EngineError> {
    if there.contains(&segment) {
        let disk = cx.disk(disk_id);
        let name = format!("{dir}/{}", journal_name(segment));
        let (file, len) = disk.open(&name, OpenMode::Existing).await?;
        if len == cfg.journal_segment_bytes {
            return Ok(file);
        }
        disk.close(file).await?;
    }
    Ok(fresh_segment(cx, disk_id, dir, segment, cfg.journal_segment_bytes).await?)
}

async fn open_data(
    disk: &Disk,
    dir: &str,
    names: &[String],
    allocator: &mut Allocator,
) -> Result<BTreeMap<Class, DataFile>, EngineError> {
    let mut files = BTreeMap::new();
    for class in Class::all() {
        let name = class.file_name();
        if !names.contains(&name) {
            continue;
        }
        let (file, len) = disk.open(&format!("{dir}/{name}"), OpenMode::Existing).await?;
        let whole = allocator.found(class, len);
        if whole != len {
            disk.truncate(file, whole).await?;
        }
        // Its length may be in a cache only (the process that made it was killed before its sync),
        // and records are about to refer to what is inside it.
        disk.sync(file).await?;
        files.insert(class, DataFile { file, syncing: false, synced: Bell::default() });
    }
    Ok(files)
}

fn claim_all(index: &Index, allocator: &mut Allocator) -> Result<(), String> {
    for (_, row) in index.iter() {
        let pending = row.pending().and_then(|p| p.extent());
        for extent in [row.base.extent, pending].into_iter().flatten() {
            allocator.claim(extent)?;
        }
    }
    Ok(())
}

fn dirty(index: &Index) -> BTreeSet<ChunkId> {
    let layered =
        |(chunk, row): (&ChunkId, &Row)| row.layer().filter(|l| !l.is_empty()).map(|_| *chunk);
    index.iter().filter_map(layered).collect()
}
