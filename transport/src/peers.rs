//! What a process knows of the other nodes: addresses, incarnations, cards, and how its links do.
//!
//! One [`Peers`] a process, shared by its shards; each shard's links look here when they
//! connect or accept, never per frame.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use t3fs_runtime::inbox::{Inbox, InboxReader, inbox};
use t3fs_runtime::{NodeId, Time};

use crate::address::{Address, Fabric};
use crate::arrival::Arrival;
use crate::choice::{Avoided, FabricUse, Wish, order, source_towards};
use crate::limits::LinkLimits;
use crate::rdma::Nics;
use crate::refusal::HandshakeRefusal;

/// Who this process is, and how it proves that it belongs to the cluster.
#[derive(Clone)]
pub struct LinkConfig {
    pub node: NodeId,
    /// Larger at every start of the node.
    pub incarnation: u32,
    pub shards: u16,
    pub cluster: String,
    /// Shared by all of the cluster; at least [`SECRET_MIN`] bytes.
    pub secret: Vec<u8>,
    pub fabric: FabricUse,
    /// The addresses of this process's usable RDMA devices.
    pub device_ips: Vec<IpAddr>,
    /// Where queue pairs come from.
    pub nics: Nics,
    pub limits: LinkLimits,
}

/// Shorter secrets can be guessed by whoever records one handshake.
pub const SECRET_MIN: usize = 16;
/// Longest cluster name.
pub const CLUSTER_MAX: usize = 128;
/// Services on one card.
pub const SERVICES_MAX: usize = 64;

impl Default for LinkConfig {
    fn default() -> Self {
        LinkConfig {
            node: NodeId(0),
            incarnation: 0,
            shards: 1,
            cluster: String::new(),
            secret: Vec::new(),
            fabric: FabricUse::Auto,
            device_ips: Vec::new(),
            nics: Nics::None,
            limits: LinkLimits::default(),
        }
    }
}

/// Where the well-known actors of a node live. What the numbers mean is not transport's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCard {
    /// Service, shard, slot.
    pub services: Vec<(u16, u16, u16)>,
}

impl ServiceCard {
    /// Shard and slot of a service.
    pub fn find(&self, service: u16) -> Option<(u16, u16)> {
        self.services.iter().find(|s| s.0 == service).map(|s| (s.1, s.2))
    }
}

/// What a handshake tells of the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    pub node: NodeId,
    pub incarnation: u32,
    pub shards: u16,
    pub card: ServiceCard,
}

/// What one link is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkState {
    Connecting,
    Up,
    /// Waits before the next attempt.
    Down,
}

/// Counters of one link (a pair of shards), over all its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStats {
    pub local_shard: u16,
    pub remote_shard: u16,
    pub state: LinkState,
    /// Connections made so far; the current one's number.
    pub epoch: u64,
    pub socket: Option<SocketAddr>,
    /// When the connection was made, if one is up.
    pub since: Option<Time>,
    pub frames_sent: u64,
    pub frames_received: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Frames and bytes waiting to be written.
    pub queued_frames: usize,
    pub queued_bytes: usize,
    /// Why it was lost or not made, the last time.
    pub last_error: Option<String>,
    /// What carries the frames of the connection, if one is up.
    pub carrier: Option<Fabric>,
    /// Why the last connection is not carried by a queue pair, where one was wanted.
    pub why_not_rdma: Option<String>,
    pub one_sided: OneSided,
}

/// What went over the queue pairs of a link, payload bytes and packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OneSided {
    /// Fetched from the peer's memory, and pushed into it, by our device.
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub packets_sent: u64,
    pub packets_received: u64,
}

impl std::ops::Add for OneSided {
    type Output = OneSided;
    fn add(self, o: OneSided) -> OneSided {
        OneSided {
            bytes_read: self.bytes_read + o.bytes_read,
            bytes_written: self.bytes_written + o.bytes_written,
            packets_sent: self.packets_sent + o.packets_sent,
            packets_received: self.packets_received + o.packets_received,
        }
    }
}

/// Memory of this process that RDMA devices may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RdmaMemory {
    /// Pinned, receive buffers included.
    pub pinned: usize,
    /// Of it, in the hands of connections and of whoever keeps received payloads.
    pub used: usize,
}

