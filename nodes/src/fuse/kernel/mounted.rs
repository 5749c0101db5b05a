//! Goal: a real kernel takes what we say: answers, interrupts, notifications. Method: a small file
//! system in memory, mounted; needs root and /dev/fuse, and says so loudly where it has not.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::mount::{self, MountOptions};

/// So long that only a notification makes the kernel forget.
const TTL: Duration = Duration::from_secs(3600);

/// One folder with one file, `file`, whose content is a text; what is asked while `stuck` names it
/// is not answered.
#[derive(Default)]
struct State {
    text: Mutex<String>,
    lookups: AtomicU32,
    stuck: Mutex<Option<&'static str>>,
    /// Replies to what is stuck; those of opens apart.
    kept: Mutex<Vec<Kept>>,
    unheard: Mutex<Vec<ReplyOpen>>,
}

enum Kept {
    Attr(ReplyAttr),
    Empty(ReplyEmpty),
}

#[derive(Clone)]
struct Small(Arc<State>);

impl Small {
    fn attr(&self, ino: u64) -> FileAttr {
        let kind = if ino == 1 { FileType::Directory } else { FileType::RegularFile };
        FileAttr {
            ino: INodeNo(ino),
            size: self.0.text.lock().unwrap().len() as u64,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            kind,
            perm: 0o777,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
        }
    }

    fn is_stuck(&self, what: &str) -> bool {
        *self.0.stuck.lock().unwrap() == Some(what)
    }

    fn keep(&self, reply: Kept) {
        self.0.kept.lock().unwrap().push(reply);
    }
}

