//! The life of a process that serves: started, told what it is, waits for whichever comes first of
//! a signal, a request on the control socket and the end of its mount, and ends cleanly.
//!
//! `up`, `run` and `mount` decide what the process is ([`ServiceJob`]); from there on they are the
//! same.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender, TryRecvError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use t3fs_transport::LinkLimits;

use crate::control::{self, DownRequest};
use crate::data::lock::FolderLock;
use crate::detach;
use crate::failure::{Failure, failed, refused};
use crate::fuse::kernel::Session;
use crate::fuse::{Fs, options, told};
use crate::inbox::{EventInbox, MainEvent, Patience};
use crate::logging::{say, tell};
use crate::mount::{self, MountOptions, NotUnmounted, holders, mountinfo, place};
use crate::node::{Assembly, GoOn, Membership, Node};
use crate::registry::{self, Instance};

/// After a signal, how often the mount is tried while somebody uses it.
const RETRY: Duration = Duration::from_millis(200);
/// How long the FUSE threads may take to see that the mount is gone.
const SESSION_END_MAX: Duration = Duration::from_secs(20);
/// How long the flush before the unmounting may take. It is tried again after it.
const SYNC_MAX: Duration = Duration::from_secs(30);
/// How long the last flush and the end of the actors may take together.
pub const END_MAX: Duration = Duration::from_secs(120);
// The flush that counts may take longer than the one before; the session's end is part of it.
const _: () = assert!(SYNC_MAX.as_millis() < END_MAX.as_millis());
const _: () = assert!(SESSION_END_MAX.as_millis() < END_MAX.as_millis());

/// How long the start of a server waits for word of an mgmtd, before it says that it waits.
const WORD_MAX: Duration = Duration::from_secs(2);
/// How long a refusal may last, besides two node leases, before it ends the start in the
/// background: a process of the same number that has just gone is taken for living until its links
/// and its lease are over.
const REFUSED_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether there is word.
const WORD_LOOK: Duration = Duration::from_millis(50);
// Links that are silent, and a pause between two attempts.
const _: () = assert!(
    REFUSED_MAX.as_millis()
        > LinkLimits::DEFAULT.dead_after.as_millis() + LinkLimits::DEFAULT.backoff_max.as_millis()
);
const _: () = assert!(WORD_MAX.as_millis() < REFUSED_MAX.as_millis());

/// What a process does until it is told to end.
pub struct ServiceJob {
    pub assembly: Assembly,
    /// Where to mount, if it is a client: absolute, without links.
    pub mount: Option<PathBuf>,
    /// Holds the control socket; its lock is this process's.
    pub home: PathBuf,
    /// Held for as long as the process lives.
    pub lock: Option<FolderLock>,
    pub detached: bool,
    /// How long others may take to be there before it is given up. `None`: servers wait for ever.
    pub patience: Option<Duration>,
}

