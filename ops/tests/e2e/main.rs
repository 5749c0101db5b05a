//! End-to-end tests: the real `t3fs-node` on a real disk, driven by its command line, used through
//! its mount by the programs that people use.
//!
//! Promises: a test leaves no process and no mount behind, and none hangs for ever (`harness.rs`).
//! Where /dev/fuse or a tool is missing a test says so loudly and passes, except with CI=true,
//! where it fails. The binary comes from the variable T3FS_NODE, else from cargo's target folder.
//! `T3FS_ROUNDS` sets the number of crash rounds; with `T3FS_NIGHTLY=1` whole trees and large sets
//! are used instead of parts. What is in `vm` runs in a VM only (`cargo ops vm`).

mod harness;

mod beside_ext4;
mod cluster;
mod crash;
mod fabric;
mod hosts;
mod interrupts;
mod joining;
mod large;
mod lifecycle;
mod load;
mod loop_disk;
mod mounting;
mod networks;
mod pauses;
mod posix;
mod power_loss;
mod rack;
mod refusals;
mod replicas;
mod rolling;
mod space;
mod stores;
mod strangers;
mod tools;
mod trees;
mod two_mounts;
mod vm;
mod yesterday;
