//! The actor that the suite asks, [`Echoing`]: it answers, and remembers what it was asked.

use core::time::Duration;

use rkyv::{Archive, Deserialize, Serialize};

use crate::buf::{Bulk, Carry};
use crate::{Actor, Cx, Handle, Me, NodeId, no_bulk, protocol};

/// Answers, and remembers in what order it was asked.
#[derive(Default)]
pub struct Echoing {
    /// Numbers on the control lane, then those on the bulk lane.
    pub seen: [Vec<u64>; 2],
    waiting: u64,
    waiting_most: u64,
}

/// Comes back with its payload.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub struct Store {
    pub n: u64,
    #[rkyv(with = rkyv::with::Skip)]
    pub data: Bulk,
}

#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub struct Sent {
    pub n: u64,
    #[rkyv(with = rkyv::with::Skip)]
    pub data: Bulk,
}

/// The same on the control lane, without payload.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub struct Ping {
    pub n: u64,
}

/// Answers after this long.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub struct Slow {
    pub us: u64,
}

/// Asks what was seen so far.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub struct Seen {}

/// Says who asks.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub struct WhoAsks {}

#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Asker {
    pub node: NodeId,
    pub user: u32,
    pub groups: Vec<u32>,
}

#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub struct Order {
    pub control: Vec<u64>,
    pub bulk: Vec<u64>,
    /// Most [`Slow`]s that waited at one time.
    pub slow_most: u64,
}

impl Carry for Store {
    fn bulks(&mut self, each: &mut dyn FnMut(&mut Bulk)) {
        each(&mut self.data);
    }

    fn reply_room(&self) -> usize {
        self.data.len()
    }
}
impl Carry for Sent {
    fn bulks(&mut self, each: &mut dyn FnMut(&mut Bulk)) {
        each(&mut self.data);
    }
}
no_bulk!(Ping, Slow, Seen, Order, WhoAsks, Asker, Later, Told);

protocol! { Echo as EchoMsg, EchoReply = 0x7f00 {
    1 v 1 Store -> Sent, Bulk, 30_000 ms;
    2 v 1 Ping -> u64, Control, 10_000 ms;
    3 v 1 Slow -> u64, Control, 30_000 ms;
    4 v 1 Seen -> Order, Control, 10_000 ms;
    5 v 1 WhoAsks -> Option<Asker>, Control, 10_000 ms;
} }

impl Actor for Echoing {
    type Protocol = Echo;
}
impl Handle<Store> for Echoing {
    async fn handle(me: &Me<Self>, m: Store, _: &Cx) -> Sent {
        me.with(|s| s.seen[1].push(m.n));
        Sent { n: m.n, data: m.data }
    }
}
impl Handle<Ping> for Echoing {
    async fn handle(me: &Me<Self>, m: Ping, _: &Cx) -> u64 {
        me.with(|s| s.seen[0].push(m.n));
        m.n
    }
}
impl Handle<Slow> for Echoing {
    async fn handle(me: &Me<Self>, m: Slow, cx: &Cx) -> u64 {
        me.with(|s| {
            s.waiting += 1;
            s.waiting_most = s.waiting_most.max(s.waiting);
        });
        cx.outlive().sleep(Duration::from_micros(m.us)).await;
        me.with(|s| s.waiting -= 1);
        m.us
    }
}
impl Handle<Seen> for Echoing {
    async fn handle(me: &Me<Self>, _: Seen, _: &Cx) -> Order {
        me.with(|s| Order {
            control: s.seen[0].clone(),
            bulk: s.seen[1].clone(),
            slow_most: s.waiting_most,
        })
    }
}

impl Handle<WhoAsks> for Echoing {
    async fn handle(_: &Me<Self>, _: WhoAsks, cx: &Cx) -> Option<Asker> {
        let caller = cx.caller()?;
        Some(Asker { node: caller.node, user: caller.user, groups: caller.groups.clone() })
    }
}

/// [`Ping`] as a later build might have it.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub struct Later {
    pub n: u64,
    pub more: u64,
}

impl From<Ping> for Later {
    fn from(m: Ping) -> Later {
        Later { n: m.n, more: 0 }
    }
}

impl From<Later> for Ping {
    fn from(m: Later) -> Ping {
        Ping { n: m.n }
    }
}

/// Its reply, which was a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Told {
    pub n: u64,
    pub more: u64,
}

impl From<u64> for Told {
    fn from(n: u64) -> Told {
        Told { n, more: 0 }
    }
}

impl From<Told> for u64 {
    fn from(told: Told) -> u64 {
        told.n
    }
}

protocol! { LaterEcho as LaterEchoMsg, LaterEchoReply = 0x7f00 {
    2 v 2 (1 Ping -> u64, until 2) Later -> Told, Control, 10_000 ms;
} }

/// Serves [`Echo`]'s `Ping` in both versions.
pub struct LaterEchoing;

impl Actor for LaterEchoing {
    type Protocol = LaterEcho;
}
impl Handle<Later> for LaterEchoing {
    async fn handle(_: &Me<Self>, m: Later, _: &Cx) -> Told {
        Told { n: m.n, more: m.more }
    }
}

/// Payload bytes that differ by place and number.
pub fn pattern(n: u64, len: usize) -> Bulk {
    let mut v = vec![0u8; len];
    for (i, chunk) in v.chunks_mut(4096).enumerate() {
        chunk.fill((n as u8).wrapping_mul(31).wrapping_add(i as u8));
    }
    v.into()
}
