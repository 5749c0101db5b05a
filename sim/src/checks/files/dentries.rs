//! What the kernel of a mount remembers of names, for as long as its client allows.

use std::collections::{BTreeMap, VecDeque};

use t3fs_actors::proto::ids::InodeId;
use t3fs_runtime::Time;

/// A name in a directory.
pub(super) type Key = (InodeId, Vec<u8>);

/// The names of one mount.
///
/// A kernel locks a directory while one of its names changes, so that no lookup is under way then.
/// Here an answer to a lookup is not remembered if a change of names was under way meanwhile, one
/// that had begun before it included (seed 23900).
#[derive(Default)]
pub(super) struct Dentries {
    /// What a name holds, and until when that need not be asked.
    known: BTreeMap<Key, (InodeId, Time)>,
    /// Changes of names that have begun.
    begun: u64,
    /// The changes that have not ended.
    under_way: u64,
    /// The tasks that make a name or wait for that, in their order.
    lines: BTreeMap<Key, VecDeque<u64>>,
    tickets: u64,
}

/// When a lookup began; `None`: while a name changed.
#[derive(Clone, Copy)]
pub(super) struct Began(Option<u64>);

impl Dentries {
    /// What the name holds, if that need not be asked now.
    pub(super) fn find(&self, now: Time, dir: InodeId, name: &[u8]) -> Option<InodeId> {
        let (inode, until) = self.known.get(&(dir, name.to_vec()))?;
        (now < *until).then_some(*inode)
    }

    /// A lookup begins.
    pub(super) fn look(&self) -> Began {
        Began((self.under_way == 0).then_some(self.begun))
    }

    /// A lookup is answered.
    pub(super) fn looked(&mut self, began: Began, key: Key, inode: InodeId, until: Time) {
        if began.0 == Some(self.begun) && self.under_way == 0 {
            self.known.insert(key, (inode, until));
        }
    }

    /// What a name holds is not known any more.
    pub(super) fn forget(&mut self, key: &Key) {
        self.known.remove(key);
    }

    /// Joins the line of those who want the name.
    pub(super) fn join(&mut self, key: &Key) -> u64 {
        self.tickets += 1;
        self.lines.entry(key.clone()).or_default().push_back(self.tickets);
        self.tickets
    }

    /// Whether it is this one's turn.
    pub(super) fn is_first(&self, key: &Key, ticket: u64) -> bool {
        self.lines.get(key).is_some_and(|line| line.front() == Some(&ticket))
    }

    /// Lets the next one have it.
    pub(super) fn leave(&mut self, key: &Key) {
        self.lines.get_mut(key).map(VecDeque::pop_front);
        self.lines.retain(|_, line| !line.is_empty());
    }

    /// Leaves the line.
    pub(super) fn give_up(&mut self, key: &Key, ticket: u64) {
        if let Some(line) = self.lines.get_mut(key) {
            line.retain(|t| *t != ticket);
        }
    }

    /// A change of names begins.
    pub(super) fn begin(&mut self) {
        self.begun += 1;
        self.under_way += 1;
    }

    /// A change has ended as it may: what is remembered stays.
    pub(super) fn end(&mut self) {
        self.under_way -= 1;
    }

    /// A name was made.
    pub(super) fn made(&mut self, key: Key, inode: InodeId, until: Time) {
        self.end();
        self.known.insert(key, (inode, until));
    }

    /// A rename was carried out; what was known of a name goes with it.
    pub(super) fn moved(&mut self, from: Key, to: Key, exchange: bool) {
        self.end();
        let (one, other) = (self.known.remove(&from), self.known.remove(&to));
        if let Some(one) = one {
            self.known.insert(to, one);
        }
        if let Some(other) = other.filter(|_| exchange) {
            self.known.insert(from, other);
        }
    }
}
