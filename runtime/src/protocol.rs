//! Protocols: closed sets of messages, apart from the actors that serve them.
//!
//! A protocol is a marker type that `protocol!` makes, with an enum of its messages and one of
//! their replies. An address names the protocol, never an actor: who serves it may be one of
//! several.

use core::time::Duration;

use crate::buf::Carry;
use crate::lane::Lane;
use crate::meter::Kind;
use crate::wire::{Older, Payload, WireError};

/// A closed set of messages.
pub trait Protocol: Sized + 'static {
    /// Any of its messages.
    type Msg: Send + 'static;
    /// The reply to any of them.
    type Reply: Send + 'static;

    fn kind(message: &Self::Msg) -> Kind;
    /// Whether a reply says that what was asked was not done.
    fn is_failure(reply: &Self::Reply) -> bool;
    /// Opens a message that came as bytes, and tells the version it was written in: that of the
    /// reply.
    fn unpack(p: Payload) -> Result<(Self::Msg, u16), WireError>;
    fn pack_reply(reply: Self::Reply, version: u16) -> Payload;
}

/// A message of protocol `P`. Implemented by `protocol!`.
pub trait Ask<P: Protocol>: Carry + Into<P::Msg> + Send + 'static {
    type Reply: Carry + Send + 'static;
    /// Type and newest version in the envelope.
    const TAG: u16;
    const VERSION: u16;
    const LANE: Lane;
    const TIMEOUT: Duration;
    fn pack(self) -> Payload;
    /// The same in the version before, for peers that speak less than this (`wire::SPOKEN_MAX`).
    fn pack_older(&self) -> Option<Older> {
        None
    }
    fn unpack_reply(p: Payload) -> Result<Self::Reply, WireError>;
    /// Its reply among the protocol's. `None`: that of another message.
    fn reply_of(reply: P::Reply) -> Option<Self::Reply>;
    /// For work that travels a chain: how many hops are left behind this one. Credits are pooled by
    /// it, so that waits are acyclic whatever ways chains take through the same nodes.
    fn hops_remaining(&self) -> u8 {
        0
    }
}

