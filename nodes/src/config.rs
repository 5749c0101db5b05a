//! Settings: flags before environment before file before defaults. [`KEYS`] is the one list of
//! them.
//!
//! A key of the file that is not in the list is refused with file, line, key and the nearest known
//! one. Of the environment, `T3FS_` names that look like a mistyped key are refused; others are not
//! ours.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use config::{Environment, FileFormat, Source};
use serde::Deserialize;

use crate::cli::{ClusterArgs, UpArgs};
use crate::failure::{Failure, refused};

/// One setting.
pub struct Key {
    /// In the file; in the environment with `T3FS_` before it and in capitals; as a flag with
    /// dashes.
    pub name: &'static str,
    pub default: &'static str,
    pub meaning: &'static str,
}

/// Every setting.
pub const KEYS: [Key; 6] = [
    Key {
        name: "cluster_id",
        default: "\"t3fs\"",
        meaning: "Name of the cluster, at most 31 of a-z A-Z 0-9 . _ -; df shows hf3fs.<name>.",
    },
    Key {
        name: "data",
        default: "[\"/var/lib/t3fs/<cluster>\"] as root, else [\"~/.local/share/t3fs/<cluster>\"]",
        meaning: "Folders for data, one per disk. In the environment separated by colons.",
    },
    Key {
        name: "replicas",
        default: "1 for a new cluster, else what it was created with",
        meaning: "Copies of everything, each on another disk. Fixed when the cluster is created.",
    },
    Key {
        name: "listen",
        default: "\"127.0.0.1:0\"",
        meaning: "Address for other nodes and clients; the default serves this machine only.",
    },
    Key {
        name: "shards",
        default: "cores - 1, at least 1",
        meaning: "Threads for metadata and storage; the FUSE threads share the rest.",
    },
    Key {
        name: "log",
        default: "\"warn\"; \"info\" with --detach",
        meaning: "What to log: error, warn, info, debug, trace, or a tracing filter.",
    },
];

const ENV_PREFIX: &str = "T3FS_";
/// Longest name of a cluster, in bytes (the original's limit).
const CLUSTER_ID_MAX: usize = 31;
pub const REPLICAS_MAX: u8 = 3;
const SHARDS_MAX: u16 = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub cluster_id: String,
    /// As given; the first is where the cluster's own state goes.
    pub data: Vec<PathBuf>,
    /// `None`: what the cluster was created with, 1 for a new one.
    pub replicas: Option<u8>,
    pub listen: SocketAddr,
    pub shards: usize,
    pub log: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    cluster_id: Option<String>,
    data: Option<Vec<PathBuf>>,
    replicas: Option<u8>,
    listen: Option<String>,
    shards: Option<u16>,
    log: Option<String>,
}

/// The settings of `up`.
pub fn for_up(args: &UpArgs) -> Result<Settings, Failure> {
    let flags = Flags {
        replicas: args.replicas.map(i64::from),
        listen: args.listen.map(|a| a.to_string()),
        shards: args.shards.map(i64::from),
        log: args.log.clone(),
    };
    load(&args.cluster, flags, std::env::vars_os())
}

/// The settings that name a cluster.
pub fn for_cluster(args: &ClusterArgs) -> Result<Settings, Failure> {
    load(args, Flags::default(), std::env::vars_os())
}

#[derive(Default)]
struct Flags {
    replicas: Option<i64>,
    listen: Option<String>,
    shards: Option<i64>,
    log: Option<String>,
}

