//! One link: this shard and one shard of another node. Its connection, when it has one, and the
//! frames that wait for it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use t3fs_runtime::net::Stream;
use t3fs_runtime::wire::Frame;
use t3fs_runtime::{NodeId, Time};

use super::outbox::{Outbox, SLICES};
use super::reader::Lost;
use crate::peers::{Limits, LinkState, LinkStats};

/// A connection that has passed its handshake.
pub(super) struct Connection {
    pub(super) stream: Rc<dyn Stream>,
    pub(super) peer: SocketAddr,
    /// The peer's incarnation.
    pub(super) incarnation: u32,
    pub(super) dialed: bool,
    pub(super) since: Time,
    pub(super) outbox: Rc<RefCell<Outbox>>,
    pub(super) silence: RefCell<Silence>,
    /// Bytes received so far.
    pub(super) received: Rc<Cell<u64>>,
    /// How often the socket was full and took bytes again.
    drained: Cell<u64>,
    ended: Cell<bool>,
    writer: RefCell<Option<Waker>>,
}

/// For how long there was no sign of life, in this shard's own running time.
#[derive(Default)]
pub(super) struct Silence {
    signs: u64,
    silent: Duration,
    pinged: bool,
}

/// What silence calls for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    Ping,
    Dead,
}

impl Silence {
    /// Called every `tick`, with the signs of life until now. A tick counts no more than that, so
    /// that a shard which was itself held up does not blame its peers.
    pub(super) fn judge(
        &mut self,
        signs: u64,
        tick: Duration,
        waited_for: bool,
        limits: &Limits,
    ) -> Verdict {
        if signs != self.signs {
            *self = Silence { signs, ..Silence::default() };
            return Verdict::Fine;
        }
        self.silent += tick;
        let (ping, dead) = match waited_for {
            true => (limits.ping_after, limits.dead_after),
            false => (limits.idle_ping_after, limits.idle_dead_after),
        };
        if self.silent >= dead && self.pinged {
            return Verdict::Dead;
        }
        if self.silent >= ping && !self.pinged {
            self.pinged = true;
            return Verdict::Ping;
        }
        Verdict::Fine
    }
}

pub(super) enum State {
    /// An attempt is under way; frames wait.
    Connecting,
    Up(Rc<Connection>),
    Down {
        retry_at: Time,
    },
}

pub(super) struct Link {
    pub(super) node: NodeId,
    pub(super) shard: u16,
    pub(super) state: RefCell<State>,
    /// Frames for the connection that is up, or for the one being made.
    pub(super) outbox: RefCell<Rc<RefCell<Outbox>>>,
    pub(super) epoch: Cell<u64>,
    /// The next pause after a failed attempt; zero until one has failed.
    pub(super) backoff: Cell<Duration>,
    pub(super) last_error: RefCell<Option<String>>,
    /// Where the last connection of ours was made, and which incarnation answered.
    pub(super) answered: Cell<Option<(SocketAddr, u32)>>,
    pub(super) frames_received: Cell<u64>,
    frames_sent: Cell<u64>,
    bytes_sent: Cell<u64>,
    /// Of connections that have ended.
    pub(super) bytes_received: Cell<u64>,
}

impl Link {
    pub(super) fn new(node: NodeId, shard: u16, limits: &Limits) -> Rc<Link> {
        Rc::new(Link {
            node,
            shard,
            state: RefCell::new(State::Down { retry_at: Time::default() }),
            outbox: RefCell::new(Rc::new(RefCell::new(Outbox::new(limits)))),
            epoch: Cell::default(),
            backoff: Cell::default(),
            last_error: RefCell::default(),
            answered: Cell::default(),
            frames_received: Cell::default(),
            frames_sent: Cell::default(),
            bytes_sent: Cell::default(),
            bytes_received: Cell::default(),
        })
    }

    pub(super) fn connection(&self) -> Option<Rc<Connection>> {
        match &*self.state.borrow() {
            State::Up(c) => Some(Rc::clone(c)),
            _ => None,
        }
    }

