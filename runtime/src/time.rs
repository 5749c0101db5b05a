//! Time as actors see it: microseconds on a clock that never goes back.

use core::time::Duration;
use std::ops::{Add, Sub};

/// Whether `long` is longer than so many times `short`: for assertions about constants, one of
/// which must be longer than another.
pub const fn is_longer(long: Duration, times: u32, short: Duration) -> bool {
    long.as_nanos() > times as u128 * short.as_nanos()
}

/// Microseconds since the backend's epoch (`CLOCK_BOOTTIME` in production, virtual time in sim).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Time(u64);

impl Time {
    /// Later than any time that is ever reached.
    pub const NEVER: Time = Time(u64::MAX);

    pub const fn from_us(us: u64) -> Time {
        Time(us)
    }

    pub const fn us(self) -> u64 {
        self.0
    }

    /// How long from `earlier` to `self`; zero when `earlier` is the later one.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}
