//! RDMA: registered memory, what a link needs of a device, and the devices there are.
//!
//! Read next: `nic.rs`, then `memory.rs`.

#[allow(dead_code)]
mod memory;
#[allow(dead_code)]
mod nic;
