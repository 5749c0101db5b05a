//! The end of the handshake: offer, answer, ready (`transport/src/links/agree.rs`), both roles,
//! against a peer that says anything, and against each other.
//!
//! What must hold: what a side makes of its peer's bytes is what [`expected`] reads in them, by a
//! reading of its own; no byte of the stream is lost to the frames that follow; a queue pair is
//! kept only where both sides have one; a reason is short and can be printed. Two sides that reach
//! each other undamaged agree.

use std::rc::Rc;

use bytes::Bytes;
use t3fs_transport::fuzzing::{Carried, Device, offer_again};
use t3fs_transport::rdma::soft;

use crate::input::Input;
use crate::memory::measured;
use crate::wires::{Peer, Wire, ends, run, run_both};

const OFFER: u8 = 5;
const ANSWER: u8 = 6;
const READY: u8 = 7;

const HEAD: usize = 8;
const BODY_MAX: usize = 1024;
const OFFER_BYTES: usize = 32;
const WHY_MAX: usize = 300;
const CREDITS_MIN: u16 = 4;
/// What a side may ask for: a few messages, and the state of one connection.
const MEMORY_MAX: usize = 32 << 10;

/// Says what the input says; both directions are kept.
struct Script {
    input: Input,
    said: Vec<u8>,
    heard: Vec<u8>,
}

impl Peer for Script {
    fn say(&mut self) -> Vec<u8> {
        if self.input.is_empty() {
            return Vec::new();
        }
        let what = self.input.byte();
        let kind = OFFER + (what >> 3) % 4;
        let said = match what % 8 {
            0 => self.input.some_bytes().to_vec(),
            1 => message(kind, &self.input.some_bytes()),
            2 | 3 => {
                let mut body = offer(&mut self.input);
                self.input.damage(&mut body);
                message(kind, &body)
            }
            4 => {
                let why = self.input.size();
                message(kind, &[&[0][..], &vec![b'x'; why.min(BODY_MAX - 1)]].concat())
            }
            5 => message(kind, &[&[0][..], &self.input.some_bytes()].concat()),
            6 => message(READY, &[1]),
            _ => {
                let mut ready = message(kind, &[1]);
                self.input.damage(&mut ready);
                ready
            }
        };
        self.said.extend_from_slice(&said);
        said
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [b"t3hs", &[kind, 0][..], &(body.len() as u16).to_le_bytes(), body].concat()
}

/// One that can be taken up, but for what the input changes.
fn offer(input: &mut Input) -> Vec<u8> {
    let mut body = vec![0; OFFER_BYTES];
    body[0] = 1;
    body[1..9].copy_from_slice(&input.array::<8>());
    body[9..25].fill(input.byte());
    (body[27], body[28], body[29]) = (12, input.byte(), 4 + input.byte() % 64);
    body
}

/// What a side should make of its peer.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Refused,
    QueuePair,
    /// Over TCP, because the peer says so; or says nothing, as it never wanted a queue pair.
    TheirReason(Option<String>),
    /// Over TCP, because of this side.
    OurReason,
}

/// A message and what follows it.
fn first(said: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (head, rest) = said.split_at_checked(HEAD)?;
    let len = usize::from(u16::from_le_bytes([head[6], head[7]]));
    if head[..4] != *b"t3hs" || head[4] != kind || head[5] != 0 || len > BODY_MAX {
        return None;
    }
    rest.split_at_checked(len)
}

fn reason(body: &[u8]) -> Option<String> {
    let [0, why @ ..] = body else { return None };
    if why.len() > WHY_MAX {
        return None;
    }
    let why = String::from_utf8_lossy(why);
    Some(why.replace(char::is_control, " "))
}

/// What this side should come to, and how many of the peer's bytes that takes.
fn expected(dialer: bool, able: bool, said: &[u8]) -> (Outcome, usize) {
    let refused = (Outcome::Refused, 0);
    if dialer && !able {
        return (Outcome::OurReason, 0);
    }
    let Some((body, rest)) = first(said, if dialer { ANSWER } else { OFFER }) else {
        return refused;
    };
    let taken = said.len() - rest.len();
    if let Some(why) = reason(body) {
        let wanted = dialer || !why.is_empty();
        return (Outcome::TheirReason(wanted.then_some(why)), taken);
    }
    if body.len() != OFFER_BYTES || body[0] != 1 {
        return refused;
    }
    let (lid, credits) = ([body[25], body[26]], u16::from_le_bytes([body[29], body[30]]));
    if !able || lid != [0, 0] || credits < CREDITS_MIN {
        return (Outcome::OurReason, taken);
    }
    if dialer {
        return (Outcome::QueuePair, taken);
    }
    let Some((body, rest)) = first(rest, READY) else { return refused };
    let taken = said.len() - rest.len();
    match reason(body) {
        _ if *body == [1] => (Outcome::QueuePair, taken),
        Some(why) => (Outcome::TheirReason(Some(why)), taken),
        None => refused,
    }
}

pub fn any_peer(input: &[u8]) {
    let mut input = Input::new(input);
    match input.byte() % 8 {
        0 => any_body(&input.0),
        1 => both_sides(input),
        role => one_side(role % 2 == 0, role < 6, input),
    }
}

/// What is understood is written as the same bytes, but for the one that means nothing yet; a
/// reason as what can be printed of it, and that as itself.
fn any_body(body: &[u8]) {
    let Some(again) = offer_again(body) else { return };
    if body[0] == 1 {
        assert_eq!(again[..OFFER_BYTES - 1], body[..OFFER_BYTES - 1]);
    } else {
        assert!(again.len() <= 1 + WHY_MAX);
        assert_eq!(offer_again(&again), Some(again));
    }
}

