//! `t3fs-node check`: all replicas of all chunks, compared and read.
//!
//! Of each chain every serving target lists its chunks; they are merged by id. A chunk is the same
//! when version, length and checksum are, and nothing is pending. One that differs is looked at
//! again for a while: a write may be on its way. Then every target reads what it has and verifies
//! the bytes. [`names`] checks the namespace, and that every chunk belongs to a file.

mod names;

use core::time::Duration;
use std::sync::mpsc::{self, Receiver};
use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::kv::Kv;
use t3fs_actors::proto::storage::Storage;

use t3fs_actors::proto::agent::GetView;
use t3fs_actors::proto::ids::{ChunkId, InodeId, TargetId, ViewVersion};
use t3fs_actors::proto::mgmtd::{Chain, TargetState};
use t3fs_actors::proto::storage::{ChunkSummary, ListChunks, ScrubChunks, StorageError};
use t3fs_runtime::glommio::Remote;
use t3fs_runtime::{Addr, AskError, Cx};

/// Chunks compared at a time.
const PAGE: u32 = 1024;
/// Chunks verified by one request; at most 64 MiB each are read.
const SCRUB: usize = 16;
/// A chunk that differs is looked at this often, so far apart, before it counts.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);
/// Differences that are told; all are counted.
const TOLD_MAX: u64 = 20;

/// Runs checks on the first shard.
#[derive(Clone)]
pub struct Checker {
    pub remote: Remote,
    pub agent: Addr<Agent>,
    /// If this process uses the metadata store itself.
    pub kv: Option<Addr<Kv>>,
}

/// What a check says on its way.
pub enum Said {
    Line(String),
    /// The last: whether all is well.
    End(bool),
}

#[derive(Default)]
struct Totals {
    chunks: u64,
    replicas: u64,
    bytes: u64,
    differences: u64,
    absent_targets: u64,
}

/// A target with where to ask it.
#[derive(Clone, Copy)]
struct Replica {
    target: TargetId,
    addr: Addr<Storage>,
}

impl Checker {
    /// Begins a check; what it says comes over the channel.
    pub fn run(&self) -> Receiver<Said> {
        let (say, hear) = mpsc::channel();
        let (agent, kv) = (self.agent, self.kv);
        self.remote.run(Box::new(move |shard| {
            let cx = shard.cx();
            cx.clone().spawn(async move {
                // The asker may have gone away: then the check has nobody to tell.
                let tell = |said| _ = say.send(said);
                let well = match check(&cx, agent, kv, &|line| tell(Said::Line(line))).await {
                    Ok(well) => well,
                    Err(why) => {
                        tell(Said::Line(format!("check could not finish: {why}")));
                        false
                    }
                };
                tell(Said::End(well));
            });
        }));
        hear
    }
}

async fn check(
    cx: &Cx,
    agent: Addr<Agent>,
    kv: Option<Addr<Kv>>,
    tell: &dyn Fn(String),
) -> Result<bool, String> {
    let view = cx
        .ask(agent, GetView { have: ViewVersion(0), fresh: true })
        .await
        .map_err(|e| format!("agent: {e}"))?;
    let routing = view.unwrap_or_default().routing;
    let mut totals = Totals::default();
    for chain in &routing.chains {
        check_chain(cx, chain, &mut totals, tell).await?;
    }
    let t = &totals;
    let scattered =
        if t.chunks == 0 { String::new() } else { format!(" ({} replicas)", t.replicas) };
    tell(format!(
        "checked {} chains, {} chunks{scattered}, {} bytes read: {} differences",
        routing.chains.len(),
        t.chunks,
        t.bytes,
        t.differences
    ));
    if t.absent_targets > 0 {
        tell(format!("{} targets do not serve and were not checked", t.absent_targets));
    }
    let wrong = names::check(cx, &routing, kv, tell).await?;
    Ok(t.differences == 0 && t.absent_targets == 0 && wrong == 0)
}

/// The replicas of a chain that can be asked.
fn serving(chain: &Chain) -> impl Iterator<Item = Replica> + '_ {
    chain
        .targets
        .iter()
        .filter(|t| t.state == TargetState::Serving)
        .filter_map(|t| Some(Replica { target: t.target, addr: Addr::from_raw(t.addr?) }))
}

