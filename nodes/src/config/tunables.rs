//! Changes of settings while the process runs.
//!
//! Each is checked as at the start, and all of them before any holds. Who makes them hold, shard by
//! shard, is `node/tuning.rs`.

use std::time::Duration;

use super::definitions::{Settings, Tunables, find, nearest};
use super::written::{Origin, Written};
use crate::failure::{Failure, refused};

impl Tunables {
    /// How long an operation waits for a silent cluster; `None`: for ever. `hard` goes before any
    /// time.
    pub fn patience(&self) -> Option<Duration> {
        (!self.hard).then_some(self.io_timeout)
    }

    /// What holds after these changes (key and value, as in the environment), or why none of them
    /// may be made. A setting that is fixed may be named with the value that it has: whoever sends
    /// a whole configuration need not know which are.
    pub fn change(
        &self,
        fixed: &Settings,
        changes: &[(String, String)],
    ) -> Result<Tunables, Failure> {
        let mut changed = self.clone();
        for (key, text) in changes {
            let setting = find(key).ok_or_else(|| {
                refused(format!(
                    "unknown setting `{key}`; did you mean `{}`? `t3fs-node config` lists all",
                    nearest(key).0.name
                ))
            })?;
            let mut written = Written::default();
            written.put(setting, setting.value_of(text), Origin::Change);
            if !changed.take(fixed, setting, &written)? {
                return Err(refused(format!(
                    "{key} is fixed when the process starts; another value takes a restart"
                )));
            }
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: changes hold all or not at all, are checked as at the start, and those that cannot be
    //! made say so.
    use super::*;
    use crate::config::{Flags, load_from};

    fn started() -> (Settings, Tunables) {
        let flags = Flags::default().set("replicas", Some(2u64)).set("data", Some(vec!["/a"]));
        load_from(flags, std::iter::empty()).unwrap()
    }

    fn changed(changes: &[(&str, &str)]) -> Result<Tunables, Failure> {
        let (fixed, tunables) = started();
        let changes: Vec<_> =
            changes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        tunables.change(&fixed, &changes)
    }

    #[test]
    fn what_may_change_is_read_as_from_the_environment() {
        let now = changed(&[("io_timeout", "5"), ("log", "debug,t3fs_runtime=trace")]).unwrap();
        assert_eq!(now.patience(), Some(Duration::from_secs(5)));
        assert_eq!(now.log.as_deref(), Some("debug,t3fs_runtime=trace"));
        assert_eq!(changed(&[("hard", "true"), ("io_timeout", "5")]).unwrap().patience(), None);
        assert_eq!(changed(&[]).unwrap(), started().1);
    }

    #[test]
    fn what_is_wrong_is_refused_with_the_sentence_of_the_start() {
        for (key, value, says) in [
            ("io_timeout", "0", "io_timeout is 0, and must be a number of seconds, 1 to 604800"),
            ("io_timeout", "soon", "io_timeout is \"soon\", and must be"),
            ("hard", "perhaps", "hard is \"perhaps\", and must be true or false"),
            ("log", "x=y=z", "log is"),
            ("log", "debg", "did you mean debug?"),
            ("io_timeot", "1", "did you mean `io_timeout`"),
            ("shards", "many", "shards is \"many\", and must be a number"),
        ] {
            let why = changed(&[("log", "debug"), (key, value)]).unwrap_err();
            assert!(why.is_refusal() && why.line.contains(says), "{why}");
        }
    }

    #[test]
    fn what_holds_is_shown_and_not_what_was_written() {
        let shown = |changes| {
            let now = changed(changes).unwrap().shown();
            now.into_iter().map(|(s, value)| (s.name, value)).collect::<Vec<_>>()
        };
        let of = |text: &str| Some(text.to_owned());
        let log = [("log", None), ("hard", of("false")), ("io_timeout", of("600"))];
        assert!(log.iter().all(|one| shown(&[]).contains(one)), "{:?}", shown(&[]));
        let now = shown(&[("hard", "yes"), ("log", "warn")]);
        assert!(now.contains(&("hard", of("true"))) && now.contains(&("log", of("warn"))));
    }

    #[test]
    fn what_is_fixed_may_only_be_what_it_is() {
        let same = [("replicas", "2"), ("data", "/a"), ("cluster_id", "t3fs"), ("hard", "true")];
        assert!(changed(&same).unwrap().hard);
        for (key, value) in [("replicas", "3"), ("data", "/a:/b"), ("listen", "10.0.0.1")] {
            let why = changed(&[("hard", "true"), (key, value)]).unwrap_err().line;
            assert!(why.starts_with(key) && why.contains("takes a restart"), "{why}");
        }
    }
}
