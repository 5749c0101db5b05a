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
//! # While the store is away
//!
//! A holder that cannot renew asks all others who might take over to refrain for one more lease
//! ([`Lease::appeal`], [`Lease::promise`]). If every one of them promises, the holder goes on: it
//! counts from before it asked and stops at two thirds, as with a renewal. Why no two act:
//!
//! 1. The record names the *voters*. A voter takes over only when its watch is over *and* all its
//!    promises are, counted from when it gave them. So a unanimous round is as good as a renewal
//!    against every voter. Watching alone would not do: a voter may reach the store while the
//!    holder does not.
//! 2. A takeover is a transaction on the record that the challenger has judged by. The holder asks
//!    everyone named in the last record that it knows to be stored, and in every later one that may
//!    be. Whichever record a voter has judged by, it was asked.
//! 3. An mgmtd that the record does not name was not asked. It waits for as long as the holder may
//!    go on by promises (`bridge_us`, and an eighth for the clocks), beside the lease. The holder
//!    counts that time from before it sent its last renewal, which is before anyone could see it.
//! 4. Promises extend only what has not ended: a holder whose time is over acts again after a
//!    renewal only. When a challenger writes, every promise that it gave and its watch are over, so
//!    the holder has stopped. A promise that it gives while that write is under way therefore
//!    comes too late to extend anything.
//! 5. A voter that starts again forgets its promise, and watches for a whole lease from its first
//!    look. Promises are never longer than the holder's lease, which the record says, so the
//!    forgotten promise is over by then. Its earlier run's record it takes over at once, but that
//!    run wrote it after all its promises were over.
//!
//! What remains is liveness. A challenger whose look at the record fails starts its watch anew, so
//! that after a pause of the store the holder's renewal comes first, also if the promises have run
//! out. A voter that sees the record without a gap while the holder cannot even read it does not
//! promise: the store is well, and the holder is the one who should go (`blind`).
//!
//! ```text
//! key          value (sealed: type, version, rkyv)
//! "M/lease"    type 0x1106 LeaseV3 { holder, incarnation, term, counter, life_us, node_lease_us,
//!                                    bridge_us, voters }
//!              (read: LeaseV2, the same up to node_lease_us: its holder asks for no promises)
//! ```

use core::time::Duration;
use std::collections::BTreeSet;

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::wire::{envelope, open, seal};
use t3fs_runtime::{NodeId, Time};

use super::PlantedBug;
use crate::proto::mgmtd::Refrain;
use crate::timing::{Timing, is_longer};

pub(super) const KEY: &[u8] = b"M/lease";
const LEASE: u16 = 0x1106;
/// A holder acts on promises for so long after its last renewal.
const BRIDGE_MAX: Duration = Duration::from_secs(40);
const _: () = assert!(is_longer(BRIDGE_MAX, 2, Timing::DEFAULT.mgmtd_lease));

#[derive(PartialEq, Debug, Archive, Serialize, Deserialize)]
struct LeaseV2 {
    holder: NodeId,
    incarnation: u32,
    term: u64,
    counter: u64,
    life_us: u64,
    node_lease_us: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub(super) struct LeaseV3 {
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
    /// The longest that the holder may act on promises after a renewal.
    pub(super) bridge_us: u64,
    /// Whom the holder asks for promises, and itself; sorted.
    pub(super) voters: Vec<NodeId>,
}

impl LeaseV3 {
    pub(super) fn encode(&self) -> Vec<u8> {
        seal(LEASE, 3, self)
    }

    pub(super) fn decode(bytes: &Bytes) -> Result<LeaseV3, String> {
        let wrong = |e| format!("mgmtd's lease record: {e}");
        if let Ok((LEASE, 2)) = envelope(bytes) {
            let LeaseV2 { holder, incarnation, term, counter, life_us, node_lease_us } =
                open(LEASE, 2, bytes).map_err(wrong)?;
            let (bridge_us, voters) = (0, Vec::new());
            return Ok(LeaseV3 {
                holder,
                incarnation,
                term,
                counter,
                life_us,
                node_lease_us,
                bridge_us,
                voters,
            });
        }
        open(LEASE, 3, bytes).map_err(wrong)
    }

