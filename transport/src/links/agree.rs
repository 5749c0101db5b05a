//! The end of the handshake, since version 2: what carries the frames of the connection?
//!
//! ```text
//! 5 offer   ->  [1][queue pair, 31 bytes], or [0][why not, UTF-8]
//! 6 answer  <-  the same; only to a queue pair
//! 7 ready   ->  [1], or [0][why not]; only to a queue pair
//!
//! queue pair    [number u32][first packet u32][GID 16][LID u16][log2 of MTU u8][READs u8]
//!               [credits u16][0 u8]
//! ```
//!
//! Without a queue pair on both sides the stream itself carries them, from here on. The acceptor's
//! queue pair is connected when it answers, the dialer's when it says that it is ready; so nobody
//! sends to one who is not there.

use bytes::{Buf, Bytes};

use super::handshake::{BODY_MAX, DialError, Talk};
use super::link::Carrier;
use crate::rdma::{self, Endpoint, Ends, Half, Offer};
use crate::refusal::HandshakeRefusal;

const OFFER: u8 = 5;
const ANSWER: u8 = 6;
const READY: u8 = 7;

const OFFER_BYTES: usize = 31;
/// Longest reason.
const WHY_MAX: usize = 300;
const _: () = assert!(OFFER_BYTES + WHY_MAX < BODY_MAX);

/// What a connection is carried by, and why not by a queue pair where one was wanted.
pub(crate) struct Agreed {
    /// What both speak (`wire::SPOKEN_MAX`).
    pub(crate) spoken: u16,
    pub(crate) carrier: Carrier,
    pub(crate) why_not_rdma: Option<String>,
}

impl Agreed {
    pub(super) fn tcp(spoken: u16, why: Option<String>) -> Agreed {
        Agreed { spoken, carrier: Carrier::Tcp(Default::default()), why_not_rdma: why }
    }
}

fn encode_offer(o: &Offer) -> Vec<u8> {
    let e = &o.endpoint;
    let mut out = vec![1];
    out.extend_from_slice(&e.queue_pair.to_le_bytes());
    out.extend_from_slice(&e.first_packet.to_le_bytes());
    out.extend_from_slice(&e.gid);
    out.extend_from_slice(&e.lid.to_le_bytes());
    out.extend_from_slice(&[e.mtu_log2, e.reads_max]);
    out.extend_from_slice(&o.credits.to_le_bytes());
    out.push(0);
    debug_assert_eq!(out.len(), 1 + OFFER_BYTES);
    out
}

fn encode_no(why: &str) -> Vec<u8> {
    let end = why.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|n| *n <= WHY_MAX);
    let mut out = vec![0];
    out.extend_from_slice(&why.as_bytes()[..end.last().unwrap_or(0)]);
    out
}

/// For fuzzing: what is understood of a body, written again.
pub(crate) fn again(body: Bytes) -> Option<Vec<u8>> {
    Some(match decode(body).ok()? {
        Ok(offer) => encode_offer(&offer),
        Err(why) => encode_no(&why),
    })
}

/// A queue pair, or why there is none.
fn decode(mut b: Bytes) -> Result<Result<Offer, String>, HandshakeRefusal> {
    if b.is_empty() || b.len() > 1 + WHY_MAX {
        return Err(HandshakeRefusal::Garbage);
    }
    match b.get_u8() {
        0 => {
            let printable = |c: char| if c.is_control() { ' ' } else { c };
            Ok(Err(String::from_utf8_lossy(&b).chars().map(printable).collect()))
        }
        1 if b.len() == OFFER_BYTES => {
            let (queue_pair, first_packet) = (b.get_u32_le(), b.get_u32_le());
            let mut gid = [0; 16];
            b.copy_to_slice(&mut gid);
            let (lid, mtu_log2, reads_max) = (b.get_u16_le(), b.get_u8(), b.get_u8());
            let endpoint = Endpoint { queue_pair, first_packet, gid, lid, mtu_log2, reads_max };
            Ok(Ok(Offer { endpoint, credits: b.get_u16_le() }))
        }
        _ => Err(HandshakeRefusal::Garbage),
    }
}

