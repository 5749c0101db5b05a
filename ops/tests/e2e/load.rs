//! Loads under which clusters lose their parts: each verifies what it wrote, in a process of its
//! own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use t3fs_ops::command;
use t3fs_ops::cross_load::Outcome;

use crate::harness::program_limit;

/// For a load to stand still while something is replaced, on a busy machine.
pub const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Writes files on one mount and reads them back on another, until it is told to finish.
pub struct Load {
    program: Child,
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test has failed; its mounts go next, so nothing is left to wait for.
        let _ = self.program.kill();
    }
}

impl Load {
    pub fn start(writer: &Path, reader: &Path) -> Load {
        let mut load = Command::new(env!("CARGO_BIN_EXE_cross-load"));
        load.args([writer, reader]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Load { program: load.spawn().expect("cross-load") }
    }

    fn finish(mut self) -> Outcome {
        drop(self.program.stdin.take());
        let ended = command::poll_until(program_limit(), || {
            self.program.try_wait().is_ok_and(|status| status.is_some())
        });
        assert!(ended, "the load hangs");
        let printed = self.program.stdout.take().expect("a pipe");
        serde_json::from_reader(printed).expect("an outcome")
    }

    #[track_caller]
    pub fn finish_without_error(self, what: &str) {
        self.finish_within(PAUSE_MAX, what);
    }

    /// No error, and no file took longer than `limit`.
    #[track_caller]
    pub fn finish_within(self, limit: Duration, what: &str) {
        let outcome = self.finish();
        println!("{what}: {} files, longest pause {:?}", outcome.files, outcome.longest);
        assert!(outcome.errors.is_empty(), "{what}: {outcome:?}");
        assert!(outcome.files > 1, "{what}: {outcome:?}");
        assert!(outcome.longest < limit, "{what}: {outcome:?}");
    }
}

/// Runs fio with verification again and again, if it is installed: another opinion.
pub struct Fio {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Fio {
    pub fn start(dir: PathBuf) -> Fio {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut runs = 0;
            while !stopped.load(Ordering::Relaxed) && command::is_installed("fio") {
                let mut fio = Command::new("fio");
                fio.arg(format!("--directory={}", dir.display())).args([
                    "--name=fio",
                    "--rw=randwrite",
                    "--bsrange=4k-256k",
                    "--size=16m",
                    "--fsync=32",
                    "--verify=crc32c",
                    "--verify_fatal=1",
                    "--verify_state_save=0",
                    "--verify_backlog=16",
                    "--numjobs=2",
                    "--unlink=1",
                ]);
                let done = command::finish(&mut fio, program_limit()).map_err(|e| e.to_string())?;
                if !done.success() {
                    return Err(format!("{}{}", done.stdout, done.stderr));
                }
                runs += 1;
            }
            Ok(runs)
        });
        Fio { stop, thread }
    }

    #[track_caller]
    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join().expect("it does not panic") {
            Ok(runs) => println!("fio verified {runs} times"),
            Err(said) => panic!("fio: {said}"),
        }
    }
}
