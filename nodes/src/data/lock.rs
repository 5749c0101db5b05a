//! The lock of a data folder: flock(2) on `lock`, held for the life of the process. The kernel lets
//! go of it when the process ends, however it ends, so a held lock is a living process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

pub const NAME: &str = "lock";

/// Held until dropped.
#[derive(Debug)]
pub struct FolderLock(File);

/// What was found on trying.
#[derive(Debug)]
pub enum Tried {
    Locked(FolderLock),
    /// By this process, if it has written its id yet.
    Held(Option<u32>),
    /// There is no lock file: nobody has ever used this folder.
    None,
}

impl FolderLock {
    /// Takes the lock of a folder that has one; creates nothing.
    pub fn try_existing(folder: &Path) -> io::Result<Tried> {
        match OpenOptions::new().read(true).write(true).open(folder.join(NAME)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Tried::None),
            Err(e) => Err(e),
            Ok(file) => take(file),
        }
    }

    /// Takes the lock, making the lock file if need be.
    pub fn try_create(folder: &Path) -> io::Result<Tried> {
        let mut o = OpenOptions::new();
        o.read(true).write(true).create(true).truncate(false);
        std::os::unix::fs::OpenOptionsExt::mode(&mut o, 0o600);
        take(o.open(folder.join(NAME))?)
    }

    /// Writes this process's id for those who find the lock held.
    pub fn sign(&mut self) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        writeln!(self.0, "{}", std::process::id())
    }
}

fn take(mut file: File) -> io::Result<Tried> {
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Tried::Locked(FolderLock(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(Tried::Held(text.trim().parse().ok()))
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    //! Goal: one holder at a time, known by its id, and nothing made by looking.
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(FolderLock::try_existing(dir.path()).unwrap(), Tried::None));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let Tried::Locked(mut lock) = FolderLock::try_create(dir.path()).unwrap() else {
            panic!("free");
        };
        lock.sign().unwrap();
        let again = FolderLock::try_existing(dir.path()).unwrap();
        assert!(matches!(again, Tried::Held(Some(pid)) if pid == std::process::id()));
        drop(lock);
        assert!(matches!(FolderLock::try_existing(dir.path()).unwrap(), Tried::Locked(_)));
    }
}
