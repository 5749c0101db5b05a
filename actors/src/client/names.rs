//! Names: lookups, opens, and everything that makes or removes an entry.

use crate::proto::meta::Meta;
use t3fs_runtime::{Ask, Cx};

use super::file::{HandleId, Hold};
use super::opens::Changing;
use super::{Attr, Client, DirPage, FileType, FsError, FsSpace, Owner, RenameMode};
use crate::agent::{ClusterSpace, cluster_space};
use crate::proto::ids::{InodeId, SessionId};
use crate::proto::meta::*;
use crate::timing::is_longer;

/// How long a question about attributes waits for a chain that says where content ends.
const TELL_MAX: core::time::Duration = core::time::Duration::from_secs(1);
/// An answer that took as long may be older than what has happened since; less than a hold outlives
/// the last close.
const LATE: core::time::Duration = core::time::Duration::from_secs(1);
const _: () = assert!(is_longer(super::opens::IDLE_MAX, 1, LATE));
/// How long a space report is good for.
const SPACE_LIFE: core::time::Duration = core::time::Duration::from_secs(1);

/// What a removal of a name says of the inode behind it.
#[derive(Default)]
struct Leaving {
    /// The file is in use here and meta does not know that.
    hold: Option<SessionId>,
    /// The file is not in use here: opens wait.
    guard: Option<Changing>,
}

impl Client {
    fn new_entry(&self, parent: InodeId, name: &[u8], owner: Owner) -> NewEntry {
        NewEntry {
            parent,
            name: name.to_vec(),
            mode: owner.mode,
            uid: owner.uid,
            gid: owner.gid,
            op: self.0.cluster.op(),
        }
    }

    /// Lays this client's own unreported writes over what meta says.
    pub(super) async fn with_mine(&self, cx: &Cx, mut attr: Attr) -> Attr {
        if let Some(read_ns) = self.0.reads.borrow().get(&attr.inode) {
            attr.atime_ns = attr.atime_ns.max(*read_ns);
        }
        let Some(file) = self.file(attr.inode) else { return attr };
        self.merge(&file, attr);
        if file.core.borrow().is_doubtful() {
            // Others may have cut what this client has stored: the length is what is there. Who
            // cannot be told that now is told what is known.
            let _ = self.report(&cx.within(TELL_MAX), &file, false).await;
        }
        file.core.borrow().attr()
    }

    pub async fn lookup(&self, cx: &Cx, parent: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        self.look(cx, Lookup { parent, name: name.to_vec() }).await
    }

    /// With the length as this client's own unflushed writes make it.
    pub async fn getattr(&self, cx: &Cx, inode: InodeId) -> Result<Attr, FsError> {
        self.look(cx, GetAttr { inode }).await
    }

    /// Asks for attributes, and again if the answer comes late: what was written here when it was
    /// asked may have been reported and forgotten meanwhile.
    async fn look<M>(&self, cx: &Cx, m: M) -> Result<Attr, FsError>
    where
        M: Ask<Meta, Reply = Result<Attr, MetaError>> + Clone,
    {
        let asked = cx.now();
        let mut attr: Attr = self.0.cluster.meta(cx, m.clone()).await?;
        if cx.now().since(asked) >= LATE && self.file(attr.inode).is_none() {
            attr = self.0.cluster.meta(cx, m).await?;
        }
        Ok(self.with_mine(cx, attr).await)
    }

    /// Makes a file or special file. A file is held for writing by the session in the answer:
    /// [`Client::adopt`] opens it, here or on another shard of this process.
    pub async fn make(
        &self,
        cx: &Cx,
        parent: InodeId,
        name: &[u8],
        owner: Owner,
        kind: FileType,
        open: bool,
    ) -> Result<(Attr, SessionId), FsError> {
        let session = self.0.cluster.session();
        let hold = (open && kind == FileType::File).then_some(session);
        let m = CreateFile { entry: self.new_entry(parent, name, owner), kind, hold };
        let asked = cx.now();
        let op = m.entry.op;
        let mut attr = self.made(cx, parent, self.0.cluster.meta_once(cx, op, m).await?);
        if hold.is_some() && cx.now().since(asked) >= LATE {
            // While the answer was on its way somebody here may have opened and closed the file,
            // and with that dropped the hold.
            let op = self.0.cluster.op();
            let again = OpenFile { inode: attr.inode, hold, write: true, op };
            let opened: Result<Changed, FsError> = self.0.cluster.meta(cx, again).await;
            let opened = opened.map_err(|e| match e {
                // The file was made, and was removed before its maker heard of it.
                FsError::Stale => FsError::Unavailable("the answer came too late".into()),
                e => e,
            })?;
            self.changed(cx, &opened);
            attr = opened.attr;
        }
        Ok((attr, session))
    }

