//! The door to a file: lets many in at a time, or one alone; first come, first served.

use t3fs_runtime::Cx;
use t3fs_runtime::line::{Grant, Line, Turn};

use super::FsError;
use super::wait::until_deadline;

#[derive(Default)]
pub(super) struct Gate(Line);

impl Gate {
    /// Enters with others.
    ///
    /// # Errors
    /// `Unavailable` when the deadline comes first.
    pub(super) async fn share(&self, cx: &Cx) -> Result<Grant, FsError> {
        enter(cx, self.0.share()).await
    }

    /// Enters alone.
    ///
    /// # Errors
    /// As [`Gate::share`].
    pub(super) async fn alone(&self, cx: &Cx) -> Result<Grant, FsError> {
        enter(cx, self.0.alone()).await
    }
}

async fn enter(cx: &Cx, turn: Turn) -> Result<Grant, FsError> {
    match turn {
        Turn::Now(grant) => Ok(grant),
        Turn::Waits(place) => {
            let what = "the file is being truncated or waits for its storage";
            until_deadline(cx, place, what).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use t3fs_runtime::glommio::run_alone;

    /// Goal: whose deadline ends its wait holds nobody up.
    #[test]
    fn who_gives_up_holds_nobody_up() {
        run_alone(vec![], async |shard| {
            let (cx, gate) = (shard.cx(), Gate::default());
            let first = gate.share(&cx).await.unwrap();
            let short = cx.within(Duration::from_millis(5));
            assert!(gate.alone(&short).await.is_err());
            drop(gate.share(&cx).await.unwrap());
            drop(first);
            drop(gate.alone(&cx).await.unwrap());
            assert!(gate.0.is_idle());
        })
        .unwrap();
    }
}