/// Starts, serves until it is to end, ends.
pub fn serve(job: ServiceJob) -> Result<(), Failure> {
    let probe = t3fs_runtime::glommio::probe(&job.assembly.folders()).map_err(failed)?;
    for remark in &probe.remarks {
        tracing::warn!("{remark}");
    }
    // All paths are absolute now, and nobody should have to wait for our current folder.
    std::env::set_current_dir("/").map_err(|e| failed(format!("cannot go to /: {e}")))?;
    let (events, inbox) = mpsc::channel();
    watch_signals(events.clone())?;
    let ServiceJob { assembly, mount, home, lock: _lock, detached, patience } = job;
    let (cluster, how) = (assembly.cluster.clone(), assembly.mount_options);
    let refused_max = detached.then_some(REFUSED_MAX + 2 * assembly.leases.node);
    if detached {
        detach::watch_starter(events.clone());
    }
    let began = Instant::now();
    let go_on = || match inbox.try_recv() {
        Ok(MainEvent::Signal(_)) => Err(failed("told to end while it was starting")),
        Err(TryRecvError::Disconnected) => Err(failed("the signal thread has ended")),
        _ if patience.is_some_and(|max| began.elapsed() > max) => {
            Err(failed(format!("no answer for {} s", began.elapsed().as_secs())))
        }
        _ => Ok(()),
    };
    let node = Node::start(assembly, &go_on)?;
    // A mount that is there has found its cluster.
    let word = match mount {
        Some(_) => Ok(Membership::Member),
        None => first_word(&node, refused_max, &go_on),
    };
    let begun =
        word.and_then(|word| Ok((word, begin(&node, &cluster, mount, how, &home, events)?)));
    let (word, served) = match begun {
        Ok(begun) => begun,
        Err(e) => {
            let until = Instant::now() + END_MAX;
            if let Err(stop) = node.stop(&mut || until) {
                tracing::error!("{stop}");
            }
            return Err(e);
        }
    };
    announce(&node, &cluster, served.at.as_ref(), &word, detached);
    if detached && let Err(e) = detach::ready() {
        tracing::warn!("{e}"); // whoever waited for it has gone
    }
    let mut inbox = EventInbox::new(inbox);
    let asked = wait(&mut inbox, &node, served.at.as_ref());
    drop(served);
    let ended = end(node, &mut inbox, &asked);
    for reply in asked.replies {
        match &ended {
            Ok(()) => reply.end(0, ""),
            Err(e) => reply.end(e.status, &e.line),
        }
    }
    tracing::info!("ended");
    ended
}

/// How the process stands with its cluster once there is word of that, or none for a moment.
/// `refused_max`: a refusal that lasts longer ends the start.
fn first_word(
    node: &Node,
    refused_max: Option<Duration>,
    go_on: GoOn<'_>,
) -> Result<Membership, Failure> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let (word, waited) = (node.membership(), began.elapsed());
        match (&word, refused_max) {
            (Membership::Member, _) => return Ok(word),
            (Membership::Refused(why), Some(max)) if waited >= max => {
                return Err(refused(format!("the cluster refuses this process: {why}")));
            }
            (Membership::Refused(why), Some(_)) => {
                if waited >= WORD_MAX && !told {
                    say(&format!("refused so far, trying again for a few seconds: {why}"));
                    told = true;
                }
            }
            (Membership::Unanswered(_), _) if node.serves_alone() => return Ok(word),
            _ if waited >= WORD_MAX => return Ok(word),
            _ => {}
        }
        go_on()?;
        std::thread::sleep(WORD_LOOK);
    }
}

/// Takes away what a killed process left at the mount point, and looks again at what was below it.
pub fn replace_stale(dir: &Path) -> Result<(), Failure> {
    mount::unmount(dir, true)
        .map_err(|e| failed(format!("the dead mount at {} stays: {e:?}", dir.display())))?;
    tell(&format!("replaced the mount that a killed process left at {}", dir.display()));
    place::check(dir, "").map(drop)
}

/// Our mount, told from others that may be made over it.
struct MountedAt {
    dir: PathBuf,
    device: mountinfo::Device,
}

/// What is there for as long as we serve.
struct Served {
    at: Option<MountedAt>,
    _server: control::Server,
    _listed: Option<registry::Listed>,
}

