//! mgmtd's state in the KV, a key for each thing so that a change writes what changed.
//!
//! ```text
//! key                            value (sealed: type, version, rkyv)
//! "M/state"                      type 0x1101 StateV1   { cluster, version, session_max }
//! "M/chain/"   chain u32 BE      type 0x1102 ChainV2   { version, [target] }
//!                                (read: ChainV1, whose targets have all been made)
//! "M/table/"   id BE version BE  type 0x1103 TableV1   { [chain] }
//! "M/session/" session u64 BE    type 0x1104 SessionV2 { label, nonce, process }
//!                                (read: SessionV1 { label, nonce }, of an unknown process)
//! "M/node/"    node u32 BE       type 0x1105 NodeV2
//!                                (read: NodeV1, of an unknown identity)
//! "MO/"        target u32 BE     type 0x1106 OpeningV1 { number, nonce }
//! "M/lease"                      see `lease`
//! ```
//! Openings are beside the rest: builds before them refuse what they do not know under "M/".
//!
//! The routing is a function of these rows, and its version is that of "M/state": whoever is
//! primary hands out the same. A write must find itself in the lease, and the version it started
//! from; finding the version it makes instead, it was done before, by an attempt that got no
//! answer.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::wire::{Wire, envelope, open, seal};
use t3fs_runtime::{Cx, NodeId, RawAddr};

use super::core::{State, derive};
use super::frozen::{NodeStatusV1, RoleV1, TargetStateV1};
use super::lease::{self, LeaseV3};
use super::session_record::SessionV2;
use crate::features;
use crate::meta::kv::KeyRange;
use crate::meta::kv::client::{Stop, Txn, transact};
use crate::meta::kv::known::{self, KnownStore, StoreIdentityV1};
use crate::proto::ids::{ChainId, ChainVersion, SessionId, TargetId, ViewVersion};
use crate::proto::kv::Durability;
use crate::proto::mgmtd::{Chain, ChainTable, ChainTarget, NodeInfo, Opening, Role, Routing};

const STATE: u16 = 0x1101;
const CHAIN: u16 = 0x1102;
const TABLE: u16 = 0x1103;
const SESSION: u16 = 0x1104;
const NODE: u16 = 0x1105;
const OPENING: u16 = 0x1106;
const STATE_KEY: &[u8] = b"M/state";
const OPENING_KEY: &[u8] = b"MO/";

#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
struct StateV1 {
    cluster: String,
    version: ViewVersion,
    session_max: SessionId,
}

#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
struct ChainV1 {
    version: ChainVersion,
    targets: Vec<(TargetId, NodeId, TargetStateV1)>,
}

#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
struct ChainV2 {
    version: ChainVersion,
    targets: Vec<TargetV2>,
}

#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
struct TargetV2 {
    target: TargetId,
    node: NodeId,
    state: TargetStateV1,
    made: bool,
}

#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
struct TableV1 {
    chains: Vec<ChainId>,
}

#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
struct SessionV1 {
    label: String,
    nonce: u64,
}

#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
struct NodeV1 {
    incarnation: u32,
    status: NodeStatusV1,
    roles: Vec<RoleV1>,
    addresses: Vec<String>,
    tags: Vec<(String, String)>,
    metas: Vec<RawAddr>,
    targets: Vec<(TargetId, RawAddr)>,
}

