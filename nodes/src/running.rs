//! Which running process a command means: by a mount, by a folder, or the only one there is.

use std::path::{Path, PathBuf};

use crate::config::Settings;
use crate::config::settings::default_folder;
use crate::control;
use crate::data::lock::{self, FolderLock, Tried};
use crate::failure::{Failure, failed, refused};
use crate::mount::{mountinfo, place};
use crate::registry::{self, Instance};

/// The folder with the control socket of the process that is meant.
pub fn home_of(place: &Path) -> Result<PathBuf, Failure> {
    // Not a path below a mount, which may hang: those that are mounted are looked up first.
    let mounted = registry::running()?.into_iter().find(|i| i.mount_point == place);
    if let Some(instance) = mounted {
        return Ok(instance.data);
    }
    match find(Some(place))? {
        FoundProcess::Mounted(i) => Ok(i.data),
        FoundProcess::Server(home) => Ok(home),
        FoundProcess::Left(dir) => Err(failed(format!("no t3fs-node serves {}", dir.display()))),
    }
}

/// The folder with the control socket of the process that has this state or data folder.
fn home_of_folder(folder: &Path) -> Option<PathBuf> {
    let Ok(Tried::Held(pid)) = FolderLock::try_existing(folder) else { return None };
    if folder.join(control::NAME).exists() {
        return Some(folder.to_owned());
    }
    // A data folder of a server: the process has the locks of all its folders open.
    let open = std::fs::read_dir(format!("/proc/{}/fd", pid?)).ok()?;
    let files = open.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let mut locks = files.filter(|file| file.file_name().is_some_and(|name| name == lock::NAME));
    locks.find_map(|lock| lock.parent().filter(|home| is_served(home)).map(Path::to_owned))
}

/// Whether a process that runs has its control socket there.
fn is_served(folder: &Path) -> bool {
    folder.join(control::NAME).exists()
        && matches!(FolderLock::try_existing(folder), Ok(Tried::Held(_)))
}

/// The process of this host, if there is just one.
pub fn only_home(settings: &Settings) -> Result<Option<PathBuf>, Failure> {
    let mut homes: Vec<PathBuf> = registry::running()?.into_iter().map(|i| i.data).collect();
    // Servers without a mount are in no list: the place that the settings name, and the default.
    homes.extend(settings.node_id.and_then(|id| settings.state_or_default(id).ok()));
    if let Ok(any) = default_folder("any", "") {
        let siblings = std::fs::read_dir(any.parent().expect("it has a name"));
        homes.extend(siblings.into_iter().flatten().flatten().map(|e| e.path()));
    }
    homes.retain(|home| is_served(home));
    homes.sort();
    homes.dedup();
    match homes.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        many => {
            let many: Vec<String> = many.iter().map(|h| h.display().to_string()).collect();
            let list = many.join(", ");
            Err(refused(format!("several t3fs-nodes are running, name the folder of one: {list}")))
        }
    }
}

/// A process, by a mount or a folder.
pub enum FoundProcess {
    Mounted(Instance),
    /// One without a mount: the folder with its control socket.
    Server(PathBuf),
    /// A mount of t3fs that no process of this user serves.
    Left(PathBuf),
}

/// The process that is meant; without a place, the only one with a mount.
pub fn find(place: Option<&Path>) -> Result<FoundProcess, Failure> {
    let running = registry::running()?;
    let Some(place) = place else {
        return match running.as_slice() {
            [] => Err(failed(
                "no t3fs-node of this user has a mount; name a server by its state folder",
            )),
            [one] => Ok(FoundProcess::Mounted(one.clone())),
            many => {
                let list: Vec<String> = many
                    .iter()
                    .map(|i| {
                        let dir = i.mount_point.display();
                        format!("{dir} (cluster {}, process {})", i.cluster, i.pid)
                    })
                    .collect();
                Err(refused(format!(
                    "several t3fs-nodes are running, name one: {}",
                    list.join(", ")
                )))
            }
        };
    };
    let dir = place::resolve(place)?;
    if let Some(i) = running.iter().find(|i| i.mount_point == dir) {
        return Ok(FoundProcess::Mounted(i.clone()));
    }
    let mounted = mountinfo::at(&dir)
        .map_err(|e| failed(format!("/proc/self/mountinfo cannot be read: {e}")))?;
    if mounted.is_some_and(|mount| mount.is_ours()) {
        return Ok(FoundProcess::Left(dir));
    }
    let home = home_of_folder(&dir).ok_or_else(|| {
        let shown = dir.display();
        failed(format!("{shown} is neither a mount of t3fs nor a folder of a running process"))
    })?;
    let mounted = running.into_iter().find(|i| i.data == home);
    Ok(mounted.map_or(FoundProcess::Server(home), FoundProcess::Mounted))
}
