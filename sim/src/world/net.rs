//! The links between nodes: encoded frames, first in first out per connection, and all that can
//! happen to them on the way.
//!
//! A connection is an ordered pair of shards and a lane; frames of one keep their order, frames of
//! different ones overtake each other. A frame may be lost, come twice (the second time much later,
//! as after a reconnect), be held up together with all behind it, be damaged (its checksum must
//! then stop it), or meet a partition, a reset or another incarnation of its receiver. Nothing is
//! ever changed and delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use t3fs_runtime::NodeId;
use t3fs_runtime::wire::{BODY_MAX, BULK_MAX, Frame};

use super::{Event, Inner, Sim};
use crate::rng::Rng;

/// What may go wrong between nodes; chances in parts per million of frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetFaults {
    pub loss_ppm: u32,
    pub duplicate_ppm: u32,
    /// How much later the second copy comes, at most.
    pub duplicate_delay_us: u64,
    /// A hold-up of the whole connection.
    pub spike_ppm: u32,
    pub spike_us: u64,
    pub corrupt_ppm: u32,
}

/// How long frames take when nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetSpeed {
    pub latency_us: u64,
    /// Added to it: uniform up to this, and for one frame in 16 up to eight times as much.
    pub jitter_us: u64,
    pub bytes_per_us: u64,
}

impl Default for NetSpeed {
    fn default() -> Self {
        NetSpeed { latency_us: 20, jitter_us: 40, bytes_per_us: 3_000 }
    }
}

/// What became of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    pub sent: u64,
    pub sent_bytes: u64,
    pub delivered: u64,
    pub refused: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub spikes: u64,
    /// Damaged on the way and stopped by the checksum.
    pub corrupted: u64,
    /// Lost to a partition.
    pub cut: u64,
    /// Lost to a reset, or to the end of the receiver's process.
    pub reset: u64,
    /// Delivered after a frame that another connection sent to the same node later.
    pub overtaken: u64,
    /// Delivered to another incarnation than it was sent to.
    pub crossed_restart: u64,
}

/// A frame on its way.
pub(crate) struct Flight {
    from: u32,
    to: u32,
    to_run: u32,
    generation: u32,
    number: u64,
    bytes: Bytes,
    damaged: bool,
}

impl Flight {
    pub(crate) fn to(&self) -> u32 {
        self.to
    }
}

type ConnectionKey = (u32, u32, u16, u16, u8);

#[derive(Default)]
pub(crate) struct Net {
    pub(crate) speed: NetSpeed,
    pub(crate) faults: NetFaults,
    pub(crate) stats: NetStats,
    /// When the last frame of a connection arrives.
    connections: BTreeMap<ConnectionKey, u64>,
    /// Resets so far, per unordered pair of nodes.
    generations: BTreeMap<(u32, u32), u32>,
    /// From, to: nothing passes.
    cuts: BTreeSet<(u32, u32)>,
    /// Highest number of a frame that has arrived, per node.
    newest: BTreeMap<u32, u64>,
    /// From, to: the next frame will be damaged.
    damage_next: BTreeSet<(u32, u32)>,
}

fn pair(a: u32, b: u32) -> (u32, u32) {
    (a.min(b), a.max(b))
}

impl Net {
    fn generation(&self, a: u32, b: u32) -> u32 {
        self.generations.get(&pair(a, b)).copied().unwrap_or(0)
    }

    fn delay_us(&self, bytes: usize, rng: &Rng) -> u64 {
        let s = &self.speed;
        let r = rng.draw();
        let jitter = if r & 15 == 0 { s.jitter_us * 8 } else { s.jitter_us };
        s.latency_us + (((r >> 32) * jitter) >> 32) + bytes as u64 / s.bytes_per_us.max(1)
    }
}

