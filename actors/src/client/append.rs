//! O_APPEND: where an append goes, and how it gets there (`meta/ops/turns.rs`).
//!
//! A client that is alone appends where it believes the end to be, and buffers. What it has so
//! placed goes there in the name of its session only ([`Placed`](super::file::Placed)): when that
//! has ended others may have appended in the same place. Others see by the hold of this session
//! that they have to wait.

use std::rc::Rc;

use t3fs_runtime::{Cx, Slot};

use super::file::{File, Hold};
use super::pieces::{WritePiece, Written, pieces};
use super::retry::Retry;
use super::{Client, FsError, PlantedBug};
use crate::proto::ids::RequestId;
use crate::proto::meta::{Append, Appended, DropHolds};

/// An append that waits for its turn.
pub(super) struct TurnWait {
    pub(super) op: RequestId,
    asked: u32,
    /// The number before this one.
    before: Option<RequestId>,
}

/// What became of an append that needs a turn.
enum InTurn {
    /// The append is part of the file.
    Done(Written),
    /// The append is stored, and part of the file once the appends before it are.
    Stored(Stored),
    /// Other appends are before it.
    Waits,
}

/// An append that is stored in its place.
struct Stored {
    written: Written,
    op: RequestId,
    /// Failures of the file until then.
    failures: u64,
}

/// How often meta is asked for one turn: it remembers so many requests of a client.
const ASKED_MAX: u32 = 16;

impl Client {
    /// Appends: where this client believes the end to be while it is alone, else in turn with
    /// others. Whoever has to wait for those, before or after it has stored its bytes, lets readers
    /// and cuts of its own mount pass: of another that has died it may be a minute.
    pub(super) async fn append(
        &self,
        cx: &Cx,
        file: &Rc<File>,
        piece: WritePiece<'_>,
        wait: &mut Option<TurnWait>,
    ) -> Result<Written, FsError> {
        let mut retry = Retry::in_turn(cx, self.0.cluster.patience());
        let mut stored = None;
        loop {
            let alone = file.gate.alone(cx).await?;
            if let Some(append) = &stored {
                if self.is_part(cx, file, append).await? {
                    return Ok(append.written);
                }
            } else if self.knows_ends(cx.now()) || PlantedBug::AppendAtOwnEnd.is_in(cx) {
                self.end_left_turn(cx, file).await?; // it may move the end
                if self.hold_itself(cx, file).await?
                    && self.knows_ends(cx.now()) | PlantedBug::AppendAtOwnEnd.is_in(cx)
                    && file.core.borrow_mut().place(self.0.cluster.session())
                {
                    let end = file.core.borrow().length();
                    let written = self.write_at(cx, file, end, piece).await;
                    file.core.borrow_mut().end_append();
                    return written;
                }
            } else {
                match self.append_in_turn(cx, file, piece, wait).await? {
                    InTurn::Done(written) => return Ok(written),
                    InTurn::Stored(append) => stored = Some(append),
                    InTurn::Waits => {}
                }
            }
            drop(alone);
            if !retry.again(cx, Slot::new()).await {
                let why = "others cut the file, or write it and do not answer";
                return Err(FsError::Unavailable(why.into()));
            }
        }
    }

    /// Sees to it that the hold by which others know of this writer is one of its own session: what
    /// it appends alone is told together with that session's opens. `false`: not yet.
    async fn hold_itself(&self, cx: &Cx, file: &File) -> Result<bool, FsError> {
        let (inode, hold) = {
            let core = file.core.borrow();
            (core.inode(), core.hold)
        };
        let session = self.0.cluster.session();
        let Some(other) = hold.map(|hold| hold.session).filter(|other| *other != session) else {
            return Ok(true);
        };
        let _changing = self.changing(vec![inode]);
        let attr = self.open_held(cx, inode, session, true).await?;
        self.merge(file, attr);
        file.core.borrow_mut().hold = Some(Hold::new(session, true));
        if self.0.cluster.is_own(other) {
            let drop = DropHolds { session: other, inodes: vec![inode], op: self.0.cluster.op() };
            if let Err(e) = self.0.cluster.meta(cx, drop).await {
                tracing::warn!("{:#x} is held until session {other} ends: {e}", inode.0);
            }
        }
        Ok(self.0.cluster.session() == session)
    }

    /// Has meta told that nobody waits for this turn any more.
    pub(super) fn give_up_turn(&self, cx: &Cx, file: &Rc<File>, op: RequestId) {
        let (client, file, cx) = (self.clone(), Rc::clone(file), cx.outlive());
        cx.clone().spawn(async move {
            let Ok(_alone) = file.gate.alone(&cx).await else { return };
            if let Err(e) = client.end_turn(&cx, &file, op).await {
                tracing::debug!("the end of a turn is not told yet: {e}");
            }
            client.sweep(&cx);
        });
    }

    /// Ends a turn that has not come. The caller is alone with the file.
    async fn end_turn(&self, cx: &Cx, file: &Rc<File>, op: RequestId) -> Result<(), FsError> {
        self.end_left_turn(cx, file).await?;
        {
            let mut core = file.core.borrow_mut();
            core.begin_turn(op, true);
            core.leave_turn();
        }
        self.push_and_report(cx, file).await
    }

