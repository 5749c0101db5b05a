//! The meta server as a whole, on the real runtime with the memory store.
//!
//! [`World`] starts `Kv` and `Meta` on one shard; the rest of the cluster is [`Beside`], which
//! knows one chain and notes what is removed from it.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use futures::future::LocalBoxFuture;
use t3fs_runtime::glommio::run_alone;
use t3fs_runtime::{Addr, AskError, Cx, NodeId, RawAddr, Slot};

use super::fsck::{FsckReport, fsck};
use super::kv::MemoryDisk;
use super::kv::actor::KvServer;
use super::place::Outside;
use super::{MetaConfig, MetaServer, OrphanTimes};
use crate::planted::{PlantedBug, worlds};
use crate::proto::ids::*;
use crate::proto::kv::Kv;
use crate::proto::meta::Meta;
use crate::proto::meta::*;
use crate::proto::mgmtd::*;
use crate::proto::storage::Storage;
use crate::proto::storage::{
    Extents, FileExtents, ListInodes, RemoveChunks, Removed, StorageError,
};
use std::sync::Arc;

mod attributes;
mod barriers;
mod collecting;
mod concurrent;
mod formats;
mod model;
mod opens;
mod orphans;
mod posix;
mod retries;
mod several;
mod speed;
mod turns;

/// The rest of the cluster.
#[derive(Default)]
struct Beside {
    view: RefCell<ClusterView>,
    removed: RefCell<Vec<RemoveChunks>>,
    /// Content by chain and file: index and length of the last chunk.
    stored: RefCell<BTreeMap<(u32, InodeId), (u32, u32)>>,
    /// The primary mgmtd does not answer.
    alone: Cell<bool>,
    /// The agent does not.
    silent: Cell<bool>,
    /// Storage refuses this many more removals.
    not_ready: Cell<u32>,
}

impl Beside {
    /// Files, once for each chain they were removed from.
    fn removals(&self) -> usize {
        self.removed.borrow().iter().map(|r| r.inodes.len()).sum()
    }
}

impl Outside for Beside {
    fn view<'a>(&'a self, _: &'a Cx, _: ViewVersion) -> LocalBoxFuture<'a, Option<ClusterView>> {
        Box::pin(async {
            if self.silent.get() {
                Slot::<()>::new().await;
            }
            Some(self.view.borrow().clone())
        })
    }

    fn fresh_view<'a>(
        &'a self,
        _: &'a Cx,
        _: ViewVersion,
    ) -> LocalBoxFuture<'a, Result<Option<ClusterView>, String>> {
        Box::pin(async {
            match self.alone.get() {
                false => Ok(Some(self.view.borrow().clone())),
                true => Err("no primary".into()),
            }
        })
    }

    fn remove_chunks<'a>(
        &'a self,
        _: &'a Cx,
        head: Addr<Storage>,
        message: RemoveChunks,
    ) -> LocalBoxFuture<'a, Result<Result<Removed, StorageError>, AskError>> {
        Box::pin(async move {
            if let Some(left) = self.not_ready.get().checked_sub(1) {
                self.not_ready.set(left);
                return Ok(Err(StorageError::NotReady));
            }
            let chain = head.raw().epoch;
            let gone =
                |chunk: &(u32, InodeId)| chunk.0 == chain && message.inodes.contains(&chunk.1);
            self.stored.borrow_mut().retain(|chunk, _| !gone(chunk));
            self.removed.borrow_mut().push(message);
            Ok(Ok(Removed { count: 0, left: Vec::new() }))
        })
    }

    fn file_extents<'a>(
        &'a self,
        _: &'a Cx,
        target: Addr<Storage>,
        message: FileExtents,
    ) -> LocalBoxFuture<'a, Result<Result<Extents, StorageError>, AskError>> {
        Box::pin(async move {
            if let Some(left) = self.not_ready.get().checked_sub(1) {
                self.not_ready.set(left);
                return Ok(Err(StorageError::NotReady));
            }
            let chunk = (target.raw().epoch, message.inode);
            let last = self.stored.borrow().get(&chunk).copied();
            Ok(Ok(Extents { last, ..Extents::default() }))
        })
    }

    fn list_inodes<'a>(
        &'a self,
        _: &'a Cx,
        target: Addr<Storage>,
        message: ListInodes,
    ) -> LocalBoxFuture<'a, Result<Result<Vec<InodeId>, StorageError>, AskError>> {
        Box::pin(async move {
            let stored = self.stored.borrow();
            let chain = target.raw().epoch;
            let inodes = stored.range((chain, message.from)..(chain + 1, InodeId(0)));
            Ok(Ok(inodes.map(|(chunk, _)| chunk.1).take(message.limit as usize).collect()))
        })
    }
}

/// Of targets of other processes, of which these tests have none.
const NODE_LEASE: Duration = Duration::from_millis(60);

fn view() -> ClusterView {
    // The epoch of a target's address is its chain's number.
    let head = |epoch| {
        let (node, state) = (NodeId(9), TargetState::Serving);
        let addr = Some(RawAddr { node, shard: 0, slot: 0, epoch });
        ChainTarget { target: TargetId(1), node, addr, state, made: true }
    };
    let chain = |id| Chain { id: ChainId(id), version: ChainVersion(1), targets: vec![head(id)] };
    let routing = Routing {
        chains: vec![chain(1), chain(2)],
        tables: vec![ChainTable { id: 1, version: 1, chains: vec![ChainId(1), ChainId(2)] }],
        ..Routing::default()
    };
    ClusterView {
        version: ViewVersion(1),
        routing: Arc::new(routing),
        sessions: living(&[SessionId(1), SessionId(2)]),
    }
}

