//! What requests to remove chunks were answered, so that a duplicate that comes late does not take
//! away what was written since.
//!
//! An update of a chunk is remembered in the chunk's row. A removal that finds nothing leaves no
//! row, and one that names a whole file cannot tell new chunks from old ones. Kept in memory only:
//! what was sent to an earlier run of this target does not reach the present one.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use t3fs_runtime::{Ask, Time};

use crate::proto::ids::{RequestId, SessionId};
use crate::proto::storage::{RemoveChunks, Removed, Storage};
use crate::timing::is_longer;

/// How long an answer is kept: longer than any message is on its way.
const KEEP: Duration = Duration::from_secs(60);
const _: () = assert!(is_longer(KEEP, 2, <RemoveChunks as Ask<Storage>>::TIMEOUT));
/// Answers kept at most.
const KEPT_MAX: usize = 1 << 16;
/// What these take, in bytes: in two maps, a third of which is gaps.
pub const REMOVALS_BYTES_MAX: usize =
    KEPT_MAX * 3 / 2 * (size_of::<(RequestId, Removed)>() + size_of::<(Time, RequestId)>());

#[derive(Default)]
pub(super) struct Removals {
    answers: BTreeMap<RequestId, Removed>,
    in_order: VecDeque<(Time, RequestId)>,
    under_way: BTreeSet<RequestId>,
}

impl Removals {
    /// `Some`: it has come before, with the answer if there is one.
    pub(super) fn begin(&mut self, request: RequestId) -> Option<Option<Removed>> {
        if let Some(removed) = self.answers.get(&request) {
            return Some(Some(removed.clone()));
        }
        let first = request.session == SessionId(0) || self.under_way.insert(request);
        (!first).then_some(None)
    }

    pub(super) fn end(&mut self, request: RequestId) {
        self.under_way.remove(&request);
    }

    /// Keeps the answer to a client. Meta removes for good, so its requests may be carried out
    /// twice.
    pub(super) fn keep(&mut self, request: RequestId, removed: &Removed, now: Time) {
        if request.session == SessionId(0) {
            return;
        }
        while let Some((at, oldest)) = self.in_order.front().copied()
            && (now.since(at) >= KEEP || self.in_order.len() >= KEPT_MAX)
        {
            self.answers.remove(&oldest);
            self.in_order.pop_front();
        }
        if self.answers.insert(request, removed.clone()).is_none() {
            self.in_order.push_back((now, request));
        }
    }
}
