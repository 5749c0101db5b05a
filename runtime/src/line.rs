//! How tasks of a shard wait for one another: [`Line`], a lock that is passed on first come, first
//! served, and [`Bell`], which wakes all who wait for one event.
//!
//! A [`Grant`] is the lock while it lives, and travels in the slot that its waiter awaits:
//!
//! ```text
//! alone(), share()    free, nobody waits: Turn::Now(grant)
//!                     else:               Turn::Waits(place) ── await ──> grant
//! drop of a grant     the next in line gets theirs
//! drop of a place     before its turn: the place leaves the line
//!                     after its turn:  the grant in its slot is dropped, so it is passed on
//! ```
//!
//! So a future that holds a place or a grant may be dropped at any moment. A line is no more state
//! of an actor than a [`Slot`] is: a grant may be dropped inside `Me::with` and outside of it.
//! A line has no limit of its own: its owner asks [`Line::waiting`] before it sends anybody there,
//! and the waiter awaits its place within a deadline.

use std::cell::RefCell;
use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::vec_deque::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::slot::Slot;

/// A lock for one alone or for many who share it. A waiter who is to be alone is not overtaken by
/// others who share. A clone is the same lock.
#[derive(Clone)]
pub struct Line<K: Ord + Copy = ()>(Home<K>);

/// A lock for each key. A key takes room only while somebody holds its lock or waits for it. A
/// clone is the same locks.
#[derive(Clone)]
pub struct Lines<K: Ord + Copy>(Rc<RefCell<BTreeMap<K, Queue<K>>>>);

/// Where the queue of a line is.
#[derive(Clone)]
enum Home<K: Ord + Copy> {
    Own(Rc<RefCell<Queue<K>>>),
    Keyed(Lines<K>, K),
}

/// The lock, until this is dropped.
pub struct Grant<K: Ord + Copy = ()> {
    line: Line<K>,
}

/// What somebody gets who asks for the lock.
pub enum Turn<K: Ord + Copy = ()> {
    Now(Grant<K>),
    Waits(Place<K>),
}

/// A place in the line: a future of the grant.
pub struct Place<K: Ord + Copy = ()> {
    line: Line<K>,
    slot: Slot<Grant<K>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Alone,
    Shared,
}

struct Queue<K: Ord + Copy> {
    /// Grants that are out.
    held: usize,
    /// The one grant that is out allows no other.
    is_alone: bool,
    waiting: VecDeque<(Mode, Slot<Grant<K>>)>,
}

impl<K: Ord + Copy> Queue<K> {
    fn new() -> Queue<K> {
        Queue { held: 0, is_alone: false, waiting: VecDeque::new() }
    }

    fn is_idle(&self) -> bool {
        self.held == 0 && self.waiting.is_empty()
    }

    fn is_free(&self, mode: Mode) -> bool {
        match mode {
            Mode::Alone => self.held == 0,
            Mode::Shared => !self.is_alone,
        }
    }

    fn go_in(&mut self, mode: Mode) {
        assert!(self.is_free(mode));
        self.held += 1;
        self.is_alone = mode == Mode::Alone;
    }

    /// Lets the asker in, or gives it a slot in line.
    fn enter(&mut self, mode: Mode) -> Option<Slot<Grant<K>>> {
        if self.waiting.is_empty() && self.is_free(mode) {
            self.go_in(mode);
            return None;
        }
        let slot = Slot::new();
        self.waiting.push_back((mode, slot.clone()));
        Some(slot)
    }

    fn release(&mut self) {
        self.held -= 1;
        self.is_alone = false;
    }

    fn leave(&mut self, slot: &Slot<Grant<K>>) {
        self.waiting.retain(|(_, waiting)| !waiting.is(slot));
    }

    /// Lets the first in line in if it can go. Its slot is to be filled.
    fn admit(&mut self) -> Option<Slot<Grant<K>>> {
        let (mode, _) = self.waiting.front()?;
        if !self.is_free(*mode) {
            return None;
        }
        let (mode, slot) = self.waiting.pop_front()?;
        self.go_in(mode);
        Some(slot)
    }
}

