//! What changes in the cluster, as lines of the log: processes that are mgmtds say who died, who
//! came back, and which replicas serve.

use std::cell::RefCell;

use t3fs_actors::proto::mgmtd::{ClusterView, NodeStatus, Routing};

/// Compares each view with the one before.
#[derive(Default)]
pub(super) struct News(RefCell<Option<ClusterView>>);

impl News {
    pub(super) fn tell(&self, view: &ClusterView) {
        let before = self.0.replace(Some(view.clone()));
        let Some(before) = before else { return };
        for line in differences(&before, view) {
            match line {
                Line::Bad(text) => tracing::warn!("{text}"),
                Line::Good(text) => tracing::info!("{text}"),
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Bad(String),
    Good(String),
}

fn differences(before: &ClusterView, now: &ClusterView) -> Vec<Line> {
    let mut lines = of_routing(&before.routing, &now.routing);
    let gone = before.sessions.alive.iter().filter(|s| !now.sessions.is_alive(**s));
    lines.extend(gone.map(|s| Line::Good(format!("session {s} of a client has ended"))));
    lines
}

fn of_routing(before: &Routing, now: &Routing) -> Vec<Line> {
    let mut lines = Vec::new();
    if core::ptr::eq(before, now) {
        return lines;
    }
    for node in &now.nodes {
        let id = node.node.0;
        match (before.node(node.node).map(|n| n.status), node.status) {
            (Some(NodeStatus::Dead) | None, NodeStatus::Alive) => {
                lines.push(Line::Good(format!("node {id} is here")));
            }
            (Some(NodeStatus::Alive), NodeStatus::Dead) => {
                lines.push(Line::Bad(format!("node {id} is dead: it was not heard of")));
            }
            _ => {}
        }
    }
    for chain in &now.chains {
        let Some(old) = before.chain(chain.id) else {
            lines.push(Line::Good(format!("chain {} is new", chain.id)));
            continue;
        };
        for t in &chain.targets {
            let was = old.targets.iter().find(|o| o.target == t.target).map(|o| o.state);
            if let Some(was) = was.filter(|was| *was != t.state) {
                lines.push(Line::Good(format!(
                    "chain {} version {}: target {} on node {} was {was:?}, is {:?}",
                    chain.id, chain.version, t.target, t.node.0, t.state
                )));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use t3fs_actors::proto::ids::{ChainId, ChainVersion, SessionId, TargetId};
    use t3fs_actors::proto::mgmtd::{Chain, ChainTarget, Sessions, TargetState};
    use t3fs_runtime::NodeId;

    #[test]
    fn only_what_changed_is_told() {
        let target = |state| ChainTarget {
            target: TargetId(2),
            node: NodeId(3),
            addr: None,
            state,
            made: true,
        };
        let chain = |v, state| Chain {
            id: ChainId(1),
            version: ChainVersion(v),
            targets: vec![target(state)],
        };
        let view = |version, state, alive: &[u64]| ClusterView {
            routing: Arc::new(Routing {
                chains: vec![chain(version, state)],
                ..Routing::default()
            }),
            sessions: Arc::new(Sessions {
                alive: alive.iter().copied().map(SessionId).collect(),
                max: SessionId(5),
            }),
            ..ClusterView::default()
        };
        let before = view(1, TargetState::Serving, &[4, 5]);
        assert_eq!(differences(&before, &before), []);
        let now = view(2, TargetState::LastServing, &[5]);
        let told = differences(&before, &now);
        let [Line::Good(chain), Line::Good(session)] = &told[..] else { panic!("{told:?}") };
        assert_eq!(chain, "chain 1 version 2: target 2 on node 3 was Serving, is LastServing");
        assert_eq!(session, "session 4 of a client has ended");
    }
}
