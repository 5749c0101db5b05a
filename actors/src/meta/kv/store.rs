//! What the resolver asks of the thing that keeps keys and values.
//!
//! A store knows no transactions: it applies batches in order, reads from snapshots, and says when
//! what it applied would survive a power failure. After a crash its content is that after some
//! prefix of the batches, never part of one, and at least the batches that a completed sync
//! covered.

use super::RangePage;
use bytes::Bytes;
use core::fmt;

/// Called once, possibly on another thread, when a sync ends. Dropped unheard if the store goes
/// away.
pub type SyncDone = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// An ordered map of byte strings with atomic batches and cheap snapshots.
pub trait Store {
    /// The content after everything applied so far, unaffected by what is applied later.
    fn snapshot(&self) -> Box<dyn Snapshot>;

    /// Sets (`Some`) or removes (`None`) the given keys, which are distinct, all or none, after all
    /// earlier batches. It need not be durable on return. After an error it is unknown whether the
    /// batch will be there when the store is opened again, and the store refuses further batches.
    fn apply(&mut self, batch: &[(Bytes, Option<Bytes>)]) -> Result<(), StoreError>;

    /// Calls `done` when everything applied before this call is durable. Syncs end in order.
    fn sync(&mut self, done: SyncDone);

    /// Roughly what the content takes up, in bytes.
    fn bytes_used(&self) -> u64;

    /// How often this store has been opened: larger than at every earlier opening, and durable
    /// before the opening returned. Versions are made from it, so that none is ever given twice,
    /// not even after a crash that lost commits.
    fn incarnation(&self) -> u64;
}

/// A frozen view of a store.
pub trait Snapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Rows with `begin <= key < end` in the order of bytes, from the end if `reverse`, up to
    /// `limit`. Empty if `begin >= end`. Use [`PageBuilder`].
    fn range(
        &self,
        begin: &[u8],
        end: &[u8],
        limit: RangeLimit,
        reverse: bool,
    ) -> Result<RangePage, StoreError>;
}

/// Where a page of a range read ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLimit {
    pub rows: usize,
    /// The row that reaches this many bytes of keys and values is the last.
    pub bytes: usize,
}

/// Fills a page up to its limit.
pub struct PageBuilder {
    page: RangePage,
    limit: RangeLimit,
    bytes: usize,
}

impl PageBuilder {
    pub fn new(limit: RangeLimit) -> Self {
        assert!(limit.rows > 0, "a page holds at least one row");
        PageBuilder { page: RangePage::default(), limit, bytes: 0 }
    }

    /// Whether no further row fits. Ask before fetching a row; if one is left then, say
    /// [`Self::cut`].
    pub fn is_full(&self) -> bool {
        self.page.rows.len() >= self.limit.rows || self.bytes >= self.limit.bytes
    }

    pub fn push(&mut self, key: Bytes, value: Bytes) {
        assert!(!self.is_full());
        self.bytes += key.len() + value.len();
        self.page.rows.push((key, value));
    }

    /// The page, with rows left after it.
    pub fn cut(mut self) -> RangePage {
        self.page.more = true;
        self.page
    }

    /// The page, which ends the range.
    pub fn complete(self) -> RangePage {
        self.page
    }
}

/// Why a store failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Another process has it open.
    Locked(String),
    /// What is on disk is not what was written.
    Corrupt(String),
    /// The operating system refused; the store is as before.
    Io(String),
    /// An earlier failure, as named, or a crash, has ended this opening of the store.
    Stopped(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked(what) => write!(f, "locked: {what}"),
            Self::Corrupt(what) => write!(f, "corrupt: {what}"),
            Self::Io(what) => write!(f, "i/o: {what}"),
            Self::Stopped(what) => write!(f, "stopped: {what}"),
        }
    }
}

impl core::error::Error for StoreError {}
