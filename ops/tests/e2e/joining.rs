//! Goal: a server that its cluster will not have, or that finds none, says so where it was started
//! and in its log, and disturbs nobody. Method: starts under a used number, with a wrong secret,
//! cluster id and address, and before there is an mgmtd.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use t3fs_ops::command::{self, Finished};
use t3fs_ops::process::Process;

use crate::harness::{COMMAND_LIMIT, Parts, finish, run, skip_without_root, t3fs};

/// A read or write through a mount, on a busy machine.
const CALL_MAX: Duration = Duration::from_secs(5);

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

/// A storage server of the cluster with folders of this name.
fn storage(parts: &Parts, id: &str, listen: SocketAddr, folders: &str) -> Command {
    let mut command = parts.command(["--roles", "storage", "--node-id", id]);
    command.args(["--listen", &listen.to_string()]);
    command.arg("--data").arg(parts.site.path(&format!("{folders}.data")));
    command.arg("--state").arg(parts.site.path(&format!("{folders}.state")));
    command
}

fn has_refused(done: &Finished, words: &[&str]) {
    let said = format!("{}{}", done.stdout, done.stderr);
    assert!(done.code().is_some_and(|code| code != 0), "not refused: {said}");
    assert!(!done.stdout.contains("serves cluster"), "{said}");
    for word in words {
        assert!(done.stderr.contains(word), "no {word:?} in: {said}");
    }
}

/// Regression: a second server under a used number displaced the first, which had served for
/// minutes: the links of the first were pushed out, so mgmtd took it for dead, and its chain went
/// on with the empty disks of the second. Goal: the first goes on as if nothing were, the second
/// says why it cannot, and may have the number once the first has ended.
#[test]
fn a_second_server_under_a_used_number() {
    if skip_without_root() {
        return;
    }
    let mut parts = Parts::new("number", Some(1));
    parts.all_but_storage();
    let (first, second) = (free_port(), free_port());
    parts.start("first", storage(&parts, "12", first, "first"), "serves cluster");
    run(&mut parts.command(["make-chains", "--replicas", "1"]));
    let dir = parts.mount("mount");
    let text = "of the first".repeat(10_000);
    fs::write(dir.join("file"), &text).expect("write");
    run(Command::new("sync").arg("-f").arg(&dir));

    let mut start = storage(&parts, "12", second, "second");
    let mut rounds = 0;
    let work = || {
        let began = std::time::Instant::now();
        fs::write(dir.join(format!("file{rounds}")), &text).expect("write meanwhile");
        run(Command::new("sync").arg("-f").arg(&dir));
        let mut read = Command::new("dd");
        read.args(["iflag=direct", "status=none"]).arg(format!("if={}/file", dir.display()));
        assert!(run(&mut read) == text, "other bytes");
        assert!(began.elapsed() < CALL_MAX, "it hangs for {:?}", began.elapsed());
        rounds += 1;
    };
    let done = command::finish_while(start.arg("--detach"), COMMAND_LIMIT, work);
    has_refused(&done.expect("it ends"), &["number", "lives", &first.to_string()]);
    assert!(rounds > 3, "{rounds} rounds");
    let doctor = finish(t3fs(["doctor"]).arg(&dir)).stdout;
    assert!(doctor.contains(&first.to_string()), "{doctor}");
    assert!(!doctor.contains(&second.to_string()), "{doctor}");
    let log = parts.process("server").log();
    assert!(!log.contains("is dead"), "{log}");
    assert!(log.contains("node 12: another process has the same number"), "{log}");
    assert_eq!(log.matches("another process has the same number").count(), 1, "{log}");
    let log = parts.process("first").log();
    assert!(!log.contains("begins again") && !log.contains("does not answer"), "{log}");

    parts.kill("first");
    parts.start("second", storage(&parts, "12", second, "second"), "serves cluster");
}

/// A process that went to the background. Ended when dropped.
struct Background {
    state: PathBuf,
}

impl Drop for Background {
    fn drop(&mut self) {
        // It has signed its lock.
        let signed = fs::read_to_string(self.state.join("lock")).unwrap_or_default();
        let Some(pid) = signed.trim().parse().ok().and_then(Pid::from_raw) else { return };
        if let Err(err) = kill_process(pid, Signal::KILL) {
            eprintln!("could not end process {}: {err}", pid.as_raw_nonzero());
        }
    }
}

/// Regression: a server that was in no cluster, because it had another secret, another cluster id
/// or a wrong address, said that it serves, and its log said nothing.
#[test]
fn a_server_that_is_in_no_cluster_does_not_say_that_it_serves() {
    if skip_without_root() {
        return;
    }
    let mut parts = Parts::new("joining", Some(1));
    // Before there is an mgmtd.
    let early = Background { state: parts.site.path("early.state") };
    let done = finish(storage(&parts, "12", free_port(), "early").arg("--detach"));
    assert!(done.success(), "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("waits for mgmtd at"), "{}", done.stdout);
    assert!(!done.stdout.contains("serves"), "{}", done.stdout);
    let log = || {
        let files = fs::read_dir(early.state.join("log")).expect("a log folder").flatten();
        files.map(|file| fs::read_to_string(file.path()).expect("a log")).collect::<String>()
    };
    let told = || log().contains("no mgmtd answers") && log().contains("refused (os error");
    assert!(command::poll_until(COMMAND_LIMIT, told), "{}", log());

    parts.all_but_storage();
    let joined = command::poll_until(COMMAND_LIMIT, || log().contains("serves cluster"));
    assert!(joined, "{}", log());

    let other = parts.site.path("other-secret");
    fs::write(&other, "another secret than the cluster's").expect("write");
    run(Command::new("chmod").arg("600").arg(&other));
    let mut wrong = storage(&parts, "13", free_port(), "secret");
    wrong.env("T3FS_SECRET_FILE", &other).arg("--detach");
    has_refused(&finish(&mut wrong), &["secret"]);
    let mut wrong = storage(&parts, "14", free_port(), "id");
    wrong.env("T3FS_CLUSTER_ID", "elsewhere").arg("--detach");
    has_refused(&finish(&mut wrong), &["cluster ids"]);

    let nobody = free_port();
    let mut wrong = storage(&parts, "15", free_port(), "address");
    wrong.env("T3FS_CLUSTER", format!("TCP://{nobody}"));
    let mut wrong = Process::start(wrong, &parts.site.path("address.log")).expect("t3fs-node");
    let words = format!("waits for mgmtd at {nobody}");
    wrong.wait_for(&words, COMMAND_LIMIT).expect("it says that it waits");
    wrong.wait_for("no mgmtd answers", COMMAND_LIMIT).expect("and why");
    assert!(!wrong.log().contains("serves cluster"), "{}", wrong.log());
}
