//! The rules: may these folders be used together, for this cluster, on this mount point?
//!
//! [`plan`] only looks (and takes the locks of folders that have one); [`Plan::commit`] creates
//! what is new. A creation ends with the rename of `t3fs-cluster.toml` into place; folders of one
//! that was interrupted hold nothing, and the next start takes them as new.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use t3fs_actors::storage::engine::{JOURNAL_SEGMENT_BYTES, RESERVE_BYTES};

use super::chains;
use super::folder::{self, Found};
use super::identity::{ClusterFile, DiskFile, DiskRecord, new_uuid};
use super::incarnation;
use super::lock::{FolderLock, Tried};
use crate::failure::{Failure, failed, refused};

/// What people call a folder of a disk.
pub(super) const DATA_FOLDER: &str = "data folder";
/// Space that a new data folder must have.
const FREE_BYTES_MIN: u64 = 256 << 20;
// A new target can make its journal and still has room for chunks.
const _: () = assert!(FREE_BYTES_MIN > RESERVE_BYTES + 2 * JOURNAL_SEGMENT_BYTES);

/// What the user asks for.
pub struct Wanted<'a> {
    pub cluster: &'a str,
    pub folders: &'a [PathBuf],
    pub replicas: Option<u8>,
    /// For disks that are new.
    pub targets_per_disk: usize,
    /// Absolute, without links.
    pub mount_point: &'a Path,
}

/// A disk that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Index in [`ClusterFile::disks`]; the actors' `DiskId`.
    pub index: usize,
    pub folder: PathBuf,
}

/// What will be done. Dropped, nothing was touched.
pub struct Plan {
    file: ClusterFile,
    /// `file` differs from what is stored.
    changed: bool,
    first: PathBuf,
    present: Vec<Disk>,
    new: Vec<usize>,
    locks: Vec<(PathBuf, FolderLock)>,
    pub created: bool,
    pub remarks: Vec<String>,
}

/// Folders of this process's own, until it ends.
pub struct Data {
    pub cluster: ClusterFile,
    /// Holds the cluster's own state.
    pub first: PathBuf,
    /// In order of their index.
    pub disks: Vec<Disk>,
    /// Larger at every start.
    pub incarnation: u32,
    /// The cluster did not exist before.
    pub created: bool,
    pub remarks: Vec<String>,
    _locks: Vec<FolderLock>,
}

/// Looks at everything and decides.
pub fn plan(wanted: &Wanted<'_>) -> Result<Plan, Failure> {
    let folders: Vec<PathBuf> =
        wanted.folders.iter().map(|f| folder::resolve(f)).collect::<Result<_, _>>()?;
    check_places(&folders, wanted.mount_point)?;
    let found: Vec<Found> = folders.iter().map(|f| folder::look(f)).collect::<Result<_, _>>()?;
    let locks = take_locks(&folders)?;
    check_names(wanted.cluster, &folders, &found)?;
    let mut homes = found.iter().enumerate().filter(|(_, f)| f.cluster.is_some());
    let home = homes.next();
    if let (Some((a, _)), Some((b, _))) = (home, homes.next()) {
        return Err(refused(format!(
            "{} and {} are two different clusters; give the folders of one",
            folders[a].display(),
            folders[b].display()
        )));
    }
    let mut plan = match home {
        Some((first, f)) => {
            let file = f.cluster.clone().expect("filtered by it");
            known(wanted, file, first, &folders, &found)?
        }
        None => fresh(wanted, &folders, &found)?,
    };
    for i in &plan.new {
        check_space(&plan.file.disks[*i].folder)?;
    }
    plan.locks = locks;
    Ok(plan)
}

/// No folder in another, none on the mount point and the mount point in none.
fn check_places(folders: &[PathBuf], mount_point: &Path) -> Result<(), Failure> {
    for (i, f) in folders.iter().enumerate() {
        let shown = f.display();
        if f.starts_with(mount_point) || mount_point.starts_with(f) {
            return Err(refused(format!(
                "data folder {shown} and mount point {} are one inside the other; choose another \
                 --data",
                mount_point.display()
            )));
        }
        if let Some(other) = folders[..i].iter().find(|o| f.starts_with(o) || o.starts_with(f)) {
            return Err(refused(format!(
                "data folders {} and {shown} are the same or one inside the other; give each disk \
                 its own",
                other.display()
            )));
        }
    }
    Ok(())
}

fn take_locks(folders: &[PathBuf]) -> Result<Vec<(PathBuf, FolderLock)>, Failure> {
    let mut locks = Vec::new();
    for f in folders {
        match FolderLock::try_existing(f) {
            Ok(Tried::Locked(lock)) => locks.push((f.clone(), lock)),
            Ok(Tried::Held(pid)) => return Err(in_use(DATA_FOLDER, f, pid)),
            Ok(Tried::None) => {}
            Err(e) => {
                return Err(refused(format!("the lock in {} cannot be taken: {e}", f.display())));
            }
        }
    }
    Ok(locks)
}

