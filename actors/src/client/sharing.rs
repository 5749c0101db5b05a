//! Alone or not: what a client may keep to itself.
//!
//! While no other process has a session, nobody else can remove a name or write a file: the client
//! lets the kernel remember names and attributes for [`CACHE_TIME`] and keeps to itself what it has
//! open for reading. With others it is *shared*: nothing is remembered by the kernel, and every
//! open is known to meta.
//!
//! No operation runs while two clients disagree about that. A client that comes (1) opens its
//! session, (2) sees that there are others and is shared from the start, (3) waits until no living
//! session keeps its opens to itself. One that was alone (1) hears of the new session, (2) is
//! shared from then on, (3) waits until the kernel has forgotten what it remembers, (4) tells meta
//! all that it has open. One that does not get there in time may still have open what nobody knows
//! of: its session keeps meta from removing any content (`meta/garbage.rs`) until it is over or has
//! shared, also if the one that came has gone again. Its kernel remembers nothing any more by then:
//! it may only while the primary has said a moment ago that nobody else is there.

use core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use t3fs_runtime::slot::before;
use t3fs_runtime::{Cx, Slot, Time, join};

use super::file::{File, Hold, Placed};
use super::retry::Retry;
use super::{Client, FsError, Inner};
use crate::planted::PlantedBug;
use crate::proto::ids::{InodeId, SessionId};
use crate::proto::meta::{GetAttr, HOLDS_MAX, KeepOpens, ListKeepers, ShareOpens, WritersLeft};
use crate::timing::{Timing, is_longer};

/// How long the kernel may answer from what it remembers while this client is alone.
pub const CACHE_TIME: Duration = Duration::from_secs(1);
/// Until what the kernel remembers is over: its clock has ticks.
const FORGOTTEN: Duration = Duration::from_millis(1_100);
/// How long a client that comes waits to hear who else is there.
const JOIN_MAX: Duration = Duration::from_secs(30);
/// How long a client that comes waits for one that was alone and does not answer. What that one's
/// kernel remembers is over by then, see `PROOF_MAX`.
const KEEPERS_MAX: Duration = Duration::from_secs(4);
/// How old the primary's word that nobody else is there may be for the kernel to remember anything.
const PROOF_MAX: Duration = Duration::from_millis(2_500);
/// How often a client that is alone asks for it.
const PROOF_EVERY: Duration = Duration::from_secs(1);
const KEEPERS_PAUSE: Duration = Duration::from_millis(50);
/// How long it is tried at a time to write a file before others come, and in all: others wait for
/// that, and would not wait longer for a session that is dead.
const FLUSH_MAX: Duration = Duration::from_secs(5);
const FLUSHES_MAX: Duration = Duration::from_secs(60);
/// How old news that nobody else is there may be; much less than `KEEPERS_MAX`.
const PART_MAX: Duration = Duration::from_secs(1);
// The kernel's ticks; and what it remembers of a client that was alone is over when others go on.
const _: () = assert!(is_longer(FORGOTTEN, 1, CACHE_TIME));
const _: () = assert!(is_longer(KEEPERS_MAX, 1, PROOF_MAX.saturating_add(FORGOTTEN)));
const _: () = assert!(is_longer(KEEPERS_MAX, 3, PART_MAX) && is_longer(JOIN_MAX, 2, KEEPERS_MAX));
// One proof that does not come costs the kernel nothing.
const _: () = assert!(is_longer(PROOF_MAX, 2, PROOF_EVERY));
const _: () = assert!(is_longer(FLUSHES_MAX, 2, FLUSH_MAX));
const _: () = assert!(!is_longer(FLUSHES_MAX, 1, Timing::DEFAULT.session_lease));

/// How long the others have to be gone before a client is alone again.
const LONELY: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often the session is looked at when there is no news.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A client's part of what is said above.
#[derive(Default)]
pub(super) struct Sharing {
    shared: core::cell::Cell<bool>,
    /// Under which session meta knows the holds.
    session: core::cell::Cell<SessionId>,
    lonely_since: core::cell::Cell<Option<Time>>,
    /// When the primary was asked last who said that nobody else is there.
    proven: core::cell::Cell<Time>,
    /// What ended sessions have written may have to become part of its file yet: no length that is
    /// known here is the end of what others have stored.
    left: core::cell::Cell<bool>,
    /// The newest session when nobody else was there.
    newest: core::cell::Cell<SessionId>,
    /// The store has lost changes: holds may be among them.
    doubted: core::cell::Cell<bool>,
    /// Filled when that comes true.
    woken: RefCell<Slot<()>>,
}