/// A peer as a doctor shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    pub node: NodeId,
    pub incarnation: Option<u32>,
    /// As the node announces them, best first.
    pub addresses: Vec<Address>,
    pub links: Vec<LinkStats>,
}

#[derive(Default)]
struct Entry {
    addresses: Vec<Address>,
    avoided: Avoided,
    /// Of the process that made the last connection.
    incarnation: Option<u32>,
    /// What the cluster says it is, 0 while that is not known.
    registered: u32,
    /// Connections that are up, of all shards, by the peer's incarnation.
    linked: BTreeMap<u32, usize>,
    /// When a process of this number was refused because another one has connections.
    knocked: Option<Instant>,
    card: Option<KnownNode>,
    links: BTreeMap<(u16, u16), LinkStats>,
}

/// How the process behind a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Fine,
    /// Another process wants to be that node, so whether this one lives is to be found out soon.
    Doubted,
    /// Another process is that node now.
    Outdated,
}

impl Entry {
    /// Whether a process of this number may have a connection:
    /// 1. none that is earlier than the one which the cluster knows;
    /// 2. while another one has connections, only the one which the cluster knows.
    ///
    /// Connections of a process that ended end at once, those of a host that lost power when it is
    /// silent ([`Standing::Doubted`]). Which of two is the later says nothing: incarnations are
    /// clock time, and whoever starts a second process under a used number is the later one.
    fn judge(&mut self, incarnation: u32, now: Instant) -> Result<(), HandshakeRefusal> {
        if incarnation < self.registered {
            return Err(HandshakeRefusal::Incarnation);
        }
        let holder = self.incarnation.filter(|held| self.linked.contains_key(held));
        match holder {
            Some(held) if held != incarnation && incarnation != self.registered => {
                self.knocked = Some(now);
                Err(match held < incarnation {
                    true => HandshakeRefusal::NumberInUse,
                    false => HandshakeRefusal::Incarnation,
                })
            }
            _ => Ok(()),
        }
    }

    fn standing(&self, incarnation: u32, now: Instant, patience: Duration) -> Standing {
        if incarnation < self.registered || self.incarnation != Some(incarnation) {
            return Standing::Outdated;
        }
        match self.knocked {
            Some(at) if now.saturating_duration_since(at) < patience => Standing::Doubted,
            _ => Standing::Fine,
        }
    }
}

/// Peers without an address (clients) whose incarnation is remembered after their links are gone.
const STRANGERS_MAX: usize = 65_536;

struct Shared {
    config: LinkConfig,
    key: [u8; 32],
    book: Mutex<BTreeMap<NodeId, Entry>>,
    card: Mutex<ServiceCard>,
    doors: Vec<Inbox<Arrival>>,
    readers: Mutex<Vec<Option<InboxReader<Arrival>>>>,
    refused: [AtomicU64; HandshakeRefusal::COUNT],
    accepted: AtomicU64,
    /// By shard.
    rdma_memory: Mutex<BTreeMap<u16, RdmaMemory>>,
    /// Nonces of the handshakes that this process has begun, to know itself by.
    dials: Mutex<Vec<[u8; 32]>>,
}

/// Connections that may be on their way to one shard.
const ARRIVALS: usize = 256;

/// Handle to what this process knows of others. Any thread; clones are the same.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

impl Peers {
    /// An error is a sentence about what the configuration lacks.
    pub fn new(config: LinkConfig) -> Result<Peers, String> {
        if config.secret.len() < SECRET_MIN {
            return Err(format!(
                "the cluster secret has {} bytes, at least {SECRET_MIN} are needed",
                config.secret.len()
            ));
        }
        if config.cluster.is_empty() || config.cluster.len() > CLUSTER_MAX {
            return Err(format!("the cluster's name must have 1 to {CLUSTER_MAX} bytes"));
        }
        if config.node == NodeId(0) || config.shards == 0 {
            return Err("a node has an id above 0 and at least one shard".into());
        }
        let key = blake3::derive_key("t3fs 2026-11 link handshake v1", &config.secret);
        let (doors, readers) =
            (0..config.shards).map(|_| inbox(ARRIVALS)).map(|(i, r)| (i, Some(r))).unzip();
        Ok(Peers(Arc::new(Shared {
            config,
            key,
            book: Mutex::default(),
            card: Mutex::default(),
            doors,
            readers: Mutex::new(readers),
            refused: Default::default(),
            accepted: AtomicU64::new(0),
            rdma_memory: Mutex::default(),
            dials: Mutex::default(),
        })))
    }

