//! What happens later: a queue of values by virtual time, first in first out at the same time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub(crate) struct Agenda<T> {
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    items: Vec<Option<T>>,
    free: Vec<u32>,
    next: u64,
}

impl<T> Agenda<T> {
    pub(crate) fn new() -> Agenda<T> {
        Agenda { heap: BinaryHeap::new(), items: Vec::new(), free: Vec::new(), next: 0 }
    }

    pub(crate) fn push(&mut self, at_us: u64, item: T) {
        let place = match self.free.pop() {
            Some(p) => {
                self.items[p as usize] = Some(item);
                p
            }
            None => {
                self.items.push(Some(item));
                self.items.len() as u32 - 1
            }
        };
        self.heap.push(Reverse((at_us, self.next, place)));
        self.next += 1;
    }

    pub(crate) fn first_at(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, T)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        Some((at, self.items[place as usize].take().expect("a place in the heap is filled")))
    }

    /// Everything, unordered, for dropping outside of any borrow.
    pub(crate) fn take_all(&mut self) -> Vec<Option<T>> {
        self.heap.clear();
        self.free.clear();
        std::mem::take(&mut self.items)
    }
}
