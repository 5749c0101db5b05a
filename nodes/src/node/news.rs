//! What changes in the cluster, as lines of the log: processes that are mgmtds say who died, who
//! came back, and which replicas serve.

use std::cell::RefCell;

use t3fs_actors::proto::mgmtd::{NodeStatus, Routing};

/// Compares each routing with the one before.
#[derive(Default)]
pub(super) struct News(RefCell<Option<Routing>>);

impl News {
    pub(super) fn tell(&self, routing: &Routing) {
        let before = self.0.replace(Some(routing.clone()));
        let Some(before) = before else { return };
        for line in differences(&before, routing) {
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

fn differences(before: &Routing, now: &Routing) -> Vec<Line> {
    let mut lines = Vec::new();
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
    for session in before.sessions.iter().filter(|s| now.sessions.binary_search(s).is_err()) {
        lines.push(Line::Good(format!("session {session} of a client has ended")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use t3fs_actors::proto::ids::{ChainId, ChainVersion, SessionId, TargetId};
    use t3fs_actors::proto::mgmtd::{Chain, ChainTarget, TargetState};
    use t3fs_runtime::NodeId;

    #[test]
    fn only_what_changed_is_told() {
        let target =
            |state| ChainTarget { target: TargetId(2), node: NodeId(3), addr: None, state };
        let chain = |v, state| Chain {
            id: ChainId(1),
            version: ChainVersion(v),
            targets: vec![target(state)],
        };
        let before = Routing {
            chains: vec![chain(1, TargetState::Serving)],
            sessions: vec![SessionId(4), SessionId(5)],
            ..Routing::default()
        };
        assert_eq!(differences(&before, &before), []);
        let now = Routing {
            chains: vec![chain(2, TargetState::LastServing)],
            sessions: vec![SessionId(5)],
            ..Routing::default()
        };
        let told = differences(&before, &now);
        let [Line::Good(chain), Line::Good(session)] = &told[..] else { panic!("{told:?}") };
        assert_eq!(chain, "chain 1 version 2: target 2 on node 3 was Serving, is LastServing");
        assert_eq!(session, "session 4 of a client has ended");
    }
}
