//! The client's way to the cluster: routing, a session, and asks that are tried again.
//!
//! A retry carries the same request id as the first attempt, so it cannot take effect twice, and
//! goes to whoever today's routing names. While nobody can serve it waits; after its patience
//! (`io_timeout` of the settings) the user gets an error.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use t3fs_runtime::slot::before;
use t3fs_runtime::{Addr, AskError, Cx, RawAddr, Slot, Time};

use super::FsError;
use super::retry::{Retry, Silence, Subject, Watchers};
use crate::layout::{self, Unplaced};
use crate::proto::agent::Agent;
use crate::proto::agent::{GetView, ViewNews, WatchView};
use crate::proto::ids::{
    ChainId, ChainVersion, ChunkId, InodeId, RequestId, SessionId, ViewVersion,
};
use crate::proto::meta::Meta;
use crate::proto::meta::{Layout, MetaError};
use crate::proto::mgmtd::{
    Chain, CloseSession, ClusterView, ExtendSession, GetSpaces, NodeSpaces, OpenSession, Routing,
    Sessions, TargetState,
};
use crate::proto::storage::Storage;
use crate::proto::storage::{
    ChunkData, Extents, FileExtents, ReadAhead, ReadChunk, RemoveChunks, StorageError, UpdateChunk,
    UpdateKind, Updated,
};
use crate::timing::{EXTEND_EVERY, REPEAT_MAX, UPDATE_MAX, WATCH_MARGIN, is_longer};

/// A hundred years: longer than any process lives, and still a time that can be added to others.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// How long a client that starts waits for the cluster.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// Longest wait for one answer of a replica while there may be others, and of anybody else.
const READ_ATTEMPT: Duration = Duration::from_secs(1);
const ATTEMPT: Duration = Duration::from_secs(5);
/// Longest wait for newer routing.
const FETCH_MAX: Duration = Duration::from_millis(500);
/// A watcher that is answered as late was told nothing new.
const FETCH_MARGIN: Duration = Duration::from_millis(120);
/// How often mgmtd is asked whether the session lives, so that few who repeat a request have to.
const CONFIRM_EVERY: Duration = Duration::from_secs(180);
/// How often the routing is looked at while requests wait.
const LOOK_EVERY: Duration = Duration::from_millis(50);

// Several replicas are asked, and several times, before an attempt or an update is given up.
const _: () = assert!(is_longer(ATTEMPT, 2, READ_ATTEMPT) && is_longer(UPDATE_MAX, 2, ATTEMPT));
// An agent that has no news answers a watcher so late that it is recognised.
const _: () = assert!(is_longer(FETCH_MARGIN, 1, WATCH_MARGIN));
const _: () = assert!(is_longer(FETCH_MAX, 2, FETCH_MARGIN));
// With one answer lost, and one more round of the task that asks, it is still known.
const _: () = assert!(is_longer(REPEAT_MAX, 2, CONFIRM_EVERY));
const _: () = assert!(is_longer(CONFIRM_EVERY, 1, EXTEND_EVERY));

struct State {
    agent: Addr<Agent>,
    view: RefCell<ClusterView>,
    session: Cell<SessionId>,
    /// The last session that was found to have ended, and the number under which another is asked
    /// for.
    again: Cell<(SessionId, u64)>,
    /// Of updates of chunks, and of operations of meta: meta keeps answers for so many of the
    /// latest.
    seq: Cell<u64>,
    op: Cell<u64>,
    open: Cell<bool>,
    /// How long a request is tried before its user gets an error.
    patience: Cell<Duration>,
    /// A session, and when mgmtd is known to have counted it as alive last.
    lived: Cell<(SessionId, Time)>,
    /// Sessions of this process, and the number of this list.
    own: RefCell<(Vec<SessionId>, u64)>,
    /// The meta server that answered last.
    meta: Cell<Option<RawAddr>>,
    silence: Silence,
    watchers: Watchers,
}

/// What is known of the answer to an operation of meta that is tried again.
struct KeptAnswer {
    /// Under which it goes.
    session: SessionId,
    /// When it is known to have been alive last: meta keeps the answer for some time from then on.
    lived: Option<Time>,
    /// An attempt may have been carried out, and its answer is not known here.
    doubtful: bool,
}

