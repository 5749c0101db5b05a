//! What the servers of a cluster are, in the words of people: for lines about one of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use t3fs_actors::proto::mgmtd::{Role as ServerRole, Routing};
use t3fs_runtime::NodeId;

use crate::config::roles;

/// What servers are, for people. Shared with the one who hears of the routing.
#[derive(Clone, Default)]
pub(super) struct RoleNames(Arc<Mutex<BTreeMap<NodeId, String>>>);

impl RoleNames {
    pub(super) fn learn(&self, routing: &Routing) {
        let names = |roles: &[ServerRole]| {
            roles.iter().map(|role| roles::name_of(*role)).collect::<Vec<_>>().join(",")
        };
        let mut all = self.0.lock().expect("no panic while held");
        all.extend(routing.nodes.iter().map(|n| (n.node, names(&n.roles))));
    }

    pub(super) fn note(&self, node: NodeId, role: &str) {
        self.0.lock().expect("no panic while held").insert(node, role.to_owned());
    }

    pub(super) fn of(&self, node: NodeId) -> String {
        let all = self.0.lock().expect("no panic while held");
        all.get(&node).filter(|n| !n.is_empty()).cloned().unwrap_or_else(|| "a server".into())
    }
}
