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

/// An address without the actor's type: what travels in messages and routing tables.
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

/// The address of an actor of type `A`; plain data, valid on every shard and node.
pub struct Addr<A>(RawAddr, PhantomData<fn(A)>);

impl<A> Addr<A> {
    /// Trusts the caller that an `A` lives there; a wrong type is refused on arrival (its frames
    /// carry another protocol's tags) and breaks an assertion within a process.
    pub const fn from_raw(raw: RawAddr) -> Self {
        Addr(raw, PhantomData)
    }

    pub const fn raw(self) -> RawAddr {
        self.0
    }
}

impl<A> Clone for Addr<A> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<A> Copy for Addr<A> {}
impl<A> PartialEq for Addr<A> {
    fn eq(&self, o: &Self) -> bool {
        self.0 == o.0
    }
}
impl<A> Eq for Addr<A> {}
impl<A> fmt::Debug for Addr<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
