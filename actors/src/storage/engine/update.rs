//! Updates: three ways to make them durable.
//!
//! *In place*: a few granules over the content as it is; whole granule images go into the journal
//! record and over the extent later. *Moved*: the same into a new, larger or smaller extent, when
//! the whole content is that small. *Copied*: the whole new content is written to a new extent and
//! synced, then a record names it.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use t3fs_runtime::{Cx, Filling, join, join_all};

use super::error::EngineError;
use super::layout::{Class, Extent, GRANULE, PAGE_GRANULES, Side, granules};
use super::read::Which;
use super::record::{Record, WriteRecord};
use super::row::{Base, PATCH_COST, Patch, Recent, StoredVersion, Sums, UNCUT};
use super::state::{Inner, Room};
use super::sums::{digest, encode_page, granule_sum};
use super::{Applied, Op, Update};
use crate::proto::ids::ChunkId;

/// An update against the content it finds.
struct Edit<'a> {
    chunk: ChunkId,
    offset: u32,
    data: &'a [u8],
    old_len: u32,
    new_len: u32,
    /// Bytes from the start of the old content that stay unless `data` covers them.
    kept: u32,
    /// The old content's extent.
    extent: Option<Extent>,
    replace: bool,
}

impl<'a> Edit<'a> {
    fn new(u: &'a Update, old_len: u32, extent: Option<Extent>) -> Edit<'a> {
        let chunk = u.chunk;
        let plain = |offset, data, new_len, kept, replace| Edit {
            chunk,
            offset,
            data,
            old_len,
            new_len,
            kept,
            extent,
            replace,
        };
        match &u.op {
            Op::Write { data, .. } if data.is_empty() => plain(0, &[], old_len, old_len, false),
            Op::Write { offset, data } => {
                let end = offset + data.len() as u32;
                plain(*offset, data, old_len.max(end), old_len, false)
            }
            Op::Truncate { len } => plain(0, &[], *len, old_len.min(*len), false),
            Op::Replace { data } => plain(0, data, data.len() as u32, 0, true),
            Op::Remove => unreachable!("a removal edits nothing"),
        }
    }

    fn end(&self) -> u32 {
        self.offset + self.data.len() as u32
    }

    /// Granules whose bytes change, apart from those that become holes.
    fn touched(&self) -> Range<u32> {
        if !self.data.is_empty() {
            return self.offset / GRANULE as u32..granules(self.end());
        }
        let cut_inside =
            self.new_len < self.old_len && !self.new_len.is_multiple_of(GRANULE as u32);
        let end = granules(self.new_len);
        if cut_inside { end - 1..end } else { end..end }
    }

    /// Granules that a record of the whole new content holds.
    fn all(&self) -> impl Iterator<Item = u32> + use<> {
        let (kept, touched) = (granules(self.kept), self.touched());
        (0..kept).chain(touched.start.max(kept)..touched.end.max(kept))
    }

    fn fits_in_place(&self, small_max: usize) -> bool {
        let Some(extent) = self.extent else { return false };
        !self.replace
            && u64::from(self.new_len) <= extent.class.block()
            && self.touched().len() * GRANULE <= small_max
    }

    /// Whether a smaller extent is enough for what is left.
    fn moves(&self) -> bool {
        let class = self.extent.map(|extent| extent.class);
        self.new_len < self.old_len && Some(Class::of(self.new_len)) < class
    }

    /// The new bytes of granule `g`, whose old bytes (what is kept of them) are given.
    fn image(&self, g: u32, old: &[u8]) -> Vec<u8> {
        let mut image = vec![0; GRANULE];
        image[..old.len()].copy_from_slice(old);
        let start = g * GRANULE as u32;
        let from = self.offset.max(start);
        let to = self.end().min(start + GRANULE as u32);
        if from < to {
            image[(from - start) as usize..(to - start) as usize].copy_from_slice(
                &self.data[(from - self.offset) as usize..][..(to - from) as usize],
            );
        }
        image
    }

    fn covers(&self, g: u32) -> bool {
        let start = g * GRANULE as u32;
        self.offset <= start && start + GRANULE as u32 <= self.end()
    }

    /// Where in the old content the bytes of granule `g` lie that stay.
    fn old_bytes(&self, g: u32) -> Range<u32> {
        let start = g * GRANULE as u32;
        if self.covers(g) || start >= self.kept {
            return start..start;
        }
        start..self.kept.min(start + GRANULE as u32)
    }
}

/// The content an update makes, ready to be named by a record.
struct Made {
    base: Option<Base>,
    cut: u32,
    patches: Vec<Patch>,
    sums: Vec<u32>,
    /// Overlay bytes reserved for the patches.
    reserved: usize,
}

impl Inner {
    /// Carries out an update that [`super::state::EngineState::begin`] let in.
    pub async fn update(
        self: &Rc<Self>,
        cx: &Cx,
        u: &Update,
        recents: Vec<Recent>,
        overwrite: bool,
    ) -> Result<Applied, EngineError> {
        if u.op == Op::Remove {
            let record = Record::Remove {
                chunk: u.chunk,
                version: u.version,
                chain_version: u.chain_version,
                commit: u.commit,
                request: u.request,
                overwrite,
            };
            self.append(cx, record, 0).await?;
            return Ok(Applied { version: u.version, len: 0, checksum: 0 });
        }
        let (old_len, extent) = self.with(|s| {
            let view = s.index.get(u.chunk).and_then(|r| r.view());
            view.map_or((0, None), |v| (v.state.len, v.base.extent))
        });
        let edit = Edit::new(u, old_len, extent);
        let made = self.make(cx, &edit).await?;
        let state = StoredVersion {
            version: u.version,
            chain_version: u.chain_version,
            len: edit.new_len,
            checksum: digest(edit.new_len, &made.sums),
        };
        let fresh = made.base.as_ref().and_then(|b| b.extent);
        let pages = fresh.filter(|e| !e.class.inline() && made.patches.is_empty());
        let record = Record::Write(WriteRecord {
            chunk: u.chunk,
            state,
            commit: u.commit,
            request: u.request,
            recents,
            base: made.base,
            cut: made.cut,
            patches: made.patches,
            overwrite,
        });
        self.append(cx, record, made.reserved).await?;
        if let Some(extent) = pages {
            self.keep_pages(u.chunk, extent, &made.sums);
        }
        Ok(Applied { version: u.version, len: state.len, checksum: state.checksum })
    }

