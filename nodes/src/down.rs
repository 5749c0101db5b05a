//! `down` and `check`: asking the running process, and what to do when it does not answer.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cli::{CheckArgs, DownArgs};
use crate::control;
use crate::data::lock::{FolderLock, Tried};
use crate::failure::{Failure, failed};
use crate::logging::tell;
use crate::mount;
use crate::registry::Instance;
use crate::running::{FoundProcess, find, home_of};

/// How long a process that has said that it ends may take to be gone.
const END_MAX: Duration = Duration::from_secs(60);
/// The same for one that has said that it did not end well, if it ends at all.
const SAID_MAX: Duration = Duration::from_millis(500);

/// What is to be ended.
struct Ending {
    /// The folder with the control socket.
    home: PathBuf,
    /// `None`: the process has no mount.
    mounted: Option<Instance>,
}

pub fn down(args: &DownArgs) -> Result<(), Failure> {
    let ending = match find(args.place.as_deref())? {
        FoundProcess::Mounted(i) => Ending { home: i.data.clone(), mounted: Some(i) },
        FoundProcess::Server(home) => Ending { home, mounted: None },
        FoundProcess::Left(dir) if args.force => {
            mount::unmount(&dir, true)
                .map_err(|e| failed(format!("cannot detach {}: {e:?}", dir.display())))?;
            tell(&format!("{} was left by a process that is gone; detached", dir.display()));
            return Ok(());
        }
        FoundProcess::Left(dir) => {
            let shown = dir.display();
            return Err(failed(format!(
                "no t3fs-node of this user serves {shown}; if its process is gone, take the mount \
                 away with `t3fs-node down --force {shown}`"
            )));
        }
    };
    let request = if args.force { "down force" } else { "down" };
    match control::ask(&ending.home, request, &mut tell) {
        // It says what went wrong while it ended; whether it has is another thing.
        Ok(Some(end)) if end.status != 0 => Err(Failure {
            status: end.status,
            line: format!("{}{}", end.text, ending.whether_it_ended()),
        }),
        Ok(_) => gone(&ending),
        Err(e) => match &ending.mounted {
            Some(instance) => silent(instance, &e, args.force),
            None => Err(failed(format!(
                "the process of {} does not answer ({e})",
                ending.home.display()
            ))),
        },
    }
}

/// A process with a mount that does not answer.
fn silent(instance: &Instance, e: &std::io::Error, force: bool) -> Result<(), Failure> {
    let pid = instance.pid;
    let why = format!("process {pid} does not answer ({e})");
    if !force {
        return Err(failed(format!("{why}; `t3fs-node down --force` detaches its mount")));
    }
    mount::unmount(&instance.mount_point, true)
        .map_err(|e| failed(format!("{why}, and its mount does not go: {e:?}")))?;
    Err(failed(format!("{why}; its mount was detached, end it with `kill -9 {pid}`")))
}

impl Ending {
    fn is_gone(&self) -> bool {
        !matches!(FolderLock::try_existing(&self.home), Ok(Tried::Held(_)))
    }

    fn wait(&self, max: Duration) -> bool {
        let since = Instant::now();
        while !self.is_gone() {
            if since.elapsed() > max {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// What is told of the end: the mount, or the process.
    fn name(&self) -> String {
        match &self.mounted {
            Some(instance) => format!("{} is unmounted", instance.mount_point.display()),
            None => format!("the process of {} has ended", self.home.display()),
        }
    }

    /// Behind a reason why it did not end well. A mount that is busy goes on.
    fn whether_it_ended(&self) -> String {
        match self.wait(SAID_MAX) {
            true => format!("; {} all the same", self.name()),
            false => String::new(),
        }
    }
}

/// Waits until the process has let go of its data.
fn gone(ending: &Ending) -> Result<(), Failure> {
    if ending.wait(END_MAX) {
        tell(&ending.name());
        return Ok(());
    }
    Err(failed(format!(
        "the process of {} was told to end and does not; see its log there",
        ending.home.display()
    )))
}

pub fn check(args: &CheckArgs) -> Result<(), Failure> {
    let home = match &args.place {
        Some(place) => home_of(place)?,
        None => match find(None)? {
            FoundProcess::Mounted(i) => i.data,
            FoundProcess::Server(_) | FoundProcess::Left(_) => unreachable!("none was named"),
        },
    };
    match control::ask(&home, "check", &mut tell) {
        Ok(Some(end)) if end.status == 0 => Ok(()),
        Ok(Some(end)) => Err(Failure { status: end.status, line: end.text }),
        Ok(None) => Err(failed("the node ended during the check; start it again")),
        Err(e) => Err(failed(format!("the process of {} does not answer: {e}", home.display()))),
    }
}
