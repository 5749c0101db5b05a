//! `down` and `check`: asking the running process, and what to do when it does not answer.

use std::time::{Duration, Instant};

use crate::cli::{CheckArgs, DownArgs};
use crate::control;
use crate::data::lock::{FolderLock, Tried};
use crate::failure::{Failure, failed};
use crate::logging::tell;
use crate::mount;
use crate::registry::Instance;
use crate::running::{FoundMount, find, home_of};

/// How long a process that has said that it ends may take to be gone.
const END_MAX: Duration = Duration::from_secs(60);

pub fn down(args: &DownArgs) -> Result<(), Failure> {
    let instance = match find(args.dir.as_deref())? {
        FoundMount::Running(i) => i,
        FoundMount::Left(dir) if args.force => {
            mount::unmount(&dir, true)
                .map_err(|e| failed(format!("cannot detach {}: {e:?}", dir.display())))?;
            tell(&format!("{} was left by a process that is gone; detached", dir.display()));
            return Ok(());
        }
        FoundMount::Left(dir) => {
            let shown = dir.display();
            return Err(failed(format!(
                "no t3fs-node of this user serves {shown}; if its process is gone, take the mount \
                 away with `t3fs-node down --force {shown}`"
            )));
        }
    };
    let request = if args.force { "down force" } else { "down" };
    let asked = control::ask(&instance.data, request, &mut tell);
    match asked {
        Ok(Some(end)) if end.status != 0 => Err(Failure { status: end.status, line: end.text }),
        Ok(_) => gone(&instance),
        Err(e) => {
            let pid = instance.pid;
            let why = format!("process {pid} does not answer ({e})");
            if !args.force {
                return Err(failed(format!("{why}; `t3fs-node down --force` detaches its mount")));
            }
            let dir = &instance.mount_point;
            mount::unmount(dir, true)
                .map_err(|e| failed(format!("{why}, and its mount does not go: {e:?}")))?;
            Err(failed(format!("{why}; its mount was detached, end it with `kill -9 {pid}`")))
        }
    }
}

/// Waits until the process has let go of its data.
fn gone(instance: &Instance) -> Result<(), Failure> {
    let since = Instant::now();
    while since.elapsed() < END_MAX {
        if !matches!(FolderLock::try_existing(&instance.data), Ok(Tried::Held(_))) {
            tell(&format!("{} is unmounted", instance.mount_point.display()));
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(failed(format!(
        "process {} is unmounted but does not end; see its log below {}",
        instance.pid,
        instance.data.display()
    )))
}

pub fn check(args: &CheckArgs) -> Result<(), Failure> {
    let home = match &args.place {
        Some(place) => home_of(place)?,
        None => match find(None)? {
            FoundMount::Running(i) => i.data,
            FoundMount::Left(_) => unreachable!("a mount was named"),
        },
    };
    match control::ask(&home, "check", &mut tell) {
        Ok(Some(end)) if end.status == 0 => Ok(()),
        Ok(Some(end)) => Err(Failure { status: end.status, line: end.text }),
        Ok(None) => Err(failed("the node ended during the check; start it again")),
        Err(e) => Err(failed(format!("the process of {} does not answer: {e}", home.display()))),
    }
}
