//! A transaction over the [`KvServer`] actor, and the loop that runs one until it commits.

use core::time::Duration;
use std::fmt;

use bytes::Bytes;
use t3fs_runtime::{AskError, Cx};

use super::known::{self, KnownStore, StoreIdentityV1};
use super::{CommitRequest, KeyRange, KvError, MergedPage, TxnBuffer, Version};
use crate::features::{self, FeaturesV1};
use crate::planted::PlantedBug;
use crate::proto::kv::*;
use crate::proto::meta::Stamp;

/// A transaction: reads from one version, writes kept here until the commit.
///
/// *Fetching* a key is a snapshot read, on which nothing depends. *Reading* it makes the commit
/// fail with [`KvError::Conflict`] if another commit writes it in between; [`Txn::depend`] turns
/// the first into the second.
///
/// The first message brings the store's feature record and its identity as well: no transaction
/// reads what its build would misread, nor from another store than the one that is known ([`known`]);
/// and each that writes depends on the record, whatever else it reads.
pub struct Txn<'a> {
    cx: &'a Cx,
    store: KnownStore,
    /// Taken by the first read.
    version: Option<Version>,
    buffer: TxnBuffer,
    /// What the store says of itself, once it was read.
    about: Option<AboutStore>,
}

#[derive(Clone, Copy)]
struct AboutStore {
    features: FeaturesV1,
    identity: Option<StoreIdentityV1>,
}

impl<'a> Txn<'a> {
    pub fn new(cx: &'a Cx, store: impl Into<KnownStore>) -> Txn<'a> {
        let (store, buffer) = (store.into(), TxnBuffer::new());
        Txn { cx, store, version: None, buffer, about: None }
    }

    /// Whether a body that runs in this transaction is to make this mistake.
    pub(in crate::meta) fn is_planted(&self, bug: PlantedBug) -> bool {
        bug.is_in(self.cx)
    }

    /// Which run of the store it reads from, if it has read.
    pub fn run(&self) -> Option<u64> {
        self.version.map(|version| Stamp::from(version).run())
    }

    /// Snapshot-reads keys in one message.
    pub async fn fetch<const N: usize>(
        &mut self,
        keys: [&Bytes; N],
    ) -> Result<[Option<Bytes>; N], KvError> {
        // With room for what the store says of itself.
        let mut asked = Vec::with_capacity(N + 2);
        asked.extend(keys.into_iter().cloned());
        let values = self.fetch_all(asked).await?;
        Ok(values.try_into().expect("one value per key"))
    }

    /// Reads keys in one message; the commit depends on all of them.
    pub async fn read<const N: usize>(
        &mut self,
        keys: [&Bytes; N],
    ) -> Result<[Option<Bytes>; N], KvError> {
        let values = self.fetch(keys).await?;
        for key in keys {
            self.buffer.record_get(key);
        }
        Ok(values)
    }

    /// Snapshot-reads any number of keys in one message; values in the order of the keys.
    pub async fn fetch_all(&mut self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, KvError> {
        if self.buffer.is_read_only() {
            return self.get_keys(keys).await;
        }
        let unknown = |key: &&Bytes| self.buffer.local_get(key).is_none();
        let asked: Vec<Bytes> = keys.iter().filter(unknown).cloned().collect();
        let mut fetched =
            if asked.is_empty() { Vec::new() } else { self.get_keys(asked).await? }.into_iter();
        let merged = keys.iter().map(|key| match self.buffer.local_get(key) {
            Some(own) => own,
            None => self.buffer.merge_get(key, fetched.next().expect("asked for")),
        });
        Ok(merged.collect())
    }

    /// The commit depends on this key as if it had been read.
    pub fn depend(&mut self, key: &Bytes) {
        self.buffer.add_read_conflict(key);
    }

    /// A page of a range (see [`MergedPage`]), on which nothing depends; `limit` 0 for a full page.
    pub async fn fetch_range(
        &mut self,
        range: &KeyRange,
        limit: usize,
        reverse: bool,
    ) -> Result<MergedPage, KvError> {
        self.about().await?;
        let rows = u32::try_from(limit).unwrap_or(0);
        let message = GetRange { at: self.version, range: range.clone(), limit: rows, reverse };
        let page = self.cx.ask(self.store.kv(), message).await.map_err(not_read)??;
        self.version = Some(page.version);
        Ok(self.buffer.merge_range(range, page.page, limit, reverse))
    }

    /// A page of a range; the commit depends on the part that was covered.
    pub async fn read_range(
        &mut self,
        range: &KeyRange,
        limit: usize,
        reverse: bool,
    ) -> Result<MergedPage, KvError> {
        let page = self.fetch_range(range, limit, reverse).await?;
        self.buffer.add_read_conflict_range(&page.covered);
        Ok(page)
    }

    pub fn set(&mut self, key: Bytes, value: impl Into<Bytes>) {
        self.buffer.set(key, value.into());
    }

    pub fn clear(&mut self, key: Bytes) {
        self.buffer.clear(key);
    }

    pub fn clear_range(&mut self, range: KeyRange) {
        self.buffer.clear_range(range);
    }

    /// Adds to the little-endian u64 at `key`; depends on nothing.
    pub fn add(&mut self, key: Bytes, operand: i64) {
        self.buffer.add(key, operand.cast_unsigned());
    }

    /// Writes, stamps and conflicts that the methods here do not offer.
    pub fn buffer(&mut self) -> &mut TxnBuffer {
        &mut self.buffer
    }

    /// The store's feature record, whatever it says; a message of its own only if nothing was read
    /// yet.
    pub async fn features(&mut self) -> Result<FeaturesV1, KvError> {
        Ok(self.about().await?.features)
    }

    /// Which store it is; `None`: no mgmtd that gives it an identity has led over it yet.
    pub async fn identity(&mut self) -> Result<Option<StoreIdentityV1>, KvError> {
        Ok(self.about().await?.identity)
    }

    async fn about(&mut self) -> Result<AboutStore, KvError> {
        if self.about.is_none() {
            self.get_keys(Vec::new()).await?;
        }
        Ok(self.about.expect("read with the first keys"))
    }

    /// Commits what was written, if anything was; with the version of the commit, or without one
    /// the version that was read.
    pub async fn commit(mut self, durability: Durability) -> Result<Version, KvError> {
        if self.buffer.is_read_only() && durability == Durability::Soon {
            return Ok(self.version.unwrap_or_default());
        }
        if !self.buffer.is_read_only() {
            let features = self.features().await?;
            features::STORE.check(&features).map_err(KvError::Store)?;
            self.buffer.add_read_conflict(&features::key());
        }
        let request: CommitRequest = self.buffer.into_commit(self.version.unwrap_or_default());
        match self.cx.ask(self.store.kv(), Commit { request, durability }).await {
            Ok(committed) => committed.map(|committed| committed.version),
            Err(AskError::NotSent(_)) => Err(KvError::Throttled),
            Err(AskError::Unknown(_)) => Err(KvError::Unknown),
        }
    }

    async fn get_keys(&mut self, mut keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, KvError> {
        let (looks, reads) = (self.about.is_none(), !keys.is_empty());
        if looks {
            keys.extend([features::key(), known::key()]);
        }
        let message = GetKeys { at: self.version, keys };
        let mut read = self.cx.ask(self.store.kv(), message).await.map_err(not_read)??;
        if looks {
            let identity = read.values.pop().flatten();
            let record = read.values.pop().flatten();
            let identity = self.store.admit(self.cx, identity.as_ref(), read.version).await?;
            let features = FeaturesV1::open(record.as_deref()).map_err(KvError::Store)?;
            self.about = Some(AboutStore { features, identity });
        }
        self.version = Some(read.version);
        if let Some(AboutStore { features, .. }) = self.about.filter(|_| reads) {
            features::STORE.check_reading(&features).map_err(KvError::Store)?;
        }
        Ok(read.values)
    }
}

/// A read that got no answer: nothing was written.
fn not_read(_: AskError) -> KvError {
    KvError::Throttled
}

/// Why a transaction ended without a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop<E> {
    /// The store failed, or did not answer or let us commit in time. [`KvError::Unknown`] if any
    /// attempt may have been committed.
    Kv(KvError),
    /// The body's own refusal, based on what it read.
    Refused(E),
}

impl<E> From<KvError> for Stop<E> {
    fn from(e: KvError) -> Self {
        Stop::Kv(e)
    }
}

impl<E: fmt::Display> fmt::Display for Stop<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Kv(e) => e.fmt(f),
            Stop::Refused(e) => e.fmt(f),
        }
    }
}

