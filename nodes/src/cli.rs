//! The command line. It only parses: defaults and checks are in `config`, which also reads the
//! configuration file and the environment.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Flags;
use crate::failure::Failure;

/// A t3fs file system: a whole cluster on this machine (`up`), or a part of one (`run`, `mount`).
#[derive(Debug, Parser)]
#[command(name = "t3fs-node", version, propagate_version = true)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Without a command: `run`.
    #[command(flatten)]
    pub run: RunArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Starts a cluster in one process and mounts it on DIR
    Up(UpArgs),
    /// Runs roles of a cluster of several processes; `t3fs-node --roles ..` is the same
    Run(RunArgs),
    /// Mounts a cluster that runs elsewhere on DIR
    Mount(MountArgs),
    /// Makes chains over the storage nodes that have registered and have none
    MakeChains(MakeChainsArgs),
    /// Flushes, unmounts and ends a running t3fs-node
    Down(DownArgs),
    /// Compares all replicas of all data, and checks names; status 1 when something is wrong
    Check(CheckArgs),
    /// Tells by what fabric processes talk to each other, and what keeps RDMA from being used
    Doctor(DoctorArgs),
    /// Prints what a process has handled so far: how often, how long, how many bytes
    Stats(StatsArgs),
    /// Deletes the data of a cluster, after its name was typed
    Destroy(DestroyArgs),
    /// Prints every setting: key, environment variable, default, meaning
    Config,
}

/// What all processes of a cluster are told.
#[derive(Clone, Debug, Default, Args)]
pub struct CommonArgs {
    /// TOML file with settings; flags and T3FS_* variables go before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of the cluster; df shows hf3fs.<NAME> [default: t3fs]
    #[arg(long, value_name = "NAME")]
    pub cluster_id: Option<String>,
    /// File with the cluster's secret, readable by its owner only
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Threads for actors [default: cores - 1, at least 1]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// How to talk to others: auto, tcp or rdma [default: auto]
    #[arg(long, value_name = "FABRIC")]
    pub fabric: Option<String>,
    /// RDMA devices that may be used [default: all]
    #[arg(long, value_name = "DEVICE,..", value_delimiter = ',')]
    pub device_filter: Vec<String>,
    /// Memory that each thread pins for RDMA [default: 64 MiB]
    #[arg(long, value_name = "BYTES")]
    pub rdma_memory: Option<u64>,
    /// What to log: error, warn, info, debug, or a tracing filter
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

impl CommonArgs {
    fn flags(&self) -> Result<Flags, Failure> {
        let flags = Flags::new(self.config.as_ref())
            .set("cluster_id", self.cluster_id.clone())
            .set("shards", self.shards.map(i64::from))
            .set("fabric", self.fabric.clone())
            .set_all("device_filter", &self.device_filter)
            .set("rdma_memory", self.rdma_memory)
            .set("log", self.log.clone());
        flags.set_path("secret_file", self.secret_file.as_ref())
    }
}

/// Where data is.
#[derive(Clone, Debug, Default, Args)]
pub struct DataArgs {
    /// Folder for data; several mean several disks [default: see `t3fs-node config`]
    #[arg(long, value_name = "FOLDER")]
    pub data: Vec<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Folder to mount on: empty, or not there; then it is made
    pub dir: PathBuf,
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub mounting: MountingArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// Copies of everything, each on another disk; fixed at creation [default: 1]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u8>,
    /// Address for mounts elsewhere, with or without a port [default: none, nobody else can mount]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    #[command(flatten)]
    pub background: Background,
}

/// How a mount behaves.
#[derive(Clone, Debug, Default, Args)]
pub struct MountingArgs {
    /// Words of mount(8): ro, noexec, suid, noatime, sync, .. [default: nosuid,nodev]
    #[arg(short = 'o', long, value_name = "WORD,..", value_delimiter = ',')]
    pub mount_options: Vec<String>,
    /// Seconds that an operation waits for a silent cluster before EIO [default: 600]
    #[arg(long, value_name = "SECONDS")]
    pub io_timeout: Option<u32>,
    /// Operations wait for the cluster for ever
    #[arg(long)]
    pub hard: bool,
}

impl MountingArgs {
    fn add_to(&self, flags: Flags) -> Flags {
        flags
            .set_all("mount_options", &self.mount_options)
            .set("io_timeout", self.io_timeout.map(i64::from))
            .set("hard", self.hard.then_some(true))
    }
}

/// Going on behind the command that started it.
#[derive(Clone, Debug, Default, Args)]
pub struct Background {
    /// Returns when it serves and goes on in the background; logs to files
    #[arg(long)]
    pub detach: bool,
    /// The background half of --detach
    #[arg(long, hide = true)]
    pub detached: bool,
}

impl UpArgs {
    pub fn flags(&self) -> Result<Flags, Failure> {
        let flags = self.mounting.add_to(self.common.flags()?);
        let flags = flags.set_paths("data", &self.data.data)?;
        Ok(flags.set("replicas", self.replicas.map(i64::from)).set("listen", self.listen.clone()))
    }
}

#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// What this process does: any of mgmtd, meta, storage, kv, client
    #[arg(long, value_name = "ROLE,..", value_delimiter = ',')]
    pub roles: Vec<String>,
    #[command(flatten)]
    pub common: CommonArgs,
    /// Number of this server in its cluster; no two share one
    #[arg(long, value_name = "N")]
    pub node_id: Option<u32>,
    /// Addresses of the mgmtds, as in TCP://10.0.0.1:8000 or TCP://host:8000
    #[arg(long, value_name = "ADDR,..", value_delimiter = ',')]
    pub cluster: Vec<String>,
    /// Address of the metadata store, as in t3fs-kv://10.0.0.1:8003 or t3fs-kv://host
    #[arg(long, value_name = "ADDR")]
    pub kv: Option<String>,
    /// Address for others, with or without a port [default: 127.0.0.1, this machine only]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Addresses that others are told to use, where they are not those of --listen
    #[arg(long, value_name = "ADDR,..")]
    pub advertise: Option<String>,
    #[command(flatten)]
    pub data: DataArgs,
    /// Folder for what a server must remember [default: see `t3fs-node config`]
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// Folder that the role client mounts on: empty, or not there; then it is made
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    #[command(flatten)]
    pub mounting: MountingArgs,
    #[command(flatten)]
    pub background: Background,
}

