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
    skip_without, skip_without_root, t3fs,
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
    assert_refused(&mut mount("data=journal"), &["data=journal", "cluster_id"]);

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

/// What `mount -t t3fs`, lines of fstab and `mount -o remount` do, as beside any other file system.
/// In a mount namespace of its own, whose /sbin has the two links.
const WITH_MOUNT8: &str = r#"
cd "$WORK"; export PATH=/usr/bin:/bin
trap '"$NODE" down --force "$DIR" 2>&1' EXIT
say() { echo "== $*"; }
options() { findmnt -no SOURCE,FSTYPE,OPTIONS "$DIR"; }
sbin=$(readlink -f /sbin); mkdir -p links
ln -s "$NODE" links/mount.t3fs; ln -s "$NODE" links/mount.fuse.t3fs
mount -t overlay links -o "lowerdir=$WORK/links:$sbin" "$sbin"
mount -t t3fs "$AT" "$DIR" -o "ro,noexec,nodev,hard,$SETTINGS"
say first; options
touch "$DIR/file" || say is read only
mount -o remount,rw "$DIR"
say writable; options
cp /usr/bin/true "$DIR/true"
"$DIR/true" || say does not run
mount -o remount,ro "$DIR"
touch "$DIR/file" || say is read only again
umount "$DIR"
while "$NODE" down "$DIR" 2>/dev/null; do sleep 0.1; done
until flock -n state8/lock true; do sleep 0.1; done
echo "$AT $DIR t3fs rw,noatime,nofail,_netdev,x-foo,user,exec,$SETTINGS 0 0" > fstab
mount -T fstab "$DIR"
say from fstab; options
"$DIR/true" && say runs
mount -T fstab -o remount,ro "$DIR"
say anew; options
mount -o remount,rw "$DIR" -o data=journal || say refused
"$NODE" down "$DIR"
trap - EXIT
"#;

#[test]
fn mount8_and_fstab_have_their_options() {
    if skip_without_root() || skip_without(&["unshare", "mount", "findmnt", "flock"]) {
        return;
    }
    let mut open = Open::new("mount8");
    let dir = open.place("one");
    let work = dir.parent().expect("a folder").to_owned();
    let port = open.address.rsplit_once(':').expect("a port").1.to_owned();
    let settings = format!(
        "cluster_id=mount8,secret_file={},state={}",
        open.secret().display(),
        work.join("state8").display()
    );
    let mut script = Command::new("unshare");
    script.args(["--mount", "bash", "-euo", "pipefail", "-c", WITH_MOUNT8]);
    // By name: one of its addresses is where the cluster listens.
    script.env("AT", format!("TCP://localhost:{port}")).env("SETTINGS", settings);
    script.env("NODE", binary()).env("DIR", &dir).env("WORK", &work);
    let said = run(&mut script);
    let part = |name: &str| {
        let from = said.split_once(&format!("== {name}\n")).unwrap_or_else(|| panic!("{said}")).1;
        from.split("== ").next().expect("a part").to_owned()
    };
    for (name, has, lacks) in [
        ("first", "hf3fs.mount8 fuse.t3fs ro,nodev,noexec,relatime", "suid"),
        ("writable", "hf3fs.mount8 fuse.t3fs rw,nodev,noexec,relatime", "suid"),
        ("from fstab", "fuse.t3fs rw,nosuid,nodev,noatime", "noexec"),
        ("anew", "fuse.t3fs ro,nosuid,nodev,noatime", "noexec"),
    ] {
        let part = part(name);
        assert!(part.contains(has) && !part.replace(has, "").contains(lacks), "{name}: {said}");
    }
    for name in ["is read only", "does not run", "is read only again", "runs", "refused"] {
        part(name);
    }
}

/// `mount --detach` towards nobody ends by itself, and at once when its command is interrupted; the
/// next mount of the folder is as the first. It says who did not answer, by the name it was given.
#[test]
fn a_mount_that_finds_nobody_leaves_nothing_behind() {
    if skip_without(&[]) {
        return;
    }
    let mut open = Open::new("nobody");
    let dir = open.place("one");
    let right = std::mem::replace(&mut open.address, "TCP://no-such-host.invalid:8000".into());
    let done = finish(&mut open.mount(&dir));
    assert_eq!(done.code(), Some(1), "{}{}", done.stdout, done.stderr);
    assert!(done.stderr.contains("no-such-host.invalid"), "{}", done.stderr);
    assert!(mounts::find(&dir).is_none());

    let lock = open.cluster.site.path("one.state").join("lock");
    let before = fs::read_to_string(&lock).expect("the last process's number");
    let log = open.cluster.site.path("interrupted.log");
    let mut command = Process::start(open.mount(&dir), &log).expect("mount");
    let background = || fs::read_to_string(&lock).expect("a number");
    command::poll_until(COMMAND_LIMIT, || background() != before && !background().is_empty());
    let pid = background().trim().to_owned();
    command.kill().expect("kill");
    let is_there = || Path::new("/proc").join(&pid).exists();
    command::poll_until(Duration::from_secs(20), || !is_there());
    assert!(!is_there(), "process {pid} goes on without its command");

    open.address = right;
    run(&mut open.mount(&dir));
    fs::write(dir.join("file"), "content").expect("write");
    run(t3fs(["down"]).arg(&dir));
}