    /// The same holder in the same term.
    pub(super) fn is_of(&self, other: &LeaseV3) -> bool {
        let who = |r: &LeaseV3| (r.holder, r.incarnation, r.term);
        who(self) == who(other)
    }
}

/// What to do with the record that was just read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum LeaseStep {
    /// Put this in its place, in the same transaction.
    Write(LeaseV3),
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
    /// See [`Cx::planted`](t3fs_runtime::Cx::planted).
    planted: Option<&'static str>,
    seen: Option<LeaseV3>,
    /// When this content was seen first, and last.
    changed: Time,
    looked: Time,
    /// Since when the record is watched: it is unchanged, and no look at it has failed.
    since: Time,
    /// The latest look has failed.
    gap: bool,
    /// No takeover before: it was promised.
    refrain: Time,
    /// Acts until then.
    until: Time,
    /// When the latest renewal was sent that was acknowledged.
    renewed: Time,
    /// Mgmtds that are to be named in the record, as far as the holder knows them.
    voters: Option<Vec<NodeId>>,
    /// Everyone who is named in a record that may be the stored one.
    named: BTreeSet<NodeId>,
}

impl Lease {
    pub(super) fn new(
        me: NodeId,
        incarnation: u32,
        timing: &Timing,
        alone: bool,
        planted: Option<&'static str>,
    ) -> Lease {
        let zero = Time::from_us(0);
        Lease {
            me,
            incarnation,
            life: timing.mgmtd_lease,
            node_lease: timing.node_lease,
            alone,
            planted,
            seen: None,
            changed: zero,
            looked: zero,
            since: zero,
            gap: false,
            refrain: zero,
            until: zero,
            renewed: zero,
            voters: None,
            named: BTreeSet::new(),
        }
    }

    fn is_mine(&self, r: &LeaseV3) -> bool {
        r.holder == self.me && r.incarnation == self.incarnation
    }

    /// The record as this mgmtd writes it, naming these voters and itself.
    pub(super) fn record(&self, term: u64, counter: u64, mut voters: Vec<NodeId>) -> LeaseV3 {
        voters.push(self.me);
        voters.sort();
        voters.dedup();
        LeaseV3 {
            holder: self.me,
            incarnation: self.incarnation,
            term,
            counter,
            life_us: self.life.as_micros() as u64,
            // Alone, the only nodes with leases are this process.
            node_lease_us: if self.alone { 0 } else { self.node_lease.as_micros() as u64 },
            bridge_us: if self.alone { 0 } else { BRIDGE_MAX.as_micros() as u64 },
            voters,
        }
    }

    /// Other mgmtds that live, if this one leads and so knows.
    pub(super) fn set_voters(&mut self, voters: Option<Vec<NodeId>>) {
        self.voters = voters;
    }

    /// Takes note of the record and says what to do.
    pub(super) fn step(&mut self, record: Option<LeaseV3>, now: Time) -> LeaseStep {
        let changed = self.seen != record;
        let gap = std::mem::take(&mut self.gap) && !PlantedBug::GapCounts.is(self.planted);
        if changed {
            self.changed = now;
            self.seen.clone_from(&record);
        }
        if changed || gap {
            self.since = now;
        }
        self.looked = now;
        let Some(r) = record else {
            let first = self.record(1, 1, self.voters.clone().unwrap_or_default());
            return self.write(first);
        };
        if self.is_mine(&r) {
            let voters = self.voters.clone().unwrap_or(r.voters);
            let next = self.record(r.term, r.counter + 1, voters);
            return self.write(next);
        }
        self.until = Time::from_us(0);
        if self.alone || now >= self.takeover(&r) {
            let taken = self.record(r.term + 1, r.counter + 1, r.voters);
            return self.write(taken);
        }
        LeaseStep::Watch
    }

    fn write(&mut self, record: LeaseV3) -> LeaseStep {
        self.named.extend(&record.voters);
        LeaseStep::Write(record)
    }

    /// The record could not be read.
    pub(super) fn missed(&mut self) {
        self.gap = true;
    }

    /// When another's record may be taken over, if nothing changes.
    fn takeover(&self, r: &LeaseV3) -> Time {
        (self.since + self.wait(r)).max(self.refrain)
    }

    /// How long another's record has to stay unchanged before we take it over.
    fn wait(&self, r: &LeaseV3) -> Duration {
        let earlier_self = r.holder == self.me && r.incarnation < self.incarnation;
        let mut wait = if earlier_self { Duration::ZERO } else { self.longer(r) };
        if !earlier_self && !r.voters.contains(&self.me) {
            // The holder did not have to ask us.
            wait += Duration::from_micros(r.bridge_us) * 9 / 8;
        }
        let granted = Duration::from_micros(r.node_lease_us);
        // Grants that are no longer than ours end before we call a node dead.
        wait + if granted > self.node_lease { granted } else { Duration::ZERO }
    }

