//! Goal: wrong input is refused with one clear line, an exit status, and nothing touched. Method:
//! each wrong input of the issue, and what is on disk and mounted afterwards.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use t3fs_ops::mounts;
use t3fs_ops::node::{Node, Setup};
use t3fs_ops::process::Process;

use crate::harness::{
    COMMAND_LIMIT, Mount, Site, Watchdog, assert_refused, binary, built, finish, run, skip_without,
    skip_without_root, t3fs,
};

/// Names and sizes of all files below `dir`.
fn listing(dir: &Path) -> String {
    run(Command::new("find").arg(dir).args(["-printf", "%P %s\n"]))
}

#[test]
fn a_mount_point_that_is_no_folder() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("nofolder");
    let file = site.path("file");
    fs::write(&file, "content").expect("write");
    let data = site.data(0);
    assert_refused(t3fs(["up"]).arg(&file).arg("--data").arg(&data), &[&file.to_string_lossy()]);
    assert_eq!(fs::read_to_string(&file).expect("read"), "content");
    assert!(!data.exists(), "nothing is made");
}

/// A mount would hide what is in the folder, be it the clone that the command was started from.
#[test]
fn a_mount_point_with_something_in_it() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("filled");
    let (data, filled) = (site.data(0), site.path("filled"));
    fs::create_dir(&filled).expect("mkdir");
    fs::write(filled.join("mine"), "content").expect("write");
    let up = |dir: &Path, data: &Path| {
        let mut up = t3fs(["up"]);
        up.arg(dir).arg("--data").arg(data);
        up
    };
    assert_refused(&mut up(&filled, &data), &["not empty", "mine"]);
    let mut mount = t3fs(["mount", "--cluster", "127.0.0.1:1"]);
    mount.arg(&filled).env("T3FS_SECRET", "0123456789abcdef");
    mount.arg("--state").arg(site.path("state"));
    assert_refused(&mut mount, &["not empty", "mine"]);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let far = elsewhere.path().join("data");
    assert_refused(&mut up(sources, &far), &["sources of t3fs"]);
    assert_refused(&mut up(&sources.join("nodes/none"), &far), &["sources of t3fs"]);
    assert!(!sources.join("nodes/none").exists(), "nothing is made");
    let mut inside = t3fs(["mount", "--cluster", "127.0.0.1:1"]);
    inside.arg(site.mount_point()).env("T3FS_SECRET", "0123456789abcdef");
    inside.arg("--state").arg(site.mount_point().join("state"));
    assert_refused(&mut inside, &["--state"]);
    assert!(!data.exists() && !far.exists() && !site.path("state").exists(), "nothing is made");
}

#[test]
fn data_below_the_mount_point() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("below");
    let data = site.mount_point().join("data");
    assert_refused(t3fs(["up"]).arg(site.mount_point()).arg("--data").arg(&data), &["--data"]);
    assert_eq!(listing(&site.mount_point()).lines().count(), 1, "nothing is made");
}

#[test]
fn data_of_another_cluster() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("mine");
    mount.down();
    let before = listing(&mount.site.data(0));
    let mut up = t3fs(["up", "--cluster-id", "yours"]);
    up.arg(mount.dir()).arg("--data").arg(mount.site.data(0));
    assert_refused(&mut up, &["mine", "yours"]);
    assert_eq!(listing(&mount.site.data(0)), before);
}

#[test]
fn data_that_is_in_use() {
    if skip_without(&[]) {
        return;
    }
    let mount = Mount::new("inuse");
    let other = mount.site.path("other");
    fs::create_dir(&other).expect("mkdir");
    let mut up = t3fs(["up", "--cluster-id", "inuse"]);
    up.arg(&other).arg("--data").arg(mount.site.data(0));
    assert_refused(&mut up, &[&mount.site.data(0).to_string_lossy()]);
    fs::write(mount.path("file"), "content").expect("the first one still works");
}

