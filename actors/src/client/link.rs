//! The client's way to the cluster: routing, a session, and asks that are tried again.
//!
//! A retry carries the same request id as the first attempt, so it cannot take effect twice, and
//! goes to whoever today's routing names. After [`PATIENCE`] the user gets an error.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use t3fs_runtime::{Addr, AskError, Cx, Handle, RawAddr, Time};

use super::FsError;
use crate::agent::Agent;
use crate::meta::Meta;
use crate::proto::agent::GetRouting;
use crate::proto::ids::{ChainId, ChainVersion, ChunkId, InodeId, RequestId, SessionId};
use crate::proto::meta::{Layout, MetaError, Stripes};
use crate::proto::mgmtd::{Chain, CloseSession, ExtendSession, OpenSession, Routing, TargetState};
use crate::proto::storage::{
    ChunkData, ReadChunk, RemoveChunks, StorageError, UpdateChunk, UpdateKind, Updated,
};
use crate::storage::Storage;

/// How long a request is tried before its user gets an error.
pub const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(500);
const EXTEND_EVERY: Duration = Duration::from_secs(10);

struct State {
    agent: Addr<Agent>,
    routing: RefCell<Rc<Routing>>,
    session: Cell<SessionId>,
    seq: Cell<u64>,
    open: Cell<bool>,
}

/// Shared by the client's parts, and by meta for the removal of chunks.
#[derive(Clone)]
pub struct Link(Rc<State>);

/// Pauses that grow, until patience ends.
struct Retry {
    until: Time,
    pause: Duration,
}

impl Retry {
    fn new(cx: &Cx) -> Retry {
        Retry { until: cx.deadline().min(cx.now() + PATIENCE), pause: PAUSE_MIN }
    }

