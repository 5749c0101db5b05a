//! Goal: every way between two shards keeps the same promises. Method: the suite of
//! `t3fs_runtime::conformance`, between two shards of one process (local), between two nodes (tcp),
//! and with the second shard of a node; then what only a connection can do wrong, through a proxy
//! that holds, damages, repeats and cuts. The simulator runs the same suite (`sim/tests/links.rs`).

mod common;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::pair::{self, Pair};
use common::*;
use t3fs_runtime::conformance::{Fault, Pair as _};
use t3fs_runtime::{Addr, AskError, Cx, RawAddr};
use t3fs_transport::rdma::Nics;
use t3fs_transport::{Address, HandshakeRefusal};

mod local {
    use super::Pair;
    t3fs_runtime::promises_of_asking!(|| [Pair::local()]);
}

mod tcp {
    use super::Pair;
    t3fs_runtime::promises_of_asking!(|| [Pair::tcp(1)]);
    t3fs_runtime::promises_of_links!(|| [Pair::tcp_with_faults()]);
}

mod rdma_soft {
    use super::Pair;
    use super::pair::stand_in;
    t3fs_runtime::promises_of_asking!(|| [Pair::rdma(stand_in(), 2)]);
    t3fs_runtime::promises_of_links!(|| [Pair::rdma_with_faults(stand_in())]);
}

/// Where there are devices; else only the stand-in for them is tested.
mod rdma {
    use super::Pair;
    use super::pair::devices;
    t3fs_runtime::promises_of_asking!(|| devices().into_iter().map(|nics| Pair::rdma(nics, 2)));
    t3fs_runtime::promises_of_links!(|| devices().into_iter().map(Pair::rdma_with_faults));
}

mod tcp_second_shard {
    use super::Pair;
    t3fs_runtime::promises_of_asking!(|| [Pair::tcp(2)]);
}

/// Both nodes ask each other at once, again and again from nothing: connections cross.
#[test]
fn crossing_connections_settle() {
    for round in 0..10 {
        let a = node(config(1, 1, 1), true);
        let b = node(config(2, 1, 1), true);
        a.peers.set_addresses(b.id, vec![b.at.unwrap()]);
        b.peers.set_addresses(a.id, vec![a.at.unwrap()]);
        let (to_a, to_b) = (a.addr(0), b.addr(0));
        let ask = |to: Addr<Echo>| {
            move |cx: Cx| async move {
                let mut wrong = 0;
                for n in 0..200 {
                    if cx.ask(to, Ping { n }).await.is_err() {
                        wrong += 1;
                        cx.sleep(Duration::from_millis(5)).await;
                    }
                }
                wrong
            }
        };
        let (ra, rb) = (a.begin(0, ask(to_b)), b.begin(0, ask(to_a)));
        let wait = Duration::from_secs(30);
        let wrong = (ra.recv_timeout(wait).unwrap(), rb.recv_timeout(wait).unwrap());
        assert!(wrong.0 < 20 && wrong.1 < 20, "round {round}: {wrong:?}");
    }
}

