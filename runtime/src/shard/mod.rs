//! A shard: the actors that live on it, the asks it waits for, its timers and credits.
//!
//! Three ways a message goes, one `ask`: to an actor of this shard it moves by value into a new
//! task; to another shard of the process by value through that shard's inbox; to another node as a
//! sealed frame. An actor sees of its shard what `Cx` shows; the shard sees of the world what
//! `Backend` asks for. Next: `cx.rs`.

mod actor;
mod backend;
mod cx;
mod disk;

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use rustc_hash::FxHashMap;

pub use actor::{Actor, Dispatch, Handle, Me};
use backend::Errand;
pub use backend::{Backend, LocalTask, Parcel};
pub use cx::Cx;
pub use disk::Disk;

use crate::addr::{Addr, NodeId, RawAddr};
use crate::ask::{AskError, Credit, CreditBook, Credits};
use crate::caller::Caller;
use crate::deadlines::{Deadlines, Place};
use crate::lane::Lane;
use crate::meter::{Kind, Meter, Meters};
use crate::net::Net;
use crate::protocol::{Ask, Protocol};
use crate::slot::{Slot, before};
use crate::time::Time;
use crate::wire::{Frame, FrameKind, Payload, Refusal, WireError};

/// Counters of one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Requests whose deadline had passed before their handler began.
    pub expired: u64,
    /// Frames and parcels for an actor or incarnation that is not here.
    pub misaddressed: u64,
    /// Frames whose body did not open.
    pub unreadable: u64,
    /// Replies nobody waited for any more.
    pub late_replies: u64,
}

enum Waiting {
    /// For another shard of the process.
    Value(Box<dyn Asker>),
    Packed {
        node: NodeId,
        shard: u16,
        reply: Slot<Result<Payload, AskError>>,
    },
}

/// What carries frames to other nodes, one per shard; `transport` implements it.
pub trait Links {
    /// Takes a frame for the shard `frame.shard` of a node. `Err`: it was certainly not sent.
    fn send(&self, to: NodeId, frame: Frame) -> Result<(), &'static str>;
}

/// What follows when a deadline passes.
enum Late {
    Slot(Slot<()>),
    /// An ask gets no answer any more.
    Ask(u64),
}

/// After a look at the deadlines there is none for so long: one that passes then is this much late.
const LOOKS_APART: core::time::Duration = core::time::Duration::from_micros(500);

/// One thread's worth of actors. Never leaves its thread.
pub struct Shard {
    pub(crate) node: NodeId,
    pub(crate) index: u16,
    epoch: u32,
    pub(crate) backend: Rc<dyn Backend>,
    /// What the backend says of it; kept, for actors ask wherever there is something to do wrong.
    pub(crate) planted: Option<&'static str>,
    actors: RefCell<Vec<Rc<dyn Host>>>,
    waiting: RefCell<FxHashMap<u64, Waiting>>,
    next_ask: Cell<u64>,
    deadlines: RefCell<Deadlines<Late>>,
    /// When they are looked at next; hardly later than the first passes (`LOOKS_APART`).
    armed: Cell<Option<Time>>,
    credits: RefCell<CreditBook>,
    links: OnceCell<Rc<dyn Links>>,
    stats: Cell<ShardStats>,
    meters: RefCell<Meters>,
}

/// Where a reply to a frame goes.
#[derive(Clone, Copy)]
struct Sender {
    node: NodeId,
    shard: u16,
    ask: u64,
    lane: Lane,
    wants_reply: bool,
    deadline: Time,
}

