//! `t3fs-node make-chains`: gives storage nodes that have room for targets their chains.
//!
//! Every chain has its replicas on different nodes; nodes get targets in proportion to their disks,
//! and are heads equally often. Nothing that exists is changed: called again after nodes or disks
//! were added, it makes chains over what they have room for.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use t3fs_actors::proto::agent::GetView;
use t3fs_actors::proto::ids::{ChainId, TargetId, ViewVersion};
use t3fs_actors::proto::mgmtd::{
    CreateChains, ListNodes, NodeLine, NodeStatus, Role as Part, Routing,
};
use t3fs_runtime::NodeId;

use crate::cli::MakeChainsArgs;
use crate::config::{self, Settings};
use crate::fabric::FabricPlan;
use crate::failure::{Failure, failed, refused};
use crate::logging::{self, tell};
use crate::node::{DISKS_TAG, Node};
use crate::run::visitor;
use crate::service::END_MAX;

/// How long mgmtd may take to be found, and the nodes to register.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// From then on it is said what is waited for.
const SAY_AFTER: Duration = Duration::from_secs(2);

/// A chain to be made: head first.
pub type NewChain = (ChainId, Vec<(TargetId, NodeId)>);

pub fn run(args: &MakeChainsArgs) -> Result<(), Failure> {
    let (settings, tunables) = config::load(args.settings.flags()?)?;
    if settings.cluster.is_empty() {
        return Err(refused("cluster is not set; say --cluster TCP://HOST:PORT"));
    }
    let log = tunables.log.clone();
    let fabric = FabricPlan::find(&settings)?;
    let visitor = visitor(&settings, tunables, "make-chains", fabric)?;
    logging::to_stderr(log.as_deref(), "warn")?;
    logging::abort_on_panic();
    let node = Node::start(visitor, &|| Ok(()))?;
    let made = make(&node, &settings, args.nodes);
    let until = Instant::now() + END_MAX;
    made.and(node.stop(&mut || until))
}

fn make(node: &Node, settings: &Settings, nodes_min: usize) -> Result<(), Failure> {
    let nodes = registered(node, nodes_min)?;
    let view = node.ask_agent(GetView { have: ViewVersion(0), fresh: true })?;
    let routing = view.ok_or_else(|| failed("mgmtd did not answer"))?.routing;
    let replicas = replicas(settings, &routing)?;
    if nodes.len() < replicas {
        return Err(refused(format!(
            "{replicas} replicas need {replicas} storage nodes, and {} have registered",
            nodes.len()
        )));
    }
    let per_disk = usize::from(settings.targets_per_disk);
    let rooms = nodes.iter().map(|n| room(n, per_disk, &routing)).collect();
    let new = plan(rooms, replicas, &routing);
    if new.is_empty() {
        tell(&format!("there is no room for more: {} chains", routing.chains.len()));
        return Ok(());
    }
    let count = new.len();
    let made = node.ask_agent(CreateChains { chains: new })?;
    made.map_err(|e| failed(format!("the chains were not made: {e}")))?;
    tell(&format!(
        "made {count} chains of {replicas} over {} storage nodes; the cluster has {}",
        nodes.len(),
        routing.chains.len() + count
    ));
    Ok(())
}

/// Storage nodes that live, once there are enough.
fn registered(node: &Node, nodes_min: usize) -> Result<Vec<NodeLine>, Failure> {
    let began = Instant::now();
    let mut said = String::new();
    loop {
        let answer = match node.ask_agent(ListNodes)? {
            Ok(all) => {
                let stores = all.into_iter().filter(|n| {
                    n.info.roles.contains(&Part::Storage) && n.info.status == NodeStatus::Alive
                });
                let stores: Vec<NodeLine> = stores.collect();
                if stores.len() >= nodes_min.max(1) {
                    return Ok(stores);
                }
                format!("{} of {} storage nodes have registered", stores.len(), nodes_min.max(1))
            }
            Err(e) => e.to_string(),
        };
        if began.elapsed() > PATIENCE {
            let hint = node.trouble();
            return Err(failed(format!("after {} s: {answer}{hint}", PATIENCE.as_secs())));
        }
        // Whoever is just about to register needs no line.
        if began.elapsed() > SAY_AFTER && said != answer {
            tell(&format!("waiting: {answer}"));
            said = answer;
        }
        std::thread::sleep(LOOK);
    }
}

