//! Where an actor lives: node, shard, slot, and the incarnation of the process that started it.

use std::fmt;
use std::marker::PhantomData;

/// A process of the cluster, as mgmtd numbers it (and a simulated one in sim).
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[rkyv(derive(Debug))]
pub struct NodeId(pub u32);

/// An address without the protocol: what travels in messages and routing tables.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct RawAddr {
    pub node: NodeId,
    pub shard: u16,
    pub slot: u16,
    /// Incarnation of the process; a frame for an earlier one is refused on arrival.
    pub epoch: u32,
}

impl RawAddr {
    /// For well-known actors whose messages are harmless to a later incarnation (mgmtd, kv).
    pub const ANY_EPOCH: u32 = 0;
}

impl fmt::Debug for RawAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}.{}.{}@{}", self.node.0, self.shard, self.slot, self.epoch)
    }
}

/// The address of whoever serves protocol `P`; plain data, valid on every shard and node.
pub struct Addr<P>(RawAddr, PhantomData<fn(P)>);

impl<P> Addr<P> {
    /// Trusts the caller that `P` is served there; another protocol's frames are refused on arrival
    /// by their tags, and within a process it breaks an assertion.
    pub const fn from_raw(raw: RawAddr) -> Self {
        Addr(raw, PhantomData)
    }

    pub const fn raw(self) -> RawAddr {
        self.0
    }
}

impl<P> Clone for Addr<P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P> Copy for Addr<P> {}
impl<P> PartialEq for Addr<P> {
    fn eq(&self, o: &Self) -> bool {
        self.0 == o.0
    }
}
impl<P> Eq for Addr<P> {}
impl<P> fmt::Debug for Addr<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