/// A slot that waits for a reply as a value, its type forgotten.
trait Asker {
    fn fail(self: Box<Self>, why: AskError);
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<R: 'static> Asker for Slot<Result<R, AskError>> {
    fn fail(self: Box<Self>, why: AskError) {
        self.fill(Err(why));
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Where a reply goes, and in what form.
enum ReplyTo<P: Protocol> {
    /// To a task of this shard. The credit is given back before it runs.
    Slot(Slot<Result<P::Reply, AskError>>, Credit),
    Shard {
        shard: u16,
        ask: u64,
    },
    Node {
        from: Sender,
        version: u16,
    },
}

/// An actor that serves `P`, its type forgotten.
trait Serves<P: Protocol> {
    /// The whole handling of a message, reply included.
    fn task(&self, message: P::Msg, cx: Cx, to: ReplyTo<P>) -> LocalTask;
}

impl<A: Actor> Serves<A::Protocol> for Me<A> {
    fn task(
        &self,
        message: <A::Protocol as Protocol>::Msg,
        cx: Cx,
        to: ReplyTo<A::Protocol>,
    ) -> LocalTask {
        let me = self.clone();
        let (kind, came) = (A::Protocol::kind(&message), cx.now());
        Box::pin(async move {
            let shard = Rc::clone(&cx.shard);
            let reply = if cx.expired() {
                shard.count(|s| s.expired += 1);
                shard.meter(kind, |meter| meter.late += 1);
                Err(Refusal::Late)
            } else {
                let reply = message.dispatch(me, cx).await;
                let (time, failed) =
                    (shard.backend.now().since(came), A::Protocol::is_failure(&reply));
                shard.meter(kind, |meter| {
                    meter.times.add(time);
                    meter.failed += u64::from(failed);
                });
                Ok(reply)
            };
            shard.reply(kind, reply, to).await;
        })
    }
}

/// An actor of which only the protocol is known, or, behind [`Host`], not even that.
struct Hosted<P: Protocol>(Rc<dyn Serves<P>>);

trait Host {
    fn as_any(&self) -> &dyn Any;
    fn take_frame(&self, shard: &Rc<Shard>, frame: Frame, from: Sender) -> Result<(), WireError>;
}

impl<P: Protocol> Host for Hosted<P> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn take_frame(
        &self,
        shard: &Rc<Shard>,
        mut frame: Frame,
        from: Sender,
    ) -> Result<(), WireError> {
        let caller = frame.take_caller()?;
        let size = frame.payload.size() as u64;
        let (message, version) = P::unpack(frame.payload)?;
        shard.meter(P::kind(&message), |meter| meter.bytes_in += size);
        let cx = Cx::new(Rc::clone(shard), from.deadline, caller);
        let mut work = self.0.task(message, cx, ReplyTo::Node { from, version });
        // Many handlers answer at once, and a task costs more than they do. Nobody is within
        // `Me::with`: frames come from links.
        let begun = work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if begun.is_pending() {
            shard.backend.spawn(work);
        }
        Ok(())
    }
}

/// A message on its way to another shard of this process.
struct AskErrand<P: Protocol> {
    to: RawAddr,
    from_shard: u16,
    ask: u64,
    deadline: Time,
    caller: Option<Arc<Caller>>,
    message: P::Msg,
}

impl<P: Protocol> Errand for AskErrand<P> {
    fn run(self: Box<Self>, there: &Rc<Shard>) {
        let AskErrand { to, from_shard: shard, ask, deadline, caller, message } = *self;
        match there.host::<P>(to) {
            Ok(served) => {
                let cx = Cx::new(Rc::clone(there), deadline, caller);
                there.backend.spawn(served.task(message, cx, ReplyTo::Shard { shard, ask }));
            }
            Err(why) => {
                there.count(|s| s.misaddressed += 1);
                let result = Err(AskError::NotSent(why.says()));
                // A full ring here only costs the asker its wait until the deadline.
                let reply = Box::new(ReplyErrand::<P> { ask, result });
                let _ = there.backend.pass(shard, Parcel(reply));
            }
        }
    }
}

/// A reply on its way back.
struct ReplyErrand<P: Protocol> {
    ask: u64,
    result: Result<P::Reply, AskError>,
}

impl<P: Protocol> Errand for ReplyErrand<P> {
    fn run(self: Box<Self>, there: &Rc<Shard>) {
        let waiting = there.waiting.borrow_mut().remove(&self.ask);
        match waiting {
            Some(Waiting::Value(asker)) => {
                let slot = asker.into_any().downcast::<Slot<Result<P::Reply, AskError>>>();
                slot.expect("an ask is answered in its own protocol").fill(self.result);
            }
            Some(Waiting::Packed { .. }) => unreachable!("asked a node, answered by a shard"),
            None => there.count(|s| s.late_replies += 1),
        }
    }
}

/// Removes what an abandoned ask left behind.
struct Forget<'a> {
    shard: &'a Shard,
    ask: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shard.waiting.borrow_mut().remove(&self.ask);
    }
}

