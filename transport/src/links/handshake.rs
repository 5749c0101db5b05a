//! The first messages on a connection: who is there, and does it know the cluster's secret?
//!
//! ```text
//! every message    [magic "t3hs"][type u8][0 u8][length u16][body ...]     little-endian
//! 1 hello     ->   [lowest version u16][highest u16][node u32][incarnation u32]
//!                  [from shard u16][to shard u16][wanted node u32, 0 = any][nonce 32]
//!                  [cluster name, the rest]
//! 2 challenge <-   [version u16][nonce 32]
//! 3 proof     ->   [BLAKE3 keyed with the secret, over "dialer" and all bytes so far]
//! 4 welcome   <-   [node u32][incarnation u32][shards u16]
//!                  [services u16][{service u16, shard u16, slot u16} ...]
//!                  [BLAKE3 keyed, over "acceptor" and all bytes so far]
//! 5, 6, 7          what carries the frames: `agree.rs`, since version 2
//! 9 refusal   <-   [reason u8][where the other process of the dialer's number lives, UTF-8, if that
//!                  is the reason and known], in place of 2 or 4
//! ```
//!
//! The dialer proves itself first, so one who merely reaches the port gets nothing to guess the
//! secret from. Both nonces are in what is proved, so no proof can be used twice; the two labels
//! keep a proof from being sent back. Frames afterwards carry checksums, not proofs: who can alter
//! packets between the hosts is outside what a cluster secret protects from.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::slice;

use bytes::{Buf, Bytes, BytesMut};
use t3fs_runtime::NodeId;
use t3fs_runtime::net::Stream;
use t3fs_runtime::wire::{SPOKEN_MAX, SPOKEN_MIN};

use crate::address::Address;
use crate::arrival::Guest;
use crate::peers::{CLUSTER_MAX, KnownNode, Peers, SERVICES_MAX, ServiceCard};
use crate::refusal::HandshakeRefusal;

const MAGIC: [u8; 4] = *b"t3hs";
const HEAD: usize = 8;
/// Largest body of a handshake message.
pub(super) const BODY_MAX: usize = 1024;
const HELLO_FIXED: usize = 52;
const WELCOME_FIXED: usize = 12;
const NONCE: usize = 32;
const PROOF: usize = 32;

const HELLO: u8 = 1;
const CHALLENGE: u8 = 2;
const PROVE: u8 = 3;
const WELCOME: u8 = 4;
const REFUSE: u8 = 9;

pub(crate) const DIALER: &[u8] = b"dialer";
pub(crate) const ACCEPTOR: &[u8] = b"acceptor";

/// Why an outgoing connection did not come about.
#[derive(Debug)]
pub(crate) enum DialError {
    Io(io::Error),
    /// The acceptor said so. With [`HandshakeRefusal::NumberInUse`]: where the other one lives.
    RefusedThere(HandshakeRefusal, Option<Address>),
    /// We found so.
    RefusedHere(HandshakeRefusal),
}

impl std::fmt::Display for DialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DialError::Io(e) => write!(f, "{e}"),
            DialError::RefusedThere(HandshakeRefusal::NumberInUse, lives_at) => {
                f.write_str("refused there: another process has this one's number and lives")?;
                lives_at.map_or(Ok(()), |at| write!(f, " at {at}"))?;
                f.write_str("; start this one under another number, or end that one first")
            }
            DialError::RefusedThere(why, _) => write!(f, "refused there: {why}"),
            DialError::RefusedHere(why) => write!(f, "refused here: {why}"),
        }
    }
}

impl From<io::Error> for DialError {
    fn from(e: io::Error) -> Self {
        DialError::Io(e)
    }
}

/// A connection in its handshake.
pub(crate) struct Talk {
    pub(crate) stream: Rc<dyn Stream>,
    /// Bytes read and not yet used.
    pub(crate) land: BytesMut,
    transcript: blake3::Hasher,
}

impl Talk {
    pub(crate) fn new(stream: Rc<dyn Stream>) -> Talk {
        Talk { stream, land: BytesMut::new(), transcript: blake3::Hasher::new() }
    }

