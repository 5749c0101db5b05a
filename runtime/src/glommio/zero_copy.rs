//! Sending without copying (MSG_ZEROCOPY, `Documentation/networking/msg_zerocopy.rst` of Linux):
//! the kernel sends big pieces from where they lie, and says on the socket's error queue when it
//! needs them no longer. Until then they are kept, also when the connection is closed meanwhile.
//!
//! Whether it pays depends on the device. Where the kernel has to copy after all (loopback, veth)
//! it says so, and the connection soon asks for it no longer. Decision 008 has the measurements.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::IoSlice;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sockopt};

use crate::net::KERNEL_PATIENCE;

/// Below this, looking up pages and hearing of them again costs what copying does.
const WORTH: usize = 64 << 10;
/// Bytes that one connection lends; beyond that the kernel copies.
const LENT_MAX: usize = 8 << 20;
const _: () = assert!(WORTH <= LENT_MAX);
/// As often in a row the kernel may say that it has copied; now and then it does on any device.
const COPIED_MAX: u32 = 8;
/// How often closed connections are looked at.
const LOOK: Duration = Duration::from_millis(5);
/// The kernel lets go by itself, at the latest when it has given up the peer.
const GIVE_UP: Duration = KERNEL_PATIENCE.saturating_mul(2);

/// `SO_EE_ORIGIN_ZEROCOPY` and `SO_EE_CODE_ZEROCOPY_COPIED` of `linux/errqueue.h`.
const ORIGIN: u8 = 5;
const COPIED: u8 = 1;

/// What a connection has lent to the kernel.
#[derive(Default)]
pub(super) struct Lent {
    on: bool,
    /// The kernel counts the writes; so do we.
    next: u32,
    loans: VecDeque<Loan>,
    bytes: usize,
    /// How often in a row the kernel has copied.
    copied: u32,
}

struct Loan {
    write: u32,
    bytes: usize,
    _pieces: Vec<Bytes>,
}

/// The kernel has done with these writes.
struct Done {
    first: u32,
    last: u32,
    copied: bool,
}

impl Done {
    fn covers(&self, write: u32) -> bool {
        write.wrapping_sub(self.first) <= self.last.wrapping_sub(self.first)
    }
}

impl Lent {
    /// For a new connection. Where the kernel cannot do without copying, nothing is ever lent.
    pub(super) fn new(socket: BorrowedFd<'_>) -> Lent {
        Lent { on: allow(socket), ..Lent::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.loans.is_empty()
    }

    /// One write, whose slices are those of the pieces. `None`: not this time, it is to be copied.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        slices: &[IoSlice<'_>],
        pieces: &[Bytes],
        flags: SendFlags,
    ) -> Option<Result<usize, Errno>> {
        let bytes: usize = slices.iter().map(|s| s.len()).sum();
        if !self.on || bytes < WORTH || self.bytes + bytes > LENT_MAX {
            return None;
        }
        let flags = flags | SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32);
        match rustix::net::sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), flags) {
            Ok(sent) if sent > 0 => {
                self.lend(pieces, sent);
                Some(Ok(sent))
            }
            // Too much is lent, by this or another connection, or nothing may be lent at all
            // (`optmem_max`, RLIMIT_MEMLOCK).
            Err(Errno::NOBUFS) => {
                self.on = !self.is_empty();
                None
            }
            other => Some(other),
        }
    }

    fn lend(&mut self, pieces: &[Bytes], bytes: usize) {
        let (mut rest, mut kept) = (bytes, Vec::new());
        for piece in pieces {
            if rest == 0 {
                break;
            }
            rest -= rest.min(piece.len());
            kept.push(piece.clone());
        }
        self.loans.push_back(Loan { write: self.next, bytes, _pieces: kept });
        self.next = self.next.wrapping_add(1);
        self.bytes += bytes;
    }

    /// Drops what the kernel needs no longer. To be called whenever the socket is about to be
    /// waited on: an error queue with something in it ends each wait at once.
    pub(super) fn take_back(&mut self, socket: BorrowedFd<'_>) {
        while !self.is_empty()
            && let Some(done) = next_done(socket)
        {
            tracing::trace!("writes {} to {} done, copied: {}", done.first, done.last, done.copied);
            self.copied = if done.copied { self.copied + 1 } else { 0 };
            if self.copied == COPIED_MAX {
                self.on = false;
                tracing::debug!("the kernel copies what a connection sends: no more is lent to it");
            }
            self.loans.retain(|loan| !done.covers(loan.write));
            self.bytes = self.loans.iter().map(|loan| loan.bytes).sum();
        }
    }
}