fn load(
    cluster: &ClusterArgs,
    flags: Flags,
    env: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Result<Settings, Failure> {
    // A variable that is not UTF-8 cannot be one of ours.
    let env: BTreeMap<String, String> = env
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .filter(|(k, v)| k.starts_with(ENV_PREFIX) && !v.is_empty())
        .collect();
    check_env(&env)?;
    let file = cluster.config.clone().or_else(|| env.get("T3FS_CONFIG").map(PathBuf::from));

    let mut builder = config::Config::builder();
    if let Some(path) = &file {
        builder = builder.add_source(read_file(path)?);
    }
    let data_flag = (!cluster.data.is_empty()).then(|| strings(&cluster.data)).transpose()?;
    let ours = env.into_iter().filter(|(k, _)| k != "T3FS_CONFIG").collect();
    let set = || -> Result<config::Config, config::ConfigError> {
        builder
            .add_source(
                Environment::with_prefix("T3FS")
                    .prefix_separator("_")
                    .try_parsing(true)
                    .list_separator(":")
                    .with_list_parse_key("data")
                    .source(Some(ours)),
            )
            .set_override_option("cluster_id", cluster.cluster_id.clone())?
            .set_override_option("data", data_flag)?
            .set_override_option("replicas", flags.replicas)?
            .set_override_option("listen", flags.listen)?
            .set_override_option("shards", flags.shards)?
            .set_override_option("log", flags.log)?
            .build()
    };
    let raw: Raw = set()
        .and_then(config::Config::try_deserialize)
        .map_err(|e| refused(format!("a setting is wrong: {}", one_line(&e.to_string()))))?;
    checked(raw)
}

fn checked(raw: Raw) -> Result<Settings, Failure> {
    let cluster_id = raw.cluster_id.unwrap_or_else(|| "t3fs".into());
    check_cluster_id(&cluster_id)?;
    if let Some(n) = raw.replicas
        && !(1..=REPLICAS_MAX).contains(&n)
    {
        return Err(refused(format!("replicas is {n}; it can be 1 to {REPLICAS_MAX}")));
    }
    let listen = raw.listen.unwrap_or_else(|| "127.0.0.1:0".into());
    let listen: SocketAddr = listen.parse().map_err(|_| {
        refused(format!("listen is {listen:?}; give an address and a port, as in 10.0.0.5:8000"))
    })?;
    let shards = match raw.shards {
        Some(n) if (1..=SHARDS_MAX).contains(&n) => usize::from(n),
        Some(n) => return Err(refused(format!("shards is {n}; it can be 1 to {SHARDS_MAX}"))),
        None => crate::limits::cores().saturating_sub(1).clamp(1, usize::from(SHARDS_MAX)),
    };
    let data = match raw.data {
        Some(folders) if folders.is_empty() || folders.iter().any(|f| f.as_os_str().is_empty()) => {
            return Err(refused("data names no folder; give at least one, or leave it out"));
        }
        Some(folders) => folders,
        None => vec![default_folder(&cluster_id)?],
    };
    Ok(Settings { cluster_id, data, replicas: raw.replicas, listen, shards, log: raw.log })
}

fn check_cluster_id(name: &str) -> Result<(), Failure> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    // It becomes the name of a folder, so "." and ".." are out.
    let fine = (1..=CLUSTER_ID_MAX).contains(&name.len())
        && name.bytes().all(good)
        && !name.starts_with('.');
    if fine {
        return Ok(());
    }
    Err(refused(format!(
        "cluster id {name:?} is not usable; take 1 to {CLUSTER_ID_MAX} of a-z A-Z 0-9 . _ - and \
         begin with no dot"
    )))
}

fn default_folder(cluster: &str) -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/t3fs").join(cluster));
    }
    Ok(user_data_home()?.join("t3fs").join(cluster))
}

/// `$XDG_DATA_HOME`, or where it is by default.
pub fn user_data_home() -> Result<PathBuf, Failure> {
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    var("XDG_DATA_HOME")
        .or_else(|| var("HOME").map(|h| h.join(".local/share")))
        .ok_or_else(|| refused("neither XDG_DATA_HOME nor HOME is set; say --data FOLDER"))
}

fn strings(paths: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let text = |p: &PathBuf| {
        let s = p.to_str().map(str::to_owned);
        s.ok_or_else(|| refused(format!("--data {} is not UTF-8; rename it", p.display())))
    };
    paths.iter().map(text).collect()
}

fn read_file(path: &Path) -> Result<config::File<config::FileSourceString, FileFormat>, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|e| refused(format!("cannot read {shown}: {e}; check --config")))?;
    let file = config::File::from_str(&text, FileFormat::Toml);
    let values = file
        .collect()
        .map_err(|e| refused(format!("{shown} is not TOML: {}", one_line(&e.to_string()))))?;
    let mut unknown: Vec<&String> = values.keys().filter(|k| !is_key(k)).collect();
    unknown.sort(); // the map's order differs per run, the message should not
    if let Some(key) = unknown.first() {
        let line = text
            .lines()
            .position(|l| l.trim_start().trim_start_matches(['[', '"']).starts_with(key.as_str()));
        let place = line.map_or(String::new(), |n| format!(":{}", n + 1));
        return Err(refused(format!(
            "{shown}{place}: unknown key `{key}`; did you mean `{}`? `t3fs-node config` lists all",
            nearest(key).0
        )));
    }
    Ok(file)
}

