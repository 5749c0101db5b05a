//! Tests of the disk's promises, without a world: operations are started and finished by hand.

use super::*;

struct Bench {
    disk: SimDisk,
    rng: Rng,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        Bench { disk: SimDisk::new(0, 1 << 30), rng: Rng::new(seed) }
    }

    fn run(&mut self, op: DiskOp) -> DiskResult {
        let t = self.disk.start(op, 0);
        self.disk.finish(t, &self.rng)
    }

    fn open(&mut self, path: &str, mode: OpenMode) -> Result<(FileId, u64), DiskError> {
        match self.run(DiskOp::Open { path: path.into(), mode })? {
            DiskReply::Opened { file, len } => Ok((file, len)),
            _ => unreachable!("open answers with a file"),
        }
    }

    fn write_op(file: FileId, block: u64, blocks: usize, value: u8) -> DiskOp {
        let buf = DiskBuf(Box::new(vec![value; blocks * ALIGN]));
        DiskOp::Write { file, offset: block * ALIGN as u64, buf }
    }

    fn write(&mut self, file: FileId, block: u64, value: u8) {
        assert!(self.run(Bench::write_op(file, block, 1, value)).is_ok());
    }

    fn sync(&mut self, file: FileId) {
        assert!(self.run(DiskOp::Sync { file }).is_ok());
    }

    fn sync_dir(&mut self) {
        assert!(self.run(DiskOp::SyncDir { path: String::new() }).is_ok());
    }
}

/// Goal: what was synced, name and content, survives every crash; what was not may be old, new or
/// mixed by sectors, and over many seeds is each of these.
#[test]
fn a_crash_takes_only_what_was_not_synced() {
    let (mut old, mut new, mut torn) = (0, 0, 0);
    for seed in 0..400 {
        let mut b = Bench::new(seed);
        let (f, _) = b.open("a", OpenMode::New).unwrap();
        b.write(f, 0, 1);
        b.write(f, 1, 1);
        b.sync(f);
        b.sync_dir();
        b.write(f, 0, 2);
        b.disk.crash(&b.rng);
        let bytes = b.disk.peek("a").expect("a synced name stays");
        assert_eq!(bytes.len(), 2 * ALIGN);
        assert!(bytes[ALIGN..].iter().all(|x| *x == 1));
        let twos = bytes[..ALIGN].iter().filter(|x| **x == 2).count();
        assert!(twos.is_multiple_of(512));
        match twos {
            0 => old += 1,
            ALIGN => new += 1,
            _ => torn += 1,
        }
    }
    assert!(old > 40 && new > 40 && torn > 20, "old {old} new {new} torn {torn}");
}

/// Goal: a sync covers the writes that completed before it was called, not those that completed
/// while it ran.
#[test]
fn a_sync_covers_what_completed_before_it() {
    let mut lost = 0;
    for seed in 0..200 {
        let mut b = Bench::new(seed);
        let (f, _) = b.open("a", OpenMode::New).unwrap();
        b.sync_dir();
        b.write(f, 0, 1);
        let early = b.disk.start(Bench::write_op(f, 1, 1, 1), 0);
        let sync = b.disk.start(DiskOp::Sync { file: f }, 0);
        b.disk.finish(early, &b.rng).unwrap();
        b.disk.finish(sync, &b.rng).unwrap();
        b.disk.crash(&b.rng);
        let bytes = b.disk.peek("a").unwrap();
        assert!(bytes[..ALIGN].iter().all(|x| *x == 1));
        lost += u32::from(bytes.len() == ALIGN || bytes[ALIGN..].contains(&0));
    }
    assert!(lost > 20, "{lost}");
}

/// Goal: a name that was not synced may go or stay; where it stays its synced content is there, and
/// a rename shows the file under the old or the new name, never under none.
#[test]
fn names_need_their_folder_synced() {
    let (mut gone, mut there) = (0, 0);
    for seed in 0..200 {
        let mut b = Bench::new(seed);
        let (f, _) = b.open("new", OpenMode::New).unwrap();
        b.write(f, 0, 7);
        b.sync(f);
        b.disk.crash(&b.rng);
        match b.disk.peek("new") {
            None => gone += 1,
            Some(bytes) => {
                there += 1;
                assert_eq!(bytes, vec![7; ALIGN]);
            }
        }
        let mut b = Bench::new(seed);
        let (f, _) = b.open("a", OpenMode::New).unwrap();
        b.write(f, 0, 7);
        b.sync(f);
        b.sync_dir();
        b.run(DiskOp::Rename { from: "a".into(), to: "b".into() }).unwrap();
        b.disk.crash(&b.rng);
        assert_ne!(b.disk.peek("a").is_some(), b.disk.peek("b").is_some());
    }
    assert!(gone > 20 && there > 20, "gone {gone} there {there}");
}

/// Goal: a killed process loses nothing that it had written.
#[test]
fn a_kill_keeps_what_was_written() {
    for seed in 0..50 {
        let mut b = Bench::new(seed);
        let (f, _) = b.open("a", OpenMode::New).unwrap();
        b.write(f, 0, 3);
        b.disk.kill(&b.rng);
        assert_eq!(b.disk.peek("a").unwrap(), vec![3; ALIGN]);
    }
}

/// Goal: a snapshot goes its own way. Method: many crash states from one moment, none disturbs it.
#[test]
fn a_snapshot_is_independent() {
    let mut b = Bench::new(1);
    let (f, _) = b.open("a", OpenMode::New).unwrap();
    b.sync_dir();
    for block in 0..200 {
        b.write(f, block, 1);
    }
    b.sync(f);
    b.write(f, 3, 2);
    let before = b.disk.peek("a");
    for seed in 0..100 {
        let mut copy = b.disk.clone();
        copy.crash(&Rng::new(seed));
    }
    assert_eq!(b.disk.peek("a"), before);
}

/// Goal: space is counted: a full disk refuses, punching and removing give space back.
#[test]
fn space_is_finite() {
    let mut b = Bench::new(1);
    b.disk.set_capacity(4 * ALIGN as u64);
    let (f, _) = b.open("a", OpenMode::New).unwrap();
    b.run(DiskOp::Allocate { file: f, offset: 0, len: 4 * ALIGN as u64 }).unwrap();
    b.write(f, 0, 1);
    assert_eq!(b.run(Bench::write_op(f, 4, 1, 1)).err(), Some(DiskError::NoSpace));
    b.run(DiskOp::Punch { file: f, offset: 0, len: ALIGN as u64 }).unwrap();
    assert_eq!(b.disk.space().free, ALIGN as u64);
    b.run(DiskOp::Remove { path: "a".into() }).unwrap();
    assert_eq!(b.disk.space().free, ALIGN as u64, "open files keep their space");
    b.run(DiskOp::Close { file: f }).unwrap();
    b.sync_dir();
    assert_eq!(b.disk.space().free, 4 * ALIGN as u64);
}
