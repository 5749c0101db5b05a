//! Listings. A position is a number that stands for one entry of one open directory, from the time
//! it was given until the directory is read from its beginning again: reading on from it continues
//! behind that entry, whatever was removed or made meanwhile (telldir and seekdir).
//!
//! A handle keeps the names of its last reply, where the kernel nearly always reads on, one name in
//! [`MARK_EVERY`] of those before, and four bytes of each name between. A position that is
//! not among the names is found from the name before it: what comes then is compared with those
//! bytes, and the last that is known is where to read on behind.
//!
//! Memory of a handle: at most 4 MiB for [`PRINTS_MAX`] entries, and 16,384 names. In larger
//! directories older positions are counted from the name before them, which entries removed since
//! then shift. Attributes are fetched for each reply anew: the kernel takes them as of the time it
//! asked.

use std::collections::VecDeque;

use t3fs_actors::client::{DirEntry, FsError};
use t3fs_actors::proto::ids::InodeId;

use crate::door::Here;

/// `.` and `..`.
const DOTS: u64 = 2;
/// Entries in the first fetch of a handle; later ones fetch about what fits into a reply.
const FIRST_FETCH: u32 = 128;
const FETCH_MAX: u32 = 1024;
/// One name in so many is kept.
const MARK_EVERY: u64 = 64;
const MARKS_MAX: usize = 16_384;
/// Entries whose names are known by four bytes.
const PRINTS_MAX: usize = 1 << 20;

/// Memory of one handle, in bytes: prints, about 32 B for a name and what is kept with it, and the
/// last reply.
pub const CURSOR_BYTES_MAX: usize = 4 * PRINTS_MAX + MARKS_MAX * 64 + FETCH_MAX as usize * 64;

/// Where an open directory is.
pub struct Cursor {
    /// Position and name of the entries of the last reply, in their order there.
    last: Vec<(u64, Vec<u8>)>,
    /// In order of their positions.
    marks: Vec<Mark>,
    /// Of the entries at `first_print` and the positions after it, up to `end`.
    prints: VecDeque<u32>,
    first_print: u64,
    /// The next new position.
    end: u64,
}

struct Mark {
    position: u64,
    name: Vec<u8>,
    /// The entry at the position before it is not the one before it in the directory.
    is_start: bool,
}

impl Default for Cursor {
    fn default() -> Cursor {
        let (last, marks, prints) = (Vec::new(), Vec::new(), VecDeque::new());
        Cursor { last, marks, prints, first_print: DOTS + 1, end: DOTS + 1 }
    }
}

/// From where to read on.
#[derive(Debug, PartialEq, Eq)]
struct Resume {
    after: Vec<u8>,
    skip: Skip,
}

/// What is behind that name and was given already.
#[derive(Debug, PartialEq, Eq)]
enum Skip {
    /// Entries with these prints, in this order, those that are still there.
    Known(VecDeque<u32>),
    /// So many.
    Count(u64),
}

/// One thing to put into a reply.
pub enum Item<'a> {
    Dot(InodeId),
    DotDot(InodeId),
    Entry(&'a DirEntry),
}

/// Four bytes that stand for a name (FNV-1a, folded).
fn print(name: &[u8]) -> u32 {
    let mix = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    let h = name.iter().fold(0xcbf2_9ce4_8422_2325, mix);
    (h ^ h >> 32) as u32
}

impl Cursor {
    /// Where position `from` is. From the beginning everything is forgotten, so that it is read
    /// anew.
    fn resume(&mut self, from: u64) -> Resume {
        if from == 0 {
            *self = Cursor::default();
        }
        let none = || Skip::Count(0);
        if from <= DOTS {
            return Resume { after: Vec::new(), skip: none() };
        }
        if let Some((_, name)) = self.last.iter().find(|(position, _)| *position == from) {
            return Resume { after: name.clone(), skip: none() };
        }
        let before = self.marks.partition_point(|m| m.position <= from);
        let Some(mark) = before.checked_sub(1).map(|i| &self.marks[i]) else {
            return Resume { after: Vec::new(), skip: Skip::Count(from - DOTS) };
        };
        let between: Option<VecDeque<u32>> =
            (mark.position + 1..=from).map(|position| self.print_at(position)).collect();
        let skip = between.map_or(Skip::Count(from - mark.position), Skip::Known);
        Resume { after: mark.name.clone(), skip }
    }

    fn print_at(&self, position: u64) -> Option<u32> {
        let index = position.checked_sub(self.first_print)?;
        self.prints.get(usize::try_from(index).ok()?).copied()
    }

    /// The position of an entry that is given behind the one at `at`: the one that it had when it
    /// was given there before, else a new one.
    fn position(&self, at: u64, name: &[u8]) -> u64 {
        if self.print_at(at + 1) == Some(print(name)) { at + 1 } else { self.end }
    }

