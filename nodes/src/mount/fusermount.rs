//! Mounting without root, through the setuid helper of libfuse: it mounts and sends the connection
//! over a socket (its `_FUSE_COMMFD` protocol, libfuse's lib/mount.c).

use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use super::{MountOptions, NotUnmounted, SUBTYPE};
use crate::failure::{Failure, failed};

const NAME: &str = "fusermount3";

/// Where the helper is.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|d| d.join(NAME)).find(|p| p.is_file())
}

/// Whether the machine's owner lets users open their mounts to others.
pub fn user_allow_other() -> bool {
    // No file, no permission.
    let text = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    text.lines().any(|l| l.trim() == "user_allow_other")
}

pub fn mount(
    dir: &Path,
    source: &str,
    how: MountOptions,
    allow_other: bool,
) -> Result<OwnedFd, Failure> {
    let cannot = |e: &dyn std::fmt::Display| {
        let why = e.to_string();
        let why = why.trim().trim_start_matches("fusermount3: ");
        failed(format!("cannot mount on {}: {why}", dir.display()))
    };
    let helper = find().ok_or_else(|| cannot(&"fusermount3 is not installed; package fuse3"))?;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| cannot(&e))?;
    // Only this end may pass to the helper. No other thread starts processes while we mount.
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty()).map_err(|e| cannot(&e))?;
    let mut options = format!("fsname={source},subtype={SUBTYPE},default_permissions");
    for word in how.words() {
        options = options + "," + word;
    }
    if allow_other {
        options += ",allow_other";
    }
    let mut child = Command::new(helper)
        .args(["-o", &options, "--"])
        .arg(dir)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| cannot(&e))?;
    drop(theirs);
    let device = receive(&ours);
    drop(ours);
    let mut said = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_string(&mut said).map_err(|e| cannot(&e))?;
    }
    child.wait().map_err(|e| cannot(&e))?;
    match device {
        Ok(Some(device)) => Ok(device),
        Ok(None) => Err(cannot(&said.lines().next().unwrap_or("fusermount3 said nothing"))),
        Err(e) => Err(cannot(&e)),
    }
}

/// The connection, or `None` if the helper closed its end without sending one.
fn receive(socket: &OwnedFd) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            return Ok(fds.next());
        }
    }
    Ok(None)
}

pub fn unmount(dir: &Path, detach: bool) -> Result<(), NotUnmounted> {
    let fail = |e: &dyn std::fmt::Display| NotUnmounted::Failed(e.to_string());
    let helper = find().ok_or_else(|| fail(&"fusermount3 is not installed; package fuse3"))?;
    let mut command = Command::new(helper);
    command.arg("-u");
    if detach {
        command.arg("-z");
    }
    let done = command
        .arg("--")
        .arg(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| fail(&e))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    if said.contains("busy") {
        return Err(NotUnmounted::Busy);
    }
    // Gone already: somebody else unmounted it.
    match super::mountinfo::at(dir) {
        Ok(None) => Ok(()),
        _ => Err(fail(&said.lines().next().unwrap_or("fusermount3 failed"))),
    }
}
