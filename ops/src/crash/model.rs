//! The namespace that a prefix of the operations leads to.

use std::collections::BTreeMap;

use super::log::{FileId, Op};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Dir,
    File(FileId),
}

/// Every path below the writer's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    pub entries: BTreeMap<String, Entry>,
}

impl Namespace {
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Mkdir { path } => {
                self.entries.insert(path.clone(), Entry::Dir);
            }
            Op::Create { path, file } => {
                self.entries.insert(path.clone(), Entry::File(*file));
            }
            Op::Rmdir { path } | Op::Unlink { path } => {
                self.entries.remove(path);
            }
            Op::Rename { from, to } => self.rename(from, to),
            Op::Write { .. } | Op::Fsync { .. } | Op::FsyncDir { .. } => {}
        }
    }

    /// Moves `from` and all below it; what was called `to` before is gone.
    fn rename(&mut self, from: &str, to: &str) {
        let below = format!("{from}/");
        let moved: Vec<String> = self
            .entries
            .keys()
            .filter(|path| *path == from || path.starts_with(&below))
            .cloned()
            .collect();
        self.entries.remove(to);
        for path in moved {
            if let Some(entry) = self.entries.remove(&path) {
                self.entries.insert(format!("{to}{}", &path[from.len()..]), entry);
            }
        }
    }

    pub fn is_empty_dir(&self, path: &str) -> bool {
        let below = format!("{path}/");
        !self.entries.keys().any(|other| other.starts_with(&below))
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a rename moves a folder with its content and nothing beside it.
    use super::*;

    #[test]
    fn rename_moves_whole_folders() {
        let mut names = Namespace::default();
        for (path, entry) in [("a", Entry::Dir), ("a/f", Entry::File(1)), ("ab", Entry::Dir)] {
            names.entries.insert(path.into(), entry);
        }
        names.apply(&Op::Rename { from: "a".into(), to: "c".into() });
        let paths: Vec<&str> = names.entries.keys().map(String::as_str).collect();
        assert_eq!(paths, ["ab", "c", "c/f"]);
        assert!(names.is_empty_dir("ab") && !names.is_empty_dir("c"));
    }
}