/// Ten sessions have begun, and these live.
fn living(alive: &[SessionId]) -> Arc<Sessions> {
    Arc::new(Sessions { alive: alive.to_vec(), max: SessionId(10) })
}

/// The inode after a change.
fn attr(changed: Changed) -> Attr {
    undated(changed.attr)
}

/// Without when it was so, to be compared.
fn undated(attr: Attr) -> Attr {
    Attr { as_of: Stamp::default(), ..attr }
}

struct World {
    cx: Cx,
    disk: MemoryDisk,
    kv: Addr<Kv>,
    meta: Addr<Meta>,
    beside: Rc<Beside>,
    seq: Cell<u64>,
}

impl World {
    async fn start(cx: Cx) -> World {
        let beside = Rc::new(Beside::default());
        *beside.view.borrow_mut() = view();
        World::start_on(cx, MemoryDisk::new(), beside).await
    }

    async fn start_on(cx: Cx, disk: MemoryDisk, beside: Rc<Beside>) -> World {
        let kv = KvServer::start(&cx, Box::new(disk.open())).unwrap();
        let agent = Addr::from_raw(RawAddr::default());
        let keep_answers = Duration::ZERO;
        let hour = Duration::from_secs(3600);
        let orphans = OrphanTimes { first: hour, every: hour, again: Duration::from_millis(20) };
        let config = MetaConfig {
            stripe: 2,
            keep_answers,
            hold_again: Duration::from_millis(20),
            orphans,
            node_lease: NODE_LEASE,
            ..MetaConfig::new(kv, agent)
        };
        let meta = MetaServer::start_beside(&cx, config, Rc::clone(&beside) as _).await.unwrap();
        World { cx, disk, kv, meta, beside, seq: Cell::new(0) }
    }

    fn op(&self) -> RequestId {
        self.seq.set(self.seq.get() + 1);
        RequestId { session: SessionId(1), seq: self.seq.get() }
    }

    fn entry(&self, parent: InodeId, name: &str) -> NewEntry {
        let name = name.as_bytes().to_vec();
        NewEntry { parent, name, mode: 0o644, uid: 7, gid: 8, op: self.op() }
    }

    /// Asks meta something; the transport never fails here.
    async fn ask<M>(&self, message: M) -> M::Reply
    where
        M: t3fs_runtime::Ask<Meta>,
    {
        self.cx.ask(self.meta, message).await.expect("meta answers")
    }

    async fn file(&self, parent: InodeId, name: &str) -> Result<Attr, MetaError> {
        let entry = self.entry(parent, name);
        self.ask(CreateFile { entry, kind: FileType::File, hold: None }).await.map(attr)
    }

    async fn dir(&self, parent: InodeId, name: &str) -> Result<Attr, MetaError> {
        let entry = NewEntry { mode: 0o755, ..self.entry(parent, name) };
        self.ask(MakeDir { entry }).await.map(attr)
    }

    async fn look(&self, parent: InodeId, name: &str) -> Result<Attr, MetaError> {
        self.ask(Lookup { parent, name: name.as_bytes().to_vec() }).await.map(undated)
    }

    async fn attr(&self, inode: InodeId) -> Result<Attr, MetaError> {
        self.ask(GetAttr { inode }).await.map(undated)
    }

    async fn link(&self, inode: InodeId, parent: InodeId, name: &str) -> Result<Attr, MetaError> {
        let name = name.as_bytes().to_vec();
        self.ask(MakeLink { inode, parent, name, op: self.op() }).await.map(attr)
    }

    async fn unlink(&self, parent: InodeId, name: &str) -> Result<Gone, MetaError> {
        let name = name.as_bytes().to_vec();
        self.ask(Unlink { parent, name, hold: None, op: self.op() }).await
    }

    async fn rmdir(&self, parent: InodeId, name: &str) -> Result<Gone, MetaError> {
        let name = name.as_bytes().to_vec();
        self.ask(RemoveDir { parent, name, op: self.op() }).await
    }

    async fn rename(
        &self,
        (parent, name): (InodeId, &str),
        (new_parent, new_name): (InodeId, &str),
        mode: RenameMode,
    ) -> Result<Gone, MetaError> {
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        let op = self.op();
        self.ask(Rename { parent, name, new_parent, new_name, mode, hold: None, op }).await
    }

    async fn names(&self, inode: InodeId) -> Vec<String> {
        let page = self.ask(ReadDir { inode, after: Vec::new(), limit: 0 }).await.unwrap();
        let name = |e: DirEntry| String::from_utf8(e.name).unwrap();
        page.entries.into_iter().map(name).collect()
    }

    /// The store is whole.
    async fn check(&self) -> FsckReport {
        let report = fsck(&self.cx, self.kv).await.unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        report
    }
}

/// Runs a test in a world of its own.
fn in_world(test: impl AsyncFnOnce(World) + 'static) {
    run_alone(vec![], async |shard| test(World::start(shard.cx()).await).await).unwrap();
}
