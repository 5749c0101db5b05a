//! File content: writes into buffers, chunks and buffers into reads.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use core::time::Duration;
use t3fs_runtime::{Cx, join_all};

use super::append::TurnWait;
use super::chunk::Put;
use super::file::File;
use super::pieces::{At, WritePiece, Written, pieces};
use super::{Attr, Client, FileType, FsError};
use crate::proto::ids::{ChunkId, InodeId};
use crate::proto::meta::GetAttr;

/// Shorter reads are not worth a hint.
const AHEAD_MIN: u64 = 32 << 10;
/// How long a read at the end waits to hear whether there is more.
const FRESH_MAX: Duration = Duration::from_secs(1);

pub(super) fn chunk_size(attr: &Attr) -> Result<u32, FsError> {
    match (&attr.kind, &attr.layout) {
        (FileType::File, Some(l)) if l.chunk_size > 0 => Ok(l.chunk_size),
        (FileType::Directory, _) => Err(FsError::IsDirectory),
        _ => Err(FsError::InvalidArgument),
    }
}

impl Client {
    /// The file's entry, made from meta's answer if there is none.
    pub(super) async fn load(&self, cx: &Cx, inode: InodeId) -> Result<Rc<File>, FsError> {
        let file = match self.file(inode) {
            Some(file) => file,
            None => {
                let attr = self.0.cluster.meta(cx, GetAttr { inode }).await?;
                chunk_size(&attr)?;
                self.entry(attr)
            }
        };
        let unknown = {
            let core = file.core.borrow();
            let layout = core.known().layout.as_ref();
            layout.filter(|layout| self.0.cluster.chain_of(layout, 0).is_err()).cloned()
        };
        if let Some(layout) = unknown {
            self.0.cluster.learn_layout(cx, &layout).await?;
        }
        Ok(file)
    }

    /// The file's entry; `attr` is merged in, or begins it.
    pub(super) fn entry(&self, attr: Attr) -> Rc<File> {
        let mut files = self.0.files.borrow_mut();
        match files.get(&attr.inode) {
            Some(f) => {
                self.merge(f, attr);
                Rc::clone(f)
            }
            None => {
                let inode = attr.inode;
                self.heard(attr.as_of);
                let f = Rc::new(File::new(attr));
                files.insert(inode, Rc::clone(&f));
                f
            }
        }
    }

    /// Takes an answer of meta about a file.
    pub(super) fn merge(&self, file: &File, attr: Attr) {
        self.heard(attr.as_of);
        file.core.borrow_mut().merge(attr);
    }

    /// Forgets a file that nobody has open or works on, and nothing is on its way for.
    pub(super) fn settle(&self, inode: InodeId) {
        let mut files = self.0.files.borrow_mut();
        // A second reference: a truncation or a flush is at it, and what it finds must stay the
        // one entry of this inode.
        let idle = |f: &Rc<File>| Rc::strong_count(f) == 1 && f.core.borrow().is_idle();
        if files.get(&inode).is_some_and(idle) {
            files.remove(&inode);
        }
    }

    pub(super) fn settle_all(&self) {
        let all: Vec<InodeId> = self.0.files.borrow().keys().copied().collect();
        all.into_iter().for_each(|inode| self.settle(inode));
    }

    /// Buffers; a failure of an earlier write in the background shows in flush and fsync. An append
    /// that others could be beside is stored when this returns. `privileged`: the writer is root,
    /// so setuid bits stay.
    pub async fn write(
        &self,
        cx: &Cx,
        inode: InodeId,
        at: At,
        data: Bytes,
        privileged: bool,
    ) -> Result<Written, FsError> {
        let file = self.load(cx, inode).await?;
        let size = {
            let core = file.core.borrow();
            if core.is_gone() {
                return Err(FsError::Stale); // nobody would ever remove its chunks
            }
            chunk_size(core.known())?
        };
        let piece = WritePiece { data: &data, size, privileged };
        match at {
            At::Offset(offset) => {
                let _inside = file.gate.share(cx).await?;
                self.end_left_turn(cx, &file).await?;
                self.write_at(cx, &file, offset, piece).await
            }
            At::End => {
                let mut wait = None;
                let appended = self.append(cx, &file, piece, &mut wait).await;
                if let Some(TurnWait { op, .. }) = wait {
                    self.give_up_turn(cx, &file, op);
                }
                appended
            }
        }
    }

