//! Opens: handles, and the holds by which meta keeps a file's content for those who have it open.
//!
//! A client that is alone keeps to itself what it has open for reading, and says so when it removes
//! a name ([`Client::leaving`]). As soon as there are others it opens every file with a hold
//! (`sharing`). What it may write it holds in any case: if the client dies, meta makes what it has
//! stored part of the file. A hold is not dropped at once: files are often opened again soon.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use t3fs_runtime::{Ask, Cx, Time};

use super::file::{File, HandleId, Hold};
use super::wait::until_deadline;
use super::{Attr, Client, FileType, FsError, PlantedBug};
use crate::proto::ids::{InodeId, SessionId};
use crate::proto::meta::{Changed, DropHolds, GetAttr, HOLDS_MAX, Meta, OpenFile};
use crate::timing::is_longer;

/// How long a hold outlives the last close.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(2);
/// Holds of closed files that are kept at most.
const IDLE_COUNT_MAX: usize = 4096;

/// How long a drop may be lost by the store, or a request come late that holds a file.
const DOUBT_MAX: Duration = Duration::from_secs(15);
const _: () = assert!(is_longer(DOUBT_MAX, 1, <OpenFile as Ask<Meta>>::TIMEOUT));

/// Holds that meta may have though nobody needs them: of a drop that the store has lost with its
/// power, or of an open whose outcome was not heard.
#[derive(Default)]
pub(super) struct DoubtedHolds {
    /// Dropped, and when.
    dropped: VecDeque<(Time, SessionId, InodeId)>,
    /// To be dropped, and from when on.
    due: VecDeque<(Time, SessionId, InodeId)>,
}

impl DoubtedHolds {
    fn note_dropped(&mut self, now: Time, session: SessionId, inode: InodeId) {
        let old = |first: &(Time, SessionId, InodeId)| now.since(first.0) > DOUBT_MAX;
        while self.dropped.len() >= IDLE_COUNT_MAX || self.dropped.front().is_some_and(old) {
            self.dropped.pop_front();
        }
        self.dropped.push_back((now, session, inode));
    }

    /// The asker for this hold does not know whether there is one, or whether there will be.
    fn note_unknown(&mut self, now: Time, session: SessionId, inode: InodeId) {
        if self.due.len() < IDLE_COUNT_MAX {
            self.due.push_back((now + DOUBT_MAX, session, inode));
        }
    }

    /// The store has lost changes: drops may be among them.
    pub(super) fn all(&mut self, now: Time) {
        let dropped = self.dropped.drain(..);
        let late = dropped.filter(|(since, ..)| now.since(*since) <= DOUBT_MAX);
        late.for_each(|(_, session, inode)| self.due.push_front((now, session, inode)));
    }

    fn take_due(&mut self, now: Time) -> Vec<(SessionId, InodeId)> {
        let due = self.due.iter().take_while(|(from, ..)| *from <= now).count();
        self.due.drain(..due).map(|(_, session, inode)| (session, inode)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}

/// Opens of an inode wait while its holds or its last name are on their way.
pub(super) struct Changing {
    client: Client,
    inodes: Vec<InodeId>,
}

impl Drop for Changing {
    fn drop(&mut self) {
        let mut changing = self.client.0.changing.borrow_mut();
        for inode in &self.inodes {
            let (guards, settled) = changing.get_mut(inode).expect("counted when made");
            *guards -= 1;
            if *guards == 0 {
                settled.ring(());
                changing.remove(inode);
            }
        }
    }
}

/// An open that was asked and not answered.
struct Opening {
    client: Client,
    inode: InodeId,
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut opening = self.client.0.opening.borrow_mut();
        let n = opening.get_mut(&self.inode).expect("counted when made");
        *n -= 1;
        if *n == 0 {
            opening.remove(&self.inode);
        }
    }
}

impl Client {
    /// Pairs with `release`; the content of an open file stays when its last name goes.
    ///
    /// # Errors
    /// `Stale` also when the last name has gone and this client has it not open.
    pub async fn open(
        &self,
        cx: &Cx,
        inode: InodeId,
        write: bool,
    ) -> Result<(Attr, HandleId), FsError> {
        let opened = loop {
            self.settled(cx, inode).await?;
            *self.0.opening.borrow_mut().entry(inode).or_default() += 1;
            let _opening = Opening { client: self.clone(), inode };
            match self.try_open(cx, inode, write).await {
                Ok(None) => {}
                Ok(Some(opened)) => return Ok(opened),
                Err(e) => break Err(e),
            }
        };
        // A name that was removed meanwhile may have left the file to this open.
        if let Some(file) = self.file(inode) {
            self.let_go(cx, &file);
        }
        opened
    }

