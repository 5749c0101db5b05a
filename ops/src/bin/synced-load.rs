//! `synced-load LOG DIR..`: writes and fsyncs files with several threads, until standard input
//! ends, whatever fails meanwhile, and says in LOG, which lies elsewhere, what an fsync that
//! returned 0 has promised. Each DIR is the same folder on another mount.
//! `synced-load --verify LOG DIR` compares, in the form of `two-mounts`.
//!
//! fsync of a file promises its content, its length and its name; fsync of a folder promises what
//! was done to the names in it. No name is ever used again. A program for the reason that
//! `cross-load` gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use t3fs_ops::noise::Noise;

/// On each mount.
const THREADS: usize = 4;
/// Files that are made before the first of them is synced: what a power loss takes.
const BATCH: u64 = 12;
/// Of a file, by turns.
const LENGTHS: [usize; 4] = [0, 100, 5_000, 70_000];
/// What is appended to some.
const MORE: usize = 3_000;
/// How long all is made and nothing is synced.
const UNSYNCED: Duration = Duration::from_millis(25);
/// After an error.
const PAUSE: Duration = Duration::from_millis(20);

/// One line of the log. A file's number is also the seed of its content.
#[derive(Debug, Serialize, Deserialize)]
enum Event {
    /// From here until the next promise, what is new is not synced.
    Made,
    Synced {
        file: u64,
        name: String,
        length: usize,
    },
    Renaming {
        file: u64,
        to: String,
    },
    Renamed {
        file: u64,
        from: String,
        to: String,
    },
    Removing {
        file: u64,
    },
    Removed {
        file: u64,
    },
    Failed {
        why: String,
    },
}

fn main() -> ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let outcome = match &args[..] {
        [flag, log, dir] if flag == Path::new("--verify") => read_log(log).map(|events| {
            let (tried, wrong) = Promises::of(&events).verify(dir);
            println!("synced: {tried} tried, {} wrong", wrong.len());
            wrong.iter().take(10).for_each(|why| println!("    {why}"));
            wrong.is_empty()
        }),
        [log, dirs @ ..] if !dirs.is_empty() => run(log, dirs).map(|()| true),
        _ => {
            eprintln!("usage: synced-load LOG DIR.. | synced-load --verify LOG DIR");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("synced-load: {err}");
            ExitCode::from(2)
        }
    }
}

struct Log(Mutex<File>);

impl Log {
    fn say(&self, event: &Event) {
        let mut line = serde_json::to_string(event).expect("plain data");
        line.push('\n');
        let mut file = self.0.lock().expect("nobody panics with it");
        file.write_all(line.as_bytes()).expect("the log is on a disk that works");
    }

    /// Says what was promised once `outcome` is known to be none, else that it failed.
    fn after(&self, outcome: io::Result<()>, what: &str, event: Event) {
        match outcome {
            Ok(()) => self.say(&event),
            Err(err) => self.say(&Event::Failed { why: format!("{what}: {err}") }),
        }
    }
}

/// In rounds, all threads at a time: first all make files, and nobody syncs, so that much is there
/// only in memory; then all sync.
fn run(log: &Path, dirs: &[PathBuf]) -> io::Result<()> {
    let log = Log(Mutex::new(File::create_new(log)?));
    let threads: Vec<PathBuf> = (0..dirs.len() * THREADS)
        .map(|thread| dirs[thread % dirs.len()].join(format!("t{thread}")))
        .collect();
    threads.iter().try_for_each(fs::create_dir)?;
    File::open(&dirs[0])?.sync_all()?;
    let stop = stopped_by_standard_input();
    for batch in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let made: Vec<io::Result<Batch>> = thread::scope(|scope| {
            let number = |thread: usize| ((thread as u64) << 40) | (batch << 8);
            let made: Vec<_> = (threads.iter().enumerate())
                .map(|(thread, dir)| scope.spawn(move || Batch::make(dir, number(thread))))
                .collect();
            made.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        log.say(&Event::Made);
        thread::sleep(UNSYNCED);
        thread::scope(|scope| {
            for made in made {
                let log = &log;
                scope.spawn(move || {
                    if let Err(err) = made.and_then(|batch| batch.sync(log)) {
                        log.say(&Event::Failed { why: format!("batch: {err}") });
                        thread::sleep(PAUSE);
                    }
                });
            }
        });
    }
    Ok(())
}

/// True once standard input has ended, with whoever held its other end.
fn stopped_by_standard_input() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    thread::spawn(move || {
        // An error ends it as well.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        stopped.store(true, Ordering::Relaxed);
    });
    stop
}

