//! The agent: one in each process, on its first shard; the process's only door to mgmtd.
//!
//! It finds the primary among the mgmtds it is told of, registers its node and says with every
//! heartbeat what runs here, keeps the view of the cluster, and tells the storage targets beside it
//! what is new and how long they may serve. Questions that only a primary can answer it passes on,
//! again and again until they are answered or their time is over.
//!
//! A lease counts from before the heartbeat was sent, and only for targets that the heartbeat
//! named: of the others mgmtd may think what it likes.

mod core;
mod space;
mod watchers;

use crate::proto::agent::Agent;
use crate::proto::mgmtd::Mgmtd;
use crate::proto::storage::Storage;
use ::core::time::Duration;
use std::rc::Rc;

use t3fs_runtime::slot::before;
use t3fs_runtime::{Actor, Addr, Ask, AskError, Cx, Handle, Me, RawAddr, Slot, Time};

use self::core::{AskAgain, Core, Took};
pub(crate) use self::space::{ClusterSpace, cluster_space};
use self::watchers::Watchers;
use crate::mgmtd::Timing;
use crate::proto::agent::*;
use crate::proto::ids::{SessionId, TargetId, ViewVersion};
use crate::proto::mgmtd::*;
use crate::proto::storage::{LeaseHeld, NewView};
use crate::timing::{WATCH_MARGIN, is_longer};

/// What a server says of itself; a process of clients says nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerInfo {
    /// Of its state folder; empty where there is none.
    pub identity: String,
    pub roles: Vec<Role>,
    /// Where its links are accepted.
    pub addresses: Vec<String>,
    pub tags: Vec<(String, String)>,
    /// The mgmtd of this process.
    pub mgmtd: Option<RawAddr>,
}

