//! What every test uses: a file system of its own, programs with a time limit, a watchdog.
//!
//! A hung FUSE mount blocks whoever touches it, unkillably. So each file system has a watchdog with
//! a limit for the whole test; when it fires, the connection is cut off, every blocked call returns
//! an error, and the test fails in the ordinary way.

use std::env;
use std::ffi::{CString, OsStr};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use t3fs_ops::command::{self, Finished};
use t3fs_ops::mounts;
use t3fs_ops::node::{Node, Setup};
use t3fs_ops::process::Process;

/// A test that takes longer is stuck. A night works on whole trees.
pub fn test_limit() -> Duration {
    Duration::from_secs(if is_nightly() { 2400 } else { 600 })
}

/// For one program, such as `diff` or `git`.
pub fn program_limit() -> Duration {
    test_limit() / 2
}

/// For commands of t3fs-node that refuse or answer at once.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);

pub fn is_nightly() -> bool {
    env::var_os("T3FS_NIGHTLY").is_some()
}

/// True, and loud, if this test cannot run here. Never quietly: in CI a missing part is a failure.
pub fn skip_without(tools: &[&str]) -> bool {
    let missing: Vec<&str> =
        tools.iter().copied().filter(|tool| !command::is_installed(tool)).collect();
    let mut reasons: Vec<String> = missing.iter().map(|tool| format!("no {tool}")).collect();
    if !Path::new("/dev/fuse").exists() {
        reasons.push("no /dev/fuse".into());
    }
    if reasons.is_empty() {
        return false;
    }
    let reasons = reasons.join(", ");
    let name = thread::current().name().unwrap_or("a test").to_owned();
    assert!(env::var("CI").as_deref() != Ok("true"), "{name} cannot run: {reasons}");
    eprintln!("\n******** SKIPPED {name}: {reasons} ********\n");
    true
}

/// Like `skip_without`, for tests that mount, unmount or limit things themselves.
pub fn skip_without_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return skip_without(&[]);
    }
    eprintln!("\n******** SKIPPED: needs root ********\n");
    true
}

/// Like `skip_without`, for tests that need several hosts.
pub fn skip_without_hosts(tools: &[&str]) -> bool {
    let Some(reason) = t3fs_ops::hosts::missing() else {
        return skip_without(tools);
    };
    let name = thread::current().name().unwrap_or("a test").to_owned();
    assert!(env::var("CI").as_deref() != Ok("true"), "{name} cannot run: {reason}");
    eprintln!("\n******** SKIPPED {name}: {reason} ********\n");
    true
}

/// The product under test.
pub fn binary() -> PathBuf {
    if let Some(binary) = env::var_os("T3FS_NODE") {
        return binary.into();
    }
    built("t3fs-node")
}

/// A program of the workspace that was built beside the tests.
pub fn built(name: &str) -> PathBuf {
    let test = env::current_exe().expect("our own path");
    // target/ci/deps/e2e-1234 -> target/ci/t3fs-node
    let profile = test.ancestors().nth(2).expect("cargo's target folder");
    let binary = profile.join(name);
    assert!(binary.exists(), "no {}: build the workspace first", binary.display());
    binary
}

/// The tests of the transport that hold for every link, as a program. From the variable
/// T3FS_CONFORMANCE, else the one that was built last beside this one.
pub fn conformance() -> PathBuf {
    if let Some(binary) = env::var_os("T3FS_CONFORMANCE") {
        return binary.into();
    }
    let test = env::current_exe().expect("our own path");
    let built = fs::read_dir(test.parent().expect("a folder")).expect("what was built");
    let programs = built.flatten().map(|file| file.path()).filter(|path| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.starts_with("conformance-") && !name.contains('.')
    });
    let age = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
    programs.max_by_key(age).expect("the conformance suite: build the workspace's tests first")
}

/// Folders for one file system: mount point, data, log. Removed when dropped.
pub struct Site {
    // Dropped in this order.
    disks: Vec<SmallDisk>,
    dir: tempfile::TempDir,
    /// Also the cluster's name.
    pub name: String,
}

impl Drop for Site {
    /// A test that ended between `kill` and `up` leaves a dead mount to us, and a command that
    /// should have refused may leave a live one. Nothing may be removed through it.
    fn drop(&mut self) {
        detach(&self.mount_point());
    }
}