#[test]
fn more_replicas_than_disks_or_another_number_later() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("number");
    let few = site.setup(2).arg("--replicas").arg("3");
    assert_refused(&mut t3fs(&few.args), &["--replicas", "3", "2"]);
    assert_eq!(listing(&site.data(0)).lines().count(), 1, "nothing is made");
    let setup = site.setup(2).arg("--replicas").arg("2");
    let mut mount = Mount::with(site, setup.clone());
    mount.down();
    let other = mount.site.setup(2).arg("--replicas").arg("1");
    assert_refused(&mut t3fs(&other.args), &["replicas", "1", "2"]);
    mount.up(setup);
}

#[test]
fn a_mount_point_that_others_use() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("foreign");
    let _watchdog = Watchdog::start(site.mount_point());
    let nullfs = built("nullfs");
    let log = site.path("null.log");
    let mut other = Node::start(Setup::nullfs(&nullfs, &site.mount_point(), &log)).expect("nullfs");
    let setup = site.setup(1);
    assert_refused(&mut t3fs(&setup.args), &["umount", &site.mount_point().to_string_lossy()]);
    // Dead, but not ours either.
    other.kill().expect("kill");
    assert_refused(&mut t3fs(&setup.args), &["umount", &site.mount_point().to_string_lossy()]);
    let found = mounts::find(&site.mount_point());
    assert_eq!(found.expect("it is left alone").source, "hf3fs.null");
}

#[test]
fn a_configuration_with_an_unknown_key() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("config");
    let config = site.path("t3fs.toml");
    fs::write(&config, "no_such_key = 1\n").expect("write");
    let setup = site.setup(1).arg("--config").arg(&config);
    assert_refused(&mut t3fs(&setup.args), &["no_such_key", &config.to_string_lossy()]);
    assert_eq!(listing(&site.data(0)).lines().count(), 1, "nothing is made");
    let setup = site.setup(1).arg("--config").arg(site.path("absent.toml"));
    assert_refused(&mut t3fs(&setup.args), &["absent.toml"]);
}

/// Regression (a newcomer): `--data d1,d2` made a new cluster in a folder of that name.
#[test]
fn several_data_folders_in_one_word() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("oneword");
    for word in ["d1,d2", "d1:d2"] {
        let mut up = t3fs(["up"]);
        up.arg(site.mount_point()).arg("--data").arg(site.path(word));
        assert_refused(&mut up, &["--data A --data B", "T3FS_DATA=A:B", word]);
        assert!(!site.path(word).exists(), "nothing is made");
    }
    let mut up = t3fs(["up"]);
    up.arg(site.mount_point()).args(["--data", "/proc/t3fs"]);
    assert_refused(&mut up, &["keeps no files"]);
}

/// Goal: whoever wrote a wrong value is told where, and the log is not silenced by a wrong word.
#[test]
fn a_wrong_value_is_told_with_its_place() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("places");
    let config = site.path("c.toml");
    fs::write(&config, "# seconds\nio_timeout = \"30s\"\n").expect("write");
    let seconds = "\"30s\", and must be a number of seconds, 1 to 604800";
    let from_file = site.setup(1).arg("--config").arg(&config);
    let said = format!("c.toml:2: io_timeout is {seconds}");
    assert_refused(&mut t3fs(&from_file.args), &[&said]);
    let setup = site.setup(1);
    let said = format!("T3FS_IO_TIMEOUT is {seconds}");
    assert_refused(t3fs(&setup.args).env("T3FS_IO_TIMEOUT", "30s"), &[&said]);
    let setup = site.setup(1).arg("--io-timeout").arg("30s");
    assert_refused(&mut t3fs(&setup.args), &[&format!("--io-timeout is {seconds}")]);
    let setup = site.setup(1).arg("--log").arg("inf");
    assert_refused(&mut t3fs(&setup.args), &["--log is \"inf\"", "did you mean info?"]);
    assert_eq!(listing(&site.data(0)).lines().count(), 1, "nothing is made");
}

