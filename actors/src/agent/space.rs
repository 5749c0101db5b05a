//! How full the cluster is: the agent of a server asks its targets every second and says it with
//! its heartbeats; the agent of a client asks the primary, and keeps the answer.
//!
//! None of it is routing: a target that fills changes nothing that anyone has to follow.

use core::time::Duration;
use std::collections::BTreeMap;

use t3fs_runtime::{Cx, Handle, Me, Time, join_all};

use super::NodeAgent;
use crate::proto::mgmtd::{GetSpaces, NodeSpaces, TargetFill, TargetSpace};
use crate::proto::storage::GetSpace;

/// Between two looks at the targets of this process.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A target, or the primary, that has not answered after this does not.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How long an answer of the primary is passed on.
const KNOWN_LIFE: Duration = Duration::from_secs(1);

/// The primary's latest answer, and when it came.
#[derive(Default)]
pub(super) struct KnownSpaces(Option<(Time, Vec<NodeSpaces>)>);

/// Space of a whole cluster, in bytes that users can store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClusterSpace {
    /// What is free, and what this cluster holds: `capacity - free` is the cluster's own, whatever
    /// else lies on its disks.
    pub capacity: u64,
    pub free: u64,
}

/// Adds up what nodes have said. Each file system counts once, however many targets are on it, and
/// what is stored `replicas` times counts so often.
pub fn cluster_space(nodes: &[NodeSpaces], replicas: u64) -> ClusterSpace {
    let mut disks = BTreeMap::new();
    let (mut reusable, mut used) = (0u64, 0u64);
    for node in nodes {
        for TargetFill { space, .. } in &node.targets {
            // Each target keeps a part of the free space back for itself: the least is sure.
            let free = disks.entry((node.node, file_system(space))).or_insert(space.disk_free);
            *free = space.disk_free.min(*free);
            reusable = reusable.saturating_add(space.reusable);
            used = used.saturating_add(space.used);
        }
    }
    let free = disks.values().fold(reusable, |sum, free| sum.saturating_add(*free));
    let replicas = replicas.max(1);
    ClusterSpace { capacity: free.saturating_add(used) / replicas, free: free / replicas }
}

/// What tells the file systems of one node apart.
fn file_system(space: &TargetSpace) -> u64 {
    match space.file_system {
        0 => u64::from(space.disk), // not known: each data folder counts as one
        id => id,
    }
}

impl NodeAgent {
    /// Asks the targets of this process how full they are, for ever.
    pub(super) async fn look_at_targets(me: &Me<Self>, cx: &Cx) {
        loop {
            let targets = me.with(|a| a.core.numbered());
            let limit = cx.within(ANSWER_MAX);
            let asked = targets.into_iter().map(async |(target, addr)| {
                // A target that does not answer has no space to offer now.
                let space = limit.ask(addr, GetSpace).await.ok()?.ok()?;
                Some(TargetFill { target, space })
            });
            let spaces: Vec<TargetFill> = join_all(asked).await.into_iter().flatten().collect();
            me.with(|a| {
                let first = a.core.spaces.is_empty() && !spaces.is_empty();
                a.core.spaces = spaces;
                if first {
                    a.hurry.fill(()); // a mount that has just come up shows space
                }
            });
            let attached = me.with(|a| a.attached.clone());
            let _ = t3fs_runtime::slot::before(cx.sleep(LOOK_EVERY), attached).await;
            me.with(|a| a.attached = t3fs_runtime::Slot::new());
        }
    }
}

impl Handle<GetSpaces> for NodeAgent {
    /// `None`: the primary has never answered.
    async fn handle(me: &Me<Self>, m: GetSpaces, cx: &Cx) -> Option<Vec<NodeSpaces>> {
        let fresh = |known: &KnownSpaces| {
            let (at, spaces) = known.0.as_ref()?;
            (cx.now().since(*at) < KNOWN_LIFE).then(|| spaces.clone())
        };
        if let Some(spaces) = me.with(|a| fresh(&a.known)) {
            return Some(spaces);
        }
        if let Ok(spaces) = Self::pass_on(me, &cx.within(ANSWER_MAX), m).await {
            me.with(|a| a.known.0 = Some((cx.now(), spaces)));
        }
        me.with(|a| a.known.0.as_ref().map(|(_, spaces)| spaces.clone()))
    }
}

#[cfg(test)]
mod tests {
    use t3fs_runtime::NodeId;

    use super::*;
    use crate::proto::ids::TargetId;

    const GIB: u64 = 1 << 30;

    fn fill(target: u32, disk: u16, free: u64, used: u64, reusable: u64) -> TargetFill {
        let space = TargetSpace {
            disk,
            disk_capacity: 100 * GIB,
            disk_free: free,
            used,
            reusable,
            ..TargetSpace::default()
        };
        TargetFill { target: TargetId(target), space }
    }

    fn node(node: u32, targets: Vec<TargetFill>) -> NodeSpaces {
        NodeSpaces { node: NodeId(node), targets }
    }

    /// Goal: targets on one file system share it; the same number on two nodes is two file systems;
    /// what strangers keep on a disk is neither capacity nor used.
    #[test]
    fn each_file_system_counts_once() {
        let nodes = [
            node(1, vec![fill(1, 0, 50 * GIB, 6 * GIB, GIB), fill(2, 0, 49 * GIB, 4 * GIB, GIB)]),
            node(2, vec![fill(3, 0, 20 * GIB, 10 * GIB, 0), fill(4, 1, 30 * GIB, 0, 0)]),
        ];
        let free = 49 + 20 + 30 + 2;
        let once = ClusterSpace { capacity: (free + 20) * GIB, free: free * GIB };
        assert_eq!(cluster_space(&nodes, 1), once);
        let twice = cluster_space(&nodes, 2);
        assert_eq!((twice.capacity, twice.free), (once.capacity / 2, once.free / 2));
        assert_eq!(twice.capacity - twice.free, 10 * GIB, "used is what is stored");
    }

    #[test]
    fn nobody_has_nothing() {
        assert_eq!(cluster_space(&[], 0), ClusterSpace::default());
        let full = node(1, vec![fill(1, 0, 0, u64::MAX, u64::MAX)]);
        assert_eq!(cluster_space(&[full], 1).capacity, u64::MAX);
    }
}
