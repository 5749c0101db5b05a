//! Where things lie in the files of a target: block classes, extents and file names.
//!
//! ```text
//! <dir>/superblock          identity, see `superblock.rs`
//! <dir>/journal-%08x        segments of the journal, see `journal.rs`
//! <dir>/checkpoint-%08x     the index at the start of journal segment %08x, see `checkpoint.rs`
//! <dir>/data-%02d           blocks of 2^%02d bytes, 12 (4 KiB) to 26 (64 MiB)
//! <dir>/*.tmp               unfinished; removed when the target opens
//!
//! data file   [slot 0][slot 1] ...                       slot n begins at n * stride
//! slot, class <= 16   [block]                             stride = block
//! slot, class >  16   [block][pages A][pages B]           stride = block + 2 * P * 4 KiB
//!                     P = max(1, block / 1 MiB) checksum pages a side; page p covers MiB p
//! ```
//! A page's valid side is named by the index row; a full write puts block and side A in one piece.

use core::num::NonZeroU8;

/// Unit of checksums, of overlay entries and of disk alignment.
pub const GRANULE: usize = 4096;
/// Longest chunk.
pub const CHUNK_MAX: u32 = 64 << 20;
/// Granules covered by one checksum page.
pub const PAGE_GRANULES: u32 = 256;

const CLASS_MIN: u8 = 12;
const CLASS_MAX: u8 = 26;
const CLASS_INLINE_MAX: u8 = 16;
const GROW_BYTES_MAX: u64 = 64 << 20;
// The smallest block is a granule, and the largest holds the longest chunk.
const _: () = assert!(1 << CLASS_MIN == GRANULE && 1 << CLASS_MAX == CHUNK_MAX);
const _: () = assert!(CLASS_MIN <= CLASS_INLINE_MAX && CLASS_INLINE_MAX <= CLASS_MAX);
// A file grows by one block at least. A whole chunk travels in one message.
const _: () = assert!(GROW_BYTES_MAX >= CHUNK_MAX as u64);
const _: () = assert!(CHUNK_MAX as usize <= t3fs_runtime::wire::BULK_MAX);

/// Granules that `len` bytes touch.
pub fn granules(len: u32) -> u32 {
    len.div_ceil(GRANULE as u32)
}

/// A block size, as its power of two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Class(NonZeroU8);

impl Class {
    /// The smallest class that holds `len` bytes.
    pub fn of(len: u32) -> Class {
        assert!(len <= CHUNK_MAX, "{len}");
        let log2 = len.max(1).next_power_of_two().trailing_zeros() as u8;
        Class::from_log2(log2.max(CLASS_MIN)).expect("within the limits")
    }

    pub fn from_log2(log2: u8) -> Option<Class> {
        let known = (CLASS_MIN..=CLASS_MAX).contains(&log2);
        if known { NonZeroU8::new(log2).map(Class) } else { None }
    }

    pub fn all() -> impl Iterator<Item = Class> {
        (CLASS_MIN..=CLASS_MAX).filter_map(Class::from_log2)
    }

    pub fn log2(self) -> u8 {
        self.0.get()
    }

    pub fn block(self) -> u64 {
        1 << self.0.get()
    }

    /// Whether granule checksums are kept in the index row rather than in pages behind the block.
    pub fn inline(self) -> bool {
        self.0.get() <= CLASS_INLINE_MAX
    }

    /// Checksum pages of one side.
    pub fn pages(self) -> u32 {
        if self.inline() { 0 } else { (self.block() >> 20).max(1) as u32 }
    }

    pub fn stride(self) -> u64 {
        self.block() + 2 * u64::from(self.pages()) * GRANULE as u64
    }

    /// Slots that are grown and given back together.
    pub fn group_slots(self, group_bytes: u64) -> u32 {
        (group_bytes / self.block()).max(1) as u32
    }

    /// Most groups grown at a time.
    pub fn grow_groups_max(self, group_bytes: u64) -> u32 {
        let group = self.block() * u64::from(self.group_slots(group_bytes));
        (GROW_BYTES_MAX / group).max(1) as u32
    }

    /// Small blocks are written with zeros when grown: a synced overwrite of written blocks is
    /// 2.5 times as fast as one that converts an unwritten extent. For large blocks the extra
    /// write would halve their rate.
    pub fn prewritten(self) -> bool {
        self.block() < 256 << 10
    }

    pub fn file_name(self) -> String {
        format!("data-{:02}", self.0)
    }
}

/// One slot of one data file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Extent {
    pub class: Class,
    pub slot: u32,
}

impl Extent {
    /// Byte offset of the block in its data file.
    pub fn offset(self) -> u64 {
        self.class.stride() * u64::from(self.slot)
    }

    /// Byte offset of a checksum page.
    pub fn page_offset(self, page: u32, side: Side) -> u64 {
        let pages = self.class.pages();
        assert!(page < pages, "{self:?} {page}");
        let nth = if side == Side::A { page } else { pages + page };
        self.offset() + self.class.block() + u64::from(nth) * GRANULE as u64
    }
}

/// Which of its two places a checksum page is valid in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    A,
    B,
}

impl Side {
    /// The side of page `page` by a row's side bits (0 is A).
    pub fn of(sides: u64, page: u32) -> Side {
        if sides >> page & 1 == 0 { Side::A } else { Side::B }
    }

    pub fn other(self) -> Side {
        if self == Side::A { Side::B } else { Side::A }
    }
}

pub const SUPERBLOCK: &str = "superblock";

pub fn journal_name(segment: u32) -> String {
    format!("journal-{segment:08x}")
}

pub fn checkpoint_name(segment: u32) -> String {
    format!("checkpoint-{segment:08x}")
}

/// The number of a file named `<prefix>-%08x`.
pub fn numbered(prefix: &str, name: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?.strip_prefix('-')?;
    if digits.len() != 8 { None } else { u32::from_str_radix(digits, 16).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the arithmetic of the format does not move. Method: the numbers themselves.
    #[test]
    fn slots_lie_where_the_format_says() {
        assert_eq!(Class::of(0).log2(), 12);
        assert_eq!(Class::of(4097).log2(), 13);
        assert_eq!(Class::of(CHUNK_MAX).log2(), 26);
        let small = Extent { class: Class::of(65_536), slot: 3 };
        assert_eq!((small.offset(), small.class.pages()), (3 * 65_536, 0));
        let big = Extent { class: Class::of(4 << 20), slot: 2 };
        assert_eq!(big.class.stride(), (4 << 20) + 8 * 4096);
        assert_eq!(big.page_offset(3, Side::A), big.offset() + (4 << 20) + 3 * 4096);
        assert_eq!(big.page_offset(0, Side::B), big.offset() + (4 << 20) + 4 * 4096);
        assert_eq!(Class::of(131_072).stride(), 131_072 + 8192);
        assert_eq!(numbered("journal", &journal_name(0xab)), Some(0xab));
        assert_eq!(numbered("journal", "journal-0000000g"), None);
        assert_eq!(size_of::<Option<Extent>>(), 8);
    }
}
