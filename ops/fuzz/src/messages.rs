//! Stored and sent values: whole frames (`runtime/src/wire.rs`), and every message and reply of the
//! actors (`actors/src/proto`).
//!
//! What must hold: what decodes is written as the same bytes (a frame), or as bytes that decode and
//! are then written as themselves (a message, whose archive may lie in more than one order); no
//! message asks for much more memory than its bytes.

use bytes::Bytes;
use std::sync::Arc;
use t3fs_actors::proto::agent::Agent;
use t3fs_actors::proto::ids::*;
use t3fs_actors::proto::kv::Kv;
use t3fs_actors::proto::meta::Meta;

use t3fs_actors::proto::mgmtd::Mgmtd;
use t3fs_actors::proto::mgmtd::*;
use t3fs_actors::proto::storage::Storage;
use t3fs_actors::proto::{agent, kv, meta, storage};
use t3fs_runtime::wire::{Frame, FrameKind, Payload, Wire, crc32c, pack, unpack};
use t3fs_runtime::{Ask, Lane, NodeId, Protocol, RawAddr};

use crate::input::Input;
use crate::memory::measured;

/// Memory for a message of no bytes, and for each byte: an archived empty string has 8 bytes and is
/// a `String` in a `Vec` that grows.
const MEMORY_MIN: usize = 4 << 10;
const FACTOR: usize = 16;

/// Bytes as a frame, with or without the right beginning.
pub fn any_frame(input: &[u8]) {
    let mut input = Input::new(input);
    let right = input.byte() & 1 == 1;
    let mut bytes = input.0.to_vec();
    if right && bytes.len() >= 8 {
        bytes[..4].copy_from_slice(b"t3f1");
        let crc = crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    let bytes = Bytes::from(bytes);
    let (frame, asked) = measured(|| Frame::decode(bytes.clone()));
    assert!(asked <= MEMORY_MIN + FACTOR * bytes.len(), "it asked for {asked} bytes");
    if let Ok(frame) = frame {
        assert_eq!(frame.encode(), bytes, "what was read is not what it is written as");
    }
}

/// One way to read bytes: as this message, or as its reply. What was read is written again.
type Reading = fn(Payload) -> Option<Payload>;

fn ask<A: Protocol, M: Ask<A> + Wire>(payload: Payload) -> Option<Payload> {
    unpack::<M>(M::TAG, M::VERSION, payload).ok().map(M::pack)
}

fn reply<A: Protocol, M: Ask<A, Reply: Wire>>(payload: Payload) -> Option<Payload> {
    M::unpack_reply(payload).ok().map(|reply| pack(M::TAG, M::VERSION, reply))
}

macro_rules! readings {
    ($($actor:ident: $($message:path),*;)*) => {
        &[$($((
            <$message as Ask<$actor>>::TAG,
            <$message as Ask<$actor>>::VERSION,
            [ask::<$actor, $message> as Reading, reply::<$actor, $message>],
        )),*),*]
    };
}

/// Type and version in the envelope, message, reply.
const READINGS: &[(u16, u16, [Reading; 2])] = readings! {
    Storage: storage::UpdateChunk, storage::ReadChunk, storage::RemoveChunks, storage::ListChunks,
        storage::ScrubChunks, storage::GetSpace, storage::NewView, storage::LeaseHeld,
        storage::SyncStart, storage::SyncChunk, storage::SyncDone, storage::GetResync,
        storage::FileExtents, storage::ListInodes;
    Meta: meta::Lookup, meta::SetAttr, meta::ReportWrite, meta::CreateFile, meta::MakeSymlink,
        meta::ReadLink, meta::Unlink, meta::Rename, meta::ReadDir, meta::SyncMeta, meta::Append,
        meta::OpenFile, meta::DropHolds, meta::ShareOpens, meta::ListKeepers;
    Kv: kv::GetKeys, kv::GetRange, kv::Commit, kv::Barrier;
    Mgmtd: Heartbeat, FetchView, CreateChains, OpenSessionFor, CloseSession, ListNodes, Refrain,
        GetSpaces;
    Agent: agent::GetView, agent::ReportTarget, agent::Announce, agent::SetMgmtds,
        agent::ViewChanged, ExtendSession, agent::WatchView;
};

/// Which message or reply, then its payloads, then its archive. The envelope is put right.
pub fn any_message(input: &[u8]) {
    let mut input = Input::new(input);
    let (which, bulks) = (input.byte(), input.byte() % 3);
    let (kind, version, readings) = READINGS[usize::from(which / 2) % READINGS.len()];
    let read = readings[usize::from(which % 2)];
    let bulks = (0..bulks).map(|_| input.some_bytes().to_vec().into()).collect();
    let body = [&kind.to_le_bytes()[..], &version.to_le_bytes(), &input.0].concat();
    let most = MEMORY_MIN + FACTOR * body.len();
    let (written, asked) = measured(|| read(Payload { body: body.into(), bulks }));
    assert!(asked <= most, "message {kind:#x} asked for {asked} bytes");
    if let Some(written) = written {
        let again = read(written.clone()).expect("what was written can be read");
        assert_eq!(again, written, "it changed on its way");
    }
}

/// One with everything, and one with nothing.
pub fn frames() -> Vec<Vec<u8>> {
    let frame = |body: &'static [u8], bulks| Frame {
        kind: FrameKind::Ask,
        lane: Lane::Bulk,
        shard: 3,
        slot: 9,
        epoch: 77,
        from_node: NodeId(5),
        from_shard: 1,
        ask: 1 << 40,
        ttl_us: 123_456,
        reply_room: 0,
        caller: None,
        older: None,
        payload: Payload { body: Bytes::from_static(body), bulks },
    };
    let full = frame(b"body", vec![vec![1; 20].into(), vec![].into(), vec![2; 3].into()]);
    [full, frame(b"", vec![])].map(|f| [&[1], &f.encode()[..]].concat()).into()
}

