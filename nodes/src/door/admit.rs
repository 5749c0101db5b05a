//! How much written data may be under way. Writes beyond it are parked, with their data and in the
//! order of their arrival, and start when others are done; the thread that took them goes on and
//! takes the next request. So names and reads are never held up by writes to a chain that is dead.
//!
//! A write whose caller was killed while it was parked never starts: nothing of it has begun.
//!
//! A thread waits in two cases only, and then the pressure goes back to the programs: so much data
//! is parked that memory has to be spared, or there are so many requests that a shard's inbox could
//! be full. A shard that hands a step to another one never finds the inbox full.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use t3fs_runtime::glommio::INBOX;

/// Requests, parked ones included, over all shards.
const REQUESTS_MAX: usize = 8192;
/// Parked data, in times of what may be under way.
const PARKED_MAX: usize = 4;
/// A request waits in one inbox at a time; half of an inbox is for what other shards send.
const _: () = assert!(2 * REQUESTS_MAX <= INBOX);
/// Between two looks at whether there are fewer requests. Only under overload.
const PAUSE: Duration = Duration::from_micros(100);
/// Between two looks at whether callers of parked writes were killed. Only under overload.
const LOOK: Duration = Duration::from_millis(100);

/// Written data that requests hold, in bytes, with so much that may be under way.
pub const fn held_bytes_max(bytes_in_flight_max: usize) -> usize {
    (1 + PARKED_MAX) * bytes_in_flight_max
}

/// A write that has not started.
struct Parked {
    bytes: usize,
    /// Whether its caller still waits.
    wanted: Box<dyn Fn() -> bool + Send>,
    start: Box<dyn FnOnce(Permit) + Send>,
}

/// Counts requests, and the data that they carry.
pub struct Admission {
    requests: AtomicUsize,
    bytes_max: usize,
    writes: Mutex<Writes>,
    unparked: Condvar,
}

/// What is parked no more. It is started, or dropped, without the lock.
#[derive(Default)]
struct Unparked {
    start: Vec<Parked>,
    unwanted: Vec<Parked>,
}

#[derive(Default)]
struct Writes {
    /// Of writes that have started.
    bytes: usize,
    parked_bytes: usize,
    parked: VecDeque<Parked>,
}

/// One request that has started.
pub struct Permit {
    of: Arc<Admission>,
    bytes: usize,
}

impl Writes {
    /// A single write always fits.
    fn fits(&self, bytes: usize, bytes_max: usize) -> bool {
        self.bytes == 0 || self.bytes + bytes <= bytes_max
    }

    /// Takes out those that may start now, and those before them that nobody waits for.
    fn unpark(&mut self, bytes_max: usize) -> Unparked {
        let mut out = Unparked::default();
        while let Some(first) = self.parked.front() {
            let wanted = (first.wanted)();
            if wanted && !self.fits(first.bytes, bytes_max) {
                break;
            }
            let first = self.parked.pop_front().expect("looked at above");
            self.parked_bytes -= first.bytes;
            if wanted {
                self.bytes += first.bytes;
                out.start.push(first);
            } else {
                out.unwanted.push(first);
            }
        }
        out
    }

    /// Takes out all that nobody waits for.
    fn forget_unwanted(&mut self) -> Unparked {
        let parked = std::mem::take(&mut self.parked);
        let (stay, unwanted) = parked.into_iter().partition(|p| (p.wanted)());
        self.parked = stay;
        self.parked_bytes = self.parked.iter().map(|p| p.bytes).sum();
        Unparked { start: Vec::new(), unwanted: VecDeque::into(unwanted) }
    }
}

