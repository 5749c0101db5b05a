//! What an engine does on its own: applies layers, writes checkpoints, gives space back.

use core::time::Duration;
use std::rc::Rc;

use t3fs_runtime::disk::OpenMode;
use t3fs_runtime::{Cx, DiskError, FileId};

use super::allocator::{Keep, Trim};
use super::block::{self, CHECKPOINT};
use super::checkpoint::{Start, encode_gone, encode_row};
use super::error::EngineError;
use super::layout::{Class, checkpoint_name, journal_name};
use super::state::{EngineState, Inner};
use crate::proto::ids::{ChunkId, InodeId};

/// How long small updates and freed space wait for company.
const PERIOD: Duration = Duration::from_millis(250);
/// Payload of a checkpoint's blocks.
const SLICE: usize = 256 << 10;
/// Journal segments after which a checkpoint is due, if it is not much longer than they are.
const SEGMENTS: u64 = 3;
/// Old segments kept to be used again.
const RETIRED: usize = 2;
/// Periods of one window of time ([`Keep::Recent`]).
const WINDOW: u32 = 20;
/// A disk with less than this part of its capacity free, or less than so much, is short of space.
const SHORT: (u64, u64) = (16, 16 << 30);
/// Likewise with less than so many groups besides the reserve.
const SHORT_GROUPS: u64 = 32;
/// Freed bytes that are worth looking for wholly free groups.
const FREED: u64 = 16 << 20;

impl EngineState {
    fn apply_due(&self, overlay_bytes: usize) -> bool {
        let full = self.starved() || self.overlay() > overlay_bytes / 4;
        full && !self.applying && !self.apply_refused && !self.dirty.is_empty()
    }

    fn checkpoint_due(&self, segment_bytes: u64) -> bool {
        let j = &self.journal;
        let since = u64::from(j.tail.segment - j.checkpoint) * segment_bytes;
        !self.checkpointing
            && since >= (SEGMENTS * segment_bytes).max(self.checkpoint_bytes / 2)
            && j.tail.segment >= self.checkpoint_not_before
    }

    fn keep_due(&self) -> bool {
        let space = self.freed_bytes > 0 || self.trim_all || self.allocator.keeps_recent();
        space || !self.dirty.is_empty() || self.spare_refused
    }
}

impl Inner {
    /// Starts whatever is due; called after every group and by the keeper itself.
    pub fn tend(self: &Rc<Self>, cx: &Cx) {
        let (apply, checkpoint, keep) = self.with(|s| {
            if s.failed.is_some() || s.closing {
                return (false, false, false);
            }
            let apply = s.apply_due(self.cfg.overlay_bytes);
            s.applying |= apply;
            let checkpoint = s.checkpoint_due(self.cfg.journal_segment_bytes);
            s.checkpointing |= checkpoint;
            let keep = s.keep_due() && !std::mem::replace(&mut s.keeping, true);
            (apply, checkpoint, keep)
        });
        if apply {
            let (me, cx) = (Rc::clone(self), cx.outlive());
            cx.clone().spawn(async move { me.apply_now(&cx).await });
        }
        if checkpoint {
            let (me, cx) = (Rc::clone(self), cx.outlive());
            cx.clone().spawn(async move { me.checkpoint_now(&cx).await });
        }
        if keep {
            let (me, cx) = (Rc::clone(self), cx.outlive());
            cx.clone().spawn(async move { me.keep(&cx).await });
        }
    }

    /// With `applying` taken.
    async fn apply_now(self: &Rc<Self>, cx: &Cx) {
        let given = self.with(|s| s.given);
        let mut applied = self.apply_layers(cx).await;
        // A slot may lie in a hole of its data file, and the host's disk be full of other things.
        if applied == Err(EngineError::NoSpace)
            && self.make_room(cx, None, self.cfg.group_bytes, given).await
        {
            applied = self.apply_layers(cx).await;
        }
        let refused = applied == Err(EngineError::NoSpace);
        match applied {
            // They are safe in the journal. It is tried again as long as they are there.
            Ok(()) | Err(EngineError::NoSpace) => {}
            Err(e) => self.with(|s| s.fail(&format!("small updates cannot be applied ({e})"))),
        }
        self.with(|s| {
            if refused != std::mem::replace(&mut s.apply_refused, refused) {
                let does =
                    if refused { "has no space for small updates" } else { "has space again" };
                tracing::warn!("the disk of a target {does}");
            }
            s.applying = false;
            s.admit();
        });
        self.tend(cx);
    }

