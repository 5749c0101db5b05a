//! Doors for the fuzz targets in `fuzz/`: what meets bytes of strangers, with a stream for a
//! socket. Nothing else uses them, and they decide nothing.

use std::io::IoSlice;
use std::rc::Rc;

use bytes::BytesMut;
use t3fs_runtime::net::Stream;
use t3fs_runtime::wire::Frame;
use t3fs_runtime::{NodeId, Slot};

use crate::links::Refusal;
use crate::links::handshake::{self, DialError, Talk};
use crate::links::lanes::Lanes;
use crate::peers::{Known, Limits, Peers};
use crate::pool::Pool;
use crate::tcp::outbox::{Outbox, SLICES};
use crate::tcp::reader::{Incoming, Reader};

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
        TcpReader(Reader::new(stream, land, from, 3, Rc::default(), Pool::default(), turn))
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
    let (mut outbox, mut lanes) = (Outbox::default(), Lanes::new(&Limits::default()));
    let mut all = Vec::new();
    for item in items {
        match item {
            Item::Frame(frame) => lanes.push(frame.clone()).expect("it was read, so it fits"),
            Item::Ping => lanes.ping(),
            Item::Pong => lanes.pong(),
        }
        outbox.stage(&mut lanes);
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let n = outbox.slices(&mut slices);
            let from = all.len();
            slices[..n].iter().for_each(|s| all.extend_from_slice(s));
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
) -> Result<(NodeId, u16, u16), Option<Refusal>> {
    let mut talk = Talk::new(stream);
    let guest = handshake::greet(&mut talk, peers).await.map_err(Some)?;
    handshake::welcome(&mut talk, peers, &guest).await.map_err(|_| None)?;
    Ok((guest.node, guest.from_shard, guest.to_shard))
}

/// The dialer's handshake; `None` where the connection broke.
pub async fn dial(
    stream: Rc<dyn Stream>,
    peers: &Peers,
    to_shard: u16,
    wanted: Option<NodeId>,
) -> Result<Known, Option<Refusal>> {
    let mut talk = Talk::new(stream);
    handshake::dial(&mut talk, peers, 0, to_shard, wanted).await.map_err(|e| match e {
        DialError::Io(_) => None,
        DialError::RefusedHere(why) | DialError::RefusedThere(why) => Some(why),
    })
}

/// What one who knows the secret proves of a transcript's hash.
pub fn proof(peers: &Peers, as_dialer: bool, transcript: &[u8; 32]) -> [u8; 32] {
    let label = if as_dialer { handshake::DIALER } else { handshake::ACCEPTOR };
    *handshake::prove(peers.key(), label, transcript).as_bytes()
}
