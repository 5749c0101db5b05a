//! How much written data may be under way. Writes beyond it are parked, with their data and in the
//! order of their arrival, and start when others are done; the FUSE thread goes on and takes the
//! next request. So names and reads are never held up by writes to a chain that is dead.
//!
//! A thread waits in two cases only, and then the pressure goes back to the programs: so much data
//! is parked that memory has to be spared, or there are so many requests that a shard's inbox could
//! be full. A shard that hands a step to another one never finds the inbox full.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Requests, parked ones included, over all shards.
const REQUESTS_MAX: usize = 8192;
/// Parked data, in times of what may be under way.
const PARKED_MAX: usize = 4;
/// Between two looks at whether there are fewer requests. Only under overload.
const PAUSE: Duration = Duration::from_micros(100);

/// What begins a request.
type Start = Box<dyn FnOnce(Permit) + Send>;

/// Counts requests, and the data that they carry.
pub struct Admission {
    requests: AtomicUsize,
    bytes_max: usize,
    writes: Mutex<Writes>,
    unparked: Condvar,
}

#[derive(Default)]
struct Writes {
    /// Of writes that have started.
    bytes: usize,
    parked_bytes: usize,
    parked: VecDeque<(usize, Start)>,
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

    /// Takes out those that may start now.
    fn unpark(&mut self, bytes_max: usize) -> Vec<(usize, Start)> {
        let mut out = Vec::new();
        while let Some((bytes, _)) = self.parked.front()
            && self.fits(*bytes, bytes_max)
        {
            let (bytes, start) = self.parked.pop_front().expect("looked at above");
            self.parked_bytes -= bytes;
            self.bytes += bytes;
            out.push((bytes, start));
        }
        out
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

    /// Starts a request that carries so many bytes to be written, now or later. Later it starts on
    /// the thread that gives bytes back.
    pub fn run(self: &Arc<Self>, bytes: usize, start: impl FnOnce(Permit) + Send + 'static) {
        while !self.try_count() {
            std::thread::sleep(PAUSE);
        }
        if bytes > 0 {
            let mut writes = self.lock();
            // Whoever was parked first starts first.
            if !writes.parked.is_empty() || !writes.fits(bytes, self.bytes_max) {
                let writes = self.wait_for_parking(writes, bytes);
                return self.park(writes, bytes, Box::new(start));
            }
            writes.bytes += bytes;
        }
        start(Permit { of: Arc::clone(self), bytes });
    }

    fn try_count(&self) -> bool {
        if self.requests.fetch_add(1, Ordering::Relaxed) < REQUESTS_MAX {
            return true;
        }
        self.requests.fetch_sub(1, Ordering::Relaxed);
        false
    }

    fn wait_for_parking<'a>(
        &self,
        writes: MutexGuard<'a, Writes>,
        bytes: usize,
    ) -> MutexGuard<'a, Writes> {
        let parked_max = self.bytes_max.saturating_mul(PARKED_MAX);
        let full = |writes: &mut Writes| {
            !writes.parked.is_empty() && writes.parked_bytes + bytes > parked_max
        };
        self.unparked.wait_while(writes, full).unwrap_or_else(PoisonError::into_inner)
    }

    fn park(self: &Arc<Self>, mut writes: MutexGuard<'_, Writes>, bytes: usize, start: Start) {
        writes.parked_bytes += bytes;
        writes.parked.push_back((bytes, start));
        // While this thread waited, the last write that was under way may have ended.
        let now = writes.unpark(self.bytes_max);
        drop(writes);
        self.start(now);
    }

    fn start(self: &Arc<Self>, all: Vec<(usize, Start)>) {
        for (bytes, start) in all {
            start(Permit { of: Arc::clone(self), bytes });
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.of.requests.fetch_sub(1, Ordering::Relaxed);
        if self.bytes == 0 {
            return;
        }
        let mut writes = self.of.lock();
        writes.bytes -= self.bytes;
        let now = writes.unpark(self.of.bytes_max);
        drop(writes);
        if !now.is_empty() {
            self.of.unparked.notify_all();
            self.of.start(now);
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: limits hold, order is kept, nothing leaks, and only writes ever wait.
    use super::*;
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
            let say = self.say.clone();
            self.admission.run(bytes, move |permit| say.send((number, permit)).expect("heard"));
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
        assert_eq!(numbers(&lot.started()), [], "nobody overtakes");
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
            admission.run(100, move |permit| say.send((5, permit)).expect("heard"));
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

    #[test]
    fn requests_are_limited() {
        let lot = Lot::new(100);
        for number in 0..REQUESTS_MAX as u32 {
            lot.run(number, 0);
        }
        assert!(!lot.admission.try_count());
        drop(lot.started());
        lot.run(0, 0);
        drop(lot.started());
        lot.assert_empty();
    }
}
