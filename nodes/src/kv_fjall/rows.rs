//! A cache of single rows in front of fjall, which takes several microseconds to find one.
//!
//! A cached row is what the store holds now. It also holds the number of the batch since which that
//! is known: a snapshot may use the row if it was taken at that batch or later. Writing a row
//! replaces what is cached; reading one fills the cache only if nothing was applied since the
//! snapshot was taken, because only then is what was read known to be what the store holds now.
//!
//! Bounded: rows live in a young and an old map. A row that is used moves to the young one; when
//! that has half of the limit, it becomes the old one and the rows of the old one are forgotten.

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};

/// What a row takes beside its bytes: map slot and buffer headers, roughly.
const ROW_BYTES: usize = 160;

pub(super) struct Rows {
    young: HashMap<Bytes, Row>,
    old: HashMap<Bytes, Row>,
    young_bytes: usize,
    half_bytes: usize,
    /// Number of the last batch.
    applied: u64,
}

struct Row {
    value: Option<Bytes>,
    since: u64,
}

impl Rows {
    /// At most about `bytes` of rows, and one row more.
    pub(super) fn new(bytes: usize) -> Self {
        Rows {
            young: HashMap::new(),
            old: HashMap::new(),
            young_bytes: 0,
            half_bytes: bytes / 2,
            applied: 0,
        }
    }

    /// The number of batches applied: the number of a snapshot taken now.
    pub(super) fn applied(&self) -> u64 {
        self.applied
    }

    /// Takes note of a batch that the store has applied.
    pub(super) fn apply(&mut self, batch: &[(Bytes, Option<Bytes>)]) {
        self.applied += 1;
        for (key, value) in batch {
            if self.old.contains_key(key) || self.young.contains_key(key) {
                let value = value.as_deref().map(Bytes::copy_from_slice);
                self.put(key, Row { value, since: self.applied });
            }
        }
    }

    /// What the snapshot with number `snapshot` holds, if known.
    pub(super) fn get(&mut self, key: &[u8], snapshot: u64) -> Option<Option<Bytes>> {
        if let Some(row) = self.young.get(key) {
            return (row.since <= snapshot).then(|| row.value.clone());
        }
        let (key, row) = self.old.remove_entry(key)?;
        let found = (row.since <= snapshot).then(|| row.value.clone());
        self.put(&key, row);
        found
    }

    /// Takes note of what the snapshot with number `snapshot` holds.
    pub(super) fn fetched(&mut self, key: &[u8], snapshot: u64, value: &Option<Bytes>) {
        if snapshot == self.applied {
            self.put(key, Row { value: value.clone(), since: snapshot });
        }
    }

    fn put(&mut self, key: &[u8], row: Row) {
        self.old.remove(key);
        let size = |row: &Row| row.value.as_ref().map_or(0, Bytes::len);
        self.young_bytes += size(&row);
        if let Some(held) = self.young.get_mut(key) {
            self.young_bytes -= size(held);
            *held = row;
        } else {
            self.young_bytes += key.len() + ROW_BYTES;
            self.young.insert(Bytes::copy_from_slice(key), row);
        }
        if self.young_bytes > self.half_bytes {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: whatever the cache answers is what the snapshot holds. Method: random batches and
    //! reads at random snapshots, against all contents that ever were.
    use super::*;
    use std::collections::BTreeMap;

    fn history(seed: u64, limit: usize) -> (u64, usize) {
        let mut state = seed;
        let mut roll = |sides: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % sides
        };
        let mut rows = Rows::new(limit);
        let mut contents: Vec<BTreeMap<Bytes, Bytes>> = vec![BTreeMap::new()];
        let (mut hits, mut most) = (0, 0);
        for step in 0..4000u64 {
            let key = Bytes::from(format!("{}", roll(40)));
            if roll(4) == 0 {
                let value = (roll(3) > 0).then(|| Bytes::from(step.to_string()));
                let mut content = contents.last().unwrap().clone();
                match &value {
                    Some(value) => content.insert(key.clone(), value.clone()),
                    None => content.remove(&key),
                };
                contents.push(content);
                rows.apply(&[(key, value)]);
            } else {
                let back = if roll(2) == 0 { 0 } else { roll(contents.len() as u64) };
                let snapshot = contents.len() as u64 - 1 - back;
                let held = contents[snapshot as usize].get(&key).cloned();
                match rows.get(&key, snapshot) {
                    Some(found) => {
                        assert_eq!(found, held, "seed {seed}, step {step}, snapshot {snapshot}");
                        hits += 1;
                    }
                    None => rows.fetched(&key, snapshot, &held),
                }
            }
            most = most.max(rows.young.len() + rows.old.len());
        }
        (hits, most)
    }

    #[test]
    fn answers_are_what_the_snapshot_holds() {
        for seed in 0..20 {
            let (hits, _) = history(seed, 1 << 20);
            assert!(hits > 800, "{hits} hits");
            let (hits, most) = history(seed, 10 * ROW_BYTES);
            assert!(hits > 50 && most <= 11, "{hits} hits, {most} rows");
        }
    }
}
