//! `up --detach`: the command returns when the mount is there, the work goes on in the background.
//!
//! The command starts itself again in a session of its own, before any thread exists. The child's
//! standard output is a pipe to the command: lines for the user, then a zero byte when mounted. If
//! the pipe ends without one, the child has said why on standard error, and its status is ours.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::failure::{Failure, failed};
use crate::inbox::MainEvent;

/// Mounted.
const READY: u8 = 0;
/// The background half has said so: from then on the command may go.
static IS_READY: AtomicBool = AtomicBool::new(false);

/// The command's half.
pub fn start() -> Result<(), Failure> {
    let cannot = |e: io::Error| failed(format!("cannot start in the background: {e}"));
    // The path rather than /proc/self/exe, so that process lists show the program's name.
    let program = std::env::current_exe().map_err(cannot)?;
    let program = if program.exists() { program } else { "/proc/self/exe".into() };
    let mut child = Command::new(program)
        .arg0("t3fs-node")
        .args(std::env::args_os().skip(1))
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    let mut from = child.stdout.take().expect("it was asked for");
    let mut buf = [0; 1024];
    loop {
        let n = from.read(&mut buf).map_err(cannot)?;
        let ready = buf[..n].iter().position(|b| *b == READY);
        let text = &buf[..ready.unwrap_or(n)];
        io::stdout().write_all(text).and_then(|()| io::stdout().flush()).map_err(cannot)?;
        if ready.is_some() {
            return Ok(());
        }
        if n == 0 {
            break;
        }
    }
    let status = child.wait().map_err(cannot)?;
    let line = match status.code() {
        Some(_) => String::new(),
        None => format!("the background process ended with {status}; see the log below the data"),
    };
    let code = status.code().and_then(|c| u8::try_from(c).ok()).filter(|c| *c != 0);
    Err(Failure { status: code.unwrap_or(crate::failure::FAILED), line })
}

/// The child's half, first: a session of its own, so that the terminal's end is not its end.
pub fn leave_terminal() -> Result<(), Failure> {
    rustix::process::setsid().map(drop).map_err(|e| failed(format!("cannot begin a session: {e}")))
}

/// The child's half, while it starts: if the command goes before anything is ready (it was
/// interrupted), nobody knows that something is still being started, so it is not.
pub fn watch_starter(events: Sender<MainEvent>) {
    let watch = move || {
        let Ok(pipe) = io::stdout().as_fd().try_clone_to_owned() else { return };
        loop {
            // Nothing is asked for: the other end's going is told in any case.
            let mut polled = [PollFd::new(&pipe, PollFlags::empty())];
            match rustix::event::poll(&mut polled, None) {
                Ok(_) if polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
        if !IS_READY.load(Ordering::SeqCst) {
            tracing::warn!("the command that started this has gone; ending");
            // A main thread that does not hear it has ended.
            let _ = events.send(MainEvent::Signal(signal_hook::consts::SIGHUP));
        }
    };
    let thread = std::thread::Builder::new().name("t3fs-starter".into()).spawn(watch);
    if let Err(e) = thread {
        tracing::warn!("nobody watches the command that started this: {e}");
    }
}

/// The child's half, last: lets the command return and keeps nothing of its terminal. From here on
/// only the log is there to be written to.
pub fn ready() -> Result<(), Failure> {
    let cannot = |e: io::Error| failed(format!("cannot go to the background: {e}"));
    IS_READY.store(true, Ordering::SeqCst);
    let told = io::stdout().write_all(&[READY]).and_then(|()| io::stdout().flush());
    let null = rustix::fs::open(Path::new("/dev/null"), OFlags::RDWR, Mode::empty())
        .map_err(|e| cannot(e.into()))?;
    rustix::stdio::dup2_stdout(&null).map_err(|e| cannot(e.into()))?;
    rustix::stdio::dup2_stderr(&null).map_err(|e| cannot(e.into()))?;
    told.map_err(cannot)
}
