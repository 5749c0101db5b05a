//! The links of one shard, whatever carries them.
//!
//! [`start`] installs them on a shard; from then on `Cx::ask` reaches other nodes. A link is made
//! by the first frame for its node and shard, lost with its connection, and made again by the next
//! frame, after a pause that grows while attempts fail. Frames wait while an attempt is under way
//! and are refused while the link pauses: the caller then knows that nothing was sent.
//!
//! Read next: `handshake.rs`, `accept.rs`, then `link.rs` and the carriers (`../tcp/`).

mod accept;
pub(crate) mod agree;
pub(crate) mod handshake;
pub(crate) mod link;
mod silence;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use t3fs_runtime::net::Net;
use t3fs_runtime::slot::before;
use t3fs_runtime::wire::{Frame, FrameKind};
use t3fs_runtime::{AskError, Cx, Links, NodeId, Shard, Slot, Time};

use accept::Handshakes;
use handshake::{DialError, Talk, dial};
use link::{Carrier, Connection, Link, LinkPhase};
use silence::SilenceVerdict;

use crate::address::{Address, Fabric};
use crate::choice::FabricUse;
use crate::flow::yield_now;
use crate::limits::LinkLimits;
use crate::peers::{KnownNode, Peers, RdmaMemory, Standing};
use crate::pool::HeapPool;
use crate::rdma::{self, Broken, Ends, Half, Ports};
use crate::refusal::{HandshakeRefusal, RefusalLog};
use crate::tcp;
use agree::Agreed;

/// How often silence, timeouts and statistics are looked at, while there is anything to look at.
const TICK: Duration = Duration::from_millis(250);
// Silence is noticed when it counts, not a tick or two later.
const _: () = assert!(2 * TICK.as_nanos() <= LinkLimits::DEFAULT.ping_after.as_nanos());
/// Every so many ticks: statistics go to `Peers`, idle memory goes back.
const REPORT: u32 = 4;
const TRIM: u32 = 20;
/// Two connections of one pair of shards that are made within this long have crossed.
const CROSSING: Duration = Duration::from_secs(1);

/// See `Shared::queue_pair_lost`.
const YOUNG: Duration = Duration::from_secs(5);

/// Installs links on a shard. Call it on every shard, once, before anything is asked of a node.
pub fn start(shard: &Rc<Shard>, peers: &Peers) -> NodeLinks {
    let net = shard.net().expect("links need a backend with byte streams");
    let here = shard.addr_of::<()>(0, 0).raw();
    assert_eq!((here.node, here.epoch), (peers.config().node, peers.config().incarnation));
    let (config, pool) = (peers.config(), HeapPool::default());
    let ports =
        Ports::new(config.nics.clone(), &config.limits, shard, Rc::clone(&net), pool.clone());
    let links = Rc::new(Shared {
        shard: Rc::downgrade(shard),
        index: shard.cx().shard_index(),
        peers: peers.clone(),
        net,
        links: RefCell::default(),
        handshakes: Handshakes::default(),
        pool,
        ports,
        log: RefusalLog::incoming(),
        dial_log: RefusalLog::outgoing(),
        ticking: Cell::default(),
        stopped: Cell::default(),
    });
    // Now rather than in the middle of a handshake: a device takes its time to pin memory.
    for ip in &config.device_ips {
        links.ports.open(*ip);
    }
    shard.install_links(Rc::new(NodeLinks(Rc::clone(&links))));
    accept::take_arrivals(&links, shard);
    NodeLinks(links)
}

/// Why nobody was found at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreached {
    /// Somebody is there and will not have us: time does not mend that.
    pub refused_there: bool,
    /// For people.
    pub why: String,
}

impl std::fmt::Display for Unreached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

/// The links of this shard. Clones are the same.
#[derive(Clone)]
pub struct NodeLinks(Rc<Shared>);

struct Shared {
    /// Weak, because the shard keeps us.
    shard: Weak<Shard>,
    index: u16,
    peers: Peers,
    net: Rc<dyn Net>,
    links: RefCell<BTreeMap<(NodeId, u16), Rc<Link>>>,
    handshakes: Handshakes,
    /// Where received payloads lie.
    pool: HeapPool,
    ports: Ports,
    log: RefusalLog,
    dial_log: RefusalLog,
    ticking: Cell<bool>,
    stopped: Cell<bool>,
}

