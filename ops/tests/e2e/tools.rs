//! Goal: programs that lean hard on a file system work on the mount. Method: git, cargo, sqlite3 do
//! what they do every day, and their own checks of their data pass, also after a restart.

use std::fs;
use std::process::Command;

use crate::harness::{Mount, is_nightly, run, shell, skip_without};

#[test]
fn git_clones_and_finds_no_fault() {
    if skip_without(&["git"]) {
        return;
    }
    let mut mount = Mount::new("git");
    let root = t3fs_ops::workspace::root();
    if root.join(".git").exists() {
        // `--no-local`: objects travel through git's own protocol and are written as a pack.
        run(Command::new("git")
            .args(["clone", "--quiet", "--no-local"])
            .arg(&root)
            .arg(mount.path("c")));
    } else {
        // A source archive has no history; its files make one.
        fs::create_dir(mount.path("c")).expect("mkdir");
        run(Command::new("cp").arg("-a").arg(root.join("ops")).arg(mount.path("c")));
        run(&mut shell(
            &mount.path("c"),
            &format!("git init --quiet && git add . && {COMMIT} -m all"),
        ));
    }
    let work = format!(
        "git fsck --full --strict
         git switch --quiet --create topic
         for n in $(seq 30); do echo $n > file-$n; git add file-$n; {COMMIT} -m $n; done
         git gc --quiet --aggressive --prune=now
         git fsck --full --strict
         git status --porcelain"
    );
    assert_eq!(run(&mut shell(&mount.path("c"), &work)), "", "a clean work tree");
    mount.restart();
    assert_eq!(
        run(&mut shell(&mount.path("c"), "git fsck --full --strict; git status --porcelain")),
        ""
    );
}

/// On a machine where git knows no user.
const COMMIT: &str = "git -c user.name=t -c user.email=t@t commit --quiet";

#[test]
fn cargo_builds_and_the_program_runs() {
    if skip_without(&["cargo"]) {
        return;
    }
    let mount = Mount::new("cargo");
    let package = mount.path("hello");
    fs::create_dir_all(package.join("src")).expect("mkdir");
    let manifest =
        "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
    fs::write(package.join("Cargo.toml"), manifest).expect("write");
    fs::write(package.join("src/lib.rs"), "pub fn text() -> &'static str { \"hello\" }\n")
        .expect("write");
    let main = "fn main() { println!(\"{}\", hello::text()) }\n#[test] fn t() { assert!(true) }\n";
    fs::write(package.join("src/main.rs"), main).expect("write");
    let build = |args: &[&str]| {
        let mut cargo = Command::new("cargo");
        // What the cargo that runs this test has set is about another package.
        cargo.env_remove("RUSTFLAGS").env("CARGO_TARGET_DIR", package.join("target"));
        run(cargo.args(args).args(["--quiet", "--offline"]).current_dir(&package))
    };
    build(&["build"]);
    assert_eq!(run(&mut Command::new(package.join("target/debug/hello"))), "hello\n");
    // Incremental: times and contents are as cargo left them.
    fs::write(package.join("src/lib.rs"), "pub fn text() -> &'static str { \"again\" }\n")
        .expect("write");
    build(&["test"]);
    assert_eq!(build(&["run"]), "again\n");
}

#[test]
fn sqlite_commits_with_a_write_ahead_log() {
    sqlite("wal", transactions());
}

#[test]
fn sqlite_commits_with_a_rollback_journal() {
    sqlite("delete", transactions());
}

/// Each is several syncs of a real disk: the full number takes minutes on a shared machine.
fn transactions() -> usize {
    if is_nightly() { 10_000 } else { 1_000 }
}

/// Every transaction is synced as sqlite's defaults say (`synchronous = full`).
fn sqlite(journal: &str, transactions: usize) {
    if skip_without(&["sqlite3"]) {
        return;
    }
    let mut mount = Mount::new(&format!("sqlite-{journal}"));
    let mut script = format!("PRAGMA journal_mode = {journal};\n");
    script += "CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT);\nCREATE INDEX i ON t (text);\n";
    for n in 0..transactions {
        script += &format!("INSERT INTO t VALUES ({n}, 'text {}');\n", n * 7919 % transactions);
    }
    let path = mount.site.path("script.sql");
    fs::write(&path, script).expect("write");
    let dir = mount.dir();
    run(&mut shell(&dir, &format!("sqlite3 -bail db < '{}'", path.display())));
    let check = "sqlite3 -bail db 'PRAGMA integrity_check; SELECT count(*), sum(n) FROM t;'";
    let want = format!("ok\n{transactions}|{}\n", transactions * (transactions - 1) / 2);
    assert_eq!(run(&mut shell(&dir, check)), want);
    mount.restart();
    assert_eq!(run(&mut shell(&dir, check)), want);
}
