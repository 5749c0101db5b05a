//! RDMA: the devices there are, registered memory, and what a link needs of a device.
//!
//! Read next: `devices.rs`, `nic.rs`, then `memory.rs`; `verbs/` is where libibverbs is.

mod devices;
#[allow(dead_code)]
mod memory;
#[allow(dead_code)]
mod nic;
#[cfg(feature = "rdma")]
#[allow(dead_code)]
mod verbs;

pub use devices::{DeviceReport, Devices, Gid, LinkLayer, PortRef};
