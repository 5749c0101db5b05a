//! One link: this shard and one shard of another node. Its connection, when it has one, and the
//! frames that wait for it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use t3fs_runtime::net::Stream;
use t3fs_runtime::wire::Frame;
use t3fs_runtime::{NodeId, Time};

use super::silence::Silence;
use crate::address::Fabric;
use crate::flow::{Flow, Traffic};
use crate::lanes::Lanes;
use crate::limits::LinkLimits;
use crate::peers::{LinkState, LinkStats, OneSided};
use crate::{rdma, tcp};

/// What moves the frames of a connection.
pub(crate) enum Carrier {
    Tcp(Box<tcp::TcpCarrier>),
    /// The stream carries nothing; its end ends the connection.
    Rdma(rdma::RdmaCarrier),
}

/// A connection that has passed its handshake.
pub(crate) struct Connection {
    pub(super) flow: Rc<Flow>,
    pub(super) peer: SocketAddr,
    /// The peer's incarnation.
    pub(super) incarnation: u32,
    pub(super) dialed: bool,
    pub(super) since: Time,
    pub(super) carrier: Carrier,
    pub(super) silence: RefCell<Silence>,
}

/// What a connection keeps count of by itself: what a stream sends is counted by the link.
#[derive(Default)]
struct Counts {
    frames_sent: u64,
    bytes_sent: u64,
    bytes_received: u64,
    one_sided: OneSided,
}

pub(super) enum LinkPhase {
    /// An attempt is under way; frames wait.
    Connecting,
    Up(Rc<Connection>),
    Down {
        retry_at: Time,
    },
}

pub(crate) struct Link {
    pub(super) traffic: Rc<Traffic>,
    pub(super) state: RefCell<LinkPhase>,
    /// Frames for the connection that is up, or for the one being made.
    pub(super) lanes: RefCell<Rc<RefCell<Lanes>>>,
    pub(super) epoch: Cell<u64>,
    /// The next pause after a failed attempt; zero until one has failed.
    pub(super) backoff: Cell<Duration>,
    pub(super) last_error: RefCell<Option<String>>,
    /// Why the connection is not carried by a queue pair, where one was wanted.
    pub(super) why_not_rdma: RefCell<Option<String>>,
    /// Of connections that have ended.
    one_sided: Cell<OneSided>,
    /// Where the last connection of ours was made, and which incarnation answered.
    pub(super) answered: Cell<Option<(SocketAddr, u32)>>,
    /// Of connections that have ended.
    bytes_received: Cell<u64>,
}

impl Link {
    pub(super) fn new(node: NodeId, shard: u16, limits: &LinkLimits) -> Rc<Link> {
        Rc::new(Link {
            traffic: Traffic::new(node, shard),
            state: RefCell::new(LinkPhase::Down { retry_at: Time::default() }),
            lanes: RefCell::new(Rc::new(RefCell::new(Lanes::new(limits)))),
            epoch: Cell::default(),
            backoff: Cell::default(),
            last_error: RefCell::default(),
            why_not_rdma: RefCell::default(),
            one_sided: Cell::default(),
            answered: Cell::default(),
            bytes_received: Cell::default(),
        })
    }

    pub(super) fn connection(&self) -> Option<Rc<Connection>> {
        match &*self.state.borrow() {
            LinkPhase::Up(c) => Some(Rc::clone(c)),
            _ => None,
        }
    }

