//! Settings that change while the process runs: checked all together, then made to hold.
//!
//! Who uses a tunable reads what its shard was told last, when it uses it: a client its
//! `io_timeout` for each request. Nothing is shared between shards. What waits already goes by what
//! held when it began.

use std::sync::{Arc, Mutex, PoisonError};

use t3fs_runtime::Cx;
use t3fs_runtime::glommio::Remote;

use super::on_shard;
use crate::config::definitions::find;
use crate::config::{Settings, Tunables};
use crate::door;
use crate::failure::Failure;
use crate::logging;

/// Changes settings from other threads, one change after the other.
#[derive(Clone)]
pub struct Tuning {
    fixed: Arc<Settings>,
    now: Arc<Mutex<Tunables>>,
    remotes: Vec<Remote>,
}

impl Tuning {
    pub(super) fn new(fixed: Settings, now: Tunables, remotes: Vec<Remote>) -> Tuning {
        Tuning { fixed: Arc::new(fixed), now: Arc::new(Mutex::new(now)), remotes }
    }

    /// Makes these changes (key and value), or says why none of them can be made. Returns a line
    /// for people about each that may change.
    pub fn change(&self, changes: &[(String, String)]) -> Result<Vec<String>, Failure> {
        // Whoever panicked under the lock has not changed anything.
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let next = now.change(&self.fixed, changes)?;
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
        *now = next;
        told?;
        // What is fixed is as it was, and may be a secret.
        let changes = changes.iter().filter(|(key, _)| find(key).is_some_and(|s| s.is_tunable));
        let lines: Vec<String> = changes.map(|(key, value)| format!("{key} is {value}")).collect();
        tracing::info!("told while running: {}", lines.join(", "));
        Ok(lines)
    }
}
