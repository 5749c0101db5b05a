//! Who is primary: one record in the KV, decided on without synchronised clocks.
//!
//! The holder raises the record's counter again and again, counts each of its leases from before
//! it sent the renewal, and stops acting at two thirds. A challenger takes over after it has
//! watched the record unchanged for the whole lease on its own clock. As long as clock rates differ
//! by less than a third, the challenger's lease begins after the holder's has ended. Both writes
//! are on stable storage before they count: a store that forgot one would show an old counter, and
//! an old counter looks unchanged.
//!
//! Processes may have been told different lengths, so the record says the holder's. A challenger
//! waits for the longer lease; and if the holder grants nodes longer leases than the challenger
//! will, also until those are over, since it cannot know who has one.
//!
//! That is for whoever reads and grants. Whoever writes is safe without clocks: every write of
//! state reads the record in the same transaction and must find itself in it.
//!
//! A record of an earlier run of the same node is taken over without waiting for its lease: a node
//! is one process at a time, so that run is gone.
//!
//! ```text
//! key          value (sealed: type, version, rkyv)
//! "M/lease"    type 0x1106 LeaseV2 { holder, incarnation, term, counter, life_us, node_lease_us }
//! ```

use core::time::Duration;

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::wire::{open, seal};
use t3fs_runtime::{NodeId, Time};

use super::Timing;

pub(super) const KEY: &[u8] = b"M/lease";
const LEASE: u16 = 0x1106;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub(super) struct LeaseV2 {
    pub(super) holder: NodeId,
    pub(super) incarnation: u32,
    /// Grows with every change of the holder.
    pub(super) term: u64,
    /// Grows with every write.
    pub(super) counter: u64,
    /// Of the holder's lease.
    pub(super) life_us: u64,
    /// The longest that a node may hold a lease from the holder.
    pub(super) node_lease_us: u64,
}

impl LeaseV2 {
    pub(super) fn encode(&self) -> Vec<u8> {
        seal(LEASE, 2, self)
    }

    pub(super) fn decode(bytes: &Bytes) -> Result<LeaseV2, String> {
        open(LEASE, 2, bytes).map_err(|e| format!("mgmtd's lease record: {e}"))
    }
}

/// What to do with the record that was just read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Put this in its place, in the same transaction.
    Write(LeaseV2),
    Watch,
}

/// One mgmtd's view of the record.
pub(super) struct Lease {
    me: NodeId,
    incarnation: u32,
    life: Duration,
    /// What nodes are granted.
    node_lease: Duration,
    /// Nobody else can reach the store: the lease is taken at once, for good.
    alone: bool,
    seen: Option<LeaseV2>,
    /// Since when it is unchanged.
    since: Time,
    /// Acts until then.
    until: Time,
}

impl Lease {
    pub(super) fn new(me: NodeId, incarnation: u32, timing: &Timing, alone: bool) -> Lease {
        let zero = Time::from_us(0);
        let (life, node_lease) = (timing.mgmtd_lease, timing.node_lease);
        Lease { me, incarnation, life, node_lease, alone, seen: None, since: zero, until: zero }
    }

    fn is_mine(&self, r: &LeaseV2) -> bool {
        r.holder == self.me && r.incarnation == self.incarnation
    }

    /// The record as this mgmtd writes it.
    pub(super) fn record(&self, term: u64, counter: u64) -> LeaseV2 {
        LeaseV2 {
            holder: self.me,
            incarnation: self.incarnation,
            term,
            counter,
            life_us: self.life.as_micros() as u64,
            // Alone, the only nodes with leases are this process.
            node_lease_us: if self.alone { 0 } else { self.node_lease.as_micros() as u64 },
        }
    }

    /// Takes note of the record and says what to do.
    pub(super) fn step(&mut self, record: Option<LeaseV2>, now: Time) -> Step {
        if self.seen != record {
            self.seen = record;
            self.since = now;
        }
        let Some(r) = record else { return Step::Write(self.record(1, 1)) };
        if self.is_mine(&r) {
            return Step::Write(LeaseV2 { counter: r.counter + 1, ..r });
        }
        self.until = Time::from_us(0);
        if self.alone || now.since(self.since) >= self.wait(&r) {
            return Step::Write(self.record(r.term + 1, r.counter + 1));
        }
        Step::Watch
    }

