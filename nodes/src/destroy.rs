//! `destroy`: deletes the data of a cluster, after its name was typed. What t3fs did not make
//! stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::DestroyArgs;
use crate::config;
use crate::data::folder;
use crate::data::lock::{FolderLock, Tried};
use crate::failure::{Failure, failed, refused};
use crate::logging::tell;

pub fn run(args: &DestroyArgs) -> Result<(), Failure> {
    let (settings, _) = config::load(args.settings.flags()?)?;
    let data = settings.data_or_default()?;
    let cluster = settings.cluster_id;
    let mut folders: Vec<PathBuf> =
        data.iter().map(|f| folder::resolve(f)).collect::<Result<_, _>>()?;
    let mut known = 0;
    let mut i = 0;
    // The first folder names the others.
    while let Some(path) = folders.get(i).cloned() {
        i += 1;
        let found = folder::look(&path)?;
        let Some(disk) = found.disk else {
            return Err(refused(format!(
                "{} holds no t3fs data; give the cluster's folders with --data",
                path.display()
            )));
        };
        if disk.cluster != cluster {
            return Err(refused(format!(
                "{} belongs to cluster {}, not {cluster}; add --cluster-id {}",
                path.display(),
                disk.cluster,
                disk.cluster
            )));
        }
        for record in found.cluster.iter().flat_map(|c| &c.disks) {
            known += 1;
            let there = folder::look(&record.folder).ok().and_then(|f| f.disk);
            let same = there.is_some_and(|d| d.disk_uuid == record.uuid);
            if same && !folders.contains(&record.folder) {
                folders.push(record.folder.clone());
            }
        }
    }
    let mut locks = Vec::new();
    for path in &folders {
        match FolderLock::try_create(path) {
            Ok(Tried::Locked(lock)) => locks.push(lock),
            Ok(Tried::Held(_) | Tried::None) => {
                return Err(refused(format!(
                    "{0} is in use; end its t3fs-node first with `t3fs-node down {0}`",
                    path.display()
                )));
            }
            Err(e) => return Err(refused(format!("cannot lock {}: {e}", path.display()))),
        }
    }
    confirm(args.yes_really.as_deref(), &cluster, &folders)?;
    for path in &folders {
        delete(path)?;
    }
    tell(&format!("cluster {cluster} is deleted"));
    if known > folders.len() {
        tell(&format!("{} of its disks were not there and keep their data", known - folders.len()));
    }
    Ok(())
}

fn confirm(given: Option<&str>, cluster: &str, folders: &[PathBuf]) -> Result<(), Failure> {
    let typed = match given {
        Some(name) => name.to_owned(),
        None => {
            tell(&format!("This deletes all files of cluster {cluster}, in:"));
            for f in folders {
                tell(&format!("  {}", f.display()));
            }
            tell("Type the name of the cluster to go on:");
            let mut line = String::new();
            io::stdin()
                .read_line(&mut line)
                .map_err(|e| refused(format!("cannot ask: {e}; use --yes-really {cluster}")))?;
            line.trim().to_owned()
        }
    };
    if typed == cluster {
        return Ok(());
    }
    Err(refused(format!(
        "the name of the cluster is {cluster}, not {typed:?}; nothing was deleted"
    )))
}

/// Deletes what t3fs made. The identity goes last but the lock, so that an interrupted deletion can
/// be begun again.
fn delete(path: &Path) -> Result<(), Failure> {
    use crate::data::identity::{ClusterFile, DiskFile};
    let cannot = |at: &Path, e: io::Error| failed(format!("cannot delete {}: {e}", at.display()));
    let mut names: Vec<String> = fs::read_dir(path)
        .map_err(|e| cannot(path, e))?
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| folder::is_ours(n))
        .collect();
    let last = [ClusterFile::NAME, DiskFile::NAME, crate::data::lock::NAME];
    names.sort_by_key(|n| last.iter().position(|l| l == n).map_or(0, |i| i + 1));
    for name in names {
        let at = path.join(&name);
        let is_dir = at.symlink_metadata().map_err(|e| cannot(&at, e))?.is_dir();
        let done = if is_dir { fs::remove_dir_all(&at) } else { fs::remove_file(&at) };
        done.map_err(|e| cannot(&at, e))?;
    }
    match fs::remove_dir(path) {
        // Something of others is in it, or it is a mount point: it stays.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
            ) =>
        {
            tell(&format!("{} holds other things and stays", path.display()));
            Ok(())
        }
        other => other.map_err(|e| cannot(path, e)),
    }
}
