//! What a server of a cluster of several processes keeps: a state folder that says who it is, and
//! data folders, one per disk.
//!
//! ```text
//! <state>/             mode 0700
//!   t3fs-node.toml     which server of which cluster, and its disks
//!   lock, starts       as in a data folder
//!   kv/                the store of the role kv
//!   t3fs-store.toml    of a mgmtd or meta: which store it has used ([`super::store_file`])
//!   disk/              the only data folder, if none is given
//!   control, log/      as in a data folder
//! ```
//! [`look`] decides and touches nothing; [`Found::commit`] creates what is new. A data folder
//! belongs to one server: its `t3fs-disk.toml` names the server's own identity as that of the set.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use t3fs_actors::proto::ids::{ChainId, TargetId};

use super::folder;
use super::identity::{self, DiskFile, IdentityError, new_uuid};
use super::incarnation;
use super::lock::{FolderLock, Tried};
use super::plan::{self, Disk};
use crate::failure::{Failure, failed, refused};

/// The only data folder, below the state folder, where none is given.
const ONLY_DISK: &str = "disk";
/// What may be in a state folder before the identity is.
const EARLY: [&str; 5] = [super::lock::NAME, "t3fs-node.toml.new", "log", "lost+found", ONLY_DISK];

/// `t3fs-node.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFile {
    pub cluster: String,
    pub node_id: u32,
    pub node_uuid: String,
    /// In order: the first is disk 0. One that is gone keeps its number.
    pub disks: Vec<NodeDisk>,
    /// Every target that was ever to be made here, sorted.
    pub targets: Vec<TargetPlace>,
}

/// A target of this server, and where it is. Written down before it is there, so that it is known
/// to be lost when it is there no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetPlace {
    pub target: TargetId,
    pub chain: ChainId,
    /// Index in [`NodeFile::disks`].
    pub disk: usize,
    pub wish: TargetWish,
}

