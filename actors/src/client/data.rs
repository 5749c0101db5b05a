//! File content: writes into buffers, buffers into chunks, chunks into reads; truncation.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use t3fs_runtime::{Bulk, Cx, Slot, join_all};

use super::buffer::{File, Put};
use super::link::layout_chains;
use super::{Attr, Client, FileType, FsError, SetAttrs};
use crate::proto::ids::{ChunkId, InodeId};
use crate::proto::meta::{
    Changed, GetAttr, ReportWrite, Reported, SeenContent, SetAttr, SetLength, SyncMeta,
};
use crate::proto::storage::UpdateKind;

/// Dirty bytes go to storage after this long at the latest.
const AGE_MAX: Duration = Duration::from_millis(200);
/// Shorter reads are not worth a hint.
const AHEAD_MIN: u64 = 32 << 10;
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// Many at a time, or one alone; first come, first served.
#[derive(Default)]
pub(super) struct Gate {
    /// -1: one alone is inside; else how many share.
    inside: Cell<i32>,
    line: RefCell<VecDeque<(bool, Slot<()>)>>,
}

pub(super) struct Inside<'a>(&'a Gate);

impl Gate {
    async fn enter(&self, alone: bool) -> Inside<'_> {
        let free = if alone { self.inside.get() == 0 } else { self.inside.get() >= 0 };
        if free && self.line.borrow().is_empty() {
            self.inside.set(if alone { -1 } else { self.inside.get() + 1 });
            return Inside(self);
        }
        let place = Slot::new();
        self.line.borrow_mut().push_back((alone, place.clone()));
        place.await;
        Inside(self)
    }

    fn admit(&self) {
        loop {
            let Some(alone) = self.line.borrow().front().map(|(a, _)| *a) else { return };
            let free = if alone { self.inside.get() == 0 } else { self.inside.get() >= 0 };
            if !free {
                return;
            }
            let (_, place) = self.line.borrow_mut().pop_front().expect("looked at it");
            if place.abandoned() {
                continue;
            }
            self.inside.set(if alone { -1 } else { self.inside.get() + 1 });
            place.fill(());
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let n = self.0.inside.get();
        self.0.inside.set(if n < 0 { 0 } else { n - 1 });
        self.0.admit();
    }
}

/// The pieces of `[offset, offset+len)`: chunk index, range in the chunk, place in the whole.
fn pieces(offset: u64, len: u64, chunk_size: u32) -> impl Iterator<Item = (u32, u32, u32, usize)> {
    let (size, end) = (u64::from(chunk_size), offset + len);
    let first = offset / size;
    let last = if len == 0 { first } else { (end - 1) / size + 1 };
    (first..last).map(move |i| {
        let from = offset.max(i * size);
        let to = end.min((i + 1) * size);
        (i as u32, (from - i * size) as u32, (to - i * size) as u32, (from - offset) as usize)
    })
}

fn chunk_size(attr: &Attr) -> Result<u32, FsError> {
    match (&attr.kind, &attr.layout) {
        (FileType::File, Some(l)) if l.chunk_size > 0 => Ok(l.chunk_size),
        (FileType::Directory, _) => Err(FsError::IsDirectory),
        _ => Err(FsError::InvalidArgument),
    }
}

impl Client {
    /// The file's entry, made from meta's answer if there is none.
    async fn load(&self, cx: &Cx, inode: InodeId) -> Result<Rc<File>, FsError> {
        if let Some(f) = self.file(inode) {
            return Ok(f);
        }
        let attr = self.0.link.meta(cx, GetAttr { inode }).await?;
        chunk_size(&attr)?;
        Ok(self.entry(attr))
    }

    /// The file's entry; `attr` is merged in, or begins it.
    pub(super) fn entry(&self, attr: Attr) -> Rc<File> {
        let mut files = self.0.files.borrow_mut();
        match files.get(&attr.inode) {
            Some(f) => {
                f.merge(attr);
                Rc::clone(f)
            }
            None => {
                let f = Rc::new(File::new(attr));
                files.insert(f.attr.borrow().inode, Rc::clone(&f));
                f
            }
        }
    }