    /// Tells meta that an append is stored; whether it is part of the file now. The caller is alone
    /// with the file.
    async fn is_part(&self, cx: &Cx, file: &Rc<File>, append: &Stored) -> Result<bool, FsError> {
        let is_open = || file.core.borrow().open_turn() == Some(append.op);
        if is_open() {
            self.push_all(cx, file).await?;
            self.report_once(cx, file, false).await?;
        }
        // Somebody else of this mount may have told meta, and heard that it was passed over.
        file.core.borrow().failed_since(append.failures)?;
        Ok(!is_open())
    }

    /// Appends to a file that others may append to, behind everything that was there. The caller is
    /// alone with the file.
    ///
    /// Whatever happens, meta hears that a turn is over that was taken: here, or from the task that
    /// reports.
    async fn append_in_turn(
        &self,
        cx: &Cx,
        file: &Rc<File>,
        piece: WritePiece<'_>,
        wait: &mut Option<TurnWait>,
    ) -> Result<InTurn, FsError> {
        // Other clients are to know of holes before the end moves.
        self.push_all(cx, file).await?;
        if file.core.borrow().unreported() && self.report_once(cx, file, false).await?.is_none() {
            return Ok(InTurn::Waits);
        }
        let stored = async {
            let Some(offset) = self.take_end(cx, file, piece.data.len() as u64, wait).await? else {
                return Ok(None);
            };
            piece.end(offset)?;
            let len = self.store_in_order(cx, file, offset, piece).await?;
            Ok(Some(Written { offset, len }))
        };
        let stored: Result<_, FsError> = stored.await;
        file.core.borrow_mut().leave_turn();
        self.sweep(cx);
        let Some(written) = stored? else { return Ok(InTurn::Waits) };
        let (op, failures) = {
            let core = file.core.borrow();
            (core.open_turn(), core.failures())
        };
        let Some(op) = op else { return Ok(InTurn::Done(written)) };
        let append = Stored { written, op, failures };
        if PlantedBug::AppendWaitsInside.is_in(cx) {
            self.report(cx, file, false).await?;
        }
        Ok(match self.is_part(cx, file, &append).await? {
            true => InTurn::Done(written),
            false => InTurn::Stored(append),
        })
    }

    /// Stores bytes one chunk after the other, so that nothing is behind a part that failed;
    /// how much was stored.
    pub(super) async fn store_in_order(
        &self,
        cx: &Cx,
        file: &Rc<File>,
        offset: u64,
        piece: WritePiece<'_>,
    ) -> Result<usize, FsError> {
        let failures = file.core.borrow().failures();
        let mut stored = 0;
        for (index, from, to, at) in pieces(offset, piece.data.len() as u64, piece.size) {
            let next = at + (to - from) as usize;
            let part = piece.data.slice(at..next);
            let part = WritePiece { data: &part, ..piece };
            let store = async {
                self.buffer(cx, file, offset + at as u64, part).await?;
                file.core.borrow_mut().fill_turn(offset + next as u64);
                self.push(cx, file, index).await?;
                file.core.borrow().failed_since(failures)
            };
            match store.await {
                Ok(()) => {
                    stored = next;
                    if PlantedBug::AppendGuardEnds.is_in(cx) {
                        file.core.borrow_mut().end_append();
                    }
                }
                // As on a disk that is full: what had room is part of the file.
                Err(FsError::NoSpace) if stored > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(stored)
    }

    /// Takes a turn at the end of the file, wherever others have put it, and `len` bytes there.
    /// `None`: not yet. It is asked for again under the same number: an earlier question that the
    /// network has kept takes no turn that nobody knows of.
    async fn take_end(
        &self,
        cx: &Cx,
        file: &File,
        len: u64,
        wait: &mut Option<TurnWait>,
    ) -> Result<Option<u64>, FsError> {
        if file.core.borrow().is_doubtful() {
            self.report(cx, file, false).await?;
        }
        // A turn of a session that has ended is passed over.
        let again = wait.take().filter(|wait| wait.op.session == self.0.cluster.session());
        let TurnWait { op, asked, before } = match again {
            Some(wait) if wait.asked < ASKED_MAX => wait,
            // A question that comes late is no reason for a place that nobody fills.
            spent => {
                let before = spent.map(|wait| wait.op);
                TurnWait { op: self.0.cluster.op(), asked: 0, before }
            }
        };
        let message = {
            let mut core = file.core.borrow_mut();
            core.begin_turn(op, true);
            let truncations = core.known().truncations;
            let holder = core.hold.map_or(op.session, |hold| hold.session);
            let (inode, end, instead_of) = (core.inode(), core.own_end(), before);
            Append { inode, len, end, truncations, holder, op, instead_of }
        };
        let answer = match self.0.cluster.meta(cx, message).await {
            // Another appender of this mount has asked since, and so has ended what a question that
            // came twice had taken. Of a file that is gone the next number hears, too.
            Err(FsError::Stale) if asked > 0 => {
                file.core.borrow_mut().forget_turn(op);
                return Ok(None);
            }
            answer => answer?,
        };
        match answer {
            Appended::At { offset, stamp } => {
                self.note(cx, message.inode, stamp);
                let mut core = file.core.borrow_mut();
                core.take_place();
                core.place(op.session);
                return Ok(Some(offset));
            }
            // What this client has buffered or stored belongs before the append, if it is there.
            Appended::Stale(attr) => self.merge(file, attr),
            Appended::Waits => {}
        }
        file.core.borrow_mut().forget_turn(op);
        *wait = Some(TurnWait { op, asked: asked + 1, before });
        Ok(None)
    }
}
