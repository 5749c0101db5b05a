//! Checks everything that is stored: every entry has its inode, link counts are right, nothing is
//! lost outside the garbage. For `t3fs-node check` and the simulator.
//!
//! Memory: about 64 bytes an inode. Pages are read one after the other, each at a version of its
//! own, so nothing may change meanwhile; what changes is reported as damage.

use std::collections::BTreeMap;

use t3fs_runtime::{Addr, Cx};

use super::kv::client::{Stop, Txn};
use super::kv::known::KnownStore;
use super::kv::{KeyRange, KvError};
use super::schema::*;
use crate::proto::ids::{InodeId, SessionId};
use crate::proto::kv::Kv;
use crate::proto::meta::{FileType, MetaError, ROOT};

/// Most problems that are listed.
const LISTED_MAX: usize = 1000;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    pub files: u64,
    pub directories: u64,
    /// Symlinks and special files.
    pub others: u64,
    /// Without a name, content not yet removed.
    pub garbage: u64,
    /// Files that sessions have open, at most 1000.
    pub holds: Vec<(InodeId, SessionId)>,
    /// Sessions that open every file with a hold.
    pub sharing: Vec<SessionId>,
    /// One sentence each, at most 1000; `damaged` counts all.
    pub problems: Vec<String>,
    pub damaged: u64,
}

struct Known {
    kind: FileType,
    nlink: u32,
    parent: u64,
    /// Entries that name it, and the directory of the last one.
    entries: u32,
    named_in: u64,
    subdirs: u32,
    garbage: bool,
}

struct Check<'a> {
    cx: &'a Cx,
    store: KnownStore,
    inodes: BTreeMap<u64, Known>,
    report: FsckReport,
}

/// Checks a store at rest. An error means that it could not be read.
pub async fn fsck(cx: &Cx, kv: Addr<Kv>) -> Result<FsckReport, Stop<MetaError>> {
    let mut check =
        Check { cx, store: kv.into(), inodes: BTreeMap::new(), report: FsckReport::default() };
    check.inodes().await?;
    check.entries().await?;
    check.garbage().await?;
    check.directory_keys().await?;
    check.links();
    check.numbers().await?;
    Ok(check.report)
}