    /// Queues a frame on a link that is up or being made.
    pub(super) fn push(&self, frame: Frame) -> Result<(), &'static str> {
        self.outbox.borrow().borrow_mut().push(frame)?;
        if let State::Up(c) = &*self.state.borrow() {
            c.wake_writer();
        }
        Ok(())
    }

    /// Gives the link an empty outbox; returns the asks of the old one that were never staged, so
    /// certainly not sent.
    pub(super) fn take_unsent(&self, limits: &Limits) -> Vec<u64> {
        let old = self.outbox.replace(Rc::new(RefCell::new(Outbox::new(limits))));
        old.borrow_mut().take_unsent()
    }

    pub(super) fn stats(&self, local_shard: u16) -> LinkStats {
        let connection = self.connection();
        let load = self.outbox.borrow().borrow().load();
        LinkStats {
            local_shard,
            remote_shard: self.shard,
            state: match &*self.state.borrow() {
                State::Connecting => LinkState::Connecting,
                State::Up(_) => LinkState::Up,
                State::Down { .. } => LinkState::Down,
            },
            epoch: self.epoch.get(),
            socket: connection.as_ref().map(|c| c.peer),
            frames_sent: self.frames_sent.get(),
            frames_received: self.frames_received.get(),
            bytes_sent: self.bytes_sent.get(),
            bytes_received: self.bytes_received.get() + connection.map_or(0, |c| c.received.get()),
            queued_frames: load.frames,
            queued_bytes: load.bytes,
            last_error: self.last_error.borrow().clone(),
        }
    }
}

impl Connection {
    pub(super) fn new(
        stream: Rc<dyn Stream>,
        peer: SocketAddr,
        incarnation: u32,
        dialed: bool,
        since: Time,
        outbox: Rc<RefCell<Outbox>>,
    ) -> Rc<Connection> {
        Rc::new(Connection {
            stream,
            peer,
            incarnation,
            dialed,
            since,
            outbox,
            silence: RefCell::default(),
            received: Rc::default(),
            drained: Cell::default(),
            ended: Cell::default(),
            writer: RefCell::default(),
        })
    }

    /// A number that grows with every sign that the peer lives: bytes from it, and room in a socket
    /// that was full. A ping waits behind the frame that is being written, so a large one on a slow
    /// way leaves nothing else to go by. Bytes that a socket takes without having been full are no
    /// sign: the kernels hold many for a process that stands still.
    pub(super) fn signs_of_life(&self) -> u64 {
        self.received.get() + self.drained.get()
    }

    pub(super) fn wake_writer(&self) {
        if let Some(w) = self.writer.borrow_mut().take() {
            w.wake();
        }
    }

    /// Ends reader and writer; false when that was done before.
    pub(super) fn end(&self) -> bool {
        if self.ended.replace(true) {
            return false;
        }
        self.stream.shutdown();
        self.wake_writer();
        true
    }

    pub(super) fn ended(&self) -> bool {
        self.ended.get()
    }

    /// Writes what is queued, as it comes, until the connection ends.
    pub(super) async fn write(&self, link: &Link) -> Result<(), Lost> {
        loop {
            self.work().await;
            if self.ended() {
                return Ok(());
            }
            let before = self.outbox.borrow().frames_staged;
            self.outbox.borrow_mut().stage();
            let mut full = false;
            let sent = poll_fn(|cx| {
                let outbox = self.outbox.borrow();
                let mut slices = [IoSlice::new(&[]); SLICES];
                let n = outbox.slices(&mut slices);
                let written = self.stream.poll_write(cx, &slices[..n]);
                full |= written.is_pending();
                written
            });
            let sent = sent.await.map_err(|e| e.to_string())?;
            self.drained.set(self.drained.get() + u64::from(full));
            let mut outbox = self.outbox.borrow_mut();
            outbox.written(sent);
            link.bytes_sent.set(link.bytes_sent.get() + sent as u64);
            let staged = outbox.frames_staged - before;
            link.frames_sent.set(link.frames_sent.get() + staged);
        }
    }

    /// Waits until there is something to write, or the end.
    async fn work(&self) {
        poll_fn(|cx| {
            if self.ended() || !self.outbox.borrow().is_empty() {
                return Poll::Ready(());
            }
            *self.writer.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: silence is noticed sooner when somebody waits, and never without a ping before.
    #[test]
    fn silence_is_judged() {
        let limits = Limits::default();
        let tick = Duration::from_millis(250);
        let after = |waited_for| {
            let mut s = Silence::default();
            let (mut pings, mut ticks) = (0, 0);
            loop {
                ticks += 1;
                match s.judge(0, tick, waited_for, &limits) {
                    Verdict::Fine => {}
                    Verdict::Ping => pings += 1,
                    Verdict::Dead => return (pings, tick * ticks),
                }
            }
        };
        assert_eq!(after(true), (1, limits.dead_after));
        assert_eq!(after(false), (1, limits.idle_dead_after));
        let mut s = Silence::default();
        for i in 0..100 {
            assert_ne!(s.judge(i / 4, tick, true, &limits), Verdict::Dead);
        }
    }
}
