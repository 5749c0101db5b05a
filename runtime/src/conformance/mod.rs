//! What asking promises, whatever is between the two: as checks, for every backend and every link.
//!
//! Not test code of this crate: who brings a way between shards ([`Pair`]) writes, in a test file,
//!
//! ```ignore
//! mod tcp {
//!     t3fs_runtime::promises_of_asking!(|| [Pair::tcp()]);
//!     t3fs_runtime::promises_of_links!(|| [Pair::tcp()]);
//! }
//! ```
//! and gets a test for each promise. It lives here because the promises are the runtime's, and
//! because both the transport and the simulator, which know nothing of each other, have to keep
//! them. `asking.rs` holds for shards of one process too, `links.rs` for nodes only: what happens
//! when a way between them fails.
//!
//! Where ways differ, [`Wire`] says how, and the checks hold each to what it says.

pub mod asking;
pub mod echo;
pub mod links;

use core::time::Duration;
use std::sync::{Arc, Mutex};

use crate::shard::LocalTask;
use crate::{Addr, AskError, Cx};
use echo::{Echo, Order, Seen};

/// Two ends of a way: a shard that asks, and an [`echo::Echoing`] elsewhere that answers.
pub trait Pair {
    fn wire(&self) -> Wire;
    /// The actor that answers now; another one after [`Fault::Restart`].
    fn to(&self) -> Addr<Echo>;
    /// Runs a task on the asking shard.
    fn spawn(&self, task: Job);
    /// Lets time pass until `done` or the limit; whether it is done.
    fn wait(&self, limit: Duration, done: &dyn Fn() -> bool) -> bool;
    /// Lets something go wrong. Of ways between nodes only.
    fn disturb(&mut self, what: Fault);
}

pub type Job = Box<dyn FnOnce(Cx) -> LocalTask + Send>;

/// What can go wrong between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends, and what is under way on it is lost. A new one can be made.
    Cut,
    /// Nothing passes any more, either way, and nobody is told.
    Hold,
    /// What was held up passes again.
    Release,
    /// One bit of what is sent next is wrong, about this many bytes in.
    Damage(usize),
    /// The receiver's process ends and begins again, with an empty [`Echo`].
    Restart,
}

/// How one way differs from others.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// Requests of a lane begin to be handled in the order sent. The simulator starts what has
    /// arrived in any order, so that no actor comes to count on it.
    pub in_order: bool,
    /// What was sent may come a second time, later.
    pub repeats: bool,
    /// An asker on a connection that ends is told within this long; else by the deadline.
    pub loss_told: Option<Duration>,
    /// An asker on a connection on which nothing passes is told within this long; else by the
    /// deadline.
    pub silence_told: Option<Duration>,
    /// Payload that may wait to be sent; more is refused.
    pub queue_bytes: Option<usize>,
}

/// Something that [`begin`] has begun.
pub struct Begun<T>(Arc<Mutex<Option<T>>>);

impl<T> Begun<T> {
    fn is_over(&self) -> bool {
        // The task that would fill the slot has a clone, unless it panicked or its shard has ended.
        self.0.lock().is_ok_and(|v| v.is_some()) || Arc::strong_count(&self.0) == 1
    }
}

/// Longer than any message's timeout.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Begins something on the asking shard.
pub fn begin<T: Send + 'static, F: Future<Output = T> + 'static>(
    pair: &dyn Pair,
    f: impl FnOnce(Cx, Addr<Echo>) -> F + Send + 'static,
) -> Begun<T> {
    let place = Arc::new(Mutex::new(None));
    let (begun, to) = (Begun(Arc::clone(&place)), pair.to());
    pair.spawn(Box::new(move |cx| {
        Box::pin(async move {
            let value = f(cx, to).await;
            *place.lock().expect("nobody panics with it") = Some(value);
        })
    }));
    begun
}

/// What has come of it; `None` when it is still under way after `limit`.
#[track_caller]
pub fn finish<T>(pair: &dyn Pair, begun: &Begun<T>, limit: Duration) -> Option<T> {
    pair.wait(limit, &|| begun.is_over());
    let value = begun.0.lock().expect("nobody panics with it").take();
    assert!(value.is_some() || Arc::strong_count(&begun.0) > 1, "the asking task has failed");
    value
}

/// Runs something on the asking shard to its end.
#[track_caller]
pub fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
    pair: &dyn Pair,
    f: impl FnOnce(Cx, Addr<Echo>) -> F + Send + 'static,
) -> T {
    let begun = begin(pair, f);
    finish(pair, &begun, PATIENCE).expect("asks end by their deadlines")
}

/// Lets time pass.
pub fn pass(pair: &dyn Pair, time: Duration) {
    pair.wait(time, &|| false);
}

/// What the receiver has seen, asked until it answers: the way may have to be made again.
#[track_caller]
pub fn seen(pair: &dyn Pair) -> Order {
    run(pair, |cx, to| async move {
        loop {
            match cx.ask(to, Seen {}).await {
                Ok(order) => return order,
                Err(_) => cx.sleep(Duration::from_millis(10)).await,
            }
        }
    })
}

pub fn is_unknown<T>(r: &Result<T, AskError>) -> bool {
    matches!(r, Err(AskError::Unknown(_)))
}

pub fn is_not_sent<T>(r: &Result<T, AskError>) -> bool {
    matches!(r, Err(AskError::NotSent(_)))
}

/// A test for each promise between any two shards, for every pair that a closure makes.
#[macro_export]
macro_rules! promises_of_asking {
    ($pairs:expr) => {
        $crate::each_promise! { $pairs, asking:
            order_per_lane_and_no_duplicates
            big_payloads_are_intact
            more_at_once_than_there_are_credits
            a_receiver_is_not_flooded
            a_deadline_ends_the_wait
            wrong_addresses_are_not_sent
            who_asks_is_told
        }
    };
}

/// A test for each promise between nodes, for every pair that a closure makes.
#[macro_export]
macro_rules! promises_of_links {
    ($pairs:expr) => {
        $crate::each_promise! { $pairs, links:
            oversize_is_refused
            a_cut_is_told_and_mended
            outcomes_are_honest
            a_half_open_peer_is_noticed
            a_slow_handler_is_not_silence
            a_slow_receiver_does_not_fill_the_sender
            damage_is_never_delivered
            a_later_version_is_refused_and_the_link_lives
            a_restarted_receiver_is_another
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! each_promise {
    ($pairs:expr, $part:ident: $($promise:ident)*) => { $(
        #[test]
        fn $promise() {
            for mut pair in ($pairs)() {
                $crate::conformance::$part::$promise(&mut pair);
            }
        }
    )* };
}
