//! The mount itself: what is at a path, making it, taking it away, and who holds it.
//!
//! Each step is done here, so that each way it can fail has its own sentence, and
//! so that an unmount that finds the mount in use leaves it as it is. Root mounts with mount(2),
//! others through fusermount3. Nothing here opens a path below a mount of ours: what is known about
//! mounts comes from /proc.

pub mod device;
pub mod fusermount;
pub mod holders;
pub mod mountinfo;
pub mod options;
pub mod place;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{getegid, geteuid};

use mountinfo::Device;
pub use options::MountOptions;

use crate::failure::{Failure, failed, refused};

const DEVICE: &str = "/dev/fuse";

/// Largest read-ahead of the kernel on this mount, in KiB. Its default of 128 makes a sequential
/// reader wait for one round trip per 128 KiB.
const READ_AHEAD_KIB: u32 = 1024;

/// The type of a mount is `fuse.` and this. mount(8) looks for `/sbin/mount.fuse.<this>` when it
/// mounts anew (`-o remount`), and for `/sbin/mount.<this>` by `-t <this>`.
pub const SUBTYPE: &str = "t3fs";
/// The source of a mount is this and the cluster's name.
pub const SOURCE_PREFIX: &str = "hf3fs.";

/// What `df` shows in its first column.
pub fn source(cluster: &str) -> String {
    format!("{SOURCE_PREFIX}{cluster}")
}

/// Whether other users than the one who mounts may use the mount.
pub fn allow_other() -> bool {
    geteuid().is_root() || fusermount::user_allow_other()
}

/// Refuses where no mount could be made: looks at /dev/fuse and for fusermount3.
pub fn preflight(how: MountOptions) -> Result<(), Failure> {
    if let Some(word) = how.needs_root().filter(|_| !geteuid().is_root()) {
        return Err(refused(format!("only root can mount with {word}; leave it out")));
    }
    open_device().map_err(|e| match e {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => refused(format!(
            "there is no {DEVICE}; load the module with `modprobe fuse`, or start the container \
             with --device {DEVICE} --cap-add SYS_ADMIN"
        )),
        e => refused(format!(
            "{DEVICE} cannot be opened: {e}; let users in with `chmod 666 {DEVICE}`"
        )),
    })?;
    if !geteuid().is_root() && fusermount::find().is_none() {
        return Err(refused(
            "fusermount3 is not installed, and only root can mount without it; install the package \
             fuse3",
        ));
    }
    Ok(())
}

fn open_device() -> Result<OwnedFd, Errno> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// Mounts on `dir` (absolute, without links). The connection is ready for the handshake.
pub fn mount(dir: &Path, cluster: &str, how: MountOptions) -> Result<OwnedFd, Failure> {
    if !geteuid().is_root() {
        return fusermount::mount(dir, &source(cluster), how, allow_other());
    }
    let cannot = |what: &str, e: Errno| {
        let hint = match e {
            Errno::PERM => "; in a container, start it with --cap-add SYS_ADMIN",
            Errno::NODEV => "; load the module with `modprobe fuse`",
            _ => "",
        };
        failed(format!("cannot {what} {}: {e}{hint}", dir.display()))
    };
    let device = open_device().map_err(|e| cannot("open /dev/fuse for", e))?;
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions,allow_other",
        device.as_raw_fd(),
        geteuid().as_raw(),
        getegid().as_raw()
    );
    let options = CString::new(options).expect("made of numbers and words");
    let kind = format!("fuse.{SUBTYPE}");
    rustix::mount::mount(source(cluster), dir, kind, how.flags(), options.as_c_str())
        .map_err(|e| cannot("mount on", e))?;
    Ok(device)
}

/// `mount -o remount,WORDS DIR`: the mount of ours at `dir` gets these options and no others; the
/// process that serves it is not asked.
pub fn remount<'a>(dir: &Path, words: impl IntoIterator<Item = &'a str>) -> Result<(), Failure> {
    let shown = dir.display();
    let found = mountinfo::at(dir)
        .map_err(|e| refused(format!("/proc/self/mountinfo cannot be read: {e}; mount /proc")))?;
    if !found.is_some_and(|m| m.is_ours()) {
        return Err(refused(format!("{shown} is no mount of t3fs, so it is not mounted anew")));
    }
    let how = MountOptions::of_mount8().with(words).map_err(unknown_option)?;
    // One call changes the file system and this mount point.
    rustix::mount::mount_remount(dir, how.flags(), c"").map_err(|e| {
        let hint = match e {
            Errno::PERM => "; only root can",
            Errno::BUSY => "; files are open for writing there",
            _ => "",
        };
        failed(format!("{shown} cannot be mounted anew: {e}{hint}"))
    })
}

/// The sentence about a word that is no option.
pub fn unknown_option(word: String) -> Failure {
    refused(format!(
        "mount option {word:?} is not known; known are ro, rw, noexec, exec, nodev, dev, nosuid, \
         suid, noatime, relatime, strictatime, nodiratime, sync, async, dirsync, user, _netdev, \
         nofail, noauto and x-*"
    ))
}

/// How an unmount did not happen.
#[derive(Debug)]
pub enum NotUnmounted {
    /// Somebody uses it.
    Busy,
    Failed(String),
}

/// Takes the mount away if nobody uses it; with `detach` in any case, and those who use it keep it
/// until they let go or the process that serves it ends. Already gone is fine.
pub fn unmount(dir: &Path, detach: bool) -> Result<(), NotUnmounted> {
    if !geteuid().is_root() {
        return fusermount::unmount(dir, detach);
    }
    let flags = if detach { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(dir, flags | UnmountFlags::NOFOLLOW) {
        // EINVAL: not a mount point any more.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => Err(NotUnmounted::Busy),
        Err(e) => Err(NotUnmounted::Failed(e.to_string())),
    }
}

/// As [`unmount`], for the mount with this device only: another one may lie over it by now.
pub fn unmount_device(dir: &Path, device: Device, detach: bool) -> Result<(), NotUnmounted> {
    let all = mountinfo::all().map_err(|e| NotUnmounted::Failed(e.to_string()))?;
    let mut here = all.into_iter().filter(|m| m.point == dir).rev();
    match here.next() {
        Some(top) if top.device == device => unmount(dir, detach),
        Some(top) if here.any(|m| m.device == device) => Err(NotUnmounted::Failed(format!(
            "{} is mounted over it; unmount that first",
            top.source
        ))),
        _ => Ok(()), // gone already
    }
}

/// Lets the kernel read further ahead. Needs root; without it the default stays.
pub fn widen_read_ahead(device: Device) {
    let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", device.major, device.minor);
    let set = std::fs::write(&path, READ_AHEAD_KIB.to_string());
    if let Err(e) = set.or_else(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => Ok(()),
        _ => Err(e),
    }) {
        tracing::debug!("{path} keeps its value: {e}");
    }
}
