//! `cargo ops fuzz`: the targets of `ops/fuzz/` under libFuzzer, one after the other on one core.
//!
//! What is found on the way lies in `target/fuzz/work`, and the next run goes on from there. What
//! is kept in `ops/fuzz/corpus` is the least that reaches the same edges; tests replay it. An input
//! that breaks a target is put there too, so that the tests fail until its cause is mended.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::{Finished, finish};
use crate::step::{Failure, PROFILE, cargo, run as step};
use crate::workspace;

/// What makes the compiler count edges and show comparisons to libFuzzer.
const COUNT_EDGES: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Longest input, bytes: targets make more of it where size matters.
const INPUT_MAX: u32 = 4096;
/// For starting, and for choosing what is kept.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs all targets, `seconds` in sum.
pub fn run(seconds: u64) -> Result<(), Failure> {
    let root = workspace::root();
    let target_dir = workspace::target_dir().join("fuzz");
    // A triple that is named keeps the flags away from build scripts, which have no libFuzzer.
    let triple = format!("{ARCH}-unknown-linux-gnu");
    let build = ["build", "--package", "t3fs-fuzz", "--features", "libfuzzer"];
    let mut build = cargo(&build);
    build.args(["--profile", PROFILE, "--target", &triple]).arg("--target-dir").arg(&target_dir);
    step(build.env("RUSTFLAGS", COUNT_EDGES))?;
    let fuzzer = target_dir.join(triple).join(PROFILE).join("t3fs-fuzz");
    let corpus = root.join("ops/fuzz/corpus");
    let targets = names(&corpus)?;
    println!("{:12} {:>12} {:>7} {:>6} {:>8}", "target", "executions", "edges", "kept", "bytes");
    for name in &targets {
        let one = One {
            fuzzer: &fuzzer,
            name,
            work: target_dir.join("work").join(name),
            kept: corpus.join(name),
        };
        one.look(seconds / targets.len() as u64)?;
    }
    Ok(())
}

/// Every target has a folder of kept inputs.
fn names(corpus: &Path) -> Result<Vec<String>, Failure> {
    let entries = fs::read_dir(corpus).map_err(|e| format!("{}: {e}", corpus.display()))?;
    let mut names: Vec<String> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

struct One<'a> {
    fuzzer: &'a Path,
    name: &'a str,
    work: PathBuf,
    kept: PathBuf,
}

impl One<'_> {
    fn look(&self, seconds: u64) -> Result<(), Failure> {
        let lost = |e: std::io::Error| format!("{}: {e}", self.name);
        fs::create_dir_all(&self.work).map_err(lost)?;
        let mut fuzz = self.command();
        fuzz.env("T3FS_FUZZ_SEEDS", &self.work);
        fuzz.arg(format!("-max_total_time={}", seconds.max(1)));
        fuzz.arg(format!("-artifact_prefix={}/found-", self.kept.display()));
        fuzz.args([&self.work, &self.kept]);
        let done = finish(&mut fuzz, Duration::from_secs(seconds) + PATIENCE).map_err(lost)?;
        if !done.success() {
            return Err(self.finding(&done));
        }
        let chosen = self.work.with_extension("chosen");
        let _ = fs::remove_dir_all(&chosen);
        fs::create_dir_all(&chosen).map_err(lost)?;
        let mut choose = self.command();
        // Edges alone: how often each is passed makes ten times as many inputs.
        choose.args(["-merge=1", "-use_counters=0"]).args([&chosen, &self.kept, &self.work]);
        let merged = finish(&mut choose, PATIENCE).map_err(lost)?;
        if !merged.success() {
            return Err(self.finding(&merged));
        }
        fs::remove_dir_all(&self.kept).map_err(lost)?;
        let (mut count, mut bytes) = (0, 0);
        fs::create_dir_all(&self.kept).map_err(lost)?;
        for input in fs::read_dir(&chosen).map_err(lost)?.flatten() {
            count += 1;
            bytes += fs::copy(input.path(), self.kept.join(input.file_name())).map_err(lost)?;
        }
        let executions = number_behind(&done.stderr, "stat::number_of_executed_units:");
        let edges = number_behind(&done.stderr, " cov:");
        println!("{:12} {executions:>12} {edges:>7} {count:>6} {bytes:>8}", self.name);
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.fuzzer);
        command.env("T3FS_FUZZ_TARGET", self.name);
        command.args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"]);
        command.arg(format!("-max_len={INPUT_MAX}"));
        command
    }

    fn finding(&self, done: &Finished) -> Failure {
        let panic = done.stderr.lines().skip_while(|l| !l.contains("panicked")).take(2);
        let panic: Vec<&str> = panic.collect();
        format!(
            "{}: an input breaks it; kept as {}/found-*, which the test `replay` shows again\n{}",
            self.name,
            self.kept.display(),
            panic.join("\n"),
        )
    }
}

/// The number behind the last place where `label` stands.
fn number_behind(text: &str, label: &str) -> u64 {
    let Some(at) = text.rfind(label) else { return 0 };
    let digits = text[at + label.len()..].split_whitespace().next();
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_found_in_what_libfuzzer_prints() {
        let text = "#9 NEW cov: 12 ft: 3\n#10 DONE   cov: 568 ft: 9\nstat::units: 77\n";
        assert_eq!(super::number_behind(text, " cov:"), 568);
        assert_eq!(super::number_behind(text, "stat::units:"), 77);
        assert_eq!(super::number_behind(text, "nothing:"), 0);
    }
}
