//! Says in the log which servers this process cannot reach, within a second or two, and when they
//! are back: whoever waits for an operation finds there what it waits for.
//!
//! A thread looks at the links. A server that this process had a link to and has none any more is
//! tried; what does not answer is told once, and tried until it does. Until this process is a
//! member of its cluster there is nobody but the mgmtds that it was told of: why none of them has
//! it is told as long as that lasts.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use t3fs_runtime::NodeId;
use t3fs_runtime::glommio::Remote;
use t3fs_transport::{Address, Fabric, LinkState, PeerState, Peers};

use super::contact::{Contact, Membership};
use super::role_names::RoleNames;
use super::{ending, link};
use crate::config::host::Host;
use crate::logging::say;

/// How often the links are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often one that does not answer is tried.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// How long one attempt may take: a connection that nobody answers, and its handshake.
const TRY_MAX: Duration = Duration::from_secs(4);

/// Until this long after the start a cluster that starts as well is not missed.
const FIRST_LOOKS: Duration = Duration::from_secs(2);
/// How often it is told why this process is no member of its cluster.
const REMIND: Duration = Duration::from_secs(60);

/// Ends its thread when dropped.
pub(super) struct Watch(#[expect(dead_code, reason = "its end is what is heard")] Sender<()>);

/// Watches from a thread of its own. `named`: a server that is known by a name, which may move.
pub(super) fn watch(
    peers: Peers,
    roles: RoleNames,
    remote: Remote,
    named: Option<(NodeId, Host)>,
    contact: Contact,
) -> Watch {
    let (leash, end) = channel();
    let (away, joining) = (BTreeMap::new(), Joining::new(Instant::now()));
    let mut watcher = Watcher { peers, roles, remote, named, contact, joining, away };
    let run = move || watcher.run(&end);
    if let Err(e) = std::thread::Builder::new().name("t3fs-reach".into()).spawn(run) {
        tracing::error!("nobody will say who cannot be reached: {e}");
    }
    Watch(leash)
}

struct Watcher {
    peers: Peers,
    roles: RoleNames,
    remote: Remote,
    named: Option<(NodeId, Host)>,
    contact: Contact,
    joining: Joining,
    /// The servers that were reported as away, and when each was tried last.
    away: BTreeMap<NodeId, Instant>,
}

impl Watcher {
    fn run(&mut self, end: &Receiver<()>) {
        while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            if let Some(line) = self.joining.look(&self.contact.membership(), Instant::now()) {
                tracing::warn!("{line}");
            }
            if let Some(line) = self.contact.due() {
                say(&line);
            }
            let peers = self.peers.snapshot();
            self.away.retain(|node, _| peers.iter().any(|p| p.node == *node));
            for peer in peers.iter().filter(|p| !p.addresses.is_empty()) {
                let told = self.away.get(&peer.node).copied();
                if !is_due(peer, told, Instant::now()) {
                    continue;
                }
                let tried = self.attempt(peer);
                // The end came meanwhile: it is we who have no links.
                if end.try_recv() != Err(std::sync::mpsc::TryRecvError::Empty) {
                    return;
                }
                let who = format!("{} at {}", self.roles.of(peer.node), list(&peer.addresses));
                match (tried, told) {
                    (Ok(()), None) => {}
                    (Ok(()), Some(_)) => {
                        self.away.remove(&peer.node);
                        tracing::info!("{who} (node {}) answers again", peer.node.0);
                    }
                    (Err(why), told) => {
                        self.away.insert(peer.node, Instant::now());
                        if told.is_none() {
                            tracing::warn!(
                                "{who} (node {}) does not answer; what needs it waits: {why}",
                                peer.node.0
                            );
                        }
                    }
                }
            }
        }
    }

    fn attempt(&self, peer: &PeerState) -> Result<(), String> {
        let mut sockets: Vec<_> = peer.addresses.iter().map(|a| a.socket).collect();
        let named = self
            .named
            .as_ref()
            .filter(|(node, host)| *node == peer.node && host.address().is_none());
        if let Some(Ok(now)) = named.map(|(_, host)| host.look_up()) {
            let new: Vec<_> = now.into_iter().filter(|at| !sockets.contains(at)).collect();
            if !new.is_empty() {
                sockets.splice(0..0, new);
                let tcp = |socket| Address { fabric: Fabric::Tcp, socket };
                let new = sockets.iter().map(|at| {
                    let known = peer.addresses.iter().find(|a| a.socket == *at);
                    known.copied().unwrap_or_else(|| tcp(*at))
                });
                self.peers.set_addresses(peer.node, new.collect::<Vec<_>>());
            }
        }
        sockets.dedup();
        let heard =
            ending::begin(&self.remote, async move |_| link::find_any(&sockets, link::AGENT).await);
        let until = Instant::now() + TRY_MAX;
        match ending::heard(&heard, "an attempt", &mut || until) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(why)) | Err(why) => Err(why.line),
        }
    }
}

