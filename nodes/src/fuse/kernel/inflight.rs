//! The requests that are under way, and which of them a signal has interrupted.
//!
//! Whoever takes a request out of [`InFlight`] answers it: a shard with the result, or the watcher
//! with EINTR. So there is one answer, whichever comes first, and the other one hears that it came
//! too late. The cost of a request is two short locks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fatal::{ASKED_MAX, Fate};

/// Between two looks at a thread that was interrupted. The kernel tells of the first signal only;
/// the one that kills may come later.
pub const LOOK: Duration = Duration::from_millis(100);
/// When a call ends whose thread cannot be looked at.
const UNSEEN_MAX: Duration = Duration::from_secs(1);
/// How long it is remembered that a thread was made to end a call, because what it does next is
/// closing files.
const ENDING: Duration = Duration::from_secs(2);
const PARTS: usize = 64;
const _: () = assert!(PARTS.is_power_of_two());
// Whoever was asked to end is looked at before it is made to; the memory of that outlives a look.
const _: () = assert!(LOOK.as_millis() < ASKED_MAX.as_millis());
const _: () = assert!(ASKED_MAX.as_millis() < UNSEEN_MAX.as_millis());
const _: () = assert!(LOOK.as_millis() < ENDING.as_millis());

/// A request that has not been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingRequest {
    pub unique: u64,
    /// The thread that asks, 0 if not known.
    pub thread: u32,
    /// The descriptor that it came through; the answer goes the same way.
    pub device: u16,
    /// Whether it may end before it is done.
    pub may_end: bool,
}

/// Neighbours in time are in different parts, and a part holds few: it is searched from its start.
#[derive(Default)]
#[repr(align(64))]
struct Part(Mutex<Vec<PendingRequest>>);

/// All requests that have not been answered.
pub struct InFlight {
    parts: [Part; PARTS],
}

/// A panic elsewhere has not left half a change here: each is one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for InFlight {
    fn default() -> InFlight {
        InFlight { parts: std::array::from_fn(|_| Part::default()) }
    }
}

impl InFlight {
    fn part(&self, unique: u64) -> MutexGuard<'_, Vec<PendingRequest>> {
        // The lowest bit tells interrupts from requests.
        locked(&self.parts[(unique >> 1) as usize % PARTS].0)
    }

    pub fn begin(&self, entry: PendingRequest) {
        self.part(entry.unique).push(entry);
    }

    /// Takes it out, for the one who will answer it. `None`: it has been answered.
    pub fn end(&self, unique: u64) -> Option<PendingRequest> {
        let mut part = self.part(unique);
        let at = part.iter().position(|e| e.unique == unique)?;
        Some(part.swap_remove(at))
    }

    pub fn get(&self, unique: u64) -> Option<PendingRequest> {
        self.part(unique).iter().find(|e| e.unique == unique).copied()
    }

    pub fn count(&self) -> usize {
        self.parts.iter().map(|part| locked(&part.0).len()).sum()
    }
}

/// An interrupted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    unique: u64,
    thread: u32,
    since: Instant,
    look: Instant,
    /// Not interrupted itself: the thread closes a file after a call of it was ended.
    closing: bool,
}

/// The interrupted requests, and when to look at each again. Decides; the watcher acts.
#[derive(Default)]
pub struct Marks {
    marks: Vec<Mark>,
    /// Threads with a handler whose call was ended, and until when that counts.
    ending: Vec<(u32, Instant)>,
}

impl Marks {
    /// The kernel says that a signal has come for the caller of this request.
    pub fn interrupted(&mut self, request: &PendingRequest, now: Instant) {
        self.mark(request, now, now, false);
    }

    /// A file is being closed. A thread whose call was just ended is on its way out, and its signal
    /// is no longer pending: closing must not hold it up for longer than the call did.
    pub fn closing(&mut self, request: &PendingRequest, now: Instant) {
        self.ending.retain(|(_, until)| *until > now);
        if self.ending.iter().any(|(thread, _)| *thread == request.thread) {
            self.mark(request, now, now + LOOK, true);
        }
    }

    fn mark(&mut self, request: &PendingRequest, since: Instant, look: Instant, closing: bool) {
        if request.may_end && self.marks.iter().all(|m| m.unique != request.unique) {
            let (unique, thread) = (request.unique, request.thread);
            self.marks.push(Mark { unique, thread, since, look, closing });
        }
    }

    /// When there is something to look at.
    pub fn next_look(&self) -> Option<Instant> {
        self.marks.iter().map(|m| m.look).min()
    }

    /// Whether closing a file has to be told.
    pub fn any_ending(&self) -> bool {
        !self.ending.is_empty()
    }

    /// Whose time to be looked at has come.
    pub fn due(&self, now: Instant) -> Vec<(u64, u32)> {
        let due = self.marks.iter().filter(|m| m.look <= now);
        due.map(|m| (m.unique, m.thread)).collect()
    }

