//! Telling agents what has changed: they would hear it with their next heartbeat, this is sooner.
//!
//! What has changed of the routing is told to all at once. Sessions come and go more often, and
//! concern only those who have some: processes of clients are told in batches, servers not at all.

use core::time::Duration;

use t3fs_runtime::{Addr, Cx, Me, RawAddr, Time};

use super::{Lead, MgmtdServer};
use crate::proto::agent::{Agent, ViewChanged};
use crate::proto::ids::ViewVersion;
use crate::proto::mgmtd::ViewUpdate;
use crate::timing::is_longer;

/// Between two times that sessions alone are told: at least, for each client that is told, and at
/// most. So what they cost the primary has a limit, however many there are and come and go.
const SESSIONS_PAUSE: Duration = Duration::from_millis(100);
const PAUSE_FOR_EACH: Duration = Duration::from_millis(1);
const SESSIONS_PAUSE_MAX: Duration = Duration::from_secs(1);
const _: () = assert!(is_longer(SESSIONS_PAUSE_MAX, 1, SESSIONS_PAUSE));

/// Up to where agents were told, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToldVersions {
    servers: ViewVersion,
    clients: ViewVersion,
    at: Time,
    /// Somebody waits to tell what has changed since.
    planned: bool,
}

impl ToldVersions {
    pub(super) fn new(version: ViewVersion, now: Time) -> ToldVersions {
        ToldVersions { servers: version, clients: version, at: now, planned: false }
    }
}

impl Lead {
    /// How long from now the others are to be told. `None`: there is nothing, or it is planned.
    fn plan(&mut self, now: Time) -> Option<Duration> {
        let clients = self.live.agents.values().filter(|h| h.report.is_none()).count() as u32;
        let told = &mut self.told;
        if told.clients >= self.state.version {
            return None;
        }
        let pause = (PAUSE_FOR_EACH * clients).clamp(SESSIONS_PAUSE, SESSIONS_PAUSE_MAX);
        let pause = pause.saturating_sub(now.since(told.at));
        if pause.is_zero() || self.live.routing_changed(told.clients) {
            return Some(Duration::ZERO);
        }
        (!std::mem::replace(&mut told.planned, true)).then_some(pause)
    }

    /// Whom to tell what.
    fn news(&mut self, now: Time) -> Vec<(ViewUpdate, Vec<RawAddr>)> {
        let agents = |servers: bool| -> Vec<RawAddr> {
            let of_kind = self.live.agents.values().filter(|h| h.report.is_some() == servers);
            of_kind.map(|h| h.agent).collect()
        };
        let for_servers = self.live.routing_changed(self.told.servers);
        let servers = for_servers.then_some((true, self.told.servers));
        let kinds = servers.into_iter().chain([(false, self.told.clients)]);
        let news = kinds.filter_map(|(servers, since)| {
            Some((self.live.update(&self.state, since)?, agents(servers)))
        });
        let news = news.collect();
        self.told.clients = self.state.version;
        self.told.at = now;
        if for_servers {
            self.told.servers = self.state.version;
        }
        news
    }
}

impl MgmtdServer {
    /// Tells what has changed, now or soon.
    pub(super) fn tell(me: &Me<Self>, cx: &Cx) {
        let now = cx.now();
        let planned = me.with(|m| {
            let lead = m.lead.as_mut()?;
            Some((lead.term, lead.plan(now)?))
        });
        match planned {
            None => {}
            Some((term, Duration::ZERO)) => Self::tell_now(me, term, cx),
            Some((term, pause)) => {
                let (me, cx) = (me.clone(), cx.outlive());
                cx.clone().spawn(async move {
                    cx.sleep(pause).await;
                    me.with(|m| m.lead.iter_mut().for_each(|lead| lead.told.planned = false));
                    Self::tell_now(&me, term, &cx);
                });
            }
        }
    }

    fn tell_now(me: &Me<Self>, term: u64, cx: &Cx) {
        let now = cx.now();
        let news = me.with(|m| {
            let lead = m.lead.as_mut().filter(|lead| lead.term == term);
            lead.map(|lead| lead.news(now)).unwrap_or_default()
        });
        for (update, agents) in news {
            for agent in agents {
                // An agent that misses the update gets it with the next heartbeat.
                let m = ViewChanged { term, update: update.clone() };
                let _ = cx.tell(Addr::<Agent>::from_raw(agent), m);
            }
        }
    }
}