    /// How long another's record has to stay unchanged before we take it over.
    fn wait(&self, r: &LeaseV2) -> Duration {
        let earlier_self = r.holder == self.me && r.incarnation < self.incarnation;
        let holders = if earlier_self { Duration::ZERO } else { self.longer(r) };
        let granted = Duration::from_micros(r.node_lease_us);
        // Grants that are no longer than ours end before we call a node dead.
        holders + if granted > self.node_lease { granted } else { Duration::ZERO }
    }

    fn longer(&self, r: &LeaseV2) -> Duration {
        self.life.max(Duration::from_micros(r.life_us))
    }

    /// Our write, which was begun at `sent`, is acknowledged.
    /// `true`: we act again (or for the first time) after a time without leave to act.
    pub(super) fn acknowledged(&mut self, written: LeaseV2, sent: Time, now: Time) -> bool {
        assert!(self.is_mine(&written));
        let acted = self.acts(now);
        if self.seen.is_none_or(|s| s.counter < written.counter) {
            self.seen = Some(written);
            self.since = now;
        }
        let until = if self.alone { Time::NEVER } else { sent + usable(self.life) };
        self.until = self.until.max(until);
        !acted && self.acts(now)
    }

    /// Whether we may act now.
    pub(super) fn acts(&self, now: Time) -> bool {
        now < self.until && self.seen.is_some_and(|r| self.is_mine(&r))
    }

    /// The term in which we act, or would if the lease had not run out.
    pub(super) fn term(&self) -> Option<u64> {
        self.seen.filter(|r| self.is_mine(r)).map(|r| r.term)
    }

    pub(super) fn until(&self) -> Time {
        self.until
    }

    /// Who leads, as far as can be seen from here.
    pub(super) fn hint(&self, now: Time) -> Option<NodeId> {
        self.seen.filter(|r| now.since(self.since) < self.longer(r)).map(|r| r.holder)
    }

    /// How long to wait before the record is looked at again: a renewal may fail twice, and a
    /// challenger looks when the holder's time is over.
    pub(super) fn pause(&self, now: Time) -> Duration {
        let quarter = self.life / 4;
        match self.seen {
            Some(r) if !self.is_mine(&r) => {
                let left = (self.since + self.wait(&r)).since(now);
                quarter.min(left).max(self.life / 64)
            }
            _ => quarter,
        }
    }

    /// How long one look at the record may take.
    pub(super) fn patience(&self) -> Duration {
        self.life / 4
    }
}

