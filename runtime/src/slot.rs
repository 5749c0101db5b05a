//! One-shot completion within a shard: what a timer, a disk operation and an ask resolve through.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct State<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

/// A future that some other party of the same shard fills, once. A clone is the same slot.
pub struct Slot<T>(Rc<RefCell<State<T>>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Slot(Rc::clone(&self.0))
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot(Rc::new(RefCell::new(State { value: None, waker: None })))
    }
}

impl<T> Slot<T> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Completes the slot. A second fill is ignored: the first answer is the answer.
    pub fn fill(&self, value: T) {
        let waker = {
            let mut s = self.0.borrow_mut();
            if s.value.is_some() {
                return;
            }
            s.value = Some(value);
            s.waker.take()
        };
        if let Some(w) = waker {
            w.wake();
        }
    }

    /// Whether both are the same slot.
    pub fn is(&self, other: &Slot<T>) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Whether nobody but the caller holds this slot any more: filling it would reach no one.
    pub fn abandoned(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}

impl<T> Future for Slot<T> {
    type Output = T;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut s = self.0.borrow_mut();
        match s.value.take() {
            Some(v) => Poll::Ready(v),
            None => {
                s.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Both futures, side by side.
pub async fn join<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    futures::future::join(a, b).await
}

/// All futures, side by side, results in the order given.
pub async fn join_all<F: Future>(fs: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    futures::future::join_all(fs).await
}

/// The value, or `None` when `limit` completes first.
pub async fn before<T>(value: impl Future<Output = T>, limit: Slot<()>) -> Option<T> {
    let mut value = std::pin::pin!(value);
    let mut limit = limit;
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(v) = value.as_mut().poll(cx) {
            return Poll::Ready(Some(v));
        }
        Pin::new(&mut limit).poll(cx).map(|()| None)
    })
    .await
}
