//! What meta is told of writes, and flush and fsync, which are about that.

use std::rc::Rc;

use t3fs_runtime::{Cx, Slot, join_all};

use super::file::{File, HandleId, OverTurn, Unreported};
use super::push::passed_over;
use super::retry::Retry;
use super::{Client, FsError, PlantedBug};
use crate::proto::ids::InodeId;
use crate::proto::meta::{Changed, EndTurn, ReportWrite, Reported, Stamp, SyncMeta};

impl Client {
    /// Takes note of a change that this client was told of.
    pub(super) fn changed(&self, cx: &Cx, c: &Changed) {
        self.note(cx, c.attr.inode, c.stamp);
    }

    /// The same by inode, or for a directory whose entries have changed.
    pub(super) fn note(&self, cx: &Cx, inode: InodeId, stamp: Stamp) {
        self.heard(stamp);
        self.0.stamps.borrow_mut().note(inode, stamp);
        self.sweep(cx);
    }

    /// What this client was told of an inode and cannot be sure of, to be noted by the one on the
    /// shard that the inode is synced on: a name is made on the shard of its directory.
    pub fn give_stamps(&self, inode: InodeId) -> Vec<Stamp> {
        self.0.stamps.borrow_mut().give(inode)
    }

    pub fn take_stamps(&self, cx: &Cx, inode: InodeId, stamps: Vec<Stamp>) {
        stamps.into_iter().for_each(|stamp| self.note(cx, inode, stamp));
    }

    /// A later run of the store than any before may have lost what the last one told: holds too.
    pub(super) fn heard(&self, stamp: Stamp) {
        let run = self.0.run.get();
        if stamp.run() > run {
            self.0.run.set(stamp.run());
            if run != 0 {
                self.0.sharing.doubt_holds();
            }
        }
    }

    /// Tells meta the length and times: those of bytes that storage has acknowledged. The stamp is
    /// that of what meta has taken.
    pub(super) async fn report(
        &self,
        cx: &Cx,
        file: &File,
        durable: bool,
    ) -> Result<Stamp, FsError> {
        let mut retry = Retry::in_turn(cx, self.0.cluster.patience());
        loop {
            if let Some(stamp) = self.report_once(cx, file, durable).await? {
                return Ok(stamp);
            }
            if !retry.again(cx, Slot::new()).await {
                let why = "others cut the file or append to it all the time";
                return Err(FsError::Unavailable(why.into()));
            }
        }
    }

    /// The same if that can be done now. `None`: it has to be told again, perhaps because others
    /// are before an append that is part of it.
    pub(super) async fn report_once(
        &self,
        cx: &Cx,
        file: &File,
        durable: bool,
    ) -> Result<Option<Stamp>, FsError> {
        let inode = file.core.borrow().inode();
        if file.core.borrow().is_doubtful() {
            let end = self.stored_end(cx, file).await?;
            file.core.borrow_mut().settle_doubt(end);
        }
        let (claim, turn, message) = {
            let mut core = file.core.borrow_mut();
            let (claim, turn) = core.begin_report();
            let a = core.known();
            let message = ReportWrite {
                inode: a.inode,
                end: claim.end,
                truncations: a.truncations,
                times_set: a.times_set,
                mtime_ns: claim.mtime_ns,
                atime_ns: None,
                clear_suid: claim.clear_suid,
                sparse: claim.sparse,
                turn: turn.map(|turn| EndTurn { op: turn.op, end: turn.end }),
                durable,
            };
            (claim, turn, message)
        };
        let told: Result<Reported, FsError> = self.0.cluster.meta(cx, message).await;
        if let Ok(
            Reported::Taken(Changed { attr, .. })
            | Reported::Passed(Changed { attr, .. })
            | Reported::Stale(attr),
        ) = &told
        {
            self.heard(attr.as_of);
        }
        let done = self.end_report(cx, file, claim, turn, told).transpose()?;
        if let (Some(stamp), false) = (done, durable) {
            self.note(cx, inode, stamp);
        }
        Ok(done)
    }

    /// Takes the answer to a report; `None`: it has to be told again.
    fn end_report(
        &self,
        cx: &Cx,
        file: &File,
        claim: Unreported,
        turn: Option<OverTurn>,
        told: Result<Reported, FsError>,
    ) -> Option<Result<Stamp, FsError>> {
        let mut core = file.core.borrow_mut();
        match told {
            Ok(Reported::Taken(Changed { attr, stamp })) => {
                core.merge(attr);
                core.end_report(claim, true);
                turn.into_iter().for_each(|turn| core.forget_turn(turn.op));
                Some(Ok(stamp))
            }
            Ok(Reported::Passed(Changed { attr, stamp })) => {
                core.merge(attr);
                core.end_report(claim, true);
                turn.into_iter().for_each(|turn| core.forget_turn(turn.op));
                if turn.is_none_or(|turn| turn.end == 0) {
                    return Some(Ok(stamp)); // there was nothing to lose
                }
                core.fail(passed_over());
                Some(Err(passed_over()))
            }
            Ok(Reported::Stale(attr)) => {
                core.end_report(claim, false);
                core.merge(attr);
                if !PlantedBug::StaleReportIsTaken.is_in(cx) {
                    return None;
                }
                core.forget_unreported();
                Some(Ok(Stamp::default()))
            }
            Ok(Reported::Waits) => {
                core.end_report(claim, false);
                None
            }
            Err(FsError::Stale) => {
                core.lose();
                Some(Err(FsError::Stale))
            }
            Err(e) => {
                core.end_report(claim, false);
                Some(Err(e))
            }
        }
    }