pub(super) fn in_use(what: &str, folder: &Path, pid: Option<u32>) -> Failure {
    let who = pid.map_or("another process".into(), |p| format!("process {p}"));
    let shown = folder.display();
    refused(format!("{what} {shown} is in use by {who}; end it with `t3fs-node down {shown}`"))
}

fn check_names(cluster: &str, folders: &[PathBuf], found: &[Found]) -> Result<(), Failure> {
    for (path, f) in folders.iter().zip(found) {
        let shown = path.display();
        if f.is_blank() {
            continue;
        }
        let name = f.cluster.as_ref().map(|c| &c.cluster).or(f.disk.as_ref().map(|d| &d.cluster));
        match (name, &f.foreign) {
            (None, Some(foreign)) => {
                return Err(refused(format!(
                    "data folder {shown} holds {foreign} and no t3fs data; give an empty folder"
                )));
            }
            (None, None) => {
                return Err(refused(format!(
                    "data folder {shown} holds t3fs data without {}; restore that file from a \
                     backup, or give an empty folder",
                    DiskFile::NAME
                )));
            }
            (Some(name), _) if name != cluster => {
                return Err(refused(format!(
                    "data folder {shown} belongs to cluster {name}, not {cluster}; \
                     add --cluster-id {name}, or give another --data"
                )));
            }
            (Some(_), _) => {}
        }
    }
    Ok(())
}

pub(super) fn check_space(folder: &Path) -> Result<(), Failure> {
    let free = folder::free_bytes(folder)?;
    if free >= FREE_BYTES_MIN {
        return Ok(());
    }
    if !folder::keeps_files(folder)? {
        return Err(refused(format!(
            "{} is on a file system that keeps no files, such as /proc; give another --data",
            folder.display()
        )));
    }
    Err(refused(format!(
        "no space at {}: {} MiB are free, a new data folder needs {} MiB; free some, or give \
         another --data",
        folder.display(),
        free >> 20,
        FREE_BYTES_MIN >> 20
    )))
}

fn check_replicas(replicas: u8, disks: usize) -> Result<(), Failure> {
    if usize::from(replicas) <= disks {
        return Ok(());
    }
    let folders = if disks == 1 { "data folder" } else { "data folders" };
    Err(refused(format!(
        "{replicas} replicas need {replicas} disks and {disks} {folders} were given; give --data \
         {replicas} times, each on another disk, or --replicas {disks}"
    )))
}

fn uuid() -> Result<String, Failure> {
    new_uuid().map_err(|e| failed(format!("the kernel gives no random numbers: {e}")))
}

/// A new cluster.
fn fresh(wanted: &Wanted<'_>, folders: &[PathBuf], found: &[Found]) -> Result<Plan, Failure> {
    if let Some(i) = found.iter().position(|f| !f.is_blank()) {
        return Err(refused(format!(
            "{} is a disk of cluster {}, but none of the folders given holds {}; give the \
             cluster's first folder too",
            folders[i].display(),
            wanted.cluster,
            ClusterFile::NAME
        )));
    }
    let replicas = wanted.replicas.unwrap_or(1);
    check_replicas(replicas, folders.len())?;
    let mut disks = Vec::new();
    for f in folders {
        disks.push(DiskRecord { uuid: uuid()?, folder: f.clone(), targets: Vec::new() });
    }
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut file = ClusterFile {
        cluster: wanted.cluster.into(),
        cluster_uuid: uuid()?,
        replicas,
        created,
        disks,
        chains: Vec::new(),
    };
    let new: Vec<usize> = (0..folders.len()).collect();
    chains::add(&mut file, &new, wanted.targets_per_disk);
    let present = folders.iter().cloned().enumerate();
    Ok(Plan {
        file,
        changed: true,
        first: folders[0].clone(),
        present: present.map(|(index, folder)| Disk { index, folder }).collect(),
        new,
        locks: Vec::new(),
        created: true,
        remarks: Vec::new(),
    })
}