/// A folder of files that are made and not synced.
struct Batch {
    /// Of a thread.
    dir: PathBuf,
    /// Number, name, length.
    files: Vec<(u64, String, usize, File)>,
}

impl Batch {
    /// Numbers from `first` on.
    fn make(dir: &Path, first: u64) -> io::Result<Batch> {
        let folder = format!("b{first}");
        fs::create_dir(dir.join(&folder))?;
        let mut files = Vec::new();
        for n in 0..BATCH {
            let name = format!("{folder}/f{n}");
            let length = LENGTHS[(n % 4) as usize];
            let mut file = File::create_new(dir.join(&name))?;
            file.write_all(&content(first + n, length))?;
            files.push((first + n, name, length, file));
        }
        Ok(Batch { dir: dir.to_owned(), files })
    }

    /// As the log names it: relative to the folder that all threads have.
    fn shown(&self, name: &str) -> String {
        let thread = self.dir.file_name().unwrap_or_default();
        format!("{}/{name}", thread.to_string_lossy())
    }

    /// Syncs each file, then changes some.
    fn sync(self, log: &Log) -> io::Result<()> {
        for (file, name, length, open) in &self.files {
            let event = Event::Synced { file: *file, name: self.shown(name), length: *length };
            log.after(open.sync_all(), "fsync of a new file", event);
        }
        for (n, (file, name, length, open)) in self.files.iter().enumerate() {
            let mut open = open;
            let (file, from, path) = (*file, self.shown(name), self.dir.join(name));
            let sync_folder = || File::open(path.parent().expect("a folder"))?.sync_all();
            match n / 4 {
                0 => {
                    let longer = length + MORE;
                    open.write_all(&content(file, longer)[*length..])?;
                    let event = Event::Synced { file, name: from, length: longer };
                    log.after(open.sync_all(), "fsync after an append", event);
                }
                1 => {
                    let to = format!("{from}.renamed");
                    log.say(&Event::Renaming { file, to: to.clone() });
                    fs::rename(&path, path.with_extension("renamed"))?;
                    let event = Event::Renamed { file, from, to };
                    log.after(sync_folder(), "fsync after a rename", event);
                }
                _ if n % 2 == 0 => {
                    log.say(&Event::Removing { file });
                    fs::remove_file(&path)?;
                    log.after(sync_folder(), "fsync after an unlink", Event::Removed { file });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Shorter content is the beginning of longer; no byte is zero.
fn content(file: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length.next_multiple_of(8)];
    Noise::new(file).fill(&mut bytes);
    bytes.truncate(length);
    bytes.iter_mut().for_each(|byte| *byte |= 1);
    bytes
}

fn read_log(log: &Path) -> io::Result<Vec<Event>> {
    let text = fs::read_to_string(log)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
}

/// What the log says of one file.
#[derive(Default)]
struct Promise {
    /// One of these it is called.
    names: BTreeSet<String>,
    /// None of these.
    not: BTreeSet<String>,
    length: usize,
    may_be_gone: bool,
}

/// Of all files that were synced, by number.
struct Promises(BTreeMap<u64, Promise>);

impl Promises {
    fn of(events: &[Event]) -> Promises {
        let mut files: BTreeMap<u64, Promise> = BTreeMap::new();
        for event in events {
            match event {
                Event::Synced { file, name, length } => {
                    let promise = files.entry(*file).or_default();
                    promise.names = BTreeSet::from([name.clone()]);
                    promise.length = *length;
                }
                // A file whose own fsync failed may be gone, with whatever name.
                Event::Renaming { file, to } => {
                    files.entry(*file).and_modify(|p| _ = p.names.insert(to.clone()));
                }
                Event::Renamed { file, from, to } => {
                    files.entry(*file).and_modify(|p| {
                        p.names = BTreeSet::from([to.clone()]);
                        p.not.insert(from.clone());
                    });
                }
                Event::Removing { file } => {
                    files.entry(*file).and_modify(|p| p.may_be_gone = true);
                }
                Event::Removed { file } => {
                    files.entry(*file).and_modify(|p| {
                        let names = std::mem::take(&mut p.names);
                        p.not.extend(names);
                    });
                }
                Event::Made | Event::Failed { .. } => {}
            }
        }
        Promises(files)
    }

    /// How many promises there are, and those that are broken.
    fn verify(&self, dir: &Path) -> (usize, Vec<String>) {
        let wrong = self.0.iter().filter_map(|(file, promise)| {
            let why = promise.broken(*file, dir)?;
            Some(format!("file {file}: {why}"))
        });
        (self.0.len(), wrong.collect())
    }
}

impl Promise {
    fn broken(&self, file: u64, dir: &Path) -> Option<String> {
        for name in &self.not {
            match fs::metadata(dir.join(name)) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Some(format!("{name}: {err}")),
                Ok(_) => return Some(format!("{name} is there again")),
            }
        }
        let mut said = String::new();
        for name in &self.names {
            match fs::read(dir.join(name)) {
                Ok(found) => return self.differs(file, &found),
                Err(err) => _ = write!(said, "{name}: {err}; "),
            }
        }
        let wanted = !self.names.is_empty() && !self.may_be_gone;
        wanted.then(|| format!("missing: {said}"))
    }

    /// What was appended and not synced may be there.
    fn differs(&self, file: u64, found: &[u8]) -> Option<String> {
        if found.len() < self.length {
            return Some(format!("{} bytes of {}", found.len(), self.length));
        }
        let want = content(file, self.length);
        let first = found.iter().zip(&want).position(|(a, b)| a != b)?;
        Some(format!("byte {first} is {:#04x} for {:#04x}", found[first], want[first]))
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what was promised is missed, and nothing else. Method: a folder of batches, with their
    //! log, then damaged.
    use super::*;

    /// A folder with one batch, and what its log says.
    fn sample() -> (tempfile::TempDir, Vec<Event>) {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("t0")).expect("a folder");
        let path = dir.path().join("log");
        let log = Log(Mutex::new(File::create_new(&path).expect("a log")));
        let batch = Batch::make(&dir.path().join("t0"), 0).expect("a batch");
        batch.sync(&log).expect("a batch");
        let events = read_log(&path).expect("a log");
        (dir, events)
    }

    fn wrong(dir: &tempfile::TempDir, events: &[Event]) -> usize {
        let (tried, wrong) = Promises::of(events).verify(dir.path());
        assert_eq!(tried, BATCH as usize);
        wrong.len()
    }

    #[test]
    fn what_is_there_is_right() {
        let (dir, events) = sample();
        assert_eq!(wrong(&dir, &events), 0);
    }

    #[test]
    fn what_is_missing_is_wrong() {
        let (dir, events) = sample();
        let at = |name: &str| dir.path().join("t0/b0").join(name);
        fs::remove_file(at("f9")).expect("a file");
        assert_eq!(wrong(&dir, &events), 1);
        fs::rename(at("f4.renamed"), at("f4")).expect("a file");
        assert_eq!(wrong(&dir, &events), 2);
        fs::write(at("f8"), "").expect("a name that was removed");
        assert_eq!(wrong(&dir, &events), 3);
        fs::write(at("f3"), vec![1; 70_000 + MORE]).expect("other content");
        assert_eq!(wrong(&dir, &events), 4);
        File::options().write(true).open(at("f1")).and_then(|f| f.set_len(100)).expect("shorter");
        assert_eq!(wrong(&dir, &events), 5);
    }

    #[test]
    fn what_was_not_synced_may_be_missing() {
        let (dir, events) = sample();
        let at = |name: &str| dir.path().join("t0/b0").join(name);
        let synced =
            |event: &Event| !matches!(event, Event::Renamed { .. } | Event::Removed { .. });
        let events: Vec<Event> = events.into_iter().filter(synced).collect();
        fs::rename(at("f4.renamed"), at("f4")).expect("a file");
        assert_eq!(wrong(&dir, &events), 0);
    }
}
