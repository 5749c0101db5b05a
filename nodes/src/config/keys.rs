//! Every setting that there is. One list yields the keys of the file, the environment variables,
//! and what `t3fs-node config` prints.

use Form::{List, Paths, Text};

/// How the value of an environment variable is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it stands.
    Text,
    /// Several, with commas between them.
    List,
    /// Several, with colons between them.
    Paths,
}

/// One setting.
pub struct Key {
    /// In the file; in the environment with `T3FS_` before it and in capitals; as a flag with
    /// dashes.
    pub name: &'static str,
    pub form: Form,
    pub default: &'static str,
    pub meaning: &'static str,
}

const fn key(name: &'static str, form: Form, default: &'static str, meaning: &'static str) -> Key {
    Key { name, form, default, meaning }
}

/// Settings that are never flags: a secret, since everybody on the machine can read a command line,
/// and what has to be the same in all processes of a cluster, which is for their one file.
pub const NO_FLAG: [&str; 4] = ["secret", "heartbeat_ms", "node_lease_ms", "mgmtd_lease_ms"];

/// Every setting.
pub static KEYS: [Key; 25] = [
    key(
        "cluster_id",
        Text,
        "\"t3fs\"",
        "Name of the cluster, at most 31 of a-z A-Z 0-9 . _ -; df shows hf3fs.<name>.",
    ),
    key(
        "roles",
        List,
        "none",
        "What this process does: any of mgmtd, meta, storage, kv, client. In the environment with \
         commas.",
    ),
    key(
        "node_id",
        Text,
        "none; needed by every role but client",
        "Number of this server in its cluster, 1 to 2147483647; no two servers share one, and a \
         server keeps its own.",
    ),
    key(
        "cluster",
        List,
        "none; needed where another process is mgmtd",
        "Addresses of the mgmtds, as in [\"TCP://10.0.0.1:8000\", \"RDMA://10.8.0.2:8000\"], or \
         names of their hosts, as in [\"host1:8000\"]: each is looked up when it is used and after \
         failures, and all its addresses are tried.",
    ),
    key(
        "kv",
        Text,
        "none; needed by mgmtd and meta where another process is kv",
        "Address of the metadata store, as in \"t3fs-kv://10.0.0.1:8003\", or the name of its \
         host; where the role kv runs, what that process advertises or nothing.",
    ),
    key(
        "listen",
        Text,
        "127.0.0.1 with the port of the first of mgmtd (8000), meta (8001), storage (8002), kv \
         (8003) that this process is; up listens only if it is told where, at any free port if not \
         told which",
        "Address for other nodes and clients, one for all roles of the process, with or without \
         a port. The default serves this machine only, and is refused where cluster or kv are on \
         another. The role client does not listen.",
    ),
    key(
        "advertise",
        Text,
        "the address of listen; where that is 0.0.0.0 or [::], those of the RDMA devices",
        "Address that others are told to use; needed where listen is 0.0.0.0 or [::] and there is \
         no RDMA device. Several with commas; as soon as one is written RDMA://IP:PORT they are \
         all there is, else RDMA addresses are added for the devices that are listened at.",
    ),
    key(
        "fabric",
        Text,
        "\"auto\"",
        "How this process talks to others. auto: by RDMA where both sides have a device, else by \
         TCP. tcp: never by RDMA. rdma: by RDMA only; refuses to start without a device.",
    ),
    key(
        "device_filter",
        List,
        "all devices",
        "RDMA devices that may be used, by their names in `t3fs-node doctor`. Also DEVICE_FILTER \
         in the environment, after T3FS_DEVICE_FILTER.",
    ),
    key(
        "rdma_memory",
        Text,
        "67108864 (64 MiB)",
        "Bytes of memory that each shard pins for RDMA, where there is a device.",
    ),
    key(
        "secret",
        Text,
        "none; up makes one",
        "What all processes of the cluster share, and nobody else knows. Needed by all but up, \
         also on 127.0.0.1.",
    ),
    key("secret_file", Text, "none", "File that holds the secret, readable by its owner only."),
    key(
        "data",
        Paths,
        "up: /var/lib/t3fs/<cluster> as root, else ~/.local/share/t3fs/<cluster>; storage: \
         <state>/disk",
        "Folders for data, one per disk. In the environment with colons.",
    ),
    key(
        "state",
        Text,
        "/var/lib/t3fs/<cluster>.node<id> as root, else below ~/.local/share/t3fs",
        "Folder of a process for what it keeps: who it is, the store of the role kv, its log in \
         the background. A mount has one below .mounts.",
    ),
    key(
        "mount",
        Text,
        "none; needed by client",
        "Folder that the role client mounts on: an empty one, or one that is not there yet.",
    ),
    key(
        "mount_options",
        List,
        "nosuid, nodev",
        "How it is mounted, in the words of mount(8): ro, noexec, suid, dev, noatime, strictatime, \
         sync and so on. Only root may say suid and dev.",
    ),
    key(
        "io_timeout",
        Text,
        "600",
        "Seconds that an operation on a mount waits for a cluster that does not answer, before it \
         fails with EIO.",
    ),
    key(
        "hard",
        Text,
        "false",
        "true: operations wait for the cluster for ever, and io_timeout means nothing.",
    ),
    key(
        "replicas",
        Text,
        "1 for a new cluster, else what it was created with",
        "Copies of everything, each on another disk (up) or node (make-chains).",
    ),
    key("targets_per_disk", Text, "2", "Targets that make-chains puts on each disk."),
    key(
        "heartbeat_ms",
        Text,
        "200",
        "How often a server tells mgmtd that it lives. The same on all of a cluster.",
    ),
    key(
        "node_lease_ms",
        Text,
        "1500",
        "A server that has said nothing for so long is dead to mgmtd; it stops serving at two \
         thirds. The same on all of a cluster.",
    ),
    key(
        "mgmtd_lease_ms",
        Text,
        "1500",
        "A primary mgmtd that has not renewed its lease for so long is replaced. The same on all \
         mgmtds.",
    ),
    key(
        "shards",
        Text,
        "cores - 1, at least 1",
        "Threads for metadata and storage; the FUSE threads share the rest.",
    ),
    key(
        "log",
        Text,
        "\"warn\" for up and mount in the foreground, else \"info\"",
        "What to log: error, warn, info, debug, trace, or a tracing filter.",
    ),
];

pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

/// The known key with the smallest edit distance (Levenshtein 1966), and that distance.
pub fn nearest(wrong: &str) -> (&'static str, usize) {
    let wrong: Vec<char> = wrong.to_lowercase().replace('-', "_").chars().collect();
    let distance = |to: &str| {
        let mut row: Vec<usize> = (0..=wrong.len()).collect();
        for (i, c) in to.chars().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], i + 1);
            for (j, w) in wrong.iter().enumerate() {
                let change = diagonal + usize::from(c != *w);
                diagonal = row[j + 1];
                row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
            }
        }
        row[wrong.len()]
    };
    let all = KEYS.iter().map(|k| (k.name, distance(k.name)));
    all.min_by_key(|(_, d)| *d).expect("there are keys")
}

/// All settings, as the `config` command prints them: a commented file.
pub fn explain() -> String {
    let mut out = String::from(
        "# Settings of t3fs-node: flags before T3FS_* variables before the file (--config or \
         T3FS_CONFIG)\n# before defaults. One file may serve all roles of a host.\n",
    );
    for k in &KEYS {
        let upper = k.name.to_ascii_uppercase();
        let flag = match NO_FLAG.contains(&k.name) {
            true => String::new(),
            false => format!("--{}, ", k.name.replace('_', "-")),
        };
        out += &format!(
            "\n# {}\n# {flag}T3FS_{upper}; default: {}\n# {} =\n",
            k.meaning, k.default, k.name
        );
    }
    out
}
