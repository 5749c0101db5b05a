//! Which parts of a file are stored: holes for lseek(2), and how much a sparse file takes.
//!
//! Storage keeps chunks, so a hole is a chunk that is not there, or what lies behind the end of a
//! chunk. Zeros that were written, and gaps within a chunk, count as data, which POSIX allows.

use std::collections::BTreeMap;

use t3fs_runtime::{Cx, join_all};

use super::{Client, FsError};
use crate::proto::ids::InodeId;
use crate::proto::meta::{Attr, Layout};
use crate::proto::storage::Extents;

/// Chunks asked of one chain at a time.
const PAGE: u32 = 1024;

/// What lseek(2) looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    Data,
    Hole,
}

/// Some of a file's chunks, from one index on.
struct Page {
    /// Length by index.
    chunks: BTreeMap<u32, u32>,
    /// From this index on it is not known what there is; `None`: all is known.
    until: Option<u32>,
}

impl Client {
    /// Bytes that storage keeps for a file, one replica counted.
    pub async fn stored(&self, cx: &Cx, attr: &Attr) -> Result<u64, FsError> {
        let Some(layout) = &attr.layout else { return Ok(0) };
        let all = self.ask_chains(cx, attr.inode, layout, 0, 1).await?;
        Ok(all.iter().map(|e| e.stored).sum())
    }

    /// The next offset, from `offset` on, at which there is data or a hole. The end of the file is
    /// a hole; `None`: `offset` is behind it, or no data follows.
    pub async fn seek(
        &self,
        cx: &Cx,
        inode: InodeId,
        offset: u64,
        what: Seek,
    ) -> Result<Option<u64>, FsError> {
        if let Some(file) = self.file(inode) {
            let _inside = file.gate.share(cx).await?;
            self.push_all(cx, &file).await?;
        }
        let attr = self.getattr(cx, inode).await?;
        let (length, Some(layout)) = (attr.length, &attr.layout) else {
            return Err(FsError::InvalidArgument);
        };
        let size = u64::from(layout.chunk_size);
        let mut at = offset;
        while at < length {
            let from = (at / size) as u32;
            let page = self.page(cx, inode, layout, from).await?;
            let known = page.until.map_or(length, |i| u64::from(i) * size).min(length);
            match next_in(&page.chunks, size, at, known, what) {
                Some(found) => return Ok(Some(found)),
                None if known <= at => {
                    return Err(FsError::Io("storage lists chunks without end".into()));
                }
                None => at = known,
            }
        }
        Ok((what == Seek::Hole && offset < length).then_some(length))
    }

    async fn ask_chains(
        &self,
        cx: &Cx,
        inode: InodeId,
        layout: &Layout,
        from: u32,
        limit: u32,
    ) -> Result<Vec<Extents>, FsError> {
        let chains = self.0.cluster.chains_of(cx, layout).await?;
        let asks = chains.into_iter().map(|c| self.0.cluster.extents(cx, c, inode, from, limit));
        join_all(asks).await.into_iter().collect()
    }

    async fn page(
        &self,
        cx: &Cx,
        inode: InodeId,
        layout: &Layout,
        from: u32,
    ) -> Result<Page, FsError> {
        let (mut chunks, mut until) = (BTreeMap::new(), None::<u32>);
        for e in self.ask_chains(cx, inode, layout, from, PAGE).await? {
            if e.more {
                let next = e.chunks.last().map_or(from, |(i, _)| i + 1);
                until = Some(until.map_or(next, |u| u.min(next)));
            }
            chunks.extend(e.chunks);
        }
        Ok(Page { chunks, until })
    }
}

/// The next data or hole in `[at, known)`; `None`: there is none.
fn next_in(chunks: &BTreeMap<u32, u32>, size: u64, at: u64, known: u64, what: Seek) -> Option<u64> {
    let mut at = at;
    while at < known {
        let index = (at / size) as u32;
        let start = u64::from(index) * size;
        let end = chunks.get(&index).map_or(start, |len| start + u64::from(*len));
        let found = match what {
            Seek::Data if at < end => Some(at),
            Seek::Hole if at >= end => Some(at),
            Seek::Hole if end < start + size => Some(end),
            _ => None,
        };
        if let Some(found) = found {
            return (found < known).then_some(found);
        }
        at = match what {
            Seek::Hole => start + size,
            Seek::Data => match chunks.range(index + 1..).next() {
                Some((next, _)) => u64::from(*next) * size,
                None => return None,
            },
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: data and holes are where chunks are and are not. Method: chunks 1 (whole), 2 (half)
    /// and 5 of a file of six and a half chunks.
    #[test]
    fn holes_are_where_no_chunk_is() {
        let chunks = BTreeMap::from([(1, 100), (2, 50), (5, 100)]);
        let next = |at, what| next_in(&chunks, 100, at, 650, what);
        assert_eq!([next(0, Seek::Data), next(0, Seek::Hole)], [Some(100), Some(0)]);
        assert_eq!([next(130, Seek::Data), next(130, Seek::Hole)], [Some(130), Some(250)]);
        assert_eq!([next(260, Seek::Data), next(260, Seek::Hole)], [Some(500), Some(260)]);
        assert_eq!([next(600, Seek::Data), next(510, Seek::Hole)], [None, Some(600)]);
    }
}
