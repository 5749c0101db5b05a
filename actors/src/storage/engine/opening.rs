//! Which opening of a target its data is of: a small file beside its superblock.
//!
//! ```text
//! block (see `superblock`), type 0x0502:
//!   OpeningsV1 { confirmed: (number u64, nonce u64), tried: [(number u64, nonce u64)] }
//! ```
//! Each run of a target's host that opens the target draws an opening and adds it to those tried,
//! tells mgmtd what was confirmed and tried before it, and confirms it once mgmtd has said that
//! this data is the latest; only then the target serves anybody. Data that was copied aside before
//! that, and put back, does not know the opening that mgmtd has stored, however often it is opened.
//!
//! The file is replaced as the superblock is written: under a temporary name, synced, renamed, and
//! the folder synced. Builds before it leave it alone; a target without it has opening 0.

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::disk::OpenMode;
use t3fs_runtime::{Cx, DiskError, DiskId, wire};

use super::error::EngineError;
use super::layout::GRANULE;
use super::superblock::{block, take};
use crate::proto::ids::TargetId;
use crate::proto::mgmtd::{Opening, TargetClaim};

const KIND: u16 = 0x0502;
const NAME: &str = "opening";
/// Openings without an answer that are remembered: what fits into one block.
const TRIED_MAX: usize = 200;

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
struct OpeningsV1 {
    confirmed: (u64, u64),
    tried: Vec<(u64, u64)>,
}

fn opening((number, nonce): (u64, u64)) -> Opening {
    Opening { number, nonce }
}

/// Draws the next opening of the target in `dir`; durable when it returns. With `adopt` the data
/// counts as that of this opening from here on: whatever it lacks is brought before it serves.
pub async fn advance(
    cx: &Cx,
    disk: DiskId,
    dir: &str,
    target: TargetId,
    adopt: Option<Opening>,
) -> Result<TargetClaim, EngineError> {
    let mut all = read(cx, disk, dir).await?;
    if let Some(latest) = adopt {
        all = OpeningsV1 { confirmed: (latest.number, latest.nonce), tried: Vec::new() };
    }
    let before = all.clone();
    let highest = all.tried.iter().map(|t| t.0).max().unwrap_or(0).max(all.confirmed.0);
    let next = (highest + 1, cx.rand());
    all.tried.push(next);
    let excess = all.tried.len().saturating_sub(TRIED_MAX);
    all.tried.drain(..excess);
    write(cx, disk, dir, &all).await?;
    Ok(TargetClaim {
        target,
        opening: opening(next),
        confirmed: opening(before.confirmed),
        tried: before.tried.into_iter().map(opening).collect(),
    })
}

/// mgmtd has stored this opening as the latest; durable when it returns.
pub async fn confirm(cx: &Cx, disk: DiskId, dir: &str, latest: Opening) -> Result<(), EngineError> {
    let confirmed = (latest.number, latest.nonce);
    write(cx, disk, dir, &OpeningsV1 { confirmed, tried: Vec::new() }).await
}

async fn read(cx: &Cx, disk: DiskId, dir: &str) -> Result<OpeningsV1, EngineError> {
    let disk = cx.disk(disk);
    let (file, len) = match disk.open(&format!("{dir}/{NAME}"), OpenMode::Existing).await {
        Ok(opened) => opened,
        Err(DiskError::NotFound) => return Ok(OpeningsV1::default()),
        Err(e) => return Err(e.into()),
    };
    let len = (len as usize / GRANULE * GRANULE).min(GRANULE);
    let bytes = if len == 0 { None } else { Some(disk.read(file, 0, len).await) };
    disk.close(file).await?;
    Ok(decode(bytes.transpose()?.as_deref().unwrap_or_default()).unwrap_or_else(|why| {
        // mgmtd takes the target for an old copy then, if it knows it.
        tracing::error!("the record of openings in {dir} is damaged: {why}");
        OpeningsV1::default()
    }))
}

async fn write(cx: &Cx, disk: DiskId, dir: &str, openings: &OpeningsV1) -> Result<(), EngineError> {
    let (disk, path) = (cx.disk(disk), format!("{dir}/{NAME}"));
    let content = block(&wire::seal(KIND, 1, openings));
    let temporary = format!("{path}.tmp");
    let (file, _) = disk.open(&temporary, OpenMode::OrCreate).await?;
    let mut buf = disk.alloc(content.len()).await;
    buf.copy_from_slice(&content);
    let written = disk.write(file, 0, buf).await;
    let written = if written.is_ok() { disk.sync(file).await } else { written };
    disk.close(file).await?;
    written?;
    disk.rename(&temporary, &path).await?;
    disk.sync_dir(dir).await?;
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<OpeningsV1, String> {
    let body = take(bytes).ok_or("its checksum is wrong")?;
    wire::open(KIND, 1, body).map_err(|e| e.to_string())
}

#[cfg(test)]
mod golden {
    use super::*;

    t3fs_runtime::samples! { "/src/storage/engine/golden/opening.txt":
        struct OpeningsV1 { confirmed, tried }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the stored form is fixed, fits into its block, and shows damage wherever it is.
    #[test]
    fn the_stored_form_is_fixed() {
        let openings = OpeningsV1 { confirmed: (5, 6), tried: vec![(7, 8)] };
        let sealed = wire::seal(KIND, 1, &openings);
        let hex: String = sealed.iter().map(|b| format!("{b:02x}")).collect();
        let body = "07000000000000000800000000000000050000000000000006000000000000";
        assert_eq!(hex, format!("02050100{body}00e0ffffff01000000"));
        let bytes = block(&sealed);
        assert_eq!((decode(&bytes), bytes.len()), (Ok(openings), GRANULE));
        for i in 0..8 + sealed.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            assert!(decode(&bad).is_err(), "byte {i}");
        }
        assert!(decode(&[]).is_err() && decode(&[0; GRANULE]).is_err());
        let most = OpeningsV1 { confirmed: (5, 6), tried: vec![(7, 8); TRIED_MAX] };
        assert_eq!(block(&wire::seal(KIND, 1, &most)).len(), GRANULE);
    }
}
