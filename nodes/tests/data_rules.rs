//! Goal: each rule about data folders refuses what it is for, with a line that says what to do, and
//! touches nothing; and what is allowed ends in the same cluster again.
//!
//! Method: real folders; the whole tree is compared before and after every refusal.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use t3fs_nodes::data::plan::{Plan, Wanted, plan};
use t3fs_nodes::data::{ClusterFile, Data};
use t3fs_nodes::failure::{Failure, REFUSED};

/// A place for folders and a mount point.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("mnt")).unwrap();
        Place { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    fn plan(&self, folders: &[&str], replicas: Option<u8>) -> Result<Plan, Failure> {
        self.plan_of("t3fs", folders, replicas)
    }

    fn plan_of(
        &self,
        cluster: &str,
        folders: &[&str],
        replicas: Option<u8>,
    ) -> Result<Plan, Failure> {
        let folders: Vec<PathBuf> = folders.iter().map(|f| self.path(f)).collect();
        plan(&Wanted {
            cluster,
            folders: &folders,
            replicas,
            targets_per_disk: 1,
            mount_point: &self.path("mnt"),
        })
    }

    /// Starts, pretends to have stored something, and ends.
    fn up(&self, folders: &[&str], replicas: Option<u8>) -> ClusterFile {
        let data = self.start(folders, replicas);
        for d in &data.disks {
            fs::create_dir_all(d.folder.join("targets")).unwrap();
        }
        data.cluster.clone()
    }

    fn start(&self, folders: &[&str], replicas: Option<u8>) -> Data {
        self.plan(folders, replicas).expect("allowed").commit().expect("possible")
    }

    /// Every path with its size, times and, for files, content.
    fn tree(&self) -> BTreeMap<PathBuf, (u64, i64, i64, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let mut todo = vec![self.root.path().to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let m = path.symlink_metadata().unwrap();
                let content = if m.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                if m.is_dir() {
                    todo.push(path.clone());
                }
                found.insert(path, (m.len(), m.mtime(), m.mtime_nsec(), content));
            }
        }
        found
    }

    /// The line of a refusal that left everything as it was.
    #[track_caller]
    fn refused(&self, folders: &[&str], replicas: Option<u8>) -> String {
        self.refused_of("t3fs", folders, replicas)
    }

    #[track_caller]
    fn refused_of(&self, cluster: &str, folders: &[&str], replicas: Option<u8>) -> String {
        let before = self.tree();
        let failure = match self.plan_of(cluster, folders, replicas) {
            Ok(_) => panic!("{folders:?} were taken"),
            Err(failure) => failure,
        };
        assert_eq!(self.tree(), before, "something was touched");
        assert_eq!(failure.status, REFUSED);
        assert!(!failure.line.contains('\n'), "{}", failure.line);
        failure.line
    }
}

#[track_caller]
fn says(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
}

#[test]
fn a_plan_alone_touches_nothing_and_a_commit_lasts() {
    let p = Place::new();
    let before = p.tree();
    drop(p.plan(&["a", "b"], Some(2)).unwrap());
    assert_eq!(p.tree(), before);
    let made = p.up(&["a", "b"], Some(2));
    assert_eq!((made.replicas, made.disks.len()), (2, 2));
    // In any order, without --replicas, and counted.
    let first: u32 =
        fs::read_to_string(p.path("a").join("starts")).unwrap().trim().parse().unwrap();
    let again = p.start(&["b", "a"], None);
    assert_eq!(again.cluster, made);
    assert!(again.incarnation > first && !again.created);
    assert_eq!(again.first, p.path("a"));
    let indexes: Vec<usize> = again.disks.iter().map(|d| d.index).collect();
    assert_eq!((indexes, &again.disks[1].folder), (vec![0, 1], &p.path("b")));
}

#[test]
fn a_folder_is_used_by_one_process() {
    let p = Place::new();
    let running = p.start(&["a"], None);
    says(&p.refused(&["a"], None), &["in use by process", "t3fs-node down"]);
    drop(running);
    p.start(&["a"], None);
}

#[test]
fn replicas_are_fixed_and_need_disks() {
    let p = Place::new();
    says(&p.refused(&["a", "b"], Some(3)), &["3 replicas", "--data 3 times"]);
    p.up(&["a", "b"], Some(2));
    says(&p.refused(&["a", "b"], Some(1)), &["--replicas 2", "leave --replicas out"]);
    assert!(p.plan(&["a", "b"], Some(2)).is_ok());
}

#[test]
fn folders_and_mount_point_are_apart() {
    let p = Place::new();
    says(&p.refused(&["mnt/data"], None), &["mount point", "another --data"]);
    says(&p.refused(&["mnt"], None), &["mount point"]);
    says(&p.refused(&["."], None), &["mount point"]);
    says(&p.refused(&["a", "a/b"], None), &["one inside the other"]);
    says(&p.refused(&["a", "a"], None), &["the same"]);
    std::os::unix::fs::symlink(p.path("mnt"), p.path("link")).unwrap();
    says(&p.refused(&["link/data"], None), &["mount point"]);
}