    async fn keep(self: &Rc<Self>, cx: &Cx) {
        let mut freed_before = 0;
        let mut periods = 0;
        loop {
            cx.sleep(PERIOD).await;
            periods += 1;
            let window = periods % WINDOW == 0;
            let (stop, apply, trim, recent, spare) = self.with(|s| {
                let stop = s.failed.is_some() || s.closing || !s.keep_due();
                s.keeping = !stop;
                let apply = !stop && !s.applying && !s.dirty.is_empty();
                s.applying |= apply;
                let quiet = s.freed_bytes == freed_before;
                freed_before = s.freed_bytes;
                let some = s.freed_bytes > 0 || s.trim_all;
                let mut trim = some && (quiet || s.freed_bytes > FREED);
                if window {
                    trim |= s.allocator.keeps_recent();
                    s.allocator.next_window();
                }
                (stop, apply, trim, s.allocator.keeps_recent(), s.spare_refused)
            });
            if stop {
                return;
            }
            if apply {
                self.apply_now(cx).await;
            }
            // Another target of the disk may have come to need what is kept here.
            if trim || recent && self.short(cx).await {
                self.trim(cx).await;
            }
            if spare && !self.with(|s| s.closing) && self.prepare_spare(cx).await.is_ok() {
                tracing::info!("a target takes updates again: its disk has space");
            }
        }
    }

    async fn short(&self, cx: &Cx) -> bool {
        let Ok(space) = self.disk(cx).space().await else { return false };
        let least = self.cfg.reserve_bytes + SHORT_GROUPS * self.cfg.group_bytes;
        space.free < (space.capacity / SHORT.0).min(SHORT.1).max(least)
    }

    /// Gives wholly free groups back to the host that are not worth keeping.
    async fn trim(&self, cx: &Cx) {
        if self.with(|s| s.closing || std::mem::replace(&mut s.trimming, true)) {
            return;
        }
        let keep = if self.short(cx).await { Keep::Share } else { Keep::Recent };
        self.give_back(cx, keep, u64::MAX).await;
    }

    /// The host's disk was full when so much had been `given` back: gives back what of its space
    /// lies idle here, until there is room for `need` bytes. Whether there is more than there was,
    /// perhaps a free slot of `class`, perhaps by another's doing.
    pub async fn make_room(&self, cx: &Cx, class: Option<Class>, need: u64, given: u64) -> bool {
        let more = self.until(cx, |s| {
            let more = s.given != given || class.is_some_and(|c| s.allocator.has_free(c));
            (more || !std::mem::replace(&mut s.trimming, true)).then_some(more)
        });
        more.await || self.give_back(cx, Keep::Nothing, need).await
    }

    /// With `trimming` claimed. Whether anything was given back.
    async fn give_back(&self, cx: &Cx, keep: Keep, need: u64) -> bool {
        let trims = self.with(|s| {
            s.freed_bytes = 0;
            let all = std::mem::take(&mut s.trim_all);
            s.allocator.trim(if all { Keep::Nothing } else { keep }, need)
        });
        let mut some = false;
        let disk = self.disk(cx);
        for trim in trims {
            let (Trim::Punch(groups) | Trim::Truncate(groups)) = trim;
            let file = self.file(groups.class);
            let done = match trim {
                Trim::Punch(g) => disk.punch(file, g.offset(), g.bytes()).await,
                Trim::Truncate(g) => disk.truncate(file, g.offset()).await,
            };
            if let Err(e) = &done {
                tracing::warn!("free space stays in a data file: {e}");
            }
            some |= done.is_ok();
            self.with(|s| {
                s.allocator.trimmed(trim, done.is_ok());
                s.resized.ring(());
            });
        }
        self.with(|s| {
            s.trimming = false;
            s.given += u64::from(some);
        });
        some
    }

    /// With `checkpointing` taken.
    pub async fn checkpoint_now(self: &Rc<Self>, cx: &Cx) {
        if let Err(e) = self.checkpoint(cx).await {
            tracing::warn!("no checkpoint of a target this time: {e}");
            self.with(|s| s.checkpoint_not_before = s.journal.tail.segment + 1);
        }
        self.with(|s| {
            s.checkpointing = false;
            s.cursor = None;
            s.gone.clear();
        });
        self.tend(cx);
    }

    async fn checkpoint(self: &Rc<Self>, cx: &Cx) -> Result<(), EngineError> {
        self.with(|s| (s.cursor, s.gone) = (None, Default::default()));
        let (segment, start) = self.rotation(cx).await?;
        let disk = self.disk(cx);
        let name = self.path(&checkpoint_name(segment));
        let temporary = format!("{name}.tmp");
        let (file, _) = disk.open(&temporary, OpenMode::OrCreate).await?;
        let written = self.write_checkpoint(cx, file, start).await;
        let closed = disk.close(file).await;
        let bytes = match written.and_then(|n| closed.map(|()| n)) {
            Ok(n) => n,
            Err(e) => {
                let _ = disk.remove(&temporary).await; // removed at the next opening otherwise
                return Err(e.into());
            }
        };
        disk.rename(&temporary, &name).await?;
        disk.sync_dir(&self.dir).await?;
        self.retire(cx, segment, bytes).await;
        Ok(())
    }

