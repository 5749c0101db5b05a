//! [`Backend`] on a glommio executor.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use ::glommio::{Latency, Shares, TaskQueueHandle};

use super::disk::Disks;
use super::net::Sockets;
use super::timers::{Timers, boot_time_us};
use super::turn::Turns;
use super::{Item, Layout};
use crate::addr::NodeId;
use crate::disk::{DiskId, DiskOp, DiskResult};
use crate::inbox::Inbox;
use crate::net::Net;
use crate::shard::{Backend, LocalTask, Parcel};
use crate::slot::Slot;
use crate::time::Time;
use crate::wire::Frame;

pub(super) struct Glommio {
    random: Cell<u64>,
    tasks: TaskQueueHandle,
    disks: Rc<Disks>,
    sockets: Rc<Sockets>,
    timers: Rc<Timers>,
    turns: Turns,
    /// Disk operations under way.
    disk_work: Rc<Cell<usize>>,
    index: u16,
    peers: Vec<Inbox<Item>>,
}

impl Glommio {
    pub(super) fn new(layout: &Layout, index: u16, peers: Vec<Inbox<Item>>) -> Rc<Glommio> {
        let tasks = ::glommio::executor().create_task_queue(
            Shares::Static(1000),
            Latency::NotImportant,
            "actors",
        );
        let seed = boot_time_us() ^ (u64::from(std::process::id()) << 32) ^ u64::from(index) << 17;
        let timers = Timers::new();
        let run = Rc::clone(&timers).run();
        ::glommio::spawn_local_into(run, tasks).expect("our own task queue").detach();
        Rc::new(Glommio {
            random: Cell::new(seed | 1),
            tasks,
            disks: Rc::new(Disks::new(layout.disks.clone())),
            sockets: Rc::new(Sockets::new(tasks)),
            timers,
            turns: Turns::new(),
            disk_work: Rc::default(),
            index,
            peers,
        })
    }

    /// Lets go of what would outlive the shard.
    pub(super) async fn end(&self) {
        self.timers.end().await;
    }
}

impl Backend for Glommio {
    fn now(&self) -> Time {
        Time::from_us(boot_time_us())
    }

    fn wall_us(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
    }

    /// splitmix64 (Steele, Lea, Flood 2014): spreads load, promises no secrecy.
    fn rand(&self) -> u64 {
        let s = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(s);
        let z = (s ^ (s >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// `spawn_local` would poll the task inside the caller, so inside `Me::with`.
    fn spawn(&self, task: LocalTask) {
        ::glommio::spawn_local_into(task, self.tasks).expect("our own task queue").detach();
    }

    fn wake_at(&self, at: Time, done: Slot<()>) {
        self.timers.wake_at(at, done);
    }

    fn turn(&self, done: Slot<()>) {
        let turn = self.turns.clone().turn();
        let work = async move {
            turn.await;
            done.fill(());
        };
        ::glommio::spawn_local_into(work, self.tasks).expect("our own task queue").detach();
    }

    /// What is known to wait without a look at the rings; sockets and timers are not, and wait
    /// until whoever polls takes a turn anyway.
    fn turn_is_due(&self) -> bool {
        let inbox = self.peers.get(usize::from(self.index));
        self.disk_work.get() > 0 || inbox.is_some_and(|inbox| !inbox.is_empty())
    }

    fn disk(&self, disk: DiskId, op: DiskOp, done: Slot<DiskResult>) {
        let disks = Rc::clone(&self.disks);
        // Allocation needs no task: it completes at once.
        if let DiskOp::Alloc { len } = op {
            return done.fill(Ok(disks.alloc(len)));
        }
        let under_way = Rc::clone(&self.disk_work);
        under_way.set(under_way.get() + 1);
        let work = async move {
            let result = disks.run(disk, op).await;
            under_way.set(under_way.get() - 1);
            done.fill(result);
        };
        ::glommio::spawn_local_into(work, self.tasks).expect("our own task queue").detach();
    }

    /// Links are installed on the shard (`Shard::install_links`); without them there are none.
    fn send(&self, _to: NodeId, _frame: Frame) -> Result<(), &'static str> {
        Err("no link to that node")
    }

    fn net(&self) -> Option<Rc<dyn Net>> {
        Some(Rc::clone(&self.sockets) as Rc<dyn Net>)
    }

    fn pass(&self, shard: u16, parcel: Parcel) -> Result<(), Parcel> {
        let Some(peer) = self.peers.get(usize::from(shard)) else {
            return Err(parcel);
        };
        peer.push(Item::Parcel(parcel)).map_err(|back| match back {
            Item::Parcel(p) => p,
            Item::Job(_) | Item::Stop => unreachable!("a refused push gives back what it got"),
        })
    }
}
