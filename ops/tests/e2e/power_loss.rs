//! Goal: no fsync that returned 0 is broken when the host of the metadata store loses its power.
//! Method: kv is a process of its own with its state on a file system of its own, which is shut
//! down under load so that all is gone that was not synced; then it starts again on what is there.
//! The program `synced-load` says on another disk what it was promised, and goes on through the
//! losses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use t3fs_ops::command::{self, poll_until};
use t3fs_ops::noise::Noise;

use crate::harness::{Parts, is_nightly, program_limit, skip_without, skip_without_root};
use crate::loop_disk::LoopDisk;

/// For the load to go on after the store has come back: others must find it again.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Promises that show that it goes on.
const PROGRESS: usize = 60;

/// A load, and where it says what it was promised.
struct Load {
    log: PathBuf,
    program: Child,
}

impl Drop for Load {
    fn drop(&mut self) {
        // After a failure. It has been waited for otherwise.
        let _ = self.program.kill();
    }
}

impl Load {
    fn start(log: PathBuf, dirs: &[PathBuf]) -> Load {
        fs::create_dir(&dirs[0]).expect("a folder");
        let mut load = Command::new(env!("CARGO_BIN_EXE_synced-load"));
        load.arg(&log).args(dirs).stdin(Stdio::piped());
        Load { log, program: load.spawn().expect("synced-load") }
    }

    /// Lines with `word` in its log.
    fn said(&self, word: &str) -> usize {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(word)).count()
    }

    /// Waits until it has made what it syncs in a moment.
    #[track_caller]
    fn has_made(&self) {
        let before = self.said("Made");
        assert!(poll_until(PAUSE_MAX, || self.said("Made") > before), "the load stands still");
    }

    #[track_caller]
    fn goes_on(&self) {
        let before = self.said("Synced");
        let went_on = poll_until(PAUSE_MAX, || {
            thread::sleep(Duration::from_millis(50));
            self.said("Synced") >= before + PROGRESS
        });
        assert!(went_on, "the load stands still; last: {:?}", self.last_lines());
    }

    fn last_lines(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().rev().take(5).map(str::to_owned).collect()
    }

    #[track_caller]
    fn finish(&mut self) {
        drop(self.program.stdin.take());
        let ended = poll_until(program_limit(), || {
            self.program.try_wait().is_ok_and(|status| status.is_some())
        });
        assert!(ended, "the load hangs");
    }

    /// Compares with what another mount shows.
    fn verify(&self, dir: &Path) -> Result<String, String> {
        let mut verify = Command::new(env!("CARGO_BIN_EXE_synced-load"));
        verify.arg("--verify").arg(&self.log).arg(dir);
        let done = command::finish(&mut verify, program_limit()).map_err(|e| e.to_string())?;
        let said = format!("{}{}", done.stdout, done.stderr);
        if done.success() { Ok(said) } else { Err(said) }
    }
}

#[test]
fn synced_files_survive_power_loss_of_the_store() {
    if skip_without_root() || skip_without(&["mkfs.ext4", "mount", "umount", "perl"]) {
        return;
    }
    let rounds = if is_nightly() { 20 } else { 5 };
    let mut dice = Noise::new(Noise::any_seed());
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    // The store makes a journal of 64 MiB, and the next before the last has gone.
    let disk = LoopDisk::new(place.path(), 1024);
    // Dropped first, with the process that uses the disk.
    let mut parts = Parts::new("powerloss", None);
    let state = disk.dir.join("state");
    parts.kv(&state);
    parts.all_but_kv();
    let dirs = ["a", "b"].map(|name| parts.mount(name).join("load"));
    let mut load = Load::start(parts.site.path("load.log"), &dirs);
    for round in 0..rounds {
        load.goes_on();
        // Every other time when much is there that is not synced, else at a random moment.
        load.has_made();
        if round % 2 == 1 {
            thread::sleep(Duration::from_millis(dice.word() % 500));
        }
        // Stopped first: a machine without power tells nobody that its disk has gone.
        parts.process("kv").signal(Signal::STOP);
        disk.power_off();
        parts.kill("kv");
        disk.power_on();
        parts.kv(&state);
        println!("round {round}: power lost and back");
    }
    load.goes_on();
    load.finish();
    // A mount that remembers nothing.
    let fresh = parts.mount("fresh");
    let outcome = load.verify(&fresh.join("load"));
    let said = outcome.as_ref().unwrap_or_else(|said| said);
    println!("{}; {} errors were told", said.trim(), load.said("Failed"));
    assert!(outcome.is_ok(), "promises of fsync are broken: {said}");
    for name in ["a", "b", "fresh"] {
        parts.down(name);
    }
}