/// What an agent has learned, for those of its process who follow it.
pub enum AgentEvent<'a> {
    View(&'a ClusterView),
    /// These targets were told that they may serve until then, on the node's clock.
    Lease {
        targets: &'a [TargetId],
        until: Time,
    },
    /// The primary has taken a heartbeat, or says why it never takes one of this process as it is.
    Heartbeat(Result<(), &'a str>),
}

#[derive(Clone)]
pub struct AgentConfig {
    pub cluster: String,
    /// Where mgmtds may be.
    pub mgmtds: Vec<Addr<Mgmtd>>,
    pub server: Option<ServerInfo>,
    pub timing: Timing,
    /// Called at once, before anything that is new is told to the actors.
    pub watch: Option<Rc<dyn Fn(&AgentEvent<'_>)>>,
}

impl AgentConfig {
    /// For a process of clients.
    pub fn new(cluster: &str, mgmtds: Vec<Addr<Mgmtd>>) -> AgentConfig {
        let timing = Timing::default();
        AgentConfig { cluster: cluster.into(), mgmtds, server: None, timing, watch: None }
    }
}

/// The agent of one process, with the view of the cluster.
pub struct NodeAgent {
    core: Core,
    watch: Option<Rc<dyn Fn(&AgentEvent<'_>)>>,
    /// Filled to send the next heartbeat now.
    hurry: Slot<()>,
    watchers: Watchers,
    /// Filled when a target has come up.
    attached: Slot<()>,
    known: space::KnownSpaces,
}

impl Actor for NodeAgent {
    type Protocol = Agent;

    fn invariants(&self) {
        self.watchers.check();
    }
}

/// Between two heartbeats, however much there is to say.
const GAP_MIN: Duration = Duration::from_millis(2);
/// Between two attempts to pass a question on.
const PASS_PAUSE: Duration = Duration::from_millis(40);
/// One attempt of it.
const PASS_MAX: Duration = Duration::from_millis(1500);

const _: () = assert!(is_longer(Timing::DEFAULT.heartbeat, 2, GAP_MIN));
// An attempt ends before its question does, and several fit into what an asker of this agent waits.
const _: () = assert!(is_longer(<FetchView as Ask<Mgmtd>>::TIMEOUT, 1, PASS_MAX));
const _: () = assert!(is_longer(<GetView as Ask<Agent>>::TIMEOUT, 2, PASS_MAX));
const _: () = assert!(is_longer(PASS_MAX, 2, PASS_PAUSE));

impl NodeAgent {
    pub fn start(cx: &Cx, config: AgentConfig) -> Addr<Agent> {
        let watch = config.watch.clone();
        let watchers = Watchers::default();
        let is_server = config.server.is_some();
        let agent = NodeAgent {
            core: Core::new(config),
            watch,
            hurry: Slot::new(),
            watchers,
            attached: Slot::new(),
            known: space::KnownSpaces::default(),
        };
        let (addr, me) = cx.start_with(agent);
        me.with(|a| a.core.agent = addr.raw());
        if is_server {
            let (looker, long) = (me.clone(), cx.outlive());
            cx.spawn(async move { Self::look_at_targets(&looker, &long).await });
        }
        let long = cx.outlive();
        cx.spawn(async move { Self::beat(&me, &long).await });
        addr
    }

    /// Heartbeats, for ever.
    async fn beat(me: &Me<Self>, cx: &Cx) {
        loop {
            let began = cx.now();
            let messages = me.with(|a| {
                let messages = a.core.heartbeats(cx.now());
                a.watchers.tell(a.core.newest()); // sessions whose clients were silent are gone
                messages
            });
            for (to, message) in messages {
                let (me, cx) = (me.clone(), cx.clone());
                cx.clone().spawn(async move { Self::heartbeat(&me, to, message, &cx).await });
            }
            let (every, hurry) = me.with(|a| {
                a.hurry = Slot::new();
                (a.core.every(), a.hurry.clone())
            });
            // Agents that began together do not stay in step.
            let eighth = (every.as_micros() as u64 / 8).max(1);
            let jitter = Duration::from_micros(cx.rand() % (2 * eighth));
            let rest = every - Duration::from_micros(eighth) + jitter;
            let _ = before(cx.sleep(rest), hurry).await; // either way it is time
            cx.sleep(GAP_MIN.saturating_sub(cx.now() - began)).await;
        }
    }

    async fn heartbeat(me: &Me<Self>, to: Addr<Mgmtd>, message: Heartbeat, cx: &Cx) {
        let sent = cx.now();
        let patience = me.with(|a| a.core.patience());
        let named = core::named(&message);
        let reply = cx.within(patience).ask(to, message).await;
        me.with(|a| {
            if let Some(watch) = &a.watch {
                match &reply {
                    Ok(Ok(_)) => watch(&AgentEvent::Heartbeat(Ok(()))),
                    Ok(Err(MgmtdError::Refused(why))) => watch(&AgentEvent::Heartbeat(Err(why))),
                    _ => {}
                }
            }
            let next = match reply {
                Ok(Ok(r)) => {
                    let took = a.core.answered(to, r, &named, sent);
                    a.tell(cx, took);
                    AskAgain::Wait
                }
                Ok(Err(e)) => a.core.refused(to, e, cx.now()),
                Err(AskError::NotSent(_) | AskError::Unknown(_)) => a.core.unanswered(to),
            };
            if next == AskAgain::Now {
                a.hurry.fill(());
            }
        });
    }

    /// Passes what is new on to watchers and targets: the view always before the lease that came
    /// with it.
    fn tell(&mut self, cx: &Cx, took: Took) {
        self.watchers.tell(self.core.newest());
        if took.view {
            let view = self.core.view();
            if let Some(watch) = &self.watch {
                watch(&AgentEvent::View(view));
            }
            for to in self.core.targets() {
                // A target that misses the view sees a lease that needs it, and asks.
                let _ = cx.tell(to, NewView { view: view.clone() });
            }
        }
        let Some(until) = took.lease else { return };
        let held = LeaseHeld { until_us: until.us(), view: self.core.view().version };
        if let Some(watch) = &self.watch {
            watch(&AgentEvent::Lease { targets: &took.named, until });
        }
        for to in self.core.targets_named(&took.named) {
            let _ = cx.tell(to, held); // the next heartbeat brings another
        }
    }

    fn extend(&mut self, session: SessionId, now: Time) -> bool {
        let lives = self.core.extend(session, now);
        self.watchers.tell(self.core.newest());
        lives
    }

    /// Passes a question on to the primary.
    async fn pass_on<M, T>(me: &Me<Self>, cx: &Cx, message: M) -> Result<T, MgmtdError>
    where
        M: Ask<Mgmtd, Reply = Result<T, MgmtdError>> + Clone,
    {
        let older = || MgmtdError::Unavailable("the primary is of an earlier build".into());
        Self::ask_primary(me, cx, message).await?.ok_or_else(older)
    }

    /// Asks the primary until it answers for good. `None`: it is of an earlier build, which does
    /// not know the message. All that mgmtd is asked goes this way, heartbeats excepted: those look
    /// for the primary.
    async fn ask_primary<M, T>(me: &Me<Self>, cx: &Cx, message: M) -> Result<Option<T>, MgmtdError>
    where
        M: Ask<Mgmtd, Reply = Result<T, MgmtdError>> + Clone,
    {
        let mut why = MgmtdError::Unavailable("no mgmtd leads, or it cannot be reached".into());
        // The answer has to arrive before the asker stops waiting.
        let margin = PASS_PAUSE * 2;
        loop {
            if let Some(primary) = me.with(|a| a.core.primary()) {
                match cx.within(PASS_MAX).ask(primary, message.clone()).await {
                    Ok(Ok(value)) => return Ok(Some(value)),
                    Err(e) if e.receiver_is_older() => return Ok(None),
                    Ok(Err(e @ MgmtdError::Refused(_))) => return Err(e),
                    Ok(Err(MgmtdError::NotPrimary { hint })) => me.with(|a| {
                        if a.core.does_not_lead(primary, hint) == AskAgain::Now {
                            a.hurry.fill(());
                        }
                    }),
                    Ok(Err(e)) => why = e,
                    Err(e) => why = MgmtdError::Unavailable(e.to_string()),
                }
            }
            if cx.now() + margin >= cx.deadline() {
                return Err(why);
            }
            let jitter = Duration::from_micros(cx.rand() % 20_000);
            cx.sleep(PASS_PAUSE + jitter).await;
        }
    }

    /// Fetches from the primary until this copy is at least as new as `wanted`.
    async fn fetch(me: &Me<Self>, cx: &Cx, wanted: ViewVersion) {
        let have = me.with(|a| a.core.view().version);
        if let Ok(Some(update)) = Self::pass_on(me, cx, FetchView { have }).await {
            me.with(|a| {
                let took = a.core.take(update);
                a.tell(cx, took);
            });
        }
        let have = me.with(|a| a.core.view().version);
        if have < wanted {
            tracing::debug!("version {wanted} is announced, {have} is here");
        }
    }
}

impl Handle<GetView> for NodeAgent {
    async fn handle(me: &Me<Self>, m: GetView, cx: &Cx) -> Option<ClusterView> {
        if m.fresh {
            Self::fetch(me, cx, ViewVersion(0)).await;
        }
        me.with(|a| {
            let view = a.core.view();
            (view.version > m.have).then(|| view.clone())
        })
    }
}

impl Handle<WatchView> for NodeAgent {
    async fn handle(me: &Me<Self>, m: WatchView, cx: &Cx) -> ViewNews {
        let place = me.with(|a| (!a.core.has_news(&m)).then(|| a.watchers.wait()));
        if let Some(place) = place {
            let left = cx.deadline().since(cx.now()).saturating_sub(WATCH_MARGIN);
            let _ = before(cx.sleep(left), place).await; // either way it is time to answer
        }
        me.with(|a| a.core.news(&m))
    }
}

impl Handle<ReportTarget> for NodeAgent {
    async fn handle(me: &Me<Self>, m: ReportTarget, cx: &Cx) {
        me.with(|a| {
            let new = a.core.report(m.report);
            if new.urgent {
                a.hurry.fill(());
            }
            if new.attached {
                a.attached.fill(());
            }
            let view = a.core.view();
            if new.attached && view.version > ViewVersion(0) {
                let to = Addr::<Storage>::from_raw(m.report.addr);
                let _ = cx.tell(to, NewView { view: view.clone() });
            }
        });
    }
}

impl Handle<Announce> for NodeAgent {
    async fn handle(me: &Me<Self>, m: Announce, _: &Cx) {
        me.with(|a| {
            a.core.announce(m);
            a.hurry.fill(());
        });
    }
}

impl Handle<SetMgmtds> for NodeAgent {
    async fn handle(me: &Me<Self>, m: SetMgmtds, _: &Cx) {
        me.with(|a| {
            a.core.set_mgmtds(m.mgmtds.into_iter().map(Addr::from_raw).collect());
            a.hurry.fill(());
        });
    }
}

impl Handle<ViewChanged> for NodeAgent {
    async fn handle(me: &Me<Self>, m: ViewChanged, cx: &Cx) {
        me.with(|a| {
            let newest = m.update.version();
            let took = a.core.take(m.update);
            let missed = !took.view && newest > a.core.view().version;
            a.tell(cx, took);
            if missed {
                a.hurry.fill(()); // something between was lost: the reply has all
            }
        });
    }
}

impl Handle<CreateChains> for NodeAgent {
    async fn handle(me: &Me<Self>, m: CreateChains, cx: &Cx) -> Result<ViewVersion, MgmtdError> {
        let version = Self::pass_on(me, cx, m).await?;
        Self::fetch(me, cx, version).await;
        Ok(version)
    }
}

impl Handle<ClaimTargets> for NodeAgent {
    async fn handle(
        me: &Me<Self>,
        m: ClaimTargets,
        cx: &Cx,
    ) -> Result<Option<Vec<Claimed>>, MgmtdError> {
        Self::ask_primary(me, cx, m).await
    }
}

impl Handle<OpenSession> for NodeAgent {
    async fn handle(me: &Me<Self>, m: OpenSession, cx: &Cx) -> Result<SessionId, MgmtdError> {
        let agent = me.with(|a| a.core.agent);
        let session = Self::pass_on(me, cx, OpenSessionFor { agent, open: m }).await?;
        me.with(|a| a.extend(session, cx.now()));
        Ok(session)
    }
}

impl Handle<CloseSession> for NodeAgent {
    async fn handle(me: &Me<Self>, m: CloseSession, cx: &Cx) -> Result<(), MgmtdError> {
        me.with(|a| {
            a.core.forget(m.session);
            a.watchers.tell(a.core.newest());
        });
        Self::pass_on(me, cx, m).await
    }
}

impl Handle<ExtendSession> for NodeAgent {
    /// What the latest heartbeat said; this one's news goes with the next.
    async fn handle(me: &Me<Self>, m: ExtendSession, cx: &Cx) -> bool {
        me.with(|a| a.extend(m.session, cx.now()))
    }
}

impl Handle<ListNodes> for NodeAgent {
    async fn handle(me: &Me<Self>, m: ListNodes, cx: &Cx) -> Result<Vec<NodeLine>, MgmtdError> {
        Self::pass_on(me, cx, m).await
    }
}
