//! What is asynchronous about queue pairs: completions are taken by one task per shard and device,
//! which polls while there have been some lately and sleeps on the device's events else.
//!
//! When a connection ends, its queue pair is destroyed first; then nobody else reaches our memory,
//! and everything that was open goes back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use t3fs_runtime::net::{Net, Watch};
use t3fs_runtime::slot::before;
use t3fs_runtime::wire::Frame;
use t3fs_runtime::{Cx, Shard, Slot};

use super::Offer;
use super::dock::Dock;
use super::engine::{Counts, Ends, Engine, Terms};
use super::nic::{Completion, Nic, Outcome, PACKET, QueuePair};
use super::packet;
use crate::flow::{Flow, Incoming, Lost, Traffic, yield_now};
use crate::limits::LinkLimits;

/// A connection that found no memory looks again after this long: memory may come back on any
/// thread.
const LOOK_AGAIN: Duration = Duration::from_micros(200);
/// How long the shard does without a turn while I/O may wait for one; as long as a turn takes, if
/// that is longer.
const LOOK: Duration = Duration::from_micros(3);
/// The same while none is known to wait: a turn costs as much as several round trips.
const ALONE: Duration = Duration::from_micros(25);
const ALONE_TURNS: u32 = 16;
const ALONE_MAX: Duration = Duration::from_micros(800);
/// Looks at the device before whatever else is ready runs: together as long as that takes to be
/// found out.
const LOOKS: usize = 32;
/// To sleep and to be woken costs as much as so many turns. That long the device is looked at
/// before sleeping (spin-then-block, as in `linger.rs`), up to so many times what was asked for.
const SLEEP_TURNS: u32 = 4;
const SPIN_TIMES: u32 = 4;
/// Fewer credits than that cannot be worked with.
const CREDITS_MIN: u16 = 4;
const _: () = assert!(LinkLimits::DEFAULT.rdma_credits >= CREDITS_MIN);
// Receive buffers leave most of the pool to payloads.
const _: () = assert!(
    LinkLimits::DEFAULT.rdma_memory >= 4 * LinkLimits::DEFAULT.rdma_receive_buffers * PACKET
);
const _: () =
    assert!(LOOK.as_nanos() < ALONE.as_nanos() && ALONE.as_nanos() < ALONE_MAX.as_nanos());
/// Payload bytes looked at or copied before others get their turn.
const EFFORT: usize = 1 << 20;

/// One device port as one shard uses it.
pub(crate) struct Port {
    /// By the number of their queue pair. Before the device: they go first.
    joints: RefCell<BTreeMap<u32, Rc<Joint>>>,
    /// Taken from the device and not yet looked at.
    completions: RefCell<VecDeque<Completion>>,
    /// Room that [`Port::take`] uses again and again.
    concerned: RefCell<Vec<(u32, Rc<Joint>)>>,
    /// Receive buffers whose packets have been looked at. They are given back when more is to be
    /// looked at: there are others, while these are few, and those who were woken by the packets go
    /// first.
    seen: RefCell<Vec<u16>>,
    dock: Dock,
    nic: Rc<dyn Nic>,
    shard: Weak<Shard>,
    stop: Slot<()>,
    looking_again: Cell<bool>,
    /// Grows when all that was ready on the shard has run.
    pass: Cell<u64>,
    /// Something has been posted: its answer may come soon.
    posted: Cell<bool>,
    /// How long a turn of the shard took lately.
    turn: Cell<Duration>,
    /// While completions of our own work make no event: ends that sleep.
    light_sleep: RefCell<Option<Slot<()>>>,
}

/// A queue pair and what happens on it.
struct Joint {
    /// `None` once the connection has ended.
    pair: RefCell<Option<Rc<dyn QueuePair>>>,
    engine: RefCell<Option<Engine>>,
    lost: RefCell<Option<Broken>>,
    owner: RefCell<Option<Rc<Owner>>>,
    counted: Cell<Counts>,
    /// Frames are being delivered; sending follows.
    delivering: Cell<bool>,
    /// The pass of the shard in which a frame was last sent at once.
    sent_in: Cell<u64>,
}

/// Why a queue pair is of no use any more.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) why: Lost,
    /// The device says so, rather than the peer's packets.
    pub(crate) by_device: bool,
}

/// Whose connection it is.
struct Owner {
    traffic: Rc<Traffic>,
    flow: Weak<Flow>,
    lose: Box<dyn Fn(&Broken)>,
}

