//! The targets of this process. Those of a cluster in one process are opened at the start; those of
//! a server its `Host` has, which decides on the first shard: here is what it does to this process.
//!
//! A target is opened on its own shard, and the list of targets is a file: a thread does both, one
//! thing at a time, so that no shard waits for another or for a file system.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::ids::TargetId;
use t3fs_actors::proto::mgmtd::Routing;
use t3fs_actors::storage::host::{Book, Entry, Host, HostConfig, HostWorks, Place, Wish};
use t3fs_runtime::glommio::Remote;
use t3fs_runtime::{Addr, Cx, DiskId, Slot};

use super::assembly::{Assembly, Targets};
use super::budget::Budget;
use super::parts::Started;
use super::{on_shard, parts};
use crate::data::Data;
use crate::data::server::{NodeFile, Server, TargetPlace, TargetWish};
use crate::failure::{Failure, failed};

/// What targets are opened with.
pub(super) struct Keeper {
    pub(super) a: Arc<Assembly>,
    pub(super) budget: Budget,
    pub(super) agent: Addr<Agent>,
    pub(super) remotes: Vec<Remote>,
}

impl Keeper {
    /// Opens a target and starts its actor; with `create` it may be a new one.
    fn start(&self, place: Place, shard: usize, create: bool) -> Result<Started, Failure> {
        let (cluster, budget, agent) = (self.a.cluster.clone(), self.budget, self.agent);
        let in_cluster = matches!(self.a.targets, Targets::Assigned { .. });
        on_shard(&self.remotes[shard], "storage target", async move |cx| {
            parts::start_target(&cx, &cluster, place, create, in_cluster, &budget, agent).await
        })?
    }

    fn shard_of(&self, target: TargetId) -> usize {
        target.0 as usize % self.remotes.len()
    }

    /// The targets of a cluster in one process: target i of a disk on shard i modulo the number of
    /// shards. One whose chain mgmtd does not know yet is new.
    pub(super) fn start_local(&self, data: &Data, known: &Routing) -> Result<(), Failure> {
        for disk in &data.disks {
            let record = &data.cluster.disks[disk.index];
            for (i, &target) in record.targets.iter().enumerate() {
                let chain = data.cluster.chains.iter().find(|c| c.targets.contains(&target));
                let Some(chain) = chain.map(|c| c.id) else { continue };
                let place = Place { target, chain, disk: disk_id(disk.index) };
                let create = known.chain(chain).is_none();
                let shard = i % self.remotes.len();
                let at = |why: Failure| {
                    failed(format!("target {target} in {}: {why}", disk.folder.display()))
                };
                if self.start(place, shard, create).map_err(at)? == Started::Absent {
                    return Err(at(failed(format!(
                        "targets/{target} is gone; restore it, or leave this --data out if its \
                         chains have other replicas"
                    ))));
                }
            }
        }
        Ok(())
    }

    /// The host of this server's targets, which begins with those that it has. The thread that
    /// carries out its orders ends with it.
    pub(super) fn start_assigned(self, server: Arc<Server>) -> Result<(), Failure> {
        let (give, take) = mpsc::channel();
        let cluster = self.a.cluster.clone();
        let disks = server.disks.iter().map(|d| disk_id(d.index)).collect();
        let (book, agent, orders) = (book(&server.file), self.agent, HostOrders(give));
        on_shard(&self.remotes[0], "storage host", async move |cx: Cx| {
            let first = Slot::new();
            parts::expect_host(first.clone());
            Host::start(&cx, HostConfig { cluster, disks, book, agent, works: orders, first });
        })?;
        std::thread::Builder::new()
            .name("t3fs-keeper".into())
            .spawn(move || Servant { keeper: self, file: server.file.clone(), server }.serve(&take))
            .map(drop)
            .map_err(|e| failed(format!("cannot start the keeper of targets: {e}")))
    }
}

fn disk_id(index: usize) -> DiskId {
    DiskId(u16::try_from(index).expect("few disks"))
}