impl Site {
    /// Below cargo's target folder: on a disk, which /tmp may not be.
    pub fn new(name: &str) -> Site {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(base).expect("cargo's folder for tests");
        let base = base.canonicalize().expect("cargo's folder for tests");
        let prefix = format!("{name}.");
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(base).expect("a folder");
        let site = Site { disks: Vec::new(), dir, name: name.to_owned() };
        fs::create_dir(site.mount_point()).expect("a mount point");
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn mount_point(&self) -> PathBuf {
        self.path("mnt")
    }

    pub fn data(&self, number: usize) -> PathBuf {
        self.path(&format!("data{number}"))
    }

    /// Makes data folder `number` a disk of its own, in memory, of `mib` MiB. Needs root.
    pub fn small_disk(&mut self, number: usize, mib: usize) {
        let dir = self.data(number);
        fs::create_dir_all(&dir).expect("a data folder");
        let size = CString::new(format!("size={mib}m")).expect("no zeros");
        let flags = MountFlags::empty();
        mount("t3fs-test", &dir, "tmpfs", flags, size.as_c_str()).expect("a disk in memory");
        self.disks.push(SmallDisk(dir));
    }

    /// `up` with this many data folders.
    pub fn setup(&self, disks: usize) -> Setup {
        let data: Vec<PathBuf> = (0..disks).map(|number| self.data(number)).collect();
        for dir in &data {
            fs::create_dir_all(dir).expect("a data folder");
        }
        Setup::t3fs(&binary(), &self.mount_point(), &data, &self.path("log"))
            .arg("--cluster-id")
            .arg(&self.name)
    }
}

struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(err) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("umount {}: {err}", self.0.display());
        }
    }
}

/// A mounted file system with everything that belongs to it. Dropping it ends and removes all.
pub struct Mount {
    // Dropped in this order.
    node: Option<Node>,
    _watchdog: Watchdog,
    pub site: Site,
}

impl Mount {
    /// One disk, one replica.
    pub fn new(name: &str) -> Mount {
        let site = Site::new(name);
        let setup = site.setup(1);
        Mount::with(site, setup)
    }

    pub fn with(site: Site, setup: Setup) -> Mount {
        let watchdog = Watchdog::start(site.mount_point());
        let node = Node::start(setup).expect("t3fs-node up");
        Mount { node: Some(node), _watchdog: watchdog, site }
    }

    pub fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("a running node")
    }

    pub fn dir(&self) -> PathBuf {
        self.site.mount_point()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// `down`, which must succeed.
    pub fn down(&mut self) {
        self.node.take().expect("a running node").down().expect("t3fs-node down");
    }

    /// `up` again after `down` or `kill`.
    pub fn up(&mut self, setup: Setup) {
        assert!(self.node.is_none(), "still up");
        self.node = Some(Node::start(setup).expect("t3fs-node up"));
    }

    pub fn restart(&mut self) {
        let setup = self.node().setup().clone();
        self.down();
        self.up(setup);
    }

    /// After the node has ended by itself: `up` may be called.
    pub fn forget_ended(&mut self) {
        let mut node = self.node.take().expect("a node");
        assert!(!node.is_running(), "it still runs");
    }

    /// `kill -9`; the mount stays behind, dead. Returns what to start again.
    pub fn kill(&mut self) -> Setup {
        let mut node = self.node.take().expect("a running node");
        node.kill().expect("kill -9");
        node.setup().clone()
    }
}

/// A cluster of processes on this host, as a test wants them, and mounts of it. Dropping it ends
/// and removes all.
pub struct Parts {
    // Dropped in this order, the mounts' processes before.
    processes: Vec<(String, Process)>,
    watchdogs: Vec<Watchdog>,
    mounts: Vec<String>,
    /// Where the process with mgmtd listens, and that with kv if it is another.
    addresses: [SocketAddr; 2],
    shards: Option<u32>,
    pub site: Site,
}

