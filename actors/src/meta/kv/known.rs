//! Which metadata store this is, and which one a process has used.
//!
//! An address says where a store is, and not which one answers there: its folder may be mistyped,
//! its disk not mounted, another cluster's put in its place. So a store has an identity, drawn by
//! the mgmtd that leads over it first and never drawn again, and whoever uses the store remembers
//! it ([`KnownStore`]). Another store, or one without identity, is then as good as a store that is
//! away: transactions fail with [`KvError::Throttled`], and all waits until the right one is back.
//!
//! *Why nothing that another store says is used.* The first message of every transaction brings the
//! identity as well (`client`), at the version from which the transaction reads. Reads that follow
//! name that version. A store that was put in between has not given it out, so it refuses them,
//! and refuses the commit: its count of commits begins at 1 with each opening, and grows only by
//! those who accept it. The number of the opening alone, which tops each version, would not do: the
//! first opening of a new store has the number of the first opening of the old one.
//!
//! A copy of a store (a backup that was restored) has its identity, and is accepted.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use rkyv::{Archive, Deserialize, Serialize};
use t3fs_runtime::{Addr, Cx, Time, wire};

use super::{KvError, Version};
use crate::planted::PlantedBug;
use crate::proto::kv::{Barrier, Kv};
use crate::proto::meta::Stamp;

const KIND: u16 = 0x120b;
/// Where a store keeps its identity.
const KEY: &[u8] = b"B";
/// How long it may take to make an identity durable, in the store and in the memory of a process.
const REMEMBER_MAX: Duration = Duration::from_secs(5);
/// How often it is said again that the store is a wrong one.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Which store it is: 128 random bits. Sealed as type 0x120b, version 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct StoreIdentityV1 {
    pub high: u64,
    pub low: u64,
}

impl StoreIdentityV1 {
    /// Of a store that has none.
    pub fn draw(cx: &Cx) -> StoreIdentityV1 {
        StoreIdentityV1 { high: cx.rand(), low: cx.rand() }
    }

    pub fn seal(&self) -> Bytes {
        wire::seal(KIND, 1, self).into()
    }

    fn open(bytes: &[u8]) -> Result<StoreIdentityV1, String> {
        wire::open(KIND, 1, bytes).map_err(|e| format!("its identity cannot be read ({e})"))
    }

    /// What [`fmt::Display`] has written.
    pub fn parse(hex: &str) -> Option<StoreIdentityV1> {
        let digits = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let all = u128::from_str_radix(hex, 16).ok().filter(|_| digits)?;
        Some(StoreIdentityV1 { high: (all >> 64) as u64, low: all as u64 })
    }
}

impl fmt::Display for StoreIdentityV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.high, self.low)
    }
}

/// The key of a store's identity.
pub fn key() -> Bytes {
    Bytes::from_static(KEY)
}

/// Where a process remembers, beyond its end, which store it has used.
pub trait StoreMemory {
    /// Remembers it; durable when it returns. An error is a sentence: also if another store is
    /// remembered already.
    fn remember(&self, identity: StoreIdentityV1) -> LocalBoxFuture<'static, Result<(), String>>;

    /// For people: the file.
    fn place(&self) -> String;
}

/// A store, and what its user knows of it. Clones share that.
#[derive(Clone)]
pub struct KnownStore(Rc<Shared>);

struct Shared {
    kv: Addr<Kv>,
    /// For people.
    at: String,
    memory: Option<Box<dyn StoreMemory>>,
    known: RefCell<Option<Known>>,
    /// Which run of the store was read from last.
    run: Cell<Option<u64>>,
    /// Why the store that answers is not used, and when that was said.
    trouble: RefCell<Option<(String, Time)>>,
}

struct Known {
    identity: StoreIdentityV1,
    /// As the store has it.
    sealed: Bytes,
}

impl KnownStore {
    /// What is learnt of it is remembered as long as this and its clones live.
    pub fn new(kv: Addr<Kv>) -> KnownStore {
        KnownStore::with(kv, format!("node {}", kv.raw().node.0), None, None)
    }

    /// `at`: its address, for people. `known`: what `memory` has.
    pub fn remembered(
        kv: Addr<Kv>,
        at: String,
        known: Option<StoreIdentityV1>,
        memory: Box<dyn StoreMemory>,
    ) -> KnownStore {
        KnownStore::with(kv, at, known, Some(memory))
    }

    fn with(
        kv: Addr<Kv>,
        at: String,
        known: Option<StoreIdentityV1>,
        memory: Option<Box<dyn StoreMemory>>,
    ) -> KnownStore {
        let known = RefCell::new(known.map(Known::new));
        let (run, trouble) = (Cell::new(None), RefCell::new(None));
        KnownStore(Rc::new(Shared { kv, at, memory, known, run, trouble }))
    }

    pub fn kv(&self) -> Addr<Kv> {
        self.0.kv
    }

