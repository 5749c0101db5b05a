//! Which t3fs-node processes run on this machine: one small file each, below `/run/t3fs` as root,
//! else below `$XDG_RUNTIME_DIR/t3fs`, or the user's data home where that is not set.
//!
//! The files are hints. An instance counts only while the lock of its data folder is held by the
//! process that the file names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config;
use crate::data::lock::{FolderLock, Tried};
use crate::failure::Failure;

/// A running instance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    pub pid: u32,
    pub cluster: String,
    pub mount_point: PathBuf,
    /// The cluster's first data folder.
    pub data: PathBuf,
}

/// Keeps this process listed until dropped.
pub struct Listed(PathBuf);

fn folder() -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok("/run/t3fs".into());
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime.filter(|p| p.is_absolute() && p.is_dir()) {
        Some(runtime) => Ok(runtime.join("t3fs")),
        None => Ok(config::user_data_home()?.join("t3fs-run")),
    }
}

fn render(i: &Instance) -> String {
    let quoted = |p: &Path| serde_json::Value::from(p.to_string_lossy()).to_string();
    format!(
        "pid = {}\ncluster = {}\nmount_point = {}\ndata = {}\n",
        i.pid,
        serde_json::Value::from(i.cluster.as_str()),
        quoted(&i.mount_point),
        quoted(&i.data)
    )
}

/// Lists an instance. Without it `down` needs to be told nothing less, but finds nothing.
pub fn list(instance: &Instance) -> Result<Listed, Failure> {
    let folder = folder()?;
    let path = folder.join(format!("{}.toml", instance.pid));
    let write = || -> io::Result<()> {
        fs::create_dir_all(&folder)?;
        let new = path.with_extension("new");
        fs::write(&new, render(instance))?;
        fs::rename(new, &path)
    };
    write().map_err(|e| crate::failure::failed(format!("cannot write {}: {e}", path.display())))?;
    Ok(Listed(path))
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.0) {
            tracing::debug!("{} stays; it counts for nothing: {e}", self.0.display());
        }
    }
}

/// The instances that run, in order of their mount points. Files of ended ones are removed.
pub fn running() -> Result<Vec<Instance>, Failure> {
    Ok(running_below(&folder()?))
}

fn running_below(folder: &Path) -> Vec<Instance> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let instance = fs::read_to_string(&path).ok();
        let instance = instance.and_then(|text| toml::from_str::<Instance>(&text).ok());
        match instance.filter(is_alive) {
            Some(i) => found.push(i),
            // Another `down` may remove it at the same time.
            None => drop(fs::remove_file(&path)),
        }
    }
    found.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
    found
}

/// Whether the process that the instance names holds its data folder.
pub fn is_alive(i: &Instance) -> bool {
    matches!(FolderLock::try_existing(&i.data), Ok(Tried::Held(pid)) if pid == Some(i.pid))
}

#[cfg(test)]
mod tests {
    //! Goal: only those whose lock is held count, and the files of others go.
    use super::*;

    #[test]
    fn a_file_is_only_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("da\"ta");
        let run = dir.path().join("run");
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(&run).unwrap();
        let me = Instance {
            pid: std::process::id(),
            cluster: "c".into(),
            mount_point: "/m".into(),
            data: data.clone(),
        };
        let file = run.join("1.toml");
        let put = |i: &Instance| fs::write(&file, render(i)).unwrap();
        put(&me);
        assert_eq!(running_below(&run), [], "nobody holds the lock");
        assert!(!file.exists());
        let Tried::Locked(mut lock) = FolderLock::try_create(&data).unwrap() else { panic!() };
        lock.sign().unwrap();
        put(&me);
        assert_eq!(running_below(&run), std::slice::from_ref(&me));
        put(&Instance { pid: 1, ..me });
        assert_eq!(running_below(&run), [], "another process holds it");
        fs::write(&file, "nonsense").unwrap();
        assert_eq!(running_below(&run), []);
    }
}