/// A queue pair that is not connected yet.
pub(crate) struct Half {
    port: Rc<Port>,
    pair: Rc<dyn QueuePair>,
    credits: u16,
}

/// What a connection carried by a queue pair has beside the stream.
pub(crate) struct RdmaCarrier {
    port: Rc<Port>,
    number: u32,
    joint: Rc<Joint>,
}

impl Half {
    /// What the other side needs to know.
    pub(crate) fn offer(&self) -> Offer {
        Offer { endpoint: self.pair.endpoint(), credits: self.credits }
    }

    /// Joins it to the other side's.
    pub(crate) fn connect(self, peer: &Offer, ends: Ends) -> Result<RdmaCarrier, String> {
        let ours = self.pair.endpoint();
        if (ours.lid == 0) != (peer.endpoint.lid == 0) {
            return Err("one side has InfiniBand, the other Ethernet".into());
        }
        if peer.credits < CREDITS_MIN {
            return Err(format!("{} receive buffers are too few", peer.credits));
        }
        let terms = Terms {
            credits: peer.credits,
            granted: self.credits,
            reads_max: usize::from(ours.reads_max.min(peer.endpoint.reads_max)).max(1),
            send_queue: self.port.nic.send_queue(),
            segments_max: packet::SEGMENTS_MAX,
            copied_max: self.pair.copied_max(),
        };
        let joint = Rc::new(Joint {
            pair: RefCell::new(Some(Rc::clone(&self.pair))),
            engine: RefCell::new(Some(Engine::new(terms, ends))),
            lost: RefCell::default(),
            owner: RefCell::default(),
            counted: Cell::default(),
            delivering: Cell::default(),
            sent_in: Cell::default(),
        });
        let number = self.pair.number();
        self.port.joints.borrow_mut().insert(number, Rc::clone(&joint));
        // From here on its end takes it out again.
        let carrier = RdmaCarrier { port: self.port, number, joint };
        self.pair.connect(&peer.endpoint)?;
        Ok(carrier)
    }
}

impl RdmaCarrier {
    /// The connection is up: what has come is delivered, and what waits is sent. `lose` ends it.
    pub(crate) fn install(
        &self,
        traffic: &Rc<Traffic>,
        flow: &Rc<Flow>,
        lose: Box<dyn Fn(&Broken)>,
    ) {
        let (traffic, flow) = (Rc::clone(traffic), Rc::downgrade(flow));
        *self.joint.owner.borrow_mut() = Some(Rc::new(Owner { traffic, flow, lose }));
        self.turn();
    }

    /// Sends what can be sent.
    pub(crate) fn turn(&self) {
        self.joint.turn(&self.port);
    }

    /// Sends a small frame at once, where no other waits: the same without a queue. False: it is to
    /// be queued.
    pub(crate) fn send_alone(&self, flow: &Flow, frame: &Frame) -> bool {
        let (joint, pass) = (&self.joint, self.port.pass.get());
        if joint.sent_in.get() == pass || joint.lost.borrow().is_some() {
            return false;
        }
        let (mut engine, pair) = (joint.engine.borrow_mut(), joint.pair.borrow());
        let (Some(engine), Some(pair)) = (&mut *engine, &*pair) else { return false };
        // Answers to what came together share packets.
        if joint.delivering.get() && engine.has_arrived() {
            return false;
        }
        match engine.send_alone(frame, &**pair) {
            Ok(false) => return false,
            Ok(true) => self.port.posted.set(true),
            Err(why) => {
                joint.fail(Broken { why, by_device: false });
                flow.wake_sender();
            }
        }
        joint.sent_in.set(pass);
        true
    }

    /// Sends a frame that was just queued, unless others were in the same pass of the shard: those
    /// share packets. False: it is left to the task that sends.
    pub(crate) fn send_at_once(&self, flow: &Flow) -> bool {
        let (joint, pass) = (&self.joint, self.port.pass.get());
        if joint.delivering.get() {
            return true;
        }
        if joint.sent_in.replace(pass) == pass {
            return false;
        }
        let Some(shard) = self.port.shard.upgrade() else { return false };
        joint.send(flow, &self.port, &shard);
        joint.lost.borrow().is_none() && flow.lanes.borrow().is_empty()
    }

