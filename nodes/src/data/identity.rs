//! The two small TOML files that say what a data folder is. Both begin with `format`, are replaced
//! whole (new file, fsync, rename, fsync of the folder) and are pinned byte by byte by the tests.
//!
//! `t3fs-disk.toml`, in every data folder, written once:
//! ```text
//! # A disk of a t3fs cluster. Written by t3fs-node; do not edit.
//! format = 1
//! cluster = "t3fs"
//! cluster_uuid = "01234567-89ab-4cde-8f01-23456789abcd"
//! disk_uuid = "..."
//! ```
//! `t3fs-cluster.toml`, in the first data folder, written at creation and when disks are added:
//! ```text
//! # A t3fs cluster on this machine. Written by t3fs-node; do not edit.
//! format = 1
//! cluster = "t3fs"
//! cluster_uuid = "..."
//! replicas = 2
//! created = 1771027200            seconds since the Unix epoch
//!
//! [[disk]]                        in order: the first is disk 0
//! uuid = "..."
//! folder = "/data/a"              where it was last seen; for messages
//! targets = [1, 2]
//!
//! [[chain]]
//! id = 1
//! targets = [1, 2]                head first
//! ```

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Deserialize;
use t3fs_actors::proto::ids::{ChainId, TargetId};

/// The newest format that this build reads and writes.
pub const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFile {
    pub cluster: String,
    pub cluster_uuid: String,
    pub disk_uuid: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFile {
    pub cluster: String,
    pub cluster_uuid: String,
    pub replicas: u8,
    /// Seconds since the Unix epoch.
    pub created: u64,
    pub disks: Vec<DiskRecord>,
    pub chains: Vec<ChainRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRecord {
    pub uuid: String,
    pub folder: PathBuf,
    pub targets: Vec<TargetId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainRecord {
    pub id: ChainId,
    pub targets: Vec<TargetId>,
}

/// Why an identity file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityError {
    Newer(u32),
    Damaged(String),
}

#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskV1 {
    #[serde(rename = "format")]
    _format: u32,
    cluster: String,
    cluster_uuid: String,
    disk_uuid: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterV1 {
    #[serde(rename = "format")]
    _format: u32,
    cluster: String,
    cluster_uuid: String,
    replicas: u8,
    created: u64,
    #[serde(default)]
    disk: Vec<DiskRecordV1>,
    #[serde(default)]
    chain: Vec<ChainRecordV1>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskRecordV1 {
    uuid: String,
    folder: PathBuf,
    targets: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChainRecordV1 {
    id: u32,
    targets: Vec<u32>,
}

/// Reads any format up to [`FORMAT`]; a newer one is told apart from damage before anything else.
pub(super) fn parse<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, IdentityError> {
    let damaged = |e: toml::de::Error| IdentityError::Damaged(e.message().to_owned());
    let any: AnyFormat = toml::from_str(text).map_err(damaged)?;
    match any.format {
        FORMAT => toml::from_str(text).map_err(damaged),
        0 => Err(IdentityError::Damaged("format 0".into())),
        newer => Err(IdentityError::Newer(newer)),
    }
}

/// A TOML basic string: JSON's escapes are a subset of TOML's.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list(ids: &[TargetId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("[{}]", ids.join(", "))
}

impl DiskFile {
    pub const NAME: &'static str = "t3fs-disk.toml";

    pub fn render(&self) -> String {
        format!(
            "# A disk of a t3fs cluster. Written by t3fs-node; do not edit.\n\
             format = {FORMAT}\ncluster = {}\ncluster_uuid = {}\ndisk_uuid = {}\n",
            quoted(&self.cluster),
            quoted(&self.cluster_uuid),
            quoted(&self.disk_uuid)
        )
    }

    pub fn parse(text: &str) -> Result<DiskFile, IdentityError> {
        let v: DiskV1 = parse(text)?;
        Ok(DiskFile { cluster: v.cluster, cluster_uuid: v.cluster_uuid, disk_uuid: v.disk_uuid })
    }
}

impl ClusterFile {
    pub const NAME: &'static str = "t3fs-cluster.toml";

    pub fn render(&self) -> String {
        let mut o = format!(
            "# A t3fs cluster on this machine. Written by t3fs-node; do not edit.\n\
             format = {FORMAT}\ncluster = {}\ncluster_uuid = {}\nreplicas = {}\ncreated = {}\n",
            quoted(&self.cluster),
            quoted(&self.cluster_uuid),
            self.replicas,
            self.created
        );
        for d in &self.disks {
            let folder = d.folder.to_string_lossy();
            let (uuid, folder) = (quoted(&d.uuid), quoted(&folder));
            let targets = list(&d.targets);
            let _ =
                write!(o, "\n[[disk]]\nuuid = {uuid}\nfolder = {folder}\ntargets = {targets}\n");
        }
        for c in &self.chains {
            let _ = write!(o, "\n[[chain]]\nid = {}\ntargets = {}\n", c.id, list(&c.targets));
        }
        o
    }

    pub fn parse(text: &str) -> Result<ClusterFile, IdentityError> {
        let v: ClusterV1 = parse(text)?;
        let targets = |ids: Vec<u32>| ids.into_iter().map(TargetId).collect();
        let disks = v.disk.into_iter().map(|d| DiskRecord {
            uuid: d.uuid,
            folder: d.folder,
            targets: targets(d.targets),
        });
        let chains = v
            .chain
            .into_iter()
            .map(|c| ChainRecord { id: ChainId(c.id), targets: targets(c.targets) });
        let file = ClusterFile {
            cluster: v.cluster,
            cluster_uuid: v.cluster_uuid,
            replicas: v.replicas,
            created: v.created,
            disks: disks.collect(),
            chains: chains.collect(),
        };
        file.consistent().map_err(|e| IdentityError::Damaged(e.into()))?;
        Ok(file)
    }

    /// The disk that holds a target.
    pub fn disk_of(&self, target: TargetId) -> Option<usize> {
        self.disks.iter().position(|d| d.targets.contains(&target))
    }

    /// Every chain has its number of replicas, each on another disk.
    fn consistent(&self) -> Result<(), &'static str> {
        if self.disks.is_empty() || self.replicas == 0 {
            return Err("no disk or no replica");
        }
        for c in &self.chains {
            let disks: Vec<_> = c.targets.iter().map(|t| self.disk_of(*t)).collect();
            if c.targets.len() != usize::from(self.replicas) || disks.contains(&None) {
                return Err("a chain of missing targets");
            }
            if (1..disks.len()).any(|i| disks[..i].contains(&disks[i])) {
                return Err("a chain with two replicas on one disk");
            }
        }
        Ok(())
    }
}

/// A random (version 4) UUID, RFC 9562.
pub fn new_uuid() -> std::io::Result<String> {
    let mut b = [0u8; 16];
    let n = rustix::rand::getrandom(&mut b, rustix::rand::GetRandomFlags::empty())?;
    assert_eq!(n, b.len(), "the kernel gives up to 256 bytes in one piece");
    b[6] = b[6] & 0x0F | 0x40;
    b[8] = b[8] & 0x3F | 0x80;
    let h: String = b.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..]))
}

