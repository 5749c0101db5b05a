//! Goal: every kind of request is understood, nothing that is malformed breaks anything, and each
//! request is answered once, also when its caller is killed. Method: golden bytes against
//! `Operation`; random and damaged bytes; and whole sessions over a socket in place of /dev/fuse.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::abi::{Malformed, Put, opcode};
use super::request::{Init, Operation, Read, Release, Write};
use super::types::sample_attr;
use super::*;

/// A request as the kernel sends it.
fn bytes(opcode: u32, unique: u64, pid: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(40 + body.len() as u32);
    out.put_u32(opcode);
    out.put_u64(unique);
    out.put_u64(0x1234); // inode
    out.put_u32(1000); // uid
    out.put_u32(1001); // gid
    out.put_u32(pid);
    out.put_u32(0);
    out.put(body);
    out
}

/// Fields of a structure, in words of 32 bits; `q` makes two of one of 64.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

fn q(n: u64) -> [u32; 2] {
    let b = n.to_ne_bytes();
    [0, 4].map(|at| u32::from_ne_bytes(b[at..at + 4].try_into().unwrap()))
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Every kind, with a body as the header lays it out and what it means.
fn golden() -> Vec<(u32, Vec<u8>, Operation<'static>)> {
    let name = OsStr::new("name");
    let (named, two) = (&b"name\0"[..], &b"name\0other\0"[..]);
    let handle = FileHandle(0x1_0000_0002);
    let [h0, h1] = q(handle.0);
    let [o0, o1] = q(0x3_0000_0004);
    let owner = LockOwner(0x5_0000_0006);
    let [w0, w1] = q(owner.0);
    let flags = OpenFlags(libc::O_RDWR);
    let rw = libc::O_RDWR as u32;
    let read = Read { handle, offset: 0x3_0000_0004, size: 4096, flags, owner: None };
    let read_bytes = words(&[h0, h1, o0, o1, 4096, 0, w0, w1, rw, 0]);
    let locked = words(&[h0, h1, o0, o1, 4096, 2, w0, w1, rw, 0]);
    let release = Release { handle, flags, owner: Some(owner), flush: true };
    let release_bytes = words(&[h0, h1, rw, 3, w0, w1]);
    let fsync = |datasync| words(&[h0, h1, datasync, 0]);
    let rename = |flags| Operation::Rename {
        name,
        to: INodeNo(handle.0),
        to_name: OsStr::new("other"),
        flags: RenameFlags::from_bits(flags),
    };
    vec![
        (opcode::LOOKUP, named.to_vec(), Operation::Lookup { name }),
        (opcode::FORGET, words(&q(9)), Operation::Forget { lookups: 9 }),
        (opcode::GETATTR, words(&[0, 0, h0, h1]), Operation::GetAttr { handle: None }),
        (opcode::GETATTR, words(&[1, 0, h0, h1]), Operation::GetAttr { handle: Some(handle) }),
        (opcode::READLINK, vec![], Operation::ReadLink),
        (opcode::SYMLINK, two.to_vec(), Operation::Symlink { name, target: OsStr::new("other") }),
        (
            opcode::MKNOD,
            join(&[&words(&[0o644, 7, 0o22, 0]), named]),
            Operation::MkNod { name, mode: 0o644, umask: 0o22, rdev: 7 },
        ),
        (
            opcode::MKDIR,
            join(&[&words(&[0o755, 0o22]), named]),
            Operation::MkDir { name, mode: 0o755, umask: 0o22 },
        ),
        (opcode::UNLINK, named.to_vec(), Operation::Unlink { name }),
        (opcode::RMDIR, named.to_vec(), Operation::RmDir { name }),
        (opcode::RENAME, join(&[&words(&[h0, h1]), two]), rename(0)),
        (opcode::RENAME2, join(&[&words(&[h0, h1, 2, 0]), two]), rename(2)),
        (
            opcode::LINK,
            join(&[&words(&[h0, h1]), named]),
            Operation::Link { from: INodeNo(handle.0), name },
        ),
        (opcode::OPEN, words(&[rw, 0]), Operation::Open { flags }),
        (opcode::OPENDIR, words(&[rw, 0]), Operation::OpenDir { flags }),
        (
            opcode::CREATE,
            join(&[&words(&[rw, 0o640, 0o27, 0]), named]),
            Operation::Create { name, mode: 0o640, umask: 0o27, flags: libc::O_RDWR },
        ),
        (opcode::READ, read_bytes.clone(), Operation::Read(read)),
        (opcode::READ, locked, Operation::Read(Read { owner: Some(owner), ..read })),
        (opcode::READDIR, read_bytes.clone(), Operation::ReadDir(read)),
        (opcode::READDIRPLUS, read_bytes, Operation::ReadDirPlus(read)),
        (
            opcode::WRITE,
            join(&[&words(&[h0, h1, o0, o1, 5, 6, w0, w1, rw, 0]), b"12345"]),
            Operation::Write(Write {
                handle,
                offset: 0x3_0000_0004,
                data: b"12345",
                write_flags: WriteFlags::FUSE_WRITE_LOCKOWNER | WriteFlags::FUSE_WRITE_KILL_SUIDGID,
                flags,
                owner: Some(owner),
            }),
        ),
        (opcode::STATFS, vec![], Operation::StatFs),
        (opcode::RELEASE, release_bytes.clone(), Operation::Release(release)),
        (opcode::RELEASEDIR, release_bytes, Operation::ReleaseDir(release)),
        (opcode::FLUSH, words(&[h0, h1, 0, 0, w0, w1]), Operation::Flush { handle, owner }),
        (opcode::FSYNC, fsync(0), Operation::Fsync { handle, datasync: false }),
        (opcode::FSYNC, fsync(1), Operation::Fsync { handle, datasync: true }),
        (opcode::FSYNCDIR, fsync(1), Operation::FsyncDir { handle, datasync: true }),
        (opcode::ACCESS, words(&[4, 0]), Operation::Access { mask: AccessFlags(4) }),
        (
            opcode::LSEEK,
            words(&[h0, h1, o0, o1, 3, 0]),
            Operation::Lseek { handle, offset: 0x3_0000_0004, whence: 3 },
        ),
        (opcode::INTERRUPT, words(&q(8)), Operation::Interrupt { unique: 8 }),
        (opcode::DESTROY, vec![], Operation::Destroy),
        (opcode::NOTIFY_REPLY, vec![], Operation::NotifyReply),
        (999, b"whatever".to_vec(), Operation::Unknown),
    ]
}

#[test]
fn every_kind_of_request_is_understood() {
    for (kind, body, want) in golden() {
        let all = bytes(kind, 6, 77, &body);
        let (request, fields) = Request::parse(&all).expect("a header");
        assert_eq!((request.unique(), request.pid(), request.opcode()), (6, 77, kind));
        assert_eq!((request.uid(), request.gid(), request.inode().0), (1000, 1001, 0x1234));
        assert_eq!(Operation::parse(kind, fields), Ok(want), "{kind}");
    }
}

#[test]
fn setattr_says_what_to_change() {
    let body = |valid: u32, nanos: u32| {
        let head = words(&[valid, 0, 9, 0, 100, 0, 0, 0]);
        let times = [-1i64, 2, 3].map(i64::to_ne_bytes).concat();
        join(&[&head, &times, &words(&[nanos, 20, 30, 0o600, 0, 500, 501, 0])])
    };
    let parse = |bytes: &[u8]| match Operation::parse(opcode::SETATTR, abi::Fields(bytes)) {
        Ok(Operation::SetAttr(set)) => Ok(set),
        Err(e) => Err(e),
        other => panic!("{other:?}"),
    };
    assert_eq!(parse(&body(0, 10)), Ok(SetAttr::default()));
    let time = |before: u64, nanos| UNIX_EPOCH - Duration::from_secs(before) + nanos;
    let all = parse(&body(0xc7f, 10)).unwrap();
    assert_eq!(
        all,
        SetAttr {
            mode: Some(0o600),
            uid: Some(500),
            gid: Some(501),
            size: Some(100),
            atime: Some(TimeOrNow::SpecificTime(time(1, Duration::from_nanos(10)))),
            mtime: Some(TimeOrNow::SpecificTime(UNIX_EPOCH + Duration::new(2, 20))),
            ctime: Some(UNIX_EPOCH + Duration::new(3, 30)),
            handle: Some(FileHandle(9)),
            kill_suidgid: true,
        }
    );
    let now = parse(&body(1 << 4 | 1 << 7 | 1 << 5 | 1 << 8, u32::MAX)).unwrap();
    assert_eq!((now.atime, now.mtime), (Some(TimeOrNow::Now), Some(TimeOrNow::Now)));
    assert_eq!(parse(&body(1 << 4, u32::MAX)), Err(Malformed), "no such time");
}

#[test]
fn forgets_have_counts() {
    let body = words(&[[2, 0], q(5), q(6), q(7), q(8)].concat());
    let parsed = Operation::parse(opcode::BATCH_FORGET, abi::Fields(&body));
    let Ok(Operation::BatchForget(all)) = parsed else { panic!("{parsed:?}") };
    assert_eq!(all.iter().collect::<Vec<_>>(), [(INodeNo(5), 6), (INodeNo(7), 8)]);
    for count in [3, u32::MAX] {
        let body = words(&[&[count, 0][..], &q(5), &q(6)].concat());
        assert_eq!(Operation::parse(opcode::BATCH_FORGET, abi::Fields(&body)), Err(Malformed));
    }
}

#[test]
fn init_of_old_and_new_kernels() {
    let parse = |words_of: &[u32]| {
        let body = words(words_of);
        match Operation::parse(opcode::INIT, abi::Fields(&body)) {
            Ok(Operation::Init(init)) => Ok((init.major, init.minor, init.flags.bits())),
            Err(e) => Err(e),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(parse(&[7, 31, 4096, 5]), Ok((7, 31, 5)));
    let extended = 1 << 30;
    assert_eq!(parse(&[7, 40, 0, extended, 3]), Ok((7, 40, 3 << 32 | u64::from(extended))));
    assert_eq!(parse(&[7, 40, 0, extended]), Err(Malformed));
    assert_eq!(parse(&[8, 0]), Ok((8, 0, 0)));
    assert!(matches!(
        Operation::parse(opcode::INIT, abi::Fields(&words(&[7, 31, 4096, 5]))),
        Ok(Operation::Init(Init { max_readahead: 4096, .. }))
    ));
}

/// Cut at any place, a request is refused (or, where nothing was to follow, still whole); names
/// that are none are refused.
#[test]
fn what_is_cut_is_malformed() {
    for (kind, body, _) in golden() {
        for end in 0..body.len() {
            let parsed = Operation::parse(kind, abi::Fields(&body[..end]));
            // Padding at the end of a structure is not looked at.
            let padding = kind == opcode::LSEEK && end >= 20;
            assert!(parsed.is_err() || kind == 999 || padding, "{kind} cut at {end}: {parsed:?}");
        }
    }
    for name in [&b"\0"[..], b"a/b\0", b"/\0", b"no end", b""] {
        assert_eq!(Operation::parse(opcode::LOOKUP, abi::Fields(name)), Err(Malformed));
    }
    let long = bytes(opcode::STATFS, 6, 0, &[]);
    assert!(matches!(Request::parse(&long[..39]), Err(None)));
    assert!(matches!(Request::parse(&join(&[&long, b"more"])), Err(Some(6))));
}

/// Numbers that are different in each run of the loop and the same in each run of the test.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// Property: whatever the bytes are, nothing panics. Method: noise, and golden requests with a few
/// bytes changed.
#[test]
fn random_bytes_never_panic() {
    let golden = golden();
    let mut dice = Dice(1);
    for _ in 0..200_000 {
        let mut all = if dice.roll(2) == 0 {
            let mut noise: Vec<u8> = (0..dice.roll(200)).map(|_| dice.roll(256) as u8).collect();
            if noise.len() >= 8 && dice.roll(2) == 0 {
                let length = (noise.len() as u32).to_ne_bytes();
                noise[..4].copy_from_slice(&length);
                noise[4..8].copy_from_slice(&(dice.roll(64) as u32).to_ne_bytes());
            }
            noise
        } else {
            let (kind, body, _) = &golden[dice.roll(golden.len())];
            bytes(*kind, 2, 7, body)
        };
        for _ in 0..dice.roll(4) {
            if !all.is_empty() {
                let at = dice.roll(all.len());
                all[at] = dice.roll(256) as u8;
            }
        }
        let Ok((request, fields)) = Request::parse(&all) else { continue };
        if let Ok(Operation::BatchForget(all)) = Operation::parse(request.opcode(), fields) {
            assert!(all.iter().count() < 200);
        }
    }
}

/// What a request was parked for in [`Parked`].
enum Kept {
    Entry(ReplyEntry),
    Empty(ReplyEmpty),
    Open(ReplyOpen),
    Forgot(u64, u64),
}

/// A file system that answers when it is told to.
struct Parked(Sender<Kept>);

impl Filesystem for Parked {
    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        self.0.send(Kept::Entry(reply)).expect("the test listens");
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.0.send(Kept::Forgot(ino.0, lookups)).expect("the test listens");
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.0.send(Kept::Empty(reply)).expect("the test listens");
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.send(Kept::Empty(reply)).expect("the test listens");
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.0.send(Kept::Open(reply)).expect("the test listens");
    }
}

/// A session whose kernel is the test.
struct Fake {
    kernel: OwnedFd,
    kept: Receiver<Kept>,
    session: Option<JoinHandle<io::Result<()>>>,
}

impl Fake {
    fn new(acl: SessionAcl) -> Fake {
        let (kernel, device) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a pair of sockets");
        let (keep, kept) = mpsc::channel();
        let mut fake = Fake { kernel, kept, session: None };
        fake.send(&bytes(opcode::INIT, 2, 0, &words(&[7, 31, 4096, 1])));
        let session = Session::new(Parked(keep), vec![device], acl).expect("a handshake");
        let (error, unique, body) = fake.heard();
        assert_eq!((error, unique, body.len()), (0, 2, 64));
        fake.session = Some(std::thread::spawn(move || session.run()));
        fake
    }

    fn send(&self, message: &[u8]) {
        rustix::io::writev(&self.kernel, &[IoSlice::new(message)]).expect("sent");
    }

    fn ask(&self, kind: u32, unique: u64, pid: u32, body: &[u8]) {
        self.send(&bytes(kind, unique, pid, body));
    }

    fn kept(&self) -> Kept {
        self.kept.recv_timeout(Duration::from_secs(60)).expect("a request")
    }

    /// The next answer: error, number, body.
    fn heard(&self) -> (i32, u64, Vec<u8>) {
        let mut buffer = vec![0; 4096];
        let bytes = rustix::io::read(&self.kernel, &mut buffer).expect("an answer");
        buffer.truncate(bytes);
        let mut fields = abi::Fields(&buffer);
        let (length, error) = (fields.u32().unwrap(), fields.u32().unwrap() as i32);
        assert_eq!(length as usize, bytes);
        (error, fields.u64().unwrap(), fields.0.to_vec())
    }

    fn is_silent_for(&self, time: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.kernel, PollFlags::IN)];
        let time = Timespec::try_from(time).expect("short");
        poll(&mut fds, Some(&time)).expect("poll") == 0
    }

    fn end(mut self) {
        let session = self.session.take().expect("it runs");
        drop(self.kernel);
        session.join().expect("no panic").expect("a good end");
    }
}

