//! The latest of something, from one thread to another: what was not looked at in time is replaced,
//! so that nothing piles up before one who is slow.

use std::sync::{Arc, Condvar, Mutex};

struct Shared<T> {
    place: Mutex<Place<T>>,
    filled: Condvar,
}

struct Place<T> {
    latest: Option<T>,
    /// Nobody tells anything any more.
    ended: bool,
}

/// The side that tells. Once it is dropped, the other hears what is left and then the end.
pub(super) struct Teller<T>(Arc<Shared<T>>);

/// The side that hears.
pub(super) struct Hearer<T>(Arc<Shared<T>>);

pub(super) fn latest<T>() -> (Teller<T>, Hearer<T>) {
    let place = Mutex::new(Place { latest: None, ended: false });
    let shared = Arc::new(Shared { place, filled: Condvar::new() });
    (Teller(Arc::clone(&shared)), Hearer(shared))
}

impl<T> Teller<T> {
    /// Never waits for the other's work.
    pub(super) fn tell(&self, news: T) {
        let before = self.0.place.lock().expect("no panic while held").latest.replace(news);
        self.0.filled.notify_one();
        drop(before); // not while the other wants the place
    }
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        self.0.place.lock().expect("no panic while held").ended = true;
        self.0.filled.notify_one();
    }
}

impl<T> Hearer<T> {
    /// Waits for something newer than the last. `None`: there will be none.
    pub(super) fn hear(&self) -> Option<T> {
        let mut place = self.0.place.lock().expect("no panic while held");
        while place.latest.is_none() && !place.ended {
            place = self.0.filled.wait(place).expect("no panic while held");
        }
        place.latest.take()
    }
}

#[cfg(test)]
mod tests {
    //! Goal: one who is slow hears the last word, once, and the end. Method: told from here and
    //! from a thread.
    use super::*;

    #[test]
    fn only_the_latest_is_heard_and_then_the_end() {
        let (teller, hearer) = latest();
        let word = Arc::new(());
        for n in 1..=1000 {
            teller.tell((n, Arc::clone(&word)));
        }
        assert_eq!(Arc::strong_count(&word), 2, "one is kept");
        assert_eq!(hearer.hear().map(|(n, _)| n), Some(1000));
        teller.tell((1001, word));
        drop(teller);
        assert_eq!(hearer.hear().map(|(n, _)| n), Some(1001));
        assert!(hearer.hear().is_none());
    }

    #[test]
    fn who_waits_is_woken_by_news_and_by_the_end() {
        let (teller, hearer) = latest();
        let (say, heard) = std::sync::mpsc::channel();
        let waits = std::thread::spawn(move || {
            while let Some(n) = hearer.hear() {
                say.send(n).unwrap();
            }
        });
        for n in 0..100 {
            teller.tell(n);
            assert_eq!(heard.recv().unwrap(), n);
        }
        drop(teller);
        waits.join().unwrap();
    }
}
