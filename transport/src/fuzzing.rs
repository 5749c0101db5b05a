//! Doors for the fuzz targets in `ops/fuzz/`: what meets bytes of strangers, with a stream for a
//! socket. Nothing else uses them, and they decide nothing.

use std::rc::{Rc, Weak};

use bytes::{Bytes, BytesMut};
use t3fs_runtime::net::Stream;
use t3fs_runtime::wire::{Frame, SPOKEN_MAX};
use t3fs_runtime::{NodeId, Slot, Time};

use crate::flow::Incoming;
use crate::lanes::Lanes;
use crate::limits::LinkLimits;
use crate::links::agree::{self, Agreed};
use crate::links::handshake::{self, DialError, Talk};
use crate::links::link::Carrier;
use crate::peers::{KnownNode, Peers};
use crate::pool::HeapPool;
use crate::rdma::{self, Dock, Ends, Engine, Half, Nic, Port, Terms, packet, soft};
use crate::refusal::HandshakeRefusal;
use crate::tcp::outbox::Outbox;
use crate::tcp::reader::Reader;

/// What a connection carries.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Frame(Frame),
    Ping,
    Pong,
}

/// The reader of a connection from shard 2 of node 1 to shard 3.
pub struct TcpReader(Reader);

impl TcpReader {
    /// `land` is what the handshake would have read too far.
    pub fn new(stream: Rc<dyn Stream>, land: BytesMut) -> TcpReader {
        let from = (NodeId(1), 2);
        let turn = Rc::new(|| {
            let over = Slot::new();
            over.fill(());
            over
        });
        TcpReader(Reader::new(stream, land, from, 3, Rc::default(), HeapPool::default(), turn))
    }

    /// The next thing, or why the connection ends.
    pub async fn next(&mut self) -> Result<Item, String> {
        Ok(match self.0.next().await? {
            Incoming::Frame(frame) => Item::Frame(frame),
            Incoming::Ping => Item::Ping,
            Incoming::Pong => Item::Pong,
        })
    }
}

/// The bytes of a new connection that carries these, in this order.
pub fn tcp_write(items: &[Item]) -> Vec<u8> {
    let (mut outbox, mut lanes) = (Outbox::default(), Lanes::new(&LinkLimits::default()));
    let mut all = Vec::new();
    for item in items {
        match item {
            Item::Frame(frame) => lanes.push(frame.clone()).expect("it was read, so it fits"),
            Item::Ping => lanes.ping(),
            Item::Pong => lanes.pong(),
        }
        outbox.stage(&mut lanes);
        while !outbox.is_empty() {
            let from = all.len();
            outbox.staged().iter().for_each(|piece| all.extend_from_slice(piece));
            outbox.written(all.len() - from);
            outbox.stage(&mut lanes);
        }
    }
    all
}

/// Both parts of the acceptor's handshake: who was let in, as node, shard there, shard here.
pub async fn accept(
    stream: Rc<dyn Stream>,
    peers: &Peers,
) -> Result<(NodeId, u16, u16), Option<HandshakeRefusal>> {
    let mut talk = Talk::new(stream);
    let guest = handshake::greet(&mut talk, peers).await.map_err(|away| Some(away.why))?;
    handshake::welcome(&mut talk, peers, &guest).await.map_err(|_| None)?;
    Ok((guest.node, guest.from_shard, guest.to_shard))
}

/// The dialer's handshake; `None` where the connection broke.
pub async fn dial(
    stream: Rc<dyn Stream>,
    peers: &Peers,
    to_shard: u16,
    wanted: Option<NodeId>,
) -> Result<KnownNode, Option<HandshakeRefusal>> {
    let mut talk = Talk::new(stream);
    match handshake::dial(&mut talk, peers, 0, to_shard, wanted).await {
        Ok((known, _version)) => Ok(known),
        Err(DialError::Io(_)) => Err(None),
        Err(DialError::RefusedHere(why) | DialError::RefusedThere(why, _)) => Err(Some(why)),
    }
}

/// What one who knows the secret proves of a transcript's hash.
pub fn proof(peers: &Peers, as_dialer: bool, transcript: &[u8; 32]) -> [u8; 32] {
    let label = if as_dialer { handshake::DIALER } else { handshake::ACCEPTOR };
    *handshake::prove(peers.key(), label, transcript).as_bytes()
}

/// What is understood of the body of an offer, an answer or a refusal to be ready, written again.
pub fn offer_again(body: &[u8]) -> Option<Vec<u8>> {
    agree::again(Bytes::copy_from_slice(body))
}

/// What carries a connection whose two sides have agreed on it.
pub struct Carried {
    agreed: Agreed,
    /// What was read too far: frames of the stream.
    pub land: BytesMut,
}

impl Carried {
    pub fn by_queue_pair(&self) -> bool {
        matches!(self.agreed.carrier, Carrier::Rdma(_))
    }

    /// Why not by a queue pair, where one was wanted.
    pub fn why_not(&self) -> Option<&str> {
        self.agreed.why_not_rdma.as_deref()
    }
}

