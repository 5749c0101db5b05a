//! What ended sessions leave: their holds are cleared, and their `S` records behind them.
//!
//! If a dead session might write, what it has stored and not reported becomes part of the file
//! first, once nothing of it can reach storage any more (`over`) and nobody else is at the end of
//! the file: the length becomes the end of what storage has. So a program whose host dies finds
//! what it had written through, as after a crash of a local machine. The holds of all sessions are
//! passed through when one has ended, and at the start, not else.

use core::time::Duration;
use std::collections::BTreeSet;

use futures::StreamExt;
use t3fs_runtime::{Cx, Me, Slot};

use super::chains::stored_end;
use super::holds::Shares;
use super::kv::client::{Txn, transact};
use super::ops::Done;
use super::ops::attr::{self, Writer};
use super::ops::turns::IsOver;
use super::schema::*;
use super::{MetaServer, garbage, now_ns, refresh_view};
use crate::proto::ids::{InodeId, SessionId};
use crate::proto::kv::Durability;
use crate::proto::mgmtd::{ClusterView, Sessions};

/// How often the routing is looked at for sessions that have ended: the agent beside us has it.
const LOOK_PAUSE: Duration = Duration::from_secs(3);
/// Pause after a pass that could not end.
const FAILED_PAUSE: Duration = Duration::from_secs(3);
/// Rows of a page; holds cleared in one transaction.
const PAGE: usize = 256;
/// Files of dead writers seen to at the same time.
const PARALLEL: usize = 16;
/// Longest wait for one transaction.
const TXN_LIMIT: Duration = Duration::from_secs(10);

/// For ever: clears what ended sessions leave.
pub(super) async fn watch(me: Me<MetaServer>, cx: Cx) {
    loop {
        refresh_view(&me, &cx).await;
        let ClusterView { version, sessions, .. } = me.with(|m| {
            m.over.look(cx.now(), &m.place.view);
            m.place.view.clone()
        });
        // Without a view every session is as good as alive.
        let known = version.0 > 0;
        let cleared = me.with(|m| {
            if std::mem::take(&mut m.holds_left) {
                m.cleared = None;
            }
            m.cleared.clone()
        });
        let mut pause = LOOK_PAUSE;
        if known && cleared.as_ref().is_none_or(|before| before.ended_until(&sessions)) {
            match clear_dead(&me, &cx, &sessions).await {
                Ok(None) => me.with(|m| m.cleared = Some(sessions)),
                Ok(Some(again)) => pause = again,
                Err(e) => {
                    tracing::warn!("holds of ended sessions are cleared later: {e}");
                    pause = FAILED_PAUSE;
                }
            }
        } else if known {
            me.with(|m| m.cleared = Some(sessions));
        }
        let jitter = Duration::from_micros(cx.rand() % pause.as_micros() as u64);
        let woken = Slot::new();
        me.with(|m| m.look = woken.clone());
        // Ended either way: it is looked again.
        let _ = cx.within(pause + jitter).in_time(woken).await;
    }
}

/// Whether ended sessions may have left what they had written to be made part of their files.
/// `sessions` must be fresh.
pub(super) fn are_left(m: &MetaServer, sessions: &Sessions) -> bool {
    m.cleared.as_ref().is_none_or(|before| before.ended_until(sessions))
}

/// Goes through all holds and `S` records once. Some may have to be left: when to try again.
async fn clear_dead(me: &Me<MetaServer>, cx: &Cx, sessions: &Sessions) -> Done<Option<Duration>> {
    let (store, over, fence) = me.with(|m| (m.store.clone(), m.over.sessions(), m.over.fence()));
    let mut range = all(b'H');
    let mut left = BTreeSet::new();
    loop {
        let page_cx = cx.within(TXN_LIMIT);
        let page = Txn::new(&page_cx, &store).fetch_range(&range, PAGE, false).await?;
        let (mut readers, mut writers) = (Vec::new(), Vec::new());
        for (key, value) in &page.rows {
            let Some((inode, session)) = split_hold(key) else { continue };
            if sessions.is_alive(session) {
                continue;
            }
            match HoldV1::open(inode, value) {
                Ok(hold) if !hold.write => readers.push(key.clone()),
                _ if !over(session) => drop(left.insert(session)),
                _ => writers.push((inode, session)),
            }
        }
        let ends = writers.into_iter().map(|(inode, session)| {
            let over = &over;
            async move { (inode, session, end_writer(me, cx, inode, session, over).await) }
        });
        let mut ends = futures::stream::iter(ends).buffer_unordered(PARALLEL);
        while let Some((inode, session, ended)) = ends.next().await {
            if let Err(e) = &ended {
                tracing::warn!("what a dead writer of {:#x} left stays for now: {e}", inode.0);
            }
            if !matches!(ended, Ok(true)) {
                left.insert(session);
            }
        }
        if !readers.is_empty() {
            transact(&cx.within(TXN_LIMIT), &store, Durability::Soon, async |txn| -> Done<()> {
                readers.iter().for_each(|key| txn.clear(key.clone()));
                Ok(())
            })
            .await?;
        }
        if !page.more {
            break;
        }
        range.begin = page.covered.end;
    }
    let txn_cx = cx.within(TXN_LIMIT);
    let records = transact(&txn_cx, &store, Durability::Soon, async |txn| {
        let shares = Shares::read(txn, sessions).await?;
        let stays = |s: &SessionId| left.contains(s) || shares.is_awaited(*s);
        let (stay, go): (Vec<_>, Vec<_>) = shares.ended.iter().copied().partition(stays);
        go.into_iter().for_each(|session| txn.clear(shares_key(session)));
        Done::Ok(stay.len())
    });
    let whole = records.await? == 0 && left.is_empty();
    let soon = left.iter().any(|session| !over(*session));
    // Content may have waited for those sessions.
    garbage::kick(me, cx, garbage::GarbageNews::Any);
    Ok((!whole).then_some(if soon { fence } else { FAILED_PAUSE }))
}

/// Makes what a dead writer has stored part of its file and clears its hold. `false`: storage has
/// not answered, or others append, and the hold stays.
async fn end_writer(
    me: &Me<MetaServer>,
    cx: &Cx,
    inode: InodeId,
    session: SessionId,
    over: IsOver<'_>,
) -> Done<bool> {
    let store = me.with(|m| m.store.clone());
    loop {
        let page_cx = cx.within(TXN_LIMIT);
        let [found] = Txn::new(&page_cx, &store).fetch([&inode_key(inode)]).await?;
        let seen = found.as_deref().map(|bytes| Inode::open(inode, bytes)).transpose()?;
        let seen = seen.map(|inode| inode.attr).filter(|attr| attr.nlink > 0);
        let mut end = 0;
        if let Some(attr) = &seen
            && let Some(layout) = &attr.layout
        {
            end = match stored_end(me, cx, inode, layout).await {
                Ok(end) => end,
                Err(why) => {
                    let number = inode.0;
                    tracing::warn!("the end of file {number:#x} is not known yet: {why}");
                    return Ok(false);
                }
            };
        }
        let truncations = seen.map_or(u64::MAX, |attr| attr.truncations);
        let now_ns = now_ns(cx);
        let txn_cx = cx.within(TXN_LIMIT);
        let settled = transact(&txn_cx, &store, Durability::Soon, async |txn| {
            attr::end_writer(txn, inode, session, end, truncations, over, now_ns).await
        });
        match settled.await? {
            Writer::Cleared => return Ok(true),
            Writer::AtEnd => return Ok(false),
            Writer::Cut => {} // what storage has is another now
        }
    }
}
