//! Goal: programs on two mounts of one cluster get what a file system promises them. Method: the
//! cases of the program `two-mounts`, each in a process of its own with a limit, on two mounts that
//! are processes beside a server's; afterwards nothing may be left of what was removed.

use std::process::Command;
use std::time::Duration;

use t3fs_ops::command;

use crate::harness::{Parts, is_nightly, run, skip_without_root};

/// A case ends by itself after a third of it, unless the mount hangs.
const CASE_LIMIT: Duration = Duration::from_secs(60);
/// One may be bad luck, for the counts of the others; with more there is nothing to learn.
const HANGS_MAX: usize = 3;
/// Until the content of files that nobody has open any more is gone.
const GARBAGE_LIMIT: Duration = Duration::from_secs(60);

#[test]
fn programs_on_two_mounts() {
    all_cases("twomounts", None);
}

/// Regression: what a file was asked for on one shard, and what was done to its name on another,
/// passed each other twice as often as on one.
#[test]
fn programs_on_two_mounts_of_four_shards() {
    all_cases("twomounts4", Some(4));
}

/// Goal: what goes wrong in a case is the mounts' doing. Method: the same cases in a folder of this
/// machine's own file system, which is on both of its sides.
#[test]
fn the_cases_are_right_about_a_plain_folder() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut program = Command::new(env!("CARGO_BIN_EXE_two-mounts"));
    print!("{}", run(program.args(["--rounds", "8"]).args([dir.path(), dir.path()])));
}

fn all_cases(name: &str, shards: Option<u32>) {
    if skip_without_root() {
        return;
    }
    let mut parts = Parts::new(name, shards);
    parts.all_in_one();
    let (a, b) = (parts.mount("a"), parts.mount("b"));
    let program = || Command::new(env!("CARGO_BIN_EXE_two-mounts"));
    let (mut wrong, mut hangs) = (Vec::new(), 0);
    for case in run(program().arg("--list")).lines() {
        let mut one = program();
        one.args([&a, &b]).arg(case);
        if is_nightly() {
            one.args(["--times", "10"]);
        }
        match command::finish(&mut one, CASE_LIMIT) {
            Ok(done) => {
                print!("{}{}", done.stdout, done.stderr);
                if !done.success() {
                    wrong.push(format!("{case}: {}\n{}{}", done.status, done.stdout, done.stderr));
                }
            }
            Err(why) => {
                println!("{case}: hangs");
                wrong.push(format!("{case} hangs: {why}"));
                hangs += 1;
                assert!(hangs < HANGS_MAX, "{}", wrong.join("\n"));
                for mount in ["a", "b"] {
                    parts.kill(mount);
                    parts.mount(mount);
                }
            }
        }
    }
    wrong.extend(parts.becomes_empty(&a, GARBAGE_LIMIT).err());
    assert!(wrong.is_empty(), "{} cases went wrong:\n{}", wrong.len(), wrong.join("\n"));
    parts.down("a");
    parts.down("b");
}
