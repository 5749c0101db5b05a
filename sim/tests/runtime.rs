//! Goal: the runtime's ways of asking, on the simulator: by value, between shards, between nodes;
//! deadlines, incarnations, crashes, credits. Method: small actors, one property a test.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::{
    Actor, Addr, AskError, Cx, Handle, Me, NodeId, RawAddr, Slot, join_all, no_bulk, protocol,
};
use t3fs_sim::{Crash, Halt, NetFaults, NetSpeed, NodeSpec, Sim, World};

/// Waits, then gives `value` back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
struct Echo {
    value: u64,
    wait_us: u64,
}

/// Travels the chain of addresses, one hop at a time, and counts the hops.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
struct Travel {
    rest: Vec<RawAddr>,
}

no_bulk!(Echo, Travel);

#[derive(Default)]
struct Echoer {
    handled: u64,
    /// Shows that the actor is gone when it is.
    _held: Option<Held>,
}

protocol! { EchoerApi as EchoerMsg, EchoerReply = 0x7D00 {
    1 v 1 Echo -> u64, Control, 1_000 ms;
    2 v 1 Travel -> u64, Bulk, 30_000 ms, hops |m| m.rest.len() as u8;
} }

impl Actor for Echoer {
    type Protocol = EchoerApi;
}

impl Handle<Echo> for Echoer {
    async fn handle(me: &Me<Self>, m: Echo, cx: &Cx) -> u64 {
        me.with(|s| s.handled += 1);
        if m.wait_us > 0 {
            cx.sleep(Duration::from_micros(m.wait_us)).await;
        }
        m.value
    }
}

impl Handle<Travel> for Echoer {
    async fn handle(_: &Me<Self>, mut m: Travel, cx: &Cx) -> u64 {
        cx.sleep(Duration::from_micros(cx.rand() % 200)).await;
        if m.rest.is_empty() {
            return 1;
        }
        let next = m.rest.remove(0);
        match cx.ask(Addr::<EchoerApi>::from_raw(next), m).await {
            Ok(n) if n > 0 => n + 1,
            _ => 0,
        }
    }
}

struct Held(Rc<Cell<i64>>);