impl Inner {
    /// What two nodes agree on at connect.
    fn both_speak(&self, a: NodeId, b: NodeId) -> u16 {
        let nodes = self.nodes.borrow();
        let speaks = |n: NodeId| nodes.get((n.0 as usize).wrapping_sub(1)).map(|n| n.speaks);
        [a, b].into_iter().filter_map(speaks).min().expect("the sender is a node")
    }

    /// Takes a frame of a running node.
    pub(crate) fn send(
        &self,
        from: NodeId,
        to: NodeId,
        mut frame: Frame,
    ) -> Result<(), &'static str> {
        frame.settle(self.both_speak(from, to));
        let (rng, now) = (&self.net_rng, self.now.get());
        let to_run = match self.nodes.borrow().get((to.0 as usize).wrapping_sub(1)) {
            None => return Err("no such node"),
            Some(n) if !n.up => None,
            Some(n) => Some(n.run),
        };
        let mut net = self.net.borrow_mut();
        let bulk: usize = frame.payload.bulks.iter().map(|b| b.len()).sum();
        if bulk > BULK_MAX || frame.payload.body.len() > BODY_MAX {
            return Err("the message is larger than a link takes");
        }
        // A link to a process that is gone has noticed or has not.
        let Some(to_run) = to_run else {
            if rng.coin() {
                net.stats.refused += 1;
                return Err("not connected");
            }
            net.stats.reset += 1;
            return Ok(());
        };
        let bytes = Bytes::from(frame.encode());
        net.stats.sent += 1;
        net.stats.sent_bytes += bytes.len() as u64;
        self.meter(from.0, |cost| {
            cost.sent += 1;
            cost.sent_bytes += bytes.len() as u64;
        });
        self.meter(to.0, |cost| {
            cost.received += 1;
            cost.received_bytes += bytes.len() as u64;
        });
        let number = net.stats.sent;
        // The frame's own checksum stands for its content.
        let sum = u32::from_le_bytes(bytes[4..8].try_into().expect("a frame has a head"));
        self.trace.event(
            now,
            &[10, u64::from(from.0) << 32 | u64::from(to.0), number, sum.into()],
            format_args!(
                "#{number} n{}.{} -> n{}.{} {:?} {:?} ask {:#x} {} B {sum:08x}",
                from.0,
                frame.from_shard,
                to.0,
                frame.shard,
                frame.kind,
                frame.lane,
                frame.ask,
                bytes.len()
            ),
        );
        if rng.chance(net.faults.loss_ppm) {
            net.stats.lost += 1;
            self.trace.event(now, &[11, number], format_args!("#{number} lost"));
            return Ok(());
        }
        let mut delay = net.delay_us(bytes.len(), rng);
        if rng.chance(net.faults.spike_ppm) {
            delay += rng.below(net.faults.spike_us + 1);
            net.stats.spikes += 1;
        }
        let chosen = net.damage_next.remove(&(from.0, to.0));
        let damaged = rng.chance(net.faults.corrupt_ppm) || chosen;
        let twice = rng.chance(net.faults.duplicate_ppm);
        let again_us = if twice { rng.below(net.faults.duplicate_delay_us + 1) } else { 0 };
        let generation = net.generation(from.0, to.0);
        let key = (from.0, to.0, frame.from_shard, frame.shard, frame.lane as u8);
        let last = net.connections.entry(key).or_insert(0);
        *last = (*last).max(now + delay);
        let at = *last;
        let flight = |bytes, damaged| {
            let (from, to) = (from.0, to.0);
            Event::Frame(Flight { from, to, to_run, generation, number, bytes, damaged })
        };
        if twice {
            net.stats.duplicated += 1;
            self.later(at + again_us, flight(bytes.clone(), false));
        }
        let first = if damaged { damage(&bytes, rng) } else { bytes };
        self.later(at, flight(first, damaged));
        Ok(())
    }

    /// A frame reaches its node, or does not.
    pub(crate) fn arrive(&self, f: Flight) {
        let Some(frame) = self.open(&f) else { return };
        let shard = {
            let nodes = self.nodes.borrow();
            nodes[f.to as usize - 1].shards.get(usize::from(frame.shard)).map(Rc::clone)
        };
        if let Some(shard) = shard {
            shard.on_frame(frame);
        }
    }

    fn open(&self, f: &Flight) -> Option<Frame> {
        let (to_up, to_run) = {
            let nodes = self.nodes.borrow();
            let n = &nodes[f.to as usize - 1];
            (n.up, n.run)
        };
        let mut net = self.net.borrow_mut();
        let gone = |what: &str, word: u64| {
            let n = f.number;
            self.trace.event(self.now.get(), &[12, n, word], format_args!("#{n} {what}"));
        };
        if net.cuts.contains(&(f.from, f.to)) {
            net.stats.cut += 1;
            gone("cut off", 1);
            return None;
        }
        // A link may carry on over a restart of its peer, and deliver what it still had.
        let crossed = f.to_run != to_run;
        if !to_up
            || f.generation != net.generation(f.from, f.to)
            || (crossed && self.net_rng.coin())
        {
            net.stats.reset += 1;
            gone("reset", 2);
            return None;
        }
        let frame = match Frame::decode(f.bytes.clone()) {
            Ok(frame) => {
                assert!(!f.damaged, "the checksum let a damaged frame pass");
                frame
            }
            Err(e) => {
                assert!(f.damaged, "a frame that nobody damaged does not open: {e}");
                net.stats.corrupted += 1;
                gone("damaged", 3);
                return None;
            }
        };
        net.stats.delivered += 1;
        net.stats.crossed_restart += u64::from(crossed);
        let newest = net.newest.entry(f.to).or_insert(0);
        let overtaken = f.number < *newest;
        *newest = (*newest).max(f.number);
        net.stats.overtaken += u64::from(overtaken);
        self.trace.event(
            self.now.get(),
            &[13, f.number],
            format_args!("#{} arrives at n{}", f.number, f.to),
        );
        Some(frame)
    }
}

