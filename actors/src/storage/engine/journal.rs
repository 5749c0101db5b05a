//! The journal's queue and position; `log.rs` does its disk operations.
//!
//! Segments `journal-%08x` of a fixed length, written with zeros when made, hold blocks
//! (`block.rs`) of records (`record.rs`) one behind the other. One group of records is written and
//! synced at a time; what arrives meanwhile is the next group. The log is the run of blocks, over
//! the segments in order, whose sequence is one more than the last and whose epoch is not lower.
//! Sequences are never used twice for a valid block, and each opening begins a new segment with a
//! higher epoch, so what an older life left behind a torn block, or in a recycled segment, cannot
//! be taken for a continuation.

use std::collections::VecDeque;

use t3fs_runtime::{Bell, FileId, Slot};

use super::block::{HEADER, block_len};
use super::checkpoint::Start;
use super::error::EngineError;
use super::record::Record;

/// Most payload of one block.
pub const GROUP_MAX: usize = 1 << 20;

pub type Done = Slot<Result<(), EngineError>>;

pub struct Entry {
    pub usn: u64,
    pub record: Record,
    /// Whom to tell; nobody waits for a lazy commit.
    pub done: Option<Done>,
    /// Overlay bytes reserved for it.
    pub reserved: usize,
}

/// Where the next block goes.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    pub segment: u32,
    pub file: FileId,
    pub at: u64,
}

pub struct Journal {
    queue: VecDeque<Entry>,
    urgent: usize,
    next_usn: u64,
    /// The highest version that any chunk ever had.
    pub top_version: u64,
    pub next_seq: u64,
    pub epoch: u32,
    pub tail: Tail,
    /// The next segment, ready to be written to.
    pub spare: Option<FileId>,
    pub preparing: bool,
    /// A task writes groups.
    pub writing: bool,
    /// A task will write what nobody waits for.
    pub lazy_armed: bool,
    /// For the tasks that wait for a new segment, with everything older installed.
    pub rotated: Bell<Result<(u32, Start), EngineError>>,
    /// The segment that the newest checkpoint goes with.
    pub checkpoint: u32,
    /// Segments of before that, to be used again.
    pub retired: Vec<u32>,
}

impl Journal {
    pub fn new(tail: Tail, epoch: u32, next: Start, checkpoint: u32) -> Journal {
        Journal {
            queue: VecDeque::new(),
            urgent: 0,
            next_usn: next.usn,
            top_version: next.version,
            next_seq: next.seq,
            epoch,
            tail,
            spare: None,
            preparing: false,
            writing: false,
            lazy_armed: false,
            rotated: Bell::default(),
            checkpoint,
            retired: Vec::new(),
        }
    }

    pub fn push(&mut self, record: Record, done: Option<Done>, reserved: usize) {
        self.urgent += usize::from(done.is_some());
        self.top_version = self.top_version.max(record.version().0);
        self.queue.push_back(Entry { usn: self.next_usn, record, done, reserved });
        self.next_usn += 1;
    }

    /// The present segment, and what a checkpoint that goes with it begins with.
    pub fn start(&self) -> (u32, Start) {
        let usn = self.queue.front().map_or(self.next_usn, |e| e.usn);
        (self.tail.segment, Start { seq: self.next_seq, usn, version: self.top_version })
    }

    /// Whether somebody waits for a group or a rotation.
    pub fn wanted(&self) -> bool {
        self.urgent > 0 || !self.rotated.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes the next group: as many records as fit a block.
    pub fn take_group(&mut self, segment_bytes: u64) -> Vec<Entry> {
        let max = GROUP_MAX.min(segment_bytes as usize - HEADER);
        let mut bytes = 0;
        let mut group = Vec::new();
        while let Some(e) = self.queue.front() {
            bytes += e.record.size_bound();
            if bytes > max && !group.is_empty() {
                break;
            }
            self.urgent -= usize::from(e.done.is_some());
            group.extend(self.queue.pop_front());
        }
        group
    }

    /// Everything queued, for when nothing can be written any more.
    pub fn drain(&mut self) -> Vec<Entry> {
        self.urgent = 0;
        self.queue.drain(..).collect()
    }

    pub fn fits(&self, payload: usize, segment_bytes: u64) -> bool {
        self.tail.at + block_len(payload) as u64 <= segment_bytes
    }

    /// The place of a block, which is then taken.
    pub fn place(&mut self, payload: usize) -> (Tail, u64) {
        let at = self.tail;
        let seq = self.next_seq;
        self.tail.at += block_len(payload) as u64;
        self.next_seq += 1;
        (at, seq)
    }
}