/// Device of a node that agrees with others on carriers.
pub struct Device {
    wire: soft::Wire,
    port: Rc<Port>,
}

impl Device {
    /// On the wire that it shares with other devices.
    pub fn new(wire: &soft::Wire) -> Device {
        let pool = rdma::RdmaPool::new(POOL).expect("little memory");
        let nic: Rc<dyn Nic> = Rc::new(wire.nic(&pool, 1).expect("no device"));
        let dock = Dock::new(Rc::clone(&nic), pool, HeapPool::default());
        Device { wire: wire.clone(), port: Port::idle(dock, nic, Weak::new()) }
    }

    /// Queue pairs on the wire.
    pub fn pairs(&self) -> usize {
        self.wire.pairs()
    }

    fn half(&self, wanted: Result<(), String>) -> Result<Half, String> {
        wanted.and_then(|()| self.port.half(&LinkLimits::default()))
    }

    /// The dialer's part; `wanted` is a queue pair, or why there is none.
    pub async fn dialed(
        &self,
        stream: Rc<dyn Stream>,
        wanted: Result<(), String>,
    ) -> Result<Carried, Option<HandshakeRefusal>> {
        let mut talk = Talk::new(stream);
        match agree::dialed(&mut talk, SPOKEN_MAX, self.half(wanted), ENDS).await {
            Ok(agreed) => Ok(Carried { agreed, land: talk.land }),
            Err(DialError::Io(_)) => Err(None),
            Err(DialError::RefusedHere(why) | DialError::RefusedThere(why, _)) => Err(Some(why)),
        }
    }

    /// The acceptor's part.
    pub async fn accepted(
        &self,
        stream: Rc<dyn Stream>,
        wanted: Result<(), String>,
    ) -> Result<Carried, Option<HandshakeRefusal>> {
        let mut talk = Talk::new(stream);
        let agreed = agree::accepted(&mut talk, SPOKEN_MAX, || self.half(wanted), ENDS).await;
        agreed.map(|agreed| Carried { agreed, land: talk.land }).map_err(Some)
    }
}

/// Opens a packet and lays out again what is in it.
pub fn packet_again(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    let (head, mut items) = packet::open(bytes)?;
    let mut again = vec![0; rdma::PACKET];
    let mut b = packet::Builder::new(&mut again);
    while let Some(item) = items.next()? {
        match item {
            packet::Item::Segment(lane, segment) => b.segment(lane, &segment),
            packet::Item::Frame(f) => {
                b.frame(&f.head, f.rest_in_segments, f.way, f.landed_crc, &f.landings);
                b.bytes(f.rest);
                b.bytes(f.payload);
            }
        }
    }
    let len = b.seal(head);
    again.truncate(len);
    Ok(again)
}

/// One side of a connection over a queue pair. Its transfers are done at once, and bring
/// [`TRANSFERRED`] again and again.
pub struct RdmaSide {
    engine: Engine,
    lanes: Lanes,
    dock: Dock,
}

pub use rdma::FOREIGN as TRANSFERRED;

/// Registered memory of an [`RdmaSide`].
const POOL: usize = 2 << 20;
const CREDITS: u16 = 16;
/// Between shard 2 of node 1 and our shard 3.
const ENDS: Ends = Ends { node: NodeId(1), shard: 2, here: 3 };

impl RdmaSide {
    /// With these to send. Asks offer memory for their replies.
    pub fn new(frames: Vec<Frame>) -> RdmaSide {
        let pool = rdma::RdmaPool::new(POOL).expect("little memory");
        let nic: Rc<dyn Nic> = Rc::new(soft::Wire::default().nic(&pool, 1).expect("no device"));
        let terms = Terms {
            credits: CREDITS,
            granted: CREDITS,
            reads_max: 4,
            send_queue: nic.send_queue(),
            segments_max: 4,
            copied_max: 256,
        };
        let mut lanes = Lanes::new(&LinkLimits::default());
        for frame in frames {
            lanes.push(frame).expect("few frames");
        }
        let dock = Dock::new(nic, pool, HeapPool::default());
        RdmaSide { engine: Engine::new(terms, ENDS), lanes, dock }
    }

    /// Does all there is to do, after a packet if one has come; what has arrived.
    pub fn step(&mut self, packet: Option<&[u8]>) -> Result<Vec<Item>, String> {
        if let Some(bytes) = packet {
            self.engine.on_packet(bytes, &self.dock)?;
        }
        let mut items = Vec::new();
        loop {
            self.engine.pump(&mut self.lanes, &self.dock, &Time::default);
            let any = self.engine.finish_all(&self.dock)?;
            while let Some(incoming) = self.engine.arrived() {
                items.push(match incoming {
                    Incoming::Frame(frame) => Item::Frame(frame),
                    Incoming::Ping => Item::Ping,
                    Incoming::Pong => Item::Pong,
                });
            }
            if !any {
                return Ok(items);
            }
        }
    }

    /// The connection ends: registered memory that did not come back.
    pub fn end(self) -> usize {
        let RdmaSide { engine, lanes, dock } = self;
        drop((engine, lanes));
        dock.pool.bytes() - dock.pool.free_bytes()
    }
}
