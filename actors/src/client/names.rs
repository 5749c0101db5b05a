//! Names: lookups, opens, and everything that makes or removes an entry.

use std::rc::Rc;

use t3fs_runtime::Cx;

use super::buffer::File;
use super::{Attr, Client, DirPage, FileType, FsError, FsSpace, Owner, RenameMode};
use crate::proto::ids::InodeId;
use crate::proto::meta::*;
use crate::proto::storage::GetSpace;

/// How long a space report is good for.
const SPACE_LIFE: core::time::Duration = core::time::Duration::from_secs(1);

impl Client {
    fn new_entry(&self, parent: InodeId, name: &[u8], owner: Owner) -> NewEntry {
        NewEntry {
            parent,
            name: name.to_vec(),
            mode: owner.mode,
            uid: owner.uid,
            gid: owner.gid,
            op: self.0.link.op(),
        }
    }

    /// Lays this client's own unreported writes over what meta says.
    fn with_mine(&self, attr: Attr) -> Attr {
        match self.file(attr.inode) {
            Some(f) => f.merge(attr),
            None => attr,
        }
    }

    pub async fn lookup(&self, cx: &Cx, parent: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        let m = Lookup { parent, name: name.to_vec() };
        Ok(self.with_mine(self.0.link.meta(cx, m).await?))
    }

    /// Makes a file (or special file) and, for a file, opens it: pairs with `release`.
    pub async fn create(
        &self,
        cx: &Cx,
        parent: InodeId,
        name: &[u8],
        owner: Owner,
        kind: FileType,
    ) -> Result<Attr, FsError> {
        let m = CreateFile { entry: self.new_entry(parent, name, owner), kind, hold: None };
        let Changed { attr, .. } = self.0.link.meta(cx, m).await?;
        if kind == FileType::File {
            let f = self.entry(attr.clone());
            f.opens.set(f.opens.get() + 1);
        }
        Ok(attr)
    }

    /// Pairs with `release`; the content of an open file stays when its last name goes.
    ///
    /// # Errors
    /// `Stale` also when the last name has gone and this client has it not open: what is written to
    /// it would be lost.
    pub async fn open(&self, cx: &Cx, inode: InodeId) -> Result<Attr, FsError> {
        let attr = self.0.link.meta(cx, GetAttr { inode }).await?;
        if attr.kind != FileType::File {
            return Ok(attr);
        }
        if attr.nlink == 0 && self.file(inode).is_none_or(|f| f.opens.get() == 0) {
            return Err(FsError::Stale);
        }
        let f = self.entry(attr);
        f.opens.set(f.opens.get() + 1);
        let attr = f.attr.borrow().clone();
        Ok(attr)
    }

    pub async fn release(&self, cx: &Cx, inode: InodeId) -> Result<(), FsError> {
        let Some(f) = self.file(inode) else { return Ok(()) };
        f.opens.set(f.opens.get().saturating_sub(1));
        self.let_go(cx, inode).await
    }

    /// After the last close of a file without a name, its content may go.
    async fn let_go(&self, cx: &Cx, inode: InodeId) -> Result<(), FsError> {
        let Some(f) = self.file(inode) else { return Ok(()) };
        if f.opens.get() == 0 && f.held.replace(false) {
            self.discard(&f).await;
            self.settle(inode);
            let session = self.0.link.session();
            return self.0.link.meta(cx, DropHolds { session, inodes: vec![inode] }).await;
        }
        self.settle(inode);
        Ok(())
    }

    pub async fn mkdir(
        &self,
        cx: &Cx,
        parent: InodeId,
        name: &[u8],
        owner: Owner,
    ) -> Result<Attr, FsError> {
        let m = MakeDir { entry: self.new_entry(parent, name, owner) };
        self.0.link.meta(cx, m).await.map(|changed: Changed| changed.attr)
    }

    pub async fn symlink(
        &self,
        cx: &Cx,
        parent: InodeId,
        name: &[u8],
        target: &[u8],
        owner: Owner,
    ) -> Result<Attr, FsError> {
        if target.len() > SYMLINK_MAX {
            return Err(FsError::NameTooLong);
        }
        let entry = self.new_entry(parent, name, owner);
        let m = MakeSymlink { entry, target: target.to_vec() };
        self.0.link.meta(cx, m).await.map(|changed: Changed| changed.attr)
    }

    pub async fn readlink(&self, cx: &Cx, inode: InodeId) -> Result<Vec<u8>, FsError> {
        self.0.link.meta(cx, ReadLink { inode }).await
    }

    pub async fn link(
        &self,
        cx: &Cx,
        inode: InodeId,
        parent: InodeId,
        name: &[u8],
    ) -> Result<Attr, FsError> {
        let op = self.0.link.op();
        let m = MakeLink { inode, parent, name: name.to_vec(), op };
        let Changed { attr, .. } = self.0.link.meta(cx, m).await?;
        Ok(self.with_mine(attr))
    }

