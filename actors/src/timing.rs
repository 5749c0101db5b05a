//! The times that all processes of a cluster agree about: leases and heartbeats; and those that two
//! actors agree about, one of which must be longer than the other's.

use core::time::Duration;

pub(crate) use t3fs_runtime::time::is_longer;

/// How fast the cluster notices things. The same everywhere in a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Between two heartbeats of a server.
    pub heartbeat: Duration,
    /// Between two heartbeats of a process of clients.
    pub client_heartbeat: Duration,
    /// A server that was not heard of for this long is dead.
    pub node_lease: Duration,
    /// A primary whose record has not changed for this long is succeeded.
    pub mgmtd_lease: Duration,
    /// A session ends when its client has not been heard of for this long.
    pub session_lease: Duration,
}

impl Timing {
    pub const DEFAULT: Timing = Timing {
        heartbeat: Duration::from_millis(200),
        client_heartbeat: Duration::from_millis(1000),
        node_lease: Duration::from_millis(1500),
        mgmtd_lease: Duration::from_millis(1500),
        session_lease: Duration::from_secs(60),
    };
}

impl Default for Timing {
    fn default() -> Timing {
        Timing::DEFAULT
    }
}

/// How long operations wait for a cluster that does not answer, unless told otherwise.
pub const IO_TIMEOUT: Duration = Duration::from_secs(600);
/// How long one update of a chunk is tried under one request id. Storage remembers the writers of a
/// removed chunk for longer than this.
pub const UPDATE_MAX: Duration = Duration::from_secs(240);
/// How long meta keeps the answers to a session's operations after its end.
pub const KEEP_ANSWERS: Duration = Duration::from_secs(600);
/// How long after a session was known to live its operations are repeated without asking mgmtd
/// whether it does.
pub const REPEAT_MAX: Duration = Duration::from_secs(540);
/// How often a client tells its agent that it lives.
pub const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// A client of an agent's process that is silent for this long is gone, without having said so.
pub const SESSION_SILENCE: Duration = Duration::from_secs(30);
/// An agent's answer to who watches arrives so long before the asker stops waiting.
pub const WATCH_MARGIN: Duration = Duration::from_millis(100);

// Two thirds of a lease count where it is held; one lost heartbeat costs no lease.
const _: () = assert!(is_longer(Timing::DEFAULT.node_lease, 3, Timing::DEFAULT.heartbeat));
const _: () = assert!(is_longer(Timing::DEFAULT.mgmtd_lease, 3, Timing::DEFAULT.heartbeat));
// One lost word of a client, or heartbeat of its process, costs no session.
const _: () = assert!(is_longer(SESSION_SILENCE, 2, EXTEND_EVERY));
const _: () =
    assert!(is_longer(Timing::DEFAULT.session_lease, 2, Timing::DEFAULT.client_heartbeat));
// An agent stops naming a client before mgmtd would end its session for that.
const _: () = assert!(is_longer(Timing::DEFAULT.session_lease, 1, SESSION_SILENCE));
const _: () = assert!(is_longer(IO_TIMEOUT, 2, UPDATE_MAX));
// What a client repeats finds the answer, also when it arrives late and clocks differ.
const _: () = assert!(KEEP_ANSWERS.as_secs() >= REPEAT_MAX.as_secs() + 60);
