//! Swarms of faults: each run switches some on, each with a strength of its own, and heals at the
//! end.
//!
//! A run with everything on finds less than many runs with some of it (Groce and others, "Swarm
//! Testing", 2012). [`Sim::unleash`] plays a swarm until a given time; [`Sim::heal`] ends it: all
//! faults off, all links joined, all nodes up, and then a check may demand progress.

use core::time::Duration;
use std::rc::Rc;

use t3fs_runtime::NodeId;
use t3fs_runtime::disk::DiskId;

use crate::disk::DiskFaults;
use crate::rng::{Rng, Stream};
use crate::world::NetFaults;
use crate::world::{Crash, ScheduleFaults, Sim};

/// What a swarm may do to a cluster: the ceiling of every draw.
#[derive(Clone, Debug, Default)]
pub struct Menu {
    /// Nodes that may go down and come back.
    pub victims: Vec<NodeId>,
    pub down_at_once_max: usize,
    /// Whether a crash may be a loss of power.
    pub power_loss: bool,
    /// Nodes that links are cut, reset and paused between.
    pub linked: Vec<NodeId>,
    /// What disks of the victims may do; no more than what the actors are to survive.
    pub disk: DiskFaults,
}

impl Menu {
    /// Crashes and losses of power for `servers`, one at a time; bad links for all nodes.
    pub fn new(servers: &[NodeId], all: &[NodeId]) -> Menu {
        Menu {
            victims: servers.to_vec(),
            down_at_once_max: 1,
            power_loss: true,
            linked: all.to_vec(),
            disk: DiskFaults::default(),
        }
    }
}

/// The faults of one run. Intervals are means in microseconds of virtual time; 0 is never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swarm {
    pub net: NetFaults,
    pub schedule: ScheduleFaults,
    pub disk: DiskFaults,
    pub disk_hiccup_ppm: u32,
    pub crash_every_us: u64,
    pub part_every_us: u64,
    pub reset_every_us: u64,
    pub pause_every_us: u64,
}

/// A strength between a thirtieth of the ceiling and all of it, even on a logarithmic scale.
fn strength(rng: &Rng, ceiling: u64) -> u64 {
    (ceiling >> rng.below(6)).max(u64::from(ceiling > 0))
}

impl Swarm {
    /// Each kind of fault with an even chance.
    pub fn draw(rng: &Rng, menu: &Menu) -> Swarm {
        let ppm = |ceiling: u32| match rng.coin() {
            true => strength(rng, ceiling.into()) as u32,
            false => 0,
        };
        let every = |least_us: u64| match rng.coin() {
            true => least_us << rng.below(5),
            false => 0,
        };
        Swarm {
            net: NetFaults {
                loss_ppm: ppm(100_000),
                duplicate_ppm: ppm(50_000),
                duplicate_delay_us: *rng.pick(&[1_000, 100_000, 5_000_000]),
                spike_ppm: ppm(20_000),
                spike_us: *rng.pick(&[10_000, 300_000, 3_000_000]),
                corrupt_ppm: ppm(20_000),
            },
            schedule: ScheduleFaults {
                slow_poll_ppm: ppm(50_000),
                slow_poll_us: *rng.pick(&[50, 1_000, 20_000]),
                full_ring_ppm: ppm(20_000),
            },
            disk: DiskFaults {
                read_error_ppm: ppm(menu.disk.read_error_ppm),
                write_error_ppm: ppm(menu.disk.write_error_ppm),
                sync_error_ppm: ppm(menu.disk.sync_error_ppm),
                no_space_ppm: ppm(menu.disk.no_space_ppm),
                flip_on_write_ppm: ppm(menu.disk.flip_on_write_ppm),
                flip_on_read_ppm: ppm(menu.disk.flip_on_read_ppm),
                dead: false,
            },
            disk_hiccup_ppm: ppm(10_000),
            crash_every_us: every(100_000),
            part_every_us: every(100_000),
            reset_every_us: every(50_000),
            pause_every_us: every(100_000),
        }
    }
}

/// A swarm at work.
struct Play {
    swarm: Swarm,
    menu: Menu,
    rng: Rng,
    until_us: u64,
    /// Which unleashing this is: a heal ends it.
    round: u32,
}

impl Play {
    fn over(&self, sim: &Sim) -> bool {
        sim.now_us() >= self.until_us || sim.0.fault_round.get() != self.round
    }

    /// From next to nothing to `most_us`, even on a logarithmic scale.
    fn a_while(&self, most_us: u64) -> Duration {
        Duration::from_micros(1 + self.rng.below(most_us >> self.rng.below(12)))
    }

    /// Does `act` again and again, at random times.
    fn repeat(self: &Rc<Self>, sim: &Sim, every_us: u64, act: fn(&Play, &Sim)) {
        if every_us == 0 {
            return;
        }
        let play = Rc::clone(self);
        sim.at(sim.now_us() + 1 + self.rng.below(2 * every_us), move |sim| {
            if !play.over(sim) {
                act(&play, sim);
                play.repeat(sim, every_us, act);
            }
        });
    }

    fn crash(&self, sim: &Sim) {
        let up: Vec<NodeId> = self.menu.victims.iter().copied().filter(|n| sim.is_up(*n)).collect();
        if up.is_empty() || self.menu.victims.len() - up.len() >= self.menu.down_at_once_max {
            return;
        }
        let node = *self.rng.pick(&up);
        let power = self.menu.power_loss && self.rng.coin();
        let how = if power { Crash::Power } else { Crash::Process };
        let down = self.a_while(5_000_000);
        if self.rng.coin() {
            // Where it hurts: within the next operations on its disks.
            return sim.crash_at_disk_event(node, how, 1 + self.rng.below(16), down);
        }
        sim.crash(node, how);
        sim.at(sim.now_us() + down.as_micros() as u64, move |sim| sim.restart(node));
    }