impl Parts {
    /// None yet. All will have so many shards, or as many as they choose.
    pub fn new(name: &str, shards: Option<u32>) -> Parts {
        let site = Site::new(name);
        fs::write(site.path("secret"), "a secret for this test alone").expect("write");
        run(Command::new("chmod").arg("600").arg(site.path("secret")));
        // Both at a time, so that they differ.
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let addresses = listeners.map(|l| l.local_addr().expect("an address"));
        Parts { processes: vec![], watchdogs: vec![], mounts: vec![], addresses, shards, site }
    }

    /// A command of the product that knows the cluster.
    pub fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = t3fs(args);
        command
            .env("T3FS_CLUSTER_ID", &self.site.name)
            .env("T3FS_CLUSTER", format!("TCP://{}", self.addresses[0]))
            .env("T3FS_SECRET_FILE", self.site.path("secret"))
            .envs(self.shards.map(|shards| ("T3FS_SHARDS", shards.to_string())));
        command
    }

    /// Starts all servers in one process, and gives the cluster its chains.
    pub fn all_in_one(&mut self) {
        let mut command = self.command(["--roles", "kv,mgmtd,meta,storage", "--node-id", "5"]);
        command.arg("--listen").arg(self.addresses[0].to_string());
        self.serve("server", command, &self.site.path("server.state"));
        run(&mut self.command(["make-chains", "--replicas", "1"]));
    }

    /// Starts kv alone, with its state in this folder.
    pub fn kv(&mut self, state: &Path) {
        let mut command = self.command(["--roles", "kv", "--node-id", "9"]);
        command.arg("--listen").arg(self.addresses[1].to_string());
        self.serve("kv", command, state);
    }

    /// Starts what is not kv, and gives the cluster its chains.
    pub fn all_but_kv(&mut self) {
        self.all_but_kv_say("serves cluster");
        run(&mut self.command(["make-chains", "--replicas", "1"]));
    }

    /// Starts what is not kv, until it says this.
    pub fn all_but_kv_say(&mut self, words: &str) {
        let mut command = self.command(["--roles", "mgmtd,meta,storage", "--node-id", "5"]);
        command.arg("--listen").arg(self.addresses[0].to_string());
        command.arg("--kv").arg(format!("t3fs-kv://{}", self.addresses[1]));
        command.arg("--state").arg(self.site.path("server.state"));
        self.start("server", command, words);
    }

    /// Starts what is not storage, in one process.
    pub fn all_but_storage(&mut self) {
        let mut command = self.command(["--roles", "kv,mgmtd,meta", "--node-id", "5"]);
        command.arg("--listen").arg(self.addresses[0].to_string());
        self.serve("server", command, &self.site.path("server.state"));
    }

    fn serve(&mut self, name: &str, mut command: Command, state: &Path) {
        command.arg("--state").arg(state);
        self.start(name, command, "serves cluster");
    }

    /// Starts a process and waits until it says `words`.
    pub fn start(&mut self, name: &str, command: Command, words: &str) {
        let log = self.site.path(&format!("{name}.log"));
        let mut process = Process::start(command, &log).expect("t3fs-node");
        process.wait_for(words, COMMAND_LIMIT).unwrap_or_else(|why| panic!("{name}: {why}"));
        self.processes.push((name.to_owned(), process));
    }

    /// Mounts it once more; returns where.
    pub fn mount(&mut self, name: &str) -> PathBuf {
        let dir = self.site.path(name);
        fs::create_dir_all(&dir).expect("a mount point");
        let mut command = self.command(["mount"]);
        command.arg(&dir).arg("--state").arg(self.site.path(&format!("{name}.state")));
        self.watchdogs.push(Watchdog::start(dir.clone()));
        self.mounts.push(name.to_owned());
        self.start(name, command, "mounted");
        dir
    }

    pub fn process(&mut self, name: &str) -> &mut Process {
        let found = self.processes.iter_mut().find(|(n, _)| n == name);
        &mut found.unwrap_or_else(|| panic!("{name} does not run")).1
    }

    /// `kill -9`. Calls to a mount that hang come back with that, and the dead mount is taken away.
    pub fn kill(&mut self, name: &str) {
        self.process(name).kill().expect("kill -9");
        self.processes.retain(|(n, _)| n != name);
        if self.mounts.iter().any(|n| n == name) {
            detach(&self.site.path(name));
        }
    }

    /// Waits until nothing is stored, and `check` finds nothing wrong. For a cluster whose files
    /// have all been removed.
    ///
    /// # Errors
    /// What `check` says when `limit` is over.
    pub fn becomes_empty(&self, mount: &Path, limit: Duration) -> Result<(), String> {
        let mut last = String::new();
        let empty = command::poll_until(limit, || {
            let done = finish(t3fs(["check"]).arg(mount));
            last = format!("{}{}", done.stdout, done.stderr);
            let is_empty = done.success() && last.contains(" 0 chunks");
            if !is_empty {
                // Not every few milliseconds: it is work for the cluster.
                thread::sleep(Duration::from_millis(300));
            }
            is_empty
        });
        if empty { Ok(()) } else { Err(format!("after {limit:?} something is left: {last}")) }
    }

    /// `down`, which must succeed.
    #[track_caller]
    pub fn down(&mut self, name: &str) {
        let dir = self.site.path(name);
        let mut process = {
            let at = self.processes.iter().position(|(n, _)| n == name).expect("it runs");
            self.processes.remove(at).1
        };
        let reap = || _ = process.is_running();
        let done = command::finish_while(t3fs(["down"]).arg(&dir), COMMAND_LIMIT, reap);
        let done = done.expect("down ends");
        assert!(done.success(), "down {name}: {}{}", done.stdout, done.stderr);
        let ended = process.wait(COMMAND_LIMIT);
        assert!(ended.is_some_and(|status| status.success()), "{name} ended with {ended:?}");
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if thread::panicking() {
            for (name, process) in &self.processes {
                let log = process.log();
                let tail: Vec<&str> = log.lines().rev().take(12).collect();
                eprintln!("---- {name}, newest line first ----\n{}", tail.join("\n"));
            }
        }
        // Mounts first, killed: they would wait for their servers.
        for name in std::mem::take(&mut self.mounts) {
            self.processes.retain(|(n, _)| *n != name);
            detach(&self.site.path(&name));
        }
    }
}