    pub fn config(&self) -> &LinkConfig {
        &self.0.config
    }

    /// Announces a well-known actor of this process to all who connect from now on. Do it before
    /// listening: who has connected does not hear of it.
    pub fn publish(&self, service: u16, shard: u16, slot: u16) {
        let mut card = self.0.card.lock().expect("no panic while held");
        card.services.retain(|s| s.0 != service);
        assert!(card.services.len() < SERVICES_MAX, "at most {SERVICES_MAX} services a node");
        card.services.push((service, shard, slot));
    }

    /// Where a node listens, best first; replaces what was known. Links that are up stay.
    pub fn set_addresses<A: Into<Address>>(&self, node: NodeId, addresses: Vec<A>) {
        let mut book = self.book();
        let entry = book.entry(node).or_default();
        entry.addresses = addresses.into_iter().map(Into::into).collect();
        entry.avoided.keep(&entry.addresses);
    }

    /// Which process the cluster knows by a node's number: one that is earlier is not let in any more,
    /// and connections of it are ended.
    pub fn set_incarnation(&self, node: NodeId, incarnation: u32) {
        self.book().entry(node).or_default().registered = incarnation;
    }

    /// The node has left the cluster: no new link is made to it.
    pub fn forget(&self, node: NodeId) {
        if let Some(entry) = self.book().get_mut(&node) {
            entry.addresses.clear();
        }
    }

    pub fn addresses(&self, node: NodeId) -> Vec<Address> {
        self.book().get(&node).map(|e| e.addresses.clone()).unwrap_or_default()
    }

    /// The addresses that a pair of shards tries, in this order; `RDMA` means with the offer of a
    /// queue pair. `worked`: where the pair's last connection was made.
    pub(crate) fn candidates(
        &self,
        node: NodeId,
        shards: (u16, u16),
        worked: Option<SocketAddr>,
        now: Time,
    ) -> Vec<Address> {
        let config = self.config();
        let addresses = self.addresses(node);
        let reaches = |to| self.reaches(to);
        let avoided = |a| self.book().get(&node).is_some_and(|e| e.avoided.contains(a, now));
        let numbers = [config.node.0, node.0, shards.0.into(), shards.1.into()];
        let wish = Wish {
            fabric: config.fabric,
            reaches: &reaches,
            avoided: &avoided,
            pair: numbers.into_iter().map(u64::from).sum(),
            worked,
        };
        order(&addresses, &wish)
    }

    /// Whether a usable device of ours is on the way there.
    pub(crate) fn reaches(&self, to: IpAddr) -> bool {
        let ours = &self.config().device_ips;
        !ours.is_empty() && source_towards(to).is_some_and(|from| ours.contains(&from))
    }

    /// Whether a connection to this address begins with the offer of a queue pair.
    pub(crate) fn offers(&self, at: Address) -> bool {
        self.config().fabric != FabricUse::Tcp && at.fabric == Fabric::Rdma
    }

    /// Addresses that are tried last for now, because they failed while others worked.
    pub fn avoided(&self, node: NodeId, now: Time) -> Vec<Address> {
        let book = self.book();
        let Some(entry) = book.get(&node) else { return Vec::new() };
        entry.addresses.iter().filter(|a| entry.avoided.contains(**a, now)).copied().collect()
    }

    /// A connection was made to `at`, after attempts at the others in `failed`.
    pub(crate) fn note_worked(&self, node: NodeId, at: Address, failed: &[Address], now: Time) {
        let mut book = self.book();
        let Some(entry) = book.get_mut(&node) else { return };
        entry.avoided.remove(at);
        failed.iter().for_each(|a| entry.avoided.add(*a, now));
    }