    /// Takes note of an entry that was put into a reply behind the one at `at`.
    fn gave(&mut self, at: u64, position: u64, name: &[u8]) {
        if position < self.end {
            return;
        }
        let is_start = position != at + 1 || self.marks.is_empty();
        if is_start || self.marks.last().is_none_or(|m| position - m.position >= MARK_EVERY) {
            self.marks.push(Mark { position, name: name.to_vec(), is_start });
            self.thin_out();
        }
        if self.prints.len() == PRINTS_MAX {
            self.prints.pop_front();
            self.first_print += 1;
        }
        self.prints.push_back(print(name));
        self.end += 1;
    }

    fn thin_out(&mut self) {
        if self.marks.len() <= MARKS_MAX {
            return;
        }
        let mut keep = false;
        self.marks.retain(|m| {
            keep = !keep;
            keep || m.is_start
        });
        if self.marks.len() > MARKS_MAX / 4 * 3 {
            // Somebody goes back and forth while the directory changes.
            self.marks.drain(..MARKS_MAX / 2);
        }
    }

    fn fetch(&self) -> u32 {
        match self.last.len() as u32 {
            0 => FIRST_FETCH,
            // One more, so that the reply is full before the page is at its end.
            n => (n + 1).clamp(FIRST_FETCH / 4, FETCH_MAX),
        }
    }
}

impl Skip {
    /// Entries that this page must have so that it can be told where to read on.
    fn needs(&self) -> u32 {
        match self {
            Skip::Known(prints) => prints.len() as u32 * 2,
            Skip::Count(n) => u32::try_from(*n).unwrap_or(FETCH_MAX),
        }
        .min(FETCH_MAX)
    }

    /// How many entries at the beginning of a page were given already.
    fn take<'a>(&mut self, names: impl ExactSizeIterator<Item = &'a [u8]>) -> usize {
        match self {
            Skip::Count(n) => {
                let here = names.len().min(usize::try_from(*n).unwrap_or(usize::MAX));
                *n -= here as u64;
                here
            }
            // Entries that are not known are older than the position if a known one is behind
            // them, else new or behind it.
            Skip::Known(prints) => {
                let mut given = 0;
                for (index, name) in names.enumerate() {
                    if prints.is_empty() {
                        break;
                    }
                    let print = print(name);
                    if let Some(i) = prints.iter().position(|p| *p == print) {
                        prints.drain(..=i);
                        given = index + 1;
                    }
                }
                given
            }
        }
    }

    /// Whether the next page may begin with entries that were given already.
    fn goes_on(&self) -> bool {
        match self {
            Skip::Known(prints) => !prints.is_empty(),
            Skip::Count(n) => *n > 0,
        }
    }
}

/// Fills a reply from position `from` on: `add` gets the position of the item and says whether the
/// reply is full (and the item not in it). With `fresh`, attributes are as this mount's writers
/// have made them.
pub async fn list(
    here: &Here,
    inode: InodeId,
    cursor: &mut Cursor,
    from: u64,
    fresh: bool,
    mut add: impl FnMut(u64, Item<'_>) -> bool,
) -> Result<(), FsError> {
    let Resume { mut after, mut skip } = cursor.resume(from);
    let mut at = from;
    let mut given = Vec::new();
    'reply: loop {
        let limit = cursor.fetch().max(skip.needs());
        let mut page = here.client.readdir(&here.cx, inode, &after, limit).await?;
        if let Some(last) = page.entries.last() {
            after.clone_from(&last.name);
        }
        if at == 0 {
            if add(1, Item::Dot(inode)) {
                break;
            }
            at = 1;
        }
        if at == 1 {
            if add(2, Item::DotDot(page.parent)) {
                break;
            }
            at = DOTS;
        }
        let old = skip.take(page.entries.iter().map(|e| e.name.as_slice()));
        if old < page.entries.len() || !skip.goes_on() {
            skip = Skip::Count(0);
        }
        for entry in page.entries.iter_mut().skip(old) {
            if fresh && here.door.is_written(entry.attr.inode) {
                match here.fresh(entry.attr.clone()).await {
                    Ok(attr) => entry.attr = attr,
                    Err(FsError::Stale) => {} // removed since the page was read
                    Err(e) => return Err(e),
                }
            }
            let position = cursor.position(at, &entry.name);
            if add(position, Item::Entry(entry)) {
                break 'reply;
            }
            cursor.gave(at, position, &entry.name);
            at = position;
            given.push((position, std::mem::take(&mut entry.name)));
        }
        if !page.more || page.entries.is_empty() {
            break;
        }
    }
    if !given.is_empty() {
        cursor.last = given;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
