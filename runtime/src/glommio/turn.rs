//! One turn of the executor, its rings included, without parking.
//!
//! glommio goes on running tasks while any is ready and looks at its rings only afterwards, so a
//! task that polls something by waking itself would keep the shard from all I/O for as long. What
//! glommio does at each look at its rings, and counts as a reason not to park, is to wake those who
//! wait for the other end of a shared channel. So a turn is such a wait, for an end that never
//! comes.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use ::glommio::channels::shared_channel::{ConnectedSender, SharedReceiver, new_bounded};

#[derive(Clone)]
pub(super) struct Turns(Rc<Wait>);

struct Wait {
    connecting: RefCell<Pin<Box<dyn Future<Output = ConnectedSender<()>>>>>,
    /// Never connected; dropping it would end the wait.
    _other_end: SharedReceiver<()>,
}

impl Turns {
    pub(super) fn new() -> Turns {
        let (sender, other_end) = new_bounded(1);
        Turns(Rc::new(Wait {
            connecting: RefCell::new(Box::pin(sender.connect())),
            _other_end: other_end,
        }))
    }

    /// Ready at the next look at the rings.
    pub(super) async fn turn(self) {
        let mut waited = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            let connected = self.0.connecting.borrow_mut().as_mut().poll(cx);
            assert!(connected.is_pending(), "nobody has the other end");
            Poll::Pending
        })
        .await;
    }
}
