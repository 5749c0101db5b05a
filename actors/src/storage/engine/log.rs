//! Group commit: the disk operations of the journal.

use core::time::Duration;
use std::rc::Rc;

use t3fs_runtime::disk::OpenMode;
use t3fs_runtime::{Cx, Disk, DiskError, DiskId, FileId, Slot, join_all};

use super::block::{self, JOURNAL};
use super::checkpoint::Start;
use super::error::EngineError;
use super::journal::{Done, Entry, Tail};
use super::layout::journal_name;
use super::record::Record;
use super::state::{EngineState, Inner};

/// How long a commit that nobody waits for stays in memory when no other record takes it along.
const LAZY: Duration = Duration::from_millis(2);
/// Length of one write of zeros.
pub const FILL: usize = 1 << 20;

impl Inner {
    /// Queues a record; the slot fills when it is durable and installed.
    pub fn append(self: &Rc<Self>, cx: &Cx, record: Record, reserved: usize) -> Done {
        let done = Slot::new();
        self.with(|s| s.journal.push(record, Some(done.clone()), reserved));
        self.start_writer(cx);
        done
    }

    fn start_writer(self: &Rc<Self>, cx: &Cx) {
        if !self.with(|s| std::mem::replace(&mut s.journal.writing, true)) {
            let (me, cx) = (Rc::clone(self), cx.outlive());
            cx.clone().spawn(async move { me.write_groups(&cx).await });
        }
    }

    /// Sees to it that lazy records are written within [`LAZY`].
    pub fn write_lazily(self: &Rc<Self>, cx: &Cx) {
        let idle = self.with(|s| {
            let idle = !s.journal.writing && !s.journal.is_empty();
            idle && !std::mem::replace(&mut s.journal.lazy_armed, true)
        });
        if idle {
            let (me, cx) = (Rc::clone(self), cx.outlive());
            cx.clone().spawn(async move {
                cx.sleep(LAZY).await;
                let wanted = me.with(|s| {
                    s.journal.lazy_armed = false;
                    !s.journal.is_empty()
                });
                if wanted {
                    me.start_writer(&cx);
                }
            });
        }
    }

    /// Writes all that is queued now.
    pub async fn flush(self: &Rc<Self>, cx: &Cx) -> Result<(), EngineError> {
        while !self.with(|s| s.journal.is_empty() && !s.journal.writing) {
            self.with(|s| s.alive())?;
            self.start_writer(cx);
            cx.sleep(Duration::from_micros(100)).await;
        }
        self.with(|s| s.alive())
    }

    /// A new segment, with all records of older ones durable and installed; its number.
    pub async fn rotation(self: &Rc<Self>, cx: &Cx) -> Result<(u32, Start), EngineError> {
        let rotated = self.with(|s| s.journal.rotated.wait());
        self.start_writer(cx);
        rotated.await
    }

    async fn write_groups(self: &Rc<Self>, cx: &Cx) {
        // The first pass takes lazy records too: somebody or their timer asked for it.
        let mut first = true;
        loop {
            let more = self.with(|s| {
                let j = &mut s.journal;
                j.writing = j.wanted() || (first && !j.is_empty());
                j.writing
            });
            first = false;
            if !more {
                return self.write_lazily(cx);
            }
            let group = self.with(|s| s.journal.take_group(self.cfg.journal_segment_bytes));
            if !group.is_empty() {
                self.write_group(cx, group).await;
            }
            let mut rotated = self.with(|s| std::mem::take(&mut s.journal.rotated));
            if !rotated.is_empty() {
                let done = self.rotate(cx).await;
                rotated.ring(done.map(|()| self.with(|s| s.journal.start())));
            }
            if self.with(|s| s.failed.is_some()) {
                self.refuse_all();
            }
            self.tend(cx);
        }
    }

    fn refuse_all(&self) {
        let (entries, mut rotated, e) = self.with(|s| {
            let e = s.alive().expect_err("it has failed");
            (s.journal.drain(), std::mem::take(&mut s.journal.rotated), e)
        });
        for e2 in entries {
            if let Some(done) = e2.done {
                done.fill(Err(e.clone()));
            }
        }
        rotated.ring(Err(e));
    }

    async fn write_group(self: &Rc<Self>, cx: &Cx, group: Vec<Entry>) {
        match self.store_group(cx, &group).await {
            Ok(()) => self.with(|s| group.into_iter().for_each(|e| s.installed(e))),
            Err(e) => {
                self.with(|s| s.fail(&format!("its journal cannot be written ({e})")));
                for entry in group {
                    if let Some(done) = entry.done {
                        done.fill(Err(e.clone()));
                    }
                }
            }
        }
    }

    async fn store_group(self: &Rc<Self>, cx: &Cx, group: &[Entry]) -> Result<(), EngineError> {
        self.with(|s| s.alive())?;
        let mut payload = Vec::with_capacity(group.iter().map(|e| e.record.size_bound()).sum());
        for e in group {
            e.record.encode(&mut payload);
        }
        if !self.with(|s| s.journal.fits(payload.len(), self.cfg.journal_segment_bytes)) {
            self.rotate(cx).await?;
        }
        let disk = self.disk(cx);
        let mut buf = disk.alloc(block::block_len(payload.len())).await;
        let (tail, seq, epoch) = self.with(|s| {
            let (tail, seq) = s.journal.place(payload.len());
            (tail, seq, s.journal.epoch)
        });
        block::seal(JOURNAL, epoch, seq, group[0].usn, &payload, &mut buf);
        disk.write(tail.file, tail.at, buf).await?;
        disk.sync(tail.file).await?;
        Ok(())
    }

