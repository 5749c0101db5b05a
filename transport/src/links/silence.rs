//! For how long a peer gave no sign of life, and what that calls for.

use std::time::Duration;

use crate::limits::LinkLimits;

/// For how long there was no sign of life, in this shard's own running time.
#[derive(Default)]
pub(super) struct Silence {
    signs: u64,
    silent: Duration,
    /// How long the silence was when the peer was pinged.
    pinged: Option<Duration>,
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
        match self.pinged {
            // Also where the limits became shorter during the silence, a ping has time to be
            // answered.
            Some(pinged) if self.silent >= dead && self.silent - pinged >= dead - ping => {
                SilenceVerdict::Dead
            }
            None if self.silent >= ping => {
                self.pinged = Some(self.silent);
                SilenceVerdict::Ping
            }
            _ => SilenceVerdict::Fine,
        }
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
        // Somebody begins to wait after a long silence: the ping has its time all the same.
        let mut s = Silence::default();
        let quiet = (0..36).all(|_| s.judge(0, tick, false, &limits) == SilenceVerdict::Fine);
        assert!(quiet, "9 s are nothing while nobody waits");
        assert_eq!(s.judge(0, tick, true, &limits), SilenceVerdict::Ping);
        let mut ticks = 1;
        while s.judge(0, tick, true, &limits) == SilenceVerdict::Fine {
            ticks += 1;
        }
        assert_eq!(tick * ticks, limits.dead_after - limits.ping_after);
        let mut s = Silence::default();
        for i in 0..100 {
            assert_ne!(s.judge(i / 4, tick, true, &limits), SilenceVerdict::Dead);
        }
    }
}
