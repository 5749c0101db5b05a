//! A set of slot numbers with its lowest member found in a bounded number of steps.

/// 64-ary summary levels over a bitmap: a bit of level n+1 is set when its word of level n is not
/// empty. Every operation touches one word a level (at most 6 for 2^32 slots).
#[derive(Default)]
pub struct Bitmap {
    levels: Vec<Vec<u64>>,
    len: u64,
}

impl Bitmap {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn contains(&self, slot: u32) -> bool {
        let word = self.levels.first().and_then(|l| l.get(slot as usize / 64));
        word.is_some_and(|w| w >> (slot % 64) & 1 == 1)
    }

    /// Returns whether it was new.
    pub fn insert(&mut self, slot: u32) -> bool {
        self.reserve(slot);
        if self.contains(slot) {
            return false;
        }
        let mut at = slot as usize;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            let was = *word;
            *word |= 1 << (at % 64);
            if was != 0 {
                break;
            }
            at /= 64;
        }
        self.len += 1;
        true
    }

    /// Returns whether it was there.
    pub fn remove(&mut self, slot: u32) -> bool {
        if !self.contains(slot) {
            return false;
        }
        let mut at = slot as usize;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            *word &= !(1 << (at % 64));
            if *word != 0 {
                break;
            }
            at /= 64;
        }
        self.len -= 1;
        true
    }

    /// The lowest member.
    pub fn first(&self) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let mut at = 0;
        for level in self.levels.iter().rev() {
            at = at * 64 + level[at].trailing_zeros() as usize;
        }
        Some(at as u32)
    }

    /// Makes room for a slot in all levels, up to one of a single word.
    fn reserve(&mut self, slot: u32) {
        let mut words = slot as usize / 64 + 1;
        let mut n = 0;
        loop {
            if self.levels.len() == n {
                // A new top level: its one bit stands for what is below, so far one word.
                let below = n.checked_sub(1).map(|b| self.levels[b][0] != 0);
                self.levels.push(vec![u64::from(below.unwrap_or(false))]);
            }
            let level = &mut self.levels[n];
            if level.len() < words {
                level.resize(words.next_power_of_two(), 0);
            }
            if level.len() == 1 {
                break;
            }
            words = level.len().div_ceil(64);
            n += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Goal: it is a set. Method: random steps beside a `BTreeSet`, over growing ranges.
    #[test]
    fn behaves_like_a_set() {
        let mut seed = 1u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 33
        };
        for range in [10, 64, 65, 5000, 300_000, 20_000_000] {
            let (mut map, mut model) = (Bitmap::default(), BTreeSet::new());
            for _ in 0..5000 {
                let slot = (next() % range) as u32;
                match next() % 3 {
                    0 => assert_eq!(map.insert(slot), model.insert(slot)),
                    1 => assert_eq!(map.remove(slot), model.remove(&slot)),
                    _ => {
                        if let Some(first) = map.first() {
                            assert_eq!(map.remove(first), model.remove(&first));
                        }
                    }
                }
                assert_eq!(map.contains(slot), model.contains(&slot));
                assert_eq!(map.first(), model.first().copied());
                assert_eq!(map.len(), model.len() as u64);
            }
        }
    }
}