impl NodeLinks {
    /// Opens the node's listening socket, on this shard; connections for other shards are handed to
    /// them. Returns the bound address (port 0 takes a free one). An error is a sentence.
    pub fn listen(&self, at: SocketAddr) -> Result<SocketAddr, String> {
        accept::listen(&self.0, at)
    }

    /// Finds out who lives at an address, by a link to that node's shard 0 which is then kept. The
    /// address becomes the node's, unless others are known for it. One of this process's own
    /// addresses answers with this process. While the process that answered there has a link, by
    /// whomever it was made, the address is not dialled again: a new connection would end that one.
    pub async fn resolve(&self, at: SocketAddr) -> Result<KnownNode, Unreached> {
        let me = &self.0;
        if let Some(known) = me.still_linked(at) {
            return Ok(known);
        }
        let fabric = if me.peers.reaches(at.ip()) { Fabric::Rdma } else { Fabric::Tcp };
        let address = Address { fabric, socket: at };
        let (talk, known, agreed) = match me.dial(address, 0, None).await {
            Err(DialError::RefusedThere(HandshakeRefusal::Myself, _)) => {
                return Ok(me.peers.myself());
            }
            Err(e) => {
                let refused_there = matches!(e, DialError::RefusedThere(..));
                return Err(Unreached { refused_there, why: format!("{at}: {e}") });
            }
            Ok(dialed) => dialed,
        };
        me.peers.learn_address(known.node, at);
        let too_many =
            || Unreached { refused_there: false, why: "this shard has too many links".into() };
        let link = me.link(known.node, 0).ok_or_else(too_many)?;
        link.answered.set(Some((at, known.incarnation)));
        let made = me.install(&link, talk, agreed, address, known.incarnation, true);
        made.map_err(|why| {
            let why = format!("{at}: {}", DialError::RefusedHere(why));
            Unreached { refused_there: false, why }
        })?;
        Ok(known)
    }

    /// Ends this shard's links to a node that is known to be gone: asks in flight end as `Unknown`
    /// now. The next frame makes a new link.
    pub fn close(&self, node: NodeId) {
        let Some(shard) = self.0.shard.upgrade() else { return };
        let range = (node, 0)..=(node, u16::MAX);
        let links: Vec<_> = self.0.links.borrow().range(range).map(|l| Rc::clone(l.1)).collect();
        for link in links {
            self.0.lose_current(&link, "closed");
            if let LinkPhase::Down { retry_at } = &mut *link.state.borrow_mut() {
                *retry_at = shard.cx().now();
                link.backoff.set(Duration::ZERO);
            }
        }
    }

    /// Tells `Peers` how this shard's links do, which otherwise happens every second.
    pub fn report(&self) {
        self.0.report();
    }

    /// Closes the listener and all links; asks in flight end as `Unknown`.
    pub fn stop(&self) {
        self.0.stopped.set(true);
        self.0.handshakes.end_all();
        let links: Vec<_> = self.0.links.borrow().values().cloned().collect();
        for link in links {
            self.0.lose_current(&link, "this node is going down");
            self.0.give_up_unsent(&link, "this node is going down");
        }
        self.0.links.borrow_mut().clear();
        self.0.ports.stop();
        self.0.report();
    }
}

impl Links for NodeLinks {
    fn send(&self, to: NodeId, frame: Frame) -> Result<(), &'static str> {
        let me = &self.0;
        let known = me.links.borrow().get(&(to, frame.shard)).cloned();
        if let Some(link) = &known
            && !matches!(*link.state.borrow(), LinkPhase::Down { .. })
        {
            return link.push(frame);
        }
        if matches!(frame.kind, FrameKind::Reply | FrameKind::Refused) {
            // The asker knows that its link is lost; nobody waits for this any more.
            return Err("the link that asked is gone");
        }
        let shard = me.shard.upgrade().ok_or("this shard has ended")?;
        if me.stopped.get() {
            return Err("this node is going down");
        }
        if me.peers.addresses(to).is_empty() {
            return Err("no address is known for that node");
        }
        let link = me.link(to, frame.shard).ok_or("this shard has too many links")?;
        let paused = match *link.state.borrow() {
            LinkPhase::Down { retry_at } => shard.cx().now() < retry_at,
            _ => false,
        };
        if paused {
            return Err("the node was not reachable a moment ago");
        }
        link.push(frame)?;
        *link.state.borrow_mut() = LinkPhase::Connecting;
        let me = Rc::clone(me);
        shard.cx().spawn(async move { me.connect(&link).await });
        Ok(())
    }
}