    pub(super) async fn write_at(
        &self,
        cx: &Cx,
        file: &Rc<File>,
        offset: u64,
        piece: WritePiece<'_>,
    ) -> Result<Written, FsError> {
        piece.end(offset)?;
        let len = match self.is_short(cx, file, offset, piece)? {
            // Nobody hears later that there was no room who does not ask: it is said now.
            true => self.store_in_order(cx, file, offset, piece).await?,
            false => {
                self.buffer(cx, file, offset, piece).await?;
                piece.data.len()
            }
        };
        self.sweep(cx);
        Ok(Written { offset, len })
    }

    /// Whether a chain that these bytes go to has no room.
    fn is_short(
        &self,
        cx: &Cx,
        file: &File,
        offset: u64,
        piece: WritePiece<'_>,
    ) -> Result<bool, FsError> {
        for (index, ..) in pieces(offset, piece.data.len() as u64, piece.size) {
            if self.0.room.is_full(self.chain(file, index)?, cx.now()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A turn that its program has given up: what goes on is not part of it.
    pub(super) async fn end_left_turn(&self, cx: &Cx, file: &Rc<File>) -> Result<(), FsError> {
        if !file.core.borrow().is_leaving_turn() {
            return Ok(());
        }
        self.push_and_report(cx, file).await
    }

    pub(super) async fn push_and_report(&self, cx: &Cx, file: &Rc<File>) -> Result<(), FsError> {
        self.push_all(cx, file).await?;
        if file.core.borrow().unreported() {
            self.report(cx, file, false).await?;
        }
        Ok(())
    }

    /// Puts bytes into the chunks' buffers.
    pub(super) async fn buffer(
        &self,
        cx: &Cx,
        file: &Rc<File>,
        offset: u64,
        WritePiece { data, size, privileged }: WritePiece<'_>,
    ) -> Result<(), FsError> {
        for (index, from, to, at) in pieces(offset, data.len() as u64, size) {
            let chain = self.chain(file, index)?;
            let part = data.slice(at..at + (to - from) as usize);
            loop {
                self.0.room.find(cx, chain, || self.push_aged(cx, Duration::ZERO)).await?;
                let put = {
                    let mut core = file.core.borrow_mut();
                    let hole = offset + at as u64 > core.length();
                    let put =
                        core.chunks.entry(index).or_default().put(from, &part, size, cx.now());
                    if matches!(put, Put::Taken { .. }) {
                        core.wrote(cx.wall_us() as i64 * 1000, privileged, hole);
                    }
                    put
                };
                match put {
                    Put::Taken { added, full } => {
                        self.0.room.take(chain, added);
                        if full {
                            self.launch(cx, file, index);
                        }
                        break;
                    }
                    Put::Apart => {
                        self.launch(cx, file, index);
                        self.landing(cx, file, index).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Up to `len` bytes; shorter only at the end of the file.
    ///
    /// # Errors
    /// `Stale` when the content is gone.
    pub async fn read(
        &self,
        cx: &Cx,
        inode: InodeId,
        offset: u64,
        len: u32,
    ) -> Result<Bytes, FsError> {
        let file = self.load(cx, inode).await?;
        let _inside = file.gate.share(cx).await?;
        let (size, mut length) = {
            let core = file.core.borrow();
            if core.is_gone() {
                return Err(FsError::Stale);
            }
            (chunk_size(core.known())?, core.length())
        };
        if self.is_shared() && offset.saturating_add(u64::from(len)) > length {
            // Other clients may have made the file longer. While nobody says, its length is the old
            // one.
            length = match self.getattr(&cx.within(FRESH_MAX), inode).await {
                Ok(attr) => attr.length,
                Err(FsError::Unavailable(_)) if file.core.borrow().is_gone() => {
                    return Err(FsError::Stale);
                }
                Err(FsError::Unavailable(_)) => file.core.borrow().length(),
                Err(e) => return Err(e),
            };
        }
        let len = u64::from(len).min(length.saturating_sub(offset));
        if len == 0 {
            return Ok(Bytes::new());
        }
        self.foresee(cx, &file, offset, len, size, length);
        let parts: Vec<_> = pieces(offset, len, size).collect();
        let got = match &parts[..] {
            [(index, from, to, _)] => vec![self.read_piece(cx, &file, *index, *from, *to).await],
            parts => {
                let reads = parts.iter();
                let reads =
                    reads.map(|(i, from, to, _)| self.read_piece(cx, &file, *i, *from, *to));
                join_all(reads).await
            }
        };
        let got: Vec<Option<Bytes>> = got.into_iter().collect::<Result<_, _>>()?;
        if got.iter().any(Option::is_none) {
            self.check_hole(cx, &file).await?;
        }
        if let [Some(piece)] = &got[..]
            && piece.len() as u64 == len
        {
            return Ok(piece.clone());
        }
        let mut all = BytesMut::zeroed(len as usize);
        for (piece, (.., at)) in got.into_iter().zip(parts) {
            if let Some(piece) = piece {
                all[at..at + piece.len()].copy_from_slice(&piece);
            }
        }
        Ok(all.freeze())
    }

    /// A chunk that is not there reads as zeros, unless it went with the inode.
    async fn check_hole(&self, cx: &Cx, file: &File) -> Result<(), FsError> {
        let inode = file.core.borrow().inode();
        let attr: Attr = self.0.cluster.meta(cx, GetAttr { inode }).await?;
        let nlink = attr.nlink;
        self.merge(file, attr);
        let core = file.core.borrow();
        if nlink > 0 || core.is_open() || core.hold.is_some() {
            return Ok(());
        }
        Err(FsError::Stale)
    }

    /// Tells storage what is likely to be read next, when reads come in sequence: its disk then
    /// works while this answer travels.
    fn foresee(&self, cx: &Cx, file: &File, offset: u64, len: u64, size: u32, length: u64) {
        let goes_on = file.core.borrow_mut().goes_on(offset, len);
        let next = offset + len;
        let ahead = len.min(length - next);
        if !goes_on || len < AHEAD_MIN || ahead == 0 {
            return;
        }
        let inode = file.core.borrow().inode();
        for (index, from, to, _) in pieces(next, ahead, size) {
            let chunk = ChunkId { inode, index };
            let buffered = file.core.borrow().chunks.contains_key(&index);
            if let (false, Ok(chain)) = (buffered, self.chain(file, index)) {
                self.0.cluster.read_ahead(cx, chain, chunk, from, to - from);
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
            let mut core = file.core.borrow_mut();
            let chunk = core.chunks.get_mut(&index);
            chunk.and_then(|c| c.touches(from, to).then(|| c.covers(from, to)))
        };
        match buffered {
            Some(Some(bytes)) => return Ok(Some(bytes)),
            Some(None) => self.push(cx, file, index).await?,
            None => {}
        }
        let chunk = ChunkId { inode: file.core.borrow().inode(), index };
        let chain = self.chain(file, index)?;
        let room = &self.0.reading;
        room.find(cx, chain, || {}).await?;
        let len = to - from;
        let _held = room.hold(chain, len as usize);
        let got = self.0.cluster.read(cx, chain, chunk, from, len).await?;
        Ok(got.map(|d| d.data.0))
    }
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