impl Held {
    fn new(count: &Rc<Cell<i64>>) -> Held {
        count.set(count.get() + 1);
        Held(Rc::clone(count))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

type Addrs = Rc<RefCell<Vec<Addr<EchoerApi>>>>;

/// A node with an echoer on each shard; their addresses are renewed at each start.
fn echo_node(sim: &Sim, shards: u16) -> (NodeId, Addrs) {
    let addrs = Addrs::default();
    let into = Rc::clone(&addrs);
    let node = sim.add_node(NodeSpec::new().shards(shards).boot(move |b| {
        if b.shard == 0 {
            into.borrow_mut().clear();
        }
        into.borrow_mut().push(b.cx.start(Echoer::default()));
    }));
    (node, addrs)
}

fn echo(value: u64, wait_us: u64) -> Echo {
    Echo { value, wait_us }
}

#[test]
fn asks_reach_their_actor_by_each_way() {
    let world = World::new(1);
    let (a, to_a) = echo_node(&world, 3);
    let (_, to_b) = echo_node(&world, 2);
    let targets: Vec<_> = to_a.borrow().iter().chain(to_b.borrow().iter()).copied().collect();
    let answers = world.block_on(a, |cx| async move {
        let ask = |(i, to): (usize, &Addr<EchoerApi>)| cx.ask(*to, echo(i as u64, 10));
        join_all(targets.iter().enumerate().map(ask)).await
    });
    assert_eq!(answers, Ok((0..5).map(Ok).collect::<Vec<_>>()));
}

#[test]
fn deadlines_end_asks_and_expired_requests_are_not_handled() {
    let world = World::new(1);
    let (a, _) = echo_node(&world, 1);
    let (b, to_b) = echo_node(&world, 1);
    let to = to_b.borrow()[0];
    let slow = world.block_on(a, move |cx| async move {
        let begun = cx.now();
        let answer = cx.within(Duration::from_millis(5)).ask(to, echo(1, 50_000)).await;
        (answer, cx.now().since(begun))
    });
    let (answer, took) = slow.unwrap();
    assert_eq!(answer, Err(AskError::Unknown("deadline passed")));
    assert!(took >= Duration::from_millis(5) && took < Duration::from_millis(6), "{took:?}");
    // A paused node takes requests up after their deadline: they must not begin.
    world.pause(b, Duration::from_secs(3));
    let late = world.block_on(a, move |cx| async move {
        cx.within(Duration::from_millis(5)).ask(to, echo(1, 0)).await
    });
    assert!(matches!(late, Ok(Err(AskError::Unknown(_)))));
    world.run_for(Duration::from_secs(5)).unwrap();
}

/// An address of an earlier incarnation is refused. Whether that one had handled the request is not
/// known (a link may repeat a frame after a restart), so the outcome is unknown.
#[test]
fn an_address_is_good_for_one_incarnation() {
    let world = World::new(1);
    let (a, _) = echo_node(&world, 1);
    let (b, to_b) = echo_node(&world, 1);
    let old = to_b.borrow()[0];
    world.crash(b, Crash::Process);
    world.restart(b);
    let new = to_b.borrow()[0];
    assert_ne!(old, new);
    let answers = world.block_on(a, move |cx| async move {
        (cx.ask(old, echo(1, 0)).await, cx.ask(new, echo(2, 0)).await)
    });
    let (old, new) = answers.unwrap();
    assert!(matches!(old, Err(AskError::Unknown(_))), "{old:?}");
    assert_eq!(new, Ok(2));
}

/// Regression: asks were numbered from 1 in every incarnation, so the late reply to an ask of a
/// process that had died was taken for the reply to the first ask of the next one.
#[test]
fn a_reply_to_an_earlier_incarnation_is_not_taken() {
    let world = World::new(1);
    let (a, _) = echo_node(&world, 1);
    let (_, to_b) = echo_node(&world, 1);
    let to = to_b.borrow()[0];
    world.spawn(a, 0, move |cx| async move {
        let _ = cx.ask(to, echo(111, 100_000)).await;
    });
    world.run_for(Duration::from_millis(10)).unwrap();
    world.crash(a, Crash::Process);
    world.restart(a);
    let answer = world.block_on(a, move |cx| async move { cx.ask(to, echo(222, 500_000)).await });
    assert_eq!(answer, Ok(Ok(222)));
    assert_eq!(world.shard_stats(a, 0).late_replies, 1);
}

#[test]
fn tell_needs_no_answer() {
    let world = World::new(1);
    let (a, to_a) = echo_node(&world, 2);
    let (_, to_b) = echo_node(&world, 1);
    let targets = [to_a.borrow()[0], to_a.borrow()[1], to_b.borrow()[0]];
    let told = world.block_on(a, move |cx| async move {
        for to in targets {
            cx.tell(to, echo(1, 0)).unwrap();
        }
    });
    assert_eq!(told, Ok(()));
    world.run_for(Duration::from_secs(1)).unwrap();
}

/// Goal: a crash takes tasks, actors, asks, waiters and timers of the node at once, and only those.
#[test]
fn a_crash_leaves_nothing_behind() {
    let count = Rc::new(Cell::new(0));
    let world = World::new(3);
    let (_, to_b) = echo_node(&world, 1);
    let to = to_b.borrow()[0];
    let held = Rc::clone(&count);
    let node = world.add_node(NodeSpec::new().shards(2).disk(1 << 20).boot(move |b| {
        let me = b.cx.start(Echoer { handled: 0, _held: Some(Held::new(&held)) });
        for n in 0..400 {
            let (cx, held) = (b.cx.clone(), Held::new(&held));
            b.cx.spawn(async move {
                let _held = held;
                match n % 5 {
                    0 => drop(cx.ask(to, echo(1, 900_000)).await),
                    1 => drop(cx.ask(me, echo(1, 900_000)).await),
                    2 => cx.sleep(Duration::from_secs(5)).await,
                    3 => Slot::<()>::new().await,
                    _ => loop {
                        cx.sleep(Duration::from_micros(50)).await;
                    },
                }
            });
        }
    }));
    for how in [Crash::Process, Crash::Power] {
        world.run_for(Duration::from_millis(3)).unwrap();
        assert_eq!(count.get(), 802);
        world.crash(node, how); // asserts that no shard is left
        assert_eq!(count.get(), 0);
        world.restart(node);
    }
    assert_eq!(count.get(), 802);
    drop(world);
    assert_eq!(count.get(), 0);
}

#[test]
fn a_future_on_a_crashed_node_does_not_end() {
    let world = World::new(1);
    let (a, _) = echo_node(&world, 1);
    world.at(500, move |sim| sim.crash(a, Crash::Power));
    let ended = world.block_on(a, |cx| async move { cx.sleep(Duration::from_secs(1)).await });
    assert_eq!(ended, Err(Halt::Crashed));
}

/// Regression of the design: with one pool of credits per receiver, chains ABC, BCA and CAB under
/// load wait for each other in a circle. Pools by hops remaining have no circle.
#[test]
fn chains_in_a_circle_do_not_deadlock() {
    for seed in 1..=10 {
        let world = World::new(seed);
        world.set_net_speed(NetSpeed { latency_us: 200, ..NetSpeed::default() });
        let nodes: Vec<_> = (0..3).map(|_| echo_node(&world, 1)).collect();
        let addr: Vec<RawAddr> = nodes.iter().map(|(_, a)| a.borrow()[0].raw()).collect();
        let (client, _) = echo_node(&world, 1);
        let done = Rc::new(Cell::new(0));
        for first in 0..3 {
            for _ in 0..1500 {
                let chain: Vec<_> = (0..3).map(|i| addr[(first + i) % 3]).collect();
                let done = Rc::clone(&done);
                world.spawn(client, 0, move |cx| async move {
                    let rest = chain[1..].to_vec();
                    let hops = cx.ask(Addr::<EchoerApi>::from_raw(chain[0]), Travel { rest }).await;
                    assert_eq!(hops, Ok(3));
                    done.set(done.get() + 1);
                });
            }
        }
        let all = || done.get() == 4500;
        assert_eq!(world.run_until(all, Duration::from_secs(20)), Ok(()), "{} done", done.get());
    }
}

#[test]
fn a_cut_link_carries_nothing_and_a_joined_one_does() {
    let world = World::new(1);
    let (a, _) = echo_node(&world, 1);
    let (b, to_b) = echo_node(&world, 1);
    let to = to_b.borrow()[0];
    let ask = move |cx: Cx| async move { cx.ask(to, echo(5, 0)).await };
    world.cut(b, a); // one way: the request is handled, the reply is lost
    assert!(matches!(world.block_on(a, ask), Ok(Err(AskError::Unknown(_)))));
    world.rejoin();
    assert_eq!(world.block_on(a, ask), Ok(Ok(5)));
    assert_eq!(world.net_stats().cut, 1);
}

#[test]
fn damaged_frames_are_stopped() {
    let world = World::new(1);
    let (a, _) = echo_node(&world, 1);
    let (_, to_b) = echo_node(&world, 1);
    let to = to_b.borrow()[0];
    world.set_net_faults(NetFaults { corrupt_ppm: 500_000, ..NetFaults::default() });
    let right = world.block_on(a, move |cx| async move {
        let mut right = 0;
        for n in 0..200 {
            right += u64::from(cx.ask(to, echo(n, 0)).await == Ok(n));
        }
        right
    });
    assert!((20..120).contains(&right.unwrap()));
    assert!(world.net_stats().corrupted > 80);
}

/// A node's clock may run fast or slow: it wakes when its own clock says so.
#[test]
fn clocks_drift() {
    for ppm in [-10_000, -1, 0, 7, 10_000] {
        let world = World::new(1);
        let node = world.add_node(NodeSpec::new().drift_ppm(ppm));
        let slept = world.block_on(node, |cx| async move {
            let begun = cx.now();
            cx.sleep(Duration::from_secs(100)).await;
            cx.now().since(begun)
        });
        assert!(slept.unwrap() >= Duration::from_secs(100));
        let wanted = 100e6 / (1.0 + ppm as f64 / 1e6);
        assert!((world.now_us() as f64 - wanted).abs() < 5.0, "{ppm}: {}", world.now_us());
    }
}

/// Goal: a request whose deadline has passed when its turn comes does not run, and is counted: from
/// the same shard and from another one of the process. (A frame from another node is begun when it
/// comes, with the time that its sender gave it.) Method: the node stands still between the asking
/// and the handling.
#[test]
fn expired_requests_do_not_run_and_are_counted() {
    let world = World::new(1);
    let (a, to_a) = echo_node(&world, 2);
    let (here, beside) = (to_a.borrow()[0], to_a.borrow()[1]);
    let sim = world.handle();
    world.spawn(a, 0, move |cx| async move {
        let hasty = cx.within(Duration::from_millis(5));
        let both = join_all([here, beside].map(|to| hasty.ask(to, echo(1, 0))));
        let mut both = std::pin::pin!(both);
        assert!(futures::FutureExt::now_or_never(both.as_mut()).is_none());
        sim.pause(a, Duration::from_secs(3));
        let answers = both.await;
        assert!(answers.iter().all(Result::is_err), "{answers:?}");
    });
    world.run_for(Duration::from_secs(5)).unwrap();
    let expired = |shard| world.shard_stats(a, shard).expired;
    assert_eq!((expired(0), expired(1)), (1, 1));
}

/// Goal: a node makes the mistake that is planted when it starts, from its start to its end.
#[test]
fn a_node_makes_the_mistake_that_was_planted_before_it() {
    let world = World::new(1);
    let node = world.add_node(NodeSpec::new());
    let planted = || world.block_on(node, |cx| async move { cx.planted() }).unwrap();
    world.plant(Some("mistake"));
    assert_eq!(planted(), None);
    world.crash(node, Crash::Process);
    world.restart(node);
    world.plant(None);
    assert_eq!(planted(), Some("mistake"));
}
