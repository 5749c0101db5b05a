//! What a host answers. A wish is noted at once; whoever wishes waits until it is done, and asks
//! again if that takes longer than the request may.

use core::time::Duration;

use t3fs_runtime::{Cx, Handle, Me};

use super::{Host, HostWorks};
use crate::proto::host::{
    HostError, HostTarget, ListHostTargets, MakeTarget, RemoveTarget, StopTarget,
};
use crate::proto::ids::TargetId;

/// The answer leaves so long before the asker stops waiting.
const MARGIN: Duration = Duration::from_millis(100);

impl<W: HostWorks> Host<W> {
    /// Hurries, and waits until nothing is left to be done for a target.
    async fn done(me: &Me<Self>, target: TargetId, cx: &Cx) -> Result<(), HostError> {
        let left = cx.deadline().since(cx.now()).saturating_sub(MARGIN);
        let cx = cx.within(left);
        loop {
            let settled = me.with(|h| {
                if h.core.is_done(target) {
                    return None;
                }
                h.hurry.fill(());
                Some(h.settled.wait())
            });
            let Some(settled) = settled else { return Ok(()) };
            if cx.in_time(settled).await.is_none() {
                return Err(HostError::Unavailable("it is noted, and takes longer".into()));
            }
        }
    }
}

impl<W: HostWorks> Handle<ListHostTargets> for Host<W> {
    async fn handle(me: &Me<Self>, _: ListHostTargets, _: &Cx) -> Vec<HostTarget> {
        me.with(|h| h.core.list())
    }
}

impl<W: HostWorks> Handle<MakeTarget> for Host<W> {
    async fn handle(me: &Me<Self>, m: MakeTarget, cx: &Cx) -> Result<(), HostError> {
        me.with(|h| {
            h.look = true;
            h.core.want_made(&m)
        })?;
        Self::done(me, m.target, cx).await
    }
}

impl<W: HostWorks> Handle<StopTarget> for Host<W> {
    async fn handle(me: &Me<Self>, m: StopTarget, cx: &Cx) -> Result<(), HostError> {
        me.with(|h| h.core.want_stopped(m.target))?;
        Self::done(me, m.target, cx).await
    }
}

impl<W: HostWorks> Handle<RemoveTarget> for Host<W> {
    async fn handle(me: &Me<Self>, m: RemoveTarget, cx: &Cx) -> Result<(), HostError> {
        me.with(|h| h.core.want_removed(m.target))?;
        Self::done(me, m.target, cx).await
    }
}
