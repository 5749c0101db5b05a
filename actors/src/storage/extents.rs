//! What a file has on this target: the chunks that hold bytes, and which files there are at all.
//!
//! Why [`Extents`] lacks nothing that was acknowledged before the question came in:
//! 1. A serving target that holds its lease since then is in the chain, in the version that the
//!    question names, and was when the question came in.
//! 2. An update is acknowledged when every target that takes writes has stored it. So this target
//!    has it in its index, committed or pending; both are counted.
//! 3. The walk looks at each chunk after the question came in. A chunk it finds shorter was cut by
//!    a later update.
//!
//! The walk lets others go first between slices, so a large file costs no pause of the shard, and
//! the answer is of no single moment; the lease is looked at again behind it.

use core::time::Duration;

use t3fs_runtime::{Cx, Handle, Me};

use super::engine::Engine;
use super::target::{LIST_MAX, Target};
use crate::proto::ids::{ChunkId, InodeId};
use crate::proto::storage::{Extents, FileExtents, ListInodes, StorageError};

/// Rows looked at between two pauses.
const SLICE: usize = 4096;

/// Goes on with `extents` over one slice of the file's rows, from index `at` on. `Some`: where the
/// next slice begins.
fn walk(
    engine: &Engine,
    m: &FileExtents,
    at: u32,
    slice: usize,
    extents: &mut Extents,
) -> Option<u32> {
    let limit = m.limit.clamp(1, LIST_MAX) as usize;
    let rows = engine.lengths(ChunkId { inode: m.inode, index: at }, slice);
    for (chunk, len) in &rows {
        if chunk.inode != m.inode {
            return None;
        }
        if *len == 0 {
            continue;
        }
        extents.stored += u64::from(*len);
        extents.last = Some((chunk.index, *len));
        if extents.chunks.len() < limit {
            extents.chunks.push((chunk.index, *len));
        } else {
            extents.more = true;
        }
    }
    let last = rows.last().filter(|_| rows.len() == slice)?;
    last.0.index.checked_add(1)
}

/// Adds to `found` the inodes with bytes from `from` on, until there are `limit`, or `steps` looks
/// at the index were made. `Some`: where to go on. A file costs one look, whatever its size; rows
/// without bytes cost one look for each run of up to 64.
fn inodes(
    engine: &Engine,
    mut from: ChunkId,
    limit: usize,
    steps: usize,
    found: &mut Vec<InodeId>,
) -> Option<ChunkId> {
    let mut rows = 1;
    for _ in 0..steps {
        if found.len() == limit {
            return None;
        }
        let page = engine.lengths(from, rows);
        let full = page.len() == rows;
        match page.iter().find(|(_, len)| *len > 0) {
            Some((chunk, _)) => {
                found.push(chunk.inode);
                from = ChunkId { inode: InodeId(chunk.inode.0.checked_add(1)?), index: 0 };
                rows = 1;
            }
            // Rows of what was removed: there may be many of them.
            None => {
                from = page.last().filter(|_| full)?.0.next()?;
                rows = (rows * 2).min(64);
            }
        }
    }
    Some(from)
}

impl Handle<FileExtents> for Target {
    async fn handle(me: &Me<Self>, m: FileExtents, cx: &Cx) -> Result<Extents, StorageError> {
        let start = cx.now();
        if let Err(StorageError::BehindChain { .. } | StorageError::NotReady) =
            me.with(|s| s.core.member.admit_read(m.chain_version))
        {
            Self::fetch_routing(me, true, cx).await;
        }
        let engine = me.with(|s| {
            s.core.member.admit_read(m.chain_version)?;
            s.leased(start)?;
            Ok::<_, StorageError>(s.engine.clone())
        })?;
        let (mut extents, mut at) = (Extents::default(), m.from);
        while let Some(next) = walk(&engine, &m, at, SLICE, &mut extents) {
            at = next;
            cx.sleep(Duration::ZERO).await;
        }
        let now = cx.now();
        me.with(|s| {
            s.core.member.admit_read(m.chain_version)?;
            s.leased_since(start, now)
        })?;
        Ok(extents)
    }
}

impl Handle<ListInodes> for Target {
    async fn handle(me: &Me<Self>, m: ListInodes, cx: &Cx) -> Result<Vec<InodeId>, StorageError> {
        let serving = me.with(|s| {
            let serves = s.core.member.serving();
            serves.then(|| s.engine.clone()).ok_or(StorageError::WrongTarget)
        });
        let (engine, limit) = (serving?, m.limit.clamp(1, LIST_MAX) as usize);
        let (mut found, mut from) = (Vec::new(), ChunkId { inode: m.from, index: 0 });
        while let Some(next) = inodes(&engine, from, limit, SLICE, &mut found) {
            from = next;
            cx.sleep(Duration::ZERO).await;
        }
        Ok(found)
    }
}
