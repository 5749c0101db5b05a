//! What settings say together, and where things are by default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::definitions::{Settings, find, key};
use super::secret::Secret;
use crate::failure::{Failure, refused};

/// How fast the cluster notices that a node is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leases {
    pub heartbeat: Duration,
    pub node: Duration,
    pub mgmtd: Duration,
}

impl Settings {
    /// Refuses values that do not fit together.
    pub(super) fn check_together(&self) -> Result<(), Failure> {
        if self.secret.is_some() && self.secret_file.is_some() {
            return Err(refused("secret and secret_file are both set; leave one"));
        }
        self.data.iter().flatten().try_for_each(|folder| check_one_folder(folder))?;
        let (heartbeat, lease) = (self.heartbeat_ms, self.node_lease_ms);
        // A server stops at two thirds of its lease; one lost heartbeat must not end it.
        if lease / 3 < heartbeat {
            return Err(refused(format!(
                "node_lease_ms is {lease}; it must be at least 3 times heartbeat_ms, here \
                 {heartbeat}"
            )));
        }
        Ok(())
    }

    /// What all processes of the cluster share, however it was given.
    pub fn shared_secret(&self) -> Option<&Secret> {
        self.secret.as_ref().or(self.secret_file.as_ref())
    }

    pub fn leases(&self) -> Leases {
        let ms = |n: u32| Duration::from_millis(n.into());
        Leases {
            heartbeat: ms(self.heartbeat_ms),
            node: ms(self.node_lease_ms),
            mgmtd: ms(self.mgmtd_lease_ms),
        }
    }

    /// Data folders of `up`: as given, or the place where data goes by default.
    pub fn data_or_default(&self) -> Result<Vec<PathBuf>, Failure> {
        match &self.data {
            Some(folders) => Ok(folders.clone()),
            None => Ok(vec![default_folder(&self.cluster_id, "say --data FOLDER")?]),
        }
    }

    /// The state folder of a server.
    pub fn state_or_default(&self, node: u32) -> Result<PathBuf, Failure> {
        match &self.state {
            Some(folder) => Ok(folder.clone()),
            // A cluster's name may hold a dot too: "a.node1" of cluster a and "a" with ".node1".
            // Whoever calls a cluster so is told by the identity file.
            None => {
                default_folder(&format!("{}.node{node}", self.cluster_id), "say --state FOLDER")
            }
        }
    }
}

/// Refuses what is likely several folders in one word: of what is not there yet, no name may have
/// the marks that stand between the parts of lists.
fn check_one_folder(folder: &Path) -> Result<(), Failure> {
    let there = folder.ancestors().find(|above| above.exists());
    let new = there.map_or(folder, |above| folder.strip_prefix(above).expect("it is above"));
    if !new.to_string_lossy().contains([',', ':']) {
        return Ok(());
    }
    let data = find(key::data).expect("it is defined");
    Err(refused(format!(
        "data names {folder:?}, which is no folder; several are {flag} A {flag} B, {variable}=A:B, \
         or {name} = [\"A\", \"B\"] in the file (make one with , or : in its name before)",
        flag = data.flag(),
        variable = data.variable(),
        name = data.name
    )))
}

/// Where data of this name goes by default.
pub fn default_folder(name: &str, hint: &str) -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/t3fs").join(name));
    }
    match user_data_home() {
        Ok(home) => Ok(home.join("t3fs").join(name)),
        Err(e) => Err(refused(format!("{e}; {hint}"))),
    }
}

/// `$XDG_DATA_HOME`, or where it is by default.
pub fn user_data_home() -> Result<PathBuf, Failure> {
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    var("XDG_DATA_HOME")
        .or_else(|| var("HOME").map(|h| h.join(".local/share")))
        .ok_or_else(|| refused("neither XDG_DATA_HOME nor HOME is set"))
}