    /// A queue pair at this address broke, while nothing says that the node is gone.
    pub fn avoid(&self, node: NodeId, at: Address, now: Time) {
        if let Some(entry) = self.book().get_mut(&node) {
            entry.avoided.add(at, now);
        }
    }

    /// What the last handshake said that this process began with the node.
    pub fn known(&self, node: NodeId) -> Option<KnownNode> {
        self.book().get(&node).and_then(|e| e.card.clone())
    }

    /// All peers and links, for a doctor. As fresh as the shards' last tick (a quarter second).
    pub fn snapshot(&self) -> Vec<PeerState> {
        let book = self.book();
        let state = |(node, e): (&NodeId, &Entry)| PeerState {
            node: *node,
            incarnation: e.incarnation,
            addresses: e.addresses.clone(),
            links: e.links.values().cloned().collect(),
        };
        book.iter().map(state).collect()
    }

    /// Connections refused so far, with the reason; those that occurred only.
    pub fn refused(&self) -> Vec<(HandshakeRefusal, u64)> {
        let count = |r: &HandshakeRefusal| self.0.refused[*r as usize].load(Ordering::Relaxed);
        HandshakeRefusal::ALL.iter().map(|r| (*r, count(r))).filter(|(_, n)| *n > 0).collect()
    }

    /// Connections accepted by this node's listener, good and bad.
    pub fn accepted(&self) -> u64 {
        self.0.accepted.load(Ordering::Relaxed)
    }

    /// Memory that devices may reach, all shards together. As fresh as the shards' last report.
    pub fn rdma_memory(&self) -> RdmaMemory {
        let all = self.0.rdma_memory.lock().expect("no panic while held");
        let sum = |sum: RdmaMemory, m: &RdmaMemory| RdmaMemory {
            pinned: sum.pinned + m.pinned,
            used: sum.used + m.used,
        };
        all.values().fold(RdmaMemory::default(), sum)
    }

    pub(crate) fn report_rdma(&self, shard: u16, memory: RdmaMemory) {
        self.0.rdma_memory.lock().expect("no panic while held").insert(shard, memory);
    }

    pub(crate) fn count_refused(&self, why: HandshakeRefusal) {
        self.0.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_accepted(&self) {
        self.0.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.0.key
    }

    /// Remembers a handshake of ours for as long as the guard lives.
    pub(crate) fn begin_dial(&self, nonce: [u8; 32]) -> impl Drop {
        self.dials().push(nonce);
        Dial { peers: self.clone(), nonce }
    }

    /// Whether a hello with this nonce is our own.
    pub(crate) fn is_dialing(&self, nonce: &[u8; 32]) -> bool {
        self.dials().contains(nonce)
    }

    fn dials(&self) -> MutexGuard<'_, Vec<[u8; 32]>> {
        self.0.dials.lock().expect("no panic while held")
    }

    /// This process as others know it.
    pub(crate) fn myself(&self) -> KnownNode {
        let LinkConfig { node, incarnation, shards, .. } = self.0.config;
        KnownNode { node, incarnation, shards, card: self.card() }
    }

    pub(crate) fn card(&self) -> ServiceCard {
        self.0.card.lock().expect("no panic while held").clone()
    }

    /// Whether a peer that has proved itself may go on to make a connection.
    pub(crate) fn admit(&self, node: NodeId, incarnation: u32) -> Result<(), HandshakeRefusal> {
        let mut book = self.book();
        if !book.contains_key(&node) && book.len() >= STRANGERS_MAX {
            let is_known = |e: &Entry| !e.addresses.is_empty() || !e.links.is_empty();
            book.retain(|_, e| is_known(e) || !e.linked.is_empty());
        }
        book.entry(node).or_default().judge(incarnation, Instant::now())
    }

    /// A connection is made, if it still may be: since [`Peers::admit`] another process of that
    /// number may have come. It counts until [`Peers::leave`].
    pub(crate) fn join(&self, node: NodeId, incarnation: u32) -> Result<(), HandshakeRefusal> {
        let mut book = self.book();
        let entry = book.entry(node).or_default();
        entry.judge(incarnation, Instant::now())?;
        entry.incarnation = Some(incarnation);
        *entry.linked.entry(incarnation).or_default() += 1;
        Ok(())
    }

