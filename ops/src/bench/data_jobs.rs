//! Jobs that move data: 1 MiB sequential, 4 KiB random; direct and buffered.
//!
//! Method: reads and random writes use one prepared file of noise; sequential writes make a new
//! file per pass, and every pass of writes ends with fsync inside the clock, so that no cache can
//! promise what the disk has not seen. Buffered reads start with cold caches and touch each page at
//! most once per pass.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, OFlags};

use super::io::{BLOCK, Buffer, MIB, drop_caches, open};
use super::meter::{Meter, Sample};
use crate::noise::Noise;

/// Much larger than any cache of a drive, small enough to be written in seconds.
const PREPARED_BYTES: u64 = 512 * MIB as u64;
const SEQUENTIAL_PASS_BYTES: u64 = 256 * MIB as u64;
/// A pass of buffered random writes stops here: what it dirtied still has to be synced, block by
/// block.
const BUFFERED_WRITES_PER_PASS: usize = 16_384;

/// The file that reads and random writes work on; made by the first job that needs it.
fn prepared(dir: &Path) -> io::Result<std::path::PathBuf> {
    let path = dir.join("prepared");
    if fs::metadata(&path).is_ok_and(|found| found.len() == PREPARED_BYTES) {
        return Ok(path);
    }
    let file = open(&path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, true)?;
    let buffer = Buffer::new(MIB, 1);
    for offset in (0..PREPARED_BYTES).step_by(MIB) {
        file.write_all_at(buffer.bytes(), offset)?;
    }
    file.sync_all()?;
    Ok(path)
}

pub fn sequential_write(
    dir: &Path,
    direct: bool,
    least: Duration,
    mut meter: Meter,
    row: &str,
) -> io::Result<Vec<Sample>> {
    let path = dir.join("sequential");
    let buffer = Buffer::new(MIB, 2);
    let mut bytes = 0;
    while meter.wall() < least {
        meter.measure(|| {
            let file = open(&path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, direct)?;
            for offset in (0..SEQUENTIAL_PASS_BYTES).step_by(MIB) {
                file.write_all_at(buffer.bytes(), offset)?;
            }
            file.sync_all()
        })?;
        bytes += SEQUENTIAL_PASS_BYTES;
        fs::remove_file(&path)?;
    }
    Ok(vec![meter.sample(row, bytes / MIB as u64, bytes)])
}

pub fn sequential_read(
    dir: &Path,
    direct: bool,
    least: Duration,
    mut meter: Meter,
    row: &str,
) -> io::Result<Vec<Sample>> {
    let file = open(&prepared(dir)?, OFlags::RDONLY, direct)?;
    let mut buffer = Buffer::new(MIB, 3);
    let mut bytes = 0;
    while meter.wall() < least {
        drop_caches(&file)?;
        let left = least - meter.wall();
        bytes += meter.measure(|| {
            let start = Instant::now();
            let mut offset = 0;
            while offset < PREPARED_BYTES && start.elapsed() < left {
                file.read_exact_at(buffer.bytes_mut(), offset)?;
                offset += MIB as u64;
            }
            io::Result::Ok(offset)
        })?;
    }
    Ok(vec![meter.sample(row, bytes / MIB as u64, bytes)])
}

pub fn random_read(
    dir: &Path,
    direct: bool,
    threads: usize,
    least: Duration,
    mut meter: Meter,
    row: &str,
) -> io::Result<Vec<Sample>> {
    let path = prepared(dir)?;
    let order = Noise::new(4).shuffled(PREPARED_BYTES as usize / BLOCK);
    let mut operations = 0;
    while meter.wall() < least {
        let file = open(&path, OFlags::RDONLY, direct)?;
        // Read-ahead would answer from memory what is asked for later.
        rustix::fs::fadvise(&file, 0, None, Advice::Random)?;
        drop_caches(&file)?;
        let left = least - meter.wall();
        operations += meter.measure(|| {
            each_once(&order, threads, left, |buffer, offset| file.read_exact_at(buffer, offset))
        })?;
    }
    Ok(vec![meter.sample(row, operations as u64, (operations * BLOCK) as u64)])
}

pub fn random_write(
    dir: &Path,
    direct: bool,
    threads: usize,
    least: Duration,
    mut meter: Meter,
    row: &str,
) -> io::Result<Vec<Sample>> {
    let path = prepared(dir)?;
    // Each round and pass another order: blocks written before are as good as any.
    let order = Noise::new(Noise::any_seed()).shuffled(PREPARED_BYTES as usize / BLOCK);
    let pass = if direct { order.len() } else { BUFFERED_WRITES_PER_PASS };
    let file = open(&path, OFlags::WRONLY, direct)?;
    let mut operations = 0;
    for part in order.chunks(pass).cycle() {
        if meter.wall() >= least {
            break;
        }
        let left = least - meter.wall();
        operations += meter.measure(|| {
            let written =
                each_once(part, threads, left, |buffer, offset| file.write_all_at(buffer, offset))?;
            file.sync_all()?;
            io::Result::Ok(written)
        })?;
    }
    Ok(vec![meter.sample(row, operations as u64, (operations * BLOCK) as u64)])
}

/// Calls `operation` for the blocks in `order`, each once, from several threads, until all are done
/// or `limit` has passed. Returns how many were done.
fn each_once(
    order: &[u32],
    threads: usize,
    limit: Duration,
    operation: impl Fn(&mut [u8], u64) -> io::Result<()> + Sync,
) -> io::Result<usize> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let start = Instant::now();
    let work = |thread: usize| {
        let mut buffer = Buffer::new(BLOCK, thread as u64);
        let mut done = 0;
        while start.elapsed() < limit && !failed.load(Ordering::Relaxed) {
            let Some(block) = order.get(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            if let Err(err) = operation(buffer.bytes_mut(), u64::from(*block) * BLOCK as u64) {
                failed.store(true, Ordering::Relaxed);
                return Err(err);
            }
            done += 1;
        }
        Ok(done)
    };
    super::in_threads(threads, work).into_iter().sum()
}
