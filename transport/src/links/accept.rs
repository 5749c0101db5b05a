//! Letting connections in: what happens before a successful handshake is bounded in bytes, in time
//! and in number.
//!
//! The handshake runs on the shard that listens. Who has proved itself is handed, as an open
//! socket, to the shard it came for, and welcomed there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use t3fs_runtime::net::Socket;
use t3fs_runtime::slot::before;
use t3fs_runtime::{Shard, Slot, Time};

use super::Shared;
use super::agree::{self, Agreed};
use super::handshake::{Talk, TurnedAway, greet, refuse, welcome};
use crate::arrival::{Arrival, Guest};
use crate::rdma::Ends;
use crate::refusal::HandshakeRefusal;

/// Connections accepted at a stretch.
const BURST: u64 = 16;
/// After a failed accept (no descriptors left, say) the listener rests so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The handshakes under way on the listening shard, oldest first.
#[derive(Default)]
pub(super) struct Handshakes {
    open: RefCell<BTreeMap<u64, Open>>,
    next: Cell<u64>,
    listening: RefCell<Option<Slot<()>>>,
}

struct Open {
    since: Time,
    end: Slot<()>,
    why: Rc<Cell<HandshakeRefusal>>,
}

impl Handshakes {
    /// Makes room and takes the next place. The slot fills when the handshake is to end, and the
    /// cell then says why.
    fn begin(&self, now: Time, max: usize) -> (u64, Slot<()>, Rc<Cell<HandshakeRefusal>>) {
        let mut open = self.open.borrow_mut();
        while open.len() >= max.max(1) {
            let (_, oldest) = open.pop_first().expect("more than the maximum");
            oldest.end(HandshakeRefusal::Full);
        }
        let id = self.next.get();
        self.next.set(id + 1);
        let (end, why) = (Slot::new(), Rc::new(Cell::new(HandshakeRefusal::Silent)));
        open.insert(id, Open { since: now, end: end.clone(), why: Rc::clone(&why) });
        (id, end, why)
    }

    fn done(&self, id: u64) {
        self.open.borrow_mut().remove(&id);
    }

