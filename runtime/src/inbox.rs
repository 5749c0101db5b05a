//! A bounded queue into a shard from any thread: other shards, FUSE loops, the KV's sync thread.
//! Pushing wakes the shard only when it sleeps.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use crossbeam_queue::ArrayQueue;
use futures::task::AtomicWaker;

struct Shared<T> {
    queue: ArrayQueue<T>,
    reader: AtomicWaker,
}

/// The sending side; any thread.
pub struct Inbox<T>(Arc<Shared<T>>);

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Inbox(Arc::clone(&self.0))
    }
}

/// The receiving side; one task of the shard.
pub struct InboxReader<T>(Arc<Shared<T>>);

pub fn inbox<T: Send>(capacity: usize) -> (Inbox<T>, InboxReader<T>) {
    let s = Arc::new(Shared { queue: ArrayQueue::new(capacity), reader: AtomicWaker::new() });
    (Inbox(Arc::clone(&s)), InboxReader(s))
}

impl<T> Inbox<T> {
    /// Gives the value back when the inbox is full.
    pub fn push(&self, value: T) -> Result<(), T> {
        self.0.queue.push(value)?;
        self.0.reader.wake();
        Ok(())
    }

    /// Whether the reader has taken everything.
    pub fn is_empty(&self) -> bool {
        self.0.queue.is_empty()
    }
}

impl<T> InboxReader<T> {
    /// The next value, in order of arrival per sender.
    pub async fn next(&mut self) -> T {
        poll_fn(|cx| {
            if let Some(v) = self.0.queue.pop() {
                return Poll::Ready(v);
            }
            self.0.reader.register(cx.waker());
            // Pushed between the look and the registration: its wake found no waker.
            match self.0.queue.pop() {
                Some(v) => Poll::Ready(v),
                None => Poll::Pending,
            }
        })
        .await
    }
}
