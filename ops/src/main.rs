//! `cargo ops`: one command for everything that is done to the source tree.
//!
//! `check` never writes, `fix` does; CI runs the same commands as a person. This file only parses
//! the command line; the commands are in `steps.rs`, `tidy/` and `bench/`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use t3fs_ops::{bench, fuzz, steps, vm};

#[derive(Parser)]
#[command(name = "cargo ops", about = "Checks, tests and benchmarks of t3fs")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check format, lints and source rules; never writes
    Check,
    /// Apply format and lint fixes
    Fix,
    /// Check the source rules alone
    Tidy,
    /// Build, simulate, run all tests (what the README promises)
    Test,
    /// Run the tests that need a kernel with RDMA devices and netem, in a virtual machine
    Vm,
    /// Look for bytes that break a decoder, all targets in turn; needs a C++ compiler
    Fuzz {
        /// Seconds in all
        #[arg(default_value_t = 600)]
        seconds: u64,
    },
    /// `test` at length, then the benchmark
    Nightly,
    /// Measure the mount beside the folder that holds the data and beside an empty FUSE file system
    Bench(bench::Options),
    /// One measurement inside one folder; started by `bench`, prints JSON
    #[command(hide = true)]
    BenchJob(bench::JobOptions),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Check => steps::check(),
        Command::Fix => steps::fix(),
        Command::Tidy => steps::tidy(),
        Command::Test => steps::test(),
        Command::Vm => vm::run(),
        Command::Fuzz { seconds } => fuzz::run(seconds),
        Command::Nightly => steps::nightly(),
        Command::Bench(options) => bench::run(&options),
        Command::BenchJob(options) => bench::run_job(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