/// With the store gone everything waited in silence. Method: a store of its own process, killed
/// under a mount; another process asks it and says so, and that it is back.
#[test]
fn a_store_that_is_gone_is_named_at_once_and_when_it_is_back() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("gone");
    let _watchdog = Watchdog::start(site.mount_point());
    let port = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let (kv, at) = (port().port(), port());
    let command = |args: &[&str]| {
        let mut command = t3fs(args);
        command.env("T3FS_SECRET", "0123456789abcdef").env("T3FS_CLUSTER_ID", "gone");
        command.env("T3FS_CLUSTER", at.to_string());
        command.env("T3FS_KV", format!("t3fs-kv://localhost:{kv}"));
        command
    };
    let serve = |roles: &str, id: &str, listen: &str| {
        let mut command = command(&["--roles", roles, "--node-id", id, "--listen", listen]);
        command.arg("--state").arg(site.path(&format!("state{id}")));
        let mut process =
            Process::start(command, &site.path(&format!("log{id}"))).expect("t3fs-node");
        process.wait_for("serves cluster", COMMAND_LIMIT).expect("it serves");
        process
    };
    let store = || serve("kv", "9", &format!("127.0.0.1:{kv}"));
    let mut first = store();
    let mut server = serve("mgmtd,meta,storage", "1", &at.to_string());
    run(&mut command(&["make-chains", "--replicas", "1"]));
    let mut mount = command(&["mount", "--detach"]);
    mount.arg(site.mount_point()).arg("--state").arg(site.path("mount.state"));
    run(&mut mount);
    let file = site.mount_point().join("file");
    fs::write(&file, "content").expect("write");
    fs::File::open(&file).and_then(|f| f.sync_all()).expect("fsync");

    first.kill().expect("kill");
    let began = Instant::now();
    let waits = thread::spawn({
        let file = site.mount_point().join("new");
        move || fs::write(file, "waits")
    });
    server.wait_for("does not answer; what needs it waits", COMMAND_LIMIT).expect("a warning");
    let (after, log) = (began.elapsed(), server.log());
    assert!(after < Duration::from_secs(5), "said after {after:?}");
    let line = log.lines().find(|l| l.contains("does not answer; what")).expect("the line");
    assert!(line.contains("WARN") && line.contains("kv at TCP://127.0.0.1"), "{line}");
    let _second = store();
    server.wait_for("answers again", COMMAND_LIMIT).expect("it is said too");
    waits.join().expect("no panic").expect("the operation went on");
    assert_eq!(log.matches("does not answer; what needs it waits").count(), 1, "{log}");
    let said = run(t3fs(["check"]).arg(site.path("state1")));
    assert!(said.contains("namespace: 2 files"), "{said}");
    run(t3fs(["down"]).arg(site.mount_point()));
}

/// Positions shifted when entries before them were removed. Method: telldir and seekdir as the
/// kernel sees them, in a directory that needs several replies.
#[test]
fn a_position_of_a_directory_stays_when_entries_go() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("seekdir");
    let dir = mount.path("dir");
    fs::create_dir(&dir).expect("mkdir");
    for i in 0..2000 {
        fs::write(dir.join(format!("f{i:04}")), "").expect("write");
    }
    let opened = fs::File::open(&dir).expect("open");
    let mut listing = rustix::fs::Dir::read_from(&opened).expect("a listing");
    let mut given = Vec::new();
    while let Some(entry) = listing.read() {
        let entry = entry.expect("an entry");
        given.push((entry.file_name().to_string_lossy().into_owned(), entry.offset()));
    }
    given.retain(|(name, _)| !name.starts_with('.'));
    assert_eq!(given.len(), 2000);
    for (name, _) in &given[..1500] {
        fs::remove_file(dir.join(name)).expect("remove");
    }
    for at in [3, 700, 1498, 1499, 1600] {
        listing.seek(given[at].1).expect("seek");
        let entry = listing.read().expect("not at the end").expect("an entry");
        let want = &given[(at + 1).max(1500)].0;
        assert_eq!(entry.file_name().to_string_lossy(), *want, "behind {at}");
    }
    listing.rewind();
    assert_eq!(listing.count(), 2 + 500, "from the beginning it is read anew");
    drop(opened);
    mount.down();
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
    let said = run(t3fs(["check"]).arg(site.path("state")));
    assert!(said.contains("namespace: 1 files"), "{said}");
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
