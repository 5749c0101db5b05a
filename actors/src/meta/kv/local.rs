//! A transaction over a resolver at hand: reads are answered on the spot, nothing waits. For tests.

use super::{Committed, KeyRange, KvError, Resolver, TxnBuffer, Version};
use bytes::Bytes;

/// A transaction whose reads are answered on the spot; for tests.
pub struct LocalTxn {
    pub version: Version,
    pub buffer: TxnBuffer,
}

impl LocalTxn {
    pub fn begin(kv: &mut Resolver, now_us: u64) -> Self {
        let version = kv.read_version(now_us).expect("the store runs");
        LocalTxn { version, buffer: TxnBuffer::new() }
    }

    pub fn get(&mut self, kv: &Resolver, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let value = self.snapshot_get(kv, key)?;
        self.buffer.record_get(&Bytes::copy_from_slice(key));
        Ok(value)
    }

    pub fn snapshot_get(&self, kv: &Resolver, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        if let Some(local) = self.buffer.local_get(key) {
            return Ok(local);
        }
        Ok(self.buffer.merge_get(key, kv.get(self.version, key)?))
    }

    /// The first `limit` rows of `range` (all for 0), page by page.
    pub fn range(
        &mut self,
        kv: &Resolver,
        range: &KeyRange,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        let (mut left, mut rows) = (range.clone(), Vec::new());
        loop {
            let want = if limit == 0 { 0 } else { limit - rows.len() };
            let page = kv.range(self.version, &left.begin, &left.end, want, reverse)?;
            let page = self.buffer.merge_range(&left, page, want, reverse);
            self.buffer.add_read_conflict_range(&page.covered);
            rows.extend(page.rows);
            if !page.more || (limit > 0 && rows.len() == limit) {
                return Ok(rows);
            }
            if reverse {
                left.end = page.covered.begin;
            } else {
                left.begin = page.covered.end;
            }
        }
    }

    pub fn commit(self, kv: &mut Resolver, now_us: u64) -> Result<Committed, KvError> {
        kv.commit(now_us, self.buffer.into_commit(self.version))
    }
}
