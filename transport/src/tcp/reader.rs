//! Frames out of a connection's bytes: small things many at a time, payloads straight into the
//! memory they stay in.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use t3fs_runtime::net::Stream;
use t3fs_runtime::wire::{Crc32c, Frame, Payload, crc32c};
use t3fs_runtime::{Bulk, NodeId, Slot};

use crate::flow::{Incoming, Lost};
use crate::frame::{HEAD, Head, Kind, lengths};
use crate::linger::Linger;
use crate::pool::{HeapPool, POOLED_MAX};

/// Lengths and bodies up to this size are read beside other frames, without memory of their own.
const SMALL_MAX: usize = 16 << 10;
/// First size of the buffer that small things are read into.
const LAND: usize = 64 << 10;
/// Bytes of a payload taken by one read: enough to be cheap, few enough to be warm for the
/// checksum.
const CHUNK: usize = 256 << 10;
/// Memory taken for something big before any of it has come; what is pooled is no bigger. From
/// there it grows with what comes, so that no head alone makes us ask for 64 MiB.
const AHEAD: usize = 4 << 20;
/// After so many bytes of one payload other work and other I/O get their turn.
const TURN: usize = 2 << 20;

const _: () = assert!(SMALL_MAX < LAND && LAND <= CHUNK && CHUNK <= TURN && TURN <= AHEAD);
const _: () = assert!(POOLED_MAX <= AHEAD);

/// One turn of the shard, I/O included, without sleep.
pub(crate) type Turn = Rc<dyn Fn() -> Slot<()>>;

pub(crate) struct Reader {
    stream: Rc<dyn Stream>,
    land: BytesMut,
    /// Whose frames these are: the handshake said so, the frames do not.
    from_node: NodeId,
    from_shard: u16,
    to_shard: u16,
    sequence: u32,
    linger: Linger,
    turn: Turn,
    pool: HeapPool,
    /// Bytes received so far, also of a frame that is not whole yet.
    received: Rc<Cell<u64>>,
}

