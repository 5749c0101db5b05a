//! A file is cut while a writer has it open. What the writer's fsync then promises is there, no
//! byte of what was cut comes back, and whatever lies between reads as zeros.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::case::{At, Count, Two, Wrong, content, same};
use crate::names::at_once;

/// Who cuts.
#[derive(Clone, Copy, PartialEq)]
enum Cutter {
    /// The other mount.
    There,
    /// This mount, through a descriptor that was open before.
    Handle,
    /// This mount, opening the file for it.
    Path,
}

/// Where the writer writes after the cut.
#[derive(Clone, Copy, Debug)]
enum Place {
    Start,
    /// Where its descriptor stands: at the old end.
    OldEnd,
    /// With O_APPEND.
    NewEnd,
    /// It writes nothing.
    Nowhere,
}

const PLACES: [Place; 4] = [Place::Start, Place::OldEnd, Place::NewEnd, Place::Nowhere];
/// Within a page, within a chunk, several chunks.
const SIZES: [usize; 3] = [3_000, 100_000, 2_500_000];

pub fn there(two: &Two) -> Count {
    all(two, Cutter::There)
}

pub fn here_by_handle(two: &Two) -> Count {
    all(two, Cutter::Handle)
}

pub fn here_by_path(two: &Two) -> Count {
    all(two, Cutter::Path)
}

fn all(two: &Two, cutter: Cutter) -> Count {
    let mut count = Count::default();
    for round in two.rounds() {
        for size in SIZES {
            for cut in [0, size / 3] {
                for place in PLACES {
                    // What another mount has not written back yet it may write after the cut.
                    let dirty_too = cutter != Cutter::There;
                    for dirty in [false, true].into_iter().filter(|dirty| dirty_too || !dirty) {
                        let trial = Trial { size, cut, place, dirty, cutter };
                        let name = format!("f{round}-{}", count.tried);
                        let what = format!(
                            "{size} bytes{} cut to {cut}, write at {place:?}",
                            if dirty { ", not synced," } else { "" },
                        );
                        count.expect(what, trial.run(two, &name));
                    }
                }
            }
        }
    }
    count
}

struct Trial {
    size: usize,
    cut: usize,
    place: Place,
    dirty: bool,
    cutter: Cutter,
}

impl Trial {
    fn run(&self, two: &Two, name: &str) -> Result<(), Wrong> {
        let (mine, theirs) = (two.a.join(name), two.b.join(name));
        let mut file = OpenOptions::new()
            .read(true)
            .create_new(true)
            .append(matches!(self.place, Place::NewEnd))
            .write(true)
            .open(&mine)
            .at("create")?;
        let mut model = content(7, self.size);
        file.write_all(&model).at("first write")?;
        if !self.dirty {
            file.sync_all().at("first fsync")?;
        }
        let cut_to = self.cut as u64;
        match self.cutter {
            Cutter::There => cut(&theirs, cut_to)?,
            Cutter::Path => cut(&mine, cut_to)?,
            Cutter::Handle => {
                let other = OpenOptions::new().write(true).open(&mine).at("second descriptor")?;
                other.set_len(cut_to).at("ftruncate")?;
            }
        }
        model.truncate(self.cut);
        self.write(&mut file, &mut model)?;
        file.sync_all().at("fsync")?;
        let length = file.metadata().at("fstat")?.len();
        if length != model.len() as u64 {
            return Err(format!("fstat after fsync: {length} bytes for {}", model.len()));
        }
        through(&mut file, &model).map_err(|why| format!("through its descriptor: {why}"))?;
        two.both_hold(name, &model)?;
        // Longer than it ever was: nothing comes back.
        let longer = self.size + 5_000;
        cut(if self.cutter == Cutter::There { &theirs } else { &mine }, longer as u64)?;
        model.resize(longer, 0);
        two.both_hold(name, &model).map_err(|why| format!("made longer: {why}"))?;
        drop(file);
        two.both_hold(name, &model).map_err(|why| format!("closed: {why}"))?;
        fs::remove_file(mine).at("unlink")
    }

    fn write(&self, file: &mut File, model: &mut Vec<u8>) -> Result<(), Wrong> {
        let new = content(8, 700);
        let at = match self.place {
            Place::Start => {
                file.write_all_at(&new, 0).at("write")?;
                0
            }
            Place::OldEnd => {
                file.write_all(&new).at("write")?;
                self.size
            }
            Place::NewEnd => {
                file.write_all(&new).at("write")?;
                self.cut
            }
            Place::Nowhere => return Ok(()),
        };
        if model.len() < at + new.len() {
            model.resize(at + new.len(), 0);
        }
        model[at..at + new.len()].copy_from_slice(&new);
        Ok(())
    }
}

pub fn there_at_once(two: &Two) -> Count {
    while_written(two, &two.b)
}

pub fn here_at_once(two: &Two) -> Count {
    while_written(two, &two.a)
}

/// Write and cut at the same time: one came first. It is the same to both mounts, and stays so when
/// the file becomes longer.
fn while_written(two: &Two, cutter: &Path) -> Count {
    let mut count = Count::default();
    for round in two.rounds() {
        let size = SIZES[round as usize % 2];
        let at = if round % 4 < 2 { 0 } else { size };
        let keep = if round % 8 < 4 { 0 } else { size / 3 };
        let what = format!("round {round}, {size} bytes cut to {keep}, write at {at}");
        count.expect(what, while_written_once(two, cutter, &format!("f{round}"), size, at, keep));
    }
    count
}

fn while_written_once(
    two: &Two,
    cutter: &Path,
    name: &str,
    size: usize,
    at: usize,
    keep: usize,
) -> Result<(), Wrong> {
    let path = two.a.join(name);
    let (old, new) = (content(7, size), content(8, 700));
    fs::write(&path, &old).at("create")?;
    let file = OpenOptions::new().write(true).open(&path).at("open")?;
    file.sync_all().at("first fsync")?;
    let write = || {
        file.write_all_at(&new, at as u64).at("write")?;
        file.sync_all().at("fsync")
    };
    let (written, was_cut) = at_once(write, || cut(&cutter.join(name), keep as u64));
    written.and(was_cut)?;
    let put = |mut bytes: Vec<u8>| {
        bytes.resize(bytes.len().max(at + new.len()), 0);
        bytes[at..at + new.len()].copy_from_slice(&new);
        bytes
    };
    let cut_first = put(old[..keep].to_vec());
    let mut write_first = put(old);
    write_first.truncate(keep);
    let mut model = match two.both_hold(name, &cut_first) {
        Ok(()) => cut_first,
        Err(one) => {
            let neither = |other| format!("neither cut first ({one}) nor write first ({other})");
            two.both_hold(name, &write_first).map_err(neither)?;
            write_first
        }
    };
    drop(file);
    model.resize(size + 5_000, 0);
    cut(&path, model.len() as u64)?;
    two.both_hold(name, &model).map_err(|why| format!("made longer: {why}"))
}

/// truncate(2), which opens nothing, is out of reach without `unsafe`; this is what the program
/// `truncate` does.
fn cut(path: &Path, length: u64) -> Result<(), Wrong> {
    let file = OpenOptions::new().write(true).open(path).at("open to cut")?;
    file.set_len(length).at("cut")
}

fn through(file: &mut File, want: &[u8]) -> Result<(), Wrong> {
    let mut found = Vec::new();
    file.seek(SeekFrom::Start(0)).at("seek")?;
    file.read_to_end(&mut found).at("read")?;
    same(&found, want)
}