/// Goal: a server without a mount is a place that commands know, by any of its folders; a mount
/// says at once what it waits for, and one that has only read ends without its cluster.
#[test]
fn a_server_is_named_by_its_folders() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("byfolder");
    let _watchdog = Watchdog::start(site.mount_point());
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let (state, disk) = (site.path("state"), site.path("disk"));
    let with_env = |args: &[&str]| {
        let mut command = t3fs(args);
        command.env("T3FS_SECRET", "0123456789abcdef").env("T3FS_CLUSTER_ID", "byfolder");
        command.env("T3FS_CLUSTER", format!("TCP://{port}"));
        command
    };
    let server = |state: &Path| {
        let mut command = with_env(&["--roles", "storage,kv,meta,mgmtd", "--node-id", "5"]);
        command.args(["--listen", &port.to_string()]).arg("--state").arg(state);
        command
    };
    let start = || {
        let mut command = server(&state);
        command.arg("--data").arg(&disk);
        let mut process = Process::start(command, &site.path("log")).expect("t3fs-node");
        process.wait_for("serves cluster", COMMAND_LIMIT).expect("it serves");
        process
    };
    let mut first = start();
    let log = first.log();
    assert!(log.contains("secret = (not shown) (T3FS_SECRET)"), "{log}");
    assert!(log.contains("node_id = 5 (--node-id)"), "{log}");
    let hint = format!("state folder {0} is in use", state.display());
    let end = format!("t3fs-node down {}", state.display());
    assert_refused(&mut server(&state), &[&hint, &end]);
    let done = finish(&mut server(&site.path("other")));
    assert!(!done.success() && done.stderr.contains("--listen"), "{}", done.stderr);

    let set = |args: &[&str]| run(t3fs(["set"]).args(args).arg("--of").arg(&state));
    let held = set(&[]);
    for line in ["io_timeout is 600 (default); only", "hard is false (default)", "log is not set"] {
        assert!(held.contains(line), "{held}");
    }
    let said = set(&["hard=yes"]);
    assert!(said.starts_with("hard is true; only processes with a mount"), "{said}");
    assert!(set(&[]).contains("hard is true (set while running)"));

    let mut mount = with_env(&["mount"]);
    mount.arg(site.mount_point()).arg("--state").arg(site.path("mount.state"));
    let mut mount = Process::start(mount, &site.path("mount.log")).expect("t3fs-node");
    mount.wait_for("run `t3fs-node make-chains`", Duration::from_secs(15)).expect("said at once");
    run(&mut with_env(&["make-chains", "--replicas", "1"]));
    mount.wait_for("mounted hf3fs", COMMAND_LIMIT).expect("it mounts");
    assert!(!mount.log().contains("(0 B free)"), "{}", mount.log());
    assert_eq!(fs::read_dir(site.mount_point()).expect("a listing").count(), 0);

    run(t3fs(["down"]).arg(&disk));
    let ended = first.wait(COMMAND_LIMIT).expect("it ends");
    assert!(ended.success(), "{ended}: {}", first.log());
    let said = run(t3fs(["down"]).arg(site.mount_point()));
    assert!(said.contains("is unmounted"), "{said}");
    let ended = mount.wait(COMMAND_LIMIT).expect("it ends");
    assert!(ended.success() && !mount.log().contains("not everything"), "{}", mount.log());
}

#[test]
fn words_that_mean_nothing() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("words");
    for args in [&["up"][..], &["up", "DIR", "--no-such-option"], &["no-such-command"]] {
        let done = finish(&mut t3fs(args));
        assert_eq!(done.code(), Some(2), "{args:?}: {}{}", done.stdout, done.stderr);
    }
    for value in ["0", "-1", "many"] {
        let setup = site.setup(1).arg("--replicas").arg(value);
        let done = finish(&mut t3fs(&setup.args));
        assert!(!done.success(), "--replicas {value}");
    }
    let done = finish(t3fs(["down"]).arg(site.mount_point()));
    assert!(!done.success(), "nothing is mounted there");
}

#[test]
fn a_machine_without_fuse() {
    if skip_without_root() || skip_without(&["unshare"]) {
        return;
    }
    let site = Site::new("nofuse");
    let setup = site.setup(1);
    // In a mount namespace of its own, /dev holds nothing.
    let mut up = Command::new("unshare");
    up.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"]);
    up.arg(binary()).args(&setup.args);
    assert_refused(&mut up, &["/dev/fuse"]);
}