/// A whole vocabulary, closed and in one place:
///
/// ```ignore
/// protocol! { Storage as StorageMsg, StorageReply = 0x0300 {
///     1 v 1 Write -> Result<Written, StorageError>, Bulk, 30_000 ms, hops |m| m.hops;
///     2 v 2 (1 StatV1 until 3) Stat -> u64, Control, 1_000 ms;
/// } }
/// ```
/// `0x0300` is the protocol's base: the envelope's type is base + number. `Stat` is also known in
/// the version before its newest: `StatV1` is that, frozen. It is read, and goes to peers that
/// speak less than 3 (`wire::SPOKEN_MAX` became 3 with version 2 of it), so each has a `From` the
/// other. Where the reply differs too, it says so: `(1 StatV1 -> u32, until 3)`; each reply has a
/// `From` the other then, and whoever asked in a version is answered in it.
#[macro_export]
macro_rules! protocol {
    ($protocol:ident as $msg:ident, $reply:ident = $base:literal {
        $($num:literal v $ver:literal
          $(($old:literal $before:ident $(-> $told:ty,)? until $until:literal))?
          $m:ident -> $r:ty,
          $lane:ident, $ms:literal ms $(, hops |$h:ident| $hops:expr)?;)*
    }) => {
        /// The protocol, as addresses name it.
        pub enum $protocol {}

        /// Any of its messages.
        pub enum $msg { $($m($m)),* }

        /// The reply to any of its messages.
        pub enum $reply { $($m($r)),* }

        $(
            impl From<$m> for $msg {
                fn from(m: $m) -> Self { $msg::$m(m) }
            }
            impl $crate::Ask<$protocol> for $m {
                type Reply = $r;
                const TAG: u16 = $base + $num;
                const VERSION: u16 = $ver;
                const LANE: $crate::Lane = $crate::Lane::$lane;
                const TIMEOUT: core::time::Duration = core::time::Duration::from_millis($ms);
                fn pack(self) -> $crate::wire::Payload {
                    $crate::wire::pack($base + $num, $ver, self)
                }
                $(fn pack_older(&self) -> Option<$crate::wire::Older> {
                    let before = $before::from(self.clone());
                    let payload = $crate::wire::pack($base + $num, $old, before);
                    Some($crate::wire::Older { until: $until, payload })
                })?
                fn unpack_reply(
                    p: $crate::wire::Payload,
                ) -> Result<$r, $crate::wire::WireError> {
                    // In the version in which it was asked.
                    match $crate::wire::envelope(&p.body)?.1 {
                        $($old => {
                            $(
                                let told: $told = $crate::wire::unpack($base + $num, $old, p)?;
                                return Ok(told.into());
                            )?
                            #[allow(unreachable_code)] // where the reply differs
                            $crate::wire::unpack($base + $num, $old, p)
                        })?
                        _ => $crate::wire::unpack($base + $num, $ver, p),
                    }
                }
                fn reply_of(reply: $reply) -> Option<$r> {
                    #[allow(unreachable_patterns)] // a protocol of one message
                    match reply {
                        $reply::$m(r) => Some(r),
                        _ => None,
                    }
                }
                $(fn hops_remaining(&self) -> u8 { let $h = self; $hops })?
            }
        )*

        impl $crate::Protocol for $protocol {
            type Msg = $msg;
            type Reply = $reply;

            fn kind(message: &$msg) -> $crate::meter::Kind {
                match message {
                    $($msg::$m(_) => $crate::meter::Kind {
                        tag: $base + $num,
                        name: concat!(stringify!($protocol), "::", stringify!($m)),
                    }),*
                }
            }

            fn is_failure(reply: &$reply) -> bool {
                match reply {
                    $($reply::$m(r) => $crate::buf::Carry::is_failure(r)),*
                }
            }

            fn unpack(
                p: $crate::wire::Payload,
            ) -> Result<($msg, u16), $crate::wire::WireError> {
                let (kind, version) = $crate::wire::envelope(&p.body)?;
                match (kind, version) {
                    $((k, $ver) if k == $base + $num =>
                        Ok(($msg::$m($crate::wire::unpack($base + $num, $ver, p)?), $ver)),)*
                    $($((k, $old) if k == $base + $num => {
                        let m: $before = $crate::wire::unpack($base + $num, $old, p)?;
                        Ok(($msg::$m(m.into()), $old))
                    })?)*
                    $((k, found) if k == $base + $num =>
                        Err($crate::wire::WireError::Version { kind: k, newest: $ver, found }),)*
                    (found, _) if found & 0xff00 == $base =>
                        Err($crate::wire::WireError::Message { found }),
                    (found, _) => Err($crate::wire::WireError::Type { want: $base, found }),
                }
            }

            fn pack_reply(reply: $reply, version: u16) -> $crate::wire::Payload {
                match reply {
                    $($reply::$m(r) => {
                        $($(if version == $old {
                            return $crate::wire::pack($base + $num, $old, <$told>::from(r));
                        })?)?
                        $crate::wire::pack($base + $num, version, r)
                    })*
                }
            }
        }

        impl<A> $crate::Dispatch<A> for $msg
        where
            A: $crate::Actor<Protocol = $protocol> $(+ $crate::Handle<$m>)*,
        {
            async fn dispatch(self, me: $crate::Me<A>, cx: $crate::Cx) -> $reply {
                match self {
                    $($msg::$m(m) => $reply::$m(
                        <A as $crate::Handle<$m>>::handle(&me, m, &cx).await)),*
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use crate::conformance::echo::{
        Echo, EchoReply, Later, LaterEcho, LaterEchoMsg, LaterEchoReply, Ping, Told,
    };
    use crate::wire::{WireError, envelope};
    use crate::{Ask, Protocol};

    /// Goal: a build reads the version before its own, and answers in it. Method: a ping of an
    /// earlier build goes to one that has a later version of it.
    #[test]
    fn the_version_before_is_read_and_answered() {
        let (message, version) = LaterEcho::unpack(Ping { n: 7 }.pack()).expect("read");
        let LaterEchoMsg::Later(later) = message;
        assert_eq!((later.n, later.more, version), (7, 0, 1));
        let reply = LaterEcho::pack_reply(LaterEchoReply::Later(Told { n: 8, more: 9 }), version);
        assert_eq!(<Ping as Ask<Echo>>::unpack_reply(reply), Ok(8));
        let reply = Echo::pack_reply(EchoReply::Ping(8), 1);
        assert_eq!(<Later as Ask<LaterEcho>>::unpack_reply(reply), Ok(Told { n: 8, more: 0 }));
    }

    #[test]
    fn a_later_version_is_told_from_rubbish() {
        let later = Later { n: 1, more: 2 };
        let packed = Ask::<LaterEcho>::pack(later);
        assert_eq!(envelope(&packed.body), Ok((0x7f02, 2)));
        let refused = Echo::unpack(packed).map(|_| ());
        assert_eq!(refused, Err(WireError::Version { kind: 0x7f02, newest: 1, found: 2 }));
        let other = crate::wire::pack(0x0101, 1, 5u64);
        assert!(matches!(Echo::unpack(other), Err(WireError::Type { .. })));
    }
}
