//! The cluster manager: knows who is in the cluster and hands out routing.
//!
//! Several may run over one KV; one of them, the primary, holds the lease and answers. What it
//! answers is what is stored: a change is decided on a copy, stored in a transaction that finds
//! this mgmtd in the lease, and only then adopted and told. The KV may be slow or away: changes
//! wait for it, and a primary without it goes on answering for a while, if all other mgmtds agree.
//!
//! `lease` decides who leads, `core`, `chain_table` and `sessions` what becomes of the cluster,
//! `store` is the stored form, `news` tells agents what has changed, `answers` are the messages;
//! `hold` and this file await between them.

mod answers;
mod chain_table;
mod core;
mod frozen;
mod hold;
mod lease;
mod news;
mod session_record;
mod sessions;
mod store;

use crate::proto::kv::Kv;
use crate::proto::mgmtd::Mgmtd;
use ::core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use t3fs_runtime::line::{Line, Turn};
use t3fs_runtime::{Actor, Addr, Cx, Me, NodeId, Time};

use self::core::{Live, State, condemned, settle};
use self::lease::Lease;
pub(crate) use self::lease::usable;
use self::news::ToldVersions;
use self::sessions::Wanted;
use crate::meta::kv::KvError;
use crate::meta::kv::client::{Stop, Txn};
use crate::meta::kv::known::KnownStore;
use crate::planted::PlantedBug;
use crate::proto::ids::ViewVersion;
use crate::proto::mgmtd::*;
pub use crate::timing::Timing;

/// What a primary does, for those who check it.
pub enum MgmtdEvent<'a> {
    /// The primary may act until then, on its node's clock.
    Acts { term: u64, until: Time },
    /// The primary has taken over.
    Leads { term: u64, view: &'a ClusterView },
    /// A change was stored.
    Changed { term: u64, before: &'a ClusterView, after: &'a ClusterView },
    /// The primary has decided on a change, which is not stored yet.
    Decided { term: u64, before: &'a ClusterView, after: &'a ClusterView },
}

#[derive(Clone)]
pub struct MgmtdConfig {
    pub store: KnownStore,
    pub cluster: String,
    pub timing: Timing,
    /// No other process can reach the KV: this mgmtd leads at once and for good.
    pub alone: bool,
    /// `None` outside of tests.
    pub watch: Option<Rc<dyn Fn(&MgmtdEvent<'_>)>>,
}

impl MgmtdConfig {
    pub fn new(kv: Addr<Kv>, cluster: &str) -> MgmtdConfig {
        MgmtdConfig {
            store: KnownStore::new(kv),
            cluster: cluster.into(),
            timing: Timing::default(),
            alone: false,
            watch: None,
        }
    }
}

/// What a primary works with.
struct Lead {
    term: u64,
    state: State,
    live: Live,
    /// Nodes that get no lease while the change that ends them is being stored.
    condemned: BTreeSet<NodeId>,
    told: ToldVersions,
}

/// One of the mgmtds of a cluster.
pub struct MgmtdServer {
    config: MgmtdConfig,
    incarnation: u32,
    lease: Lease,
    lead: Option<Lead>,
    /// The state of this term is being loaded.
    loading: Option<u64>,
    /// A write from before then may still arrive: no state is loaded before a later renewal.
    doubt: Option<Time>,
    /// Why this mgmtd can never lead, as a sentence.
    unfit: Option<String>,
    /// The leave to make a change.
    line: Line,
    /// Sessions to begin and to end, for the next change.
    wanted: Rc<RefCell<Vec<Wanted>>>,
    settling: bool,
    /// When the members were last looked over.
    looked: Time,
}

/// Changes that may wait for their turn.
const LINE_MAX: usize = 1024;
/// Between attempts to write the cluster's state to a store that stands still.
const SAVE_AGAIN: Duration = Duration::from_millis(100);

impl Actor for MgmtdServer {
    type Protocol = Mgmtd;

    fn invariants(&self) {
        assert!(self.line.waiting() <= LINE_MAX);
    }
}

impl MgmtdServer {
    /// Starts one; it leads when it can. Another cluster's store is never touched.
    pub fn start(cx: &Cx, config: MgmtdConfig) -> Addr<Mgmtd> {
        let (timing, alone, planted) = (config.timing, config.alone, cx.planted());
        let lease = |incarnation| Lease::new(cx.node(), incarnation, &timing, alone, planted);
        let (addr, me) = cx.start_with(MgmtdServer {
            incarnation: 0,
            lease: lease(0),
            lead: None,
            loading: None,
            doubt: None,
            unfit: None,
            line: Line::default(),
            wanted: Rc::default(),
            settling: false,
            looked: cx.now(),
            config,
        });
        me.with(|m| {
            m.incarnation = addr.raw().epoch;
            m.lease = lease(m.incarnation);
        });
        let (watcher, long) = (me.clone(), cx.outlive());
        cx.spawn(async move { Self::hold_lease(&watcher, &long).await });
        let long = cx.outlive();
        cx.spawn(async move { Self::look_around(&me, &long).await });
        addr
    }