    /// A connection has ended.
    pub(crate) fn leave(&self, node: NodeId, incarnation: u32) {
        let mut book = self.book();
        let linked = &mut book.get_mut(&node).expect("who has joined is kept").linked;
        let count = linked.get_mut(&incarnation).expect("it has joined");
        *count -= 1;
        if *count == 0 {
            linked.remove(&incarnation);
        }
    }

    /// How the process behind a connection that is up stands.
    pub(crate) fn standing(&self, node: NodeId, incarnation: u32) -> Standing {
        let book = self.book();
        let entry = book.get(&node).expect("who has joined is kept");
        // A silent one is given up within this long, and the other one has knocked again by then.
        let patience = 2 * self.config().limits.dead_after;
        entry.standing(incarnation, Instant::now(), patience)
    }

    pub(crate) fn learn(&self, known: KnownNode) {
        let node = known.node;
        self.book().entry(node).or_default().card = Some(known);
    }

    /// An address that answered for a node, when none is known for it.
    pub(crate) fn learn_address(&self, node: NodeId, at: SocketAddr) {
        let mut book = self.book();
        let entry = book.entry(node).or_default();
        if entry.addresses.is_empty() {
            entry.addresses.push(at.into());
        }
    }

    /// Takes what one shard says of its links, in place of what it said before.
    pub(crate) fn report(&self, shard: u16, links: Vec<(NodeId, LinkStats)>) {
        let mut book = self.book();
        for entry in book.values_mut() {
            entry.links.retain(|(local, _), _| *local != shard);
        }
        for (node, stats) in links {
            let links = &mut book.entry(node).or_default().links;
            links.insert((shard, stats.remote_shard), stats);
        }
    }

    pub(crate) fn door(&self, shard: u16) -> Option<&Inbox<Arrival>> {
        self.0.doors.get(usize::from(shard))
    }

    pub(crate) fn take_reader(&self, shard: u16) -> InboxReader<Arrival> {
        let mut readers = self.0.readers.lock().expect("no panic while held");
        let reader = readers.get_mut(usize::from(shard)).and_then(Option::take);
        reader.expect("links are started once on each of the configured shards")
    }

    fn book(&self) -> MutexGuard<'_, BTreeMap<NodeId, Entry>> {
        self.0.book.lock().expect("no panic while held")
    }
}

struct Dial {
    peers: Peers,
    nonce: [u8; 32],
}

