//! The simulator: whole clusters of real actors on one thread, in virtual time, from one seed.
//!
//! It is the second backend of `t3fs_runtime` ([`Backend`](t3fs_runtime::Backend)): the same
//! actors, other time, randomness, disks and links. Nothing here knows a message or a role, except
//! what
//! `workloads` and `checks` start. Same seed, same log, byte for byte: nothing below may read a
//! real clock, the environment, or iterate over anything whose order is not its own.
//!
//! Read on at [`world`] (how to build and drive a cluster), [`faults`], [`checks`].

mod agenda;
pub mod checks;
pub mod disk;
mod exec;
pub mod faults;
pub mod oracles;
pub mod rng;
mod store_memories;
pub mod trace;
pub mod workloads;
pub mod world;

pub use disk::{DiskFaults, DiskSpeed, SimDisk};
pub use faults::{Menu, Swarm};
pub use rng::{Rng, Stream};
pub use store_memories::StoreMemories;
pub use world::{
    Boot, Crash, DiskEvent, Go, Halt, NetFaults, NetSpeed, NetStats, NodeCost, NodeSpec, Phase,
    ScheduleFaults, Sim, World, WorldStats,
};
