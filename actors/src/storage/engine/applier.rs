//! Small updates into their extents, in the background.
//!
//! A batch of chunks: the granules of the committed layer over the extent, the checksum pages they
//! fall in to the side that is not valid, one sync of each file, then an `applied` record for each.
//! Until that is durable readers go on with the layer and the old pages.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use t3fs_runtime::{Cx, DiskError, join_all};

use super::error::EngineError;
use super::layout::{Class, Extent, GRANULE, PAGE_GRANULES, Side};
use super::read::Pin;
use super::record::Record;
use super::row::Sums;
use super::state::{EngineState, Inner};
use super::sums::{Page, encode_page};
use crate::proto::ids::ChunkId;

/// Chunks of one batch.
const BATCH: usize = 64;

/// What is to be written for one chunk.
struct Job {
    chunk: ChunkId,
    extent: Extent,
    /// The last update in it.
    upto: u64,
    /// Granules that the base covers afterwards.
    granules: u32,
    base_granules: u32,
    cut: u32,
    patches: BTreeMap<u32, (u32, Bytes)>,
    /// Sides of the pages before; `None`: sums are inline.
    sides: Option<u64>,
}

impl Job {
    fn of(s: &EngineState, chunk: ChunkId) -> Option<Job> {
        let row = s.index.get(chunk)?;
        let layer = row.layer().filter(|l| !l.is_empty())?;
        let extent = row.base.extent?;
        let seen = row.base.granules.min(layer.cut());
        let last = layer.patches.last_key_value().map_or(0, |(g, _)| g + 1);
        let patches = layer.patches.iter();
        Some(Job {
            chunk,
            extent,
            upto: layer.newest(),
            granules: seen.max(last),
            base_granules: row.base.granules,
            cut: layer.cut(),
            patches: patches.map(|(g, l)| (*g, (l.sum, l.data.clone()))).collect(),
            sides: match row.base.sums {
                Sums::Inline(_) => None,
                Sums::Pages(sides) => Some(sides),
            },
        })
    }

    /// Pages whose sums change: with patches, behind a cut, or not written before.
    fn pages(&self) -> BTreeSet<u32> {
        if self.sides.is_none() {
            return BTreeSet::new();
        }
        let end = self.granules.div_ceil(PAGE_GRANULES);
        let mut pages: BTreeSet<u32> = self.patches.keys().map(|g| g / PAGE_GRANULES).collect();
        pages.extend(self.base_granules.div_ceil(PAGE_GRANULES)..end);
        if self.cut < self.base_granules {
            pages.extend(self.cut / PAGE_GRANULES..end);
        }
        pages
    }

    /// The new sums of a page over the old ones.
    fn page(&self, page: u32, old: Option<&Page>) -> [u32; PAGE_GRANULES as usize] {
        let first = page * PAGE_GRANULES;
        let seen = self.base_granules.min(self.cut);
        core::array::from_fn(|i| {
            let g = first + i as u32;
            match self.patches.get(&g) {
                Some(p) => p.0,
                None if g < seen => old.map_or(0, |o| o[i]),
                None => 0,
            }
        })
    }
}

impl Inner {
    /// Applies all committed layers that are there now. One task at a time does this.
    pub async fn apply_layers(self: &Rc<Self>, cx: &Cx) -> Result<(), EngineError> {
        let mut from = None;
        loop {
            let batch: Vec<ChunkId> = self.with(|s| {
                let after = from.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
                s.dirty.range((after, std::ops::Bound::Unbounded)).take(BATCH).copied().collect()
            });
            let Some(last) = batch.last() else { return Ok(()) };
            from = Some(*last);
            self.with(|s| s.alive())?;
            self.apply_batch(cx, &batch).await?;
        }
    }

