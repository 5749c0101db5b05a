//! The conflict window of the resolver: which commit wrote what lately.
//!
//! Recent writes are kept as *generations*, oldest first, each covering a run of commits. Within
//! one, the last writer of single keys is an ordered map and that of ranges a step function, so a
//! key costs O(log n). A read looks only into generations newer than its read version, which for
//! most transactions is the newest. Forgetting drops a whole generation, oldest first, by age or
//! when memory runs out; transactions that began before it are too old from then on.

use super::spans::{Steps, within};
use super::{KeyRange, Version, WINDOW_US};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Memory that the conflict window may take, in bytes.
pub const HISTORY_BYTES_MAX: usize = 64 << 20;
/// A generation is closed at this many bytes,
const GENERATION_BYTES: usize = HISTORY_BYTES_MAX / 32;
/// or after this long, so that what is forgotten late is at most this late.
const GENERATION_US: u64 = WINDOW_US / 8;
/// What a key in a map takes beside its bytes: a fair guess of map node and buffer headers.
const ENTRY_BYTES: usize = 96;

pub(super) struct Conflicts {
    generations: VecDeque<Generation>,
    bytes: usize,
    /// All writes after this version are known, those before perhaps not.
    oldest: Version,
}

struct Generation {
    keys: BTreeMap<Bytes, Version>,
    ranges: Steps,
    bytes: usize,
    first_us: u64,
    last_us: u64,
    last: Version,
}

impl Conflicts {
    /// A window that begins at `oldest`.
    pub(super) fn new(oldest: Version) -> Self {
        Conflicts { generations: VecDeque::new(), bytes: 0, oldest }
    }

    /// Reads below this version are too old to be judged.
    pub(super) fn oldest(&self) -> Version {
        self.oldest
    }

    /// Records the writes of the commit `version`, the largest so far.
    pub(super) fn record(
        &mut self,
        now_us: u64,
        version: Version,
        keys: Vec<Bytes>,
        ranges: &[KeyRange],
    ) {
        if self.generations.back().is_none_or(|newest| newest.is_closed(now_us)) {
            self.generations.push_back(Generation::new(now_us));
        }
        let newest = self.generations.back_mut().expect("just made");
        self.bytes += newest.record(now_us, version, keys, ranges);
        while self.bytes > HISTORY_BYTES_MAX && self.generations.len() > 1 {
            self.forget_oldest();
        }
    }

    /// Forgets generations whose last commit is older than the window.
    pub(super) fn expire(&mut self, now_us: u64) {
        while self.generations.front().is_some_and(|g| g.last_us + WINDOW_US < now_us) {
            self.forget_oldest();
        }
    }

    /// Whether one of the keys or ranges was written after `read`, which is not below `oldest`.
    pub(super) fn hit(&self, read: Version, keys: &[Bytes], ranges: &[KeyRange]) -> bool {
        assert!(read >= self.oldest);
        let newer = self.generations.iter().rev().take_while(|generation| generation.last > read);
        newer.into_iter().any(|generation| {
            keys.iter().any(|key| generation.wrote_key(key, read))
                || ranges.iter().any(|range| generation.wrote_in(range, read))
        })
    }

    fn forget_oldest(&mut self) {
        let forgotten = self.generations.pop_front().expect("called with one");
        self.bytes -= forgotten.bytes;
        self.oldest = forgotten.last;
    }
}

impl Generation {
    fn new(now_us: u64) -> Self {
        Generation {
            keys: BTreeMap::new(),
            ranges: Steps::default(),
            bytes: 0,
            first_us: now_us,
            last_us: now_us,
            last: Version(0),
        }
    }

    fn is_closed(&self, now_us: u64) -> bool {
        self.bytes >= GENERATION_BYTES || now_us.saturating_sub(self.first_us) >= GENERATION_US
    }

