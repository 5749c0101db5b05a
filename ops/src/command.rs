//! Running other programs with a limit on their time: nothing here waits for ever.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at while we wait for it.
const POLL_EVERY: Duration = Duration::from_millis(5);

/// How a program ended, and what it printed.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// True if `program` is found the way a shell finds it.
pub fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Looks at `condition` until it holds; false if it did not within `limit`. The last look is after
/// `limit`, so that it is not us who were too slow.
pub fn poll_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        let last = Instant::now() >= end;
        if condition() {
            return true;
        }
        if last {
            return false;
        }
        thread::sleep(POLL_EVERY);
    }
}

/// Runs `command` to its end and returns what it printed. After `limit` it is killed, and left
/// alone if even that does not end it (it may wait in the kernel for a hung file system).
///
/// Output goes through unnamed files, so a program that prints a lot is not stopped by a full pipe,
/// and a background process that keeps the streams open does not keep us waiting.
pub fn finish(command: &mut Command, limit: Duration) -> io::Result<Finished> {
    finish_while(command, limit, || {})
}

/// `finish`, calling `meanwhile` again and again while the program runs.
pub fn finish_while(
    command: &mut Command,
    limit: Duration,
    mut meanwhile: impl FnMut(),
) -> io::Result<Finished> {
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()
        .map_err(|err| io::Error::new(err.kind(), format!("{:?}: {err}", command.get_program())))?;
    let mut ended = Ok(None);
    poll_until(limit, || {
        meanwhile();
        ended = child.try_wait();
        !matches!(ended, Ok(None))
    });
    let text = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (stdout, stderr) = (text(&mut stdout)?, text(&mut stderr)?);
    let Some(status) = ended? else {
        // Only root may read it, and only where the kernel keeps it.
        let waits_in = fs::read_to_string(format!("/proc/{}/stack", child.id()));
        child.kill()?;
        let message = format!(
            "{:?} {:?} still ran after {limit:?}; it printed: {stdout}{stderr}; it waits in:\n{}",
            command.get_program(),
            command.get_args().collect::<Vec<_>>(),
            waits_in.unwrap_or_default(),
        );
        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
    };
    Ok(Finished { status, stdout, stderr })
}

#[cfg(test)]
mod tests {
    //! Goal: results are passed on, and limits hold. Method: small shell programs.
    use super::*;

    #[test]
    fn output_and_status_are_passed_on() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo out; echo err >&2; exit 3"]);
        let done = finish(&mut shell, Duration::from_secs(20)).expect("sh runs");
        assert_eq!((done.code(), done.success()), (Some(3), false));
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let mut sleep = Command::new("sleep");
        let outcome = finish(sleep.arg("600"), Duration::from_millis(50));
        assert_eq!(outcome.expect_err("it sleeps").kind(), io::ErrorKind::TimedOut);
    }

    /// Regression: a test that was stopped (SIGSTOP) for longer than the limit reported of a
    /// program that had long ended that it hung.
    #[test]
    fn what_became_true_while_we_were_stopped_is_seen() {
        let mut looks = 0;
        let seen = poll_until(Duration::from_millis(1), || {
            looks += 1;
            thread::sleep(Duration::from_millis(5));
            looks == 2
        });
        assert!(seen);
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let outcome = finish(&mut Command::new("no-such-program"), Duration::from_secs(1));
        assert!(outcome.expect_err("missing").to_string().contains("no-such-program"));
    }
}
