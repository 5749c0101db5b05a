//! The chunks of a target, in the order of their ids, as a function of the journal.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::Extent;
use super::record::{Record, WriteRecord};
use super::row::{Change, Layer, Pending, Row, StoredVersion};
use crate::proto::ids::{ChainVersion, ChunkId, ChunkVersion, RequestId, SessionId};

/// What an installed record leaves to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Extents nothing refers to any more.
    pub freed: Vec<Extent>,
    /// The chunk has a committed layer to apply.
    pub dirty: bool,
    /// The chunk is gone.
    pub removed: bool,
}

/// What the index keeps for a chunk without small updates, in bytes, about: its row, half of that
/// again for gaps in the map, and the last updates of two clients.
pub const INDEX_ROW_BYTES: usize =
    size_of::<(ChunkId, Row)>() * 3 / 2 + 2 * size_of::<super::row::Recent>();

#[derive(Default)]
pub struct Index {
    rows: BTreeMap<ChunkId, Row>,
    pending: BTreeSet<ChunkId>,
    overlay: usize,
}

impl Index {
    /// From rows in the order of their ids.
    pub fn from_rows(rows: Vec<(ChunkId, Row)>) -> Index {
        let overlay = rows.iter().map(|(_, r)| r.cost()).sum();
        let is_pending = |(chunk, row): &(ChunkId, Row)| row.pending().map(|_| *chunk);
        let pending = rows.iter().filter_map(is_pending).collect();
        Index { rows: rows.into_iter().collect(), pending, overlay }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of granules in layers.
    pub fn overlay(&self) -> usize {
        self.overlay
    }

    /// Chunks with a pending version, also those whose commit is on its way.
    pub fn pending(&self) -> &BTreeSet<ChunkId> {
        &self.pending
    }

    pub fn get(&self, chunk: ChunkId) -> Option<&Row> {
        self.rows.get(&chunk)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ChunkId, &Row)> {
        self.rows.iter()
    }

    pub fn range(&self, from: ChunkId) -> impl Iterator<Item = (&ChunkId, &Row)> {
        self.rows.range(from..)
    }

    /// Makes the pending version of a chunk visible before its commit record is durable.
    pub fn mark_committing(&mut self, chunk: ChunkId) {
        let row = self.rows.get_mut(&chunk).expect("a pending chunk has a row");
        let pending = row.extra.as_mut().and_then(|x| x.pending.as_mut());
        pending.expect("only a pending version is committed").committing = true;
    }

    /// Drops entries of sessions that are gone.
    pub fn forget(&mut self, live: &dyn Fn(SessionId) -> bool) {
        for row in self.rows.values_mut() {
            if let Some(x) = &mut row.extra {
                x.recent.retain(|r| live(r.session));
                row.slim();
            }
        }
    }

    /// A planted mistake: forgets the first of a chunk's writers.
    pub fn evict_writer(&mut self, chunk: ChunkId) {
        if let Some(x) = self.rows.get_mut(&chunk).and_then(|r| r.extra.as_mut()) {
            x.recent.drain(..x.recent.len().min(1));
        }
    }

    /// Takes a record that is durable. `Err`: the log contradicts itself.
    pub fn install(&mut self, usn: u64, record: Record) -> Result<Effects, String> {
        let chunk = record.chunk();
        let before = self.rows.get(&chunk).map_or(0, Row::cost);
        let wrong = |what: &str| format!("chunk {chunk}, update {usn}: {what}");
        let mut effects = match record {
            Record::Write(w) if w.overwrite => self.overwrite(usn, w),
            Record::Write(w) => self.write(usn, w),
            Record::Remove { overwrite: true, .. } => self.overremove(chunk),
            Record::Remove { version, chain_version, commit, request, .. } => {
                self.remove(usn, chunk, version, chain_version, commit, request)
            }
            Record::Commit { version, chain_version, .. } => {
                let Some(row) = self.rows.get_mut(&chunk) else {
                    return Err(wrong("commit of a chunk that is not there"));
                };
                if row.pending().is_none_or(|p| p.state.version != version) {
                    return Err(wrong("commit of a version that is not pending"));
                }
                row.usn = usn;
                self.commit(chunk, chain_version)
            }
            Record::Applied { extent, upto, granules, sides, .. } => {
                // The chunk may have moved on to another extent while this one was written.
                if let Some(row) = self.rows.get_mut(&chunk)
                    && row.base.extent == Some(extent)
                {
                    if row.layer().is_none() {
                        return Err(wrong("nothing to apply"));
                    }
                    row.usn = usn;
                    row.applied(upto, granules, sides);
                }
                Effects::default()
            }
        };
        effects.dirty = self.dirty(chunk);
        let row = self.rows.get(&chunk);
        if row.is_some_and(|r| r.pending().is_some()) {
            self.pending.insert(chunk);
        } else {
            self.pending.remove(&chunk);
        }
        let after = row.map_or(0, Row::cost);
        self.overlay = self.overlay + after - before;
        Ok(effects)
    }

    fn dirty(&self, chunk: ChunkId) -> bool {
        self.rows.get(&chunk).and_then(Row::layer).is_some_and(|l| !l.is_empty())
    }

    fn write(&mut self, usn: u64, w: WriteRecord) -> Effects {
        let layer = Layer::of(usn, w.cut, w.patches);
        let change = match w.base {
            None => Change::Patched(layer),
            Some(base) => Change::Fresh(base, layer),
        };
        let chain_version = w.state.chain_version;
        let pending = Pending {
            state: w.state,
            change,
            request: w.request,
            recents: w.recents,
            committing: false,
        };
        let superseded = self.set_pending(usn, w.chunk, pending);
        let mut effects =
            if w.commit { self.commit(w.chunk, chain_version) } else { Effects::default() };
        effects.freed.extend(superseded);
        effects
    }

    /// A content from outside instead of all that was known of the chunk.
    fn overwrite(&mut self, usn: u64, w: WriteRecord) -> Effects {
        let freed = self.rows.remove(&w.chunk).map_or(Vec::new(), |r| r.extents().collect());
        let mut row = Row::new();
        row.usn = usn;
        row.state = w.state;
        row.base = w.base.expect("checked when it was made or read");
        let x = row.extra.get_or_insert_default();
        x.recent = w.recents;
        x.layer = Layer::of(usn, w.cut, w.patches);
        row.slim();
        self.rows.insert(w.chunk, row);
        Effects { freed, ..Effects::default() }
    }

    fn overremove(&mut self, chunk: ChunkId) -> Effects {
        let row = self.rows.remove(&chunk);
        let freed = row.as_ref().map_or(Vec::new(), |r| r.extents().collect());
        Effects { freed, removed: row.is_some(), ..Effects::default() }
    }

    fn remove(
        &mut self,
        usn: u64,
        chunk: ChunkId,
        version: ChunkVersion,
        chain_version: ChainVersion,
        commit: bool,
        request: Option<RequestId>,
    ) -> Effects {
        let state = StoredVersion { version, chain_version, len: 0, checksum: 0 };
        let change = Change::Removed;
        let pending = Pending { state, change, request, recents: Vec::new(), committing: false };
        let superseded = self.set_pending(usn, chunk, pending);
        let mut effects =
            if commit { self.commit(chunk, chain_version) } else { Effects::default() };
        effects.freed.extend(superseded);
        effects
    }

    /// Returns the extent of a pending version that this one replaces.
    fn set_pending(&mut self, usn: u64, chunk: ChunkId, pending: Pending) -> Option<Extent> {
        let row = self.rows.entry(chunk).or_insert_with(Row::new);
        row.usn = usn;
        let old = row.extra.get_or_insert_default().pending.replace(pending);
        old.and_then(|p| p.extent())
    }

    fn commit(&mut self, chunk: ChunkId, chain_version: ChainVersion) -> Effects {
        let row = self.rows.get_mut(&chunk).expect("looked up by the caller");
        match row.commit(chain_version) {
            Some(freed) => Effects { freed: freed.into_iter().collect(), ..Effects::default() },
            None => {
                let row = self.rows.remove(&chunk).expect("just there");
                Effects {
                    freed: row.base.extent.into_iter().collect(),
                    removed: true,
                    ..Effects::default()
                }
            }
        }
    }
}
