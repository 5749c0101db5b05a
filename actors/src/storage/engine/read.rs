//! Verified reads.
//!
//! A read is planned in one synchronous step: which granules are holes, which are in memory, which
//! on disk and with what sums; then disk is read and checked against that plan, while a pin keeps
//! the extent from being freed and from being changed by an application in place that begins later.

use std::rc::Rc;

use bytes::Bytes;
use t3fs_runtime::{Cx, DiskBuf, FileId, join, join_all};

use super::error::EngineError;
use super::layout::{Extent, GRANULE, PAGE_GRANULES, Side, granules};
use super::row::{Row, RowView, Source, StoredVersion, Sums};
use super::state::Inner;
use super::sums::{Page, decode_page, granule_sum};
use crate::planted::PlantedBug;
use crate::proto::ids::ChunkId;

/// Which content of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// As readers see it.
    Committed,
    Pending,
}

impl Which {
    fn of(self, row: &Row) -> Option<RowView<'_>> {
        match self {
            Which::Committed => row.view(),
            Which::Pending => row.pending_view(),
        }
    }
}

/// Keeps an extent as it is while it is read; gone when dropped.
pub struct Pin {
    inner: Rc<Inner>,
    pub extent: Extent,
    id: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.inner.with(|s| s.unpin(self.extent, self.id));
    }
}

impl Inner {
    pub fn pin(self: &Rc<Self>, extent: Extent) -> Pin {
        let id = self.with(|s| s.pins.pin(extent));
        Pin { inner: Rc::clone(self), extent, id }
    }
}

/// A checksum page to have.
pub struct Wanted {
    page: u32,
    side: Side,
    cached: Option<Page>,
}

/// Sums of a base, as far as they are known when a read is planned.
enum Known {
    Inline(Vec<u32>),
    Pages(Vec<Wanted>),
}

/// What one read will do.
struct Plan {
    state: StoredVersion,
    /// The granules asked for.
    range: std::ops::Range<u32>,
    /// From here on the base is not seen.
    base_end: u32,
    /// Granules that a layer decides: their bytes, or none for a hole.
    laid: Vec<(u32, Option<Bytes>)>,
    known: Known,
    /// Granules to read from disk.
    disk: std::ops::Range<u32>,
    /// `false` for a planted mistake.
    checked: bool,
}

fn plan(
    view: RowView<'_>,
    range: std::ops::Range<u32>,
    cached: impl Fn(u32) -> Option<Page>,
) -> Plan {
    let base_end = view.base_granules().clamp(range.start, range.end);
    let mut laid = Vec::new();
    if view.layers.iter().flatten().any(|l| !l.is_empty()) {
        for g in range.clone() {
            match view.source(g) {
                Source::Memory(l) => laid.push((g, Some(l.data.clone()))),
                Source::Hole if g < base_end => laid.push((g, None)),
                _ => {}
            }
        }
    }
    let mut disk = range.start..base_end;
    let mut shadowed = laid.iter().map(|l| l.0).take_while(|g| *g < base_end).peekable();
    while shadowed.next_if_eq(&disk.start).is_some() {
        disk.start += 1;
    }
    let known = match &view.base.sums {
        Sums::Inline(_) if disk.is_empty() => Known::Inline(Vec::new()),
        Sums::Inline(sums) => Known::Inline(sums[range.start as usize..base_end as usize].to_vec()),
        Sums::Pages(_) if disk.is_empty() => Known::Pages(Vec::new()),
        Sums::Pages(sides) => {
            let pages = disk.start / PAGE_GRANULES..disk.end.div_ceil(PAGE_GRANULES);
            let want = |page| Wanted { page, side: Side::of(*sides, page), cached: cached(page) };
            Known::Pages(pages.map(want).collect())
        }
    };
    Plan { state: view.state, range, base_end, laid, known, disk, checked: true }
}

impl Plan {
    /// The stored sum of a base granule.
    fn sum(&self, pages: &[(u32, Page)], granule: u32) -> u32 {
        match &self.known {
            Known::Inline(sums) => sums[(granule - self.range.start) as usize],
            Known::Pages(_) => {
                let first = pages[0].0;
                let page = &pages[(granule / PAGE_GRANULES - first) as usize].1;
                page[(granule % PAGE_GRANULES) as usize]
            }
        }
    }