/// What a cluster lacks that cannot be used yet, and what to do.
fn incomplete(routing: &Routing) -> String {
    let chains = "no chains (run `t3fs-node make-chains`)";
    let lacks = match (routing.chains.is_empty(), routing.metas.is_empty()) {
        (true, true) => format!("{chains}, and no meta server has registered"),
        (true, false) => chains.to_owned(),
        (false, _) => "no meta server".to_owned(),
    };
    format!("the cluster is not complete: it has {lacks}")
}

/// Shared by the client's parts, and by meta for the removal of chunks.
#[derive(Clone)]
pub struct ClusterSession(Rc<State>);

impl ClusterSession {
    /// Opens a session and waits until chains and a meta server are known. Some of them may be
    /// down: requests that need those wait.
    pub async fn open(cx: &Cx, agent: Addr<Agent>, label: &str) -> Result<ClusterSession, FsError> {
        Self::open_when(cx, agent, label, true).await
    }

    /// The same for users of chunks alone: checks of the simulator.
    pub async fn open_chains(
        cx: &Cx,
        agent: Addr<Agent>,
        label: &str,
    ) -> Result<ClusterSession, FsError> {
        Self::open_when(cx, agent, label, false).await
    }

    async fn open_when(
        cx: &Cx,
        agent: Addr<Agent>,
        label: &str,
        needs_meta: bool,
    ) -> Result<ClusterSession, FsError> {
        let cluster = ClusterSession(Rc::new(State {
            agent,
            view: RefCell::default(),
            session: Cell::new(SessionId(0)),
            again: Cell::default(),
            seq: Cell::new(1),
            op: Cell::new(1),
            open: Cell::new(true),
            patience: Cell::new(super::IO_TIMEOUT),
            lived: Cell::new((SessionId(0), cx.now())),
            own: RefCell::default(),
            meta: Cell::new(None),
            silence: Silence::default(),
            watchers: Watchers::default(),
        }));
        let nonce = cx.rand();
        let mut retry = Retry::new(cx, OPEN_MAX);
        loop {
            let ask = OpenSession { label: label.into(), nonce };
            let asked = cx.now();
            match cx.ask(agent, ask).await {
                Ok(Ok(s)) => {
                    cluster.0.session.set(s);
                    cluster.0.lived.set((s, asked));
                    break;
                }
                other if !retry.again(cx, Slot::new()).await => {
                    return Err(FsError::Unavailable(format!("mgmtd gave no session: {other:?}")));
                }
                _ => {}
            }
        }
        loop {
            cluster.refresh(cx).await;
            let r = cluster.routing();
            let usable = (!needs_meta || !r.metas.is_empty()) && !r.chains.is_empty();
            if usable {
                break;
            }
            if !retry.again(cx, Slot::new()).await {
                cluster.close(cx).await;
                return Err(FsError::Unavailable(incomplete(&r)));
            }
        }
        let (state, long) = (Rc::downgrade(&cluster.0), cx.outlive());
        cx.spawn(async move {
            loop {
                long.sleep(EXTEND_EVERY).await;
                let Some(s) = state.upgrade().filter(|s| s.open.get()) else { return };
                let session = s.session.get();
                let lives = long.ask(s.agent, ExtendSession { session }).await;
                let cluster = ClusterSession(s);
                if lives == Ok(false) {
                    cluster.reopen(&long, session).await;
                }
                let (_, lived) = cluster.0.lived.get();
                match long.now().since(lived) < CONFIRM_EVERY {
                    true => cluster.refresh(&long).await,
                    false => drop(cluster.confirm(&long).await),
                }
            }
        });
        Ok(cluster)
    }

    /// The session has ended: requests from now on go under another one.
    async fn reopen(&self, cx: &Cx, ended: SessionId) {
        if self.0.session.get() != ended {
            return;
        }
        // Many may meet its end at the same time: all ask for the same one.
        let nonce = match self.0.again.get() {
            (of, nonce) if of == ended => nonce,
            _ => {
                tracing::error!("session {ended} has ended at mgmtd: opening another");
                cx.rand()
            }
        };
        self.0.again.set((ended, nonce));
        let again = OpenSession { label: "again".into(), nonce };
        let asked = cx.now();
        // No answer: whoever meets the ended session next comes here again.
        if let Ok(Ok(new)) = cx.ask(self.0.agent, again).await
            && self.0.session.get() == ended
        {
            self.0.session.set(new);
            self.0.lived.set((new, asked));
        }
    }

