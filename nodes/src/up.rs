//! `t3fs-node up DIR`: from the command line to a mount, and from a signal to a clean end.
//!
//! [`prepare`] only looks; everything that can be refused is refused there. Then the data folders
//! are created, the actors started, the mount made. The main thread waits for whichever comes first
//! of a signal, a request on the control socket, and the end of the mount.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::UpArgs;
use crate::config::{self, Settings};
use crate::control::{self, Down};
use crate::data::Data;
use crate::data::plan::{Plan, Wanted, plan};
use crate::failure::{Failure, failed, refused};
use crate::fuse::{Fs, options};
use crate::logging::tell;
use crate::mount::{self, NotUnmounted, holders, mountinfo, place};
use crate::node::Node;
use crate::registry::{self, Instance};
use crate::{detach, limits, logging};

/// After a signal, how often the mount is tried while somebody uses it.
const RETRY: Duration = Duration::from_millis(200);
/// How long the FUSE threads may take to see that the mount is gone.
const SESSION_END_MAX: Duration = Duration::from_secs(20);

/// What the main thread waits for.
enum Event {
    Signal(i32),
    Down(Down),
    /// The mount is gone: unmounted by us or by somebody else, or the connection broke.
    Unmounted(std::io::Result<()>),
}

/// All that was looked at and found good.
struct Prepared {
    settings: Settings,
    dir: PathBuf,
    stale: bool,
    plan: Plan,
}

pub fn run(args: &UpArgs) -> Result<(), Failure> {
    if args.detach && !args.detached {
        return detach::start();
    }
    if args.detached {
        detach::leave_terminal()?;
    }
    let prepared = prepare(args)?;
    // From here on things are created.
    limits::raise();
    limits::mark_as_io_flusher();
    let log = prepared.settings.log.clone();
    if !args.detached {
        logging::to_stderr(log.as_deref())?;
    }
    tell(&format!("t3fs-node {}", env!("CARGO_PKG_VERSION")));
    let data = prepared.plan.commit()?;
    if args.detached {
        logging::to_files(&data.first.join("log"), log.as_deref())?;
    }
    logging::abort_on_panic();
    describe(&data);
    if prepared.stale {
        replace_stale(&prepared.dir)?;
    }
    if place::is_filled(&prepared.dir) {
        say(&format!("{} is not empty; what is in it is hidden now", prepared.dir.display()));
    }
    serve(&prepared.settings, prepared.dir, data, args.detached)
}

/// Everything that can be refused, without touching anything.
fn prepare(args: &UpArgs) -> Result<Prepared, Failure> {
    let settings = config::for_up(args)?;
    logging::check(settings.log.as_deref())?;
    let dir = place::resolve(&args.dir)?;
    let plan = plan(&Wanted {
        cluster: &settings.cluster_id,
        folders: &settings.data,
        replicas: settings.replicas,
        targets_per_disk: settings.shards,
        mount_point: &dir,
    })?;
    let found = place::check(&dir, &mount::source(&settings.cluster_id))?;
    mount::preflight()?;
    // No folder: only whether io_uring works. Folders are probed once they exist.
    t3fs_runtime::glommio::probe(&[] as &[PathBuf]).map_err(refused)?;
    Ok(Prepared { settings, dir, stale: found == place::Place::Stale, plan })
}

fn describe(data: &Data) {
    let folders: Vec<String> = data.disks.iter().map(|d| d.folder.display().to_string()).collect();
    let (what, replicas) = (if data.created { "new" } else { "existing" }, data.cluster.replicas);
    let copies = if replicas == 1 { "1 replica".into() } else { format!("{replicas} replicas") };
    let (name, folders) = (&data.cluster.cluster, folders.join(" and "));
    tell(&format!("{what} cluster {name}, {copies}, data in {folders}"));
    for remark in &data.remarks {
        say(remark);
    }
}

fn replace_stale(dir: &Path) -> Result<(), Failure> {
    mount::unmount(dir, true)
        .map_err(|e| failed(format!("the dead mount at {} stays: {e:?}", dir.display())))?;
    tell(&format!("replaced the mount that a killed process left at {}", dir.display()));
    // What is below it could not be seen before.
    place::check(dir, "").map(drop)
}