    /// `None`: others have come meanwhile, so that it has to be asked anew.
    async fn try_open(
        &self,
        cx: &Cx,
        inode: InodeId,
        write: bool,
    ) -> Result<Option<(Attr, HandleId)>, FsError> {
        let had = self.file(inode).and_then(|f| f.core.borrow().hold);
        let enough = had.is_some_and(|h| self.is_good(h) && (h.write || !write));
        let needed = (write || self.is_shared()) && !PlantedBug::OpenWithoutHold.is_in(cx);
        // Each shard of a process has a session: one that holds the file already goes on doing so,
        // or its hold would outlive all descriptors.
        let own = had.map(|h| h.session).filter(|session| self.0.cluster.is_own(*session));
        let session = own.unwrap_or(self.0.cluster.session());
        let mut hold = (needed && !enough).then_some(session);
        let mut attr = match hold {
            None => self.0.cluster.meta(cx, GetAttr { inode }).await?,
            Some(session) => self.open_held(cx, inode, session, write).await?,
        };
        if attr.kind != FileType::File {
            return Ok(Some((attr, HandleId::default())));
        }
        if enough && !had.is_some_and(|h| self.is_good(h)) {
            return Ok(None); // not any more
        }
        let open = self.file(inode).is_some_and(|f| f.core.borrow().is_open());
        if attr.nlink == 0 && !open && hold.is_none() && !enough {
            // Looked up before its last name went: meta knows whether it is there yet.
            attr = self.open_held(cx, inode, session, write).await?;
            hold = Some(session);
        }
        if self.is_shared() && !needed && !enough && !PlantedBug::OpenWithoutHold.is_in(cx) {
            return Ok(None);
        }
        let file = self.entry(attr);
        if let Some(session) = hold {
            file.core.borrow_mut().hold = Some(Hold::new(session, write));
        }
        Ok(Some(self.handle(&file)))
    }

    pub(super) async fn open_held(
        &self,
        cx: &Cx,
        inode: InodeId,
        session: SessionId,
        write: bool,
    ) -> Result<Attr, FsError> {
        let message = OpenFile { inode, hold: Some(session), write, op: self.0.cluster.op() };
        let opened: Result<Changed, FsError> = self.0.cluster.meta(cx, message).await;
        if matches!(opened, Err(FsError::Unavailable(_))) {
            self.0.doubted.borrow_mut().note_unknown(cx.now(), session, inode);
            self.sweep(cx);
        }
        let opened = opened?;
        self.changed(cx, &opened);
        Ok(opened.attr)
    }

    /// Whether meta still keeps a hold, as far as is known.
    pub(super) fn is_good(&self, hold: Hold) -> bool {
        !hold.doubtful && self.0.cluster.is_own(hold.session)
    }

    /// A file that was made with a hold of this session, which is of the same process as this
    /// client: opens it for writing.
    pub fn adopt(&self, cx: &Cx, attr: Attr, session: SessionId) -> (Attr, HandleId) {
        let inode = attr.inode;
        let file = self.entry(attr);
        let other = {
            let mut core = file.core.borrow_mut();
            let adopted = Hold::new(session, true);
            core.hold.replace(adopted).filter(|other| other.session != session)
        };
        if let Some(other) = other {
            // Of a program that was quicker: one is enough, and the other is dropped after it.
            self.0.doubted.borrow_mut().note_unknown(cx.now(), other.session, inode);
            self.sweep(cx);
        }
        self.handle(&file)
    }