impl Shared {
    /// The link to a shard of a node, made when missing; `None` when there are too many.
    fn link(&self, node: NodeId, shard: u16) -> Option<Rc<Link>> {
        let limits = &self.peers.config().limits;
        let mut links = self.links.borrow_mut();
        if let Some(link) = links.get(&(node, shard)) {
            return Some(Rc::clone(link));
        }
        if links.len() >= limits.links_max {
            links.retain(|_, l| !matches!(*l.state.borrow(), LinkPhase::Down { .. }));
        }
        if links.len() >= limits.links_max {
            return None;
        }
        let link = Link::new(node, shard, limits);
        links.insert((node, shard), Rc::clone(&link));
        Some(link)
    }

    /// A link that was down may have been forgotten while a handshake went on.
    fn still_known(&self, link: &Rc<Link>) -> Rc<Link> {
        let mut links = self.links.borrow_mut();
        Rc::clone(
            links.entry((link.traffic.node, link.traffic.shard)).or_insert_with(|| Rc::clone(link)),
        )
    }

    /// The node that answered at an address, if there is a link to its shard 0.
    fn still_linked(&self, at: SocketAddr) -> Option<KnownNode> {
        let links = self.links.borrow();
        links.values().filter(|l| l.traffic.shard == 0).find_map(|l| {
            let incarnation = l.connection()?.incarnation;
            let known = self.peers.known(l.traffic.node)?;
            let same = known.incarnation == incarnation;
            (same && l.answered.get() == Some((at, incarnation))).then_some(known)
        })
    }

    /// Connects to an address and shakes hands, within the limits.
    async fn dial(
        &self,
        at: Address,
        to_shard: u16,
        wanted: Option<NodeId>,
    ) -> Result<(Talk, KnownNode, Agreed), DialError> {
        let gone = || DialError::Io(std::io::Error::other("this shard has ended"));
        let cx = self.shard.upgrade().ok_or_else(gone)?.cx();
        let limits = &self.peers.config().limits;
        let stream = Slot::new();
        self.net.connect(at.socket, limits.connect, stream.clone());
        let mut talk = Talk::new(stream.await?);
        let shake = async {
            let done = dial(&mut talk, &self.peers, self.index, to_shard, wanted).await;
            let (known, version) = done?;
            let ends = Ends { node: known.node, shard: to_shard, here: self.index };
            let agreed = self.agree_dialed(&mut talk, at, version, ends).await?;
            Ok((known, agreed))
        };
        let done = before(shake, self.alarm(&cx, limits.handshake)).await;
        let (known, agreed) =
            done.unwrap_or(Err(DialError::RefusedHere(HandshakeRefusal::Silent)))?;
        Ok((talk, known, agreed))
    }

    /// Rings once, after so long.
    fn alarm(&self, cx: &Cx, limit: Duration) -> Slot<()> {
        let late = Slot::new();
        let (clock, ring) = (cx.clone(), late.clone());
        cx.spawn(async move {
            clock.sleep(limit).await;
            ring.fill(());
        });
        late
    }

    /// What carries a connection that we have dialled.
    async fn agree_dialed(
        &self,
        talk: &mut Talk,
        at: Address,
        version: u16,
        ends: Ends,
    ) -> Result<Agreed, DialError> {
        let wanted = self.peers.offers(at);
        let agreed = match version {
            1 => Agreed::tcp(version, wanted.then(|| "the peer is an older build".into())),
            _ => {
                let local = talk.stream.local_addr()?.ip();
                let half = if wanted { self.half(local) } else { Err(String::new()) };
                agree::dialed(talk, version, half, ends).await?
            }
        };
        if self.peers.config().fabric == FabricUse::Rdma
            && let Some(why) = &agreed.why_not_rdma
        {
            return Err(DialError::Io(std::io::Error::other(format!("no queue pair: {why}"))));
        }
        Ok(agreed)
    }

