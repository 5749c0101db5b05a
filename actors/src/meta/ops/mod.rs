//! The operations: each an async function over one transaction, whose body may run again.
//!
//! *Once only.* A request with a session finds the answer of its earlier attempt under `R` and
//! returns it; the record is written in the transaction that has the effect. So a retry after an
//! unknown outcome, and a duplicate that the network delivers late, never act twice. A refusal is
//! kept as well, by a transaction of its own, before it is told.
//!
//! *What conflicts with what.* Ops depend on the entries and inodes they change or that must stay
//! (the directory an entry is made in), and on nothing else; see `schema` for directory times and
//! link counts.

use bytes::Bytes;

use super::kv::client::{Stop, Txn};
use super::schema::*;
use crate::planted::PlantedBug;
use crate::proto::ids::{InodeId, RequestId, SessionId};
use crate::proto::meta::{Attr, FileType, Gone, Layout, MetaError, NAME_MAX, Stamp};

pub mod attr;
pub mod create;
pub mod lookup;
pub mod opens;
pub mod readdir;
pub mod remove;
pub mod rename;
pub mod turns;

/// What an op returns.
pub type Done<T> = Result<T, Stop<MetaError>>;

impl From<MetaError> for Stop<MetaError> {
    fn from(e: MetaError) -> Self {
        Stop::Refused(e)
    }
}

/// Names that an entry may have.
pub fn check_name(name: &[u8]) -> Result<(), MetaError> {
    let bad = |why: &str| Err(MetaError::InvalidArgument(why.into()));
    match name {
        b"" => bad("an empty name"),
        b"." | b".." => bad("`.` and `..` are not names of entries"),
        _ if name.len() > NAME_MAX => Err(MetaError::NameTooLong),
        _ if name.contains(&b'/') || name.contains(&0) => bad("a name with `/` or a zero byte"),
        _ => Ok(()),
    }
}

/// The layout of something that has content.
fn layout_of(attr: &Attr) -> Result<&Layout, MetaError> {
    attr.layout.as_ref().ok_or_else(|| match attr.kind {
        FileType::Directory => MetaError::IsDirectory,
        _ => MetaError::InvalidArgument("only a file has content".into()),
    })
}

fn check_length(layout: &Layout, length: u64) -> Result<(), MetaError> {
    let chunks = length.div_ceil(u64::from(layout.chunk_size.max(1)));
    if chunks > u64::from(u32::MAX) || i64::try_from(length).is_err() {
        return Err(MetaError::FileTooLarge);
    }
    Ok(())
}

/// The directory that an op names, or why it is none.
fn open_directory(inode: InodeId, bytes: Option<&Bytes>) -> Result<Inode, MetaError> {
    let found = Inode::open(inode, bytes.ok_or(MetaError::Stale)?)?;
    if !found.is_directory() {
        return Err(MetaError::NotDirectory);
    }
    Ok(found)
}

/// The inode that an entry names; the entry must not outlive it.
fn open_named(inode: InodeId, bytes: Option<&Bytes>) -> Result<Inode, MetaError> {
    let Some(bytes) = bytes else {
        return Err(MetaError::Damaged(format!(
            "an entry names inode {:#x}, which does not exist: run `t3fs-node check`",
            inode.0
        )));
    };
    Inode::open(inode, bytes)
}

/// Reads an inode that an entry names, attributes up to date. The commit depends on it.
async fn read_named(txn: &mut Txn<'_>, inode: InodeId, kind: FileType) -> Done<Inode> {
    let key = inode_key(inode);
    let found = if kind == FileType::Directory {
        let [found, times, subdirs] =
            txn.fetch([&key, &times_key(inode), &subdirs_key(inode)]).await?;
        let mut found = open_named(inode, found.as_ref())?;
        found.refresh(times.as_ref(), subdirs.as_ref())?;
        found
    } else {
        let [found] = txn.fetch([&key]).await?;
        open_named(inode, found.as_ref())?
    };
    txn.depend(&key);
    Ok(found)
}

/// What comes after a number that counts changes. Each run of the store has numbers of its own: a
/// client may know some that the run before has given and lost with its power.
fn next_number(txn: &Txn<'_>, number: u64) -> u64 {
    let first = txn.run().unwrap_or_default().saturating_sub(1) << 32;
    (number + 1).max(first)
}

/// Stores an inode that has changed.
fn store(txn: &mut Txn<'_>, inode: &mut Inode) {
    inode.attr.changes = next_number(txn, inode.attr.changes);
    txn.set(inode_key(inode.attr.inode), inode.seal());
}

/// Notes that entries of a directory changed now. Conflicts with nobody.
fn touch(txn: &mut Txn<'_>, directory: InodeId, now_ns: i64) {
    let times = TimesV1 { mtime_ns: now_ns, ctime_ns: now_ns };
    txn.set(times_key(directory), seal_times(times));
}

/// Changes the number of a directory's subdirectories. Conflicts with nobody.
fn add_subdirs(txn: &mut Txn<'_>, directory: InodeId, change: i64) {
    if change != 0 {
        txn.add(subdirs_key(directory), change);
    }
}

/// The answer this request got before, from what is stored at its `recent_key`.
fn answered(op: RequestId, stored: Option<&Bytes>) -> Result<Option<Answer>, MetaError> {
    let Some(stored) = stored.filter(|_| op != RequestId::default()) else {
        return Ok(None);
    };
    let (seq, answer) = open_recent(op, stored)?;
    if seq > op.seq {
        return Err(MetaError::InvalidArgument(format!(
            "request {} of session {} is too old: {seq} has been answered",
            op.seq, op.session
        )));
    }
    match answer {
        Answer::Refused(why) if seq == op.seq => Err(why),
        answer => Ok((seq == op.seq).then_some(answer)),
    }
}

/// Keeps the refusal of a request, so that a duplicate that the network delivers late is refused as
/// well, whatever has become of the names meanwhile. `false`: there is an answer already.
pub async fn keep_refusal(txn: &mut Txn<'_>, op: RequestId, why: &MetaError) -> Done<bool> {
    let Some(refused) = seal_refused(op.seq, why) else { return Ok(true) };
    let [stored] = txn.read([&recent_key(op)]).await?;
    if let Some(stored) = &stored
        && open_recent(op, stored)?.0 >= op.seq
    {
        return Ok(false);
    }
    txn.set(recent_key(op), refused);
    Ok(true)
}

fn answered_attr(op: RequestId, stored: Option<&Bytes>) -> Result<Option<Attr>, MetaError> {
    match answered(op, stored)? {
        None => Ok(None),
        Some(Answer::Attr(attr)) => Ok(Some(attr)),
        Some(Answer::Gone(_) | Answer::Refused(_)) => Err(another_request(op)),
    }
}

fn answered_gone(op: RequestId, stored: Option<&Bytes>) -> Result<Option<Gone>, MetaError> {
    match answered(op, stored)? {
        None => Ok(None),
        Some(Answer::Gone(gone)) => Ok(Some(gone)),
        Some(Answer::Attr(_) | Answer::Refused(_)) => Err(another_request(op)),
    }
}

fn another_request(op: RequestId) -> MetaError {
    let RequestId { session, seq } = op;
    MetaError::InvalidArgument(format!("request {seq} of session {session} was another one"))
}

/// Keeps the answer for a retry. A request without a session keeps none.
fn keep_answer(txn: &mut Txn<'_>, op: RequestId, answer: &Answer) {
    if op != RequestId::default() {
        txn.set(recent_key(op), seal_recent(op.seq, answer));
    }
}
