//! Many chunks of one file at once, for the check `chain`: written in one burst that nobody tries
//! again while the head is cut off from the next replica and then goes down, so that many pending
//! updates wait for the head's return; and removed in small bites at the end.

use core::time::Duration;
use t3fs_actors::proto::storage::Storage;

use t3fs_actors::client::ClusterSession;
use t3fs_actors::proto::ids::{ChainId, ChunkId, InodeId};
use t3fs_actors::proto::mgmtd::Chain;
use t3fs_actors::proto::storage::{
    FileExtents, ListInodes, RemoveChunks, StorageError, UpdateKind,
};
use t3fs_runtime::{Addr, Bulk, Cx, NodeId, join_all};

use crate::rng::Rng;
use crate::world::{Crash, Sim};

/// The file that the burst writes.
const BURST: InodeId = InodeId(10);
const WIDTH: u32 = 40;
/// The file that is written and removed when all is well.
const LAST: InodeId = InodeId(11);
const LAST_CHUNKS: u32 = 8;
/// Chunks removed at a time.
const BITE: u32 = 3;

async fn write(
    cx: &Cx,
    cluster: &ClusterSession,
    chain: ChainId,
    chunk: ChunkId,
    len: usize,
) -> bool {
    let data = Bulk::from(vec![chunk.index as u8 + 1; len]);
    let kind = UpdateKind::Write { offset: 0 };
    cluster.update(cx, chain, chunk, kind, data, cluster.request()).await.is_ok()
}

/// Cuts the head off from the next replica, writes many chunks there with little patience, and lets
/// it go down and come back.
pub(super) async fn burst(
    cx: Cx,
    sim: Sim,
    cluster: ClusterSession,
    rng: Rng,
    chain: ChainId,
    head: [NodeId; 2],
) {
    cx.sleep(Duration::from_millis(500 + rng.below(5_000))).await;
    sim.part(&[head[0]], &[head[1]]);
    let hasty = cx.within(Duration::from_millis(200));
    let chunks = (0..WIDTH).map(|index| ChunkId { inode: BURST, index });
    join_all(chunks.map(|c| write(&hasty, &cluster, chain, c, 600))).await;
    let how = if rng.coin() { Crash::Power } else { Crash::Process };
    sim.crash(head[0], how);
    let back = sim.now_us() + 1 + rng.below(400_000);
    sim.at(back, move |sim| sim.restart(head[0]));
    sim.at(back, |sim| sim.rejoin());
}

/// When all is well: what was written is told, as it is, by each replica, and what was removed is
/// gone from all of them.
pub(super) async fn write_and_remove(
    cx: &Cx,
    cluster: &ClusterSession,
    chain: ChainId,
) -> Result<(), String> {
    for index in 0..LAST_CHUNKS {
        let mut tries = 0;
        // A target whose disk was full looks now and then whether it still is.
        while !write(cx, cluster, chain, ChunkId { inode: LAST, index }, 100 + index as usize).await
        {
            tries += 1;
            if tries == 100 {
                return Err(format!("chunk {index} could not be written in the calm"));
            }
            cx.sleep(Duration::from_millis(100)).await;
        }
    }
    let want: Vec<(u32, u32)> = (0..LAST_CHUNKS).map(|i| (i, 100 + i)).collect();
    extents(cx, cluster, chain, LAST, &want).await?;
    for inode in [BURST, LAST] {
        remove(cx, cluster, chain, inode).await?;
        extents(cx, cluster, chain, inode, &[]).await?;
    }
    Ok(())
}

async fn remove(
    cx: &Cx,
    cluster: &ClusterSession,
    chain: ChainId,
    inode: InodeId,
) -> Result<(), String> {
    let mut request = cluster.request();
    for _ in 0..100 {
        let routing = cluster.routing();
        let chain = routing.chain(chain).ok_or("the chain is gone")?;
        let head = chain.targets[0].addr.ok_or("the head is nowhere")?;
        let (inodes, chain_version) = (vec![inode], chain.version);
        let m = RemoveChunks { inodes, chain_version, from: 0, limit: BITE, request };
        match cx.ask(Addr::<Storage>::from_raw(head), m).await {
            Ok(Ok(r)) if r.left.is_empty() => return Ok(()),
            Ok(Ok(_)) => request = cluster.request(), // of the next page
            _ => {
                cx.sleep(Duration::from_millis(100)).await;
                cluster.refresh(cx).await;
            }
        }
    }
    Err(format!("inode {inode} is never removed"))
}

/// Whether every replica says that the file has just these chunks.
async fn extents(
    cx: &Cx,
    cluster: &ClusterSession,
    chain: ChainId,
    inode: InodeId,
    want: &[(u32, u32)],
) -> Result<(), String> {
    let replicas = cluster.routing().chain(chain).ok_or("the chain is gone")?.targets.len();
    for n in 0..replicas {
        let ask = async |c: &Chain, target| {
            let m = FileExtents { inode, chain_version: c.version, from: 0, limit: 100 };
            cx.ask(target, m).await.ok()
        };
        let told = patient(cx, cluster, chain, n, ask).await?;
        let stored = want.iter().map(|c| u64::from(c.1)).sum::<u64>();
        if (&told.chunks[..], told.stored, told.last) != (want, stored, want.last().copied()) {
            return Err(format!("replica {n} has {told:?} of inode {inode}, not {want:?}"));
        }
        let m = ListInodes { from: InodeId(0), limit: 100 };
        let ask = async |_: &Chain, target| cx.ask(target, m).await.ok();
        let listed = patient(cx, cluster, chain, n, ask).await?;
        if listed.contains(&inode) == want.is_empty() {
            return Err(format!("replica {n} lists {listed:?}, inode {inode} {want:?}"));
        }
    }
    Ok(())
}

/// Asks a replica, wherever it is by now, until there is an answer.
async fn patient<T>(
    cx: &Cx,
    cluster: &ClusterSession,
    chain: ChainId,
    replica: usize,
    ask: impl AsyncFn(&Chain, Addr<Storage>) -> Option<Result<T, StorageError>>,
) -> Result<T, String> {
    let mut last = None;
    for _ in 0..100 {
        let routing = cluster.routing();
        let chain = routing.chain(chain).ok_or("the chain is gone")?;
        if let Some(addr) = chain.targets[replica].addr {
            match ask(chain, Addr::from_raw(addr)).await {
                Some(Ok(told)) => return Ok(told),
                Some(Err(e)) => last = Some(e),
                None => {}
            }
        }
        cx.sleep(Duration::from_millis(100)).await;
        cluster.refresh(cx).await;
    }
    Err(format!("no answer in the calm: {last:?}"))
}
