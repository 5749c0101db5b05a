//! Where a target is allowed to begin empty.
//!
//! A target that its node has had before (`ChainTarget::made`, which mgmtd stores together with its
//! first address) and whose data is gone is not a new one: what it had acknowledged may be nowhere
//! else. It comes back only as a fresh member of a chain that others serve, and is brought up to
//! date before it serves.

use crate::proto::mgmtd::{Chain, ChainTarget, TargetState};

/// What may become of a target of which there is no data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Birth {
    /// It is new.
    New,
    /// Others serve its chain, and give it all there is.
    Again,
    /// The chain has not settled; a later view says more.
    NotYet,
    /// It has the latest data, or had it.
    Never,
}

pub fn birth(chain: &Chain, t: &ChainTarget) -> Birth {
    if !t.made {
        return Birth::New;
    }
    let serves = |o: &ChainTarget| o.target != t.target && o.state == TargetState::Serving;
    match t.state {
        TargetState::LastServing => Birth::Never,
        // mgmtd has not heard yet that it is not there, and may be storing that its earlier run
        // is up to date.
        TargetState::Serving | TargetState::Syncing => Birth::NotYet,
        TargetState::Offline | TargetState::Waiting => match chain.targets.iter().any(serves) {
            true => Birth::Again,
            false => Birth::NotYet,
        },
    }
}

#[cfg(test)]
mod tests {
    use t3fs_runtime::NodeId;

    use super::TargetState::*;
    use super::*;
    use crate::proto::ids::{ChainId, ChainVersion, TargetId};

    /// Goal: only what nobody can miss begins empty. Regression (a newcomer): a server that came
    /// with a new state folder had made nothing as far as it knew, and made its targets anew, the
    /// last serving one too: what others still had was removed for it.
    #[test]
    fn who_may_begin_empty() {
        let told = |made, mine, other| {
            let target = |n: u32, state, made| ChainTarget {
                target: TargetId(n),
                node: NodeId(n),
                addr: None,
                state,
                made,
            };
            let targets = vec![target(1, mine, made), target(2, other, true)];
            let chain = Chain { id: ChainId(1), version: ChainVersion(1), targets };
            birth(&chain, &chain.targets[0])
        };
        for state in [Serving, Syncing, Waiting, LastServing, Offline] {
            assert_eq!(told(false, state, Serving), Birth::New);
        }
        assert_eq!(told(true, LastServing, Offline), Birth::Never);
        assert_eq!(told(true, Serving, Serving), Birth::NotYet);
        assert_eq!(told(true, Serving, Offline), Birth::NotYet);
        // Regression (check `members`, seed 2751): its earlier run had said that it is up to date;
        // that was stored when the empty one had begun, which served then.
        assert_eq!(told(true, Syncing, Serving), Birth::NotYet);
        for state in [Waiting, Offline] {
            assert_eq!(told(true, state, Serving), Birth::Again);
            assert_eq!(told(true, state, LastServing), Birth::NotYet);
        }
    }
}