    /// A queue pair on the device that has this address of ours.
    fn half(&self, local: IpAddr) -> Result<Half, String> {
        match self.peers.config().fabric {
            FabricUse::Tcp => Err("its fabric is set to tcp".into()),
            FabricUse::Auto | FabricUse::Rdma => self.ports.half(local),
        }
    }

    /// One attempt at each of the node's addresses.
    async fn connect(self: Rc<Self>, link: &Rc<Link>) {
        let mut last = String::from("no address is known for that node");
        let Some(shard) = self.shard.upgrade() else { return };
        let (cx, worked) = (shard.cx(), link.answered.get().map(|(at, _)| at));
        drop(shard);
        let pair = (self.index, link.traffic.shard);
        let mut failed = Vec::new();
        for address in self.peers.candidates(link.traffic.node, pair, worked, cx.now()) {
            let at = address.socket;
            if !matches!(*link.state.borrow(), LinkPhase::Connecting) {
                return; // the peer was faster
            }
            match self.dial(address, link.traffic.shard, Some(link.traffic.node)).await {
                Ok((talk, known, agreed)) => {
                    link.answered.set(Some((at, known.incarnation)));
                    let made = self.install(link, talk, agreed, address, known.incarnation, true);
                    let Err(why) = made else {
                        let node = link.traffic.node;
                        return self.peers.note_worked(node, address, &failed, cx.now());
                    };
                    last = format!("{address}: {}", DialError::RefusedHere(why));
                }
                Err(e) => {
                    self.say_not_connected(&e, link.traffic.node, at);
                    last = format!("{address}: {e}");
                }
            }
            failed.push(address);
        }
        let Some(shard) = self.shard.upgrade() else { return };
        if !matches!(*link.state.borrow(), LinkPhase::Connecting) {
            return;
        }
        *link.last_error.borrow_mut() = Some(last);
        self.pause(link, &shard);
        self.give_up_unsent(link, "the node cannot be reached");
        self.tick();
    }

    /// A refusal is somebody's mistake and deserves a line; an unreachable node is everyday.
    fn say_not_connected(&self, e: &DialError, node: NodeId, at: SocketAddr) {
        let (DialError::RefusedHere(why) | DialError::RefusedThere(why, _)) = e else {
            return tracing::debug!("node {} at {at}: {e}", node.0);
        };
        if let Some(shard) = self.shard.upgrade()
            && *why != HandshakeRefusal::Left
        {
            let now = shard.cx().now();
            self.dial_log.say(now, *why, format_args!("node {} at {at}: {e}", node.0));
        }
    }

    /// No attempt for a while, longer each time.
    fn pause(&self, link: &Link, shard: &Rc<Shard>) {
        let limits = &self.peers.config().limits;
        let pause = (2 * link.backoff.get()).clamp(limits.backoff_min, limits.backoff_max);
        link.backoff.set(pause);
        // Between half of it and all of it, so that many clients do not come back in step.
        let us = pause.as_micros() as u64;
        let jitter = Duration::from_micros(us / 2 + shard.cx().rand() % (us / 2 + 1));
        *link.state.borrow_mut() = LinkPhase::Down { retry_at: shard.cx().now() + jitter };
    }

    /// Whether a new connection has crossed one that both sides keep: of two made at the same time,
    /// the one that the lower node dialled stays.
    fn yields(&self, link: &Link, incarnation: u32, dialed: bool, now: Time) -> bool {
        let by_lower = dialed == (self.peers.config().node < link.traffic.node);
        link.connection().is_some_and(|old| {
            let crossed = old.dialed != dialed
                && old.incarnation == incarnation
                && now.since(old.since) < CROSSING;
            crossed && !by_lower
        })
    }

