//! The transactional key-value contract (FoundationDB's), and the embedded implementation of it.
//!
//! # The contract
//! - Keys and values are byte strings; keys are ordered by bytes. User keys are not empty (which
//!   FoundationDB would allow) and below `\xff`, except [`METADATA_VERSION_KEY`].
//! - A transaction reads from the snapshot of one *read version* and keeps its writes to itself
//!   until it commits. Commits are strictly serialisable: a commit is refused with
//!   [`KvError::Conflict`] if anything it read with a conflict has been written since its read
//!   version. Snapshot reads record no conflict; write-only transactions never conflict.
//! - A read-only transaction never commits: it is serialised at its read version.
//! - A range read with a limit conflicts only with what it returned: `[begin, last key returned]`,
//!   or the other way round in reverse. Recording that is the client's job ([`TxnBuffer`]).
//! - Every commit gets a [`Version`] larger than that of every commit before it, across restarts
//!   and also across a crash that lost commits, and may write it as a [`Versionstamp`].
//! - [`KvError::Unknown`] (`commit_unknown_result`): the commit may have happened. Making the
//!   second attempt harmless is the caller's matter.
//! - A transaction has [`WINDOW_US`] from its read version to its commit, then it is
//!   [`KvError::TooOld`].
//!
//! # The embedded implementation
//! [`Resolver`] decides over a [`Store`]; [`TxnBuffer`] is what a client keeps locally. All of it
//! is synchronous: no threads, clocks, files or locks. [`MemoryStore`] is the store of the
//! simulator,
//! `nodes::kv_fjall` that of single-machine clusters. [`conformance`] checks a store.
//!
//! *Acknowledged is not durable.* A commit is visible, ordered and survives the end of the process;
//! after power loss the content is a prefix of the commits that holds all that
//! [`Resolver::sync`] covered. Who needs more waits for the sync, and asks [`Resolver::survived`]
//! whether a crash took the commit before.

pub mod actor;
pub mod client;
mod conflicts;
pub mod conformance;
mod ends;
pub mod known;
mod local;
mod memory;
mod mutate;
mod resolver;
mod serial;
mod spans;
mod store;
mod txn;

pub use conflicts::HISTORY_BYTES_MAX;
pub use local::LocalTxn;
pub use memory::{MemoryDisk, MemoryStore};
pub use mutate::CLEARED_KEYS_MAX;
pub use resolver::{Resolver, SNAPSHOTS_MAX};
pub use store::{PageBuilder, RangeLimit, Snapshot, Store, StoreError, SyncDone};
pub use txn::{MergedPage, TxnBuffer};

pub use crate::proto::kv::{
    CommitRequest, Committed, KEY_BYTES_MAX, KEYS_END, KeyRange, KvError, METADATA_VERSION_KEY,
    Mutation, RANGE_BYTES_MAX, RANGE_ROWS_MAX, RangePage, TRANSACTION_BYTES_MAX, VALUE_BYTES_MAX,
    Version, Versionstamp, WINDOW_US, key_after,
};

/// Where the resolver keeps the version of the last commit (u64 big-endian).
pub(crate) const VERSION_KEY: &[u8] = b"\xff/version";
/// Where the resolver keeps the last version of each earlier opening (see `ends`).
pub(crate) const ENDS_KEY: &[u8] = b"\xff/ends";
