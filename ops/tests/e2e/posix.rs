//! Goal: the mount behaves as POSIX says, before and after a restart. Method: the calls themselves,
//! each with an answer known from the standard, a plain folder giving the same.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, OFlags, RenameFlags};
use t3fs_ops::noise::Noise;

use crate::harness::{Mount, finish, run, shell, skip_without, skip_without_root};

/// Names in a folder, sorted.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Noise::new(seed).fill(&mut bytes);
    bytes
}

#[test]
fn files_hold_what_was_written() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("files");
    // Around the sizes where ways to the disk change: inline, granule, block classes, chunk, many
    // chunks.
    let sizes = [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20, (1 << 20) + 1, 9_000_001];
    for size in sizes {
        fs::write(mount.path(&size.to_string()), noise(size, size as u64)).expect("write");
    }
    let check = |mount: &Mount| {
        for size in sizes {
            let found = fs::read(mount.path(&size.to_string())).expect("read");
            assert!(found == noise(size, size as u64), "content of {size} bytes");
        }
    };
    check(&mount);
    mount.restart();
    check(&mount);
}

#[test]
fn writes_land_where_they_are_put() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("writes");
    let path = mount.path("file");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("new");
    let mut model: Vec<u8> = Vec::new();
    let mut dice = Noise::new(1);
    for step in 0..400 {
        let offset = (dice.word() % (3 << 20)) as usize;
        let length = 1 + (dice.word() % if step % 4 == 0 { 200_000 } else { 5_000 }) as usize;
        if step % 25 == 24 {
            // Cut off, or grow with a hole.
            model.resize(offset, 0);
            file.set_len(offset as u64).expect("truncate");
            continue;
        }
        let bytes = noise(length, step);
        if model.len() < offset + length {
            model.resize(offset + length, 0);
        }
        model[offset..offset + length].copy_from_slice(&bytes);
        file.write_all_at(&bytes, offset as u64).expect("write");
        let mut found = vec![0; length + 10];
        let start = offset.saturating_sub(5);
        let count = file.read_at(&mut found, start as u64).expect("read");
        assert!(found[..count] == model[start..start + count], "step {step}");
    }
    assert_eq!(file.metadata().expect("fstat").len(), model.len() as u64);
    drop(file);
    assert!(fs::read(&path).expect("read") == model);
    mount.restart();
    assert!(fs::read(&path).expect("read") == model);
}

#[test]
fn direct_and_buffered_io_agree() {
    if skip_without(&[]) {
        return;
    }
    let mount = Mount::new("direct");
    let path = mount.path("file");
    let open = |flags| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        File::from(rustix::fs::open(&path, flags | OFlags::CREATE, mode).expect("open"))
    };
    let (direct, buffered) = (open(OFlags::RDWR | OFlags::DIRECT), open(OFlags::RDWR));
    // Memory for O_DIRECT begins on a block boundary.
    let mut memory = vec![0; 5 * 4096];
    let start = memory.as_ptr().align_offset(4096);
    let block = &mut memory[start..start + 4 * 4096];
    block.copy_from_slice(&noise(4 * 4096, 1));
    direct.write_all_at(block, 4096).expect("direct write");
    let mut found = vec![0; 4 * 4096];
    buffered.read_exact_at(&mut found, 4096).expect("buffered read");
    assert!(found == block, "a buffered read sees a direct write");
    buffered.write_all_at(b"changed", 5000).expect("buffered write");
    direct.read_exact_at(block, 4096).expect("direct read");
    assert_eq!(&block[5000 - 4096..][..7], b"changed", "a direct read sees a buffered write");
}

#[test]
fn open_flags_are_honoured() {
    if skip_without(&[]) {
        return;
    }
    let mount = Mount::new("flags");
    let path = mount.path("file");
    fs::write(&path, "one").expect("write");
    let exclusive = File::create_new(&path).expect_err("it exists");
    assert_eq!(exclusive.kind(), ErrorKind::AlreadyExists);
    let mut appending = OpenOptions::new().append(true).open(&path).expect("open");
    let mut other = OpenOptions::new().append(true).open(&path).expect("open");
    appending.write_all(b" two").expect("append");
    other.write_all(b" three").expect("append");
    assert_eq!(fs::read_to_string(&path).expect("read"), "one two three");
    let mut truncated = File::create(&path).expect("truncate");
    assert_eq!(fs::metadata(&path).expect("stat").len(), 0);
    truncated.seek(SeekFrom::Start(3)).expect("seek");
    truncated.write_all(b"x").expect("write");
    assert_eq!(fs::read(&path).expect("read"), b"\0\0\0x");
    assert_eq!(File::open(mount.path("none")).expect_err("absent").kind(), ErrorKind::NotFound);
    let below = File::open(mount.path("file/below")).expect_err("not a folder");
    assert_eq!(below.kind(), ErrorKind::NotADirectory);
    let long = fs::write(mount.path(&"n".repeat(256)), "").expect_err("too long");
    assert_eq!(long.kind(), ErrorKind::InvalidFilename);
    fs::write(mount.path(&"n".repeat(255)), "").expect("255 bytes are a name");
}

