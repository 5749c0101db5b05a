//! Why a connection is refused, and saying so without letting strangers fill the log.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use t3fs_runtime::Time;

/// Why a handshake ended without a link. The number travels to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum HandshakeRefusal {
    /// Not our protocol at all.
    Garbage = 0,
    /// Said nothing, or too little, for too long.
    Silent = 1,
    /// Closed before the handshake was over.
    Left = 2,
    Version = 3,
    Cluster = 4,
    Secret = 5,
    /// A later incarnation of that node is known.
    Incarnation = 6,
    /// The peer wanted another node than this one.
    OtherNode = 7,
    /// The peer claims this node's own id.
    SameNode = 8,
    NoShard = 9,
    /// Too many connections.
    Full = 10,
    /// The peer is this very process, which has dialled one of its own addresses.
    Myself = 11,
    /// Another process has the peer's number, and lives.
    NumberInUse = 12,
    /// A reason that only later builds know. Nobody sends it.
    LaterBuild = 13,
}

impl HandshakeRefusal {
    pub(crate) const COUNT: usize = 14;
    pub(crate) const ALL: [HandshakeRefusal; HandshakeRefusal::COUNT] = [
        HandshakeRefusal::Garbage,
        HandshakeRefusal::Silent,
        HandshakeRefusal::Left,
        HandshakeRefusal::Version,
        HandshakeRefusal::Cluster,
        HandshakeRefusal::Secret,
        HandshakeRefusal::Incarnation,
        HandshakeRefusal::OtherNode,
        HandshakeRefusal::SameNode,
        HandshakeRefusal::NoShard,
        HandshakeRefusal::Full,
        HandshakeRefusal::Myself,
        HandshakeRefusal::NumberInUse,
        HandshakeRefusal::LaterBuild,
    ];

    pub(crate) fn from_code(code: u8) -> HandshakeRefusal {
        let known = HandshakeRefusal::ALL.get(usize::from(code)).copied();
        known.unwrap_or(HandshakeRefusal::LaterBuild)
    }

    /// One line of this kind is enough in this long.
    fn quiet(self) -> Duration {
        match self {
            // A process under a number that is in use tries again and again, whoever it dials.
            HandshakeRefusal::NumberInUse => Duration::from_secs(60),
            _ => QUIET,
        }
    }
}

impl fmt::Display for HandshakeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HandshakeRefusal::Garbage => "it does not speak the t3fs link protocol",
            HandshakeRefusal::Silent => "the handshake was not finished in time",
            HandshakeRefusal::Left => "it left during the handshake",
            HandshakeRefusal::Version => "no common protocol version; update the older side",
            HandshakeRefusal::Cluster => "another cluster's name; compare the cluster ids",
            HandshakeRefusal::Secret => "wrong cluster secret; compare the secrets of both sides",
            HandshakeRefusal::Incarnation => "a later incarnation of that node is known",
            HandshakeRefusal::OtherNode => "another node lives at this address",
            HandshakeRefusal::SameNode => "both sides have the same node id; ids must be unique",
            HandshakeRefusal::NoShard => "no such shard",
            HandshakeRefusal::Full => "too many connections",
            HandshakeRefusal::Myself => "this process itself lives there",
            HandshakeRefusal::NumberInUse => {
                "another process has the same number and lives; start one of them under another \
                 number, or end it"
            }
            HandshakeRefusal::LaterBuild => {
                "for a reason that this build does not know; see the other side's log"
            }
        })
    }
}

/// At most one line per kind in this long, for most kinds.
const QUIET: Duration = Duration::from_secs(5);

/// Says each kind of refusal now and then only, with how many went unsaid.
pub(crate) struct RefusalLog {
    what: &'static str,
    said: RefCell<[(Option<Time>, u64); HandshakeRefusal::COUNT]>,
}

impl RefusalLog {
    pub(crate) fn incoming() -> RefusalLog {
        RefusalLog { what: "refused a connection from", said: RefCell::default() }
    }

    pub(crate) fn outgoing() -> RefusalLog {
        RefusalLog { what: "no link to", said: RefCell::default() }
    }

    /// `line`: who, and why in full.
    pub(crate) fn say(&self, now: Time, why: HandshakeRefusal, line: fmt::Arguments<'_>) {
        if let Some(unsaid) = self.due(now, why) {
            tracing::warn!("{} {line} ({unsaid} more before it)", self.what);
        }
    }

    fn due(&self, now: Time, why: HandshakeRefusal) -> Option<u64> {
        let mut all = self.said.borrow_mut();
        let (last, unsaid) = &mut all[why as usize];
        if last.is_some_and(|l| now.since(l) < why.quiet()) {
            *unsaid += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_makes_one_line() {
        let log = RefusalLog::incoming();
        let at = |s: u64| Time::from_us(s * 1_000_000);
        assert_eq!(log.due(at(1), HandshakeRefusal::Secret), Some(0));
        for _ in 0..1000 {
            assert_eq!(log.due(at(2), HandshakeRefusal::Secret), None);
        }
        assert_eq!(log.due(at(2), HandshakeRefusal::Garbage), Some(0));
        assert_eq!(log.due(at(7), HandshakeRefusal::Secret), Some(1000));
        assert_eq!(log.due(at(7), HandshakeRefusal::NumberInUse), Some(0));
        assert_eq!(log.due(at(66), HandshakeRefusal::NumberInUse), None);
        assert_eq!(log.due(at(67), HandshakeRefusal::NumberInUse), Some(1));
        for (code, r) in HandshakeRefusal::ALL.iter().enumerate() {
            assert_eq!(HandshakeRefusal::from_code(code as u8), *r);
            assert_eq!(*r as usize, code);
        }
        assert_eq!(HandshakeRefusal::from_code(255), HandshakeRefusal::LaterBuild);
    }
}
