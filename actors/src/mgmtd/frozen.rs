//! What rows of mgmtd's say of targets and nodes, frozen: messages may change, rows may not.

use rkyv::{Archive, Deserialize, Serialize};

use crate::proto::mgmtd::{NodeStatus, Role, TargetState};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub(super) enum TargetStateV1 {
    Serving,
    Syncing,
    Waiting,
    LastServing,
    Offline,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub(super) enum RoleV1 {
    Mgmtd,
    Kv,
    Meta,
    Storage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub(super) enum NodeStatusV1 {
    Alive,
    Dead,
}

/// Both ways between a frozen enum and the one that messages have.
macro_rules! both_ways {
    ($frozen:ident, $live:ident: $($variant:ident)*) => {
        impl From<$live> for $frozen {
            fn from(live: $live) -> $frozen {
                match live {
                    $($live::$variant => $frozen::$variant),*
                }
            }
        }

        impl From<$frozen> for $live {
            fn from(frozen: $frozen) -> $live {
                match frozen {
                    $($frozen::$variant => $live::$variant),*
                }
            }
        }
    };
}

both_ways!(TargetStateV1, TargetState: Serving Syncing Waiting LastServing Offline);
both_ways!(RoleV1, Role: Mgmtd Kv Meta Storage);
both_ways!(NodeStatusV1, NodeStatus: Alive Dead);

#[cfg(test)]
mod golden {
    use super::*;

    t3fs_runtime::samples! { "/src/mgmtd/golden/frozen.txt":
        enum TargetStateV1 { Serving, Syncing, Waiting, LastServing, Offline }
        enum RoleV1 { Mgmtd, Kv, Meta, Storage }
        enum NodeStatusV1 { Alive, Dead }
    }
}
