//! What holds between nodes: what becomes of asks when the way between them fails.

use core::time::Duration;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::asking::{as_promised, astray};
use super::echo::{Echo, Later, LaterEcho, Ping, Slow, Store, pattern};
use super::{Fault, PATIENCE, Pair, begin, finish, is_not_sent, is_unknown, pass, run, seen};
use crate::wire::BULK_MAX;
use crate::{Addr, AskError, Cx, join_all};

/// A payload larger than any link takes is refused, and costs nobody the link.
pub fn oversize_is_refused(pair: &mut dyn Pair) {
    let (big, after) = run(pair, |cx, to| async move {
        let big = cx.ask(to, Store { n: 1, data: pattern(1, BULK_MAX + 1) }).await;
        (big.map(drop), cx.ask(to, Ping { n: 5 }).await)
    });
    assert!(matches!(big, Err(AskError::NotSent(why)) if why.contains("larger")), "{big:?}");
    assert_eq!(after, Ok(5));
}

/// Asks the receiver until it answers; how long one answer took then.
fn comes_back(pair: &dyn Pair) -> Duration {
    run(pair, |cx, to| async move {
        loop {
            let begun = cx.now();
            if cx.ask(to, Ping { n: u64::MAX }).await.is_ok() {
                return cx.now().since(begun);
            }
            cx.sleep(Duration::from_millis(10)).await;
        }
    })
}

/// Who waits on a connection that ends gets an answer, `Unknown`: at once where the wire tells. The
/// next ask makes a new connection.
pub fn a_cut_is_told_and_mended(pair: &mut dyn Pair) {
    comes_back(pair);
    for _ in 0..3 {
        let slow = begin(pair, |cx, to| async move {
            let begun = cx.now();
            let all = join_all((0..10).map(|_| cx.ask(to, Slow { us: 20_000_000 }))).await;
            (all, cx.now().since(begun))
        });
        let settled = Duration::from_millis(100);
        pass(pair, settled);
        pair.disturb(Fault::Cut);
        let (all, took) = finish(pair, &slow, PATIENCE).expect("asks end by their deadline");
        match pair.wire().loss_told {
            Some(limit) => {
                assert!(all.iter().all(is_unknown), "{all:?}");
                assert!(took < settled + limit, "{took:?}");
            }
            None => assert!(all.iter().all(|r| is_unknown(r) || r.is_ok()), "{all:?}"),
        }
        comes_back(pair);
    }
}

/// What a caller is told is what has happened: an answered ask was handled once, one that was not
/// sent never, an unknown one at most once. Where the wire repeats, "once" is "at least once", and
/// "at most once" says nothing. Method: a stream of asks over a connection that is cut at odd
/// moments, then what the receiver has seen.
pub fn outcomes_are_honest(pair: &mut dyn Pair) {
    comes_back(pair);
    let stream = Arc::new(Stream::default());
    let asked = Arc::clone(&stream);
    let asks = begin(pair, move |cx, to| ask_on(cx, to, asked));
    for cut in 0..CUTS_MAX {
        if cut >= CUTS && stream.unknown.load(Relaxed) > 0 {
            break;
        }
        let before = stream.answered.load(Relaxed);
        let works = || stream.answered.load(Relaxed) > before + 10;
        assert!(pair.wait(PATIENCE, &works), "nothing is answered after {cut} cuts");
        pass(pair, Duration::from_millis(20 + cut * 37 % 150));
        pair.disturb(Fault::Cut);
    }
    stream.end.store(true, Relaxed);
    let outcomes = finish(pair, &asks, PATIENCE).expect("asks end by their deadlines");
    let order = seen(pair);
    let mut times = vec![0; outcomes.len()];
    for n in order.control.iter().chain(&order.bulk).filter(|n| **n != u64::MAX) {
        times[*n as usize] += 1;
    }
    let repeats = pair.wire().repeats;
    let (mut answered, mut not_sent, mut unknown) = (0, 0, 0);
    for (n, (outcome, times)) in outcomes.iter().zip(times).enumerate() {
        match outcome {
            Ok(()) => {
                answered += 1;
                assert!(times == 1 || repeats && times > 1, "{n} was answered, seen {times} times");
            }
            Err(AskError::NotSent(why)) => {
                not_sent += 1;
                assert_eq!(times, 0, "{n} was not sent: {why}");
            }
            Err(AskError::Unknown(why)) => {
                unknown += 1;
                assert!(times <= 1 || repeats, "{n} is unknown: {why}, seen {times} times");
            }
        }
    }
    println!("{answered} answered, {not_sent} not sent, {unknown} unknown");
    assert!(unknown > 0, "no cut has met an ask");
    for lane in [order.control, order.bulk] {
        let lane = lane.into_iter().filter(|n| *n != u64::MAX).collect();
        let lane = as_promised(&pair.wire(), lane);
        assert_eq!(astray(&lane), None, "out of order");
    }
}