    fn handle(&self, file: &File) -> (Attr, HandleId) {
        let handle = HandleId(self.0.next_handle.get());
        self.0.next_handle.set(handle.0 + 1);
        let mut core = file.core.borrow_mut();
        core.add_handle(handle);
        (core.attr(), handle)
    }

    /// Ends what `open` began. Never waits for storage: what is dirty goes on its way.
    pub async fn release(&self, cx: &Cx, inode: InodeId, handle: HandleId) -> Result<(), FsError> {
        let Some(file) = self.file(inode) else { return Ok(()) };
        file.core.borrow_mut().remove_handle(handle);
        self.let_go(cx, &file);
        Ok(())
    }

    /// After the last close: the hold goes after a while, with the last name at once.
    pub(super) fn let_go(&self, cx: &Cx, file: &Rc<File>) {
        let (inode, open, nameless, hold) = {
            let core = file.core.borrow();
            (core.inode(), core.is_open(), core.known().nlink == 0, core.hold)
        };
        if open {
            return;
        }
        if nameless && file.core.borrow().is_busy() {
            // What flies has to land before the hold goes, and nobody waits for that.
            let (client, file, cx) = (self.clone(), Rc::clone(file), cx.outlive());
            cx.clone().spawn(async move {
                client.discard(&cx, &file).await;
                drop(file);
                client.settle(inode);
            });
        }
        match hold {
            None => self.settle(inode),
            Some(_) if nameless => self.0.nameless.borrow_mut().push(inode),
            Some(_) => self.0.idle.borrow_mut().push_back((cx.now(), inode)),
        }
        self.sweep(cx);
    }

    /// Drops what was buffered for a file whose last name and descriptor are gone.
    async fn discard(&self, cx: &Cx, file: &Rc<File>) {
        let cx = cx.outlive();
        let Ok(_alone) = file.gate.alone(&cx).await else { return };
        if file.core.borrow().is_open() {
            return; // again, and what was buffered meanwhile is its
        }
        let indexes: Vec<u32> = file.core.borrow().chunks.keys().copied().collect();
        for i in indexes {
            let dropped = file.core.borrow_mut().chunks.get_mut(&i).map_or(0, |c| c.cut(0));
            self.leave_room(file, i, dropped);
            // What flies lands somewhere; it goes with the inode.
            let _ = self.landing(&cx, file, i).await;
        }
        let mut core = file.core.borrow_mut();
        core.chunks.retain(|_, c| !c.is_clean());
        core.forget_unreported();
    }

    /// Whether this client has an inode open or is about to.
    pub(super) fn uses(&self, inode: InodeId) -> bool {
        let open = self.file(inode).is_some_and(|f| {
            let core = f.core.borrow();
            core.is_open() || core.is_busy()
        });
        open || self.0.opening.borrow().contains_key(&inode)
    }

    /// Opens of these inodes wait until the value is dropped.
    pub(super) fn changing(&self, inodes: Vec<InodeId>) -> Changing {
        let mut changing = self.0.changing.borrow_mut();
        for i in &inodes {
            changing.entry(*i).or_default().0 += 1;
        }
        Changing { client: self.clone(), inodes }
    }

    /// Waits until nothing that decides about the inode's hold or last name is under way.
    async fn settled(&self, cx: &Cx, inode: InodeId) -> Result<(), FsError> {
        loop {
            let settled = match self.0.changing.borrow_mut().get_mut(&inode) {
                Some((_, settled)) => settled.wait(),
                None => return Ok(()),
            };
            until_deadline(cx, settled, "a name of the file is being removed").await?;
        }
    }

