//! Every setting, each defined once.
//!
//! From a definition follow the key in the file, the variable (`T3FS_` and the name in capitals),
//! the flag (with dashes) and its help, the option of mount(8), what `t3fs-node config` tells, the
//! limits, and the field of [`Settings`] or [`Tunables`]: see the macro in [`super::setting`]. No
//! other file names a setting's variable, flag or key again; `cargo ops tidy` holds that.

use std::iter;
use std::path::PathBuf;
use std::time::Duration;

use t3fs_transport::FabricUse;

use super::host::{Host, MgmtdPlace};
use super::roles::Roles;
use super::secret::Secret;
use super::setting::DefaultValue::{Bytes, Number, Switch, Text, Told};
use super::setting::{Form, Given, Setting, Shown, settings};
use super::values::{
    Advertised, ListenAt, SHARDS_MAX, advertise, as_is, cluster_id, data, device_filter, fabric,
    kv, listen, log, mgmtds, mount_options, number, opt, roles, seconds, shards,
};
use super::written::{GivenSetting, Written};
use crate::failure::Failure;
use crate::mount::MountOptions;
use crate::nearest;

// The commands that take flags, as bits.
pub const UP: u8 = 1;
pub const RUN: u8 = 1 << 1;
pub const MOUNT: u8 = 1 << 2;
pub const MAKE_CHAINS: u8 = 1 << 3;
pub const DOCTOR: u8 = 1 << 4;
pub const DESTROY: u8 = 1 << 5;
/// `-o` of mount(8), which becomes a flag of [`MOUNT`].
pub const OPTION: u8 = 1 << 6;
const EVERYWHERE: u8 = UP | RUN | MOUNT | MAKE_CHAINS | DOCTOR | DESTROY;
const MOUNTING: u8 = UP | RUN | MOUNT;

/// Numbers of servers; those of clients have the top bit.
const NODE_ID_MAX: u64 = 0x7fff_ffff;
const WEEK_S: u64 = 7 * 24 * 60 * 60;
/// Receive buffers are 8 MiB of it, and writes and reads need several of a megabyte.
const RDMA_MEMORY_MIN: u64 = 32 << 20;
const RDMA_MEMORY_MAX: u64 = 16 << 30;

