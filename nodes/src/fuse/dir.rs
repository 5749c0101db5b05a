//! Listings. An offset is how many entries were given so far (`.` and `..` are the first two), and
//! a handle remembers which name each offset of its last reply stands for.
//!
//! The kernel asks again from an offset inside the last reply when the program's buffer was smaller
//! than ours; then the name is exact, whatever was removed meanwhile. Older offsets (seekdir) are
//! counted from the start of the reply before them, so entries removed since then shift them.
//! Attributes are fetched for each reply anew: the kernel takes them as of the time it asked.

use t3fs_actors::client::{DirEntry, FsError};
use t3fs_actors::proto::ids::InodeId;

use super::hub::Here;

/// `.` and `..`.
const DOTS: u64 = 2;
/// Entries in the first fetch of a handle; later ones fetch about what fits into a reply.
const FIRST_FETCH: u32 = 128;
const FETCH_MAX: u32 = 1024;

/// Where an open directory is.
#[derive(Default)]
pub struct Cursor {
    /// Offset and name of the entries of the last reply; the offset is the one behind the entry.
    last: Vec<(u64, Vec<u8>)>,
    /// Offset and name at the end of each reply, in order.
    marks: Vec<(u64, Vec<u8>)>,
}

/// From where to read on.
#[derive(Debug, PartialEq, Eq)]
struct Resume {
    after: Vec<u8>,
    /// Entries behind it that were given already.
    skip: u64,
}

/// One thing to put into a reply.
pub enum Item<'a> {
    Dot(InodeId),
    DotDot(InodeId),
    Entry(&'a DirEntry),
}

impl Cursor {
    /// Where offset `from` is. From the beginning everything is forgotten, so that it is read anew.
    fn resume(&mut self, from: u64) -> Resume {
        if from <= DOTS {
            *self = Cursor::default();
            return Resume { after: Vec::new(), skip: 0 };
        }
        if let Ok(i) = self.last.binary_search_by_key(&from, |(o, _)| *o) {
            return Resume { after: self.last[i].1.clone(), skip: 0 };
        }
        let before = self.marks.partition_point(|(o, _)| *o <= from);
        match before.checked_sub(1).map(|i| &self.marks[i]) {
            Some((offset, name)) => Resume { after: name.clone(), skip: from - offset },
            None => Resume { after: Vec::new(), skip: from - DOTS },
        }
    }

    /// Takes note of what a reply gave.
    fn gave(&mut self, entries: Vec<(u64, Vec<u8>)>) {
        let Some((end, name)) = entries.last() else { return };
        if self.marks.last().is_none_or(|(o, _)| o < end) {
            self.marks.push((*end, name.clone()));
        }
        self.last = entries;
    }

    fn fetch(&self) -> u32 {
        match self.last.len() as u32 {
            0 => FIRST_FETCH,
            // One more, so that the reply is full before the page is at its end.
            n => (n + 1).clamp(FIRST_FETCH / 4, FETCH_MAX),
        }
    }
}

/// Fills a reply from offset `from` on: `add` gets the offset behind the item and says whether the
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
    let mut offset = from;
    let mut given = Vec::new();
    'reply: loop {
        let limit = cursor.fetch();
        let mut page = here.client.readdir(&here.cx, inode, &after, limit).await?;
        if let Some(last) = page.entries.last() {
            after.clone_from(&last.name);
        }
        if offset == 0 {
            if add(1, Item::Dot(inode)) {
                break;
            }
            offset = 1;
        }
        if offset == 1 {
            if add(2, Item::DotDot(page.parent)) {
                break;
            }
            offset = 2;
        }
        for entry in &mut page.entries {
            if skip > 0 {
                skip -= 1;
                continue;
            }
            if fresh && here.hub.is_written(entry.attr.inode) {
                match here.fresh(entry.attr.clone()).await {
                    Ok(attr) => entry.attr = attr,
                    Err(FsError::Stale) => {} // removed since the page was read
                    Err(e) => return Err(e),
                }
            }
            if add(offset + 1, Item::Entry(entry)) {
                break 'reply;
            }
            offset += 1;
            given.push((offset, std::mem::take(&mut entry.name)));
        }
        if !page.more || page.entries.is_empty() {
            break;
        }
    }
    cursor.gave(given);
    Ok(())
}