/// Mounts, if it is a client, and begins to serve; what fails half way is undone.
fn begin(
    node: &Node,
    cluster: &str,
    mount: Option<PathBuf>,
    how: MountOptions,
    home: &Path,
    events: Sender<MainEvent>,
) -> Result<Served, Failure> {
    let asked = events.clone();
    let (checker, doctor, meters) = (node.checker(), node.doctor(), node.meters());
    let inside = control::Inside { checker, doctor, meters, tuning: node.tuning() };
    let server = control::serve(home, inside, move |down| {
        // The main thread hears it unless it has ended, and the process with it.
        let _ = asked.send(MainEvent::Down(down));
    })?;
    let Some(dir) = mount else {
        return Ok(Served { at: None, _server: server, _listed: None });
    };
    let device = mount::mount(&dir, cluster, how)?;
    let started = || {
        let found = mountinfo::at(&dir)
            .map_err(|e| failed(format!("/proc/self/mountinfo cannot be read: {e}")))?;
        let mounted = found.ok_or_else(|| {
            failed(format!("{} was unmounted at once by somebody else", dir.display()))
        })?;
        let devices = mount::device::several(device, options::event_loops())
            .map_err(|e| failed(format!("cannot open /dev/fuse for each thread: {e}")))?;
        let acl = options::acl(mount::allow_other());
        let door = node.door();
        let session = Session::new(Fs::new(Arc::clone(&door)), devices, acl)
            .map_err(|e| failed(format!("the kernel refused the FUSE session: {e}")))?;
        let notifier = session.notifier();
        let cannot = |e| failed(format!("cannot start the thread that tells the kernel: {e}"));
        door.forget_pages_through(told::forget_pages(notifier.map_err(cannot)?));
        std::thread::Builder::new()
            .name("t3fs-fuse".into())
            .spawn(move || {
                // As above.
                let _ = events.send(MainEvent::Unmounted(session.run()));
            })
            .map_err(|e| failed(format!("cannot start the FUSE threads: {e}")))?;
        mount::widen_read_ahead(mounted.device);
        let listed = registry::list(&Instance {
            pid: std::process::id(),
            cluster: cluster.to_owned(),
            mount_point: dir.clone(),
            data: home.to_owned(),
        })?;
        Ok((mounted.device, listed))
    };
    match started() {
        Ok((device, listed)) => {
            let at = Some(MountedAt { dir, device });
            Ok(Served { at, _server: server, _listed: Some(listed) })
        }
        Err(e) => {
            if let Err(stays) = mount::unmount(&dir, true) {
                tracing::error!("the mount at {} stays: {stays:?}", dir.display());
            }
            Err(e)
        }
    }
}

fn announce(node: &Node, cluster: &str, at: Option<&MountedAt>, word: &Membership, detached: bool) {
    let Some(MountedAt { dir, .. }) = at else {
        let serves = format!("serves cluster {cluster}{}", node.describe());
        let why = match word {
            Membership::Refused(why) | Membership::Unanswered(why) => why,
            Membership::Member => return say(&serves),
            Membership::Unknown => "no answer yet",
        };
        if node.serves_alone() && !matches!(word, Membership::Refused(_)) {
            return say(&serves);
        }
        say(&format!("waits for mgmtd at {}{}: {why}", node.mgmtds(), node.describe()));
        return node.say_as_member(serves);
    };
    let space = match node.space() {
        Ok(s) if s.capacity == 0 => String::new(), // no target has said yet how full it is
        Ok(s) => format!(" ({} free)", bytes(s.free)),
        Err(e) => {
            tracing::warn!("free space is not known: {e}");
            String::new()
        }
    };
    let source = mount::source(cluster);
    tell(&format!("mounted {source} on {}{space}{}", dir.display(), node.describe()));
    if detached {
        tell(&format!("end it with `t3fs-node down {}`", dir.display()));
    } else {
        tell(&format!("end it with Ctrl-C, or with `t3fs-node down {}`", dir.display()));
    }
    tracing::info!("mounted {source} on {}", dir.display());
}

