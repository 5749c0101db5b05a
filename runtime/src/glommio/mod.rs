//! The production backend: one glommio executor (io_uring) per shard. The only place that names it.

mod backend;
mod disk;
mod net;
mod probe;
mod timers;
mod turn;
mod zero_copy;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

pub use probe::{Probe, probe};
pub use timers::boot_time_us;

use crate::addr::NodeId;
use crate::inbox::{Inbox, inbox};
use crate::shard::{Parcel, Shard};
use crate::slot::Slot;

/// A step for a shard, from any thread.
pub type Job = Box<dyn FnOnce(&Rc<Shard>) + Send>;

pub(crate) enum Item {
    Parcel(Parcel),
    Job(Job),
    Stop,
}

/// Entries of a shard's inbox: above the credits of all who may push.
pub const INBOX: usize = 16_384;
/// What a shard's inbox takes, in bytes.
pub const INBOX_BYTES: usize = INBOX * size_of::<Item>();

/// How a process lays out its shards.
#[derive(Clone, Debug)]
pub struct Layout {
    pub node: NodeId,
    /// Incarnation; larger at every start.
    pub epoch: u32,
    pub shards: usize,
    /// The folder of each disk; `DiskId` is the index.
    pub disks: Vec<PathBuf>,
    /// One core per shard; only when the process has the machine to itself.
    pub pin: bool,
    pub io_memory: usize,
    /// How long a shard looks for work before it sleeps.
    pub spin: Duration,
}

/// A shard as other threads see it.
#[derive(Clone)]
pub struct Remote(Inbox<Item>);

impl Remote {
    /// Runs a step on the shard, soon. When its inbox is full this thread waits: pressure goes
    /// back to where the work comes from.
    pub fn run(&self, job: Job) {
        let mut item = Item::Job(job);
        while let Err(back) = self.0.push(item) {
            item = back;
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// The running shards of this process.
pub struct Shards {
    pub remotes: Vec<Remote>,
    threads: Vec<ExecutorJoinHandle<()>>,
}

impl Shards {
    /// Ends all shards after their queued steps and waits for their threads.
    pub fn stop(self) {
        for r in &self.remotes {
            let mut item = Item::Stop;
            while let Err(back) = r.0.push(item) {
                item = back;
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        for t in self.threads {
            if let Err(e) = t.join() {
                tracing::error!("a shard ended badly: {e}");
            }
        }
    }
}

/// What a shard runs first: starts its actors.
pub type Start =
    Arc<dyn Fn(Rc<Shard>) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync + 'static>;

/// Starts the shards' threads. An error is a sentence that says what the machine lacks.
pub fn launch(layout: &Layout, start: Start) -> Result<Shards, String> {
    let mut readers = Vec::new();
    let mut remotes = Vec::new();
    for _ in 0..layout.shards {
        let (i, r) = inbox::<Item>(INBOX);
        remotes.push(Remote(i));
        readers.push(r);
    }
    let mut threads = Vec::new();
    for (index, mut reader) in readers.into_iter().enumerate() {
        let placement = if layout.pin { Placement::Fixed(index) } else { Placement::Unbound };
        let (layout, start, peers) = (layout.clone(), Arc::clone(&start), remotes.clone());
        let thread = LocalExecutorBuilder::new(placement)
            .name(&format!("t3fs-shard-{index}"))
            .io_memory(layout.io_memory)
            .spin_before_park(layout.spin)
            .spawn(move || async move {
                disk::teach_polling(&layout.disks).await;
                let peers = peers.into_iter().map(|r| r.0).collect();
                let backend = backend::Glommio::new(&layout, index as u16, peers);
                let below = Rc::clone(&backend);
                let shard = Shard::new(layout.node, index as u16, layout.epoch, below);
                shard.backend.spawn(start(Rc::clone(&shard)));
                loop {
                    match reader.next().await {
                        Item::Parcel(p) => shard.on_parcel(p),
                        Item::Job(job) => job(&shard),
                        Item::Stop => break,
                    }
                }
                backend.end().await;
            })
            .map_err(|e| probe::explain(&e.to_string()))?;
        threads.push(thread);
    }
    Ok(Shards { remotes, threads })
}

/// Runs one future on a shard of its own, on this thread; for tools and tests.
pub fn run_alone<T: 'static>(
    disks: Vec<PathBuf>,
    f: impl AsyncFnOnce(Rc<Shard>) -> T + 'static,
) -> Result<T, String> {
    let layout = Layout {
        node: NodeId(0),
        epoch: 1,
        shards: 1,
        disks,
        pin: false,
        io_memory: 4 << 20,
        spin: Duration::ZERO,
    };
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(layout.io_memory)
        .make()
        .map_err(|e| probe::explain(&e.to_string()))?;
    Ok(executor.run(async move {
        disk::teach_polling(&layout.disks).await;
        let backend = backend::Glommio::new(&layout, 0, Vec::new());
        let below = Rc::clone(&backend);
        let shard = Shard::new(layout.node, 0, 1, below);
        let (done, out) = (Slot::new(), Slot::new());
        let fill = done.clone();
        let home = Rc::clone(&shard);
        let result = out.clone();
        shard.backend.spawn(Box::pin(async move {
            result.fill(f(home).await);
            fill.fill(());
        }));
        done.await;
        backend.end().await;
        out.await
    }))
}