    /// Puts the bytes `[from, to)` of the chunk behind `out`, checking every granule from disk.
    fn assemble(
        &self,
        chunk: ChunkId,
        pages: &[(u32, Page)],
        disk: Option<&[u8]>,
        bytes: std::ops::Range<u32>,
        out: &mut Vec<u8>,
    ) -> Result<(), EngineError> {
        let mut laid = self.laid.iter().peekable();
        for g in self.range.clone() {
            let start = g * GRANULE as u32;
            let from = (bytes.start.max(start) - start) as usize;
            let to = (bytes.end - start).min(GRANULE as u32) as usize;
            if let Some((_, data)) = laid.next_if(|l| l.0 == g) {
                match data {
                    Some(d) => out.extend_from_slice(&d[from..to]),
                    None => out.resize(out.len() + to - from, 0),
                }
                continue;
            }
            let stored = if g < self.base_end { self.sum(pages, g) } else { 0 };
            if stored == 0 {
                out.resize(out.len() + to - from, 0);
                continue;
            }
            let at = (g - self.disk.start) as usize * GRANULE;
            let granule = &disk.expect("a granule with a sum is read")[at..at + GRANULE];
            let found = granule_sum(granule);
            if found != stored && self.checked {
                return Err(EngineError::Corrupt { chunk, granule: g, stored, found });
            }
            out.extend_from_slice(&granule[from..to]);
        }
        Ok(())
    }
}

impl Inner {
    /// Reads at most `len` bytes from `offset`, short at the end of the chunk.
    pub async fn read_content(
        self: &Rc<Self>,
        cx: &Cx,
        chunk: ChunkId,
        which: Which,
        offset: u32,
        len: u32,
    ) -> Result<(StoredVersion, Vec<u8>), EngineError> {
        self.with(|s| s.readable())?;
        let planned = self.with(|s| {
            let view = which.of(s.index.get(chunk)?)?;
            let end = offset.saturating_add(len).min(view.state.len);
            if offset >= end {
                return Some((None, offset..offset, None, view.state));
            }
            let range = offset / GRANULE as u32..granules(end);
            let extent = view.base.extent;
            let mut p = plan(view, range, |page| s.cache.get(extent?, page));
            p.checked = !PlantedBug::ReadSkipsGranuleCheck.is_in(cx);
            let reads = extent.filter(|_| !p.disk.is_empty());
            let file = reads.map(|e| (e, s.files.get(&e.class).expect("open").file));
            let state = p.state;
            Some((Some(p), offset..end, file, state))
        });
        let Some((plan, bytes, file, state)) = planned else { return Err(EngineError::NotFound) };
        let Some(plan) = plan else { return Ok((state, Vec::new())) };
        let mut out = Vec::with_capacity(bytes.len());
        let Some((extent, file)) = file else {
            plan.assemble(chunk, &[], None, bytes, &mut out)?;
            return Ok((state, out));
        };
        let pin = self.pin(extent);
        let disk = self.disk(cx);
        let offset = extent.offset() + u64::from(plan.disk.start) * GRANULE as u64;
        let data = disk.read(file, offset, plan.disk.len() * GRANULE);
        let (data, pages) = match &plan.known {
            Known::Inline(_) => (data.await?, Vec::new()),
            Known::Pages(want) if want.iter().all(|w| w.cached.is_some()) => {
                (data.await?, cached(want))
            }
            Known::Pages(want) => {
                let (data, pages) = join(data, self.load_pages(cx, chunk, file, &pin, want)).await;
                (data?, pages?)
            }
        };
        plan.assemble(chunk, &pages, Some(&data), bytes, &mut out)?;
        Ok((state, out))
    }

    /// Pages of a chunk's base, for who holds a pin of it.
    pub async fn base_pages(
        self: &Rc<Self>,
        cx: &Cx,
        chunk: ChunkId,
        extent: Extent,
        sides: u64,
        pages: &[u32],
    ) -> Result<Vec<(u32, Page)>, EngineError> {
        let want = |page: &u32| Wanted {
            page: *page,
            side: Side::of(sides, *page),
            cached: self.with(|s| s.cache.get(extent, *page)),
        };
        let want: Vec<Wanted> = pages.iter().map(want).collect();
        let pin = self.pin(extent);
        self.load_pages(cx, chunk, self.file(extent.class), &pin, &want).await
    }

