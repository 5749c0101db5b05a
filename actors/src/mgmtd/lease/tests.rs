//! The lease without a store: records passed from hand to hand, on clocks of our own.

use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Time {
    Time::from_us(ms * 1000)
}

fn lease(node: u32, incarnation: u32) -> Lease {
    with_timing(node, incarnation, &Timing::default())
}

/// One of three that know each other.
fn with_timing(node: u32, incarnation: u32, timing: &Timing) -> Lease {
    let mut lease = Lease::new(NodeId(node), incarnation, timing, false, None);
    lease.set_voters(Some([1, 2, 3].map(NodeId).into()));
    lease
}

fn lasting(node: u32, life_ms: u64, node_lease_ms: u64) -> Lease {
    let ms = Duration::from_millis;
    let (mgmtd_lease, node_lease) = (ms(life_ms), ms(node_lease_ms));
    let timing = Timing { mgmtd_lease, node_lease, ..Timing::default() };
    with_timing(node, 1, &timing)
}

fn written(s: LeaseStep) -> LeaseV3 {
    match s {
        LeaseStep::Write(r) => r,
        LeaseStep::Watch => panic!("it should have written"),
    }
}

/// Goal: a silent holder's lease is over before a challenger begins; an earlier run of the same
/// node is not waited for.
#[test]
fn takeover_comes_after_the_end() {
    let (mut a, mut b) = (lease(1, 1), lease(2, 1));
    let r = written(a.step(None, at(0)));
    assert!(a.acknowledged(&r, at(0), at(5)));
    assert!(a.acts(at(999)) && !a.acts(at(1000)));
    assert_eq!(b.step(Some(r.clone()), at(10)), LeaseStep::Watch);
    assert_eq!(b.hint(at(20)), Some(NodeId(1)));
    assert_eq!(b.step(Some(r.clone()), at(1509)), LeaseStep::Watch);
    let taken = written(b.step(Some(r.clone()), at(1510)));
    assert_eq!((taken.term, taken.holder), (r.term + 1, NodeId(2)));
    assert_eq!(a.step(Some(taken.clone()), at(1600)), LeaseStep::Watch);
    assert_eq!((a.term(), a.acts(at(1))), (None, false));
    let mut again = lease(2, 2);
    assert_eq!(written(again.step(Some(taken.clone()), at(3))).term, taken.term + 1);
}

/// Goal: a write whose outcome is unknown extends nothing; the next one does, in the same term.
#[test]
fn only_acknowledged_writes_count() {
    let mut a = lease(1, 1);
    let r = written(a.step(None, at(0)));
    assert!(!a.acts(at(1)), "unknown so far");
    let again = written(a.step(Some(r.clone()), at(400)));
    assert_eq!((again.term, again.counter), (r.term, r.counter + 1));
    assert!(a.acknowledged(&again, at(400), at(410)));
    assert!(a.acts(at(1399)) && !a.acts(at(1400)));
    let late = written(a.step(Some(again.clone()), at(2000)));
    assert!(a.acknowledged(&late, at(1990), at(2001)), "that was a lapse");
}

/// Regression: a challenger waited for its own lease only, so one that was told a shorter lease
/// than the holder took over while the holder acted; and it called nodes dead that served on
/// under longer leases of the holder.
#[test]
fn a_challenger_waits_for_what_the_holder_was_told() {
    let mut long = lasting(1, 10_000, 1500);
    let r = written(long.step(None, at(0)));
    assert!(long.acknowledged(&r, at(0), at(1)) && long.acts(at(6000)));
    let mut short = lasting(2, 1500, 1500);
    assert_eq!(short.step(Some(r.clone()), at(0)), LeaseStep::Watch);
    assert_eq!(short.step(Some(r.clone()), at(9_999)), LeaseStep::Watch);
    written(short.step(Some(r.clone()), at(10_000)));
    // Longer leases of nodes are waited for too, after a restart with another length as well.
    let granted = LeaseV3 { life_us: 1_500_000, node_lease_us: 9_000_000, ..r };
    let mut short = lasting(2, 1500, 1500);
    assert_eq!(short.step(Some(granted.clone()), at(0)), LeaseStep::Watch);
    assert_eq!(short.step(Some(granted.clone()), at(10_499)), LeaseStep::Watch);
    written(short.step(Some(granted.clone()), at(10_500)));
    let mut again = lease(1, 2);
    assert_eq!(again.step(Some(granted.clone()), at(0)), LeaseStep::Watch);
    written(again.step(Some(granted.clone()), at(9_000)));
    // The other way round there is nothing more to wait for.
    let mut longer = lasting(2, 1500, 20_000);
    assert_eq!(longer.step(Some(granted.clone()), at(0)), LeaseStep::Watch);
    written(longer.step(Some(granted.clone()), at(1500)));
}