/// The dialer's side. `half`: a queue pair to offer, or why there is none (empty: none was wanted).
pub(crate) async fn dialed(
    talk: &mut Talk,
    spoken: u16,
    half: Result<Half, String>,
    ends: Ends,
) -> Result<Agreed, DialError> {
    let half = match half {
        Ok(half) => half,
        Err(why) => {
            talk.send(OFFER, &encode_no(&why)).await?;
            return Ok(Agreed::tcp(spoken, (!why.is_empty()).then_some(why)));
        }
    };
    talk.send(OFFER, &encode_offer(&half.offer())).await?;
    let (kind, body) = talk.receive().await?;
    if kind != ANSWER {
        return Err(DialError::RefusedHere(HandshakeRefusal::Garbage));
    }
    let peer = match decode(body).map_err(DialError::RefusedHere)? {
        Ok(peer) => peer,
        Err(why) => return Ok(Agreed::tcp(spoken, Some(format!("the peer: {why}")))),
    };
    match half.connect(&peer, ends) {
        Ok(carrier) => {
            talk.send(READY, &[1]).await?;
            Ok(Agreed { spoken, carrier: Carrier::Rdma(carrier), why_not_rdma: None })
        }
        Err(why) => {
            talk.send(READY, &encode_no(&why)).await?;
            Ok(Agreed::tcp(spoken, Some(why)))
        }
    }
}

/// The acceptor's side. `half` is asked for a queue pair when the dialer offers one.
pub(crate) async fn accepted(
    talk: &mut Talk,
    spoken: u16,
    half: impl FnOnce() -> Result<Half, String>,
    ends: Ends,
) -> Result<Agreed, HandshakeRefusal> {
    let peer = match decode(expect(talk, OFFER).await?)? {
        Ok(peer) => peer,
        Err(why) => {
            return Ok(Agreed::tcp(spoken, (!why.is_empty()).then(|| format!("the peer: {why}"))));
        }
    };
    let connected: Result<(Offer, rdma::RdmaCarrier), String> = half().and_then(|half| {
        let offer = half.offer();
        half.connect(&peer, ends).map(|carrier| (offer, carrier))
    });
    let (offer, carrier) = match connected {
        Ok(connected) => connected,
        Err(why) => {
            talk.send(ANSWER, &encode_no(&why)).await.map_err(|_| HandshakeRefusal::Left)?;
            return Ok(Agreed::tcp(spoken, Some(why)));
        }
    };
    talk.send(ANSWER, &encode_offer(&offer)).await.map_err(|_| HandshakeRefusal::Left)?;
    let ready = expect(talk, READY).await?;
    if ready[..] == [1] {
        return Ok(Agreed { spoken, carrier: Carrier::Rdma(carrier), why_not_rdma: None });
    }
    match decode(ready)? {
        Err(why) => Ok(Agreed::tcp(spoken, Some(format!("the peer: {why}")))),
        Ok(_) => Err(HandshakeRefusal::Garbage),
    }
}

async fn expect(talk: &mut Talk, kind: u8) -> Result<Bytes, HandshakeRefusal> {
    match talk.receive().await {
        Ok((found, body)) if found == kind => Ok(body),
        Ok(_) => Err(HandshakeRefusal::Garbage),
        Err(DialError::RefusedHere(why) | DialError::RefusedThere(why, _)) => Err(why),
        Err(DialError::Io(_)) => Err(HandshakeRefusal::Left),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn offers_come_back() {
        let endpoint = Endpoint {
            queue_pair: 1,
            first_packet: 2,
            gid: [3; 16],
            lid: 4,
            mtu_log2: 12,
            reads_max: 16,
        };
        let offer = Offer { endpoint, credits: 32 };
        assert_eq!(decode(encode_offer(&offer).into()), Ok(Ok(offer)));
        assert_eq!(decode(encode_no("no device").into()), Ok(Err("no device".into())));
        let long = decode(encode_no(&"ä".repeat(1000)).into()).unwrap().unwrap_err();
        assert_eq!(long, "ä".repeat(WHY_MAX / 2));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = decode(bytes.into());
        }
    }
}
