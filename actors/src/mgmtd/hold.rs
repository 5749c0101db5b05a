//! Trying for the lease and keeping it: what `lease` decides, done to the record in the KV and
//! asked of the other mgmtds.

use core::time::Duration;

use bytes::Bytes;
use t3fs_runtime::{Addr, Cx, Me, join_all};

use super::lease::{self, LeaseStep, LeaseV3};
use super::{MgmtdEvent, MgmtdServer};
use crate::meta::kv::KvError;
use crate::meta::kv::client::Txn;
use crate::proto::kv::Durability;
use crate::proto::mgmtd::Mgmtd;

/// Why the lease record was not read, or not written.
struct Failed {
    why: String,
    /// The record was not even read.
    blind: bool,
}

impl MgmtdServer {
    /// Tries for the lease, then keeps it, as long as this mgmtd is fit to lead.
    pub(super) async fn hold_lease(me: &Me<Self>, cx: &Cx) {
        // An mgmtd that can never lead lets the lease run out, for one that can.
        while me.with(|m| m.unfit.is_none()) {
            let began = cx.now();
            let patience = me.with(|m| m.lease.patience());
            let for_good = me.with(|m| m.config.alone && m.lease.acts(began) && m.doubt.is_none());
            if !for_good && let Err(failed) = Self::attempt(me, &cx.within(patience)).await {
                tracing::debug!("the lease could not be looked at or written: {}", failed.why);
                Self::bridge(me, &cx.within(patience), failed.blind).await;
            }
            let load = me.with(|m| {
                let term = m.lease.term().filter(|_| m.lease.acts(cx.now()))?;
                let has = m.lead.as_ref().is_some_and(|l| l.term == term);
                if has || m.loading == Some(term) || m.doubt.is_some() {
                    return None;
                }
                m.loading = Some(term);
                Some(term)
            });
            if let Some(term) = load {
                let (me, long) = (me.clone(), cx.clone());
                cx.spawn(async move { Self::take_over(&me, term, &long).await });
            }
            let pause = me.with(|m| m.lease.pause(cx.now()));
            let rest = pause.saturating_sub(cx.now() - began);
            let jitter = Duration::from_micros(cx.rand() % 20_000);
            cx.sleep(rest + jitter).await;
        }
    }

    /// Looks at the lease record once, and writes it if it is ours or free.
    async fn attempt(me: &Me<Self>, cx: &Cx) -> Result<(), Failed> {
        let sent = cx.now();
        let key = Bytes::from_static(lease::KEY);
        let mut txn = Txn::new(cx, me.with(|m| m.config.store.clone()));
        let read = txn.read([&key]).await.map_err(|e: KvError| e.to_string());
        let record = read.and_then(|[r]| r.map(|r| LeaseV3::decode(&r)).transpose());
        let record = record.map_err(|why| {
            me.with(|m| m.lease.missed());
            Failed { why, blind: true }
        })?;
        let step = me.with(|m| {
            let voters = m.lead.as_ref().map(|l| l.state.mgmtds());
            m.lease.set_voters(voters);
            let step = m.lease.step(record, cx.now());
            if m.lead.as_ref().is_some_and(|l| Some(l.term) != m.lease.term()) {
                tracing::info!("another mgmtd leads now");
                m.lead = None;
            }
            step
        });
        let LeaseStep::Write(mine) = step else { return Ok(()) };
        txn.set(key, mine.encode());
        let written = txn.commit(Durability::Now).await;
        written.map_err(|e| Failed { why: e.to_string(), blind: false })?;
        me.with(|m| {
            let now = cx.now();
            m.doubt = m.doubt.filter(|since| sent < *since);
            if m.lease.acknowledged(&mine, sent, now)
                && let Some(lead) = &mut m.lead
            {
                lead.live.hear_all(now);
            }
            m.see(|watch| watch(&MgmtdEvent::Acts { term: mine.term, until: m.lease.until() }));
        });
        Ok(())
    }

    /// A renewal has failed: goes on if everyone who may take over promises not to.
    async fn bridge(me: &Me<Self>, cx: &Cx, blind: bool) {
        let sent = cx.now();
        let appeal = me.with(|m| {
            let (ask, voters) = m.lease.appeal(sent, blind)?;
            let live = &m.lead.as_ref()?.live;
            let addrs: Option<Vec<Addr<Mgmtd>>> = voters.iter().map(|n| live.mgmtd(*n)).collect();
            Some((ask, addrs?))
        });
        // One who cannot be asked promises nothing.
        let Some((ask, voters)) = appeal else { return };
        let answers = voters.into_iter().map(|v| cx.ask(v, ask.clone()));
        if join_all(answers).await.iter().all(|a| *a == Ok(true)) {
            me.with(|m| {
                if m.lease.promised(sent, cx.now()) {
                    tracing::debug!("the store is away: the other mgmtds wait");
                    m.see(|watch| {
                        watch(&MgmtdEvent::Acts { term: ask.term, until: m.lease.until() })
                    });
                }
            });
        }
    }
}