    /// Forgets a file that nobody has open and nothing is on its way for.
    pub(super) fn settle(&self, inode: InodeId) {
        let mut files = self.0.files.borrow_mut();
        if files.get(&inode).is_some_and(|f| f.is_idle() && f.error.borrow().is_none()) {
            files.remove(&inode);
        }
    }

    fn grow_dirty(&self, n: usize) {
        self.0.dirty.set(self.0.dirty.get() + n);
    }

    fn shrink_dirty(&self, n: usize) {
        self.0.dirty.set(self.0.dirty.get() - n);
        if self.0.dirty.get() < self.0.write_buffer_bytes {
            for w in self.0.waiting.take() {
                w.fill(());
            }
        }
    }

    /// Waits until there is room for dirty bytes; sends what there is on its way meanwhile.
    async fn room(&self, cx: &Cx) {
        while self.0.dirty.get() >= self.0.write_buffer_bytes {
            self.push_aged(cx, Duration::ZERO);
            let place = Slot::new();
            self.0.waiting.borrow_mut().push(place.clone());
            place.await;
        }
    }

    /// Sends on their way the dirty ranges that are at least this old.
    fn push_aged(&self, cx: &Cx, age: Duration) {
        let now = cx.now();
        let files: Vec<Rc<File>> = self.0.files.borrow().values().cloned().collect();
        for f in files {
            let old: Vec<u32> = f
                .chunks
                .borrow()
                .iter()
                .filter(|(_, c)| {
                    !c.is_flying() && c.oldest().is_some_and(|since| now.since(since) >= age)
                })
                .map(|(i, _)| *i)
                .collect();
            for index in old {
                self.launch(cx, &f, index);
            }
        }
    }

    /// While anything is dirty or unreported, a task sends it on by age.
    fn sweep(&self, cx: &Cx) {
        if self.0.sweeping.replace(true) {
            return;
        }
        let (client, long) = (self.clone(), cx.outlive());
        cx.spawn(async move {
            loop {
                long.sleep(SWEEP_EVERY).await;
                client.push_aged(&long, AGE_MAX);
                let files: Vec<Rc<File>> = client.0.files.borrow().values().cloned().collect();
                let mut busy = client.0.dirty.get() > 0;
                for f in files {
                    if f.unreported.get() && f.chunks.borrow().is_empty() {
                        let inode = f.attr.borrow().inode;
                        // A failure leaves it unreported: the next round or fsync sees to it.
                        if let Err(e) = client.report(&long, &f, false).await {
                            tracing::warn!("length of {:#x} not reported: {e}", inode.0);
                        }
                        client.settle(inode);
                    }
                    busy |= f.unreported.get();
                }
                if !busy {
                    client.0.sweeping.set(false);
                    return;
                }
            }
        });
    }

    /// Sends all that is dirty in a chunk now, one range after the other.
    fn launch(&self, cx: &Cx, file: &Rc<File>, index: u32) {
        if let Some(c) = file.chunks.borrow_mut().get_mut(&index) {
            c.send(cx.now());
        }
        self.fly(cx, file, index);
    }

    /// Starts the next flight of a chunk, unless one is under way.
    fn fly(&self, cx: &Cx, file: &Rc<File>, index: u32) {
        let taken = file.chunks.borrow_mut().get_mut(&index).and_then(|c| c.take_off());
        let Some((start, data)) = taken else { return };
        let (client, file, cx) = (self.clone(), Rc::clone(file), cx.outlive());
        let task = cx.clone();
        cx.spawn(async move {
            let (inode, chain) = {
                let a = file.attr.borrow();
                let l = a.layout.as_ref().expect("files have a layout");
                (a.inode, client.0.link.chain_of(l, index))
            };
            let len = data.len();
            let sent = match chain {
                Err(e) => Err(e),
                Ok(chain) => {
                    let (kind, request) =
                        (UpdateKind::Write { offset: start }, client.0.link.request());
                    let chunk = ChunkId { inode, index };
                    client.0.link.update(&task, chain, chunk, kind, Bulk(data), request).await
                }
            };
            if let Err(e) = sent {
                tracing::warn!("{len} bytes of file {:#x} were not written: {e}", inode.0);
                file.error.borrow_mut().get_or_insert(e);
            }
            let landed = {
                let mut chunks = file.chunks.borrow_mut();
                let c = chunks.get_mut(&index).expect("in flight");
                c.land();
                let landed = std::mem::take(&mut c.landed);
                if c.is_clean() {
                    chunks.remove(&index);
                }
                landed
            };
            client.fly(&task, &file, index);
            client.shrink_dirty(len);
            for l in landed {
                l.fill(());
            }
            client.settle(inode);
        });
    }