    pub(super) async fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let mut rest = Bytes::from(message(kind, body));
        self.transcript.update(&rest);
        while !rest.is_empty() {
            let n = poll_fn(|cx| self.stream.poll_write(cx, slice::from_ref(&rest))).await?;
            rest.advance(n);
        }
        Ok(())
    }

    /// The next message, whole. Garbage is noticed at its first bytes, and no more than one
    /// message's bytes are ever kept.
    pub(super) async fn receive(&mut self) -> Result<(u8, Bytes), DialError> {
        loop {
            if let Some(len) = message_length(&self.land).map_err(DialError::RefusedHere)?
                && self.land.len() >= len
            {
                let message = self.land.split_to(len).freeze();
                self.transcript.update(&message);
                return Ok((message[4], message.slice(HEAD..)));
            }
            let n =
                poll_fn(|cx| self.stream.poll_fill(cx, &mut self.land, HEAD + BODY_MAX)).await?;
            if n == 0 {
                return Err(DialError::RefusedHere(HandshakeRefusal::Left));
            }
        }
    }

    fn proof(&self, key: &[u8; 32], label: &[u8]) -> blake3::Hash {
        prove(key, label, self.transcript.finalize().as_bytes())
    }
}

pub(crate) fn prove(key: &[u8; 32], label: &[u8], transcript: &[u8; 32]) -> blake3::Hash {
    let mut mac = blake3::Hasher::new_keyed(key);
    mac.update(label);
    mac.update(transcript);
    mac.finalize()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(&(body.len() as u16).to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// The length of the message that begins here, once enough is there to tell.
fn message_length(bytes: &[u8]) -> Result<Option<usize>, HandshakeRefusal> {
    let magic = bytes.len().min(MAGIC.len());
    if bytes[..magic] != MAGIC[..magic] {
        return Err(HandshakeRefusal::Garbage);
    }
    if bytes.len() < HEAD {
        return Ok(None);
    }
    let body = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    if body > BODY_MAX || bytes[5] != 0 {
        return Err(HandshakeRefusal::Garbage);
    }
    Ok(Some(HEAD + body))
}

fn nonce() -> [u8; NONCE] {
    let mut n = [0; NONCE];
    getrandom::fill(&mut n).expect("the kernel's random numbers have been there since Linux 3.17");
    n
}

#[derive(Debug, PartialEq, Eq)]
struct Hello {
    lowest: u16,
    highest: u16,
    node: NodeId,
    incarnation: u32,
    from_shard: u16,
    to_shard: u16,
    wanted: NodeId,
    nonce: [u8; NONCE],
    cluster: Vec<u8>,
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let mut o = Vec::with_capacity(HELLO_FIXED + self.cluster.len());
        o.extend_from_slice(&self.lowest.to_le_bytes());
        o.extend_from_slice(&self.highest.to_le_bytes());
        o.extend_from_slice(&self.node.0.to_le_bytes());
        o.extend_from_slice(&self.incarnation.to_le_bytes());
        o.extend_from_slice(&self.from_shard.to_le_bytes());
        o.extend_from_slice(&self.to_shard.to_le_bytes());
        o.extend_from_slice(&self.wanted.0.to_le_bytes());
        o.extend_from_slice(&self.nonce);
        debug_assert_eq!(o.len(), HELLO_FIXED);
        o.extend_from_slice(&self.cluster);
        o
    }

    fn decode(mut b: Bytes) -> Result<Hello, HandshakeRefusal> {
        // A later version may say more; what it must begin with is this.
        if b.len() < HELLO_FIXED || b.len() > HELLO_FIXED + CLUSTER_MAX {
            return Err(HandshakeRefusal::Garbage);
        }
        Ok(Hello {
            lowest: b.get_u16_le(),
            highest: b.get_u16_le(),
            node: NodeId(b.get_u32_le()),
            incarnation: b.get_u32_le(),
            from_shard: b.get_u16_le(),
            to_shard: b.get_u16_le(),
            wanted: NodeId(b.get_u32_le()),
            nonce: take_nonce(&mut b),
            cluster: b.to_vec(),
        })
    }
}

fn take_nonce(b: &mut Bytes) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    b.copy_to_slice(&mut nonce);
    nonce
}

fn encode_welcome(me: &KnownNode) -> Vec<u8> {
    let mut o = Vec::new();
    o.extend_from_slice(&me.node.0.to_le_bytes());
    o.extend_from_slice(&me.incarnation.to_le_bytes());
    o.extend_from_slice(&me.shards.to_le_bytes());
    o.extend_from_slice(&(me.card.services.len() as u16).to_le_bytes());
    for (service, shard, slot) in &me.card.services {
        o.extend_from_slice(&service.to_le_bytes());
        o.extend_from_slice(&shard.to_le_bytes());
        o.extend_from_slice(&slot.to_le_bytes());
    }
    o
}

