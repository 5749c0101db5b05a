//! Actors: state that changes only in synchronous steps, and that serves one protocol.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use super::cx::Cx;
use crate::addr::Addr;
use crate::protocol::{Ask, Protocol};

/// A type whose instances live on a shard and answer messages.
pub trait Actor: Sized + 'static {
    /// What it can be asked. Others may serve the same.
    type Protocol: Protocol<Msg: Dispatch<Self>>;
    /// Checked after every [`Me::with`]: O(1), over what can be touched in one step.
    fn invariants(&self) {}
}

/// The actor as its handlers see it.
pub struct Me<A>(Rc<RefCell<A>>);

impl<A> Clone for Me<A> {
    fn clone(&self) -> Self {
        Me(Rc::clone(&self.0))
    }
}

impl<A: Actor> Me<A> {
    pub fn new(actor: A) -> Me<A> {
        Me(Rc::new(RefCell::new(actor)))
    }

    /// The only way to the state: one whole, synchronous step, checked on the way out.
    pub fn with<R>(&self, step: impl FnOnce(&mut A) -> R) -> R {
        let mut a = self.0.borrow_mut();
        let r = step(&mut a);
        a.invariants();
        r
    }
}

/// How an actor answers one kind of message. Many may be in flight at once.
pub trait Handle<M: Ask<Self::Protocol>>: Actor {
    fn handle(me: &Me<Self>, message: M, cx: &Cx) -> impl Future<Output = M::Reply>;
}

/// How actor `A` answers any message of its protocol; what `protocol!` makes of its handlers.
pub trait Dispatch<A: Actor> {
    fn dispatch(self, me: Me<A>, cx: Cx) -> impl Future<Output = <A::Protocol as Protocol>::Reply>;
}

impl Cx {
    /// Starts an actor on this shard. Addresses of this process incarnation reach it at once.
    pub fn start<A: Actor>(&self, actor: A) -> Addr<A::Protocol> {
        self.start_with(actor).0
    }

    /// The same, with a handle for the actor's own background tasks.
    pub fn start_with<A: Actor>(&self, actor: A) -> (Addr<A::Protocol>, Me<A>) {
        self.shard.start(actor)
    }
}
