//! The byte-stream port: what a link between nodes needs of the network, and nothing more.
//!
//! Streams belong to the shard that opened or adopted them. A [`Socket`] is a stream on its way to
//! another shard of the process. Reads append to the caller's buffer, without clearing it first;
//! writes gather, from memory that nobody writes to. Production is `runtime/src/glommio/net.rs`;
//! the simulator moves whole frames instead and has no byte streams.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::slot::Slot;

/// The network as one shard sees it.
pub trait Net {
    /// Connects within `limit`; the slot fills once.
    fn connect(&self, to: SocketAddr, limit: Duration, done: Slot<io::Result<Rc<dyn Stream>>>);
    /// Listens; an address that any other socket listens at is refused.
    fn listen(&self, at: SocketAddr) -> io::Result<Rc<dyn Listener>>;
    /// Takes over a stream that another shard gave away.
    fn adopt(&self, socket: Socket) -> io::Result<Rc<dyn Stream>>;
    /// Waits on a descriptor of whatever kind: a device's event channel, say.
    fn watch(&self, fd: OwnedFd) -> Box<dyn Watch>;
}

/// A descriptor that is waited on.
pub trait Watch {
    /// Ready when there is something to read, which the caller then takes out by its own means.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// An open connection that belongs to no shard at the moment.
pub struct Socket(pub(crate) OwnedFd);

/// What a listening socket does.
pub trait Listener {
    fn local_addr(&self) -> SocketAddr;
    /// The next connection, not yet of any shard.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, SocketAddr)>>;
}

/// A connection: bytes in order, both ways. Dropping it closes it.
pub trait Stream {
    /// Appends what has come, a few KiB at most: for many small things. 0 is the end of the stream.
    fn poll_read(&self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>>;
    /// Appends up to `max` bytes, straight into the spare capacity (made when missing): for big
    /// things. 0 is the end of the stream.
    fn poll_fill(
        &self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>>;
    /// Writes some of the pieces' bytes, in order. Clones of pieces may be kept for a while: the
    /// kernel may send them from where they lie.
    fn poll_write(&self, cx: &mut Context<'_>, pieces: &[Bytes]) -> Poll<io::Result<usize>>;
    /// The address of our end.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// Ends both directions at once; reads and writes that wait return.
    fn shutdown(&self);
    /// The same connection for another shard; this stream is then dropped, not shut down.
    fn hand_over(&self) -> io::Result<Socket>;
}

/// How long unacknowledged bytes, and an idle connection, may stay so before the kernel gives up.
/// The link's own pings notice sooner; this is for what they cannot see.
pub const KERNEL_PATIENCE: Duration = Duration::from_secs(15);
