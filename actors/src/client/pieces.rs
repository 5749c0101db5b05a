//! Bytes to write: where they go, and how they fall into chunks.

use bytes::Bytes;

use super::FsError;

/// Where a write goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    Offset(u64),
    /// Behind whatever anybody has written (O_APPEND).
    End,
}

/// What was written of a write, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    pub offset: u64,
    /// Bytes; fewer than were to be written when an append finds no room for the rest.
    pub len: usize,
}

/// Bytes to write to a file of this chunk size.
#[derive(Clone, Copy)]
pub(super) struct WritePiece<'a> {
    pub(super) data: &'a Bytes,
    pub(super) size: u32,
    pub(super) privileged: bool,
}

impl WritePiece<'_> {
    /// Where it ends when it is written there.
    pub(super) fn end(&self, offset: u64) -> Result<u64, FsError> {
        let end = offset.checked_add(self.data.len() as u64);
        let most = u64::from(self.size) * u64::from(u32::MAX);
        end.filter(|end| *end <= most).ok_or(FsError::FileTooLarge)
    }
}

/// The pieces of `[offset, offset+len)`: chunk index, range in the chunk, place in the whole.
pub(super) fn pieces(
    offset: u64,
    len: u64,
    chunk_size: u32,
) -> impl Iterator<Item = (u32, u32, u32, usize)> {
    let (size, end) = (u64::from(chunk_size), offset + len);
    let first = offset / size;
    let last = if len == 0 { first } else { (end - 1) / size + 1 };
    (first..last).map(move |i| {
        let from = offset.max(i * size);
        let to = end.min((i + 1) * size);
        (i as u32, (from - i * size) as u32, (to - i * size) as u32, (from - offset) as usize)
    })
}