/// Its deadline stands until it is dropped, or the deadline has passed.
pub(crate) struct Timer<'a> {
    shard: &'a Shard,
    place: Option<Place>,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.shard.deadlines.borrow_mut().unset(place);
        }
    }
}

fn own_reply<P: Protocol, M: Ask<P>>(reply: P::Reply) -> M::Reply {
    M::reply_of(reply).expect("a message is answered by its own reply")
}

impl Shard {
    /// `epoch` is this process's incarnation: larger than any earlier one of the same node.
    pub fn new(node: NodeId, index: u16, epoch: u32, backend: Rc<dyn Backend>) -> Rc<Shard> {
        Rc::new(Shard {
            node,
            index,
            epoch,
            planted: backend.planted(),
            backend,
            actors: RefCell::default(),
            waiting: RefCell::default(),
            // A reply to an ask of an earlier incarnation may still come: its number is not reused.
            next_ask: Cell::new(u64::from(epoch) << 32 | 1),
            deadlines: RefCell::default(),
            armed: Cell::default(),
            credits: RefCell::default(),
            links: OnceCell::new(),
            stats: Cell::default(),
            meters: RefCell::default(),
        })
    }

    /// A door without a deadline, for what starts the actors and drives them from outside.
    pub fn cx(self: &Rc<Self>) -> Cx {
        Cx::new(Rc::clone(self), Time::NEVER, None)
    }

    /// Gives the shard its way to other nodes, once, before anything is asked of them. Without it
    /// frames go to the backend.
    pub fn install_links(&self, links: Rc<dyn Links>) {
        assert!(self.links.set(links).is_ok(), "links are installed once");
    }

    /// The byte streams of this shard's backend, if it has any.
    pub fn net(&self) -> Option<Rc<dyn Net>> {
        self.backend.net()
    }