/// 1.5 GiB and the like.
pub fn bytes(n: u64) -> String {
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

fn watch_signals(events: Sender<MainEvent>) -> Result<(), Failure> {
    let cannot = |e| failed(format!("cannot watch for signals: {e}"));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(cannot)?;
    let forward = move || {
        for signal in signals.forever() {
            if events.send(MainEvent::Signal(signal)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("t3fs-signals".into()).spawn(forward).map_err(cannot)?;
    Ok(())
}

/// Why it ends.
struct Asked {
    /// When it was asked for.
    since: Instant,
    /// Waiting for how it ended.
    replies: Vec<control::Reply>,
    /// The mount went by itself.
    by_itself: Option<std::io::Result<()>>,
    /// There is no mount any more whose end the FUSE threads will see: processes that use it keep
    /// it and get errors from now on, or there never was one.
    no_session: bool,
}

/// Serves until it is to end. When this returns, the mount is gone from its place.
fn wait(inbox: &mut EventInbox, node: &Node, at: Option<&MountedAt>) -> Asked {
    let mut ending = false;
    let mut asked = Asked {
        since: Instant::now(),
        replies: Vec::new(),
        by_itself: None,
        no_session: at.is_none(),
    };
    loop {
        let Some(event) = inbox.next(ending.then_some(RETRY)) else {
            match unmount(at, false) {
                Ok(()) => return asked,
                Err(_) => continue,
            }
        };
        asked.since = Instant::now();
        match event {
            MainEvent::Unmounted(result) => {
                asked.by_itself = Some(result);
                return asked;
            }
            MainEvent::Signal(signal) => {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                if !ending {
                    say(&match at {
                        Some(at) => {
                            format!("{name}: flushing and unmounting {}", at.dir.display())
                        }
                        None => format!("{name}: ending"),
                    });
                }
                match leave(node, at, false, inbox) {
                    Ok(()) => return asked,
                    Err(why) => say(&format!(
                        "{why}; waiting for that, or detach it with `t3fs-node down --force`"
                    )),
                }
                ending = true;
            }
            MainEvent::Down(DownRequest { force, reply }) => match leave(node, at, force, inbox) {
                Ok(()) => {
                    asked.no_session |= force;
                    asked.replies.push(reply);
                    return asked;
                }
                Err(why) => reply.end(1, &why),
            },
        }
    }
}

fn unmount(at: Option<&MountedAt>, force: bool) -> Result<(), NotUnmounted> {
    at.map_or(Ok(()), |at| mount::unmount_device(&at.dir, at.device, force))
}

/// Flushes and takes the mount away. If not, why.
fn leave(
    node: &Node,
    at: Option<&MountedAt>,
    force: bool,
    inbox: &mut EventInbox,
) -> Result<(), String> {
    let Some(MountedAt { dir, .. }) = at else { return Ok(()) };
    // A user who forces it does not want to wait for a cluster that may be gone.
    if !force {
        let mut patience = Patience::new(inbox, Instant::now(), SYNC_MAX);
        if let Err(e) = node.sync(&mut || patience.until()) {
            // The flush is tried again at the end, and then it counts.
            tracing::warn!("{e}");
        }
    }
    let unmounted = unmount(at, force);
    if unmounted.is_err() {
        inbox.goes_on();
    }
    match unmounted {
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
fn end(node: Node, inbox: &mut EventInbox, asked: &Asked) -> Result<(), Failure> {
    let mut session = Ok(());
    match &asked.by_itself {
        Some(Ok(())) => say("unmounted from outside; ending"),
        Some(Err(e)) => session = Err(failed(format!("the FUSE connection broke: {e}"))),
        None if asked.no_session => {}
        None => wait_for_session(Patience::new(inbox, asked.since, SESSION_END_MAX)),
    }
    let mut patience = Patience::new(inbox, asked.since, END_MAX);
    node.stop(&mut || patience.until()).and(session)
}

fn wait_for_session(mut patience: Patience<'_>) {
    while let Some(left) = patience.left() {
        match patience.inbox.next(Some(left)) {
            Some(MainEvent::Unmounted(Ok(()))) => return,
            Some(MainEvent::Unmounted(Err(e))) => {
                tracing::warn!("the FUSE session ended with: {e}");
                return;
            }
            Some(MainEvent::Signal(_)) => patience.signalled(),
            Some(MainEvent::Down(DownRequest { force, reply })) => {
                if force {
                    patience.hurry();
                }
                reply.end(1, "it is ending already");
            }
            None => break,
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