impl Default for Line {
    fn default() -> Line {
        Line(Home::Own(Rc::new(RefCell::new(Queue::new()))))
    }
}

impl<K: Ord + Copy> Line<K> {
    /// Asks for the lock, to be alone with it.
    pub fn alone(&self) -> Turn<K> {
        self.enter(Mode::Alone)
    }

    /// Asks for the lock, together with others who share it.
    pub fn share(&self) -> Turn<K> {
        self.enter(Mode::Shared)
    }

    /// How many wait for their turn.
    pub fn waiting(&self) -> usize {
        self.with(|queue| queue.waiting.len())
    }

    /// Whether nobody holds the lock, or waits for it.
    pub fn is_idle(&self) -> bool {
        self.with(|queue| queue.is_idle())
    }

    fn enter(&self, mode: Mode) -> Turn<K> {
        let line = self.clone();
        match self.with(|queue| queue.enter(mode)) {
            None => Turn::Now(Grant { line }),
            Some(slot) => Turn::Waits(Place { line, slot }),
        }
    }

    /// Takes a step that may make room, then fills the slots of those who can go in. The queue is
    /// not borrowed meanwhile: a fill wakes a task.
    fn pass_on(&self, step: impl FnOnce(&mut Queue<K>)) {
        let mut next = self.with(|queue| {
            step(queue);
            queue.admit()
        });
        while let Some(slot) = next {
            slot.fill(Grant { line: self.clone() });
            next = self.with(Queue::admit);
        }
    }

    fn with<R>(&self, step: impl FnOnce(&mut Queue<K>) -> R) -> R {
        match &self.0 {
            Home::Own(queue) => step(&mut queue.borrow_mut()),
            Home::Keyed(lines, key) => lines.with(*key, step),
        }
    }
}

impl<K: Ord + Copy> Default for Lines<K> {
    fn default() -> Lines<K> {
        Lines(Rc::default())
    }
}

impl<K: Ord + Copy> Lines<K> {
    pub fn of(&self, key: K) -> Line<K> {
        Line(Home::Keyed(self.clone(), key))
    }

    /// The keys whose locks are held, in order.
    pub fn held(&self) -> Vec<K> {
        self.0.borrow().keys().copied().collect()
    }

    fn with<R>(&self, key: K, step: impl FnOnce(&mut Queue<K>) -> R) -> R {
        match self.0.borrow_mut().entry(key) {
            Entry::Occupied(mut entry) => {
                let result = step(entry.get_mut());
                if entry.get().is_idle() {
                    entry.remove();
                }
                result
            }
            Entry::Vacant(entry) => {
                let mut queue = Queue::new();
                let result = step(&mut queue);
                if !queue.is_idle() {
                    entry.insert(queue);
                }
                result
            }
        }
    }
}

impl<K: Ord + Copy> Drop for Grant<K> {
    fn drop(&mut self) {
        self.line.pass_on(Queue::release);
    }
}

impl<K: Ord + Copy + Unpin> Future for Place<K> {
    type Output = Grant<K>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Grant<K>> {
        Pin::new(&mut self.slot).poll(cx)
    }
}

impl<K: Ord + Copy> Drop for Place<K> {
    fn drop(&mut self) {
        // The line has let the slot go: the turn has come. A grant that nobody took goes with it.
        if !self.slot.abandoned() {
            self.line.pass_on(|queue| queue.leave(&self.slot));
        }
    }
}

/// Wakes all who wait for one event, and tells them a value. It keeps at most twice as many slots
/// as tasks have waited at a time: those of tasks that have left are swept before it grows.
pub struct Bell<T = ()>(Vec<Slot<T>>);

impl<T> Default for Bell<T> {
    fn default() -> Bell<T> {
        Bell(Vec::new())
    }
}

