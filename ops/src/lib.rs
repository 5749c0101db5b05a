//! What `cargo ops` and the end-to-end tests are made of: source checks, the steps of a test run,
//! the benchmark, and the handling of a running `t3fs-node`.
//!
//! Promises: the product is driven by its command line only, nothing here links against it; no
//! command started here is waited for without a limit. Start reading at `main.rs`, which lists the
//! commands.

pub mod bench;
pub mod command;
pub mod crash;
pub mod cross_load;
pub mod fuzz;
pub mod hosts;
pub mod landed;
pub mod mounts;
pub mod node;
pub mod noise;
pub mod process;
pub mod procfs;
pub mod step;
pub mod steps;
pub mod tidy;
pub mod vm;
pub mod workspace;
