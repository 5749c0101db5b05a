//! Goal: with `--replicas 3` every chunk lies on three disks and is the same there. Method: the
//! product's own `check` must say so, must notice a damaged copy, and, independently of it, every
//! piece of what was written must be found in the files of each data folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use t3fs_ops::noise::Noise;

use crate::harness::{Mount, Site, finish, run, skip_without, t3fs};

const MARKERS: u64 = 128;
const PIECE: usize = 64 << 10;
/// The default of a new file.
const CHUNK: u64 = 1 << 20;

/// A piece of file content that is found again on a disk by its first bytes.
fn piece(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; PIECE];
    Noise::new(number).fill(&mut bytes);
    bytes
}

/// Where in the files below `dir` each of the pieces begins, for the pieces that are there.
fn find_pieces(dir: &Path) -> Vec<(u64, PathBuf, u64)> {
    const HEAD: usize = 16;
    const WINDOW: usize = 4 << 20;
    let heads: BTreeMap<Vec<u8>, u64> =
        (0..MARKERS).map(|number| (piece(number)[..HEAD].to_vec(), number)).collect();
    // Data may begin at any byte (a journal record does), so all are looked at: first at two of
    // them.
    let mut may_begin = vec![false; 1 << 16];
    for head in heads.keys() {
        may_begin[usize::from(u16::from_le_bytes([head[0], head[1]]))] = true;
    }
    let mut found = Vec::new();
    let mut window = vec![0; WINDOW + HEAD];
    for path in files_below(dir) {
        let file = fs::File::open(&path).expect("a data file");
        for start in (0..file.metadata().expect("stat").len()).step_by(WINDOW) {
            let length = read_up_to(&file, &mut window, start);
            for at in 0..length.saturating_sub(HEAD).min(WINDOW) {
                let pair = u16::from_le_bytes([window[at], window[at + 1]]);
                if may_begin[usize::from(pair)]
                    && let Some(number) = heads.get(&window[at..at + HEAD])
                {
                    found.push((*number, path.clone(), start + at as u64));
                }
            }
        }
    }
    found
}

/// Fills `buffer` from `offset` on, as far as the file goes; returns how far.
fn read_up_to(file: &fs::File, buffer: &mut [u8], offset: u64) -> usize {
    let mut filled = 0;
    loop {
        let rest = &mut buffer[filled..];
        match file.read_at(rest, offset + filled as u64).expect("a data file") {
            0 => return filled,
            count => filled += count,
        }
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            files.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}

/// A cluster with three disks and three replicas that holds all pieces, synced.
fn filled(name: &str) -> Mount {
    let site = Site::new(name);
    let setup = site.setup(3).arg("--replicas").arg("3");
    let mount = Mount::with(site, setup);
    let file = fs::File::create(mount.path("pieces")).expect("create");
    for number in 0..MARKERS {
        file.write_all_at(&piece(number), number * PIECE as u64).expect("write");
    }
    file.sync_all().expect("fsync");
    for n in 0..200 {
        fs::write(mount.path(&format!("small-{n}")), &piece(1_000 + n)[..3_000]).expect("write");
    }
    mount
}

#[test]
fn every_chunk_is_on_three_disks_and_the_same() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = filled("replicas");
    let said = run(t3fs(["check"]).arg(mount.dir()));
    eprintln!("check said: {said}");
    mount.restart();
    run(t3fs(["check"]).arg(mount.dir()));
    mount.down();
    for disk in 0..3 {
        let found: BTreeSet<u64> =
            find_pieces(&mount.site.data(disk)).into_iter().map(|(number, ..)| number).collect();
        let missing: Vec<u64> = (0..MARKERS).filter(|number| !found.contains(number)).collect();
        assert!(missing.is_empty(), "disk {disk} lacks pieces {missing:?}");
    }
}

#[test]
fn a_damaged_copy_is_noticed_and_not_served() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = filled("damage");
    let setup = mount.node().setup().clone();
    mount.down();
    // Every second piece on one disk: clients choose by chunk which replica they read.
    let on_disk = find_pieces(&mount.site.data(1));
    let is_data = |path: &Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("data-"))
    };
    let damaged: Vec<_> =
        on_disk.into_iter().filter(|(number, path, _)| number % 2 == 1 && is_data(path)).collect();
    assert!(damaged.len() as u64 >= MARKERS / 4, "many pieces are in data files of disk 1");
    let numbers: BTreeSet<u64> = damaged.iter().map(|(number, ..)| *number).collect();
    for (_, path, offset) in damaged {
        let file = fs::File::options().read(true).write(true).open(path).expect("a data file");
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset + 1_000).expect("read");
        file.write_all_at(&[byte[0] ^ 1], offset + 1_000).expect("damage");
    }
    mount.up(setup);
    let done = finish(t3fs(["check"]).arg(mount.dir()));
    eprintln!("check said: {}{}", done.stdout, done.stderr);
    assert_eq!(done.code(), Some(1), "a damaged copy is an answer, not a failure to check");
    let chunks: BTreeSet<u64> = numbers.iter().map(|n| n * PIECE as u64 / CHUNK).collect();
    let said = format!(": {} differences", chunks.len());
    assert!(done.stdout.contains(&said), "all that are damaged are told: {}", done.stdout);
    let bytes = fs::read(mount.path("pieces")).expect("two good copies are left");
    for number in 0..MARKERS {
        let start = number as usize * PIECE;
        assert!(bytes[start..start + PIECE] == piece(number), "piece {number}");
    }
}

#[test]
fn a_missing_disk_is_done_without_and_said() {
    if skip_without(&[]) {
        return;
    }
    let mut mount = filled("lacking");
    let log_before = mount.node().log().len();
    mount.down();
    let site_setup = mount.site.setup(2).arg("--replicas").arg("3");
    mount.up(site_setup);
    let said = mount.node().log()[log_before..].to_lowercase();
    assert!(said.contains("degraded"), "{said}");
    let bytes = fs::read(mount.path("pieces")).expect("two copies are left");
    assert!(bytes[..PIECE] == piece(0));
    fs::write(mount.path("new"), "written while one disk is away").expect("write");
}
