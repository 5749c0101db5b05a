//! Moves frames and memory between nodes; knows no actor and no message type.
//!
//! Within a process messages move by value (`runtime::shard`). Between processes a *link* carries
//! `runtime::wire::Frame`s, one connection for each pair of shards that talk. What a link promises:
//!
//! - frames of one lane arrive in the order sent, on one connection never twice, never damaged;
//! - a frame that was not accepted was certainly not sent (`NotSent`); when a connection breaks,
//!   every ask in flight on it fails at once (`Unknown`), and nothing is ever sent again;
//! - control goes before bulk; queues are bounded, and a full one is an answer;
//! - nobody without the cluster's secret gets past the handshake, and trying costs us little.
//!
//! How a process with N shards sets it up:
//!
//! ```no_run
//! # use std::{rc::Rc, sync::Arc, net::SocketAddr, pin::Pin, time::Duration};
//! # use t3fs_runtime::{NodeId, Shard, glommio::{Layout, launch}};
//! use t3fs_transport::{Address, LinkConfig, Peers, links};
//! # fn layout() -> Layout { unimplemented() } fn unimplemented() -> Layout { loop {} }
//! # fn main() -> Result<(), String> {
//! let layout: Layout = layout(); // node, incarnation, number of shards
//! let peers = Peers::new(LinkConfig {
//!     node: layout.node,
//!     incarnation: layout.epoch,
//!     shards: layout.shards as u16,
//!     cluster: "prod".into(),
//!     secret: b"at least sixteen bytes".to_vec(),
//!     ..LinkConfig::default()
//! })?;
//! peers.publish(1, 0, 0); // service 1 lives on shard 0 in slot 0: told to everyone who connects
//! let shared = peers.clone();
//! let start = Arc::new(move |shard: Rc<Shard>| -> Pin<Box<dyn Future<Output = ()>>> {
//!     let peers = shared.clone();
//!     Box::pin(async move {
//!         let links = links::start(&shard, &peers); // on every shard, before anything is asked
//!         if shard.cx().shard_index() == 0 {
//!             // One listening socket a node; a client has none.
//!             let bound = links.listen("0.0.0.0:8000".parse().unwrap()).unwrap();
//!             // A node of which only the address is known:
//!             let known = links.resolve("10.0.0.1:8000".parse().unwrap()).await.unwrap();
//!             let _mgmtd = known.card.find(1); // (shard, slot) of its service 1
//!             // From routing, at any time, from any thread:
//!             let address: Address = "TCP://10.0.0.7:8000".parse().unwrap();
//!             peers.set_addresses(NodeId(7), vec![address]);
//!         }
//!         // Start actors; from here on `cx.ask` reaches every node with a known address.
//!     })
//! });
//! let shards = launch(&layout, start)?;
//! # Ok(()) }
//! ```
//!
//! Read next: `peers.rs` (who is where), `choice.rs` (which way there), `links/mod.rs` (links of
//! one shard) and `links/handshake.rs`.

mod address;
mod arrival;
mod choice;
mod flow;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod lanes;
mod limits;
mod linger;
pub mod links;
mod peers;
mod pool;
pub mod rdma;
mod refusal;
mod tcp;

pub use address::{Address, AddressError, Fabric};
pub use choice::{FabricUse, source_towards};
pub use limits::LinkLimits;
pub use links::{NodeLinks, Unreached};
pub use peers::{
    KnownNode, LinkConfig, LinkState, LinkStats, OneSided, PeerState, Peers, RdmaMemory,
    ServiceCard,
};
pub use pool::IDLE_MAX as IDLE_PAYLOAD_BYTES_MAX;
pub use refusal::HandshakeRefusal;
