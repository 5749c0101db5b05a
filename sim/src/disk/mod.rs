//! A disk in memory that keeps what was synced apart from what was only written.
//!
//! It promises exactly what `runtime::disk` asks of a backend and no more: [`SimDisk::crash`]
//! keeps, loses or tears (by 512-byte sectors) every write that was not synced, in any combination,
//! and the same for lengths, reservations and names. A sync covers the writes that completed before
//! it was called. Content that was synced stays with its file, whatever becomes of its name.
//!
//! Operations start and finish apart: the world decides how long they take. A clone is a snapshot
//! and cheap (blocks are shared), so that many crash states can be explored from one point.

mod crash;
mod hands;
mod image;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::rc::Rc;

use t3fs_runtime::disk::{
    ALIGN, DiskBuf, DiskError, DiskOp, DiskReply, DiskResult, DiskSpace, FileId, OpenMode,
};

use crate::rng::Rng;
use image::{Change, Image, blocks_of};
use names::{Folder, ROOT};

type Inode = u64;

/// How long operations take, in microseconds of virtual time: uniform in a range, plus the time the
/// bytes need, plus now and then a hiccup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpeed {
    pub read_us: (u64, u64),
    pub write_us: (u64, u64),
    pub sync_us: (u64, u64),
    /// Opening, renaming, removing and listing.
    pub name_us: (u64, u64),
    pub bytes_per_us: u64,
    pub hiccup_ppm: u32,
    pub hiccup_us: u64,
}

impl Default for DiskSpeed {
    /// A good NVMe drive.
    fn default() -> Self {
        DiskSpeed {
            read_us: (60, 120),
            write_us: (15, 60),
            sync_us: (50, 400),
            name_us: (5, 50),
            bytes_per_us: 2_000,
            hiccup_ppm: 0,
            hiccup_us: 50_000,
        }
    }
}

/// What may go wrong while the power is on; chances in parts per million of operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    pub read_error_ppm: u32,
    /// Part of the write may have happened.
    pub write_error_ppm: u32,
    pub sync_error_ppm: u32,
    /// A write or reservation that finds no space although there is some.
    pub no_space_ppm: u32,
    /// A bit that flips on the way to the medium and stays.
    pub flip_on_write_ppm: u32,
    /// A bit that flips on the way from the medium.
    pub flip_on_read_ppm: u32,
    /// Every operation fails.
    pub dead: bool,
}

/// What became of a disk's operations, for coverage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    pub ops: u64,
    pub read_errors: u64,
    pub write_errors: u64,
    pub sync_errors: u64,
    pub no_space: u64,
    pub flips: u64,
    pub crashes: u64,
    pub kept: u64,
    pub lost: u64,
    pub torn: u64,
    pub names_lost: u64,
}

impl DiskStats {
    pub fn add(&mut self, o: &DiskStats) {
        self.ops += o.ops;
        self.read_errors += o.read_errors;
        self.write_errors += o.write_errors;
        self.sync_errors += o.sync_errors;
        self.no_space += o.no_space;
        self.flips += o.flips;
        self.crashes += o.crashes;
        self.kept += o.kept;
        self.lost += o.lost;
        self.torn += o.torn;
        self.names_lost += o.names_lost;
    }
}

/// An operation that has started and not finished.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(u64);

impl Ticket {
    pub(crate) fn word(self) -> u64 {
        self.0
    }
}

/// A kind of operation, for traces and for counting crash points.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpKind {
    Read,
    Write,
    Sync,
    Space,
    Names,
}

#[derive(Clone, Default)]
struct File {
    /// What a read sees.
    view: Image,
    /// What a crash cannot take.
    durable: Image,
    /// Changes between the two, in the order in which they completed.
    pending: Vec<(u64, Rc<Change>)>,
}

#[derive(Clone)]
enum Node {
    File(File),
    Folder(Folder),
}

#[derive(Clone)]
enum Doing {
    Read { node: Inode, offset: u64, len: usize },
    Change { node: Inode, change: Rc<Change> },
    Sync { node: Inode, upto: u64 },
    Open { path: String, mode: OpenMode, shard: u16 },
    Close { file: FileId },
    MakeDir { path: String },
    List { path: String },
    Rename { from: String, to: String },
    Remove { path: String },
    SyncDir { path: String, upto: u64 },
    Space,
}

