//! The actors of this process, running: budget -> shards -> actors, and the way back down.
//!
//! The main thread drives: it gives each shard one step at a time and waits for the answer, so the
//! order of start and stop is the order of the lines in [`Node::start`] and [`Node::stop`].

pub mod check;
mod parts;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use t3fs_actors::client::FsSpace;
use t3fs_runtime::budget::Budget;
use t3fs_runtime::glommio::{Layout, Remote, Shards, launch};
use t3fs_runtime::{Cx, NodeId};

use crate::config::Settings;
use crate::data::Data;
use crate::failure::{Failure, failed};
use crate::fuse::hub::{self, Hub};
use crate::limits;
use parts::Core;

/// How long one step of the start or the end may take on a shard.
const STEP_MAX: Duration = Duration::from_secs(120);
/// How long an idle shard looks for work before it sleeps. Waking a sleeping thread costs tens of
/// microseconds, looking costs core time that nobody else can use.
const SPIN: Duration = Duration::from_micros(30);
/// This process's number in its cluster.
const NODE: NodeId = NodeId(1);

/// The running actors.
pub struct Node {
    shards: Shards,
    core: Core,
    pub budget: Budget,
}

/// Does something on a shard and waits for what comes of it.
pub fn on_shard<T, F>(remote: &Remote, what: &'static str, f: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: AsyncFnOnce(Cx) -> T + Send + 'static,
{
    let (say, hear) = mpsc::channel();
    remote.run(Box::new(move |shard| {
        let cx = shard.cx();
        cx.clone().spawn(async move {
            // Nobody hears it when it took too long.
            let _ = say.send(f(cx).await);
        });
    }));
    hear.recv_timeout(STEP_MAX).map_err(|e| {
        failed(match e {
            RecvTimeoutError::Timeout => format!("{what}: no answer in {} s", STEP_MAX.as_secs()),
            RecvTimeoutError::Disconnected => format!("{what}: the shard has stopped"),
        })
    })
}

impl Node {
    /// Starts everything up to the clients. What it returns can serve a mount.
    pub fn start(settings: &Settings, data: &Arc<Data>, label: &str) -> Result<Node, Failure> {
        let targets = data.disks.iter().map(|d| data.cluster.disks[d.index].targets.len()).sum();
        let budget = Budget::for_machine(limits::memory_bytes(), settings.shards, targets);
        let layout = Layout {
            node: NODE,
            epoch: data.starts,
            shards: settings.shards,
            disks: disk_folders(data),
            // FUSE threads and the programs that use the mount want the cores too.
            pin: false,
            io_memory: budget.io_memory,
            spin: SPIN,
        };
        let shards = launch(&layout, Arc::new(|_| Box::pin(async {}))).map_err(failed)?;
        match start_actors(&shards.remotes, data, budget, label) {
            Ok(core) => Ok(Node { shards, core, budget }),
            Err(e) => {
                shards.stop();
                Err(e)
            }
        }
    }

    /// For the FUSE threads.
    pub fn hub(&self) -> Arc<Hub> {
        let per_shard = self.budget.read_bytes_in_flight + self.budget.write_buffer_bytes;
        Hub::new(self.shards.remotes.clone(), per_shard * self.budget.shards)
    }

    /// For checks from other threads.
    pub fn checker(&self) -> check::Checker {
        check::Checker { remote: self.shards.remotes[0].clone(), agent: self.core.agent }
    }

    pub fn space(&self) -> Result<FsSpace, Failure> {
        on_shard(&self.shards.remotes[0], "free space", async |cx: Cx| match hub::client() {
            Some(client) => client.statfs(&cx).await.map_err(|e| failed(format!("{e}"))),
            None => Err(failed("the client has stopped")),
        })?
    }

    /// Hands everything that clients hold to stable storage; all go on.
    pub fn sync(&self) -> Result<(), Failure> {
        for remote in &self.shards.remotes {
            let synced = on_shard(remote, "flush", async |cx: Cx| match hub::client() {
                Some(client) => client.sync_all(&cx).await,
                None => Ok(()),
            })?;
            synced.map_err(|e| failed(format!("not everything could be flushed: {e}")))?;
        }
        Ok(())
    }

    /// Flushes, ends all actors in the order that needs the least recovery, and their threads.
    pub fn stop(self) -> Result<(), Failure> {
        let mut result = Ok(());
        for remote in &self.shards.remotes {
            let stopped = on_shard(remote, "flush", async |cx: Cx| {
                let client = hub::client();
                hub::set_client(None);
                match client {
                    Some(client) => client.stop(&cx).await,
                    None => Ok(()),
                }
            });
            let stopped = stopped.and_then(|r| {
                r.map_err(|e| failed(format!("not everything could be flushed: {e}")))
            });
            result = result.and(stopped);
        }
        for remote in &self.shards.remotes {
            result = result.and(on_shard(remote, "close", parts::close_targets).and_then(|r| r));
        }
        let kv = self.core.kv();
        let closed = on_shard(&self.shards.remotes[0], "close", async move |cx| {
            parts::close_core(cx, kv).await
        });
        result = result.and(closed.and_then(|r| r));
        self.shards.stop();
        result
    }
}

/// The folder of each disk; those of missing ones are named but never opened.
fn disk_folders(data: &Data) -> Vec<PathBuf> {
    data.cluster.disks.iter().map(|d| d.folder.clone()).collect()
}

/// The order matters: each part asks those before it.
fn start_actors(
    remotes: &[Remote],
    data: &Arc<Data>,
    budget: Budget,
    label: &str,
) -> Result<Core, Failure> {
    let first = &remotes[0];
    let d = Arc::clone(data);
    let core =
        on_shard(first, "mgmtd and meta", async move |cx: Cx| parts::start_core(&cx, &d).await)??;
    let mut reports = Vec::new();
    for (index, remote) in remotes.iter().enumerate() {
        let (d, shards, agent) = (Arc::clone(data), remotes.len(), core.agent);
        let started = on_shard(remote, "storage targets", async move |cx: Cx| {
            parts::start_targets(&cx, &d, &budget, agent, index, shards).await
        })??;
        reports.extend(started);
    }
    let (d, agent, metas) = (Arc::clone(data), core.agent, core.metas.clone());
    on_shard(first, "registration with mgmtd", async move |cx: Cx| {
        parts::register(&cx, &d, NODE, agent, metas, reports).await
    })??;
    for (index, remote) in remotes.iter().enumerate() {
        let label = format!("{label} shard {index}");
        on_shard(remote, "client", async move |cx: Cx| {
            parts::start_client(&cx, agent, label, &budget).await
        })??;
    }
    on_shard(first, "root directory", parts::give_root_to_user)??;
    Ok(core)
}