    async fn apply_batch(self: &Rc<Self>, cx: &Cx, batch: &[ChunkId]) -> Result<(), EngineError> {
        let written = join_all(batch.iter().map(|c| self.write_layer(cx, *c))).await;
        let mut jobs = Vec::new();
        for w in written {
            jobs.extend(w?);
        }
        let classes: BTreeSet<Class> = jobs.iter().map(|j| j.0.extent.class).collect();
        let synced = join_all(classes.iter().map(|c| self.sync_data(cx, *c))).await;
        synced.into_iter().collect::<Result<(), _>>()?;
        let applied = jobs.into_iter().map(|(job, pages, _pin)| async move {
            let flipped = pages.iter().fold(0, |bits, p| bits | 1u64 << p.0);
            let sides = job.sides.unwrap_or(0) ^ flipped;
            let Job { chunk, extent, upto, granules, .. } = job;
            let record = Record::Applied { chunk, extent, upto, granules, sides };
            self.append(cx, record, 0).await?;
            self.with(|s| {
                // The next application of this chunk is ours too, so its pages are still these.
                let base = s.index.get(chunk).map(|r| &r.base);
                if base.is_some_and(|b| b.extent == Some(extent)) {
                    for (page, sums) in pages {
                        s.cache.insert(extent, page, sums);
                    }
                }
            });
            Ok(())
        });
        join_all(applied).await.into_iter().collect()
    }

    /// Writes one chunk's layer; not durable yet.
    async fn write_layer(
        self: &Rc<Self>,
        cx: &Cx,
        chunk: ChunkId,
    ) -> Result<Option<(Job, Vec<(u32, Page)>, Pin)>, EngineError> {
        let planned = self.with(|s| {
            let job = Job::of(s, chunk)?;
            // Reads planned before this moment may be on their way to what is overwritten.
            let drained = s.pins.drained(job.extent);
            Some((job, drained))
        });
        let Some((job, drained)) = planned else { return Ok(None) };
        let pin = self.pin(job.extent);
        if let Some(drained) = drained {
            drained.await;
        }
        let pages = self.new_pages(cx, &job).await?;
        let (disk, file) = (self.disk(cx), self.file(job.extent.class));
        let mut writes = Vec::new();
        for (first, run) in runs(&job.patches) {
            let mut buf = disk.alloc(run.len() * GRANULE).await;
            for (at, data) in buf.chunks_exact_mut(GRANULE).zip(run) {
                at.copy_from_slice(data);
            }
            writes.push((job.extent.offset() + u64::from(first) * GRANULE as u64, buf));
        }
        for (page, sums) in &pages {
            let mut buf = disk.alloc(GRANULE).await;
            encode_page(chunk, *page, &sums[..], &mut buf);
            let side = Side::of(job.sides.expect("it has pages"), *page).other();
            writes.push((job.extent.page_offset(*page, side), buf));
        }
        let done = join_all(writes.into_iter().map(|(at, buf)| disk.write(file, at, buf))).await;
        let done: Result<(), DiskError> = done.into_iter().collect();
        done.map_err(|e| self.broken(e))?;
        Ok(Some((job, pages, pin)))
    }

    async fn new_pages(
        self: &Rc<Self>,
        cx: &Cx,
        job: &Job,
    ) -> Result<Vec<(u32, Page)>, EngineError> {
        let pages = job.pages();
        let old: Vec<u32> = pages
            .iter()
            .copied()
            .filter(|p| p * PAGE_GRANULES < job.base_granules.min(job.cut))
            .collect();
        let old = self.base_pages(cx, job.chunk, job.extent, job.sides.unwrap_or(0), &old).await?;
        let made = pages.into_iter().map(|p| {
            let was = old.iter().find(|o| o.0 == p).map(|o| &o.1);
            (p, Rc::new(job.page(p, was)))
        });
        Ok(made.collect())
    }
}

/// Neighbouring granules together; zeros are not written, their sum says it all.
fn runs(patches: &BTreeMap<u32, (u32, Bytes)>) -> Vec<(u32, Vec<&Bytes>)> {
    let mut runs: Vec<(u32, Vec<&Bytes>)> = Vec::new();
    for (g, (sum, data)) in patches {
        if *sum == 0 {
            continue;
        }
        match runs.last_mut() {
            Some((first, run)) if *first + run.len() as u32 == *g => run.push(data),
            _ => runs.push((*g, vec![data])),
        }
    }
    runs
}
