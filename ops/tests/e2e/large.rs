//! Goal: a full file system starts as quickly as an empty one, also after `kill -9`. Method:
//! 300,000 files and 10 GB, at night only; a hundredth of it otherwise, so that the test itself
//! stays in working order.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use t3fs_ops::noise::Noise;

use crate::harness::{Mount, is_nightly, skip_without};

const START_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_full_file_system_starts_quickly() {
    if skip_without(&[]) {
        return;
    }
    let (files, bytes) = if is_nightly() { (300_000, 10 << 30) } else { (3_000, 100 << 20) };
    let mut mount = Mount::new("large");
    for n in 0..files {
        let dir = mount.path(&format!("dir-{}", n / 1_000));
        if n % 1_000 == 0 {
            fs::create_dir(&dir).expect("mkdir");
        }
        fs::write(dir.join(format!("file-{n}")), n.to_string()).expect("write");
    }
    let mut block = vec![0; 1 << 20];
    Noise::new(1).fill(&mut block);
    let large = fs::File::create(mount.path("large")).expect("create");
    for offset in (0..bytes).step_by(block.len()) {
        large.write_all_at(&block, offset).expect("write");
    }
    large.sync_all().expect("fsync");
    drop(large);
    let check = |mount: &Mount, what: &str, start: Instant| {
        let took = start.elapsed();
        eprintln!("{what} with {files} files and {bytes} bytes: mounted after {took:?}");
        assert!(took < START_LIMIT, "{what} took {took:?}");
        let last = files - 1;
        let path = mount.path(&format!("dir-{}/file-{last}", last / 1_000));
        assert_eq!(fs::read_to_string(path).expect("read"), last.to_string());
        assert_eq!(fs::metadata(mount.path("large")).expect("stat").len(), bytes);
    };
    let setup = mount.node().setup().clone();
    mount.down();
    let start = Instant::now();
    mount.up(setup);
    check(&mount, "start", start);
    let setup = mount.kill();
    let start = Instant::now();
    mount.up(setup);
    check(&mount, "start after kill -9", start);
}