    /// Makes a file and opens it for writing: pairs with `release`.
    pub async fn create(
        &self,
        cx: &Cx,
        parent: InodeId,
        name: &[u8],
        owner: Owner,
    ) -> Result<(Attr, HandleId), FsError> {
        let (attr, session) = self.make(cx, parent, name, owner, FileType::File, true).await?;
        Ok(self.adopt(cx, attr, session))
    }

    /// Takes note of a new entry.
    fn made(&self, cx: &Cx, parent: InodeId, changed: Changed) -> Attr {
        self.note(cx, parent, changed.stamp);
        self.changed(cx, &changed);
        changed.attr
    }

    pub async fn mkdir(
        &self,
        cx: &Cx,
        parent: InodeId,
        name: &[u8],
        owner: Owner,
    ) -> Result<Attr, FsError> {
        let m = MakeDir { entry: self.new_entry(parent, name, owner) };
        let op = m.entry.op;
        Ok(self.made(cx, parent, self.0.cluster.meta_once(cx, op, m).await?))
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
        let op = m.entry.op;
        Ok(self.made(cx, parent, self.0.cluster.meta_once(cx, op, m).await?))
    }

    pub async fn readlink(&self, cx: &Cx, inode: InodeId) -> Result<Vec<u8>, FsError> {
        self.0.cluster.meta(cx, ReadLink { inode }).await
    }

    pub async fn link(
        &self,
        cx: &Cx,
        inode: InodeId,
        parent: InodeId,
        name: &[u8],
    ) -> Result<Attr, FsError> {
        let op = self.0.cluster.op();
        let m = MakeLink { inode, parent, name: name.to_vec(), op };
        let attr = self.made(cx, parent, self.0.cluster.meta_once(cx, op, m).await?);
        Ok(self.with_mine(cx, attr).await)
    }

    /// What is to be done about the inode that a name is about to lose. If it is not in use here,
    /// nobody opens it until the guard is dropped: it may be gone then.
    async fn leaving(
        &self,
        cx: &Cx,
        parent: InodeId,
        name: &[u8],
        known: Option<InodeId>,
    ) -> Result<Leaving, FsError> {
        let inode = match known {
            Some(inode) => inode,
            // With others about, whatever is open is held already.
            None if self.is_shared() && self.0.files.borrow().is_empty() => {
                return Ok(Leaving::default());
            }
            None => {
                let m = Lookup { parent, name: name.to_vec() };
                match self.0.cluster.meta::<_, Attr>(cx, m).await {
                    Ok(a) => a.inode,
                    Err(FsError::NotFound) => return Ok(Leaving::default()),
                    Err(e) => return Err(e),
                }
            }
        };
        if !self.uses(inode) {
            return Ok(Leaving { hold: None, guard: Some(self.changing(vec![inode])) });
        }
        let held = self.file(inode).and_then(|f| f.core.borrow().hold);
        let held = held.is_some_and(|h| self.is_good(h));
        Ok(Leaving { hold: (!held).then(|| self.0.cluster.session()), guard: None })
    }

    /// A file has lost a name: with the last one, its content goes when nobody uses it. `hold`:
    /// what meta holds it for now, if it was not held before.
    fn lost_name(&self, cx: &Cx, gone: Attr, hold: Option<SessionId>) {
        let nameless = gone.nlink == 0 && gone.kind == FileType::File;
        let file = match self.file(gone.inode) {
            Some(file) => {
                self.merge(&file, gone);
                file
            }
            // The file was let go between the look and the removal.
            None if nameless && hold.is_some() => self.entry(gone),
            None => return,
        };
        if !nameless {
            return;
        }
        let inode = {
            let mut core = file.core.borrow_mut();
            if let Some(session) = hold {
                core.hold.get_or_insert(Hold::new(session, false));
            }
            core.inode()
        };
        if !self.0.opening.borrow().contains_key(&inode) {
            self.let_go(cx, &file);
        }
    }

    /// The inode that lost its name, after. `known`: what the name names, if the caller has looked.
    pub async fn unlink(
        &self,
        cx: &Cx,
        parent: InodeId,
        name: &[u8],
        known: Option<InodeId>,
    ) -> Result<Attr, FsError> {
        let Leaving { hold, guard } = self.leaving(cx, parent, name, known).await?;
        let op = self.0.cluster.op();
        let m = Unlink { parent, name: name.to_vec(), hold, op };
        let gone: Gone = self.0.cluster.meta_once(cx, op, m).await?;
        let attr = gone.removed.ok_or_else(|| FsError::Io("meta named no inode".into()))?;
        self.note(cx, parent, gone.stamp);
        drop(guard);
        self.lost_name(cx, attr.clone(), hold);
        Ok(attr)
    }

