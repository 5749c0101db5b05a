//! Settings: flags before environment before file before defaults. [`definitions`] has each once.
//!
//! A key of the file that is not defined is refused with file, line, key and the nearest known one.
//! Of the environment, `T3FS_` names that look like a mistyped key are refused; others are not
//! ours. [`values`] says what the values mean. [`Settings`] are fixed at the start, [`Tunables`]
//! may change while the process runs ([`tunables`]).

pub mod definitions;
mod flags;
pub mod host;
pub mod roles;
pub mod secret;
pub mod setting;
pub mod settings;
mod tunables;
pub mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use config::{FileFormat, Map, Source, Value};

use crate::failure::{Failure, refused};
use setting::{key_of, one_line, wrong};

pub use definitions::{Settings, Tunables};
pub use flags::{Flags, SettingArgs};
pub use settings::{Leases, user_data_home};

/// The settings of this process: what is fixed from now on, and what may change.
pub fn load(flags: Flags) -> Result<(Settings, Tunables), Failure> {
    load_from(flags, std::env::vars_os())
}

pub(crate) fn load_from(
    flags: Flags,
    env: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(Settings, Tunables), Failure> {
    // A variable that is not UTF-8 cannot be one of ours.
    let env = env.filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let env = variables(env.filter(|(_, text)| !text.is_empty()).collect());
    check_env(&env)?;
    let mut builder = config::Config::builder();
    let set = "keys are plain words";
    for setting in definitions::SETTINGS {
        if let Some(value) = setting.default_value() {
            builder = builder.set_default(setting.name, value).expect(set);
        }
    }
    let file = env.get(&definitions::CONFIG.variable()).map(PathBuf::from);
    if let Some(path) = flags.config.or(file) {
        builder = builder.add_source(read_file(&path)?);
    }
    builder = builder.add_source(Variables(env));
    for (key, value) in flags.values {
        builder = builder.set_override(key, value).expect(set);
    }
    let raw: definitions::Raw =
        builder.build().and_then(config::Config::try_deserialize).map_err(wrong)?;
    let (settings, tunables) = raw.check()?;
    settings.check_together()?;
    Ok((settings, tunables))
}

/// Those of all variables that may be ours. What others have for a setting is read as ours if ours
/// is not there.
fn variables(mut all: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for setting in definitions::SETTINGS {
        if let Some(text) = setting.alias_name().and_then(|name| all.remove(name)) {
            all.entry(setting.variable()).or_insert(text);
        }
    }
    all.retain(|name, _| key_of(name).is_some());
    all
}

/// The environment as a source of settings.
#[derive(Clone, Debug)]
struct Variables(BTreeMap<String, String>);

impl Source for Variables {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let given = |(name, text): (&String, &String)| {
            let setting = definitions::find(&key_of(name)?)?;
            Some((setting.name.to_owned(), setting.value_of(text)))
        };
        Ok(self.0.iter().filter_map(given).collect())
    }
}

fn read_file(path: &Path) -> Result<config::File<config::FileSourceString, FileFormat>, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|e| refused(format!("cannot read {shown}: {e}; check --config")))?;
    let file = config::File::from_str(&text, FileFormat::Toml);
    let values = file
        .collect()
        .map_err(|e| refused(format!("{shown} is not TOML: {}", one_line(&e.to_string()))))?;
    let mut unknown: Vec<&String> =
        values.keys().filter(|k| definitions::find(k).is_none()).collect();
    unknown.sort(); // the map's order differs per run, the message should not
    if let Some(key) = unknown.first() {
        let line = text
            .lines()
            .position(|l| l.trim_start().trim_start_matches(['[', '"']).starts_with(key.as_str()));
        let place = line.map_or(String::new(), |n| format!(":{}", n + 1));
        return Err(refused(format!(
            "{shown}{place}: unknown key `{key}`; did you mean `{}`? `t3fs-node config` lists all",
            definitions::nearest(key).0.name
        )));
    }
    Ok(file)
}