/// All chains of a table have the same number of replicas.
fn replicas(settings: &Settings, routing: &Routing) -> Result<usize, Failure> {
    let wanted = settings.replicas.map(usize::from);
    match (wanted, routing.chains.first().map(|c| c.targets.len())) {
        (Some(wanted), Some(have)) if wanted != have => Err(refused(format!(
            "the cluster's chains have {have} replicas and {wanted} were asked for; leave \
             --replicas out"
        ))),
        (_, Some(have)) => Ok(have),
        (Some(wanted), None) => Ok(wanted),
        (None, None) => Err(refused("say with --replicas how many copies of everything to keep")),
    }
}

/// A node with how many targets it can still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    node: NodeId,
    free: usize,
    /// Chains that it is the head of.
    heads: usize,
}

fn room(node: &NodeLine, per_disk: usize, routing: &Routing) -> Room {
    let id = node.info.node;
    let disks = node.info.tags.iter().find(|(name, _)| name == DISKS_TAG);
    let disks = disks.and_then(|(_, n)| n.parse::<usize>().ok()).unwrap_or(1);
    let targets = routing.chains.iter().flat_map(|c| &c.targets).filter(|t| t.node == id).count();
    let heads = routing.chains.iter().filter(|c| c.targets.first().is_some_and(|t| t.node == id));
    Room { node: id, free: (disks * per_disk).saturating_sub(targets), heads: heads.count() }
}

/// Chains until fewer than `replicas` nodes have room. Each takes the nodes with the most; among
/// those, the ones that were together least often, so that load that one node leaves is shared by
/// many.
fn plan(mut rooms: Vec<Room>, replicas: usize, routing: &Routing) -> Vec<NewChain> {
    assert!(replicas > 0, "checked before");
    // How often a pair of nodes is in one chain.
    let mut together: BTreeMap<(NodeId, NodeId), usize> = BTreeMap::new();
    let mut chains: Vec<Vec<NodeId>> = Vec::new();
    'chains: loop {
        let mut chosen: Vec<NodeId> = Vec::with_capacity(replicas);
        for _ in 0..replicas {
            let met = |r: &Room| -> usize {
                chosen.iter().filter_map(|c| together.get(&(*c, r.node))).sum()
            };
            let open = rooms.iter().filter(|r| r.free > 0 && !chosen.contains(&r.node));
            match open.min_by_key(|r| (usize::MAX - r.free, met(r), r.node)) {
                Some(best) => chosen.push(best.node),
                None => break 'chains,
            }
        }
        for node in &chosen {
            let room = rooms.iter_mut().find(|r| r.node == *node).expect("it was chosen");
            room.free -= 1;
            for other in chosen.iter().filter(|o| *o != node) {
                *together.entry((*node, *other)).or_default() += 1;
            }
        }
        chosen.sort();
        chains.push(chosen);
    }
    let heads = rooms.iter().map(|r| (r.node, r.heads)).collect();
    even_heads(&mut chains, heads);
    numbered(chains, routing)
}

/// Rotates chains until no node is head of two more than another that could relieve it.
fn even_heads(chains: &mut [Vec<NodeId>], mut heads: BTreeMap<NodeId, usize>) {
    for chain in chains.iter() {
        *heads.entry(chain[0]).or_default() += 1;
    }
    let mut busiest: Vec<NodeId> = heads.keys().copied().collect();
    loop {
        busiest.sort_by_key(|n| (usize::MAX - heads[n], *n));
        let relieved = busiest.iter().find_map(|from| relief(chains, &heads, *from));
        let Some(path) = relieved else { return };
        let from = chains[path[0].0][0];
        let mut to = from;
        for (chain, next) in path {
            let place = chains[chain].iter().position(|n| *n == next).expect("a member");
            chains[chain].rotate_left(place);
            to = next;
        }
        *heads.get_mut(&from).expect("a node") -= 1;
        *heads.get_mut(&to).expect("a node") += 1;
    }
}