    /// Waits until the chunk's bytes in flight, if any, have landed.
    async fn landing(&self, file: &File, index: u32) {
        let slot = {
            let mut chunks = file.chunks.borrow_mut();
            match chunks.get_mut(&index) {
                Some(c) if c.is_flying() => {
                    let s = Slot::new();
                    c.landed.push(s.clone());
                    s
                }
                _ => return,
            }
        };
        slot.await;
    }

    /// Brings what is dirty now in this chunk to storage.
    async fn push(&self, cx: &Cx, file: &Rc<File>, index: u32) {
        let now = cx.now();
        self.launch(cx, file, index);
        while file.chunks.borrow().get(&index).is_some_and(|c| c.holds(now)) {
            self.landing(file, index).await;
        }
    }

    async fn push_all(&self, cx: &Cx, file: &Rc<File>) {
        let all: Vec<u32> = file.chunks.borrow().keys().copied().collect();
        join_all(all.into_iter().map(|i| self.push(cx, file, i))).await;
    }

    /// Tells meta the length and times.
    async fn report(&self, cx: &Cx, file: &Rc<File>, durable: bool) -> Result<(), FsError> {
        let (writes, clear_suid) = (file.writes.get(), file.clear_suid.replace(false));
        let message = {
            let a = file.attr.borrow();
            ReportWrite {
                inode: a.inode,
                end: a.length,
                truncations: a.truncations,
                times_set: a.times_set,
                mtime_ns: Some(a.mtime_ns),
                atime_ns: None,
                clear_suid,
                sparse: false,
                durable,
            }
        };
        let told = match self.0.link.meta(cx, message).await {
            Ok(Reported::Taken(Changed { attr, .. }) | Reported::Stale(attr)) => {
                file.merge(attr);
                Ok(())
            }
            // The file went with its last name; its length is nobody's business.
            Err(FsError::Stale) => Ok(()),
            Err(e) => Err(e),
        };
        // Until here an fsync beside this report sends its own: this one may be lost.
        match &told {
            Ok(()) if file.writes.get() == writes => {
                file.unreported.set(false);
                file.length_unreported.set(false);
            }
            Ok(()) => {}
            Err(_) => file.clear_suid.set(file.clear_suid.get() || clear_suid),
        }
        told
    }

    /// Buffers; a failure of an earlier write in the background shows in flush and fsync.
    /// `privileged`: the writer is root, so setuid bits stay.
    pub async fn write(
        &self,
        cx: &Cx,
        inode: InodeId,
        offset: u64,
        data: Bytes,
        privileged: bool,
    ) -> Result<(), FsError> {
        let file = self.load(cx, inode).await?;
        let _inside = file.gate.enter(false).await;
        let size = chunk_size(&file.attr.borrow())?;
        let end = offset.checked_add(data.len() as u64).ok_or(FsError::FileTooLarge)?;
        if end > u64::from(size) * u64::from(u32::MAX) {
            return Err(FsError::FileTooLarge);
        }
        if let Some(e) = file.error.borrow().clone() {
            return Err(e); // told again until flush or fsync takes it
        }
        for (index, from, to, at) in pieces(offset, data.len() as u64, size) {
            self.room(cx).await;
            let part = data.slice(at..at + (to - from) as usize);
            loop {
                let put = {
                    let mut chunks = file.chunks.borrow_mut();
                    chunks.entry(index).or_default().put(from, &part, size, cx.now())
                };
                match put {
                    Put::Taken { added, full } => {
                        self.grow_dirty(added);
                        if full {
                            self.launch(cx, &file, index);
                        }
                        break;
                    }
                    Put::Apart => {
                        self.launch(cx, &file, index);
                        self.landing(&file, index).await;
                    }
                }
            }
        }
        {
            let mut a = file.attr.borrow_mut();
            if end > a.length {
                a.length = end;
                file.length_unreported.set(true);
            }
            let now = cx.wall_us() as i64 * 1000;
            a.mtime_ns = a.mtime_ns.max(now);
            a.ctime_ns = a.ctime_ns.max(now);
        }
        file.writes.set(file.writes.get() + 1);
        file.unreported.set(true);
        if !privileged {
            file.clear_suid.set(true);
        }
        self.sweep(cx);
        Ok(())
    }