    fn longer(&self, r: &LeaseV3) -> Duration {
        self.life.max(Duration::from_micros(r.life_us))
    }

    /// Our write, which was begun at `sent`, is acknowledged.
    /// `true`: we act again (or for the first time) after a time without leave to act.
    pub(super) fn acknowledged(&mut self, written: &LeaseV3, sent: Time, now: Time) -> bool {
        assert!(self.is_mine(written));
        let acted = self.acts(now);
        if self.seen.as_ref().is_none_or(|s| s.counter < written.counter) {
            self.seen = Some(written.clone());
            (self.since, self.changed) = (now, now);
        }
        // Earlier writes without an answer have failed: the record has changed under them.
        self.named = written.voters.iter().copied().collect();
        self.renewed = self.renewed.max(sent);
        let until = if self.alone { Time::NEVER } else { sent + usable(self.life) };
        self.until = self.until.max(until);
        !acted && self.acts(now)
    }

    /// What to ask of whom, if this mgmtd acts and may go on by promises. `blind`: the latest look
    /// at the record has failed, not only the write.
    pub(super) fn appeal(&self, now: Time, blind: bool) -> Option<(Refrain, Vec<NodeId>)> {
        let r = self.seen.as_ref().filter(|r| self.is_mine(r))?;
        if self.alone || !self.acts(now) || now >= self.renewed + BRIDGE_MAX {
            return None;
        }
        let ask = Refrain {
            holder: self.me,
            incarnation: self.incarnation,
            term: r.term,
            for_us: self.life.as_micros() as u64,
            blind,
        };
        Some((ask, self.named.iter().copied().filter(|n| *n != self.me).collect()))
    }

    /// Everyone who was asked at `sent` has promised. `true`: we act for longer now.
    pub(super) fn promised(&mut self, sent: Time, now: Time) -> bool {
        let until = (sent + usable(self.life)).min(self.renewed + BRIDGE_MAX);
        let longer = self.acts(now) && until > self.until;
        if longer {
            self.until = until;
        }
        longer
    }

    /// Whether we refrain from taking over, as the holder asks.
    pub(super) fn promise(&mut self, m: &Refrain, now: Time) -> bool {
        if let Some(r) = &self.seen {
            let other = (r.holder, r.incarnation) != (m.holder, m.incarnation);
            if r.term > m.term || (r.term == m.term && other) || self.acts(now) {
                return false;
            }
            let half = self.longer(r) / 2;
            let well = now.since(self.looked) < half && !self.gap;
            if m.blind && well && self.looked.since(self.changed) >= half {
                return false; // the store is well
            }
        }
        if !PlantedBug::PromiseForgotten.is(self.planted) {
            let long = Duration::from_micros(m.for_us).min(BRIDGE_MAX);
            self.refrain = self.refrain.max(now + long);
        }
        true
    }

    /// Whether we may act now.
    pub(super) fn acts(&self, now: Time) -> bool {
        now < self.until && self.seen.as_ref().is_some_and(|r| self.is_mine(r))
    }

    /// The term in which we act, or would if the lease had not run out.
    pub(super) fn term(&self) -> Option<u64> {
        self.seen.as_ref().filter(|r| self.is_mine(r)).map(|r| r.term)
    }

    pub(super) fn until(&self) -> Time {
        self.until
    }

    /// The node that leads, as far as can be seen from here.
    pub(super) fn hint(&self, now: Time) -> Option<NodeId> {
        let seen = self.seen.as_ref();
        let recent = |r: &&LeaseV3| now.since(self.since) < self.longer(r) || now < self.refrain;
        seen.filter(recent).map(|r| r.holder)
    }

    /// How long to wait before the record is looked at again: a renewal may fail twice, and a
    /// challenger looks when the holder's time is over.
    pub(super) fn pause(&self, now: Time) -> Duration {
        let quarter = self.life / 4;
        match &self.seen {
            Some(r) if !self.is_mine(r) => {
                quarter.min(self.takeover(r).since(now)).max(self.life / 64)
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
mod golden {
    use super::*;

    t3fs_runtime::samples! { "/src/mgmtd/golden/lease.txt":
        struct LeaseV2 { holder, incarnation, term, counter, life_us, node_lease_us }
        struct LeaseV3 {
            holder, incarnation, term, counter, life_us, node_lease_us, bridge_us, voters,
        }
    }
}

#[cfg(test)]
mod tests;