    /// Has the pages, from the cache or from disk.
    async fn load_pages(
        self: &Rc<Self>,
        cx: &Cx,
        chunk: ChunkId,
        file: FileId,
        pin: &Pin,
        want: &[Wanted],
    ) -> Result<Vec<(u32, Page)>, EngineError> {
        let disk = self.disk(cx);
        let reads = want.iter().map(|w| {
            let disk = disk.clone();
            async move {
                if let Some(p) = &w.cached {
                    return Ok((w.page, Page::clone(p)));
                }
                let at = pin.extent.page_offset(w.page, w.side);
                let bytes: DiskBuf = disk.read(file, at, GRANULE).await?;
                let granule = w.page * PAGE_GRANULES;
                let bad = EngineError::Corrupt { chunk, granule, stored: 0, found: 0 };
                let page = decode_page(chunk, w.page, &bytes).ok_or(bad)?;
                self.with(|s| {
                    // Not what the row names any more: an application in place has passed.
                    let row = s.index.get(chunk);
                    let base = [row.map(|r| &r.base), row.and_then(|r| r.pending()?.base())];
                    let current = |b: &super::row::Base| {
                        let Sums::Pages(sides) = b.sums else { return false };
                        b.extent == Some(pin.extent) && Side::of(sides, w.page) == w.side
                    };
                    if base.into_iter().flatten().any(current) {
                        s.cache.insert(pin.extent, w.page, Page::clone(&page));
                    }
                });
                Ok((w.page, page))
            }
        });
        join_all(reads).await.into_iter().collect()
    }

    /// The sums of all granules of a content, holes as 0; with the state they are of.
    pub async fn content_sums(
        self: &Rc<Self>,
        cx: &Cx,
        chunk: ChunkId,
        which: Which,
    ) -> Result<(StoredVersion, Vec<u32>), EngineError> {
        self.with(|s| s.readable())?;
        let planned = self.with(|s| {
            let view = which.of(s.index.get(chunk)?)?;
            let n = granules(view.state.len);
            let seen = view.base_granules().min(n);
            let mut laid = Vec::new();
            // Bottom first, so that what is on top is written last.
            for layer in view.layers.iter().rev().flatten() {
                laid.push((layer.cut(), layer.patches.iter().map(|(g, l)| (*g, l.sum)).collect()));
            }
            let extent = view.base.extent;
            let known = match &view.base.sums {
                Sums::Inline(sums) => Known::Inline(sums[..seen as usize].to_vec()),
                Sums::Pages(sides) => Known::Pages(
                    (0..seen.div_ceil(PAGE_GRANULES))
                        .map(|page| Wanted {
                            page,
                            side: Side::of(*sides, page),
                            cached: extent.and_then(|e| s.cache.get(e, page)),
                        })
                        .collect(),
                ),
            };
            let file = extent.map(|e| (e, s.files.get(&e.class).expect("open").file));
            Some((view.state, n, seen, laid, known, file))
        });
        let Some((state, n, seen, laid, known, file)) = planned else {
            return Err(EngineError::NotFound);
        };
        let laid: Vec<(u32, Vec<(u32, u32)>)> = laid;
        let mut sums = match known {
            Known::Inline(sums) => sums,
            Known::Pages(want) if want.is_empty() => Vec::new(),
            Known::Pages(want) => {
                let (extent, file) = file.expect("pages are of an extent");
                let pin = self.pin(extent);
                let pages = match want.iter().all(|w| w.cached.is_some()) {
                    true => cached(&want),
                    false => self.load_pages(cx, chunk, file, &pin, &want).await?,
                };
                pages.iter().flat_map(|p| p.1.iter().copied()).take(seen as usize).collect()
            }
        };
        sums.resize(n as usize, 0);
        for (cut, patches) in laid {
            if (cut as usize) < sums.len() {
                sums[cut as usize..].fill(0);
            }
            for (g, sum) in patches.into_iter().filter(|p| p.0 < n) {
                sums[g as usize] = sum;
            }
        }
        Ok((state, sums))
    }
}

fn cached(want: &[Wanted]) -> Vec<(u32, Page)> {
    let page = |w: &Wanted| (w.page, Page::clone(w.cached.as_ref().expect("all are cached")));
    want.iter().map(page).collect()
}
