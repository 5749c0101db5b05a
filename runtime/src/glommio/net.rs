//! The byte-stream port on glommio: its polls, our system calls.
//!
//! glommio's own stream reads with a plain `recv` when something is there and polls by io_uring
//! when not, which is what is wanted; but it reads only into initialised memory, writes one slice
//! at a time, and its listener shares its port with anyone (SO_REUSEPORT). So reads of big things
//! and gathered writes are made here on the socket itself, and glommio's stream is used to wait.
//! Decision 008 has the measurements.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::glommio::TaskQueueHandle;
use ::glommio::net::TcpStream;
use bytes::{Bytes, BytesMut};
use futures::{AsyncRead, AsyncWrite};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, sockopt};

use super::zero_copy::{Late, Lent, reset_at_close};
use crate::net::{KERNEL_PATIENCE, Listener, Net, Socket, Stream, Watch};
use crate::slot::Slot;

/// Bytes that one read for small things takes. Above that they are copied once more than needed.
const SMALL_READ: usize = 8 << 10;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Slices of one write.
const SLICES: usize = 16;

pub(super) struct Sockets {
    tasks: TaskQueueHandle,
    late: Rc<Late>,
}

impl Sockets {
    pub(super) fn new(tasks: TaskQueueHandle) -> Sockets {
        let late = Rc::<Late>::default();
        let run = Rc::clone(&late).run();
        ::glommio::spawn_local_into(run, tasks).expect("our own task queue").detach();
        Sockets { tasks, late }
    }
}

impl Net for Sockets {
    fn connect(&self, to: SocketAddr, limit: Duration, done: Slot<io::Result<Rc<dyn Stream>>>) {
        let late = Rc::clone(&self.late);
        let work = async move {
            done.fill(match TcpStream::connect_timeout(to, limit).await {
                Ok(tcp) => connection(tcp, late),
                Err(e) => Err(e.into()),
            });
        };
        ::glommio::spawn_local_into(work, self.tasks).expect("our own task queue").detach();
    }

    fn listen(&self, at: SocketAddr) -> io::Result<Rc<dyn Listener>> {
        let socket = TcpListener::bind(at)?;
        // Once more, for a longer queue than std's 128: a dropped SYN costs its sender a second.
        rustix::net::listen(&socket, BACKLOG)?;
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        Ok(Rc::new(Door { socket, local, wait: RefCell::default() }))
    }

    fn adopt(&self, socket: Socket) -> io::Result<Rc<dyn Stream>> {
        connection(stream_of(socket.0), Rc::clone(&self.late))
    }

    fn watch(&self, fd: OwnedFd) -> Box<dyn Watch> {
        Box::new(Watched { fd, wait: Readable::default() })
    }
}

fn stream_of(fd: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is open, and given away here.
    unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) }
}

struct Door {
    socket: TcpListener,
    local: SocketAddr,
    wait: RefCell<Readable>,
}

/// Waits for a descriptor, of whatever kind, to be readable.
///
/// glommio can wait only for its streams, and polls a new one at once. So a copy of the descriptor
/// is dressed up as a stream: its first read waits for the poll, then fails because nobody can read
/// there like that, which tells that there is something.
#[derive(Default)]
pub(super) struct Readable(Option<TcpStream>);

impl Readable {
    pub(super) fn poll(
        &mut self,
        fd: BorrowedFd<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_none() {
            self.0 = Some(stream_of(fd.try_clone_to_owned()?));
        }
        let stream = self.0.as_mut().expect("made above");
        // Whatever the read says, the poll has fired.
        let _ = ready!(Pin::new(stream).poll_read(cx, &mut [0; 1]));
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

struct Watched {
    fd: OwnedFd,
    wait: Readable,
}

impl Watch for Watched {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wait.poll(self.fd.as_fd(), cx)
    }
}

impl Listener for Door {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, SocketAddr)>> {
        loop {
            match self.socket.accept() {
                Ok((tcp, from)) => return Poll::Ready(Ok((Socket(tcp.into()), from))),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(e) => return Poll::Ready(Err(e)),
            }
            ready!(self.wait.borrow_mut().poll(self.socket.as_fd(), cx))?;
        }
    }
}

struct Connection {
    tcp: RefCell<TcpStream>,
    fd: std::os::fd::RawFd,
    lent: RefCell<Lent>,
    late: Rc<Late>,
}