/// First and longest limit of the random pause between attempts.
const PAUSE_MIN: Duration = Duration::from_micros(250);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// After so long without an answer of the store the caller is told, who can say so and try again.
const SILENT_MAX: Duration = Duration::from_millis(1500);

/// Runs `body` and commits, again from the start until that succeeds, it refuses, `cx`'s deadline
/// comes, or the store has been silent for [`SILENT_MAX`]. An attempt whose outcome is unknown is
/// repeated as well, so running `body` a second time after it was committed must be harmless, and
/// should return the first answer.
pub async fn transact<T, E>(
    cx: &Cx,
    store: impl Into<KnownStore>,
    durability: Durability,
    body: impl AsyncFnMut(&mut Txn<'_>) -> Result<T, Stop<E>>,
) -> Result<T, Stop<E>> {
    Ok(transact_at(cx, store, durability, body).await?.0)
}

/// The same, with the version that a later [`Barrier`] can name: of the commit, or of what was read
/// when nothing was written.
pub async fn transact_at<T, E>(
    cx: &Cx,
    store: impl Into<KnownStore>,
    durability: Durability,
    mut body: impl AsyncFnMut(&mut Txn<'_>) -> Result<T, Stop<E>>,
) -> Result<(T, Version), Stop<E>> {
    let store = store.into();
    let mut limit = PAUSE_MIN;
    let mut unknown = false;
    let mut silent_since = None;
    loop {
        let mut txn = Txn::new(cx, &store);
        let error = match body(&mut txn).await {
            Ok(value) => match txn.commit(durability).await {
                Ok(version) => return Ok((value, version)),
                Err(e) => e,
            },
            Err(Stop::Kv(e)) => e,
            Err(refused) => return Err(refused),
        };
        unknown |= error.is_maybe_committed();
        let silent = match error {
            KvError::Throttled => cx.now() - *silent_since.get_or_insert(cx.now()),
            _ => {
                silent_since = None;
                Duration::ZERO
            }
        };
        let pause = Duration::from_micros(cx.rand() % limit.as_micros() as u64);
        if silent >= SILENT_MAX || !error.is_retryable() || cx.now() + pause >= cx.deadline() {
            return Err(Stop::Kv(if unknown { KvError::Unknown } else { error }));
        }
        cx.sleep(pause).await;
        limit = PAUSE_MAX.min(limit * 2);
    }
}
