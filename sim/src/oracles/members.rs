//! What must hold of primaries, leases and routings at every instant, as their actors report them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use t3fs_actors::agent;
use t3fs_actors::mgmtd;
use t3fs_actors::proto::ids::{TargetId, ViewVersion};
use t3fs_actors::proto::mgmtd::{Chain, ClusterView, NodeStatus, Routing, TargetState};
use t3fs_runtime::{NodeId, Time};

use crate::world::Sim;
use crate::world::undrifted;

/// Collects, and keeps the first thing that is wrong.
pub struct Members {
    sim: Sim,
    /// Clock rates, by node number less one.
    drift_ppm: RefCell<Vec<i64>>,
    state: RefCell<State>,
    storming: Cell<bool>,
    wrong: RefCell<Option<String>>,
}

#[derive(Default)]
struct State {
    /// Until when each mgmtd may act, in true time.
    acts: BTreeMap<NodeId, (u64, u64)>,
    /// The version that each term began with.
    terms: BTreeMap<u64, ViewVersion>,
    /// Every view that anyone has seen.
    contents: BTreeMap<ViewVersion, ClusterView>,
    /// What each agent has.
    agents: BTreeMap<NodeId, ViewVersion>,
    /// Until when each target may serve, in true time.
    leases: BTreeMap<(NodeId, TargetId), u64>,
    /// Targets that have stopped serving and said so.
    stopped: BTreeMap<(NodeId, TargetId), bool>,
}

impl Members {
    pub fn new(sim: &Sim) -> Members {
        Members {
            sim: sim.clone(),
            drift_ppm: RefCell::default(),
            state: RefCell::default(),
            storming: Cell::new(false),
            wrong: RefCell::default(),
        }
    }

    /// The next node's clock runs so much fast.
    pub fn expect(&self, drift_ppm: i64) {
        self.drift_ppm.borrow_mut().push(drift_ppm);
    }

    /// A process starts: whatever its earlier run believed is gone.
    pub fn booted(&self, node: NodeId) {
        let mut s = self.state.borrow_mut();
        s.acts.remove(&node);
        s.agents.remove(&node);
        s.leases.retain(|(n, _), _| *n != node);
        s.stopped.retain(|(n, _), _| *n != node);
    }

    pub fn storm(&self, on: bool) {
        self.storming.set(on);
    }

    pub fn storming(&self) -> bool {
        self.storming.get()
    }

    pub fn wrong(&self) -> Option<String> {
        self.wrong.borrow().clone()
    }

    fn fail(&self, why: String) {
        let at = self.sim.now_us();
        self.wrong.borrow_mut().get_or_insert_with(|| format!("at {at} us: {why}"));
    }

    fn true_us(&self, node: NodeId, local: Time) -> u64 {
        let ppm = self.drift_ppm.borrow()[node.0 as usize - 1];
        undrifted(local.us(), ppm)
    }

    /// A target has stopped serving before it says so, or serves (again).
    pub fn stopped(&self, node: NodeId, target: TargetId, stopped: bool) {
        self.state.borrow_mut().stopped.insert((node, target), stopped);
    }

    pub fn agent(&self, node: NodeId, seen: &agent::AgentEvent<'_>) {
        match seen {
            agent::AgentEvent::View(view) => {
                let had = self.state.borrow_mut().agents.insert(node, view.version);
                if had.is_some_and(|v| v >= view.version) {
                    self.fail(format!("agent {} went back to version {}", node.0, view.version));
                }
                self.content(&format!("agent {}", node.0), view);
            }
            agent::AgentEvent::Lease { targets, until } => {
                let until = self.true_us(node, *until);
                let mut s = self.state.borrow_mut();
                s.leases.extend(targets.iter().map(|t| ((node, *t), until)));
            }
            agent::AgentEvent::Heartbeat(_) => {}
        }
    }

