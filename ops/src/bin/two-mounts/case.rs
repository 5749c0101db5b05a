//! What all cases use: the two folders, counts, and content in which nothing is lost unseen.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Instant;

use t3fs_ops::noise::Noise;

/// What went wrong, one line.
pub type Wrong = String;

/// How many of those are shown.
const EXAMPLES_MAX: usize = 3;

/// One folder, as two mounts show it.
pub struct Two {
    pub a: PathBuf,
    pub b: PathBuf,
    pub rounds: u32,
    /// No round begins later.
    pub until: Instant,
}

impl Two {
    pub fn rounds(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.rounds).take_while(|_| Instant::now() < self.until)
    }

    /// The same round after round: now A is first, now B.
    pub fn in_turn(&self, round: u32) -> (&Path, &Path) {
        if round.is_multiple_of(2) { (&self.a, &self.b) } else { (&self.b, &self.a) }
    }

    /// Opened anew, `name` holds exactly this on both mounts.
    pub fn both_hold(&self, name: &str, want: &[u8]) -> Result<(), Wrong> {
        holds(&self.a.join(name), want).map_err(|why| format!("A: {why}"))?;
        holds(&self.b.join(name), want).map_err(|why| format!("B: {why}"))
    }
}

/// How often a thing was tried, and how often it came out wrong.
#[derive(Default)]
pub struct Count {
    pub tried: u64,
    pub wrong: u64,
    pub examples: Vec<String>,
}

impl Count {
    pub fn expect(&mut self, what: impl Display, outcome: Result<(), Wrong>) {
        self.tried += 1;
        if let Err(why) = outcome {
            self.wrong += 1;
            if self.examples.len() < EXAMPLES_MAX {
                self.examples.push(format!("{what}: {why}"));
            }
        }
    }

    pub fn add(&mut self, other: Count) {
        self.tried += other.tried;
        self.wrong += other.wrong;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES_MAX);
    }
}

/// Says what was tried, where an error alone does not.
pub trait At<T> {
    fn at(self, what: &str) -> Result<T, Wrong>;
}

impl<T, E: Display> At<T> for Result<T, E> {
    fn at(self, what: &str) -> Result<T, Wrong> {
        self.map_err(|err| format!("{what}: {err}"))
    }
}

/// Bytes that depend on `seed` and never are zero, so that lost ones show. Shorter content is the
/// beginning of longer.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Noise::new(seed).fill(&mut bytes);
    bytes.iter_mut().for_each(|byte| *byte |= 1);
    bytes
}

pub fn appending(path: &Path) -> Result<File, Wrong> {
    OpenOptions::new().append(true).create(true).open(path).at("open to append")
}

pub fn holds(path: &Path, want: &[u8]) -> Result<(), Wrong> {
    same(&fs::read(path).at(&format!("read of {}", shown(path)))?, want)
        .map_err(|why| format!("{}: {why}", shown(path)))
}

pub fn shown(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub fn same(found: &[u8], want: &[u8]) -> Result<(), Wrong> {
    if found == want {
        return Ok(());
    }
    let zeros = found.iter().filter(|byte| **byte == 0).count();
    let wanted_zeros = want.iter().filter(|byte| **byte == 0).count();
    let first = found.iter().zip(want).position(|(a, b)| a != b);
    let start = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(20)]).into_owned();
    let text = if want.len() < 60 && want.is_ascii() {
        format!(", {:?} for {:?}", start(found), start(want))
    } else {
        String::new()
    };
    Err(format!(
        "{} bytes for {}, {zeros} zeros for {wanted_zeros}, first difference at {first:?}{text}",
        found.len(),
        want.len(),
    ))
}

/// Whether the answer is the wanted kind of error.
pub fn refused<T>(answer: std::io::Result<T>, want: std::io::ErrorKind) -> Result<(), Wrong> {
    match answer {
        Ok(_) => Err(format!("it succeeds, and should be {want}")),
        Err(err) if err.kind() == want => Ok(()),
        Err(err) => Err(format!("{err}, and should be {want}")),
    }
}
