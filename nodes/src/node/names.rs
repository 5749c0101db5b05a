//! Names of hosts, looked up on a thread of their own: a name server may take seconds to answer,
//! and a shard waits for nobody.

use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::config::host::Host;

/// Least time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// As they were told last; kept while the name server says nothing.
    pub addresses: Vec<SocketAddr>,
    /// Why the last look failed, with the name.
    pub why: Option<String>,
}

/// Hosts and their addresses. The thread ends when this is dropped.
pub(super) struct Names {
    known: Arc<Mutex<Vec<Known>>>,
    /// `None`: there is no name among them.
    again: Option<SyncSender<()>>,
}

impl Names {
    /// Begins to look.
    pub(super) fn start(hosts: Vec<Host>) -> Names {
        let addresses = |h: &Host| h.address().into_iter().collect();
        let known = hosts.iter().map(|h| Known { addresses: addresses(h), why: None }).collect();
        let known = Arc::new(Mutex::new(known));
        if hosts.iter().all(|h| h.address().is_some()) {
            return Names { known, again: None };
        }
        // One wish may wait: more say nothing new.
        let (again, wishes) = sync_channel(1);
        let found = Arc::clone(&known);
        let look = move || {
            loop {
                for (index, host) in hosts.iter().enumerate() {
                    if host.address().is_none() {
                        let told = host.look_up();
                        found.lock().expect("no panic while held")[index].take(told);
                    }
                }
                std::thread::sleep(PAUSE);
                if wishes.recv().is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("t3fs-names".into()).spawn(look);
        if let Err(e) = thread {
            tracing::error!("names of hosts cannot be looked up: {e}");
        }
        Names { known, again: Some(again) }
    }

    /// In the order of the hosts; waits for nothing.
    pub(super) fn now(&self) -> Vec<Known> {
        self.known.lock().expect("no panic while held").clone()
    }

    /// Somebody did not answer where he should be: he may have moved.
    pub(super) fn look_again(&self) {
        if let Some(again) = &self.again {
            // Full: it is looked anyway.
            let _ = again.try_send(());
        }
    }
}

impl Known {
    fn take(&mut self, told: Result<Vec<SocketAddr>, String>) {
        match told {
            Ok(addresses) => *self = Known { addresses, why: None },
            Err(why) => self.why = Some(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Goal: addresses are there at once, names soon, and what failed says so. Method: this host's
    /// own name, and one that cannot exist.
    #[test]
    fn names_become_addresses_beside_the_one_who_asks() {
        let hosts = ["10.0.0.1:1", "localhost:2", "no-such-host.invalid:3"];
        let names = Names::start(hosts.iter().map(|t| Host::parse(t, 0).unwrap()).collect());
        assert_eq!(names.now()[0].addresses.len(), 1);
        let since = Instant::now();
        let known = loop {
            let known = names.now();
            if known[2].why.is_some() {
                break known;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "{known:?}");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(known[1].addresses.iter().all(|a| a.ip().is_loopback()), "{known:?}");
        assert!(known[2].why.as_ref().unwrap().contains("no-such-host"), "{known:?}");
    }

    #[test]
    fn what_was_known_stays_while_nobody_says_otherwise() {
        let at: SocketAddr = "10.0.0.1:1".parse().unwrap();
        let mut known = Known::default();
        known.take(Ok(vec![at]));
        known.take(Err("no answer".into()));
        assert_eq!((known.addresses.as_slice(), known.why.is_some()), (&[at][..], true));
        known.take(Ok(vec![]));
        assert_eq!(known, Known::default());
    }
}
