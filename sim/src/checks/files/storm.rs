//! What goes wrong: a swarm over the cluster, and beside it the host of the KV, whose store loses
//! what it had not synced, and disks that are full for a while.

use core::time::Duration;
use std::rc::Rc;

use t3fs_actors::meta::kv::MemoryDisk;
use t3fs_runtime::{DiskId, NodeId};

use super::cluster::{Cluster, DISK_BYTES};
use super::user::Stage;
use crate::faults::Menu;
use crate::rng::Rng;
use crate::world::{Crash, Sim};

/// The KV host, as long as it may go down.
pub(super) struct KvHost {
    node: NodeId,
    store: MemoryDisk,
    stage: Rc<Stage>,
    rng: Rng,
    until_us: u64,
}

impl KvHost {
    pub(super) fn new(sim: &Sim, cluster: &Cluster, stage: &Rc<Stage>, long: Duration) -> KvHost {
        KvHost {
            node: cluster.kv,
            store: cluster.store.clone(),
            stage: Rc::clone(stage),
            rng: sim.rng(8),
            until_us: sim.now_us() + long.as_micros() as u64,
        }
    }

    fn outages(self: &Rc<Self>, sim: &Sim) {
        let f = &self.stage.options.faults;
        let host = Rc::clone(self);
        sim.at(sim.now_us() + 1 + self.rng.below(2 * f.kv_every_us), move |sim| {
            if sim.now_us() < host.until_us && !host.stage.calm.get() {
                let power = host.stage.options.faults.kv_power && host.rng.below(4) > 0;
                host.outage(sim, power);
                host.outages(sim);
            }
        });
    }

    /// The host goes down for a while. With a loss of `power` its store forgets some or all of what
    /// it had not synced.
    pub(super) fn outage(&self, sim: &Sim, power: bool) {
        if !sim.is_up(self.node) {
            return;
        }
        sim.crash(self.node, if power { Crash::Power } else { Crash::Process });
        if power {
            let unsynced = self.store.batches_unsynced() as u64;
            let kept = self.rng.below(unsynced + 1);
            self.store.crash_keeping(if self.rng.coin() { 0 } else { kept as usize });
            self.stage.files.borrow_mut().store_lost(sim.now_us());
            sim.note(&[unsynced], format_args!("the store had {unsynced} batches unsynced"));
        }
        let node = self.node;
        let down = 1_000 + self.rng.below(3_000_000 >> self.rng.below(8));
        if !power {
            let now = sim.now_us();
            self.stage.files.borrow_mut().store_down(now, now + down);
        }
        sim.at(sim.now_us() + down, move |sim| sim.restart(node));
    }

    /// Syncs of the store take a while.
    fn syncs(self: &Rc<Self>, sim: &Sim) {
        let host = Rc::clone(self);
        let most = self.stage.options.faults.sync_us;
        sim.at(sim.now_us() + 1 + self.rng.below(most), move |sim| {
            host.store.end_syncs(1);
            if !host.stage.calm.get() {
                host.syncs(sim);
            }
        });
    }
}

/// Now and then a disk is as full as can be, for a while.
fn fill(sim: &Sim, rng: &Rng, servers: &[NodeId], every_us: u64, stage: &Rc<Stage>) {
    let (rng, servers, stage) = (rng.clone(), servers.to_vec(), Rc::clone(stage));
    sim.at(sim.now_us() + 1 + rng.below(2 * every_us), move |sim| {
        if stage.calm.get() {
            return;
        }
        let victim = *rng.pick(&servers);
        sim.with_disk(victim, DiskId(0), |d| {
            let space = d.space();
            d.set_capacity(space.capacity - space.free + rng.below(1 << 20));
        });
        let long = rng.below(2_000_000);
        sim.at(sim.now_us() + long, move |sim| {
            sim.with_disk(victim, DiskId(0), |d| d.set_capacity(DISK_BYTES));
        });
        fill(sim, &rng, &servers, every_us, &stage);
    });
}

pub(super) fn begin(sim: &Sim, cluster: &Cluster, stage: &Rc<Stage>, long: Duration) {
    let f = &stage.options.faults;
    if !f.any {
        return;
    }
    let rng = sim.rng(7);
    let on = |yes: bool, nodes: &[NodeId]| if yes { nodes.to_vec() } else { Vec::new() };
    let victims: Vec<NodeId> = [
        on(f.storage_crash, &cluster.servers),
        on(f.meta_crash, &cluster.metas),
        on(f.mgmtd_crash, &cluster.mgmtds),
        on(f.client_crash, &cluster.clients),
    ]
    .concat();
    let mut linked = sim.nodes();
    linked.retain(|n| *n != cluster.outside);
    let down_at_once_max = 1 + rng.below(3) as usize;
    let mut swarm = f.swarm.clone();
    if victims.is_empty() {
        swarm.crash_every_us = 0;
    }
    // The swarm sets faults of disks of those that may crash; here all storage has them.
    let disk = swarm.disk.clone();
    let menu = Menu { victims, down_at_once_max, power_loss: f.power, linked, disk: disk.clone() };
    let hiccup_ppm = swarm.disk_hiccup_ppm;
    sim.unleash(swarm, menu, long);
    for server in &cluster.servers {
        sim.with_disk(*server, DiskId(0), |d| {
            d.faults = disk.clone();
            d.speed.hiccup_ppm = hiccup_ppm;
        });
    }
    let host = Rc::new(KvHost::new(sim, cluster, stage, long));
    if f.kv_every_us > 0 {
        host.outages(sim);
    }
    if f.sync_us > 0 {
        cluster.store.hold_syncs(true);
        host.syncs(sim);
    }
    if f.full_every_us > 0 {
        fill(sim, &sim.rng(9), &cluster.servers, f.full_every_us, stage);
    }
}

/// Everything is well from now on.
pub(super) fn end(sim: &Sim, cluster: &Cluster, stage: &Stage) {
    stage.calm.set(true);
    cluster.store.hold_syncs(false);
    cluster.store.end_syncs(usize::MAX);
    sim.heal();
    for server in &cluster.servers {
        sim.with_disk(*server, DiskId(0), |d| d.set_capacity(DISK_BYTES));
        if stage.options.disk_errors() || stage.options.full_disks() {
            // A target whose disk has failed, or was full when its journal had to grow, is out
            // until its process starts again. Where bits flip there is no need for it, and one in
            // the last block of a journal would look like a write that was under way.
            sim.crash(*server, Crash::Process);
            sim.restart(*server);
        }
    }
}
