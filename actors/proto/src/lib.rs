//! Every message and shared identifier, one file per receiver.

pub mod agent;
#[cfg(test)]
mod golden;
pub mod host;
pub mod ids;
pub mod kv;
pub mod meta;
pub mod mgmtd;
pub mod storage;
