//! The targets of this process: opened at the start, and, on a server, made when the routing says
//! that there are new ones.
//!
//! A target that was there before and whose data is gone is never silently made empty again: of a
//! chain whose other replicas serve it comes back as a fresh member, to be brought up to date
//! before it serves; otherwise it stays away and a human must look.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use t3fs_actors::proto::agent::Agent;

use t3fs_actors::proto::ids::TargetId;
use t3fs_actors::proto::mgmtd::{Chain, ChainTarget, Routing};
use t3fs_actors::storage::{Birth, birth};
use t3fs_runtime::Addr;
use t3fs_runtime::budget::Budget;
use t3fs_runtime::glommio::Remote;

use super::assembly::{Assembly, Targets};
use super::latest::Hearer;
use super::parts::Started;
use super::{on_shard, parts};
use crate::data::Data;
use crate::data::server::{NodeFile, Server, TargetPlace};
use crate::failure::{Failure, failed};

pub(super) struct Keeper {
    works: Works,
    /// Ends when the agent, which sends it news, has.
    thread: Option<JoinHandle<()>>,
}

/// What targets are opened with.
#[derive(Clone)]
struct Works {
    a: Arc<Assembly>,
    budget: Budget,
    agent: Addr<Agent>,
    remotes: Vec<Remote>,
}

impl Works {
    /// Opens a target and starts its actor; with `create` it may be a new one.
    fn start(&self, place: TargetPlace, shard: usize, create: bool) -> Result<Started, Failure> {
        let (cluster, budget, agent) = (self.a.cluster.clone(), self.budget, self.agent);
        let in_cluster = matches!(self.a.targets, Targets::Assigned { .. });
        on_shard(&self.remotes[shard], "storage target", async move |cx| {
            parts::start_target(&cx, &cluster, place, create, in_cluster, &budget, agent).await
        })?
    }

    fn shard_of(&self, target: TargetId) -> usize {
        target.0 as usize % self.remotes.len()
    }
}

impl Keeper {
    pub(super) fn new(
        a: Arc<Assembly>,
        budget: Budget,
        agent: Addr<Agent>,
        remotes: Vec<Remote>,
    ) -> Keeper {
        Keeper { works: Works { a, budget, agent, remotes }, thread: None }
    }

    /// The targets of a cluster in one process: target i of a disk on shard i modulo the number of
    /// shards. One whose chain mgmtd does not know yet is new.
    pub(super) fn start_local(&self, data: &Data, known: &Routing) -> Result<(), Failure> {
        for disk in &data.disks {
            let record = &data.cluster.disks[disk.index];
            for (i, &target) in record.targets.iter().enumerate() {
                let chain = data.cluster.chains.iter().find(|c| c.targets.contains(&target));
                let Some(chain) = chain.map(|c| c.id) else { continue };
                let place = TargetPlace { target, chain, disk: disk.index };
                let create = known.chain(chain).is_none();
                let shard = i % self.works.remotes.len();
                let at = |why: Failure| {
                    failed(format!("target {target} in {}: {why}", disk.folder.display()))
                };
                if self.works.start(place, shard, create).map_err(at)? == Started::Absent {
                    return Err(at(failed(format!(
                        "targets/{target} is gone; restore it, or leave this --data out if its \
                         chains have other replicas"
                    ))));
                }
            }
        }
        Ok(())
    }

    /// The targets that this server has; from then on those that the news bring.
    pub(super) fn start_assigned(mut self, news: Hearer<Arc<Routing>>) -> Result<Keeper, Failure> {
        let Targets::Assigned { server, .. } = &self.works.a.targets else {
            unreachable!("a server")
        };
        let server = Arc::clone(server);
        let mut running = BTreeSet::new();
        for place in &server.file.targets {
            if !server.disks.iter().any(|d| d.index == place.disk) {
                continue; // said when the folders were looked at
            }
            // One damaged target is no reason to take the others away from their chains.
            match self.works.start(*place, self.works.shard_of(place.target), false) {
                Ok(Started::Runs | Started::Already) => drop(running.insert(place.target)),
                Ok(Started::Absent) => {
                    tracing::warn!("the data of target {} is gone", place.target)
                }
                Err(why) => tracing::error!("target {} stays away: {why}", place.target),
            }
        }
        let (works, file) = (self.works.clone(), server.file.clone());
        let mut follower = Follower { works, server, file, running, given_up: BTreeSet::new() };
        let thread = std::thread::Builder::new()
            .name("t3fs-keeper".into())
            .spawn(move || {
                while let Some(routing) = news.hear() {
                    follower.follow(&routing);
                }
            })
            .map_err(|e| failed(format!("cannot start the keeper of targets: {e}")))?;
        self.thread = Some(thread);
        Ok(self)
    }

