//! Memory for received payloads, used again: fresh pages cost as much as receiving the bytes.
//!
//! A payload's memory comes back when the last clone of its `Bytes` is dropped, on whatever thread.
//! What lies idle is bounded, and given back to the system when nobody needed it for a while.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};

/// Payloads from 16 KiB (exclusive) to 4 MiB are pooled, in classes of powers of two.
const CLASS_MIN: usize = 32 << 10;
const CLASSES: usize = 8;
/// The largest payload that is pooled.
pub(crate) const POOLED_MAX: usize = CLASS_MIN << (CLASSES - 1);
/// Bytes that may lie idle, per shard.
pub const IDLE_MAX: usize = 32 << 20;

// Several of the largest may lie idle.
const _: () = assert!(IDLE_MAX >= 4 * POOLED_MAX);

#[derive(Default)]
struct Class {
    free: Vec<BytesMut>,
    /// The fewest that were free since the last trim: nobody needed those.
    spare: usize,
}

#[derive(Default)]
struct State {
    classes: [Class; CLASSES],
    idle: usize,
}

/// A pool of one shard; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct HeapPool(Arc<Mutex<State>>);

/// Memory on loan to a payload.
struct Loan {
    memory: BytesMut,
    pool: HeapPool,
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.memory));
    }
}

fn class_size(class: usize) -> usize {
    CLASS_MIN << class
}

/// The class for so many bytes, if they are worth it.
fn class_of(len: usize) -> Option<usize> {
    if len <= CLASS_MIN / 2 {
        return None;
    }
    (0..CLASSES).find(|c| len <= class_size(*c))
}

impl HeapPool {
    /// Empty memory with room for so many bytes.
    pub(crate) fn take(&self, len: usize) -> BytesMut {
        let Some(class) = class_of(len) else {
            return BytesMut::with_capacity(len);
        };
        let mut state = self.state();
        let c = &mut state.classes[class];
        let found = c.free.pop();
        c.spare = c.spare.min(c.free.len());
        match found {
            Some(memory) => {
                state.idle -= class_size(class);
                memory
            }
            None => BytesMut::with_capacity(class_size(class)),
        }
    }

    /// The bytes as a payload; its memory comes back by itself.
    pub(crate) fn lend(&self, memory: BytesMut) -> Bytes {
        match memory.capacity() >= CLASS_MIN && class_of(memory.capacity()).is_some() {
            true => Bytes::from_owner(Loan { memory, pool: self.clone() }),
            false => memory.freeze(),
        }
    }

    fn give_back(&self, mut memory: BytesMut) {
        memory.clear();
        let class = class_of(memory.capacity()).filter(|c| class_size(*c) == memory.capacity());
        let mut state = self.state();
        if let Some(class) = class
            && state.idle + class_size(class) <= IDLE_MAX
        {
            state.idle += class_size(class);
            state.classes[class].free.push(memory);
        }
    }

    /// Lets go of what was not needed since the last call.
    pub(crate) fn trim(&self) {
        let mut state = self.state();
        let state = &mut *state;
        for (i, class) in state.classes.iter_mut().enumerate() {
            state.idle -= class.spare * class_size(i);
            class.free.drain(..class.spare);
            class.spare = class.free.len();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(pool: &HeapPool, len: usize, byte: u8) -> Bytes {
        let mut m = pool.take(len);
        assert!(m.is_empty() && m.capacity() >= len);
        m.extend_from_slice(&vec![byte; len]);
        pool.lend(m)
    }

    /// Goal: memory is used again only after its last user is gone. Method: look at addresses.
    #[test]
    fn memory_comes_back_when_nobody_has_it() {
        let pool = HeapPool::default();
        let a = payload(&pool, 100_000, 1);
        let (at, part) = (a.as_ptr(), a.slice(5..10));
        drop(a);
        let b = payload(&pool, 100_000, 2);
        assert_ne!(b.as_ptr(), at);
        assert_eq!(&part[..], [1; 5]);
        std::thread::spawn(move || drop(part)).join().unwrap();
        assert_eq!(payload(&pool, 70_000, 3).as_ptr(), at);
    }

    #[test]
    fn idle_memory_is_bounded_and_goes() {
        let pool = HeapPool::default();
        let all: Vec<_> = (0..64).map(|_| payload(&pool, 1 << 20, 1)).collect();
        drop(all);
        assert_eq!(pool.state().idle, IDLE_MAX);
        pool.trim();
        drop(payload(&pool, 1 << 20, 1));
        pool.trim();
        assert_eq!(pool.state().idle, 1 << 20, "one was needed in that time");
        pool.trim();
        assert_eq!(pool.state().idle, 0);
        for len in [0, 1, CLASS_MIN / 2, 8 << 20] {
            drop(payload(&pool, len, 1));
        }
        assert_eq!(pool.state().idle, 0, "too small or too big to keep");
    }
}
