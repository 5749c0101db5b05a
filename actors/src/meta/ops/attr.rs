//! Changing attributes.
//!
//! *Lengths.* `(truncations, length)` of a file never decreases lexicographically: a writer's
//! report can only raise it, and a cut through `SetAttr` raises `truncations`. So a report that was
//! sent before a cut and arrives after it does not bring the length back.

use super::create::MODE_BITS;
use super::*;
use crate::proto::meta::{Layout, ReportWrite, SetAttr, SetTime};

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;

/// Changes what is given; `ctime` also without being named.
pub async fn set_attr(txn: &mut Txn<'_>, m: &SetAttr, now_ns: i64) -> Done<Attr> {
    let (key, recent) = (inode_key(m.inode), recent_key(m.op));
    let (times, subdirs) = (times_key(m.inode), subdirs_key(m.inode));
    let [found, times, subdirs, recent] = txn.fetch([&key, &times, &subdirs, &recent]).await?;
    txn.depend(&key);
    txn.depend(&recent_key(m.op));
    if let Some(attr) = answered_attr(m.op, recent.as_ref())? {
        return Ok(attr);
    }
    let mut inode = Inode::open(m.inode, found.as_ref().ok_or(MetaError::Stale)?)?;
    inode.refresh(times.as_ref(), subdirs.as_ref())?;
    if let Some(length) = m.length {
        set_length(&mut inode.attr, length)?;
    }
    let at = |time: SetTime| match time {
        SetTime::Now => now_ns,
        SetTime::At { ns } => ns,
    };
    let attr = &mut inode.attr;
    attr.mode = m.mode.map_or(attr.mode, |mode| mode & MODE_BITS);
    attr.uid = m.uid.unwrap_or(attr.uid);
    attr.gid = m.gid.unwrap_or(attr.gid);
    attr.atime_ns = m.atime.map_or(attr.atime_ns, at);
    let cut = m.length.map(|_| SetTime::Now);
    let mtime = m.mtime.or(cut).map(at);
    attr.mtime_ns = mtime.unwrap_or(attr.mtime_ns);
    attr.ctime_ns = m.ctime.map_or(now_ns, at);
    if let Some(mtime_ns) = mtime.filter(|_| attr.kind == FileType::Directory) {
        // Where its later changes by entries go: the last of both to commit counts.
        let times = TimesV1 { mtime_ns, ctime_ns: attr.ctime_ns };
        txn.set(times_key(m.inode), seal_times(times));
    }
    txn.set(key, inode.seal());
    keep_answer(txn, m.op, &Answer::Attr(inode.attr.clone()));
    Ok(inode.attr)
}

fn set_length(attr: &mut Attr, length: u64) -> Result<(), MetaError> {
    let layout = match attr.kind {
        FileType::File => attr.layout.as_ref(),
        FileType::Directory => return Err(MetaError::IsDirectory),
        FileType::Symlink | FileType::Special { .. } => None,
    };
    let Some(layout) = layout else {
        return Err(MetaError::InvalidArgument("only a file has a length to set".into()));
    };
    check_length(layout, length)?;
    if length < attr.length {
        attr.truncations += 1;
    }
    attr.length = length;
    Ok(())
}

fn check_length(layout: &Layout, length: u64) -> Result<(), MetaError> {
    let chunks = length.div_ceil(u64::from(layout.chunk_size.max(1)));
    if chunks > u64::from(u32::MAX) || i64::try_from(length).is_err() {
        return Err(MetaError::FileTooLarge);
    }
    Ok(())
}

/// Takes a writer's report. One that brings nothing new writes nothing.
pub async fn report_write(txn: &mut Txn<'_>, m: &ReportWrite, now_ns: i64) -> Done<Attr> {
    let key = inode_key(m.inode);
    let [found] = txn.read([&key]).await?;
    let mut inode = Inode::open(m.inode, found.as_ref().ok_or(MetaError::Stale)?)?;
    let before = inode.attr.clone();
    let attr = &mut inode.attr;
    let Some(layout) = &attr.layout else {
        return Err(match attr.kind {
            FileType::Directory => MetaError::IsDirectory,
            _ => MetaError::InvalidArgument("only a file is written to".into()),
        }
        .into());
    };
    check_length(layout, m.length)?;
    (attr.truncations, attr.length) =
        (attr.truncations, attr.length).max((m.truncations, m.length));
    attr.mtime_ns = attr.mtime_ns.max(m.mtime_ns.unwrap_or(i64::MIN));
    attr.atime_ns = attr.atime_ns.max(m.atime_ns.unwrap_or(i64::MIN));
    if m.clear_suid {
        attr.mode &= !SETUID;
        // Without group execution the bit means mandatory locking, not an identity.
        if attr.mode & GROUP_EXECUTE != 0 {
            attr.mode &= !SETGID;
        }
    }
    let atime_only = Attr { atime_ns: before.atime_ns, ..attr.clone() } == before;
    if !atime_only {
        attr.ctime_ns = attr.ctime_ns.max(now_ns);
    }
    if inode.attr != before {
        txn.set(key, inode.seal());
    }
    Ok(inode.attr)
}
