//! A connection that has proved itself to the shard that listens, on its way to the shard it came
//! for. `Peers` has a door to each shard for them; `links/accept.rs` sends and takes them.

use std::net::SocketAddr;

use t3fs_runtime::NodeId;
use t3fs_runtime::net::Socket;

/// A proved connection on its way to its shard.
pub(crate) struct Arrival {
    pub(crate) guest: Guest,
    pub(crate) socket: Socket,
    pub(crate) from: SocketAddr,
}

/// A shard of another node that asks for a connection and has proved that it may have one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u32,
    pub(crate) from_shard: u16,
    pub(crate) to_shard: u16,
    /// Of the link protocol, spoken from here on.
    pub(crate) version: u16,
    /// All bytes so far, hashed: the welcome proves them too.
    pub(crate) transcript: [u8; 32],
}
