//! Inode numbers: batches reserved durably, so that a number is never given twice, not even after a
//! power failure that lost the inodes made last, whose chunks may still exist.

use std::collections::VecDeque;
use std::ops::Range;

use t3fs_runtime::{Bell, Cx, Slot};

use super::kv::client::transact;
use super::kv::known::KnownStore;
use super::ops::Done;
use super::schema::{INODE_MIN, alloc_key, open_alloc, seal_alloc};
use crate::proto::ids::{INODE_END, InodeId};
use crate::proto::kv::Durability;
use crate::proto::meta::MetaError;

/// Numbers reserved at a time.
pub const BATCH: u64 = 4096;
/// With fewer left than this, the next batch is reserved ahead of need.
const LOW: u64 = BATCH / 4;

/// The numbers at hand.
#[derive(Default)]
pub struct InodeIds {
    batches: VecDeque<Range<u64>>,
    reserving: bool,
    /// For those who wait for a batch.
    more: Bell<Result<(), MetaError>>,
}

/// What a request for a number gets.
pub struct Take {
    pub given: Result<InodeId, Slot<Result<(), MetaError>>>,
    /// The caller must have a batch reserved and give it to [`InodeIds::reserved`].
    pub reserve: bool,
}

impl InodeIds {
    pub fn take(&mut self) -> Take {
        let given = self.batches.front_mut().and_then(Iterator::next);
        while self.batches.front().is_some_and(Range::is_empty) {
            self.batches.pop_front();
        }
        let left: u64 = self.batches.iter().map(|batch| batch.end - batch.start).sum();
        let reserve = left < LOW && !self.reserving;
        self.reserving |= reserve;
        let given = given.map(InodeId).ok_or_else(|| self.more.wait());
        Take { given, reserve }
    }

    /// Takes in a batch, or why there is none, and tells those who wait.
    pub fn reserved(&mut self, batch: Result<Range<u64>, MetaError>) {
        assert!(self.reserving);
        self.reserving = false;
        self.more.ring(batch.map(|batch| self.batches.push_back(batch)));
    }
}

/// Reserves a batch. One whose commit is unknown is left unused.
pub async fn reserve(cx: &Cx, store: &KnownStore) -> Done<Range<u64>> {
    transact(cx, store, Durability::Now, async |txn| {
        let [stored] = txn.read([&alloc_key()]).await?;
        let start = stored.as_deref().map(open_alloc).transpose()?.unwrap_or(INODE_MIN);
        if start > INODE_END - BATCH {
            let why = format!("inode numbers from {start:#x} on are too large for chunks");
            return Err(MetaError::Damaged(why).into());
        }
        txn.set(alloc_key(), seal_alloc(start + BATCH));
        Ok(start..start + BATCH)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn numbers_come_in_order_and_the_next_batch_is_asked_for_early() {
        let mut ids = InodeIds::default();
        let first = ids.take();
        assert!(first.reserve);
        let place = first.given.unwrap_err();
        assert!(!ids.take().reserve);
        ids.reserved(Ok(0x1000..0x1000 + BATCH));
        assert_eq!(place.now_or_never(), Some(Ok(())));
        let mut early = 0;
        for n in 0x1000..0x1000 + BATCH {
            let take = ids.take();
            assert_eq!(take.given.ok(), Some(InodeId(n)));
            early += u64::from(take.reserve);
        }
        assert_eq!(early, 1);
        let place = ids.take().given.unwrap_err();
        ids.reserved(Err(MetaError::NoSpace));
        assert_eq!(place.now_or_never(), Some(Err(MetaError::NoSpace)));
        assert!(ids.take().reserve);
    }
}
