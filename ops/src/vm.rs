//! `cargo ops vm`: the tests that need a kernel with soft-RoCE and netem, in the VM of
//! `ops/rdma-vm`. Everything is built here, natively, and only run there, in one boot.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::command;
use crate::step::{self, Failure};
use crate::workspace;

/// Boot and tests together; CI has no more than this for them.
const LIMIT_SECONDS: u32 = 600;
const MEMORY_MIB: u32 = 6144;

/// Runs the tests of `e2e` that are in `vm::`. Where there is no qemu they are skipped, loudly;
/// with CI=true that is a failure, as is a VM that does not start.
pub fn run() -> Result<(), Failure> {
    if let Some(why) = missing() {
        if env::var("CI").as_deref() == Ok("true") {
            return Err(format!("the tests in the VM cannot run: {why}"));
        }
        println!("WARNING: the tests in the VM are SKIPPED: {why}");
        return Ok(());
    }
    let programs = test_programs()?;
    let e2e = find(&programs, "e2e")?;
    let profile = workspace::binary(step::PROFILE, "t3fs-node");
    let begun = Instant::now();
    let mut vm = Command::new(workspace::root().join("ops/rdma-vm"));
    vm.args(["--timeout", &LIMIT_SECONDS.to_string(), "--memory", &MEMORY_MIB.to_string(), "--"]);
    vm.args(["env", "CI=true"]);
    vm.arg(assign("T3FS_NODE", &profile));
    vm.arg(assign("T3FS_CONFORMANCE", find(&programs, "conformance")?));
    vm.arg(e2e);
    vm.args(["vm::", "--ignored", "--test-threads=1", "--nocapture"]);
    let outcome = step::run(&mut vm);
    println!("==> the VM took {:.0} s", begun.elapsed().as_secs_f64());
    outcome.map_err(|failure| format!("in the VM: {failure}"))
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root, to let the VM read all files".into());
    }
    (!command::is_installed("qemu-system-x86_64")).then(|| "no qemu-system-x86_64".into())
}

fn assign(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

fn find<'a>(programs: &'a [(String, PathBuf)], name: &str) -> Result<&'a Path, Failure> {
    let found = programs.iter().find(|(target, _)| target == name);
    found.map(|(_, path)| path.as_path()).ok_or_else(|| format!("cargo built no test {name}"))
}

/// The test programs of the workspace by the names of their targets: built, if they are not, as
/// for all tests.
fn test_programs() -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut build = step::cargo(&["test", "--workspace", "--profile", step::PROFILE]);
    build.args(step::features()).args(["--no-run", "--message-format=json-render-diagnostics"]);
    step::announce("cargo test --workspace --no-run");
    let built = build.stderr(Stdio::inherit()).output();
    let built = built.map_err(|err| format!("could not start cargo: {err}"))?;
    if !built.status.success() {
        return Err(format!("the tests do not build ({})", built.status));
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    Ok(messages.lines().filter_map(test_program).collect())
}

/// What one line of cargo's says of a test program, if it does.
fn test_program(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["profile"]["test"] == true;
    let name = message["target"]["name"].as_str()?.to_owned();
    let path = message["executable"].as_str()?.into();
    is_test.then_some((name, path))
}

#[cfg(test)]
mod tests {
    //! Goal: test programs are found in what cargo prints, and nothing else is. Method: lines of
    //! cargo's, shortened.
    use super::*;

    #[test]
    fn programs_are_found() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"e2e"},
            "profile":{"test":true},"executable":"/t/ci/deps/e2e-1"}"#;
        assert_eq!(test_program(line), Some(("e2e".into(), "/t/ci/deps/e2e-1".into())));
        for other in [
            r#"{"target":{"name":"t3fs-node"},"profile":{"test":false},"executable":"/t/n"}"#,
            r#"{"target":{"name":"t3fs_ops"},"profile":{"test":true},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
            "   Compiling t3fs",
        ] {
            assert_eq!(test_program(other), None, "{other}");
        }
    }
}