/// What is told of a process that is not yet a member of its cluster.
struct Joining {
    since: Instant,
    told: Option<Instant>,
}

impl Joining {
    fn new(since: Instant) -> Joining {
        Joining { since, told: None }
    }

    /// The line that is due.
    fn look(&mut self, membership: &Membership, now: Instant) -> Option<String> {
        let line = match membership {
            Membership::Member | Membership::Unknown => return None,
            Membership::Refused(why) => format!("the cluster refuses this process: {why}"),
            Membership::Unanswered(why) => {
                format!("no mgmtd answers; what this process is to do waits: {why}")
            }
        };
        let due = self.told.map_or(self.since + FIRST_LOOKS, |told| told + REMIND);
        (now >= due).then(|| {
            self.told = Some(now);
            line
        })
    }
}

/// Whether a server is to be tried: one that there was a link to and none is, or that was away when
/// it was tried some time ago.
fn is_due(peer: &PeerState, told: Option<Instant>, now: Instant) -> bool {
    if let Some(tried) = told {
        return now.saturating_duration_since(tried) >= TRY_AGAIN;
    }
    let up = peer.links.iter().any(|l| l.state == LinkState::Up);
    !up && peer.links.iter().any(|l| l.last_error.is_some())
}

fn list(addresses: &[Address]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use t3fs_transport::{LinkStats, OneSided};

    fn peer(links: &[(LinkState, bool)]) -> PeerState {
        let link = |(state, failed): &(LinkState, bool)| LinkStats {
            local_shard: 0,
            remote_shard: 0,
            state: *state,
            epoch: 1,
            socket: None,
            since: None,
            frames_sent: 0,
            frames_received: 0,
            bytes_sent: 0,
            bytes_received: 0,
            queued_frames: 0,
            queued_bytes: 0,
            last_error: failed.then(|| "refused".to_owned()),
            carrier: None,
            why_not_rdma: None,
            one_sided: OneSided::default(),
        };
        let links = links.iter().map(link).collect();
        PeerState { node: NodeId(2), incarnation: None, addresses: Vec::new(), links }
    }

    /// Regression: a process that never found an mgmtd said nothing of it. Goal: it does within
    /// seconds, and goes on once in a while.
    #[test]
    fn why_it_is_no_member_is_told() {
        let start = Instant::now();
        let (mut joining, alone) = (Joining::new(start), Membership::Unanswered("a: b".into()));
        let mut told = |m: &Membership, seconds| {
            joining.look(m, start + Duration::from_secs(seconds)).unwrap_or_default()
        };
        assert_eq!(told(&alone, 0), "", "it may start at the same time");
        assert!(told(&alone, 2).contains("a: b"));
        assert_eq!(told(&Membership::Refused("c".into()), 3), "");
        assert!(told(&Membership::Refused("c".into()), 62).contains("refuses this process: c"));
        assert_eq!(told(&Membership::Member, 200), "");
    }

    /// Goal: only servers that there was a need for and that are lost are tried, and those that
    /// were told, until they are back. Method: links in every state.
    #[test]
    fn those_that_were_lost_are_tried() {
        let now = Instant::now();
        let due = |links: &[_]| is_due(&peer(links), None, now);
        assert!(!due(&[]), "never needed");
        assert!(!due(&[(LinkState::Up, true)]), "lost once and there again");
        assert!(!due(&[(LinkState::Down, true), (LinkState::Up, false)]), "one pair of shards is");
        assert!(!due(&[(LinkState::Connecting, false)]), "the first attempt");
        assert!(due(&[(LinkState::Connecting, true)]) && due(&[(LinkState::Down, true)]));
        let up = peer(&[(LinkState::Up, false)]);
        assert!(!is_due(&up, Some(now), now), "just tried");
        assert!(is_due(&up, Some(now), now + TRY_AGAIN), "to say that it is back");
    }
}
