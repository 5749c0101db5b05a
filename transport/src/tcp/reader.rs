//! Frames out of a connection's bytes: small things many at a time, payloads straight into the
//! memory they stay in.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use t3fs_runtime::net::Stream;
use t3fs_runtime::wire::{Crc32c, Frame, Payload, crc32c};
use t3fs_runtime::{Bulk, NodeId};

use super::frame::{HEAD, Head, Kind, lengths};
use crate::pool::Pool;

/// Lengths and bodies up to this size are read beside other frames, without memory of their own.
const SMALL_MAX: usize = 16 << 10;
/// First size of the buffer that small things are read into.
const LAND: usize = 64 << 10;
/// Bytes of a payload taken by one read: enough to be cheap, few enough to be warm for the
/// checksum.
const CHUNK: usize = 256 << 10;
/// After so many bytes of one payload the socket is waited for, so that other work gets its turn.
const TURN: usize = 2 << 20;

/// What came.
pub(crate) enum Incoming {
    Frame(Frame),
    Ping,
    Pong,
}

/// Why a connection ended: a few words for the log and for the doctor.
pub(crate) type Lost = String;

pub(crate) struct Reader {
    stream: Rc<dyn Stream>,
    land: BytesMut,
    /// Whose frames these are: the handshake said so, the frames do not.
    from_node: NodeId,
    from_shard: u16,
    to_shard: u16,
    sequence: u32,
    pool: Pool,
    /// Bytes received so far, also of a frame that is not whole yet.
    received: Rc<Cell<u64>>,
}

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

impl Reader {
    /// `land` is what the handshake has read too far.
    pub(crate) fn new(
        stream: Rc<dyn Stream>,
        land: BytesMut,
        (from_node, from_shard): (NodeId, u16),
        to_shard: u16,
        received: Rc<Cell<u64>>,
        pool: Pool,
    ) -> Reader {
        Reader { stream, land, from_node, from_shard, to_shard, sequence: 0, pool, received }
    }

    /// Whether the next frame's beginning is here already.
    pub(crate) fn has_more(&self) -> bool {
        self.land.len() >= HEAD
    }

    pub(crate) async fn next(&mut self) -> Result<Incoming, Lost> {
        self.small(HEAD).await?;
        let head = self.land.split_to(HEAD);
        let head = Head::decode(head[..].try_into().expect("of this length"))?;
        if head.sequence != self.sequence {
            return Err("a frame is missing or repeated".into());
        }
        self.sequence = self.sequence.wrapping_add(1);
        let (table, body) = self.rest(&head).await?;
        let kind = match head.kind {
            Kind::Ping => return Ok(Incoming::Ping),
            Kind::Pong => return Ok(Incoming::Pong),
            Kind::Message(kind) => kind,
        };
        let bulks = match head.bulks {
            0 => Vec::new(),
            _ => self.bulks(&head, &table).await?,
        };
        Ok(Incoming::Frame(Frame {
            kind,
            lane: head.lane,
            shard: self.to_shard,
            slot: head.slot,
            epoch: head.epoch,
            from_node: self.from_node,
            from_shard: self.from_shard,
            ask: head.ask,
            ttl_us: head.ttl_us,
            payload: Payload { body, bulks },
        }))
    }

    /// Lengths and body, checked.
    async fn rest(&mut self, head: &Head) -> Result<(Bytes, Bytes), Lost> {
        let n = head.rest();
        let mut rest = if n <= SMALL_MAX {
            self.small(n).await?;
            let rest = self.land.split_to(n).freeze();
            if crc32c(&rest) != head.rest_crc {
                return Err("corrupt frame body".into());
            }
            rest
        } else {
            let mut crc = Crc32c::default();
            let rest = self.big(n, &mut crc).await?;
            if crc.value() != head.rest_crc {
                return Err("corrupt frame body".into());
            }
            rest
        };
        let table = rest.split_to(4 * head.bulks as usize);
        Ok((table, rest))
    }

    async fn bulks(&mut self, head: &Head, table: &[u8]) -> Result<Vec<Bulk>, Lost> {
        let lengths = lengths(table, head.bulk_bytes)?;
        let (mut crc, mut bulks) = (Crc32c::default(), Vec::with_capacity(lengths.len()));
        for len in lengths {
            bulks.push(Bulk(self.big(len, &mut crc).await?));
        }
        if head.bulk_bytes > 0 {
            self.small(4).await?;
            let said = self.land.split_to(4);
            if said[..] != crc.value().to_le_bytes() {
                return Err("corrupt payload".into());
            }
        }
        Ok(bulks)
    }

    /// Waits until so many bytes are in the landing buffer.
    async fn small(&mut self, n: usize) -> Result<(), Lost> {
        while self.land.len() < n {
            if self.land.capacity() - self.land.len() < SMALL_MAX {
                self.land.reserve(LAND);
            }
            let got = poll_fn(|cx| self.stream.poll_read(cx, &mut self.land)).await;
            self.count(got)?;
        }
        Ok(())
    }

    /// So many bytes in memory of their own; all but the first few KiB are read right into it.
    async fn big(&mut self, n: usize, crc: &mut Crc32c) -> Result<Bytes, Lost> {
        let mut own = self.pool.take(n);
        own.extend_from_slice(&self.land.split_to(n.min(self.land.len())));
        crc.update(&own);
        let mut turn = 0;
        while own.len() < n {
            let (at, max) = (own.len(), (n - own.len()).min(CHUNK));
            let got = poll_fn(|cx| self.stream.poll_fill(cx, &mut own, max)).await;
            turn += self.count(got)?;
            crc.update(&own[at..]);
            if turn >= TURN {
                turn = 0;
                yield_now().await;
            }
        }
        Ok(self.pool.lend(own))
    }

    fn count(&mut self, n: std::io::Result<usize>) -> Result<usize, Lost> {
        match n {
            Ok(0) => Err("the peer has closed the connection".into()),
            Ok(n) => {
                self.received.set(self.received.get() + n as u64);
                Ok(n)
            }
            Err(e) => Err(e.to_string()),
        }
    }
}
