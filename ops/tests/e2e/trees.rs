//! Goal: whole trees of real files go in and come out the same. Method: parts of the Rust toolchain
//! and of this project (at night the whole toolchain), copied, packed and synchronised by the usual
//! programs, compared by `diff -r`, also after a restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Mount, is_nightly, run, shell, skip_without};

/// Folders to copy: large binaries, and many small files.
fn sources() -> Vec<PathBuf> {
    let sysroot = run(Command::new("rustc").args(["--print", "sysroot"]));
    let sysroot = PathBuf::from(sysroot.trim());
    if is_nightly() {
        return vec![sysroot];
    }
    let root = t3fs_ops::workspace::root();
    let candidates = [
        sysroot.join("bin"),
        sysroot.join("lib/rustlib/etc"),
        root.join("actors"),
        root.join("ops"),
        PathBuf::from("/usr/include/linux"),
        PathBuf::from("/usr/share/zoneinfo"),
    ];
    candidates.into_iter().filter(|dir| dir.is_dir()).collect()
}

/// Many small files, a few hundred.
fn small_source() -> PathBuf {
    t3fs_ops::workspace::root().join("ops")
}

#[test]
fn a_copied_tree_is_the_same_also_after_a_restart() {
    if skip_without(&["cp", "diff", "rustc"]) {
        return;
    }
    let mut mount = Mount::new("tree");
    let sources = sources();
    // Two sources may have the same last name, so copies are numbered.
    let copies = |dir: PathBuf| (0..).map(move |number: usize| dir.join(number.to_string()));
    for (source, copy) in sources.iter().zip(copies(mount.dir())) {
        run(Command::new("cp").arg("-aT").arg(source).arg(copy));
    }
    let check = |mount: &Mount| {
        for (source, copy) in sources.iter().zip(copies(mount.dir())) {
            let mut diff = Command::new("diff");
            run(diff.args(["-r", "--no-dereference"]).arg(source).arg(copy));
        }
    };
    check(&mount);
    mount.restart();
    check(&mount);
    run(&mut shell(&mount.dir(), "rm -rf * && test -z \"$(ls -A)\""));
}

#[test]
fn tar_packs_and_unpacks() {
    if skip_without(&["tar", "diff"]) {
        return;
    }
    let mount = Mount::new("tar");
    let (parent, name) = split(&small_source());
    let archive = mount.path("archive.tar");
    run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&parent).arg(&name));
    run(shell(&mount.dir(), "mkdir out && tar -xf archive.tar -C out").arg("bash"));
    let unpacked = mount.path("out").join(&name);
    run(Command::new("diff").arg("-r").arg(small_source()).arg(unpacked));
    run(Command::new("tar").arg("-df").arg(&archive).arg("-C").arg(&parent));
}

#[test]
fn rsync_finds_nothing_left_to_do() {
    if skip_without(&["rsync"]) {
        return;
    }
    let mut mount = Mount::new("rsync");
    let source = format!("{}/", small_source().display());
    let copy = mount.path("copy");
    let sync = |extra: &[&str]| {
        let mut rsync = Command::new("rsync");
        run(rsync
            .args(["-aH", "--checksum", "--itemize-changes"])
            .args(extra)
            .arg(&source)
            .arg(&copy))
    };
    sync(&[]);
    mount.restart();
    assert_eq!(sync(&["--dry-run", "--delete"]), "", "differences after the copy");
    // Changed files are rewritten beside themselves and renamed over: rsync's way of updating.
    let changed = first_file(&copy);
    fs::write(&changed, "changed").expect("write");
    assert_ne!(sync(&[]), "");
    assert_eq!(sync(&["--dry-run", "--delete"]), "", "differences after the repair");
}

fn split(path: &Path) -> (PathBuf, PathBuf) {
    let name = path.file_name().expect("a named folder");
    (path.parent().expect("a parent").to_path_buf(), name.into())
}

fn first_file(dir: &Path) -> PathBuf {
    let entries = fs::read_dir(dir).expect("a folder");
    let mut files = entries.map(|entry| entry.expect("an entry").path());
    files.find(|path| path.is_file()).expect("a file")
}
