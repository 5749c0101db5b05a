//! Goal: `t3fs-node mount` is a process of its own: several at once, found by `down`, replaced
//! after a kill, refused with a sentence. Method: a cluster of one process that listens, and mounts
//! of it by command and by the helper of mount(8).

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use t3fs_ops::process::Process;
use t3fs_ops::{command, mounts};

use crate::harness::{
    COMMAND_LIMIT, Mount, Site, Watchdog, assert_refused, binary, detach, finish, run,
    skip_without, t3fs,
};

/// A cluster that others can mount.
struct Open {
    cluster: Mount,
    address: String,
    others: Vec<(PathBuf, Watchdog)>,
}

impl Drop for Open {
    fn drop(&mut self) {
        for (dir, _) in &self.others {
            if mounts::find(dir).is_some() {
                // Whatever it says: what stays mounted is taken away below.
                let _ = command::finish(t3fs(["down", "--force"]).arg(dir), COMMAND_LIMIT);
            }
            detach(dir);
        }
    }
}

impl Open {
    fn new(name: &str) -> Open {
        let site = Site::new(name);
        let setup = site.setup(1).arg("--listen").arg("127.0.0.1:0");
        let mut cluster = Mount::with(site, setup);
        let log = cluster.node().log();
        let at = log.split_once(" at TCP://").expect("it says where it listens").1;
        let address = format!("TCP://{}", at.split_whitespace().next().expect("an address"));
        Open { cluster, address, others: Vec::new() }
    }

    fn secret(&self) -> PathBuf {
        self.cluster.site.data(0).join("secret")
    }

    fn place(&mut self, name: &str) -> PathBuf {
        let dir = self.cluster.site.path(name);
        fs::create_dir(&dir).expect("a mount point");
        self.others.push((dir.clone(), Watchdog::start(dir.clone())));
        dir
    }

    /// `mount DIR --detach`.
    fn mount(&self, dir: &Path) -> Command {
        let mut mount = t3fs(["mount"]);
        mount.arg(dir).args(["--cluster", &self.address, "--detach"]);
        mount.args(["--cluster-id", &self.cluster.site.name]);
        mount.arg("--secret-file").arg(self.secret());
        let name = dir.file_name().expect("a name").to_string_lossy().into_owned();
        mount.arg("--state").arg(self.cluster.site.path(&format!("{name}.state")));
        mount
    }
}

#[test]
fn several_mounts_see_the_same_and_end_alone() {
    if skip_without(&[]) {
        return;
    }
    let mut open = Open::new("several");
    let (one, two) = (open.place("one"), open.place("two"));
    run(&mut open.mount(&one));
    run(&mut open.mount(&two));
    fs::write(one.join("file"), "from one").expect("write");
    assert_eq!(fs::read_to_string(two.join("file")).expect("read"), "from one");
    assert_eq!(fs::read_to_string(open.cluster.path("file")).expect("read"), "from one");
    assert_refused(&mut open.mount(&one), &["one", "t3fs-node down"]);
    run(t3fs(["down"]).arg(&one));
    assert!(mounts::find(&one).is_none());
    fs::write(two.join("file"), "from two").expect("the other goes on");
    run(t3fs(["check"]).arg(&two));
    run(t3fs(["down"]).arg(&two));
    assert_eq!(fs::read_to_string(open.cluster.path("file")).expect("read"), "from two");
}

#[test]
fn the_mount_of_a_killed_process_is_replaced_by_the_next() {
    if skip_without(&[]) {
        return;
    }
    let mut open = Open::new("killedmount");
    let dir = open.place("one");
    run(&mut open.mount(&dir));
    fs::write(dir.join("file"), "content").expect("write");
    fs::File::open(dir.join("file")).and_then(|f| f.sync_all()).expect("fsync");
    let lock = open.cluster.site.path("one.state").join("lock");
    let pid = fs::read_to_string(lock).expect("the process's number");
    run(Command::new("kill").args(["-9", pid.trim()]));
    let said = run(&mut open.mount(&dir));
    assert!(said.contains("replaced the mount that a killed process left"), "{said}");
    assert_eq!(fs::read_to_string(dir.join("file")).expect("read"), "content");
}

/// A mount without its cluster waits for a flush that may still succeed; who signals again does not
/// want to.
#[test]
fn a_second_signal_ends_a_mount_whose_cluster_is_gone() {
    if skip_without(&[]) {
        return;
    }
    let mut open = Open::new("hurried");
    let dir = open.place("one");
    let mut mount = open.mount(&dir);
    // Several shards: none of them waits for another.
    mount.args(["--shards", "3"]);
    run(&mut mount);
    fs::write(dir.join("file"), "content").expect("write");
    let lock = open.cluster.site.path("one.state").join("lock");
    let pid = fs::read_to_string(lock).expect("the process's number").trim().to_owned();
    let is_there = || Path::new("/proc").join(&pid).exists();
    open.cluster.kill();

    let began = Instant::now();
    run(Command::new("kill").args(["-TERM", &pid]));
    thread::sleep(Duration::from_secs(2));
    assert!(is_there(), "it does not give up what was written at once");
    run(Command::new("kill").args(["-TERM", &pid]));
    command::poll_until(Duration::from_secs(40), || !is_there());
    assert!(!is_there(), "process {pid} is still there after {:?}", began.elapsed());
    assert!(mounts::find(&dir).is_none());
}