impl<T> Bell<T> {
    /// Fills at the next ring.
    pub fn wait(&mut self) -> Slot<T> {
        if self.0.len() == self.0.capacity() {
            self.0.retain(|slot| !slot.abandoned());
        }
        let slot = Slot::new();
        self.0.push(slot.clone());
        slot
    }

    /// Whether nobody has come to wait since the last ring.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Clone> Bell<T> {
    /// Wakes all who wait, in the order in which they came.
    pub fn ring(&mut self, value: T) {
        for slot in self.0.drain(..) {
            slot.fill(value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::glommio::run_alone;

    fn now<K: Ord + Copy>(turn: Turn<K>) -> Grant<K> {
        match turn {
            Turn::Now(grant) => grant,
            Turn::Waits(_) => panic!("the lock is not free"),
        }
    }

    fn place<K: Ord + Copy>(turn: Turn<K>) -> Place<K> {
        match turn {
            Turn::Now(_) => panic!("the lock is free"),
            Turn::Waits(place) => place,
        }
    }

    /// The grant if its turn has come; else the place stays.
    fn look<K: Ord + Copy + Unpin>(place: &mut Place<K>) -> Option<Grant<K>> {
        place.now_or_never()
    }

    /// Goal: who comes first goes first, one at a time.
    #[test]
    fn the_lock_goes_to_who_came_first() {
        let line = Line::default();
        let first = now(line.alone());
        let (mut second, mut third) = (place(line.alone()), place(line.alone()));
        assert_eq!(line.waiting(), 2);
        assert!(look(&mut second).is_none() && look(&mut third).is_none());
        drop(first);
        assert!(look(&mut third).is_none());
        let held = look(&mut second).expect("the lock was passed on");
        assert!(look(&mut third).is_none());
        drop(held);
        drop(look(&mut third).expect("the lock was passed on"));
        assert!(line.is_idle());
        drop(now(line.alone()));
    }

    /// Goal: who leaves before its turn holds nobody up, also one who waits to be alone while
    /// others share, and others wait behind it.
    #[test]
    fn who_leaves_before_its_turn_holds_nobody_up() {
        let line = Line::default();
        let first = now(line.share());
        let alone = place(line.alone());
        let mut behind = place(line.share());
        assert!(look(&mut behind).is_none());
        drop(alone);
        let second = look(&mut behind).expect("nobody waits before it any more");
        drop((first, second, behind));
        assert!(line.is_idle());
    }

    /// Goal: a grant that nobody has taken out of its slot is passed on, not lost.
    #[test]
    fn who_leaves_after_its_turn_passes_it_on() {
        let line = Line::default();
        let first = now(line.alone());
        let (second, mut third) = (place(line.alone()), place(line.alone()));
        drop(first); // the grant is in the slot of the second
        assert!(look(&mut third).is_none());
        drop(second);
        drop(look(&mut third).expect("the lock was passed on"));
        assert!(line.is_idle());
    }

    /// Goal: those who share go together, and one who waits to be alone is not overtaken.
    #[test]
    fn sharers_go_together_and_overtake_nobody() {
        let line = Line::default();
        let (first, second) = (now(line.share()), now(line.share()));
        let mut alone = place(line.alone());
        let (mut third, mut fourth) = (place(line.share()), place(line.share()));
        let mut last = place(line.alone());
        drop(first);
        assert!(look(&mut alone).is_none(), "one still shares");
        drop(second);
        assert!(look(&mut third).is_none() && look(&mut fourth).is_none());
        drop(look(&mut alone).expect("it is its turn"));
        let shared = [look(&mut third), look(&mut fourth)];
        assert!(shared.iter().all(Option::is_some) && look(&mut last).is_none());
        drop(shared);
        drop(look(&mut last).expect("it is its turn"));
        assert!(line.is_idle());
    }

    /// Goal: a wait that a deadline ends leaves the line as it was.
    #[test]
    fn a_deadline_ends_a_wait() {
        run_alone(vec![], async |shard| {
            let (cx, line) = (shard.cx(), Line::default());
            let first = now(line.share());
            let short = cx.within(Duration::from_millis(5));
            assert!(short.in_time(place(line.alone())).await.is_none());
            drop(now(line.share()));
            drop(first);
            assert!(line.is_idle());
        })
        .unwrap();
    }

    /// Goal: a bell wakes all who wait, once; who has left takes no room for long.
    #[test]
    fn a_bell_wakes_all_who_wait() {
        let mut bell = Bell::default();
        let (first, second) = (bell.wait(), bell.wait());
        bell.ring(7);
        assert_eq!((first.now_or_never(), second.now_or_never()), (Some(7), Some(7)));
        assert!(bell.is_empty());
        let stays = bell.wait();
        for _ in 0..1000 {
            drop(bell.wait());
        }
        assert!(bell.0.len() < 10);
        bell.ring(8);
        assert_eq!(stays.now_or_never(), Some(8));
    }

    /// The lock of one key as plain data: numbers of askers.
    #[derive(Default)]
    struct Model {
        held: Vec<(usize, Mode)>,
        waiting: VecDeque<(usize, Mode)>,
    }

    impl Model {
        fn has(&self, number: usize) -> bool {
            self.held.iter().any(|(held, _)| *held == number)
        }

        fn remove(&mut self, number: usize) {
            self.held.retain(|(held, _)| *held != number);
            self.waiting.retain(|(waiting, _)| *waiting != number);
            self.admit();
        }

        fn admit(&mut self) {
            let alone = |mode: &Mode| *mode == Mode::Alone;
            while let Some((number, mode)) = self.waiting.front().copied() {
                let held = !self.held.is_empty();
                if held && alone(&mode) || self.held.iter().any(|(_, mode)| alone(mode)) {
                    return;
                }
                self.held.push((number, mode));
                self.waiting.pop_front();
            }
        }
    }

    proptest! {
        /// Goal: whatever order tasks come, look, and leave in, the lock is where it should be, and
        /// nothing is left of it in the end. Method: random steps beside a plain model, two keys.
        #[test]
        fn the_lock_is_where_it_should_be(
            steps in proptest::collection::vec((0..8u8, 0..2usize, any::<u16>()), 1..200),
        ) {
            let lines = Lines::default();
            let mut models = [Model::default(), Model::default()];
            let mut turns: Vec<(usize, usize, Turn<usize>)> = Vec::new();
            for (number, (step, key, choice)) in steps.into_iter().enumerate() {
                let chosen = usize::from(choice) % turns.len().max(1);
                match step {
                    0..3 => {
                        let mode = if step == 0 { Mode::Alone } else { Mode::Shared };
                        turns.push((number, key, lines.of(key).enter(mode)));
                        models[key].waiting.push_back((number, mode));
                        models[key].admit();
                    }
                    3..6 if !turns.is_empty() => {
                        let (number, key, turn) = turns.swap_remove(chosen);
                        drop(turn);
                        models[key].remove(number);
                    }
                    _ if !turns.is_empty() => {
                        let (number, key, turn) = &mut turns[chosen];
                        let granted = match turn {
                            Turn::Now(_) => None,
                            Turn::Waits(place) => look(place),
                        };
                        let has = granted.is_some() || matches!(turn, Turn::Now(_));
                        prop_assert_eq!(has, models[*key].has(*number));
                        if let Some(grant) = granted {
                            *turn = Turn::Now(grant);
                        }
                    }
                    _ => {}
                }
                let is_held = |key: &usize| !models[*key].held.is_empty();
                prop_assert_eq!(lines.held(), (0..2).filter(is_held).collect::<Vec<_>>());
                for (key, model) in models.iter().enumerate() {
                    prop_assert_eq!(lines.of(key).waiting(), model.waiting.len());
                }
            }
            drop(turns);
            prop_assert!(lines.held().is_empty());
        }
    }
}