fn connection(tcp: TcpStream, late: Rc<Late>) -> io::Result<Rc<dyn Stream>> {
    let fd = tcp.as_raw_fd();
    let it = Connection { tcp: RefCell::new(tcp), fd, lent: RefCell::default(), late };
    let s = it.fd();
    *it.lent.borrow_mut() = Lent::new(s);
    sockopt::set_tcp_nodelay(s, true)?;
    sockopt::set_socket_keepalive(s, true)?;
    sockopt::set_tcp_keepidle(s, KERNEL_PATIENCE / 3)?;
    sockopt::set_tcp_keepintvl(s, KERNEL_PATIENCE / 3)?;
    sockopt::set_tcp_keepcnt(s, 2)?;
    sockopt::set_tcp_user_timeout(s, KERNEL_PATIENCE.as_millis() as u32)?;
    rustix::io::fcntl_setfd(s, rustix::io::FdFlags::CLOEXEC)?;
    Ok(Rc::new(it))
}

impl Connection {
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `tcp` owns the descriptor and lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    /// Before the socket is waited on.
    fn take_back(&self) {
        self.lent.borrow_mut().take_back(self.fd());
    }

    fn try_fill(&self, into: &mut BytesMut, max: usize) -> io::Result<usize> {
        into.reserve(max);
        let spare: &mut [MaybeUninit<u8>] = into.spare_capacity_mut();
        let ((got, _), _) = loop {
            match rustix::net::recv(self.fd(), &mut spare[..max], RecvFlags::DONTWAIT) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        let n = got.len();
        // SAFETY: the kernel has written these `n` bytes of the spare capacity.
        unsafe { into.set_len(into.len() + n) };
        Ok(n)
    }
}

impl Stream for Connection {
    fn poll_read(&self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.take_back();
        let mut small = [0; SMALL_READ];
        let n = ready!(Pin::new(&mut *self.tcp.borrow_mut()).poll_read(cx, &mut small))?;
        into.extend_from_slice(&small[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_fill(
        &self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        match self.try_fill(into, max) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
        self.take_back();
        // Waits, and takes the first bytes by the way.
        let mut small = [0; SMALL_READ];
        let limit = small.len().min(max);
        let read = Pin::new(&mut *self.tcp.borrow_mut()).poll_read(cx, &mut small[..limit]);
        let n = ready!(read)?;
        into.extend_from_slice(&small[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_write(&self, cx: &mut Context<'_>, pieces: &[Bytes]) -> Poll<io::Result<usize>> {
        self.take_back();
        let mut slices = [IoSlice::new(&[]); SLICES];
        slices.iter_mut().zip(pieces).for_each(|(slice, piece)| *slice = IoSlice::new(piece));
        let slices = &slices[..pieces.len().min(SLICES)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let lent = self.lent.borrow_mut().send(self.fd(), slices, pieces, flags);
        let sent = lent.unwrap_or_else(|| match slices {
            [one] => rustix::net::send(self.fd(), one, flags),
            many => {
                let mut nothing = SendAncillaryBuffer::default();
                rustix::net::sendmsg(self.fd(), many, &mut nothing, flags)
            }
        });
        match sent {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(e) => return Poll::Ready(Err(e.into())),
            Ok(n) => return Poll::Ready(Ok(n)),
        }
        // Tries once more and then polls for room.
        let first = pieces.iter().find(|p| !p.is_empty()).map_or(&[][..], |p| p);
        Pin::new(&mut *self.tcp.borrow_mut()).poll_write(cx, first)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.borrow().local_addr().map_err(io::Error::from)
    }

    fn shutdown(&self) {
        // Fails only when the peer has ended the connection already.
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Both);
    }

    fn hand_over(&self) -> io::Result<Socket> {
        Ok(Socket(self.fd().try_clone_to_owned()?))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let lent = self.lent.take();
        if lent.is_empty() {
            return;
        }
        self.shutdown();
        match self.fd().try_clone_to_owned() {
            Ok(socket) => self.late.keep(socket, lent),
            // No descriptor left. The kernel lets go a moment after this.
            Err(_) => {
                reset_at_close(self.fd());
                std::mem::forget(lent);
            }
        }
    }
}
