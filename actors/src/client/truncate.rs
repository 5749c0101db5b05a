//! Setting attributes, and lengths above all.
//!
//! A truncation (1) removes the chunks behind the new end, (2) sets the length at meta, which
//! refuses if anybody has written or cut since the file was looked at: then it begins again. So
//! nothing that was acknowledged between the two stays behind the end, to appear when the file
//! grows again. Bytes behind the end are somebody's who has not reported them yet, so a file that
//! is extended loses nothing; or they are of a report that the store has lost, so a truncation to
//! the present length removes them too.

use std::rc::Rc;

use t3fs_runtime::{Bulk, Cx, join_all};

use super::data::chunk_size;
use super::file::File;
use super::link::layout_chains;
use super::{Attr, Client, FsError, SetAttrs};
use crate::proto::ids::{ChunkId, InodeId};
use crate::proto::meta::{Changed, GetAttr, Layout, SeenContent, SetAttr, SetLength};
use crate::proto::storage::UpdateKind;

/// A truncation under way.
struct Cutting<'a>(&'a File);

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        self.0.core.borrow_mut().end_cut();
    }
}

/// Times that others may change the content under a truncation.
const ATTEMPTS: u32 = 50;

impl Client {
    pub async fn setattr(&self, cx: &Cx, inode: InodeId, s: SetAttrs) -> Result<Attr, FsError> {
        if let Some(length) = s.length {
            return self.truncate(cx, inode, &s, length).await;
        }
        // Times set by hand must not be overtaken by those of buffered writes.
        if s.mtime.is_some()
            && let Some(file) = self.file(inode)
        {
            self.flush_all(cx, &file).await?;
        }
        let message = self.message(inode, &s, None);
        let changed: Changed = self.0.link.meta(cx, message).await?;
        self.changed(cx, &changed);
        Ok(self.with_mine(cx, changed.attr).await)
    }

    fn message(&self, inode: InodeId, s: &SetAttrs, length: Option<SetLength>) -> SetAttr {
        SetAttr {
            inode,
            mode: s.mode,
            uid: s.uid,
            gid: s.gid,
            atime: s.atime,
            mtime: s.mtime,
            ctime: s.ctime,
            length,
            op: self.0.link.op(),
        }
    }

    async fn truncate(
        &self,
        cx: &Cx,
        inode: InodeId,
        s: &SetAttrs,
        length: u64,
    ) -> Result<Attr, FsError> {
        let file = self.load(cx, inode).await?;
        let _alone = file.gate.alone(cx).await?;
        let (size, layout) = {
            let core = file.core.borrow();
            let a = core.known();
            (chunk_size(a)?, a.layout.clone().expect("files have a layout"))
        };
        if length > u64::from(size) * u64::from(u32::MAX) {
            return Err(FsError::FileTooLarge);
        }
        file.core.borrow_mut().begin_cut();
        let cutting = Cutting(&file);
        self.cut_buffers(&file, length, size);
        let cut = self.cut_and_tell(cx, &file, s, length, &layout).await;
        drop(cutting);
        if let Err(e) = &cut {
            // What was buffered behind the new end is gone, and the old end may stand.
            file.core.borrow_mut().fail(e.clone());
        }
        cut?;
        let attr = file.core.borrow().attr();
        Ok(attr)
    }

    async fn cut_and_tell(
        &self,
        cx: &Cx,
        file: &Rc<File>,
        s: &SetAttrs,
        length: u64,
        layout: &Layout,
    ) -> Result<(), FsError> {
        let inode = file.core.borrow().inode();
        self.push_all(cx, file).await?;
        for _ in 0..ATTEMPTS {
            // What this client has stored counts, or meta would keep a shorter file than it has.
            let unreported = {
                let core = file.core.borrow();
                core.length_unreported() || core.is_sparse() && !core.known().sparse
            };
            if unreported {
                self.report(cx, file, false).await?;
            }
            let seen = SeenContent::of(file.core.borrow().known());
            // Also behind the present end: a store that has lost a report leaves bytes there.
            if length <= seen.length {
                self.cut_chunks(cx, inode, layout, length).await?;
            }
            let to = SetLength { length, seen, holes: self.is_shared() };
            let message = self.message(inode, s, Some(to));
            match self.0.link.meta(cx, message).await {
                Ok(changed) => {
                    let changed: Changed = changed;
                    self.changed(cx, &changed);
                    file.core.borrow_mut().cut(changed.attr, changed.stamp.run());
                    return Ok(());
                }
                Err(FsError::Changed) => {
                    let attr: Attr = self.0.link.meta(cx, GetAttr { inode }).await?;
                    file.core.borrow_mut().look(attr, self.0.run.get());
                }
                Err(e) => return Err(e),
            }
        }
        Err(FsError::Unavailable("others change the file again and again".into()))
    }

    /// Takes back the end of a file that an append has moved and could not fill, if nobody has
    /// written since. What cannot be taken back stays as a hole. Chunks are let be: what is behind
    /// the end may be another's append by now. The caller is alone with the file.
    pub(super) async fn take_back(&self, cx: &Cx, file: &Rc<File>, end: SetLength) {
        let inode = file.core.borrow().inode();
        let message = self.message(inode, &SetAttrs::default(), Some(end));
        let taken: Result<Changed, FsError> = self.0.link.meta(cx, message).await;
        match taken {
            Ok(changed) => {
                self.changed(cx, &changed);
                file.core.borrow_mut().cut(changed.attr, changed.stamp.run());
            }
            Err(e) => tracing::debug!("an append to {:#x} leaves a hole: {e}", inode.0),
        }
    }

    /// Drops what is buffered behind the new end.
    fn cut_buffers(&self, file: &Rc<File>, length: u64, size: u32) {
        let indexes: Vec<u32> = file.core.borrow().chunks.keys().copied().collect();
        for i in indexes {
            let keep = length.saturating_sub(u64::from(i) * u64::from(size)).min(size.into());
            let dropped = {
                let mut core = file.core.borrow_mut();
                let Some(c) = core.chunks.get_mut(&i) else { continue };
                let dropped = c.cut(keep as u32);
                if c.is_clean() {
                    core.chunks.remove(&i);
                }
                dropped
            };
            self.leave_room(file, i, dropped);
        }
    }

    /// Removes everything behind `length` from storage.
    async fn cut_chunks(
        &self,
        cx: &Cx,
        inode: InodeId,
        layout: &Layout,
        length: u64,
    ) -> Result<(), FsError> {
        let link = &self.0.link;
        let size = u64::from(layout.chunk_size);
        let (last, rest) = ((length / size) as u32, (length % size) as u32);
        if rest > 0 {
            let chunk = ChunkId { inode, index: last };
            let chain = link.chain_of(layout, last)?;
            let found = link.read(cx, chain, chunk, rest, 1).await?;
            if found.is_some_and(|d| d.chunk_len > rest) {
                let kind = UpdateKind::Truncate { len: rest };
                let request = link.request();
                link.update(cx, chain, chunk, kind, Bulk::default(), request).await?;
            }
        }
        let from = last + u32::from(rest > 0);
        let chains = layout_chains(&link.routing(), layout);
        let removals = chains.into_iter().map(|c| link.remove(cx, c, inode, from));
        join_all(removals).await.into_iter().collect()
    }
}
