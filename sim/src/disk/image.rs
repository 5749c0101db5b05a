//! The content of one file: sparse, in blocks that are shared until written.
//!
//! A clone costs one reference count; the first change after it copies the list of leaves, and one
//! leaf of 64 block pointers per leaf touched, never a block that is not written.

use std::collections::BTreeMap;
use std::rc::Rc;

use t3fs_runtime::disk::ALIGN;

use crate::rng::Rng;

pub(crate) type Block = [u8; ALIGN];
/// `None` is a block of zeros.
pub(crate) type Content = Option<Rc<Block>>;

const LEAF: u64 = 64;
const SECTOR: usize = 512;
static ZERO: Block = [0; ALIGN];

#[derive(Clone)]
struct Leaf {
    /// Which blocks take space on the device.
    reserved: u64,
    blocks: [Content; LEAF as usize],
}

impl Default for Leaf {
    fn default() -> Self {
        Leaf { reserved: 0, blocks: [const { None }; LEAF as usize] }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Image {
    leaves: Rc<BTreeMap<u64, Rc<Leaf>>>,
    pub(crate) len: u64,
    /// Blocks that take space.
    pub(crate) reserved: u64,
}

/// One change of a file's content or length. Whole blocks, shared with the images it went into.
pub(crate) enum Change {
    Write { first: u64, blocks: Vec<Content> },
    Truncate { len: u64 },
    Reserve { offset: u64, len: u64 },
    Punch { offset: u64, len: u64 },
}

/// Blocks of a buffer; zeros take no memory.
pub(crate) fn blocks_of(bytes: &[u8]) -> Vec<Content> {
    let block = |b: &[u8]| -> Content {
        (b != ZERO).then(|| Rc::new(b.try_into().expect("buffers are whole blocks")))
    };
    bytes.chunks_exact(ALIGN).map(block).collect()
}

pub(crate) fn bytes_of(c: &Content) -> &Block {
    c.as_deref().unwrap_or(&ZERO)
}

fn block_range(offset: u64, len: u64) -> std::ops::Range<u64> {
    offset / ALIGN as u64..(offset + len).div_ceil(ALIGN as u64)
}

impl Image {
    pub(crate) fn get(&self, block: u64) -> &Content {
        match self.leaves.get(&(block / LEAF)) {
            Some(leaf) => &leaf.blocks[(block % LEAF) as usize],
            None => &None,
        }
    }

    fn is_reserved(&self, block: u64) -> bool {
        let leaf = self.leaves.get(&(block / LEAF));
        leaf.is_some_and(|l| l.reserved >> (block % LEAF) & 1 == 1)
    }

    fn leaf(&mut self, block: u64) -> &mut Leaf {
        Rc::make_mut(Rc::make_mut(&mut self.leaves).entry(block / LEAF).or_default())
    }

    fn set(&mut self, block: u64, content: Content) {
        let leaf = self.leaf(block);
        let bit = 1 << (block % LEAF);
        let new = leaf.reserved & bit == 0;
        leaf.reserved |= bit;
        leaf.blocks[(block % LEAF) as usize] = content;
        self.reserved += u64::from(new);
    }

    fn clear(&mut self, block: u64) {
        if self.is_reserved(block) {
            let leaf = self.leaf(block);
            leaf.reserved &= !(1 << (block % LEAF));
            leaf.blocks[(block % LEAF) as usize] = None;
            self.reserved -= 1;
        }
    }

    /// Zeros `from..to` within one block, in a copy of it.
    fn zero_part(&mut self, block: u64, from: usize, to: usize) {
        if let Some(old) = self.get(block) {
            let mut b = **old;
            b[from..to].fill(0);
            self.set(block, blocks_of(&b).remove(0));
        }
    }

    /// Blocks that a change would take in addition.
    pub(crate) fn cost(&self, change: &Change) -> u64 {
        let range = match change {
            Change::Write { first, blocks } => *first..first + blocks.len() as u64,
            Change::Reserve { offset, len } => block_range(*offset, *len),
            Change::Truncate { .. } | Change::Punch { .. } => return 0,
        };
        range.filter(|b| !self.is_reserved(*b)).count() as u64
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { first, blocks } => {
                for (i, b) in blocks.iter().enumerate() {
                    self.set(first + i as u64, b.clone());
                }
                self.grow((first + blocks.len() as u64) * ALIGN as u64);
            }
            Change::Truncate { len } => self.truncate(*len),
            Change::Reserve { offset, len } => {
                for b in block_range(*offset, *len) {
                    if !self.is_reserved(b) {
                        self.set(b, None);
                    }
                }
                self.grow(offset + len);
            }
            Change::Punch { offset, len } => self.punch(*offset, offset + len),
        }
    }

    /// What a power loss leaves of a change that was not synced: any of its sectors, and the new
    /// length or not.
    pub(crate) fn apply_torn(&mut self, change: &Change, rng: &Rng) {
        let Change::Write { first, blocks } = change else {
            if rng.coin() {
                self.apply(change);
            }
            return;
        };
        // Runs of sectors, as devices and file systems split a write; sometimes single ones.
        let run = [1, 8, 8 * blocks.len() as u64][rng.below(3) as usize];
        let (mut left, mut keep) = (0, false);
        for (i, new) in blocks.iter().enumerate() {
            let block = first + i as u64;
            let mut mixed = *bytes_of(self.get(block));
            let mut any = false;
            for s in 0..ALIGN / SECTOR {
                if left == 0 {
                    left = 1 + rng.below(run);
                    keep = rng.coin();
                }
                left -= 1;
                if keep {
                    let at = s * SECTOR..(s + 1) * SECTOR;
                    mixed[at.clone()].copy_from_slice(&bytes_of(new)[at]);
                    any = true;
                }
            }
            if any {
                self.set(block, blocks_of(&mixed).remove(0));
            }
        }
        if rng.coin() {
            self.grow((first + blocks.len() as u64) * ALIGN as u64);
        }
    }

    /// Frees what a torn write put behind the end of the file.
    pub(crate) fn trim(&mut self) {
        self.truncate(self.len);
    }

    fn grow(&mut self, end: u64) {
        self.len = self.len.max(end);
    }

    fn truncate(&mut self, len: u64) {
        let keep = len.div_ceil(ALIGN as u64);
        let gone: Vec<u64> = self.leaves.range(keep / LEAF..).map(|(l, _)| *l).collect();
        for leaf in gone {
            for b in (leaf * LEAF).max(keep)..(leaf + 1) * LEAF {
                self.clear(b);
            }
            if leaf * LEAF >= keep {
                Rc::make_mut(&mut self.leaves).remove(&leaf);
            }
        }
        let tail = (len % ALIGN as u64) as usize;
        if tail != 0 {
            self.zero_part(len / ALIGN as u64, tail, ALIGN);
        }
        self.len = len;
    }

    fn punch(&mut self, from: u64, to: u64) {
        let to = to.min(self.len.next_multiple_of(ALIGN as u64));
        let mut at = from;
        while at < to {
            let block = at / ALIGN as u64;
            let end = to.min((block + 1) * ALIGN as u64);
            if end - at == ALIGN as u64 {
                self.clear(block);
            } else {
                let begin = block * ALIGN as u64;
                self.zero_part(block, (at - begin) as usize, (end - begin) as usize);
            }
            at = end;
        }
    }

    /// Copies a range of whole blocks.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len);
        for b in block_range(offset, len as u64) {
            out.extend_from_slice(bytes_of(self.get(b)));
        }
        out
    }

    /// Flips one bit; false where there is nothing but zeros that take no space.
    pub(crate) fn flip(&mut self, byte: u64, bit: u8) -> bool {
        let block = byte / ALIGN as u64;
        if byte >= self.len || !self.is_reserved(block) {
            return false;
        }
        let mut b = *bytes_of(self.get(block));
        b[(byte % ALIGN as u64) as usize] ^= 1 << (bit % 8);
        self.set(block, blocks_of(&b).remove(0));
        true
    }
}
