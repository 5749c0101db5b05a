//! Which running process a command means: by a mount, by a folder, or the only one there is.

use std::path::{Path, PathBuf};

use crate::config::Settings;
use crate::config::settings::default_folder;
use crate::control;
use crate::data::lock::{FolderLock, Tried};
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
    if is_served(place) {
        return Ok(place.to_owned());
    }
    home_of_mount(place).map_err(|why| {
        failed(format!("{why}; {} is no folder of a running process either", place.display()))
    })
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

/// The folder of the process that serves a mount.
fn home_of_mount(dir: &Path) -> Result<PathBuf, Failure> {
    match find(Some(dir))? {
        FoundMount::Running(i) => Ok(i.data),
        FoundMount::Left(dir) => Err(failed(format!("no t3fs-node serves {}", dir.display()))),
    }
}

/// A mount, and whether a process serves it.
pub enum FoundMount {
    Running(Instance),
    /// A mount of t3fs that no process of this user serves.
    Left(PathBuf),
}

/// The process that serves a mount; without one, the only process with a mount.
pub fn find(dir: Option<&Path>) -> Result<FoundMount, Failure> {
    let running = registry::running()?;
    let Some(dir) = dir else {
        return match running.as_slice() {
            [] => Err(failed("no t3fs-node of this user is running")),
            [one] => Ok(FoundMount::Running(one.clone())),
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
    let dir = place::resolve(dir)?;
    if let Some(i) = running.into_iter().find(|i| i.mount_point == dir) {
        return Ok(FoundMount::Running(i));
    }
    let mounted = mountinfo::at(&dir)
        .map_err(|e| failed(format!("/proc/self/mountinfo cannot be read: {e}")))?;
    match mounted {
        Some(m) if m.is_ours() => Ok(FoundMount::Left(dir)),
        _ => Err(failed(format!("{} is not a mount of t3fs", dir.display()))),
    }
}