/// Starts, serves until it is to end, ends.
fn serve(settings: &Settings, dir: PathBuf, data: Data, detached: bool) -> Result<(), Failure> {
    let folders: Vec<_> = data.disks.iter().map(|d| &d.folder).collect();
    let probe = t3fs_runtime::glommio::probe(&folders).map_err(failed)?;
    for remark in &probe.remarks {
        tracing::warn!("{remark}");
    }
    // All paths are absolute now, and nobody should have to wait for our current folder.
    std::env::set_current_dir("/").map_err(|e| failed(format!("cannot go to /: {e}")))?;
    let (events, inbox) = mpsc::channel();
    // Before any other thread exists: they all leave signals to this one.
    watch_signals(events.clone())?;
    let data = Arc::new(data);
    let label =
        format!("{} {}", rustix::system::uname().nodename().to_string_lossy(), dir.display());
    let node = Node::start(settings, &data, &label)?;
    let served = match begin(&node, settings, dir, &data, events) {
        Ok(served) => served,
        Err(e) => {
            if let Err(stop) = node.stop() {
                tracing::error!("{stop}");
            }
            return Err(e);
        }
    };
    announce(&node, settings, &served.at.dir, detached);
    if detached && let Err(e) = detach::ready() {
        tracing::warn!("{e}"); // whoever waited for it has gone
    }
    let asked = wait(&inbox, &node, &served.at);
    drop(served);
    let ended = end(node, &inbox, &asked);
    for reply in asked.replies {
        match &ended {
            Ok(()) => reply.end(0, ""),
            Err(e) => reply.end(e.status, &e.line),
        }
    }
    tracing::info!("ended");
    ended
    // `data` with its locks goes last, and after it the process.
}

/// Our mount, told from others that may be made over it.
struct MountedAt {
    dir: PathBuf,
    device: mountinfo::Device,
}

/// What is there for as long as we serve.
struct Served {
    at: MountedAt,
    _server: control::Server,
    _listed: registry::Listed,
}

/// Mounts and begins to serve; what fails half way is undone.
fn begin(
    node: &Node,
    settings: &Settings,
    dir: PathBuf,
    data: &Data,
    events: Sender<Event>,
) -> Result<Served, Failure> {
    let device = mount::mount(&dir, &settings.cluster_id)?;
    let started = || {
        let found = mountinfo::at(&dir)
            .map_err(|e| failed(format!("/proc/self/mountinfo cannot be read: {e}")))?;
        let mounted = found.ok_or_else(|| {
            failed(format!("{} was unmounted at once by somebody else", dir.display()))
        })?;
        let (acl, config) = options::session(mount::allow_other());
        let session = fuser::Session::from_fd(Fs::new(node.hub()), device, acl, config)
            .map_err(|e| failed(format!("the kernel refused the FUSE session: {e}")))?;
        let unmounted = events.clone();
        std::thread::Builder::new()
            .name("t3fs-fuse".into())
            .spawn(move || {
                // The main thread hears it unless it has ended, and the process with it.
                let _ = unmounted.send(Event::Unmounted(session.run()));
            })
            .map_err(|e| failed(format!("cannot start the FUSE threads: {e}")))?;
        mount::widen_read_ahead(mounted.device);
        let server = control::serve(&data.first, node.checker(), move |down| {
            let _ = events.send(Event::Down(down)); // as above
        })?;
        let listed = registry::list(&Instance {
            pid: std::process::id(),
            cluster: settings.cluster_id.clone(),
            mount_point: dir.clone(),
            data: data.first.clone(),
        })?;
        Ok((mounted.device, server, listed))
    };
    match started() {
        Ok((device, server, listed)) => {
            Ok(Served { at: MountedAt { dir, device }, _server: server, _listed: listed })
        }
        Err(e) => {
            if let Err(stays) = mount::unmount(&dir, true) {
                tracing::error!("the mount at {} stays: {stays:?}", dir.display());
            }
            Err(e)
        }
    }
}

fn announce(node: &Node, settings: &Settings, dir: &Path, detached: bool) {
    let space = match node.space() {
        Ok(s) => format!(" ({} free)", bytes(s.free)),
        Err(e) => {
            tracing::warn!("free space is not known: {e}");
            String::new()
        }
    };
    tell(&format!("mounted {} on {}{space}", mount::source(&settings.cluster_id), dir.display()));
    if detached {
        tell(&format!("end it with `t3fs-node down {}`", dir.display()));
    } else {
        tell(&format!("end it with Ctrl-C, or with `t3fs-node down {}`", dir.display()));
    }
    tracing::info!("mounted {} on {}", mount::source(&settings.cluster_id), dir.display());
}