#[derive(Clone)]
pub struct SimDisk {
    nodes: BTreeMap<Inode, Node>,
    next_node: Inode,
    open: BTreeMap<FileId, (u16, Inode)>,
    next_file: u32,
    doing: BTreeMap<Ticket, Doing>,
    /// Counts starts and completions, so that a sync knows what came before it.
    clock: u64,
    capacity: u64,
    number: u16,
    pub speed: DiskSpeed,
    pub faults: DiskFaults,
    stats: DiskStats,
}

fn io(what: &str, path: &str, why: &str) -> DiskError {
    DiskError::Io(format!("{what} {path}: {why} (simulated)"))
}

impl SimDisk {
    /// An empty disk of so many bytes. `number` keeps file ids of different disks apart.
    pub fn new(number: u16, capacity: u64) -> SimDisk {
        SimDisk {
            nodes: BTreeMap::from([(ROOT, Node::Folder(Folder::default()))]),
            next_node: ROOT + 1,
            open: BTreeMap::new(),
            next_file: (u32::from(number) << 20) + 1,
            doing: BTreeMap::new(),
            clock: 1,
            capacity,
            number,
            speed: DiskSpeed::default(),
            faults: DiskFaults::default(),
            stats: DiskStats::default(),
        }
    }

    pub fn stats(&self) -> DiskStats {
        self.stats
    }

    fn stamp(&mut self) -> u64 {
        self.clock += 1;
        self.clock - 1
    }

    fn new_node(&mut self, node: Node) -> Inode {
        self.next_node += 1;
        self.nodes.insert(self.next_node - 1, node);
        self.next_node - 1
    }

