//! Goal: what is particular to connections carried by queue pairs holds: payloads move one-sided,
//! memory comes back whatever happens, and where there is no queue pair there is TCP, with the
//! reason. Method: two nodes, on the stand-in for devices and on devices where there are some;
//! faults of the device, of the stream beside it, and of either side's configuration.

mod common;

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use common::pair::{Pair, devices, stand_in, with_nics};
use common::places::usually;
use common::*;
use t3fs_runtime::conformance::{Fault, Pair as _};
use t3fs_runtime::{Addr, AskError, Cx, join_all};
use t3fs_transport::rdma::Nics;
use t3fs_transport::{Address, Fabric, FabricUse, LinkStats, RdmaMemory};

/// They count descriptors, and are slow enough one by one.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// The stand-in, and devices where there are some.
fn all_nics() -> Vec<Nics> {
    [stand_in()].into_iter().chain(devices()).collect()
}

/// Waits until a node says so of its only link.
fn until(node: &Node, what: impl Fn(&LinkStats) -> bool) -> LinkStats {
    let begun = Instant::now();
    loop {
        let told = node.peers.snapshot();
        if let Some(link) = told.into_iter().flat_map(|p| p.links).find(&what) {
            return link;
        }
        assert!(begun.elapsed() < usually(Duration::from_secs(10)), "{:?}", node.peers.snapshot());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn all_memory_is_back(node: &Node) {
    let begun = Instant::now();
    loop {
        let RdmaMemory { pinned, used } = node.peers.rdma_memory();
        if used == 0 && pinned > 0 {
            return assert!(pinned <= 16 << 20, "{pinned} bytes are pinned");
        }
        assert!(begun.elapsed() < usually(Duration::from_secs(10)), "{used} of {pinned} bytes");
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn store(cx: &Cx, to: Addr<Echo>, n: u64, len: usize) -> Result<(), AskError> {
    let data = pattern(n, len);
    let reply = cx.ask(to, Store { n, data: data.clone() }).await?;
    assert!(reply.data == data, "{len} bytes");
    Ok(())
}

/// Asks until there is an answer.
fn comes_back(pair: &Pair) {
    let to = pair.to;
    pair.nodes[0].on(0, move |cx| async move {
        while cx.ask(to, Ping { n: 1 }).await.is_err() {
            cx.sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn payloads_move_one_sided() {
    let _alone = alone();
    for nics in all_nics() {
        let pair = Pair::rdma(nics, 1);
        let (to, mib) = (pair.to, 1 << 20);
        pair.nodes[0].on(0, move |cx| async move {
            let all = join_all((0..20).map(|n| store(&cx, to, n, mib))).await;
            assert!(all.iter().all(Result::is_ok), "{all:?}");
        });
        let moved = 20 << 20;
        let asker = until(&pair.nodes[0], |asker| {
            // Asks are fetched, replies pushed or fetched.
            let is_all = |l: &LinkStats| {
                let (read, written) = (l.one_sided.bytes_read, l.one_sided.bytes_written);
                read == moved && written + asker.one_sided.bytes_read == moved
            };
            let told = pair.nodes[1].peers.snapshot();
            told.iter().flat_map(|p| &p.links).any(is_all)
        });
        assert_eq!((asker.carrier, asker.why_not_rdma), (Some(Fabric::Rdma), None));
        let fetched = asker.one_sided.bytes_read;
        assert!(fetched <= moved * 3 / 4, "most replies are pushed: {fetched} bytes were not");
        pair.nodes.iter().for_each(all_memory_is_back);
    }
}

/// Goal: loss in the middle of transfers is told, mended, and costs no memory.
#[test]
fn a_loss_in_the_middle_of_transfers_leaves_nothing() {
    let _alone = alone();
    for nics in all_nics() {
        let mut pair = Pair::rdma_with_faults(nics);
        for round in 0..6 {
            comes_back(&pair);
            let to = pair.to;
            let asks = pair.nodes[0].begin(0, move |cx| async move {
                join_all((0..6).map(|n| store(&cx, to, n, 1_000_000 * n as usize + 9_000))).await
            });
            std::thread::sleep(Duration::from_millis(2 * round));
            match pair.soft().filter(|_| round % 2 == 0) {
                Some(wire) => wire.break_pairs(),
                None => pair.disturb(Fault::Cut),
            }
            let all = asks.recv_timeout(usually(Duration::from_secs(10))).expect("told at once");
            for r in all {
                assert!(matches!(
                    r,
                    Ok(()) | Err(AskError::Unknown("link lost") | AskError::NotSent(_))
                ));
            }
        }
        comes_back(&pair);
        pair.nodes.iter().for_each(all_memory_is_back);
    }
}

/// Goal: damage of one-sided transfers is noticed. Method: a byte of a fetched or pushed payload.
#[test]
fn a_damaged_transfer_ends_the_connection() {
    let _alone = alone();
    let pair = Pair::rdma_with_faults(stand_in());
    for at in [0, 77_777] {
        comes_back(&pair);
        pair.soft().unwrap().flip_transfer(at);
        let to = pair.to;
        let r = pair.nodes[0].on(0, move |cx| async move { store(&cx, to, 1, 100_000).await });
        assert_eq!(r, Err(AskError::Unknown("link lost")));
    }
    comes_back(&pair);
    pair.nodes.iter().for_each(all_memory_is_back);
}

/// The stream beside a queue pair carries nothing; a byte on it is somebody else's.
#[test]
fn a_byte_beside_the_queue_pair_ends_the_connection() {
    let _alone = alone();
    let pair = Pair::rdma_with_faults(stand_in());
    comes_back(&pair);
    let to = pair.to;
    let slow =
        pair.nodes[0].begin(0, move |cx| async move { cx.ask(to, Slow { us: 9_000_000 }).await });
    std::thread::sleep(Duration::from_millis(50));
    pair.proxy().inject(b"x");
    let r = slow.recv_timeout(Duration::from_secs(5)).expect("told at once");
    assert_eq!(r, Err(AskError::Unknown("link lost")));
    comes_back(&pair);
}

/// Goal: where either side has no queue pair, the link is TCP and says why. Method: each side
/// without devices, one that is set to TCP.
#[test]
fn without_a_queue_pair_there_is_tcp_and_a_reason() {
    let _alone = alone();
    let nics = stand_in();
    let cases: [(&str, &Nics, &Nics, FabricUse); 3] = [
        ("this process uses no RDMA devices", &Nics::None, &nics, FabricUse::Auto),
        ("the peer: this process uses no RDMA devices", &nics, &Nics::None, FabricUse::Auto),
        ("the peer: its fabric is set to tcp", &nics, &nics, FabricUse::Tcp),
    ];
    for (why, ours, theirs, fabric) in cases {
        let mut ours = with_nics(config(1, 1, 1), ours);
        ours.device_ips = vec![places::of(ours.node).ip];
        let mut theirs = with_nics(config(2, 1, 1), theirs);
        theirs.fabric = fabric;
        let (a, b) = (node(ours, false), node(theirs, true));
        let address = Address { fabric: Fabric::Rdma, socket: b.at.unwrap() };
        a.peers.set_addresses(b.id, vec![address]);
        let to = b.addr(0);
        a.on(0, move |cx| async move { store(&cx, to, 1, 3_000_000).await }).unwrap();
        let link = until(&a, |l| l.carrier.is_some());
        assert_eq!((link.carrier, link.why_not_rdma.as_deref()), (Some(Fabric::Tcp), Some(why)));
    }
}

/// Nothing but RDMA: then TCP will not do.
#[test]
fn who_wants_nothing_but_rdma_gets_nothing_else() {
    let _alone = alone();
    let mut ours = with_nics(config(1, 1, 1), &stand_in());
    ours.fabric = FabricUse::Rdma;
    let (a, b) = (node(ours, false), node(config(2, 1, 1), true));
    a.peers.set_addresses(b.id, vec![Address { fabric: Fabric::Rdma, socket: b.at.unwrap() }]);
    let to = b.addr(0);
    let r = a.on(0, move |cx| async move { cx.ask(to, Ping { n: 1 }).await });
    assert!(matches!(r, Err(AskError::NotSent(_))), "{r:?}");
    let link = until(&a, |l| l.last_error.is_some());
    assert!(
        link.last_error.unwrap().contains("no queue pair: the peer: this process uses no RDMA")
    );
}

/// Goal: connections come and go without leaving anything. Method: `T3FS_TEST_ROUNDS` of them.
#[test]
fn connections_come_and_go() {
    let _alone = alone();
    let rounds = std::env::var("T3FS_TEST_ROUNDS").ok().map_or(1000, |n| n.parse().unwrap());
    for nics in all_nics() {
        let pair = Pair::rdma(nics, 1);
        let to = pair.to;
        let round = |n: u64| {
            pair.nodes[0].on(0, move |cx| async move {
                for n in 0..n {
                    links().close(to.raw().node);
                    while cx.ask(to, Ping { n }).await.is_err() {
                        cx.sleep(Duration::from_millis(1)).await;
                    }
                }
            });
        };
        round(rounds / 10);
        let files = open_files();
        let begun = Instant::now();
        round(rounds);
        println!("{:?} for each connection", begun.elapsed() / rounds as u32);
        assert!(open_files() <= files + 8, "{files} files before, {} after", open_files());
        if let Some(wire) = pair.soft() {
            assert_eq!(wire.pairs(), 2);
        }
        until(&pair.nodes[0], |l| l.carrier == Some(Fabric::Rdma));
        pair.nodes.iter().for_each(all_memory_is_back);
    }
}
