//! Settings that change while the process runs: checked all together, then made to hold.
//!
//! Who uses a tunable reads what its shard was told last, when it uses it: a client its
//! `io_timeout` for each request. Nothing is shared between shards. What waits already goes by what
//! held when it began.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use t3fs_runtime::Cx;
use t3fs_runtime::glommio::Remote;

use super::on_shard;
use crate::config::definitions::find;
use crate::config::setting::Setting;
use crate::config::written::Origin;
use crate::config::{Settings, Tunables};
use crate::door;
use crate::failure::Failure;
use crate::logging;

/// Changes settings from other threads, one change after the other.
#[derive(Clone)]
pub struct Tuning {
    fixed: Arc<Settings>,
    now: Arc<Mutex<Holding>>,
    remotes: Vec<Remote>,
    /// The process has a mount.
    mounts: bool,
}

/// What holds, and where those come from that are not the default.
struct Holding {
    tunables: Tunables,
    origins: BTreeMap<&'static str, Origin>,
}

impl Tuning {
    pub(super) fn new(
        fixed: Settings,
        tunables: Tunables,
        remotes: Vec<Remote>,
        mounts: bool,
    ) -> Tuning {
        let given = fixed.given.iter();
        let origins = given.map(|given| (given.name, given.origin.clone())).collect();
        let now = Arc::new(Mutex::new(Holding { tunables, origins }));
        Tuning { fixed: Arc::new(fixed), now, remotes, mounts }
    }

    fn now(&self) -> MutexGuard<'_, Holding> {
        // Whoever panicked under the lock has not changed anything.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line for people about each setting that may change: what holds, and where it comes from.
    pub fn look(&self) -> Vec<String> {
        let Holding { tunables, origins } = &*self.now();
        let line = |(setting, value): (&Setting, Option<String>)| match value {
            Some(value) => {
                let origin = origins.get(setting.name).cloned().unwrap_or_default();
                format!("{} is {value} ({origin}){}", setting.name, self.remark(setting))
            }
            None => format!("{} is not set; default: {}", setting.name, setting.default_told()),
        };
        tunables.shown().into_iter().map(line).collect()
    }

    /// What is to be said of a setting that means nothing here.
    fn remark(&self, setting: &Setting) -> &'static str {
        match setting.is_of_mounts && !self.mounts {
            true => "; only processes with a mount use it, and this one has none",
            false => "",
        }
    }

    /// Makes these changes (key and value), or says why none of them can be made. Returns a line
    /// for people about each that may change.
    pub fn change(&self, changes: &[(String, String)]) -> Result<Vec<String>, Failure> {
        let mut now = self.now();
        let next = now.tunables.change(&self.fixed, changes)?;
        logging::follow(next.log.as_deref())?;
        let patience = next.patience();
        let mut told = Ok(());
        for remote in &self.remotes {
            // A shard that does not answer is ending, and the process with it; it is told all the
            // same if it goes on.
            let shard = on_shard(remote, "settings", async move |_: Cx| {
                if let Some(client) = door::client() {
                    client.set_io_timeout(patience);
                }
            });
            told = told.and(shard);
        }
        // What is fixed is as it was, and may be a secret.
        let changed: Vec<&Setting> = changes.iter().filter_map(|(key, _)| find(key)).collect();
        let mut lines = Vec::new();
        for (setting, value) in next.shown() {
            if changed.iter().any(|one| one.name == setting.name) {
                let value = value.unwrap_or_else(|| setting.default_told());
                lines.push(format!("{} is {value}{}", setting.name, self.remark(setting)));
                now.origins.insert(setting.name, Origin::Change);
            }
        }
        now.tunables = next;
        told?;
        tracing::info!("told while running: {}", lines.join(", "));
        Ok(lines)
    }
}