    fn open_nodes(&self) -> impl Iterator<Item = Inode> + '_ {
        let busy = self.doing.values().filter_map(|d| match d {
            Doing::Read { node, .. } | Doing::Change { node, .. } | Doing::Sync { node, .. } => {
                Some(*node)
            }
            _ => None,
        });
        self.open.values().map(|(_, n)| *n).chain(busy)
    }

    fn file(&self, node: Inode) -> &File {
        match &self.nodes[&node] {
            Node::File(f) => f,
            Node::Folder(_) => unreachable!("only files are opened"),
        }
    }

    fn file_mut(&mut self, node: Inode) -> &mut File {
        match self.nodes.get_mut(&node) {
            Some(Node::File(f)) => f,
            _ => unreachable!("only files are opened"),
        }
    }

    fn opened(&self, file: FileId, shard: u16) -> Inode {
        let (on, node) = self.open.get(&file).copied().expect("a file is used while it is open");
        assert_eq!(on, shard, "a file is used on the shard that opened it");
        node
    }

    /// Begins an operation of a shard; [`SimDisk::finish`] ends it.
    pub fn start(&mut self, op: DiskOp, shard: u16) -> Ticket {
        let stamp = self.stamp();
        self.stats.ops += 1;
        let change = |disk: &SimDisk, file, change| Doing::Change {
            node: disk.opened(file, shard),
            change: Rc::new(change),
        };
        let doing = match op {
            DiskOp::Open { path, mode } => Doing::Open { path, mode, shard },
            DiskOp::Close { file } => {
                self.opened(file, shard);
                Doing::Close { file }
            }
            DiskOp::Alloc { .. } => unreachable!("allocation never reaches a disk"),
            DiskOp::Read { file, offset, len } => {
                Doing::Read { node: self.opened(file, shard), offset, len }
            }
            DiskOp::Write { file, offset, buf } => {
                let first = offset / ALIGN as u64;
                change(self, file, Change::Write { first, blocks: blocks_of(&buf) })
            }
            DiskOp::Sync { file } => Doing::Sync { node: self.opened(file, shard), upto: stamp },
            DiskOp::Allocate { file, offset, len } => {
                change(self, file, Change::Reserve { offset, len })
            }
            DiskOp::Punch { file, offset, len } => {
                change(self, file, Change::Punch { offset, len })
            }
            DiskOp::Truncate { file, len } => change(self, file, Change::Truncate { len }),
            DiskOp::MakeDir { path } => Doing::MakeDir { path },
            DiskOp::List { path } => Doing::List { path },
            DiskOp::Rename { from, to } => Doing::Rename { from, to },
            DiskOp::Remove { path } => Doing::Remove { path },
            DiskOp::SyncDir { path } => Doing::SyncDir { path, upto: stamp },
            DiskOp::Space => Doing::Space,
        };
        self.doing.insert(Ticket(stamp), doing);
        Ticket(stamp)
    }

    /// How long a started operation takes, and how long of that the device can do nothing else.
    pub fn cost_us(&self, ticket: Ticket, rng: &Rng) -> (u64, u64) {
        let s = &self.speed;
        let (range, bytes) = match &self.doing[&ticket] {
            Doing::Read { len, .. } => (s.read_us, *len as u64),
            Doing::Change { change, .. } => match &**change {
                Change::Write { blocks, .. } => (s.write_us, (blocks.len() * ALIGN) as u64),
                _ => (s.name_us, 0),
            },
            Doing::Sync { .. } | Doing::SyncDir { .. } => (s.sync_us, 0),
            _ => (s.name_us, 0),
        };
        let hiccup = if rng.chance(s.hiccup_ppm) { rng.below(s.hiccup_us + 1) } else { 0 };
        let busy = bytes / s.bytes_per_us.max(1);
        (rng.range(range.0..range.1 + 1) + busy + hiccup, busy)
    }

    pub fn kind(&self, ticket: Ticket) -> OpKind {
        match &self.doing[&ticket] {
            Doing::Read { .. } => OpKind::Read,
            Doing::Change { .. } => OpKind::Write,
            Doing::Sync { .. } | Doing::SyncDir { .. } => OpKind::Sync,
            Doing::Space => OpKind::Space,
            _ => OpKind::Names,
        }
    }

    /// Ends an operation: its effect happens now, as one step, and this is its answer.
    pub fn finish(&mut self, ticket: Ticket, rng: &Rng) -> DiskResult {
        let doing = self.doing.remove(&ticket).expect("an operation finishes once");
        if self.faults.dead {
            return Err(io("access", "/", "the device is gone"));
        }
        match doing {
            Doing::Read { node, offset, len } => self.read(node, offset, len, rng),
            Doing::Change { node, change } => self.write(node, change, rng),
            Doing::Sync { node, upto } => {
                if rng.chance(self.faults.sync_error_ppm) {
                    self.stats.sync_errors += 1;
                    return Err(io("fdatasync", &format!("inode {node}"), "input/output error"));
                }
                let file = self.file_mut(node);
                let n = file.pending.partition_point(|(stamp, _)| *stamp < upto);
                for (_, change) in file.pending.drain(..n) {
                    file.durable.apply(&change);
                }
                Ok(DiskReply::Done)
            }
            Doing::Open { path, mode, shard } => self.open(&path, mode, shard),
            Doing::Close { file } => {
                self.open.remove(&file).expect("a file is closed once");
                self.collect();
                Ok(DiskReply::Done)
            }
            Doing::MakeDir { path } => self.make_dir(&path).map(|()| DiskReply::Done),
            Doing::List { path } => {
                let folder = self.find_folder(&path)?;
                Ok(DiskReply::Names(self.folder(folder).view.keys().cloned().collect()))
            }
            Doing::Rename { from, to } => self.rename(&from, &to).map(|()| DiskReply::Done),
            Doing::Remove { path } => self.remove(&path).map(|()| DiskReply::Done),
            Doing::SyncDir { path, upto } => {
                let folder = self.find_folder(&path)?;
                self.settle_names(folder, upto);
                Ok(DiskReply::Done)
            }
            Doing::Space => Ok(DiskReply::Space(self.space())),
        }
    }

    fn open(&mut self, path: &str, mode: OpenMode, shard: u16) -> DiskResult {
        let node = match (self.find(path), mode) {
            (Some(_), OpenMode::New) => return Err(DiskError::Exists),
            (None, OpenMode::Existing) => return Err(DiskError::NotFound),
            (None, _) => self.create(path)?,
            (Some(node), _) => node,
        };
        if !matches!(self.nodes[&node], Node::File(_)) {
            return Err(io("open", path, "is a folder"));
        }
        let file = FileId(self.next_file);
        self.next_file += 1;
        self.open.insert(file, (shard, node));
        Ok(DiskReply::Opened { file, len: self.file(node).view.len })
    }

    fn read(&mut self, node: Inode, offset: u64, len: usize, rng: &Rng) -> DiskResult {
        if rng.chance(self.faults.read_error_ppm) {
            self.stats.read_errors += 1;
            return Err(io("read", &format!("inode {node} at {offset}"), "input/output error"));
        }
        let view = &self.file(node).view;
        if view.len < offset + len as u64 {
            return Err(io("read", &format!("inode {node} at {offset}"), "the file is too short"));
        }
        let mut bytes = view.read(offset, len);
        if rng.chance(self.faults.flip_on_read_ppm) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
            self.stats.flips += 1;
        }
        Ok(DiskReply::Buf(DiskBuf(Box::new(bytes))))
    }

    fn write(&mut self, node: Inode, change: Rc<Change>, rng: &Rng) -> DiskResult {
        let cost = self.file(node).view.cost(&change) * ALIGN as u64;
        let full = cost > 0 && self.used() + cost > self.capacity;
        if full || (cost > 0 && rng.chance(self.faults.no_space_ppm)) {
            self.stats.no_space += 1;
            return Err(DiskError::NoSpace);
        }
        if rng.chance(self.faults.write_error_ppm) {
            self.stats.write_errors += 1;
            self.write_part(node, &change, rng);
            return Err(io("write", &format!("inode {node}"), "input/output error"));
        }
        let stamp = self.stamp();
        let flip = rng.chance(self.faults.flip_on_write_ppm);
        let file = self.file_mut(node);
        file.view.apply(&change);
        file.pending.push((stamp, Rc::clone(&change)));
        if flip && let Change::Write { first, blocks } = &*change {
            let at = first * ALIGN as u64 + rng.below((blocks.len() * ALIGN) as u64);
            self.flip_in(node, at, rng.below(8) as u8);
        }
        Ok(DiskReply::Done)
    }

    /// A failed write: any of its sectors, as one more change that is not synced.
    fn write_part(&mut self, node: Inode, change: &Change, rng: &Rng) {
        let Change::Write { first, blocks } = change else { return };
        let stamp = self.stamp();
        let file = self.file_mut(node);
        let end = first + blocks.len() as u64;
        if end * ALIGN as u64 > file.view.len {
            return; // it would have grown the file, and did not
        }
        file.view.apply_torn(change, rng);
        let blocks = (*first..end).map(|b| file.view.get(b).clone()).collect();
        file.pending.push((stamp, Rc::new(Change::Write { first: *first, blocks })));
    }

    fn flip_in(&mut self, node: Inode, byte: u64, bit: u8) -> bool {
        let block = byte / ALIGN as u64;
        let file = self.file_mut(node);
        if !file.view.flip(byte, bit) {
            return false;
        }
        // The medium itself is wrong: no sync mends it, no crash brings the right bit back.
        let blocks = vec![file.view.get(block).clone()];
        let bad = Change::Write { first: block, blocks };
        file.durable.apply(&bad);
        let last = file.pending.last().map_or(0, |(s, _)| *s);
        file.pending.push((last, Rc::new(bad)));
        self.stats.flips += 1;
        true
    }

    fn used(&self) -> u64 {
        let blocks = self.nodes.values().map(|n| match n {
            Node::File(f) => f.view.reserved,
            Node::Folder(_) => 0,
        });
        blocks.sum::<u64>() * ALIGN as u64
    }

    pub fn space(&self) -> DiskSpace {
        DiskSpace {
            capacity: self.capacity,
            free: self.capacity.saturating_sub(self.used()),
            file_system: u64::from(self.number) + 1,
        }
    }

    pub fn set_capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    /// Damages a file on the medium. False when nothing is stored there.
    pub fn flip_bit(&mut self, path: &str, byte: u64, bit: u8) -> bool {
        match self.find(path) {
            Some(n) if matches!(self.nodes[&n], Node::File(_)) => self.flip_in(n, byte, bit),
            _ => false,
        }
    }

    /// What a file holds at this moment, for oracles.
    pub fn peek(&self, path: &str) -> Option<Vec<u8>> {
        let node = self.find(path)?;
        let Node::File(f) = &self.nodes[&node] else { return None };
        let mut bytes = f.view.read(0, f.view.len as usize);
        bytes.truncate(f.view.len as usize);
        Some(bytes)
    }
}