    fn send(&self, to: NodeId, frame: Frame) -> Result<(), &'static str> {
        match self.links.get() {
            Some(links) => links.send(to, frame),
            None => self.backend.send(to, frame),
        }
    }

    /// Answers every ask that waits for a shard of another node: the link to it is lost. Costs a
    /// look at each ask in flight; links are lost rarely.
    pub fn fail_asks(&self, node: NodeId, shard: u16, error: AskError) {
        let mut failed = Vec::new();
        self.waiting.borrow_mut().retain(|ask, w| match w {
            Waiting::Packed { node: n, shard: s, reply } if (*n, *s) == (node, shard) => {
                failed.push((*ask, reply.clone()));
                false
            }
            _ => true,
        });
        failed.sort_by_key(|(ask, _)| *ask);
        for (_, reply) in failed {
            reply.fill(Err(error));
        }
    }

    /// Answers one ask of this shard to another node: its frame never left.
    pub fn fail_ask(&self, ask: u64, error: AskError) {
        let mut waiting = self.waiting.borrow_mut();
        if let Some(Waiting::Packed { .. }) = waiting.get(&ask)
            && let Some(Waiting::Packed { reply, .. }) = waiting.remove(&ask)
        {
            drop(waiting);
            reply.fill(Err(error));
        }
    }

    /// The shards of other nodes that this shard waits for an answer from, in order.
    pub fn asked_nodes(&self) -> std::collections::BTreeSet<(NodeId, u16)> {
        let waiting = self.waiting.borrow();
        let nodes = waiting.values().filter_map(|w| match w {
            Waiting::Packed { node, shard, .. } => Some((*node, *shard)),
            Waiting::Value(_) => None,
        });
        nodes.collect()
    }

    pub fn stats(&self) -> ShardStats {
        self.stats.get()
    }

    fn meter(&self, kind: Kind, f: impl FnOnce(&mut Meter)) {
        f(self.meters.borrow_mut().messages.entry(kind).or_default());
    }

    pub(crate) fn count_stage(&self, stage: &'static str, n: u64) {
        *self.meters.borrow_mut().stages.entry(stage).or_default() += n;
    }

    /// What has been counted on this shard so far.
    pub fn meters(&self) -> Meters {
        self.meters.borrow().clone()
    }

    fn count(&self, f: impl FnOnce(&mut ShardStats)) {
        let mut s = self.stats.get();
        f(&mut s);
        self.stats.set(s);
    }

    /// The address that the `slot`-th started actor of a shard of this process has.
    pub fn addr_of<P>(&self, shard: u16, slot: u16) -> Addr<P> {
        Addr::from_raw(RawAddr { node: self.node, shard, slot, epoch: self.epoch })
    }

    pub(crate) fn start<A: Actor>(&self, actor: A) -> (Addr<A::Protocol>, Me<A>) {
        let mut actors = self.actors.borrow_mut();
        let slot = u16::try_from(actors.len()).expect("fewer than 65,536 actors a shard");
        let me = Me::new(actor);
        actors.push(Rc::new(Hosted::<A::Protocol>(Rc::new(me.clone()))));
        (self.addr_of(self.index, slot), me)
    }

    fn any_host(&self, to: RawAddr) -> Result<Rc<dyn Host>, Refusal> {
        if to.epoch != self.epoch && to.epoch != RawAddr::ANY_EPOCH {
            return Err(Refusal::OtherIncarnation);
        }
        let found = self.actors.borrow().get(usize::from(to.slot)).cloned();
        found.ok_or(Refusal::NoSuchActor)
    }

    fn host<P: Protocol>(&self, to: RawAddr) -> Result<Rc<dyn Serves<P>>, Refusal> {
        let host = self.any_host(to)?;
        let hosted: &Hosted<P> =
            host.as_any().downcast_ref().expect("an Addr<P> leads to one who serves P");
        Ok(Rc::clone(&hosted.0))
    }

    async fn reply<P: Protocol>(
        &self,
        kind: Kind,
        reply: Result<P::Reply, Refusal>,
        to: ReplyTo<P>,
    ) {
        let late = |why: Refusal| AskError::NotSent(why.says());
        match to {
            ReplyTo::Slot(slot, credit) => {
                drop(credit);
                slot.fill(reply.map_err(late));
            }
            ReplyTo::Shard { shard, ask } => {
                let result = reply.map_err(late);
                let mut parcel = Parcel(Box::new(ReplyErrand::<P> { ask, result }));
                // The asker's ring is full: it is drained by a running shard, so this ends.
                while let Err(back) = self.backend.pass(shard, parcel) {
                    parcel = back;
                    let pause = Slot::new();
                    let soon = self.backend.now() + core::time::Duration::from_micros(50);
                    self.backend.wake_at(soon, pause.clone());
                    pause.await;
                }
            }
            ReplyTo::Node { from, version } => match reply {
                Ok(reply) => self.answer(from, FrameKind::Reply, || {
                    let packed = P::pack_reply(reply, version);
                    self.meter(kind, |meter| meter.bytes_out += packed.size() as u64);
                    packed
                }),
                Err(why) => self.answer(from, FrameKind::Refused, || why.payload()),
            },
        }
    }

    fn credits(&self, to: RawAddr, lane: Lane, hops: u8) -> Credits {
        self.credits.borrow_mut().of(to, lane, hops)
    }

    /// A slot that fills at `at`, unless the guard goes first. `Time::NEVER` never fills.
    pub(crate) fn timer(self: &Rc<Self>, at: Time) -> (Slot<()>, Timer<'_>) {
        let slot = Slot::new();
        let timer = self.set_timer(at, Late::Slot(slot.clone()));
        (slot, timer)
    }

    fn set_timer(self: &Rc<Self>, at: Time, late: Late) -> Timer<'_> {
        if at == Time::NEVER {
            return Timer { shard: self, place: None };
        }
        let place = self.deadlines.borrow_mut().set(at, late);
        if self.armed.get().is_none_or(|armed| at < armed) {
            self.arm(at);
        }
        Timer { shard: self, place: Some(place) }
    }

    /// The deadlines are looked at then.
    fn arm(self: &Rc<Self>, at: Time) {
        self.armed.set(Some(at));
        let fired = Slot::new();
        self.backend.wake_at(at, fired.clone());
        let home = Rc::downgrade(self);
        self.backend.spawn(Box::pin(async move {
            fired.await;
            if let Some(shard) = home.upgrade() {
                shard.fire(at);
            }
        }));
    }

    fn fire(self: &Rc<Self>, armed: Time) {
        if self.armed.get() != Some(armed) {
            return; // an earlier one has fired and taken over
        }
        let now = self.backend.now();
        let (passed, next) = self.deadlines.borrow_mut().take_passed(now);
        self.armed.set(None);
        for late in passed {
            match late {
                Late::Slot(slot) => slot.fill(()),
                Late::Ask(ask) => self.give_up(ask),
            }
        }
        if let Some(at) = next {
            self.arm(at.max(now + LOOKS_APART));
        }
    }

    fn give_up(&self, ask: u64) {
        let late = AskError::Unknown("deadline passed");
        let waiting = self.waiting.borrow_mut().remove(&ask);
        match waiting {
            Some(Waiting::Value(asker)) => asker.fail(late),
            Some(Waiting::Packed { reply, .. }) => reply.fill(Err(late)),
            None => {}
        }
    }

    /// Waits in line for a credit.
    async fn queue(self: &Rc<Self>, credits: Credits, deadline: Time) -> Result<Credit, AskError> {
        let Some(place) = credits.queue() else {
            return Err(AskError::NotSent("too many requests wait for this actor"));
        };
        let (late, _timer) = self.timer(deadline);
        let credit = before(place, late).await;
        credit.map(Credit::accept).ok_or(AskError::NotSent("deadline passed in the queue"))
    }

    pub(crate) async fn ask<P, M>(
        self: &Rc<Self>,
        to: Addr<P>,
        message: M,
        deadline: Time,
        caller: Option<Arc<Caller>>,
    ) -> Result<M::Reply, AskError>
    where
        P: Protocol,
        M: Ask<P>,
    {
        let (to, mut now) = (to.raw(), self.backend.now());
        if now >= deadline {
            return Err(AskError::NotSent("deadline passed"));
        }
        let credits = self.credits(to, M::LANE, message.hops_remaining());
        let credit = match credits.try_take() {
            Some(credit) => credit,
            None => {
                let credit = self.queue(credits, deadline).await?;
                now = self.backend.now();
                credit
            }
        };
        if to.node != self.node {
            let limits = (now, deadline, credit);
            return self.ask_node::<P, M>(to, message, limits, caller).await;
        }
        if to.shard != self.index {
            return self.ask_shard::<P, M>(to, message, deadline, credit, caller).await;
        }
        let reply = self.hand_over::<P>(to, message.into(), deadline, credit, caller)?;
        let (late, _timer) = self.timer(deadline);
        let reply = before(reply, late).await;
        reply.unwrap_or(Err(AskError::Unknown("deadline passed"))).map(own_reply::<P, M>)
    }

    /// Starts the handler of an actor on this shard.
    fn hand_over<P: Protocol>(
        self: &Rc<Self>,
        to: RawAddr,
        message: P::Msg,
        deadline: Time,
        credit: Credit,
        caller: Option<Arc<Caller>>,
    ) -> Result<Slot<Result<P::Reply, AskError>>, AskError> {
        let host = self.host::<P>(to).map_err(|why| AskError::NotSent(why.says()))?;
        let (cx, reply) = (Cx::new(Rc::clone(self), deadline, caller), Slot::new());
        self.backend.spawn(host.task(message, cx, ReplyTo::Slot(reply.clone(), credit)));
        Ok(reply)
    }

    async fn ask_shard<P, M>(
        self: &Rc<Self>,
        to: RawAddr,
        message: M,
        deadline: Time,
        _credit: Credit,
        caller: Option<Arc<Caller>>,
    ) -> Result<M::Reply, AskError>
    where
        P: Protocol,
        M: Ask<P>,
    {
        let ask = self.next_ask();
        let reply: Slot<Result<P::Reply, AskError>> = Slot::new();
        self.waiting.borrow_mut().insert(ask, Waiting::Value(Box::new(reply.clone())));
        let _forget = Forget { shard: self, ask };
        let (from_shard, message) = (self.index, message.into());
        let errand = AskErrand::<P> { to, from_shard, ask, deadline, caller, message };
        let parcel = Parcel(Box::new(errand));
        if self.backend.pass(to.shard, parcel).is_err() {
            return Err(AskError::NotSent("the other shard's ring is full"));
        }
        let _timer = self.set_timer(deadline, Late::Ask(ask));
        reply.await.map(own_reply::<P, M>)
    }

    async fn ask_node<P, M>(
        self: &Rc<Self>,
        to: RawAddr,
        message: M,
        (now, deadline, _credit): (Time, Time, Credit),
        caller: Option<Arc<Caller>>,
    ) -> Result<M::Reply, AskError>
    where
        P: Protocol,
        M: Ask<P>,
    {
        let (ask, reply) = (self.next_ask(), Slot::new());
        let wait = Waiting::Packed { node: to.node, shard: to.shard, reply: reply.clone() };
        self.waiting.borrow_mut().insert(ask, wait);
        let _forget = Forget { shard: self, ask };
        let frame = Frame {
            kind: FrameKind::Ask,
            lane: M::LANE,
            shard: to.shard,
            slot: to.slot,
            epoch: to.epoch,
            from_node: self.node,
            from_shard: self.index,
            ask,
            ttl_us: (deadline - now).as_micros() as u64,
            reply_room: message.reply_room(),
            caller,
            older: message.pack_older().map(Box::new),
            payload: message.pack(),
        };
        self.send(to.node, frame).map_err(AskError::NotSent)?;
        let _timer = self.set_timer(deadline, Late::Ask(ask));
        let p = reply.await?;
        M::unpack_reply(p).map_err(|_| AskError::Unknown("the reply could not be read"))
    }

    pub(crate) fn tell<P, M>(
        self: &Rc<Self>,
        to: Addr<P>,
        message: M,
        caller: Option<Arc<Caller>>,
    ) -> Result<(), AskError>
    where
        P: Protocol,
        M: Ask<P>,
    {
        let (raw, now) = (to.raw(), self.backend.now());
        let deadline = now + M::TIMEOUT;
        let credits = self.credits(raw, M::LANE, message.hops_remaining());
        let Some(credit) = credits.try_take() else {
            return Err(AskError::NotSent("no credit"));
        };
        if raw.node == self.node && raw.shard == self.index {
            let handed = self.hand_over::<P>(raw, message.into(), deadline, credit, caller);
            return handed.map(drop);
        }
        let home = Rc::clone(self);
        self.backend.spawn(Box::pin(async move {
            // A tell promises nothing, so its outcome is nobody's business.
            if raw.node == home.node {
                let _ = home.ask_shard::<P, M>(raw, message, deadline, credit, caller).await;
            } else {
                let limits = (now, deadline, credit);
                let _ = home.ask_node::<P, M>(raw, message, limits, caller).await;
            }
        }));
        Ok(())
    }

    fn next_ask(&self) -> u64 {
        let id = self.next_ask.get();
        self.next_ask.set(id + 1);
        id
    }

    /// A parcel from another shard of this process.
    pub fn on_parcel(self: &Rc<Self>, parcel: Parcel) {
        parcel.0.run(self);
    }

    /// A frame from another node, already checked and opened by its link.
    pub fn on_frame(self: &Rc<Self>, frame: Frame) {
        match frame.kind {
            FrameKind::Ask | FrameKind::AskFor | FrameKind::Tell => {
                let from = Sender {
                    node: frame.from_node,
                    shard: frame.from_shard,
                    ask: frame.ask,
                    lane: frame.lane,
                    wants_reply: frame.kind != FrameKind::Tell,
                    deadline: self.backend.now() + core::time::Duration::from_micros(frame.ttl_us),
                };
                let to = RawAddr {
                    node: self.node,
                    shard: frame.shard,
                    slot: frame.slot,
                    epoch: frame.epoch,
                };
                let refuse = |why: Refusal| {
                    self.answer(from, FrameKind::Refused, || why.payload());
                };
                let host = match self.any_host(to) {
                    Ok(host) => host,
                    Err(why) => {
                        self.count(|s| s.misaddressed += 1);
                        return refuse(why);
                    }
                };
                // It is begun here and now, so this is what there is to look at.
                if frame.ttl_us == 0 {
                    self.count(|s| s.expired += 1);
                    return refuse(Refusal::Late);
                }
                if let Err(e) = host.take_frame(self, frame, from) {
                    self.count(|s| s.unreadable += 1);
                    tracing::warn!(from = from.node.0, "a frame was refused: {e}");
                    refuse(match e {
                        WireError::Version { .. } | WireError::Message { .. } => Refusal::Unknown,
                        _ => Refusal::Unreadable,
                    });
                }
            }
            FrameKind::Reply | FrameKind::Refused => {
                let mut waiting = self.waiting.borrow_mut();
                let reply = match waiting.remove(&frame.ask) {
                    Some(Waiting::Packed { reply, .. }) => reply,
                    // A node answers what another shard of this process was asked.
                    Some(value) => {
                        waiting.insert(frame.ask, value);
                        return self.count(|s| s.misaddressed += 1);
                    }
                    None => return self.count(|s| s.late_replies += 1),
                };
                drop(waiting);
                reply.fill(match frame.kind {
                    FrameKind::Reply => Ok(frame.payload),
                    // The link may have repeated the frame: an earlier incarnation may have
                    // handled what this one refuses.
                    _ => Err(match Refusal::of(&frame.payload) {
                        Some(why @ Refusal::OtherIncarnation) => AskError::Unknown(why.says()),
                        Some(why) => AskError::NotSent(why.says()),
                        // Of another build: nothing is known of it.
                        None => AskError::Unknown("refused for a reason that is not known here"),
                    }),
                });
            }
        }
    }

    fn answer(&self, to: Sender, kind: FrameKind, payload: impl FnOnce() -> Payload) {
        if !to.wants_reply {
            return;
        }
        let frame = Frame {
            kind,
            lane: to.lane,
            shard: to.shard,
            slot: 0,
            epoch: 0,
            from_node: self.node,
            from_shard: self.index,
            ask: to.ask,
            ttl_us: 0,
            reply_room: 0,
            payload: payload(),
            caller: None,
            older: None,
        };
        // A lost reply is a lost reply: the asker's deadline turns it into Unknown.
        if let Err(why) = self.send(to.node, frame) {
            tracing::debug!(to = to.node.0, "a reply was not sent: {why}");
        }
    }
}