fn decode_welcome(mut b: Bytes) -> Result<KnownNode, HandshakeRefusal> {
    if b.len() < WELCOME_FIXED {
        return Err(HandshakeRefusal::Garbage);
    }
    let (node, incarnation) = (NodeId(b.get_u32_le()), b.get_u32_le());
    let (shards, services) = (b.get_u16_le(), usize::from(b.get_u16_le()));
    if services > SERVICES_MAX || b.len() != 6 * services {
        return Err(HandshakeRefusal::Garbage);
    }
    let one = |_| (b.get_u16_le(), b.get_u16_le(), b.get_u16_le());
    let card = ServiceCard { services: (0..services).map(one).collect() };
    Ok(KnownNode { node, incarnation, shards, card })
}

/// The dialer's side: who is there, and the version that is spoken. `wanted` is the node that is
/// thought to live there.
pub(crate) async fn dial(
    talk: &mut Talk,
    peers: &Peers,
    from_shard: u16,
    to_shard: u16,
    wanted: Option<NodeId>,
) -> Result<(KnownNode, u16), DialError> {
    let me = peers.config();
    let hello = Hello {
        lowest: SPOKEN_MIN,
        highest: SPOKEN_MAX,
        node: me.node,
        incarnation: me.incarnation,
        from_shard,
        to_shard,
        wanted: wanted.unwrap_or_default(),
        nonce: nonce(),
        cluster: me.cluster.clone().into_bytes(),
    };
    let _dial = peers.begin_dial(hello.nonce);
    talk.send(HELLO, &hello.encode()).await?;
    let mut challenge = expect(talk, CHALLENGE).await?;
    if challenge.len() != 2 + NONCE {
        return Err(DialError::RefusedHere(HandshakeRefusal::Garbage));
    }
    let version = challenge.get_u16_le();
    if !(SPOKEN_MIN..=SPOKEN_MAX).contains(&version) {
        return Err(DialError::RefusedHere(HandshakeRefusal::Version));
    }
    let proof = talk.proof(peers.key(), DIALER);
    talk.send(PROVE, proof.as_bytes()).await?;
    let before = talk.transcript.finalize();
    let welcome = expect(talk, WELCOME).await?;
    let known = check_welcome(peers.key(), before.as_bytes(), welcome)
        .and_then(|known| match wanted {
            Some(wanted) if wanted != known.node => Err(HandshakeRefusal::OtherNode),
            _ if known.node == me.node => Err(HandshakeRefusal::SameNode),
            _ if to_shard >= known.shards => Err(HandshakeRefusal::NoShard),
            _ => peers.admit(known.node, known.incarnation).map(|()| known),
        })
        .map_err(DialError::RefusedHere)?;
    peers.learn(known.clone());
    Ok((known, version))
}

fn check_welcome(
    key: &[u8; 32],
    before: &[u8; 32],
    body: Bytes,
) -> Result<KnownNode, HandshakeRefusal> {
    let said = body.len().checked_sub(PROOF).ok_or(HandshakeRefusal::Garbage)?;
    let proof = blake3::Hash::from_slice(&body[said..]).expect("32 bytes");
    // Hash comparison takes the same time wherever they differ.
    if proof != prove_welcome(key, before, &body[..said]) {
        return Err(HandshakeRefusal::Secret);
    }
    decode_welcome(body.slice(..said))
}

fn prove_welcome(key: &[u8; 32], before: &[u8; 32], said: &[u8]) -> blake3::Hash {
    let mut all = blake3::Hasher::new();
    all.update(before);
    all.update(said);
    prove(key, ACCEPTOR, all.finalize().as_bytes())
}

async fn expect(talk: &mut Talk, kind: u8) -> Result<Bytes, DialError> {
    match talk.receive().await? {
        (found, body) if found == kind => Ok(body),
        (REFUSE, body) => {
            let (why, lives_at) = decode_refusal(&body);
            Err(DialError::RefusedThere(why, lives_at))
        }
        _ => Err(DialError::RefusedHere(HandshakeRefusal::Garbage)),
    }
}