#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
struct NodeV2 {
    incarnation: u32,
    identity: String,
    status: NodeStatusV1,
    roles: Vec<RoleV1>,
    addresses: Vec<String>,
    tags: Vec<(String, String)>,
    metas: Vec<RawAddr>,
    targets: Vec<(TargetId, RawAddr)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
struct OpeningV1 {
    number: u64,
    nonce: u64,
}

fn key(kind: &str, id: &[u8]) -> Bytes {
    [b"M/", kind.as_bytes(), b"/", id].concat().into()
}

fn state_row(state: &State) -> (Bytes, Vec<u8>) {
    let State { version, session_max, .. } = *state;
    let row = StateV1 { cluster: state.routing.cluster.clone(), version, session_max };
    (Bytes::from_static(STATE_KEY), seal(STATE, 1, &row))
}

fn chain_row(c: &Chain) -> (Bytes, Vec<u8>) {
    let target = |t: &ChainTarget| {
        let ChainTarget { target, node, state, made, addr: _ } = *t;
        TargetV2 { target, node, state: state.into(), made }
    };
    let row = ChainV2 { version: c.version, targets: c.targets.iter().map(target).collect() };
    (key("chain", &c.id.0.to_be_bytes()), seal(CHAIN, 2, &row))
}

fn chain(key: &[u8], value: &[u8]) -> Result<ChainV2, String> {
    if let Ok((CHAIN, 1)) = envelope(value) {
        let ChainV1 { version, targets } = get(CHAIN, 1, key, value)?;
        let made = |(target, node, state)| TargetV2 { target, node, state, made: true };
        return Ok(ChainV2 { version, targets: targets.into_iter().map(made).collect() });
    }
    get(CHAIN, 2, key, value)
}

fn table_row(t: &ChainTable) -> (Bytes, Vec<u8>) {
    let id = [t.id.to_be_bytes(), t.version.to_be_bytes()].concat();
    (key("table", &id), seal(TABLE, 1, &TableV1 { chains: t.chains.clone() }))
}

fn session_row((id, s): (&SessionId, &Rc<SessionV2>)) -> (Bytes, Vec<u8>) {
    (key("session", &id.0.to_be_bytes()), seal(SESSION, 2, &**s))
}

fn session(key: &[u8], value: &[u8]) -> Result<SessionV2, String> {
    if let Ok((SESSION, 1)) = envelope(value) {
        let SessionV1 { label, nonce } = get(SESSION, 1, key, value)?;
        return Ok(SessionV2 { label, nonce, process: None });
    }
    get(SESSION, 2, key, value)
}

fn node_row(n: &NodeInfo) -> (Bytes, Vec<u8>) {
    let row = NodeV2 {
        incarnation: n.incarnation,
        identity: n.identity.clone(),
        status: n.status.into(),
        roles: n.roles.iter().map(|role| (*role).into()).collect(),
        addresses: n.addresses.clone(),
        tags: n.tags.clone(),
        metas: n.metas.clone(),
        targets: n.targets.clone(),
    };
    (key("node", &n.node.0.to_be_bytes()), seal(NODE, 2, &row))
}

fn node(key: &[u8], value: &[u8]) -> Result<NodeV2, String> {
    if let Ok((NODE, 1)) = envelope(value) {
        let n: NodeV1 = get(NODE, 1, key, value)?;
        let NodeV1 { incarnation, status, roles, addresses, tags, metas, targets } = n;
        let identity = String::new();
        return Ok(NodeV2 {
            incarnation,
            identity,
            status,
            roles,
            addresses,
            tags,
            metas,
            targets,
        });
    }
    get(NODE, 2, key, value)
}

fn opening_row((target, o): (&TargetId, &Opening)) -> (Bytes, Vec<u8>) {
    let row = OpeningV1 { number: o.number, nonce: o.nonce };
    let key = [OPENING_KEY, &target.0.to_be_bytes()].concat().into();
    (key, seal(OPENING, 1, &row))
}

/// Rows to set, and keys to clear.
type RowChanges = (Vec<(Bytes, Vec<u8>)>, Vec<Bytes>);

/// The rows that differ between two states.
fn differences(before: &State, after: &State) -> RowChanges {
    let mut set = vec![state_row(after)];
    let mut cleared = Vec::new();
    if !Arc::ptr_eq(&before.routing, &after.routing) {
        let (old, new) = (&before.routing, &after.routing);
        let chains = new.chains.iter().filter(|c| old.chain(c.id) != Some(c));
        let tables = new.tables.iter().filter(|t| old.table(t.id, t.version) != Some(t));
        let nodes = new.nodes.iter().filter(|n| old.node(n.node) != Some(n));
        set.extend(chains.map(chain_row).chain(tables.map(table_row)).chain(nodes.map(node_row)));
        let chains = old.chains.iter().filter(|c| new.chain(c.id).is_none());
        let tables = old.tables.iter().filter(|t| new.table(t.id, t.version).is_none());
        let nodes = old.nodes.iter().filter(|n| new.node(n.node).is_none());
        let gone = chains.map(chain_row).chain(tables.map(table_row)).chain(nodes.map(node_row));
        cleared.extend(gone.map(|(key, _)| key));
    }
    if before.sessions != after.sessions {
        let (old, new) = (&before.sessions, &after.sessions);
        set.extend(new.iter().filter(|(id, s)| old.get(id) != Some(s)).map(session_row));
        let gone = old.iter().filter(|(id, _)| !new.contains_key(id));
        cleared.extend(gone.map(session_row).map(|(key, _)| key));
    }
    if before.openings != after.openings {
        let (old, new) = (&before.openings, &after.openings);
        set.extend(new.iter().filter(|(t, o)| old.get(t) != Some(o)).map(opening_row));
        let gone = old.iter().filter(|(t, _)| !new.contains_key(t));
        cleared.extend(gone.map(opening_row).map(|(key, _)| key));
    }
    (set, cleared)
}

/// All of a state.
fn rows(state: &State) -> Vec<(Bytes, Vec<u8>)> {
    differences(&State::nothing(), state).0
}

fn u32_at(key: &[u8], i: usize) -> Result<u32, String> {
    let b = key.get(i..i + 4).ok_or("a key of mgmtd's is too short")?;
    Ok(u32::from_be_bytes(b.try_into().expect("4 bytes")))
}

fn get<T: Wire>(kind: u16, version: u16, key: &[u8], value: &[u8]) -> Result<T, String> {
    open(kind, version, value).map_err(|e| format!("mgmtd's record {}: {e}", key.escape_ascii()))
}

pub(super) fn from_rows(rows: &[(Bytes, Bytes)]) -> Result<Option<State>, String> {
    let mut begun = false;
    let mut routing = Routing::default();
    let (mut version, mut session_max) = (ViewVersion(0), SessionId(0));
    let mut sessions = BTreeMap::new();
    let mut openings = BTreeMap::new();
    for (k, v) in rows {
        if k[..] == *STATE_KEY {
            let s: StateV1 = get(STATE, 1, k, v)?;
            begun = true;
            routing.cluster = s.cluster;
            (version, session_max) = (s.version, s.session_max);
        } else if k.starts_with(b"M/chain/") {
            let c = chain(k, v)?;
            let target = |TargetV2 { target, node, state, made }| ChainTarget {
                target,
                node,
                addr: None,
                state: state.into(),
                made,
            };
            let targets = c.targets.into_iter().map(target).collect();
            routing.chains.push(Chain { id: ChainId(u32_at(k, 8)?), version: c.version, targets });
        } else if k.starts_with(b"M/table/") {
            let t: TableV1 = get(TABLE, 1, k, v)?;
            let (id, version) = (u32_at(k, 8)?, u32_at(k, 12)?);
            routing.tables.push(ChainTable { id, version, chains: t.chains });
        } else if k.starts_with(b"M/session/") {
            let id = u64::from(u32_at(k, 10)?) << 32 | u64::from(u32_at(k, 14)?);
            sessions.insert(SessionId(id), Rc::new(session(k, v)?));
        } else if k.starts_with(b"M/node/") {
            let n = node(k, v)?;
            routing.nodes.push(NodeInfo {
                node: NodeId(u32_at(k, 7)?),
                incarnation: n.incarnation,
                identity: n.identity,
                status: n.status.into(),
                roles: n.roles.into_iter().map(Role::from).collect(),
                addresses: n.addresses,
                tags: n.tags,
                metas: n.metas,
                targets: n.targets,
            });
        } else if k.starts_with(OPENING_KEY) {
            let OpeningV1 { number, nonce } = get(OPENING, 1, k, v)?;
            let target = TargetId(u32_at(k, OPENING_KEY.len())?);
            openings.insert(target, Opening { number, nonce });
        } else if k[..] != *lease::KEY {
            return Err(format!("unknown record {}: written by a newer t3fs?", k.escape_ascii()));
        }
    }
    derive(&mut routing);
    let (routing, sessions) = (Arc::new(routing), Rc::new(sessions));
    let openings = Rc::new(openings);
    Ok(begun.then_some(State { version, routing, sessions, session_max, openings }))
}

/// Everything stored, or `None` in a new store.
pub(super) async fn load(cx: &Cx, store: &KnownStore) -> Result<Option<State>, Stop<String>> {
    let rows = transact(cx, store, Durability::Soon, async |txn| {
        let found = txn.features().await?;
        features::STORE.check(&found).map_err(Stop::Refused)?;
        let mut rows = Vec::new();
        for prefix in [&b"M/"[..], OPENING_KEY] {
            let mut range = KeyRange::prefix(Bytes::from_static(prefix));
            loop {
                let page = txn.fetch_range(&range, 0, false).await?;
                rows.extend(page.rows);
                if !page.more {
                    break;
                }
                range.begin = page.covered.end;
            }
        }
        Ok::<_, Stop<String>>(rows)
    })
    .await?;
    from_rows(&rows).map_err(Stop::Refused)
}

/// Why a change was not stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Deposed;

/// Writes what differs between two states; on stable storage when it returns. After an error that
/// is retryable it may have been written, and the same call again says whether it was. With the
/// first state a store gets its identity.
pub(super) async fn save(
    cx: &Cx,
    store: &KnownStore,
    mine: LeaseV3,
    before: Option<&State>,
    after: &State,
) -> Result<(), Stop<Deposed>> {
    let changes = changes(before, after);
    let from = before.map(|s| s.version);
    let state_key = Bytes::from_static(STATE_KEY);
    transact(cx, store, Durability::Now, async |txn| {
        let [record, state] = txn.read([&Bytes::from_static(lease::KEY), &state_key]).await?;
        let holds = is_of(record.as_ref(), &mine);
        let found = match &state {
            None => None,
            Some(v) => Some(
                get::<StateV1>(STATE, 1, STATE_KEY, v).map_err(|_| Stop::Refused(Deposed))?.version,
            ),
        };
        if !holds {
            return Err(Stop::Refused(Deposed));
        }
        if found == Some(after.version) {
            return Ok(()); // by an attempt that got no answer
        }
        assert_eq!(found, from, "the lease is ours, and the state is another's");
        if before.is_none() {
            give_identity(txn, cx).await?;
        }
        write(txn, &changes);
        Ok::<_, Stop<Deposed>>(())
    })
    .await
}

fn is_of(record: Option<&Bytes>, mine: &LeaseV3) -> bool {
    record.and_then(|r| LeaseV3::decode(r).ok()).is_some_and(|r| r.is_of(mine))
}

/// A store has one identity for good: what is there stays.
async fn give_identity(txn: &mut Txn<'_>, cx: &Cx) -> Result<(), Stop<Deposed>> {
    if txn.identity().await?.is_none() {
        txn.depend(&known::key());
        txn.set(known::key(), StoreIdentityV1::draw(cx).seal());
    }
    Ok(())
}

/// Gives a store that holds a state an identity, if it has none; on stable storage when it returns.
pub(super) async fn identify(
    cx: &Cx,
    store: &KnownStore,
    mine: LeaseV3,
) -> Result<(), Stop<Deposed>> {
    transact(cx, store, Durability::Now, async |txn| {
        let [record] = txn.read([&Bytes::from_static(lease::KEY)]).await?;
        match is_of(record.as_ref(), &mine) {
            true => give_identity(txn, cx).await,
            false => Err(Stop::Refused(Deposed)),
        }
    })
    .await
}

/// The planted bug: writes as if nobody else could have taken over.
pub(super) async fn save_unfenced(
    cx: &Cx,
    store: &KnownStore,
    before: Option<&State>,
    after: &State,
) -> Result<(), Stop<Deposed>> {
    let changes = changes(before, after);
    transact(cx, store, Durability::Now, async |txn| {
        write(txn, &changes);
        Ok::<_, Stop<Deposed>>(())
    })
    .await
}

pub(super) fn changes(before: Option<&State>, after: &State) -> RowChanges {
    before.map_or_else(|| (rows(after), Vec::new()), |before| differences(before, after))
}

fn write(txn: &mut Txn<'_>, (set, cleared): &RowChanges) {
    cleared.iter().for_each(|k| txn.clear(k.clone()));
    set.iter().for_each(|(k, v)| txn.set(k.clone(), v.clone()));
}

#[cfg(test)]
mod golden {
    use super::super::session_record::ProcessV1;
    use super::*;

