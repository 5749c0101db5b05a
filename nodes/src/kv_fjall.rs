//! The embedded [`Store`]: fjall, used as a plain ordered map in a directory of its own.
//!
//! Promises what `actors::meta::kv::Store` asks for. `apply` returns when the batch is in fjall's
//! journal in the page cache, so it survives the end of this process, also by kill -9; `sync` makes
//! it survive power loss, with `fdatasync` of the journal on a thread of its own, one for all
//! requests that wait. That thread does not use fjall's `persist`, which holds the journal's lock
//! for as long as the disk takes: reads and `apply` go on during a sync.
//!
//! # Directory
//! ```text
//! lock        flock(2) held while open; holds the owner's process id
//! store/      fjall's: journals `N.jnl` (64 MiB each), tables in `keyspaces/`
//! store.new/  a store that is being created; deleted if creation did not finish
//! ```
//! fjall syncs a journal before it begins the next one, and tables before it deletes their
//! journals. So only the last journal can hold anything that is not durable.
//!
//! # Limits
//! Caches [`BLOCK_CACHE_BYTES`] and [`ROW_CACHE_BYTES`]; memtables of [`MEMTABLE_BYTES`], at most
//! four of them waiting to be written and one being filled; then `apply` waits. Journals up to
//! [`JOURNAL_BYTES`] before fjall forces them out. One fjall thread (two would spin on this
//! version's queue while one of them compacts) and one for syncs.
//!
//! # Failure
//! After the first failed write or sync the store refuses everything but reads from snapshots
//! ([`StoreError::Stopped`]): the kernel may have dropped the pages, and a second fsync would lie.

use bytes::Bytes;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
    Readable,
};
use rows::Rows;
use rustix::fs::{FlockOperation, flock};
use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use t3fs_actors::meta::kv::{
    PageBuilder, RangeLimit, RangePage, Snapshot, Store, StoreError, SyncDone,
};

mod journal;
mod rows;

/// fjall's block cache, in bytes.
pub const BLOCK_CACHE_BYTES: u64 = 24 << 20;
/// The cache of single rows before it, in bytes.
pub const ROW_CACHE_BYTES: usize = 8 << 20;
/// Size at which a memtable is written out, in bytes of keys and values.
pub const MEMTABLE_BYTES: u64 = 8 << 20;
/// What the store holds in memory, in bytes: caches, four memtables that wait and the one that is
/// being filled.
pub const BYTES_MAX: usize =
    BLOCK_CACHE_BYTES as usize + ROW_CACHE_BYTES + 5 * MEMTABLE_BYTES as usize;
/// Disk for journals, in bytes, beyond which fjall writes memtables out to free them.
pub const JOURNAL_BYTES: u64 = 256 << 20;
// Memtables are written out because they are full, not because journals are.
const _: () = assert!(5 * MEMTABLE_BYTES < JOURNAL_BYTES);
/// Table files held open.
const OPEN_FILES: usize = 200;
/// Syncs that may wait at a time; more are refused.
pub const SYNCS_MAX: usize = 1 << 14;

const KEYSPACE: &str = "kv";
/// How often the store was opened (u64 big-endian). Above all keys of the resolver's users.
const INCARNATION_KEY: &[u8] = b"\xff/incarnation";

pub struct FjallStore {
    database: Database,
    keyspace: Keyspace,
    rows: Rc<RefCell<Rows>>,
    incarnation: u64,
    stopped: Arc<Stopped>,
    /// None only while the store is dropped.
    syncs: Option<SyncSender<SyncDone>>,
    syncer: Option<JoinHandle<()>>,
    /// Released last.
    _lock: DirectoryLock,
}

/// Why the store has stopped, once it has.
#[derive(Default)]
struct Stopped(OnceLock<String>);

impl FjallStore {
    /// Opens the store in `directory`, which is created if need be. Waits for the disk.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it open, [`StoreError::Corrupt`] if what is
    /// there cannot be this store, [`StoreError::Io`] for everything that the operating system
    /// refused.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(directory).map_err(|error| failed_io("create", directory, error))?;
        let lock = DirectoryLock::acquire(directory)?;
        let store = directory.join("store");
        if !store.try_exists().map_err(|error| failed_io("look for", &store, error))? {
            create(directory, &store)?;
        }
        cut_torn_end(&store)?;
        let database = open_database(&store)?;
        let keyspace = database.keyspace(KEYSPACE, options).map_err(|e| failed(&store, e))?;
        let incarnation = begin_incarnation(&database, &keyspace).map_err(|e| failed(&store, e))?;

        let stopped = Arc::new(Stopped::default());
        let (sender, waiting) = sync_channel(SYNCS_MAX);
        let syncer = Syncer {
            directory: store,
            database: database.clone(),
            journal: None,
            stopped: stopped.clone(),
        };
        let syncer = std::thread::Builder::new()
            .name("kv-sync".into())
            .spawn(move || syncer.run(&waiting))
            .map_err(|error| StoreError::Io(format!("start the sync thread: {error}")))?;
        Ok(FjallStore {
            database,
            keyspace,
            rows: Rc::new(RefCell::new(Rows::new(ROW_CACHE_BYTES))),
            incarnation,
            stopped,
            syncs: Some(sender),
            syncer: Some(syncer),
            _lock: lock,
        })
    }
}

