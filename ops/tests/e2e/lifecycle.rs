//! Goal: starting and ending in every way that people do it. Method: the commands and signals, and
//! what is there afterwards.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use t3fs_ops::command::{self, poll_until};
use t3fs_ops::mounts;

use crate::harness::{COMMAND_LIMIT, Mount, Site, Watchdog, finish, run, skip_without, t3fs};

const SIGNAL_LIMIT: Duration = Duration::from_secs(30);

#[test]
fn the_first_start_and_later_ones_are_quick() {
    if skip_without(&[]) {
        return;
    }
    let start = Instant::now();
    let mut mount = Mount::new("start");
    let first = start.elapsed();
    let start = Instant::now();
    mount.restart();
    let again = start.elapsed();
    eprintln!("first start {first:?}, down and up {again:?}");
    let limit = Duration::from_secs(10);
    assert!(first < limit && again < limit, "{first:?}, {again:?}");
}

#[test]
fn signals_flush_unmount_and_end_well() {
    if skip_without(&[]) {
        return;
    }
    for (signal, name) in [(Signal::INT, "sigint"), (Signal::TERM, "sigterm")] {
        let mut mount = Mount::new(name);
        // Not synced: ending flushes.
        fs::write(mount.path("file"), "content").expect("write");
        let setup = mount.node().setup().clone();
        mount.node().signal(signal);
        let status = mount.node().wait(SIGNAL_LIMIT).expect("an end");
        assert_eq!(status.code(), Some(0), "{name}: {}", mount.node().log());
        assert_eq!(mounts::find(&mount.dir()), None);
        mount.forget_ended();
        mount.up(setup);
        assert_eq!(fs::read_to_string(mount.path("file")).expect("read"), "content");
    }
}

#[test]
fn detach_returns_when_mounted_and_down_ends_it() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("detach");
    let _watchdog = Watchdog::start(site.mount_point());
    let setup = site.setup(1).arg("--detach");
    let _guard = Detached(site.mount_point());
    run(&mut t3fs(&setup.args));
    let mounted = mounts::find(&site.mount_point()).expect("mounted when the command returns");
    assert_eq!(mounted.source, "hf3fs.detach");
    fs::write(site.mount_point().join("file"), "content").expect("write");
    let logs = files_named_like_logs(&site);
    assert!(!logs.is_empty(), "logs lie below the data folder");
    run(t3fs(["down"]).arg(site.mount_point()));
    assert_eq!(mounts::find(&site.mount_point()), None);
    run(&mut t3fs(&setup.args));
    let content = fs::read_to_string(site.mount_point().join("file")).expect("read");
    assert_eq!(content, "content");
    run(t3fs(["down"]).arg(site.mount_point()));
}

/// README's first command failed in every fresh home, where its folder is not there.
#[test]
fn a_folder_that_is_not_there_is_made_and_stays() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("made");
    fs::remove_dir(site.mount_point()).expect("rmdir");
    let setup = site.setup(1);
    let mut mount = Mount::with(site, setup.clone());
    fs::write(mount.path("file"), "content").expect("write");
    let said = run(t3fs(["check"]).arg(mount.dir()));
    assert!(said.contains("namespace: 1 files") && said.contains("0 of them"), "{said}");
    mount.down();
    assert!(mount.dir().is_dir(), "what up has made stays");
    mount.up(setup);
    assert_eq!(fs::read_to_string(mount.path("file")).expect("read"), "content");
    mount.down();
}

/// Goal: an operator sees what a process does. Method: files are made and read, and one that is not
/// there is opened; the counts of the messages for that have grown.
#[test]
fn a_process_tells_what_it_has_handled() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("stats");
    let setup = site.setup(2);
    let mut mount = Mount::with(site, setup);
    let dir = mount.dir().to_owned();
    let stats = || -> serde_json::Value {
        let said = run(t3fs(["stats", "--json"]).arg(&dir));
        serde_json::from_str(&said).expect("one line of JSON")
    };
    let of = |stats: &serde_json::Value, message: &str, what: &str| {
        let rows = stats["messages"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["message"] == message);
        row.map_or(0, |row| row[what].as_u64().expect("a number"))
    };
    let before = stats();
    for i in 0..20 {
        fs::write(mount.path(&format!("f{i}")), vec![i; 100_000]).expect("write");
        fs::read(mount.path(&format!("missing{i}"))).expect_err("it is not there");
    }
    let after = stats();
    let grown = |message, what| of(&after, message, what) - of(&before, message, what);
    assert!(grown("Meta::CreateFile", "handled") >= 20, "{after:#}");
    assert!(grown("Meta::Lookup", "failed") >= 20, "{after:#}");
    assert!(grown("Storage::UpdateChunk", "handled") >= 20, "{after:#}");
    assert!(
        of(&after, "Storage::UpdateChunk", "p99_us")
            <= of(&after, "Storage::UpdateChunk", "max_us")
    );
    let table = run(t3fs(["stats"]).arg(mount.dir()));
    assert!(table.contains("Meta::CreateFile") && table.starts_with("message"), "{table}");
    mount.down();
}

/// Ends a detached node whose test failed.
struct Detached(PathBuf);