    /// The named file, if this client has it open or unwritten: its content must stay.
    async fn hold(
        &self,
        cx: &Cx,
        parent: InodeId,
        name: &[u8],
    ) -> Result<Option<Rc<File>>, FsError> {
        if self.0.files.borrow().is_empty() {
            return Ok(None);
        }
        let m = Lookup { parent, name: name.to_vec() };
        match self.0.link.meta::<_, Attr>(cx, m).await {
            Ok(a) => Ok(self.file(a.inode)),
            Err(FsError::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Asks for something that may take the last name of a file that is held. Others may see that
    /// it is gone before we have the answer.
    async fn leaving<T>(
        &self,
        held: Option<&Rc<File>>,
        asked: impl Future<Output = Result<T, FsError>>,
    ) -> Result<T, FsError> {
        let Some(file) = held else { return asked.await };
        file.leaving.set(file.leaving.get() + 1);
        let answer = asked.await;
        if !matches!(answer, Err(FsError::Unavailable(_))) {
            file.leaving.set(file.leaving.get() - 1);
        }
        answer
    }

    /// Keeps or drops the content of a file that lost its last name.
    async fn lost_name(&self, cx: &Cx, gone: &Attr, held: bool) -> Result<(), FsError> {
        if gone.nlink > 0 || gone.kind != FileType::File {
            return Ok(());
        }
        if let Some(f) = self.file(gone.inode) {
            f.merge(gone.clone());
            f.held.set(held);
            return self.let_go(cx, gone.inode).await;
        }
        if held {
            // It was let go between the look and the removal.
            let (inode, session) = (gone.inode, self.0.link.session());
            return self.0.link.meta(cx, DropHolds { session, inodes: vec![inode] }).await;
        }
        Ok(())
    }

    /// The inode that lost its name, after.
    pub async fn unlink(&self, cx: &Cx, parent: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        let hold = self.hold(cx, parent, name).await?;
        let op = self.0.link.op();
        let session = hold.as_ref().map(|_| self.0.link.session());
        let m = Unlink { parent, name: name.to_vec(), hold: session, op };
        let gone: Gone = self.leaving(hold.as_ref(), self.0.link.meta(cx, m)).await?;
        let attr = gone.removed.ok_or_else(|| FsError::Io("meta named no inode".into()))?;
        self.lost_name(cx, &attr, hold.is_some()).await?;
        Ok(attr)
    }

    /// What was removed, as it was last.
    pub async fn rmdir(&self, cx: &Cx, parent: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        let op = self.0.link.op();
        let gone: Gone =
            self.0.link.meta(cx, RemoveDir { parent, name: name.to_vec(), op }).await?;
        gone.removed.ok_or_else(|| FsError::Io("meta named no inode".into()))
    }

    pub async fn rename(
        &self,
        cx: &Cx,
        parent: InodeId,
        name: &[u8],
        new_parent: InodeId,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let hold = match mode {
            RenameMode::Replace => self.hold(cx, new_parent, new_name).await?,
            RenameMode::NoReplace | RenameMode::Exchange => None,
        };
        let m = Rename {
            parent,
            name: name.to_vec(),
            new_parent,
            new_name: new_name.to_vec(),
            mode,
            hold: hold.as_ref().map(|_| self.0.link.session()),
            op: self.0.link.op(),
        };
        let gone: Gone = self.leaving(hold.as_ref(), self.0.link.meta(cx, m)).await?;
        match gone.removed {
            Some(attr) => self.lost_name(cx, &attr, hold.is_some()).await,
            None => Ok(()),
        }
    }

    /// Entries after the name `after`, in byte order, without `.` and `..`.
    pub async fn readdir(
        &self,
        cx: &Cx,
        inode: InodeId,
        after: &[u8],
        limit: u32,
    ) -> Result<DirPage, FsError> {
        let m = ReadDir { inode, after: after.to_vec(), limit };
        let mut page: DirPage = self.0.link.meta(cx, m).await?;
        for e in &mut page.entries {
            if let Some(f) = self.file(e.attr.inode) {
                e.attr = f.merge(e.attr.clone());
            }
        }
        Ok(page)
    }

    pub async fn statfs(&self, cx: &Cx) -> Result<FsSpace, FsError> {
        if let Some((since, space)) = self.0.space.get()
            && cx.now().since(since) < SPACE_LIFE
        {
            return Ok(space);
        }
        let routing = self.0.link.routing();
        let mut disks = std::collections::BTreeMap::new();
        let mut reusable = 0;
        let mut replicas = 1;
        for c in &routing.chains {
            replicas = replicas.max(c.targets.len() as u64);
            for t in &c.targets {
                let Some(addr) = t.addr else { continue };
                let to = t3fs_runtime::Addr::<crate::storage::Storage>::from_raw(addr);
                // A target that does not answer has no space to offer now.
                if let Ok(Ok(s)) = cx.ask(to, GetSpace).await {
                    disks.insert((t.node, s.disk), (s.disk_capacity, s.disk_free));
                    reusable += s.reusable;
                }
            }
        }
        let (capacity, free) = disks.values().fold((0, 0), |a, d| (a.0 + d.0, a.1 + d.1));
        let space = FsSpace {
            capacity: capacity / replicas,
            free: (free + reusable) / replicas,
            inodes: self.0.link.meta(cx, CountInodes).await?,
        };
        self.0.space.set(Some((cx.now(), space)));
        Ok(space)
    }

    /// How many files this client keeps an entry for; for tests of leaks.
    pub fn files_known(&self) -> usize {
        self.0.files.borrow().len()
    }
}