/// A side against any peer.
fn one_side(dialer: bool, able: bool, mut input: Input) {
    let piece = input.byte();
    let device = Device::new(&soft::Wire::default());
    let script = Script { input, said: Vec::new(), heard: Vec::new() };
    let wire = Rc::new(Wire::new(script, piece));
    let wanted = if able { Ok(()) } else { Err("none\nhere".to_string()) };
    let (carried, asked) = measured(|| match dialer {
        true => run(device.dialed(wire.clone(), wanted)),
        false => run(device.accepted(wire.clone(), wanted)),
    });
    let script = wire.peer.borrow();
    let most = MEMORY_MAX + 2 * (script.said.len() + script.heard.len());
    assert!(asked <= most, "a peer made it ask for {asked} bytes");
    let (outcome, taken) = expected(dialer, able, &script.said);
    match &carried {
        Err(_) => assert_eq!(outcome, Outcome::Refused),
        Ok(carried) => {
            assert_eq!(carried.by_queue_pair(), outcome == Outcome::QueuePair);
            check_reason(carried.why_not(), &outcome);
            let read = wire.received.get();
            assert_eq!(carried.land, script.said[taken..read], "bytes of the stream are lost");
        }
    }
    let kept = carried.as_ref().is_ok_and(Carried::by_queue_pair);
    assert_eq!(device.pairs(), usize::from(kept), "queue pairs are left over");
    check_heard(dialer, &script.heard);
    drop(carried);
    assert_eq!(device.pairs(), 0, "a queue pair outlives its connection");
}

fn check_reason(why: Option<&str>, outcome: &Outcome) {
    let theirs = match outcome {
        Outcome::TheirReason(Some(theirs)) => Some(format!("the peer: {theirs}")),
        _ => None,
    };
    match outcome {
        Outcome::OurReason => assert!(why.is_some(), "there must be a reason"),
        _ => assert_eq!(why, theirs.as_deref()),
    }
}

/// All that a side says can be understood.
fn check_heard(dialer: bool, mut heard: &[u8]) {
    let kinds: &[u8] = if dialer { &[OFFER, READY] } else { &[ANSWER] };
    for kind in kinds {
        if heard.is_empty() {
            return;
        }
        let (body, rest) = first(heard, *kind).expect("a whole message of the right kind");
        assert!(reason(body).is_some() || *body == [1] || offer_again(body).is_some());
        heard = rest;
    }
    assert!(heard.is_empty(), "more than there is to say");
}

/// Two sides, each with a queue pair or a reason, which may be none.
fn both_sides(mut input: Input) {
    let piece = input.byte();
    let mut side = || match input.byte() % 3 {
        0 => Err(reason_of(&input.some_bytes())),
        _ => Ok(()),
    };
    let (dialer, acceptor) = (side(), side());
    let wire = soft::Wire::default();
    let (here, there) = (Device::new(&wire), Device::new(&wire));
    let [a, b] = ends(piece);
    let (dialed, accepted) =
        run_both(here.dialed(a, dialer.clone()), there.accepted(b, acceptor.clone()));
    let dialed = dialed.expect("the acceptor makes no mistake");
    let accepted = accepted.expect("the dialer makes no mistake");
    let agreed = dialer.is_ok() && acceptor.is_ok();
    assert_eq!((dialed.by_queue_pair(), accepted.by_queue_pair()), (agreed, agreed));
    assert_eq!(wire.pairs(), if agreed { 2 } else { 0 });
    assert!(dialed.land.is_empty() && accepted.land.is_empty());
    let (ours, theirs) = match (&dialer, &acceptor) {
        (Ok(()), Ok(())) => (None, None),
        (Err(why), _) if why.is_empty() => (None, None),
        (Err(why), _) => (Some(why.clone()), Some(told(why))),
        (Ok(()), Err(why)) => (Some(told(why)), Some(why.clone())),
    };
    assert_eq!(dialed.why_not(), ours.as_deref());
    assert_eq!(accepted.why_not(), theirs.as_deref());
}

fn reason_of(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the other side is told of a reason: as many characters as fit, and no lines of its own.
fn told(why: &str) -> String {
    let fits = (0..=WHY_MAX.min(why.len())).rev().find(|n| why.is_char_boundary(*n));
    let why = why[..fits.expect("0 is a boundary")].replace(char::is_control, " ");
    format!("the peer: {why}")
}

/// Both roles as they should go, with a queue pair and without, and two sides.
pub fn seeds() -> Vec<Vec<u8>> {
    let offered = |kind: u8| [&[2 | (kind - OFFER) << 3][..], &[1; 11], &[0]].concat();
    let no = |kind: u8| vec![5 | (kind - OFFER) << 3, 9, b'n', b'o', b' ', b'd', b'e', b'v', 10];
    let (accept, dial, ready) = (3, 2, 6);
    vec![
        [&[accept, 0][..], &offered(OFFER), &[ready]].concat(),
        [&[accept, 0][..], &offered(OFFER), &no(READY)].concat(),
        [&[accept, 1][..], &no(OFFER)].concat(),
        [&[dial, 0][..], &offered(ANSWER)].concat(),
        [&[dial, 2][..], &no(ANSWER)].concat(),
        vec![6, 0],
        vec![1, 0, 1, 1],
        vec![1, 7, 0, 3, b'n', b'o', b'!', 1],
        vec![1, 7, 1, 0, 3, b'n', b'o', b'!'],
        [&[0, 1][..], &[2; OFFER_BYTES - 1]].concat(),
    ]
}