/// The shortest way (breadth first) to hand on a lead of `from`: chains with their next heads, the
/// last of which has at least two fewer than `from`.
fn relief(
    chains: &[Vec<NodeId>],
    heads: &BTreeMap<NodeId, usize>,
    from: NodeId,
) -> Option<Vec<(usize, NodeId)>> {
    let mut came: BTreeMap<NodeId, (usize, NodeId)> = BTreeMap::new();
    let mut todo = VecDeque::from([from]);
    while let Some(node) = todo.pop_front() {
        if heads[&node] + 2 <= heads[&from] {
            let (mut path, mut at) = (Vec::new(), node);
            while at != from {
                let (chain, before) = came[&at];
                path.push((chain, at));
                at = before;
            }
            path.reverse();
            return Some(path);
        }
        for (i, chain) in chains.iter().enumerate().filter(|(_, c)| c[0] == node) {
            for next in chain.iter().filter(|n| **n != from) {
                came.entry(*next).or_insert_with(|| {
                    todo.push_back(*next);
                    (i, node)
                });
            }
        }
    }
    None
}

/// Ids that no chain or target has had.
fn numbered(chains: Vec<Vec<NodeId>>, routing: &Routing) -> Vec<NewChain> {
    let used = routing.chains.iter().flat_map(|c| &c.targets).map(|t| t.target.0);
    let targets = (1 + used.max().unwrap_or(0)..).map(TargetId);
    let ids = (1 + routing.chains.iter().map(|c| c.id.0).max().unwrap_or(0)..).map(ChainId);
    let mut targets = targets;
    let number = |(id, nodes): (ChainId, Vec<NodeId>)| {
        (id, nodes.into_iter().map(|n| (targets.next().expect("endless"), n)).collect())
    };
    ids.zip(chains).map(number).collect()
}

#[cfg(test)]
mod tests {
    //! Goal: replicas on different nodes, load in proportion, heads even. Method: all small shapes.
    use super::*;

    fn rooms(free: &[usize]) -> Vec<Room> {
        let room =
            |(i, free): (usize, &usize)| Room { node: NodeId(i as u32 + 1), free: *free, heads: 0 };
        free.iter().enumerate().map(room).collect()
    }

    fn count(chains: &[NewChain], which: impl Fn(&NewChain, NodeId) -> usize) -> Vec<usize> {
        (1..=5).map(|n| chains.iter().map(|c| which(c, NodeId(n))).sum()).collect()
    }

    #[test]
    fn equal_nodes_carry_the_same() {
        for nodes in 1..=5usize {
            for replicas in 1..=nodes.min(3) {
                for per_node in 1..=6 {
                    let free = vec![per_node * replicas; nodes];
                    let chains = plan(rooms(&free), replicas, &Routing::default());
                    assert_eq!(chains.len(), nodes * per_node, "{nodes} {replicas} {per_node}");
                    let has = |c: &NewChain, n| c.1.iter().filter(|t| t.1 == n).count();
                    assert!(chains.iter().all(|c| (1..=5).all(|n| has(c, NodeId(n)) <= 1)));
                    let heads = count(&chains, |c, n| usize::from(c.1[0].1 == n));
                    let heads = &heads[..nodes];
                    let spread = heads.iter().max().unwrap() - heads.iter().min().unwrap();
                    assert!(spread <= 1, "{nodes} {replicas} {per_node}: {heads:?}");
                }
            }
        }
    }

    #[test]
    fn a_large_node_gets_more_and_ids_go_on() {
        let chains = plan(rooms(&[4, 2, 2]), 2, &Routing::default());
        assert_eq!(chains.len(), 4);
        let targets: Vec<u32> = chains.iter().flat_map(|c| &c.1).map(|t| t.0.0).collect();
        assert_eq!(targets, (1..=8).collect::<Vec<_>>());
        assert!(chains.iter().all(|c| c.1.iter().any(|t| t.1 == NodeId(1))));
        // No room for a second replica: no chain.
        assert_eq!(plan(rooms(&[4]), 2, &Routing::default()), []);
    }
}