impl RunArgs {
    pub fn flags(&self) -> Result<Flags, Failure> {
        let flags = self
            .mounting
            .add_to(self.common.flags()?)
            .set_all("roles", &self.roles)
            .set("node_id", self.node_id.map(i64::from))
            .set_all("cluster", &self.cluster)
            .set("kv", self.kv.clone())
            .set("listen", self.listen.clone())
            .set("advertise", self.advertise.clone());
        flags
            .set_paths("data", &self.data.data)?
            .set_path("state", self.state.as_ref())?
            .set_path("mount", self.mount.as_ref())
    }
}

#[derive(Clone, Debug, Args)]
pub struct MountArgs {
    /// Folder to mount on: empty, or not there; then it is made
    pub dir: PathBuf,
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub mounting: MountingArgs,
    /// Addresses of the cluster's mgmtds, as in TCP://10.0.0.1:8000 or TCP://host:8000
    #[arg(long, value_name = "ADDR,..", value_delimiter = ',')]
    pub cluster: Vec<String>,
    /// Folder for its log in the background [default: below /var/lib/t3fs/.mounts as root]
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    #[command(flatten)]
    pub background: Background,
}

impl MountArgs {
    pub fn flags(&self) -> Result<Flags, Failure> {
        let flags = self.mounting.add_to(self.common.flags()?);
        let flags = flags.set_all("cluster", &self.cluster);
        flags.set_path("state", self.state.as_ref())
    }
}

#[derive(Clone, Debug, Args)]
pub struct MakeChainsArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Addresses of the cluster's mgmtds, as in TCP://10.0.0.1:8000
    #[arg(long, value_name = "ADDR,..", value_delimiter = ',')]
    pub cluster: Vec<String>,
    /// Copies of everything, each on another node [default: 1]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u8>,
    /// Targets on each disk [default: 2]
    #[arg(long, value_name = "N")]
    pub targets_per_disk: Option<u16>,
    /// Waits until so many storage nodes have registered
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub nodes: usize,
}