/// Messages with lists in lists, and for every message and reply one of zeros, which reads as
/// something for those without pointers.
pub fn seeds() -> Vec<Vec<u8>> {
    let view = view();
    let keys = vec![Bytes::from_static(b"a key"), Bytes::new()];
    let heartbeat = HeartbeatReply {
        term: 3,
        lease_us: 4,
        news: Some(ViewUpdate::Full(view.clone())),
        ended: vec![SessionId(8)],
    };
    let values =
        kv::Values { version: Default::default(), values: vec![None, Some(keys[0].clone())] };
    let sync = storage::SyncChunk {
        chunk: ChunkId::default(),
        chain_version: ChainVersion(1),
        session: 2,
        number: 3,
        floor: 1,
        content: Some(storage::SyncContent {
            version: ChunkVersion(1),
            born: ChainVersion(1),
            recents: vec![storage::RecentWriter {
                session: SessionId(1),
                seq: 2,
                version: ChunkVersion(3),
            }],
        }),
        data: vec![1, 2, 3].into(),
    };
    let asked = [
        Ask::<Storage>::pack(storage::NewView { view }),
        Ask::<Storage>::pack(sync),
        Ask::<Kv>::pack(kv::GetKeys { at: None, keys }),
        Ask::<Mgmtd>::pack(CreateChains {
            chains: vec![(ChainId(1), vec![(TargetId(2), NodeId(3))])],
        }),
    ];
    let replied = [
        pack(tag::<Mgmtd, Heartbeat>(), 3, Ok::<_, MgmtdError>(heartbeat)),
        pack(tag::<Kv, kv::GetKeys>(), 1, Ok::<_, t3fs_actors::meta::kv::KvError>(values)),
        pack(tag::<Meta, meta::ReadDir>(), 2, Ok::<_, meta::MetaError>(page())),
        pack(tag::<Meta, meta::SyncMeta>(), 2, Err::<(), _>(meta::MetaError::Damaged("x".into()))),
    ];
    let mut seeds: Vec<_> = asked.into_iter().map(|p| seed(0, p)).collect();
    seeds.extend(replied.into_iter().map(|p| seed(1, p)));
    for which in 0..2 * READINGS.len() {
        seeds.push([&[which as u8, 0][..], &[0; 96]].concat());
    }
    seeds
}

fn tag<A: Protocol, M: Ask<A>>() -> u16 {
    M::TAG
}

/// The input that means this message or reply.
fn seed(part: u8, payload: Payload) -> Vec<u8> {
    let kind = u16::from_le_bytes([payload.body[0], payload.body[1]]);
    let at = READINGS.iter().position(|r| r.0 == kind).expect("one of those that are read");
    let mut seed = vec![2 * at as u8 + part, payload.bulks.len() as u8];
    for bulk in &payload.bulks {
        seed.push(bulk.len() as u8);
        seed.extend_from_slice(bulk);
    }
    seed.extend_from_slice(&payload.body[4..]);
    seed
}

fn view() -> ClusterView {
    let addr = RawAddr { node: NodeId(1), shard: 2, slot: 3, epoch: 4 };
    let target = ChainTarget {
        target: TargetId(1),
        node: NodeId(1),
        addr: Some(addr),
        state: TargetState::Serving,
        made: true,
    };
    let routing = Routing {
        cluster: "a cluster".into(),
        nodes: vec![NodeInfo {
            node: NodeId(1),
            incarnation: 5,
            identity: "an identity".into(),
            status: NodeStatus::Alive,
            roles: vec![Role::Meta, Role::Storage],
            addresses: vec!["TCP://10.0.0.1:8000".into()],
            tags: vec![("zone".into(), "a".into())],
            metas: vec![addr],
            targets: vec![(TargetId(1), addr)],
        }],
        chains: vec![Chain { id: ChainId(1), version: ChainVersion(2), targets: vec![target; 3] }],
        tables: vec![ChainTable { id: 1, version: 1, chains: vec![ChainId(1)] }],
        metas: vec![addr],
    };
    let sessions = Sessions { alive: vec![SessionId(1)], max: SessionId(2) };
    let (routing, sessions) = (Arc::new(routing), Arc::new(sessions));
    ClusterView { version: ViewVersion(7), routing, sessions }
}

fn page() -> meta::DirPage {
    let attr = meta::Attr {
        inode: InodeId(2),
        kind: meta::FileType::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        atime_ns: 1,
        mtime_ns: 2,
        ctime_ns: 3,
        length: 4,
        truncations: 0,
        times_set: 0,
        changes: 0,
        sparse: false,
        birth_ns: 0,
        layout: Some(meta::Layout {
            chunk_size: 1 << 20,
            stripes: meta::Stripes::List { chains: vec![ChainId(1), ChainId(2)] },
        }),
        as_of: meta::Stamp(5),
    };
    let entries = vec![meta::DirEntry { name: b"name".to_vec(), attr }];
    meta::DirPage { entries, more: false, parent: InodeId(1) }
}
