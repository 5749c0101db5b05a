//! Goal: a process that waits for a cluster that says nothing can be ended. Method: a mount whose
//! server is stopped (SIGSTOP: its kernel still takes what is sent, nobody answers); programs that
//! hang in each kind of call, one after the other sent a signal, must be gone within a second.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use t3fs_ops::command;
use t3fs_ops::process::Process;

use crate::harness::{
    COMMAND_LIMIT, Site, Watchdog, binary, detach, program_limit, run, skip_without,
};

const START_LIMIT: Duration = Duration::from_secs(60);
/// What the issue promises.
const GONE_MAX: Duration = Duration::from_secs(1);

/// One server with all roles, and a mount. Dropping it ends and removes everything.
struct Pair {
    // Dropped in this order.
    client: Process,
    server: Process,
    _watchdog: Watchdog,
    site: Site,
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Nothing may wait for it any more.
        self.server.signal(Signal::CONT);
        if std::thread::panicking() {
            for process in [&self.client, &self.server] {
                let log = process.log();
                let tail: Vec<&str> = log.lines().rev().take(12).collect();
                eprintln!("---- newest line first ----\n{}", tail.join("\n"));
            }
        }
        if self.client.is_running()
            && let Err(why) = self.client.kill()
        {
            eprintln!("{why}");
        }
        detach(&self.site.mount_point());
    }
}

impl Pair {
    /// `listen`: an address of this host that no other test uses, for tests run side by side.
    fn new(name: &str, listen: &str) -> Pair {
        let site = Site::new(name);
        fs::write(site.path("secret"), "a secret for this test alone").expect("write");
        run(Command::new("chmod").arg("600").arg(site.path("secret")));
        let command = || {
            let mut command = Command::new(binary());
            command
                .env("T3FS_CLUSTER_ID", "pair")
                .env("T3FS_CLUSTER", format!("TCP://{listen}:8000"))
                .env("T3FS_SECRET_FILE", site.path("secret"))
                .env("T3FS_SHARDS", "1")
                .env("RUST_BACKTRACE", "1");
            command
        };
        let mut serve = command();
        serve
            .arg("run")
            .env("T3FS_ROLES", "kv,mgmtd,meta,storage")
            .env("T3FS_NODE_ID", "1")
            .env("T3FS_LISTEN", listen)
            .env("T3FS_STATE", site.path("server"));
        let mut server = Process::start(serve, &site.path("server.log")).expect("t3fs-node");
        server.wait_for("serves cluster", START_LIMIT).expect("a server");
        let mut make = command();
        make.args(["make-chains", "--replicas", "1", "--nodes", "1"]);
        let made = command::finish(&mut make, COMMAND_LIMIT).expect("make-chains ends");
        assert!(made.success(), "{}{}", made.stdout, made.stderr);
        let watchdog = Watchdog::start(site.mount_point());
        let mut mount = command();
        mount
            .arg("run")
            .env("T3FS_ROLES", "client")
            .env("T3FS_MOUNT", site.mount_point())
            .env("T3FS_STATE", site.path("client"));
        let client = Process::start(mount, &site.path("client.log")).expect("t3fs-node");
        let mut pair = Pair { client, server, _watchdog: watchdog, site };
        pair.client.wait_for("mounted", START_LIMIT).expect("a mount");
        pair
    }

    /// A folder in the mount.
    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.site.mount_point().join(name);
        fs::create_dir(&folder).expect("a folder in the mount");
        folder
    }

    /// `check` on the mount; it must succeed in the end.
    fn becomes_clean(&self) {
        let mut last = String::new();
        let clean = command::poll_until(COMMAND_LIMIT, || {
            let mut check = Command::new(binary());
            check.arg("check").arg(self.site.mount_point());
            let done = command::finish(&mut check, program_limit()).expect("check ends");
            last = format!("{}{}", done.stdout, done.stderr);
            done.success()
        });
        assert!(clean, "{last}");
    }
}

/// A program that will hang, in a process group of its own.
struct Program {
    name: String,
    child: Child,
    /// What it waits for before it touches the mount.
    feed: Option<File>,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        // When it is not gone within a second a test fails; it goes when the server does on.
        let _ = self.child.try_wait();
    }
}

impl Program {
    fn start(name: &str, folder: &Path, line: &str) -> Program {
        // Whoever starts the tests in the background has them ignore SIGINT.
        let mut command = Command::new("env");
        command
            .args(["--default-signal=INT,QUIT", "bash", "-c", line])
            .current_dir("/")
            .env("D", folder)
            .process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn().expect("bash");
        Program { name: name.to_owned(), child, feed: None }
    }