    async fn make(self: &Rc<Self>, cx: &Cx, edit: &Edit<'_>) -> Result<Made, EngineError> {
        if edit.new_len == 0 {
            let base = Some(Base::fresh(None));
            return Ok(Made { base, cut: UNCUT, patches: vec![], sums: vec![], reserved: 0 });
        }
        let fits = edit.fits_in_place(self.cfg.small_update_max);
        let made = self.make_anew(cx, edit, fits && !edit.moves()).await;
        // A full disk has no smaller extent: what is cut stays where it is.
        if made.as_ref().err() == Some(&EngineError::NoSpace)
            && fits
            && let Some(reserved) = self.room(cx, edit.touched().len() * PATCH_COST).await?
        {
            return self.make_in_place(cx, edit, reserved).await;
        }
        made
    }

    async fn make_anew(
        self: &Rc<Self>,
        cx: &Cx,
        edit: &Edit<'_>,
        in_place: bool,
    ) -> Result<Made, EngineError> {
        let small_max = self.cfg.small_update_max;
        if in_place {
            if let Some(reserved) = self.room(cx, edit.touched().len() * PATCH_COST).await? {
                return self.make_in_place(cx, edit, reserved).await;
            }
        } else if edit.all().count() * GRANULE <= small_max
            && let Some(reserved) = self.room(cx, edit.all().count() * PATCH_COST).await?
        {
            return self.make_moved(cx, edit, reserved).await;
        }
        self.make_copied(cx, edit).await
    }

    async fn make_in_place(
        self: &Rc<Self>,
        cx: &Cx,
        edit: &Edit<'_>,
        reserved: usize,
    ) -> Result<Made, EngineError> {
        let sums = self.content_sums(cx, edit.chunk, Which::Committed);
        let (images, sums) = join(self.images(cx, edit, edit.touched()), sums).await;
        let both = images.and_then(|i| sums.map(|s| (i, s.1)));
        let (patches, mut sums) = both.inspect_err(|_| self.with(|s| s.unreserve(reserved)))?;
        sums.resize(granules(edit.new_len) as usize, 0);
        for p in &patches {
            sums[p.granule as usize] = p.sum;
        }
        let cut = if edit.new_len < edit.old_len { granules(edit.new_len) } else { UNCUT };
        Ok(Made { base: None, cut, patches, sums, reserved })
    }

    async fn make_moved(
        self: &Rc<Self>,
        cx: &Cx,
        edit: &Edit<'_>,
        reserved: usize,
    ) -> Result<Made, EngineError> {
        let class = Class::of(edit.new_len);
        let made = async {
            let mut patches = self.images(cx, edit, edit.all()).await?;
            patches.retain(|p| p.sum != 0);
            Ok((patches, self.allocate(cx, class, edit.extent.is_some()).await?))
        };
        let made: Result<_, EngineError> = made.await;
        let (patches, extent) = made.inspect_err(|_| self.with(|s| s.unreserve(reserved)))?;
        let mut sums = vec![0; granules(edit.new_len) as usize];
        for p in &patches {
            sums[p.granule as usize] = p.sum;
        }
        Ok(Made { base: Some(Base::fresh(Some(extent))), cut: UNCUT, patches, sums, reserved })
    }

    async fn make_copied(self: &Rc<Self>, cx: &Cx, edit: &Edit<'_>) -> Result<Made, EngineError> {
        let class = Class::of(edit.new_len);
        let extent = self.allocate(cx, class, edit.extent.is_some()).await?;
        let written = self.write_copy(cx, edit, extent).await;
        let sums = written.inspect_err(|_| self.with(|s| s.release(extent)))?;
        let known = match class.inline() {
            true => Sums::Inline(sums.clone().into()),
            false => Sums::Pages(0),
        };
        let base = Base { extent: Some(extent), granules: sums.len() as u32, sums: known };
        Ok(Made { base: Some(base), cut: UNCUT, patches: Vec::new(), sums, reserved: 0 })
    }