/// What a human wants of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetWish {
    #[default]
    Run,
    Stopped,
    Removed,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeDisk {
    pub uuid: String,
    /// Where it was last seen; for messages.
    pub folder: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeV1 {
    #[serde(rename = "format")]
    _format: u32,
    cluster: String,
    node_id: u32,
    node_uuid: String,
    #[serde(default)]
    disk: Vec<NodeDisk>,
    #[serde(default)]
    target: Vec<TargetV1>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetV1 {
    id: u32,
    chain: u32,
    disk: usize,
    /// Not written where it is `run`: builds before it read no file that has it.
    #[serde(default)]
    wish: TargetWish,
}

impl NodeFile {
    pub const NAME: &'static str = "t3fs-node.toml";

    pub fn render(&self) -> String {
        let quoted = identity::quoted;
        let mut o = format!(
            "# A server of a t3fs cluster. Written by t3fs-node; do not edit.\n\
             format = {}\ncluster = {}\nnode_id = {}\nnode_uuid = {}\n",
            identity::FORMAT,
            quoted(&self.cluster),
            self.node_id,
            quoted(&self.node_uuid)
        );
        for d in &self.disks {
            let (uuid, folder) = (quoted(&d.uuid), quoted(&d.folder.to_string_lossy()));
            let _ = write!(o, "\n[[disk]]\nuuid = {uuid}\nfolder = {folder}\n");
        }
        for t in &self.targets {
            let TargetPlace { target, chain, disk, wish } = t;
            let _ = write!(o, "\n[[target]]\nid = {target}\nchain = {chain}\ndisk = {disk}\n");
            o += match wish {
                TargetWish::Run => "",
                TargetWish::Stopped => "wish = \"stopped\"\n",
                TargetWish::Removed => "wish = \"removed\"\n",
            };
        }
        o
    }

    pub fn parse(text: &str) -> Result<NodeFile, IdentityError> {
        let v: NodeV1 = identity::parse(text)?;
        let targets = v.target.into_iter().map(|t| TargetPlace {
            target: TargetId(t.id),
            chain: ChainId(t.chain),
            disk: t.disk,
            wish: t.wish,
        });
        let file = NodeFile {
            cluster: v.cluster,
            node_id: v.node_id,
            node_uuid: v.node_uuid,
            disks: v.disk,
            targets: targets.collect(),
        };
        if file.targets.iter().any(|t| t.disk >= file.disks.len()) {
            return Err(IdentityError::Damaged("a target on a disk that is not listed".into()));
        }
        Ok(file)
    }

    /// Stores it in the state folder.
    pub fn store(&self, state: &Path) -> Result<(), Failure> {
        folder::replace(state, NodeFile::NAME, &self.render())
    }
}

/// What the user asks for.
pub struct Wanted<'a> {
    pub cluster: &'a str,
    pub node_id: u32,
    pub state: &'a Path,
    /// `None`: no role needs disks. Empty: the one below the state folder.
    pub data: Option<&'a [PathBuf]>,
    /// Absolute, without links.
    pub mount_point: Option<&'a Path>,
}

/// What will be done. Dropped, nothing was touched.
#[derive(Debug)]
pub struct Found {
    state: PathBuf,
    file: NodeFile,
    changed: bool,
    present: Vec<Disk>,
    new: Vec<usize>,
    locks: Vec<(PathBuf, FolderLock)>,
    remarks: Vec<String>,
}

/// Folders of this process's own, until it ends.
#[derive(Debug)]
pub struct Server {
    pub state: PathBuf,
    pub file: NodeFile,
    /// Those that are there, in order of their index.
    pub disks: Vec<Disk>,
    pub incarnation: u32,
    pub remarks: Vec<String>,
    _locks: Vec<FolderLock>,
}

/// Looks at everything and decides.
pub fn look(wanted: &Wanted<'_>) -> Result<Found, Failure> {
    let state = folder::resolve(wanted.state)?;
    let only = [state.join(ONLY_DISK)];
    let data = match wanted.data {
        None => &[],
        Some([]) => &only[..],
        Some(data) => data,
    };
    let data: Vec<PathBuf> = data.iter().map(|f| folder::resolve(f)).collect::<Result<_, _>>()?;
    check_places(&state, &data, wanted.mount_point)?;
    let mut locks = Vec::new();
    for path in std::iter::once(&state).chain(&data) {
        match FolderLock::try_existing(path) {
            Ok(Tried::Locked(lock)) => locks.push((path.clone(), lock)),
            Ok(Tried::Held(pid)) => return Err(in_use(&state, path, pid)),
            Ok(Tried::None) => {}
            Err(e) => {
                let shown = path.display();
                return Err(refused(format!("the lock in {shown} cannot be taken: {e}")));
            }
        }
    }
    let stored = stored(&state, wanted)?;
    let mut file = match &stored {
        Some(file) => file.clone(),
        None => NodeFile {
            cluster: wanted.cluster.into(),
            node_id: wanted.node_id,
            node_uuid: uuid()?,
            disks: Vec::new(),
            targets: Vec::new(),
        },
    };
    let (mut present, mut new, mut remarks) = (Vec::new(), Vec::new(), Vec::new());
    for path in &data {
        let index = disk(&mut file, path, &mut new)?;
        if present.iter().any(|d: &Disk| d.index == index) {
            let shown = path.display();
            return Err(refused(format!(
                "{shown} is a copy of another folder given; give each disk once"
            )));
        }
        present.push(Disk { index, folder: path.clone() });
    }
    if wanted.data.is_some() {
        for (index, known) in file.disks.iter().enumerate() {
            if !present.iter().any(|d| d.index == index) {
                let shown = known.folder.display();
                remarks.push(format!("starting without {shown}; its targets stay offline"));
            }
        }
    }
    present.sort_by_key(|d| d.index);
    let changed = stored.as_ref() != Some(&file);
    Ok(Found { state, file, changed, present, new, locks, remarks })
}

/// The folder's identity, if it has one: it must be the wanted server's.
fn stored(state: &Path, wanted: &Wanted<'_>) -> Result<Option<NodeFile>, Failure> {
    let shown = state.display();
    let file = folder::identity(&state.join(NodeFile::NAME), NodeFile::parse)?;
    match file {
        Some(f) if f.cluster != wanted.cluster => Err(refused(format!(
            "state folder {shown} belongs to cluster {}, not {}; add --cluster-id {}, or give \
             another --state",
            f.cluster, wanted.cluster, f.cluster
        ))),
        Some(f) if f.node_id != wanted.node_id => Err(refused(format!(
            "state folder {shown} belongs to node {}, not {}; say --node-id {}, or another --state",
            f.node_id, wanted.node_id, f.node_id
        ))),
        Some(f) => Ok(Some(f)),
        None => {
            let entries = match fs::read_dir(state) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other.map_err(|e| refused(format!("{shown} cannot be read: {e}")))?,
            };
            let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
            match names.into_iter().find(|n| !EARLY.contains(&n.as_str())) {
                Some(foreign) => Err(refused(format!(
                    "state folder {shown} holds {foreign} and no {}; give an empty folder",
                    NodeFile::NAME
                ))),
                None => Ok(None),
            }
        }
    }
}

