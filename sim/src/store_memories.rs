//! Which metadata store the nodes of a world have used: what a real process keeps in a file of its
//! state folder. It outlives the crashes of its nodes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use t3fs_actors::meta::kv::known::{KnownStore, StoreIdentityV1, StoreMemory};
use t3fs_actors::proto::kv::Kv;
use t3fs_runtime::{Addr, NodeId};

/// Of all nodes.
#[derive(Clone, Default)]
pub struct StoreMemories(Rc<RefCell<BTreeMap<NodeId, StoreIdentityV1>>>);

impl StoreMemories {
    /// The store as a run of this node begins to use it.
    pub fn of(&self, node: NodeId, kv: Addr<Kv>) -> KnownStore {
        let known = self.0.borrow().get(&node).copied();
        let memory = NodeMemory { node, all: self.clone() };
        KnownStore::remembered(kv, format!("node {}", kv.raw().node.0), known, Box::new(memory))
    }

    /// How many nodes remember a store.
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }
}

struct NodeMemory {
    node: NodeId,
    all: StoreMemories,
}

impl StoreMemory for NodeMemory {
    fn remember(&self, identity: StoreIdentityV1) -> LocalBoxFuture<'static, Result<(), String>> {
        let mut all = self.all.0.borrow_mut();
        let kept = *all.entry(self.node).or_insert(identity);
        let kept = if kept == identity { Ok(()) } else { Err(format!("it has store {kept}")) };
        async move { kept }.boxed_local()
    }

    fn place(&self) -> String {
        format!("the memory of node {}", self.node.0)
    }
}
