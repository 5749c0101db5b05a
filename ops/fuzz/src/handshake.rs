//! The handshake of a connection, both roles, against a peer that says anything
//! (`transport/src/links/handshake.rs`).
//!
//! What must hold: nobody gets in, and nobody is believed, without a proof made with the secret
//! over the very bytes that were exchanged; a stranger costs a few KiB and two messages.

use std::rc::Rc;

use t3fs_runtime::NodeId;
use t3fs_transport::fuzzing::{accept, dial, proof};
use t3fs_transport::{LinkConfig, Peers};

use crate::input::Input;
use crate::memory::measured;
use crate::wires::{Peer, Wire, run};

const HEAD: usize = 8;
/// The largest message, and what is read beside it.
const TAKEN_MAX: usize = 3 * 1032;
const SAID_MAX: usize = 1032;
const MEMORY_MAX: usize = 32 << 10;

/// Says what the input says, with proofs where it wants some.
struct Script {
    input: Input,
    peers: Peers,
    /// All whole messages of both sides.
    transcript: blake3::Hasher,
    /// Whether a right proof was ever given.
    proved: bool,
}

impl Script {
    fn proof(&mut self, as_dialer: bool, said: &[u8]) -> Vec<u8> {
        let mut transcript = self.transcript.finalize();
        if !as_dialer {
            let mut all = blake3::Hasher::new();
            all.update(transcript.as_bytes());
            all.update(said);
            transcript = all.finalize();
        }
        let mut proof = proof(&self.peers, as_dialer, transcript.as_bytes()).to_vec();
        self.proved |= !self.input.damage(&mut proof);
        proof
    }

    fn message(&mut self, kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_le_bytes();
        let mut message = [b"t3hs", &[kind, 0][..], &length, body].concat();
        self.input.damage(&mut message[..HEAD]);
        message
    }
}

impl Peer for Script {
    fn say(&mut self) -> Vec<u8> {
        if self.input.is_empty() {
            return Vec::new();
        }
        let said = match self.input.byte() % 6 {
            0 => self.input.some_bytes().to_vec(),
            1 => {
                let (kind, body) = (self.input.byte(), self.input.some_bytes());
                self.message(kind, &body)
            }
            2 => {
                let mut body = hello();
                self.input.damage(&mut body);
                body.extend_from_slice(&self.input.some_bytes());
                self.message(1, &body)
            }
            3 => {
                let body = [&[1, 0][..], &[7; 32]].concat();
                let mut body = [&body[..], &self.input.some_bytes()].concat();
                self.input.damage(&mut body);
                self.message(2, &body)
            }
            4 => {
                let proof = self.proof(true, &[]);
                let body = [&proof[..], &self.input.some_bytes()].concat();
                self.message(3, &body)
            }
            _ => {
                let mut body = welcome(usize::from(self.input.byte()));
                self.input.damage(&mut body);
                let proof = self.proof(false, &body);
                let body = [&body[..], &proof, &self.input.some_bytes()].concat();
                self.message(4, &body)
            }
        };
        self.transcript.update(&said);
        said
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.transcript.update(bytes);
    }
}

/// From node 2 shard 1, for node 1 shard 0, as `transport/src/links/handshake.rs` draws it.
fn hello() -> Vec<u8> {
    let mut body = vec![1, 0, 1, 0, 2, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
    body.extend_from_slice(&[5; 32]);
    body.push(b'c');
    body
}

/// From node 2 with two shards.
fn welcome(services: usize) -> Vec<u8> {
    let mut body = vec![2, 0, 0, 0, 9, 0, 0, 0, 2, 0];
    body.extend_from_slice(&(services as u16).to_le_bytes());
    body.resize(body.len() + 6 * services, 1);
    body
}

fn peers() -> Peers {
    Peers::new(LinkConfig {
        node: NodeId(1),
        incarnation: 3,
        shards: 2,
        cluster: "c".into(),
        secret: vec![7; 16],
        ..LinkConfig::default()
    })
    .expect("a right configuration")
}

pub fn any_peer(input: &[u8]) {
    let mut input = Input::new(input);
    let (role, piece) = (input.byte(), input.byte());
    let peers = peers();
    let script =
        Script { input, peers: peers.clone(), transcript: blake3::Hasher::new(), proved: false };
    let wire = Rc::new(Wire::new(script, piece));
    let (inside, asked) = measured(|| match role % 4 {
        0 | 1 => run(accept(wire.clone(), &peers)).map(|(node, from_shard, to_shard)| {
            assert!(node != NodeId(0) && node != NodeId(1), "an impossible node came in");
            assert!(to_shard < 2, "it came in for shard {to_shard} of 2");
            let _ = from_shard;
        }),
        two => {
            let wanted = (two == 2).then_some(NodeId(2));
            run(dial(wire.clone(), &peers, 1, wanted)).map(|known| {
                assert!(wanted.is_none_or(|w| w == known.node), "another node was believed");
                assert!(known.node != NodeId(1) && known.shards > 1);
            })
        }
    });
    assert!(asked <= MEMORY_MAX, "a stranger made it ask for {asked} bytes");
    assert!(wire.received.get() <= TAKEN_MAX && wire.sent.get() <= SAID_MAX);
    let proved = wire.peer.borrow().proved;
    assert!(inside.is_err() || proved, "without the secret");
}

/// Both roles as they should go.
pub fn seeds() -> Vec<Vec<u8>> {
    let (hello, challenge, prove) = ([2, 0, 0, 0], [3, 0, 0, 0], [4, 0, 0, 0]);
    let welcome = [5, 3, 0, 0, 0, 0];
    let accept = [&[0, 0][..], &hello, &prove].concat();
    let dial = [&[2, 0][..], &challenge, &welcome].concat();
    vec![accept, dial]
}