/// 1.5 GiB and the like.
fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut value = n as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 100.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

fn watch_signals(events: Sender<Event>) -> Result<(), Failure> {
    let cannot = |e| failed(format!("cannot watch for signals: {e}"));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(cannot)?;
    let forward = move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("t3fs-signals".into()).spawn(forward).map_err(cannot)?;
    Ok(())
}

/// Why it ends.
struct Asked {
    /// Waiting for how it ended.
    replies: Vec<control::Reply>,
    /// The mount went by itself.
    by_itself: Option<std::io::Result<()>>,
    /// Processes that use the mount keep it; they get errors from now on.
    forced: bool,
}

/// Serves until it is to end. When this returns, the mount is gone from its place.
fn wait(inbox: &Receiver<Event>, node: &Node, at: &MountedAt) -> Asked {
    let dir = &at.dir;
    let mut ending = false;
    let mut asked = Asked { replies: Vec::new(), by_itself: None, forced: false };
    loop {
        let event = if ending {
            match inbox.recv_timeout(RETRY) {
                Err(RecvTimeoutError::Timeout) => {
                    match mount::unmount_device(dir, at.device, false) {
                        Ok(()) => return asked,
                        Err(_) => continue,
                    }
                }
                other => other.ok(),
            }
        } else {
            inbox.recv().ok()
        };
        match event.expect("this thread's own sender is kept by the signal thread") {
            Event::Unmounted(result) => {
                asked.by_itself = Some(result);
                return asked;
            }
            Event::Signal(signal) => {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                if !ending {
                    say(&format!("{name}: flushing and unmounting {}", dir.display()));
                }
                match leave(node, at, false) {
                    Ok(()) => return asked,
                    Err(why) => say(&format!(
                        "{why}; waiting for that, or detach it with `t3fs-node down --force {}`",
                        dir.display()
                    )),
                }
                ending = true;
            }
            Event::Down(Down { force, reply }) => match leave(node, at, force) {
                Ok(()) => {
                    asked.forced = force;
                    asked.replies.push(reply);
                    return asked;
                }
                Err(why) => reply.end(1, &why),
            },
        }
    }
}

/// To the terminal, and to the log where that goes elsewhere.
fn say(line: &str) {
    tell(line);
    tracing::info!("{line}");
}

/// Flushes and takes the mount away. If not, why.
fn leave(node: &Node, at: &MountedAt, force: bool) -> Result<(), String> {
    let dir = &at.dir;
    if let Err(e) = node.sync() {
        // It is tried again at the end, and then it counts.
        tracing::warn!("{e}");
    }
    match mount::unmount_device(dir, at.device, force) {
        Ok(()) => Ok(()),
        Err(NotUnmounted::Busy) => {
            let who = holders::find(dir);
            Err(format!("{} is in use by {who}", dir.display()))
        }
        Err(NotUnmounted::Failed(why)) => {
            Err(format!("{} cannot be unmounted: {why}", dir.display()))
        }
    }
}

/// After the mount is gone: the FUSE threads end, everything is flushed, the actors stop.
fn end(node: Node, inbox: &Receiver<Event>, asked: &Asked) -> Result<(), Failure> {
    let mut session = Ok(());
    match &asked.by_itself {
        Some(Ok(())) => say("unmounted from outside; ending"),
        Some(Err(e)) => session = Err(failed(format!("the FUSE connection broke: {e}"))),
        // Detached: its users may keep it for as long as this process lives.
        None if asked.forced => {}
        None => wait_for_session(inbox),
    }
    node.stop().and(session)
}

fn wait_for_session(inbox: &Receiver<Event>) {
    let since = Instant::now();
    while let Some(left) = SESSION_END_MAX.checked_sub(since.elapsed()) {
        match inbox.recv_timeout(left) {
            Ok(Event::Unmounted(Ok(()))) => return,
            Ok(Event::Unmounted(Err(e))) => {
                tracing::warn!("the FUSE session ended with: {e}");
                return;
            }
            Ok(Event::Signal(_)) => say("already ending; flushing what was written"),
            Ok(Event::Down(down)) => down.reply.end(1, "it is ending already"),
            Err(_) => break,
        }
    }
    tracing::warn!("the FUSE threads did not end; going on without them");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536 << 20), "1.5 GiB");
        assert_eq!(bytes(500 << 30), "500 GiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
    }
}