    async fn write_checkpoint(
        &self,
        cx: &Cx,
        file: FileId,
        start: Start,
    ) -> Result<u64, DiskError> {
        let disk = self.disk(cx);
        let epoch = self.with(|s| s.journal.epoch);
        let (mut at, mut seq, mut rows) = (0, 0, 0u64);
        let mut payload = start.encode();
        loop {
            let mut buf = disk.alloc(block::block_len(payload.len())).await;
            block::seal(CHECKPOINT, epoch, seq, rows, &payload, &mut buf);
            let len = buf.len() as u64;
            disk.write(file, at, buf).await?;
            at += len;
            seq += 1;
            if payload.is_empty() {
                break;
            }
            payload.clear();
            rows += self.with(|s| s.slice(&mut payload));
        }
        disk.truncate(file, at).await?;
        disk.sync(file).await?;
        Ok(at)
    }

    /// The new checkpoint stands: what came before its segment is not needed any more.
    async fn retire(&self, cx: &Cx, segment: u32, bytes: u64) {
        let disk = self.disk(cx);
        let (before, drop) = self.with(|s| {
            let before = std::mem::replace(&mut s.journal.checkpoint, segment);
            s.checkpoint_bytes = bytes;
            s.journal.retired.extend(before..segment);
            let surplus = s.journal.retired.len().saturating_sub(RETIRED);
            let drop: Vec<u32> = s.journal.retired.drain(..surplus).collect();
            (before, drop)
        });
        let old = drop.iter().map(|n| journal_name(*n)).chain([checkpoint_name(before)]);
        for name in old {
            match disk.remove(&self.path(&name)).await {
                // The very first segment has no checkpoint.
                Ok(()) | Err(DiskError::NotFound) => {}
                Err(e) => tracing::warn!("{name} stays until the target opens again: {e}"),
            }
        }
    }

    /// Waits until a step finds what it waits for.
    pub async fn until<R>(
        &self,
        cx: &Cx,
        mut step: impl FnMut(&mut EngineState) -> Option<R>,
    ) -> R {
        loop {
            if let Some(r) = self.with(&mut step) {
                return r;
            }
            cx.sleep(Duration::from_millis(1)).await;
        }
    }

    /// Applies and checkpoints everything; the end of this engine.
    pub async fn close(self: &Rc<Self>, cx: &Cx) -> Result<(), EngineError> {
        if self.with(|s| std::mem::replace(&mut s.closing, true)) {
            return Ok(());
        }
        self.with(EngineState::admit);
        self.until(cx, |s| {
            s.shut |= s.busy.is_empty();
            (s.shut && s.pins.is_empty()).then_some(())
        })
        .await;
        self.flush(cx).await?;
        self.until(cx, |s| (!std::mem::replace(&mut s.applying, true)).then_some(())).await;
        let applied = self.apply_layers(cx).await;
        self.until(cx, |s| (!std::mem::replace(&mut s.checkpointing, true)).then_some(())).await;
        let checkpointed = self.checkpoint(cx).await;
        self.until(cx, |s| {
            let busy = s.journal.writing || s.journal.preparing || s.allocator.growing();
            (!busy && !std::mem::replace(&mut s.trimming, true)).then_some(())
        })
        .await;
        // Only what costs one call each; the rest goes when the target opens again.
        self.give_back(cx, Keep::Share, 0).await;
        let files = self.with(|s| {
            s.failed.get_or_insert("it is closed".into());
            let data = std::mem::take(&mut s.files).into_values().map(|f| f.file);
            data.chain(s.journal.spare.take()).chain([s.journal.tail.file]).collect::<Vec<_>>()
        });
        for file in files {
            self.disk(cx).close(file).await?;
        }
        applied.and(checkpointed)
    }
}

impl EngineState {
    /// The next rows of a running checkpoint; returns how many. None are left when it is empty.
    fn slice(&mut self, out: &mut Vec<u8>) -> u64 {
        let first = ChunkId { inode: InodeId(0), index: 0 };
        let (skip, from) = self.cursor.map_or((false, first), |c| (true, c));
        let mut rows = 0;
        let mut last = None;
        for (chunk, row) in self.index.range(from) {
            if skip && *chunk == from {
                continue;
            }
            if out.len() >= SLICE {
                break;
            }
            encode_row(*chunk, row, out);
            (last, rows) = (Some(*chunk), rows + 1);
        }
        let end = ChunkId { inode: InodeId(u64::MAX), index: u32::MAX };
        self.cursor = Some(last.unwrap_or(end));
        let passed = match last {
            Some(last) => {
                let later = self.gone.split_off(&last);
                std::mem::replace(&mut self.gone, later)
            }
            None => std::mem::take(&mut self.gone),
        };
        for (chunk, usn) in passed {
            encode_gone(chunk, usn, out);
        }
        rows
    }
}
