//! What holds between any two shards, of one process or of two nodes.

use core::time::Duration;
use std::collections::BTreeSet;

use super::echo::{Asker, Echo, Ping, Seen, Slow, Store, WhoAsks, pattern};
use super::{Pair, Wire, is_not_sent, is_unknown, run};
use crate::ask::IN_FLIGHT_MAX;
use crate::lane::Lane;
use crate::wire::BULK_MAX;
use crate::{Addr, Caller, NodeId, join, join_all};

/// Requests of one lane are handled in the order asked, each once, as far as the wire promises
/// that; replies and their payloads belong to their requests.
pub fn order_per_lane_and_no_duplicates(pair: &mut dyn Pair) {
    let order = run(pair, |cx, to| async move {
        let control = join_all((0..500).map(|n| cx.ask(to, Ping { n })));
        let data = |n: u64| pattern(n, (n as usize % 7) * 3000);
        let bulk = join_all((0..500).map(|n| cx.ask(to, Store { n, data: data(n) })));
        let (control, bulk) = join(control, bulk).await;
        for (n, r) in control.into_iter().enumerate() {
            assert_eq!(r, Ok(n as u64));
        }
        for (n, r) in bulk.into_iter().enumerate() {
            let r = r.expect("a reply");
            assert!(r.n == n as u64 && r.data == data(r.n));
        }
        cx.ask(to, Seen {}).await.expect("what it has seen")
    });
    for seen in [order.control, order.bulk] {
        let seen = as_promised(&pair.wire(), seen);
        assert!(seen.iter().copied().eq(0..500), "{} numbers, {:?}", seen.len(), astray(&seen));
    }
}

/// What was seen, as if the wire promised all that wires can promise.
pub(super) fn as_promised(wire: &Wire, mut seen: Vec<u64>) -> Vec<u64> {
    if wire.repeats {
        let mut known = BTreeSet::new();
        seen.retain(|n| known.insert(*n));
    }
    if !wire.in_order {
        seen.sort_unstable();
    }
    seen
}

/// The first number that does not come after the one before it.
pub(super) fn astray(seen: &[u64]) -> Option<(u64, u64)> {
    seen.windows(2).map(|w| (w[0], w[1])).find(|w| w.0 >= w.1)
}

/// In whose name something is asked the receiver hears, and nothing of it when nobody is named.
pub fn who_asks_is_told(pair: &mut dyn Pair) {
    let [named, nobody] = run(pair, |cx, to| async move {
        let (node, user, groups) = (NodeId(77), 1000, vec![4, 27]);
        let caller = Caller { node, user, groups, ..Caller::default() };
        let named = cx.of(caller.into()).ask(to, WhoAsks {}).await;
        [named, cx.ask(to, WhoAsks {}).await]
    });
    let asker = Asker { node: NodeId(77), user: 1000, groups: vec![4, 27] };
    assert_eq!((named, nobody), (Ok(Some(asker)), Ok(None)));
}

/// Payloads of every size up to the largest come and go whole.
pub fn big_payloads_are_intact(pair: &mut dyn Pair) {
    run(pair, |cx, to| async move {
        for len in [0, 1, 4095, 4096, 8193, 65_537, 1 << 20, (4 << 20) + 3, BULK_MAX] {
            let data = pattern(len as u64, len);
            let r = cx.ask(to, Store { n: 1, data: data.clone() }).await.expect("a reply");
            assert!(r.data == data, "{len} bytes");
        }
    });
}

/// Who asks more at once than may be in flight waits, and is served.
pub fn more_at_once_than_there_are_credits(pair: &mut dyn Pair) {
    run(pair, |cx, to| async move {
        let all = (0..3000).map(|n| cx.ask(to, Store { n, data: pattern(n, 20_000) }));
        for (n, r) in join_all(all).await.into_iter().enumerate() {
            assert!(r.is_ok(), "{n}: {r:?}");
        }
    });
}

/// However many ask, no more than the credits of a shard are handled at a time (but for what a wire
/// repeats).
pub fn a_receiver_is_not_flooded(pair: &mut dyn Pair) {
    let order = run(pair, |cx, to| async move {
        let all = join_all((0..1000).map(|_| cx.ask(to, Slow { us: 2_000 }))).await;
        let failed = all.into_iter().find(Result::is_err);
        assert!(failed.is_none(), "{failed:?}");
        cx.ask(to, Seen {}).await.expect("what it has seen")
    });
    let most = IN_FLIGHT_MAX[Lane::Control as usize] as u64 * (1 + u64::from(pair.wire().repeats));
    assert!((2..=most).contains(&order.slow_most), "{} at once", order.slow_most);
}

/// A wait ends with its deadline, whatever the receiver does.
pub fn a_deadline_ends_the_wait(pair: &mut dyn Pair) {
    let (late, took) = run(pair, |cx, to| async move {
        cx.ask(to, Ping { n: 1 }).await.expect("a way");
        let begun = cx.now();
        let late = cx.within(Duration::from_millis(300)).ask(to, Slow { us: 2_000_000 }).await;
        (late, cx.now().since(begun))
    });
    assert!(is_unknown(&late), "{late:?}");
    assert!(took < Duration::from_millis(1_500), "{took:?}");
}

/// Who asks an actor or a node that is not there knows that nobody has handled it.
pub fn wrong_addresses_are_not_sent(pair: &mut dyn Pair) {
    let (nobody, nowhere) = run(pair, |cx, to| async move {
        let mut raw = to.raw();
        raw.slot = 99;
        let nobody = cx.ask(Addr::<Echo>::from_raw(raw), Ping { n: 1 }).await;
        raw.node = NodeId(77);
        (nobody, cx.ask(Addr::<Echo>::from_raw(raw), Ping { n: 1 }).await)
    });
    assert!(is_not_sent(&nobody) && is_not_sent(&nowhere), "{nobody:?} {nowhere:?}");
}