/// Takes away whatever is still mounted at `mount_point`.
pub fn detach(mount_point: &Path) {
    while mounts::find(mount_point).is_some() {
        if let Err(err) = mounts::detach(mount_point) {
            eprintln!("detach {}: {err}", mount_point.display());
            return;
        }
    }
}

/// Cuts a mount off if the test that uses it does not end in time.
pub struct Watchdog {
    /// Closed when dropped, which ends the thread.
    _leash: mpsc::Sender<()>,
}

impl Watchdog {
    pub fn start(mount_point: PathBuf) -> Watchdog {
        let (leash, end) = mpsc::channel::<()>();
        thread::spawn(move || {
            let limit = test_limit();
            if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                let shown = mount_point.display();
                eprintln!("WATCHDOG: {shown} is cut off after {limit:?}");
                if let Err(err) = mounts::abort(&mount_point) {
                    eprintln!("WATCHDOG: could not: {err}");
                }
            }
        });
        Watchdog { _leash: leash }
    }
}

/// Runs a program that must succeed; returns what it printed to its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let done = finish(command);
    assert!(done.success(), "{command:?}: {}\n{}{}", done.status, done.stdout, done.stderr);
    done.stdout
}

/// Runs a program, whatever comes of it.
#[track_caller]
pub fn finish(command: &mut Command) -> Finished {
    command::finish(command, program_limit()).expect("a program that ends")
}

/// A command line in a shell, run in `dir`.
pub fn shell(dir: &Path, line: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", line]).current_dir(dir);
    command
}

/// A command of the product.
pub fn t3fs<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(binary());
    command.args(args);
    command
}

/// Insists that `command` refuses: an exit status, and one line that holds all `words`.
#[track_caller]
pub fn assert_refused(command: &mut Command, words: &[&str]) {
    let done = command::finish(command, COMMAND_LIMIT).expect("a command that ends");
    assert!(
        done.code().is_some_and(|code| code != 0),
        "{command:?}: not refused ({}): {}{}",
        done.status,
        done.stdout,
        done.stderr
    );
    let lines: Vec<&str> = done.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "{command:?}: one line is wanted, got: {}", done.stderr);
    for word in words {
        assert!(lines[0].contains(word), "{command:?}: no {word:?} in: {}", lines[0]);
    }
    assert!(!lines[0].contains("panicked"), "{command:?}: {}", lines[0]);
}