/// Who says it may be anybody: nothing of it is used but a known reason and an address.
fn decode_refusal(body: &[u8]) -> (HandshakeRefusal, Option<Address>) {
    let Some((code, rest)) = body.split_first() else { return (HandshakeRefusal::Garbage, None) };
    let why = HandshakeRefusal::from_code(*code);
    let lives_at = str::from_utf8(rest).ok().and_then(|text| text.parse().ok());
    (why, lives_at.filter(|_| why == HandshakeRefusal::NumberInUse))
}

/// A guest that is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TurnedAway {
    pub(crate) why: HandshakeRefusal,
    /// Who it has proved to be.
    pub(crate) node: Option<NodeId>,
}

impl From<HandshakeRefusal> for TurnedAway {
    fn from(why: HandshakeRefusal) -> Self {
        TurnedAway { why, node: None }
    }
}

/// The acceptor's side up to the proof. What is refused here has cost one small buffer.
pub(crate) async fn greet(talk: &mut Talk, peers: &Peers) -> Result<Guest, TurnedAway> {
    let (kind, body) = receive(talk).await?;
    if kind != HELLO {
        return Err(HandshakeRefusal::Garbage.into());
    }
    let hello = Hello::decode(body)?;
    let version = judge(&hello, peers)?;
    let mut challenge = version.to_le_bytes().to_vec();
    challenge.extend_from_slice(&nonce());
    talk.send(CHALLENGE, &challenge).await.map_err(|_| HandshakeRefusal::Left)?;
    let right = talk.proof(peers.key(), DIALER);
    let (kind, body) = receive(talk).await?;
    if kind != PROVE || body.len() != PROOF {
        return Err(HandshakeRefusal::Garbage.into());
    }
    if blake3::Hash::from_slice(&body).expect("32 bytes") != right {
        return Err(HandshakeRefusal::Secret.into());
    }
    if !talk.land.is_empty() {
        return Err(HandshakeRefusal::Garbage.into()); // it may not speak before it is welcome
    }
    let node = Some(hello.node);
    peers.admit(hello.node, hello.incarnation).map_err(|why| TurnedAway { why, node })?;
    Ok(Guest {
        node: hello.node,
        incarnation: hello.incarnation,
        from_shard: hello.from_shard,
        to_shard: hello.to_shard,
        version,
        transcript: *talk.transcript.finalize().as_bytes(),
    })
}

async fn receive(talk: &mut Talk) -> Result<(u8, Bytes), HandshakeRefusal> {
    talk.receive().await.map_err(|e| match e {
        DialError::RefusedHere(why) | DialError::RefusedThere(why, _) => why,
        DialError::Io(_) => HandshakeRefusal::Left,
    })
}

/// What can be judged before anything is proved. Returns the version to speak.
fn judge(hello: &Hello, peers: &Peers) -> Result<u16, HandshakeRefusal> {
    let me = peers.config();
    if hello.lowest > SPOKEN_MAX || hello.highest < SPOKEN_MIN {
        return Err(HandshakeRefusal::Version);
    }
    if hello.cluster != me.cluster.as_bytes() {
        return Err(HandshakeRefusal::Cluster);
    }
    if hello.node == me.node || hello.node == NodeId(0) {
        let myself = peers.is_dialing(&hello.nonce);
        return Err(if myself { HandshakeRefusal::Myself } else { HandshakeRefusal::SameNode });
    }
    if hello.wanted != NodeId(0) && hello.wanted != me.node {
        return Err(HandshakeRefusal::OtherNode);
    }
    if hello.to_shard >= me.shards {
        return Err(HandshakeRefusal::NoShard);
    }
    Ok(hello.highest.min(SPOKEN_MAX))
}

/// The acceptor's proof, sent by the shard that the guest came for.
pub(crate) async fn welcome(talk: &mut Talk, peers: &Peers, guest: &Guest) -> io::Result<()> {
    let known = peers.myself();
    let mut body = encode_welcome(&known);
    let proof = prove_welcome(peers.key(), &guest.transcript, &body);
    body.extend_from_slice(proof.as_bytes());
    talk.send(WELCOME, &body).await
}