    /// Up to `len` bytes; shorter only at the end of the file.
    ///
    /// # Errors
    /// `Stale` when content is gone because another client has taken the last name.
    pub async fn read(
        &self,
        cx: &Cx,
        inode: InodeId,
        offset: u64,
        len: u32,
    ) -> Result<Bytes, FsError> {
        let file = self.load(cx, inode).await?;
        let _inside = file.gate.enter(false).await;
        let (size, length) = {
            let a = file.attr.borrow();
            (chunk_size(&a)?, a.length)
        };
        let len = u64::from(len).min(length.saturating_sub(offset));
        if len == 0 {
            return Ok(Bytes::new());
        }
        self.foresee(cx, &file, offset, len, size, length);
        let parts: Vec<_> = pieces(offset, len, size).collect();
        if let [(index, from, to, _)] = parts[..] {
            let piece = self.read_piece(cx, &file, index, from, to).await?;
            if piece.is_none() {
                self.check_hole(cx, &file).await?;
            }
            return Ok(filled(piece.unwrap_or_default(), (to - from) as usize));
        }
        let reads = parts.iter().map(|(i, from, to, _)| self.read_piece(cx, &file, *i, *from, *to));
        let got = join_all(reads).await;
        let mut all = BytesMut::with_capacity(len as usize);
        let mut holes = false;
        for (piece, (_, from, to, _)) in got.into_iter().zip(&parts) {
            let piece = piece?;
            holes |= piece.is_none();
            let piece = piece.unwrap_or_default();
            all.extend_from_slice(&piece);
            all.resize(all.len() + (to - from) as usize - piece.len(), 0);
        }
        if holes {
            self.check_hole(cx, &file).await?;
        }
        Ok(all.freeze())
    }

    /// A chunk that is not there reads as zeros, unless it went with the file's last name.
    async fn check_hole(&self, cx: &Cx, file: &File) -> Result<(), FsError> {
        let inode = file.attr.borrow().inode;
        let attr: Attr = self.0.link.meta(cx, GetAttr { inode }).await?;
        let ours = file.held.get() || file.leaving.get() > 0;
        if attr.nlink > 0 || ours { Ok(()) } else { Err(FsError::Stale) }
    }

    /// Tells storage what is likely to be read next, when reads come in sequence: its disk then
    /// works while this answer travels.
    fn foresee(&self, cx: &Cx, file: &File, offset: u64, len: u64, size: u32, length: u64) {
        let mut reading = file.reading.get();
        let goes_on = reading.goes_on(offset, len);
        file.reading.set(reading);
        let next = offset + len;
        let ahead = len.min(length - next);
        if !goes_on || len < AHEAD_MIN || ahead == 0 {
            return;
        }
        let a = file.attr.borrow();
        let layout = a.layout.as_ref().expect("files have a layout");
        for (index, from, to, _) in pieces(next, ahead, size) {
            let chunk = ChunkId { inode: a.inode, index };
            let buffered = file.chunks.borrow().contains_key(&index);
            if let (false, Ok(chain)) = (buffered, self.0.link.chain_of(layout, index)) {
                self.0.link.read_ahead(cx, chain, chunk, from, to - from);
            }
        }
    }