fn allow(socket: BorrowedFd<'_>) -> bool {
    let one: libc::c_int = 1;
    // SAFETY: an open socket, and an integer of our own with its size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    done == 0
}

/// The next message of the error queue, if there is one; of what else may be there nothing is
/// lost, since nobody has asked for it.
fn next_done(socket: BorrowedFd<'_>) -> Option<Done> {
    // SAFETY: plain data, for which zeroes mean nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    loop {
        let mut control = [0u64; 16]; // aligned as control messages are
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: an open socket; the message names the buffer above and its size, nothing else.
        if unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) } < 0 {
            return None;
        }
        // SAFETY: the kernel has filled in the buffer and how much of it; it is alive.
        let header = unsafe { libc::CMSG_FIRSTHDR(&message).as_ref() };
        let Some(header) = header else { continue };
        let kind = (header.cmsg_level, header.cmsg_type);
        let errors = [(libc::SOL_IP, libc::IP_RECVERR), (libc::SOL_IPV6, libc::IPV6_RECVERR)];
        if !errors.contains(&kind) {
            continue;
        }
        // SAFETY: such a message carries this, as plain data.
        let error: libc::sock_extended_err =
            unsafe { libc::CMSG_DATA(header).cast::<libc::sock_extended_err>().read_unaligned() };
        if error.ee_origin == ORIGIN {
            let copied = error.ee_code & COPIED != 0;
            return Some(Done { first: error.ee_info, last: error.ee_data, copied });
        }
    }
}

/// Closed connections that had lent something. Their sockets stay open, shut down, until the kernel
/// has sent what it was given, or has given up the peer. At the end of a shard they stay as they
/// are: its process ends too, and the kernel keeps the pages that it needs.
#[derive(Default)]
pub(super) struct Late {
    closed: RefCell<Vec<Closed>>,
    waker: Cell<Option<Waker>>,
}

struct Closed {
    socket: OwnedFd,
    lent: Lent,
    since: Instant,
}

