//! The command line. It only parses: which flags are settings, their defaults and checks are in
//! `config`, which also reads the configuration file and the environment.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::SettingArgs;
use crate::config::definitions::{
    DESTROY, DOCTOR, MAKE_CHAINS, MOUNT, RUN, UP, explain_tunables, key,
};

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
    /// Flushes, unmounts and ends a running t3fs-node, with a mount or without
    Down(DownArgs),
    /// Compares all replicas of all data, and checks names; status 1 when something is wrong
    Check(CheckArgs),
    /// Tells by what fabric processes talk to each other, and what keeps RDMA from being used; with
    /// --cluster it joins the cluster for a moment to look at it
    Doctor(DoctorArgs),
    /// Prints what a process has handled so far: how often, how long, how many bytes
    Stats(StatsArgs),
    /// Changes settings of a running process that may change while it runs, or tells what they are
    #[command(after_help = explain_tunables())]
    Set(SetArgs),
    /// Deletes the data of a cluster, after its name was typed
    Destroy(DestroyArgs),
    /// Prints every setting: key, environment variable, default, limits, meaning
    Config,
}

#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Folder to mount on: empty, or not there; then it is made
    pub dir: PathBuf,
    #[command(flatten)]
    pub settings: SettingArgs<UP>,
    #[command(flatten)]
    pub background: Background,
}

/// Going on behind the command that started it.
#[derive(Clone, Debug, Default, Args)]
pub struct Background {
    /// Returns when it serves, or waits for mgmtd, and goes on in the background; logs to files
    #[arg(long)]
    pub detach: bool,
    /// The background half of --detach
    #[arg(long, hide = true)]
    pub detached: bool,
}

#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub settings: SettingArgs<RUN>,
    #[command(flatten)]
    pub background: Background,
}

#[derive(Clone, Debug, Args)]
pub struct MountArgs {
    /// Folder to mount on: empty, or not there; then it is made
    pub dir: PathBuf,
    #[command(flatten)]
    pub settings: SettingArgs<MOUNT>,
    #[command(flatten)]
    pub background: Background,
}

#[derive(Clone, Debug, Args)]
pub struct MakeChainsArgs {
    #[command(flatten)]
    pub settings: SettingArgs<MAKE_CHAINS>,
    /// Waits until so many storage nodes have registered
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub nodes: usize,
}

#[derive(Clone, Debug, Args)]
pub struct DownArgs {
    /// The mount, state or data folder of a running process [default: the only mount]
    pub place: Option<PathBuf>,
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
    #[arg(conflicts_with = key::cluster)]
    pub place: Option<PathBuf>,
    #[command(flatten)]
    pub settings: SettingArgs<DOCTOR>,
    /// Asks no process; tells what this host has
    #[arg(long, conflicts_with_all = ["place", key::cluster])]
    pub host: bool,
    /// One line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
pub struct SetArgs {
    /// Settings with their new values, all of them or none; until the process ends [without one:
    /// tells what holds]
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// The mount, state or data folder of a running process [default: the only one]
    #[arg(long, value_name = "PLACE")]
    pub of: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct DestroyArgs {
    #[command(flatten)]
    pub settings: SettingArgs<DESTROY>,
    /// Deletes without asking, if NAME is the name of the cluster
    #[arg(long, value_name = "NAME")]
    pub yes_really: Option<String>,
}

#[cfg(test)]
mod tests {
    //! Goal: the documented forms parse, and clap finds no contradiction in the definition.
    use super::*;
    use clap::CommandFactory;
    use config::Value;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    fn texts(all: &[&str]) -> Option<Value> {
        Some(Value::from(all.to_vec()))
    }

    /// Goal: which command takes which flags stays as people know it. Method: all of them by name.
    #[test]
    fn each_command_takes_the_flags_that_it_took() {
        const ALL: &str =
            "config cluster-id secret-file shards fabric device-filter rdma-memory log";
        const MOUNTING: &str = "mount-options io-timeout hard detach detached";
        for (name, own) in [
            ("up", format!("{MOUNTING} data replicas listen")),
            ("mount", format!("{MOUNTING} cluster state")),
            (
                "run",
                format!("{MOUNTING} roles node-id cluster kv listen advertise data state mount"),
            ),
            ("make-chains", "cluster replicas targets-per-disk nodes".into()),
            ("doctor", "host cluster json".into()),
            ("destroy", "data yes-really".into()),
        ] {
            let command = Cli::command();
            let command = command.find_subcommand(name).expect("a command");
            let mut flags: Vec<&str> =
                command.get_arguments().filter_map(|arg| arg.get_long()).collect();
            let mut wanted: Vec<&str> = ALL.split(' ').chain(own.split(' ')).collect();
            flags.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(flags, wanted, "{name}");
        }
    }

