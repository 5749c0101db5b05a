//! What t3fs does: the mgmtd, meta, storage and client actors, and the messages between them.
//!
//! Nothing here names a thread, a socket, a file of the host or a clock: an actor reaches the world
//! through `runtime::Cx` only, so the same code runs on glommio and in the simulator.

pub mod agent;
pub mod client;
pub mod features;
mod layout;
pub mod meta;
pub mod mgmtd;
mod planted;
pub mod storage;
mod timing;

pub use t3fs_proto as proto;
