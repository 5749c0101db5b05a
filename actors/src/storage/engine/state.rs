//! All that an engine keeps in memory, and the steps that change it. Nothing here waits.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use t3fs_runtime::{Bell, Cx, Disk, DiskId, FileId, Slot};

use super::allocator::Allocator;
use super::cache::PageCache;
use super::error::EngineError;
use super::index::Index;
use super::journal::{Entry, Journal};
use super::layout::{CHUNK_MAX, Class, Extent};
use super::pins::Pins;
use super::record::Record;
use super::{EngineConfig, Op, Update};
use crate::proto::ids::{ChainVersion, ChunkId, ChunkVersion, INODE_END};

/// What becomes of an update that needs overlay room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    Reserved,
    /// All of the overlay is pending, and only commits from outside make room: it is to be copied.
    Never,
}

/// An engine as its tasks share it.
pub struct Inner {
    pub disk: DiskId,
    pub dir: String,
    pub cfg: EngineConfig,
    state: RefCell<EngineState>,
}

pub struct DataFile {
    pub file: FileId,
    pub syncing: bool,
    /// For the tasks that wait for a sync that begins after now.
    pub synced: Bell<Result<(), EngineError>>,
}

pub struct EngineState {
    pub index: Index,
    pub allocator: Allocator,
    pub pins: Pins,
    pub cache: PageCache,
    pub journal: Journal,
    pub files: BTreeMap<Class, DataFile>,
    /// Chunks with an update under way.
    pub busy: BTreeSet<ChunkId>,
    /// Chunks with a committed layer.
    pub dirty: BTreeSet<ChunkId>,
    /// Overlay bytes of updates under way.
    reserved: usize,
    overlay_max: usize,
    /// Updates that wait for room in the overlay, first come first served.
    room: VecDeque<(usize, Slot<Room>)>,
    /// For updates that wait for a data file to grow or shrink.
    pub resized: Bell,
    /// For those who wait for a spare journal segment to be ready or refused.
    pub prepared: Bell,
    /// The last attempt at a spare segment found the disk full.
    pub spare_refused: bool,
    /// The disk has no space for small updates that are in the journal.
    pub apply_refused: bool,
    pub applying: bool,
    /// Chunks up to here were put into the checkpoint that is being written.
    pub cursor: Option<ChunkId>,
    /// Chunks removed behind the cursor of a running checkpoint, with the update that did it.
    pub gone: BTreeMap<ChunkId, u64>,
    pub checkpointing: bool,
    /// Length of the newest checkpoint.
    pub checkpoint_bytes: u64,
    /// After a failed checkpoint: the segment to try again at.
    pub checkpoint_not_before: u32,
    pub keeping: bool,
    pub trimming: bool,
    pub freed_bytes: u64,
    /// Nothing is known of the holes in data files: after recovery.
    pub trim_all: bool,
    /// How often free space went back to the host.
    pub given: u64,
    pub failed: Option<String>,
    pub closing: bool,
    /// Nor are reads taken: files are about to be closed.
    pub shut: bool,
}

impl Inner {
    pub fn new(disk: DiskId, dir: &str, cfg: EngineConfig, state: EngineState) -> Rc<Inner> {
        Rc::new(Inner { disk, dir: dir.into(), cfg, state: RefCell::new(state) })
    }

    /// One whole, synchronous step.
    pub fn with<R>(&self, step: impl FnOnce(&mut EngineState) -> R) -> R {
        step(&mut self.state.borrow_mut())
    }

    pub fn disk(&self, cx: &Cx) -> Disk {
        cx.disk(self.disk)
    }

    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// Turns a disk error of a write or sync into the end of all updates. No space is an answer.
    pub fn broken(&self, e: t3fs_runtime::DiskError) -> EngineError {
        let e = EngineError::from(e);
        if e != EngineError::NoSpace {
            self.with(|s| s.fail(&e.to_string()));
        }
        e
    }
}