    t3fs_runtime::samples! { "/src/mgmtd/golden/store.txt":
        struct StateV1 { cluster, version, session_max }
        struct ChainV1 { version, targets }
        struct ChainV2 { version, targets }
        struct TargetV2 { target, node, state, made }
        struct TableV1 { chains }
        struct SessionV1 { label, nonce }
        struct SessionV2 { label, nonce, process }
        struct ProcessV1 { node, incarnation }
        struct OpeningV1 { number, nonce }
        struct NodeV1 { incarnation, status, roles, addresses, tags, metas, targets }
        struct NodeV2 { incarnation, identity, status, roles, addresses, tags, metas, targets }
    }
}

#[cfg(test)]
mod tests {
    use super::super::session_record::ProcessV1;
    use super::*;
    use crate::proto::mgmtd::{NodeStatus, TargetState};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Goal: what is stored comes back, and stays readable by later builds (bytes pinned).
    #[test]
    fn rows_round_trip() {
        let addr = RawAddr { node: NodeId(6), shard: 1, slot: 2, epoch: 7 };
        let target = ChainTarget {
            target: TargetId(5),
            node: NodeId(6),
            addr: Some(addr),
            state: TargetState::Serving,
            made: true,
        };
        let node = NodeInfo {
            node: NodeId(6),
            incarnation: 7,
            identity: "i".into(),
            status: NodeStatus::Alive,
            roles: vec![Role::Storage],
            addresses: vec!["h:1".into()],
            tags: vec![],
            metas: vec![],
            targets: vec![(TargetId(5), addr)],
        };
        let routing = Routing {
            cluster: "c".into(),
            nodes: vec![node],
            chains: vec![Chain { id: ChainId(3), version: ChainVersion(4), targets: vec![target] }],
            tables: vec![ChainTable { id: 1, version: 2, chains: vec![ChainId(3)] }],
            metas: vec![],
        };
        let process = Some(ProcessV1 { node: NodeId(6), incarnation: 7 });
        let session = SessionV2 { label: "l".into(), nonce: 8, process };
        let s = State {
            version: ViewVersion(9),
            routing: Arc::new(routing),
            sessions: Rc::new([(SessionId(1 << 40), Rc::new(session))].into()),
            session_max: SessionId(1 << 40),
            openings: Rc::new([(TargetId(5), Opening { number: 3, nonce: 4 })].into()),
        };
        let rows: Vec<(Bytes, Bytes)> = rows(&s).into_iter().map(|(k, v)| (k, v.into())).collect();
        assert_eq!(from_rows(&rows), Ok(Some(s)));
        let row = |prefix: &[u8]| hex(&rows.iter().find(|(k, _)| k.starts_with(prefix)).unwrap().1);
        assert_eq!(row(b"M/chain/"), "021102000500000006000000000104000000f2ffffff01000000");
        let node = "0511020003683a31ffffffffff050000000600000001000200070000000700000069ffffffffff\
                    ffff00daffffff01000000d3ffffff01000000d3ffffff00000000cbffffff00000000c3ff\
                    ffff01000000";
        assert_eq!(row(b"M/node/"), node);
        let session = "041102006cffffffffffffff0800000000000000010600000007000000";
        assert_eq!(row(b"M/session/"), session);
        assert_eq!(row(b"MO/"), "0611010003000000000000000400000000000000");
        assert_eq!(from_rows(&[]), Ok(None));
    }

