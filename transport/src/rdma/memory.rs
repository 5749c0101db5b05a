//! Memory that devices may reach: one pool a shard, mapped once, handed out in pieces.
//!
//! The pool is a buddy allocator over blocks of 1 MiB: a piece is the smallest power of two of
//! pages that holds what was asked for, taking and giving back are a handful of steps, and what is
//! free merges again. Nothing is handed back to the system before the last piece and the last clone
//! of the pool are gone.
//!
//! A device writes to a piece while nobody in this process looks at it: whoever posts work keeps
//! the piece, untouched, until that work has completed.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// The largest piece, and the unit of a pool's size.
pub(crate) const PIECE_MAX: usize = 1 << 20;
/// The smallest piece.
const PAGE: usize = 4 << 10;
/// Sizes of pieces: `PAGE << order`.
const ORDERS: usize = 9;
const PAGES_OF_BLOCK: usize = PIECE_MAX / PAGE;
const _: () = assert!(PAGE << (ORDERS - 1) == PIECE_MAX);
/// End of a list of free pieces.
const NONE: u32 = u32::MAX;
/// Of a page that does not begin a free piece.
const TAKEN: u8 = u8::MAX;

/// Registered memory of one shard; clones are the same. Pieces may be dropped on any thread.
#[derive(Clone)]
pub(crate) struct RdmaPool(Arc<Shared>);

struct Shared {
    map: Mapping,
    free: Mutex<Free>,
}

struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory that lives until `Shared` is dropped; who may look at which
// part of it is decided by the pieces, of which no two overlap.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `RdmaPool::new` with this length; no piece is left, as each holds the
        // pool.
        let gone = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        gone.expect("our own mapping");
    }
}

/// Free pieces: by size, doubly linked through the numbers of their first pages.
struct Free {
    heads: [u32; ORDERS],
    pages: Vec<Page>,
    bytes: usize,
}

/// Of the first page of a free piece.
#[derive(Clone)]
struct Page {
    order: u8,
    next: u32,
    before: u32,
}

impl RdmaPool {
    /// Maps so many bytes, rounded up to whole blocks of 1 MiB. The error is a sentence.
    pub(crate) fn new(bytes: usize) -> Result<RdmaPool, String> {
        let bytes = bytes.max(1).next_multiple_of(PIECE_MAX);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let base =
            unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE) }
                .map_err(|e| format!("no {} MiB of memory for RDMA transfers: {e}", bytes >> 20))?;
        let map = Mapping { base: NonNull::new(base.cast()).expect("mapped"), bytes };
        // A child process must not make the kernel move pages away from under the device. Large
        // pages are a matter of speed only, and not every kernel has them.
        // SAFETY: our own mapping; neither advice changes what is read from it in this process.
        unsafe { madvise(base, bytes, Advice::LinuxDontFork) }
            .map_err(|e| format!("memory for RDMA transfers cannot be kept out of forks: {e}"))?;
        // SAFETY: as above.
        let _ = unsafe { madvise(base, bytes, Advice::LinuxHugepage) };
        Ok(RdmaPool(Arc::new(Shared { map, free: Mutex::new(Free::new(bytes / PAGE)) })))
    }

    /// A piece with room for `len` bytes, at most `PIECE_MAX`; what was in the memory before is
    /// still there. `None`: there is none now.
    pub(crate) fn take(&self, len: usize) -> Option<PoolPiece> {
        assert!(len <= PIECE_MAX, "no piece has {len} bytes");
        let order = len.div_ceil(PAGE).max(1).next_power_of_two().ilog2() as u8;
        let page = self.free().take(order)?;
        // SAFETY: the page lies in the mapping.
        let start = unsafe { self.0.map.base.add(page as usize * PAGE) };
        let owner = Owner::Pool { pool: self.clone(), page, order };
        Some(PoolPiece { start, capacity: PAGE << order, len, owner })
    }

    /// Bytes in no piece, in pieces of whatever size.
    pub(crate) fn free_bytes(&self) -> usize {
        self.free().bytes
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.map.bytes
    }

    /// True if these bytes lie wholly in the pool.
    pub(crate) fn locate(&self, bytes: &[u8]) -> bool {
        let (base, len) = self.span();
        let start = bytes.as_ptr() as usize;
        start >= base && bytes.len() <= len && start - base <= len - bytes.len()
    }

    /// Address and length of all of it.
    pub(crate) fn span(&self) -> (usize, usize) {
        (self.0.map.base.as_ptr() as usize, self.0.map.bytes)
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.0.free.lock().expect("no panic while held")
    }
}