    pub fn mgmtd(&self, node: NodeId, seen: &mgmtd::MgmtdEvent<'_>) {
        match seen {
            mgmtd::MgmtdEvent::Acts { term, until } => self.acts(node, *term, *until),
            mgmtd::MgmtdEvent::Leads { term, view } => {
                self.sim.note(&[40, *term], format_args!("n{} leads term {term}", node.0));
                self.content(&format!("primary of term {term}"), view);
                self.state.borrow_mut().terms.insert(*term, view.version);
            }
            mgmtd::MgmtdEvent::Decided { before, after, .. } => {
                self.served_out(&before.routing, &after.routing)
            }
            mgmtd::MgmtdEvent::Changed { term, before, after } => {
                self.sim.note(
                    &[41, *term, after.version.0],
                    format_args!("n{} stored {}: {}", node.0, after.version, short(after)),
                );
                let later: Vec<(u64, ViewVersion)> = {
                    let s = self.state.borrow();
                    s.terms.range(term + 1..).map(|(t, v)| (*t, *v)).collect()
                };
                let is_last = later.is_empty();
                for (t, v) in later.into_iter().filter(|(_, v)| after.version > *v) {
                    self.fail(format!(
                        "term {term} stored version {} after term {t} began with {v}",
                        after.version
                    ));
                }
                self.content(&format!("change of term {term}"), after);
                if is_last {
                    self.served_out(&before.routing, &after.routing);
                } // Else it was stored long ago, and a later primary has given leases since.
                for c in &after.routing.chains {
                    if let Err(why) = followed(before.routing.chain(c.id), c) {
                        self.fail(format!("chain {}: {why}", c.id));
                    }
                }
            }
        }
    }

    fn acts(&self, node: NodeId, term: u64, until: Time) {
        let now = self.sim.now_us();
        let until = self.true_us(node, until);
        let mut s = self.state.borrow_mut();
        s.acts.insert(node, (term, until));
        let up = |n: NodeId| self.sim.is_up(n);
        let other = s.acts.iter().find(|(n, (_, u))| **n != node && *u > now && up(**n));
        if until > now
            && let Some((n, (t, u))) = other
        {
            self.fail(format!(
                "node {} acts in term {term} until {until}, node {} in term {t} until {u}",
                node.0, n.0
            ));
        }
    }

    /// A version means the same to everyone.
    fn content(&self, who: &str, view: &ClusterView) {
        let mut s = self.state.borrow_mut();
        let known = s.contents.entry(view.version).or_insert_with(|| view.clone());
        if known != view {
            let version = view.version;
            self.fail(format!("{who} has another view {version}:\n{view:?}\nbut\n{known:?}"));
        }
    }

    /// A target that is taken out of service has stopped serving before.
    fn served_out(&self, before: &Routing, after: &Routing) {
        let now = self.sim.now_us();
        let s = self.state.borrow();
        for c in &before.chains {
            for t in c.targets.iter().filter(|t| t.state == TargetState::Serving) {
                let still = after.chain(c.id).is_some_and(|a| serves(a, t.target));
                let key = (t.node, t.target);
                let stopped = s.stopped.get(&key).copied().unwrap_or(false);
                let until = s.leases.get(&key).copied().unwrap_or(0);
                if !still && !stopped && until > now && self.sim.is_up(t.node) {
                    self.fail(format!(
                        "target {} leaves service, and may serve until {until}",
                        t.target
                    ));
                }
            }
        }
    }

    /// A target that may not serve now although it would, and is up.
    pub fn lapsed(&self) -> Option<String> {
        let now = self.sim.now_us();
        let s = self.state.borrow();
        let stopped = |key| s.stopped.get(key).copied().unwrap_or(false);
        let mut over = s.leases.iter().filter(|(_, until)| **until <= now);
        let lapsed = over.find(|(key, _)| self.sim.is_up(key.0) && !stopped(key));
        lapsed.map(|((node, t), until)| {
            format!("at {now} us: target {t} on node {} might serve until {until} only", node.0)
        })
    }

