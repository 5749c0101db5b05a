//! Who opens a file has what others had written before, and never a mixture.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::case::{At, Count, Two, Wrong, appending, content, same};

const READERS: usize = 8;

pub fn polled_there(two: &Two) -> Count {
    polled(two, &two.b)
}

pub fn polled_here(two: &Two) -> Count {
    polled(two, &two.a)
}

/// A replaces a file by rename again and again. Eight who open and read it all the time always have
/// one whole version, at least the one that was there when they opened it, and never get an error.
fn polled(two: &Two, reader: &Path) -> Count {
    let mut count = Count::default();
    // The newest version whose rename has returned.
    let there = AtomicU64::new(0);
    let end = AtomicBool::new(false);
    count.expect("first", replace(&two.a, 0));
    let (there, end) = (&there, &end);
    thread::scope(|scope| {
        let readers: Vec<_> =
            (0..READERS).map(|_| scope.spawn(|| poll(reader, there, end))).collect();
        for round in two.rounds() {
            let version = u64::from(round) + 1;
            count.expect(format!("replace {version}"), replace(&two.a, version));
            there.store(version, Ordering::SeqCst);
        }
        end.store(true, Ordering::Relaxed);
        for reader in readers {
            count.add(reader.join().expect("no panic"));
        }
    });
    count
}

/// A version is its number, again and again: any piece of it tells which it is.
fn version_bytes(version: u64) -> Vec<u8> {
    (version + 1).to_le_bytes().repeat(1 + (version as usize * 997) % 20_000)
}

fn replace(dir: &Path, version: u64) -> Result<(), Wrong> {
    let mut file = File::create(dir.join("config.new")).at("create")?;
    file.write_all(&version_bytes(version)).at("write")?;
    file.sync_all().at("fsync")?;
    drop(file);
    fs::rename(dir.join("config.new"), dir.join("config")).at("rename")
}

fn poll(dir: &Path, there: &AtomicU64, end: &AtomicBool) -> Count {
    let mut count = Count::default();
    let mut newest = 0;
    while !end.load(Ordering::Relaxed) {
        let at_least = there.load(Ordering::SeqCst).max(newest);
        match version_of(&dir.join("config")) {
            Ok(found) => {
                let outcome = if found >= at_least {
                    Ok(())
                } else {
                    Err(format!("version {found} after {at_least}"))
                };
                newest = newest.max(found);
                count.expect("opened", outcome);
            }
            Err(why) => count.expect("a poll", Err(why)),
        }
    }
    count
}

fn version_of(path: &Path) -> Result<u64, Wrong> {
    let mut file = File::open(path).at("open")?;
    let mut found = Vec::new();
    file.read_to_end(&mut found).at("read")?;
    let first = found.get(..8).ok_or_else(|| format!("{} bytes", found.len()))?;
    let number = u64::from_le_bytes(first.try_into().expect("eight"));
    let version = number.checked_sub(1).ok_or("zeros")?;
    if version > 1 << 32 {
        return Err(format!("begins with {first:?}"));
    }
    same(&found, &version_bytes(version)).map_err(|why| format!("version {version}: {why}"))?;
    Ok(version)
}

/// B looks at a file while A writes it. Straight after A's close B has its length, its time and its
/// content, whether it asks by stat first or opens first.
pub fn close_to_open(two: &Two) -> Count {
    let mut count = Count::default();
    for round in two.rounds() {
        let kind = ["new", "rewritten", "changed in place", "appended"][round as usize % 4];
        count.expect(format!("round {round}, {kind}"), close_to_open_once(two, round));
    }
    count
}

fn close_to_open_once(two: &Two, round: u32) -> Result<(), Wrong> {
    let (a, b) = two.in_turn(round / 4);
    let name = format!("f{}", round / 4);
    let mine = a.join(&name);
    let theirs = b.join(&name);
    let size =
        10 + (round as usize * 7919) % if round.is_multiple_of(40) { 1_500_000 } else { 30_000 };
    let new = content(u64::from(round), size);
    let before = if round.is_multiple_of(4) { Vec::new() } else { fs::read(&mine).at("read")? };
    let mut file = match round % 4 {
        0 | 1 => File::create(&mine).at("create")?,
        2 => OpenOptions::new().write(true).open(&mine).at("open to write")?,
        _ => appending(&mine)?,
    };
    let (first, second) = new.split_at(size / 2);
    file.write_all(first).at("write")?;
    // Whatever it sees now is right.
    fs::metadata(&theirs).at("stat while it is written")?;
    fs::read(&theirs).at("read while it is written")?;
    file.write_all(second).at("write")?;
    drop(file);
    let want = match round % 4 {
        0 | 1 => new,
        2 => [&new[..], before.get(size..).unwrap_or_default()].concat(),
        _ => [before, new].concat(),
    };
    let stat_first = (round / 8).is_multiple_of(2);
    if stat_first {
        has_length(&theirs, want.len())?;
    }
    let found = fs::read(&theirs).at("read")?;
    same(&found, &want).map_err(|why| format!("stat first: {stat_first}: {why}"))?;
    has_length(&theirs, want.len())?;
    let time = |path: &Path| fs::metadata(path).map(|m| (m.mtime(), m.mtime_nsec())).at("stat");
    let (here, there) = (time(&mine)?, time(&theirs)?);
    if here == there { Ok(()) } else { Err(format!("mtime {here:?} and {there:?}")) }
}

fn has_length(path: &Path, want: usize) -> Result<(), Wrong> {
    let found = fs::metadata(path).at("stat")?.len();
    if found == want as u64 { Ok(()) } else { Err(format!("stat: {found} bytes for {want}")) }
}

/// A block of an O_DIRECT reader.
const BLOCK: usize = 4096;

/// B has a file open with O_DIRECT, and reads at its end: it sees what A appends and fsyncs.
pub fn direct_growth(two: &Two) -> Count {
    let mut count = Count::default();
    let outcome = appending(&two.a.join("log")).and_then(|mut log| {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECT);
        let reader = options.open(two.b.join("log")).at("open with O_DIRECT")?;
        let mut memory = vec![0; 2 * BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        let block = &mut memory[start..start + BLOCK];
        for round in two.rounds() {
            let want = content(u64::from(round), BLOCK);
            let at = u64::from(round) * BLOCK as u64;
            // The end is not always on a block's.
            for (from, to) in [(0, 1_000), (1_000, BLOCK)] {
                log.write_all(&want[from..to]).and_then(|()| log.sync_all()).at("append")?;
                block.fill(0);
                let length = reader.read_at(block, at).at("read")?;
                count.expect(format!("{round}, {to} bytes"), same(&block[..length], &want[..to]));
            }
        }
        Ok(())
    });
    count.expect("steps", outcome);
    count
}