impl MakeChainsArgs {
    pub fn flags(&self) -> Result<Flags, Failure> {
        let flags = self.common.flags()?.set_all("cluster", &self.cluster);
        Ok(flags
            .set("replicas", self.replicas.map(i64::from))
            .set("targets_per_disk", self.targets_per_disk.map(i64::from)))
    }
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
    /// The mount, state or data folder of a running process [default: the only mount]
    pub place: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct StatsArgs {
    /// The mount, state or data folder of a running process [default: the only one]
    pub place: Option<PathBuf>,
    /// One line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// The mount, state or data folder of a running process [default: the only one, or none]
    pub place: Option<PathBuf>,
    #[command(flatten)]
    pub common: CommonArgs,
    /// Asks no process; tells what this host has
    #[arg(long, conflicts_with_all = ["place", "cluster"])]
    pub host: bool,
    /// Joins the cluster of these mgmtds to look at it, as in TCP://10.0.0.1:8000
    #[arg(long, value_name = "ADDR,..", value_delimiter = ',', conflicts_with = "place")]
    pub cluster: Vec<String>,
    /// One line of JSON
    #[arg(long)]
    pub json: bool,
}

impl DoctorArgs {
    pub fn flags(&self) -> Result<Flags, Failure> {
        Ok(self.common.flags()?.set_all("cluster", &self.cluster))
    }
}

#[derive(Clone, Debug, Args)]
pub struct DestroyArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// Deletes without asking, if NAME is the name of the cluster
    #[arg(long, value_name = "NAME")]
    pub yes_really: Option<String>,
}

impl DestroyArgs {
    pub fn flags(&self) -> Result<Flags, Failure> {
        self.common.flags()?.set_paths("data", &self.data.data)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the documented forms parse, and clap finds no contradiction in the definition.
    use super::*;
    use crate::config::keys::{KEYS, NO_FLAG};
    use clap::CommandFactory;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    /// Regression (a reader): `config` named flags that there are not.
    #[test]
    fn every_setting_is_a_flag_or_said_not_to_be_one() {
        let command = Cli::command();
        let all = command.get_subcommands().chain([&command]);
        let flags: Vec<&str> =
            all.flat_map(|c| c.get_arguments()).filter_map(|a| a.get_long()).collect();
        for key in &KEYS {
            let flag = key.name.replace('_', "-");
            let (is_flag, is_told) = (flags.contains(&&*flag), !NO_FLAG.contains(&key.name));
            assert_eq!(is_flag, is_told, "--{flag}");
        }
    }

    #[test]
    fn up_takes_several_data_folders() {
        let line = "t3fs-node up /mnt --data /a --data /b --replicas 2 --cluster-id x --detach";
        let Some(Command::Up(up)) = parse(line).command else {
            panic!("up");
        };
        assert_eq!(up.data.data, [PathBuf::from("/a"), "/b".into()]);
        assert_eq!((up.replicas, up.background.detach), (Some(2), true));
        assert_eq!(up.common.cluster_id.as_deref(), Some("x"));
    }

    #[test]
    fn roles_run_with_and_without_the_word() {
        let short = parse("t3fs-node --roles mgmtd,meta --node-id 1");
        assert!(short.command.is_none());
        assert_eq!(short.run.roles, ["mgmtd", "meta"]);
        let long =
            parse("t3fs-node run --roles mgmtd,meta --cluster TCP://1.2.3.4:1,TCP://[::1]:2");
        let Some(Command::Run(run)) = long.command else { panic!("run") };
        assert_eq!((run.roles, run.cluster.len()), (short.run.roles, 2));
        let mount = parse("t3fs-node mount /m --cluster 10.0.0.1 --detach");
        assert!(matches!(mount.command, Some(Command::Mount(m)) if m.cluster == ["10.0.0.1"]));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "t3fs-node up",
            "t3fs-node up /m --replicas x",
            "t3fs-node --roles meta up /m",
            "t3fs-node run --secret x",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
