//! What a carrier works on: the connection's stream, the frames that wait for it, and counts.
//!
//! `links/link.rs` makes one [`Flow`] for each connection and one [`Traffic`] for each link; the
//! carriers (`tcp/`, `rdma/`) know nothing else of either.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use t3fs_runtime::NodeId;
use t3fs_runtime::net::Stream;
use t3fs_runtime::wire::Frame;

use crate::lanes::Lanes;

/// What came.
pub(crate) enum Incoming {
    Frame(Frame),
    Ping,
    Pong,
}

/// Why a connection ended: a few words for the log and for the doctor.
pub(crate) type Lost = String;

/// Lets other tasks of the shard run.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A connection as its carrier sees it.
pub(crate) struct Flow {
    pub(crate) stream: Rc<dyn Stream>,
    /// What it has to send.
    pub(crate) lanes: Rc<RefCell<Lanes>>,
    /// Bytes received over the stream so far.
    pub(crate) received: Rc<Cell<u64>>,
    ended: Cell<bool>,
    /// The task that sends, while there is nothing to send.
    sender: RefCell<Option<Waker>>,
    poked: Cell<bool>,
}

impl Flow {
    pub(crate) fn new(stream: Rc<dyn Stream>, lanes: Rc<RefCell<Lanes>>) -> Rc<Flow> {
        Rc::new(Flow {
            stream,
            lanes,
            received: Rc::default(),
            ended: Cell::default(),
            sender: RefCell::default(),
            poked: Cell::default(),
        })
    }

    /// Nothing is sent or delivered any more; false when that was so before.
    pub(crate) fn end(&self) -> bool {
        if self.ended.replace(true) {
            return false;
        }
        self.stream.shutdown();
        true
    }

    pub(crate) fn wake_sender(&self) {
        self.poked.set(true);
        if let Some(w) = self.sender.borrow_mut().take() {
            w.wake();
        }
    }

    pub(crate) fn set_sender(&self, waker: Waker) {
        *self.sender.borrow_mut() = Some(waker);
    }

    /// Waits until the sender was woken since the last time.
    pub(crate) async fn poked(&self) {
        poll_fn(|cx| {
            if self.poked.take() {
                return Poll::Ready(());
            }
            self.set_sender(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended.get()
    }
}

/// Which shard of which node a link leads to, and how much went there and came from there.
pub(crate) struct Traffic {
    pub(crate) node: NodeId,
    pub(crate) shard: u16,
    pub(crate) frames_received: Cell<u64>,
    /// Over streams, and over queue pairs that have ended.
    pub(crate) frames_sent: Cell<u64>,
    pub(crate) bytes_sent: Cell<u64>,
}

impl Traffic {
    pub(crate) fn new(node: NodeId, shard: u16) -> Rc<Traffic> {
        Rc::new(Traffic {
            node,
            shard,
            frames_received: Cell::default(),
            frames_sent: Cell::default(),
            bytes_sent: Cell::default(),
        })
    }

    pub(crate) fn count_sent(&self, frames: u64, bytes: u64) {
        self.frames_sent.set(self.frames_sent.get() + frames);
        self.bytes_sent.set(self.bytes_sent.get() + bytes);
    }
}
