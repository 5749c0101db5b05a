//! Jobs on names: create, stat, readdir, rename, unlink, and whole small files.
//!
//! Method: every thread has a folder of its own, because the kernel serialises changes within one.
//! Each file is used once per phase. Before files are looked at, we wait until the kernel may no
//! longer answer for the file system (entry and attribute lifetime, 1 s in the product's mount).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use super::io::{BLOCK, Buffer, drop_all_pages};
use super::meter::{Meter, Sample};
use super::plan::Row;

/// Bounds memory, and the time to clean up behind a fast file system.
const FILES_MAX: usize = 60_000;

/// A little longer than the kernel answers from its own caches.
const KERNEL_FORGETS: Duration = Duration::from_millis(1_100);

/// One thread's folder, and how many files it holds.
struct Folder {
    dir: File,
    files: usize,
}

/// All folders of one job, with the limits that every phase has.
struct Crew<'a> {
    folders: Vec<Folder>,
    limit: Duration,
    servers: &'a [u32],
    samples: Vec<Sample>,
    rows: &'a [Row],
}

impl Crew<'_> {
    /// Runs one phase in all folders at once, for the next row; `work` returns how many operations
    /// it did, and may change its folder.
    fn phase(
        &mut self,
        bytes_per_operation: usize,
        work: impl Fn(&mut Folder, Instant) -> io::Result<usize> + Sync,
    ) -> io::Result<()> {
        let mut meter = Meter::new(self.servers);
        let end = Instant::now() + self.limit;
        let folders = &mut self.folders;
        let operations: usize = meter.measure(|| {
            thread::scope(|scope| {
                let work = &work;
                let threads: Vec<_> = folders
                    .iter_mut()
                    .map(|folder| scope.spawn(move || work(folder, end)))
                    .collect();
                let joined = threads.into_iter().map(super::joined);
                joined.sum::<io::Result<usize>>()
            })
        })?;
        let row = &self.rows[self.samples.len()];
        let bytes = operations * bytes_per_operation;
        self.samples.push(meter.sample(&row.name, operations as u64, bytes as u64));
        Ok(())
    }
}

/// Calls `operation` with 0, 1, 2, .. until `count` or the end of time; returns how often.
fn repeat(
    count: usize,
    end: Instant,
    mut operation: impl FnMut(usize) -> io::Result<()>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < count && Instant::now() < end {
        operation(done)?;
        done += 1;
    }
    Ok(done)
}

fn open_at(dir: &File, name: &str, flags: OFlags) -> io::Result<File> {
    let file = rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
    Ok(file.into())
}

const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL);

/// Makes a folder per thread below a fresh `root` and runs `phases` in them; cleans up.
fn with_folders<'a>(
    root: &Path,
    threads: usize,
    limit: Duration,
    servers: &'a [u32],
    rows: &'a [Row],
    phases: impl FnOnce(&mut Crew<'a>) -> io::Result<()>,
) -> io::Result<Vec<Sample>> {
    fs::create_dir(root)?;
    let mut folders = Vec::new();
    for thread in 0..threads {
        let path = root.join(thread.to_string());
        fs::create_dir(&path)?;
        folders.push(Folder { dir: File::open(&path)?, files: 0 });
    }
    let mut crew = Crew { folders, limit, servers, samples: Vec::new(), rows };
    phases(&mut crew)?;
    fs::remove_dir_all(root)?;
    Ok(crew.samples)
}

/// create, stat, readdir, rename, unlink.
pub fn names(
    dir: &Path,
    threads: usize,
    limit: Duration,
    servers: &[u32],
    rows: &[Row],
) -> io::Result<Vec<Sample>> {
    let files_max = FILES_MAX / threads;
    with_folders(&dir.join("names"), threads, limit, servers, rows, |crew| {
        crew.phase(0, |folder, end| {
            folder.files = repeat(files_max, end, |n| {
                open_at(&folder.dir, &format!("f{n}"), NEW)?;
                Ok(())
            })?;
            Ok(folder.files)
        })?;
        thread::sleep(KERNEL_FORGETS);
        crew.phase(0, |folder, end| {
            repeat(folder.files, end, |n| {
                rustix::fs::statat(&folder.dir, format!("f{n}"), AtFlags::empty())?;
                Ok(())
            })
        })?;
        crew.phase(0, |folder, end| list_again_and_again(&folder.dir, end))?;
        crew.phase(0, |folder, end| {
            let renamed = repeat(folder.files, end, |n| {
                let (from, to) = (format!("f{n}"), format!("g{n}"));
                rustix::fs::renameat(&folder.dir, from, &folder.dir, to)?;
                Ok(())
            })?;
            // Those beyond keep their old names; `remove_dir_all` finds them.
            folder.files = renamed;
            Ok(renamed)
        })?;
        crew.phase(0, |folder, end| {
            repeat(folder.files, end, |n| {
                rustix::fs::unlinkat(&folder.dir, format!("g{n}"), AtFlags::empty())?;
                Ok(())
            })
        })
    })
}

/// Lists the folder until the end of time, at least once; returns the number of entries seen.
fn list_again_and_again(dir: &File, end: Instant) -> io::Result<usize> {
    let mut entries = 0;
    loop {
        for entry in Dir::read_from(dir)? {
            entry?;
            entries += 1;
        }
        if Instant::now() >= end {
            return Ok(entries);
        }
    }
}

/// 4 KiB files: created, written and closed; then opened, read and closed with cold caches.
pub fn small_files(
    dir: &Path,
    threads: usize,
    limit: Duration,
    servers: &[u32],
    rows: &[Row],
) -> io::Result<Vec<Sample>> {
    let files_max = FILES_MAX / threads;
    let content = Buffer::new(BLOCK, 5);
    with_folders(&dir.join("small"), threads, limit, servers, rows, |crew| {
        crew.phase(BLOCK, |folder, end| {
            folder.files = repeat(files_max, end, |n| {
                let file = open_at(&folder.dir, &format!("f{n}"), NEW)?;
                file.write_all_at(content.bytes(), 0)
            })?;
            Ok(folder.files)
        })?;
        make_cold(crew)?;
        crew.phase(BLOCK, |folder, end| {
            let mut buffer = [0; BLOCK];
            repeat(folder.files, end, |n| {
                let file = open_at(&folder.dir, &format!("f{n}"), OFlags::RDONLY)?;
                file.read_exact_at(&mut buffer, 0)
            })
        })
    })
}

/// Takes the content of all files out of the page cache, and lets the kernel forget their
/// attributes.
fn make_cold(crew: &Crew<'_>) -> io::Result<()> {
    for folder in &crew.folders {
        rustix::fs::syncfs(&folder.dir)?;
    }
    if !drop_all_pages() {
        for folder in &crew.folders {
            for n in 0..folder.files {
                let file = open_at(&folder.dir, &format!("f{n}"), OFlags::RDONLY)?;
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            }
        }
    }
    thread::sleep(KERNEL_FORGETS);
    Ok(())
}