/// The number of the disk at `path`, a new one if it is blank.
fn disk(file: &mut NodeFile, path: &Path, new: &mut Vec<usize>) -> Result<usize, Failure> {
    let shown = path.display();
    let found = folder::look(path)?;
    if let Some(d) = &found.disk {
        let ours = d.cluster_uuid == file.node_uuid;
        let known = file.disks.iter().position(|known| ours && known.uuid == d.disk_uuid);
        if let Some(index) = known {
            file.disks[index].folder = path.to_owned();
            return Ok(index);
        }
    }
    if !found.is_blank() {
        let what = match (&found.disk, &found.foreign) {
            (Some(d), _) => format!("is a disk of another server of cluster {}", d.cluster),
            (None, Some(foreign)) => format!("holds {foreign} and no t3fs data"),
            (None, None) => format!("holds t3fs data without {}", DiskFile::NAME),
        };
        return Err(refused(format!("data folder {shown} {what}; give an empty folder")));
    }
    if file.disks.iter().any(|known| known.folder == path) {
        return Err(refused(format!(
            "{shown} was a disk of node {} and is empty now; mount its device, or leave this \
             --data out to start without it",
            file.node_id
        )));
    }
    super::plan::check_space(path)?;
    let index = file.disks.len();
    file.disks.push(NodeDisk { uuid: uuid()?, folder: path.to_owned() });
    new.push(index);
    Ok(index)
}

fn uuid() -> Result<String, Failure> {
    new_uuid().map_err(|e| failed(format!("the kernel gives no random numbers: {e}")))
}

/// No data folder in another or around the state folder, nothing on the mount point.
fn check_places(state: &Path, data: &[PathBuf], mount: Option<&Path>) -> Result<(), Failure> {
    let inside = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
    for (i, path) in data.iter().enumerate() {
        if let Some(other) = data[..i].iter().find(|o| inside(o, path)) {
            return Err(refused(format!(
                "data folders {} and {} are the same or one inside the other; give each disk its \
                 own",
                other.display(),
                path.display()
            )));
        }
        if state.starts_with(path) {
            return Err(refused(format!(
                "state folder {} is in data folder {}; choose another --state",
                state.display(),
                path.display()
            )));
        }
    }
    let Some(mount) = mount else { return Ok(()) };
    for path in std::iter::once(state).chain(data.iter().map(PathBuf::as_path)) {
        if inside(path, mount) {
            return Err(refused(format!(
                "folder {} and mount point {} are one inside the other; choose another",
                path.display(),
                mount.display()
            )));
        }
    }
    Ok(())
}

/// `path` is the state folder or one of a disk.
fn in_use(state: &Path, path: &Path, pid: Option<u32>) -> Failure {
    let what = if path == state { "state folder" } else { plan::DATA_FOLDER };
    plan::in_use(what, path, pid)
}