#[test]
fn folders_list_what_is_in_them() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("folders");
    let dir = mount.path("dir");
    fs::create_dir(&dir).expect("mkdir");
    assert_eq!(fs::create_dir(&dir).expect_err("it exists").kind(), ErrorKind::AlreadyExists);
    let mut want = BTreeSet::new();
    for n in 0..3_000 {
        let name = format!("name-{n}");
        if n % 10 == 0 {
            fs::create_dir(dir.join(&name)).expect("mkdir");
        } else {
            fs::write(dir.join(&name), "").expect("create");
        }
        want.insert(name);
    }
    assert_eq!(names(&dir), want);
    assert_eq!(fs::metadata(&dir).expect("stat").nlink(), 2 + 300);
    let full = fs::remove_dir(&dir).expect_err("it has entries");
    assert_eq!(full.kind(), ErrorKind::DirectoryNotEmpty);
    mount.restart();
    assert_eq!(names(&dir), want);
    // Removing while listing must neither skip nor repeat what stays.
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(&dir).expect("a folder") {
        let entry = entry.expect("an entry");
        assert!(seen.insert(entry.file_name().into_string().expect("text")), "listed twice");
        if entry.file_type().expect("a kind").is_dir() {
            fs::remove_dir(entry.path()).expect("rmdir");
        } else {
            fs::remove_file(entry.path()).expect("unlink");
        }
    }
    assert_eq!(seen, want);
    fs::remove_dir(&dir).expect("it is empty now");
}

#[test]
fn renames_replace_and_refuse() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("renames");
    let at = |name: &str| mount.site.mount_point().join(name);
    fs::create_dir_all(at("a/b")).expect("mkdir");
    fs::create_dir(at("empty")).expect("mkdir");
    fs::write(at("one"), "1").expect("write");
    fs::write(at("two"), "2").expect("write");
    fs::rename(at("one"), at("two")).expect("over a file");
    assert_eq!(fs::read_to_string(at("two")).expect("read"), "1");
    assert!(!at("one").exists());
    fs::rename(at("two"), at("a/b/two")).expect("to another folder");
    let kind = |from: &str, to: &str| fs::rename(at(from), at(to)).expect_err("refused").kind();
    assert_eq!(kind("a", "a/b/inside"), ErrorKind::InvalidInput);
    assert_eq!(kind("empty", "a"), ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind("a/b/two", "empty"), ErrorKind::IsADirectory);
    assert_eq!(kind("empty", "a/b/two"), ErrorKind::NotADirectory);
    assert_eq!(kind("none", "some"), ErrorKind::NotFound);
    fs::rename(at("a"), at("empty")).expect("over an empty folder");
    assert_eq!(fs::read_to_string(at("empty/b/two")).expect("read"), "1");
    fs::write(at("three"), "3").expect("write");
    let from = File::open(mount.dir()).expect("open");
    let refused = rustix::fs::renameat_with(&from, "three", &from, "empty", RenameFlags::NOREPLACE);
    assert_eq!(refused, Err(rustix::io::Errno::EXIST));
    // Whoever holds a folder open keeps the mount busy.
    drop(from);
    mount.restart();
    assert_eq!(fs::read_to_string(mount.path("empty/b/two")).expect("read"), "1");
    assert_eq!(names(&mount.dir()), BTreeSet::from(["empty".to_owned(), "three".to_owned()]));
}

#[test]
fn links_share_and_point() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("links");
    let (one, two, soft) = (mount.path("one"), mount.path("two"), mount.path("soft"));
    fs::write(&one, "shared").expect("write");
    fs::hard_link(&one, &two).expect("link");
    let (first, second) = (fs::metadata(&one).expect("stat"), fs::metadata(&two).expect("stat"));
    assert_eq!((first.ino(), first.nlink(), second.nlink()), (second.ino(), 2, 2));
    let occupied = fs::hard_link(&one, &two).expect_err("it exists");
    assert_eq!(occupied.kind(), ErrorKind::AlreadyExists);
    fs::create_dir(mount.path("dir")).expect("mkdir");
    fs::hard_link(mount.path("dir"), mount.path("dir2")).expect_err("folders have no links");
    symlink("two", &soft).expect("symlink");
    assert_eq!(fs::read_to_string(&soft).expect("through the link"), "shared");
    assert!(fs::symlink_metadata(&soft).expect("lstat").is_symlink());
    let long = "x".repeat(4000);
    symlink(&long, mount.path("long")).expect("symlink");
    fs::remove_file(&one).expect("unlink");
    mount.restart();
    assert_eq!(fs::read_to_string(&soft).expect("through the link"), "shared");
    assert_eq!(fs::metadata(&two).expect("stat").nlink(), 1);
    assert_eq!(fs::read_link(mount.path("long")).expect("readlink"), Path::new(&long));
    fs::remove_file(&two).expect("unlink");
    assert_eq!(fs::read(&soft).expect_err("dangling").kind(), ErrorKind::NotFound);
}