fn errno(e: Errno) -> i32 {
    -e.0
}

#[test]
fn each_request_is_answered_once() {
    let fake = Fake::new(SessionAcl::All);
    fake.ask(opcode::LOOKUP, 4, 0, b"name\0");
    let Kept::Entry(reply) = fake.kept() else { panic!("a lookup") };
    assert!(reply.entry(Duration::from_secs(1), &sample_attr(), Generation(0)));
    let (error, unique, body) = fake.heard();
    assert_eq!((error, unique, body.len()), (0, 4, 128));
    assert_eq!(body[..8], sample_attr().ino.0.to_ne_bytes());

    fake.ask(opcode::LOOKUP, 6, 0, b"name\0");
    drop(fake.kept());
    assert_eq!(fake.heard(), (errno(Errno::EIO), 6, vec![]), "dropped");
    fake.ask(opcode::LOOKUP, 8, 0, b"na/me\0");
    assert_eq!(fake.heard(), (errno(Errno::EINVAL), 8, vec![]), "malformed");
    fake.ask(opcode::MKDIR, 10, 0, &join(&[&words(&[0, 0]), b"name\0"]));
    assert_eq!(fake.heard(), (errno(Errno::ENOSYS), 10, vec![]), "not written");
    fake.ask(999, 12, 0, b"");
    assert_eq!(fake.heard(), (errno(Errno::ENOSYS), 12, vec![]), "not known");
    let mut wrong = bytes(opcode::STATFS, 14, 0, b"");
    wrong[0] = 39;
    fake.send(&wrong);
    assert_eq!(fake.heard(), (errno(Errno::EINVAL), 14, vec![]), "a wrong length");
    fake.send(b"short");
    fake.ask(opcode::FORGET, 16, 0, &words(&q(3)));
    assert!(matches!(fake.kept(), Kept::Forgot(0x1234, 3)), "not answered");
    fake.ask(opcode::BATCH_FORGET, 18, 0, &words(&[[1, 0], q(5), q(6)].concat()));
    assert!(matches!(fake.kept(), Kept::Forgot(5, 6)), "not answered");
    assert!(fake.is_silent_for(Duration::from_millis(50)));
    fake.end();
}