impl Sharing {
    /// The metadata store has lost something that this client was told of.
    pub(super) fn doubt_holds(&self) {
        self.doubted.set(true);
        self.woken.borrow().fill(());
    }
}

impl Client {
    /// Whether other processes use the file system.
    pub fn is_shared(&self) -> bool {
        self.0.sharing.shared.get()
    }

    /// How long names and attributes that this client tells may be remembered.
    pub fn cache_time(&self, cx: &Cx) -> Duration {
        match self.is_alone(cx.now()) || PlantedBug::NamesKeptThoughShared.is_in(cx) {
            true => CACHE_TIME,
            false => Duration::ZERO,
        }
    }

    /// Whether nobody else is there, by word that is fresh: no later than somebody who comes does
    /// anything.
    pub(super) fn is_alone(&self, now: Time) -> bool {
        !self.is_shared() && now.since(self.0.sharing.proven.get()) <= PROOF_MAX
    }

    /// Whether the end of a file is what this client believes it to be.
    pub(super) fn knows_ends(&self, now: Time) -> bool {
        self.is_alone(now) && !self.0.sharing.left.get()
    }

    /// Asks whether that is so.
    async fn learn_ends(&self, cx: &Cx) {
        let cx = &cx.within(PART_MAX);
        let left = self.0.cluster.meta(cx, WritersLeft).await;
        // Those who were there before have made files longer.
        if matches!(left, Ok(false)) && self.look_at_all(cx).await.is_ok() {
            self.0.sharing.left.set(false);
        }
    }

    /// Before the first operation.
    pub(super) async fn join(&self, cx: &Cx) -> Result<(), FsError> {
        let sharing = &self.0.sharing;
        sharing.session.set(self.0.cluster.session());
        let mut retry = Retry::new(cx, JOIN_MAX);
        sharing.proven.set(cx.now());
        while let Err(e) = self.0.cluster.learn(cx, true).await {
            if !retry.again(cx, Slot::new()).await {
                return Err(e);
            }
        }
        sharing.newest.set(self.0.cluster.session());
        sharing.left.set(true);
        if self.were_others() {
            sharing.shared.set(true);
            self.share(cx, true).await?;
            self.await_keepers(cx).await?;
        } else {
            self.learn_ends(cx).await;
        }
        let (inner, long) = (Rc::downgrade(&self.0), cx.outlive());
        cx.spawn(async move {
            while let Some(client) = inner.upgrade().filter(|c: &Rc<Inner>| c.cluster.is_open()) {
                Client(client).follow(&long).await;
            }
        });
        Ok(())
    }

    /// Waits until all who live tell what they have open, as long as that may take.
    async fn await_keepers(&self, cx: &Cx) -> Result<(), FsError> {
        let until = cx.now() + KEEPERS_MAX;
        loop {
            let others = self.keepers(cx).await?;
            if others == 0 {
                return Ok(());
            }
            if cx.now() >= until {
                tracing::warn!(
                    "{others} other sessions do not answer: until they have ended, names may be \
                     old on their mounts, removed files keep their space, and appends to what they \
                     write wait"
                );
                return Ok(());
            }
            // News of this process's own sessions, if there is any: they are no strangers.
            let pause = cx.within(KEEPERS_PAUSE);
            let _ = join(self.0.cluster.learn(&pause, false), cx.sleep(KEEPERS_PAUSE)).await;
        }
    }