    fn record(&mut self, now_us: u64, at: Version, keys: Vec<Bytes>, ranges: &[KeyRange]) -> usize {
        assert!(at > self.last);
        let mut grown = 0;
        for key in keys {
            let bytes = key.len() + ENTRY_BYTES;
            if self.keys.insert(key, at).is_none() {
                grown += bytes;
            }
        }
        for range in ranges {
            self.ranges.raise(range, at.0);
            // An upper bound: a range written again replaces its steps.
            grown += range.begin.len() + range.end.len() + 2 * ENTRY_BYTES;
        }
        self.bytes += grown;
        self.last_us = now_us;
        self.last = at;
        grown
    }

    fn wrote_key(&self, key: &[u8], read: Version) -> bool {
        self.keys.get(key).is_some_and(|at| *at > read) || self.ranges.at(key) > read.0
    }

    fn wrote_in(&self, range: &KeyRange, read: Version) -> bool {
        if range.is_empty() {
            return false;
        }
        let bounds = within(&range.begin, &range.end);
        self.keys.range::<[u8], _>(bounds).any(|(_, at)| *at > read)
            || self.ranges.any_above(range, read.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    #[test]
    fn only_writes_after_the_read_version_hit() {
        let mut window = Conflicts::new(Version(10));
        window.record(0, Version(11), vec![key("a")], &[]);
        window.record(0, Version(12), vec![], &[KeyRange::new("m", "p")]);
        assert!(window.hit(Version(10), &[key("a")], &[]));
        assert!(!window.hit(Version(11), &[key("a")], &[]));
        assert!(window.hit(Version(11), &[key("m")], &[]));
        assert!(!window.hit(Version(11), &[key("p")], &[]));
        assert!(window.hit(Version(11), &[], &[KeyRange::new("n", "z")]));
        assert!(!window.hit(Version(12), &[key("n")], &[KeyRange::new("", "z")]));
    }

    #[test]
    fn age_and_size_move_the_oldest_version() {
        let mut window = Conflicts::new(Version(0));
        window.record(0, Version(1), vec![key("a")], &[]);
        window.record(GENERATION_US, Version(2), vec![key("b")], &[]);
        window.expire(WINDOW_US);
        assert_eq!(window.oldest(), Version(0));
        window.expire(WINDOW_US + 1);
        assert_eq!(window.oldest(), Version(1));
        window.expire(WINDOW_US * 3);
        assert_eq!((window.oldest(), window.bytes), (Version(2), 0));

        let big = |at: u64| Bytes::from([&at.to_be_bytes()[..], &[0; 9000]].concat());
        for at in 3..20_000 {
            window.record(0, Version(at), vec![big(at)], &[]);
        }
        assert!(window.oldest() > Version(10_000));
        assert!(window.bytes <= HISTORY_BYTES_MAX && window.bytes > HISTORY_BYTES_MAX / 2);
    }

    proptest! {
        /// Against a list of all writes, over several generations.
        #[test]
        fn window_agrees_with_a_list_of_writes(
            writes in prop::collection::vec((0u8..30, 0u8..30, any::<bool>()), 1..60),
            reads in prop::collection::vec((0u64..60, 0u8..30, 0u8..30), 1..30),
        ) {
            let mut window = Conflicts::new(Version(0));
            let mut list = Vec::new();
            for (order, (a, b, point)) in writes.iter().enumerate() {
                let (at, now_us) = (order as u64 + 1, order as u64 * GENERATION_US / 10);
                let end = if *point { a + 1 } else { *b };
                list.push((at, *a..end));
                if *point {
                    window.record(now_us, Version(at), vec![Bytes::from(vec![*a])], &[]);
                } else {
                    let range = KeyRange::new(vec![*a], vec![*b]);
                    window.record(now_us, Version(at), vec![], &[range]);
                }
            }
            for (read, a, b) in reads {
                let newer = || list.iter().filter(|(at, _)| *at > read);
                let hit = newer().any(|(_, range)| range.contains(&a));
                let key = Bytes::from(vec![a]);
                prop_assert_eq!(window.hit(Version(read), &[key], &[]), hit);
                let hit = newer().any(|(_, w)| (a..b).any(|key| w.contains(&key)));
                let range = KeyRange::new(vec![a], vec![b]);
                prop_assert_eq!(window.hit(Version(read), &[], &[range]), hit);
            }
        }
    }
}