const CUTS: u64 = 8;
/// On a fast machine a cut may find nothing under way: then there are more.
const CUTS_MAX: u64 = 80;
/// So many asks at most, should one cut never be over.
const STREAM_MAX: u64 = 100_000;

/// A stream of asks, as it goes.
#[derive(Default)]
struct Stream {
    answered: AtomicU64,
    unknown: AtomicU64,
    end: AtomicBool,
}

/// Asks something every 700 us, of every kind in turn, until told to end; what became of each.
async fn ask_on(cx: Cx, to: Addr<Echo>, stream: Arc<Stream>) -> Vec<Result<(), AskError>> {
    let outcomes = Rc::new(RefCell::new(Vec::new()));
    let mut asked = 0;
    while !stream.end.load(Relaxed) && asked < STREAM_MAX {
        let (n, own, stream) = (asked, cx.clone(), Arc::clone(&stream));
        let outcome = Rc::clone(&outcomes);
        cx.spawn(async move {
            let cx = own;
            let r = match n % 3 {
                0 => cx.ask(to, Ping { n }).await.map(drop),
                1 => cx.ask(to, Store { n, data: pattern(n, 300_000) }).await.map(drop),
                _ => cx.ask(to, Store { n, data: pattern(n, 2_000) }).await.map(drop),
            };
            stream.answered.fetch_add(u64::from(r.is_ok()), Relaxed);
            stream.unknown.fetch_add(u64::from(is_unknown(&r)), Relaxed);
            outcome.borrow_mut().push((n, r));
        });
        asked += 1;
        cx.sleep(Duration::from_micros(700)).await;
    }
    while (outcomes.borrow().len() as u64) < asked {
        cx.sleep(Duration::from_millis(5)).await;
    }
    let mut all = outcomes.take();
    all.sort_unstable_by_key(|(n, _)| *n);
    all.into_iter().map(|(_, r)| r).collect()
}

/// A peer from which nothing comes any more, and which nobody has closed, is given up.
pub fn a_half_open_peer_is_noticed(pair: &mut dyn Pair) {
    comes_back(pair);
    pair.disturb(Fault::Hold);
    let (answer, took) = run(pair, |cx, to| async move {
        let begun = cx.now();
        (cx.ask(to, Ping { n: 2 }).await, cx.now().since(begun))
    });
    assert!(is_unknown(&answer), "{answer:?}");
    if let Some(limit) = pair.wire().silence_told {
        assert!(took < limit, "{took:?}");
    }
    pair.disturb(Fault::Release);
    comes_back(pair);
}

/// A handler that takes longer than the limit of silence is no dead peer.
pub fn a_slow_handler_is_not_silence(pair: &mut dyn Pair) {
    let r = run(pair, |cx, to| async move { cx.ask(to, Slow { us: 3_000_000 }).await });
    assert_eq!(r, Ok(3_000_000));
}