    /// Waits for news of sessions, once, and does what follows.
    async fn follow(&self, cx: &Cx) {
        let sharing = &self.0.sharing;
        // What is known already has to be acted on first: it is no news.
        if !sharing.doubted.get() && (self.is_shared() || !self.were_others()) {
            let pause = if self.is_shared() { LOOK_EVERY } else { PROOF_EVERY };
            let pause = cx.within(pause);
            let woken = Slot::new();
            sharing.woken.replace(woken.clone());
            let news = before(self.0.cluster.learn(&pause, false), woken).await;
            if news.is_some_and(|news| news.is_err()) {
                cx.sleep(RETRY_PAUSE).await;
            }
        }
        if !self.is_shared() && !self.were_others() {
            let asked = cx.now();
            let learned = self.0.cluster.learn(&cx.within(PART_MAX), true).await;
            if learned.is_ok() && !self.were_others() {
                sharing.proven.set(asked);
                sharing.newest.set(self.0.cluster.newest_session());
                if sharing.left.get() {
                    self.learn_ends(cx).await;
                }
            }
        }
        let doubted = sharing.doubted.replace(false);
        if doubted {
            self.0.files.borrow().values().for_each(|f| f.core.borrow_mut().doubt_hold());
            self.0.doubted.borrow_mut().all(cx.now());
        }
        if doubted || self.0.cluster.session() != sharing.session.get() {
            // What was held under the old one is held no more.
            sharing.session.set(self.0.cluster.session());
            self.share_patiently(cx).await;
        }
        self.settle_appends(cx).await;
        if !self.is_shared() && self.were_others() {
            // Perhaps it is another shard of this process, which the routing says first.
            let _ = self.0.cluster.learn(&cx.within(PART_MAX), true).await;
        }
        let others = match self.is_shared() {
            true => self.0.cluster.has_others(),
            false => self.were_others(),
        };
        match (self.is_shared(), others) {
            (false, true) => {
                tracing::info!("others use the file system too: opens are told from now on");
                sharing.shared.set(true);
                sharing.lonely_since.set(None);
                cx.sleep(FORGOTTEN).await;
                // Appends of who comes go behind what was written here.
                let until = cx.now() + FLUSHES_MAX;
                let busy: Vec<Rc<File>> = self.0.files.borrow().values().cloned().collect();
                for file in busy.into_iter().filter(|f| f.core.borrow().is_busy()) {
                    while let Err(e) = self.flush_all(&cx.within(FLUSH_MAX), &file).await {
                        tracing::warn!("not written before others come: {e}");
                        let lost = !matches!(e, FsError::Unavailable(_));
                        if lost || cx.now() >= until || !self.0.cluster.is_open() {
                            self.lose_appends(cx, &file).await;
                            break;
                        }
                        cx.sleep(RETRY_PAUSE).await;
                    }
                }
                self.share_patiently(cx).await;
            }
            (true, false) => {
                let since = sharing.lonely_since.get().unwrap_or(cx.now());
                sharing.lonely_since.set(Some(since));
                if cx.now().since(since) >= LONELY {
                    self.part(cx).await;
                }
            }
            _ => sharing.lonely_since.set(None),
        }
    }

    /// What was appended and is not stored is lost; until that is so, nobody else may have its
    /// place.
    async fn lose_appends(&self, cx: &Cx, file: &File) {
        file.core.borrow_mut().replace(Placed::Lost);
        while file.core.borrow().placed().is_some() && self.0.cluster.is_open() {
            cx.sleep(RETRY_PAUSE).await;
        }
    }

    /// What was appended in the name of a session that has ended goes on under the next if nobody
    /// else has been there: who comes from now on sees what this client writes, which is held
    /// again. Else it is lost.
    async fn settle_appends(&self, cx: &Cx) {
        let session = self.0.cluster.session();
        let all: Vec<Rc<File>> = self.0.files.borrow().values().cloned().collect();
        let adrift = |file: &Rc<File>| file.core.borrow().is_adrift(session);
        let adrift: Vec<Rc<File>> = all.into_iter().filter(adrift).collect();
        if adrift.is_empty() || session != self.0.sharing.session.get() {
            return;
        }
        let others = || self.is_shared() || self.were_others();
        if !others() && self.0.cluster.learn(&cx.within(PART_MAX), true).await.is_err() {
            return;
        }
        let placed = if others() { Placed::Lost } else { Placed::Under(session) };
        adrift.iter().for_each(|file| file.core.borrow_mut().replace(placed));
    }

    /// Whether others keep their opens to themselves still.
    async fn keepers(&self, cx: &Cx) -> Result<usize, FsError> {
        let keepers: Vec<SessionId> = self.0.cluster.meta(cx, ListKeepers).await?;
        Ok(keepers.into_iter().filter(|s| !self.0.cluster.is_own(*s)).count())
    }

    /// Whether others are there or have been since this client knew to be alone.
    fn were_others(&self) -> bool {
        let cluster = &self.0.cluster;
        cluster.has_others() || cluster.had_others_since(self.0.sharing.newest.get())
    }