/// Makes a store beside where it belongs and moves it there whole: fjall cannot open what a crash
/// left of a creation.
fn create(directory: &Path, store: &Path) -> Result<(), StoreError> {
    let unfinished = directory.join("store.new");
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed_io("remove", &unfinished, error));
        }
        _ => {}
    }
    let database = open_database(&unfinished)?;
    let made = database.keyspace(KEYSPACE, options).and_then(|keyspace| {
        drop(keyspace);
        database.persist(PersistMode::SyncAll)
    });
    made.map_err(|error| failed(&unfinished, error))?;
    drop(database);
    fs::rename(&unfinished, store)
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(|error| failed_io("move into place", &unfinished, error))
}

/// Undoes what power loss left half done at the end of the journal; that was never synced.
fn cut_torn_end(store: &Path) -> Result<(), StoreError> {
    let last =
        last_journal(store).map_err(|error| failed_io("look for journals in", store, error))?;
    let path = store.join(format!("{last}.jnl"));
    let torn = journal::cut_torn_end(&path).map_err(|error| failed_io("repair", &path, error))?;
    if torn > 0 {
        let path = path.display();
        tracing::warn!(%path, torn, "dropped the torn end of the journal, as after power loss");
    }
    Ok(())
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    Database::builder(path)
        .cache_size(BLOCK_CACHE_BYTES)
        .journal_compression(CompressionType::None)
        .max_journaling_size(JOURNAL_BYTES)
        .max_cached_files(Some(OPEN_FILES))
        .worker_threads(1)
        .open()
        .map_err(|error| failed(path, error))
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
}

/// Counts this opening, durably.
fn begin_incarnation(database: &Database, keyspace: &Keyspace) -> fjall::Result<u64> {
    let last = keyspace.get(INCARNATION_KEY)?;
    let last = last.map_or(0, |last| {
        u64::from_be_bytes(last[..].try_into().expect("written below, and checksummed"))
    });
    keyspace.insert(INCARNATION_KEY, (last + 1).to_be_bytes())?;
    database.persist(PersistMode::SyncAll)?;
    Ok(last + 1)
}

impl Drop for FjallStore {
    /// Ends the syncs that were asked for, then the thread.
    fn drop(&mut self) {
        self.syncs = None;
        let syncer = self.syncer.take().expect("dropped once");
        if syncer.join().is_err() {
            tracing::error!("the sync thread of the key-value store panicked");
        }
    }
}

impl Store for FjallStore {
    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(FjallSnapshot {
            number: self.rows.borrow().applied(),
            snapshot: self.database.snapshot(),
            keyspace: self.keyspace.clone(),
            rows: self.rows.clone(),
        })
    }

    fn apply(&mut self, batch: &[(Bytes, Option<Bytes>)]) -> Result<(), StoreError> {
        self.stopped.check()?;
        let mut writes = OwnedWriteBatch::with_capacity(self.database.clone(), batch.len())
            .durability(Some(PersistMode::Buffer));
        for (key, value) in batch {
            // Copies, because `Bytes` may be a small part of a large message.
            match value {
                Some(value) => writes.insert(&self.keyspace, &key[..], &value[..]),
                None => writes.remove(&self.keyspace, &key[..]),
            }
        }
        writes.commit().map_err(|error| self.stopped.stop(&format!("write failed: {error}")))?;
        self.rows.borrow_mut().apply(batch);
        Ok(())
    }

    fn sync(&mut self, done: SyncDone) {
        if let Err(stopped) = self.stopped.check() {
            return done(Err(stopped));
        }
        let syncs = self.syncs.as_ref().expect("there until dropped");
        match syncs.try_send(done) {
            Ok(()) => {}
            Err(TrySendError::Full(done)) => {
                done(Err(StoreError::Io(format!("{SYNCS_MAX} syncs are waiting already"))));
            }
            Err(TrySendError::Disconnected(done)) => {
                done(Err(self.stopped.stop("the sync thread has ended")));
            }
        }
    }

    fn bytes_used(&self) -> u64 {
        self.keyspace.disk_space() + self.database.write_buffer_size()
    }

    fn incarnation(&self) -> u64 {
        self.incarnation
    }
}

struct FjallSnapshot {
    /// How many batches it holds.
    number: u64,
    snapshot: fjall::Snapshot,
    keyspace: Keyspace,
    rows: Rc<RefCell<Rows>>,
}