    /// Whether nothing is on its way out.
    pub(crate) fn is_idle(&self) -> bool {
        self.joint.engine.borrow().as_ref().is_none_or(Engine::is_idle)
    }

    /// Grows with each packet of the peer. That its device answers says nothing of its process.
    pub(crate) fn signs_of_life(&self) -> u64 {
        self.counts().packets_received
    }

    pub(crate) fn counts(&self) -> Counts {
        match &*self.joint.engine.borrow() {
            Some(engine) => engine.counts(),
            None => self.joint.counted.get(),
        }
    }

    /// What has completed without an event: packets of our own, whose memory is free again.
    pub(crate) fn look(&self) {
        self.port.take(1);
    }

    /// Why the connection cannot go on: too much memory waits for replies that nobody waits for.
    pub(crate) fn overstretched(&self) -> Option<&'static str> {
        let shard = self.port.shard.upgrade()?;
        let engine = self.joint.engine.borrow();
        let kept = engine.as_ref()?.abandoned(shard.cx().now());
        let much = kept > self.port.dock.pool.bytes() / 8;
        much.then_some("too much memory is kept for asks that were given up")
    }

    /// Destroys the queue pair and gives all memory back.
    pub(crate) fn end(&self) {
        self.joint.counted.set(self.counts());
        self.port.joints.borrow_mut().remove(&self.number);
        // The order matters: what follows must be out of reach.
        if let Some(pair) = self.joint.pair.take() {
            pair.fail();
        }
        self.port.forget(self.number);
        drop(self.joint.engine.take());
        drop(self.joint.owner.take());
    }
}

impl Drop for RdmaCarrier {
    fn drop(&mut self) {
        self.end();
    }
}

impl Joint {
    /// Something for the engine; errors are kept until the next turn.
    fn with(&self, f: impl FnOnce(&mut Engine) -> Result<(), Lost>) {
        if let Some(engine) = &mut *self.engine.borrow_mut()
            && self.lost.borrow().is_none()
            && let Err(why) = f(engine)
        {
            self.fail(Broken { why, by_device: false });
        }
    }

    fn fail(&self, broken: Broken) {
        self.lost.borrow_mut().get_or_insert(broken);
    }

    /// Delivers what has come and sends what can be sent; ends the connection when it is lost.
    fn turn(&self, port: &Rc<Port>) {
        let Some(owner) = self.owner.borrow().clone() else { return };
        let Some(flow) = owner.flow.upgrade().filter(|c| !c.ended()) else { return };
        if self.lost.borrow().is_none()
            && let Some(shard) = port.shard.upgrade()
        {
            self.delivering.set(true);
            self.deliver(&owner, &flow, &shard);
            self.delivering.set(false);
            let rests = self.engine.borrow().as_ref().is_none_or(Engine::is_at_rest);
            if !rests || !flow.lanes.borrow().is_empty() {
                self.send(&flow, port, &shard);
            }
        }
        let lost = self.lost.borrow().clone();
        if let Some(broken) = lost {
            (owner.lose)(&broken);
        }
    }

    fn deliver(&self, owner: &Owner, flow: &Flow, shard: &Rc<Shard>) {
        loop {
            let next = self.engine.borrow_mut().as_mut().and_then(Engine::arrived);
            match next {
                None => return,
                Some(Incoming::Frame(frame)) => {
                    let received = &owner.traffic.frames_received;
                    received.set(received.get() + 1);
                    shard.on_frame(frame);
                }
                Some(Incoming::Ping) => flow.lanes.borrow_mut().pong(),
                Some(Incoming::Pong) => {}
            }
        }
    }

    fn send(&self, flow: &Flow, port: &Rc<Port>, shard: &Rc<Shard>) {
        let mut sent_before = 0;
        self.with(|engine| {
            sent_before = engine.counts().packets_sent;
            engine.pump(&mut flow.lanes.borrow_mut(), &port.dock, &|| shard.cx().now());
            match &*self.pair.borrow() {
                Some(pair) => engine.post(&**pair),
                None => Ok(()),
            }
        });
        let engine = self.engine.borrow();
        let Some(engine) = &*engine else { return };
        port.posted.set(port.posted.get() | (engine.counts().packets_sent != sent_before));
        if engine.is_starved() {
            port.look_again(shard);
        }
        if engine.awaits_own_work()
            && let Some(woken) = port.light_sleep.take()
        {
            woken.fill(());
        }
        if engine.has_more() {
            flow.wake_sender();
        }
    }
}