    /// The others are gone. Who comes from now on has to wait for this client, so nobody may have
    /// come before that is so.
    async fn part(&self, cx: &Cx) {
        let session = self.0.cluster.session();
        if self.0.cluster.learn(&cx.within(PART_MAX), true).await.is_err() {
            return;
        }
        // Also who comes and goes again meanwhile has changed files.
        let newest = self.0.cluster.newest_session();
        if self.look_at_all(cx).await.is_err() {
            return;
        }
        let kept = self.0.cluster.meta(cx, KeepOpens { session }).await;
        let asked = cx.now();
        let learned = self.0.cluster.learn(&cx.within(PART_MAX), true).await;
        self.0.sharing.newest.set(newest);
        if kept.is_ok() && learned.is_ok() && !self.were_others() {
            self.0.sharing.proven.set(asked);
            self.0.sharing.left.set(true);
            self.0.sharing.shared.set(false);
        } else {
            self.share_patiently(cx).await;
        }
        self.0.sharing.lonely_since.set(None);
    }

    /// A client that is alone believes what it knows of a file: others may have changed that last.
    async fn look_at_all(&self, cx: &Cx) -> Result<(), FsError> {
        let files: Vec<Rc<File>> = self.0.files.borrow().values().cloned().collect();
        for file in files {
            let inode = file.core.borrow().inode();
            match self.0.cluster.meta(cx, GetAttr { inode }).await {
                Ok(attr) => self.merge(&file, attr),
                Err(FsError::Stale) => {} // its users hear of it
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    async fn share_patiently(&self, cx: &Cx) {
        while let Err(e) = self.share(cx, self.is_shared()).await {
            tracing::warn!("what is open here could not be told yet: {e}");
            if !self.0.cluster.is_open() {
                return;
            }
            cx.sleep(RETRY_PAUSE).await;
        }
    }

    /// Has meta hold what this client has open or may have written; with `all`, meta hears that
    /// there is nothing else. What another shard of this process has had held stays with that one's
    /// session.
    async fn share(&self, cx: &Cx, all: bool) -> Result<(), FsError> {
        let session = self.0.cluster.session();
        let files: Vec<Rc<File>> = self.0.files.borrow().values().cloned().collect();
        let mut by_session = BTreeMap::<SessionId, Vec<(InodeId, bool)>>::new();
        for file in &files {
            let core = file.core.borrow();
            let had = core.hold;
            let write = had.is_some_and(|h| h.write);
            let own = had.map(|h| h.session).filter(|session| self.0.cluster.is_own(*session));
            let held = own.is_some() && had.is_some_and(|h| !h.doubtful);
            if !held && (core.is_open() || core.is_busy()) && (all || had.is_some()) {
                by_session.entry(own.unwrap_or(session)).or_default().push((core.inode(), write));
            }
        }
        let last = by_session.remove(&session).unwrap_or_default();
        for (session, holds) in by_session {
            for page in holds.chunks(HOLDS_MAX) {
                self.share_some(cx, session, page, false).await?;
            }
        }
        let mut pages: Vec<&[(InodeId, bool)]> = last.chunks(HOLDS_MAX).collect();
        if pages.is_empty() {
            pages.push(&[]);
        }
        let last = pages.len() - 1;
        for (i, page) in pages.into_iter().enumerate() {
            self.share_some(cx, session, page, all && i == last).await?;
        }
        self.sweep(cx);
        Ok(())
    }

    async fn share_some(
        &self,
        cx: &Cx,
        session: SessionId,
        page: &[(InodeId, bool)],
        all: bool,
    ) -> Result<(), FsError> {
        let changing = self.changing(page.iter().map(|(inode, _)| *inode).collect());
        let op = self.0.cluster.op();
        let message = ShareOpens { session, holds: page.to_vec(), all, op };
        let gone: Vec<InodeId> = self.0.cluster.meta(cx, message).await?;
        for (inode, write) in page {
            let Some(file) = self.file(*inode) else { continue };
            let mut core = file.core.borrow_mut();
            if gone.contains(inode) {
                core.lose();
                core.hold = None;
            } else {
                core.hold = Some(Hold { session, write: *write, doubtful: false });
                if !core.is_open() {
                    // The file was closed meanwhile.
                    self.0.idle.borrow_mut().push_back((cx.now(), *inode));
                }
            }
        }
        drop(changing);
        Ok(())
    }
}
