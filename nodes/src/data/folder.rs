//! One data folder, looked at without changing it, and files replaced without a torn state.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use super::identity::{ClusterFile, DiskFile, IdentityError};
use super::lock;
use crate::failure::{Failure, failed, refused};

/// What a folder holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub exists: bool,
    pub disk: Option<DiskFile>,
    pub cluster: Option<ClusterFile>,
    /// Something that is neither ours nor `lost+found`.
    pub foreign: Option<String>,
    /// Targets, store or anything else that only a finished creation makes.
    pub in_use: bool,
}

impl Found {
    /// Nothing in it is worth keeping: new, empty, or left by an interrupted creation.
    pub fn is_blank(&self) -> bool {
        self.cluster.is_none() && !self.in_use && self.foreign.is_none()
    }
}

/// Names that t3fs makes in a data folder.
pub fn is_ours(name: &str) -> bool {
    const LATER: [&str; 10] = [
        "targets",
        "kv",
        "starts",
        "starts.new",
        "control",
        "log",
        "secret",
        ClusterFile::NAME,
        "t3fs-store.toml",
        "t3fs-store.toml.new",
    ];
    is_early(name) || LATER.contains(&name)
}

/// Names that are there before a creation is finished.
fn is_early(name: &str) -> bool {
    const EARLY: [&str; 5] =
        [lock::NAME, DiskFile::NAME, "t3fs-disk.toml.new", "t3fs-cluster.toml.new", "log"];
    EARLY.contains(&name)
}

/// Looks at a folder.
pub fn look(folder: &Path) -> Result<Found, Failure> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        Err(e) => {
            return Err(refused(format!(
                "data folder {} cannot be read: {e}; check that it is a folder of yours",
                folder.display()
            )));
        }
    };
    let mut found = Found { exists: true, ..Found::default() };
    for entry in entries {
        let entry = entry.map_err(|e| unreadable(folder, &e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_ours(&name) && name != "lost+found" {
            found.foreign.get_or_insert(name);
        } else if !is_early(&name) && name != "lost+found" {
            found.in_use = true;
        }
    }
    found.disk = identity(&folder.join(DiskFile::NAME), DiskFile::parse)?;
    found.cluster = identity(&folder.join(ClusterFile::NAME), ClusterFile::parse)?;
    Ok(found)
}

fn unreadable(path: &Path, e: &io::Error) -> Failure {
    refused(format!("{} cannot be read: {e}; check the disk and its permissions", path.display()))
}

pub(super) fn identity<T>(
    path: &Path,
    parse: impl Fn(&str) -> Result<T, IdentityError>,
) -> Result<Option<T>, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(path, &e)),
    };
    parse(&text).map(Some).map_err(|e| {
        let shown = path.display();
        refused(match e {
            IdentityError::Newer(format) => format!(
                "{shown} has format {format}, this t3fs-node ({}) knows formats up to {}; use a \
                 newer t3fs-node",
                env!("CARGO_PKG_VERSION"),
                super::identity::FORMAT
            ),
            IdentityError::Damaged(why) => {
                format!("{shown} is damaged ({why}); restore it from a backup, nothing was changed")
            }
        })
    })
}

/// Absolute, without links and dots, also where its end does not exist yet.
pub fn resolve(path: &Path) -> Result<PathBuf, Failure> {
    let cannot = |e: io::Error| refused(format!("{} cannot be used: {e}", path.display()));
    let mut base = std::path::absolute(path).map_err(cannot)?;
    let mut rest = Vec::new();
    loop {
        match base.canonicalize() {
            Ok(real) => return Ok(rest.iter().rev().fold(real, |p, part| p.join(part))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // `canonicalize` also says so of a dangling link, which is no place for data.
                if base.symlink_metadata().is_ok() {
                    return Err(cannot(e));
                }
                let Some(Component::Normal(name)) = base.components().next_back() else {
                    return Err(cannot(e));
                };
                rest.push(name.to_owned());
                base.pop();
            }
            Err(e) => return Err(cannot(e)),
        }
    }
}

/// Makes the folder, with those above it. Only its owner may look in.
pub fn make(folder: &Path) -> Result<(), Failure> {
    let mut b = fs::DirBuilder::new();
    b.recursive(true);
    std::os::unix::fs::DirBuilderExt::mode(&mut b, 0o700);
    b.create(folder)
        .map_err(|e| failed(format!("cannot make the data folder {}: {e}", folder.display())))
}

/// Replaces a file: afterwards it holds this text or, after a crash, what it held before.
pub fn replace(folder: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let cannot =
        |e: io::Error| failed(format!("cannot write {}: {e}", folder.join(name).display()));
    let new = folder.join(format!("{name}.new"));
    let write = || -> io::Result<()> {
        let mut f = File::create(&new)?;
        f.write_all(text.as_bytes())?;
        f.sync_all()?;
        fs::rename(&new, folder.join(name))?;
        File::open(folder)?.sync_all()
    };
    write().map_err(cannot)
}

/// Free bytes of the file system that holds, or will hold, the folder.
pub fn free_bytes(folder: &Path) -> Result<u64, Failure> {
    file_system(folder).map(|s| s.f_bavail.saturating_mul(s.f_frsize))
}

/// Whether that file system has room for anything at all; those of the kernel itself have none.
pub fn keeps_files(folder: &Path) -> Result<bool, Failure> {
    file_system(folder).map(|s| s.f_blocks > 0)
}

fn file_system(folder: &Path) -> Result<rustix::fs::StatVfs, Failure> {
    let mut at = folder;
    loop {
        match rustix::fs::statvfs(at) {
            Ok(found) => return Ok(found),
            Err(rustix::io::Errno::NOENT) => match at.parent() {
                Some(parent) => at = parent,
                None => return Err(refused(format!("{} does not exist", folder.display()))),
            },
            Err(e) => return Err(unreadable(folder, &e.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what is found is what is there, and paths mean one place whatever way they are
    //! written.
    use super::*;

    #[test]
    fn a_path_is_resolved_up_to_where_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(resolve(&real.join("link/new/er")).unwrap(), real.join("new/er"));
        assert_eq!(resolve(&real.join("link/.")).unwrap(), real);
        std::os::unix::fs::symlink("nowhere", real.join("dangling")).unwrap();
        assert!(resolve(&real.join("dangling")).is_err());
    }

    #[test]
    fn foreign_files_are_seen_and_lost_found_is_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        assert!(look(dir.path()).unwrap().is_blank());
        fs::create_dir(dir.path().join("targets")).unwrap();
        assert!(look(dir.path()).unwrap().in_use);
        fs::write(dir.path().join("thesis.tex"), "").unwrap();
        assert_eq!(look(dir.path()).unwrap().foreign.as_deref(), Some("thesis.tex"));
    }

    #[test]
    fn free_space_of_a_folder_to_come_is_that_of_its_place() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(&dir.path().join("a/b/c")).unwrap() > 0);
        assert!(keeps_files(&dir.path().join("a/b/c")).unwrap());
        assert!(!keeps_files(Path::new("/proc/none")).unwrap());
    }
}