    /// What a look has shown; `None` if the request has been answered meanwhile. True: end it.
    pub fn looked(&mut self, unique: u64, fate: Option<Fate>, now: Instant) -> bool {
        let Some(at) = self.marks.iter().position(|m| m.unique == unique) else { return false };
        let Mark { thread, since, closing, .. } = self.marks[at];
        let waited = now.saturating_duration_since(since);
        let ends = match fate {
            None => false,
            Some(_) if closing => true,
            Some(Fate::Dies) => true,
            Some(Fate::Unseen) => waited >= UNSEEN_MAX,
            Some(Fate::Asked) => waited >= ASKED_MAX,
            Some(Fate::Lives) => false,
        };
        if ends || fate.is_none() {
            self.marks.swap_remove(at);
        } else {
            self.marks[at].look = now + LOOK;
        }
        if ends && fate == Some(Fate::Asked) && thread != 0 {
            self.ending.push((thread, now + ENDING));
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(unique: u64, thread: u32) -> PendingRequest {
        PendingRequest { unique, thread, device: 1, may_end: true }
    }

    /// Goal: of two who want to answer, one may.
    #[test]
    fn a_request_is_taken_once() {
        let all = InFlight::default();
        for unique in (2..2000).step_by(2) {
            all.begin(entry(unique, 7));
        }
        assert_eq!(all.count(), 999);
        assert_eq!(all.get(400), Some(entry(400, 7)));
        assert_eq!(all.end(400), Some(entry(400, 7)));
        assert_eq!((all.end(400), all.get(400), all.end(4000)), (None, None, None));
        assert_eq!(all.count(), 998);
    }

    /// Goal: a request costs next to nothing. Method: a million pass through the table on one
    /// thread with 64 others under way, and with thousands; the bound is generous, for builds with
    /// assertions on a busy machine. `--nocapture` shows the number.
    #[test]
    fn the_table_costs_little() {
        for under_way in [64, 4096] {
            let all = InFlight::default();
            for i in 0..under_way {
                all.begin(entry(i * 2, 7));
            }
            const ROUNDS: u64 = 1_000_000;
            let began = Instant::now();
            for i in under_way..under_way + ROUNDS {
                all.begin(entry(i * 2, 7));
                assert!(all.end(i * 2).is_some());
            }
            let each = began.elapsed() / ROUNDS as u32;
            println!("{each:?} for each request, {under_way} under way");
            assert!(each < Duration::from_micros(1), "{each:?}");
        }
    }

    /// Goal: each fate ends a call when it should. Method: time is given.
    #[test]
    fn calls_end_when_they_should() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for (fate, ends_at) in [
            (Fate::Dies, Some(0)),
            (Fate::Asked, Some(300)),
            (Fate::Unseen, Some(1000)),
            (Fate::Lives, None),
        ] {
            let mut marks = Marks::default();
            assert_eq!(marks.next_look(), None);
            marks.interrupted(&entry(2, 7), start);
            marks.interrupted(&entry(2, 7), start);
            let mut ended = None;
            for ms in (0..5000).step_by(100) {
                assert_eq!(marks.next_look(), Some(at(ms)));
                assert_eq!(marks.due(at(ms)), [(2, 7)]);
                if marks.looked(2, Some(fate), at(ms)) {
                    ended = Some(ms);
                    break;
                }
                assert_eq!(marks.due(at(ms)), []);
            }
            assert_eq!(ended, ends_at, "{fate:?}");
            assert_eq!(marks.next_look().is_none(), ended.is_some());
        }
    }

    /// Goal: an interrupted request that a shard answers is looked at no more, and one that may not
    /// end is not looked at.
    #[test]
    fn what_is_answered_is_forgotten() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        marks.interrupted(&entry(2, 7), now);
        assert!(!marks.looked(2, None, now));
        marks.interrupted(&PendingRequest { may_end: false, ..entry(4, 7) }, now);
        assert_eq!(marks.next_look(), None);
        assert!(!marks.looked(6, Some(Fate::Dies), now), "of which nothing is known");
    }

    /// Regression (`dd` and Ctrl-C): it handles the signal, and then closes what it has written;
    /// the close waited for ever.
    #[test]
    fn closing_after_an_ended_call_ends_soon() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut marks = Marks::default();
        marks.closing(&entry(2, 7), at(0));
        assert_eq!(marks.next_look(), None, "nobody is ending");
        marks.interrupted(&entry(4, 7), at(0));
        assert!(marks.looked(4, Some(Fate::Asked), at(300)));
        assert!(marks.any_ending());
        marks.closing(&entry(6, 8), at(510));
        assert_eq!(marks.next_look(), None, "another thread");
        marks.closing(&entry(8, 7), at(510));
        assert_eq!(marks.next_look(), Some(at(610)));
        assert!(marks.looked(8, Some(Fate::Lives), at(610)));
        marks.closing(&entry(10, 7), at(2600));
        assert_eq!(marks.next_look(), None, "it did not end after all");
        assert!(!marks.any_ending());
    }
}
