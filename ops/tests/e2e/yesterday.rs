//! Goal: data of every earlier build is opened by this one, whole, and stays so. Method: each data
//! folder in `fixtures/`, made by the binary of a landed commit and killed at work, is mounted and
//! compared with what that build showed; then it is worked with, started again, and compared again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Mount, Site, binary, run, shell, skip_without};

/// Everything but contents, as `fixtures/make.sh` lists it.
const TREE: &str = r"LC_ALL=C find . -mindepth 1 ! -path './today*' \
    -printf '%y %m %n %U:%G %s %T@ %P|%l\n' | LC_ALL=C sort";
const SUMS: &str = "find . -type f ! -path './today*' -print0 | LC_ALL=C sort -z |
    xargs -0 sha256sum";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// What a command line prints, bytes and all.
fn prints(dir: &Path, line: &str) -> Vec<u8> {
    let done = shell(dir, line).output().expect("a shell");
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// The first line in which two listings differ.
fn difference(found: &[u8], wanted: &[u8]) -> Option<String> {
    let (mut found, mut wanted) = (found.split(|b| *b == b'\n'), wanted.split(|b| *b == b'\n'));
    loop {
        match (found.next(), wanted.next()) {
            (None, None) => return None,
            (found, wanted) if found == wanted => {}
            (found, wanted) => {
                let shown = |line: Option<&[u8]>| {
                    line.map_or("nothing".into(), |line| String::from_utf8_lossy(line).into_owned())
                };
                return Some(format!("is `{}`, was `{}`", shown(found), shown(wanted)));
            }
        }
    }
}

fn assert_same(mount: &Path, name: &str) {
    for (line, ending) in [(TREE, "tree"), (SUMS, "sums")] {
        let wanted = fs::read(fixtures().join(format!("{name}.{ending}"))).expect("what it was");
        let found = prints(mount, line);
        if let Some(difference) = difference(&found, &wanted) {
            panic!("{name}, {ending}: {difference}");
        }
    }
}

fn check(mount: &Path) {
    let said = run(Command::new(binary()).arg("check").arg(mount));
    assert!(said.contains(": 0 differences") && said.contains(": 0 problems"), "{said}");
}

fn opens(name: &str) {
    let site = Site::new("yesterday");
    let setup = site.setup(1);
    let packed = fixtures().join(format!("{name}.tar.gz"));
    run(Command::new("tar").arg("-C").arg(site.data(0)).arg("-xzf").arg(packed));
    let mut mount = Mount::with(site, setup);
    assert_same(&mount.dir(), name);
    check(&mount.dir());
    // Work with it: what it has is written over, and what this build adds is beside it.
    let dir = mount.dir();
    prints(
        &dir,
        "mkdir today && cp -r dir/deep many lines chunks today/ && sync . && cd today &&
         cmp lines ../lines && cmp chunks ../chunks && rm -r many && printf x >> lines",
    );
    let setup = mount.kill();
    mount.up(setup);
    assert_same(&dir, name);
    mount.restart();
    assert_same(&dir, name);
    check(&dir);
    prints(&dir, "rm -r today dir many small");
    check(&dir);
    mount.down();
}

#[test]
fn data_of_every_earlier_build_is_opened() {
    if skip_without(&["tar", "gzip"]) {
        return;
    }
    let mut names: Vec<String> = fs::read_dir(fixtures())
        .expect("the fixtures")
        .filter_map(|file| file.ok()?.file_name().into_string().ok())
        .filter_map(|file| file.strip_suffix(".tar.gz").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.iter().any(|name| name == "2026-11-30-47fcd2b"), "{names:?}");
    names.iter().for_each(|name| opens(name));
}