impl Found {
    /// Creates what is new and counts this start.
    pub fn commit(self) -> Result<Server, Failure> {
        let Found { state, file, changed, present, new, mut locks, remarks } = self;
        for path in std::iter::once(&state).chain(present.iter().map(|d| &d.folder)) {
            folder::make(path)?;
            if !locks.iter().any(|(of, _)| of == path) {
                let cannot = |e| failed(format!("cannot lock {}: {e}", path.display()));
                match FolderLock::try_create(path).map_err(cannot)? {
                    Tried::Locked(lock) => locks.push((path.clone(), lock)),
                    Tried::Held(pid) => return Err(in_use(&state, path, pid)),
                    Tried::None => unreachable!("it was created"),
                }
            }
        }
        let mut held = Vec::new();
        for (path, mut lock) in locks {
            lock.sign()
                .map_err(|e| failed(format!("cannot write the lock in {}: {e}", path.display())))?;
            held.push(lock);
        }
        // The list of disks last: if it is not reached, the next start takes these as blank.
        for index in new {
            let disk = &file.disks[index];
            let identity = DiskFile {
                cluster: file.cluster.clone(),
                cluster_uuid: file.node_uuid.clone(),
                disk_uuid: disk.uuid.clone(),
            };
            folder::replace(&disk.folder, DiskFile::NAME, &identity.render())?;
        }
        if changed {
            file.store(&state)?;
        }
        let incarnation = incarnation::next(&state)?;
        Ok(Server { state, file, disks: present, incarnation, remarks, _locks: held })
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a server keeps its number and its disks, and takes nobody else's.
    use super::*;

    fn wanted<'a>(state: &'a Path, data: Option<&'a [PathBuf]>) -> Wanted<'a> {
        Wanted { cluster: "c", node_id: 3, state, data, mount_point: None }
    }

    fn place(target: u32, wish: TargetWish) -> TargetPlace {
        TargetPlace { target: TargetId(target), chain: ChainId(7), disk: 0, wish }
    }

    #[test]
    fn the_stored_form_is_fixed() {
        let file = NodeFile {
            cluster: "c".into(),
            node_id: 3,
            node_uuid: "u".into(),
            disks: vec![NodeDisk { uuid: "d".into(), folder: "/d".into() }],
            targets: vec![place(5, TargetWish::Run), place(6, TargetWish::Stopped)],
        };
        let text = "# A server of a t3fs cluster. Written by t3fs-node; do not edit.\n\
                    format = 1\ncluster = \"c\"\nnode_id = 3\nnode_uuid = \"u\"\n\n\
                    [[disk]]\nuuid = \"d\"\nfolder = \"/d\"\n\n\
                    [[target]]\nid = 5\nchain = 7\ndisk = 0\n\n\
                    [[target]]\nid = 6\nchain = 7\ndisk = 0\nwish = \"stopped\"\n";
        assert_eq!(file.render(), text);
        assert_eq!(NodeFile::parse(text), Ok(file));
    }

    #[test]
    fn a_server_comes_back_as_itself() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (state, disks) = (base.join("s"), [base.join("a"), base.join("b")]);
        let first = look(&wanted(&state, Some(&disks))).unwrap().commit().unwrap();
        assert!(look(&wanted(&state, None)).unwrap_err().line.contains("in use"));
        let (uuid, incarnation) = (first.file.node_uuid.clone(), first.incarnation);
        drop(first);
        // The other order, and without one.
        let swapped = [disks[1].clone(), disks[0].clone()];
        let again = look(&wanted(&state, Some(&swapped))).unwrap().commit().unwrap();
        assert_eq!(again.disks[0].folder, disks[0]);
        assert_eq!(again.file.node_uuid, uuid);
        assert!(again.incarnation > incarnation);
        drop(again);
        let one = look(&wanted(&state, Some(&disks[1..]))).unwrap().commit().unwrap();
        assert_eq!((one.disks[0].index, one.remarks.len()), (1, 1));
        drop(one);

        let mut other = wanted(&state, None);
        other.node_id = 4;
        assert!(look(&other).unwrap_err().line.contains("--node-id 3"));
        other.cluster = "d";
        assert!(look(&other).unwrap_err().line.contains("--cluster-id c"));
        let stranger = base.join("t");
        fs::create_dir(disks[0].join("targets")).unwrap();
        let line = look(&wanted(&stranger, Some(&disks))).unwrap_err().line;
        assert!(line.contains("another server"), "{line}");
        fs::remove_dir_all(&disks[0]).unwrap();
        assert!(look(&wanted(&state, Some(&disks))).unwrap_err().line.contains("empty now"));
    }

    #[test]
    fn one_disk_below_the_state_folder_by_default() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().canonicalize().unwrap().join("s");
        let server = look(&wanted(&state, Some(&[]))).unwrap().commit().unwrap();
        assert_eq!(server.disks[0].folder, state.join("disk"));
        drop(server);
        assert!(look(&wanted(&state, Some(&[]))).is_ok());
        let mount = state.join("disk/m");
        let mut on = wanted(&state, Some(&[]));
        on.mount_point = Some(&mount);
        assert!(look(&on).unwrap_err().line.contains("mount point"));
    }
}