impl Port {
    /// Opens for business: the task that takes completions runs until `stop`.
    pub(crate) fn start(
        dock: Dock,
        nic: Rc<dyn Nic>,
        shard: &Rc<Shard>,
        net: &dyn Net,
        spin: Duration,
    ) -> Result<Rc<Port>, String> {
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(|fd| net.watch(fd));
        let watch = nic.events().map(copy).transpose();
        let watch = watch.map_err(|e| format!("no descriptor left: {e}"))?;
        let port = Port::idle(dock, nic, Rc::downgrade(shard));
        let me = Rc::clone(&port);
        shard.cx().spawn(async move {
            let stop = me.stop.clone();
            before(me.run(watch, spin), stop).await;
        });
        Ok(port)
    }

    /// Without a task that takes completions.
    pub(crate) fn idle(dock: Dock, nic: Rc<dyn Nic>, shard: Weak<Shard>) -> Rc<Port> {
        Rc::new(Port {
            joints: RefCell::default(),
            completions: RefCell::default(),
            concerned: RefCell::default(),
            seen: RefCell::default(),
            dock,
            nic,
            shard,
            stop: Slot::new(),
            looking_again: Cell::default(),
            pass: Cell::new(1),
            posted: Cell::default(),
            turn: Cell::default(),
            light_sleep: RefCell::default(),
        })
    }

    /// A queue pair to be connected.
    pub(crate) fn half(self: &Rc<Self>, limits: &LinkLimits) -> Result<Half, String> {
        let pair = self.nic.queue_pair()?;
        let credits = limits.rdma_credits.max(CREDITS_MIN);
        Ok(Half { port: Rc::clone(self), pair, credits })
    }

    pub(crate) fn receive_buffers(&self) -> usize {
        self.nic.slots()
    }

    pub(crate) fn stop(&self) {
        self.stop.fill(());
    }

