//! The times that all processes of a cluster agree about: leases and heartbeats.

use core::time::Duration;

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

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat: Duration::from_millis(200),
            client_heartbeat: Duration::from_millis(1000),
            node_lease: Duration::from_millis(1500),
            mgmtd_lease: Duration::from_millis(1500),
            session_lease: Duration::from_secs(60),
        }
    }
}