impl Check<'_> {
    fn problem(&mut self, sentence: String) {
        self.report.damaged += 1;
        if self.report.problems.len() < LISTED_MAX {
            self.report.problems.push(sentence);
        }
    }

    /// Each key of a prefix, by number and rest, with its value.
    async fn each(
        &mut self,
        prefix: u8,
        mut step: impl FnMut(&mut Self, u64, &[u8], &[u8]),
    ) -> Result<(), KvError> {
        let mut range = all(prefix);
        loop {
            let page = Txn::new(self.cx, &self.store).fetch_range(&range, 0, false).await?;
            for (key, value) in &page.rows {
                match split_key(key) {
                    Some((number, rest)) => step(self, number, rest, value),
                    None => self.problem(format!("key {} is none of ours", key.escape_ascii())),
                }
            }
            if !page.more {
                return Ok(());
            }
            range = KeyRange::new(page.covered.end, range.end);
        }
    }

    async fn inodes(&mut self) -> Result<(), KvError> {
        self.each(b'I', |check, number, _, value| {
            let found = match Inode::open(InodeId(number), value) {
                Ok(found) => found,
                Err(e) => return check.problem(e.to_string()),
            };
            match found.attr.kind {
                FileType::File => check.report.files += 1,
                FileType::Directory => check.report.directories += 1,
                FileType::Symlink | FileType::Special { .. } => check.report.others += 1,
            }
            if (found.attr.kind == FileType::File) != found.attr.layout.is_some() {
                check.problem(format!("inode {number:#x}: files, and only files, have a layout"));
            }
            let known = Known {
                kind: found.attr.kind,
                nlink: found.attr.nlink,
                parent: found.parent.0,
                entries: 0,
                named_in: 0,
                subdirs: 0,
                garbage: false,
            };
            check.inodes.insert(number, known);
        })
        .await
    }

    async fn entries(&mut self) -> Result<(), KvError> {
        self.each(b'D', |check, parent, name, value| {
            let entry = format!("entry `{}` of {parent:#x}", name.escape_ascii());
            let (inode, kind) = match open_dirent(InodeId(parent), value) {
                Ok(found) => found,
                Err(e) => return check.problem(format!("{entry}: {e}")),
            };
            if super::ops::check_name(name).is_err() {
                check.problem(format!("{entry} has a bad name"));
            }
            match check.inodes.get_mut(&parent) {
                Some(p) if p.kind == FileType::Directory => {
                    p.subdirs += u32::from(kind == FileType::Directory);
                }
                _ => check.problem(format!("{entry}: {parent:#x} is no directory")),
            }
            match check.inodes.get_mut(&inode.0) {
                None => check.problem(format!("{entry}: inode {:#x} does not exist", inode.0)),
                Some(found) => {
                    found.entries += 1;
                    found.named_in = parent;
                    if found.kind != kind {
                        check.problem(format!("{entry}: not the kind of inode {:#x}", inode.0));
                    }
                }
            }
        })
        .await
    }

    async fn garbage(&mut self) -> Result<(), KvError> {
        self.each(b'G', |check, number, _, value| {
            if let Err(e) = GarbageV3::open(InodeId(number), value) {
                check.problem(e.to_string());
            }
            check.report.garbage += 1;
            match check.inodes.get_mut(&number) {
                Some(found) => found.garbage = true,
                None => check.problem(format!("garbage {number:#x} has no inode")),
            }
        })
        .await?;
        self.each(b'E', |check, number, _, value| {
            if let Err(e) = TurnsV1::open(InodeId(number), value) {
                check.problem(e.to_string());
            }
            if !check.inodes.get(&number).is_some_and(|found| found.kind == FileType::File) {
                check.problem(format!("turns are taken at {number:#x}, which is no file"));
            }
        })
        .await?;
        self.each(b'H', |check, number, rest, value| {
            if let Err(e) = HoldV1::open(InodeId(number), value) {
                check.problem(e.to_string());
            }
            match rest.try_into().map(u64::from_be_bytes) {
                Ok(session) if check.report.holds.len() < LISTED_MAX => {
                    check.report.holds.push((InodeId(number), SessionId(session)));
                }
                Ok(_) => {}
                Err(_) => check.problem(format!("a hold on {number:#x} names no session")),
            }
            if !check.inodes.get(&number).is_some_and(|found| found.kind != FileType::Directory) {
                check.problem(format!("a session holds {number:#x}, which is no file"));
            }
        })
        .await?;
        self.each(b'S', |check, session, rest, value| {
            check.report.sharing.push(SessionId(session));
            if let Err(e) = open_shares(SessionId(session), value) {
                check.problem(e.to_string());
            }
            if !rest.is_empty() {
                check.problem(format!("a record of session {session} has too long a key"));
            }
        })
        .await
    }

    async fn directory_keys(&mut self) -> Result<(), KvError> {
        for prefix in *b"TN" {
            self.each(prefix, |check, number, _, value| {
                let Some(found) = check.inodes.get(&number) else {
                    return check
                        .problem(format!("{number:#x} has times or a count, but no inode"));
                };
                let counted = counter(Some(&bytes::Bytes::copy_from_slice(value)));
                if found.kind != FileType::Directory {
                    check
                        .problem(format!("{number:#x} is no directory but has a directory's keys"));
                } else if prefix == b'T' {
                    if let Err(e) = open_times(InodeId(number), value) {
                        check.problem(e.to_string());
                    }
                } else if counted != u64::from(found.subdirs) {
                    let subdirs = found.subdirs;
                    check.problem(format!("{number:#x} counts {counted} of {subdirs} directories"));
                }
            })
            .await?;
        }
        let mut missing = Vec::new();
        for (number, found) in &self.inodes {
            if found.subdirs > 0 {
                missing.push(subdirs_key(InodeId(*number)));
            }
        }
        for keys in missing.chunks(1024) {
            let values = Txn::new(self.cx, &self.store).fetch_all(keys.to_vec()).await?;
            for (key, _) in keys.iter().zip(values).filter(|(_, value)| value.is_none()) {
                self.problem(format!("{}: no count of subdirectories", key.escape_ascii()));
            }
        }
        Ok(())
    }

    fn links(&mut self) {
        let inodes = std::mem::take(&mut self.inodes);
        match inodes.get(&ROOT.0) {
            Some(root) if root.kind == FileType::Directory && root.entries == 0 => {}
            _ => self.problem("the root is no directory, or an entry names it".into()),
        }
        for (number, found) in &inodes {
            let Known { nlink, entries, .. } = *found;
            if *number == ROOT.0 {
                continue;
            }
            if found.garbage {
                if nlink != 0 || entries != 0 {
                    self.problem(format!("garbage {number:#x}: {nlink} links, {entries} entries"));
                }
            } else if entries == 0 {
                self.problem(format!("inode {number:#x} has no name and is no garbage"));
            } else if found.kind != FileType::Directory {
                if nlink != entries {
                    self.problem(format!("inode {number:#x}: {nlink} links, {entries} entries"));
                }
            } else if entries != 1 || found.named_in != found.parent {
                let parent = found.parent;
                self.problem(format!(
                    "directory {number:#x} has {entries} entries, and {parent:#x} as parent"
                ));
            }
        }
        self.loops(&inodes);
        self.inodes = inodes;
    }

    /// Every directory leads to the root.
    fn loops(&mut self, inodes: &BTreeMap<u64, Known>) {
        let mut reached = std::collections::BTreeSet::from([ROOT.0]);
        for (number, _) in inodes.iter().filter(|(_, k)| k.kind == FileType::Directory) {
            let (mut at, mut path) = (*number, Vec::new());
            while !reached.contains(&at) {
                path.push(at);
                match inodes.get(&at) {
                    Some(found) if path.len() <= inodes.len() => at = found.parent,
                    _ => {
                        self.problem(format!("directory {number:#x} is not below the root"));
                        break;
                    }
                }
            }
            reached.extend(path);
        }
    }

    async fn numbers(&mut self) -> Result<(), Stop<MetaError>> {
        let [alloc] = Txn::new(self.cx, &self.store).fetch([&alloc_key()]).await?;
        let parts = Txn::new(self.cx, &self.store).fetch_range(&all(b'C'), 0, false).await?;
        let counted = sum(parts.rows.iter().map(|(_, part)| part));
        let found = self.inodes.len() as u64;
        if counted != found {
            self.problem(format!("{counted} inodes are counted, {found} exist"));
        }
        let next = alloc.as_deref().map(open_alloc).transpose()?.unwrap_or(INODE_MIN);
        if let Some((last, _)) = self.inodes.last_key_value().filter(|(last, _)| **last >= next) {
            self.problem(format!("inode {last:#x} exists, but numbers from {next:#x} on are free"));
        }
        Ok(())
    }
}

/// The inodes among `inodes` that do not exist, garbage included in what does.
pub async fn missing(cx: &Cx, kv: Addr<Kv>, inodes: &[InodeId]) -> Result<Vec<InodeId>, KvError> {
    let mut missing = Vec::new();
    for some in inodes.chunks(1024) {
        let keys = some.iter().map(|inode| inode_key(*inode)).collect();
        let values = Txn::new(cx, kv).fetch_all(keys).await?;
        let none = some.iter().zip(values).filter(|(_, value)| value.is_none());
        missing.extend(none.map(|(inode, _)| *inode));
    }
    Ok(missing)
}
