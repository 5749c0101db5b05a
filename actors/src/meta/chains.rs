//! Asking chains: whoever serves them today, again after a failure with newer routing.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use futures::StreamExt;
use t3fs_runtime::{Addr, AskError, Cx, Me, RawAddr};

use super::place::Outside;
use super::{MetaServer, refresh_view};
use crate::layout::{Unplaced, chains_of};
use crate::proto::ids::{ChainId, ChainVersion, InodeId};
use crate::proto::meta::Layout;
use crate::proto::mgmtd::{Chain, TargetState};
use crate::proto::storage::Storage;
use crate::proto::storage::{FileExtents, ListInodes, RemoveChunks, StorageError};

/// Chains that are asked at the same time.
const PARALLEL: usize = 16;
/// Chunks that one message removes at most.
const CHUNKS: u32 = 1024;
/// Times that a chain is asked before what was wanted of it is left for later.
const ATTEMPTS: u32 = 5;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);

/// Removes the chunks of files from every chain of their layouts; gives the files that keep some.
pub(super) async fn remove_content(
    me: &Me<MetaServer>,
    cx: &Cx,
    files: &[(InodeId, Option<Layout>)],
) -> BTreeSet<InodeId> {
    let mut failed = BTreeSet::new();
    let mut by_chain = BTreeMap::<ChainId, Vec<InodeId>>::new();
    for (inode, layout) in files {
        let Some(layout) = layout else { continue };
        let chains = match chains(me, cx, layout).await {
            Ok(chains) => chains,
            Err(why) => {
                tracing::debug!("the content of {:#x} stays for now: {why}", inode.0);
                failed.insert(*inode);
                continue;
            }
        };
        for chain in chains {
            by_chain.entry(chain).or_default().push(*inode);
        }
    }
    let work = by_chain.into_iter().map(|(chain, inodes)| async move {
        remove_from(me, cx, inodes.clone(), chain).await.map_err(|why| (inodes, why))
    });
    let mut results = futures::stream::iter(work).buffer_unordered(PARALLEL);
    while let Some(result) = results.next().await {
        if let Err((inodes, why)) = result {
            tracing::debug!("{} files left for later: {why}", inodes.len());
            failed.extend(inodes);
        }
    }
    failed
}

/// The chains of a layout, each once.
async fn chains(me: &Me<MetaServer>, cx: &Cx, layout: &Layout) -> Result<Vec<ChainId>, Unplaced> {
    let mut known = me.with(|m| chains_of(&m.place.view.routing, layout));
    if known.is_err() {
        refresh_view(me, cx).await;
        known = me.with(|m| chains_of(&m.place.view.routing, layout));
    }
    let mut chains = known?;
    chains.sort_unstable();
    chains.dedup();
    Ok(chains)
}

/// Removes the chunks of files from one chain.
pub(super) async fn remove_from(
    me: &Me<MetaServer>,
    cx: &Cx,
    mut inodes: Vec<InodeId>,
    chain: ChainId,
) -> Result<(), String> {
    let head = |chain: &Chain| chain.writers().next().and_then(|head| head.addr);
    attempt(me, cx, chain, head, async |outside, head, chain_version| {
        loop {
            let wall_us = cx.wall_us();
            let request = me.with(|m| m.collector.request(wall_us));
            let (from, limit) = (0, CHUNKS);
            let message =
                RemoveChunks { inodes: inodes.clone(), chain_version, from, limit, request };
            match outside.remove_chunks(cx, head, message).await {
                Ok(Ok(removed)) if removed.left.is_empty() => return Ok(Ok(())),
                Ok(Ok(removed)) => inodes = removed.left,
                Ok(Err(e)) => return Ok(Err(e)),
                Err(e) => return Err(e),
            }
        }
    })
    .await
}

/// Where the bytes of a file end that storage has: of all its chains, the last chunk's.
pub(super) async fn stored_end(
    me: &Me<MetaServer>,
    cx: &Cx,
    inode: InodeId,
    layout: &Layout,
) -> Result<u64, String> {
    let chains = chains(me, cx, layout).await;
    let chains = chains.map_err(|why| format!("file {:#x}: {why}", inode.0))?;
    let asked = chains.into_iter().map(|chain| async move {
        attempt(me, cx, chain, serving, async |outside, target, chain_version| {
            let message = FileExtents { inode, chain_version, from: 0, limit: 1 };
            outside.file_extents(cx, target, message).await
        })
        .await
    });
    let mut answers = futures::stream::iter(asked).buffer_unordered(PARALLEL);
    let mut end = Ok(0);
    while let Some(answer) = answers.next().await {
        end = end.and_then(|end: u64| {
            let (index, len) = answer?.last.unwrap_or_default();
            Ok(end.max(u64::from(index) * u64::from(layout.chunk_size) + u64::from(len)))
        });
    }
    end
}

/// Files with chunks on a chain, in order, from `from` on: fewer than `limit` only at the end.
pub(super) async fn inodes_on(
    me: &Me<MetaServer>,
    cx: &Cx,
    chain: ChainId,
    from: InodeId,
    limit: u32,
) -> Result<Vec<InodeId>, String> {
    attempt(me, cx, chain, serving, async |outside, target, _| {
        outside.list_inodes(cx, target, ListInodes { from, limit }).await
    })
    .await
}

fn serving(chain: &Chain) -> Option<RawAddr> {
    let mut serving = chain.targets.iter().filter(|t| t.state == TargetState::Serving);
    serving.find_map(|t| t.addr)
}

/// Asks one target of a chain until it answers, a few times.
async fn attempt<T>(
    me: &Me<MetaServer>,
    cx: &Cx,
    chain: ChainId,
    choose: impl Fn(&Chain) -> Option<RawAddr>,
    mut ask: impl AsyncFnMut(
        &dyn Outside,
        Addr<Storage>,
        ChainVersion,
    ) -> Result<Result<T, StorageError>, AskError>,
) -> Result<T, String> {
    let mut why = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            let jitter = Duration::from_micros(cx.rand() % ATTEMPT_PAUSE.as_micros() as u64);
            cx.sleep(ATTEMPT_PAUSE * (1 << attempt) + jitter).await;
            refresh_view(me, cx).await;
        }
        let (outside, routing) =
            me.with(|m| (Rc::clone(&m.outside), Arc::clone(&m.place.view.routing)));
        let Some(chain) = routing.chain(chain) else {
            why = format!("the routing has no chain {chain}");
            continue;
        };
        let Some(target) = choose(chain) else {
            why = format!("chain {} has no target for this", chain.id);
            continue;
        };
        match ask(&*outside, Addr::from_raw(target), chain.version).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(e)) => why = format!("chain {}: {e}", chain.id),
            Err(e) => why = format!("chain {}: {e}", chain.id),
        }
    }
    Err(why)
}
