//! The part of a check that compares names and data: the namespace by itself, and files whose
//! chunks are stored though nobody has their inode.
//!
//! The system goes on meanwhile, so what looks wrong may be a change under way. A finding counts
//! when it is there at [`LOOKS`] looks with a pause between them.

use core::time::Duration;
use std::collections::BTreeSet;
use t3fs_actors::proto::kv::Kv;

use t3fs_actors::client::FsError;
use t3fs_actors::meta::fsck;
use t3fs_actors::proto::ids::InodeId;
use t3fs_actors::proto::mgmtd::Routing;
use t3fs_actors::proto::storage::ListInodes;
use t3fs_runtime::{Addr, Cx};

use super::{LOOKS as ASKS, PAUSE as ASK_PAUSE, Replica, TOLD_MAX, serving};
use crate::door;

const LOOKS: usize = 3;
const PAUSE: Duration = Duration::from_secs(2);
/// Files listed, and asked for, at a time.
const PAGE: u32 = 1024;

/// Where this process can ask whether an inode exists.
#[derive(Clone, Copy)]
enum Inodes {
    Store(Addr<Kv>),
    /// Through this process's client.
    Client,
}

/// Checks names and files without a name. Returns how much is wrong. `kv`: of a process that uses
/// the store itself.
pub(super) async fn check(
    cx: &Cx,
    routing: &Routing,
    kv: Option<Addr<Kv>>,
    tell: &dyn Fn(String),
) -> Result<u64, String> {
    let mut wrong = 0;
    match kv {
        Some(kv) => wrong += namespace(cx, kv, tell).await?,
        None => tell(
            "the namespace was not checked: this process does not use the metadata store; check a \
             process with the role meta or kv too, by its state folder"
                .into(),
        ),
    }
    let inodes = match kv {
        Some(kv) => Inodes::Store(kv),
        None if door::client().is_some() => Inodes::Client,
        None => {
            tell("chunks without an inode were not looked for: nobody here knows inodes".into());
            return Ok(wrong);
        }
    };
    wrong += orphans(cx, routing, inodes, tell).await?;
    Ok(wrong)
}

async fn namespace(cx: &Cx, kv: Addr<Kv>, tell: &dyn Fn(String)) -> Result<u64, String> {
    let look = async || fsck::fsck(cx, kv).await.map_err(|e| format!("the namespace: {e}"));
    let mut report = look().await?;
    let mut problems = report.problems.clone();
    for _ in 1..LOOKS {
        if problems.is_empty() {
            break;
        }
        cx.sleep(PAUSE).await;
        report = look().await?;
        let now: BTreeSet<&String> = report.problems.iter().collect();
        problems.retain(|p| now.contains(p));
    }
    // Of more than are listed, most cannot be compared one by one.
    let wrong = if report.damaged as usize > report.problems.len() {
        report.damaged
    } else {
        problems.len() as u64
    };
    for problem in problems.iter().take(TOLD_MAX as usize) {
        tell(format!("namespace: {problem}"));
    }
    tell(format!(
        "checked the namespace: {} files, {} directories, {} others, {} being removed: {wrong} \
         problems",
        report.files, report.directories, report.others, report.garbage
    ));
    Ok(wrong)
}

async fn orphans(
    cx: &Cx,
    routing: &Routing,
    inodes: Inodes,
    tell: &dyn Fn(String),
) -> Result<u64, String> {
    let (mut files, mut suspects) = (BTreeSet::new(), BTreeSet::new());
    for chain in &routing.chains {
        for replica in serving(chain) {
            let mut from = InodeId(0);
            loop {
                let found = list(cx, replica, from, PAGE).await?;
                let new: Vec<InodeId> =
                    found.iter().copied().filter(|inode| files.insert(*inode)).collect();
                suspects.extend(missing(cx, inodes, &new).await?);
                match found.last().and_then(|last| last.0.checked_add(1)) {
                    Some(next) if found.len() >= PAGE as usize => from = InodeId(next),
                    _ => break,
                }
            }
        }
    }
    for _ in 1..LOOKS {
        if suspects.is_empty() {
            break;
        }
        cx.sleep(PAUSE).await;
        let all: Vec<InodeId> = suspects.iter().copied().collect();
        suspects = missing(cx, inodes, &all).await?.into_iter().collect();
        let mut stored = BTreeSet::new();
        for inode in &suspects {
            if is_stored(cx, routing, *inode).await? {
                stored.insert(*inode);
            }
        }
        suspects = stored;
    }
    for inode in suspects.iter().take(TOLD_MAX as usize) {
        tell(format!("inode {:#x} does not exist, and has chunks", inode.0));
    }
    tell(format!(
        "checked {} files with data: {} of them are nobody's",
        files.len(),
        suspects.len()
    ));
    Ok(suspects.len() as u64)
}

async fn is_stored(cx: &Cx, routing: &Routing, inode: InodeId) -> Result<bool, String> {
    for chain in &routing.chains {
        for replica in serving(chain) {
            if list(cx, replica, inode, 1).await?.first() == Some(&inode) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The inodes of `all` that do not exist.
async fn missing(cx: &Cx, inodes: Inodes, all: &[InodeId]) -> Result<Vec<InodeId>, String> {
    match inodes {
        Inodes::Store(kv) => {
            fsck::missing(cx, kv, all).await.map_err(|e| format!("the metadata store: {e}"))
        }
        Inodes::Client => {
            let client = door::client().ok_or("the client has stopped")?;
            let mut gone = Vec::new();
            for inode in all {
                match client.getattr(cx, *inode).await {
                    Ok(_) => {}
                    Err(FsError::Stale | FsError::NotFound) => gone.push(*inode),
                    Err(e) => return Err(format!("inode {:#x}: {e}", inode.0)),
                }
            }
            Ok(gone)
        }
    }
}

async fn list(cx: &Cx, r: Replica, from: InodeId, limit: u32) -> Result<Vec<InodeId>, String> {
    let mut looks = 0;
    loop {
        let why = match cx.ask(r.addr, ListInodes { from, limit }).await {
            Ok(Ok(list)) => return Ok(list),
            Ok(Err(e)) => e.to_string(),
            Err(e) => e.to_string(),
        };
        looks += 1;
        if looks == ASKS {
            return Err(format!("target {} does not list its files: {why}", r.target));
        }
        cx.sleep(ASK_PAUSE).await;
    }
}
