//! The life of a mount's channel: handshake, event loops, end.
//!
//! Each event loop is a thread with a descriptor of its own, so that the kernel keeps their
//! requests apart. A loop reads a request, hands it to the file system and reads the next; answers
//! come later, from anywhere. The loops end when the kernel says that the mount is gone (ENODEV).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use rustix::io::Errno as OsError;

use super::abi::{IN_HEADER_BYTES, MAJOR, READ_BUFFER_MIN, WRITE_IN_BYTES};
use super::channel::Channel;
use super::inflight::PendingRequest;
use super::init::{self, KernelConfig};
use super::notify::Notifier;
use super::request::{Init, Operation, Request};
use super::types::Errno;
use super::{Filesystem, dispatch};

/// The users that may use a mount. Without the option `allow_other` the kernel lets only the
/// owner in; this
/// is the second lock on that door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAcl {
    All,
    /// Only the user whose process this is.
    Owner,
}

/// A mount whose kernel has been answered, ready to serve.
pub struct Session<F> {
    filesystem: F,
    channel: Arc<Channel>,
    acl: SessionAcl,
    /// Bytes of the largest request.
    request_max: usize,
}

impl<F: Filesystem> Session<F> {
    /// Shakes hands. The mount has been made: `devices` are its descriptors, one for each event
    /// loop.
    ///
    /// # Errors
    /// The mount is gone already, the kernel is too old, or the file system refuses.
    pub fn new(
        mut filesystem: F,
        devices: Vec<OwnedFd>,
        acl: SessionAcl,
    ) -> io::Result<Session<F>> {
        let channel = Arc::new(Channel::new(devices));
        let config = handshake(&mut filesystem, &channel)?;
        let request_max = IN_HEADER_BYTES + WRITE_IN_BYTES + config.max_write() as usize;
        // Room for a header of 4 KiB, as libfuse has it; no request needs that much today.
        let request_max = request_max.next_multiple_of(4096).max(READ_BUFFER_MIN);
        Ok(Session { filesystem, channel, acl, request_max })
    }

    /// Says to the kernel what it should forget.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub fn notifier(&self) -> io::Result<Notifier> {
        Notifier::new(Arc::clone(&self.channel))
    }

    /// Serves until the mount is gone, on threads of its own.
    ///
    /// # Errors
    /// What the first event loop that failed has met.
    pub fn run(self) -> io::Result<()> {
        let Session { filesystem, channel, acl, request_max } = self;
        let owner = match acl {
            SessionAcl::All => None,
            SessionAcl::Owner => Some(rustix::process::geteuid().as_raw()),
        };
        let filesystem = Arc::new(filesystem);
        let mut loops = Vec::new();
        for device in 0..channel.devices().len() {
            let (filesystem, channel) = (Arc::clone(&filesystem), Arc::clone(&channel));
            let serve = move || {
                let device = device as u16;
                EventLoop { filesystem: &*filesystem, channel, device, owner }.run(request_max)
            };
            loops.push(thread::Builder::new().name(format!("t3fs-fuse-{device}")).spawn(serve)?);
        }
        let watched = Arc::clone(&channel);
        let watch = move || watched.watch_interrupts();
        let watcher = thread::Builder::new().name("t3fs-interrupts".into()).spawn(watch)?;
        let ended = |thread: thread::JoinHandle<io::Result<()>>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("an event loop has panicked")))
        };
        let served = loops.into_iter().map(ended).fold(Ok(()), Result::and);
        channel.interrupts().end();
        let watched = watcher.join();
        watched.map_err(|_| io::Error::other("the watcher of interrupts has panicked"))?;
        served
    }
}

