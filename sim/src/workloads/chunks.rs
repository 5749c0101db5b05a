//! One client of chunks: draws actions, one after another, and records what it was told.

use core::time::Duration;

use t3fs_actors::client::{ClusterSession, FsError};
use t3fs_actors::proto::ids::{ChainId, ChunkId, InodeId};
use t3fs_actors::proto::storage::UpdateKind;
use t3fs_runtime::{Bulk, Cx};

use super::cells::Cells;
use crate::oracles::history::{Action, History, Told};
use crate::rng::Rng;
use crate::world::Sim;

#[derive(Clone, Debug)]
pub struct ChunkClient {
    pub me: u32,
    pub chains: Vec<ChainId>,
    /// Of each chain.
    pub chunks: u64,
    pub ops: u64,
    /// Longest pause, which follows every fourth action.
    pub pause: Duration,
    /// A chunk has up to eight cells.
    pub cell_bytes: usize,
}

impl ChunkClient {
    fn cells(&self) -> Cells {
        Cells {
            cell_bytes: self.cell_bytes,
            cells_max: 8,
            write_ppm: 450_000,
            truncate_ppm: 50_000,
            remove_ppm: 50_000,
        }
    }

    /// An outcome that stays unknown is no error; an answer that no chunk can give is one.
    pub async fn run(
        &self,
        cx: &Cx,
        sim: &Sim,
        cluster: &ClusterSession,
        rng: &Rng,
        history: &History,
    ) -> Result<(), String> {
        let me = self.me;
        for n in 0..self.ops {
            let which = rng.below(self.chunks * self.chains.len() as u64);
            let chain = self.chains[(which / self.chunks) as usize];
            let chunk = ChunkId { inode: InodeId(9), index: which as u32 };
            let value = u64::from(me + 1) << 32 | (n + 1);
            let action = self.cells().draw(rng, value);
            let id = history.invoke(which, me, action.clone());
            match self.act(cx, cluster, chain, chunk, &action).await {
                Ok(told) => {
                    sim.note(&[u64::from(me), n], format_args!("client {me} op {n}: {told:?}"));
                    history.returned(id, told);
                }
                // A full disk may have been met by a second attempt: nothing is known of the first.
                Err(FsError::Unavailable(_) | FsError::NoSpace) => {}
                Err(e) => return Err(format!("client {me}, {action:?} of {chunk}: {e}")),
            }
            if rng.below(4) == 0 {
                let most = self.pause.as_millis() as u64;
                cx.sleep(Duration::from_millis(rng.below(most.max(1)))).await;
            }
        }
        Ok(())
    }

    async fn act(
        &self,
        cx: &Cx,
        cluster: &ClusterSession,
        chain: ChainId,
        chunk: ChunkId,
        action: &Action,
    ) -> Result<Told, FsError> {
        let cells_of = self.cells();
        let bytes_of = |cell: u32| cell * cells_of.cell_bytes as u32;
        let (kind, data) = match action {
            Action::Read { cells } => {
                let (from, len) = (bytes_of(cells.start), bytes_of(cells.len() as u32));
                // Some reads were foreseen, some of those long before.
                if cx.rand().is_multiple_of(3) {
                    cluster.read_ahead(cx, chain, chunk, from, len);
                }
                let Some(d) = cluster.read(cx, chain, chunk, from, len).await? else {
                    return Ok(Told::absent());
                };
                let torn = |e| FsError::Io(format!("version {}: {e}", d.version));
                // Versions jump when a chunk is made anew, so order comes from values alone.
                let seen = cells_of.understand(&d.data).map_err(torn)?;
                return Ok(Told { version: None, cells: Some(seen) });
            }
            Action::Write { cells, value } => {
                let (offset, data) = cells_of.bytes(cells, *value);
                (UpdateKind::Write { offset: offset as u32 }, Bulk::from(data))
            }
            Action::Truncate { len } => {
                (UpdateKind::Truncate { len: bytes_of(*len) }, Bulk::default())
            }
            Action::Remove => (UpdateKind::Remove, Bulk::default()),
        };
        if cx.rand().is_multiple_of(3) {
            cluster.read_ahead(cx, chain, chunk, 0, bytes_of(cells_of.cells_max));
        }
        cluster.update(cx, chain, chunk, kind, data, cluster.request()).await?;
        Ok(Told::default())
    }
}

/// What a broken history says, with all of the chunk that broke.
pub fn check(history: &History) -> Result<(), String> {
    history.check().map(drop).map_err(|v| {
        let all = v.chunk.map(|c| history.chunk(c)).unwrap_or_default();
        let lines: Vec<String> = all.iter().map(|o| format!("  {o:?}")).collect();
        format!("{v}\nall of the chunk:\n{}", lines.join("\n"))
    })
}
