//! The three places that every job runs in: the plain folder, the product's mount, nullfs.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::node::{Node, Setup};

/// Everything that one run makes below the folder given by `--data`; removed at its end.
pub struct Places {
    base: PathBuf,
    pub folder: PathBuf,
    /// The node whose mount is measured, then those behind it.
    pub t3fs: Vec<Node>,
    pub nullfs: Node,
}

/// One place as a job sees it.
pub struct Place<'a> {
    pub dir: &'a Path,
    /// The processes that serve it.
    pub servers: Vec<u32>,
}

impl Places {
    /// Starts what has to be started. Without a binary the product is left out; `apart`: its mount
    /// is a process of its own.
    pub fn set_up(
        base: &Path,
        t3fs: Option<&Path>,
        nullfs: &Path,
        apart: bool,
    ) -> Result<Places, String> {
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
        let t3fs = match t3fs {
            None => Vec::new(),
            Some(binary) if apart => {
                start_apart(binary, &data, &t3fs_mount, &make("servers")?, &base)?
            }
            Some(binary) => {
                let log = base.join("t3fs.log");
                vec![Node::start(Setup::t3fs(binary, &t3fs_mount, &[data], &log))?]
            }
        };
        Ok(Places { base, folder, t3fs, nullfs })
    }

    pub fn all(&self) -> [Option<Place<'_>>; 3] {
        let t3fs = self.t3fs.first().map(|node| Place {
            dir: node.mount_point(),
            servers: self.t3fs.iter().map(Node::pid).collect(),
        });
        let nullfs = &self.nullfs;
        [
            Some(Place { dir: &self.folder, servers: Vec::new() }),
            t3fs,
            Some(Place { dir: nullfs.mount_point(), servers: vec![nullfs.pid()] }),
        ]
    }

    /// Ends what was started and removes all data.
    pub fn tear_down(self) -> Result<(), String> {
        let ended = self.t3fs.into_iter().try_for_each(Node::down);
        drop(self.nullfs);
        // Only after both mounts are gone, or this would delete through them.
        fs::remove_dir_all(&self.base).map_err(|err| format!("{}: {err}", self.base.display()))?;
        ended
    }
}

/// A cluster of one process that listens, and a mount of it in another.
fn start_apart(
    binary: &Path,
    data: &Path,
    mount: &Path,
    servers_mount: &Path,
    base: &Path,
) -> Result<Vec<Node>, String> {
    let describe = |err: std::io::Error| format!("no free port: {err}");
    let free = TcpListener::bind(("127.0.0.1", 0)).map_err(describe)?;
    let listen = free.local_addr().map_err(describe)?.to_string();
    drop(free);
    let log = base.join("servers.log");
    let servers = Setup::t3fs(binary, servers_mount, &[data.to_path_buf()], &log);
    let servers = Node::start(servers.arg("--listen").arg(&listen))?;
    let client = Setup {
        binary: binary.into(),
        args: vec!["mount".into(), mount.into()],
        mount_point: mount.into(),
        log: base.join("t3fs.log"),
    };
    let client = client.arg("--cluster").arg(format!("TCP://{listen}"));
    let client = Node::start(client.arg("--secret-file").arg(data.join("secret")))?;
    Ok(vec![client, servers])
}