    /// Where the content of a file ends, as storage has it.
    pub(super) async fn stored_end(&self, cx: &Cx, file: &File) -> Result<u64, FsError> {
        let (inode, layout) = {
            let core = file.core.borrow();
            (core.inode(), core.known().layout.clone().ok_or(FsError::InvalidArgument)?)
        };
        let chains = self.0.cluster.chains_of(cx, &layout).await?;
        let asked = chains.into_iter().map(|c| self.0.cluster.extents(cx, c, inode, 0, 1));
        let mut end = 0;
        for extents in join_all(asked).await {
            let extents = extents.map_err(|e| match e {
                FsError::Unavailable(why) => {
                    FsError::Unavailable(format!("where the file ends is not known: {why}"))
                }
                e => e,
            });
            if let Some((index, len)) = extents?.last {
                let chunk = u64::from(index) * u64::from(layout.chunk_size);
                end = end.max(chunk + u64::from(len));
            }
        }
        Ok(end)
    }

    /// close(2): hands everything to storage and the length to meta, so that whoever opens the file
    /// from now on sees it.
    ///
    /// # Errors
    /// What went wrong with writes since the handle was opened or was told last.
    pub async fn flush(&self, cx: &Cx, inode: InodeId, handle: HandleId) -> Result<(), FsError> {
        let Some(file) = self.file(inode) else { return Ok(()) };
        let _inside = file.gate.share(cx).await?;
        self.push_all(cx, &file).await?;
        file.core.borrow_mut().hear(handle)?;
        self.report_if_needed(cx, &file).await
    }

    async fn report_if_needed(&self, cx: &Cx, file: &Rc<File>) -> Result<(), FsError> {
        if !file.core.borrow().unreported() || PlantedBug::CloseKeepsLength.is_in(cx) {
            return Ok(());
        }
        self.report(cx, file, false).await.map(drop)
    }

    /// `flush` by nobody in particular: fails when anything fails that was dirty when it began.
    pub(super) async fn flush_all(&self, cx: &Cx, file: &Rc<File>) -> Result<(), FsError> {
        let _inside = file.gate.share(cx).await?;
        let failures = file.core.borrow().failures();
        self.push_all(cx, file).await?;
        file.core.borrow().failed_since(failures)?;
        self.report_if_needed(cx, file).await
    }

    /// Content and attributes are on stable storage when it returns, and so are the name and all
    /// that this client was told of the inode before.
    ///
    /// # Errors
    /// As `flush`; `Stale` when the inode is gone though the handle is open; `Lost` when the
    /// metadata store has lost what it had acknowledged for this inode.
    pub async fn fsync(
        &self,
        cx: &Cx,
        inode: InodeId,
        handle: Option<HandleId>,
        datasync: bool,
    ) -> Result<(), FsError> {
        let mut reported = None;
        if let Some(file) = self.file(inode) {
            let _inside = file.gate.share(cx).await?;
            self.push_all(cx, &file).await?;
            if let Some(handle) = handle {
                file.core.borrow_mut().hear(handle)?;
            }
            let (length, anything) = {
                let core = file.core.borrow();
                if core.is_gone() {
                    return Err(FsError::Stale);
                }
                (core.length_unreported(), core.unreported())
            };
            // The length that is known may be one that another client has cut since.
            if length || (anything && (!datasync || self.is_shared())) {
                reported = Some(self.report(cx, &file, true).await?);
            }
        }
        // Its name and earlier changes. What a run of the store has taken durably covers all that
        // it took before; with nothing to ask for, all that others were told of is made durable.
        let mut stamps: Vec<Stamp> = self.0.stamps.borrow().of(inode).collect();
        stamps.retain(|s| reported.is_none_or(|r| r.run() != s.run()));
        if stamps.is_empty() && reported.is_none() {
            stamps.push(Stamp::default());
        }
        let mut synced = Ok(());
        for stamp in stamps {
            let told = self.0.cluster.meta(cx, SyncMeta { stamp }).await;
            match told {
                Ok(()) => self.0.stamps.borrow_mut().durable(stamp),
                Err(FsError::Lost) => {
                    // As with a write that failed, everybody hears of it once who had it open.
                    let first = self.0.stamps.borrow_mut().told(inode, stamp);
                    if let Some(file) = self.file(inode).filter(|_| first) {
                        file.core.borrow_mut().fail(FsError::Lost);
                    }
                    synced = Err(FsError::Lost);
                }
                Err(e) => synced = synced.and(Err(e)),
            }
        }
        if let (Some(file), Some(handle)) = (self.file(inode), handle) {
            file.core.borrow_mut().hear(handle)?;
        }
        synced
    }
}
