//! [`Lane`]: which of two ways a message goes.

/// Control (heartbeats, routing, acks) is never starved by bulk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Lane {
    Control = 0,
    Bulk = 1,
}
