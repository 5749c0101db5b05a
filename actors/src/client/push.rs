//! From write buffers to storage: flights of dirty ranges, and the task that sends them by age.

use core::time::Duration;
use std::rc::Rc;

use t3fs_runtime::{Bulk, Cx, join_all};

use super::file::{File, Placed};
use super::wait::until_deadline;
use super::{Client, FsError, PlantedBug};
use crate::proto::ids::{ChainId, ChunkId};
use crate::proto::meta::{CollectGarbage, SyncMeta};
use crate::proto::storage::UpdateKind;
use crate::timing::is_longer;

/// Dirty bytes go to storage after this long at the latest.
const AGE_MAX: Duration = Duration::from_millis(200);
/// Between an update that nobody took and the same one under another number.
const SEND_PAUSE: Duration = Duration::from_millis(10);
/// How long a write that finds no room waits for removed files to go; how often meta is asked.
const RECLAIM_MAX: Duration = Duration::from_secs(2);
const RECLAIM_PAUSE: Duration = Duration::from_millis(100);
const SWEEP_EVERY: Duration = Duration::from_millis(100);
const _: () =
    assert!(is_longer(AGE_MAX, 1, SWEEP_EVERY) && is_longer(RECLAIM_MAX, 2, RECLAIM_PAUSE));
/// Sweeps from one barrier in the background to the next.
const BARRIER_EVERY: u32 = 10;

/// The session ended in which bytes were appended, and others have come.
pub(super) fn passed_over() -> FsError {
    let why = "the session has ended, and others may have appended in the place of this append";
    FsError::Unavailable(why.into())
}

impl Client {
    /// The chain of a chunk, and its place in the room for dirty bytes.
    pub(super) fn chain(&self, file: &File, index: u32) -> Result<ChainId, FsError> {
        let core = file.core.borrow();
        let layout = core.known().layout.as_ref().ok_or(FsError::InvalidArgument)?;
        self.0.cluster.chain_of(layout, index)
    }

    /// Sends on their way the dirty ranges that are at least this old.
    pub(super) fn push_aged(&self, cx: &Cx, age: Duration) {
        let now = cx.now();
        let files: Vec<Rc<File>> = self.0.files.borrow().values().cloned().collect();
        for f in files {
            let due = f.core.borrow().due(now, age);
            for index in due {
                self.launch(cx, &f, index);
            }
        }
    }

    /// While anything is dirty, unreported, or held without need, a task sees to it by age.
    pub(super) fn sweep(&self, cx: &Cx) {
        if self.0.sweeping.replace(true) {
            return;
        }
        let (client, long) = (self.clone(), cx.outlive());
        cx.spawn(async move {
            let mut rounds = 0_u32;
            loop {
                long.sleep(SWEEP_EVERY).await;
                client.push_aged(&long, AGE_MAX);
                client.report_settled(&long);
                client.drop_idle_holds(&long);
                client.settle_all();
                rounds = rounds.wrapping_add(1);
                if rounds.is_multiple_of(BARRIER_EVERY) {
                    client.barrier_in_background(&long);
                    client.tell_reads(&long);
                }
                if client.is_quiet() {
                    client.0.sweeping.set(false);
                    return;
                }
            }
        });
    }

    fn is_quiet(&self) -> bool {
        let files = self.0.files.borrow();
        self.0.room.total() == 0
            && self.0.stamps.borrow().next_barrier().is_none()
            && self.0.idle.borrow().is_empty()
            && self.0.nameless.borrow().is_empty()
            && self.0.doubted.borrow().is_empty()
            && self.0.reads.borrow().is_empty()
            && files.values().all(|f| {
                let core = f.core.borrow();
                !core.is_busy() && !core.is_idle()
            })
    }