impl Filesystem for Small {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.0.lookups.fetch_add(1, Ordering::Relaxed);
        if name == "file" {
            reply.entry(TTL, &self.attr(2), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if self.is_stuck("getattr") {
            return self.keep(Kept::Attr(reply));
        }
        reply.attr(TTL, &self.attr(ino.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.is_stuck("open") {
            return self.0.unheard.lock().unwrap().push(reply);
        }
        assert!(reply.opened(FileHandle(7), FopenFlags::FOPEN_KEEP_CACHE));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let text = self.0.text.lock().unwrap();
        reply.data(text.as_bytes().get(offset as usize..).unwrap_or_default());
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        if self.is_stuck("flush") {
            return self.keep(Kept::Empty(reply));
        }
        reply.ok();
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, offset: i64, _: i32, r: ReplyLseek) {
        r.offset(offset + 1);
    }
}

/// The file system, mounted. Dropping it unmounts.
struct Mounted {
    small: Small,
    notifier: Option<Notifier>,
    session: Option<std::thread::JoinHandle<io::Result<()>>>,
    dir: tempfile::TempDir,
}

impl Mounted {
    fn new() -> Option<Mounted> {
        if !rustix::process::geteuid().is_root()
            || mount::preflight(MountOptions::default()).is_err()
        {
            eprintln!("\n******** SKIPPED: needs root and /dev/fuse ********\n");
            return None;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let device = mount::mount(dir.path(), "test", MountOptions::default()).expect("a mount");
        let devices = mount::device::several(device, 2).expect("two descriptors");
        let small = Small(Arc::default());
        *small.0.text.lock().unwrap() = "old".into();
        let session = Session::new(small.clone(), devices, SessionAcl::All).expect("a handshake");
        let notifier = Some(session.notifier().expect("a thread"));
        let session = Some(std::thread::spawn(move || session.run()));
        Some(Mounted { small, notifier, session, dir })
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("file")
    }

    fn notifier(&self) -> &Notifier {
        self.notifier.as_ref().expect("until it is dropped")
    }

    fn stick(&self, what: &'static str) {
        *self.small.0.stuck.lock().unwrap() = Some(what);
    }

    fn program(&self, program: &str, args: &[&str]) -> Program {
        // A shell that starts the tests in the background has them ignore SIGINT.
        let mut command = Command::new("env");
        command
            .args(["--default-signal=INT,QUIT", program])
            .args(args)
            .arg(self.file())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        Program(command.stderr(Stdio::null()).spawn().expect("a program"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Answers what is kept.
        *self.small.0.stuck.lock().unwrap() = None;
        for kept in self.small.0.kept.lock().unwrap().drain(..) {
            match kept {
                Kept::Attr(reply) => reply.error(Errno::EIO),
                Kept::Empty(reply) => reply.ok(),
            };
        }
        self.small.0.unheard.lock().unwrap().clear();
        mount::unmount(self.dir.path(), true).expect("unmounted");
        let ended = self.session.take().expect("it runs").join();
        if !std::thread::panicking() {
            ended.expect("no panic").expect("a good end");
        }
    }
}

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Gone already, in a test that passes.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("it is there");
    }

    fn is_gone_within(&mut self, limit: Duration) -> bool {
        eventually(limit, || self.0.try_wait().expect("our child").is_some())
    }
}

fn eventually(limit: Duration, mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !so() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

const LONG: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_kernel_forgets_what_it_is_told_to() {
    let Some(m) = Mounted::new() else { return };
    let (file, len) = (m.file(), || fs::metadata(m.file()).expect("stat").len());
    let read = || fs::read_to_string(&file).expect("read");
    assert_eq!(read(), "old");
    assert_eq!(len(), 3); // reading has made it forget the time of access
    *m.small.0.text.lock().unwrap() = "newer".into();
    assert_eq!(len(), 3, "remembered");
    m.notifier().inval_attributes(INodeNo(2)).expect("told");
    assert_eq!(len(), 5);
    assert_eq!(read(), "newer", "pages go with a length");

    *m.small.0.text.lock().unwrap() = "other".into();
    m.notifier().inval_attributes(INodeNo(2)).expect("told");
    assert_eq!((len(), read()), (5, "newer".into()), "pages stay");
    m.notifier().inval_pages(INodeNo(2), 0, 0).expect("room");
    assert!(eventually(LONG, || read() == "other"));

    let lookups = || m.small.0.lookups.load(Ordering::Relaxed);
    let before = lookups();
    len();
    assert_eq!(lookups(), before, "remembered");
    m.notifier().inval_entry(INodeNo::ROOT, OsStr::new("file")).expect("room");
    assert!(eventually(LONG, || len() == 5 && lookups() > before));
    let before = lookups();
    m.notifier().delete(INodeNo::ROOT, INodeNo(2), OsStr::new("file")).expect("room");
    assert!(eventually(LONG, || len() == 5 && lookups() > before));

    // What it has never heard of is fine.
    m.notifier().inval_attributes(INodeNo(99)).expect("told");
    m.notifier().inval_entry(INodeNo(99), OsStr::new("x")).expect("room");
    assert_eq!(fs::metadata(&file).expect("stat").ino(), 2);

    let open = File::open(&file).expect("open");
    let data = rustix::fs::seek(&open, rustix::fs::SeekFrom::Data(1)).expect("lseek");
    assert_eq!(data, 2, "asked of the file system");
}

/// Each kind of call that is stuck ends soon when its caller is killed, or interrupted; and what
/// was opened for it in vain is heard of.
#[test]
fn killed_callers_go() {
    let Some(m) = Mounted::new() else { return };
    for signal in [Signal::KILL, Signal::INT, Signal::QUIT, Signal::TERM] {
        m.stick("getattr");
        m.notifier().inval_attributes(INodeNo(2)).expect("told");
        let mut stat = m.program("stat", &[]);
        assert!(eventually(LONG, || !m.small.0.kept.lock().unwrap().is_empty()));
        stat.signal(signal);
        assert!(stat.is_gone_within(SECOND), "{signal:?}");
        m.small.0.kept.lock().unwrap().clear();

        m.stick("open");
        let mut cat = m.program("cat", &[]);
        assert!(eventually(LONG, || !m.small.0.unheard.lock().unwrap().is_empty()));
        cat.signal(signal);
        assert!(cat.is_gone_within(SECOND), "{signal:?}");
        let reply = m.small.0.unheard.lock().unwrap().pop().expect("an open");
        assert!(!reply.opened(FileHandle(8), FopenFlags::empty()), "nobody has heard it");
        m.stick("nothing");
    }
}

/// A process that is killed with a file open whose FLUSH is not answered does not wait for it; one
/// that closes it is let go when it is killed.
#[test]
fn flush_holds_nobody_who_dies() {
    let Some(m) = Mounted::new() else { return };
    let file = m.file();
    let has_it_open = |pid: u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.map(|fd| fs::read_link(fd.path())).any(|target| target.is_ok_and(|t| t == file))
    };
    m.stick("flush");
    for signal in [Signal::KILL, Signal::INT] {
        let mut holds = m.program("bash", &["-c", "exec 9<$0; read"]);
        assert!(eventually(LONG, || has_it_open(holds.0.id())));
        holds.signal(signal);
        assert!(holds.is_gone_within(SECOND), "{signal:?} at exit");

        m.small.0.kept.lock().unwrap().clear();
        let mut closes = m.program("bash", &["-c", "exec 9<$0; exec 9<&-; read"]);
        assert!(eventually(LONG, || !m.small.0.kept.lock().unwrap().is_empty()));
        closes.signal(signal);
        assert!(closes.is_gone_within(SECOND), "{signal:?} in close");
    }
}

/// A signal that has a handler breaks no call. Method: `[ -e` is a stat(2) of the shell itself.
#[test]
fn a_handled_signal_breaks_no_call() {
    let Some(m) = Mounted::new() else { return };
    fs::metadata(m.file()).expect("looked up");
    m.stick("getattr");
    m.notifier().inval_attributes(INodeNo(2)).expect("told");
    let line = "trap : ALRM; [ -e $0 ] && exit 7";
    let mut shell = m.program("bash", &["-c", line]);
    assert!(eventually(LONG, || !m.small.0.kept.lock().unwrap().is_empty()));
    shell.signal(Signal::ALARM);
    assert!(!shell.is_gone_within(Duration::from_millis(1500)));
    m.stick("nothing");
    let Some(Kept::Attr(reply)) = m.small.0.kept.lock().unwrap().pop() else { panic!("a stat") };
    assert!(reply.attr(TTL, &m.small.attr(2)));
    assert_eq!(shell.0.wait().expect("it ends").code(), Some(7), "there");
}
