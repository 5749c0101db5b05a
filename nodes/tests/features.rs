//! Goal: data with features that this build does not know is refused with one sentence, and nothing
//! of it is touched. Method: a data folder of an earlier build, with a bit set as a later one would
//! set it, in the metadata store and on a target.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use t3fs_actors::features::{self, FeaturesV1};
use t3fs_actors::meta::kv::Store;
use t3fs_nodes::kv_fjall::FjallStore;
use t3fs_runtime::wire::crc32c;

const FIXTURE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/tests/fixtures/2026-11-30-47fcd2b.tar.gz");
/// Where a superblock has the record.
const FEATURES_AT: usize = 2048;

/// The data folder of an earlier build, and beside it a place to mount it on.
fn yesterday() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    for made in [&data, &dir.path().join("mnt")] {
        fs::create_dir(made).expect("a folder");
    }
    let unpacked = Command::new("tar").arg("-C").arg(&data).args(["-xzf", FIXTURE]).status();
    assert!(unpacked.expect("tar").success());
    (dir, data)
}

/// What `t3fs-node up` says and does not do.
fn refusal(dir: &Path, data: &Path) -> String {
    let mut up = Command::new(env!("CARGO_BIN_EXE_t3fs-node"));
    up.arg("up").arg(dir.join("mnt")).arg("--data").arg(data);
    let done = up.args(["--cluster-id", "yesterday"]).output().expect("t3fs-node starts");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && !said.contains("panicked"), "{said}");
    said
}

fn unknown() -> FeaturesV1 {
    FeaturesV1 { incompatible: 1 << 63, ..FeaturesV1::default() }
}

#[test]
fn a_store_with_unknown_features() {
    if !Path::new("/dev/fuse").exists() {
        assert!(std::env::var_os("CI").is_none(), "no /dev/fuse");
        return eprintln!("SKIPPED: no /dev/fuse");
    }
    let (dir, data) = yesterday();
    let mut store = FjallStore::open(&data.join("kv")).expect("the store");
    store.apply(&[(features::key(), Some(unknown().seal()))]).expect("written");
    drop(store);
    let said = refusal(dir.path(), &data);
    for words in ["the metadata store has features", "(incompatible: 63)", "at least as new"] {
        assert!(said.contains(words), "{said}");
    }
    let superblock = fs::read(data.join("targets/1/superblock")).expect("still there");
    assert_eq!(superblock[FEATURES_AT..], [0; 4096 - FEATURES_AT]);
}

#[test]
fn a_target_with_unknown_features() {
    if !Path::new("/dev/fuse").exists() {
        assert!(std::env::var_os("CI").is_none(), "no /dev/fuse");
        return eprintln!("SKIPPED: no /dev/fuse");
    }
    let (dir, data) = yesterday();
    let path = data.join("targets/1/superblock");
    let mut superblock = fs::read(&path).expect("a superblock");
    let record = unknown().seal();
    let at = &mut superblock[FEATURES_AT..];
    at[8..8 + record.len()].copy_from_slice(&record);
    at[..4].copy_from_slice(&crc32c(&record).to_le_bytes());
    at[4..8].copy_from_slice(&(record.len() as u32).to_le_bytes());
    fs::write(&path, &superblock).expect("written");
    let said = refusal(dir.path(), &data);
    for words in ["the target has features", "(incompatible: 63)", "at least as new"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(fs::read(&path).expect("still there"), superblock);
}
