//! The build before this one: the commit that landed last, whose nodes have to work beside today's
//! and whose data has to open. `ops/landed` names it; whoever begins after a landing moves it on.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::step::{self, Failure, PROFILE};
use crate::{command, workspace};

/// The full name of the commit.
pub fn commit() -> String {
    let file = workspace::root().join("ops/landed");
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    text.trim().to_owned()
}

fn folder() -> PathBuf {
    workspace::target_dir().join("landed").join(commit())
}

/// Its `t3fs-node`, which [`build`] has made.
pub fn binary() -> PathBuf {
    folder().join("t3fs-node")
}

/// Whether the history of this clone has it; asks where the clone came from if not.
pub fn is_known() -> bool {
    let has = || git(&["cat-file", "-e", &format!("{}^{{commit}}", commit())]);
    has() || (git(&["fetch", "--quiet", "--depth", "1", "origin", &commit()]) && has())
}

fn git(args: &[&str]) -> bool {
    let mut git = Command::new("git");
    git.arg("-C").arg(workspace::root()).args(args).stdin(Stdio::null()).stderr(Stdio::null());
    command::is_installed("git") && git.status().is_ok_and(|status| status.success())
}

/// Builds it, if it is not there: with the dependencies of this build where they are the same.
pub fn build() -> Result<(), Failure> {
    if binary().exists() {
        return Ok(());
    }
    if !is_known() {
        println!(
            "WARNING: tests beside the last landed build are SKIPPED, git has no {}",
            commit()
        );
        return Ok(());
    }
    let sources = folder().join("src");
    fs::create_dir_all(&sources).map_err(|e| format!("{}: {e}", sources.display()))?;
    let root = workspace::root();
    step::run(Command::new("bash").current_dir(&root).args([
        "-c",
        r#"git archive "$0" | tar -x -C "$1""#,
        &commit(),
        &sources.to_string_lossy(),
    ]))?;
    let mut build = step::cargo(&["build", "--workspace", "--bin", "t3fs-node"]);
    build.args(["--profile", PROFILE]).args(step::features()).current_dir(&sources);
    // It has to work, not to be fast.
    for package in ["runtime", "proto", "actors", "transport", "nodes"] {
        let key = format!("profile.{PROFILE}.package.t3fs-{package}.opt-level=0");
        build.args(["--config", &key]);
    }
    step::run(build.env("CARGO_TARGET_DIR", workspace::target_dir()))?;
    let built = workspace::binary(PROFILE, "t3fs-node");
    // In its place as a whole or not at all.
    let half = folder().join("t3fs-node.half");
    let copied = fs::copy(&built, &half).and_then(|_| fs::rename(&half, binary()));
    copied.map_err(|e| format!("{} does not become {}: {e}", built.display(), half.display()))?;
    fs::remove_dir_all(&sources).map_err(|e| format!("{}: {e}", sources.display()))
}