#[cfg(test)]
mod tests {
    //! Goal: a listing gives every entry once, however it is cut into replies and whatever is
    //! removed behind it. Method: the cursor against a sorted list of names, without a kernel.
    use super::*;
    use std::collections::BTreeSet;

    /// One reply of at most `fits` names, as `list` makes it.
    fn reply(
        c: &mut Cursor,
        names: &BTreeSet<String>,
        from: u64,
        fits: usize,
    ) -> Vec<(u64, String)> {
        let Resume { after, skip } = c.resume(from);
        let after = String::from_utf8(after).unwrap();
        let rest = names.range(after.clone()..).filter(|n| **n != after);
        let rest = rest.skip(skip as usize).take(fits);
        let from = from.max(DOTS);
        let out: Vec<_> = rest.cloned().zip(from + 1..).map(|(n, o)| (o, n)).collect();
        c.gave(out.iter().map(|(o, n)| (*o, n.clone().into_bytes())).collect());
        out
    }

    fn names(n: usize) -> BTreeSet<String> {
        (0..n).map(|i| format!("f{i:05}")).collect()
    }

    #[test]
    fn every_entry_once_with_any_size_of_replies() {
        let names = names(1000);
        for fits in [1, 7, 100, 5000] {
            let (mut c, mut from, mut seen) = (Cursor::default(), 0, Vec::new());
            loop {
                let r = reply(&mut c, &names, from, fits);
                let Some((last, _)) = r.last() else { break };
                from = *last;
                seen.extend(r.into_iter().map(|(_, n)| n));
            }
            assert!(seen.iter().eq(names.iter()), "replies of {fits}");
        }
    }

    /// rm -rf reads, removes what it read, and goes on; its buffer ends inside our reply.
    #[test]
    fn removal_behind_the_reader_skips_nothing() {
        let mut names = names(1000);
        let (mut c, mut from, mut seen) = (Cursor::default(), 0, 0);
        loop {
            let r = reply(&mut c, &names, from, 100);
            let taken: Vec<_> = r.into_iter().take(60).collect();
            let Some((last, _)) = taken.last() else { break };
            from = *last;
            for (_, n) in taken {
                assert!(names.remove(&n), "{n} twice");
                seen += 1;
            }
        }
        assert_eq!((seen, names.len()), (1000, 0));
    }

    #[test]
    fn seekdir_and_rewinddir() {
        let mut all = names(300);
        let mut c = Cursor::default();
        let first = reply(&mut c, &all, 0, 100);
        let second = reply(&mut c, &all, first[99].0, 100);
        let back = reply(&mut c, &all, first[10].0, 5);
        assert_eq!(back[0].1, first[11].1);
        let again = reply(&mut c, &all, second[50].0, 5);
        assert_eq!(again[0].1, second[51].1);
        all.insert("a-new-one".into());
        assert_eq!(reply(&mut c, &all, 0, 1)[0].1, "a-new-one");
        let unknown = reply(&mut Cursor::default(), &all, 52, 1);
        assert_eq!(unknown[0].1, *all.iter().nth(50).unwrap());
    }

    #[test]
    fn fetches_follow_what_fits() {
        let mut c = Cursor::default();
        assert_eq!(c.fetch(), FIRST_FETCH);
        c.gave((0..700).map(|i| (i, Vec::new())).collect());
        assert_eq!(c.fetch(), 701);
        c.gave((0..9000).map(|i| (i, Vec::new())).collect());
        assert_eq!(c.fetch(), FETCH_MAX);
    }
}