/// The next request; `None` at the end.
fn receive<'a>(device: &OwnedFd, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    loop {
        match rustix::io::read(device, &mut *buffer) {
            // A socket in a test.
            Ok(0) => return Ok(None),
            Ok(bytes) => return Ok(Some(&buffer[..bytes])),
            // NOENT: the request was taken back while it was read.
            Err(OsError::NOENT | OsError::INTR | OsError::AGAIN) => {}
            Err(OsError::NODEV | OsError::CONNABORTED) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

fn handshake<F: Filesystem>(
    filesystem: &mut F,
    channel: &Arc<Channel>,
) -> io::Result<KernelConfig> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut buffer = vec![0; READ_BUFFER_MIN];
    loop {
        let bytes = receive(&channel.devices()[0], &mut buffer)?.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotConnected, "unmounted before it was served")
        })?;
        let (request, fields) =
            Request::parse(bytes).map_err(|_| invalid("the first request has no header"))?;
        let answer = |error: i32, body: &[u8]| {
            channel.begin(entry(&request, 0), false);
            channel.answer(request.unique(), error, body)
        };
        let init = match Operation::parse(request.opcode(), fields) {
            Ok(Operation::Init(init)) => init,
            _ => {
                answer(-Errno::EIO.0, &[]);
                return Err(invalid("the first request is not INIT"));
            }
        };
        let Init { major, minor, .. } = init;
        if major > MAJOR {
            answer(0, &init::our_version());
            continue;
        }
        let Some(mut config) = KernelConfig::new(&init) else {
            answer(-Errno::EPROTO.0, &[]);
            let why = format!("the kernel speaks FUSE {major}.{minor}; Linux 5.4 is needed");
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        };
        if let Err(e) = filesystem.init(&request, &mut config) {
            answer(-e.raw_os_error().unwrap_or(Errno::EIO.0), &[]);
            return Err(e);
        }
        if !answer(0, &config.answer()) {
            return Err(invalid("the kernel did not take our answer to INIT"));
        }
        return Ok(config);
    }
}

fn entry(request: &Request, device: u16) -> PendingRequest {
    let may_end = dispatch::may_end(request.opcode());
    PendingRequest { unique: request.unique(), thread: request.pid(), device, may_end }
}

struct EventLoop<'a, F> {
    filesystem: &'a F,
    channel: Arc<Channel>,
    device: u16,
    /// The one user who may use the mount, if there is but one.
    owner: Option<u32>,
}

impl<F: Filesystem> EventLoop<'_, F> {
    fn run(&self, request_max: usize) -> io::Result<()> {
        let mut buffer = vec![0; request_max];
        let device = &self.channel.devices()[usize::from(self.device)];
        while let Some(bytes) = receive(device, &mut buffer)? {
            self.serve(bytes);
        }
        Ok(())
    }

    /// One request, whatever it is.
    fn serve(&self, bytes: &[u8]) {
        let (request, fields) = match Request::parse(bytes) {
            Ok(parsed) => parsed,
            Err(unique) => {
                tracing::warn!("the kernel sent {} bytes that are no request", bytes.len());
                if let Some(unique) = unique {
                    let (device, may_end) = (self.device, false);
                    self.channel
                        .begin(PendingRequest { unique, thread: 0, device, may_end }, false);
                    self.channel.answer(unique, -Errno::EINVAL.0, &[]);
                }
                return;
            }
        };
        let answered = Operation::is_answered(request.opcode());
        if answered {
            let closes = dispatch::closes(request.opcode());
            self.channel.begin(entry(&request, self.device), closes);
        }
        let refused = match Operation::parse(request.opcode(), fields) {
            Ok(_) if self.is_stranger(&request) => Errno::EACCES,
            Ok(operation) => {
                return dispatch::to(self.filesystem, &self.channel, &request, operation);
            }
            Err(_) => {
                let opcode = request.opcode();
                tracing::warn!("request {opcode} of {} bytes is malformed", bytes.len());
                Errno::EINVAL
            }
        };
        if answered {
            self.channel.answer(request.unique(), -refused.0, &[]);
        }
    }

    fn is_stranger(&self, request: &Request) -> bool {
        let stranger = self.owner.is_some_and(|owner| owner != request.uid());
        stranger && !dispatch::is_for_anybody(request.opcode())
    }
}