impl EngineState {
    pub fn new(
        index: Index,
        allocator: Allocator,
        journal: Journal,
        cfg: &EngineConfig,
    ) -> EngineState {
        EngineState {
            index,
            allocator,
            pins: Pins::default(),
            cache: PageCache::new(cfg.checksum_cache_bytes),
            journal,
            files: BTreeMap::new(),
            busy: BTreeSet::new(),
            dirty: BTreeSet::new(),
            reserved: 0,
            overlay_max: cfg.overlay_bytes,
            room: VecDeque::new(),
            resized: Bell::default(),
            prepared: Bell::default(),
            spare_refused: false,
            apply_refused: false,
            applying: false,
            cursor: None,
            gone: BTreeMap::new(),
            checkpointing: false,
            checkpoint_bytes: 0,
            checkpoint_not_before: 0,
            keeping: false,
            trimming: false,
            freed_bytes: 0,
            trim_all: true,
            given: 0,
            failed: None,
            closing: false,
            shut: false,
        }
    }

    pub fn fail(&mut self, why: &str) {
        if self.failed.is_none() {
            tracing::error!("a target takes no updates any more: {why}");
            self.failed = Some(why.into());
        }
        for (_, slot) in self.room.drain(..) {
            slot.fill(Room::Never);
        }
        self.resized.ring(());
    }

    pub fn alive(&self) -> Result<(), EngineError> {
        self.failed.as_ref().map_or(Ok(()), |why| Err(EngineError::Failed(why.clone())))
    }

    pub fn readable(&self) -> Result<(), EngineError> {
        if self.shut { Err(EngineError::Failed("it is closed".into())) } else { Ok(()) }
    }

    fn open(&self) -> Result<(), EngineError> {
        if self.closing {
            return Err(EngineError::Failed("it is closed".into()));
        }
        self.alive()
    }

    /// Checks an update and makes the chunk busy. `overwrite`: whatever versions there are.
    pub fn begin(
        &mut self,
        u: &Update,
        overwrite: bool,
        cfg: &EngineConfig,
    ) -> Result<(), EngineError> {
        self.open()?;
        if u.chunk.inode.0 >= INODE_END {
            let why = format!(
                "chunk {} is of a track or generation, which this build does not know; start a \
                 t3fs-node at least as new as the one that asks for it",
                u.chunk
            );
            return Err(EngineError::InvalidArgument(why));
        }
        let row = self.index.get(u.chunk);
        let have = row.map_or(ChunkVersion(0), |r| r.committed());
        if u.version <= have && !overwrite {
            return Err(EngineError::Stale { have });
        }
        if self.busy.contains(&u.chunk) {
            return Err(EngineError::Busy);
        }
        let replace = matches!(u.op, Op::Replace { .. });
        if let Some(p) = row.and_then(|r| r.pending())
            && !p.committing
            && !overwrite
            && !(replace && u.version >= p.state.version)
        {
            return Err(EngineError::Busy);
        }
        // A removal that is on its way has removed the chunk already.
        let exists = row.is_some_and(|r| r.view().is_some() || overwrite);
        if !exists && u.op == Op::Remove {
            return Err(EngineError::NotFound);
        }
        // A new chunk may begin anywhere: versions go on growing across removal.
        if !replace && !overwrite && exists && u.version.0 != have.0 + 1 {
            return Err(EngineError::VersionGap { have, sent: u.version });
        }
        let end = match &u.op {
            Op::Write { offset, data } => u64::from(*offset) + data.len() as u64,
            Op::Truncate { len } => u64::from(*len),
            Op::Replace { data } => data.len() as u64,
            Op::Remove => 0,
        };
        if end > u64::from(CHUNK_MAX) {
            let why =
                format!("the update ends at byte {end}, a chunk has at most {CHUNK_MAX}; split it");
            return Err(EngineError::InvalidArgument(why));
        }
        if row.is_none() && self.index.len() + self.busy.len() >= cfg.chunks_max {
            return Err(EngineError::TooManyChunks);
        }
        let shorter = |len| row.and_then(|r| r.view()).is_some_and(|view| len < view.state.len);
        // A full disk takes what makes room, and needs none itself.
        let frees = match &u.op {
            Op::Remove => true,
            // In its slot, and through the journal one granule.
            Op::Truncate { len } => *len == 0 || shorter(*len),
            Op::Replace { data } => data.is_empty(),
            Op::Write { .. } => false,
        };
        // With a removal that is on its way its writers go.
        if let (Some(row), Some(r)) = (row.filter(|_| exists), u.request)
            && row.writers_at_most() >= cfg.writers_max
            && row.writers().len() >= cfg.writers_max
            && row.writers().iter().all(|x| x.session != r.session)
        {
            return Err(EngineError::TooManyWriters);
        }
        if (self.spare_refused || self.apply_refused) && !frees {
            return Err(EngineError::NoSpace);
        }
        self.busy.insert(u.chunk);
        Ok(())
    }