/// A receiver that takes nothing costs the sender no more than its queue: the rest is refused at
/// once. Every ask ends.
pub fn a_slow_receiver_does_not_fill_the_sender(pair: &mut dyn Pair) {
    comes_back(pair);
    pair.disturb(Fault::Hold);
    let all = run(pair, |cx, to| async move {
        let data = pattern(1, 1 << 20);
        join_all((0..100).map(|n| cx.ask(to, Store { n, data: data.clone() }))).await
    });
    let refused = all.iter().filter(|r| is_not_sent(r)).count();
    let unknown = all.iter().filter(|r| is_unknown(r)).count();
    assert_eq!(refused + unknown, 100);
    if let Some(bytes) = pair.wire().queue_bytes {
        // Besides the queue there is a little in stages and sockets.
        let held = bytes.div_ceil(1 << 20) + 12;
        assert!(refused > 100 - held, "{refused} refused, {unknown} unknown");
    }
    pair.disturb(Fault::Release);
    comes_back(pair);
}

/// What was damaged on the way is not handled, in whatever part; the link comes back. Where the
/// wire repeats, the other copy may be.
pub fn damage_is_never_delivered(pair: &mut dyn Pair) {
    let repeats = pair.wire().repeats;
    for (round, at) in [1, 5, 20, 47, 50, 56].into_iter().enumerate() {
        comes_back(pair);
        pair.disturb(Fault::Damage(at));
        let n = 100 + round as u64;
        let r = run(pair, move |cx, to| async move { cx.ask(to, Ping { n }).await });
        assert!(is_unknown(&r) || repeats && r == Ok(n), "byte {at}: {r:?}");
    }
    comes_back(pair);
    pair.disturb(Fault::Damage(30_000));
    let r = run(pair, |cx, to| async move {
        let data = pattern(1, 3 << 20);
        cx.ask(to, Store { n: 1, data: data.clone() }).await.map(|r| r.data == data)
    });
    assert!(is_unknown(&r) || repeats && r == Ok(true), "{r:?}");
    if repeats {
        return;
    }
    let order = seen(pair);
    assert!(order.control.iter().all(|n| *n == u64::MAX), "handled: {order:?}");
    assert!(order.bulk.is_empty(), "a damaged payload was handled: {order:?}");
}

/// A message of a version that the receiver does not know is refused, and costs nobody the link.
pub fn a_later_version_is_refused_and_the_link_lives(pair: &mut dyn Pair) {
    let (later, same) = run(pair, |cx, to| async move {
        let slow = cx.ask(to, Slow { us: 300_000 });
        let to_later = Addr::<LaterEcho>::from_raw(to.raw());
        crate::join(cx.ask(to_later, Later { n: 1, more: 0 }), slow).await
    });
    assert!(is_not_sent(&later), "{later:?}");
    assert_eq!(same, Ok(300_000));
}

/// A process that ends and begins again is another: what waits on the first is told or ends by its
/// deadline, the old address is answered by nobody, and the new one serves.
pub fn a_restarted_receiver_is_another(pair: &mut dyn Pair) {
    comes_back(pair);
    let old = pair.to();
    let slow = begin(pair, |cx, to| async move { cx.ask(to, Slow { us: 25_000_000 }).await });
    pass(pair, Duration::from_millis(100));
    pair.disturb(Fault::Restart);
    assert_ne!(pair.to(), old);
    let slow = finish(pair, &slow, PATIENCE).expect("asks end by their deadline");
    assert!(is_unknown(&slow), "{slow:?}");
    comes_back(pair);
    let stale = run(pair, move |cx, _| async move { cx.ask(old, Ping { n: 7 }).await });
    assert!(stale.is_err(), "{stale:?}");
    let order = seen(pair);
    assert!(order.control.iter().all(|n| *n == u64::MAX), "{order:?}");
}
