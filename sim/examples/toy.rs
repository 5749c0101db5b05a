//! The command line of `t3fs-sim` over the toy cluster of the tests: a check with real actors in
//! one file, and a place to measure the simulator itself.
//!
//! `cargo run --profile ci -p t3fs-sim --example toy -- run --check toy-rate --seeds 20`

#[path = "../src/cli.rs"]
mod cli;
#[path = "../tests/toy/mod.rs"]
mod toy;

fn main() {
    cli::main(&[toy::TOY, toy::RATE])
}