    /// `false` when there is no time left.
    async fn again(&mut self, cx: &Cx) -> bool {
        if cx.now() + self.pause >= self.until {
            return false;
        }
        let jitter = cx.rand() % (self.pause.as_micros() as u64 / 2).max(1);
        cx.sleep(self.pause + Duration::from_micros(jitter)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

impl Link {
    /// Opens a session and waits until all chains and a meta server can be reached.
    pub async fn open(cx: &Cx, agent: Addr<Agent>, label: &str) -> Result<Link, FsError> {
        Self::open_when(cx, agent, label, true).await
    }

    /// The same for users of chunks alone.
    pub async fn open_chains(cx: &Cx, agent: Addr<Agent>, label: &str) -> Result<Link, FsError> {
        Self::open_when(cx, agent, label, false).await
    }

    async fn open_when(
        cx: &Cx,
        agent: Addr<Agent>,
        label: &str,
        needs_meta: bool,
    ) -> Result<Link, FsError> {
        let link = Link(Rc::new(State {
            agent,
            routing: RefCell::default(),
            session: Cell::new(SessionId(0)),
            seq: Cell::new(1),
            open: Cell::new(true),
        }));
        let nonce = cx.rand();
        let mut retry = Retry::new(cx);
        loop {
            let ask = OpenSession { label: label.into(), nonce };
            match cx.ask(agent, ask).await {
                Ok(Ok(s)) => {
                    link.0.session.set(s);
                    break;
                }
                other if !retry.again(cx).await => {
                    return Err(FsError::Unavailable(format!("mgmtd gave no session: {other:?}")));
                }
                _ => {}
            }
        }
        loop {
            link.refresh(cx).await;
            let r = link.routing();
            let usable = (!needs_meta || !r.metas.is_empty())
                && !r.chains.is_empty()
                && r.chains.iter().all(|c| c.writers().all(|t| t.addr.is_some()));
            if usable {
                break;
            }
            if !retry.again(cx).await {
                return Err(FsError::Unavailable(format!(
                    "the cluster is not complete: {} chains, {} meta servers",
                    r.chains.len(),
                    r.metas.len()
                )));
            }
        }
        let (state, long) = (Rc::downgrade(&link.0), cx.outlive());
        cx.spawn(async move {
            loop {
                long.sleep(EXTEND_EVERY).await;
                let Some(s) = state.upgrade().filter(|s| s.open.get()) else { return };
                let session = s.session.get();
                if let Ok(false) = long.ask(s.agent, ExtendSession { session }).await {
                    tracing::error!("session {session} ended at mgmtd: opening another");
                    let again = OpenSession { label: "again".into(), nonce: long.rand() };
                    if let Ok(Ok(new)) = long.ask(s.agent, again).await {
                        s.session.set(new);
                    }
                }
                Link(s).refresh(&long).await;
            }
        });
        Ok(link)
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

    pub fn routing(&self) -> Rc<Routing> {
        Rc::clone(&self.0.routing.borrow())
    }

    /// A request id that no request of this client had.
    pub fn request(&self) -> RequestId {
        let seq = self.0.seq.get();
        self.0.seq.set(seq + 1);
        RequestId { session: self.0.session.get(), seq }
    }

    /// Takes newer routing, if the agent has it.
    pub async fn refresh(&self, cx: &Cx) {
        let have = self.routing().version;
        // No answer: whoever needs newer routing comes back.
        if let Ok(Some(r)) = cx.ask(self.0.agent, GetRouting { have, fresh: false }).await
            && r.version > self.routing().version
        {
            *self.0.routing.borrow_mut() = Rc::new(r);
        }
    }

    /// Asks a meta server until one answers.
    pub async fn meta<M, T>(&self, cx: &Cx, message: M) -> Result<T, FsError>
    where
        M: t3fs_runtime::Ask<Meta, Reply = Result<T, MetaError>> + Clone,
        Meta: Handle<M>,
    {
        let mut retry = Retry::new(cx);
        let mut turn = 0;
        loop {
            let metas = self.routing().metas.clone();
            let why = match metas.get(turn % metas.len().max(1)) {
                None => "no meta server is known".to_owned(),
                Some(&to) => match cx.ask(Addr::<Meta>::from_raw(to), message.clone()).await {
                    Ok(Err(MetaError::Unavailable(why))) => why,
                    Ok(reply) => return reply.map_err(FsError::from),
                    Err(e @ (AskError::NotSent(_) | AskError::Unknown(_))) => e.to_string(),
                },
            };
            turn += 1;
            if !retry.again(cx).await {
                return Err(FsError::Unavailable(format!("meta: {why}")));
            }
            self.refresh(cx).await;
        }
    }

    /// The chain that holds chunk `index` of a file.
    pub fn chain_of(&self, layout: &Layout, index: u32) -> Result<ChainId, FsError> {
        layout_chain(&self.routing(), layout, index)
            .ok_or_else(|| FsError::Io("the file's chain table is not in the routing".into()))
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

    /// Runs one storage request until it is answered for good.
    async fn storage<T>(
        &self,
        cx: &Cx,
        chain: ChainId,
        mut choose: impl FnMut(&Chain) -> Option<RawAddr>,
        mut attempt: impl AsyncFnMut(
            Addr<Storage>,
            ChainVersion,
            u8,
        ) -> Result<Result<T, StorageError>, AskError>,
    ) -> Result<T, FsError> {
        let mut retry = Retry::new(cx);
        loop {
            let why = match self.pick(chain, &mut choose) {
                None => format!("chain {chain} has no target that serves"),
                Some((to, version, hops)) => match attempt(to, version, hops).await {
                    Ok(Ok(v)) => return Ok(v),
                    Ok(Err(
                        e @ (StorageError::StaleChain { .. }
                        | StorageError::BehindChain { .. }
                        | StorageError::WrongTarget
                        | StorageError::NotReady),
                    )) => e.to_string(),
                    Ok(Err(e)) => return Err(e.into()),
                    Err(e) => e.to_string(),
                },
            };
            if !retry.again(cx).await {
                return Err(FsError::Unavailable(format!("chain {chain}: {why}")));
            }
            self.refresh(cx).await;
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
        self.storage(cx, chain, head, async |to, chain_version, hops| {
            let data = data.clone();
            let u = UpdateChunk { chunk, chain_version, kind, data, request, version: None, hops };
            cx.ask(to, u).await
        })
        .await
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
        let any = |c: &Chain| {
            let serving =
                || c.targets.iter().filter(|t| t.state == TargetState::Serving && t.addr.is_some());
            match serving().count() {
                0 => None,
                1 => serving().next()?.addr,
                n => serving().nth(cx.rand() as usize % n)?.addr,
            }
        };
        self.storage(cx, chain, any, async |to, chain_version, _| {
            cx.ask(to, ReadChunk { chunk, chain_version, offset, len }).await
        })
        .await
    }

    /// Removes a file's chunks from `from` on, on one chain.
    pub async fn remove(
        &self,
        cx: &Cx,
        chain: ChainId,
        inode: InodeId,
        from: u32,
        request: RequestId,
    ) -> Result<(), FsError> {
        loop {
            let removed = self
                .storage(cx, chain, head, async |to, chain_version, _| {
                    cx.ask(to, RemoveChunks { inode, chain_version, from, limit: 256, request })
                        .await
                })
                .await?;
            if !removed.more {
                return Ok(());
            }
        }
    }
}

fn head(c: &Chain) -> Option<RawAddr> {
    c.writers().next()?.addr
}

/// The chain that holds chunk `index` of a file with this layout.
pub fn layout_chain(routing: &Routing, layout: &Layout, index: u32) -> Option<ChainId> {
    match &layout.stripes {
        Stripes::List { chains } => chains.get(index as usize % chains.len().max(1)).copied(),
        Stripes::Range { table, table_version, base, count, seed: _ } => {
            let t = routing.table(*table, *table_version)?;
            let at = u64::from(*base) + u64::from(index % (*count).max(1));
            t.chains.get((at % t.chains.len().max(1) as u64) as usize).copied()
        }
    }
}

/// All chains that may hold chunks of a file with this layout, each once.
pub fn layout_chains(routing: &Routing, layout: &Layout) -> Vec<ChainId> {
    let count = match &layout.stripes {
        Stripes::List { chains } => chains.len() as u32,
        Stripes::Range { count, .. } => *count,
    };
    let mut all: Vec<ChainId> =
        (0..count).filter_map(|i| layout_chain(routing, layout, i)).collect();
    all.sort();
    all.dedup();
    all
}
