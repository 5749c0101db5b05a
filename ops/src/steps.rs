//! The steps behind `cargo ops check | fix | tidy | test | nightly`: cargo commands in an order,
//! each announced by a line. `check` runs all its steps and tells all that failed; the others stop
//! at the first.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::step::{Failure, PROFILE, announce, cargo, features, run};
use crate::{command, landed, tidy, vm, workspace};

/// Checks of the simulator, with the seeds that every test run gives them. A seed of `engine`
/// explores 64 crash states.
const CHECKS: [(&str, u32); 8] = [
    ("disk", 300),
    ("chain", 300),
    ("engine", 320),
    ("mgmtd", 1_000),
    ("members", 1_000),
    ("hosts", 500),
    ("metas", 300),
    ("files", 1_000),
];
/// A night has so many times the seeds.
const NIGHTLY: u32 = 20;

/// What the end-to-end tests run on the mount; `.ci/run` installs them.
const E2E_TOOLS: [&str; 17] = [
    "bash",
    "cp",
    "diff",
    "fio",
    "fusermount3",
    "git",
    "ip",
    "mkfs.ext4",
    "nft",
    "nsenter",
    "perl",
    "rsync",
    "setpriv",
    "sqlite3",
    "tar",
    "tc",
    "unshare",
];

/// Format, lints, source rules. Never writes to the sources.
pub fn check() -> Result<(), Failure> {
    let steps = [
        run(&mut cargo(&["fmt", "--all", "--check"])),
        run(cargo(&CLIPPY).args(features()).args(["--", "-D", "warnings"])),
        tidy(),
    ];
    let failures: Vec<Failure> = steps.into_iter().filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

const CLIPPY: [&str; 5] = ["clippy", "--workspace", "--all-targets", "--profile", PROFILE];

/// Does by itself what `check` would ask for, as far as tools can.
pub fn fix() -> Result<(), Failure> {
    run(cargo(&CLIPPY).args(features()).args(["--fix", "--allow-dirty", "--allow-staged"]))?;
    tidy::fix(&workspace::root()).map_err(|err| format!("tidy: {err}"))?;
    run(&mut cargo(&["fmt", "--all"]))
}

/// The source rules alone; prints `file:line: rule: message` per finding.
pub fn tidy() -> Result<(), Failure> {
    announce("tidy");
    let findings = tidy::check(&workspace::root()).map_err(|err| format!("tidy: {err}"))?;
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => Err(format!("tidy: {count} findings")),
    }
}

/// Everything that the README promises. The tests come last, so that the last lines printed are the
/// summary of all of them, those of the end-to-end tests included.
pub fn test() -> Result<(), Failure> {
    warn_of_missing_tools();
    build()?;
    simulate(1)?;
    // What fails in the VM must not hide what the tests here find.
    let in_vm = vm::run();
    all_tests(&[]).and(in_vm)
}

/// `test` at length: more seeds, more crash rounds, whole trees instead of parts, then the
/// benchmark.
pub fn nightly() -> Result<(), Failure> {
    build()?;
    simulate(NIGHTLY)?;
    vm::run()?;
    all_tests(&[("T3FS_NIGHTLY", "1"), ("T3FS_ROUNDS", "20")])?;
    run(&mut cargo(&["run", "--quiet", "--profile", PROFILE, "-p", "t3fs-ops", "--", "bench"]))
}

/// Test runners hide what a passing test prints, and a skipped test passes: so say it here.
fn warn_of_missing_tools() {
    let missing = E2E_TOOLS.into_iter().filter(|tool| !command::is_installed(tool));
    let missing: Vec<&str> = missing.collect();
    if !missing.is_empty() {
        println!("WARNING: tests that need them are SKIPPED, not installed: {}", missing.join(" "));
    }
    if features().is_empty() {
        println!("WARNING: built WITHOUT RDMA, there is no cmake or no libclang");
    }
    if !Path::new("/dev/fuse").exists() {
        println!("WARNING: all end-to-end tests are SKIPPED, there is no /dev/fuse");
    }
}

/// The build before this one first: the binary that stays in its place is this one's. Then all
/// programs and tests by one command: dependencies of tests alone switch on features of others,
/// which a command for programs alone would build without them, and tests build again.
fn build() -> Result<(), Failure> {
    landed::build()?;
    let all = ["build", "--workspace", "--profile", PROFILE, "--lib", "--bins", "--tests"];
    run(cargo(&all).args(["--examples"]).args(features()))
}

/// Measures links between processes beside plain sockets, and beside perftest where there are RDMA
/// devices, and prints tables.
pub fn bench_net(rounds: u32, in_vm: bool) -> Result<(), Failure> {
    let mut build = cargo(&["build", "--release", "--package", "t3fs-transport"]);
    build.args(["--example", "bench_net"]);
    if !features().is_empty() {
        build.args(["--features", "t3fs-transport/rdma"]);
    }
    run(&mut build)?;
    let program = workspace::binary("release", "examples/bench_net");
    let rounds = rounds.to_string();
    if in_vm {
        let mut vm = Command::new(workspace::root().join("ops/rdma-vm"));
        return run(vm.args(["--timeout", "1200", "--"]).arg(program).args([&rounds, "RDMA"]));
    }
    run(Command::new(program).arg(rounds))
}

/// Builds one binary as users run it.
pub fn build_release(package: &str, binary: &str) -> Result<(), Failure> {
    run(&mut cargo(&["build", "--release", "--package", package, "--bin", binary]))
}

fn simulate(times: u32) -> Result<(), Failure> {
    let jobs = std::thread::available_parallelism().map_or(1, |n| n.get()).to_string();
    for (check, seeds) in CHECKS {
        let seeds = (seeds * times).to_string();
        let mut simulator = Command::new(workspace::binary(PROFILE, "t3fs-sim"));
        run(simulator.args(["run", "--check", check, "--seeds", &seeds, "--jobs", &jobs]))?;
    }
    Ok(())
}

/// Runs every test of the workspace, in nextest if it is installed (a process and a time limit for
/// each test), else in cargo's own harness.
fn all_tests(env: &[(&str, &str)]) -> Result<(), Failure> {
    let nextest = ["nextest", "run", "--workspace", "--cargo-profile", PROFILE];
    // The plain harness stops at the first binary that fails; all failures are wanted in one run.
    let harness = ["test", "--workspace", "--profile", PROFILE, "--no-fail-fast"];
    let mut command = if has_nextest() {
        let mut command = cargo(&nextest);
        command.args(["--no-fail-fast", "--config-file"]);
        command.arg(workspace::root().join("ops/nextest.toml"));
        command
    } else {
        cargo(&harness)
    };
    run(command.args(features()).envs(env.iter().copied()))
}

fn has_nextest() -> bool {
    let mut version = cargo(&["nextest", "--version"]);
    let version = version.stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}
