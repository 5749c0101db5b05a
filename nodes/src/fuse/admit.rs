//! How much the FUSE threads may have in flight. At the limit a thread waits before it takes the
//! next request from the kernel, so pressure goes back to the programs.
//!
//! Fewer requests than a shard's inbox holds: a shard that hands a step to another one never finds
//! the inbox full.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Requests in flight, over all shards.
const REQUESTS_MAX: usize = 8192;
/// Between two looks at whether there is room. Only under overload.
const PAUSE: Duration = Duration::from_micros(100);

pub struct Admission {
    requests: AtomicUsize,
    bytes: AtomicUsize,
    bytes_max: usize,
}

/// One request in flight.
pub struct Permit {
    of: Arc<Admission>,
    bytes: usize,
}

impl Admission {
    /// `bytes_max`: read and written data in flight; a single request always fits.
    pub fn new(bytes_max: usize) -> Arc<Admission> {
        Arc::new(Admission { requests: AtomicUsize::new(0), bytes: AtomicUsize::new(0), bytes_max })
    }

    /// Waits until a request that carries so many bytes may go on.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> Permit {
        loop {
            if let Some(permit) = self.try_admit(bytes) {
                return permit;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn try_admit(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        if self.requests.fetch_add(1, Ordering::Relaxed) >= REQUESTS_MAX {
            self.requests.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let permit = Permit { of: Arc::clone(self), bytes };
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // Dropping the permit gives back what was taken.
        (bytes == 0 || before == 0 || before + bytes <= self.bytes_max).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.of.requests.fetch_sub(1, Ordering::Relaxed);
        self.of.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    //! Goal: limits hold and nothing leaks.
    use super::*;

    #[test]
    fn bytes_are_limited_and_come_back() {
        let a = Admission::new(100);
        let big = a.try_admit(1000).expect("one always fits");
        assert!(a.try_admit(1).is_none());
        assert!(a.try_admit(0).is_some(), "requests without data go on");
        drop(big);
        let one = a.try_admit(60).unwrap();
        assert!(a.try_admit(60).is_none());
        drop(one);
        assert_eq!(a.requests.load(Ordering::Relaxed) + a.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn requests_are_limited() {
        let a = Admission::new(100);
        let all: Vec<_> = (0..REQUESTS_MAX).map(|_| a.try_admit(0).unwrap()).collect();
        assert!(a.try_admit(0).is_none());
        drop(all);
        assert!(a.try_admit(0).is_some());
    }
}
