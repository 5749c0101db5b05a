//! Extents that somebody still reads.

use std::collections::{BTreeMap, BTreeSet};

use t3fs_runtime::Slot;

use super::layout::Extent;

/// Reads in flight, by extent and in the order they were planned.
#[derive(Default)]
pub struct Pins {
    held: BTreeSet<(Extent, u64)>,
    next: u64,
    waiting: BTreeMap<Extent, Vec<(u64, Slot<()>)>>,
    /// Extents to free when their last pin goes.
    doomed: BTreeSet<Extent>,
}

impl Pins {
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub fn pin(&mut self, e: Extent) -> u64 {
        self.next += 1;
        self.held.insert((e, self.next));
        self.next
    }

    /// Returns the extent when it was only kept for this reader.
    #[must_use]
    pub fn unpin(&mut self, e: Extent, pin: u64) -> Option<Extent> {
        assert!(self.held.remove(&(e, pin)));
        if let Some(waiting) = self.waiting.get_mut(&e) {
            let oldest = self.held.range((e, 0)..=(e, u64::MAX)).next().map_or(u64::MAX, |p| p.1);
            waiting.retain(|(limit, slot)| {
                let wait = oldest <= *limit;
                if !wait {
                    slot.fill(());
                }
                wait
            });
            if waiting.is_empty() {
                self.waiting.remove(&e);
            }
        }
        (!self.pinned(e) && self.doomed.remove(&e)).then_some(e)
    }

    pub fn pinned(&self, e: Extent) -> bool {
        self.held.range((e, 0)..=(e, u64::MAX)).next().is_some()
    }

    /// Fills when all pins taken before this call are gone; `None`: there are none.
    pub fn drained(&mut self, e: Extent) -> Option<Slot<()>> {
        if !self.pinned(e) {
            return None;
        }
        let slot = Slot::new();
        self.waiting.entry(e).or_default().push((self.next, slot.clone()));
        Some(slot)
    }

    /// Whether the extent can be freed now; otherwise [`Pins::unpin`] gives it back later.
    pub fn doom(&mut self, e: Extent) -> bool {
        if self.pinned(e) {
            self.doomed.insert(e);
            return false;
        }
        true
    }
}
