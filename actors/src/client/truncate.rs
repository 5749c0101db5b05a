//! Setting attributes, and lengths above all.
//!
//! A truncation (1) removes the chunks behind the new end, (2) sets the length at meta, which
//! refuses if anybody has written or cut since the file was looked at, or is about to append: then
//! it takes a turn at the end of the file and begins again. So nothing that was acknowledged
//! between the two stays behind the end, to appear when the file grows again. It cuts in any case:
//! bytes behind the end may be of a report that the store has lost.

use std::rc::Rc;

use t3fs_runtime::{Bulk, Cx, Slot, join_all};

use super::data::chunk_size;
use super::file::File;
use super::retry::Retry;
use super::{Attr, Client, FsError, SetAttrs};
use crate::proto::ids::{ChunkId, InodeId, RequestId};
use crate::proto::meta::{BeginCut, Changed, GetAttr, Layout, SeenContent, SetAttr, SetLength};
use crate::proto::storage::UpdateKind;

/// A truncation under way.
struct Cutting<'a>(&'a File);

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        self.0.core.borrow_mut().end_cut();
    }
}

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
        let changed: Changed = self.0.cluster.meta_once(cx, message.op, message).await?;
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
            op: self.0.cluster.op(),
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
        // If it has a turn it has it no more.
        file.core.borrow_mut().leave_turn();
        self.sweep(cx);
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
        let mut retry = Retry::in_turn(cx, self.0.cluster.patience());
        let mut turn = None;
        loop {
            // What this client has stored counts, or meta would keep a shorter file than it has.
            let unreported = {
                let core = file.core.borrow();
                core.length_unreported() || core.is_sparse() && !core.known().sparse
            };
            if unreported {
                self.report(cx, file, false).await?;
            }
            let seen = SeenContent::of(file.core.borrow().known());
            // Also when the file grows: a store that has lost a report leaves bytes behind the end.
            self.cut_chunks(cx, inode, layout, length).await?;
            let to = SetLength { length, seen, turn };
            let message = self.message(inode, s, Some(to));
            match self.0.cluster.meta_once(cx, message.op, message).await {
                Ok(changed) => {
                    let changed: Changed = changed;
                    self.changed(cx, &changed);
                    file.core.borrow_mut().cut(changed.attr);
                    return Ok(());
                }
                Err(FsError::Changed) => {}
                Err(e) => return Err(e),
            }
            if turn.is_none() {
                turn = Some(self.take_turn(cx, file).await?);
            }
            let attr: Attr = self.0.cluster.meta(cx, GetAttr { inode }).await?;
            self.heard(attr.as_of);
            file.core.borrow_mut().look(attr);
            if !retry.again(cx, Slot::new()).await {
                return Err(FsError::Unavailable("others change the file all the time".into()));
            }
        }
    }

    /// Waits until no other client is at the end of the file.
    async fn take_turn(&self, cx: &Cx, file: &File) -> Result<RequestId, FsError> {
        // An append that has failed has it no more.
        file.core.borrow_mut().leave_turn();
        if file.core.borrow().unreported() {
            self.report(cx, file, false).await?;
        }
        let mut retry = Retry::in_turn(cx, self.0.cluster.patience());
        let op = self.0.cluster.op();
        file.core.borrow_mut().begin_turn(op, false);
        let inode = file.core.borrow().inode();
        while !self.0.cluster.meta(cx, BeginCut { inode, op }).await? {
            if !retry.again(cx, Slot::new()).await {
                return Err(FsError::Unavailable("others append to the file".into()));
            }
        }
        Ok(op)
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
                core.drop_clean(i);
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
        let cluster = &self.0.cluster;
        let size = u64::from(layout.chunk_size);
        let (last, rest) = ((length / size) as u32, (length % size) as u32);
        if rest > 0 {
            let chunk = ChunkId { inode, index: last };
            let chain = cluster.chain_of(layout, last)?;
            // Also what is not committed yet: a write that nobody waits for any more may still
            // become part of the chunk.
            let found = cluster.extents(cx, chain, inode, last, 1).await?;
            if found.chunks.first().is_some_and(|(index, len)| *index == last && *len > rest) {
                let kind = UpdateKind::Truncate { len: rest };
                loop {
                    let request = cluster.request();
                    match cluster.update(cx, chain, chunk, kind, Bulk::default(), request).await {
                        Ok(_) => break,
                        Err(_) if cluster.session() != request.session => {}
                        Err(e) => return Err(e),
                    }
                }
            }
        }
        let from = last + u32::from(rest > 0);
        let chains = cluster.chains_of(cx, layout).await?;
        let removals = chains.into_iter().map(|c| cluster.remove(cx, c, inode, from));
        join_all(removals).await.into_iter().collect()
    }
}
