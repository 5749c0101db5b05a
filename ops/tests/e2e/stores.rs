//! Goal: a metadata store that is not the cluster's is never taken for it. Method: real processes,
//! of which the kv comes back with another folder, as by a typing error or without its disk.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use t3fs_ops::command;

use crate::harness::{COMMAND_LIMIT, Parts, skip_without};

/// What mgmtd and meta say of the wrong store.
const SAID: &str = "though this cluster has used store";
/// So long a wrong store is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// All have to hear that the right one is back.
const BACK: Duration = Duration::from_secs(60);

/// The names in a folder, looked up by a thread that may have to wait.
fn names(dir: &Path) -> Receiver<Result<Vec<String>, String>> {
    let (tell, told) = channel();
    let dir = dir.to_owned();
    thread::spawn(move || {
        // Of a name that is not there the kernel remembers nothing: meta has to be asked.
        let absent = fs::metadata(dir.join("absent")).map(drop);
        let absent = absent.expect_err("there is no such file");
        let names = fs::read_dir(&dir).and_then(|all| {
            let name = |e: fs::DirEntry| e.file_name().to_string_lossy().into_owned();
            all.map(|entry| entry.map(name)).collect()
        });
        let answer = match absent.kind() {
            std::io::ErrorKind::NotFound => names.map_err(|e| e.to_string()),
            _ => Err(absent.to_string()),
        };
        // The test may be over.
        _ = tell.send(answer);
    });
    told
}

/// Nobody has an answer, or it is an error that does not say that anything is gone.
#[track_caller]
fn are_not_told(asked: &Receiver<Result<Vec<String>, String>>) {
    match asked.recv_timeout(LOOK) {
        Err(_) => {}
        Ok(Err(why)) => assert!(why.contains("Input/output"), "{why}"),
        Ok(Ok(names)) => panic!("another store was shown: {names:?}"),
    }
}

/// Regression (a newcomer): the kv was started with a mistyped `--state`. mgmtd led a new cluster
/// over the empty store, mounts said ESTALE, and a fresh mount showed an empty file system.
#[test]
fn a_kv_with_another_folder() {
    if skip_without(&[]) {
        return;
    }
    let mut parts = Parts::new("otherstore", Some(1));
    let (right, wrong) = (parts.site.path("kv.state"), parts.site.path("kv-typo.state"));
    parts.kv(&right);
    assert!(parts.process("kv").log().contains("new, empty store"), "a typing error is seen");
    parts.all_but_kv();
    let dir = parts.mount("mnt");
    let mut file = fs::File::create(dir.join("file")).expect("create");
    file.write_all(b"content").and_then(|()| file.sync_all()).expect("written");
    drop(file);

    // It is replaced while all others run.
    parts.kill("kv");
    parts.kv(&wrong);
    let asked = names(&dir);
    parts.process("server").wait_for(SAID, COMMAND_LIMIT).expect("they notice");
    are_not_told(&asked);
    // They start beside it.
    parts.kill("server");
    parts.all_but_kv_say(SAID);
    are_not_told(&names(&dir));
    let log = parts.process("server").log();
    assert!(log.contains("t3fs-store.toml on each mgmtd and meta"), "what to do: {log}");
    assert!(!log.contains("leads cluster") && !log.contains("serves cluster"), "{log}");

    parts.kill("kv");
    parts.kv(&right);
    assert!(!parts.process("kv").log().contains("new, empty store"));
    parts.process("server").wait_for("serves cluster", BACK).expect("it goes on by itself");
    let is_read = || fs::read(dir.join("file")).is_ok_and(|content| content == b"content");
    assert!(command::poll_until(BACK, is_read), "the file is back");
    let there = names(&dir).recv_timeout(BACK).expect("an answer").expect("names");
    assert_eq!(there, ["file"]);
    let fresh = parts.mount("fresh");
    assert_eq!(fs::read(fresh.join("file")).expect("read"), b"content");
    for name in ["fresh", "mnt"] {
        parts.down(name);
    }
}