impl Admission {
    /// `bytes_max`: written data that is under way.
    pub fn new(bytes_max: usize) -> Arc<Admission> {
        Arc::new(Admission {
            requests: AtomicUsize::new(0),
            bytes_max,
            writes: Mutex::default(),
            unparked: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Writes> {
        // No step of a change here can panic half way.
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a request that has nothing to write.
    pub fn run(self: &Arc<Self>, start: impl FnOnce(Permit)) {
        self.count();
        start(Permit { of: Arc::clone(self), bytes: 0 });
    }

    /// Starts a request that has so many bytes to write, now or later. Later it starts on the
    /// thread that gives bytes back, if it is still `wanted`.
    pub fn run_write(
        self: &Arc<Self>,
        bytes: usize,
        wanted: impl Fn() -> bool + Send + 'static,
        start: impl FnOnce(Permit) + Send + 'static,
    ) {
        self.count();
        let mut writes = self.lock();
        // The request that was parked first starts first.
        if writes.parked.is_empty() && writes.fits(bytes, self.bytes_max) {
            writes.bytes += bytes;
            drop(writes);
            return start(Permit { of: Arc::clone(self), bytes });
        }
        let mut writes = self.wait_for_parking(writes, bytes);
        writes.parked_bytes += bytes;
        let (wanted, start) = (Box::new(wanted), Box::new(start));
        writes.parked.push_back(Parked { bytes, wanted, start });
        // While this thread waited, the last write that was under way may have ended.
        let now = writes.unpark(self.bytes_max);
        drop(writes);
        self.start(now);
    }

    /// Counts one more request, when there are not too many.
    fn count(&self) {
        while self.requests.fetch_add(1, Ordering::Relaxed) >= REQUESTS_MAX {
            self.requests.fetch_sub(1, Ordering::Relaxed);
            std::thread::sleep(PAUSE);
        }
    }

    fn wait_for_parking<'a>(
        self: &'a Arc<Self>,
        mut writes: MutexGuard<'a, Writes>,
        bytes: usize,
    ) -> MutexGuard<'a, Writes> {
        let parked_max = self.bytes_max.saturating_mul(PARKED_MAX);
        while !writes.parked.is_empty() && writes.parked_bytes + bytes > parked_max {
            let unwanted = writes.forget_unwanted();
            if unwanted.unwanted.is_empty() {
                let woken = self.unparked.wait_timeout(writes, LOOK);
                writes = woken.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                drop(writes);
                self.start(unwanted);
                writes = self.lock();
            }
        }
        writes
    }

    fn start(self: &Arc<Self>, now: Unparked) {
        self.requests.fetch_sub(now.unwanted.len(), Ordering::Relaxed);
        if !now.start.is_empty() || !now.unwanted.is_empty() {
            self.unparked.notify_all();
        }
        for Parked { bytes, start, .. } in now.start {
            start(Permit { of: Arc::clone(self), bytes });
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.of.requests.fetch_sub(1, Ordering::Relaxed);
        if self.bytes > 0 {
            let mut writes = self.of.lock();
            writes.bytes -= self.bytes;
            let now = writes.unpark(self.of.bytes_max);
            drop(writes);
            self.of.start(now);
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: limits hold, order is kept, nothing leaks, and only writes ever wait.
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::{self, Receiver, Sender};

    /// An admission whose requests say that they have started, with their permit.
    struct Lot {
        admission: Arc<Admission>,
        say: Sender<(u32, Permit)>,
        started: Receiver<(u32, Permit)>,
    }

    impl Lot {
        fn new(bytes_max: usize) -> Lot {
            let (say, started) = mpsc::channel();
            Lot { admission: Admission::new(bytes_max), say, started }
        }

        fn run(&self, number: u32, bytes: usize) {
            self.run_while(number, bytes, &Arc::new(AtomicBool::new(true)));
        }

        fn run_while(&self, number: u32, bytes: usize, wanted: &Arc<AtomicBool>) {
            run(&self.admission, &self.say, number, bytes, wanted);
        }

        fn started(&self) -> Vec<(u32, Permit)> {
            self.started.try_iter().collect()
        }

        fn assert_empty(&self) {
            let writes = self.admission.lock();
            assert_eq!((writes.bytes, writes.parked_bytes, writes.parked.len()), (0, 0, 0));
            assert_eq!(self.admission.requests.load(Ordering::Relaxed), 0);
        }
    }

    fn run(
        admission: &Arc<Admission>,
        say: &Sender<(u32, Permit)>,
        number: u32,
        bytes: usize,
        wanted: &Arc<AtomicBool>,
    ) {
        let (say, wanted) = (say.clone(), Arc::clone(wanted));
        let start = move |permit| say.send((number, permit)).expect("heard");
        match bytes {
            0 => admission.run(start),
            _ => admission.run_write(bytes, move || wanted.load(Ordering::Relaxed), start),
        }
    }

    fn numbers(started: &[(u32, Permit)]) -> Vec<u32> {
        started.iter().map(|(n, _)| *n).collect()
    }

    #[test]
    fn writes_beyond_the_limit_are_parked_and_start_in_order() {
        let lot = Lot::new(100);
        lot.run(0, 1000);
        let big = lot.started();
        assert_eq!(numbers(&big), [0], "one always fits");
        for (number, bytes) in [(1, 60), (2, 0), (3, 60), (4, 10)] {
            lot.run(number, bytes);
        }
        let free = lot.started();
        assert_eq!(numbers(&free), [2], "requests without data go on");
        drop(big);
        let first = lot.started();
        assert_eq!(numbers(&first), [1], "4 would fit, but 3 was there before it");
        lot.run(5, 1);
        assert!(lot.started().is_empty(), "nobody overtakes");
        drop(first);
        let rest = lot.started();
        assert_eq!(numbers(&rest), [3, 4, 5]);
        drop((free, rest));
        lot.assert_empty();
    }

    /// Method: four times the limit is parked; one more parks its thread, until there is room.
    #[test]
    fn a_thread_waits_when_too_much_is_parked() {
        let lot = Lot::new(100);
        for number in 0..5 {
            lot.run(number, 100);
        }
        let first = lot.started();
        assert_eq!(numbers(&first), [0]);
        let (admission, say) = (Arc::clone(&lot.admission), lot.say.clone());
        let (began, begun) = mpsc::channel();
        let waits = std::thread::spawn(move || {
            began.send(()).expect("heard");
            run(&admission, &say, 5, 100, &Arc::new(AtomicBool::new(true)));
        });
        begun.recv().expect("it runs");
        lot.run(6, 0);
        assert_eq!(numbers(&lot.started()), [6], "names go on");
        drop(first);
        // Each one that starts is dropped here, and lets the next one start.
        let mut order = Vec::new();
        while order.len() < 5 {
            order.push(lot.started.recv_timeout(Duration::from_secs(60)).expect("it starts").0);
        }
        waits.join().expect("it goes on");
        assert_eq!(order, [1, 2, 3, 4, 5]);
        lot.assert_empty();
    }

    /// Regression: writers that were killed left their data parked, until every thread waited.
    #[test]
    fn what_nobody_wants_makes_room_and_never_starts() {
        let lot = Lot::new(100);
        let wanted = Arc::new(AtomicBool::new(true));
        lot.run(0, 100);
        let first = lot.started();
        for number in 1..5 {
            lot.run_while(number, 100, &wanted);
        }
        wanted.store(false, Ordering::Relaxed);
        lot.run(5, 100); // would wait for ever
        lot.run_while(6, 100, &wanted);
        lot.run(7, 100);
        assert!(lot.started().is_empty());
        drop(first);
        let next = lot.started();
        assert_eq!(numbers(&next), [5]);
        drop(next);
        let last = lot.started();
        assert_eq!(numbers(&last), [7]);
        drop(last);
        lot.assert_empty();
    }

    #[test]
    fn requests_are_limited() {
        let lot = Lot::new(100);
        for number in 0..REQUESTS_MAX as u32 {
            lot.run(number, 0);
        }
        let all = lot.started();
        assert_eq!(all.len(), REQUESTS_MAX);
        let (admission, say) = (Arc::clone(&lot.admission), lot.say.clone());
        let wanted = Arc::new(AtomicBool::new(true));
        let waits = std::thread::spawn(move || run(&admission, &say, 0, 0, &wanted));
        assert!(lot.started.recv_timeout(Duration::from_millis(50)).is_err(), "one too many");
        drop(all);
        waits.join().expect("it goes on");
        drop(lot.started());
        lot.assert_empty();
    }
}
