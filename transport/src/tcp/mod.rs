//! TCP as a carrier: frames as bytes of the connection's own stream.
//!
//! Two tasks a connection, one that reads and one that writes. The format is drawn in
//! `../frame.rs`.

pub(crate) mod outbox;
pub(crate) mod reader;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;

use bytes::BytesMut;
use t3fs_runtime::{Shard, Slot};

use crate::flow::{Flow, Incoming, Lost, Traffic, yield_now};
use crate::pool::HeapPool;
use outbox::Outbox;
use reader::{Reader, Turn};

/// Frames and payload bytes taken from one connection before others get their turn.
const BURST: usize = 128;
const BURST_BYTES: usize = 32 << 10;
/// Every so many bursts the shard looks for I/O, which it does by itself only when nothing is
/// ready: bytes that come without a pause would keep it from its disks.
const IO_EVERY: u32 = 4;

/// What a connection carried by TCP has beside the stream.
#[derive(Default)]
pub(crate) struct TcpCarrier {
    outbox: RefCell<Outbox>,
    /// How often the socket was full and took bytes again.
    drained: Cell<u64>,
}

impl TcpCarrier {
    /// Whether nothing is on its way to the socket.
    pub(crate) fn is_idle(&self) -> bool {
        self.outbox.borrow().is_empty()
    }

    /// Grows with each sign that the peer takes bytes: room in a socket that was full. A ping waits
    /// behind the frame that is being written, so a large one on a slow way leaves nothing else to
    /// go by. Bytes that a socket takes without having been full are no sign: the kernels hold many
    /// for a process that stands still.
    pub(crate) fn signs_of_life(&self) -> u64 {
        self.drained.get()
    }

    /// Writes what is queued, as it comes, until the connection ends.
    pub(crate) async fn write(&self, traffic: &Traffic, c: &Flow) -> Result<(), Lost> {
        loop {
            self.work(c).await;
            if c.ended() {
                return Ok(());
            }
            let before = self.outbox.borrow().frames_staged;
            self.outbox.borrow_mut().stage(&mut c.lanes.borrow_mut());
            let mut full = false;
            let sent = poll_fn(|cx| {
                let outbox = self.outbox.borrow();
                let written = c.stream.poll_write(cx, outbox.staged());
                full |= written.is_pending();
                written
            });
            let sent = sent.await.map_err(|e| e.to_string())?;
            self.drained.set(self.drained.get() + u64::from(full));
            let mut outbox = self.outbox.borrow_mut();
            outbox.written(sent);
            traffic.count_sent(outbox.frames_staged - before, sent as u64);
        }
    }

    /// Waits until there is something to write, or the end.
    async fn work(&self, c: &Flow) {
        poll_fn(|cx| {
            if c.ended() || !self.is_idle() || !c.lanes.borrow().is_empty() {
                return Poll::Ready(());
            }
            c.set_sender(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Hands what comes to the shard until the connection ends; says why it did. `land` is what the
/// handshake has read too far.
pub(crate) async fn read(
    shard: &Weak<Shard>,
    traffic: &Traffic,
    c: &Flow,
    land: BytesMut,
    pool: HeapPool,
) -> Lost {
    let Some(to_shard) = shard.upgrade().map(|s| s.cx().shard_index()) else {
        return "this shard has ended".into();
    };
    let home = Weak::clone(shard);
    let turn: Turn = Rc::new(move || match home.upgrade() {
        Some(shard) => shard.cx().turn(),
        None => Slot::new(), // the task ends with the shard
    });
    let (stream, from) = (Rc::clone(&c.stream), (traffic.node, traffic.shard));
    let received = Rc::clone(&c.received);
    let mut reader = Reader::new(stream, land, from, to_shard, received, pool, Rc::clone(&turn));
    let (mut burst, mut bytes, mut bursts) = (0, 0, 0);
    loop {
        let incoming = match reader.next().await {
            Ok(incoming) => incoming,
            Err(why) => return why,
        };
        let Some(shard) = shard.upgrade().filter(|_| !c.ended()) else {
            return "ended".into(); // nothing of an old connection is delivered
        };
        match incoming {
            Incoming::Frame(frame) => {
                traffic.frames_received.set(traffic.frames_received.get() + 1);
                bytes += frame.payload.bulks.iter().map(|b| b.len()).sum::<usize>();
                shard.on_frame(frame);
            }
            Incoming::Ping => {
                c.lanes.borrow_mut().pong();
                c.wake_sender();
            }
            Incoming::Pong => {}
        }
        burst = if reader.has_more() { burst + 1 } else { 0 };
        if burst >= BURST || bytes >= BURST_BYTES {
            (burst, bytes) = (0, 0);
            // The handler answers in the first turn, the writer writes in the second: the peer
            // goes on while we read what it sent before.
            yield_now().await;
            bursts += 1;
            match bursts % IO_EVERY {
                0 => turn().await,
                _ => yield_now().await,
            }
        }
    }
}