async fn check_chain(
    cx: &Cx,
    chain: &Chain,
    totals: &mut Totals,
    tell: &dyn Fn(String),
) -> Result<(), String> {
    let mut replicas = Vec::new();
    for t in &chain.targets {
        match t.addr.filter(|_| t.state == TargetState::Serving) {
            Some(addr) => replicas.push(Replica { target: t.target, addr: Addr::from_raw(addr) }),
            None => {
                totals.absent_targets += 1;
                tell(format!("chain {}: target {} is {:?}", chain.id, t.target, t.state));
            }
        }
    }
    let mut from = ChunkId::default();
    loop {
        let (page, next) = compare_page(cx, &replicas, from).await?;
        for id in page.different {
            totals.chunks += 1;
            if let Some(why) = still_differs(cx, &replicas, id).await? {
                difference(totals, tell, format!("chain {}, chunk {id}: {why}", chain.id));
            } else {
                totals.replicas += replicas.len() as u64;
            }
        }
        totals.chunks += page.same.len() as u64;
        totals.replicas += (page.same.len() * replicas.len()) as u64;
        for r in &replicas {
            for some in page.same.chunks(SCRUB) {
                if let Ok(bytes) = scrub(cx, *r, some).await? {
                    totals.bytes += bytes;
                    continue;
                }
                // It ended at the first that is damaged: all of them are wanted.
                for chunk in some {
                    match scrub(cx, *r, &[*chunk]).await? {
                        Ok(bytes) => totals.bytes += bytes,
                        Err(why) => {
                            let at = format!("chain {}, target {}: {why}", chain.id, r.target);
                            difference(totals, tell, at);
                        }
                    }
                }
            }
        }
        match next {
            Some(id) => from = id,
            None => return Ok(()),
        }
    }
}

fn difference(totals: &mut Totals, tell: &dyn Fn(String), what: String) {
    totals.differences += 1;
    if totals.differences <= TOLD_MAX {
        tell(what);
    }
}

async fn list(cx: &Cx, r: Replica, from: ChunkId, limit: u32) -> Result<Vec<ChunkSummary>, String> {
    let mut looks = 0;
    loop {
        let why = match cx.ask(r.addr, ListChunks { from, limit }).await {
            Ok(Ok(list)) => return Ok(list),
            Ok(Err(e)) => e.to_string(),
            Err(e) => e.to_string(),
        };
        looks += 1;
        if looks == LOOKS {
            return Err(format!("target {} gives no list: {why}", r.target));
        }
        cx.sleep(PAUSE).await;
    }
}

