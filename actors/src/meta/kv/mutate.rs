//! From the mutations of one commit to the batch that the store applies.

use super::spans::within;
use super::store::{RangeLimit, Snapshot, Store, StoreError};
use super::{
    KeyRange, KvError, Mutation, RANGE_BYTES_MAX, RANGE_ROWS_MAX, Version, Versionstamp, key_after,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Most keys that the range clears of one commit may remove; each is removed by itself.
pub const CLEARED_KEYS_MAX: usize = 100_000;
/// Page in which the keys of a cleared range are listed.
const CLEAR_PAGE: RangeLimit = RangeLimit { rows: 1000, bytes: 1 << 20 };
const _: () = assert!(CLEAR_PAGE.rows <= RANGE_ROWS_MAX && CLEAR_PAGE.bytes <= RANGE_BYTES_MAX);

/// What a commit does to the store and to those who read.
#[derive(Default)]
pub(super) struct Effects {
    /// Every key once, with its value after the commit.
    pub(super) batch: BTreeMap<Bytes, Option<Bytes>>,
    /// Keys and ranges that others' reads conflict with.
    pub(super) keys: Vec<Bytes>,
    pub(super) ranges: Vec<KeyRange>,
}

/// Works out `mutations`, which have been checked, as of the commit `version`, on what `store`
/// holds.
pub(super) fn effects(
    store: &dyn Store,
    version: Version,
    mutations: Vec<Mutation>,
) -> Result<Effects, KvError> {
    let mut base = Base { store, snapshot: None };
    let stamp = Versionstamp::new(version, 0);
    let mut effects = Effects::default();
    let mut cleared = 0;
    for mutation in mutations {
        let (key, value) = match mutation {
            Mutation::Set { key, value } => (key, Some(value)),
            Mutation::Clear { key } => (key, None),
            Mutation::SetVersionstampedKey { key, offset, value } => {
                (stamped(&key, offset, stamp), Some(value))
            }
            Mutation::SetVersionstampedValue { key, value, offset } => {
                let value = stamped(&value, offset, stamp);
                (key, Some(value))
            }
            Mutation::Add { key, operand } => {
                let before = match effects.batch.get(&key) {
                    Some(value) => value.clone(),
                    None => base.snapshot().get(&key).map_err(failed)?,
                };
                (key, Some(added(before.as_deref(), operand)))
            }
            Mutation::ClearRange { begin, end } => {
                let range = KeyRange { begin, end };
                if !range.is_empty() {
                    cleared += effects.clear_range(base.snapshot(), &range, cleared)?;
                    effects.ranges.push(range);
                }
                continue;
            }
        };
        effects.keys.push(key.clone());
        effects.batch.insert(key, value);
    }
    Ok(effects)
}

impl Effects {
    /// Removes the keys of `range`, in the store and in the batch so far; returns how many were in
    /// the store. `cleared` were removed before.
    fn clear_range(
        &mut self,
        base: &dyn Snapshot,
        range: &KeyRange,
        cleared: usize,
    ) -> Result<usize, KvError> {
        for (_, value) in self.batch.range_mut::<[u8], _>(within(&range.begin, &range.end)) {
            *value = None;
        }
        let (mut begin, mut count) = (range.begin.clone(), 0);
        loop {
            let page = base.range(&begin, &range.end, CLEAR_PAGE, false).map_err(failed)?;
            count += page.rows.len();
            if cleared + count > CLEARED_KEYS_MAX {
                return Err(KvError::TooLarge {
                    what: "cleared ranges in keys".into(),
                    size: (cleared + count) as u64,
                    max: CLEARED_KEYS_MAX as u64,
                });
            }
            if let Some((last, _)) = page.rows.last() {
                begin = key_after(last);
            }
            self.batch.extend(page.rows.into_iter().map(|(key, _)| (key, None)));
            if !page.more {
                return Ok(count);
            }
        }
    }
}

/// What the store holds before the commit; a snapshot is taken only if a mutation needs it.
struct Base<'a> {
    store: &'a dyn Store,
    snapshot: Option<Box<dyn Snapshot>>,
}

impl Base<'_> {
    fn snapshot(&mut self) -> &dyn Snapshot {
        &**self.snapshot.get_or_insert_with(|| self.store.snapshot())
    }
}

/// The sum that [`Mutation::Add`] leaves.
pub(super) fn added(before: Option<&[u8]>, operand: u64) -> Bytes {
    let mut number = [0; 8];
    let before = before.unwrap_or_default();
    let kept = before.len().min(8);
    number[..kept].copy_from_slice(&before[..kept]);
    let sum = u64::from_le_bytes(number).wrapping_add(operand);
    Bytes::copy_from_slice(&sum.to_le_bytes())
}

fn stamped(template: &[u8], offset: u32, stamp: Versionstamp) -> Bytes {
    let offset = offset as usize;
    let mut bytes = template.to_vec();
    bytes[offset..offset + Versionstamp::BYTES].copy_from_slice(&stamp.0);
    bytes.into()
}

pub(super) fn failed(error: StoreError) -> KvError {
    KvError::Store(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_extends_cuts_and_wraps() {
        assert_eq!(added(None, 7)[..], 7u64.to_le_bytes());
        assert_eq!(added(Some(&[1]), 7)[..], 8u64.to_le_bytes());
        assert_eq!(added(Some(&[1, 0, 0, 0, 0, 0, 0, 0, 9]), 7)[..], 8u64.to_le_bytes());
        assert_eq!(added(Some(&[0xff; 8]), 1)[..], 0u64.to_le_bytes());
    }
}
