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
pub mod written;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::iter;
use std::path::{Path, PathBuf};

use config::{FileFormat, Source};

use crate::failure::{Failure, refused};
use setting::{key_of, one_line};
use written::{Origin, Written};

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
    let env: BTreeMap<String, String> = env.filter(|(_, text)| !text.is_empty()).collect();
    check_env(&env)?;
    let mut written = Written::default();
    let file = env.get(&definitions::CONFIG.variable()).map(PathBuf::from);
    if let Some(path) = flags.config.or(file) {
        read_file(&path, &mut written)?;
    }
    read_env(&env, &mut written);
    for (key, value) in flags.values {
        let setting = definitions::find(key).expect("flags are of settings");
        written.put(setting, value, Origin::Flag(setting.flag()));
    }
    let (settings, tunables) = definitions::read(&written)?;
    settings.check_together()?;
    Ok((settings, tunables))
}

/// What others have for a setting is read if ours is not there.
fn read_env(env: &BTreeMap<String, String>, written: &mut Written) {
    for setting in definitions::SETTINGS {
        let names = iter::once(setting.variable()).chain(setting.alias_name().map(str::to_owned));
        let mut given = names.filter_map(|name| env.get(&name).map(|text| (name, text)));
        if let Some((name, text)) = given.next() {
            written.put(setting, setting.value_of(text), Origin::Variable(name));
        }
    }
}

fn read_file(path: &Path, written: &mut Written) -> Result<(), Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|e| refused(format!("cannot read {shown}: {e}; check --config")))?;
    let values = config::File::from_str(&text, FileFormat::Toml)
        .collect()
        .map_err(|e| refused(format!("{shown} is not TOML: {}", one_line(&e.to_string()))))?;
    let values: BTreeMap<_, _> = values.into_iter().collect(); // the same refusal in every run
    for (key, value) in values {
        let line = line_of(&text, &key);
        let Some(setting) = definitions::find(&key) else {
            let place = line.map_or(String::new(), |n| format!(":{n}"));
            return Err(refused(format!(
                "{shown}{place}: unknown key `{key}`; did you mean `{}`? `t3fs-node config` lists \
                 all",
                definitions::nearest(&key).0.name
            )));
        };
        written.put(setting, value, Origin::File { path: path.to_owned(), line });
    }
    Ok(())
}

/// The line of a file, counted from 1, that begins with a key, or with a table of this name.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let begins = |line: &str| {
        let line = line.trim_start().trim_start_matches(['[', '"']);
        let rest = line.strip_prefix(key);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    text.lines().position(begins).map(|at| at + 1)
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
        assert!(said.contains("t3fs.toml:3: "), "{said}");
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

    /// Goal: whoever wrote a wrong value is told where. Method: each way to write one.
    #[test]
    fn a_wrong_value_is_told_with_its_place() {
        let seconds = "\"30s\", and must be a number of seconds, 1 to 604800";
        let said = line("# x\nio_timeout = \"30s\"\n", &[]);
        assert!(said.ends_with(&format!("t3fs.toml:2: io_timeout is {seconds}")), "{said}");
        let said = line("io_timeout = 3\n", &[("T3FS_IO_TIMEOUT", "30s")]);
        assert_eq!(said, format!("T3FS_IO_TIMEOUT is {seconds}"));
        let flag = Flags::default().set("io_timeout", Some("30s"));
        let said = with("", &[], flag).unwrap_err().line;
        assert_eq!(said, format!("--io-timeout is {seconds}"));
        for (file, says) in [
            ("io_timeout = 99999999", "io_timeout is 99999999, and must be a number of seconds"),
            ("io_timeout = true", "io_timeout is true, and must be a number"),
            ("hard = \"perhaps\"", "hard is \"perhaps\", and must be true or false"),
            ("data = \"/a\"", "data is \"/a\", and must be a list of paths, as in [\"/a\", "),
            ("shards = -1", "shards is -1, and must be a number, 1 to 256"),
            ("fabric = \"ib\"", "fabric is \"ib\"; it can be auto"),
            ("[kv]\nx = 1", "kv is a table, and must be a text"),
        ] {
            let said = line(&format!("{file}\n"), &[]);
            assert!(said.contains(&format!("t3fs.toml:1: {says}")), "{said}");
        }
        let said = line("", &[("DEVICE_FILTER", "x"), ("T3FS_LISTEN", "not here")]);
        assert!(said.starts_with("T3FS_LISTEN is \"not here\";"), "{said}");
        let said = line("", &[("T3FS_SECRET", "short")]);
        assert!(said.starts_with("T3FS_SECRET holds 5 bytes"), "{said}");
        let said = line("[secret]\nhidden = 1\n", &[]);
        assert!(said.contains("secret is (not shown), and") && !said.contains("hidden"), "{said}");
    }

    #[test]
    fn what_was_given_is_told_with_its_place_and_no_secret() {
        let env = [("T3FS_SECRET", "0123456789012345"), ("DEVICE_FILTER", "a,b")];
        let flags = Flags::default().set("cluster_id", Some("c"));
        let s = with("shards = 3\nhard = true\n", &env, flags).unwrap();
        let told: Vec<String> = s.given.iter().map(ToString::to_string).collect();
        let told = told.join("; ");
        for says in [
            "cluster_id = \"c\" (--cluster-id)",
            "device_filter = [\"a\", \"b\"] (DEVICE_FILTER)",
            "t3fs.toml:2)",
            "secret = (not shown) (T3FS_SECRET)",
            "shards = 3 (",
        ] {
            assert!(told.contains(says), "{told}");
        }
        assert!(s.given.len() == 5 && !told.contains("0123456789"), "{told}");
    }

    /// Regression (a newcomer): `--data d1,d2` made a new cluster in a folder of that name.
    #[test]
    fn several_data_folders_in_one_word_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let with = |name: &str| {
            let flags = Flags::default().set("data", Some(vec![path(name)]));
            load_from(flags, std::iter::empty())
        };
        for wrong in ["d1,d2", "d1:d2", "d1,/mnt/d2"] {
            let why = with(wrong).unwrap_err();
            assert!(why.is_refusal() && why.line.contains("--data A --data B"), "{why}");
            assert!(why.line.contains("T3FS_DATA=A:B") && why.line.contains(wrong), "{why}");
        }
        std::fs::create_dir(path("a,b:c")).unwrap();
        for right in ["a,b:c", "a,b:c/new", "new"] {
            with(right).unwrap();
        }
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
            let limits = said.rsplit_once(", ").expect("limits").1;
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
