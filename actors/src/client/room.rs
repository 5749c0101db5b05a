//! How many bytes a client holds for storage: a limit over all chains, of which one chain that does
//! not answer cannot take all.
//!
//! Up to three quarters of the limit go to whoever comes; the rest only to chains that hold less
//! than an eighth of it. So several chains that stand still leave room for the others.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use t3fs_runtime::{Bell, Cx, Time};

use super::FsError;
use super::wait::until_deadline;
use crate::proto::ids::ChainId;

/// How long a chain counts as full after it has said so.
const FULL_FOR: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Share {
    bytes: usize,
    /// For those who wait for room.
    freed: Bell,
}

pub(super) struct Room {
    max: usize,
    /// Up to here every chain may take.
    common: usize,
    total: Cell<usize>,
    shares: RefCell<BTreeMap<ChainId, Share>>,
    /// Chains whose disks were full, and when they last said so.
    full: RefCell<BTreeMap<ChainId, Time>>,
}

/// Bytes that are given back when this is dropped.
pub(super) struct Held<'a> {
    room: &'a Room,
    chain: ChainId,
    bytes: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.room.give_back(self.chain, self.bytes);
    }
}

impl Room {
    pub(super) fn new(max: usize) -> Room {
        let common = max / 4 * 3;
        let (shares, full) = Default::default();
        Room { max, common, total: Cell::new(0), shares, full }
    }

    /// The planted bug: nothing is kept back for chains that hold little.
    pub(super) fn without_reserve(max: usize) -> Room {
        Room { common: max, ..Room::new(max) }
    }

    pub(super) fn total(&self) -> usize {
        self.total.get()
    }

    /// Whether a chain may take more. A limit may be passed by the one that finds room.
    fn is_free(&self, bytes: usize) -> bool {
        let total = self.total.get();
        total < self.common || total < self.max && bytes < self.max / 8
    }

    /// Waits until the chain may hold more bytes; calls `hurry` before each wait.
    ///
    /// # Errors
    /// `Unavailable` when the deadline comes first.
    pub(super) async fn find(
        &self,
        cx: &Cx,
        chain: ChainId,
        mut hurry: impl FnMut(),
    ) -> Result<(), FsError> {
        loop {
            let freed = {
                let mut shares = self.shares.borrow_mut();
                let share = shares.entry(chain).or_default();
                if self.is_free(share.bytes) {
                    return Ok(());
                }
                share.freed.wait()
            };
            hurry();
            let what = format!("chain {chain} does not take what is written");
            until_deadline(cx, freed, &what).await?;
        }
    }

    /// The disks of a chain have no room: whoever writes to it waits for what he writes, and hears
    /// that it was not stored, until some is stored again. Whether that is news.
    pub(super) fn note_full(&self, chain: ChainId, now: Time) -> bool {
        let before = self.full.borrow_mut().insert(chain, now);
        before.is_none_or(|said| now.since(said) > FULL_FOR)
    }

    /// The targets of the chain have taken something.
    pub(super) fn note_taken(&self, chain: ChainId) {
        self.full.borrow_mut().remove(&chain);
    }

    pub(super) fn is_full(&self, chain: ChainId, now: Time) -> bool {
        self.full.borrow().get(&chain).is_some_and(|said| now.since(*said) <= FULL_FOR)
    }

    /// Takes bytes until the value is dropped.
    pub(super) fn hold(&self, chain: ChainId, bytes: usize) -> Held<'_> {
        self.take(chain, bytes);
        Held { room: self, chain, bytes }
    }

    pub(super) fn take(&self, chain: ChainId, bytes: usize) {
        self.total.set(self.total.get() + bytes);
        self.shares.borrow_mut().entry(chain).or_default().bytes += bytes;
    }

    pub(super) fn give_back(&self, chain: ChainId, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.total.set(self.total.get() - bytes);
        let mut shares = self.shares.borrow_mut();
        shares.get_mut(&chain).expect("it has taken them").bytes -= bytes;
        shares.retain(|_, share| {
            if self.is_free(share.bytes) {
                share.freed.ring(());
            }
            share.bytes > 0 || !share.freed.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use t3fs_runtime::glommio::run_alone;

    /// Goal: a chain that gives nothing back fills three quarters, and others still find room.
    #[test]
    fn a_dead_chain_leaves_room_for_others() {
        run_alone(vec![], async |shard| {
            let (room, dead, well) = (Room::new(800), ChainId(1), ChainId(2));
            let short = shard.cx().within(Duration::from_millis(5));
            while room.find(&short, dead, || {}).await.is_ok() {
                room.take(dead, 10);
            }
            assert_eq!(room.total(), 600);
            room.find(&shard.cx(), well, || {}).await.unwrap();
            room.take(well, 90);
            room.give_back(well, 90);
            room.give_back(dead, 600);
            assert_eq!((room.total(), room.shares.borrow().len()), (0, 0));
        })
        .unwrap();
    }
}
