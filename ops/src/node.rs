//! A running `t3fs-node` or `nullfs`, driven from outside by command line and signals.
//!
//! Promises: `start` returns only when the mount is there; dropping it leaves neither process nor
//! mount behind, whatever state they are in; no step of that waits for ever. Only the process that
//! was started here is ever signalled.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;

use crate::command::{self, Finished};
use crate::mounts;
use crate::process::Process;

/// The issue promises ten seconds; the rest is for busy build machines.
const START_LIMIT: Duration = Duration::from_secs(30);
const DOWN_LIMIT: Duration = Duration::from_secs(60);
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Debug, Clone)]
pub struct Setup {
    pub binary: PathBuf,
    pub args: Vec<OsString>,
    /// Absolute, free of links, exists.
    pub mount_point: PathBuf,
    /// Gets everything that the process prints; appended to.
    pub log: PathBuf,
}

impl Setup {
    /// `t3fs-node up MOUNT_POINT --data DATA.. EXTRA..`, in the foreground so that its pid is
    /// known.
    pub fn t3fs(binary: &Path, mount_point: &Path, data: &[PathBuf], log: &Path) -> Setup {
        let mut args: Vec<OsString> = vec!["up".into(), mount_point.into()];
        for dir in data {
            args.extend(["--data".into(), dir.into()]);
        }
        Setup { binary: binary.into(), args, mount_point: mount_point.into(), log: log.into() }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Setup {
        self.args.push(arg.into());
        self
    }

    /// `nullfs MOUNT_POINT`.
    pub fn nullfs(binary: &Path, mount_point: &Path, log: &Path) -> Setup {
        Setup {
            binary: binary.into(),
            args: vec![mount_point.into()],
            mount_point: mount_point.into(),
            log: log.into(),
        }
    }
}

/// The process that serves a mount point.
#[derive(Debug)]
pub struct Node {
    setup: Setup,
    process: Process,
    /// Was killed on purpose: its dead mount is left for the next start to cope with.
    keep_mount: bool,
}

impl Node {
    /// Starts the process and waits until the mount is there.
    ///
    /// # Errors
    /// Says what the process printed, if it ended or did not mount within the limit.
    pub fn start(setup: Setup) -> Result<Node, String> {
        let mut command = Command::new(&setup.binary);
        command.args(&setup.args);
        let process = Process::start(command, &setup.log)?;
        let mut node = Node { setup, process, keep_mount: false };
        let mounted = command::poll_until(START_LIMIT, || {
            // The line and not the mount alone: a killed process may have left its mount behind.
            !node.is_running()
                || (node.process.log().contains("mounted")
                    && mounts::find(&node.setup.mount_point).is_some())
        });
        let printed = node.process.log();
        if let Some(status) = node.process.wait(Duration::ZERO) {
            return Err(format!("ended while starting ({status}), printed: {printed}"));
        }
        if !mounted {
            return Err(format!("not mounted within {START_LIMIT:?}, printed: {printed}"));
        }
        Ok(node)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn mount_point(&self) -> &Path {
        &self.setup.mount_point
    }

    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Everything that was printed to the log, by earlier processes too.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.setup.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Sends a signal to the process, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the process to end by itself; `None` if it did not within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.wait(limit)
    }

    /// `kill -9`, and waits for it. The dead mount stays and answers ENOTCONN; who owns the mount
    /// point has to detach it in the end.
    ///
    /// # Errors
    /// The process did not end; it waits in the kernel for something.
    pub fn kill(&mut self) -> Result<(), String> {
        self.keep_mount = true;
        self.process.kill()
    }

    /// `t3fs-node down MOUNT_POINT ARGS..`, whatever comes of it.
    ///
    /// # Errors
    /// The command could not be started, or did not end within its limit.
    pub fn down_command(&mut self, args: &[&str]) -> Result<Finished, String> {
        let mut down = Command::new(&self.setup.binary);
        down.arg("down").arg(&self.setup.mount_point).args(args);
        // Our child stays a zombie until we wait for it, and `down` may look for its pid to go
        // away.
        let reap = || _ = self.is_running();
        command::finish_while(&mut down, DOWN_LIMIT, reap).map_err(|err| err.to_string())
    }

    /// Ends the node as a user would, and insists that both the command and the node say success.
    ///
    /// # Errors
    /// What went wrong, with the log of the node.
    pub fn down(mut self) -> Result<(), String> {
        let done = self.down_command(&[])?;
        if !done.success() {
            return Err(format!("down: {}: {}{}", done.status, done.stdout, done.stderr));
        }
        match self.wait(KILL_LIMIT) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("down, but the node ended with {status}: {}", self.log())),
            None => Err(format!("down, but the node still runs: {}", self.log())),
        }
    }
}

impl Drop for Node {
    /// From polite to blunt; each step is taken only where the one before was not enough.
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        if self.wait(KILL_LIMIT).is_none() {
            eprintln!("process {} ignores SIGTERM, it is killed", self.pid());
            self.signal(Signal::KILL);
            if let Err(err) = mounts::abort(&self.setup.mount_point) {
                eprintln!("abort {}: {err}", self.setup.mount_point.display());
            }
            self.wait(KILL_LIMIT);
        }
        if !self.keep_mount
            && mounts::find(&self.setup.mount_point).is_some()
            && let Err(err) = mounts::detach(&self.setup.mount_point)
        {
            eprintln!("detach {}: {err}", self.setup.mount_point.display());
        }
    }
}
