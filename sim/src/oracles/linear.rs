//! Linearizability of one chunk: is there one order of all operations, within real time, in which
//! each does what it said?
//!
//! The search is Wing and Gong's ("Testing and Verifying Concurrent Objects", 1993) as improved by
//! Lowe ("Testing for Linearizability", 2017): depth first over what may come next, with a memory
//! of the sets of operations already tried in the same state. Three observations keep it short. A
//! read changes nothing, so it goes as early as it fits, without alternatives. Versions order
//! updates, so an update that told its version has one place; and a state of version v must agree
//! with every read that saw v, so a guess which unknown update filled a gap is refuted at once.
//! Only gaps branch.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Action, BLANK, History, Op, Told};

/// What can be said of a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Linearizable,
    Broken(Violation),
    /// The search gave up. Keep histories per chunk short.
    Undecided,
}

/// What is wrong, for a reader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub chunk: Option<u64>,
    /// The nearest plain name for it.
    pub what: String,
    /// The operations it shows in.
    pub ops: Vec<Op>,
}

impl Violation {
    pub(crate) fn in_chunk(mut self, chunk: u64) -> Violation {
        self.chunk = Some(chunk);
        self
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not linearizable")?;
        if let Some(chunk) = self.chunk {
            write!(f, " (chunk {chunk:#x})")?;
        }
        write!(f, ": {}", self.what)?;
        for op in &self.ops {
            write!(f, "\n  client {} {:?} invoked {}", op.client, op.action, op.invoked)?;
            match &op.returned {
                Some((at, told)) => write!(f, " returned {at} {told:?}")?,
                None => write!(f, " outcome unknown")?,
            }
        }
        Ok(())
    }
}

/// Steps after which the search gives up.
const STEPS_MAX: u64 = 2_000_000;
const NONE: usize = usize::MAX;

#[derive(Clone, PartialEq, Eq)]
struct State {
    version: u64,
    exists: bool,
    cells: Vec<u64>,
}

/// splitmix64's finalizer (Steele, Lea, Flood 2014) over a chain: order and zeros count.
fn mix(h: u64, w: u64) -> u64 {
    let z = (h.rotate_left(23) ^ w).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl State {
    fn digest(&self) -> u64 {
        let head = mix(self.version << 1 | u64::from(self.exists), self.cells.len() as u64);
        self.cells.iter().fold(head, |h, c| mix(h, *c))
    }

    /// Whether a read of this range sees this.
    fn shows(&self, action: &Action, told: &Told) -> bool {
        let Action::Read { cells } = action else { return true };
        let Some(seen) = &told.cells else { return !self.exists };
        let len = self.cells.len();
        let range = (cells.start as usize).min(len)..(cells.end as usize).min(len);
        self.exists && told.version.is_none_or(|v| v == self.version) && self.cells[range] == **seen
    }

    /// The state after an update; `None` when it contradicts what the client was told.
    fn after(&self, op: &Op, by_version: &BTreeMap<u64, Vec<usize>>, ops: &[Op]) -> Option<State> {
        let mut next = self.clone();
        next.version += 1;
        match &op.action {
            Action::Write { cells, value } => {
                let (from, to) = (cells.start as usize, cells.end as usize);
                next.exists = true;
                if next.cells.len() < to {
                    next.cells.resize(to, BLANK);
                }
                next.cells[from..to].fill(*value);
            }
            Action::Truncate { len } => {
                next.exists = true;
                next.cells.resize(*len as usize, BLANK);
            }
            Action::Remove => next = State { version: 0, exists: false, cells: Vec::new() },
            Action::Read { .. } => unreachable!("reads do not update"),
        }
        let told = op.returned.as_ref().and_then(|(_, t)| t.version);
        if told.is_some_and(|v| v != self.version + 1) {
            return None;
        }
        let reads = by_version.get(&next.version).into_iter().flatten();
        let agree = |i: &usize| {
            let (_, told) = ops[*i].returned.as_ref().expect("only finished reads are listed");
            next.shows(&ops[*i].action, told)
        };
        reads.into_iter().all(agree).then_some(next)
    }
}

/// The events still to be placed, as a list in order of time: a call per operation, a return per
/// finished one.
struct Line {
    next: Vec<usize>,
    prev: Vec<usize>,
}

impl Line {
    fn unlink(&mut self, e: usize) {
        let (p, n) = (self.prev[e], self.next[e]);
        self.next[p] = n;
        self.prev[n] = p;
    }

    fn relink(&mut self, e: usize) {
        let (p, n) = (self.prev[e], self.next[e]);
        self.next[p] = e;
        self.prev[n] = e;
    }
}

struct Placed {
    op: usize,
    before: State,
    /// There may have been another choice here.
    choice: bool,
}

struct Search<'a> {
    ops: &'a [Op],
    /// Event number of each op's call and return. Event 0 is the list's head, the last its end.
    call: Vec<usize>,
    ret: Vec<usize>,
    op_of: Vec<(usize, bool)>,
    line: Line,
    left: usize,
    /// Finished reads by the version they saw; empty where versions start again.
    reads: BTreeMap<u64, Vec<usize>>,
    /// Versions that a finished update made, while each is made once.
    made: BTreeSet<u64>,
}

