//! What the main thread of a process that serves is told, and how long it waits for its own end:
//! somebody may hurry it.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::control::DownRequest;
use crate::logging::say;

/// How long the end may still take once somebody hurries it.
const HURRY: Duration = Duration::from_secs(5);
/// Signals that come so soon after the first are the same wish: a terminal that is closed, or a
/// command around this one, sends several.
const SAME_WISH: Duration = Duration::from_secs(1);
const _: () = assert!(SAME_WISH.as_millis() < HURRY.as_millis());

/// What the main thread waits for.
pub enum MainEvent {
    Signal(i32),
    Down(DownRequest),
    /// The mount is gone: unmounted by us or by somebody else, or the connection broke.
    Unmounted(std::io::Result<()>),
}

/// In order, but for those that wait while something else is done.
pub struct EventInbox {
    events: Receiver<MainEvent>,
    /// Came while something else was waited for.
    kept: VecDeque<MainEvent>,
    /// The end that is under way was hurried.
    hurried: bool,
}

impl EventInbox {
    pub fn new(events: Receiver<MainEvent>) -> EventInbox {
        EventInbox { events, kept: VecDeque::new(), hurried: false }
    }

    /// `None`: nothing came for so long. Without a limit something comes, or the process ends.
    pub fn next(&mut self, limit: Option<Duration>) -> Option<MainEvent> {
        if let Some(event) = self.kept.pop_front() {
            return Some(event);
        }
        let gone = "the sender is kept by the signal thread";
        match limit {
            None => Some(self.events.recv().expect(gone)),
            Some(limit) => match self.events.recv_timeout(limit) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => panic!("{gone}"),
            },
        }
    }

    /// The process does not end after all.
    pub fn goes_on(&mut self) {
        self.hurried = false;
    }
}

/// How long one part of the end may take.
pub struct Patience<'a> {
    pub inbox: &'a mut EventInbox,
    /// When the end was asked for.
    since: Instant,
    until: Instant,
}

impl<'a> Patience<'a> {
    /// `since`: when the end was asked for.
    pub fn new(inbox: &'a mut EventInbox, since: Instant, max: Duration) -> Patience<'a> {
        let max = if inbox.hurried { max.min(HURRY) } else { max };
        Patience { inbox, since, until: Instant::now() + max }
    }

    /// Looks whether somebody hurries. Everything but signals stays for later.
    pub fn until(&mut self) -> Instant {
        while let Ok(event) = self.inbox.events.try_recv() {
            match event {
                MainEvent::Signal(_) => self.signalled(),
                MainEvent::Down(DownRequest { force: true, .. }) => {
                    self.hurry();
                    self.inbox.kept.push_back(event);
                }
                MainEvent::Down(_) | MainEvent::Unmounted(_) => self.inbox.kept.push_back(event),
            }
        }
        self.until
    }

    /// What is left, if anything.
    pub fn left(&self) -> Option<Duration> {
        self.until.checked_duration_since(Instant::now())
    }

    /// One more signal.
    pub fn signalled(&mut self) {
        if self.since.elapsed() >= SAME_WISH {
            self.hurry();
        }
    }

    pub fn hurry(&mut self) {
        if !self.inbox.hurried {
            let seconds = HURRY.as_secs();
            say(&format!("hurrying: what cannot be flushed within {seconds} s is lost"));
        }
        self.inbox.hurried = true;
        self.until = self.until.min(Instant::now() + HURRY);
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the end waits for a flush unless somebody insists. Method: events and times by hand.
    use super::*;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(100);

    #[test]
    fn a_later_signal_hurries_and_one_at_once_does_not() {
        let (say, events) = mpsc::channel();
        let mut inbox = EventInbox::new(events);
        let now = Instant::now();
        say.send(MainEvent::Signal(15)).unwrap();
        assert!(Patience::new(&mut inbox, now, LONG).until() > now + HURRY * 2);
        let earlier = now - SAME_WISH;
        say.send(MainEvent::Unmounted(Ok(()))).unwrap();
        say.send(MainEvent::Signal(15)).unwrap();
        assert!(Patience::new(&mut inbox, earlier, LONG).until() < now + HURRY * 2);
        assert!(Patience::new(&mut inbox, earlier, LONG).until() < now + HURRY * 2, "the rest too");
        assert!(matches!(inbox.next(Some(Duration::ZERO)), Some(MainEvent::Unmounted(Ok(())))));
        assert!(inbox.next(Some(Duration::ZERO)).is_none());
        inbox.goes_on();
        assert!(Patience::new(&mut inbox, earlier, LONG).until() > now + HURRY * 2);
    }
}