/// A `T3FS_` variable close to a key but not one is a typing mistake that would go unseen.
fn check_env(env: &BTreeMap<String, String>) -> Result<(), Failure> {
    for name in env.keys() {
        let key = name[ENV_PREFIX.len()..].to_ascii_lowercase();
        if is_key(&key) || key == "config" {
            continue;
        }
        let (near, distance) = nearest(&key);
        if distance <= 2 {
            return Err(refused(format!(
                "environment: unknown setting {name}; did you mean {ENV_PREFIX}{}?",
                near.to_ascii_uppercase()
            )));
        }
    }
    Ok(())
}

fn is_key(name: &str) -> bool {
    KEYS.iter().any(|k| k.name == name)
}

/// The known key with the smallest edit distance (Levenshtein 1966), and that distance.
fn nearest(wrong: &str) -> (&'static str, usize) {
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

/// Parser errors come as a drawing over several lines; the first and the last say it.
fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    match lines.next_back() {
        Some(last) => format!("{first}: {last}"),
        None => first,
    }
}

/// All settings, as the `config` command prints them: a commented file.
pub fn explain() -> String {
    let mut out = String::from(
        "# Settings of t3fs-node: flags before T3FS_* variables before the --config file\n",
    );
    for k in KEYS {
        let upper = k.name.to_ascii_uppercase();
        let flag = k.name.replace('_', "-");
        out += &format!(
            "\n# {}\n# --{flag}, {ENV_PREFIX}{upper}; default: {}\n# {} =\n",
            k.meaning, k.default, k.name
        );
    }
    out
}

#[cfg(test)]
mod tests {
    //! Goal: the order of sources, and that what is wrong is refused with where and what to do.
    use super::*;

    fn with(file: &str, env: &[(&str, &str)], cluster: ClusterArgs) -> Result<Settings, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t3fs.toml");
        std::fs::write(&path, file).unwrap();
        let cluster = ClusterArgs { config: Some(path), ..cluster };
        let env = env.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        load(&cluster, Flags::default(), env)
    }

    fn line(file: &str, env: &[(&str, &str)]) -> String {
        let f = with(file, env, ClusterArgs::default()).unwrap_err();
        assert_eq!(f.status, crate::failure::REFUSED);
        assert!(!f.line.contains('\n'), "{}", f.line);
        f.line
    }

    #[test]
    fn flags_before_environment_before_file() {
        let file = "cluster_id = \"file\"\nreplicas = 2\ndata = [\"/f\"]\nshards = 3\n";
        let env = [("T3FS_CLUSTER_ID", "env"), ("T3FS_DATA", "/e1:/e2"), ("HOME", "/root")];
        let flag = ClusterArgs { cluster_id: Some("flag".into()), ..ClusterArgs::default() };
        let s = with(file, &env, flag).unwrap();
        assert_eq!(s.cluster_id, "flag");
        assert_eq!(s.data, [PathBuf::from("/e1"), "/e2".into()]);
        assert_eq!((s.replicas, s.shards), (Some(2), 3));
        let s = with(file, &[], ClusterArgs::default()).unwrap();
        assert_eq!((s.cluster_id.as_str(), s.data), ("file", vec![PathBuf::from("/f")]));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_nearest_one() {
        let said = line("# x\nreplicas = 1\nreplica = 2\n", &[]);
        assert!(said.contains("t3fs.toml:3") || said.contains("t3fs.toml:2"), "{said}");
        assert!(said.contains("`replica`") && said.contains("`replicas`"), "{said}");
        let said = line("[storage]\nx = 1\n", &[]);
        assert!(said.contains("`storage`"), "{said}");
    }

    #[test]
    fn a_mistyped_variable_is_refused_and_a_foreign_one_is_not() {
        let said = line("", &[("T3FS_REPLICA", "3")]);
        assert!(said.contains("T3FS_REPLICAS"), "{said}");
        assert!(with("", &[("T3FS_NIGHTLY", "1")], ClusterArgs::default()).is_ok());
    }

    #[test]
    fn wrong_values_are_refused_in_one_line() {
        assert!(line("replicas = 0\n", &[]).contains("1 to 3"));
        assert!(line("replicas = \"many\"\n", &[]).contains("replicas"));
        assert!(line("listen = \"here\"\n", &[]).contains("listen"));
        assert!(line("cluster_id = \"../x\"\n", &[]).contains("cluster id"));
        assert!(line("data = []\n", &[]).contains("data"));
        assert!(line("replicas = = 1\n", &[]).contains("TOML"));
        assert!(line("shards = 0\n", &[]).contains("shards"));
    }

    #[test]
    fn every_key_is_explained() {
        let text = explain();
        for k in KEYS {
            assert!(text.contains(&format!("# {} =", k.name)));
        }
        assert_eq!(with("", &[], ClusterArgs::default()).unwrap().listen.port(), 0);
    }
}