/// A mount of one user answers no other one. Method: uid 1000 asks, who is not us.
#[test]
fn strangers_are_kept_out() {
    let fake = Fake::new(SessionAcl::Owner);
    fake.ask(opcode::LOOKUP, 4, 0, b"name\0");
    if rustix::process::geteuid().as_raw() == 1000 {
        return drop(fake.kept());
    }
    assert_eq!(fake.heard(), (errno(Errno::EACCES), 4, vec![]));
    fake.ask(opcode::RELEASE, 6, 0, &[0; 24]);
    let Kept::Empty(reply) = fake.kept() else { panic!("a release") };
    assert!(reply.ok());
    assert_eq!(fake.heard(), (0, 6, vec![]));
    fake.end();
}

/// A process whose threads can be looked at.
struct Victim(Child);

impl Victim {
    fn start(line: &str) -> Victim {
        let mut command = Command::new("sh");
        command.args(["-c", line]).stdin(Stdio::piped()).stdout(Stdio::null());
        Victim(command.spawn().expect("sh"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

fn interrupt(fake: &Fake, unique: u64) {
    fake.ask(opcode::INTERRUPT, unique | 1, 0, &words(&q(unique)));
}

/// Its callers cannot be looked at (another pid namespace, or gone): a call ends after a second,
/// and what was opened meanwhile is heard to be unwanted.
#[test]
fn an_interrupted_call_of_an_unseen_thread_ends_after_a_second() {
    let fake = Fake::new(SessionAcl::All);
    let began = Instant::now();
    for (unique, pid) in [(4, 0), (6, u32::MAX)] {
        fake.ask(opcode::OPEN, unique, pid, &words(&[0, 0]));
        interrupt(&fake, unique);
    }
    let mut ended = [fake.heard(), fake.heard()];
    ended.sort_by_key(|(_, unique, _)| *unique);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(ended, [4, 6].map(|unique| (errno(Errno::EINTR), unique, vec![])));
    for _ in 0..2 {
        let Kept::Open(reply) = fake.kept() else { panic!("an open") };
        assert!(!reply.opened(FileHandle(1), FopenFlags::empty()), "nobody wants it");
    }
    assert!(fake.is_silent_for(Duration::from_millis(50)), "answered once");
    fake.end();
}

/// A signal that does not kill leaves the call alone. Method: a thread without any signal stands
/// for one that has had and handled it.
#[test]
fn an_interrupted_call_of_a_living_thread_goes_on() {
    let fake = Fake::new(SessionAcl::All);
    let victim = Victim::start("read line");
    fake.ask(opcode::OPEN, 4, victim.pid(), &words(&[0, 0]));
    interrupt(&fake, 4);
    assert!(fake.is_silent_for(Duration::from_millis(1500)));
    let Kept::Open(reply) = fake.kept() else { panic!("an open") };
    assert!(reply.opened(FileHandle(7), FopenFlags::empty()));
    let (error, unique, body) = fake.heard();
    assert_eq!((error, unique, &body[..8]), (0, 4, &7u64.to_ne_bytes()[..]));
    fake.end();
}

/// An interrupt that overtakes its request is sent again; RELEASE is not interrupted.
#[test]
fn interrupts_of_what_is_not_under_way() {
    let fake = Fake::new(SessionAcl::All);
    interrupt(&fake, 4);
    assert_eq!(fake.heard(), (errno(Errno::EAGAIN), 5, vec![]));
    fake.ask(opcode::RELEASE, 6, 0, &[0; 24]);
    interrupt(&fake, 6);
    assert!(fake.is_silent_for(Duration::from_millis(1500)));
    let Kept::Empty(reply) = fake.kept() else { panic!("a release") };
    assert!(reply.ok());
    assert_eq!(fake.heard(), (0, 6, vec![]));
    fake.ask(opcode::FLUSH, 8, 0, &[0; 24]);
    let Kept::Empty(reply) = fake.kept() else { panic!("a flush") };
    assert!(reply.ok());
    assert_eq!(fake.heard(), (0, 8, vec![]));
    fake.end();
}