    /// One that reads a pipe, `$F`, after it has opened what it needs.
    fn fed(name: &str, pair: &Pair, folder: &Path, line: &str, ready: &str) -> Program {
        let fifo = pair.site.path(&folder.file_name().expect("a name").to_string_lossy());
        run(Command::new("mkfifo").arg(&fifo));
        // For reading too, so that opening waits for nobody.
        let feed = File::options().read(true).write(true).open(&fifo).expect("a pipe");
        let mut program = Program::start(name, folder, &format!("F='{}'; {line}", fifo.display()));
        let file = folder.join(ready);
        let opened = command::poll_until(START_LIMIT, || program.has_open(&file));
        assert!(opened, "{name} does not open {}", file.display());
        program.feed = Some(feed);
        program
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn has_open(&mut self, file: &Path) -> bool {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.child.id())).into_iter().flatten();
        let links = fds.flatten().map(|fd| fs::read_link(fd.path()));
        links.flatten().any(|target| target == file)
    }

    fn is_gone(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_some()
    }

    fn signal(&self, signal: Signal) {
        // Of a group that is gone: nothing to do.
        let _ = kill_process_group(self.pid(), signal);
    }

    /// Waits until one of its processes waits for an answer from the mount.
    fn hangs(&self) {
        let group = self.child.id().to_string();
        let hangs = command::poll_until(START_LIMIT, || {
            let all = fs::read_dir("/proc").expect("/proc").flatten();
            all.map(|entry| entry.path()).any(|process| {
                let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
                // Behind the name: state, parent, group.
                let of_group = stat.rsplit_once(')').and_then(|(_, rest)| rest.split(' ').nth(3));
                let waits_in = || fs::read_to_string(process.join("wchan")).unwrap_or_default();
                of_group == Some(group.as_str()) && waits_in().contains("request_wait")
            })
        });
        assert!(hangs, "{} does not hang", self.name);
    }
}

/// The eleven of the issue, and one that only has a file open. Those that must have opened
/// something before the server is silent have done so.
fn programs(pair: &Pair, tag: &str) -> (Vec<Program>, Vec<Box<dyn FnOnce() -> Program>>) {
    let folder = |name: &str| {
        let folder = pair.folder(&format!("{tag}-{name}"));
        fs::write(folder.join("file"), "text").expect("a file");
        folder
    };
    let fed = |name: &str, line: &str, ready: &str| {
        Program::fed(&format!("{tag} {name}"), pair, &folder(name), line, ready)
    };
    let opened = vec![
        fed("write", "exec dd if=$F of=$D/new bs=4k oflag=dsync", "new"),
        fed("fsync", "exec dd if=$F of=$D/new bs=4k count=1 conv=fsync", "new"),
        fed("shell", "cd $D; exec 9<.; read < $F; ls; echo ended", ""),
        fed("dirty", "exec 9>$D/new; echo text >&9; read < $F", "new"),
    ];
    let later = [
        ("stat", "exec stat $D/file"),
        ("cat", "exec cat $D/file"),
        ("ls", "exec ls $D"),
        ("create", "exec touch $D/new"),
        ("mkdir", "exec mkdir $D/new"),
        ("rename", "exec mv $D/file $D/new"),
        ("unlink", "exec rm $D/file"),
        ("df", "exec df $D"),
    ];
    let later = later.map(|(name, line)| {
        let (folder, name) = (folder(name), format!("{tag} {name}"));
        Box::new(move || Program::start(&name, &folder, line)) as Box<dyn FnOnce() -> Program>
    });
    (opened, later.into())
}