    /// What was removed, as it was last.
    pub async fn rmdir(&self, cx: &Cx, parent: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        let op = self.0.cluster.op();
        let m = RemoveDir { parent, name: name.to_vec(), op };
        let gone: Gone = self.0.cluster.meta_once(cx, op, m).await?;
        self.note(cx, parent, gone.stamp);
        gone.removed.ok_or_else(|| FsError::Io("meta named no inode".into()))
    }

    /// `replaced`: what the new name names, if the caller has looked.
    pub async fn rename(
        &self,
        cx: &Cx,
        from: (InodeId, &[u8]),
        to: (InodeId, &[u8]),
        mode: RenameMode,
        replaced: Option<InodeId>,
    ) -> Result<(), FsError> {
        let Leaving { hold, guard } = match mode {
            RenameMode::Replace => self.leaving(cx, to.0, to.1, replaced).await?,
            RenameMode::NoReplace | RenameMode::Exchange => Leaving::default(),
        };
        let op = self.0.cluster.op();
        let m = Rename {
            parent: from.0,
            name: from.1.to_vec(),
            new_parent: to.0,
            new_name: to.1.to_vec(),
            mode,
            hold,
            op,
        };
        let gone: Gone = self.0.cluster.meta_once(cx, op, m).await?;
        self.note(cx, from.0, gone.stamp);
        self.note(cx, to.0, gone.stamp);
        if let Some(moved) = &gone.moved {
            self.note(cx, moved.inode, gone.stamp);
        }
        drop(guard);
        if let Some(attr) = gone.removed {
            self.lost_name(cx, attr, hold);
        }
        Ok(())
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
        let mut page: DirPage = self.0.cluster.meta(cx, m).await?;
        for e in &mut page.entries {
            let read = self.0.reads.borrow().contains_key(&e.attr.inode);
            if read || self.file(e.attr.inode).is_some() {
                e.attr = self.with_mine(cx, e.attr.clone()).await;
            }
        }
        Ok(page)
    }

    /// Whether somebody else has cut a file since this was asked last: what the kernel remembers of
    /// its content is old.
    pub fn was_cut_elsewhere(&self, inode: InodeId) -> bool {
        self.file(inode).is_some_and(|f| f.core.borrow_mut().take_cut_elsewhere())
    }

    /// A program has read a file. `moves` says whether its time of access follows; meta hears of it
    /// within seconds, with others.
    pub fn was_read(&self, cx: &Cx, inode: InodeId, moves: impl FnOnce(&Attr) -> bool) {
        let Some(file) = self.file(inode) else { return };
        let now_ns = cx.wall_us() as i64 * 1000;
        if file.core.borrow_mut().was_read(now_ns, moves) {
            self.note_read(cx, inode);
        }
    }

    /// The time of access of an inode becomes now.
    pub fn note_read(&self, cx: &Cx, inode: InodeId) {
        let full = {
            let mut reads = self.0.reads.borrow_mut();
            reads.insert(inode, cx.wall_us() as i64 * 1000);
            reads.len() >= HOLDS_MAX
        };
        if full {
            self.tell_reads(cx);
        }
        self.sweep(cx);
    }

    /// Tells meta of reads. Times of access that do not arrive are lost: nobody waits for them.
    pub(super) fn tell_reads(&self, cx: &Cx) {
        let all: Vec<(InodeId, i64)> = self.0.reads.take().into_iter().collect();
        for reads in all.chunks(HOLDS_MAX).map(<[_]>::to_vec) {
            let (client, cx) = (self.clone(), cx.outlive());
            cx.clone().spawn(async move {
                if let Err(e) = client.0.cluster.meta(&cx, NoteReads { reads }).await {
                    tracing::debug!("times of access are lost: {e}");
                }
            });
        }
    }

    pub async fn statfs(&self, cx: &Cx) -> Result<FsSpace, FsError> {
        if let Some((since, space)) = self.0.space.get()
            && cx.now().since(since) < SPACE_LIFE
        {
            return Ok(space);
        }
        let nodes = self.0.cluster.spaces(cx).await?;
        let chains = &self.0.cluster.routing().chains;
        let replicas = chains.iter().map(|c| c.targets.len() as u64).max().unwrap_or(1).max(1);
        let ClusterSpace { capacity, free } = cluster_space(&nodes, replicas);
        let inodes = self.0.cluster.meta(cx, CountInodes).await?;
        let space = FsSpace { capacity, free, inodes };
        self.0.space.set(Some((cx.now(), space)));
        Ok(space)
    }
}
