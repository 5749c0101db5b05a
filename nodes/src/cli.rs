//! The command line. It only parses: defaults and checks are in `config`, which also reads the
//! configuration file and the environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A t3fs file system on this machine.
#[derive(Debug, Parser)]
#[command(name = "t3fs-node", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Starts a cluster in one process and mounts it on DIR
    Up(UpArgs),
    /// Flushes, unmounts and ends a running t3fs-node
    Down(DownArgs),
    /// Compares all replicas of all data of a running t3fs-node
    Check(CheckArgs),
    /// Deletes the data of a cluster, after its name was typed
    Destroy(DestroyArgs),
    /// Prints every setting: key, environment variable, default, meaning
    Config,
}

/// What `up` and `destroy` have in common: which cluster, where.
#[derive(Clone, Debug, Default, Args)]
pub struct ClusterArgs {
    /// TOML file with settings; flags and T3FS_* variables go before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder for data; several mean several disks [default: /var/lib/t3fs/<cluster> as root, else
    /// ~/.local/share/t3fs/<cluster>]
    #[arg(long, value_name = "FOLDER")]
    pub data: Vec<PathBuf>,
    /// Name of the cluster; df shows hf3fs.<NAME> [default: t3fs]
    #[arg(long, value_name = "NAME")]
    pub cluster_id: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Folder to mount on
    pub dir: PathBuf,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Copies of everything, each on another disk; fixed at creation [default: 1]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u8>,
    /// Address for other nodes and clients [default: 127.0.0.1:0, which means this machine only]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Threads for metadata and storage [default: cores - 1, at least 1]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// What to log: error, warn, info, debug, or a tracing filter [default: warn; info with
    /// --detach]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Returns when mounted and goes on in the background; logs below the data folder
    #[arg(long)]
    pub detach: bool,
    /// The background half of --detach
    #[arg(long, hide = true)]
    pub detached: bool,
}

#[derive(Clone, Debug, Args)]
pub struct DownArgs {
    /// The mount [default: the only one]
    pub dir: Option<PathBuf>,
    /// Takes the mount away from processes that still use it
    #[arg(long)]
    pub force: bool,
}

#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The mount [default: the only one]
    pub dir: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct DestroyArgs {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Deletes without asking, if NAME is the name of the cluster
    #[arg(long, value_name = "NAME")]
    pub yes_really: Option<String>,
}

#[cfg(test)]
mod tests {
    //! Goal: the documented forms parse, and clap finds no contradiction in the definition.
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn up_takes_several_data_folders() {
        let line = "t3fs-node up /mnt --data /a --data /b --replicas 2 --cluster-id x --detach";
        let Command::Up(up) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("up");
        };
        assert_eq!(up.cluster.data, [PathBuf::from("/a"), "/b".into()]);
        assert_eq!((up.replicas, up.detach), (Some(2), true));
        assert_eq!(up.cluster.cluster_id.as_deref(), Some("x"));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["t3fs-node", "t3fs-node up", "t3fs-node up /m --replicas x"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
