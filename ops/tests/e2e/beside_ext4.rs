//! Goal: programs that look at times, space and holes get from the mount what ext4 tells them.
//! Method: the same command lines on the mount and on ext4 on a loop device, their output compared
//! line by line. Where the two may differ it says so: a hole is at least a chunk of 1 MiB here, and
//! a page there.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Dir, SeekFrom, seek};
use rustix::io::Errno;
use t3fs_ops::command;
use t3fs_ops::noise::Noise;

use crate::harness::{Mount, Parts, binary, run, shell, skip_without, skip_without_root};
use crate::loop_disk::LoopDisk;

const LINE_LIMIT: Duration = Duration::from_secs(60);
const CHUNK: u64 = 1 << 20;

/// The mount and an ext4 file system, and what differed.
struct Beside {
    // Dropped in this order.
    mount: Mount,
    disk: LoopDisk,
    _place: tempfile::TempDir,
    different: Vec<String>,
}

/// What every command line may use.
const HELPERS: &str = "
    export LC_ALL=C TZ=UTC
    # Whether a time (Y: of content, X: of the last read) is that of now.
    is_now() {
        local t; t=$(($(date +%s) - $(stat -c %$1 $2)))
        [ ${t#-} -lt 1000 ] && echo now || echo then
    }
    mtime() { stat -c %Y $1; }
    # What a command says, without what it says of paths.
    says() { if \"$@\" 2>said; then echo done; else sed 's/.*: //' said; fi; }
";

impl Beside {
    fn new(name: &str) -> Beside {
        let mount = Mount::new(name);
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let disk = LoopDisk::new(place.path(), 256);
        Beside { mount, disk, _place: place, different: Vec::new() }
    }

    fn roots(&self) -> [PathBuf; 2] {
        [self.mount.dir(), self.disk.dir.clone()]
    }

    /// Runs the line in a new folder `what` on both; it must print the same. $ROOT is where the
    /// file system is mounted.
    fn same(&mut self, what: &str, line: &str) {
        self.compare(what, "", line);
    }

    /// The same where mount(8) finds our helpers: `/sbin` is covered by one that has the links.
    fn same_with_helpers(&mut self, what: &str, line: &str) {
        let covered = "
            mount -t tmpfs tmpfs $SBIN; mkdir $SBIN/up $SBIN/work
            over=lowerdir=/usr/sbin,upperdir=$SBIN/up,workdir=$SBIN/work
            mount -t overlay -o $over overlay /usr/sbin
            ln -s $NODE /sbin/mount.fuse.t3fs; ln -s $NODE /sbin/mount.t3fs
            cd $PWD";
        self.compare(what, covered, line);
    }

    fn compare(&mut self, what: &str, first: &str, line: &str) {
        let sbin = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let [here, there] = self.roots().map(|root| {
            let dir = root.join(what.replace(' ', "-"));
            fs::create_dir(&dir).expect("a folder");
            let inner = format!("{first}\n{HELPERS}\n{line}");
            let mut shell = match first {
                "" => shell(&dir, &inner),
                _ => shell(&dir, "exec unshare --mount bash -euo pipefail -c \"$INNER\""),
            };
            shell.env("INNER", &inner).env("SBIN", sbin.path()).env("NODE", binary());
            match command::finish(shell.env("ROOT", &root), LINE_LIMIT) {
                Ok(done) => format!("{}{}({})", done.stdout, done.stderr, done.status),
                Err(why) => format!("it hangs: {why}"),
            }
        });
        // Two that fail alike show nothing.
        assert!(there.ends_with("(exit status: 0)"), "{what}: the line itself is wrong: {there}");
        let (here, there): (Vec<_>, Vec<_>) = (here.lines().collect(), there.lines().collect());
        let lines = here.len().max(there.len());
        let differ = |n: &usize| here.get(*n) != there.get(*n);
        let shown =
            |n: usize| format!("line {}: {:?}, ext4 {:?}", n + 1, here.get(n), there.get(n));
        let wrong: Vec<String> = (0..lines).filter(differ).map(shown).collect();
        println!("{what}: {lines} tried, {} wrong", wrong.len());
        if !wrong.is_empty() {
            self.different.push(format!("{what}:\n    {}", wrong.join("\n    ")));
        }
    }

    /// For what is compared in another way.
    fn expect(&mut self, what: &str, outcome: Result<(), String>) {
        println!("{what}: 1 tried, {} wrong", u32::from(outcome.is_err()));
        self.different.extend(outcome.err().map(|why| format!("{what}: {why}")));
    }

    #[track_caller]
    fn finish(self) {
        assert!(self.different.is_empty(), "not as on ext4:\n{}", self.different.join("\n"));
    }
}

fn skip(tools: &[&str]) -> bool {
    skip_without_root() || skip_without(&[tools, &["mkfs.ext4", "mount", "umount"]].concat())
}

#[test]
fn rsync_takes_every_change() {
    if skip(&["rsync"]) {
        return;
    }
    let mut both = Beside::new("rsync");
    let sync =
        "mkdir src dst; sync() { rsync -a --out-format=%n src/ dst/ | grep -v '/$' || true; }";
    let lines = [
        // The later one is older: a time that only moves forward would stay.
        (
            "older",
            "echo one >src/f; touch -d 2020-01-01 src/f; sync; mtime dst/f
             echo two >src/f; touch -d 2019-01-01 src/f; sync; cat dst/f; mtime dst/f
             sync",
        ),
        (
            "newer",
            "echo one >src/f; touch -d 2019-01-01 src/f; sync
             echo two >src/f; touch -d 2020-01-01 src/f; sync; cat dst/f; mtime dst/f
             sync",
        ),
        // Same length, and a time that a change must bring back.
        (
            "from the future",
            "echo one >src/f; touch -d 2030-01-01 src/f; sync; mtime dst/f
             echo two >src/f; is_now Y src/f; sync; cat dst/f; is_now Y dst/f
             sync",
        ),
        (
            "written over, from the future",
            "echo one >src/f; touch -d 2030-01-01 src/f; sync
             printf two | dd of=src/f conv=notrunc status=none; is_now Y src/f; sync; cat dst/f
             echo one >src/g; touch -d 2030-01-01 src/g; sync
             printf two | dd of=dst/g conv=notrunc status=none
             is_now Y dst/g; sync; cat dst/g",
        ),
        (
            "changed there",
            "echo one >src/f; touch -d 2030-01-01 src/f; sync
             echo two >dst/f; is_now Y dst/f; sync; cat dst/f; mtime dst/f; sync",
        ),
        (
            "in place",
            "echo one >src/f; touch -d 2030-01-01 src/f; sync; echo two >src/f
             touch -d 2021-01-01 src/f; rsync -a --inplace src/ dst/; cat dst/f
             mtime dst/f",
        ),
        (
            "a tree",
            "for n in 1 2 3; do mkdir src/$n; head -c ${n}00000 /dev/zero >src/$n/f; done
             touch -d 2018-01-01 src/2; ln -s 1/f src/l; ln src/1/f src/3/h; sync | sort
             rsync -aHcn --itemize-changes src/ dst/; mtime dst/2; sync",
        ),
    ];
    for (what, line) in lines {
        both.same(what, &format!("{sync}\n{line}"));
    }
    both.finish();
}

#[test]
fn times_follow_what_is_done() {
    if skip(&["find", "touch", "stat", "dd", "truncate", "tar"]) {
        return;
    }
    let mut both = Beside::new("times");
    let lines = [
        (
            "a write after touch",
            "echo a >f; touch -d 2030-01-01 f; mtime f; echo b >>f; is_now Y f
             touch -d 2030-01-01 f; printf x | dd of=f conv=notrunc status=none; is_now Y f
             touch -d 2030-01-01 f; : >f; is_now Y f
             touch -d 2030-01-01 f; truncate -s 10 f; is_now Y f
             touch -d 2030-01-01 f; truncate -s 10 f; is_now Y f",
        ),
        (
            "what is told stays",
            "echo a >f; touch -d 2001-02-03T04:05:06.7 f; stat -c %y f; cat f
             chmod 600 f; ln f g; mv g h; stat -c %y f; cp -p f c; stat -c %y c
             tar -cf t f; mkdir o; tar -xf t -C o; mtime o/f",
        ),
        (
            "an open file",
            "exec 3>>f; echo a >&3; touch -d 2001-01-01 f; mtime f
             exec 3>&-; mtime f; exec 3>>f; touch -d 2030-01-01 f; echo b >&3; is_now Y f
             exec 3>&-; is_now Y f; touch -d 2030-01-01 f; exec 3>>f; exec 3>&-; mtime f",
        ),
        (
            "a large write, then touch",
            "head -c 3000000 /dev/zero >f; touch -d 2001-01-01 f; mtime f
             sync f; mtime f; sleep 2; mtime f; cp f g; touch -r f g; mtime g",
        ),
        (
            "folders",
            "mkdir d; touch -d 2030-01-01 d; echo >d/a; is_now Y d
             touch -d 2030-01-01 d; mv d/a d/b; is_now Y d; touch -d 2030-01-01 d; rm d/b
             is_now Y d
             mkdir d/e; touch -d 2030-01-01 d; echo >d/e/f; mtime d",
        ),
        (
            "find",
            "mkdir t; for n in a b c d; do echo $n >t/$n; done; touch -d 2020-05-05 t/a
             touch -d 2030-01-01 t/b t/c; echo more >>t/b
             find t -newermt 2025-01-01 | sort; find t ! -newermt 2025-01-01 | sort
             find t -newermt 2029-01-01 | sort
             find t -newer t/a | sort; find t -mmin -5 | sort; find t -mtime +300",
        ),
        (
            "reads",
            "echo a >f; touch -a -d 2001-01-01 f; cat f; is_now X f; sync f; is_now X f
             touch -a -d '-7200 seconds' f; touch -m -d '-10000 seconds' f; cat f; is_now X f
             touch -m f; sleep 1.1; cat f; is_now X f
             touch -a -d '-7200 seconds' f; touch -m -d '-3600 seconds' f; cat f; is_now X f
             mkdir d; echo >d/a; touch -a -d 2001-01-01 d; ls d; is_now X d",
        ),
    ];
    for (what, line) in lines {
        both.same(what, line);
    }
    both.finish();
}

#[test]
fn space_and_holes_are_as_they_are() {
    if skip(&["du", "tar", "cp", "cmp", "truncate", "dd"]) {
        return;
    }
    let mut both = Beside::new("holes");
    // 20 MiB, of which the sixth has something in it.
    let sparse = "truncate -s 20M s
                  head -c 1048576 /dev/urandom | dd of=s bs=1M seek=5 conv=notrunc status=none
                  # Up to one chunk more for each piece of data counts as the same.
                  about() {
                      [ $1 -ge $2 ] && [ $1 -le $(($2 + 1024)) ] && echo $2 || echo \"$1 for $2\"
                  }
                  used() { sync $1; about $(du -k $1 | cut -f1) $2; }";
    let lines = [
        (
            "du of plain files",
            "for n in 4096 40960 1048576 5242880; do head -c $n /dev/urandom >f$n; done
             sync f*; du -k f*; du -k --apparent-size f*; stat -c '%s %b %B' f*",
        ),
        (
            "du of sparse files",
            "used s 1024; du -k --apparent-size s; truncate -s 100G h; used h 0
             stat -c %s h; truncate -s 0 h; used h 0; truncate -s 5M s; used s 0",
        ),
        (
            "tar -S",
            "sync s; tar -cSf t s; about $(($(stat -c %s t) / 1024)) 1030; mkdir o
             tar -xSf t -C o
             cmp s o/s; used o/s 1024; stat -c %s o/s",
        ),
        (
            "cp --sparse",
            "cp --sparse=always s a; cmp s a; used a 1024; cp --sparse=auto s b; cmp s b
             used b 1024; head -c 20971520 /dev/zero >z; used z 20480; cp --sparse=always z c
             cmp z c
             used c 0; cp --sparse=never s d; cmp s d; used d 20480",
        ),
        ("rm", "used s 1024; rm s; stat s 2>/dev/null || echo gone"),
    ];
    for (what, line) in lines {
        both.same(what, &format!("{sparse}\n{line}"));
    }
    let [here, there] = both.roots();
    for (root, name) in [(&here, "holes, on the mount"), (&there, "holes, on ext4")] {
        both.expect(name, holes_are_told(&root.join("map")));
    }
    both.mount.restart();
    let again = fs::File::open(here.join("map")).map_err(|e| e.to_string());
    both.expect("holes, after a restart", again.and_then(|file| compare_map(&file)));
    both.finish();
}

/// Chunks of the file that hold data, whole or in part.
const FILLED: [u64; 5] = [0, 3, 4, 9, 12];
const CHUNKS: u64 = 20;

/// SEEK_DATA and SEEK_HOLE of a file, before and after its data is synced.
fn holes_are_told(path: &Path) -> Result<(), String> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(path).expect("a file");
    file.set_len(CHUNKS * CHUNK).expect("20 MiB");
    for chunk in FILLED {
        // Of the last only a part.
        let (from, length) = if chunk == 12 { (100, 5_000) } else { (0, CHUNK as usize) };
        file.write_all_at(&vec![1; length], chunk * CHUNK + from).expect("write");
    }
    compare_map(&file).map_err(|why| format!("not synced: {why}"))?;
    file.sync_all().expect("fsync");
    compare_map(&file).map_err(|why| format!("synced: {why}"))
}

/// Every byte of data is told as data, and every chunk without any as a hole.
fn compare_map(file: &File) -> Result<(), String> {
    for chunk in 0..CHUNKS {
        let start = chunk * CHUNK;
        let (data, hole) = (seek(file, SeekFrom::Data(start)), seek(file, SeekFrom::Hole(start)));
        let right = if FILLED.contains(&chunk) {
            // Where data begins, and that it does not end before it does.
            let (begins, ends) = if chunk == 12 { (100, 5_100) } else { (0, CHUNK) };
            let begins = start..=start + begins;
            data.is_ok_and(|at| begins.contains(&at))
                && (chunk == 12 || hole.is_ok_and(|at| at >= start + ends))
        } else {
            let next = FILLED.iter().copied().find(|filled| *filled > chunk).map(|n| n * CHUNK);
            let in_next = |at| next.is_some_and(|next| (next..=next + 100).contains(&at));
            hole == Ok(start)
                && match data {
                    Ok(at) => in_next(at),
                    Err(error) => error == Errno::NXIO && next.is_none(),
                }
        };
        if !right {
            return Err(format!("from chunk {chunk}: data at {data:?}, a hole at {hole:?}"));
        }
    }
    // Inside the part that is written nothing is a hole.
    let inside = seek(file, SeekFrom::Hole(12 * CHUNK + 200)).map_err(|e| e.to_string())?;
    if inside < 12 * CHUNK + 5_100 {
        return Err(format!("a hole at {inside}, in data"));
    }
    let end = CHUNKS * CHUNK;
    match (seek(file, SeekFrom::Data(end)), seek(file, SeekFrom::Hole(end))) {
        (Err(Errno::NXIO), Err(Errno::NXIO)) => Ok(()),
        other => Err(format!("at the end: {other:?}")),
    }
}

/// A position of a listing stays what it is when names before it are removed.
#[test]
fn positions_of_a_listing_stay() {
    if skip(&[]) {
        return;
    }
    let mut both = Beside::new("positions");
    for (root, name) in both.roots().iter().zip(["on the mount", "on ext4"]) {
        for seed in 0..5 {
            let outcome = positions_stay(&root.join(format!("d{seed}")), seed);
            both.expect(&format!("positions {name}, {seed}"), outcome);
        }
    }
    both.finish();
}

fn positions_stay(dir: &Path, seed: u64) -> Result<(), String> {
    const NAMES: usize = 300;
    fs::create_dir(dir).expect("a folder");
    for n in 0..NAMES {
        fs::write(dir.join(format!("name-{n}")), "").expect("a file");
    }
    let mut dice = Noise::new(seed);
    let listed = fs::File::open(dir).expect("the folder");
    let mut listing = Dir::read_from(&listed).map_err(|e| e.to_string())?;
    let mut before = Vec::new();
    let mut position = 0;
    let stop = 20 + (dice.word() % 200) as usize;
    while before.len() < stop {
        let entry = listing.read().ok_or("it ended early")?.map_err(|e| e.to_string())?;
        position = entry.offset();
        before.push(entry.file_name().to_string_lossy().into_owned());
    }
    let mut rest = names_from(&mut listing)?;
    // Most of what came before, and some of what comes.
    for name in before.iter().filter(|name| name.starts_with("name")) {
        if !dice.word().is_multiple_of(4) {
            fs::remove_file(dir.join(name)).map_err(|e| e.to_string())?;
        }
    }
    rest.retain(|name| {
        let stays = !name.starts_with("name") || !dice.word().is_multiple_of(4);
        if !stays {
            fs::remove_file(dir.join(name)).expect("unlink");
        }
        stays
    });
    listing.seek(position).map_err(|e| format!("seek: {e}"))?;
    let found = names_from(&mut listing)?;
    if found == rest {
        return Ok(());
    }
    let missing = rest.iter().filter(|name| !found.contains(name)).count();
    let more = found.iter().filter(|name| !rest.contains(name)).count();
    Err(format!("from where {stop} were read: {missing} of {} missing, {more} more", rest.len()))
}

fn names_from(listing: &mut Dir) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    while let Some(entry) = listing.read() {
        let entry = entry.map_err(|e| e.to_string())?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// What is tried on a file system that is read-only.
const READ_ONLY: &str =
    "says cat f; says bash -c 'echo y >f'; says touch g; says mkdir d; says rm f
    says mv f g; says chmod 600 f; says ln f g; says cat f";

#[test]
fn a_mount_becomes_read_only_and_back() {
    if skip(&[]) {
        return;
    }
    let mut both = Beside::new("remount");
    let words =
        "grep \" $ROOT \" /proc/self/mounts | cut -d' ' -f4 | tr , '\\n' | grep -E '^(ro|rw)$'";
    // Errors of programs go to a place that can be written.
    let outside = "cd /tmp && D=$OLDPWD && T=$(mktemp -d) && cd $T && ln -s $D dir && cd dir
                   says() { if \"$@\" 2>$T/said; then echo done; else sed 's/.*: //' $T/said
                   fi; }";
    let line = format!(
        "echo x >f; {outside}
         exec 3>>f; says mount -o remount,ro $ROOT | grep -q busy && echo busy; exec 3>&-
         {words}; mount -o remount,ro $ROOT; {words}
         {READ_ONLY}
         mount -o remount,rw $ROOT; {words}
         says bash -c 'echo z >f'; says mkdir d; cat f"
    );
    both.same_with_helpers("remount", &line);
    let line = format!(
        "printf '#!/bin/sh\\necho ran\\n' >p; chmod +x p; says ./p
         mount -o remount,noexec $ROOT; says ./p; mount -o remount,exec $ROOT; says ./p; {words}"
    );
    both.same_with_helpers("remount noexec", &line);
    both.finish();
}

/// Options of fstab, through mount(8) and its helper. Method: /sbin is covered by one that has the
/// helper, for the mount's own processes only.
#[test]
fn options_of_fstab_hold() {
    if skip(&["unshare"]) {
        return;
    }
    let mut parts = Parts::new("fstab", None);
    parts.all_in_one();
    let first = parts.mount("first");
    let prepare = "printf '#!/bin/sh\\necho ran\\n' >p; chmod +x p; echo x >f
    cp /usr/bin/id id; chmod 4755 id
                   mknod null c 1 3; chmod 666 null";
    run(&mut shell(&first, prepare));
    parts.down("first");
    let place = parts.site.path("sbin");
    fs::create_dir(&place).expect("a folder");
    symlink(binary(), parts.site.path("mount.t3fs")).expect("a link");
    let dir = parts.site.path("fstab");
    fs::create_dir(&dir).expect("a mount point");
    let disk_place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let disk = LoopDisk::new(disk_place.path(), 64);
    run(&mut shell(&disk.dir, prepare));
    run(Command::new("umount").arg(&disk.dir));

    let secret = parts.site.path("secret");
    let state = parts.site.path("fstab.state");
    let cluster =
        format!("cluster_id=fstab,secret_file={},state={}", secret.display(), state.display());
    let source = parts.command([""; 0]).get_envs().find_map(|(key, value)| {
        (key == "T3FS_CLUSTER").then(|| value.expect("set").to_string_lossy().into_owned())
    });
    let mut different = Vec::new();
    for options in [
        "ro,noexec,nodev,nosuid",
        "rw,exec,nodev,suid,_netdev",
        "rw,dev,nosuid,noatime,nofail,x-systemd.automount",
        "defaults,user,noauto,relatime",
        "defaults,strictatime,nodiratime",
    ] {
        let tried = format!(
            "{HELPERS}
             cd $DIR; T=$(mktemp -d)
             says() {{ if \"$@\" 2>$T/said; then echo done; else sed 's/.*: //' $T/said; fi; }}
             grep \" $DIR \" /proc/self/mounts | cut -d' ' -f4 | tr , '\\n' |
                 grep -E '^(ro|rw|noexec|nodev|nosuid|.*atime)$' | sort
             says ./p; says bash -c 'echo y >f'; says bash -c 'echo y >null'; says cat f
             {{ setpriv --reuid 65534 ./id -u 2>&1 || true; }} | sed 's/.*: //'; cd /"
        );
        let here = format!(
            "mount -t tmpfs tmpfs $SBIN; mkdir $SBIN/up $SBIN/work
             over=lowerdir=/usr/sbin,upperdir=$SBIN/up,workdir=$SBIN/work
             mount -t overlay -o $over overlay /usr/sbin
             ln -s $(readlink -f $HELPER) /sbin/mount.t3fs
             mount -t t3fs -o {options},{cluster} {} $DIR >/dev/null
             trap '$NODE down $DIR >/dev/null 2>&1' EXIT
             {tried}",
            source.as_deref().expect("an address"),
        );
        let there = format!("mount -o loop,{options} $DIR/../image $DIR; {tried}");
        let run_in = |script: &str, dir: &Path| {
            let mut inside = Command::new("unshare");
            // Whatever is started in there ends with it.
            inside.args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "bash",
                "-euo",
                "pipefail",
                "-c",
                script,
            ]);
            inside.env("DIR", dir).env("SBIN", &place).env("NODE", binary());
            inside.env("HELPER", parts.site.path("mount.t3fs"));
            match command::finish(&mut inside, LINE_LIMIT) {
                Ok(done) => format!("{}{}({})", done.stdout, done.stderr, done.status),
                Err(why) => format!("it hangs: {why}"),
            }
        };
        let (here, there) = (run_in(&here, &dir), run_in(&there, &disk.dir));
        println!("{options}: 1 tried, {} wrong", u32::from(here != there));
        if here != there {
            different.push(format!("{options}:\n{here}\next4:\n{there}"));
        }
    }
    assert!(different.is_empty(), "not as on ext4:\n{}", different.join("\n"));
}
