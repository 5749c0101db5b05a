//! The three places that every job runs in: the plain folder, the product's mount, nullfs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::node::{Node, Setup};

/// Everything that one run makes below the folder given by `--data`; removed at its end.
pub struct Places {
    base: PathBuf,
    pub folder: PathBuf,
    pub t3fs: Option<Node>,
    pub nullfs: Node,
}

/// One place as a job sees it.
pub struct Place<'a> {
    pub dir: &'a Path,
    pub server: Option<u32>,
}

impl Places {
    /// Starts what has to be started. Without a binary the product is left out.
    pub fn set_up(base: &Path, t3fs: Option<&Path>, nullfs: &Path) -> Result<Places, String> {
        let describe = |err| format!("{}: {err}", base.display());
        fs::create_dir_all(base).map_err(describe)?;
        // Mount points are compared with what the kernel lists: absolute, without links.
        let base = base.canonicalize().map_err(describe)?;
        let name = format!("t3fs-bench.{}", std::process::id());
        let base = base.join(name);
        let make = |name: &str| {
            let dir = base.join(name);
            let made = fs::create_dir_all(&dir);
            made.map(|()| dir.clone()).map_err(|err| format!("{}: {err}", dir.display()))
        };
        let folder = make("folder")?;
        let data = make("data")?;
        let (t3fs_mount, nullfs_mount) = (make("t3fs")?, make("null")?);
        let nullfs = Node::start(Setup::nullfs(nullfs, &nullfs_mount, &base.join("nullfs.log")))?;
        let start_t3fs = |binary: &Path| {
            Node::start(Setup::t3fs(binary, &t3fs_mount, &[data], &base.join("t3fs.log")))
        };
        let t3fs = t3fs.map(start_t3fs).transpose()?;
        Ok(Places { base, folder, t3fs, nullfs })
    }

    pub fn all(&self) -> [Option<Place<'_>>; 3] {
        let mounted = |node| {
            let node: &Node = node;
            Place { dir: node.mount_point(), server: Some(node.pid()) }
        };
        [
            Some(Place { dir: &self.folder, server: None }),
            self.t3fs.as_ref().map(mounted),
            Some(mounted(&self.nullfs)),
        ]
    }

    /// Ends what was started and removes all data.
    pub fn tear_down(self) -> Result<(), String> {
        let ended = self.t3fs.map_or(Ok(()), Node::down);
        drop(self.nullfs);
        // Only after both mounts are gone, or this would delete through them.
        fs::remove_dir_all(&self.base).map_err(|err| format!("{}: {err}", self.base.display()))?;
        ended
    }
}
