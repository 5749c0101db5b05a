//! mgmtd's state in the KV, a key for each thing so that a change writes what changed.
//!
//! ```text
//! key                            value (sealed: type, version, rkyv)
//! "M/state"                      type 0x1101 StateV1   { cluster, version, session_max }
//! "M/chain/"   chain u32 BE      type 0x1102 ChainV1   { version, [(target, node, state)] }
//! "M/table/"   id BE version BE  type 0x1103 TableV1   { [chain] }
//! "M/session/" session u64 BE    type 0x1104 SessionV1 { label, nonce }
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::wire::{Wire, open, seal};
use t3fs_runtime::{Addr, Cx, NodeId};

use crate::meta::kv::KeyRange;
use crate::meta::kv::actor::Kv;
use crate::meta::kv::client::{Stop, transact};
use crate::proto::ids::{ChainId, ChainVersion, RoutingVersion, SessionId, TargetId};
use crate::proto::kv::Durability;
use crate::proto::mgmtd::{ChainTable, TargetState};

const STATE: u16 = 0x1101;
const CHAIN: u16 = 0x1102;
const TABLE: u16 = 0x1103;
const SESSION: u16 = 0x1104;

#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
struct StateV1 {
    cluster: String,
    version: RoutingVersion,
    session_max: SessionId,
}

#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
struct ChainV1 {
    version: ChainVersion,
    targets: Vec<(TargetId, NodeId, TargetState)>,
}

#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
struct TableV1 {
    chains: Vec<ChainId>,
}

#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
pub(super) struct SessionV1 {
    pub(super) label: String,
    pub(super) nonce: u64,
}

/// A chain as stored: without addresses.
pub(super) type StoredChain = Chain;

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Chain {
    pub(super) version: ChainVersion,
    pub(super) targets: Vec<(TargetId, NodeId, TargetState)>,
}

/// All that survives.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Stored {
    pub(super) cluster: String,
    pub(super) version: RoutingVersion,
    pub(super) session_max: SessionId,
    pub(super) chains: BTreeMap<ChainId, Chain>,
    pub(super) tables: Vec<ChainTable>,
    pub(super) sessions: BTreeMap<SessionId, SessionV1>,
}

fn key(kind: &str, id: &[u8]) -> Bytes {
    let slash: &[u8] = if id.is_empty() { b"" } else { b"/" };
    [b"M/", kind.as_bytes(), slash, id].concat().into()
}

impl Stored {
    fn rows(&self) -> BTreeMap<Bytes, Vec<u8>> {
        let mut rows = BTreeMap::new();
        let state = StateV1 {
            cluster: self.cluster.clone(),
            version: self.version,
            session_max: self.session_max,
        };
        rows.insert(key("state", b""), seal(STATE, 1, &state));
        for (id, c) in &self.chains {
            let v = ChainV1 { version: c.version, targets: c.targets.clone() };
            rows.insert(key("chain", &id.0.to_be_bytes()), seal(CHAIN, 1, &v));
        }
        for t in &self.tables {
            let id = [t.id.to_be_bytes(), t.version.to_be_bytes()].concat();
            rows.insert(key("table", &id), seal(TABLE, 1, &TableV1 { chains: t.chains.clone() }));
        }
        for (id, s) in &self.sessions {
            rows.insert(key("session", &id.0.to_be_bytes()), seal(SESSION, 1, s));
        }
        rows
    }

