//! A set of keys as disjoint half-open ranges.

use super::KeyRange;
use bytes::Bytes;
use core::ops::Bound::{self, Excluded, Included, Unbounded};
use std::collections::BTreeMap;

/// Bounds of a map's keys, compared as bytes.
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// `begin <= key < end`; `begin` must not be above `end`.
pub(super) fn within<'a>(begin: &'a [u8], end: &'a [u8]) -> Bounds<'a> {
    (Included(begin), Excluded(end))
}

/// `key <= last`.
fn up_to(last: &[u8]) -> Bounds<'_> {
    (Unbounded, Included(last))
}

/// Ranges neither overlap nor touch: what touches is merged.
#[derive(Clone, Debug, Default)]
pub(super) struct Spans {
    /// Begin to end.
    spans: BTreeMap<Bytes, Bytes>,
}

impl Spans {
    pub(super) fn insert(&mut self, range: KeyRange) {
        if range.is_empty() {
            return;
        }
        let KeyRange { mut begin, mut end } = range;
        if let Some((left, left_end)) = self.spans.range::<[u8], _>(up_to(&begin)).next_back()
            && *left_end >= begin
        {
            begin = left.clone();
        }
        loop {
            let touched = (Included(&begin[..]), Included(&end[..]));
            let Some((right, right_end)) = self.spans.range::<[u8], _>(touched).next() else {
                break;
            };
            let right = right.clone();
            end = end.max(right_end.clone());
            self.spans.remove(&right);
        }
        self.spans.insert(begin, end);
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        let left = self.spans.range::<[u8], _>(up_to(key)).next_back();
        left.is_some_and(|(_, end)| end[..] > *key)
    }

    /// The ranges that share a key with `range`, in order, uncut.
    pub(super) fn overlapping(&self, range: &KeyRange) -> Vec<KeyRange> {
        if range.is_empty() {
            return Vec::new();
        }
        let left = self.spans.range::<[u8], _>(up_to(&range.begin)).next_back();
        let left = left.filter(|(_, end)| **end > range.begin);
        let inside = (Excluded(&range.begin[..]), Excluded(&range.end[..]));
        left.into_iter()
            .chain(self.spans.range::<[u8], _>(inside))
            .map(|(begin, end)| KeyRange::new(begin.clone(), end.clone()))
            .collect()
    }

    pub(super) fn into_ranges(self) -> Vec<KeyRange> {
        self.spans.into_iter().map(|(begin, end)| KeyRange { begin, end }).collect()
    }
}

/// A version for every key, as steps: each holds from its key up to the next one.
#[derive(Debug, Default)]
pub(super) struct Steps {
    steps: BTreeMap<Bytes, u64>,
}

impl Steps {
    /// Gives the keys of `range` the value `value`, which is larger than all before it.
    pub(super) fn raise(&mut self, range: &KeyRange, value: u64) {
        if range.is_empty() {
            return;
        }
        let after = self.at(&range.end);
        let inside = self.steps.range::<[u8], _>(within(&range.begin, &range.end));
        for key in inside.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.steps.remove(&key);
        }
        self.steps.insert(range.begin.clone(), value);
        self.steps.insert(range.end.clone(), after);
    }

    /// The value of `key`; 0 if it never had one.
    pub(super) fn at(&self, key: &[u8]) -> u64 {
        self.steps.range::<[u8], _>(up_to(key)).next_back().map_or(0, |(_, value)| *value)
    }

    /// Whether a key of `range`, which is not empty, has a value above `bar`.
    pub(super) fn any_above(&self, range: &KeyRange, bar: u64) -> bool {
        let inside = (Excluded(&range.begin[..]), Excluded(&range.end[..]));
        self.at(&range.begin) > bar
            || self.steps.range::<[u8], _>(inside).any(|(_, value)| *value > bar)
    }
}

#[cfg(test)]
mod tests {
    //! Both structures against a plain array over one-byte keys.
    use super::*;
    use proptest::prelude::*;

    fn range(begin: u8, end: u8) -> KeyRange {
        KeyRange::new(vec![begin], vec![end])
    }

    proptest! {
        #[test]
        fn spans_hold_what_was_inserted(
            inserts in prop::collection::vec((0u8..40, 0u8..40), 0..20),
        ) {
            let (mut spans, mut model) = (Spans::default(), [false; 40]);
            for (begin, end) in inserts {
                spans.insert(range(begin, end));
                (begin..end).for_each(|key| model[usize::from(key)] = true);
            }
            for key in 0..40u8 {
                prop_assert_eq!(spans.contains(&[key]), model[usize::from(key)]);
                let overlap = !spans.overlapping(&range(key, key + 1)).is_empty();
                prop_assert_eq!(overlap, model[usize::from(key)]);
            }
            let ranges = spans.into_ranges();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].begin));
        }

        #[test]
        fn steps_hold_the_last_raise(raises in prop::collection::vec((0u8..40, 0u8..40), 0..20)) {
            let (mut steps, mut model) = (Steps::default(), [0u64; 41]);
            for (order, (begin, end)) in raises.into_iter().enumerate() {
                let value = order as u64 + 1;
                steps.raise(&range(begin, end), value);
                (begin..end).for_each(|key| model[usize::from(key)] = value);
            }
            for begin in 0..40u8 {
                prop_assert_eq!(steps.at(&[begin]), model[usize::from(begin)]);
                for end in begin + 1..=40 {
                    let max = *model[usize::from(begin)..usize::from(end)].iter().max().unwrap();
                    prop_assert!(!steps.any_above(&range(begin, end), max));
                    prop_assert!(max == 0 || steps.any_above(&range(begin, end), max - 1));
                }
            }
        }
    }
}
