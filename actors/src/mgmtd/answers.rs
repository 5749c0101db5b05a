//! What mgmtd answers: a primary from what it knows at once, or by making a change.

use t3fs_runtime::{Cx, Handle, Me};

use super::MgmtdServer;
use super::sessions::SessionChange;
use crate::planted::PlantedBug;
use crate::proto::ids::{SessionId, ViewVersion};
use crate::proto::mgmtd::*;

impl Handle<Heartbeat> for MgmtdServer {
    async fn handle(me: &Me<Self>, m: Heartbeat, cx: &Cx) -> Result<HeartbeatReply, MgmtdError> {
        let now = cx.now();
        let (reply, dirty) = me.with(|s| {
            if m.cluster != s.config.cluster {
                return Err(MgmtdError::Refused(format!(
                    "this is cluster {}, not {}: check --cluster-id and --cluster",
                    s.config.cluster, m.cluster
                )));
            }
            let grants = PlantedBug::GrantToCondemned.is_in(cx);
            let lead = s.leading(now)?;
            let term = lead.term;
            if m.term != term {
                return Err(MgmtdError::OtherTerm { term });
            }
            if lead.condemned.contains(&m.agent.node) && !grants {
                return Err(MgmtdError::Unavailable("the node's end is being stored".into()));
            }
            let ended = m.sessions.iter().copied().filter(|id| !lead.state.is_alive(*id));
            let (ended, have) = (ended.collect(), m.have);
            lead.live.hear(&lead.state, m, now)?;
            let lease_us = lead.live.node_lease.as_micros() as u64;
            let news = lead.live.update(&lead.state, have);
            Ok((HeartbeatReply { term, lease_us, news, ended }, lead.live.is_dirty()))
        })?;
        if dirty {
            Self::settle(me, cx);
        }
        Ok(reply)
    }
}

impl Handle<Refrain> for MgmtdServer {
    async fn handle(me: &Me<Self>, m: Refrain, cx: &Cx) -> bool {
        me.with(|s| s.lease.promise(&m, cx.now()))
    }
}

impl Handle<GetSpaces> for MgmtdServer {
    async fn handle(me: &Me<Self>, _: GetSpaces, cx: &Cx) -> Result<Vec<NodeSpaces>, MgmtdError> {
        let now = cx.now();
        me.with(|s| Ok(s.leading(now)?.live.spaces(now)))
    }
}

impl Handle<FetchView> for MgmtdServer {
    async fn handle(
        me: &Me<Self>,
        m: FetchView,
        cx: &Cx,
    ) -> Result<Option<ViewUpdate>, MgmtdError> {
        me.with(|s| {
            let lead = s.leading(cx.now())?;
            Ok(lead.live.update(&lead.state, m.have))
        })
    }
}

impl Handle<ListNodes> for MgmtdServer {
    async fn handle(me: &Me<Self>, _: ListNodes, cx: &Cx) -> Result<Vec<NodeLine>, MgmtdError> {
        let now = cx.now();
        me.with(|s| {
            let lead = s.leading(now)?;
            let line = |info: &NodeInfo| {
                let heard = lead.live.agents.get(&info.node);
                let report = heard.and_then(|h| h.report.as_ref());
                let actors = report.and_then(|r| r.actors.as_ref());
                NodeLine {
                    info: info.clone(),
                    silent_us: lead.live.silent(info.node, now).as_micros() as u64,
                    targets: actors.map(|a| a.targets.clone()).unwrap_or_default(),
                }
            };
            Ok(lead.state.routing.nodes.iter().map(line).collect())
        })
    }
}

impl Handle<CreateChains> for MgmtdServer {
    async fn handle(me: &Me<Self>, m: CreateChains, cx: &Cx) -> Result<ViewVersion, MgmtdError> {
        let done = Self::change(me, cx, |s, _, _| s.create_chains(&m)).await;
        Self::settle(me, cx);
        done.map(|((), version)| version)
    }
}

impl Handle<ClaimTargets> for MgmtdServer {
    async fn handle(me: &Me<Self>, m: ClaimTargets, cx: &Cx) -> Result<Vec<Claimed>, MgmtdError> {
        let done = Self::change(me, cx, |s, _, _| Ok(s.claim(&m))).await;
        done.map(|(claimed, _)| claimed)
    }
}

impl Handle<OpenSessionFor> for MgmtdServer {
    async fn handle(me: &Me<Self>, m: OpenSessionFor, cx: &Cx) -> Result<SessionId, MgmtdError> {
        Self::change_session(me, cx, SessionChange::Open(m)).await
    }
}

impl Handle<CloseSession> for MgmtdServer {
    async fn handle(me: &Me<Self>, m: CloseSession, cx: &Cx) -> Result<(), MgmtdError> {
        Self::change_session(me, cx, SessionChange::Close(m.session)).await.map(drop)
    }
}