fn book(file: &NodeFile) -> Book {
    let entry = |t: &TargetPlace| {
        let wish = match t.wish {
            TargetWish::Run => Wish::Run,
            TargetWish::Stopped => Wish::Stopped,
            TargetWish::Removed => Wish::Removed,
        };
        (t.target, Entry { chain: t.chain, disk: disk_id(t.disk), wish })
    };
    file.targets.iter().map(entry).collect()
}

fn places(book: &Book) -> Vec<TargetPlace> {
    let place = |(target, e): (&TargetId, &Entry)| {
        let wish = match e.wish {
            Wish::Run => TargetWish::Run,
            Wish::Stopped => TargetWish::Stopped,
            Wish::Removed => TargetWish::Removed,
        };
        TargetPlace { target: *target, chain: e.chain, disk: usize::from(e.disk.0), wish }
    };
    book.iter().map(place).collect()
}

/// What the host wants done.
enum Order {
    Make(Place),
    Start(Place),
    Stop(TargetId),
    Store(Book),
}

type Done = Result<(), String>;

thread_local! {
    /// On the host's shard: its orders that are under way, and the number of the latest.
    static UNDER_WAY: RefCell<(u64, BTreeMap<u64, Slot<Done>>)> = RefCell::default();
}

/// The host's side.
pub(super) struct HostOrders(Sender<(u64, Order)>);

impl HostOrders {
    async fn order(&self, order: Order) -> Done {
        let done = Slot::new();
        let number = UNDER_WAY.with_borrow_mut(|(number, under_way)| {
            *number += 1;
            under_way.insert(*number, done.clone());
            *number
        });
        if self.0.send((number, order)).is_err() {
            return Err("the node ends".into());
        }
        done.await
    }
}

impl HostWorks for HostOrders {
    async fn make(&self, _: &Cx, place: Place) -> Done {
        self.order(Order::Make(place)).await
    }

    async fn start(&self, _: &Cx, place: Place) -> Done {
        self.order(Order::Start(place)).await
    }

    async fn stop(&self, _: &Cx, target: TargetId) -> Done {
        self.order(Order::Stop(target)).await
    }

    async fn store(&self, _: &Cx, book: Book) -> Done {
        self.order(Order::Store(book)).await
    }
}

/// The thread's side.
struct Servant {
    keeper: Keeper,
    server: Arc<Server>,
    file: NodeFile,
}

impl Servant {
    fn serve(mut self, orders: &Receiver<(u64, Order)>) {
        while let Ok((number, order)) = orders.recv() {
            let done = self.carry_out(order).map_err(|why| why.to_string());
            self.keeper.remotes[0].run(Box::new(move |_| {
                let slot = UNDER_WAY.with_borrow_mut(|(_, under_way)| under_way.remove(&number));
                if let Some(slot) = slot {
                    slot.fill(done);
                }
            }));
        }
    }

    fn carry_out(&mut self, order: Order) -> Result<(), Failure> {
        match order {
            Order::Make(place) => {
                let (cluster, budget) = (self.keeper.a.cluster.clone(), self.keeper.budget);
                let remote = &self.keeper.remotes[self.keeper.shard_of(place.target)];
                on_shard(remote, "storage target", async move |cx| {
                    parts::make_target(&cx, &cluster, place, &budget).await
                })?
            }
            Order::Start(place) => {
                match self.keeper.start(place, self.keeper.shard_of(place.target), false)? {
                    // By an earlier attempt, which took longer than it was waited for.
                    Started::Runs | Started::Already => Ok(()),
                    Started::Absent => Err(failed("its data is gone")),
                }
            }
            Order::Stop(target) => {
                let agent = self.keeper.agent;
                let remote = &self.keeper.remotes[self.keeper.shard_of(target)];
                on_shard(remote, "storage target", async move |cx| {
                    parts::stop_target(&cx, target, agent).await
                })?
            }
            Order::Store(book) => {
                self.file.targets = places(&book);
                self.file.store(&self.server.state)
            }
        }
    }
}