impl Drop for Dial {
    fn drop(&mut self) {
        self.peers.dials().retain(|n| *n != self.nonce);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn config() -> LinkConfig {
        LinkConfig {
            node: NodeId(1),
            cluster: "c".into(),
            secret: vec![7; SECRET_MIN],
            ..LinkConfig::default()
        }
    }

    /// Goal: an address that failed while another worked is tried last, until it works again.
    #[test]
    fn a_failed_address_is_avoided_for_a_while() {
        let p = Peers::new(config()).unwrap();
        let [a, b] = ["TCP://127.0.0.1:1", "TCP://127.0.0.1:2"].map(|t| t.parse().unwrap());
        p.set_addresses::<Address>(NodeId(2), vec![a, b]);
        let now = Time::from_us(1);
        let tried = |now| p.candidates(NodeId(2), (0, 0), None, now);
        assert_eq!(tried(now), [a, b]);
        p.note_worked(NodeId(2), b, &[a], now);
        assert_eq!((tried(now), p.avoided(NodeId(2), now)), (vec![b, a], vec![a]));
        assert_eq!(tried(now + Duration::from_secs(1)), [a, b]);
        p.note_worked(NodeId(2), a, &[], now);
        assert_eq!(tried(now), [a, b]);
    }

    #[test]
    fn a_configuration_that_protects_nothing_is_refused() {
        assert!(Peers::new(config()).is_ok());
        let short = LinkConfig { secret: vec![7; 15], ..config() };
        assert!(Peers::new(short).err().unwrap().contains("16"));
        assert!(Peers::new(LinkConfig { cluster: String::new(), ..config() }).is_err());
        assert!(Peers::new(LinkConfig { node: NodeId(0), ..config() }).is_err());
    }

    const TWO: NodeId = NodeId(2);

    /// Regression: a second process under a used number, which is the later one by its clock, pushed
    /// the links of the first out. Goal: while one process of a number has a connection, on
    /// whatever shard, no other gets any; once it has none the other is let in, be it the earlier.
    #[test]
    fn who_lives_keeps_the_number() {
        let p = Peers::new(config()).unwrap();
        assert_eq!((p.admit(TWO, 5), p.join(TWO, 5), p.join(TWO, 5)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(p.standing(TWO, 5), Standing::Fine);
        assert_eq!(p.admit(TWO, 6), Err(HandshakeRefusal::NumberInUse));
        assert_eq!(p.standing(TWO, 5), Standing::Doubted, "does it live?");
        assert_eq!(p.admit(TWO, 4), Err(HandshakeRefusal::Incarnation));
        assert_eq!(p.admit(TWO, 5), Ok(()), "further connections of the one that lives");
        p.leave(TWO, 5);
        assert_eq!(p.join(TWO, 6), Err(HandshakeRefusal::NumberInUse), "it has another one");
        p.leave(TWO, 5);
        assert_eq!((p.admit(TWO, 6), p.admit(TWO, 5)), (Ok(()), Ok(())), "who is first");
        assert_eq!((p.join(TWO, 6), p.join(TWO, 5)), (Ok(()), Err(HandshakeRefusal::Incarnation)));
        p.leave(TWO, 6);
        assert_eq!(p.join(TWO, 5), Ok(()), "one that has gone locks nobody out");
    }

    /// Goal: what the cluster says decides. An earlier process than the one it knows is not let in,
    /// also while no other has a connection; the one it knows displaces one it does not know.
    #[test]
    fn the_one_that_the_cluster_knows_is_the_node() {
        let p = Peers::new(config()).unwrap();
        p.join(TWO, 6).unwrap();
        p.set_incarnation(TWO, 5);
        assert_eq!(p.join(TWO, 4), Err(HandshakeRefusal::Incarnation));
        assert_eq!((p.join(TWO, 5), p.standing(TWO, 5)), (Ok(()), Standing::Fine));
        assert_eq!(p.standing(TWO, 6), Standing::Outdated);
        p.leave(TWO, 6);
        p.leave(TWO, 5);
        // A restart: its successor comes before the cluster knows of it.
        p.join(TWO, 7).unwrap();
        p.set_incarnation(TWO, 7);
        p.leave(TWO, 7);
        assert_eq!(p.admit(TWO, 5), Err(HandshakeRefusal::Incarnation), "late words of the old");
        // This process had a link to the old one, and hears of the new one by the cluster.
        p.join(TWO, 7).unwrap();
        p.set_incarnation(TWO, 8);
        assert_eq!(p.standing(TWO, 7), Standing::Outdated);
        assert_eq!(p.join(TWO, 8), Ok(()));
    }

    #[test]
    fn doubt_ends_by_itself() {
        let (mut e, now, patience) = (Entry::default(), Instant::now(), Duration::from_secs(6));
        (e.incarnation, e.linked) = (Some(5), BTreeMap::from([(5, 1)]));
        assert_eq!(e.judge(6, now), Err(HandshakeRefusal::NumberInUse));
        assert_eq!(e.standing(5, now + patience / 2, patience), Standing::Doubted);
        assert_eq!(e.standing(5, now + patience, patience), Standing::Fine);
    }

    #[test]
    fn many_strangers_do_not_fill_memory() {
        let p = Peers::new(config()).unwrap();
        p.set_addresses(TWO, vec!["TCP://127.0.0.1:1".parse::<Address>().unwrap()]);
        p.set_incarnation(TWO, 5);
        p.join(NodeId(3), 5).unwrap();
        for i in 0..2 * STRANGERS_MAX as u32 {
            p.admit(NodeId(1 << 31 | i), 1).unwrap();
        }
        assert!(p.book().len() <= STRANGERS_MAX);
        assert_eq!(p.admit(TWO, 4), Err(HandshakeRefusal::Incarnation));
        assert_eq!(p.admit(NodeId(3), 6), Err(HandshakeRefusal::NumberInUse));
    }
}