    fn from_rows(rows: &[(Bytes, Bytes)]) -> Result<Option<Stored>, String> {
        fn get<T: Wire>(kind: u16, key: &[u8], value: &[u8]) -> Result<T, String> {
            open(kind, 1, value)
                .map_err(|e| format!("mgmtd's record {}: {e}", String::from_utf8_lossy(key)))
        }
        let u32_at = |k: &[u8], i: usize| {
            let b = k.get(i..i + 4).ok_or("a key of mgmtd's is too short")?;
            Ok::<_, String>(u32::from_be_bytes(b.try_into().expect("4 bytes")))
        };
        let mut out: Option<Stored> = None;
        let mut rest = Stored {
            cluster: String::new(),
            version: RoutingVersion(0),
            session_max: SessionId(0),
            chains: BTreeMap::new(),
            tables: Vec::new(),
            sessions: BTreeMap::new(),
        };
        for (k, v) in rows {
            if k[..] == b"M/state"[..] {
                let s: StateV1 = get(STATE, k, v)?;
                rest.cluster = s.cluster;
                rest.version = s.version;
                rest.session_max = s.session_max;
                out = Some(rest.clone());
            } else if k.starts_with(b"M/chain/") {
                let c: ChainV1 = get(CHAIN, k, v)?;
                let chain = Chain { version: c.version, targets: c.targets };
                rest.chains.insert(ChainId(u32_at(k, 8)?), chain);
            } else if k.starts_with(b"M/table/") {
                let t: TableV1 = get(TABLE, k, v)?;
                let (id, version) = (u32_at(k, 8)?, u32_at(k, 12)?);
                rest.tables.push(ChainTable { id, version, chains: t.chains });
            } else if k.starts_with(b"M/session/") {
                let (hi, lo) = (u32_at(k, 10)?, u32_at(k, 14)?);
                let id = SessionId(u64::from(hi) << 32 | u64::from(lo));
                rest.sessions.insert(id, get(SESSION, k, v)?);
            } else {
                return Err(format!(
                    "unknown record {}: written by a newer t3fs?",
                    k.escape_ascii()
                ));
            }
        }
        Ok(out.map(|_| rest))
    }
}

/// Everything stored, or `None` in a new store.
pub(super) async fn load(cx: &Cx, kv: Addr<Kv>) -> Result<Option<Stored>, String> {
    let rows = transact(cx, kv, Durability::Soon, async |txn| {
        let mut range = KeyRange::prefix(Bytes::from_static(b"M/"));
        let mut rows = Vec::new();
        loop {
            let page = txn.fetch_range(&range, 0, false).await?;
            rows.extend(page.rows);
            if !page.more {
                return Ok::<_, Stop<String>>(rows);
            }
            range.begin = page.covered.end;
        }
    })
    .await
    .map_err(|e| e.to_string())?;
    Stored::from_rows(&rows)
}

/// Writes what differs between two states; on stable storage when it returns.
pub(super) async fn save(
    cx: &Cx,
    kv: Addr<Kv>,
    before: &Stored,
    after: &Stored,
) -> Result<(), String> {
    let (old, new) = (before.rows(), after.rows());
    transact(cx, kv, Durability::Now, async |txn| {
        for k in old.keys().filter(|k| !new.contains_key(*k)) {
            txn.clear(k.clone());
        }
        for (k, v) in new.iter().filter(|(k, v)| old.get(*k) != Some(v)) {
            txn.set(k.clone(), v.clone());
        }
        Ok::<_, Stop<String>>(())
    })
    .await
    .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is stored comes back, and stays readable by later builds (first bytes pinned).
    #[test]
    fn rows_round_trip() {
        let target = (TargetId(5), NodeId(6), TargetState::Serving);
        let s = Stored {
            cluster: "c".into(),
            version: RoutingVersion(9),
            session_max: SessionId(1 << 40),
            chains: [(ChainId(3), Chain { version: ChainVersion(4), targets: vec![target] })]
                .into(),
            tables: vec![ChainTable { id: 1, version: 2, chains: vec![ChainId(3)] }],
            sessions: [(SessionId(1 << 40), SessionV1 { label: "l".into(), nonce: 8 })].into(),
        };
        let rows: Vec<(Bytes, Bytes)> = s.rows().into_iter().map(|(k, v)| (k, v.into())).collect();
        assert_eq!(Stored::from_rows(&rows), Ok(Some(s)));
        let chain = &rows.iter().find(|(k, _)| k.starts_with(b"M/chain/")).unwrap().1;
        let golden = "0211010005000000060000000004000000f3ffffff01000000";
        let hex: String = chain.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, golden);
        assert_eq!(Stored::from_rows(&[]), Ok(None));
    }
}
