//! The simulator's own disk, through the door that actors use: what was synced is there after every
//! crash, and a checkpoint that is replaced by a rename is always one of those that were written.

use core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use t3fs_runtime::disk::{ALIGN, DiskError, OpenMode};
use t3fs_runtime::{Cx, Disk, DiskId};

use super::{Check, Run};
use crate::rng::Rng;
use crate::world::Crash;
use crate::world::Halt;
use crate::world::NodeSpec;

pub(super) const CHECK: Check = Check {
    name: "disk",
    about: "synced blocks and renamed checkpoints survive every crash of the simulated disk",
    run,
    mutants: &["no-sync", "no-sync-dir"],
};

/// What the writer knows; outlives its node.
#[derive(Default)]
struct Known {
    blocks: Vec<Block>,
    checkpoint_written: u8,
    checkpoint_acked: u8,
}

#[derive(Clone, Default)]
struct Block {
    /// Values that any sector may hold after a crash.
    allowed: BTreeSet<u8>,
    /// Values that the sectors hold now.
    now: BTreeSet<u8>,
}

const BLOCKS: usize = 16;

fn run(run: &Run<'_>) -> Result<(), String> {
    let world = run.world;
    let rng = world.rng(1);
    let node = world.add_node(NodeSpec::new().disk(64 << 20));
    let blank = Block { allowed: BTreeSet::from([0]), now: BTreeSet::from([0]) };
    let known = Known { blocks: vec![blank; BLOCKS], ..Known::default() };
    let known = Rc::new(RefCell::new(known));
    let (no_sync, no_sync_dir) = (run.has("no-sync"), run.has("no-sync-dir"));
    for round in 0..6 {
        world.stop_at_disk_event(2 + rng.below(120));
        let (k, r) = (Rc::clone(&known), rng.fork(round));
        let ended = world.block_on(node, |cx| write(cx, k, r, no_sync, no_sync_dir));
        match ended {
            Err(Halt::Stopped) | Ok(Ok(())) => {}
            other => return Err(format!("the writer ended with {other:?}")),
        }
        let crash = if rng.below(4) == 0 { Crash::Process } else { Crash::Power };
        world.crash(node, crash);
        world.on_disk_event(|_| crate::world::Go::On);
        world.run_for(Duration::from_millis(rng.below(100))).map_err(|e| format!("{e:?}"))?;
        world.restart(node);
        let k = Rc::clone(&known);
        let verified = world.block_on(node, |cx| async move { verify(&cx, &k, crash).await });
        verified.map_err(|h| format!("the reader ended with {h:?}"))??;
    }
    Ok(())
}

async fn put(disk: &Disk, path: &str, value: u8) -> Result<(), DiskError> {
    let (file, _) = disk.open(path, OpenMode::OrCreate).await?;
    let mut buf = disk.alloc(ALIGN).await;
    buf.fill(value);
    disk.write(file, 0, buf).await?;
    disk.sync(file).await?;
    disk.close(file).await
}

async fn write(
    cx: Cx,
    known: Rc<RefCell<Known>>,
    rng: Rng,
    no_sync: bool,
    no_sync_dir: bool,
) -> Result<(), DiskError> {
    let disk = cx.disk(DiskId(0));
    disk.make_dir("d").await?;
    disk.sync_dir("").await?;
    let (log, len) = disk.open("d/log", OpenMode::OrCreate).await?;
    if len == 0 {
        disk.allocate(log, 0, (BLOCKS * ALIGN) as u64).await?;
        disk.sync(log).await?;
    }
    disk.sync_dir("d").await?;
    for _ in 0..40 {
        let block = rng.below(BLOCKS as u64) as usize;
        let value = 1 + rng.below(250) as u8;
        let mut buf = disk.alloc(ALIGN).await;
        buf.fill(value);
        {
            let b = &mut known.borrow_mut().blocks[block];
            b.allowed.insert(value);
            b.now = BTreeSet::from([value]);
        }
        disk.write(log, (block * ALIGN) as u64, buf).await?;
        if rng.below(3) == 0 {
            if !no_sync {
                disk.sync(log).await?;
            }
            for b in &mut known.borrow_mut().blocks {
                b.allowed = b.now.clone();
            }
        }
        if rng.below(6) == 0 {
            let next = known.borrow().checkpoint_written + 1;
            known.borrow_mut().checkpoint_written = next;
            put(&disk, "d/checkpoint.new", next).await?;
            disk.rename("d/checkpoint.new", "d/checkpoint").await?;
            if !no_sync_dir {
                disk.sync_dir("d").await?;
            }
            known.borrow_mut().checkpoint_acked = next;
        }
    }
    Ok(())
}

async fn verify(cx: &Cx, known: &Rc<RefCell<Known>>, crash: Crash) -> Result<(), String> {
    let disk = cx.disk(DiskId(0));
    let text = |e: DiskError| e.to_string();
    let found = match disk.open("d/checkpoint", OpenMode::Existing).await {
        Ok((file, _)) => disk.read(file, 0, ALIGN).await.map_err(text)?[0],
        Err(DiskError::NotFound) => 0,
        Err(e) => return Err(e.to_string()),
    };
    let (log, len) = match disk.open("d/log", OpenMode::Existing).await {
        Ok((log, len)) => (Some(log), len),
        Err(DiskError::NotFound) => (None, 0),
        Err(e) => return Err(format!("the log: {e}")),
    };
    let mut seen = vec![vec![0; ALIGN]; BLOCKS];
    for (i, bytes) in seen.iter_mut().enumerate().take(len as usize / ALIGN) {
        let log = log.expect("it has a length");
        *bytes = disk.read(log, (i * ALIGN) as u64, ALIGN).await.map_err(text)?.to_vec();
    }
    let k = &mut *known.borrow_mut();
    let (acked, written) = (k.checkpoint_acked, k.checkpoint_written);
    if found < acked || found > written {
        return Err(format!("checkpoint {found}, {acked} was acknowledged, {written} written"));
    }
    for (i, (bytes, block)) in seen.iter().zip(&mut k.blocks).enumerate() {
        let sectors: BTreeSet<u8> = bytes.chunks(512).map(|s| s[0]).collect();
        let whole = bytes.chunks(512).all(|s| s.iter().all(|b| *b == s[0]));
        if !whole || !sectors.is_subset(&block.allowed) {
            return Err(format!("block {i} holds {sectors:?}, not of {:?}", block.allowed));
        }
        block.now = sectors;
        // A kill loses nothing yet; a loss of power settles what there is.
        if crash == Crash::Power {
            block.allowed = block.now.clone();
        }
    }
    if crash == Crash::Power {
        k.checkpoint_acked = found;
    }
    Ok(())
}