/// Tells the other side why, once, without waiting for room. `lives_at`: where another process of
/// its number is.
pub(crate) async fn refuse(talk: &mut Talk, why: HandshakeRefusal, lives_at: Option<Address>) {
    let mut body = vec![why as u8];
    body.extend(lives_at.iter().flat_map(|at| at.to_string().into_bytes()));
    // A peer that has left needs no answer; another hears of it by the end of the stream.
    let _ = talk.send(REFUSE, &body).await;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peers::LinkConfig;

    fn hello() -> Hello {
        Hello {
            lowest: 1,
            highest: 1,
            node: NodeId(2),
            incarnation: 9,
            from_shard: 1,
            to_shard: 0,
            wanted: NodeId(1),
            nonce: [5; NONCE],
            cluster: b"c".to_vec(),
        }
    }

    fn peers() -> Peers {
        Peers::new(LinkConfig {
            node: NodeId(1),
            cluster: "c".into(),
            secret: vec![1; 16],
            ..LinkConfig::default()
        })
        .unwrap()
    }

    #[test]
    fn messages_come_back() {
        assert_eq!(Hello::decode(hello().encode().into()), Ok(hello()));
        let known = KnownNode {
            node: NodeId(3),
            incarnation: 4,
            shards: 5,
            card: ServiceCard { services: vec![(1, 2, 3), (4, 5, 6)] },
        };
        assert_eq!(decode_welcome(encode_welcome(&known).into()), Ok(known));
    }

    /// Goal: each thing that a hello can have wrong has its own reason.
    #[test]
    fn a_hello_is_judged() {
        let p = peers();
        assert_eq!(judge(&hello(), &p), Ok(1));
        assert_eq!(judge(&Hello { lowest: 1, highest: 7, ..hello() }, &p), Ok(SPOKEN_MAX));
        let refused = [
            (Hello { lowest: 0, highest: 0, ..hello() }, HandshakeRefusal::Version),
            (Hello { lowest: SPOKEN_MAX + 1, highest: 9, ..hello() }, HandshakeRefusal::Version),
            (Hello { cluster: b"d".to_vec(), ..hello() }, HandshakeRefusal::Cluster),
            (Hello { node: NodeId(1), ..hello() }, HandshakeRefusal::SameNode),
            (Hello { wanted: NodeId(7), ..hello() }, HandshakeRefusal::OtherNode),
            (Hello { to_shard: 1, ..hello() }, HandshakeRefusal::NoShard),
        ];
        for (hello, why) in refused {
            assert_eq!(judge(&hello, &p), Err(why));
        }
    }

    /// Goal: builds that know other reasons than this one are understood as far as possible.
    #[test]
    fn a_refusal_is_understood() {
        let at: Address = "TCP://10.0.0.5:8002".parse().unwrap();
        let in_use = [&[12], at.to_string().as_bytes()].concat();
        assert_eq!(decode_refusal(&in_use), (HandshakeRefusal::NumberInUse, Some(at)));
        assert_eq!(decode_refusal(&[12]), (HandshakeRefusal::NumberInUse, None));
        assert_eq!(decode_refusal(b"\x0c\x1b[2J"), (HandshakeRefusal::NumberInUse, None));
        let secret = [&[5], at.to_string().as_bytes()].concat();
        assert_eq!(decode_refusal(&secret), (HandshakeRefusal::Secret, None));
        assert_eq!(decode_refusal(&[200]), (HandshakeRefusal::LaterBuild, None));
        assert_eq!(decode_refusal(&[]), (HandshakeRefusal::Garbage, None));
    }

    #[test]
    fn proofs_differ_by_key_role_and_transcript() {
        let p = prove(&[1; 32], DIALER, &[2; 32]);
        assert_ne!(p, prove(&[3; 32], DIALER, &[2; 32]));
        assert_ne!(p, prove(&[1; 32], ACCEPTOR, &[2; 32]));
        assert_ne!(p, prove(&[1; 32], DIALER, &[4; 32]));
    }

    proptest! {
        /// Goal: no bytes break the parsers, and a stranger's length never grows a buffer.
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>, tail: Vec<u8>) {
            for b in [bytes.clone(), [&MAGIC[..], &tail].concat()] {
                if let Ok(Some(len)) = message_length(&b) {
                    prop_assert!(len <= HEAD + BODY_MAX);
                }
                let _ = Hello::decode(b.clone().into());
                let _ = decode_welcome(b.clone().into());
                let _ = decode_refusal(&b);
                let _ = check_welcome(&[0; 32], &[0; 32], b.into());
            }
        }
    }
}