    /// Bytes of one chunk; what is missing at the end reads as zeros. `None`: there is no chunk.
    async fn read_piece(
        &self,
        cx: &Cx,
        file: &Rc<File>,
        index: u32,
        from: u32,
        to: u32,
    ) -> Result<Option<Bytes>, FsError> {
        let buffered = {
            let mut chunks = file.chunks.borrow_mut();
            chunks.get_mut(&index).and_then(|c| c.touches(from, to).then(|| c.covers(from, to)))
        };
        match buffered {
            Some(Some(bytes)) => return Ok(Some(bytes)),
            Some(None) => self.push(cx, file, index).await,
            None => {}
        }
        let (chunk, chain) = {
            let a = file.attr.borrow();
            let l = a.layout.as_ref().expect("files have a layout");
            (ChunkId { inode: a.inode, index }, self.0.link.chain_of(l, index)?)
        };
        let got = self.0.link.read(cx, chain, chunk, from, to - from).await?;
        Ok(got.map(|d| d.data.0))
    }

    fn background_error(file: &File) -> Result<(), FsError> {
        match file.error.borrow_mut().take() {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    /// close(2): hands everything to storage and the length to meta.
    pub async fn flush(&self, cx: &Cx, inode: InodeId) -> Result<(), FsError> {
        let Some(file) = self.file(inode) else { return Ok(()) };
        let _inside = file.gate.enter(false).await;
        self.push_all(cx, &file).await;
        Self::background_error(&file)?;
        if file.unreported.get() {
            self.report(cx, &file, false).await?;
        }
        Ok(())
    }

    /// Content and attributes are on stable storage when it returns.
    pub async fn fsync(&self, cx: &Cx, inode: InodeId, datasync: bool) -> Result<(), FsError> {
        if let Some(file) = self.file(inode) {
            let _inside = file.gate.enter(false).await;
            self.push_all(cx, &file).await;
            Self::background_error(&file)?;
            if file.length_unreported.get() || (file.unreported.get() && !datasync) {
                return self.report(cx, &file, true).await;
            }
        }
        // Its name and earlier changes; costs nothing when they are stable already.
        self.0.link.meta(cx, SyncMeta::default()).await
    }

    /// With the length as this client's own unflushed writes make it.
    pub async fn getattr(&self, cx: &Cx, inode: InodeId) -> Result<Attr, FsError> {
        let attr = self.0.link.meta(cx, GetAttr { inode }).await?;
        Ok(match self.file(inode) {
            Some(f) => f.merge(attr),
            None => attr,
        })
    }

    pub async fn setattr(&self, cx: &Cx, inode: InodeId, s: SetAttrs) -> Result<Attr, FsError> {
        let message = SetAttr {
            inode,
            mode: s.mode,
            uid: s.uid,
            gid: s.gid,
            atime: s.atime,
            mtime: s.mtime,
            ctime: s.ctime,
            length: None,
            op: self.0.link.op(),
        };
        if let Some(length) = s.length {
            return self.truncate(cx, message, length).await;
        }
        // Times set by hand must not be overtaken by those of buffered writes.
        if s.mtime.is_some() {
            self.flush(cx, inode).await?;
        }
        let Changed { attr, .. } = self.0.link.meta(cx, message).await?;
        if let Some(f) = self.file(inode) {
            if s.mtime.is_none() {
                return Ok(f.merge(attr)); // a buffered write's time stays
            }
            let mut mine = f.attr.borrow_mut();
            let length = if mine.truncations == attr.truncations {
                mine.length.max(attr.length)
            } else {
                attr.length
            };
            *mine = attr.clone();
            mine.length = length;
            return Ok(mine.clone());
        }
        Ok(attr)
    }

    async fn truncate(&self, cx: &Cx, message: SetAttr, length: u64) -> Result<Attr, FsError> {
        let inode = message.inode;
        let file = self.load(cx, inode).await?;
        let attr = {
            let _alone = file.gate.enter(true).await;
            // Others may have written behind the end that this client knows.
            file.merge(self.0.link.meta(cx, GetAttr { inode }).await?);
            let (size, layout, old) = {
                let a = file.attr.borrow();
                (chunk_size(&a)?, a.layout.clone().expect("files have a layout"), a.length)
            };
            if length > u64::from(size) * u64::from(u32::MAX) {
                return Err(FsError::FileTooLarge);
            }
            let indexes: Vec<u32> = file.chunks.borrow().keys().copied().collect();
            for i in indexes {
                let keep = length.saturating_sub(u64::from(i) * u64::from(size)).min(size.into());
                let dropped = {
                    let mut chunks = file.chunks.borrow_mut();
                    let Some(c) = chunks.get_mut(&i) else { continue };
                    let dropped = c.cut(keep as u32);
                    if c.is_clean() {
                        chunks.remove(&i);
                    }
                    dropped
                };
                self.shrink_dirty(dropped);
            }
            self.push_all(cx, &file).await;
            // Bytes behind the end must not show when the file grows again, so they go before the
            // length is set; extending cuts what a crash may have left behind the old end.
            let edge = length.min(old);
            let (last, rest) = ((edge / u64::from(size)) as u32, (edge % u64::from(size)) as u32);
            if length != old {
                if rest > 0 {
                    let chunk = ChunkId { inode, index: last };
                    let chain = self.0.link.chain_of(&layout, last)?;
                    let found = self.0.link.read(cx, chain, chunk, rest, 1).await?;
                    if found.is_some_and(|d| d.chunk_len > rest) {
                        let kind = UpdateKind::Truncate { len: rest };
                        let request = self.0.link.request();
                        self.0
                            .link
                            .update(cx, chain, chunk, kind, Bulk::default(), request)
                            .await?;
                    }
                }
                if length < old {
                    let from = last + u32::from(rest > 0);
                    let chains = layout_chains(&self.0.link.routing(), &layout);
                    let removals = chains.into_iter().map(|chain| {
                        self.0.link.remove(cx, chain, inode, from, self.0.link.request())
                    });
                    for r in join_all(removals).await {
                        r?;
                    }
                }
            }
            let seen = SeenContent::of(&self.0.link.meta(cx, GetAttr { inode }).await?);
            let message = SetAttr { length: Some(SetLength { length, seen }), ..message };
            let Changed { attr, .. } = self.0.link.meta(cx, message).await?;
            *file.attr.borrow_mut() = attr.clone();
            file.unreported.set(false);
            file.length_unreported.set(false);
            attr
        };
        self.settle(inode);
        Ok(attr)
    }

    /// Drops what was buffered for a file whose last name and descriptor are gone.
    pub(super) async fn discard(&self, file: &Rc<File>) {
        let _alone = file.gate.enter(true).await;
        let indexes: Vec<u32> = file.chunks.borrow().keys().copied().collect();
        for i in indexes {
            let dropped = file.chunks.borrow_mut().get_mut(&i).map_or(0, |c| c.cut(0));
            self.shrink_dirty(dropped);
            self.landing(file, i).await;
        }
        file.chunks.borrow_mut().retain(|_, c| !c.is_clean());
        file.unreported.set(false);
        file.error.borrow_mut().take();
    }
}

fn filled(b: Bytes, len: usize) -> Bytes {
    if b.len() == len {
        return b;
    }
    let mut all = BytesMut::from(&b[..]);
    all.resize(len, 0);
    all.freeze()
}

#[cfg(test)]
mod tests {
    use super::pieces;

    #[test]
    fn ranges_split_at_chunks() {
        let all: Vec<_> = pieces(90, 120, 100).collect();
        assert_eq!(all, [(0, 90, 100, 0), (1, 0, 100, 10), (2, 0, 10, 110)]);
        assert_eq!(pieces(100, 100, 100).collect::<Vec<_>>(), [(1, 0, 100, 0)]);
        assert_eq!(pieces(5, 0, 100).count(), 0);
    }
}
