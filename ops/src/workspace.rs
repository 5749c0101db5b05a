//! Where things are: the root of the work tree, cargo's target folder, binaries, source files.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The members of the workspace, in the order of their layers.
pub const MEMBERS: [&str; 7] =
    ["runtime", "actors", "transport", "nodes", "sim", "ops", "ops/fuzz"];

/// The root of the work tree that this process was started for.
///
/// cargo sets `CARGO_MANIFEST_DIR` for everything it runs; the value seen at compile time serves a
/// binary that is started by hand.
pub fn root() -> PathBuf {
    let manifest_dir =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let mut dir = PathBuf::from(manifest_dir);
    dir.pop();
    dir
}

/// cargo's target folder, as cargo itself would choose it without a `--target-dir`.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// A binary of the workspace as built with `profile` (`ci` or `release`).
pub fn binary(profile: &str, name: &str) -> PathBuf {
    target_dir().join(profile).join(name)
}

/// Every `.rs` file of the members, as paths relative to `root`, sorted.
pub fn rust_files(root: &Path) -> io::Result<Vec<PathBuf>> {
    member_files(root, |path| path.extension().is_some_and(|ext| ext == "rs"))
}

/// Every golden file of the members, likewise: `golden.txt`, and `.txt` in a folder `golden`.
pub fn golden_files(root: &Path) -> io::Result<Vec<PathBuf>> {
    member_files(root, |path| {
        let folder = path.parent().and_then(Path::file_name);
        path.ends_with("golden.txt")
            || folder.is_some_and(|name| name == "golden")
                && path.extension().is_some_and(|ext| ext == "txt")
    })
}

/// Every file of the members, likewise.
pub fn files(root: &Path) -> io::Result<Vec<PathBuf>> {
    member_files(root, |_| true)
}

fn member_files(root: &Path, wanted: impl Fn(&Path) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for member in MEMBERS {
        let dir = root.join(member);
        if dir.is_dir() {
            collect_files(&dir, &mut found)?;
        }
    }
    let mut relative: Vec<PathBuf> = found
        .into_iter()
        .filter(|path| wanted(path))
        .map(|path| path.strip_prefix(root).map(Path::to_path_buf).unwrap_or(path))
        .collect();
    relative.sort();
    relative.dedup(); // one member lies in another
    Ok(relative)
}

fn collect_files(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        // A `target` folder inside a member is cargo's, made by a build started in that folder.
        if kind.is_dir() && entry.file_name() != "target" {
            collect_files(&path, found)?;
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(())
}