    pub(super) fn expire(&self, now: Time, limit: Duration) {
        let mut open = self.open.borrow_mut();
        while let Some(oldest) = open.first_entry() {
            if now.since(oldest.get().since) < limit {
                return;
            }
            oldest.remove().end(HandshakeRefusal::Silent);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    pub(super) fn end_all(&self) {
        for open in std::mem::take(&mut *self.open.borrow_mut()).into_values() {
            open.end(HandshakeRefusal::Left);
        }
        if let Some(listening) = self.listening.borrow_mut().take() {
            listening.fill(());
        }
    }
}

impl Open {
    fn end(self, why: HandshakeRefusal) {
        self.why.set(why);
        self.end.fill(());
    }
}

pub(super) fn listen(me: &Rc<Shared>, at: SocketAddr) -> Result<SocketAddr, String> {
    let shard = me.shard.upgrade().ok_or("this shard has ended")?;
    let door = me.net.listen(at).map_err(|e| format!("cannot listen at {at}: {e}"))?;
    let bound = door.local_addr();
    let (me, cx) = (Rc::clone(me), shard.cx());
    let closing = Slot::new();
    *me.handshakes.listening.borrow_mut() = Some(closing.clone());
    cx.clone().spawn(async move {
        for n in 1u64.. {
            if n % BURST == 0 {
                cx.turn().await; // the handshakes get theirs, whatever floods in
            }
            let knock = before(poll_fn(|cx| door.poll_accept(cx)), closing.clone()).await;
            match knock {
                None => return,
                Some(Ok((socket, from))) => {
                    me.peers.count_accepted();
                    shake_hands(&me, &shard, socket, from);
                }
                Some(Err(e)) => {
                    tracing::warn!("cannot accept connections at {bound} for a moment: {e}");
                    cx.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(bound)
}

fn shake_hands(me: &Rc<Shared>, shard: &Rc<Shard>, socket: Socket, from: SocketAddr) {
    let cx = shard.cx();
    let (id, end, why) = me.handshakes.begin(cx.now(), me.peers.config().limits.handshakes_max);
    me.tick();
    let me = Rc::clone(me);
    cx.clone().spawn(async move {
        let Ok(stream) = me.net.adopt(socket) else {
            me.handshakes.done(id);
            return note(&me, HandshakeRefusal::Left.into(), from); // closed before we looked
        };
        let mut talk = Talk::new(stream);
        let greeted = before(greet(&mut talk, &me.peers), end).await;
        me.handshakes.done(id);
        match greeted {
            None => note(&me, why.get().into(), from),
            Some(Err(away)) => {
                if away.why != HandshakeRefusal::Myself {
                    note(&me, away, from);
                }
                tell(&me, &mut talk, away).await;
            }
            Some(Ok(guest)) if guest.to_shard == me.index => {
                arrive(&me, talk, guest, from).await;
            }
            Some(Ok(guest)) => hand_over(&me, talk, guest, from).await,
        }
    });
}

/// Strangers and those who have left are told nothing.
async fn tell(me: &Shared, talk: &mut Talk, away: TurnedAway) {
    let lives_at = match (away.why, away.node) {
        (HandshakeRefusal::Garbage | HandshakeRefusal::Silent | HandshakeRefusal::Left, _) => {
            return;
        }
        // Only who knows the secret is told where others are.
        (HandshakeRefusal::NumberInUse, Some(node)) => me.peers.addresses(node).first().copied(),
        _ => None,
    };
    refuse(talk, away.why, lives_at).await;
}

fn note(me: &Shared, away: TurnedAway, from: SocketAddr) {
    me.peers.count_refused(away.why);
    let Some(shard) = me.shard.upgrade() else { return };
    let now = shard.cx().now();
    let why = away.why;
    match away.node {
        Some(node) => me.log.say(now, why, format_args!("{from}, node {}: {why}", node.0)),
        None => me.log.say(now, why, format_args!("{from}: {why}")),
    }
}

async fn hand_over(me: &Rc<Shared>, mut talk: Talk, guest: Guest, from: SocketAddr) {
    let Ok(socket) = talk.stream.hand_over() else {
        return note(me, HandshakeRefusal::Full.into(), from); // no descriptor left
    };
    let door = me.peers.door(guest.to_shard).expect("the hello was judged");
    if door.push(Arrival { guest, socket, from }).is_err() {
        note(me, HandshakeRefusal::Full.into(), from);
        tell(me, &mut talk, HandshakeRefusal::Full.into()).await;
    }
}

/// Takes the connections that the listening shard hands to this one.
pub(super) fn take_arrivals(me: &Rc<Shared>, shard: &Rc<Shard>) {
    let (me, cx) = (Rc::clone(me), shard.cx());
    let mut arrivals = me.peers.take_reader(me.index);
    cx.clone().spawn(async move {
        loop {
            let Arrival { guest, socket, from } = arrivals.next().await;
            let me = Rc::clone(&me);
            cx.spawn(async move {
                match me.net.adopt(socket) {
                    Ok(stream) => arrive(&me, Talk::new(stream), guest, from).await,
                    Err(_) => note(&me, HandshakeRefusal::Left.into(), from), // closed on the way
                }
            });
        }
    });
}

/// Welcomes a proved guest on the shard it came for.
async fn arrive(me: &Rc<Shared>, mut talk: Talk, guest: Guest, from: SocketAddr) {
    let Some(shard) = me.shard.upgrade() else { return };
    let away = |why| TurnedAway { why, node: Some(guest.node) };
    let admitted = me.peers.admit(guest.node, guest.incarnation);
    let refused = match (me.link(guest.node, guest.from_shard), admitted) {
        (None, _) => Err(HandshakeRefusal::Full),
        (_, Err(why)) => Err(why),
        // The guest knows by its own link that this one is not needed.
        (Some(link), _) if me.yields(&link, guest.incarnation, false, shard.cx().now()) => return,
        (Some(link), _) => Ok(link),
    };
    match refused {
        Err(why) => {
            note(me, away(why), from);
            tell(me, &mut talk, away(why)).await;
        }
        Ok(link) => {
            let (cx, limit) = (shard.cx(), me.peers.config().limits.handshake);
            drop(shard); // the guest may take its time
            let late = me.alarm(&cx, limit);
            let agreed = before(receive(me, &mut talk, &guest), late).await;
            match agreed.unwrap_or(Err(HandshakeRefusal::Silent)) {
                // Which address of ours it knows is not known here.
                Ok(agreed) => {
                    let at = from.into();
                    let made = me.install(&link, talk, agreed, at, guest.incarnation, false);
                    if let Err(why) = made {
                        note(me, away(why), from);
                    }
                }
                Err(why) => note(me, away(why), from),
            }
        }
    }
}

/// Welcomes a guest and agrees with it on what carries the frames.
async fn receive(
    me: &Rc<Shared>,
    talk: &mut Talk,
    guest: &Guest,
) -> Result<Agreed, HandshakeRefusal> {
    welcome(talk, &me.peers, guest).await.map_err(|_| HandshakeRefusal::Left)?;
    if guest.version == 1 {
        return Ok(Agreed::tcp(guest.version, None));
    }
    let local = talk.stream.local_addr().map_err(|_| HandshakeRefusal::Left)?.ip();
    let ends = Ends { node: guest.node, shard: guest.from_shard, here: me.index };
    agree::accepted(talk, guest.version, || me.half(local), ends).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: handshakes are bounded in number and time, and the oldest gives way.
    #[test]
    fn the_oldest_handshake_gives_way() {
        let h = Handshakes::default();
        let at = Time::from_us;
        let (_, _end, first) = h.begin(at(0), 2);
        let (second, ..) = h.begin(at(1), 2);
        let (_, _end, third) = h.begin(at(2), 2);
        assert_eq!(first.get(), HandshakeRefusal::Full);
        h.done(second);
        h.expire(at(3), Duration::from_micros(2));
        assert_eq!(h.open.borrow().len(), 1);
        h.expire(at(4), Duration::from_micros(2));
        assert!(h.is_empty());
        assert_eq!(third.get(), HandshakeRefusal::Silent);
    }
}
