//! Checksum pages kept in memory, within a budget (second chance, one hand).

use std::cell::Cell;
use std::collections::BTreeMap;

use super::layout::{Extent, PAGE_GRANULES};
use super::sums::Page;

/// Memory that one page is counted with.
const COST: usize = PAGE_GRANULES as usize * 4 + 128;

type Key = (Extent, u32);

pub struct PageCache {
    pages: BTreeMap<Key, (Page, Cell<bool>)>,
    max: usize,
    hand: Option<Key>,
}

impl PageCache {
    pub fn new(bytes: usize) -> PageCache {
        PageCache { pages: BTreeMap::new(), max: bytes / COST, hand: None }
    }

    pub fn get(&self, e: Extent, page: u32) -> Option<Page> {
        let (p, used) = self.pages.get(&(e, page))?;
        used.set(true);
        Some(Page::clone(p))
    }

    pub fn insert(&mut self, e: Extent, page: u32, p: Page) {
        if self.max == 0 {
            return;
        }
        self.pages.insert((e, page), (p, Cell::new(false)));
        while self.pages.len() > self.max {
            self.evict();
        }
    }

    /// The extent changes hands.
    pub fn forget(&mut self, e: Extent) {
        for page in 0..e.class.pages() {
            self.pages.remove(&(e, page));
        }
    }

    fn evict(&mut self) {
        loop {
            let from = self.hand.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let next = self.pages.range((from, std::ops::Bound::Unbounded)).next();
            let Some((&key, (_, used))) = next else {
                self.hand = None;
                continue;
            };
            self.hand = Some(key);
            if !used.replace(false) {
                self.pages.remove(&key);
                return;
            }
        }
    }
}
