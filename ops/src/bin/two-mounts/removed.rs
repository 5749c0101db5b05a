//! Files that are unlinked or replaced while somebody has them open: they stay as they are until
//! the last close, on every mount.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::case::{At, Count, Two, Wrong, content, same};

/// One within a chunk, one of several.
const SIZES: [usize; 2] = [300_000, 2_500_000];
/// Longer than anything needs that removes the content of files that nobody has open.
const LONG: Duration = Duration::from_secs(3);

pub fn kept_there(two: &Two) -> Count {
    kept(two, &two.b)
}

pub fn kept_here(two: &Two) -> Count {
    kept(two, &two.a)
}

/// A file that another one removes or replaces, opened and not yet read.
struct Kept {
    what: String,
    want: Vec<u8>,
    reader: File,
    writer: File,
}

/// A removes and replaces what is open in `holder`. Long after, it can be read and written.
fn kept(two: &Two, holder: &Path) -> Count {
    let mut count = Count::default();
    let mut files = Vec::new();
    for round in two.rounds() {
        match open_and_remove(two, holder, round) {
            Ok(kept) => files.push(kept),
            Err(why) => count.expect(round, Err(why)),
        }
    }
    // Another mount's kernel may remember for a moment that there was a name.
    let here = *holder == *two.a;
    for kept in &files {
        count.expect(format!("{}, at once", kept.what), kept.is_as_it_was(here));
    }
    // Not for something to happen, but for nothing to.
    thread::sleep(LONG);
    for kept in &mut files {
        count.expect(format!("{}, later", kept.what), kept.is_as_it_was(true));
        count.expect(format!("{}, written", kept.what), kept.can_be_written());
    }
    count
}

fn open_and_remove(two: &Two, holder: &Path, round: u32) -> Result<Kept, Wrong> {
    let name = format!("f{round}");
    let want = content(u64::from(round), SIZES[round as usize % 2]);
    fs::write(two.a.join(&name), &want).at("create")?;
    let reader = File::open(holder.join(&name)).at("open")?;
    let both = OpenOptions::new().read(true).write(true).open(holder.join(&name));
    let writer = both.at("open to write")?;
    let how = ["unlinked", "replaced"][round as usize / 2 % 2];
    if how == "unlinked" {
        fs::remove_file(two.a.join(&name)).at("unlink")?;
    } else {
        fs::write(two.a.join("new"), "new").at("create")?;
        fs::rename(two.a.join("new"), two.a.join(&name)).at("replace")?;
    }
    Ok(Kept { what: format!("{} bytes {how}", want.len()), want, reader, writer })
}

impl Kept {
    /// The beginning at once, so that what comes later is not from the kernel's memory.
    fn is_as_it_was(&self, without_name: bool) -> Result<(), Wrong> {
        let meta = self.reader.metadata().at("fstat")?;
        let names = if without_name { 0 } else { meta.nlink() };
        if (meta.len(), meta.nlink()) != (self.want.len() as u64, names) {
            return Err(format!("fstat: {} bytes, {} names", meta.len(), meta.nlink()));
        }
        let mut found = vec![0; self.want.len()];
        self.reader.read_exact_at(&mut found[..5_000], 0).at("read")?;
        same(&found[..5_000], &self.want[..5_000])
    }

    fn can_be_written(&mut self) -> Result<(), Wrong> {
        let end = self.want.len() as u64;
        self.writer.write_all_at(b"changed", 100).at("write")?;
        self.writer.write_all_at(b"longer", end).at("write at the end")?;
        self.writer.sync_all().at("fsync")?;
        self.want[100..107].copy_from_slice(b"changed");
        self.want.extend_from_slice(b"longer");
        for file in [&mut self.writer, &mut self.reader] {
            let mut found = Vec::new();
            file.read_to_end(&mut found).at("read of all")?;
            same(&found, &self.want)?;
        }
        Ok(())
    }
}

pub fn while_opened_there(two: &Two) -> Count {
    while_opened(two, &two.b, false)
}

pub fn while_opened_here(two: &Two) -> Count {
    while_opened(two, &two.a, false)
}

pub fn replaced_while_opened_there(two: &Two) -> Count {
    while_opened(two, &two.b, true)
}

pub fn replaced_while_opened_here(two: &Two) -> Count {
    while_opened(two, &two.a, true)
}

/// Names that come and go, and those who open them at any moment.
const NAMES: u32 = 4;
const READERS: u32 = 3;
const LENGTH: usize = 40_000;

/// A makes files, whole from the start, and removes or replaces them. An open in `reader` that
/// succeeds has one of them, to the end; where files are replaced it never fails.
fn while_opened(two: &Two, reader: &Path, replace: bool) -> Count {
    let end = AtomicBool::new(false);
    let left = AtomicU32::new(two.rounds);
    for slot in 0..NAMES {
        make(&two.a, slot, 0).expect("a first file");
    }
    let (left, end) = (&left, &end);
    thread::scope(|scope| {
        let churn = scope.spawn(move || {
            let mut count = Count::default();
            for version in 1.. {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                let slot = version % NAMES;
                if !replace {
                    let gone = fs::remove_file(two.a.join(format!("f{slot}")));
                    gone.unwrap_or_else(|err| count.expect("unlink", Err(err.to_string())));
                }
                make(&two.a, slot, version).unwrap_or_else(|why| count.expect("make", Err(why)));
            }
            count
        });
        let readers: Vec<_> = (0..READERS)
            .map(|number| scope.spawn(move || open_and_read(two, reader, left, number, replace)))
            .collect();
        let mut count = Count::default();
        for reader in readers {
            count.add(reader.join().expect("no panic"));
        }
        end.store(true, Ordering::Relaxed);
        count.add(churn.join().expect("no panic"));
        count
    })
}

fn make(dir: &Path, slot: u32, version: u32) -> Result<(), Wrong> {
    let mut bytes = content(u64::from(version), LENGTH);
    bytes[..4].copy_from_slice(&version.to_le_bytes());
    fs::write(dir.join("new"), bytes).at("write")?;
    fs::rename(dir.join("new"), dir.join(format!("f{slot}"))).at("rename")
}

fn open_and_read(two: &Two, dir: &Path, left: &AtomicU32, number: u32, always: bool) -> Count {
    let mut count = Count::default();
    for turn in number.. {
        if std::time::Instant::now() >= two.until {
            break;
        }
        let mut file = match File::open(dir.join(format!("f{}", turn % NAMES))) {
            Ok(file) => file,
            // The moment between two.
            Err(err) if err.kind() == ErrorKind::NotFound && !always => continue,
            Err(err) => {
                count.expect("open", Err(err.to_string()));
                continue;
            }
        };
        // Only what was opened counts.
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if taken.is_err() {
            break;
        }
        count.expect("opened", is_whole(&mut file));
    }
    count
}

fn is_whole(file: &mut File) -> Result<(), Wrong> {
    let mut found = vec![0; 10_000];
    file.read_exact(&mut found).at("read")?;
    // Others get the processors: whatever removes content is removing it.
    thread::yield_now();
    let length = file.metadata().at("fstat")?.len();
    if length != LENGTH as u64 {
        return Err(format!("fstat: {length} bytes for {LENGTH}"));
    }
    file.read_to_end(&mut found).at("read of the rest")?;
    let version: [u8; 4] = found[..4].try_into().expect("four");
    let mut want = content(u64::from(u32::from_le_bytes(version)), LENGTH);
    want[..4].copy_from_slice(&version);
    same(&found, &want)
}