    /// It ends by itself with the agent; what it is doing now ends with its shard.
    pub(super) fn stop(self) {
        drop(self.thread);
    }
}

/// Makes what the routing wants here.
struct Follower {
    works: Works,
    server: Arc<Server>,
    file: NodeFile,
    running: BTreeSet<TargetId>,
    /// Those that a human must look at; said once.
    given_up: BTreeSet<TargetId>,
}

impl Follower {
    fn follow(&mut self, routing: &Routing) {
        let me = self.works.a.node;
        for chain in &routing.chains {
            for t in chain.targets.iter().filter(|t| t.node == me) {
                if self.running.contains(&t.target) || self.given_up.contains(&t.target) {
                    continue;
                }
                match self.make(chain, t) {
                    Ok(()) => {}
                    Err(why) => {
                        tracing::error!("target {} of chain {}: {why}", t.target, chain.id);
                        self.given_up.insert(t.target);
                    }
                }
            }
        }
    }

    fn make(&mut self, chain: &Chain, t: &ChainTarget) -> Result<(), Failure> {
        let known = self.file.targets.iter().find(|p| p.target == t.target).copied();
        let place = match known {
            None => TargetPlace { target: t.target, chain: chain.id, disk: self.disk(t.target)? },
            Some(place) if !self.server.disks.iter().any(|d| d.index == place.disk) => {
                return Err(failed("its disk is not there"));
            }
            Some(place) => place,
        };
        // What there is of it is opened, whatever the chain says.
        let birth = if self.is_there(&place) { Birth::New } else { birth(chain, t) };
        match birth {
            Birth::New | Birth::Again => {}
            Birth::NotYet => return Ok(()),
            Birth::Never => {
                return Err(failed(
                    "its data is gone, and its chain waits for it as the last that served; restore \
                     its folder, or give its chain up",
                ));
            }
        }
        match self.works.start(place, self.works.shard_of(place.target), true)? {
            Started::Runs => {}
            // It reports itself when it is open; if it does not open, a later routing tries again.
            Started::Already => return Ok(()),
            Started::Absent => unreachable!("it may be created"),
        }
        if birth == Birth::Again {
            tracing::warn!("target {} begins again, empty, and will be synced", t.target);
        }
        if known.is_none() {
            self.file.targets.push(place);
            self.file.targets.sort();
            self.file.store(&self.server.state)?;
        }
        self.running.insert(place.target);
        tracing::info!("target {} of chain {} is here", place.target, place.chain);
        Ok(())
    }

    fn is_there(&self, place: &TargetPlace) -> bool {
        let disk = self.server.disks.iter().find(|d| d.index == place.disk);
        disk.is_some_and(|d| folder(&d.folder, place.target).join("superblock").exists())
    }

    /// Where a crash left it, else the disk with the fewest.
    fn disk(&self, target: TargetId) -> Result<usize, Failure> {
        if let Some(disk) = self.server.disks.iter().find(|d| folder(&d.folder, target).exists()) {
            return Ok(disk.index);
        }
        let load = |disk: usize| self.file.targets.iter().filter(|p| p.disk == disk).count();
        let disks = self.server.disks.iter().map(|d| d.index);
        disks.min_by_key(|d| (load(*d), *d)).ok_or_else(|| failed("this server has no disk"))
    }
}

/// Of a target, below its disk's.
fn folder(disk: &Path, target: TargetId) -> PathBuf {
    disk.join(format!("targets/{target}"))
}