    /// Reports files that have landed whole.
    fn report_settled(&self, cx: &Cx) {
        let files: Vec<Rc<File>> = self.0.files.borrow().values().cloned().collect();
        for f in files {
            let ready = {
                let core = f.core.borrow();
                core.unreported() && core.chunks.is_empty()
            };
            if !ready || f.reporter.replace(true) {
                continue;
            }
            let (client, cx) = (self.clone(), cx.clone());
            cx.clone().spawn(async move {
                let inode = f.core.borrow().inode();
                // A failure leaves it unreported: the next round or fsync sees to it.
                if let Err(e) = client.report(&cx, &f, false).await {
                    tracing::warn!("length of {:#x} not reported: {e}", inode.0);
                }
                f.reporter.set(false);
                drop(f);
                client.settle(inode);
            });
        }
    }

    /// Keeps the list of changes that may not be durable short.
    fn barrier_in_background(&self, cx: &Cx) {
        let Some(stamp) = self.0.stamps.borrow().next_barrier() else { return };
        if self.0.barrier.replace(true) {
            return;
        }
        let (client, cx) = (self.clone(), cx.clone());
        cx.clone().spawn(async move {
            match client.0.cluster.meta(&cx, SyncMeta { stamp }).await {
                Ok(()) => client.0.stamps.borrow_mut().durable(stamp),
                // Each file asks for itself, and is told whether its own changes are there.
                Err(FsError::Lost) => {
                    client.0.stamps.borrow_mut().suspect(stamp);
                    client.0.sharing.doubt_holds();
                }
                Err(e) => tracing::debug!("no barrier in the background: {e}"),
            }
            client.0.barrier.set(false);
        });
    }

    /// Sends all that is dirty in a chunk now, one range after the other.
    pub(super) fn launch(&self, cx: &Cx, file: &Rc<File>, index: u32) {
        if let Some(c) = file.core.borrow_mut().chunks.get_mut(&index) {
            c.send(cx.now());
        }
        self.fly(cx, file, index);
    }

    /// Starts the next flight of a chunk, unless one is under way.
    fn fly(&self, cx: &Cx, file: &Rc<File>, index: u32) {
        let Some((start, data, truncations)) = file.core.borrow_mut().take_off(index) else {
            return;
        };
        let (client, file, cx) = (self.clone(), Rc::clone(file), cx.outlive());
        let task = cx.clone();
        cx.spawn(async move {
            let (inode, size) = {
                let core = file.core.borrow();
                (core.inode(), core.known().layout.as_ref().map_or(0, |l| l.chunk_size))
            };
            let len = data.len();
            let chunk = ChunkId { inode, index };
            let sent = match client.chain(&file, index) {
                Err(e) => Err(e),
                Ok(chain) => {
                    let sent = client.send(&task, &file, chain, chunk, start, Bulk(data)).await;
                    client.note_room(&task, chain, &sent);
                    sent
                }
            };
            let mut dropped = len;
            let mut landed = {
                let mut core = file.core.borrow_mut();
                let placed = core.placed();
                let c = core.chunks.get_mut(&index).expect("in flight");
                let landed = c.land();
                if sent.is_err() {
                    dropped += c.drop_sent();
                }
                core.drop_clean(index);
                let sent = match (sent, placed) {
                    (Ok(()), Some(Placed::Lost)) => Err(passed_over()), // others were there first
                    (sent, _) => sent,
                };
                match sent {
                    Ok(()) => {
                        let at = u64::from(index) * u64::from(size) + u64::from(start);
                        core.landed(at + len as u64, truncations);
                    }
                    Err(e) => {
                        match e {
                            // A full disk has said so, once.
                            FsError::NoSpace => {}
                            _ => {
                                tracing::warn!("{dropped} bytes of {inode:?} were not written: {e}")
                            }
                        }
                        if !PlantedBug::FailedFlightIsSilent.is_in(&task) {
                            core.fail_flight(e);
                        }
                    }
                }
                landed
            };
            client.fly(&task, &file, index);
            client.leave_room(&file, index, dropped);
            landed.ring(());
            drop(file);
            client.settle(inode);
        });
    }

    /// What an update says of its chain's disks.
    fn note_room(&self, cx: &Cx, chain: ChainId, sent: &Result<(), FsError>) {
        match sent {
            Ok(()) => self.0.room.note_taken(chain),
            Err(FsError::NoSpace) => {
                if self.0.room.note_full(chain, cx.now()) {
                    tracing::warn!("the disks of chain {chain} are full");
                }
            }
            Err(_) => {}
        }
    }

