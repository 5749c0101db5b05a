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
mod backend;
pub mod checks;
pub mod crashpoints;
pub mod disk;
pub mod drive;
mod exec;
pub mod faults;
pub mod net;
mod node;
pub mod oracles;
pub mod rng;
pub mod trace;
pub mod workloads;
pub mod world;

pub use crashpoints::{DiskEvent, Go, Phase};
pub use disk::{DiskFaults, DiskSpeed, SimDisk};
pub use drive::Halt;
pub use faults::{Menu, Swarm};
pub use net::{NetFaults, NetSpeed, NetStats};
pub use node::{Boot, NodeSpec};
pub use rng::{Rng, Stream};
pub use world::{Crash, NodeCost, ScheduleFaults, Sim, World, WorldStats};