#[test]
fn other_clusters_are_left_alone() {
    let p = Place::new();
    p.up(&["a"], None);
    says(&p.refused_of("other", &["a"], None), &["belongs to cluster t3fs", "--cluster-id t3fs"]);
    p.up(&["b"], None);
    says(&p.refused(&["a", "b"], None), &["two different clusters"]);
    p.up(&["c", "d"], None);
    says(&p.refused(&["a", "d"], None), &["another cluster that is also called t3fs"]);
}

#[test]
fn foreign_and_headless_folders_are_refused() {
    let p = Place::new();
    fs::create_dir(p.path("home")).unwrap();
    fs::write(p.path("home/thesis.tex"), "\\end").unwrap();
    says(&p.refused(&["home"], None), &["thesis.tex", "empty folder"]);
    p.up(&["a"], None);
    fs::remove_file(p.path("a/t3fs-disk.toml")).unwrap();
    fs::rename(p.path("a/t3fs-cluster.toml"), p.path("saved")).unwrap();
    says(&p.refused(&["a"], None), &["t3fs-disk.toml", "backup"]);
    fs::write(p.path("file"), "").unwrap();
    says(&p.refused(&["file"], None), &["file", "folder"]);
}

#[test]
fn newer_and_damaged_identities_are_told_apart() {
    let p = Place::new();
    p.up(&["a"], None);
    for name in ["t3fs-cluster.toml", "t3fs-disk.toml"] {
        let path = p.path("a").join(name);
        let good = fs::read_to_string(&path).unwrap();
        fs::write(&path, good.replace("format = 1", "format = 2\nmore = 1")).unwrap();
        says(&p.refused(&["a"], None), &[name, "format 2", "newer t3fs-node"]);
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        says(&p.refused(&["a"], None), &[name, "damaged", "nothing was changed"]);
        fs::write(&path, good).unwrap();
    }
    p.up(&["a"], None);
}

#[test]
fn a_missing_disk_degrades_or_stops() {
    let p = Place::new();
    p.up(&["a", "b"], Some(1));
    says(&p.refused(&["a"], None), &["/b", "no other replica", "--data"]);
    says(&p.refused(&["b"], None), &["t3fs-cluster.toml", "first folder"]);
    let q = Place::new();
    let made = q.up(&["a", "b", "c"], Some(2));
    let degraded = q.start(&["a", "c"], None);
    assert!(degraded.remarks[0].contains("degraded") && degraded.remarks[0].contains("/b"));
    assert_eq!(degraded.cluster, made);
    assert_eq!(degraded.disks.iter().map(|d| d.index).collect::<Vec<_>>(), [0, 2]);
    drop(degraded);
    says(&q.refused(&["a"], None), &["no other replica"]);
    says(&q.refused(&["a", "c", "new"], None), &["misses another"]);
}

#[test]
fn an_emptied_disk_is_not_taken_for_a_new_one() {
    let p = Place::new();
    p.up(&["a", "b"], Some(2));
    fs::remove_dir_all(p.path("b")).unwrap();
    says(&p.refused(&["a", "b"], None), &["is empty now", "mount its device"]);
    fs::create_dir(p.path("b")).unwrap();
    says(&p.refused(&["a", "b"], None), &["is empty now"]);
    p.start(&["a"], None);
}

#[test]
fn a_new_disk_is_added_once() {
    let p = Place::new();
    let before = p.up(&["a", "b"], Some(2));
    let added = p.up(&["a", "b", "c"], None);
    assert_eq!((added.disks.len(), added.chains.len()), (3, before.chains.len() + 1));
    assert_eq!(added.chains[..before.chains.len()], before.chains);
    assert_eq!(p.up(&["a", "b", "c"], None), added);
}

#[test]
fn a_moved_folder_keeps_its_identity_and_a_copied_one_is_seen() {
    let p = Place::new();
    let made = p.up(&["a", "b"], Some(2));
    fs::rename(p.path("b"), p.path("moved")).unwrap();
    let now = p.start(&["a", "moved"], None);
    assert_eq!(now.cluster.disks[1].uuid, made.disks[1].uuid);
    assert_eq!(now.cluster.disks[1].folder, p.path("moved"));
    drop(now);
    fs::create_dir(p.path("copy")).unwrap();
    fs::copy(p.path("moved/t3fs-disk.toml"), p.path("copy/t3fs-disk.toml")).unwrap();
    says(&p.refused(&["a", "moved", "copy"], None), &["copy of another folder"]);
}

/// A creation that was interrupted before its last rename holds nothing and is begun again.
#[test]
fn an_interrupted_creation_is_begun_again() {
    let p = Place::new();
    p.start(&["a", "b"], Some(2));
    for gone in ["a/t3fs-cluster.toml", "a/starts"] {
        fs::remove_file(p.path(gone)).unwrap();
    }
    fs::write(p.path("a/t3fs-cluster.toml.new"), "format = 1\nclu").unwrap();
    let again = p.start(&["a", "b"], Some(1));
    assert!(again.created);
    assert_eq!(again.cluster.replicas, 1);
    assert!(!Path::new(&p.path("a/t3fs-cluster.toml.new")).exists());
}