fn damage(bytes: &Bytes, rng: &Rng) -> Bytes {
    let mut b = bytes.to_vec();
    let at = rng.below(b.len() as u64) as usize;
    b[at] ^= 1 << rng.below(8);
    b.into()
}

impl Sim {
    pub fn net_stats(&self) -> NetStats {
        self.0.net.borrow().stats
    }

    pub fn set_net_faults(&self, faults: NetFaults) {
        self.0.net.borrow_mut().faults = faults;
    }

    pub fn set_net_speed(&self, speed: NetSpeed) {
        self.0.net.borrow_mut().speed = speed;
    }

    /// Nothing passes from one node to another from now on, frames under way included.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.note(&[14, from.0.into(), to.0.into()], format_args!("cut n{} -> n{}", from.0, to.0));
        self.0.net.borrow_mut().cuts.insert((from.0, to.0));
    }

    /// Damages the next frame that one node sends to another.
    pub fn damage_next(&self, from: NodeId, to: NodeId) {
        let at = format_args!("damages the next n{} -> n{}", from.0, to.0);
        self.note(&[17, from.0.into(), to.0.into()], at);
        self.0.net.borrow_mut().damage_next.insert((from.0, to.0));
    }

    /// Parts two groups of nodes, both ways.
    pub fn part(&self, a: &[NodeId], b: &[NodeId]) {
        for x in a {
            for y in b {
                self.cut(*x, *y);
                self.cut(*y, *x);
            }
        }
    }

    /// Ends every cut.
    pub fn rejoin(&self) {
        self.note(&[15], format_args!("all links joined"));
        self.0.net.borrow_mut().cuts.clear();
    }

    /// Resets the connections of two nodes: what is under way between them, both ways, is lost.
    pub fn reset(&self, a: NodeId, b: NodeId) {
        self.note(&[16, a.0.into(), b.0.into()], format_args!("reset n{} - n{}", a.0, b.0));
        *self.0.net.borrow_mut().generations.entry(pair(a.0, b.0)).or_insert(0) += 1;
    }
}