    fn two(&self) -> Option<(NodeId, NodeId)> {
        let a = *self.rng.pick(&self.menu.linked);
        let b = *self.rng.pick(&self.menu.linked);
        (a != b).then_some((a, b))
    }

    fn part(&self, sim: &Sim) {
        let Some((a, b)) = self.two() else { return };
        match self.rng.below(3) {
            0 => sim.cut(a, b),
            1 => sim.part(&[a], &[b]),
            _ => {
                let (left, right): (Vec<NodeId>, Vec<NodeId>) =
                    self.menu.linked.iter().partition(|_| self.rng.coin());
                sim.part(&left, &right);
            }
        }
        let round = self.round;
        sim.at(sim.now_us() + self.a_while(3_000_000).as_micros() as u64, move |sim| {
            if sim.0.fault_round.get() == round {
                sim.rejoin();
            }
        });
    }

    fn reset(&self, sim: &Sim) {
        if let Some((a, b)) = self.two() {
            sim.reset(a, b);
        }
    }

    fn pause(&self, sim: &Sim) {
        let node = *self.rng.pick(&self.menu.linked);
        sim.pause(node, self.a_while(2_000_000));
    }
}

impl Sim {
    /// Draws a swarm from this world's seed and plays it for so long.
    pub fn unleash_any(&self, menu: Menu, for_how_long: Duration) -> Swarm {
        let rng = Rng::stream(self.seed(), Stream::Faults);
        let swarm = Swarm::draw(&rng, &menu);
        self.unleash(swarm.clone(), menu, for_how_long);
        swarm
    }

    /// Plays a swarm for so long. Whoever calls this calls [`Sim::heal`] afterwards.
    pub fn unleash(&self, swarm: Swarm, menu: Menu, for_how_long: Duration) {
        let round = self.0.fault_round.get() + 1;
        self.0.fault_round.set(round);
        self.note(&[20, round.into()], format_args!("faults: {swarm:?}"));
        self.set_net_faults(swarm.net.clone());
        self.set_schedule_faults(swarm.schedule);
        self.each_disk(&menu.victims, |d| {
            d.faults = swarm.disk.clone();
            d.speed.hiccup_ppm = swarm.disk_hiccup_ppm;
        });
        let play = Rc::new(Play {
            rng: Rng::stream(self.seed(), Stream::Faults).fork(round.into()),
            until_us: self.now_us() + for_how_long.as_micros() as u64,
            round,
            swarm,
            menu,
        });
        let s = &play.swarm;
        play.repeat(self, s.crash_every_us, Play::crash);
        if !play.menu.linked.is_empty() {
            play.repeat(self, s.part_every_us, Play::part);
            play.repeat(self, s.reset_every_us, Play::reset);
            play.repeat(self, s.pause_every_us, Play::pause);
        }
    }

    /// Ends all faults and starts every node that is down.
    pub fn heal(&self) {
        self.0.fault_round.set(self.0.fault_round.get() + 1);
        self.note(&[21], format_args!("healed"));
        self.set_net_faults(NetFaults::default());
        self.set_schedule_faults(ScheduleFaults::default());
        self.rejoin();
        let nodes = self.nodes();
        self.each_disk(&nodes, |d| {
            d.faults = DiskFaults::default();
            d.speed.hiccup_ppm = 0;
        });
        for id in nodes {
            self.node(id, |n| n.crash_in = None);
            self.unpause(id);
            self.restart(id);
        }
    }

    fn each_disk(&self, of: &[NodeId], mut f: impl FnMut(&mut crate::disk::SimDisk)) {
        for id in of {
            let count = self.node(*id, |n| n.disks.len());
            for d in 0..count {
                self.with_disk(*id, DiskId(d as u16), &mut f);
            }
        }
    }

    /// How often each kind of event and fault has happened, by name; for coverage.
    pub fn coverage(&self) -> Vec<(&'static str, u64)> {
        let (w, n) = (self.stats(), self.net_stats());
        let mut d = crate::disk::DiskStats::default();
        let nodes = self.nodes();
        self.each_disk(&nodes, |disk| d.add(&disk.stats()));
        vec![
            ("frames sent", n.sent),
            ("frames delivered", n.delivered),
            ("frames refused", n.refused),
            ("frames lost", n.lost),
            ("frames duplicated", n.duplicated),
            ("frames held up", n.spikes),
            ("frames corrupted", n.corrupted),
            ("frames cut off", n.cut),
            ("frames reset", n.reset),
            ("frames overtaken", n.overtaken),
            ("frames over a restart", n.crossed_restart),
            ("parcels", w.parcels),
            ("full rings", w.full_rings),
            ("slow polls", w.slow_polls),
            ("kills", w.kills),
            ("power losses", w.power_losses),
            ("restarts", w.restarts),
            ("pauses", w.pauses),
            ("disk operations", d.ops),
            ("unsynced changes kept", d.kept),
            ("unsynced changes lost", d.lost),
            ("unsynced changes torn", d.torn),
            ("unsynced names lost", d.names_lost),
            ("read errors", d.read_errors),
            ("write errors", d.write_errors),
            ("sync errors", d.sync_errors),
            ("no space", d.no_space),
            ("bit flips", d.flips),
        ]
    }
}