    async fn rotate(self: &Rc<Self>, cx: &Cx) -> Result<(), EngineError> {
        self.with(|s| s.alive())?;
        loop {
            let old = self.with(|s| {
                let file = s.journal.spare.take()?;
                let old = s.journal.tail;
                s.journal.tail = Tail { segment: old.segment + 1, file, at: 0 };
                Some(old.file)
            });
            if let Some(old) = old {
                self.disk(cx).close(old).await?;
                self.prepare_in_background(cx);
                return Ok(());
            }
            self.prepare_spare(cx).await?;
        }
    }

    /// Has the next segment made while the current one fills.
    pub fn prepare_in_background(self: &Rc<Self>, cx: &Cx) {
        if !self.with(|s| s.claim_preparation()) {
            return;
        }
        let (me, cx) = (Rc::clone(self), cx.outlive());
        cx.clone().spawn(async move {
            if let Err(e) = me.prepare_claimed(&cx).await {
                tracing::warn!("no next journal segment for a target yet: {e}");
                me.tend(&cx);
            }
        });
    }

    /// Has the next segment ready before it is needed.
    pub async fn prepare_spare(&self, cx: &Cx) -> Result<(), EngineError> {
        if self.with(|s| s.claim_preparation()) {
            return self.prepare_claimed(cx).await;
        }
        let other = self.with(|s| s.journal.preparing.then(|| s.prepared.wait()));
        if let Some(other) = other {
            other.await;
        }
        let ready = self.with(|s| s.journal.spare.is_some());
        if ready { Ok(()) } else { Err(EngineError::NoSpace) }
    }

    /// With the preparation claimed.
    async fn prepare_claimed(&self, cx: &Cx) -> Result<(), EngineError> {
        let (segment, retired, given) =
            self.with(|s| (s.journal.tail.segment + 1, s.journal.retired.pop(), s.given));
        let mut made = make_segment(self, cx, segment, retired).await;
        let bytes = self.cfg.journal_segment_bytes;
        if made == Err(DiskError::NoSpace) && self.make_room(cx, None, bytes, given).await {
            made = make_segment(self, cx, segment, None).await;
        }
        self.with(|s| {
            s.journal.preparing = false;
            s.spare_refused = made == Err(DiskError::NoSpace);
            s.journal.spare = made.as_ref().ok().copied();
            s.prepared.ring(());
        });
        made.map(drop).map_err(EngineError::from)
    }
}

impl EngineState {
    /// Whether the caller is the one to prepare the next segment. Claimed before any task for it
    /// runs, so that [`Inner::close`] can wait for all there will be.
    fn claim_preparation(&mut self) -> bool {
        let wanted = self.journal.spare.is_none() && self.failed.is_none();
        wanted && !std::mem::replace(&mut self.journal.preparing, true)
    }
}

/// A segment to write to: an old one under a new name, or a new one full of zeros.
async fn make_segment(
    inner: &Inner,
    cx: &Cx,
    segment: u32,
    retired: Option<u32>,
) -> Result<FileId, DiskError> {
    let Some(old) = retired else {
        let bytes = inner.cfg.journal_segment_bytes;
        return fresh_segment(cx, inner.disk, &inner.dir, segment, bytes).await;
    };
    let disk = inner.disk(cx);
    let name = inner.path(&journal_name(segment));
    disk.rename(&inner.path(&journal_name(old)), &name).await?;
    disk.sync_dir(&inner.dir).await?;
    let (file, len) = disk.open(&name, OpenMode::Existing).await?;
    if len == inner.cfg.journal_segment_bytes {
        return Ok(file);
    }
    disk.close(file).await?;
    fresh_segment(cx, inner.disk, &inner.dir, segment, inner.cfg.journal_segment_bytes).await
}

/// A new segment full of zeros.
pub async fn fresh_segment(
    cx: &Cx,
    disk: DiskId,
    dir: &str,
    segment: u32,
    bytes: u64,
) -> Result<FileId, DiskError> {
    let disk = cx.disk(disk);
    let name = format!("{dir}/{}", journal_name(segment));
    let temporary = format!("{name}.tmp");
    let (file, _) = disk.open(&temporary, OpenMode::OrCreate).await?;
    let made = async {
        fill_zeros(&disk, file, 0, bytes).await?;
        disk.sync(file).await?;
        disk.rename(&temporary, &name).await?;
        disk.sync_dir(dir).await
    };
    match made.await {
        Ok(()) => Ok(file),
        Err(e) => {
            let _ = disk.close(file).await; // the first error is the one to tell
            let _ = disk.remove(&temporary).await;
            Err(e)
        }
    }
}

/// Writes zeros over a range, a few pieces at a time.
pub async fn fill_zeros(disk: &Disk, file: FileId, from: u64, bytes: u64) -> Result<(), DiskError> {
    let mut at = from;
    let end = from + bytes;
    while at < end {
        let mut pieces = Vec::new();
        while at < end && pieces.len() < 4 {
            let len = (end - at).min(FILL as u64);
            let (disk, offset) = (disk.clone(), at);
            pieces.push(async move {
                let zeros = disk.alloc(len as usize).await;
                disk.write(file, offset, zeros).await
            });
            at += len;
        }
        join_all(pieces).await.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(())
}
