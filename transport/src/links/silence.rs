//! For how long a peer gave no sign of life, and what that calls for.

use std::time::Duration;

use crate::limits::LinkLimits;

/// For how long there was no sign of life, in this shard's own running time.
#[derive(Default)]
pub(super) struct Silence {
    signs: u64,
    silent: Duration,
    pinged: bool,
}

/// What silence calls for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SilenceVerdict {
    Fine,
    Ping,
    Dead,
}

impl Silence {
    /// Called every `tick`, with the signs of life until now. A tick counts no more than that, so
    /// that a shard which was itself held up does not blame its peers.
    pub(super) fn judge(
        &mut self,
        signs: u64,
        tick: Duration,
        waited_for: bool,
        limits: &LinkLimits,
    ) -> SilenceVerdict {
        if signs != self.signs {
            *self = Silence { signs, ..Silence::default() };
            return SilenceVerdict::Fine;
        }
        self.silent += tick;
        let (ping, dead) = match waited_for {
            true => (limits.ping_after, limits.dead_after),
            false => (limits.idle_ping_after, limits.idle_dead_after),
        };
        if self.silent >= dead && self.pinged {
            return SilenceVerdict::Dead;
        }
        if self.silent >= ping && !self.pinged {
            self.pinged = true;
            return SilenceVerdict::Ping;
        }
        SilenceVerdict::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: silence is noticed sooner when somebody waits, and never without a ping before.
    #[test]
    fn silence_is_judged() {
        let limits = LinkLimits::default();
        let tick = Duration::from_millis(250);
        let after = |waited_for| {
            let mut s = Silence::default();
            let (mut pings, mut ticks) = (0, 0);
            loop {
                ticks += 1;
                match s.judge(0, tick, waited_for, &limits) {
                    SilenceVerdict::Fine => {}
                    SilenceVerdict::Ping => pings += 1,
                    SilenceVerdict::Dead => return (pings, tick * ticks),
                }
            }
        };
        assert_eq!(after(true), (1, limits.dead_after));
        assert_eq!(after(false), (1, limits.idle_dead_after));
        let mut s = Silence::default();
        for i in 0..100 {
            assert_ne!(s.judge(i / 4, tick, true, &limits), SilenceVerdict::Dead);
        }
    }
}
