//! Random operations on a folder, one after the other, each in the log.
//!
//! Files stay open, so that written data may still sit in any buffer of the file system when it
//! dies.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::content;
use super::log::{FileId, LogWriter, Op};
use super::model::{Entry, Namespace};
use crate::noise::Noise;

const FILES_MAX: usize = 48;
const DIRS_MAX: usize = 8;
const FILE_BYTES_MAX: u64 = 2 << 20;
const WRITE_BYTES_MAX: u64 = 300 << 10;

pub struct Writer {
    dir: PathBuf,
    log: LogWriter,
    noise: Noise,
    names: Namespace,
    open: BTreeMap<FileId, File>,
    /// Source of file numbers, names and seeds.
    next: u64,
}

impl Writer {
    /// `dir` is an empty folder on the file system under test; `log` a new file elsewhere.
    pub fn new(dir: &Path, log: &Path, seed: u64) -> io::Result<Writer> {
        Ok(Writer {
            dir: dir.to_path_buf(),
            log: LogWriter::create(log)?,
            noise: Noise::new(seed),
            names: Namespace::default(),
            open: BTreeMap::new(),
            next: 0,
        })
    }

    /// Chooses one operation and does it.
    ///
    /// # Errors
    /// Whatever the file system answered; the operation is then in the log without an end.
    pub fn step(&mut self) -> io::Result<()> {
        let Some(op) = self.choose() else {
            return Ok(());
        };
        let (dir, open) = (&self.dir, &mut self.open);
        self.log.around(&op, || execute(dir, open, &op))?;
        self.names.apply(&op);
        // Without its name a file is of no more interest.
        let named: Vec<FileId> = files(&self.names).map(|(_, file)| file).collect();
        self.open.retain(|file, _| named.contains(file));
        Ok(())
    }

    /// `None` where the dice chose something that cannot be done now.
    fn choose(&mut self) -> Option<Op> {
        match self.below(100) {
            0..15 => self.create(),
            15..58 => self.write(),
            58..74 => Some(Op::Fsync { file: self.any_file()?.1 }),
            74..77 => Some(Op::FsyncDir { path: self.any_dir() }),
            77..87 => self.rename(),
            87..93 => Some(Op::Unlink { path: self.any_file()?.0 }),
            93..97 => self.mkdir(),
            _ => {
                let path = self.any_dir();
                let removable = !path.is_empty() && self.names.is_empty_dir(&path);
                removable.then_some(Op::Rmdir { path })
            }
        }
    }

    fn create(&mut self) -> Option<Op> {
        if files(&self.names).count() >= FILES_MAX {
            return None;
        }
        let file = self.fresh();
        Some(Op::Create { path: self.new_path("f"), file })
    }

    fn write(&mut self) -> Option<Op> {
        let (_, file) = self.any_file()?;
        let seed = self.fresh();
        // Small and unaligned, one page, or many: each takes another way to the disk.
        let (offset, length) = match self.below(3) {
            0 => (self.below(FILE_BYTES_MAX), 1 + self.below(200)),
            1 => (self.below(FILE_BYTES_MAX / 4096) * 4096, 4096),
            _ => (self.below(FILE_BYTES_MAX), 1 + self.below(WRITE_BYTES_MAX)),
        };
        Some(Op::Write { file, offset, length, seed })
    }

    fn rename(&mut self) -> Option<Op> {
        match self.below(4) {
            // Over another file, which loses its name.
            0 => {
                let (from, to) = (self.any_file()?.0, self.any_file()?.0);
                (from != to).then_some(Op::Rename { from, to })
            }
            1 => {
                let from = self.any_dir();
                let to = self.new_path("d");
                let into_itself = to.starts_with(&format!("{from}/"));
                (!from.is_empty() && !into_itself).then_some(Op::Rename { from, to })
            }
            _ => Some(Op::Rename { from: self.any_file()?.0, to: self.new_path("f") }),
        }
    }

    fn mkdir(&mut self) -> Option<Op> {
        let dirs = self.names.entries.values().filter(|entry| **entry == Entry::Dir).count();
        (dirs < DIRS_MAX).then(|| Op::Mkdir { path: self.new_path("d") })
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.noise.word() % limit
    }

    /// A path that was never used, in any folder.
    fn new_path(&mut self, prefix: &str) -> String {
        let dir = self.any_dir();
        let name = format!("{prefix}{}", self.fresh());
        if dir.is_empty() { name } else { format!("{dir}/{name}") }
    }

    fn any_file(&mut self) -> Option<(String, FileId)> {
        let count = files(&self.names).count() as u64;
        if count == 0 {
            return None;
        }
        let chosen = self.below(count) as usize;
        files(&self.names).nth(chosen).map(|(path, file)| (path.clone(), file))
    }

    /// Empty for the writer's own folder.
    fn any_dir(&mut self) -> String {
        let is_dir =
            |(path, entry): (&String, &Entry)| (*entry == Entry::Dir).then(|| path.clone());
        let mut dirs: Vec<String> = self.names.entries.iter().filter_map(is_dir).collect();
        dirs.push(String::new());
        let chosen = self.below(dirs.len() as u64) as usize;
        dirs.swap_remove(chosen)
    }
}

fn files(names: &Namespace) -> impl Iterator<Item = (&String, FileId)> {
    names.entries.iter().filter_map(|(path, entry)| match entry {
        Entry::File(file) => Some((path, *file)),
        Entry::Dir => None,
    })
}

/// Does `op` in `dir`. Also how the check's own tests make a folder that a crash could have left.
pub fn execute(dir: &Path, open: &mut BTreeMap<FileId, File>, op: &Op) -> io::Result<()> {
    let at = |path: &String| dir.join(path);
    let opened = |file| open.get(file).ok_or_else(|| io::Error::other("a file without a name"));
    match op {
        Op::Mkdir { path } => fs::create_dir(at(path)),
        Op::Rmdir { path } => fs::remove_dir(at(path)),
        Op::Unlink { path } => fs::remove_file(at(path)),
        Op::Rename { from, to } => fs::rename(at(from), at(to)),
        Op::Create { path, file } => {
            open.insert(*file, File::create_new(at(path))?);
            Ok(())
        }
        Op::Write { file, offset, length, seed } => {
            let mut bytes = vec![0; *length as usize];
            content(*seed, *offset, &mut bytes);
            opened(file)?.write_all_at(&bytes, *offset)
        }
        Op::Fsync { file } => opened(file)?.sync_all(),
        Op::FsyncDir { path } => File::open(at(path))?.sync_all(),
    }
}
