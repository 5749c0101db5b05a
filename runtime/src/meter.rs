//! What a shard counts: of each kind of message how often, how long, how many bytes and how many
//! failed, and named stages of work.
//!
//! The meters are a shard's own, so counting takes no lock; whoever wants them all asks each shard
//! for a copy and adds them up. There is an entry for each kind of message that came, and protocols
//! are closed, so their memory is bounded; so are stages, whose names stand in the code.

use core::time::Duration;
use std::collections::BTreeMap;

/// A kind of message: its tag on the wire, which is enough to tell it from others, and its name.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub tag: u16,
    pub name: &'static str,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Kind) -> bool {
        self.tag == other.tag
    }
}

impl Eq for Kind {}

impl PartialOrd for Kind {
    fn partial_cmp(&self, other: &Kind) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kind {
    fn cmp(&self, other: &Kind) -> core::cmp::Ordering {
        self.tag.cmp(&other.tag)
    }
}

/// Times, by powers of two: entry `i` counts those of less than `2^i` us that the one before does
/// not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    counts: [u64; Times::BUCKETS],
    sum_us: u64,
    max_us: u64,
}

impl Times {
    /// The last one has all from about 18 minutes on.
    const BUCKETS: usize = 32;

    pub fn add(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.counts[bucket.min(Times::BUCKETS - 1)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
        self.max_us = self.max_us.max(us);
    }

    pub fn merge(&mut self, other: &Times) {
        self.counts.iter_mut().zip(other.counts).for_each(|(a, b)| *a += b);
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        self.max_us = self.max_us.max(other.max_us);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn mean(&self) -> Duration {
        Duration::from_micros(self.sum_us / self.count().max(1))
    }

    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_us)
    }

    /// A time that this part of all (in thousandths) does not exceed: at most twice the true one.
    pub fn within(&self, thousandths: u64) -> Duration {
        let wanted = (self.count() * thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_micros((1u64 << bucket).min(self.max_us));
            }
        }
        Duration::ZERO
    }
}

/// Of one kind of message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meter {
    /// From its arrival at the shard until its reply left the handler.
    pub times: Times,
    /// Replies that were an error.
    pub failed: u64,
    /// Came after its deadline, and was not handled.
    pub late: u64,
    /// Packed, payloads included, of what came from other nodes and went back there.
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Meter {
    pub fn merge(&mut self, other: &Meter) {
        self.times.merge(&other.times);
        self.failed += other.failed;
        self.late += other.late;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

/// All meters of one shard, or of several.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Meters {
    pub messages: BTreeMap<Kind, Meter>,
    /// Named counters of what handlers do.
    pub stages: BTreeMap<&'static str, u64>,
}

impl Meters {
    pub fn merge(&mut self, other: &Meters) {
        for (kind, meter) in &other.messages {
            self.messages.entry(*kind).or_default().merge(meter);
        }
        for (stage, n) in &other.stages {
            *self.stages.entry(stage).or_default() += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is told of times is true within a factor of two. Method: a thousand times, known.
    #[test]
    fn times_are_told_within_a_factor_of_two() {
        let mut t = Times::default();
        (1..=1000).for_each(|us| t.add(Duration::from_micros(us)));
        assert_eq!((t.count(), t.max()), (1000, Duration::from_micros(1000)));
        assert_eq!(t.mean(), Duration::from_micros(500));
        for thousandths in [1, 10, 500, 990, 1000] {
            let told = t.within(thousandths).as_micros() as u64;
            assert!((thousandths..=2 * thousandths).contains(&told), "{thousandths}: {told}");
        }
        assert_eq!(Times::default().within(500), Duration::ZERO);
        t.add(Duration::MAX);
        assert_eq!(t.max(), Duration::from_micros(u64::MAX));
    }

    #[test]
    fn meters_add_up() {
        let kind = Kind { tag: 1, name: "Ping" };
        let mut a = Meters::default();
        a.messages.entry(kind).or_default().times.add(Duration::from_micros(3));
        a.stages.insert("one", 1);
        let mut b = a.clone();
        b.messages.entry(kind).or_default().failed = 2;
        b.stages.insert("two", 2);
        a.merge(&b);
        assert_eq!(a.messages[&kind].times.count(), 2);
        assert_eq!((a.messages[&kind].failed, a.stages["one"], a.stages["two"]), (2, 2, 2));
    }
}