/// An existing cluster: all its disks, some of them, or more than it had.
fn known(
    wanted: &Wanted<'_>,
    stored: ClusterFile,
    first: usize,
    folders: &[PathBuf],
    found: &[Found],
) -> Result<Plan, Failure> {
    if let Some(n) = wanted.replicas
        && n != stored.replicas
    {
        return Err(refused(format!(
            "cluster {} was created with --replicas {} and {n} was asked for; leave --replicas out",
            stored.cluster, stored.replicas
        )));
    }
    let mut file = stored.clone();
    let (mut present, mut new, mut remarks) = (Vec::new(), Vec::new(), Vec::new());
    for (path, f) in folders.iter().zip(found) {
        let shown = path.display();
        let disk = f.disk.as_ref().filter(|d| d.cluster_uuid == file.cluster_uuid);
        let index =
            disk.and_then(|d| stored.disks.iter().position(|known| known.uuid == d.disk_uuid));
        if let Some(index) = index {
            if present.iter().any(|d: &Disk| d.index == index) {
                return Err(refused(format!(
                    "{shown} is a copy of another folder given; give each disk once"
                )));
            }
            file.disks[index].folder.clone_from(path);
            present.push(Disk { index, folder: path.clone() });
        } else if !f.is_blank() {
            return Err(refused(format!(
                "{shown} belongs to another cluster that is also called {}; give another --data",
                stored.cluster
            )));
        } else if stored.disks.iter().any(|known| known.folder == *path) {
            return Err(refused(format!(
                "{shown} was a disk of cluster {} and is empty now; mount its device, or leave \
                 this --data out to start without it",
                stored.cluster
            )));
        } else {
            let index = file.disks.len();
            file.disks.push(DiskRecord {
                uuid: uuid()?,
                folder: path.clone(),
                targets: Vec::new(),
            });
            present.push(Disk { index, folder: path.clone() });
            new.push(index);
            remarks.push(format!("{shown} is new in cluster {} and was added", stored.cluster));
        }
    }
    check_missing(&stored, &present, &mut remarks)?;
    if !new.is_empty() {
        if present.len() != file.disks.len() {
            return Err(refused(format!(
                "a disk cannot be added while {} misses another; give all its folders",
                stored.cluster
            )));
        }
        chains::add(&mut file, &new, wanted.targets_per_disk);
    }
    present.sort_by_key(|d| d.index);
    let changed = file != stored;
    let first = folders[first].clone();
    Ok(Plan { file, changed, first, present, new, locks: Vec::new(), created: false, remarks })
}

/// Disks that were not given: every chain must have a replica left.
fn check_missing(
    file: &ClusterFile,
    present: &[Disk],
    remarks: &mut Vec<String>,
) -> Result<(), Failure> {
    let here = |index: usize| present.iter().any(|d| d.index == index);
    let missing: Vec<usize> = (0..file.disks.len()).filter(|i| !here(*i)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        missing.iter().map(|i| file.disks[*i].folder.display().to_string()).collect();
    let names = names.join(" and ");
    let lost = file.chains.iter().filter(|c| {
        let on = |t| file.disk_of(t).expect("checked when it was read");
        !c.targets.iter().any(|t| here(on(*t)))
    });
    let lost = lost.count();
    if lost > 0 {
        return Err(refused(format!(
            "without {names}, {lost} of {} chains of cluster {} have no other replica; give its \
             --data too",
            file.chains.len(),
            file.cluster
        )));
    }
    remarks.push(format!("starting degraded, without {names}"));
    Ok(())
}

impl Plan {
    /// Where the cluster's own state is, or will be.
    pub fn first(&self) -> &Path {
        &self.first
    }

    /// Creates what is new and counts this start.
    pub fn commit(self) -> Result<Data, Failure> {
        let Plan { file, changed, first, present, new, mut locks, created, remarks } = self;
        for disk in &present {
            let path = &disk.folder;
            folder::make(path)?;
            if !locks.iter().any(|(of, _)| of == path) {
                let cannot = |e| failed(format!("cannot lock {}: {e}", path.display()));
                match FolderLock::try_create(path).map_err(cannot)? {
                    Tried::Locked(lock) => locks.push((path.clone(), lock)),
                    Tried::Held(pid) => return Err(in_use(DATA_FOLDER, path, pid)),
                    Tried::None => unreachable!("it was created"),
                }
                // Between the look and the lock another process may have been here.
                let found = folder::look(path)?;
                if new.contains(&disk.index) && !found.is_blank() {
                    return Err(refused(format!("{} is no longer empty", path.display())));
                }
            }
        }
        let mut held = Vec::new();
        for (path, mut lock) in locks {
            lock.sign()
                .map_err(|e| failed(format!("cannot write the lock in {}: {e}", path.display())))?;
            held.push(lock);
        }
        for i in new {
            let disk = &file.disks[i];
            let identity = DiskFile {
                cluster: file.cluster.clone(),
                cluster_uuid: file.cluster_uuid.clone(),
                disk_uuid: disk.uuid.clone(),
            };
            folder::replace(&disk.folder, DiskFile::NAME, &identity.render())?;
        }
        if changed {
            folder::replace(&first, ClusterFile::NAME, &file.render())?;
        }
        let incarnation = incarnation::next(&first)?;
        Ok(Data {
            cluster: file,
            first,
            disks: present,
            incarnation,
            created,
            remarks,
            _locks: held,
        })
    }
}