    /// A connection has passed its handshake: it is the link's from now on, unless a connection of
    /// another process of that number came first.
    fn install(
        self: &Rc<Self>,
        link: &Rc<Link>,
        talk: Talk,
        agreed: Agreed,
        at: Address,
        incarnation: u32,
        dialed: bool,
    ) -> Result<(), HandshakeRefusal> {
        let Some(shard) = self.shard.upgrade() else { return Ok(()) };
        let cx = shard.cx();
        let link = &self.still_known(link);
        if self.stopped.get() || self.yields(link, incarnation, dialed, cx.now()) {
            talk.stream.shutdown();
            return Ok(());
        }
        if let Err(why) = self.peers.join(link.traffic.node, incarnation) {
            talk.stream.shutdown();
            return Err(why);
        }
        if let Some(old) = link.connection() {
            self.lose(link, &old, "replaced by a newer connection");
        }
        link.epoch.set(link.epoch.get() + 1);
        let (lanes, peer) = (Rc::clone(&link.lanes.borrow()), at.socket);
        lanes.borrow_mut().speak(agreed.spoken);
        let connection = Connection::new(
            talk.stream,
            peer,
            incarnation,
            dialed,
            cx.now(),
            lanes,
            agreed.carrier,
        );
        *link.state.borrow_mut() = LinkPhase::Up(Rc::clone(&connection));
        tracing::debug!(
            "link to node {} shard {} is up at {peer}",
            link.traffic.node.0,
            link.traffic.shard
        );
        self.note_carrier(link, agreed.why_not_rdma);
        self.start_carrier(link, &connection, at, talk.land, &cx);
        self.tick();
        Ok(())
    }

    /// Tells once why there is no queue pair where one was wanted.
    fn note_carrier(&self, link: &Link, why_not: Option<String>) {
        if *link.why_not_rdma.borrow() == why_not {
            return;
        }
        if let Some(why) = &why_not {
            let (node, shard) = (link.traffic.node.0, link.traffic.shard);
            tracing::info!("the link to node {node} shard {shard} uses TCP, not RDMA: {why}");
        }
        *link.why_not_rdma.borrow_mut() = why_not;
    }

    /// Starts the two tasks of a connection.
    fn start_carrier(
        self: &Rc<Self>,
        link: &Rc<Link>,
        connection: &Rc<Connection>,
        at: Address,
        land: BytesMut,
        cx: &Cx,
    ) {
        let (me, l, c) = (Rc::clone(self), Rc::clone(link), Rc::clone(connection));
        cx.spawn(async move {
            let why = match &c.carrier {
                Carrier::Tcp(_) => {
                    tcp::read(&me.shard, &l.traffic, &c.flow, land, me.pool.clone()).await
                }
                Carrier::Rdma(_) => rdma::watch(&c.flow, land).await,
            };
            me.lose(&l, &c, &why);
        });
        if let Carrier::Rdma(rdma) = &connection.carrier {
            let (me, l, c) = (Rc::downgrade(self), Rc::clone(link), Rc::downgrade(connection));
            rdma.install(
                &link.traffic,
                &connection.flow,
                Box::new(move |broken| {
                    if let (Some(me), Some(c)) = (me.upgrade(), c.upgrade()) {
                        me.queue_pair_lost(&l, &c, at, broken);
                    }
                }),
            );
        }
        let (me, l, c) = (Rc::clone(self), Rc::clone(link), Rc::clone(connection));
        cx.spawn(async move {
            match &c.carrier {
                Carrier::Tcp(tcp) => {
                    if let Err(why) = tcp.write(&l.traffic, &c.flow).await {
                        me.lose(&l, &c, &why);
                    }
                }
                Carrier::Rdma(rdma) => {
                    while !c.flow.ended() {
                        rdma.turn();
                        yield_now().await;
                        c.flow.poked().await;
                    }
                }
            }
        });
    }

    /// A queue pair that breaks soon after it was made has no working way to the other one: its
    /// address is avoided, so that the next connection is another.
    fn queue_pair_lost(&self, link: &Link, c: &Rc<Connection>, at: Address, broken: &Broken) {
        if let Some(shard) = self.shard.upgrade() {
            let now = shard.cx().now();
            if broken.by_device && c.dialed && now.since(c.since) < YOUNG {
                self.peers.avoid(link.traffic.node, at, now);
            }
        }
        self.lose(link, c, &broken.why);
    }

    /// Answers the asks that wait and have not begun to leave.
    fn give_up_unsent(&self, link: &Link, why: &'static str) {
        let Some(shard) = self.shard.upgrade() else { return };
        for ask in link.take_unsent(&self.peers.config().limits) {
            shard.fail_ask(ask, AskError::NotSent(why));
        }
    }

