//! Goal: no fsync that returned 0 is broken when the host of the metadata store loses its power.
//! Method: kv is a process of its own with its state on a file system of its own, which is shut down
//! under load so that all is gone that was not synced; then it starts again on what is there. The
//! program `synced-load` says on another disk what it was promised, and goes on through the losses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use t3fs_ops::command::{self, poll_until};
use t3fs_ops::noise::Noise;

use crate::harness::{LoopDisk, Parts, is_nightly, program_limit, skip_without, skip_without_root};

/// For the load to go on after the store has come back: others must find it again.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Promises by one load that show that it goes on.
const PROGRESS: usize = 30;

/// A load, and where it says what it was promised.
struct Load {
    dir: PathBuf,
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
    fn start(dir: PathBuf, log: PathBuf) -> Load {
        fs::create_dir(&dir).expect("a folder");
        let mut load = Command::new(env!("CARGO_BIN_EXE_synced-load"));
        load.arg(&dir).arg(&log).stdin(Stdio::piped());
        Load { dir, log, program: load.spawn().expect("synced-load") }
    }

    /// Lines with `word` in its log.
    fn said(&self, word: &str) -> usize {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(word)).count()
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
    fn verify(&self, there: &Path) -> Result<String, String> {
        let mut verify = Command::new(env!("CARGO_BIN_EXE_synced-load"));
        let dir = there.join(self.dir.file_name().expect("a name"));
        verify.arg("--verify").arg(dir).arg(&self.log);
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
    let rounds = if is_nightly() { 20 } else { 3 };
    let mut dice = Noise::new(Noise::any_seed());
    let mut parts = Parts::new("powerloss", None);
    let place = parts.site.path("kv");
    fs::create_dir(&place).expect("a folder");
    // The store makes a journal of 64 MiB, and the next before the last has gone.
    let disk = LoopDisk::new(&place, 1024);
    let state = disk.dir.join("state");
    parts.kv(&state);
    parts.all_but_kv();
    let mut loads = ["a", "b"].map(|name| {
        let dir = parts.mount(name).join(format!("load-{name}"));
        Load::start(dir, parts.site.path(&format!("load-{name}.log")))
    });
    for round in 0..rounds {
        loads.iter().for_each(Load::goes_on);
        // No condition to wait for: the moment is meant to be a random one.
        thread::sleep(Duration::from_millis(dice.word() % 1_000));
        // Stopped first: a machine without power tells nobody that its disk has gone.
        parts.process("kv").signal(Signal::STOP);
        disk.power_off();
        parts.kill("kv");
        disk.power_on();
        parts.kv(&state);
        println!("round {round}: power lost and back");
    }
    loads.iter().for_each(Load::goes_on);
    loads.iter_mut().for_each(Load::finish);
    // A mount that remembers nothing.
    let fresh = parts.mount("fresh");
    let mut broken = Vec::new();
    for load in &loads {
        let outcome = load.verify(&fresh);
        let said = outcome.as_ref().unwrap_or_else(|said| said).trim().to_owned();
        println!("{said}; {} errors were told", load.said("Failed"));
        broken.extend(outcome.err());
    }
    assert!(broken.is_empty(), "promises of fsync are broken:\n{}", broken.join("\n"));
    for name in ["a", "b", "fresh"] {
        parts.down(name);
    }
    // Processes first, then the disk that one of them uses.
    drop(loads);
    drop(parts);
    drop(disk);
}
