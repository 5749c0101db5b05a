//! Moves frames and memory between nodes; knows no actor and no message type.
//!
//! Within a process messages move by value (`runtime::shard`), so a single-process cluster needs no
//! link. What is here is what both sides of any link agree on: addresses. Frames are
//! `runtime::wire::Frame`.

mod address;

pub use address::{Address, AddressError, Fabric};