/// A `T3FS_` variable close to a key but not one is a typing mistake that would go unseen.
fn check_env(env: &BTreeMap<String, String>) -> Result<(), Failure> {
    for name in env.keys() {
        let Some(key) = key_of(name) else { continue };
        if definitions::find(&key).is_some() || key == definitions::CONFIG.name {
            continue;
        }
        let (near, distance) = definitions::nearest(&key);
        if distance <= 2 {
            return Err(refused(format!(
                "environment: unknown setting {name}; did you mean {}?",
                near.variable()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! Goal: the order of sources, and that what is wrong is refused with where and what to do.
    use super::*;

    fn both(
        file: &str,
        env: &[(&str, &str)],
        flags: Flags,
    ) -> Result<(Settings, Tunables), Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t3fs.toml");
        std::fs::write(&path, file).unwrap();
        let flags = Flags { config: Some(path), ..flags };
        load_from(flags, env.iter().map(|(k, v)| ((*k).into(), (*v).into())))
    }

    fn with(file: &str, env: &[(&str, &str)], flags: Flags) -> Result<Settings, Failure> {
        both(file, env, flags).map(|(settings, _)| settings)
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
        let (_, t) = both("", &env, Flags::default()).unwrap();
        assert_eq!(t.patience(), Some(std::time::Duration::from_secs(30)));
        let (_, t) = both("hard = true\n", &env, Flags::default()).unwrap();
        assert_eq!(t.patience(), None, "hard goes before a time");
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

    #[test]
    fn a_secret_is_given_once() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), "0123456789012345").unwrap();
        let file = format!("secret_file = {:?}\n", path.path());
        let s = with(&file, &[], Flags::default()).unwrap();
        assert_eq!(s.shared_secret().unwrap().bytes(), b"0123456789012345");
        assert!(line(&file, &[("T3FS_SECRET", "5432109876543210")]).contains("leave one"));
    }

    /// Goal: every number has limits, which its type holds. Method: the refusal says them.
    #[test]
    fn numbers_have_limits_that_fit_their_types() {
        let numbers = definitions::SETTINGS.iter().filter(|s| s.form == setting::Form::Number);
        for k in numbers {
            let said = line("", &[(&k.variable(), &u64::MAX.to_string())]);
            let limits = said.split_once("; it can be ").expect("limits").1;
            let (min, max) = limits.split_once(" to ").expect("two");
            for n in [min, max] {
                // Of the times, which must fit together, some are refused.
                let _ = with("", &[(&k.variable(), n)], Flags::default());
            }
            let below = (min.parse::<u64>().unwrap() - 1).to_string();
            assert!(line("", &[(&k.variable(), &below)]).contains(limits), "{}", k.name);
        }
    }

    /// Goal: a setting is in all places that make it one: what is explained is read (which commands
    /// take it as a flag `cli.rs` asks).
    #[test]
    fn every_key_is_explained_and_read() {
        let text = definitions::explain();
        for k in definitions::SETTINGS {
            assert!(text.contains(&format!("# {} =", k.name)));
            let read = with("", &[(&k.variable(), "x")], Flags::default());
            let why = read.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(!why.contains("unknown field"), "{}: {why}", k.name);
        }
        let (s, t) = both("", &[], Flags::default()).unwrap();
        assert_eq!((s.listen, s.targets_per_disk, t.hard), (None, 2, false));
        for said in [
            "# --replicas, T3FS_REPLICAS; default: 1 for a new cluster, else what it was created \
             with; 1 to 3; a change takes a restart\n# replicas =\n",
            "# T3FS_HEARTBEAT_MS; default: 200; 20 to 60000; a change takes a restart\n",
            "default: 67108864 (64 MiB); 33554432 to 17179869184;",
            "default: 600; 1 to 604800; can change while it runs: `t3fs-node set io_timeout=..`\n",
            "T3FS_DEVICE_FILTER (or DEVICE_FILTER); default: all devices;",
            "default: \"t3fs\"; a change",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
}