/// Every connection of a link is counted, and its number told.
#[test]
fn connections_are_counted() {
    let mut pair = Pair::tcp_with_faults();
    let to = pair.to;
    for epoch in 1..=3 {
        let a = &pair.nodes[0];
        while a.on(0, move |cx| async move { cx.ask(to, Ping { n: 1 }).await }).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let begun = Instant::now();
        loop {
            let told = a.peers.snapshot();
            if told.iter().any(|peer| peer.links.iter().any(|link| link.epoch == epoch)) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{told:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        pair.disturb(Fault::Cut);
    }
}

/// Regression of the design: a frame that a network repeats is not handled twice.
#[test]
fn a_repeated_frame_ends_the_connection() {
    let pair = Pair::tcp_with_faults();
    let (a, to) = (&pair.nodes[0], pair.to);
    let ping = move |n| move |cx: Cx| async move { cx.ask(to, Ping { n }).await };
    assert_eq!(a.on(0, ping(2)), Ok(2));
    pair.proxy().faults.twice.store(true, Ordering::Relaxed);
    a.on(0, ping(3)).ok(); // the answer and the end of the connection race
    let order = t3fs_runtime::conformance::seen(&pair);
    assert_eq!(order.control, [2, 3]);
}

/// Regression: a link was given up while a large frame was leaving over a slow way, because only
/// received bytes counted as life and the ping waited behind the frame. Method: a frame that takes
/// several times the limit of silence.
#[test]
fn a_slow_way_is_not_silence() {
    let mut c = config(1, 1, 1);
    c.limits.ping_after = Duration::from_millis(250);
    c.limits.dead_after = Duration::from_millis(1500);
    let a = node(c, false);
    let b = node(config(2, 1, 1), true);
    let proxy = Proxy::before(b.at.unwrap(), a.id);
    a.peers.set_addresses(b.id, vec![proxy.at]);
    proxy.faults.per_ms.store(10 << 10, Ordering::Relaxed);
    let to = b.addr(0);
    let begun = Instant::now();
    let r = a.on(0, move |cx| async move {
        cx.ask(to, Store { n: 1, data: pattern(1, 60 << 20) }).await.map(|s| s.data.len())
    });
    assert_eq!(r, Ok(60 << 20));
    assert!(begun.elapsed() > Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn an_address_is_resolved_to_a_node_and_its_card() {
    let a = node(config(1 << 31 | 5, 1, 1), false);
    let b = node(config(2, 9, 3), true);
    let (at, to) = (b.at.unwrap(), b.addr(0));
    let (known, asked) = a.on(0, move |cx| async move {
        let known = links().resolve(at).await.unwrap();
        (known, cx.ask(to, Ping { n: 4 }).await)
    });
    assert_eq!((known.node, known.incarnation, known.shards), (b.id, 9, 3));
    assert_eq!(known.card.find(7), Some((0, 0)));
    assert_eq!(known.card.find(8), None);
    assert_eq!(asked, Ok(4));
    // Nobody listens for node 1, but over its link it can be asked.
    let back = a.addr(0);
    assert_eq!(b.on(0, move |cx| async move { cx.ask(back, Ping { n: 6 }).await }), Ok(6));
    let own = b.on(0, move |_| async move { links().resolve(at).await }).unwrap();
    assert_eq!((own.node, own.card.find(7)), (b.id, Some((0, 0))));
    assert_eq!(b.peers.refused(), []);
    let dead = a.on(0, |_| async { links().resolve("127.0.0.1:1".parse().unwrap()).await });
    assert!(dead.unwrap_err().why.contains("127.0.0.1:1"));
}

/// Regression: processes that look each other up again and again (mgmtds do) each made a connection
/// of their own, which ended the other's with the asks on it. Method: an ask is under way while
/// both look, further apart than connections that cross.
#[test]
fn looking_each_other_up_breaks_no_link() {
    let a = node(config(1, 1, 1), true);
    let b = node(config(2, 1, 1), true);
    let (at_a, at_b, to_b) = (a.at.unwrap(), b.at.unwrap(), b.addr(0));
    let look = |from: &Node, at| {
        let known = from.on(0, move |_| async move { links().resolve(at).await }).unwrap();
        (known.node, known.card.find(7))
    };
    let apart = Duration::from_millis(1200);
    assert_eq!(look(&a, at_b), (b.id, Some((0, 0))));
    std::thread::sleep(apart);
    assert_eq!(look(&b, at_a), (a.id, Some((0, 0))));
    let slow = a.begin(0, move |cx| async move { cx.ask(to_b, Slow { us: 4_000_000 }).await });
    for (from, at, found) in [(&a, at_b, b.id), (&b, at_a, a.id), (&a, at_b, b.id)] {
        std::thread::sleep(apart);
        assert_eq!(look(from, at), (found, Some((0, 0))));
    }
    assert_eq!(slow.recv_timeout(Duration::from_secs(20)).unwrap(), Ok(4_000_000));
}

/// What a second process under a used number is told, and what tells of it.
const IN_USE: (&str, HandshakeRefusal) = ("another process", HandshakeRefusal::NumberInUse);

/// Looks an address up from a shard, and asks who is there, so that both have the link. Who it is,
/// or why there is nobody.
fn look(from: &Node, shard: usize, at: SocketAddr) -> Result<u32, String> {
    from.on(shard, move |cx| async move {
        let known = links().resolve(at).await.map_err(|e| e.why)?;
        let (node, epoch) = (known.node, known.incarnation);
        let to = Addr::<Echo>::from_raw(RawAddr { node, shard: 0, slot: 0, epoch });
        cx.ask(to, Ping { n: 3 }).await.map_err(|e| e.to_string())?;
        Ok(known.incarnation)
    })
}

/// The same until it works.
fn look_until_found(from: &Node, at: SocketAddr, limit: Duration) -> Result<u32, String> {
    let since = Instant::now();
    loop {
        let found = look(from, 0, at);
        if found.is_ok() || since.elapsed() > limit {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn is_asked(by: &Node, who: &Node, shard: u16) -> Result<u64, AskError> {
    let to = who.addr(shard);
    by.on(0, move |cx| async move { cx.ask(to, Ping { n: 3 }).await })
}

/// Regression: a second process under a used number, later by its clock, pushed out the links of
/// the first, which nobody could reach any more. Goal: while the first one has a link, be it of
/// another shard, the second is refused with words that help; once the first has ended it is let
/// in, and the first, were it still there, is told that it is late. Method: with every carrier.
#[test]
fn a_second_process_under_a_used_number_waits_for_the_end_of_the_first() {
    for nics in [Nics::None, pair::stand_in()] {
        let start = |id, incarnation, shards, listen| {
            node(pair::with_nics(config(id, incarnation, shards), &nics), listen)
        };
        let b = start(2, 1, 1, true);
        let at = b.at.unwrap();
        let mut old = start(1, 5, 2, false);
        let lives_at: Address = "TCP://127.0.0.1:9".parse().unwrap();
        b.peers.set_addresses(old.id, vec![lives_at]);
        assert_eq!(look(&old, 1, at), Ok(1));
        let to_old = old.addr(1);
        let slow =
            b.begin(0, move |cx| async move { cx.ask(to_old, Slow { us: 2_000_000 }).await });
        let new = start(1, 6, 1, false);
        let why = look(&new, 0, at).unwrap_err();
        assert!(why.contains(IN_USE.0) && why.contains(&lives_at.to_string()), "{why}");
        assert_eq!(slow.recv_timeout(Duration::from_secs(20)).unwrap(), Ok(2_000_000));
        assert_eq!((look(&old, 0, at), is_asked(&b, &old, 0)), (Ok(1), Ok(3)), "a further link");
        assert_eq!(b.peers.refused(), [(IN_USE.1, 1)]);

        old.stop();
        assert_eq!(look_until_found(&new, at, Duration::from_secs(10)), Ok(1));
        assert_eq!(is_asked(&b, &new, 0), Ok(3));
        let late = start(1, 5, 1, false);
        assert!(look(&late, 0, at).unwrap_err().contains("later incarnation"));
    }
}

/// Goal: the same where the second process is the one that is found at an address.
#[test]
fn a_second_process_that_is_dialled_is_not_taken_for_the_first() {
    let b = node(config(2, 1, 1), false);
    let (old, new) = (node(config(1, 5, 1), true), node(config(1, 6, 1), true));
    assert_eq!(look(&b, 0, old.at.unwrap()), Ok(5));
    let why = look(&b, 0, new.at.unwrap()).unwrap_err();
    assert!(why.contains(IN_USE.0), "{why}");
    assert_eq!(is_asked(&b, &old, 0), Ok(3));
}

/// Goal: a process that was started on a host that lost its power does not wait for the end of the
/// patience with links that nobody needs. Method: the first process's link is held up, and idle.
#[test]
fn a_silent_process_does_not_keep_its_number_for_long() {
    let b = node(config(2, 1, 1), true);
    let old = node(config(1, 5, 1), false);
    let proxy = Proxy::before(b.at.unwrap(), old.id);
    assert_eq!(look(&old, 0, proxy.at), Ok(1));
    proxy.faults.hold.store(true, Ordering::Relaxed);
    let new = node(config(1, 6, 1), false);
    assert!(look(&new, 0, b.at.unwrap()).unwrap_err().contains(IN_USE.0));
    let limit = places::usually(Duration::from_secs(10));
    assert!(limit < new.peers.config().limits.idle_dead_after);
    assert_eq!(look_until_found(&new, b.at.unwrap(), limit), Ok(1));
    proxy.cut();
}

/// Goal: a second process that came where nobody knew the first gives way to it, once the cluster
/// has said which one is the node.
#[test]
fn the_process_that_the_cluster_knows_displaces_another() {
    let b = node(config(2, 1, 1), true);
    let at = b.at.unwrap();
    let (real, other) = (node(config(1, 5, 1), false), node(config(1, 6, 1), false));
    assert_eq!(look(&other, 0, at), Ok(1));
    assert!(look(&real, 0, at).unwrap_err().contains("later incarnation"));
    b.peers.set_incarnation(real.id, 5);
    assert_eq!((look(&real, 0, at), is_asked(&b, &real, 0)), (Ok(1), Ok(3)));
    let lost = Instant::now() + Duration::from_secs(10);
    while look(&other, 0, at).is_ok() {
        assert!(Instant::now() < lost, "the other one has a link");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(is_asked(&b, &real, 0), Ok(3));
}