#[cfg(test)]
mod tests {
    //! Goal: the stored form never changes unnoticed. Method: golden text, both ways.
    use super::*;

    const CLUSTER: &str = "\
# A t3fs cluster on this machine. Written by t3fs-node; do not edit.
format = 1
cluster = \"t3fs\"
cluster_uuid = \"01234567-89ab-4cde-8f01-23456789abcd\"
replicas = 2
created = 1771027200

[[disk]]
uuid = \"a\"
folder = \"/data/\\\"odd\\\\ name\\\"\"
targets = [1, 4]

[[disk]]
uuid = \"b\"
folder = \"/data/b\"
targets = [2, 3]

[[chain]]
id = 1
targets = [1, 2]

[[chain]]
id = 2
targets = [3, 4]
";

    const DISK: &str = "\
# A disk of a t3fs cluster. Written by t3fs-node; do not edit.
format = 1
cluster = \"t3fs\"
cluster_uuid = \"01234567-89ab-4cde-8f01-23456789abcd\"
disk_uuid = \"a\"
";

    fn cluster() -> ClusterFile {
        let disk = |uuid: &str, folder: &str, t: [u32; 2]| DiskRecord {
            uuid: uuid.into(),
            folder: folder.into(),
            targets: t.map(TargetId).into(),
        };
        let chain =
            |id, t: [u32; 2]| ChainRecord { id: ChainId(id), targets: t.map(TargetId).into() };
        ClusterFile {
            cluster: "t3fs".into(),
            cluster_uuid: "01234567-89ab-4cde-8f01-23456789abcd".into(),
            replicas: 2,
            created: 1_771_027_200,
            disks: vec![disk("a", "/data/\"odd\\ name\"", [1, 4]), disk("b", "/data/b", [2, 3])],
            chains: vec![chain(1, [1, 2]), chain(2, [3, 4])],
        }
    }

    #[test]
    fn golden() {
        assert_eq!(cluster().render(), CLUSTER);
        assert_eq!(ClusterFile::parse(CLUSTER), Ok(cluster()));
        let disk = DiskFile::parse(DISK).unwrap();
        assert_eq!(disk.disk_uuid, "a");
        assert_eq!(disk.render(), DISK);
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let newer = CLUSTER.replace("format = 1", "format = 9\nnovelty = true");
        assert_eq!(ClusterFile::parse(&newer), Err(IdentityError::Newer(9)));
        for bad in [
            CLUSTER.replace("format = 1\n", ""),
            CLUSTER.replace("replicas = 2", "replicas = \"x\""),
            CLUSTER.replace("replicas = 2", "replicas = 3"),
            CLUSTER.replace("targets = [3, 4]", "targets = [2, 3]"),
            CLUSTER.replace("created", "novelty"),
            CLUSTER[..200].to_owned(),
        ] {
            assert!(matches!(ClusterFile::parse(&bad), Err(IdentityError::Damaged(_))), "{bad}");
        }
    }

    #[test]
    fn uuids_are_random_and_version_4() {
        let (a, b) = (new_uuid().unwrap(), new_uuid().unwrap());
        assert_ne!(a, b);
        assert_eq!((a.len(), &a[14..15]), (36, "4"));
    }
}
