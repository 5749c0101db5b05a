//! Settings: flags before environment before file before defaults. [`keys::KEYS`] is the one list
//! of them.
//!
//! A key of the file that is not in the list is refused with file, line, key and the nearest known
//! one. Of the environment, `T3FS_` names that look like a mistyped key are refused; others are not
//! ours. [`settings`] says what the values mean.

pub mod host;
pub mod keys;
pub mod roles;
pub mod secret;
pub mod settings;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use config::{FileFormat, Map, Source, Value};

use crate::failure::{Failure, refused};
use keys::Form;

pub use settings::{Leases, Settings, user_data_home};

const ENV_PREFIX: &str = "T3FS_";
/// What containers of 3FS set is understood too: variable, and the one that goes before it.
const ALIAS: (&str, &str) = ("DEVICE_FILTER", "T3FS_DEVICE_FILTER");

/// What the command line says: keys with their values. Only what was given is in it.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The file, which is no setting itself.
    pub config: Option<PathBuf>,
    values: Vec<(&'static str, Value)>,
}

impl Flags {
    pub fn new(config: Option<&PathBuf>) -> Flags {
        Flags { config: config.cloned(), values: Vec::new() }
    }

    /// A flag that may have been given.
    pub fn set(mut self, key: &'static str, value: Option<impl Into<Value>>) -> Flags {
        assert!(keys::find(key).is_some(), "{key} is a key");
        self.values.extend(value.map(|v| (key, v.into())));
        self
    }

    /// A flag that may be given several times.
    pub fn set_all(self, key: &'static str, values: &[String]) -> Flags {
        let some = (!values.is_empty()).then(|| values.to_vec());
        self.set(key, some)
    }

    /// A path that may have been given.
    pub fn set_path(self, key: &'static str, path: Option<&PathBuf>) -> Result<Flags, Failure> {
        let text = path.map(|p| text(key, p)).transpose()?;
        Ok(self.set(key, text))
    }

    /// Paths of a flag that may be given several times.
    pub fn set_paths(self, key: &'static str, paths: &[PathBuf]) -> Result<Flags, Failure> {
        let paths: Vec<String> = paths.iter().map(|p| text(key, p)).collect::<Result<_, _>>()?;
        Ok(self.set_all(key, &paths))
    }
}

fn text(key: &str, path: &Path) -> Result<String, Failure> {
    let flag = key.replace('_', "-");
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| refused(format!("--{flag} {} is not UTF-8; rename it", path.display())))
}

/// The settings of this process.
pub fn load(flags: Flags) -> Result<Settings, Failure> {
    load_from(flags, std::env::vars_os())
}

pub(crate) fn load_from(
    flags: Flags,
    env: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Settings, Failure> {
    // A variable that is not UTF-8 cannot be one of ours.
    let mut env: BTreeMap<String, String> = env
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .filter(|(k, v)| (k.starts_with(ENV_PREFIX) || k == ALIAS.0) && !v.is_empty())
        .collect();
    if let Some(value) = env.remove(ALIAS.0) {
        env.entry(ALIAS.1.into()).or_insert(value);
    }
    check_env(&env)?;
    let mut builder = config::Config::builder();
    if let Some(path) = flags.config.or_else(|| env.get("T3FS_CONFIG").map(PathBuf::from)) {
        builder = builder.add_source(read_file(&path)?);
    }
    builder = builder.add_source(Variables(env));
    for (key, value) in flags.values {
        builder = builder.set_override(key, value).expect("keys are plain words");
    }
    let raw: settings::Raw = builder
        .build()
        .and_then(config::Config::try_deserialize)
        .map_err(|e| refused(format!("a setting is wrong: {}", one_line(&e.to_string()))))?;
    raw.check()
}

/// The environment as a source of settings. Values stay texts (a secret of digits is no number);
/// what they must be, the one who reads them knows.
#[derive(Clone, Debug)]
struct Variables(BTreeMap<String, String>);

impl Source for Variables {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let mut out = Map::new();
        for (name, text) in &self.0 {
            let Some(key) = keys::find(&key_of(name)) else { continue };
            let split = |by: char| {
                let parts = text.split(by).filter(|part| !part.is_empty());
                Value::from(parts.map(str::to_owned).collect::<Vec<String>>())
            };
            let value = match key.form {
                Form::Text => Value::from(text.clone()),
                Form::List => split(','),
                Form::Paths => split(':'),
            };
            out.insert(key.name.into(), value);
        }
        Ok(out)
    }
}

fn key_of(variable: &str) -> String {
    variable[ENV_PREFIX.len()..].to_ascii_lowercase()
}