#[test]
fn mount_finds_the_helper_and_strangers_are_told_why() {
    if skip_without(&[]) {
        return;
    }
    let mut open = Open::new("helper");
    let dir = open.place("one");
    let helper = open.cluster.site.path("mount.t3fs");
    symlink(binary(), &helper).expect("a link");
    let secret = open.secret();
    let state = open.cluster.site.path("one.state");
    let options = format!(
        "rw,_netdev,cluster_id=helper,secret_file={},state={}",
        secret.display(),
        state.display()
    );
    let mount = |options: &str| {
        let mut mount = Command::new(&helper);
        mount.arg(&open.address).arg(&dir).args(["-o", options]);
        mount
    };
    run(&mut mount(&options));
    fs::write(dir.join("file"), "content").expect("write");
    run(t3fs(["down"]).arg(&dir));
    assert_refused(&mut mount("ro"), &["ro", "cluster_id"]);

    let wrong = open.cluster.site.path("wrong");
    fs::write(&wrong, "a secret that is not the cluster's").expect("write");
    run(Command::new("chmod").arg("600").arg(&wrong));
    let mut stranger = t3fs(["mount"]);
    stranger.arg(&dir).args(["--cluster", &open.address, "--cluster-id", "helper"]);
    stranger.arg("--state").arg(&state).arg("--secret-file").arg(&wrong);
    let done = finish(&mut stranger);
    assert_eq!(done.code(), Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("wrong cluster secret"), "{}", done.stderr);
    assert!(mounts::find(&dir).is_none());
    run(Command::new("chmod").arg("644").arg(&wrong));
    assert_refused(&mut stranger, &["chmod 600"]);
}

#[test]
fn all_servers_fit_into_one_process() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("combined");
    let watchdog = Watchdog::start(site.mount_point());
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let address = format!("TCP://{port}");
    let with_env = |args: &[&str]| {
        let mut command = t3fs(args);
        command.env("T3FS_SECRET", "0123456789abcdef").env("T3FS_CLUSTER_ID", "combined");
        command.env("T3FS_CLUSTER", &address);
        command
    };
    let serve = || {
        let mut command = with_env(&["--roles", "storage,kv,meta,mgmtd", "--node-id", "5"]);
        command.args(["--listen", &port.to_string()]).arg("--state").arg(site.path("state"));
        let mut process = Process::start(command, &site.path("log")).expect("t3fs-node");
        process.wait_for("serves cluster", COMMAND_LIMIT).expect("it serves");
        process
    };
    let mount = || {
        let mut mount = with_env(&["mount", "--detach"]);
        mount.arg(site.mount_point()).arg("--state").arg(site.path("mount.state"));
        run(&mut mount);
    };
    let file = site.mount_point().join("file");

    let mut server = serve();
    run(&mut with_env(&["make-chains", "--replicas", "1"]));
    let again = run(&mut with_env(&["make-chains"]));
    assert!(again.contains("no room for more"), "{again}");
    mount();
    fs::write(&file, "content").expect("write");
    run(t3fs(["down"]).arg(site.mount_point()));
    server.signal(Signal::TERM);
    let ended = server.wait(COMMAND_LIMIT).expect("it ends");
    assert!(ended.success(), "{ended}: {}", server.log());

    let _server = serve();
    mount();
    assert_eq!(fs::read_to_string(&file).expect("read"), "content");
    run(t3fs(["check"]).arg(site.mount_point()));
    run(t3fs(["down"]).arg(site.mount_point()));
    drop(watchdog);
}

#[test]
fn what_is_missing_is_named() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("missing");
    let run = |args: &[&str]| {
        let mut command = t3fs(args);
        command.env("T3FS_SECRET", "0123456789abcdef");
        command.arg("--state").arg(site.path("state"));
        command
    };
    assert_refused(&mut run(&["run"]), &["--roles"]);
    assert_refused(&mut run(&["--roles", "monitor"]), &["monitor"]);
    assert_refused(&mut run(&["--roles", "meta", "--node-id", "1"]), &["kv is not set"]);
    assert_refused(&mut run(&["--roles", "storage", "--node-id", "1"]), &["--cluster TCP://"]);
    assert_refused(&mut run(&["--roles", "kv", "--cluster", "127.0.0.1"]), &["--node-id"]);
    let far = ["--roles", "kv", "--node-id", "1", "--cluster", "10.0.0.1"];
    assert_refused(&mut run(&far), &["127.0.0.1:8003", "10.0.0.1:8000", "--listen"]);
    let second = ["--roles", "kv,mgmtd", "--node-id", "1", "--kv", "t3fs-kv://127.0.0.1:8003"];
    assert_refused(&mut run(&second), &["role kv", "127.0.0.1:8000", "127.0.0.1:8003"]);
    assert_refused(&mut run(&["--roles", "client", "--cluster", "10.0.0.1"]), &["--mount"]);
    let mut bare = t3fs(["--roles", "kv", "--node-id", "1", "--cluster", "10.0.0.1"]);
    assert_refused(&mut bare, &["T3FS_SECRET", "openssl"]);
    assert!(!site.path("state").exists(), "nothing is made");
}