    fn lose_current(&self, link: &Link, why: &str) {
        if let Some(connection) = link.connection() {
            self.lose(link, &connection, why);
        }
    }

    /// Ends a connection and, when it was the link's, tells everyone who waits.
    fn lose(&self, link: &Link, connection: &Rc<Connection>, why: &str) {
        if !connection.end() {
            return;
        }
        self.peers.leave(link.traffic.node, connection.incarnation);
        let Some(shard) = self.shard.upgrade() else { return };
        let now = shard.cx().now();
        link.keep_counts(connection);
        *link.last_error.borrow_mut() = Some(why.to_owned());
        if now.since(connection.since) < CROSSING {
            self.pause(link, &shard); // it did not even last: do not try again in a circle
        } else {
            link.backoff.set(Duration::ZERO);
            *link.state.borrow_mut() = LinkPhase::Down { retry_at: now };
        }
        tracing::debug!(
            "link to node {} shard {} is lost: {why}",
            link.traffic.node.0,
            link.traffic.shard
        );
        self.give_up_unsent(link, "the link broke before it was sent");
        shard.fail_asks(link.traffic.node, link.traffic.shard, AskError::Unknown("link lost"));
    }

    /// Looks at everything regularly, as long as there is something to look at.
    fn tick(self: &Rc<Self>) {
        let Some(shard) = self.shard.upgrade() else { return };
        if self.ticking.replace(true) {
            return;
        }
        let (me, cx) = (Rc::clone(self), shard.cx());
        drop(shard);
        cx.clone().spawn(async move {
            let mut round = 0;
            loop {
                cx.sleep(TICK).await;
                round += 1;
                me.look_at_links();
                me.handshakes.expire(cx.now(), me.peers.config().limits.handshake);
                let idle = me.links.borrow().is_empty() && me.handshakes.is_empty();
                if idle || round % REPORT == 0 {
                    me.report();
                }
                if idle || round % TRIM == 0 {
                    me.pool.trim();
                }
                if idle {
                    return me.ticking.set(false);
                }
            }
        });
    }

    fn look_at_links(&self) {
        let Some(shard) = self.shard.upgrade() else { return };
        let asked = shard.asked_nodes();
        let limits = &self.peers.config().limits;
        let links: Vec<_> = self.links.borrow().values().cloned().collect();
        for link in links {
            let Some(connection) = link.connection() else {
                let down = matches!(*link.state.borrow(), LinkPhase::Down { .. });
                if down && self.peers.addresses(link.traffic.node).is_empty() {
                    self.links.borrow_mut().remove(&(link.traffic.node, link.traffic.shard));
                }
                continue;
            };
            let standing = self.peers.standing(link.traffic.node, connection.incarnation);
            if standing == Standing::Outdated {
                self.lose(&link, &connection, "another process is that node now");
                continue;
            }
            if let Carrier::Rdma(rdma) = &connection.carrier {
                rdma.look();
                if let Some(why) = rdma.overstretched() {
                    self.lose(&link, &connection, why);
                }
                if connection.flow.ended() {
                    continue;
                }
            }
            let waited_for = asked.contains(&(link.traffic.node, link.traffic.shard))
                || !connection.is_idle()
                || standing == Standing::Doubted;
            let signs = connection.signs_of_life();
            let verdict = connection.silence.borrow_mut().judge(signs, TICK, waited_for, limits);
            match verdict {
                SilenceVerdict::Fine => {}
                SilenceVerdict::Ping => {
                    connection.flow.lanes.borrow_mut().ping();
                    connection.flow.wake_sender();
                }
                SilenceVerdict::Dead => {
                    tracing::warn!("node {} at {} is silent", link.traffic.node.0, connection.peer);
                    self.lose(&link, &connection, "the peer was silent for too long");
                }
            }
        }
    }

    fn report(&self) {
        let links = self.links.borrow();
        let stats = links.values().map(|l| (l.traffic.node, l.stats(self.index))).collect();
        self.peers.report(self.index, stats);
        let (pinned, used) = self.ports.memory();
        self.peers.report_rdma(self.index, RdmaMemory { pinned, used });
    }
}
