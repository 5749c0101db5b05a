//! Every message and shared identifier, one file per receiver.

pub mod ids;