/// Goal: a holder that cannot renew goes on while all others promise, no longer than it may after
/// its last renewal, and nobody who promised takes over before that is over.
#[test]
fn promises_bridge_a_pause() {
    let (mut a, mut b) = (lease(1, 1), lease(2, 1));
    let r = written(a.step(None, at(0)));
    assert_eq!(r.voters, [1, 2, 3].map(NodeId));
    a.acknowledged(&r, at(0), at(0));
    b.step(Some(r.clone()), at(100));
    let (ask, voters) = a.appeal(at(700), true).unwrap();
    assert_eq!(voters, [2, 3].map(NodeId));
    assert!(b.promise(&ask, at(701)));
    assert!(a.promised(at(700), at(710)));
    assert!(a.acts(at(1699)) && !a.acts(at(1700)));
    // The watch is over at 1600, the promise at 2201.
    assert_eq!(b.step(Some(r.clone()), at(1600)), LeaseStep::Watch);
    assert_eq!(b.step(Some(r.clone()), at(2200)), LeaseStep::Watch);
    assert_eq!(b.hint(at(2200)), Some(NodeId(1)));
    written(b.step(Some(r.clone()), at(2201)));
    // What has ended is not extended, and nothing is asked for.
    assert!(!a.promised(at(1650), at(1701)) && a.appeal(at(1701), true).is_none());
    // Each round a second; the last one ends with the bridge.
    a.acknowledged(&r, at(5_000), at(5_000));
    let round = |a: &mut Lease, ms| a.appeal(at(ms), true).is_some() && a.promised(at(ms), at(ms));
    assert!((1..79).all(|i| round(&mut a, 5_000 + i * 500)));
    assert!(a.acts(at(44_999)) && !a.acts(at(45_000)) && !round(&mut a, 45_000));
}

/// Goal: who cannot be sure of the holder promises nothing: one that knows a later term, one that
/// leads, and one that sees the store well while the holder does not.
#[test]
fn promises_are_refused() {
    let (mut a, mut b, mut c) = (lease(1, 1), lease(2, 1), lease(3, 1));
    let r = written(a.step(None, at(0)));
    a.acknowledged(&r, at(0), at(0));
    let appeal = |blind| a.appeal(at(500), blind).unwrap().0;
    b.step(Some(r.clone()), at(0));
    b.step(Some(r.clone()), at(700));
    assert!(b.promise(&appeal(true), at(701)), "it may have been slow");
    b.step(Some(r.clone()), at(750));
    assert!(!b.promise(&appeal(true), at(751)), "the holder alone lacks the store");
    assert!(b.promise(&appeal(false), at(751)), "the store takes no writes");
    b.missed();
    assert!(b.promise(&appeal(true), at(752)), "the store is away");
    c.step(Some(r.clone()), at(0));
    let taken = written(c.step(Some(r.clone()), at(1500)));
    c.acknowledged(&taken, at(1500), at(1501));
    assert!(!c.promise(&appeal(false), at(1502)), "it leads");
    b.step(Some(taken), at(1600));
    assert!(!b.promise(&appeal(false), at(1601)), "another leads");
}

/// Goal: after a pause of the store the holder's renewal comes first: a challenger watches anew.
#[test]
fn a_gap_starts_the_watch_anew() {
    let (mut a, mut b) = (lease(1, 1), lease(2, 1));
    let r = written(a.step(None, at(0)));
    assert_eq!(b.step(Some(r.clone()), at(0)), LeaseStep::Watch);
    b.missed();
    assert_eq!(b.step(Some(r.clone()), at(90_000)), LeaseStep::Watch);
    assert_eq!(b.step(Some(r.clone()), at(91_499)), LeaseStep::Watch);
    written(b.step(Some(r), at(91_500)));
}

/// Goal: an mgmtd that the holder may not have asked waits until no promises can help the holder.
#[test]
fn a_stranger_waits_out_the_bridge() {
    let (mut a, mut stranger) = (lease(1, 1), lease(9, 1));
    let r = written(a.step(None, at(0)));
    assert_eq!(stranger.step(Some(r.clone()), at(0)), LeaseStep::Watch);
    assert_eq!(stranger.step(Some(r.clone()), at(46_499)), LeaseStep::Watch);
    let taken = written(stranger.step(Some(r.clone()), at(46_500)));
    assert_eq!(taken.voters, [1, 2, 3, 9].map(NodeId));
    // The holder asks everyone who may be named, until it knows what is stored.
    a.acknowledged(&r, at(0), at(0));
    a.set_voters(Some(vec![NodeId(4)]));
    let other = written(a.step(Some(r), at(400)));
    assert_eq!(other.voters, [1, 4].map(NodeId));
    assert_eq!(a.appeal(at(500), true).unwrap().1, [2, 3, 4].map(NodeId));
    a.acknowledged(&other, at(400), at(600));
    assert_eq!(a.appeal(at(700), true).unwrap().1, [NodeId(4)]);
}

