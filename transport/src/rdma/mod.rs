//! RDMA: the devices there are, registered memory, and what a link needs of a device.
//!
//! Read next: `devices.rs`, `nic.rs`, then `memory.rs`; `verbs/` is where libibverbs is.

mod devices;
#[allow(dead_code)]
mod dock;
#[allow(dead_code)]
mod engine;
#[allow(dead_code)]
mod memory;
#[allow(dead_code)]
mod nic;
#[allow(dead_code)]
mod packet;
#[allow(dead_code)]
#[doc(hidden)]
pub mod soft;
#[cfg(feature = "rdma")]
#[allow(dead_code)]
mod verbs;

pub use devices::{DeviceReport, Devices, Gid, LinkLayer, PortRef};