settings! {
    fixed at start {
        /// Name of the cluster; df shows hf3fs.<NAME>.
        ///
        /// At most 31 of a-z A-Z 0-9 . _ -.
        cluster_id: String => String, cluster_id, {
            .default(Text("t3fs")).on("NAME", EVERYWHERE | OPTION)
        }
        /// What this process does: any of mgmtd, meta, storage, kv, client.
        ///
        /// In the environment with commas.
        roles: Option<Vec<String>> => Roles, roles, { .on("ROLE,..", RUN) }
        /// Number of this server in its cluster; no two servers share one.
        ///
        /// A server keeps its own.
        node_id: Option<u64> => Option<u32>, opt(number), {
            .default(Told("none; needed by every role but client"))
            .limits(1, NODE_ID_MAX).on("N", RUN)
        }
        /// Addresses of the mgmtds, as in TCP://10.0.0.1:8000 or TCP://host:8000.
        ///
        /// In the file ["TCP://10.0.0.1:8000", "RDMA://10.8.0.2:8000"]. Where a host is named, it
        /// is looked up when it is used and after failures, and all its addresses are tried.
        cluster: Option<Vec<String>> => Vec<MgmtdPlace>, mgmtds, {
            .default(Told("none; needed where another process is mgmtd"))
            .on("ADDR,..", RUN | MOUNT | MAKE_CHAINS | DOCTOR)
        }
        /// Address of the metadata store, as in t3fs-kv://10.0.0.1:8003 or t3fs-kv://host.
        ///
        /// Where the role kv runs, what that process advertises or nothing.
        kv: Option<String> => Option<Host>, opt(kv), {
            .default(Told("none; needed by mgmtd and meta where another process is kv"))
            .on("ADDR", RUN)
        }
        /// Address for other nodes and clients, with or without a port.
        ///
        /// One for all roles of the process. The default serves this machine only, and is refused
        /// where cluster or kv are on another. The role client does not listen.
        listen: Option<String> => Option<ListenAt>, opt(listen), {
            .default(Told(
                "127.0.0.1 with the port of the first of mgmtd (8000), meta (8001), storage \
                 (8002), kv (8003) that this process is; up listens only if it is told where, at \
                 any free port if not told which",
            ))
            .on("ADDR", UP | RUN)
        }
        /// Addresses that others are told to use, where they are not those of listen.
        ///
        /// Needed where listen is 0.0.0.0 or [::] and there is no RDMA device. Several with commas;
        /// as soon as one is written RDMA://IP:PORT they are all there is, else RDMA addresses are
        /// added for the devices that are listened at.
        advertise: Option<String> => Vec<Advertised>, advertise, {
            .default(Told(
                "the address of listen; where that is 0.0.0.0 or [::], those of the RDMA devices",
            ))
            .on("ADDR,..", RUN)
        }
        /// How this process talks to others: auto, tcp or rdma.
        ///
        /// auto: by RDMA where both sides have a device, else by TCP. tcp: never by RDMA. rdma: by
        /// RDMA only; refuses to start without a device.
        fabric: String => FabricUse, fabric, {
            .default(Text("auto")).on("FABRIC", EVERYWHERE | OPTION)
        }
        /// RDMA devices that may be used, by their names in `t3fs-node doctor`.
        device_filter: Option<Vec<String>> => Vec<String>, device_filter, {
            .default(Told("all devices")).on("DEVICE,..", EVERYWHERE | OPTION)
            // What containers of 3FS set.
            .alias("DEVICE_FILTER")
        }
        /// Bytes of memory that each shard pins for RDMA, where there is a device.
        rdma_memory: u64 => usize, number, {
            .default(Bytes(64 << 20)).limits(RDMA_MEMORY_MIN, RDMA_MEMORY_MAX)
            .on("BYTES", EVERYWHERE | OPTION)
        }
        /// What all processes of the cluster share, and nobody else knows.
        ///
        /// Needed by all but up, also on 127.0.0.1. It is no flag: everybody on the machine can
        /// read a command line.
        secret: Option<String> => Option<Secret>, opt(Secret::of_text), {
            .default(Told("none; up makes one")).secret()
        }
        /// File that holds the secret, readable by its owner only.
        secret_file: Option<PathBuf> => Option<Secret>, opt(Secret::of_file), {
            .on("FILE", EVERYWHERE | OPTION)
        }
        /// Folder for data; several mean several disks.
        ///
        /// Each has a flag of its own; in the environment they stand with colons between them.
        data: Option<Vec<PathBuf>> => Option<Vec<PathBuf>>, opt(data), {
            .default(Told(
                "up: /var/lib/t3fs/<cluster> as root, else ~/.local/share/t3fs/<cluster>; \
                 storage: <state>/disk",
            ))
            .on("FOLDER", UP | RUN | DESTROY)
        }
        /// Folder of a process for what it keeps.
        ///
        /// Who it is, the store of the role kv, its log in the background. A mount has one below
        /// .mounts.
        state: Option<PathBuf> => Option<PathBuf>, as_is, {
            .default(Told(
                "/var/lib/t3fs/<cluster>.node<id> as root, else below ~/.local/share/t3fs",
            ))
            .on("FOLDER", RUN | MOUNT | OPTION)
        }
        /// Folder that the role client mounts on: an empty one, or one that is not there yet.
        mount: Option<PathBuf> => Option<PathBuf>, as_is, {
            .default(Told("none; needed by client")).on("DIR", RUN)
        }
        /// How it is mounted, in words of mount(8) such as ro, noexec, suid, noatime and sync.
        ///
        /// Also dev, strictatime and so on. Only root may say suid and dev.
        mount_options: Option<Vec<String>> => MountOptions, mount_options, {
            .default(Told("nosuid, nodev")).short('o').on("WORD,..", MOUNTING)
        }
        /// Copies of everything, each on another disk (up) or node (make-chains).
        replicas: Option<u64> => Option<u8>, opt(number), {
            .default(Told("1 for a new cluster, else what it was created with"))
            .limits(1, 3).on("N", UP | MAKE_CHAINS)
        }
        /// Targets that make-chains puts on each disk.
        targets_per_disk: u64 => u16, number, {
            .default(Number(2)).limits(1, 64).on("N", MAKE_CHAINS)
        }
        /// How often a server tells mgmtd that it lives.
        ///
        /// The same on all of a cluster, and therefore for the one file of a cluster, no flag.
        heartbeat_ms: u64 => u32, number, { .default(Number(200)).limits(20, 60_000) }
        /// A server that has said nothing for so long is dead to mgmtd.
        ///
        /// It stops serving at two thirds. The same on all of a cluster.
        node_lease_ms: u64 => u32, number, { .default(Number(1500)).limits(100, 600_000) }
        /// A primary mgmtd that has not renewed its lease for so long is replaced.
        ///
        /// The same on all mgmtds.
        mgmtd_lease_ms: u64 => u32, number, { .default(Number(1500)).limits(100, 600_000) }
        /// Threads for metadata and storage; the FUSE threads share the rest.
        shards: Option<u64> => usize, shards, {
            .default(Told("cores - 1, at least 1")).limits(1, SHARDS_MAX as u64)
            .on("N", EVERYWHERE | OPTION)
        }
    }
    may change while running {
        /// Seconds that an operation on a mount waits for a silent cluster before EIO.
        ///
        /// What waits already when this changes waits as long as it was to.
        io_timeout: u64 => Duration, seconds, {
            .default(Number(600)).limits(1, WEEK_S).on("SECONDS", MOUNTING | OPTION)
            .of_mounts()
        }
        /// true: operations wait for the cluster for ever, and io_timeout means nothing.
        hard: bool => bool, as_is, {
            .default(Switch(false)).on("", MOUNTING | OPTION).of_mounts()
        }
        /// What to log: off, error, warn, info, debug, trace, or a tracing filter.
        ///
        /// A filter has levels, and targets with levels, as in warn,t3fs_actors=debug.
        log: Option<String> => Option<String>, opt(log), {
            .default(Told("\"warn\" for up and mount in the foreground, else \"info\""))
            .on("FILTER", EVERYWHERE | OPTION)
        }
    }
}