/// Something that happens to one of three, in true time.
#[derive(Clone, Debug)]
enum Do {
    /// It looks at the record, or cannot; its write takes so long, and it may not hear of it.
    Look { who: usize, reads: bool, reply_ms: u64, told: bool },
    /// It asks the others for promises, which take so long each way; some may not answer.
    Appeal { who: usize, blind: bool, way_ms: u64, answers: bool },
    /// Its process starts again.
    Restart { who: usize },
}

fn something() -> impl Strategy<Value = (u64, Do)> {
    let what = prop_oneof![
        8 => (0usize..3, 0u8..10, 0u64..400, any::<bool>())
            .prop_map(|(who, n, reply_ms, told)| Do::Look { who, reads: n > 1, reply_ms, told }),
        4 => (0usize..3, any::<bool>(), 0u64..200, 0u8..5).prop_map(|(who, blind, way_ms, n)| {
            Do::Appeal { who, blind, way_ms, answers: n > 0 }
        }),
        1 => (0usize..3).prop_map(|who| Do::Restart { who }),
    ];
    (1u64..700, what)
}

proptest! {
    /// Goal: whatever the order and outcome of attempts and promises and the rates of clocks (1 %
    /// apart), no two act at the same time. Method: three mgmtds over one record, in true time,
    /// each told another length of its lease; each attempt reads, then writes if the record is
    /// still the same. A holder asks for promises now and then; the store is away for some.
    #[test]
    fn never_two_at_once(steps in prop::collection::vec(something(), 1..160)) {
        let rates = [990u64, 1000, 1010];
        let new = |i: usize, run| {
            let ms = Duration::from_millis;
            let life = [1500, 600, 4000][i];
            let timing = Timing { mgmtd_lease: ms(life), ..Timing::default() };
            with_timing(i as u32 + 1, run, &timing)
        };
        let mut all = [new(0, 1), new(1, 1), new(2, 1)];
        let local = |i: usize, us: u64| Time::from_us(us * rates[i] / 1000);
        let mut record: Option<LeaseV3> = None;
        let (mut now, mut run) = (1_000_000, 1);
        for (wait_ms, what) in steps {
            now += wait_ms * 1000;
            match what {
                Do::Look { who, reads: false, .. } => all[who].missed(),
                Do::Look { who, reply_ms, told, .. } => {
                    let sent = local(who, now);
                    if let LeaseStep::Write(r) = all[who].step(record.clone(), sent) {
                        record = Some(r.clone());
                        now += reply_ms * 1000;
                        if told {
                            all[who].acknowledged(&r, sent, local(who, now));
                        }
                    }
                }
                Do::Appeal { who, blind, way_ms, answers } => {
                    let sent = local(who, now);
                    let Some((ask, voters)) = all[who].appeal(sent, blind) else { continue };
                    now += way_ms * 1000;
                    let mut promised = answers;
                    for v in voters {
                        let i = v.0 as usize - 1;
                        promised &= all[i].promise(&ask, local(i, now));
                    }
                    now += way_ms * 1000;
                    if promised {
                        all[who].promised(sent, local(who, now));
                    }
                }
                Do::Restart { who } => {
                    run += 1;
                    all[who] = new(who, run);
                }
            }
            let acting = (0..3).filter(|i| all[*i].acts(local(*i, now))).count();
            prop_assert!(acting <= 1, "{acting} act at once");
        }
    }
}

/// Goal: the format stays readable by later builds (bytes pinned).
#[test]
fn golden_record() {
    let r = LeaseV3 {
        holder: NodeId(1),
        incarnation: 2,
        term: 3,
        counter: 4,
        life_us: 5,
        node_lease_us: 6,
        bridge_us: 7,
        voters: vec![NodeId(1), NodeId(8)],
    };
    let bytes = Bytes::from(r.encode());
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    assert_eq!(
        hex(&bytes),
        "0611030001000000080000000100000002000000030000000000000004000000000000000500000000000000\
         06000000000000000700000000000000c8ffffff02000000"
    );
    assert_eq!(LeaseV3::decode(&bytes), Ok(r.clone()));
    // What an earlier build wrote: a holder that asks for no promises.
    let (LeaseV3 { holder, incarnation, term, counter, .. }, life_us, node_lease_us) = (r, 5, 6);
    let old = LeaseV2 { holder, incarnation, term, counter, life_us, node_lease_us };
    let bytes = Bytes::from(seal(LEASE, 2, &old));
    assert_eq!(
        hex(&bytes),
        "06110200010000000200000003000000000000000400000000000000\
         05000000000000000600000000000000"
    );
    let read = LeaseV3::decode(&bytes).unwrap();
    assert_eq!((read.counter, read.bridge_us, read.voters), (4, 0, Vec::new()));
}
