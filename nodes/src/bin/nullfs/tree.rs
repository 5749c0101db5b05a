//! The namespace of nullfs: inodes and folders in sharded maps, so that event loops rarely meet.
//!
//! It keeps what the kernel needs to see consistent answers (names, kinds, lengths, modes, times)
//! and nothing else. Locks are held for one map entry at a time, never two, so they cannot
//! deadlock; a rename is therefore not atomic for other event loops, but the kernel serialises
//! those itself.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use dashmap::DashMap;

use t3fs_nodes::fuse::kernel::{FileAttr, FileType, INodeNo};
use t3fs_nodes::fuse::options;

/// One line of a folder listing.
#[derive(Clone)]
pub struct Listed {
    pub ino: u64,
    pub kind: FileType,
    pub name: OsString,
}

pub struct Tree {
    inodes: DashMap<u64, FileAttr>,
    /// Names per folder, sorted so that a listing needs no order of its own.
    folders: DashMap<u64, BTreeMap<OsString, u64>>,
    /// Listings of open folders, by handle: an open folder is read as it was when it was opened.
    listings: DashMap<u64, Arc<[Listed]>>,
    /// Source of inode numbers and folder handles.
    next: AtomicU64,
}

impl Default for Tree {
    fn default() -> Tree {
        let tree = Tree {
            inodes: DashMap::new(),
            folders: DashMap::new(),
            listings: DashMap::new(),
            next: AtomicU64::new(INodeNo::ROOT.0 + 1),
        };
        let root = new_attr(INodeNo::ROOT.0, FileType::Directory, 0o755, (0, 0));
        tree.inodes.insert(INodeNo::ROOT.0, root);
        tree.folders.insert(INodeNo::ROOT.0, BTreeMap::new());
        tree
    }
}

fn new_attr(ino: u64, kind: FileType, perm: u16, (uid, gid): (u32, u32)) -> FileAttr {
    let now = SystemTime::now();
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        kind,
        perm,
        nlink: if kind == FileType::Directory { 2 } else { 1 },
        uid,
        gid,
        rdev: 0,
        blksize: options::PREFERRED_IO_BYTES,
    }
}

impl Tree {
    pub fn attr(&self, ino: u64) -> Option<FileAttr> {
        self.inodes.get(&ino).map(|attr| *attr)
    }

    /// Changes the attributes of an inode in place and returns them.
    pub fn change(&self, ino: u64, change: impl FnOnce(&mut FileAttr)) -> Option<FileAttr> {
        let mut attr = self.inodes.get_mut(&ino)?;
        change(&mut attr);
        attr.blocks = attr.size.div_ceil(512);
        Some(*attr)
    }

    pub fn lookup(&self, parent: u64, name: &OsStr) -> Option<FileAttr> {
        let ino = *self.folders.get(&parent)?.get(name)?;
        self.attr(ino)
    }

    /// Adds a file or folder; `None` if the parent is gone. The kernel has looked the name up
    /// before and holds the parent's lock, so the name is free.
    pub fn add(
        &self,
        parent: u64,
        name: &OsStr,
        kind: FileType,
        perm: u16,
        owner: (u32, u32),
    ) -> Option<FileAttr> {
        let ino = self.next.fetch_add(1, Ordering::Relaxed);
        let attr = new_attr(ino, kind, perm, owner);
        self.inodes.insert(ino, attr);
        if kind == FileType::Directory {
            self.folders.insert(ino, BTreeMap::new());
        }
        self.folders.get_mut(&parent)?.insert(name.to_owned(), ino);
        Some(attr)
    }

    /// Takes a name away, and with it the inode: there are no hard links here.
    pub fn remove(&self, parent: u64, name: &OsStr) -> Option<()> {
        let ino = self.folders.get_mut(&parent)?.remove(name)?;
        self.inodes.remove(&ino);
        self.folders.remove(&ino);
        Some(())
    }

    /// True if the folder `name` in `parent` has entries.
    pub fn is_full(&self, parent: u64, name: &OsStr) -> bool {
        let ino = self.folders.get(&parent).and_then(|names| names.get(name).copied());
        let folder = ino.and_then(|ino| self.folders.get(&ino));
        folder.is_some_and(|names| !names.is_empty())
    }

    /// Moves a name, replacing what was there.
    pub fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Option<()> {
        let ino = self.folders.get_mut(&from.0)?.remove(from.1)?;
        let replaced = self.folders.get_mut(&to.0)?.insert(to.1.to_owned(), ino);
        if let Some(replaced) = replaced.filter(|replaced| *replaced != ino) {
            self.inodes.remove(&replaced);
            self.folders.remove(&replaced);
        }
        Some(())
    }

    /// Opens a folder for reading; returns the handle of its listing.
    pub fn open_listing(&self, ino: u64) -> Option<u64> {
        let mut listing = vec![
            Listed { ino, kind: FileType::Directory, name: ".".into() },
            // The kernel replaces the number of `..` with its own.
            Listed { ino, kind: FileType::Directory, name: "..".into() },
        ];
        let names: Vec<(OsString, u64)> =
            self.folders.get(&ino)?.iter().map(|(name, ino)| (name.clone(), *ino)).collect();
        for (name, ino) in names {
            // Absent means removed since the names were copied.
            if let Some(attr) = self.attr(ino) {
                listing.push(Listed { ino, kind: attr.kind, name });
            }
        }
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.listings.insert(handle, listing.into());
        Some(handle)
    }

    pub fn listing(&self, handle: u64) -> Option<Arc<[Listed]>> {
        self.listings.get(&handle).map(|listing| Arc::clone(&listing))
    }

    pub fn close_listing(&self, handle: u64) {
        self.listings.remove(&handle);
    }

    /// Number of inodes, the root included.
    pub fn inodes(&self) -> u64 {
        self.inodes.len() as u64
    }
}