    /// Writes the whole new content with its checksum pages, and syncs it.
    async fn write_copy(
        self: &Rc<Self>,
        cx: &Cx,
        edit: &Edit<'_>,
        extent: Extent,
    ) -> Result<Vec<u32>, EngineError> {
        let disk = self.disk(cx);
        let n = granules(edit.new_len);
        let data_len = n as usize * GRANULE;
        let pages_len = n.div_ceil(PAGE_GRANULES) as usize * GRANULE;
        let paged = !extent.class.inline();
        // A full block has its pages right behind it.
        let one = paged && data_len as u64 == extent.class.block();
        let mut buf = disk.fill(data_len + if one { pages_len } else { 0 }).await;
        let new = match edit.data.is_empty() {
            true => edit.kept..edit.kept,
            false => edit.offset..edit.end(),
        };
        self.put_old(cx, edit.chunk, 0..new.start.min(edit.kept), &mut buf).await?;
        buf.zeros_to(new.start as usize);
        buf.put(edit.data);
        self.put_old(cx, edit.chunk, new.end.min(edit.kept)..edit.kept, &mut buf).await?;
        buf.zeros_to(data_len);
        let sums: Vec<u32> = buf.filled().chunks_exact(GRANULE).map(granule_sum).collect();
        let (file, at) = (self.file(extent.class), extent.offset());
        let written = if one {
            fill_pages(edit.chunk, &sums, buf.zeros_to(data_len + pages_len));
            disk.write(file, at, buf.done()).await
        } else if paged {
            let mut pages = disk.alloc(pages_len).await;
            fill_pages(edit.chunk, &sums, &mut pages);
            let pages_at = extent.page_offset(0, Side::A);
            let (a, b) =
                join(disk.write(file, at, buf.done()), disk.write(file, pages_at, pages)).await;
            a.and(b)
        } else {
            disk.write(file, at, buf.done()).await
        };
        written.map_err(|e| self.broken(e))?;
        self.sync_data(cx, extent.class).await?;
        Ok(sums)
    }

    /// Puts a range of the content as it is.
    async fn put_old(
        self: &Rc<Self>,
        cx: &Cx,
        chunk: ChunkId,
        range: Range<u32>,
        buf: &mut Filling,
    ) -> Result<(), EngineError> {
        if !range.is_empty() {
            let len = range.end - range.start;
            let old = self.read_content(cx, chunk, Which::Committed, range.start, len).await?;
            assert_eq!(old.1.len(), len as usize, "what is kept is there");
            buf.put(&old.1);
        }
        Ok(())
    }

    /// The new images of granules, over what is kept of the old ones.
    async fn images(
        self: &Rc<Self>,
        cx: &Cx,
        edit: &Edit<'_>,
        which: impl Iterator<Item = u32>,
    ) -> Result<Vec<Patch>, EngineError> {
        let each = which.map(async |granule| {
            let old = edit.old_bytes(granule);
            let image = if old.is_empty() {
                edit.image(granule, &[])
            } else {
                let (at, len) = (old.start, old.end - old.start);
                let read = self.read_content(cx, edit.chunk, Which::Committed, at, len).await?;
                edit.image(granule, &read.1)
            };
            let sum = granule_sum(&image);
            let data = if sum == 0 { Bytes::new() } else { image.into() };
            Ok(Patch { granule, sum, data })
        });
        join_all(each).await.into_iter().collect()
    }

    /// Waits for overlay room. `None`: there will be none, the update has to be copied.
    async fn room(self: &Rc<Self>, cx: &Cx, bytes: usize) -> Result<Option<usize>, EngineError> {
        let wait = self.with(|s| s.reserve(bytes));
        self.tend(cx);
        if wait.await == Room::Never {
            return self.with(|s| s.alive()).map(|()| None);
        }
        Ok(Some(bytes))
    }

    /// Keeps the pages of an extent just written, as long as it is still the chunk's.
    fn keep_pages(&self, chunk: ChunkId, extent: Extent, sums: &[u32]) {
        self.with(|s| {
            let row = s.index.get(chunk);
            let bases = [row.map(|r| &r.base), row.and_then(|r| r.pending()?.base())];
            let same = |b: &Base| b.extent == Some(extent) && b.sums == Sums::Pages(0);
            if bases.into_iter().flatten().any(same) {
                for (page, sums) in sums.chunks(PAGE_GRANULES as usize).enumerate() {
                    let all = core::array::from_fn(|i| sums.get(i).copied().unwrap_or(0));
                    s.cache.insert(extent, page as u32, Rc::new(all));
                }
            }
        });
    }
}

fn fill_pages(chunk: ChunkId, sums: &[u32], out: &mut [u8]) {
    for (page, sums) in sums.chunks(PAGE_GRANULES as usize).enumerate() {
        encode_page(chunk, page as u32, sums, &mut out[page * GRANULE..][..GRANULE]);
    }
}
