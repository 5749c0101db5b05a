//! A program that runs beside us, with a log file of its own.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::command;

const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Where in the log this process began.
    log_start: usize,
    /// Set once it has been waited for.
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; what it prints is appended to `log`.
    ///
    /// # Errors
    /// Says what could not be started or opened.
    pub fn start(mut command: Command, log: &Path) -> Result<Process, String> {
        let describe = |err| format!("{}: {err}", log.display());
        let file = File::options().create(true).append(true).open(log).map_err(describe)?;
        let log_start = file.metadata().map_err(describe)?.len() as usize;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(describe)?)
            .stderr(file)
            .spawn()
            .map_err(|err| format!("could not start {command:?}: {err}"))?;
        Ok(Process { child, log: log.to_owned(), log_start, ended: None })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let mine = bytes.get(self.log_start..).unwrap_or_default();
        String::from_utf8_lossy(mine).into_owned()
    }

    /// Waits until it has printed `words`.
    ///
    /// # Errors
    /// It ended, or did not print them within `limit`; with what it printed instead.
    pub fn wait_for(&mut self, words: &str, limit: Duration) -> Result<(), String> {
        command::poll_until(limit, || !self.is_running() || self.log().contains(words));
        let log = self.log();
        if log.contains(words) {
            return Ok(());
        }
        let how = match self.ended {
            Some(status) => format!("it ended ({status})"),
            None => format!("{limit:?} have passed"),
        };
        Err(format!("no {words:?} from process {}, {how}; it printed: {log}", self.pid()))
    }

    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended.is_none()
    }

    pub fn signal(&mut self, signal: Signal) {
        // Its pid cannot have been given to another process: we have not waited for it yet.
        if self.is_running()
            && let Err(err) = kill_process(Pid::from_child(&self.child), signal)
        {
            eprintln!("could not signal process {}: {err}", self.pid());
        }
    }

    /// Waits for it to end by itself; `None` if it did not within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        command::poll_until(limit, || !self.is_running());
        self.ended
    }

    /// `kill -9`, and waits for it.
    ///
    /// # Errors
    /// It had ended before, or waits in the kernel for something.
    pub fn kill(&mut self) -> Result<(), String> {
        self.signal(Signal::KILL);
        match self.wait(KILL_LIMIT) {
            Some(status) if status.signal() == Some(Signal::KILL.as_raw()) => Ok(()),
            Some(status) => {
                Err(format!("had ended before it was killed ({status}): {}", self.log()))
            }
            None => Err(format!("process {} survived kill -9", self.pid())),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running()
            && let Err(err) = self.kill()
        {
            eprintln!("{err}");
        }
    }
}
