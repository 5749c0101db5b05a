//! Waits that end: every wait of a request ends with its deadline.

use core::time::Duration;
use std::pin::pin;

use futures::future::{Either, select};

use t3fs_runtime::{Cx, Time};

use super::FsError;

/// A timer that nobody waits for any more stays until it fires, so none is set for longer.
const SLICE: Duration = Duration::from_millis(500);

/// Waits for a slot, or a place in a line, until the deadline of the request.
///
/// # Errors
/// `Unavailable`, saying what was waited for.
pub(super) async fn until_deadline<T>(
    cx: &Cx,
    value: impl Future<Output = T>,
    what: &str,
) -> Result<T, FsError> {
    if cx.deadline() == Time::NEVER {
        return Ok(value.await);
    }
    let mut value = pin!(value);
    loop {
        let left = cx.deadline().since(cx.now());
        if left.is_zero() {
            return Err(FsError::Unavailable(format!("waited too long: {what}")));
        }
        let slice = pin!(cx.sleep(left.min(SLICE)));
        if let Either::Left((value, _)) = select(value.as_mut(), slice).await {
            return Ok(value);
        }
    }
}