    /// Makes a pending version visible and queues its record. `false`: it was committed before.
    pub fn commit(
        &mut self,
        chunk: ChunkId,
        version: ChunkVersion,
        chain_version: ChainVersion,
    ) -> Result<bool, EngineError> {
        self.open()?;
        let row = self.index.get(chunk).ok_or(EngineError::NotFound)?;
        let have = row.committed();
        if version <= have {
            return Ok(false);
        }
        if self.busy.contains(&chunk) {
            return Err(EngineError::Busy);
        }
        if row.pending().is_none_or(|p| p.state.version != version) {
            return Err(EngineError::VersionGap { have, sent: version });
        }
        self.index.mark_committing(chunk);
        self.journal.push(Record::Commit { chunk, version, chain_version }, None, 0);
        Ok(true)
    }

    /// Installs a record that has become durable, and tells who waits for it.
    pub fn installed(&mut self, e: Entry) {
        let chunk = e.record.chunk();
        self.reserved -= e.reserved;
        if let Record::Applied { extent, .. } = &e.record {
            self.cache.forget(*extent);
        }
        let effects = self.index.install(e.usn, e.record).expect("checked before it was queued");
        for extent in effects.freed {
            self.release(extent);
        }
        if effects.dirty {
            self.dirty.insert(chunk);
        } else {
            self.dirty.remove(&chunk);
            // Nothing is left that has no space; the next that comes says how it is then.
            self.apply_refused &= !self.dirty.is_empty();
        }
        if self.checkpointing {
            // Only a chunk that the checkpoint has not passed would be missed by its reader.
            if effects.removed && self.cursor.is_none_or(|c| chunk > c) {
                self.gone.insert(chunk, e.usn);
            } else if self.index.get(chunk).is_some() {
                self.gone.remove(&chunk);
            }
        }
        if let Some(done) = e.done {
            done.fill(Ok(()));
        }
        self.admit();
    }

    /// Frees an extent that no row refers to, now or when its last reader is done.
    pub fn release(&mut self, extent: Extent) {
        if self.pins.doom(extent) {
            self.free(extent);
        }
    }

    fn free(&mut self, extent: Extent) {
        self.cache.forget(extent);
        self.allocator.release(extent);
        self.freed_bytes += extent.class.stride();
    }

    pub fn unpin(&mut self, extent: Extent, pin: u64) {
        if let Some(extent) = self.pins.unpin(extent, pin) {
            self.free(extent);
        }
    }

    pub fn overlay(&self) -> usize {
        self.index.overlay() + self.reserved
    }

    /// Reserves overlay room; the slot fills when there is some, or never will be.
    pub fn reserve(&mut self, bytes: usize) -> Slot<Room> {
        let slot = Slot::new();
        self.room.push_back((bytes, slot.clone()));
        self.admit();
        slot
    }

    /// One update is let in whatever its size, so that a small budget slows but never stops.
    fn roomy(&self, bytes: usize) -> bool {
        let used = self.overlay();
        used == 0 || used + bytes <= self.overlay_max
    }

    /// Lets in who fits, in order. Called whenever the overlay or the work on it shrinks.
    pub fn admit(&mut self) {
        while let Some((bytes, _)) = self.room.front()
            && self.roomy(*bytes)
        {
            let (bytes, slot) = self.room.pop_front().expect("looked at");
            self.reserved += bytes;
            slot.fill(Room::Reserved);
        }
        let idle = self.dirty.is_empty() && !self.applying && self.reserved == 0;
        let stuck = (self.closing || self.apply_refused) && !self.applying;
        if idle || self.failed.is_some() || stuck {
            for (_, slot) in self.room.drain(..) {
                slot.fill(Room::Never);
            }
        }
    }

    /// Gives back what was reserved for an update that came to nothing.
    pub fn unreserve(&mut self, bytes: usize) {
        self.reserved -= bytes;
        self.admit();
    }

