//! The way down of a node. All shards work at a time, and the one who waits says for how long: a
//! mount whose cluster is gone must not keep its user waiting once for each shard.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use t3fs_runtime::Cx;
use t3fs_runtime::glommio::Remote;

use super::Node;
use crate::door;
use crate::failure::{Failure, failed};

/// How often the one who waits is asked until when.
const LOOK: Duration = Duration::from_millis(100);
/// What every step of the end may take, also when those before it have used up the time: stores
/// that close well need no recovery.
const STEP_MIN: Duration = Duration::from_secs(5);
const _: () = assert!(LOOK.as_millis() < STEP_MIN.as_millis());

/// Until when something is waited for; asked again and again, so that it can come closer.
pub type Until<'a> = &'a mut dyn FnMut() -> Instant;

/// Begins something on a shard. What comes of it is heard once.
pub(super) fn begin<T, F>(remote: &Remote, f: F) -> Receiver<T>
where
    T: Send + 'static,
    F: AsyncFnOnce(Cx) -> T + Send + 'static,
{
    let (say, hear) = mpsc::channel();
    remote.run(Box::new(move |shard| {
        let cx = shard.cx();
        cx.clone().spawn(async move {
            // Nobody hears it when it took too long.
            let _ = say.send(f(cx).await);
        });
    }));
    hear
}

/// Waits for what was begun.
pub(super) fn heard<T>(hear: &Receiver<T>, what: &str, until: Until<'_>) -> Result<T, Failure> {
    let since = Instant::now();
    loop {
        let left = until().saturating_duration_since(Instant::now());
        match hear.recv_timeout(left.min(LOOK)) {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Timeout) if left > LOOK => {}
            Err(RecvTimeoutError::Timeout) => {
                let waited = since.elapsed().as_secs();
                return Err(failed(format!("{what}: no answer in {waited} s")));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(failed(format!("{what}: the shard has stopped")));
            }
        }
    }
}

/// Does something on all shards at a time; tells the first thing that went wrong.
pub(super) fn on_all<F>(
    remotes: &[Remote],
    what: &str,
    until: Until<'_>,
    f: F,
) -> Result<(), Failure>
where
    F: AsyncFnOnce(Cx) -> Result<(), Failure> + Clone + Send + 'static,
{
    let begun: Vec<_> = remotes.iter().map(|remote| begin(remote, f.clone())).collect();
    let at_least = Instant::now() + STEP_MIN;
    let until = &mut || until().max(at_least);
    let done = begun.iter().map(|hear| heard(hear, what, until).and_then(|done| done));
    done.fold(Ok(()), Result::and)
}

pub(super) fn not_flushed(e: impl std::fmt::Display) -> Failure {
    failed(format!("not everything could be flushed: {e}"))
}

impl Node {
    /// Hands everything that clients hold to stable storage, and waits for nobody if they hold
    /// nothing; all go on.
    pub fn sync(&self, until: Until<'_>) -> Result<(), Failure> {
        on_all(&self.shards.remotes, "flush", until, async |cx: Cx| match door::client() {
            Some(client) => client.sync_own(&cx).await.map_err(not_flushed),
            None => Ok(()),
        })
    }

    /// Flushes, ends all parts, the last that began first, and their threads.
    pub fn stop(mut self, until: Until<'_>) -> Result<(), Failure> {
        // From here on it is we who leave.
        self.reach = None;
        let mut result = Ok(());
        while let Some(part) = self.parts.pop() {
            result = result.and((part.stop)(&mut self, until));
        }
        self.shards.stop();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_can_be_shortened_while_it_lasts() {
        let (_say, hear) = mpsc::channel::<()>();
        let since = Instant::now();
        let mut asked = 0;
        let mut until = || {
            asked += 1;
            since + if asked < 3 { Duration::from_secs(3600) } else { Duration::ZERO }
        };
        let why = heard(&hear, "flush", &mut until).unwrap_err();
        assert_eq!((why.line.as_str(), asked), ("flush: no answer in 0 s", 3));
    }

    #[test]
    fn what_is_there_is_heard_even_when_the_time_is_up() {
        let (say, hear) = mpsc::channel();
        say.send(7).unwrap();
        let past = Instant::now();
        assert_eq!(heard(&hear, "flush", &mut || past), Ok(7));
        drop(say);
        assert!(heard(&hear, "flush", &mut || past).unwrap_err().line.contains("stopped"));
    }
}
