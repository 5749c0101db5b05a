//! One step of `cargo ops`: a command, announced by a line and run to its end, and what all cargo
//! commands here have in common.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{command, workspace};

/// The one profile that CI builds binaries and tests with, so that nothing is built twice.
pub(crate) const PROFILE: &str = "ci";

/// Why a step failed, one line.
pub type Failure = String;

/// What everything is built with beside the defaults, one set for all steps: RDMA, where the
/// machine has what its bindings are made with.
pub(crate) fn features() -> &'static [&'static str] {
    if command::is_installed("cmake") && has_libclang() {
        &["--features", "t3fs-nodes/rdma"]
    } else {
        &[]
    }
}

/// Whether bindgen will find libclang, where Debian puts it or where it is told.
fn has_libclang() -> bool {
    let entries = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten();
    let llvms = entries("/usr/lib").filter(|e| e.file_name().to_string_lossy().starts_with("llvm"));
    let mut libraries = llvms
        .flat_map(|llvm| entries(&llvm.path().join("lib").to_string_lossy()).collect::<Vec<_>>());
    env::var_os("LIBCLANG_PATH").is_some()
        || libraries.any(|e| e.file_name().to_string_lossy().starts_with("libclang"))
}

/// A cargo command in the root of the work tree.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace::root());
    command
}

/// Runs a command to its end with our own standard streams. Build and test commands carry their own
/// limits (nextest's per test; CI's for the whole), so there is none here.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let mut line = program.to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    announce(&line);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("failed ({status}): {line}")),
        Err(err) => Err(format!("could not start `{line}`: {err}")),
    }
}

pub(crate) fn announce(step: &str) {
    println!("==> {step}");
}
