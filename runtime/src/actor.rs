//! Actors: state that changes only in synchronous steps, and a closed set of messages.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use crate::ask::{Ask, Lane};
use crate::cx::Cx;
use crate::wire::{Payload, WireError};

/// A type whose instances live on a shard and answer messages.
pub trait Actor: Sized + 'static {
    /// The closed enum of its messages, made by `protocol!`.
    type Msg: Dispatch<Self>;
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
pub trait Handle<M: Ask<Self>>: Actor {
    fn handle(me: &Me<Self>, message: M, cx: &Cx) -> impl Future<Output = M::Reply>;
}

/// What `protocol!` makes of the message enum.
pub trait Dispatch<A: Actor>: Send + Sized + 'static {
    /// Opens a message that came as bytes.
    fn unpack(p: Payload) -> Result<Self, WireError>;
    fn lane(&self) -> Lane;
    /// Handles it; the reply as a value, for another shard of this process.
    fn dispatch(self, me: Me<A>, cx: Cx) -> impl Future<Output = Box<dyn Any + Send>>;
    /// Handles it; the reply as bytes, for another node.
    fn dispatch_packed(self, me: Me<A>, cx: Cx) -> impl Future<Output = Payload>;
}

/// The whole vocabulary of an actor, closed and in one place:
///
/// ```ignore
/// protocol! { Storage as StorageMsg = 0x0300 {
///     1 v 1 Write -> Result<Written, StorageError>, Bulk, 30_000 ms, hops |m| m.hops;
///     2 v 1 Stat  -> u64, Control, 1_000 ms;
/// } }
/// ```
/// `0x0300` is the protocol's base: the envelope's type is base + number.
#[macro_export]
macro_rules! protocol {
    ($actor:ty as $en:ident = $base:literal {
        $($num:literal v $ver:literal $m:ident -> $r:ty, $lane:ident, $ms:literal ms
          $(, hops |$h:ident| $hops:expr)?;)*
    }) => {
        pub enum $en { $($m($m)),* }

        $(
            impl From<$m> for $en {
                fn from(m: $m) -> Self { $en::$m(m) }
            }
            impl $crate::Ask<$actor> for $m {
                type Reply = $r;
                const TAG: u16 = $base + $num;
                const VERSION: u16 = $ver;
                const LANE: $crate::Lane = $crate::Lane::$lane;
                const TIMEOUT: core::time::Duration = core::time::Duration::from_millis($ms);
                fn pack(self) -> $crate::wire::Payload {
                    $crate::wire::pack($base + $num, $ver, self)
                }
                fn unpack_reply(
                    p: $crate::wire::Payload,
                ) -> Result<$r, $crate::wire::WireError> {
                    $crate::wire::unpack($base + $num, $ver, p)
                }
                $(fn hops_remaining(&self) -> u8 { let $h = self; $hops })?
            }
        )*

        impl $crate::Dispatch<$actor> for $en {
            fn unpack(p: $crate::wire::Payload) -> Result<Self, $crate::wire::WireError> {
                let (kind, version) = $crate::wire::envelope(&p.body)?;
                match (kind, version) {
                    $((k, $ver) if k == $base + $num =>
                        Ok($en::$m($crate::wire::unpack($base + $num, $ver, p)?)),)*
                    $((k, found) if k == $base + $num =>
                        Err($crate::wire::WireError::Version { kind: k, newest: $ver, found }),)*
                    (found, _) => Err($crate::wire::WireError::Type { want: $base, found }),
                }
            }
            fn lane(&self) -> $crate::Lane {
                match self { $($en::$m(_) => $crate::Lane::$lane),* }
            }
            async fn dispatch(
                self, me: $crate::Me<$actor>, cx: $crate::Cx,
            ) -> Box<dyn std::any::Any + Send> {
                match self {
                    $($en::$m(m) => Box::new(
                        <$actor as $crate::Handle<$m>>::handle(&me, m, &cx).await)),*
                }
            }
            async fn dispatch_packed(
                self, me: $crate::Me<$actor>, cx: $crate::Cx,
            ) -> $crate::wire::Payload {
                match self {
                    $($en::$m(m) => $crate::wire::pack($base + $num, $ver,
                        <$actor as $crate::Handle<$m>>::handle(&me, m, &cx).await)),*
                }
            }
        }
    };
}