    /// Goal: a session that an earlier build stored is read, as of an unknown process.
    #[test]
    fn sessions_without_a_process() {
        let old = seal(SESSION, 1, &SessionV1 { label: "l".into(), nonce: 8 });
        assert_eq!(hex(&old), "041101006cffffffffffffff0800000000000000");
        let key = key("session", &5u64.to_be_bytes());
        let read = session(&key, &old);
        assert_eq!(read, Ok(SessionV2 { label: "l".into(), nonce: 8, process: None }));
        let later = seal(SESSION, 3, &SessionV1 { label: "l".into(), nonce: 8 });
        assert!(session(&key, &later).unwrap_err().contains("M/session/"));
    }

    /// Goal: what an earlier build stored is read: targets that have all been made, nodes of an
    /// unknown identity.
    #[test]
    fn rows_of_earlier_builds() {
        let targets = vec![(TargetId(5), NodeId(6), TargetStateV1::Serving)];
        let old = seal(CHAIN, 1, &ChainV1 { version: ChainVersion(4), targets });
        assert_eq!(hex(&old), "0211010005000000060000000004000000f3ffffff01000000");
        let (target, node_id, state) = (TargetId(5), NodeId(6), TargetStateV1::Serving);
        let targets = vec![TargetV2 { target, node: node_id, state, made: true }];
        let read = chain(&key("chain", &3u32.to_be_bytes()), &old);
        assert_eq!(read, Ok(ChainV2 { version: ChainVersion(4), targets }));
        let old = NodeV1 {
            incarnation: 7,
            status: NodeStatusV1::Alive,
            roles: vec![RoleV1::Storage],
            addresses: vec!["h:1".into()],
            tags: vec![],
            metas: vec![],
            targets: vec![],
        };
        let read = node(&key("node", &6u32.to_be_bytes()), &seal(NODE, 1, &old)).unwrap();
        assert_eq!((read.identity.as_str(), read.incarnation), ("", 7));
    }
}
