//! t3fs-node: what actors do not do. Configuration, data folders, threads, the FUSE mount, and the
//! life of the process.
//!
//! `t3fs-node up DIR` goes through `config` -> `data` -> `node` -> `mount` -> `fuse`: [`up`] (and
//! [`run`] for a part of a larger cluster) decides what the process is, [`service`] is its life.
//! Everything that can refuse does so before anything is created.
//!
//! **Architecture invariant:** no thread of this process touches a path below its own mount.
//! **Architecture invariant:** `unsafe` stands in `mount` alone; kernel calls go through rustix.

mod chains;
mod cli;
mod config;
mod control;
pub mod data;
mod destroy;
mod detach;
mod doctor;
mod door;
mod down;
mod fabric;
pub mod failure;
pub mod fuse;
mod helper;
mod inbox;
pub mod kv_fjall;
mod limits;
mod logging;
pub mod mount;
mod nearest;
mod node;
mod registry;
mod run;
mod running;
mod service;
mod set;
mod stats;
mod up;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use failure::Failure;

/// The whole program.
pub fn main() -> ExitCode {
    let result = match helper::is_called(std::env::args_os().next()) {
        true => helper::run(std::env::args_os().skip(1)),
        // clap prints its own errors (what is wrong, how it is used) and ends with status 2.
        false => command(Cli::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.line.is_empty() {
                // A caller that closed our standard error wants no line.
                let _ = writeln!(std::io::stderr(), "t3fs-node: {}", failure.line);
            }
            ExitCode::from(failure.status)
        }
    }
}

fn command(cli: Cli) -> Result<(), Failure> {
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Up(args) => up::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Mount(args) => run::mount(&args),
        Command::MakeChains(args) => chains::run(&args),
        Command::Down(args) => down::down(&args),
        Command::Check(args) => down::check(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Set(args) => set::run(&args),
        Command::Destroy(args) => destroy::run(&args),
        Command::Config => {
            logging::tell(config::definitions::explain().trim_end());
            Ok(())
        }
    }
}