impl<'a> Search<'a> {
    fn new(ops: &'a [Op]) -> Search<'a> {
        let mut events: Vec<(u64, usize, bool)> = Vec::new();
        for (i, op) in ops.iter().enumerate() {
            let unknown = op.returned.is_none();
            if unknown && op.action.is_read() {
                continue; // it tells nothing
            }
            events.push((op.invoked, i, false));
            if let Some((at, _)) = &op.returned {
                events.push((*at, i, true));
            }
        }
        events.sort_unstable();
        let n = events.len() + 2;
        let mut s = Search {
            ops,
            call: vec![NONE; ops.len()],
            ret: vec![NONE; ops.len()],
            op_of: vec![(NONE, false)],
            line: Line {
                next: (1..=n).collect(),
                prev: (0..n).map(|e| e.saturating_sub(1)).collect(),
            },
            left: ops.iter().filter(|o| o.returned.is_some()).count(),
            reads: BTreeMap::new(),
            made: BTreeSet::new(),
        };
        for (e, (_, op, is_return)) in events.into_iter().enumerate() {
            let list = if is_return { &mut s.ret } else { &mut s.call };
            list[op] = e + 1;
            s.op_of.push((op, is_return));
        }
        s.op_of.push((NONE, false));
        if !ops.iter().any(|o| o.action == Action::Remove) {
            for (i, op) in ops.iter().enumerate() {
                let Some((_, told)) = &op.returned else { continue };
                match told.version {
                    Some(v) if op.action.is_read() => s.reads.entry(v).or_default().push(i),
                    Some(v) => drop(s.made.insert(v)),
                    None => {}
                }
            }
        }
        s
    }

    fn lift(&mut self, op: usize) {
        self.line.unlink(self.call[op]);
        if self.ret[op] != NONE {
            self.line.unlink(self.ret[op]);
            self.left -= 1;
        }
    }

    fn unlift(&mut self, op: usize) {
        if self.ret[op] != NONE {
            self.line.relink(self.ret[op]);
            self.left += 1;
        }
        self.line.relink(self.call[op]);
    }

    /// The state after this operation, and whether others might come instead of it.
    fn place(&self, op: usize, state: &State) -> Option<(State, bool)> {
        let o = &self.ops[op];
        match &o.returned {
            Some((_, told)) if o.action.is_read() => {
                state.shows(&o.action, told).then(|| (state.clone(), false))
            }
            Some((_, told)) => {
                let next = state.after(o, &self.reads, self.ops)?;
                let forced = told.version.is_some_and(|v| self.made.contains(&v));
                Some((next, !forced))
            }
            None if self.made.contains(&(state.version + 1)) => None,
            None => state.after(o, &self.reads, self.ops).map(|next| (next, true)),
        }
    }

    /// The first event from `at` on that may come next; reads before anything else, since one that
    /// fits now can do no harm now. The end of the window when there is none.
    fn candidate(&self, from: usize, reads: bool, state: &State) -> (usize, Option<(State, bool)>) {
        let mut at = from;
        loop {
            let (op, is_return) = self.op_of[at];
            if op == NONE || is_return {
                return (at, None);
            }
            if self.ops[op].action.is_read() == reads
                && let Some(found) = self.place(op, state)
            {
                return (at, Some(found));
            }
            at = self.line.next[at];
        }
    }

    fn run(mut self) -> Verdict {
        let mut state = State { version: 0, exists: false, cells: Vec::new() };
        let mut placed: Vec<Placed> = Vec::new();
        let mut tried: BTreeSet<(u64, u64)> = BTreeSet::new();
        let (mut set, mut steps) = (0_u64, 0_u64);
        let mut deepest: (usize, Vec<Op>) = (0, Vec::new());
        // Where to look for the next update; `None`: a new state, so reads first.
        let mut from: Option<usize> = None;
        while self.left > 0 {
            steps += 1;
            if steps > STEPS_MAX {
                return Verdict::Undecided;
            }
            let first = self.line.next[0];
            let (mut at, mut found) = match from {
                None => self.candidate(first, true, &state),
                Some(_) => (first, None),
            };
            let is_read = found.is_some();
            if !is_read {
                (at, found) = self.candidate(from.unwrap_or(first), false, &state);
            }
            let op = self.op_of[at].0;
            match found {
                Some((next, choice)) => {
                    let with = set ^ name(op);
                    if tried.insert((with, next.digest())) {
                        self.lift(op);
                        set = with;
                        let before = std::mem::replace(&mut state, next);
                        placed.push(Placed { op, before, choice });
                        from = None;
                        continue;
                    }
                    // Been there, in vain. A read or a forced update has no alternative.
                    if choice {
                        from = Some(self.line.next[at]);
                        continue;
                    }
                }
                None => {
                    // An operation returns before anything that could come first.
                    if deepest.1.is_empty() || placed.len() > deepest.0 {
                        deepest = (placed.len(), self.stuck(at, &placed));
                    }
                }
            }
            loop {
                let Some(last) = placed.pop() else {
                    return Verdict::Broken(explain(self.ops, deepest.1));
                };
                self.unlift(last.op);
                set ^= name(last.op);
                state = last.before;
                if last.choice {
                    from = Some(self.line.next[self.call[last.op]]);
                    break;
                }
            }
        }
        Verdict::Linearizable
    }

    /// The operation that found no place, what came last before it, and what might have.
    fn stuck(&self, at: usize, placed: &[Placed]) -> Vec<Op> {
        let mut shown: Vec<usize> = placed.iter().rev().take(3).map(|p| p.op).collect();
        shown.reverse();
        let mut e = self.line.next[0];
        while e != at && shown.len() < 12 {
            shown.push(self.op_of[e].0);
            e = self.line.next[e];
        }
        shown.push(self.op_of[at].0);
        shown.dedup();
        shown.into_iter().filter(|i| *i != NONE).map(|i| self.ops[i].clone()).collect()
    }
}

/// A random word per operation: a set of them is the exclusive or (Zobrist hashing, 1970).
fn name(op: usize) -> u64 {
    mix(mix(0x5851_F42D_4C95_7F2D, op as u64 + 1), 0x1405_7B7E_F767_814F)
}

impl History {
    /// Checks every chunk on its own: linearizability is local (Herlihy and Wing, "Linearizability:
    /// A Correctness Condition for Concurrent Objects", 1990, theorem 1). Gives how many chunks
    /// were too hard to decide.
    pub fn check(&self) -> Result<usize, Violation> {
        let mut undecided = 0;
        for chunk in self.chunks() {
            match check(&self.chunk(chunk)) {
                Verdict::Linearizable => {}
                Verdict::Undecided => undecided += 1,
                Verdict::Broken(v) => return Err(v.in_chunk(chunk)),
            }
        }
        Ok(undecided)
    }
}

/// Decides whether the operations of one chunk are linearizable.
pub fn check(ops: &[Op]) -> Verdict {
    Search::new(ops).run()
}

/// Puts the nearest plain name to a violation: the search only knows that no order fits.
fn explain(ops: &[Op], stuck: Vec<Op>) -> Violation {
    let found = |what: &str, ops: Vec<Op>| Violation { chunk: None, what: what.into(), ops };
    let version = |o: &Op| o.returned.as_ref().and_then(|(_, t)| t.version);
    let mut made: BTreeMap<u64, &Op> = BTreeMap::new();
    let restarts = ops.iter().any(|o| o.action == Action::Remove);
    if restarts {
        return found("no order of these operations fits", stuck);
    }
    for op in ops.iter().filter(|o| !o.action.is_read()) {
        if let Some(v) = version(op)
            && let Some(other) = made.insert(v, op)
        {
            return found("two updates made one version", vec![other.clone(), op.clone()]);
        }
    }
    let mut finished: Vec<(&Op, u64, u64)> = Vec::new();
    for op in ops {
        if let (Some((at, _)), Some(v)) = (&op.returned, version(op)) {
            finished.push((op, *at, v));
        }
    }
    for (late, _, v) in &finished {
        let earlier = finished.iter().filter(|(_, at, _)| *at < late.invoked);
        let Some((early, _, newest)) = earlier.max_by_key(|(_, _, v)| *v) else { continue };
        if newest > v {
            let what = match (early.action.is_read(), late.action.is_read()) {
                (false, true) => "stale read: an update had returned before it began",
                (true, true) => "new-old inversion: an earlier read had seen a newer version",
                _ => "an update took a version that had passed",
            };
            return found(what, vec![(*early).clone(), (*late).clone()]);
        }
    }
    found("no order of these operations fits", stuck)
}