impl Reader {
    /// `land` is what the handshake has read too far.
    pub(crate) fn new(
        stream: Rc<dyn Stream>,
        land: BytesMut,
        (from_node, from_shard): (NodeId, u16),
        to_shard: u16,
        received: Rc<Cell<u64>>,
        pool: HeapPool,
        turn: Turn,
    ) -> Reader {
        Reader {
            stream,
            land,
            from_node,
            from_shard,
            to_shard,
            sequence: 0,
            linger: Linger::default(),
            turn,
            pool,
            received,
        }
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
        self.linger.frame();
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
            reply_room: 0,
            caller: None,
            older: None,
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
            let mut got =
                poll_fn(|cx| Poll::Ready(self.stream.poll_read(cx, &mut self.land))).await;
            while got.is_pending() && self.linger.again(Instant::now) {
                (self.turn)().await;
                got = poll_fn(|cx| Poll::Ready(self.stream.poll_read(cx, &mut self.land))).await;
            }
            let got = match got {
                Poll::Ready(got) => got,
                Poll::Pending => poll_fn(|cx| self.stream.poll_read(cx, &mut self.land)).await,
            };
            self.linger.found();
            self.count(got)?;
        }
        Ok(())
    }

    /// So many bytes in memory of their own; all but the first few KiB are read right into it.
    async fn big(&mut self, n: usize, crc: &mut Crc32c) -> Result<Bytes, Lost> {
        let mut own = self.pool.take(n.min(AHEAD));
        own.extend_from_slice(&self.land.split_to(n.min(self.land.len())));
        crc.update(&own);
        let mut turn = 0;
        while own.len() < n {
            if own.len() == own.capacity() {
                own.reserve(own.len().min(n - own.len()));
            }
            let (at, max) = (own.len(), (n - own.len()).min(CHUNK));
            let got = poll_fn(|cx| self.stream.poll_fill(cx, &mut own, max)).await;
            turn += self.count(got)?;
            crc.update(&own[at..]);
            if turn >= TURN {
                turn = 0;
                (self.turn)().await;
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;
    use t3fs_runtime::Lane;
    use t3fs_runtime::net::Socket;
    use t3fs_runtime::wire::FrameKind;

    use super::super::outbox::Outbox;
    use super::*;
    use crate::lanes::Lanes;
    use crate::limits::LinkLimits;

    /// A connection whose bytes are all there, and come in pieces.
    struct Tape {
        bytes: RefCell<Bytes>,
        piece: usize,
    }

    impl Stream for Tape {
        fn poll_read(&self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
            self.poll_fill(cx, into, 8192)
        }
        fn poll_fill(
            &self,
            _: &mut Context<'_>,
            into: &mut BytesMut,
            max: usize,
        ) -> Poll<io::Result<usize>> {
            let mut bytes = self.bytes.borrow_mut();
            let n = bytes.len().min(max).min(self.piece);
            into.extend_from_slice(&bytes.split_to(n));
            Poll::Ready(Ok(n))
        }
        fn poll_write(&self, _: &mut Context<'_>, _: &[Bytes]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(0))
        }
        fn shutdown(&self) {}
        fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn hand_over(&self) -> io::Result<Socket> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn full() -> Slot<()> {
        let done = Slot::new();
        done.fill(());
        done
    }

    /// The frames of a tape, and why it ended.
    fn read(bytes: Vec<u8>, piece: usize) -> (Vec<Frame>, Lost) {
        let tape = Rc::new(Tape { bytes: RefCell::new(bytes.into()), piece });
        let from = (NodeId(1), 2);
        let mut reader = Reader::new(
            tape,
            BytesMut::new(),
            from,
            3,
            Rc::default(),
            HeapPool::default(),
            Rc::new(full),
        );
        let mut frames = Vec::new();
        loop {
            let mut next = Box::pin(reader.next());
            let done = loop {
                let cx = &mut Context::from_waker(Waker::noop());
                if let Poll::Ready(done) = next.as_mut().poll(cx) {
                    break done;
                }
            };
            match done {
                Ok(Incoming::Frame(f)) => frames.push(f),
                Ok(_) => {}
                Err(why) => return (frames, why),
            }
        }
    }

    fn frame(ask: u64, body: usize, bulks: &[usize]) -> Frame {
        Frame {
            kind: FrameKind::Ask,
            lane: Lane::Bulk,
            shard: 3,
            slot: 1,
            epoch: 2,
            from_node: NodeId(1),
            from_shard: 2,
            ask,
            ttl_us: 5,
            reply_room: 0,
            caller: None,
            older: None,
            payload: Payload {
                body: vec![ask as u8; body].into(),
                bulks: bulks.iter().map(|n| vec![!ask as u8; *n].into()).collect(),
            },
        }
    }

    fn written(frames: &[Frame]) -> Vec<u8> {
        let (mut o, mut lanes) = (Outbox::default(), Lanes::new(&LinkLimits::default()));
        for f in frames {
            lanes.push(f.clone()).unwrap();
        }
        lanes.ping();
        let mut all = Vec::new();
        loop {
            o.stage(&mut lanes);
            if o.is_empty() {
                return all;
            }
            let from = all.len();
            o.staged().iter().for_each(|piece| all.extend_from_slice(piece));
            let n = all.len() - from;
            o.written(n);
        }
    }

    fn some_frames() -> impl Strategy<Value = Vec<Frame>> {
        let sizes = prop_oneof![0..100usize, 4000..5000usize, 15_000..40_000usize];
        let bulks = proptest::collection::vec(sizes.clone(), 0..4);
        let one = (any::<u64>(), sizes, bulks).prop_map(|(a, body, b)| frame(a, body, &b));
        proptest::collection::vec(one, 1..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Goal: what was sent is what arrives, however the bytes come.
        #[test]
        fn frames_come_back(frames in some_frames(), piece in 1..70_000usize) {
            let (got, why) = read(written(&frames), piece);
            prop_assert_eq!(got, frames);
            prop_assert!(why.contains("closed"));
        }

        /// Goal: no damaged frame is taken for a good one. Method: flip a bit, drop or repeat a
        /// range; what is delivered is a prefix of what was sent.
        #[test]
        fn damage_ends_the_connection(
            frames in some_frames(),
            at: prop::sample::Index,
            len in 1..300usize,
            how in 0..3,
        ) {
            let mut bytes = written(&frames);
            let at = at.index(bytes.len());
            let end = (at + len).min(bytes.len());
            match how {
                0 => bytes[at] ^= 1 << (len % 8),
                1 => drop(bytes.drain(at..end)),
                _ => {
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
            }
            let (got, _) = read(bytes, 8192);
            prop_assert!(got.len() <= frames.len());
            prop_assert_eq!(&got[..], &frames[..got.len()]);
        }

        /// Goal: no bytes at all break the reader.
        #[test]
        fn any_bytes_are_refused(bytes: Vec<u8>) {
            prop_assert_eq!(read(bytes, 100).0, []);
        }
    }
}