    /// One update of one chunk, for as long as requests are tried. It goes again under another
    /// number when the session of the first has ended, or storage may have forgotten it: written
    /// twice, the same bytes are the same. What was appended waits first whether the place is still
    /// this client's.
    async fn send(
        &self,
        cx: &Cx,
        file: &File,
        chain: ChainId,
        chunk: ChunkId,
        start: u32,
        data: Bulk,
    ) -> Result<(), FsError> {
        let cluster = &self.0.cluster;
        let kind = UpdateKind::Write { offset: start };
        let cx = &cx.within(cluster.patience());
        let mut full_since = None;
        loop {
            let request = cluster.request();
            let placed = file.core.borrow().placed();
            let sent = match placed {
                Some(Placed::Lost) => return Err(passed_over()),
                Some(Placed::Under(session)) if session != request.session => {
                    Err(FsError::Unavailable("the session has ended".into()))
                }
                _ => cluster.update(cx, chain, chunk, kind, data.clone(), request).await,
            };
            match sent {
                Err(_) if cluster.session() != request.session => {}
                Err(FsError::Unavailable(_)) if cx.now() + SEND_PAUSE < cx.deadline() => {}
                // Files that were removed a moment ago may leave room.
                Err(FsError::NoSpace)
                    if cx.now().since(*full_since.get_or_insert(cx.now())) < RECLAIM_MAX
                        && self.reclaims(cx).await => {}
                sent => return sent.map(drop),
            }
            cx.sleep(SEND_PAUSE).await;
        }
    }

    /// Tells meta that space is short; whether there are removed files whose content may go. Not
    /// for every write that finds no room.
    async fn reclaims(&self, cx: &Cx) -> bool {
        let now = cx.now();
        if let Some((asked, answer)) = self.0.reclaims.get()
            && now.since(asked) < RECLAIM_PAUSE
        {
            return answer;
        }
        self.0.reclaims.set(Some((now, true)));
        let some = self.0.cluster.meta(&cx.within(RECLAIM_MAX), CollectGarbage).await == Ok(true);
        self.0.reclaims.set(Some((now, some)));
        some
    }

    /// Bytes of a chunk are dirty no more.
    pub(super) fn leave_room(&self, file: &File, index: u32, bytes: usize) {
        let chain = self.chain(file, index).unwrap_or_default();
        self.0.room.give_back(chain, bytes);
    }

    /// Waits until the chunk's bytes in flight, if any, have landed.
    pub(super) async fn landing(&self, cx: &Cx, file: &File, index: u32) -> Result<(), FsError> {
        let slot = file.core.borrow_mut().chunks.get_mut(&index).and_then(|c| c.landing());
        let long = cx.outlive();
        let cx = if PlantedBug::WaitIgnoresDeadline.is_in(cx) { &long } else { cx };
        match slot {
            Some(slot) => until_deadline(cx, slot, "bytes on their way to storage").await,
            None => Ok(()),
        }
    }

    /// Brings what is dirty now in this chunk to storage.
    pub(super) async fn push(&self, cx: &Cx, file: &Rc<File>, index: u32) -> Result<(), FsError> {
        let now = cx.now();
        self.launch(cx, file, index);
        let holds = || file.core.borrow().chunks.get(&index).is_some_and(|c| c.holds(now));
        while holds() {
            self.landing(cx, file, index).await?;
            self.launch(cx, file, index);
        }
        Ok(())
    }

    /// Brings all that is dirty now to storage. What failed on the way is counted in the core.
    pub(super) async fn push_all(&self, cx: &Cx, file: &Rc<File>) -> Result<(), FsError> {
        let all: Vec<u32> = file.core.borrow().chunks.keys().copied().collect();
        let pushed = join_all(all.into_iter().map(|i| self.push(cx, file, i))).await;
        pushed.into_iter().collect()
    }
}