fn read_file(path: &Path) -> Result<config::File<config::FileSourceString, FileFormat>, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|e| refused(format!("cannot read {shown}: {e}; check --config")))?;
    let file = config::File::from_str(&text, FileFormat::Toml);
    let values = file
        .collect()
        .map_err(|e| refused(format!("{shown} is not TOML: {}", one_line(&e.to_string()))))?;
    let mut unknown: Vec<&String> = values.keys().filter(|k| keys::find(k).is_none()).collect();
    unknown.sort(); // the map's order differs per run, the message should not
    if let Some(key) = unknown.first() {
        let line = text
            .lines()
            .position(|l| l.trim_start().trim_start_matches(['[', '"']).starts_with(key.as_str()));
        let place = line.map_or(String::new(), |n| format!(":{}", n + 1));
        return Err(refused(format!(
            "{shown}{place}: unknown key `{key}`; did you mean `{}`? `t3fs-node config` lists all",
            keys::nearest(key).0
        )));
    }
    Ok(file)
}

/// A `T3FS_` variable close to a key but not one is a typing mistake that would go unseen.
fn check_env(env: &BTreeMap<String, String>) -> Result<(), Failure> {
    for name in env.keys() {
        let key = key_of(name);
        if keys::find(&key).is_some() || key == "config" {
            continue;
        }
        let (near, distance) = keys::nearest(&key);
        if distance <= 2 {
            return Err(refused(format!(
                "environment: unknown setting {name}; did you mean {ENV_PREFIX}{}?",
                near.to_ascii_uppercase()
            )));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    //! Goal: the order of sources, and that what is wrong is refused with where and what to do.
    use super::*;

    fn with(file: &str, env: &[(&str, &str)], flags: Flags) -> Result<Settings, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t3fs.toml");
        std::fs::write(&path, file).unwrap();
        let flags = Flags { config: Some(path), ..flags };
        load_from(flags, env.iter().map(|(k, v)| ((*k).into(), (*v).into())))
    }

    fn line(file: &str, env: &[(&str, &str)]) -> String {
        let f = with(file, env, Flags::default()).unwrap_err();
        assert_eq!(f.status, crate::failure::REFUSED);
        assert!(!f.line.contains('\n'), "{}", f.line);
        f.line
    }

    #[test]
    fn flags_before_environment_before_file() {
        let file = "cluster_id = \"file\"\nreplicas = 2\ndata = [\"/f\"]\nshards = 3\n";
        let env = [("T3FS_CLUSTER_ID", "env"), ("T3FS_DATA", "/e1:/e2"), ("HOME", "/root")];
        let flag = Flags::default().set("cluster_id", Some("flag"));
        let s = with(file, &env, flag).unwrap();
        assert_eq!(s.cluster_id, "flag");
        assert_eq!(s.data_or_default().unwrap(), [PathBuf::from("/e1"), "/e2".into()]);
        assert_eq!((s.replicas, s.shards), (Some(2), 3));
        let s = with(file, &[], Flags::default()).unwrap();
        assert_eq!((s.cluster_id.as_str(), s.data), ("file", Some(vec![PathBuf::from("/f")])));
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
        assert!(with("", &[("T3FS_NIGHTLY", "1")], Flags::default()).is_ok());
    }

    #[test]
    fn wrong_values_are_refused_in_one_line() {
        assert!(line("replicas = 0\n", &[]).contains("1 to 3"));
        assert!(line("replicas = \"many\"\n", &[]).contains("replicas"));
        assert!(line("listen = \"not here\"\n", &[]).contains("listen"));
        assert!(line("io_timeout = 0\n", &[]).contains("io_timeout"));
        assert!(line("mount_options = [\"ro\", \"data=x\"]\n", &[]).contains("data=x"));
        assert!(line("cluster_id = \"../x\"\n", &[]).contains("cluster id"));
        assert!(line("data = []\n", &[]).contains("data"));
        assert!(line("replicas = = 1\n", &[]).contains("TOML"));
        assert!(line("shards = 0\n", &[]).contains("shards"));
    }

    #[test]
    fn addresses_have_guessable_parts() {
        let env = [
            ("T3FS_CLUSTER", "TCP://10.0.0.2:8000,10.0.0.1"),
            ("T3FS_KV", "t3fs-kv://10.0.0.9"),
            ("T3FS_ROLES", "meta,mgmtd"),
            ("T3FS_SECRET", "0123456789012345"),
            ("T3FS_LISTEN", "10.0.0.1"),
        ];
        let s = with("", &env, Flags::default()).unwrap();
        let mgmtds: Vec<String> = s.cluster.iter().map(ToString::to_string).collect();
        assert_eq!(mgmtds, ["TCP://10.0.0.1:8000", "TCP://10.0.0.2:8000"]);
        assert_eq!(s.kv.unwrap().to_string(), "10.0.0.9:8003");
        assert_eq!((s.roles.to_string().as_str(), s.listen.unwrap().port), ("mgmtd,meta", None));
        assert_eq!(s.secret.unwrap().bytes(), b"0123456789012345");
        let env = [
            ("T3FS_CLUSTER", "TCP://host2:8000,host1,[fd00::1]:80"),
            ("T3FS_KV", "t3fs-kv://kv.example.org"),
            ("T3FS_IO_TIMEOUT", "30"),
        ];
        let s = with("", &env, Flags::default()).unwrap();
        let mgmtds: Vec<String> = s.cluster.iter().map(ToString::to_string).collect();
        assert_eq!(mgmtds, ["TCP://[fd00::1]:80", "TCP://host1:8000", "TCP://host2:8000"]);
        assert_eq!(s.kv.unwrap().to_string(), "kv.example.org:8003");
        assert_eq!(s.io_timeout, Some(std::time::Duration::from_secs(30)));
        let s = with("hard = true\n", &env, Flags::default()).unwrap();
        assert_eq!(s.io_timeout, None, "hard goes before a time");
        for (key, value, says) in [
            ("T3FS_CLUSTER", "not here", "TCP://HOST:PORT"),
            ("T3FS_CLUSTER", "RDMA://", "RDMA://HOST:PORT"),
            ("T3FS_KV", "10.0.0.1", "t3fs-kv://"),
            ("T3FS_ADVERTISE", "0.0.0.0:8000", "10.0.0.5:8000"),
            ("T3FS_ADVERTISE", "TCP://10.0.0.5:8000,RDMA://10.8.0.5", "RDMA://10.8.0.5"),
            ("T3FS_FABRIC", "ib", "auto, tcp or rdma"),
            ("T3FS_RDMA_MEMORY", "1024", "33554432"),
            ("T3FS_NODE_ID", "0", "1 to"),
            ("T3FS_NODE_LEASE_MS", "300", "3 times"),
        ] {
            let said = line("", &[(key, value)]);
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn both_fabrics_have_addresses() {
        let env = [
            ("T3FS_CLUSTER", "RDMA://10.8.0.1,TCP://10.0.0.1:8000, RDMA://10.8.0.1:8000"),
            ("T3FS_ADVERTISE", "10.0.0.5:8000, RDMA://10.8.0.5:8000"),
            ("T3FS_FABRIC", "RDMA"),
            ("T3FS_RDMA_MEMORY", "134217728"),
            ("DEVICE_FILTER", "mlx5_0,mlx5_1"),
        ];
        let s = with("", &env, Flags::default()).unwrap();
        let mgmtds: Vec<String> = s.cluster.iter().map(ToString::to_string).collect();
        assert_eq!(mgmtds, ["RDMA://10.8.0.1:8000", "TCP://10.0.0.1:8000"]);
        let advertise: Vec<_> =
            s.advertise.iter().map(|a| (a.fabric, a.socket.to_string())).collect();
        let wanted = [
            (None, "10.0.0.5:8000".to_owned()),
            (Some(t3fs_transport::Fabric::Rdma), "10.8.0.5:8000".to_owned()),
        ];
        assert_eq!(advertise, wanted);
        assert_eq!((s.fabric, s.rdma_memory), (t3fs_transport::FabricUse::Rdma, 128 << 20));
        assert_eq!(s.device_filter, ["mlx5_0", "mlx5_1"]);
        let ours = [env[4], ("T3FS_DEVICE_FILTER", "rxe0")];
        let s = with("device_filter = [\"x\"]\n", &ours, Flags::default()).unwrap();
        assert_eq!(s.device_filter, ["rxe0"], "ours before the container's, both before the file");
        let s = with("rdma_memory = 33554432\n", &[], Flags::default()).unwrap();
        assert_eq!((s.fabric, s.rdma_memory), (t3fs_transport::FabricUse::Auto, 32 << 20));
    }

    /// Goal: a setting is in all places that make it one: what is explained is read (what is a flag
    /// `cli.rs` asks).
    #[test]
    fn every_key_is_explained_and_read() {
        let text = keys::explain();
        for k in &keys::KEYS {
            assert!(text.contains(&format!("# {} =", k.name)));
            let variable = format!("T3FS_{}", k.name.to_ascii_uppercase());
            let read = with("", &[(&variable, "x")], Flags::default());
            let why = read.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(!why.contains("unknown field"), "{}: {why}", k.name);
        }
        assert_eq!(with("", &[], Flags::default()).unwrap().listen, None);
    }
}