    /// Whether the store is new or this cluster's, and this build may use it; a sentence if not.
    pub async fn check_store(
        cx: &Cx,
        store: impl Into<KnownStore>,
        cluster: &str,
    ) -> Result<(), Stop<String>> {
        let mut store = store.into();
        if store.identity().is_none() {
            store = KnownStore::new(store.kv()); // one of another cluster is not remembered
        }
        match store::load(cx, &store).await? {
            Some(s) => fits(&s, cluster).map_err(Stop::Refused),
            None => Ok(()),
        }
    }

    /// Loads the cluster's state, or begins it, and leads from then on.
    async fn take_over(me: &Me<Self>, term: u64, cx: &Cx) {
        let loaded = Self::load(me, term, cx).await;
        me.with(|m| {
            if m.loading == Some(term) {
                m.loading = None;
            }
            match loaded {
                Ok(state) if m.lease.term() == Some(term) && m.doubt.is_none() => {
                    let now = cx.now();
                    tracing::info!(term, "leads cluster {}", state.routing.cluster);
                    let t = m.config.timing;
                    let live = Live::new(t.node_lease, t.session_lease, &state, now);
                    m.see(|watch| watch(&MgmtdEvent::Leads { term, view: &state.view() }));
                    let (condemned, told) =
                        (BTreeSet::new(), ToldVersions::new(state.version, now));
                    m.lead = Some(Lead { term, state, live, condemned, told });
                }
                Ok(_) => {}
                Err(Stop::Refused(why)) => {
                    tracing::error!("this mgmtd cannot lead: {why}");
                    m.unfit = Some(why);
                }
                Err(Stop::Kv(e)) => tracing::warn!("the state was not loaded: {e}"),
            }
        });
    }

    async fn load(me: &Me<Self>, term: u64, cx: &Cx) -> Result<State, Stop<String>> {
        let (store, cluster, mine) = me.with(|m| {
            let mine = m.lease.record(term, 0, Vec::new());
            (m.config.store.clone(), m.config.cluster.clone(), mine)
        });
        let loaded = store::load(cx, &store).await?;
        if let Some(state) = &loaded {
            fits(state, &cluster).map_err(Stop::Refused)?;
        }
        let begun = match loaded {
            Some(state) if store.identity().is_some() => return Ok(state),
            // Of a build that gave stores no identity.
            Some(state) => store::identify(cx, &store, mine).await.map(|()| state),
            None => {
                let state = State::new(&cluster);
                store::save(cx, &store, mine, None, &state).await.map(|()| state)
            }
        };
        let state = begun.map_err(|stop| match stop {
            Stop::Kv(e) => Stop::Kv(e),
            // The mgmtd that deposed us has begun it: the next term loads that.
            Stop::Refused(store::Deposed) => Stop::Kv(KvError::Conflict),
        })?;
        // Which store it is, is remembered here before this mgmtd leads over it.
        Txn::new(cx, &store).identity().await?;
        Ok(state)
    }