    /// Drops the holds of files that were closed a while ago, or have no name any more.
    pub(super) fn drop_idle_holds(&self, cx: &Cx) {
        let now = cx.now();
        let mut due = self.0.nameless.take();
        {
            let mut idle = self.0.idle.borrow_mut();
            while let Some((since, inode)) = idle.front().copied() {
                if now.since(since) < IDLE_MAX && idle.len() <= IDLE_COUNT_MAX {
                    break;
                }
                idle.pop_front();
                due.push(inode);
            }
        }
        due.sort_unstable();
        due.dedup();
        for some in due.chunks(HOLDS_MAX) {
            self.drop_holds(cx, some.to_vec());
        }
        let doubted = self.0.doubted.borrow_mut().take_due(now);
        let mut by_session = BTreeMap::<SessionId, Vec<InodeId>>::new();
        for (session, inode) in doubted {
            if !self.0.cluster.is_own(session) {
                continue; // it has ended with its session
            }
            let held = self.file(inode).is_some_and(|f| f.core.borrow().hold.is_some());
            let changing = self.0.changing.borrow().contains_key(&inode);
            if held || changing || self.uses(inode) {
                self.0.doubted.borrow_mut().note_unknown(now, session, inode);
            } else {
                by_session.entry(session).or_default().push(inode);
            }
        }
        for (session, inodes) in by_session {
            for some in inodes.chunks(HOLDS_MAX) {
                self.tell_dropped(cx, session, some.to_vec());
            }
        }
    }

    /// Drops the holds of these files, unless they are in use again.
    fn drop_holds(&self, cx: &Cx, inodes: Vec<InodeId>) {
        let mut by_session = BTreeMap::<SessionId, Vec<InodeId>>::new();
        for inode in inodes {
            let Some(file) = self.file(inode) else { continue };
            let mut core = file.core.borrow_mut();
            if core.is_open() {
                continue; // its next close comes here again
            }
            let opening = self.0.opening.borrow().contains_key(&inode);
            if core.is_busy() || opening || self.0.changing.borrow().contains_key(&inode) {
                self.0.idle.borrow_mut().push_back((cx.now(), inode));
                continue;
            }
            if let Some(hold) = core.hold.take() {
                by_session.entry(hold.session).or_default().push(inode);
            }
        }
        for (session, inodes) in by_session {
            self.tell_dropped(cx, session, inodes);
        }
    }

    /// Tells meta that this session has these files open no more.
    fn tell_dropped(&self, cx: &Cx, session: SessionId, inodes: Vec<InodeId>) {
        let changing = self.changing(inodes.clone());
        let (client, cx) = (self.clone(), cx.outlive());
        cx.clone().spawn(async move {
            let op = client.0.cluster.op();
            let message = DropHolds { session, inodes: inodes.clone(), op };
            let told: Result<(), FsError> = client.0.cluster.meta(&cx, message).await;
            {
                let mut doubted = client.0.doubted.borrow_mut();
                for inode in &inodes {
                    match &told {
                        Ok(()) => doubted.note_dropped(cx.now(), session, *inode),
                        Err(_) => doubted.note_unknown(cx.now(), session, *inode),
                    }
                }
            }
            if let Err(e) = told {
                tracing::warn!("{} files stay held for now: {e}", inodes.len());
            }
            drop(changing);
            inodes.into_iter().for_each(|i| client.settle(i));
        });
    }

    /// Drops every hold that nobody needs, and waits for it: at the end, and for tests.
    pub(super) async fn drop_all_holds(&self, cx: &Cx) {
        self.0.idle.borrow_mut().clear();
        let all: Vec<InodeId> = self.0.files.borrow().keys().copied().collect();
        for some in all.chunks(HOLDS_MAX) {
            self.drop_holds(cx, some.to_vec());
        }
        let waits: Vec<InodeId> = self.0.changing.borrow().keys().copied().collect();
        for inode in waits {
            let _ = self.settled(cx, inode).await; // best effort: they end with the session
        }
    }
}