    /// Takes completions for ever.
    async fn run(self: &Rc<Self>, mut watch: Option<Box<dyn Watch>>, spin: Duration) {
        loop {
            let Some(cx) = self.shard.upgrade().map(|s| s.cx()) else { return };
            self.poll(cx, spin).await;
            let deep = self.awaits_own_work();
            if let Err(why) = self.nic.arm(deep) {
                tracing::error!("RDMA completions cannot be waited for: {why}");
            }
            // What came before it was armed brings no event.
            if self.take(1) > 0 {
                continue;
            }
            let woken = Slot::new();
            *self.light_sleep.borrow_mut() = (!deep).then(|| woken.clone());
            match &mut watch {
                Some(watch) => {
                    let event = before(poll_fn(|cx| watch.poll_ready(cx)), woken).await;
                    self.light_sleep.take();
                    if let Some(Err(e)) = event {
                        tracing::error!("RDMA events cannot be waited for: {e}");
                        return self.fail_all("the device's events are lost");
                    }
                    self.nic.take_events();
                }
                None => self.sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Takes completions until none has come for so long. Between two looks all that is ready on
    /// the shard runs, and every so often the shard has a turn, other I/O included.
    async fn poll(self: &Rc<Self>, cx: Cx, spin: Duration) {
        let (mut last, mut turned) = (cx.now(), cx.now());
        loop {
            self.pass.set(self.pass.get() + 1);
            let some = (self.take(LOOKS) > 0) | self.posted.take();
            let (now, turn) = (cx.now(), self.turn.get());
            if some {
                last = now;
            } else if now.since(last) >= spin.max((SLEEP_TURNS * turn).min(SPIN_TIMES * spin)) {
                return;
            }
            let alone = match cx.turn_is_due() {
                true => turn.max(LOOK),
                false => (ALONE_TURNS * turn).clamp(ALONE, ALONE_MAX),
            };
            if now.since(turned) < alone {
                yield_now().await;
            } else {
                cx.turn().await;
                turned = cx.now();
                self.turn.set(turned.since(now).min(ALONE_MAX));
            }
        }
    }

    fn awaits_own_work(&self) -> bool {
        let joints = self.joints.borrow();
        joints.values().any(|j| j.engine.borrow().as_ref().is_some_and(Engine::awaits_own_work))
    }

    async fn sleep(&self, time: Duration) {
        let Some(cx) = self.shard.upgrade().map(|s| s.cx()) else { return };
        cx.sleep(time).await;
    }

    fn fail_all(self: &Rc<Self>, why: &str) {
        let all: Vec<_> = self.joints.borrow().values().cloned().collect();
        for joint in all {
            joint.fail(Broken { why: why.into(), by_device: true });
            joint.turn(self);
        }
    }

    /// Takes what has completed, until that was work enough for one turn of the shard, and lets the
    /// connections concerned go on; how many completions. Looks so many times until there is
    /// something.
    fn take(self: &Rc<Self>, looks: usize) -> usize {
        if self.completions.borrow().is_empty() {
            self.give_back_seen();
            if self.nic.poll(&mut self.completions.borrow_mut(), looks) == 0 {
                return 0;
            }
        }
        let mut concerned = self.concerned.take();
        let (mut n, mut effort) = (0, 0);
        while effort < EFFORT {
            let next = self.completions.borrow_mut().pop_front();
            let Some(c) = next else { break };
            n += 1;
            let joint = match concerned.last() {
                Some((number, joint)) if *number == c.queue_pair => Some(Rc::clone(joint)),
                _ => self.joints.borrow().get(&c.queue_pair).cloned(),
            };
            self.dispatch(&c, joint.as_deref());
            if let Outcome::Received { slot, .. } = c.outcome {
                self.seen.borrow_mut().push(slot);
                if self.seen.borrow().len() >= self.nic.slots() / 8 {
                    self.give_back_seen();
                }
            }
            let Some(joint) = joint else { continue };
            effort += joint.engine.borrow_mut().as_mut().map_or(0, Engine::take_effort);
            if !concerned.iter().any(|(number, _)| *number == c.queue_pair) {
                concerned.push((c.queue_pair, joint));
            }
        }
        for (_, joint) in concerned.drain(..) {
            joint.turn(self);
        }
        self.concerned.replace(concerned);
        if !self.completions.borrow().is_empty() {
            self.give_back_seen();
        }
        n
    }

    fn give_back_seen(&self) {
        self.seen.borrow_mut().drain(..).for_each(|slot| self.nic.repost(slot));
    }

    /// Of a queue pair that is gone nothing completes any more: its number may be used again.
    fn forget(&self, number: u32) {
        self.completions.borrow_mut().retain(|c| {
            let of_it = c.queue_pair == number;
            if of_it && let Outcome::Received { slot, .. } = c.outcome {
                self.nic.repost(slot);
            }
            !of_it
        });
    }

    fn dispatch(&self, c: &Completion, joint: Option<&Joint>) {
        match c.outcome {
            Outcome::Received { slot, len } => {
                if let Some(joint) = joint {
                    let packet = self.nic.received(slot, len);
                    joint.with(|engine| engine.on_packet(packet, &self.dock));
                }
            }
            Outcome::Done => {
                if let Some(joint) = joint {
                    joint.with(|engine| engine.on_done(c.id, &self.dock));
                }
            }
            Outcome::Failed(why) => {
                if let Some(joint) = joint {
                    let why = format!("the queue pair has failed: {why}");
                    joint.fail(Broken { why, by_device: true });
                }
            }
        }
    }

    /// Lets connections that found no memory try again, until none needs to.
    fn look_again(self: &Rc<Self>, shard: &Rc<Shard>) {
        if self.looking_again.replace(true) {
            return;
        }
        let (me, cx) = (Rc::clone(self), shard.cx());
        cx.clone().spawn(async move {
            loop {
                cx.sleep(LOOK_AGAIN).await;
                let starved =
                    |j: &&Rc<Joint>| j.engine.borrow().as_ref().is_some_and(Engine::is_starved);
                let all: Vec<_> = me.joints.borrow().values().filter(starved).cloned().collect();
                if all.is_empty() {
                    return me.looking_again.set(false);
                }
                all.iter().for_each(|joint| joint.turn(&me));
            }
        });
    }
}

/// Watches the stream beside a queue pair, which carries nothing: its end, or a byte, is the end of
/// the connection. Says why.
pub(crate) async fn watch(flow: &Flow, land: BytesMut) -> Lost {
    let mut land = land;
    if land.is_empty() {
        match poll_fn(|cx| flow.stream.poll_fill(cx, &mut land, 16)).await {
            Ok(0) => return "the peer has closed the connection".into(),
            Err(e) => return e.to_string(),
            Ok(_) => {}
        }
    }
    "the peer wrote beside the queue pair".into()
}