    pub fn starved(&self) -> bool {
        !self.room.is_empty()
    }

    /// Every extent has one owner and every owner is known; the overlay is what the layers hold.
    /// Only between updates, when no reader holds what was freed.
    pub fn assert_sound(&self) {
        let mut owned = BTreeSet::new();
        let mut overlay = 0;
        for (chunk, row) in self.index.iter() {
            let pending = row.pending().and_then(|p| p.extent());
            for e in [row.base.extent, pending].into_iter().flatten() {
                assert!(owned.insert(e), "chunk {chunk}: {e:?} has two owners");
            }
            assert!(row.state.version.0 > 0 || row.pending().is_some(), "chunk {chunk} is empty");
            assert_eq!(self.index.pending().contains(chunk), row.pending().is_some());
            let layered = row.layer().is_some_and(|l| !l.is_empty());
            assert_eq!(self.dirty.contains(chunk), layered, "chunk {chunk}");
            overlay += row.cost();
        }
        assert_eq!(overlay, self.index.overlay());
        if self.busy.is_empty() && self.pins.is_empty() {
            assert_eq!(owned.len() as u64, self.allocator.used_slots(), "extents leaked");
            assert_eq!(self.reserved, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt;

    use super::super::checkpoint::Start;
    use super::super::journal::Tail;
    use super::*;

    const CHUNK: ChunkId = ChunkId { inode: crate::proto::ids::InodeId(1), index: 0 };

    /// An engine with nothing in it, whose overlay has room for ten bytes.
    fn empty() -> (EngineState, EngineConfig) {
        let cfg = EngineConfig { overlay_bytes: 10, ..EngineConfig::default() };
        let tail = Tail { segment: 1, file: FileId(0), at: 0 };
        let journal = Journal::new(tail, 1, Start { seq: 1, usn: 1, version: 0 }, 1);
        let allocator = Allocator::new(cfg.group_bytes);
        (EngineState::new(Index::default(), allocator, journal, &cfg), cfg)
    }

    fn update(op: Op) -> Update {
        Update {
            chunk: CHUNK,
            version: ChunkVersion(1),
            chain_version: ChainVersion(1),
            op,
            request: None,
            commit: true,
        }
    }

    /// Regression (review): storage carries removals of clients as empty replacements, and a full
    /// disk refused these like any other write. So nobody could ever make room.
    #[test]
    fn a_full_disk_takes_what_makes_room() {
        let data = Bytes::from_static(b"x");
        let grows = [
            Op::Replace { data: data.clone() },
            Op::Write { offset: 0, data },
            Op::Truncate { len: 1 },
        ];
        for op in grows {
            let (mut s, cfg) = empty();
            s.spare_refused = true;
            let refused = s.begin(&update(op.clone()), false, &cfg);
            assert_eq!(refused, Err(EngineError::NoSpace), "{op:?}");
        }
        for op in [Op::Replace { data: Bytes::new() }, Op::Truncate { len: 0 }] {
            let (mut s, cfg) = empty();
            s.spare_refused = true;
            assert_eq!(s.begin(&update(op.clone()), false, &cfg), Ok(()), "{op:?}");
        }
    }

    /// Regression (review): an engine that had failed, or was closing, answered those who waited
    /// for overlay room at that moment. Who came to wait after it waited for ever, and held its
    /// chunk's lock.
    #[test]
    fn nobody_waits_for_room_that_will_not_come() {
        let answer = |slot: Slot<Room>| slot.now_or_never();
        let (mut s, _) = empty();
        assert_eq!(answer(s.reserve(10)), Some(Room::Reserved), "the first is let in");
        let before = s.reserve(10);
        assert_eq!(answer(before.clone()), None, "the first may give it back");
        s.fail("a test");
        assert_eq!(answer(before), Some(Room::Never));
        assert_eq!(answer(s.reserve(10)), Some(Room::Never), "after the failure");

        let (mut s, _) = empty();
        assert_eq!(answer(s.reserve(10)), Some(Room::Reserved));
        s.closing = true;
        assert_eq!(answer(s.reserve(10)), Some(Room::Never), "while it closes");
        s.applying = true;
        assert_eq!(answer(s.reserve(10)), None, "what is being applied makes room");
    }
}
