//! Goal: what the simulator puts between shards keeps the promises that real links keep, and no
//! more than those. Method: the suite of `t3fs_runtime::conformance` in worlds of many seeds, with
//! a calm network, and with one that repeats, delays and reorders as far as a network may. Two
//! processes of one number are not in it: a node of a world is one process at a time, and there are
//! no handshakes (`transport/tests/conformance.rs` has them).

use core::time::Duration;
use std::cell::RefCell;
use std::rc::Rc;

use t3fs_runtime::conformance::echo::{
    Echo, Echoing, Later, LaterEcho, LaterEchoing, Ping, Slow, Told, WhoAsks,
};
use t3fs_runtime::conformance::{Fault, Job, Pair, Wire};
use t3fs_runtime::{Addr, AskError, Caller, NodeId, RawAddr};
use t3fs_sim::{Crash, NetFaults, NetSpeed, NodeSpec, World};

const SEEDS: u64 = 3;

struct SimPair {
    world: World,
    asker: NodeId,
    receiver: NodeId,
    /// The last shard's is asked; renewed at each start.
    to: Rc<RefCell<Addr<Echo>>>,
    repeats: bool,
}

impl SimPair {
    fn new(seed: u64, receiver_shards: u16, faults: NetFaults) -> SimPair {
        let world = World::new(seed);
        let repeats = faults.duplicate_ppm > 0;
        // Slow enough for something to be under way at most times.
        world.set_net_speed(NetSpeed { latency_us: 500, ..NetSpeed::default() });
        world.set_net_faults(faults);
        let asker = world.add_node(NodeSpec::new());
        let to = Rc::new(RefCell::new(Addr::from_raw(Default::default())));
        let into = Rc::clone(&to);
        let receiver = world.add_node(NodeSpec::new().shards(receiver_shards).boot(move |b| {
            *into.borrow_mut() = b.cx.start(Echoing::default());
        }));
        SimPair { world, asker, receiver, to, repeats }
    }

    /// Two shards of one node.
    fn local(seed: u64) -> SimPair {
        let mut pair = SimPair::new(seed, 2, NetFaults::default());
        pair.asker = pair.receiver;
        pair
    }

    fn calm(seed: u64) -> SimPair {
        SimPair::new(seed, 1, NetFaults::default())
    }

    fn rough(seed: u64) -> SimPair {
        let faults = NetFaults {
            duplicate_ppm: 100_000,
            duplicate_delay_us: 2_000_000,
            spike_ppm: 20_000,
            spike_us: 20_000,
            ..NetFaults::default()
        };
        SimPair::new(seed, 2, faults)
    }
}

impl Pair for SimPair {
    fn wire(&self) -> Wire {
        // Nobody is told of a loss: a caller that can live with that lives with all links.
        Wire {
            in_order: false,
            repeats: self.repeats,
            loss_told: None,
            silence_told: None,
            queue_bytes: None,
        }
    }

    fn to(&self) -> Addr<Echo> {
        *self.to.borrow()
    }

    fn spawn(&self, task: Job) {
        self.world.spawn(self.asker, 0, task);
    }

    fn wait(&self, limit: Duration, done: &dyn Fn() -> bool) -> bool {
        let end = self.world.now_us() + limit.as_micros() as u64;
        let over = || done() || self.world.now_us() >= end;
        // An error is a world in which nothing happens any more, or the limit.
        let _ = self.world.run_until(over, limit);
        done()
    }

    fn disturb(&mut self, what: Fault) {
        let (a, b) = (self.asker, self.receiver);
        match what {
            Fault::Cut => self.world.reset(a, b),
            Fault::Hold => self.world.part(&[a], &[b]),
            Fault::Release => self.world.rejoin(),
            Fault::Damage(_) => self.world.damage_next(a, b),
            Fault::Restart => {
                self.world.crash(b, Crash::Process);
                self.world.restart(b);
            }
        }
    }
}

mod local {
    use super::{SEEDS, SimPair};
    t3fs_runtime::promises_of_asking!(|| (1..=SEEDS).map(SimPair::local));
}

mod calm {
    use super::{SEEDS, SimPair};
    t3fs_runtime::promises_of_asking!(|| (1..=SEEDS).map(SimPair::calm));
    t3fs_runtime::promises_of_links!(|| (1..=SEEDS).map(SimPair::calm));
}

mod rough {
    use super::{SEEDS, SimPair};
    t3fs_runtime::promises_of_asking!(|| (1..=SEEDS).map(SimPair::rough));
    t3fs_runtime::promises_of_links!(|| (1..=SEEDS).map(SimPair::rough));
}

/// Goal: nodes of two builds in a row work together, whichever asks. Method: a message that has got
/// another version, asked of a node that knows the one before, and the other way round.
#[test]
fn an_earlier_build_is_asked_and_asks_in_its_own_version() {
    let world = World::new(1);
    let later = world.add_node(NodeSpec::new().boot(|b| {
        b.cx.start(LaterEchoing);
    }));
    let earlier = world.add_node(NodeSpec::new().speaks(1).boot(|b| {
        b.cx.start(Echoing::default());
    }));
    let at = |node: NodeId| RawAddr { node, shard: 0, slot: 0, epoch: RawAddr::ANY_EPOCH };
    let to = Addr::<LaterEcho>::from_raw(at(earlier));
    let asked = world.block_on(later, async move |cx| cx.ask(to, Later { n: 1, more: 7 }).await);
    let told = Told { n: 1, more: 0 };
    assert_eq!(asked, Ok(Ok(told)), "what the earlier one does not know it is not told");
    // Nor who asks, of which it knows nothing.
    let to = Addr::<Echo>::from_raw(at(earlier));
    let caller = Caller::default().into();
    let asked = world.block_on(later, async move |cx| cx.of(caller).ask(to, WhoAsks {}).await);
    assert_eq!(asked, Ok(Ok(None)));
    let to = Addr::<Echo>::from_raw(at(later));
    let asked = world.block_on(earlier, async move |cx| cx.ask(to, Ping { n: 5 }).await);
    assert_eq!(asked, Ok(Ok(5)));
    let to = Addr::<Echo>::from_raw(at(later));
    let unknown = world.block_on(earlier, async move |cx| cx.ask(to, Slow { us: 1 }).await);
    let why = "the receiver is older and does not know it yet";
    assert_eq!(unknown, Ok(Err(AskError::NotSent(why))), "a message that it has not");
}
