//! RDMA as a carrier: frames in packets between queue pairs, payloads one-sided.
//!
//! - `devices.rs`: which devices there are; `report.rs`: what they are like; `nic.rs`: what is
//!   needed of one, by `verbs/` (libibverbs) or `soft.rs` (a stand-in for tests);
//! - `memory.rs`: memory that devices reach; `dock.rs`: who may have how much of it;
//! - `packet.rs`: what one SEND carries; `engine/`: the protocol of one connection, no runtime;
//! - `shell.rs`: completions, tasks and the end of connections; `ports.rs`: what a shard has open.
//!
//! Decision 011 says why it is so.

mod devices;
mod dock;
mod engine;
#[doc(hidden)]
pub mod faults;
mod memory;
mod nic;
pub(crate) mod packet;
mod ports;
mod report;
mod shell;
#[doc(hidden)]
pub mod soft;
#[cfg(feature = "rdma")]
mod verbs;

use std::sync::Arc;

pub use devices::Devices;
pub(crate) use dock::Dock;
pub use engine::FOREIGN;
pub(crate) use engine::{Ends, Engine, Terms};
pub(crate) use memory::RdmaPool;
pub(crate) use nic::Endpoint;
pub(crate) use nic::Nic;
pub use nic::PACKET as RECEIVE_BUFFER;
pub(crate) use nic::PACKET;
pub(crate) use ports::Ports;
pub use report::{DeviceReport, Gid, LinkLayer, PortRef};
pub(crate) use shell::{Broken, Half, Port, RdmaCarrier, watch};

/// Where queue pairs come from.
#[derive(Clone, Default)]
pub enum Nics {
    /// Nowhere: this process talks TCP only.
    #[default]
    None,
    Devices(Arc<Devices>),
    /// The stand-in for tests.
    #[doc(hidden)]
    Soft(soft::Wire),
    /// Some of the above that fail at will, for tests.
    #[doc(hidden)]
    Faulty(Box<Nics>, faults::Faults),
}

/// What one side tells the other of its queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) endpoint: Endpoint,
    /// Packets that it takes before it returns credits.
    pub(crate) credits: u16,
}