impl Free {
    fn new(pages: usize) -> Free {
        let blank = Page { order: TAKEN, next: NONE, before: NONE };
        let mut free = Free { heads: [NONE; ORDERS], pages: vec![blank; pages], bytes: 0 };
        // Backwards: the lowest block is taken first.
        for block in (0..pages / PAGES_OF_BLOCK).rev() {
            free.push((block * PAGES_OF_BLOCK) as u32, ORDERS as u8 - 1);
        }
        free.bytes = pages * PAGE;
        free
    }

    fn take(&mut self, order: u8) -> Option<u32> {
        let mut found = (order as usize..ORDERS).find(|o| self.heads[*o] != NONE)? as u8;
        let page = self.heads[found as usize];
        self.unlink(page);
        while found > order {
            found -= 1;
            self.push(page + (1 << found), found);
        }
        self.bytes -= PAGE << order;
        Some(page)
    }

    fn give_back(&mut self, mut page: u32, mut order: u8) {
        self.bytes += PAGE << order;
        while (order as usize) < ORDERS - 1 {
            let buddy = page ^ (1 << order);
            if self.pages[buddy as usize].order != order {
                break;
            }
            self.unlink(buddy);
            page &= !(1 << order);
            order += 1;
        }
        self.push(page, order);
    }

    fn push(&mut self, page: u32, order: u8) {
        let next = std::mem::replace(&mut self.heads[order as usize], page);
        assert_eq!(self.pages[page as usize].order, TAKEN, "page {page} is given back twice");
        self.pages[page as usize] = Page { order, next, before: NONE };
        if next != NONE {
            self.pages[next as usize].before = page;
        }
    }

    fn unlink(&mut self, page: u32) {
        let Page { order, next, before } = self.pages[page as usize].clone();
        self.pages[page as usize].order = TAKEN;
        match before {
            NONE => self.heads[order as usize] = next,
            _ => self.pages[before as usize].next = next,
        }
        if next != NONE {
            self.pages[next as usize].before = before;
        }
    }
}

/// Memory of a pool that one owner has; it goes back when this is dropped.
pub(crate) struct PoolPiece {
    start: NonNull<u8>,
    capacity: usize,
    len: usize,
    owner: Owner,
}

enum Owner {
    Pool {
        pool: RdmaPool,
        page: u32,
        order: u8,
    },
    /// Somebody else's bytes within the pool, read only.
    Bytes {
        _keep: Bytes,
    },
}

// SAFETY: a piece is the only way to its memory, as a `Vec` is, or shares it read-only.
unsafe impl Send for PoolPiece {}
// SAFETY: as above; a shared piece only reads.
unsafe impl Sync for PoolPiece {}

impl PoolPiece {
    /// Bytes that lie in the pool, as a piece that keeps them alive and is only read.
    pub(crate) fn borrowed(pool: &RdmaPool, bytes: Bytes) -> Option<PoolPiece> {
        if bytes.is_empty() || !pool.locate(&bytes) {
            return None;
        }
        let start = NonNull::new(bytes.as_ptr().cast_mut()).expect("not empty");
        let len = bytes.len();
        Some(PoolPiece { start, capacity: len, len, owner: Owner::Bytes { _keep: bytes } })
    }

