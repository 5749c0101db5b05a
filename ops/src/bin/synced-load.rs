//! `synced-load DIR LOG`: writes and fsyncs files in DIR with several threads, until standard input
//! ends, whatever fails meanwhile, and says in LOG, which lies elsewhere, what an fsync that
//! returned 0 has promised. `synced-load --verify DIR LOG` compares, in the form of `two-mounts`.
//!
//! fsync of a file promises its content, its length and its name; fsync of a folder promises what
//! was done to the names in it. No name is ever used again. A program for the reason that
//! `cross-load` gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use t3fs_ops::noise::Noise;

const THREADS: u64 = 4;
/// Files that are made before the first of them is synced: what a power loss takes.
const BATCH: u64 = 12;
/// Of a file, by turns.
const LENGTHS: [usize; 4] = [0, 100, 5_000, 70_000];
/// What is appended to some.
const MORE: usize = 3_000;
/// After an error.
const PAUSE: Duration = Duration::from_millis(20);

/// One line of the log. A file's number is also the seed of its content.
#[derive(Debug, Serialize, Deserialize)]
enum Event {
    Synced { file: u64, name: String, length: usize },
    Renaming { file: u64, to: String },
    Renamed { file: u64, from: String, to: String },
    Removing { file: u64 },
    Removed { file: u64 },
    Failed { why: String },
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["--verify", dir, log] => read_log(Path::new(log)).map(|events| {
            let promises = Promises::of(&events);
            let (tried, wrong) = promises.verify(Path::new(dir));
            println!("synced: {tried} tried, {} wrong", wrong.len());
            wrong.iter().take(10).for_each(|why| println!("    {why}"));
            wrong.is_empty()
        }),
        [dir, log] => run(Path::new(dir), Path::new(log)).map(|()| true),
        _ => {
            eprintln!("usage: synced-load [--verify] DIR LOG");
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

fn run(dir: &Path, log: &Path) -> io::Result<()> {
    let log = Log(Mutex::new(File::create_new(log)?));
    let stop = AtomicBool::new(false);
    for thread in 0..THREADS {
        fs::create_dir(dir.join(format!("t{thread}")))?;
    }
    File::open(dir)?.sync_all()?;
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (log, stop) = (&log, &stop);
            scope.spawn(move || {
                for batch in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(err) = write_batch(dir, thread, batch, log) {
                        log.say(&Event::Failed { why: format!("batch: {err}") });
                        thread::sleep(PAUSE);
                    }
                }
            });
        }
        // An error ends it as well.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        stop.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// Makes a folder of files, syncs each, then changes some.
fn write_batch(dir: &Path, thread: u64, batch: u64, log: &Log) -> io::Result<()> {
    let folder = format!("t{thread}/b{batch}");
    fs::create_dir(dir.join(&folder))?;
    let mut files = Vec::new();
    for n in 0..BATCH {
        let number = (thread << 40) | (batch << 8) | n;
        let name = format!("{folder}/f{n}");
        let length = LENGTHS[(n % 4) as usize];
        let mut file = File::create_new(dir.join(&name))?;
        file.write_all(&content(number, length))?;
        files.push((number, name, length, file));
    }
    for (file, name, length, open) in &files {
        let event = Event::Synced { file: *file, name: name.clone(), length: *length };
        log.after(open.sync_all(), "fsync of a new file", event);
    }
    for (n, (file, name, length, mut open)) in files.into_iter().enumerate() {
        let sync_folder = || File::open(dir.join(&folder))?.sync_all();
        match n / 4 {
            0 => {
                let longer = length + MORE;
                open.write_all(&content(file, longer)[length..])?;
                let event = Event::Synced { file, name, length: longer };
                log.after(open.sync_all(), "fsync after an append", event);
            }
            1 => {
                let to = format!("{name}.renamed");
                log.say(&Event::Renaming { file, to: to.clone() });
                fs::rename(dir.join(&name), dir.join(&to))?;
                let event = Event::Renamed { file, from: name, to };
                log.after(sync_folder(), "fsync after a rename", event);
            }
            _ if n % 2 == 0 => {
                log.say(&Event::Removing { file });
                fs::remove_file(dir.join(&name))?;
                log.after(sync_folder(), "fsync after an unlink", Event::Removed { file });
            }
            _ => {}
        }
    }
    Ok(())
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
                Event::Failed { .. } => {}
            }
        }
        Promises(files)
    }

    /// How many promises there are, and those that are broken.
    fn verify(&self, dir: &Path) -> (usize, Vec<String>) {
        let wrong = self.0.iter().filter_map(|(file, promise)| {
            let why = promise.broken(*file, dir)?;
            Some(format!("{:?}: {why}", promise.names.iter().chain(&promise.not)))
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
        write_batch(dir.path(), 0, 0, &log).expect("a batch");
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
        let synced = |event: &Event| !matches!(event, Event::Renamed { .. } | Event::Removed { .. });
        let events: Vec<Event> = events.into_iter().filter(synced).collect();
        fs::rename(at("f4.renamed"), at("f4")).expect("a file");
        assert_eq!(wrong(&dir, &events), 0);
    }
}