    /// Queues a frame on a link that is up or being made.
    pub(super) fn push(&self, mut frame: Frame) -> Result<(), &'static str> {
        if let Some(spoken) = self.lanes.borrow().borrow().spoken() {
            frame.settle(spoken);
        }
        if let LinkPhase::Up(c) = &*self.state.borrow()
            && c.send_alone(&frame)
        {
            return Ok(());
        }
        self.lanes.borrow().borrow_mut().push(frame)?;
        if let LinkPhase::Up(c) = &*self.state.borrow() {
            c.has_frames();
        }
        Ok(())
    }

    /// Gives the link empty lanes; returns the asks that no carrier has taken out of the old ones,
    /// so certainly not sent.
    pub(super) fn take_unsent(&self, limits: &LinkLimits) -> Vec<u64> {
        let old = self.lanes.replace(Rc::new(RefCell::new(Lanes::new(limits))));
        old.borrow_mut().take_unsent()
    }

    /// What a connection that has ended did stays counted.
    pub(super) fn keep_counts(&self, of: &Connection) {
        let counts = of.counts();
        self.traffic.count_sent(counts.frames_sent, counts.bytes_sent);
        self.bytes_received.set(self.bytes_received.get() + counts.bytes_received);
        self.one_sided.set(self.one_sided.get() + counts.one_sided);
    }

    pub(super) fn stats(&self, local_shard: u16) -> LinkStats {
        let connection = self.connection();
        let load = self.lanes.borrow().borrow().load();
        let carrier = connection.as_ref().map(|c| c.fabric());
        let counts = connection.as_ref().map(|c| c.counts()).unwrap_or_default();
        LinkStats {
            local_shard,
            remote_shard: self.traffic.shard,
            state: match &*self.state.borrow() {
                LinkPhase::Connecting => LinkState::Connecting,
                LinkPhase::Up(_) => LinkState::Up,
                LinkPhase::Down { .. } => LinkState::Down,
            },
            epoch: self.epoch.get(),
            socket: connection.as_ref().map(|c| c.peer),
            since: connection.as_ref().map(|c| c.since),
            frames_sent: self.traffic.frames_sent.get() + counts.frames_sent,
            frames_received: self.traffic.frames_received.get(),
            bytes_sent: self.traffic.bytes_sent.get() + counts.bytes_sent,
            bytes_received: self.bytes_received.get() + counts.bytes_received,
            queued_frames: load.frames,
            queued_bytes: load.bytes,
            last_error: self.last_error.borrow().clone(),
            carrier,
            why_not_rdma: self.why_not_rdma.borrow().clone(),
            one_sided: self.one_sided.get() + counts.one_sided,
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
        lanes: Rc<RefCell<Lanes>>,
        carrier: Carrier,
    ) -> Rc<Connection> {
        Rc::new(Connection {
            flow: Flow::new(stream, lanes),
            peer,
            incarnation,
            dialed,
            since,
            carrier,
            silence: RefCell::default(),
        })
    }

    /// A number that grows with every sign that the peer lives.
    pub(super) fn signs_of_life(&self) -> u64 {
        match &self.carrier {
            Carrier::Tcp(tcp) => self.flow.received.get() + tcp.signs_of_life(),
            Carrier::Rdma(rdma) => rdma.signs_of_life(),
        }
    }

    /// Whether nothing waits or is on its way.
    pub(super) fn is_idle(&self) -> bool {
        let idle = match &self.carrier {
            Carrier::Tcp(tcp) => tcp.is_idle(),
            Carrier::Rdma(rdma) => rdma.is_idle(),
        };
        idle && self.flow.lanes.borrow().is_empty()
    }

    pub(super) fn fabric(&self) -> Fabric {
        match &self.carrier {
            Carrier::Tcp(_) => Fabric::Tcp,
            Carrier::Rdma(_) => Fabric::Rdma,
        }
    }

    fn counts(&self) -> Counts {
        match &self.carrier {
            Carrier::Tcp(_) => {
                Counts { bytes_received: self.flow.received.get(), ..Counts::default() }
            }
            Carrier::Rdma(rdma) => {
                let c = rdma.counts();
                Counts {
                    frames_sent: c.frames_sent,
                    bytes_sent: c.bytes_sent + c.bytes_written,
                    bytes_received: c.bytes_received + c.bytes_read,
                    one_sided: OneSided {
                        bytes_read: c.bytes_read,
                        bytes_written: c.bytes_written,
                        packets_sent: c.packets_sent,
                        packets_received: c.packets_received,
                    },
                }
            }
        }
    }

    /// Sends a frame at once, if nothing is before it and it is small. False: it is to be queued.
    fn send_alone(&self, frame: &Frame) -> bool {
        match &self.carrier {
            Carrier::Tcp(_) => false,
            Carrier::Rdma(rdma) => {
                self.flow.lanes.borrow().is_empty() && rdma.send_alone(&self.flow, frame)
            }
        }
    }

    /// There is something to send: it goes at once, or when the task that sends has its turn.
    fn has_frames(&self) {
        match &self.carrier {
            Carrier::Rdma(rdma) if rdma.send_at_once(&self.flow) => {}
            _ => self.flow.wake_sender(),
        }
    }

    /// Ends its tasks; false when that was done before.
    pub(super) fn end(&self) -> bool {
        if !self.flow.end() {
            return false;
        }
        if let Carrier::Rdma(rdma) = &self.carrier {
            rdma.end();
        }
        self.flow.wake_sender();
        true
    }
}
