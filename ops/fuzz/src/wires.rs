//! Sockets of the targets: a tape that is played, and a peer that answers. Everything is there at
//! once, so a target never waits.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use t3fs_runtime::net::{Socket, Stream};

/// Turns after which a future that waits for nothing is taken for one that never ends.
const TURNS_MAX: usize = 100_000;
/// What `poll_read` of a real socket brings at most.
const READ_MAX: usize = 8192;

/// Drives a future that has all it waits for.
pub fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..TURNS_MAX {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
    }
    panic!("it waits although everything is there");
}

/// Drives two futures that wait for each other.
pub fn run_both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (Box::pin(a), Box::pin(b));
    let (mut of_a, mut of_b) = (None, None);
    let cx = &mut Context::from_waker(Waker::noop());
    run(poll_fn(|_| {
        if of_a.is_none()
            && let Poll::Ready(done) = a.as_mut().poll(cx)
        {
            of_a = Some(done);
        }
        if of_b.is_none()
            && let Poll::Ready(done) = b.as_mut().poll(cx)
        {
            of_b = Some(done);
        }
        match of_a.is_some() && of_b.is_some() {
            true => Poll::Ready((of_a.take().expect("there"), of_b.take().expect("there"))),
            false => Poll::Pending,
        }
    }))
}

/// The other side of a connection.
pub trait Peer {
    /// The next bytes for the one under test, none at the end.
    fn say(&mut self) -> Vec<u8>;
    /// What the one under test has written.
    fn hear(&mut self, bytes: &[u8]);
}

/// A peer that says one thing, whatever it hears.
pub struct Tape(pub Vec<u8>);

impl Peer for Tape {
    fn say(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
    fn hear(&mut self, _: &[u8]) {}
}

/// A connection with a peer, whose bytes come in pieces of one size.
pub struct Wire<P> {
    pub peer: RefCell<P>,
    piece: usize,
    said: RefCell<(Vec<u8>, usize)>,
    /// Bytes that went to the one under test, and from it.
    pub received: Cell<usize>,
    pub sent: Cell<usize>,
}

impl<P: Peer> Wire<P> {
    /// `piece` stands for a size between 1 and all at once.
    pub fn new(peer: P, piece: u8) -> Wire<P> {
        let piece = match piece % 8 {
            0 => usize::MAX,
            n => [1, 3, 47, 48, 49, 1000, READ_MAX][usize::from(n) - 1],
        };
        Wire {
            peer: RefCell::new(peer),
            piece,
            said: RefCell::default(),
            received: Cell::default(),
            sent: Cell::default(),
        }
    }
}

/// One end of a connection whose other end is under test too. Bytes go over in pieces of one size.
pub struct End {
    piece: usize,
    inbound: Rc<RefCell<Vec<u8>>>,
    outbound: Rc<RefCell<Vec<u8>>>,
}

/// Both ends of a connection.
pub fn ends(piece: u8) -> [Rc<End>; 2] {
    let piece = if piece == 0 { usize::MAX } else { usize::from(piece) };
    let (a, b) = (Rc::<RefCell<Vec<u8>>>::default(), Rc::<RefCell<Vec<u8>>>::default());
    let end = |inbound: &Rc<_>, outbound: &Rc<_>| {
        Rc::new(End { piece, inbound: Rc::clone(inbound), outbound: Rc::clone(outbound) })
    };
    [end(&a, &b), end(&b, &a)]
}

impl Stream for End {
    fn poll_read(&self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.poll_fill(cx, into, READ_MAX)
    }

    fn poll_fill(
        &self,
        _: &mut Context<'_>,
        into: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let mut inbound = self.inbound.borrow_mut();
        let n = inbound.len().min(max).min(self.piece);
        into.extend(inbound.drain(..n));
        // The other end has left when it holds its side of the bytes no longer.
        match n == 0 && Rc::strong_count(&self.inbound) > 1 {
            true => Poll::Pending,
            false => Poll::Ready(Ok(n)),
        }
    }

    fn poll_write(&self, _: &mut Context<'_>, pieces: &[Bytes]) -> Poll<io::Result<usize>> {
        let first = pieces.iter().find(|p| !p.is_empty()).map_or(&[][..], |p| p);
        let n = first.len().min(self.piece);
        self.outbound.borrow_mut().extend_from_slice(&first[..n]);
        Poll::Ready(Ok(n))
    }

    fn shutdown(&self) {}

    fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn hand_over(&self) -> io::Result<Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl<P: Peer> Stream for Wire<P> {
    fn poll_read(&self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.poll_fill(cx, into, READ_MAX)
    }

    fn poll_fill(
        &self,
        _: &mut Context<'_>,
        into: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let (said, at) = &mut *self.said.borrow_mut();
        if *at == said.len() {
            (*said, *at) = (self.peer.borrow_mut().say(), 0);
        }
        let n = (said.len() - *at).min(max).min(self.piece);
        into.extend_from_slice(&said[*at..*at + n]);
        *at += n;
        self.received.set(self.received.get() + n);
        Poll::Ready(Ok(n))
    }

    fn poll_write(&self, _: &mut Context<'_>, pieces: &[Bytes]) -> Poll<io::Result<usize>> {
        let first = pieces.iter().find(|p| !p.is_empty()).map_or(&[][..], |p| p);
        let n = first.len().min(self.piece);
        self.peer.borrow_mut().hear(&first[..n]);
        self.sent.set(self.sent.get() + n);
        Poll::Ready(Ok(n))
    }

    fn shutdown(&self) {}

    fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn hand_over(&self) -> io::Result<Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