#[test]
fn attributes_are_kept() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = Mount::new("attributes");
    let path = mount.path("file");
    fs::write(&path, noise(10_000, 1)).expect("write");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o4751)).expect("chmod");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(1234), Some(4321)).expect("chown");
        // chown takes the set-user-id bit away, as everywhere.
        fs::set_permissions(&path, PermissionsExt::from_mode(0o4751)).expect("chmod");
    }
    let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let times = fs::FileTimes::new().set_modified(long_ago).set_accessed(long_ago);
    File::options().write(true).open(&path).expect("open").set_times(times).expect("utimens");
    let before = fs::metadata(&path).expect("stat");
    assert_eq!(before.mode() & 0o7777, 0o4751);
    assert_eq!(before.modified().expect("mtime"), long_ago);
    assert_eq!(before.len(), 10_000);
    mount.restart();
    let after = fs::metadata(&path).expect("stat");
    let visible = |meta: &fs::Metadata| {
        (meta.mode(), meta.uid(), meta.gid(), meta.len(), meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!(visible(&after), visible(&before));
    assert_eq!((after.ino(), after.ctime_nsec()), (before.ino(), before.ctime_nsec()));
    fs::write(&path, "new").expect("write");
    assert!(fs::metadata(&path).expect("stat").modified().expect("mtime") > long_ago);
    let umask = run(&mut shell(&mount.dir(), "umask 027; touch a; stat -c %a a"));
    assert_eq!(umask.trim(), "640");
}

#[test]
fn permissions_are_enforced() {
    if skip_without_root() || skip_without(&["setpriv"]) {
        return;
    }
    let mount = Mount::new("permissions");
    fs::write(mount.path("secret"), "s").expect("write");
    fs::set_permissions(mount.path("secret"), PermissionsExt::from_mode(0o600)).expect("chmod");
    fs::write(mount.path("public"), "p").expect("write");
    let as_nobody = |line: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", line]);
        // The folders above may be closed to others, a working folder that is already open is not.
        finish(command.current_dir(mount.dir())).success()
    };
    assert!(as_nobody("cat public"));
    assert!(!as_nobody("cat secret"));
    assert!(!as_nobody("echo x > public"));
    assert!(!as_nobody("touch new"));
    assert!(!as_nobody("rm -f public"));
}

#[test]
fn a_removed_file_lives_until_it_is_closed() {
    if skip_without(&[]) {
        return;
    }
    let mount = Mount::new("removed");
    let path = mount.path("file");
    let content = noise(300_000, 1);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(&path).expect("new");
    file.write_all_at(&content, 0).expect("write");
    fs::remove_file(&path).expect("unlink");
    assert!(names(&mount.dir()).is_empty());
    file.write_all_at(b"more", 300_000).expect("write");
    let mut found = Vec::new();
    (&file).read_to_end(&mut found).expect("read");
    assert!(found[..300_000] == content && &found[300_000..] == b"more");
    assert_eq!(file.metadata().expect("fstat").nlink(), 0);
    // A file renamed over keeps its content for those who have it open, too.
    fs::write(&path, "old").expect("write");
    let mut old = File::open(&path).expect("open");
    fs::write(mount.path("new"), "new").expect("write");
    fs::rename(mount.path("new"), &path).expect("rename");
    let mut text = String::new();
    old.read_to_string(&mut text).expect("read");
    assert_eq!(text, "old");
}

#[test]
fn many_threads_share_a_folder() {
    if skip_without(&[]) {
        return;
    }
    let mount = Mount::new("threads");
    let dir = mount.dir();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let dir = &dir;
            scope.spawn(move || {
                for n in 0..100 {
                    let (old, new) =
                        (dir.join(format!("o{thread}-{n}")), dir.join(format!("n{thread}-{n}")));
                    fs::write(&old, noise(5_000, n)).expect("write");
                    fs::rename(&old, &new).expect("rename");
                    assert!(fs::read(&new).expect("read") == noise(5_000, n));
                    if n % 2 == 0 {
                        fs::remove_file(&new).expect("unlink");
                    }
                }
            });
        }
    });
    assert_eq!(names(&dir).len(), 8 * 50);
    // Of many that create the same name, one may.
    let winners = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                if File::create_new(dir.join("one")).is_ok() {
                    winners.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(winners.into_inner(), 1);
}

#[test]
fn the_mount_shows_its_name_and_size() {
    if skip_without(&[]) {
        return;
    }
    let mount = Mount::new("shown");
    let df = run(Command::new("df").arg("-P").arg(mount.dir()));
    assert!(df.contains("hf3fs.shown"), "{df}");
    let found = rustix::fs::statvfs(mount.dir()).expect("statfs");
    assert!(found.f_blocks > 0 && found.f_bavail > 0 && found.f_bavail <= found.f_blocks);
    assert!(found.f_namemax >= 255);
    rustix::fs::accessat(
        rustix::fs::CWD,
        mount.dir(),
        rustix::fs::Access::WRITE_OK,
        AtFlags::empty(),
    )
    .expect("access");
}