    pub async fn close(&self, cx: &Cx) {
        self.0.open.set(false);
        let session = self.0.session.get();
        // Should it not arrive, the session's lease runs out.
        let _ = cx.ask(self.0.agent, CloseSession { session }).await;
    }

    pub fn session(&self) -> SessionId {
        self.0.session.get()
    }

    pub fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.0.view.borrow().routing)
    }

    /// Which sessions live, as far as is known here.
    pub fn sessions(&self) -> Arc<Sessions> {
        Arc::clone(&self.0.view.borrow().sessions)
    }

    fn version(&self) -> ViewVersion {
        self.0.view.borrow().version
    }

    /// An id that no other operation of this client's at meta had.
    pub fn op(&self) -> RequestId {
        let seq = self.0.op.get();
        self.0.op.set(seq + 1);
        RequestId { session: self.0.session.get(), seq }
    }

    /// An id that no other update of chunks by this client had.
    pub fn request(&self) -> RequestId {
        let seq = self.0.seq.get();
        self.0.seq.set(seq + 1);
        RequestId { session: self.0.session.get(), seq }
    }

    /// Whether the session has not been closed.
    pub fn is_open(&self) -> bool {
        self.0.open.get()
    }

    /// Waits for news of the routing and of this process's sessions, up to the deadline; `now`:
    /// asks mgmtd first, and does not wait.
    ///
    /// # Errors
    /// `Unavailable` when the agent does not answer.
    pub async fn learn(&self, cx: &Cx, now: bool) -> Result<(), FsError> {
        let mut have = self.version();
        let (_, mut own_number) = *self.0.own.borrow();
        if now {
            if !self.confirm(cx).await {
                return Err(FsError::Unavailable("no mgmtd leads, or it cannot be reached".into()));
            }
            (have, own_number) = (self.version(), u64::MAX);
        }
        let ask = cx.ask(self.0.agent, WatchView { have, own_number }).await;
        let ViewNews { view, own, own_number } =
            ask.map_err(|e| FsError::Unavailable(format!("no news of the cluster: {e}")))?;
        *self.0.own.borrow_mut() = (own, own_number);
        if let Some(view) = view {
            self.adopt(view);
        }
        Ok(())
    }

    fn adopt(&self, view: ClusterView) {
        if view.version > self.version() {
            let old = self.0.view.replace(view);
            self.0.watchers.news(&old.routing, &self.routing());
        }
    }

    /// How full the storage nodes are, as they last said.
    pub async fn spaces(&self, cx: &Cx) -> Result<Vec<NodeSpaces>, FsError> {
        let mut retry = Retry::new(cx, self.patience());
        loop {
            if let Ok(Some(nodes)) = cx.ask(self.0.agent, GetSpaces).await {
                return Ok(nodes);
            }
            if !retry.again(cx, Slot::new()).await {
                return Err(FsError::Unavailable("no mgmtd says how full the cluster is".into()));
            }
        }
    }

    /// Whether a session was opened by this process.
    pub fn is_own(&self, session: SessionId) -> bool {
        session == self.session() || self.0.own.borrow().0.contains(&session)
    }

    /// Whether other processes have sessions, as far as is known here.
    pub fn has_others(&self) -> bool {
        self.sessions().alive.iter().any(|s| !self.is_own(*s))
    }

    /// The largest number of a session, as far as is known here.
    pub(super) fn newest_session(&self) -> SessionId {
        self.sessions().max
    }

    /// Whether another process may have had a session after this one.
    pub(super) fn had_others_since(&self, since: SessionId) -> bool {
        let newest = self.newest_session();
        let own = self.0.own.borrow();
        let new = |session: &SessionId| *session > since && *session <= newest;
        let unlisted = new(&self.session()) && !own.0.contains(&self.session());
        let own = own.0.iter().filter(|session| new(session)).count() as u64;
        newest.0.saturating_sub(since.0) > own + u64::from(unlisted)
    }

    /// Takes newer routing, if the agent has it.
    pub async fn refresh(&self, cx: &Cx) {
        self.fetch(cx, false).await;
    }

    /// Whether the agent has answered. If not, whoever needs newer routing comes back.
    async fn fetch(&self, cx: &Cx, fresh: bool) -> bool {
        let have = self.version();
        let answer = cx.within(FETCH_MAX).ask(self.0.agent, GetView { have, fresh }).await;
        let answered = answer.is_ok();
        if let Ok(Some(view)) = answer {
            self.adopt(view);
        }
        answered
    }

    /// Asks mgmtd for newer routing, and whether the session lives. `false`: no primary answers,
    /// and what is known here may be old.
    async fn confirm(&self, cx: &Cx) -> bool {
        let begun = cx.now();
        // An agent that does not reach the primary tries until the end of the question: only if
        // that is not cut short by the asker's own deadline does an early answer mean anything.
        let answered = self.fetch(&cx.outlive(), true).await;
        let answered = answered && cx.now().since(begun) + FETCH_MARGIN < FETCH_MAX;
        let session = self.session();
        if answered && self.sessions().is_alive(session) {
            self.0.lived.set((session, begun));
        }
        answered
    }

    /// Sets how long requests are tried; `None`: for ever.
    pub fn set_patience(&self, patience: Option<Duration>) {
        self.0.patience.set(patience.unwrap_or(FOR_EVER));
    }

    /// How long requests are tried; `None`: for ever.
    pub(super) fn io_timeout(&self) -> Option<Duration> {
        Some(self.patience()).filter(|patience| *patience < FOR_EVER)
    }

    /// How long requests are tried.
    pub(super) fn patience(&self) -> Duration {
        self.0.patience.get()
    }

    /// Fills with news of the subject, which is looked for as long as somebody waits.
    fn watch(&self, cx: &Cx, subject: Subject) -> Slot<()> {
        let slot = self.0.watchers.watch(subject);
        if !self.0.watchers.looking.replace(true) {
            let (state, long) = (Rc::downgrade(&self.0), cx.outlive());
            cx.spawn(async move {
                loop {
                    long.sleep(LOOK_EVERY).await;
                    let Some(s) = state.upgrade() else { return };
                    if s.watchers.idle() {
                        s.watchers.looking.set(false);
                        return;
                    }
                    ClusterSession(s).refresh(&long).await;
                }
            });
        }
        slot
    }

    /// The meta server to ask: the one that answered last, else any but the one that did not.
    fn pick_meta(&self, cx: &Cx, not: Option<RawAddr>) -> Option<RawAddr> {
        let metas = &self.routing().metas;
        if let Some(last) = self.0.meta.get().filter(|m| metas.contains(m)) {
            return Some(last);
        }
        let others: Vec<RawAddr> = metas.iter().copied().filter(|m| Some(*m) != not).collect();
        match others.len() {
            0 => metas.first().copied(),
            n => others.get(cx.rand() as usize % n).copied(),
        }
    }

    /// Asks a meta server until one answers.
    pub async fn meta<M, T>(&self, cx: &Cx, message: M) -> Result<T, FsError>
    where
        M: t3fs_runtime::Ask<Meta, Reply = Result<T, MetaError>> + Clone,
    {
        self.ask_meta(cx, message, None).await
    }

    /// The same with an operation that must not be carried out twice, by its [id](Self::op). It is
    /// repeated only while meta knows what it has answered: after that, nobody can tell whether an
    /// attempt without an answer was carried out, and the user is told so.
    pub(super) async fn meta_once<M, T>(
        &self,
        cx: &Cx,
        op: RequestId,
        message: M,
    ) -> Result<T, FsError>
    where
        M: t3fs_runtime::Ask<Meta, Reply = Result<T, MetaError>> + Clone,
    {
        let (of, lived) = self.0.lived.get();
        let lived = (of == op.session).then_some(lived);
        let kept = KeptAnswer { session: op.session, lived, doubtful: false };
        self.ask_meta(cx, message, Some(kept)).await
    }

    async fn ask_meta<M, T>(
        &self,
        cx: &Cx,
        message: M,
        mut once: Option<KeptAnswer>,
    ) -> Result<T, FsError>
    where
        M: t3fs_runtime::Ask<Meta, Reply = Result<T, MetaError>> + Clone,
    {
        let mut retry = Retry::new(cx, self.0.patience.get());
        let began = cx.now();
        let mut failed = None;
        loop {
            let may_go = match &mut once {
                Some(kept) if kept.doubtful => self.may_repeat(cx, kept).await?,
                Some(_) | None => true,
            };
            let to = self.pick_meta(cx, failed);
            let news = self.watch(cx, Subject::Meta(to));
            let why = match to {
                _ if !may_go => "no mgmtd says whether the session lives".to_owned(),
                None => "no meta server is known".to_owned(),
                Some(to) => {
                    let attempt = cx.within(ATTEMPT);
                    let ask = attempt.ask(Addr::<Meta>::from_raw(to), message.clone());
                    let gone = Err(AskError::Unknown("the meta server is gone"));
                    match before(ask, news.clone()).await.unwrap_or(gone) {
                        Ok(Err(MetaError::Unavailable(why))) => {
                            once.iter_mut().for_each(|kept| kept.doubtful = true);
                            why
                        }
                        Ok(reply) => {
                            self.0.meta.set(Some(to));
                            self.0.silence.end("meta");
                            return reply.map_err(FsError::from);
                        }
                        Err(e @ AskError::NotSent(_)) => e.to_string(),
                        Err(e @ AskError::Unknown(_)) => {
                            once.iter_mut().for_each(|kept| kept.doubtful = true);
                            e.to_string()
                        }
                    }
                }
            };
            (failed, _) = (to, self.0.meta.take());
            self.0.silence.lasts("meta", cx.now().since(began), cx.now(), &why);
            if !retry.again(cx, news).await {
                return Err(FsError::Unavailable(format!("meta: {why}")));
            }
            self.refresh(cx).await;
        }
    }

    /// Whether meta surely has the answer to an earlier attempt, if there was one. `false`: whether
    /// the session lives is not known now.
    ///
    /// # Errors
    /// `Unavailable` when the session has ended so long ago that the answer may be gone.
    async fn may_repeat(&self, cx: &Cx, kept: &mut KeptAnswer) -> Result<bool, FsError> {
        let session = kept.session;
        let (of, lived) = self.0.lived.get();
        if of == session {
            kept.lived = Some(lived);
        }
        if kept.lived.is_some_and(|lived| cx.now().since(lived) < REPEAT_MAX) {
            return Ok(true);
        }
        let asked = cx.now();
        if !self.confirm(cx).await {
            return Ok(false);
        }
        if !self.sessions().is_alive(session) {
            return Err(FsError::Unavailable(format!(
                "meta: session {session} has ended, and whether this was carried out under it \
                 nobody knows any more"
            )));
        }
        kept.lived = Some(asked);
        Ok(true)
    }

    /// The chain that holds chunk `index` of a file whose layout is known here
    /// ([`learn_layout`](Self::learn_layout)).
    pub fn chain_of(&self, layout: &Layout, index: u32) -> Result<ChainId, FsError> {
        layout::chain_of(&self.routing(), layout, index).map_err(|why| FsError::Io(why.to_string()))
    }

    /// All chains of a file, each once.
    pub(super) async fn chains_of(
        &self,
        cx: &Cx,
        layout: &Layout,
    ) -> Result<Vec<ChainId>, FsError> {
        self.learn_layout(cx, layout).await?;
        let chains = layout::chains_of(&self.routing(), layout);
        let mut chains = chains.map_err(|why| FsError::Io(why.to_string()))?;
        chains.sort_unstable();
        chains.dedup();
        Ok(chains)
    }

    /// Waits until the chains of a file are known: another client may have made it over a chain
    /// table that is newer than the routing here.
    pub(super) async fn learn_layout(&self, cx: &Cx, layout: &Layout) -> Result<(), FsError> {
        let missing = || match layout::chain_of(&self.routing(), layout, 0) {
            Err(why @ Unplaced::NoTable { .. }) => Some(why),
            Ok(_) | Err(_) => None,
        };
        if missing().is_none() {
            return Ok(());
        }
        let mut retry = Retry::new(cx, self.patience());
        loop {
            self.fetch(cx, true).await;
            let Some(why) = missing() else { return Ok(()) };
            if !retry.again(cx, Slot::new()).await {
                return Err(FsError::Unavailable(why.to_string()));
            }
        }
    }

    fn pick(
        &self,
        chain: ChainId,
        choose: impl FnOnce(&Chain) -> Option<RawAddr>,
    ) -> Option<(Addr<Storage>, ChainVersion, u8)> {
        let r = self.routing();
        let c = r.chain(chain)?;
        Some((Addr::from_raw(choose(c)?), c.version, c.writers().count().saturating_sub(1) as u8))
    }

    /// Runs one storage request until it is answered for good. `choose` is told whom to avoid: who
    /// failed last, and replicas whose bytes are bad, as long as there are others.
    async fn storage<T>(
        &self,
        cx: &Cx,
        chain: ChainId,
        mut choose: impl FnMut(&Chain, &[RawAddr]) -> Option<RawAddr>,
        mut attempt: impl AsyncFnMut(
            Addr<Storage>,
            ChainVersion,
            u8,
        ) -> Result<Result<T, StorageError>, AskError>,
    ) -> Result<T, FsError> {
        let mut retry = Retry::new(cx, self.0.patience.get());
        let (mut bad, mut failed) = (Vec::new(), None);
        let (began, session) = (cx.now(), self.session());
        loop {
            let news = self.watch(cx, Subject::Chain(chain));
            let mut fresh = false;
            let avoid: Vec<RawAddr> = bad.iter().copied().chain(failed).collect();
            let why = match self.pick(chain, |c| choose(c, &avoid)) {
                None => format!("chain {chain} has no target that serves"),
                Some((to, version, hops)) => {
                    failed = Some(to.raw());
                    let changed = Err(AskError::Unknown("the chain has changed"));
                    let answer = before(attempt(to, version, hops), news.clone()).await;
                    match answer.unwrap_or(changed) {
                        Ok(Ok(v)) => {
                            self.0.silence.end("storage");
                            return Ok(v);
                        }
                        Ok(Err(e @ StorageError::StaleChain { .. })) => {
                            fresh = true;
                            e.to_string()
                        }
                        // Storage has heard of it, and this client has not: it goes on when it has.
                        Ok(Err(e @ StorageError::SessionEnded))
                            if self.session() == session && self.sessions().is_alive(session) =>
                        {
                            fresh = true;
                            e.to_string()
                        }
                        Ok(Err(
                            e @ (StorageError::BehindChain { .. }
                            | StorageError::WrongTarget
                            | StorageError::NotReady),
                        )) => e.to_string(),
                        Ok(Err(e @ (StorageError::Corrupt(_) | StorageError::Failed(_))))
                            if !bad.contains(&to.raw()) =>
                        {
                            bad.push(to.raw());
                            let other = |c: &Chain| choose(c, &bad).filter(|a| !bad.contains(a));
                            if self.pick(chain, other).is_none() {
                                return Err(e.into());
                            }
                            tracing::warn!("another replica of chain {chain} is asked: {e}");
                            continue;
                        }
                        Ok(Err(e)) => return Err(e.into()),
                        Err(e) => e.to_string(),
                    }
                }
            };
            self.0.silence.lasts("storage", cx.now().since(began), cx.now(), &why);
            if !retry.again(cx, news).await {
                return Err(FsError::Unavailable(format!("chain {chain}: {why}")));
            }
            self.fetch(cx, fresh).await;
        }
    }

    /// One update of one chunk, through the head of its chain.
    pub async fn update(
        &self,
        cx: &Cx,
        chain: ChainId,
        chunk: ChunkId,
        kind: UpdateKind,
        data: t3fs_runtime::Bulk,
        request: RequestId,
    ) -> Result<Updated, FsError> {
        let cx = &cx.within(UPDATE_MAX);
        let done = self.storage(cx, chain, head, async |to, chain_version, hops| {
            let data = data.clone();
            let (version, born) = (None, chain_version);
            let u = UpdateChunk { chunk, chain_version, kind, data, request, version, born, hops };
            cx.ask(to, u).await
        });
        let done = done.await;
        if done.is_err() {
            self.has_ended(cx, request).await;
        }
        done
    }

    /// After a failure: whether the session of the request has ended, and there is another, under
    /// which it may go again.
    pub(super) async fn has_ended(&self, cx: &Cx, request: RequestId) -> bool {
        if !self.sessions().is_alive(request.session) {
            self.reopen(cx, request.session).await;
        }
        self.session() != request.session
    }

    /// Reads one chunk from any replica that serves.
    pub async fn read(
        &self,
        cx: &Cx,
        chain: ChainId,
        chunk: ChunkId,
        offset: u32,
        len: u32,
    ) -> Result<Option<ChunkData>, FsError> {
        let any = |c: &Chain, not: &[RawAddr]| {
            if !not.is_empty() {
                let others: Vec<RawAddr> = serving(c).filter(|a| !not.contains(a)).collect();
                if let Some(n) = (cx.rand() as usize).checked_rem(others.len()) {
                    return Some(others[n]);
                }
            }
            self.reader(c, chunk)
        };
        self.storage(cx, chain, any, async |to, chain_version, _| {
            let attempt = cx.within(READ_ATTEMPT);
            attempt.ask(to, ReadChunk { chunk, chain_version, offset, len }).await
        })
        .await
    }

    /// Which chunks of a file hold bytes on one chain, from any replica that serves.
    pub async fn extents(
        &self,
        cx: &Cx,
        chain: ChainId,
        inode: InodeId,
        from: u32,
        limit: u32,
    ) -> Result<Extents, FsError> {
        let any = |c: &Chain, not: &[RawAddr]| {
            serving(c).find(|a| !not.contains(a)).or_else(|| serving(c).next())
        };
        self.storage(cx, chain, any, async |to, chain_version, _| {
            cx.within(ATTEMPT).ask(to, FileExtents { inode, chain_version, from, limit }).await
        })
        .await
    }

    /// The replica that this client reads a chunk from: always the same, so that a hint finds its
    /// read, and another one for other clients and chunks.
    fn reader(&self, c: &Chain, chunk: ChunkId) -> Option<RawAddr> {
        let all: Vec<RawAddr> = serving(c).collect();
        let mixed = chunk.inode.0 ^ u64::from(chunk.index) << 32 ^ self.session().0 << 16;
        let mixed = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        all.get((mixed % all.len().max(1) as u64) as usize).copied()
    }

    /// Says that this range will be read next; promises nothing.
    pub fn read_ahead(&self, cx: &Cx, chain: ChainId, chunk: ChunkId, offset: u32, len: u32) {
        let routing = self.routing();
        let Some(chain) = routing.chain(chain) else { return };
        let Some(to) = self.reader(chain, chunk) else { return };
        let hint = ReadAhead { chunk, chain_version: chain.version, offset, len };
        // Without a credit the target is busy enough.
        let _ = cx.tell(Addr::<Storage>::from_raw(to), hint);
    }

    /// Removes a file's chunks from `from` on, on one chain.
    pub async fn remove(
        &self,
        cx: &Cx,
        chain: ChainId,
        inode: InodeId,
        from: u32,
    ) -> Result<(), FsError> {
        loop {
            let request = self.request();
            let removed = self
                .storage(cx, chain, head, async |to, chain_version, _| {
                    let inodes = vec![inode];
                    cx.ask(to, RemoveChunks { inodes, chain_version, from, limit: 256, request })
                        .await
                })
                .await;
            match removed {
                Ok(removed) if removed.left.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(_) if self.has_ended(cx, request).await => {}
                Err(e) => return Err(e),
            }
        }
    }
}

fn serving(c: &Chain) -> impl Iterator<Item = RawAddr> + '_ {
    let serving = c.targets.iter().filter(|t| t.state == TargetState::Serving);
    serving.filter_map(|t| t.addr)
}

fn head(c: &Chain, _: &[RawAddr]) -> Option<RawAddr> {
    c.writers().next()?.addr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cluster_lacks_is_said_with_what_to_do() {
        let with = |chains: usize, metas: usize| {
            let chain = Chain { id: ChainId(1), version: ChainVersion(1), targets: vec![] };
            let (chains, metas) = (vec![chain; chains], vec![RawAddr::default(); metas]);
            incomplete(&Routing { chains, metas, ..Routing::default() })
        };
        assert!(with(0, 1).ends_with("it has no chains (run `t3fs-node make-chains`)"));
        assert!(with(1, 0).ends_with("it has no meta server"));
        assert!(with(0, 0).contains("make-chains") && with(0, 0).contains("no meta server"));
    }
}
