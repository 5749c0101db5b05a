//! The cluster manager: keeps who is in the cluster and hands out routing.
//!
//! What must survive (chains, chain tables, sessions, the routing version) is in the KV, written
//! before it is told to anyone; addresses are what nodes report, and are gone with this process.
//! `core` decides, synchronously; `store` is the stored form.

mod core;
mod store;

use ::core::time::Duration;

use t3fs_runtime::{Actor, Addr, Cx, Handle, Me};

use self::core::Core;
use crate::meta::kv::actor::Kv;
use crate::proto::ids::{RoutingVersion, SessionId};
use crate::proto::mgmtd::*;
use crate::proto::storage::NewRouting;
use crate::storage::Storage;

/// A session ends when its client has not been heard of for this long.
pub const SESSION_LIFE: Duration = Duration::from_secs(60);
const SESSION_CHECK: Duration = Duration::from_secs(15);

/// The primary of a cluster.
pub struct Mgmtd {
    core: Core,
    kv: Addr<Kv>,
    /// Changes are stored and told one after another; others wait their turn here.
    busy: bool,
}

impl Actor for Mgmtd {
    type Msg = MgmtdMsg;

    fn invariants(&self) {
        self.core.invariants();
    }
}

impl Mgmtd {
    /// Loads the cluster's state, or begins it under this name. Refuses another cluster's state.
    pub async fn start(cx: &Cx, kv: Addr<Kv>, cluster: &str) -> Result<Addr<Mgmtd>, String> {
        let stored = store::load(cx, kv).await?;
        let core = match stored {
            None => Core::new(cluster),
            Some(s) if s.cluster == cluster => Core::restore(s, cx.now()),
            Some(s) => {
                return Err(format!(
                    "the store belongs to cluster {}, not {cluster}; start with --cluster-id {}",
                    s.cluster, s.cluster
                ));
            }
        };
        let (addr, me) = cx.start_with(Mgmtd { core, kv, busy: false });
        let long = cx.outlive();
        cx.spawn(async move {
            loop {
                long.sleep(SESSION_CHECK).await;
                let now = long.now();
                let ended = me.with(|m| m.core.overdue(now, SESSION_LIFE));
                for session in ended {
                    tracing::warn!("session {session} has ended: its client was not heard of");
                    if let Err(e) = Self::change(&me, &long, |c| c.close_session(session)).await {
                        tracing::warn!("the end of session {session} was not stored: {e}");
                    }
                }
            }
        });
        Ok(addr)
    }

    /// Makes one change: decided on a copy, stored, adopted, told.
    async fn change<T>(
        me: &Me<Self>,
        cx: &Cx,
        decide: impl FnOnce(&mut Core) -> Result<T, String>,
    ) -> Result<T, MgmtdError> {
        while me.with(|m| std::mem::replace(&mut m.busy, true)) {
            cx.sleep(Duration::from_millis(1)).await;
        }
        let cx = &cx.outlive(); // the turn must be given back
        let (mut next, kv, before) = me.with(|m| (m.core.clone(), m.kv, m.core.stored()));
        let decided = decide(&mut next).map_err(MgmtdError::Refused);
        let result = match decided {
            Err(e) => Err(e),
            Ok(v) => {
                let after = next.stored();
                let saved = if after == before {
                    Ok(())
                } else {
                    store::save(cx, kv, &before, &after).await.map_err(MgmtdError::Unavailable)
                };
                saved.map(|()| v)
            }
        };
        let told = me.with(|m| {
            m.busy = false;
            let newer = result.is_ok() && next.routing().version > m.core.routing().version;
            if result.is_ok() {
                m.core = next;
            }
            newer.then(|| m.core.routing().clone())
        });
        if let Some(routing) = told {
            for t in routing.chains.iter().flat_map(|c| &c.targets) {
                if let Some(a) = t.addr {
                    // Who misses it fetches the routing when a request is refused.
                    let m = NewRouting { routing: routing.clone() };
                    let _ = cx.tell(Addr::<Storage>::from_raw(a), m);
                }
            }
        }
        result
    }
}

impl Handle<Register> for Mgmtd {
    async fn handle(me: &Me<Self>, m: Register, cx: &Cx) -> Result<RoutingVersion, MgmtdError> {
        Self::change(me, cx, |c| Ok(c.register(&m))).await
    }
}

impl Handle<GetRouting> for Mgmtd {
    async fn handle(me: &Me<Self>, m: GetRouting, _: &Cx) -> Option<Routing> {
        me.with(|s| (s.core.routing().version > m.have).then(|| s.core.routing().clone()))
    }
}

impl Handle<CreateChains> for Mgmtd {
    async fn handle(me: &Me<Self>, m: CreateChains, cx: &Cx) -> Result<RoutingVersion, MgmtdError> {
        Self::change(me, cx, |c| c.create_chains(&m)).await
    }
}

impl Handle<OpenSession> for Mgmtd {
    async fn handle(me: &Me<Self>, m: OpenSession, cx: &Cx) -> Result<SessionId, MgmtdError> {
        let now = cx.now();
        Self::change(me, cx, |c| Ok(c.open_session(&m, now))).await
    }
}

impl Handle<CloseSession> for Mgmtd {
    async fn handle(me: &Me<Self>, m: CloseSession, cx: &Cx) -> Result<(), MgmtdError> {
        Self::change(me, cx, |c| c.close_session(m.session)).await
    }
}

impl Handle<ExtendSession> for Mgmtd {
    async fn handle(me: &Me<Self>, m: ExtendSession, cx: &Cx) -> Result<bool, MgmtdError> {
        let now = cx.now();
        Ok(me.with(|s| s.core.extend(m.session, now)))
    }
}
