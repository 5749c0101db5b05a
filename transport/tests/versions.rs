//! Goal: builds that speak version 1 only still link, over TCP, and are sent messages as they know
//! them. Method: either side of such a build, written down by hand, with a node that would rather
//! use a queue pair.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::pair::{stand_in, with_nics};
use common::*;
use t3fs_runtime::NodeId;
use t3fs_runtime::conformance::echo::{Later, LaterEcho};
use t3fs_runtime::wire::crc32c;
use t3fs_transport::{Address, Fabric};

const OLD: u32 = 9;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u16).to_le_bytes();
    [b"t3hs", &[kind, 0][..], &len, body].concat()
}

fn read(from: &mut TcpStream, kind: u8) -> Vec<u8> {
    let mut head = [0; 8];
    from.read_exact(&mut head).unwrap();
    assert_eq!((&head[..4], head[4]), (&b"t3hs"[..], kind));
    let mut whole = vec![0; u16::from_le_bytes([head[6], head[7]]) as usize];
    from.read_exact(&mut whole).unwrap();
    [&head[..], &whole].concat()
}

fn prove(label: &[u8], transcript: &blake3::Hash) -> [u8; 32] {
    let key = blake3::derive_key("t3fs 2026-11 link handshake v1", SECRET);
    let mut mac = blake3::Hasher::new_keyed(&key);
    mac.update(label).update(transcript.as_bytes());
    *mac.finalize().as_bytes()
}

fn welcome_proof(so_far: &[u8], said: &[u8]) -> [u8; 32] {
    let mut all = blake3::Hasher::new();
    all.update(blake3::hash(so_far).as_bytes()).update(said);
    prove(b"acceptor", &all.finalize())
}

fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
}

#[test]
fn an_older_acceptor_is_dialled() {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = node(with_nics(config(1, 1, 1), &stand_in()), false);
    let address = Address { fabric: Fabric::Rdma, socket: door.local_addr().unwrap() };
    a.peers.set_addresses(NodeId(OLD), vec![address]);
    let mut to = a.addr(0).raw();
    (to.node, to.epoch) = (NodeId(OLD), 1);
    let to = t3fs_runtime::Addr::<LaterEcho>::from_raw(to);
    let later = Later { n: 1, more: 7 };
    let _asking = a.begin(0, move |cx| async move { cx.ask(to, later).await });
    let (mut s, _) = door.accept().unwrap();
    patient(&s);
    let mut all = read(&mut s, 1);
    assert_eq!(all[8..12], [1, 0, 3, 0], "it speaks versions 1 to 3");
    let challenge = message(2, &[&[1, 0][..], &[7; 32]].concat());
    s.write_all(&challenge).unwrap();
    all.extend(&challenge);
    let right = prove(b"dialer", &blake3::hash(&all));
    let proof = read(&mut s, 3);
    assert_eq!(proof[8..], right);
    all.extend(&proof);
    let said = [&OLD.to_le_bytes()[..], &1u32.to_le_bytes(), &1u16.to_le_bytes(), &[0, 0]].concat();
    let proof = welcome_proof(&all, &said);
    s.write_all(&message(4, &[&said[..], &proof].concat())).unwrap();
    let mut head = [0; 48];
    s.read_exact(&mut head).unwrap();
    assert_eq!(head[..4], crc32c(&head[4..]).to_le_bytes(), "a frame, not a message");
    assert_eq!(head[4..6], [0, 0], "an ask of the control lane");
    let mut envelope = [0; 4];
    s.read_exact(&mut envelope).unwrap();
    assert_eq!(envelope, [0x02, 0x7f, 1, 0], "`Ping`, which it knows, in place of `Later`");
}

#[test]
fn an_older_dialer_is_accepted() {
    let b = node(with_nics(config(2, 1, 1), &stand_in()), true);
    let mut s = TcpStream::connect(b.at.unwrap()).unwrap();
    patient(&s);
    let mut hello = [1, 0, 1, 0].to_vec();
    for n in [OLD, 1, 0, 2] {
        hello.extend(n.to_le_bytes()); // node, incarnation, shards, wanted node
    }
    hello.extend([5; 32]);
    hello.extend(b"test");
    let mut all = message(1, &hello);
    s.write_all(&all).unwrap();
    let challenge = read(&mut s, 2);
    assert_eq!(challenge[8..10], [1, 0], "version 1 it is");
    all.extend(&challenge);
    let proof = message(3, &prove(b"dialer", &blake3::hash(&all)));
    s.write_all(&proof).unwrap();
    all.extend(&proof);
    let welcome = read(&mut s, 4);
    let (said, proof) = welcome[8..].split_at(welcome.len() - 8 - 32);
    assert_eq!(proof, welcome_proof(&all, said));
    let mut ping = [0; 48];
    ping[4] = 16;
    let crc = crc32c(&ping[4..]);
    ping[..4].copy_from_slice(&crc.to_le_bytes());
    s.write_all(&ping).unwrap();
    let mut pong = [0; 48];
    s.read_exact(&mut pong).unwrap();
    assert_eq!(pong[4], 17);
}