/// The part of a lease that its holder uses.
pub const fn usable(life: Duration) -> Duration {
    Duration::from_micros(life.as_micros() as u64 * 2 / 3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_us(ms * 1000)
    }

    fn lease(node: u32, incarnation: u32) -> Lease {
        Lease::new(NodeId(node), incarnation, &Timing::default(), false)
    }

    fn lasting(node: u32, life_ms: u64, node_lease_ms: u64) -> Lease {
        let ms = Duration::from_millis;
        let (mgmtd_lease, node_lease) = (ms(life_ms), ms(node_lease_ms));
        let timing = Timing { mgmtd_lease, node_lease, ..Timing::default() };
        Lease::new(NodeId(node), 1, &timing, false)
    }

    fn written(s: Step) -> LeaseV2 {
        match s {
            Step::Write(r) => r,
            Step::Watch => panic!("it should have written"),
        }
    }

    /// Goal: a silent holder's lease is over before a challenger begins; an earlier run of the same
    /// node is not waited for.
    #[test]
    fn takeover_comes_after_the_end() {
        let (mut a, mut b) = (lease(1, 1), lease(2, 1));
        let r = written(a.step(None, at(0)));
        assert!(a.acknowledged(r, at(0), at(5)));
        assert!(a.acts(at(999)) && !a.acts(at(1000)));
        assert_eq!(b.step(Some(r), at(10)), Step::Watch);
        assert_eq!(b.hint(at(20)), Some(NodeId(1)));
        assert_eq!(b.step(Some(r), at(1509)), Step::Watch);
        let taken = written(b.step(Some(r), at(1510)));
        assert_eq!((taken.term, taken.holder), (r.term + 1, NodeId(2)));
        assert_eq!(a.step(Some(taken), at(1600)), Step::Watch);
        assert_eq!((a.term(), a.acts(at(1))), (None, false));
        let mut again = lease(2, 2);
        assert_eq!(written(again.step(Some(taken), at(3))).term, taken.term + 1);
    }

    /// Goal: a write whose outcome is unknown extends nothing; the next one does, in the same term.
    #[test]
    fn only_acknowledged_writes_count() {
        let mut a = lease(1, 1);
        let r = written(a.step(None, at(0)));
        assert!(!a.acts(at(1)), "unknown so far");
        let again = written(a.step(Some(r), at(400)));
        assert_eq!((again.term, again.counter), (r.term, r.counter + 1));
        assert!(a.acknowledged(again, at(400), at(410)));
        assert!(a.acts(at(1399)) && !a.acts(at(1400)));
        let late = written(a.step(Some(again), at(2000)));
        assert!(a.acknowledged(late, at(1990), at(2001)), "that was a lapse");
    }

    /// Regression: a challenger waited for its own lease only, so one that was told a shorter lease
    /// than the holder took over while the holder acted; and it called nodes dead that served on
    /// under longer leases of the holder.
    #[test]
    fn a_challenger_waits_for_what_the_holder_was_told() {
        let mut long = lasting(1, 10_000, 1500);
        let r = written(long.step(None, at(0)));
        assert!(long.acknowledged(r, at(0), at(1)) && long.acts(at(6000)));
        let mut short = lasting(2, 1500, 1500);
        assert_eq!(short.step(Some(r), at(0)), Step::Watch);
        assert_eq!(short.step(Some(r), at(9_999)), Step::Watch);
        written(short.step(Some(r), at(10_000)));
        // Longer leases of nodes are waited for too, after a restart with another length as well.
        let granted = LeaseV2 { life_us: 1_500_000, node_lease_us: 9_000_000, ..r };
        let mut short = lasting(2, 1500, 1500);
        assert_eq!(short.step(Some(granted), at(0)), Step::Watch);
        assert_eq!(short.step(Some(granted), at(10_499)), Step::Watch);
        written(short.step(Some(granted), at(10_500)));
        let mut again = lease(1, 2);
        assert_eq!(again.step(Some(granted), at(0)), Step::Watch);
        written(again.step(Some(granted), at(9_000)));
        // The other way round there is nothing more to wait for.
        let mut longer = lasting(2, 1500, 20_000);
        assert_eq!(longer.step(Some(granted), at(0)), Step::Watch);
        written(longer.step(Some(granted), at(1500)));
    }

    proptest! {
        /// Goal: whatever the order and outcome of attempts and the rates of clocks (1 % apart), no
        /// two act at the same time. Method: three mgmtds over one record, in true time, each told
        /// another length of its lease; each
        /// attempt reads, then writes if the record is still the same.
        #[test]
        fn never_two_at_once(
            steps in prop::collection::vec((0usize..3, 1u64..700, 0u64..400, any::<bool>()), 1..120)
        ) {
            let rates = [990u64, 1000, 1010];
            let mut all = [lasting(1, 1500, 1500), lasting(2, 600, 1500), lasting(3, 4000, 1500)];
            let local = |i: usize, us: u64| Time::from_us(us * rates[i] / 1000);
            let mut record: Option<LeaseV2> = None;
            let mut now = 1_000_000;
            for (i, wait_ms, reply_ms, told) in steps {
                now += wait_ms * 1000;
                let sent = local(i, now);
                if let Step::Write(r) = all[i].step(record, sent) {
                    record = Some(r);
                    now += reply_ms * 1000;
                    if told {
                        all[i].acknowledged(r, sent, local(i, now));
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
        let r = LeaseV2 {
            holder: NodeId(1),
            incarnation: 2,
            term: 3,
            counter: 4,
            life_us: 5,
            node_lease_us: 6,
        };
        let bytes = Bytes::from(r.encode());
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "06110200010000000200000003000000000000000400000000000000\
             05000000000000000600000000000000"
        );
        assert_eq!(LeaseV2::decode(&bytes), Ok(r));
    }
}