impl Drop for Detached {
    fn drop(&mut self) {
        if mounts::find(&self.0).is_none() {
            return;
        }
        let down = command::finish(t3fs(["down", "--force"]).arg(&self.0), COMMAND_LIMIT);
        if !down.is_ok_and(|done| done.success())
            && let Err(err) = mounts::abort(&self.0).and_then(|()| mounts::detach(&self.0))
        {
            eprintln!("could not end {}: {err}", self.0.display());
        }
    }
}

fn files_named_like_logs(site: &Site) -> Vec<PathBuf> {
    let found = run(std::process::Command::new("find").arg(site.data(0)).args(["-name", "*log*"]));
    found.lines().map(PathBuf::from).collect()
}

#[test]
fn a_busy_mount_names_who_holds_it() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("busy");
    let path = mount.path("held");
    fs::write(&path, "content").expect("write");
    let held = File::open(&path).expect("open");
    let done = mount.node().down_command(&[]).expect("an answer");
    assert_eq!(done.code(), Some(1), "{}{}", done.stdout, done.stderr);
    let pid = std::process::id().to_string();
    let words: Vec<&str> = done.stderr.split(|c: char| !c.is_ascii_digit()).collect();
    assert!(words.contains(&pid.as_str()), "no pid {pid} in: {}", done.stderr);
    // Nothing has changed for those who use it.
    assert_eq!(fs::read_to_string(&path).expect("read"), "content");
    drop(held);
    mount.down();
}

#[test]
fn force_detaches_a_busy_mount() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("force");
    let path = mount.path("held");
    fs::write(&path, "content").expect("write");
    let held = File::open(&path).expect("open");
    let setup = mount.node().setup().clone();
    let done = mount.node().down_command(&["--force"]).expect("an answer");
    assert!(done.success(), "{}{}", done.stdout, done.stderr);
    assert_eq!(mounts::find(&mount.dir()), None);
    mount.node().wait(SIGNAL_LIMIT).expect("an end");
    drop(held);
    mount.forget_ended();
    mount.up(setup);
    assert_eq!(fs::read_to_string(&path).expect("read"), "content");
}

#[test]
fn down_without_a_folder_lists_when_there_are_several() {
    if skip_without(&[]) {
        return;
    }
    let (one, two) = (Mount::new("several-a"), Mount::new("several-b"));
    let done = finish(&mut t3fs(["down"]));
    assert!(!done.success(), "it must not choose: {}{}", done.stdout, done.stderr);
    let said = format!("{}{}", done.stdout, done.stderr);
    for mount in [&one, &two] {
        assert!(said.contains(&*mount.dir().to_string_lossy()), "{said}");
        assert!(mounts::find(&mount.dir()).is_some());
    }
}

#[test]
fn the_mount_of_a_killed_process_is_replaced() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("killed");
    fs::write(mount.path("file"), "content").expect("write");
    File::open(mount.path("file")).and_then(|file| file.sync_all()).expect("fsync");
    let setup = mount.kill();
    let dead = fs::metadata(mount.dir()).expect_err("nobody answers");
    assert_eq!(dead.kind(), ErrorKind::NotConnected);
    let said_before = fs::read_to_string(&setup.log).expect("log").len();
    mount.up(setup);
    assert_eq!(fs::read_to_string(mount.path("file")).expect("read"), "content");
    let said = &mount.node().log()[said_before..];
    let lines = said.lines().filter(|line| line.contains("replaced"));
    assert_eq!(lines.count(), 1, "one line about the replaced mount: {said}");
}

#[test]
fn a_new_disk_is_added_empty() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("added");
    fs::write(mount.path("file"), vec![7; 1 << 20]).expect("write");
    let blocks_before = rustix::fs::statvfs(mount.dir()).expect("statfs").f_blocks;
    mount.down();
    let setup = mount.site.setup(2);
    mount.up(setup);
    assert!(fs::read(mount.path("file")).expect("read") == vec![7; 1 << 20]);
    // Both folders lie on one disk here, which counts once; others use it too.
    let blocks = rustix::fs::statvfs(mount.dir()).expect("statfs").f_blocks;
    assert!(blocks.abs_diff(blocks_before) < blocks_before / 4, "{blocks} after {blocks_before}");
    assert!(fs::read_dir(mount.site.data(1)).expect("a folder").count() > 0, "it is in use");
}

#[test]
fn destroy_deletes_only_what_is_named() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("destroy");
    fs::write(mount.path("file"), "content").expect("write");
    let setup = mount.node().setup().clone();
    let data = mount.site.data(0);
    let destroy = |name: &str| {
        let mut command =
            t3fs(["destroy", "--cluster-id", "destroy", "--yes-really", name, "--data"]);
        finish(command.arg(&data))
    };
    assert!(!destroy("destroy").success(), "not while it is mounted");
    assert_eq!(fs::read_to_string(mount.path("file")).expect("read"), "content");
    mount.down();
    assert!(!destroy("another").success(), "not under another name");
    mount.up(setup.clone());
    assert_eq!(fs::read_to_string(mount.path("file")).expect("read"), "content");
    mount.down();
    let done = destroy("destroy");
    assert!(done.success(), "{}{}", done.stdout, done.stderr);
    let left = fs::read_dir(&data).map_or(0, Iterator::count);
    assert_eq!(left, 0, "everything is deleted");
    mount.up(setup);
    let empty =
        poll_until(Duration::ZERO, || fs::read_dir(mount.dir()).is_ok_and(|d| d.count() == 0));
    assert!(empty, "a new file system is empty");
}