    /// Regression (a reader): `config` named flags that there are not.
    #[test]
    fn every_flag_that_is_told_of_is_one() {
        let command = Cli::command();
        let all = command.get_subcommands().chain([&command]);
        let flags: Vec<&str> =
            all.flat_map(|c| c.get_arguments()).filter_map(|a| a.get_long()).collect();
        for setting in crate::config::definitions::SETTINGS {
            let flag = setting.flag_name();
            let is_told = setting.explain().contains(&format!("# --{flag}, "));
            assert_eq!(flags.contains(&&*flag), is_told, "--{flag}");
        }
    }

    #[test]
    fn help_says_meaning_default_and_variable() {
        let help = |line: &str| {
            let said = Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
            said.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let said = help("t3fs-node make-chains -h");
        let line = "--targets-per-disk <N> Targets that make-chains puts on each disk [default: 2]";
        assert!(said.contains(line), "{said}");
        let said = help("t3fs-node up --help");
        let line = "T3FS_RDMA_MEMORY; default: 67108864 (64 MiB)";
        assert!(said.contains("--rdma-memory <BYTES>") && said.contains(line), "{said}");
        assert!(said.contains("-o, --mount-options <WORD,..>"), "{said}");
    }

    #[test]
    fn help_says_what_can_be_set() {
        let said = Cli::try_parse_from(["t3fs-node", "set", "-h"]).unwrap_err().to_string();
        for key in [key::log, key::io_timeout, key::hard] {
            assert!(said.contains(&format!("\n  {key} ")), "{said}");
        }
        assert!(said.contains("for a silent cluster before EIO"), "{said}");
    }

    #[test]
    fn up_takes_several_data_folders() {
        let line = "t3fs-node up /mnt --data /a --data /b --replicas 2 --cluster-id x --detach";
        let Some(Command::Up(up)) = parse(line).command else {
            panic!("up");
        };
        let given = |key: &str| up.settings.given(key).cloned();
        assert_eq!(given(key::data), texts(&["/a", "/b"]));
        assert_eq!((given(key::replicas), up.background.detach), (Some(Value::from("2")), true));
        assert_eq!(given(key::cluster_id), Some("x".into()));
        assert_eq!((given(key::hard), given(key::log)), (None, None), "only what was given");
    }

    #[test]
    fn roles_run_with_and_without_the_word() {
        let short = parse("t3fs-node --roles mgmtd,meta --node-id 1 -o ro,noexec -o sync --hard");
        assert!(short.command.is_none());
        let given = |run: &RunArgs, key: &str| run.settings.given(key).cloned();
        assert_eq!(given(&short.run, key::roles), texts(&["mgmtd", "meta"]));
        assert_eq!(given(&short.run, key::mount_options), texts(&["ro", "noexec", "sync"]));
        assert_eq!(given(&short.run, key::hard), Some(true.into()));
        let long =
            parse("t3fs-node run --roles mgmtd,meta --cluster TCP://1.2.3.4:1,TCP://[::1]:2");
        let Some(Command::Run(run)) = long.command else { panic!("run") };
        assert_eq!(given(&run, key::roles), given(&short.run, key::roles));
        assert_eq!(given(&run, key::cluster), texts(&["TCP://1.2.3.4:1", "TCP://[::1]:2"]));
        let mount = parse("t3fs-node mount /m --cluster 10.0.0.1 --detach");
        let Some(Command::Mount(mount)) = mount.command else { panic!("mount") };
        assert_eq!(mount.settings.given(key::cluster).cloned(), texts(&["10.0.0.1"]));
        let file = parse("t3fs-node destroy --config /etc/t3fs.toml");
        let Some(Command::Destroy(destroy)) = file.command else { panic!("destroy") };
        assert_eq!(destroy.settings.flags().unwrap().config, Some("/etc/t3fs.toml".into()));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "t3fs-node up",
            "t3fs-node --roles meta up /m",
            "t3fs-node run --secret x",
            "t3fs-node doctor /m --cluster 10.0.0.1",
            "t3fs-node doctor --host --cluster 10.0.0.1",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