/// The bytes verified, or what is damaged.
async fn scrub(cx: &Cx, r: Replica, chunks: &[ChunkId]) -> Result<Result<u64, String>, String> {
    let mut looks = 0;
    loop {
        let why = match cx.ask(r.addr, ScrubChunks { chunks: chunks.to_vec() }).await {
            Ok(Ok(bytes)) => return Ok(Ok(bytes)),
            Ok(Err(e @ (StorageError::Corrupt(_) | StorageError::Failed(_)))) => {
                return Ok(Err(e.to_string()));
            }
            Ok(Err(e)) => e.to_string(),
            Err(e @ (AskError::NotSent(_) | AskError::Unknown(_))) => e.to_string(),
        };
        looks += 1;
        if looks == LOOKS {
            return Err(format!("target {} does not verify its chunks: {why}", r.target));
        }
        cx.sleep(PAUSE).await;
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    same: Vec<ChunkId>,
    different: Vec<ChunkId>,
}

/// A stretch of all lists, compared, and where the next one begins.
async fn compare_page(
    cx: &Cx,
    replicas: &[Replica],
    from: ChunkId,
) -> Result<(Page, Option<ChunkId>), String> {
    let mut lists = Vec::with_capacity(replicas.len());
    for r in replicas {
        lists.push(list(cx, *r, from, PAGE).await?);
    }
    Ok(merge(&lists, PAGE as usize))
}

/// Compares lists of up to `limit` chunks each. A full list ends somewhere: behind the first such
/// end nothing can be said yet, so the next page begins there.
fn merge(lists: &[Vec<ChunkSummary>], limit: usize) -> (Page, Option<ChunkId>) {
    let full = lists.iter().filter(|l| l.len() >= limit);
    let end = full.filter_map(|l| l.last().map(|s| s.chunk)).min();
    let mut ids: Vec<ChunkId> = lists.iter().flatten().map(|s| s.chunk).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut page = Page::default();
    for id in ids.into_iter().filter(|id| end.is_none_or(|end| *id <= end)) {
        let mut found =
            lists.iter().map(|l| l.binary_search_by_key(&id, |s| s.chunk).ok().map(|i| l[i]));
        let first = found.next().flatten();
        let same =
            first.is_some_and(|f| !f.pending && found.all(|o| o.is_some_and(|o| equal(f, o))));
        match first {
            // Removed everywhere: the row stays for a while, for late duplicates of writes.
            Some(f) if same && f.len == 0 => {}
            _ if same => page.same.push(id),
            _ => page.different.push(id),
        }
    }
    (page, end.and_then(after))
}

fn equal(a: ChunkSummary, b: ChunkSummary) -> bool {
    (a.chunk, a.version, a.len, a.checksum, a.pending)
        == (b.chunk, b.version, b.len, b.checksum, b.pending)
}

/// The next id in order, if there is one.
fn after(id: ChunkId) -> Option<ChunkId> {
    match id.index.checked_add(1) {
        Some(index) => Some(ChunkId { index, ..id }),
        None => Some(ChunkId { inode: InodeId(id.inode.0.checked_add(1)?), index: 0 }),
    }
}

/// Looks again until the replicas agree, or for long enough to say that they do not.
async fn still_differs(
    cx: &Cx,
    replicas: &[Replica],
    id: ChunkId,
) -> Result<Option<String>, String> {
    let mut shown = String::new();
    for _ in 0..LOOKS {
        let mut lists = Vec::with_capacity(replicas.len());
        for r in replicas {
            let mut found = list(cx, *r, id, 1).await?;
            found.retain(|s| s.chunk == id);
            lists.push(found);
        }
        // Limit 2: none of these lists counts as cut off.
        if merge(&lists, 2).0.different.is_empty() {
            return Ok(None);
        }
        let each = replicas.iter().zip(&lists).map(|(r, l)| match l.first() {
            None => format!("target {} lacks it", r.target),
            Some(s) => format!(
                "target {} has version {}{}, {} bytes, checksum {:08x}",
                r.target,
                s.version,
                if s.pending { " (pending)" } else { "" },
                s.len,
                s.checksum
            ),
        });
        shown = each.collect::<Vec<_>>().join("; ");
        cx.sleep(PAUSE).await;
    }
    Ok(Some(shown))
}

#[cfg(test)]
mod tests {
    //! Goal: a difference anywhere is seen, and pages lose no chunk. Method: lists made by hand.
    use super::*;
    use t3fs_actors::proto::ids::{ChainVersion, ChunkVersion};

    fn chunk(n: u64) -> ChunkSummary {
        ChunkSummary {
            chunk: ChunkId { inode: InodeId(n), index: 0 },
            version: ChunkVersion(1),
            chain_version: ChainVersion(1),
            len: 5,
            checksum: 9,
            pending: false,
        }
    }

    fn ids(list: &[ChunkId]) -> Vec<u64> {
        list.iter().map(|c| c.inode.0).collect()
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        let good: Vec<_> = (1..=6).map(chunk).collect();
        let mut bad = good.clone();
        bad[0].version = ChunkVersion(2);
        bad[1].len = 4;
        bad[2].checksum = 8;
        bad[3].pending = true;
        bad.remove(4);
        let (page, next) = merge(&[good.clone(), good.clone(), bad.clone()], 100);
        assert_eq!((ids(&page.different), ids(&page.same)), (vec![1, 2, 3, 4, 5], vec![6]));
        assert_eq!(next, None);
        let (page, _) = merge(&[bad, good.clone()], 100);
        assert_eq!(ids(&page.different), [1, 2, 3, 4, 5]);
        let pending: Vec<_> = good.iter().map(|c| ChunkSummary { pending: true, ..*c }).collect();
        assert_eq!(merge(&[pending.clone(), pending], 100).0.same, []);
    }

    #[test]
    fn pages_lose_nothing() {
        let a: Vec<_> = (1..=50).map(chunk).collect();
        let b: Vec<_> = (1..=50).filter(|n| n % 7 != 0).map(chunk).collect();
        let (mut from, mut same, mut different) = (ChunkId::default(), 0, 0);
        loop {
            let cut = |l: &[ChunkSummary]| {
                l.iter().filter(|s| s.chunk >= from).take(8).copied().collect::<Vec<_>>()
            };
            let (page, next) = merge(&[cut(&a), cut(&b)], 8);
            same += page.same.len();
            different += page.different.len();
            match next {
                Some(id) => from = id,
                None => break,
            }
        }
        assert_eq!((same, different), (43, 7));
    }

    #[test]
    fn the_id_behind_the_last_index_is_the_next_inode() {
        let id = |inode, index| ChunkId { inode: InodeId(inode), index };
        assert_eq!(after(id(3, 7)), Some(id(3, 8)));
        assert_eq!(after(id(3, u32::MAX)), Some(id(4, 0)));
        assert_eq!(after(id(u64::MAX, u32::MAX)), None);
    }
}