#[test]
fn whoever_waits_for_a_silent_cluster_can_be_ended() {
    if skip_without(&["bash", "dd", "stat", "df", "mkfifo"]) {
        return;
    }
    let mut pair = Pair::new("interrupts", "127.10.12.1");
    let signals = [("kill", Signal::KILL), ("int", Signal::INT)];
    let all = signals.map(|(tag, signal)| (signal, programs(&pair, tag)));
    let slow = pair.folder("slow");
    fs::write(slow.join("file"), "text").expect("a file");
    // The kernel answers by itself what it has been told in the last second.
    std::thread::sleep(Duration::from_millis(1500));
    pair.server.signal(Signal::STOP);

    let mut late = Vec::new();
    for (signal, (opened, later)) in all {
        let mut programs = opened;
        for program in &mut programs {
            let feed = program.feed.as_mut().expect("a pipe");
            if !program.name.ends_with("dirty") {
                feed.write_all(&[b'\n'; 4096]).expect("room in a pipe");
                program.hangs();
            }
        }
        programs.extend(later.into_iter().map(|start| start()));
        for mut program in programs {
            if !program.name.ends_with("dirty") {
                program.hangs();
            }
            let sent = Instant::now();
            program.signal(signal);
            command::poll_until(GONE_MAX * 10, || program.is_gone());
            println!("{}: gone after {:?}", program.name, sent.elapsed());
            if sent.elapsed() > GONE_MAX {
                late.push(program.name.clone());
            }
        }
    }
    assert!(late.is_empty(), "not gone within a second: {late:?}");

    // A signal with a handler breaks no call: `[ -e` is a stat(2) of the shell itself.
    let line = "trap 'alarm=came' ALRM; [ -e $D/file ] && echo there $alarm";
    let alarmed = Program::start("alarm", &slow, line);
    alarmed.hangs();
    kill_process(alarmed.pid(), Signal::ALARM).expect("an alarm");
    std::thread::sleep(GONE_MAX * 3 / 2);
    alarmed.hangs();
    pair.server.signal(Signal::CONT);
    let mut alarmed = alarmed;
    let mut said = String::new();
    let stdout = alarmed.child.stdout.as_mut().expect("a pipe");
    std::io::Read::read_to_string(stdout, &mut said).expect("what it says");
    assert_eq!(said, "there came\n");

    goes_on(&mut pair);
}

/// Goal: an operator has a mount wait less for a cluster that is silent, without ending it; a
/// change that cannot be made changes nothing. Method: a mount that waits for ten minutes is told
/// to wait two seconds; what begins then fails with EIO, and what waited before waits on.
#[test]
fn a_mount_can_be_told_to_wait_less() {
    if skip_without(&["stat"]) {
        return;
    }
    let mut pair = Pair::new("tuned", "127.10.12.2");
    let (early, late) = (pair.folder("early"), pair.folder("late"));
    let set = |pair: &Pair, changes: &[&str]| {
        let mut set = Command::new(binary());
        set.arg("set").args(changes).arg("--of").arg(pair.site.mount_point());
        command::finish(&mut set, COMMAND_LIMIT).expect("set ends")
    };
    for (change, says) in [
        ("io_timeout=0", "io_timeout is 0, and must be a number of seconds, 1 to 604800"),
        ("shards=2", "shards is fixed when the process starts"),
        ("io_timeot=5", "did you mean `io_timeout`"),
    ] {
        let done = set(&pair, &["log=trace", change]);
        assert_eq!(done.code(), Some(2), "{}{}", done.stdout, done.stderr);
        assert!(done.stderr.contains(says), "{}", done.stderr);
    }
    std::thread::sleep(Duration::from_millis(1500)); // the kernel forgets names
    assert!(!pair.client.log().contains("TRACE"), "the log has not changed");
    pair.server.signal(Signal::STOP);
    let waits = Program::start("early", &early, "exec stat $D/file");
    waits.hangs();

    let done = set(&pair, &["io_timeout=2", "log=debug", "shards=1"]);
    assert!(done.success(), "{}{}", done.stdout, done.stderr);
    assert_eq!(done.stdout, "io_timeout is 2\nlog is debug\n");
    let began = Instant::now();
    let error = fs::metadata(late.join("file")).expect_err("nobody answers");
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    assert!(began.elapsed() < Duration::from_secs(30), "after {:?}", began.elapsed());
    waits.hangs();
    // A mount logs warnings until it is told otherwise.
    assert!(pair.client.log().contains("told while running"), "{}", pair.client.log());

    pair.server.signal(Signal::CONT);
    drop(waits);
    goes_on(&mut pair);
}

/// After the silence the mount works, nothing is left open, and it can be ended.
fn goes_on(pair: &mut Pair) {
    let after = pair.folder("after");
    fs::write(after.join("file"), "text").expect("a write after the silence");
    assert_eq!(fs::read_to_string(after.join("file")).expect("a read"), "text");
    for entry in fs::read_dir(pair.site.mount_point()).expect("a listing").flatten() {
        fs::remove_dir_all(entry.path()).expect("all of it can be removed");
    }
    pair.becomes_clean();
    pair.client.signal(Signal::TERM);
    let ended = pair.client.wait(COMMAND_LIMIT);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}: {}", pair.client.log());
}