    /// The newest view that anyone has seen.
    pub fn newest(&self) -> ClusterView {
        self.state.borrow().contents.last_key_value().map(|(_, v)| v.clone()).unwrap_or_default()
    }

    /// Nodes whose agent has not this version.
    pub fn agents_behind(&self, version: ViewVersion) -> Vec<u32> {
        let s = self.state.borrow();
        s.agents.iter().filter(|(_, v)| **v != version).map(|(n, _)| n.0).collect()
    }

    /// The newest term that somebody led.
    pub fn term(&self) -> u64 {
        self.state.borrow().terms.last_key_value().map_or(0, |(t, _)| *t)
    }

    /// The mgmtd that may act now.
    pub fn acting(&self) -> Option<NodeId> {
        let now = self.sim.now_us();
        let s = self.state.borrow();
        let acts = |(n, (_, until)): &(&NodeId, &(u64, u64))| *until > now && self.sim.is_up(**n);
        s.acts.iter().find(acts).map(|(n, _)| *n)
    }
}

fn serves(c: &Chain, t: TargetId) -> bool {
    c.targets.iter().any(|x| x.target == t && x.state == TargetState::Serving)
}

/// Whether a chain may become this, whatever was heard in between.
fn followed(before: Option<&Chain>, after: &Chain) -> Result<(), String> {
    use TargetState::{LastServing, Offline, Serving, Syncing, Waiting};
    let count = |s| after.targets.iter().filter(|t| t.state == s).count();
    if count(Serving) == 0 && count(LastServing) != 1 {
        return Err(format!("nobody serves or is waited for: {after:?}"));
    }
    if count(Serving) > 0 && count(LastServing) > 0 || count(Syncing) > 1 {
        return Err(format!("impossible states: {after:?}"));
    }
    if count(Syncing) > 0 && count(Serving) == 0 {
        return Err(format!("it syncs from nobody: {after:?}"));
    }
    let Some(before) = before else { return Ok(()) };
    let shape = |c: &Chain| c.targets.iter().map(|t| (t.target, t.state)).collect::<Vec<_>>();
    let changed = shape(before) != shape(after);
    if after.version.0 != before.version.0 + u32::from(changed) {
        return Err(format!("wrong version: {before:?} became {after:?}"));
    }
    for t in &after.targets {
        let was = before.targets.iter().find(|b| b.target == t.target);
        let was = was.ok_or_else(|| format!("target {} is new", t.target))?.state;
        let may: &[TargetState] = match was {
            Serving => &[Serving, LastServing, Offline],
            LastServing => &[Serving, LastServing, Offline],
            Syncing => &[Serving, Syncing, Waiting, Offline],
            Waiting | Offline => &[Syncing, Waiting, Offline],
        };
        if !may.contains(&t.state) {
            return Err(format!("target {} was {was:?}: {before:?} became {after:?}", t.target));
        }
    }
    if before.targets.len() != after.targets.len() {
        return Err(format!("a target is lost: {before:?} became {after:?}"));
    }
    Ok(())
}

fn short(view: &ClusterView) -> String {
    let r = &view.routing;
    let state = |s| match s {
        TargetState::Serving => 'S',
        TargetState::Syncing => 'Y',
        TargetState::Waiting => 'W',
        TargetState::LastServing => 'L',
        TargetState::Offline => 'O',
    };
    let chain = |c: &Chain| {
        let all: String = c
            .targets
            .iter()
            .map(|t| {
                format!(
                    "{}{}{}",
                    state(t.state),
                    t.target,
                    [".", ""][usize::from(t.addr.is_some())]
                )
            })
            .collect();
        format!("{}v{} {all}", c.id, c.version)
    };
    let chains: Vec<String> = r.chains.iter().map(chain).collect();
    let dead: Vec<u32> =
        r.nodes.iter().filter(|n| n.status == NodeStatus::Dead).map(|n| n.node.0).collect();
    format!("{} dead {dead:?} sessions {:?}", chains.join(" "), view.sessions.alive)
}