impl Late {
    /// `socket` is a copy of the descriptor, of a connection that was shut down.
    pub(super) fn keep(&self, socket: OwnedFd, lent: Lent) {
        self.closed.borrow_mut().push(Closed { socket, lent, since: Instant::now() });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Takes back what was lent, for ever.
    pub(super) async fn run(self: Rc<Self>) {
        loop {
            poll_fn(|cx| {
                self.waker.set(Some(cx.waker().clone()));
                if self.closed.borrow().is_empty() { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            self.closed.borrow_mut().retain_mut(Closed::is_late);
            ::glommio::timer::sleep(LOOK).await;
        }
    }
}

impl Closed {
    fn is_late(&mut self) -> bool {
        self.lent.take_back(self.socket.as_fd());
        if self.lent.is_empty() {
            return false;
        }
        if self.since.elapsed() < GIVE_UP {
            return true;
        }
        reset_at_close(self.socket.as_fd());
        false
    }
}

/// Closing the socket ends the connection at once, and the kernel lets go of what it has. What a
/// device may still read then leaves for a connection that is no more.
pub(super) fn reset_at_close(socket: BorrowedFd<'_>) {
    // Fails for no socket of ours.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    use super::*;
    use crate::glommio::run_alone;
    use crate::net::{Net, Socket, Stream};

    const PIECE: usize = 128 << 10;
    const FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

    /// A piece whose memory is alive as long as the counter has a second owner.
    struct Piece(Vec<u8>, #[expect(dead_code)] Arc<()>);

    impl AsRef<[u8]> for Piece {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    fn piece(n: usize, alive: &Arc<()>) -> Bytes {
        let bytes = (0..PIECE).map(|i| (i / 7 + n) as u8).collect();
        Bytes::from_owner(Piece(bytes, Arc::clone(alive)))
    }

    fn connected() -> (TcpStream, TcpStream) {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let a = TcpStream::connect(door.local_addr().unwrap()).unwrap();
        a.set_nonblocking(true).unwrap();
        (a, door.accept().unwrap().0)
    }

    /// Lends pieces until the socket is full; what was sent.
    fn fill(socket: &TcpStream, lent: &mut Lent, alive: &Arc<()>) -> Vec<u8> {
        let mut all = Vec::new();
        for n in 0.. {
            let piece = piece(n, alive);
            let slices = [IoSlice::new(&piece)];
            match lent.send(socket.as_fd(), &slices, std::slice::from_ref(&piece), FLAGS) {
                Some(Ok(sent)) => all.extend_from_slice(&piece[..sent]),
                Some(Err(Errno::AGAIN)) | None => return all,
                Some(Err(e)) => panic!("{e}"),
            }
        }
        unreachable!("sockets have an end")
    }

    fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
        let since = Instant::now();
        while !done() {
            assert!(since.elapsed() < Duration::from_secs(10), "in vain: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Goal: what is lent is kept until the kernel says that it needs it no longer, and the other
    /// side gets what was lent. Method: a peer that reads nothing at first, so that bytes stay
    /// where they are.
    #[test]
    fn what_is_lent_is_kept_until_the_kernel_lets_go() {
        let (a, mut b) = connected();
        let (mut lent, alive) = (Lent::new(a.as_fd()), Arc::new(()));
        let sent = fill(&a, &mut lent, &alive);
        std::thread::sleep(Duration::from_millis(50));
        lent.take_back(a.as_fd());
        assert!(!lent.is_empty() && lent.bytes > 0, "nothing waits in the socket");
        assert_eq!(Arc::strong_count(&alive), 1 + lent.loans.len());
        let mut got = vec![0; sent.len()];
        b.read_exact(&mut got).unwrap();
        assert!(got == sent, "other bytes came");
        wait_until("all is given back", || {
            lent.take_back(a.as_fd());
            lent.is_empty()
        });
        assert_eq!((lent.bytes, Arc::strong_count(&alive)), (0, 1));
    }

    /// Goal: where the kernel copies, as on loopback, it is soon asked no longer. Method: a peer
    /// that reads all.
    #[test]
    fn a_device_that_copies_is_found_out() {
        let (a, mut b) = connected();
        let (mut lent, alive) = (Lent::new(a.as_fd()), Arc::new(()));
        let reader = std::thread::spawn(move || std::io::copy(&mut b, &mut std::io::sink()));
        let mut writes = 0;
        wait_until("nothing more is lent", || {
            lent.take_back(a.as_fd());
            let piece = piece(0, &alive);
            let slices = [IoSlice::new(&piece)];
            match lent.send(a.as_fd(), &slices, std::slice::from_ref(&piece), FLAGS) {
                Some(_) => writes += 1,
                None => return !lent.on,
            }
            false
        });
        assert!(writes >= COPIED_MAX);
        drop(a);
        reader.join().unwrap().unwrap();
    }

    #[test]
    fn small_writes_and_too_many_are_copied() {
        let (a, _b) = connected();
        let mut lent = Lent::new(a.as_fd());
        let small = [Bytes::from(vec![1; WORTH - 1])];
        let slices = [IoSlice::new(&small[0])];
        assert!(lent.send(a.as_fd(), &slices, &small, FLAGS).is_none());
        let piece = [Bytes::from(vec![1; WORTH])];
        let slices = [IoSlice::new(&piece[0])];
        lent.bytes = LENT_MAX - WORTH + 1;
        assert!(lent.send(a.as_fd(), &slices, &piece, FLAGS).is_none());
        lent.bytes = LENT_MAX - WORTH;
        assert_eq!(lent.send(a.as_fd(), &slices, &piece, FLAGS), Some(Ok(WORTH)));
    }

    #[test]
    fn numbers_of_writes_wrap() {
        let done = Done { first: u32::MAX - 1, last: 1, copied: false };
        let covered = |w| done.covers(w);
        assert!([u32::MAX - 1, u32::MAX, 0, 1].into_iter().all(covered));
        assert!(![u32::MAX - 2, 2, 7].into_iter().any(covered));
    }

    fn adopt(net: &Rc<dyn Net>, socket: TcpStream) -> Rc<dyn Stream> {
        net.adopt(Socket(socket.into())).unwrap()
    }

    /// Writes pieces until there is no room; what was written.
    async fn write_all(stream: &Rc<dyn Stream>, alive: &Arc<()>) -> Vec<u8> {
        let mut all = Vec::new();
        for n in 0.. {
            let piece = piece(n, alive);
            let write = |cx: &mut std::task::Context<'_>| {
                Poll::Ready(match stream.poll_write(cx, std::slice::from_ref(&piece)) {
                    Poll::Ready(sent) => sent.unwrap(),
                    Poll::Pending => 0,
                })
            };
            match poll_fn(write).await {
                0 => break,
                sent => all.extend_from_slice(&piece[..sent]),
            }
        }
        all
    }

    /// Goal: closing a connection changes nothing for bytes that the kernel has yet to send: the
    /// peer gets all of them and then the end, and their memory is kept until then. Method: a peer
    /// that reads only after the connection was dropped.
    #[test]
    fn lent_memory_outlives_its_connection() {
        let (a, mut b) = connected();
        run_alone(Vec::new(), async move |shard| {
            let (net, alive) = (shard.backend.net().unwrap(), Arc::new(()));
            let stream = adopt(&net, a);
            let sent = write_all(&stream, &alive).await;
            drop(stream);
            shard.cx().sleep(Duration::from_millis(50)).await;
            assert!(Arc::strong_count(&alive) > 1, "freed under the kernel");
            let reader = std::thread::spawn(move || {
                let mut got = Vec::new();
                b.read_to_end(&mut got).map(|_| got)
            });
            for _ in 0..1000 {
                shard.cx().sleep(Duration::from_millis(5)).await;
                if Arc::strong_count(&alive) == 1 && reader.is_finished() {
                    break;
                }
            }
            assert_eq!(Arc::strong_count(&alive), 1, "never given back");
            assert!(reader.join().unwrap().unwrap() == sent, "other bytes came");
        })
        .unwrap();
    }

    /// Goal: what the kernel says on the error queue is not taken for an error of the connection,
    /// and does not keep its reader busy. Method: count how often a reader that waits is polled
    /// while a peer takes what was lent, then send it something.
    #[test]
    fn a_waiting_reader_sleeps_through_it() {
        let (a, mut b) = connected();
        run_alone(Vec::new(), async move |shard| {
            let (net, alive) = (shard.backend.net().unwrap(), Arc::new(()));
            let stream = adopt(&net, a);
            let (polls, come) = (Rc::new(Cell::new(0)), crate::Slot::new());
            let (s, p, c) = (Rc::clone(&stream), Rc::clone(&polls), come.clone());
            shard.cx().spawn(async move {
                let mut into = bytes::BytesMut::new();
                let read = poll_fn(|cx| {
                    p.set(p.get() + 1);
                    s.poll_fill(cx, &mut into, 100)
                });
                c.fill(read.await.map(|n| n == 5 && into[..] == *b"hello"));
            });
            let sent = write_all(&stream, &alive).await.len();
            let peer = std::thread::spawn(move || {
                b.read_exact(&mut vec![0; sent]).unwrap();
                std::thread::sleep(Duration::from_millis(100));
                b.write_all(b"hello").unwrap();
                b
            });
            assert!(come.await.unwrap(), "it read something else");
            assert!(polls.get() < 500, "{} polls", polls.get());
            assert_eq!(Arc::strong_count(&alive), 1, "not taken back by the reader");
            drop(peer.join().unwrap());
        })
        .unwrap();
    }
}
