//! What clients asked of chunks and what they were told, in the order in which it happened.
//!
//! A chunk is seen as a row of cells; a write puts one value into a range of them, a read shows the
//! values of a range. Order is by a counter, not by time: of two steps at one virtual instant the
//! run still knows which came first.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// A value of a cell that was never written.
pub const BLANK: u64 = 0;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Puts `value` (not [`BLANK`], and in no other write) into these cells; a gap before them
    /// reads as blank.
    Write {
        cells: Range<u32>,
        value: u64,
    },
    /// Cuts, or extends with blank cells.
    Truncate {
        len: u32,
    },
    Remove,
    Read {
        cells: Range<u32>,
    },
}

impl Action {
    pub fn is_read(&self) -> bool {
        matches!(self, Action::Read { .. })
    }
}

/// What a finished operation told its client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Told {
    /// The version that an update made or a read saw; `None` where the interface has none.
    pub version: Option<u64>,
    /// What a read saw of its range, shorter at the end of the chunk; `None` when there is no
    /// chunk. Updates leave it empty.
    pub cells: Option<Vec<u64>>,
}

impl Told {
    pub fn updated(version: u64) -> Told {
        Told { version: Some(version), cells: None }
    }

    pub fn read(version: u64, cells: Vec<u64>) -> Told {
        Told { version: Some(version), cells: Some(cells) }
    }

    pub fn absent() -> Told {
        Told::default()
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Op {
    pub client: u32,
    pub action: Action,
    pub invoked: u64,
    /// When and what the client was told; `None`: unknown. An update of unknown outcome may take
    /// effect at any later time, or never.
    pub returned: Option<(u64, Told)>,
}

/// Names a recorded operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpId {
    chunk: u64,
    index: usize,
}

#[derive(Default)]
struct Chunks {
    ops: BTreeMap<u64, Vec<Option<Op>>>,
    clock: u64,
}

/// Records what many clients do to many chunks; a clone is the same record.
#[derive(Clone, Default)]
pub struct History(Rc<RefCell<Chunks>>);

impl History {
    pub fn new() -> History {
        History::default()
    }

    pub fn invoke(&self, chunk: u64, client: u32, action: Action) -> OpId {
        let mut h = self.0.borrow_mut();
        h.clock += 1;
        let op = Op { client, action, invoked: h.clock, returned: None };
        let ops = h.ops.entry(chunk).or_default();
        ops.push(Some(op));
        OpId { chunk, index: ops.len() - 1 }
    }

    /// The client was told. Without this call the outcome stays unknown.
    pub fn returned(&self, id: OpId, told: Told) {
        let mut h = self.0.borrow_mut();
        h.clock += 1;
        let at = h.clock;
        let op = h.ops.get_mut(&id.chunk).and_then(|ops| ops[id.index].as_mut());
        let op = op.expect("an operation returns after its invocation, and once");
        assert!(op.returned.is_none(), "an operation returns once");
        op.returned = Some((at, told));
    }

    /// The operation certainly did not happen.
    pub fn refused(&self, id: OpId) {
        let mut h = self.0.borrow_mut();
        let op = h.ops.get_mut(&id.chunk).map(|ops| ops[id.index].take());
        assert!(op.flatten().is_some_and(|o| o.returned.is_none()), "refused once, unreturned");
    }

    /// Operations recorded, without the refused ones.
    pub fn len(&self) -> usize {
        self.0.borrow().ops.values().flatten().flatten().count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Finished operations.
    pub fn finished(&self) -> usize {
        let h = self.0.borrow();
        h.ops.values().flatten().flatten().filter(|o| o.returned.is_some()).count()
    }

    pub fn chunk(&self, chunk: u64) -> Vec<Op> {
        let h = self.0.borrow();
        h.ops.get(&chunk).into_iter().flatten().flatten().cloned().collect()
    }

    /// The chunks that something was asked of.
    pub fn chunks(&self) -> Vec<u64> {
        self.0.borrow().ops.keys().copied().collect()
    }
}