/// The file with settings, which is no setting itself, but is named as one by flag, variable and
/// option.
pub static CONFIG: Setting = Setting::new(
    "config",
    Form::Path,
    false,
    &["TOML file with settings; flags and T3FS_* variables go before it."],
)
.on("FILE", EVERYWHERE | OPTION);

pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// All that these commands, which are bits, take as flags.
pub fn taken_by(commands: u8) -> impl Iterator<Item = &'static Setting> {
    iter::once(&CONFIG).chain(SETTINGS).filter(move |setting| setting.is_for(commands))
}

fn defined(name: &str) -> &'static Setting {
    find(name).expect("it is defined")
}

/// The setting with the nearest name, and how far that is.
pub fn nearest(wrong: &str) -> (&'static Setting, usize) {
    let names = SETTINGS.iter().map(|setting| setting.name);
    let (name, distance) = nearest::nearest(&wrong.replace('-', "_"), names);
    (defined(name), distance)
}

/// What `t3fs-node set` can change, for its help.
pub fn explain_tunables() -> String {
    let tunables = SETTINGS.iter().filter(|setting| setting.is_tunable);
    let lines = tunables.map(|s| format!("  {:<10}  {}\n", s.name, s.meaning()));
    format!("These can change:\n{}", lines.collect::<String>())
}

/// All settings, as the `config` command prints them: a commented file.
pub fn explain() -> String {
    let mut out = format!(
        "# Settings of t3fs-node: flags before T3FS_* variables before the file ({} or {})\n\
         # before defaults. One file may serve all roles of a host.\n",
        CONFIG.flag(),
        CONFIG.variable()
    );
    out.extend(SETTINGS.iter().map(Setting::explain));
    out
}