    /// For those who check it: what they see costs nothing while nobody looks.
    fn see(&self, tell: impl FnOnce(&dyn Fn(&MgmtdEvent<'_>))) {
        if let Some(watch) = &self.config.watch {
            tell(&**watch);
        }
    }

    fn leading(&mut self, now: Time) -> Result<&mut Lead, MgmtdError> {
        if let Some(why) = &self.unfit {
            return Err(MgmtdError::Refused(why.clone()));
        }
        if !self.lease.acts(now) {
            return Err(MgmtdError::NotPrimary { hint: self.lease.hint(now) });
        }
        let taking = || MgmtdError::Unavailable("the new primary is taking over".into());
        let term = self.lease.term();
        self.lead.as_mut().filter(|l| Some(l.term) == term).ok_or_else(taking)
    }

    /// Looks for deaths, sessions that are overdue, and whatever else time alone brings.
    async fn look_around(me: &Me<Self>, cx: &Cx) {
        let every = me.with(|m| m.config.timing.node_lease) / 15;
        loop {
            cx.sleep(every).await;
            Self::settle(me, cx);
        }
    }

    /// Brings the state up to what was heard, if it is not, in the background.
    fn settle(me: &Me<Self>, cx: &Cx) {
        let now = cx.now();
        let begin = me.with(|m| {
            // A node that seemed silent while this process stood still has perhaps been speaking.
            let stood_still = now.since(m.looked) > m.config.timing.node_lease / 3;
            m.looked = now;
            if stood_still && let Some(lead) = &mut m.lead {
                lead.live.hear_all(now);
            }
            if m.settling || m.leading(now).is_ok_and(|l| !l.live.is_due(&l.state, now)) {
                return false;
            }
            m.settling = m.leading(now).is_ok();
            m.settling
        });
        if !begin {
            return;
        }
        let (me, cx) = (me.clone(), cx.outlive());
        cx.clone().spawn(async move {
            let done = Self::change(&me, &cx, |state, live, now| {
                live.clean(); // what comes from here on is for the next time
                settle(state, live, now);
                Ok(())
            })
            .await;
            if let Err(e) = done {
                tracing::debug!("what was heard is not stored: {e}");
            }
            me.with(|m| m.settling = false);
        });
    }

    /// Makes one change: decided on a copy, stored, adopted, told. Returns the version with it.
    async fn change<T>(
        me: &Me<Self>,
        cx: &Cx,
        decide: impl FnOnce(&mut State, &mut Live, Time) -> Result<T, String>,
    ) -> Result<(T, ViewVersion), MgmtdError> {
        let turn = me.with(|m| match m.line.waiting() < LINE_MAX {
            true => Ok(m.line.alone()),
            false => Err(MgmtdError::Unavailable("too many changes wait".into())),
        })?;
        let _granted = match turn {
            Turn::Now(grant) => grant,
            Turn::Waits(place) => place.await,
        };
        if cx.expired() {
            return Err(MgmtdError::Unavailable("it was not this request's turn in time".into()));
        }
        let now = cx.now();
        let (value, term, before, after) = me.with(|m| {
            let lead = m.leading(now)?;
            let before = lead.state.clone();
            let mut after = before.clone();
            let value = decide(&mut after, &mut lead.live, now).map_err(MgmtdError::Refused)?;
            let term = lead.term;
            if after.finish(&before) {
                lead.condemned = condemned(&before.routing, &after.routing);
                m.see(|watch| {
                    let (before, after) = (&before.view(), &after.view());
                    watch(&MgmtdEvent::Decided { term, before, after });
                });
            }
            Ok::<_, MgmtdError>((value, term, before, after))
        })?;
        let version = after.version;
        if version == before.version {
            return Ok((value, version));
        }
        let cx = &cx.outlive(); // begun: the turn is kept until the outcome is known
        let saved = Self::save(me, cx, term, &before, &after).await;
        me.with(|m| {
            if saved.is_ok() {
                m.see(|watch| {
                    let (before, after) = (&before.view(), &after.view());
                    watch(&MgmtdEvent::Changed { term, before, after });
                });
            }
            let Some(lead) = m.lead.as_mut().filter(|l| l.term == term) else { return };
            lead.condemned.clear();
            if saved.is_err() {
                lead.live.again();
                return;
            }
            if !Arc::ptr_eq(&before.routing, &after.routing) {
                lead.live.again();
            }
            lead.live.adopt(&lead.state, &after, cx.now());
            lead.state = after;
        });
        Self::tell(me, cx);
        saved.map(|()| (value, version)).map_err(MgmtdError::Unavailable)
    }

    async fn save(
        me: &Me<Self>,
        cx: &Cx,
        term: u64,
        before: &State,
        after: &State,
    ) -> Result<(), String> {
        let (store, mine) =
            me.with(|m| (m.config.store.clone(), m.lease.record(term, 0, Vec::new())));
        // A store that stands still is waited for: to give up would be to stop leading, and the
        // leases of all targets with it. Who has taken over meanwhile ends it (the fence).
        let gives_up = PlantedBug::SaveGivesUp.is_in(cx);
        let saved = loop {
            let saved = match PlantedBug::NoFence.is_in(cx) {
                true => store::save_unfenced(cx, &store, Some(before), after).await,
                false => store::save(cx, &store, mine.clone(), Some(before), after).await,
            };
            match saved {
                Err(Stop::Kv(e)) if e.is_retryable() && !gives_up => cx.sleep(SAVE_AGAIN).await,
                saved => break saved,
            }
        };
        match saved {
            Ok(()) => Ok(()),
            Err(Stop::Refused(store::Deposed)) => Err("another mgmtd has taken over".into()),
            // Certainly not written: it is too large, or malformed.
            Err(Stop::Kv(e @ (KvError::TooLarge { .. } | KvError::Invalid(_)))) => {
                Err(e.to_string())
            }
            Err(Stop::Kv(e)) => {
                // The change may be written yet, until the lease record changes under it.
                me.with(|m| {
                    m.lead = None;
                    m.doubt = Some(cx.now());
                });
                Err(e.to_string())
            }
        }
    }
}

fn fits(state: &State, cluster: &str) -> Result<(), String> {
    let found = &state.routing.cluster;
    if found == cluster {
        return Ok(());
    }
    Err(format!(
        "the store belongs to cluster {found}, not {cluster}; start with --cluster-id {found}"
    ))
}