impl Snapshot for FjallSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(known) = self.rows.borrow_mut().get(key, self.number) {
            return Ok(known);
        }
        let value = self.snapshot.get(&self.keyspace, key).map_err(failed_read)?;
        // A copy, because fjall's value may be a small part of a block.
        let value = value.map(|value| Bytes::copy_from_slice(&value));
        self.rows.borrow_mut().fetched(key, self.number, &value);
        Ok(value)
    }

    fn range(
        &self,
        begin: &[u8],
        end: &[u8],
        limit: RangeLimit,
        reverse: bool,
    ) -> Result<RangePage, StoreError> {
        if begin >= end {
            return Ok(RangePage::default());
        }
        let rows = self.snapshot.range(&self.keyspace, begin..end);
        if reverse { page(rows.rev(), limit) } else { page(rows, limit) }
    }
}

fn page(
    rows: impl Iterator<Item = fjall::Guard>,
    limit: RangeLimit,
) -> Result<RangePage, StoreError> {
    let mut page = PageBuilder::new(limit);
    for row in rows {
        if page.is_full() {
            return Ok(page.cut());
        }
        let (key, value) = row.into_inner().map_err(failed_read)?;
        page.push(Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value));
    }
    Ok(page.complete())
}

/// The thread that makes the journal durable.
struct Syncer {
    directory: PathBuf,
    database: Database,
    /// The last journal that was synced. Kept open also because an open file hears of every failed
    /// write-back, one opened later perhaps not.
    journal: Option<(u64, File)>,
    stopped: Arc<Stopped>,
}

impl Syncer {
    /// Ends when the store is dropped and nobody waits any more.
    fn run(mut self, waiting: &Receiver<SyncDone>) {
        while let Ok(first) = waiting.recv() {
            // What was asked for before the disk begins is covered by what the disk does now.
            let asked: Vec<_> = std::iter::once(first).chain(waiting.try_iter()).collect();
            let result = self.sync();
            for done in asked {
                done(result.clone());
            }
        }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.stopped.check()?;
        self.sync_last_journal()
            .map_err(|error| self.stopped.stop(&format!("sync of the journal failed: {error}")))?;
        // Waits for a rotation under way and tells whether fjall's own syncs have failed.
        self.database
            .persist(PersistMode::Buffer)
            .map_err(|error| self.stopped.stop(&format!("journal failed: {error}")))
    }

    fn sync_last_journal(&mut self) -> io::Result<()> {
        loop {
            let last = last_journal(&self.directory)?;
            if self.journal.as_ref().is_none_or(|(number, _)| *number != last) {
                match File::open(self.directory.join(format!("{last}.jnl"))) {
                    Ok(file) => self.journal = Some((last, file)),
                    // Synced, written to tables and deleted since: there is a later one.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            let (_, file) = self.journal.as_ref().expect("opened above");
            return file.sync_data();
        }
    }
}

fn last_journal(directory: &Path) -> io::Result<u64> {
    let mut last = None;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jnl"));
        last = last.max(number.and_then(|number| number.parse().ok()));
    }
    last.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no journal"))
}

impl Stopped {
    fn check(&self) -> Result<(), StoreError> {
        match self.0.get() {
            Some(why) => Err(StoreError::Stopped(why.clone())),
            None => Ok(()),
        }
    }

    /// Stops the store for `why`, unless it has stopped before; returns the first reason.
    fn stop(&self, why: &str) -> StoreError {
        let first = self.0.get_or_init(|| {
            tracing::error!(why, "the key-value store stops: restart the node after repair");
            why.to_owned()
        });
        StoreError::Stopped(first.clone())
    }
}

/// Keeps other processes out of a store's directory. Released with the process, however it ends.
struct DirectoryLock(#[expect(dead_code, reason = "held, not used")] File);

impl DirectoryLock {
    fn acquire(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join("lock");
        let mut open = OpenOptions::new();
        open.read(true).write(true).create(true).truncate(false);
        let mut file = open.open(&path).map_err(|error| failed_io("open", &path, error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut owner = String::new();
                // Only for the message: the owner may be just about to write it.
                let _ = file.read_to_string(&mut owner);
                let owner = owner.trim();
                let directory = directory.display();
                return Err(StoreError::Locked(format!("{directory} is open in process {owner}")));
            }
            Err(error) => return Err(failed_io("lock", &path, error.into())),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| failed_io("write", &path, error))?;
        Ok(DirectoryLock(file))
    }
}

fn failed_io(what: &str, path: &Path, error: io::Error) -> StoreError {
    StoreError::Io(format!("{what} {}: {error}", path.display()))
}

fn failed(path: &Path, error: fjall::Error) -> StoreError {
    let at = path.display();
    match error {
        fjall::Error::Locked => StoreError::Locked(format!("{at} is open elsewhere")),
        fjall::Error::Io(error) => StoreError::Io(format!("{at}: {error}")),
        fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            StoreError::Io(format!("{at}: {error}"))
        }
        other => StoreError::Corrupt(format!("{at}: {other}")),
    }
}

fn failed_read(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(error) => StoreError::Io(format!("read: {error}")),
        fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            StoreError::Io(format!("read: {error}"))
        }
        other => StoreError::Corrupt(format!("read: {other}")),
    }
}