    /// The identity of the store that is used, once it is known.
    pub fn identity(&self) -> Option<StoreIdentityV1> {
        self.0.known.borrow().as_ref().map(|known| known.identity)
    }

    /// Which run of the store was read from last.
    pub fn run(&self) -> Option<u64> {
        self.0.run.get()
    }

    /// Why the store that answers is not used, as a sentence.
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.borrow().as_ref().map(|(why, _)| why.clone())
    }

    /// Whether what this store says may be used: `found` is its identity, read at that version. The
    /// first identity that is found is remembered before anything that the store says is used.
    pub(super) async fn admit(
        &self,
        cx: &Cx,
        found: Option<&Bytes>,
        version: Version,
    ) -> Result<Option<StoreIdentityV1>, KvError> {
        let same = self.0.known.borrow().as_ref().map(|known| &known.sealed) == found;
        let identity = match same {
            true => Ok(self.identity()),
            false => self.compare(cx, found, version).await,
        };
        let identity = identity.map_err(|why| {
            if let Some(why) = why {
                self.say(why, cx.now());
            }
            KvError::Throttled
        })?;
        self.0.run.set(Some(Stamp::from(version).run()));
        if self.0.trouble.take().is_some() {
            tracing::info!("the metadata store at {} can be used again", self.0.at);
        }
        Ok(identity)
    }

    /// A store that is not known to be the one. An error is a sentence, or none if the store does not
    /// answer.
    async fn compare(
        &self,
        cx: &Cx,
        found: Option<&Bytes>,
        version: Version,
    ) -> Result<Option<StoreIdentityV1>, Option<String>> {
        let at = &self.0.at;
        let found = found.map(|bytes| StoreIdentityV1::open(bytes)).transpose();
        let found = found.map_err(|why| format!("the metadata store at {at}: {why}"))?;
        if let (None, Some(identity)) = (self.identity(), found) {
            // A loss of power must not take an identity that is remembered.
            match cx.within(REMEMBER_MAX).ask(self.0.kv, Barrier { version }).await {
                Ok(Ok(())) => self.learn(cx, identity).await?,
                Ok(Err(_)) | Err(_) => return Err(None),
            }
        }
        match self.identity() == found || PlantedBug::AnyStoreIsTaken.is_in(cx) {
            true => Ok(found),
            false => Err(Some(self.is_wrong(found))),
        }
    }

    /// Takes this store for the one to use, if no other was taken for it meanwhile.
    async fn learn(&self, cx: &Cx, identity: StoreIdentityV1) -> Result<(), String> {
        if let Some(memory) = &self.0.memory {
            let kept = cx.within(REMEMBER_MAX).in_time(memory.remember(identity)).await;
            let kept = kept.unwrap_or_else(|| Err("it takes too long".into()));
            kept.map_err(|why| {
                format!("{} cannot keep which store is used: {why}", memory.place())
            })?;
        }
        self.0.known.borrow_mut().get_or_insert_with(|| Known::new(identity));
        Ok(())
    }

    fn is_wrong(&self, found: Option<StoreIdentityV1>) -> String {
        let empty = "is empty (or a copy from before it had an identity)";
        let (at, what) = (&self.0.at, found.map_or(empty, |_| "is another one"));
        let used = self.identity().map(|used| used.to_string()).unwrap_or_default();
        let give_up = self.0.memory.as_ref().map(|memory| {
            format!(
                " To give that store up for good, remove {} on each mgmtd and meta, and restart \
                 them.",
                memory.place()
            )
        });
        format!(
            "the metadata store at {at} {what}, though this cluster has used store {used}: is its \
             --state right, is its disk mounted? Everything waits until that store is back.{}",
            give_up.unwrap_or_default()
        )
    }

    /// Once, and now and then again.
    fn say(&self, why: String, now: Time) {
        let mut trouble = self.0.trouble.borrow_mut();
        let due = |(said, at): &(String, Time)| *said != why || now.since(*at) >= SAY_AGAIN;
        if trouble.as_ref().is_none_or(due) {
            tracing::error!("{why}");
            *trouble = Some((why, now));
        }
    }
}

impl Known {
    fn new(identity: StoreIdentityV1) -> Known {
        Known { identity, sealed: identity.seal() }
    }
}

impl fmt::Debug for KnownStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KnownStore").field(&self.0.kv).field(&self.identity()).finish()
    }
}

impl From<&KnownStore> for KnownStore {
    fn from(store: &KnownStore) -> KnownStore {
        store.clone()
    }
}

/// Whatever store answers, for tools and tests.
impl From<Addr<Kv>> for KnownStore {
    fn from(kv: Addr<Kv>) -> KnownStore {
        KnownStore::new(kv)
    }
}

#[cfg(test)]
mod golden {
    use super::*;

    t3fs_runtime::samples! { "/src/meta/golden/known.txt":
        struct StoreIdentityV1 { high, low }
    }
}

#[cfg(test)]
mod tests;