    /// All of it, beyond the filled part too. Not of a borrowed piece.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        assert!(matches!(self.owner, Owner::Pool { .. }), "borrowed memory is not written to");
        // SAFETY: mapped for as long as the piece lives, initialised (fresh pages are zero), and
        // reached by nobody else: pieces do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.capacity) }
    }

    /// So much of it is filled.
    pub(crate) fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "{len} bytes in a piece of {}", self.capacity);
        self.len = len;
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Where it begins, as devices name it.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// The filled part; the memory goes back with the last clone.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PoolPiece {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: as in `as_mut_slice`; borrowed bytes are kept alive by the piece.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for PoolPiece {
    fn drop(&mut self) {
        if let Owner::Pool { pool, page, order } = &self.owner {
            pool.free().give_back(*page, *order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goal: pieces have room, never overlap, and all of the pool can be had again afterwards.
    /// Method: random takes and drops; each piece is filled with its number, which is still there
    /// when it is dropped.
    #[test]
    fn pieces_do_not_overlap_and_merge_again() {
        let steps = proptest::collection::vec((any::<bool>(), 0..=PIECE_MAX, any::<u16>()), 1..200);
        proptest!(ProptestConfig::with_cases(32), |(steps in steps)| {
            let pool = RdmaPool::new(3 * PIECE_MAX).unwrap();
            let mut held: Vec<(PoolPiece, u8)> = Vec::new();
            for (i, (take, len, which)) in steps.into_iter().enumerate() {
                let len = len >> (which % 16);
                if take && let Some(mut piece) = pool.take(len) {
                    assert!(piece.capacity() >= len && piece.as_ref().len() == len);
                    assert!(piece.capacity() <= (2 * len).max(PAGE));
                    assert!(pool.locate(piece.as_mut_slice()));
                    piece.as_mut_slice().fill(i as u8);
                    held.push((piece, i as u8));
                } else if !held.is_empty() {
                    let (piece, number) = held.swap_remove(which as usize % held.len());
                    assert!(piece.as_ref().iter().all(|b| *b == number));
                }
                let used: usize = held.iter().map(|(piece, _)| piece.capacity()).sum();
                assert_eq!(pool.free_bytes(), pool.bytes() - used);
            }
            held.clear();
            let whole: Vec<_> = (0..3).map(|_| pool.take(PIECE_MAX).unwrap()).collect();
            assert!(pool.take(1).is_none());
            drop(whole);
            assert_eq!(pool.free_bytes(), pool.bytes());
        });
    }

    /// Goal: memory is away for as long as anybody can see it. Method: clones and slices of the
    /// bytes, the last dropped on another thread after the pool.
    #[test]
    fn a_piece_comes_back_with_the_last_of_its_bytes() {
        let pool = RdmaPool::new(1).unwrap();
        let mut piece = pool.take(PIECE_MAX).unwrap();
        piece.as_mut_slice()[..5].copy_from_slice(b"hello");
        piece.set_len(5);
        let bytes = piece.into_bytes();
        let part = bytes.slice(1..3);
        drop(bytes);
        assert!(pool.take(1).is_none());
        drop(pool);
        std::thread::spawn(move || assert_eq!(&part[..], b"el")).join().unwrap();
    }

    /// Goal: what lies in the pool is sent from there, anything else is not taken for it. Method:
    /// parts of a piece, bytes of the heap, and bytes of another pool.
    #[test]
    fn borrowed_memory_is_found_and_kept() {
        let (pool, other) = (RdmaPool::new(1).unwrap(), RdmaPool::new(1).unwrap());
        let mut piece = pool.take(PIECE_MAX).unwrap();
        piece.as_mut_slice()[7] = 77;
        let bytes = piece.into_bytes();
        let address = bytes.as_ptr() as u64;
        assert!(PoolPiece::borrowed(&other, bytes.clone()).is_none());
        assert!(PoolPiece::borrowed(&pool, Bytes::from(vec![1; 100])).is_none());
        assert!(PoolPiece::borrowed(&pool, Bytes::new()).is_none());
        let part = PoolPiece::borrowed(&pool, bytes.slice(7..)).unwrap();
        drop(bytes);
        assert_eq!((part.address(), part.as_ref()[0]), (address + 7, 77));
        assert_eq!(pool.free_bytes(), 0);
        drop(part);
        assert_eq!(pool.free_bytes(), pool.bytes());
    }
}
