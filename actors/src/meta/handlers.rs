//! Which operation answers which message.

use std::sync::Arc;

use t3fs_runtime::{Cx, Handle, Me};

use super::garbage::GarbageNews;
use super::kv::client::Txn;
use super::kv::{KvError, Version};
use super::ops::create::NewInode;
use super::ops::{Done, attr, create, lookup, opens, readdir, remove, rename, turns};
use super::schema::*;
use super::{
    MetaServer, Once, ended, fresh_view, garbage, holds, inode_id, layout, look, now_ns, once, run,
};
use crate::proto::ids::{InodeId, SessionId};
use crate::proto::kv::{Barrier, Durability};
use crate::proto::meta::*;

/// Says of an inode when the store had it so.
fn as_of((attr, as_of): (Attr, Stamp)) -> Attr {
    Attr { as_of, ..attr }
}

fn changed(once: Once<Attr>) -> Changed {
    let (stamp, as_of) = (once.stamp, once.as_of());
    Changed { attr: Attr { as_of, ..once.done }, stamp }
}

fn gone(once: Once<Gone>) -> Gone {
    let (stamp, as_of) = (once.stamp, once.as_of());
    let told = |attr: Attr| Attr { as_of, ..attr };
    Gone { removed: once.done.removed.map(told), moved: once.done.moved.map(told), stamp }
}

/// Which sessions are over.
fn over(me: &Me<MetaServer>, cx: &Cx) -> impl Fn(SessionId) -> bool + use<> {
    me.with(|m| {
        m.over.look(cx.now(), &m.place.view);
        m.over.sessions()
    })
}

async fn make(
    me: &Me<MetaServer>,
    cx: &Cx,
    entry: &NewEntry,
    kind: FileType,
    target: Vec<u8>,
    hold: Option<SessionId>,
) -> Result<Changed, MetaError> {
    let layout = match kind {
        FileType::File => Some(layout(me, cx).await?),
        _ => None,
    };
    let new = NewInode { inode: inode_id(me, cx).await?, kind, layout, target };
    let now_ns = now_ns(cx);
    let body = async |txn: &mut Txn<'_>| create::create(txn, entry, &new, hold, now_ns).await;
    once(me, cx, entry.op, body).await.map(changed)
}

/// Has what an operation left without a name collected.
fn collect(me: &Me<MetaServer>, cx: &Cx, gone: &Gone) {
    if let Some(r) = &gone.removed
        && r.nlink == 0
        && r.kind != FileType::Directory
    {
        garbage::kick(me, cx, GarbageNews::File(r.inode));
    }
}

impl Handle<Lookup> for MetaServer {
    async fn handle(me: &Me<Self>, m: Lookup, cx: &Cx) -> Result<Attr, MetaError> {
        look(me, cx, async |txn| lookup::lookup(txn, m.parent, &m.name).await).await.map(as_of)
    }
}

impl Handle<GetAttr> for MetaServer {
    async fn handle(me: &Me<Self>, m: GetAttr, cx: &Cx) -> Result<Attr, MetaError> {
        look(me, cx, async |txn| lookup::get_attr(txn, m.inode).await).await.map(as_of)
    }
}

impl Handle<ReadLink> for MetaServer {
    async fn handle(me: &Me<Self>, m: ReadLink, cx: &Cx) -> Result<Vec<u8>, MetaError> {
        Ok(look(me, cx, async |txn| lookup::read_link(txn, m.inode).await).await?.0)
    }
}

impl Handle<ReadDir> for MetaServer {
    async fn handle(me: &Me<Self>, m: ReadDir, cx: &Cx) -> Result<DirPage, MetaError> {
        let read = look(me, cx, async |txn| readdir::read_dir(txn, &m).await).await;
        let (mut page, stamp) = read?;
        page.entries.iter_mut().for_each(|entry| entry.attr.as_of = stamp);
        Ok(page)
    }
}

impl Handle<CountInodes> for MetaServer {
    async fn handle(me: &Me<Self>, _: CountInodes, cx: &Cx) -> Result<u64, MetaError> {
        let count = async |txn: &mut Txn<'_>| -> Done<u64> {
            let parts = txn.fetch_range(&all(b'C'), 0, false).await?;
            Ok(sum(parts.rows.iter().map(|(_, part)| part)))
        };
        Ok(look(me, cx, count).await?.0)
    }
}

impl Handle<SetAttr> for MetaServer {
    async fn handle(me: &Me<Self>, m: SetAttr, cx: &Cx) -> Result<Changed, MetaError> {
        let (now_ns, over) = (now_ns(cx), over(me, cx));
        let body = async |txn: &mut Txn<'_>| attr::set_attr(txn, &m, now_ns, &over).await;
        let set = once(me, cx, m.op, body).await.map(changed)?;
        if m.length.is_some_and(|length| length.turn.is_some()) {
            Self::handle(me, SyncMeta { stamp: set.stamp }, cx).await?; // as with a report
        }
        Ok(set)
    }
}

impl Handle<ReportWrite> for MetaServer {
    async fn handle(me: &Me<Self>, m: ReportWrite, cx: &Cx) -> Result<Reported, MetaError> {
        // The end of a turn that came back would keep others waiting for one who has forgotten it.
        let durable = m.durable || m.turn.is_some();
        let durability = if durable { Durability::Now } else { Durability::Soon };
        let (now_ns, over) = (now_ns(cx), over(me, cx));
        let body = async |txn: &mut Txn<'_>| attr::report_write(txn, &m, now_ns, &over).await;
        let (mut reported, stamp) = run(me, cx, durability, body).await?;
        match &mut reported {
            Reported::Taken(taken) | Reported::Passed(taken) => {
                (taken.stamp, taken.attr.as_of) = (stamp, stamp)
            }
            Reported::Stale(attr) => attr.as_of = stamp,
            Reported::Waits => {}
        }
        Ok(reported)
    }
}

impl Handle<Append> for MetaServer {
    async fn handle(me: &Me<Self>, m: Append, cx: &Cx) -> Result<Appended, MetaError> {
        let over = over(me, cx);
        let mut kept_by = None;
        let body = async |txn: &mut Txn<'_>| {
            kept_by = holds::kept_by(txn, &m).await?;
            turns::append(txn, &m, &over, kept_by.is_some()).await
        };
        // A place that the store loses would be given to another while bytes are on their way.
        let (mut appended, now) = run(me, cx, Durability::Now, body).await?;
        if let Some(session) = kept_by {
            me.with(|m| m.holds_left |= !m.place.view.sessions.is_alive(session));
        }
        match &mut appended {
            Appended::At { stamp, .. } => *stamp = now,
            Appended::Stale(attr) => attr.as_of = now,
            Appended::Waits => {}
        }
        Ok(appended)
    }
}

impl Handle<BeginCut> for MetaServer {
    async fn handle(me: &Me<Self>, m: BeginCut, cx: &Cx) -> Result<bool, MetaError> {
        let over = over(me, cx);
        let body = async |txn: &mut Txn<'_>| turns::begin_cut(txn, &m, &over).await;
        // As with the place of an append.
        Ok(run(me, cx, Durability::Now, body).await?.0)
    }
}

impl Handle<OpenFile> for MetaServer {
    async fn handle(me: &Me<Self>, m: OpenFile, cx: &Cx) -> Result<Changed, MetaError> {
        let now_ns = now_ns(cx);
        let body = async |txn: &mut Txn<'_>| opens::open(txn, &m, now_ns).await;
        match m.hold {
            Some(_) => once(me, cx, m.op, body).await.map(changed),
            None => {
                let (attr, stamp) = run(me, cx, Durability::Soon, body).await?;
                Ok(Changed { attr: as_of((attr, stamp)), stamp })
            }
        }
    }
}

impl Handle<DropHolds> for MetaServer {
    async fn handle(me: &Me<Self>, m: DropHolds, cx: &Cx) -> Result<(), MetaError> {
        check_holds(m.inodes.len())?;
        once(me, cx, m.op, async |txn| opens::drop_holds(txn, &m).await).await?;
        // A name that goes after this look goes without the holds.
        let (nameless, _) = look(me, cx, async |txn| nameless(txn, &m.inodes).await).await?;
        for inode in nameless {
            garbage::kick(me, cx, GarbageNews::File(inode));
        }
        Ok(())
    }
}

/// Those of these inodes that have lost their last name.
///
/// Files that are closed together were mostly made together and mostly have their names: one look
/// at the range they lie in is cheaper than one for each. A wide range could hold any number of
/// removed entries, which a look passes one by one.
async fn nameless(txn: &mut Txn<'_>, inodes: &[InodeId]) -> Done<Vec<InodeId>> {
    let (Some(first), Some(last)) = (inodes.iter().min(), inodes.iter().max()) else {
        return Ok(Vec::new());
    };
    let mut nameless = inodes.to_vec();
    if last.0 - first.0 <= 8 * inodes.len() as u64 {
        let page = txn.fetch_range(&garbage_range(*first, *last), inodes.len(), false).await?;
        if !page.more {
            let found = page.rows.iter().filter_map(|(key, _)| split_key(key));
            let found: Vec<u64> = found.map(|(inode, _)| inode).collect();
            nameless.retain(|inode| found.binary_search(&inode.0).is_ok());
            return Ok(nameless);
        }
    }
    let keys = inodes.iter().map(|inode| garbage_key(*inode)).collect();
    let mut garbage = txn.fetch_all(keys).await?.into_iter();
    nameless.retain(|_| garbage.next().expect("one value per key").is_some());
    Ok(nameless)
}

fn check_holds(count: usize) -> Result<(), MetaError> {
    if count > HOLDS_MAX {
        return Err(MetaError::InvalidArgument(format!("more than {HOLDS_MAX} holds at a time")));
    }
    Ok(())
}

impl Handle<ShareOpens> for MetaServer {
    async fn handle(me: &Me<Self>, m: ShareOpens, cx: &Cx) -> Result<Vec<InodeId>, MetaError> {
        check_holds(m.holds.len())?;
        let now_ns = now_ns(cx);
        let shared = once(me, cx, m.op, async |txn| opens::share(txn, &m, now_ns).await);
        let Once { done: gone, stamp, .. } = shared.await?;
        // A crash of the store must not take back what others rely on from now on.
        Self::handle(me, SyncMeta { stamp }, cx).await?;
        // Content may have waited for this session to say what it has open.
        garbage::kick(me, cx, GarbageNews::Any);
        Ok(gone)
    }
}

impl Handle<NoteReads> for MetaServer {
    async fn handle(me: &Me<Self>, m: NoteReads, cx: &Cx) -> Result<(), MetaError> {
        check_holds(m.reads.len())?;
        let body = async |txn: &mut Txn<'_>| attr::note_reads(txn, &m.reads).await;
        run(me, cx, Durability::Soon, body).await.map(drop)
    }
}

impl Handle<KeepOpens> for MetaServer {
    async fn handle(me: &Me<Self>, m: KeepOpens, cx: &Cx) -> Result<(), MetaError> {
        fresh_view(me, cx).await?;
        let sessions = me.with(|m| Arc::clone(&m.place.view.sessions));
        // A record that comes back after a crash would speak for opens that nobody sees.
        let keep = async |txn: &mut Txn<'_>| holds::keep(txn, m.session, &sessions).await;
        run(me, cx, Durability::Now, keep).await.map(drop)
    }
}

impl Handle<ListKeepers> for MetaServer {
    async fn handle(me: &Me<Self>, _: ListKeepers, cx: &Cx) -> Result<Vec<SessionId>, MetaError> {
        fresh_view(me, cx).await?;
        let sessions = me.with(|m| m.place.view.sessions.alive.clone());
        let keys: Vec<_> = sessions.iter().map(|session| shares_key(*session)).collect();
        let (shares, _) = look(me, cx, async |txn| Ok(txn.fetch_all(keys.clone()).await?)).await?;
        let keepers = sessions.into_iter().zip(shares).filter(|(_, shares)| shares.is_none());
        Ok(keepers.map(|(session, _)| session).collect())
    }
}

impl Handle<WritersLeft> for MetaServer {
    async fn handle(me: &Me<Self>, _: WritersLeft, cx: &Cx) -> Result<bool, MetaError> {
        fresh_view(me, cx).await?;
        Ok(me.with(|m| {
            let left = ended::are_left(m, &m.place.view.sessions);
            if left {
                m.look.fill(()); // whoever asks waits for it
            }
            left
        }))
    }
}

impl Handle<CreateFile> for MetaServer {
    async fn handle(me: &Me<Self>, m: CreateFile, cx: &Cx) -> Result<Changed, MetaError> {
        match m.kind {
            FileType::File | FileType::Special { .. } => {
                make(me, cx, &m.entry, m.kind, Vec::new(), m.hold).await
            }
            FileType::Directory | FileType::Symlink => {
                Err(MetaError::InvalidArgument("not a kind of file to create".into()))
            }
        }
    }
}

impl Handle<MakeDir> for MetaServer {
    async fn handle(me: &Me<Self>, m: MakeDir, cx: &Cx) -> Result<Changed, MetaError> {
        make(me, cx, &m.entry, FileType::Directory, Vec::new(), None).await
    }
}

impl Handle<MakeSymlink> for MetaServer {
    async fn handle(me: &Me<Self>, m: MakeSymlink, cx: &Cx) -> Result<Changed, MetaError> {
        make(me, cx, &m.entry, FileType::Symlink, m.target, None).await
    }
}

impl Handle<MakeLink> for MetaServer {
    async fn handle(me: &Me<Self>, m: MakeLink, cx: &Cx) -> Result<Changed, MetaError> {
        let now_ns = now_ns(cx);
        once(me, cx, m.op, async |txn| create::link(txn, &m, now_ns).await).await.map(changed)
    }
}

impl Handle<Unlink> for MetaServer {
    async fn handle(me: &Me<Self>, m: Unlink, cx: &Cx) -> Result<Gone, MetaError> {
        let now_ns = now_ns(cx);
        let gone = once(me, cx, m.op, async |txn| remove::unlink(txn, &m, now_ns).await)
            .await
            .map(gone)?;
        collect(me, cx, &gone);
        Ok(gone)
    }
}

impl Handle<RemoveDir> for MetaServer {
    async fn handle(me: &Me<Self>, m: RemoveDir, cx: &Cx) -> Result<Gone, MetaError> {
        let now_ns = now_ns(cx);
        once(me, cx, m.op, async |txn| remove::remove_dir(txn, &m, now_ns).await).await.map(gone)
    }
}

impl Handle<Rename> for MetaServer {
    async fn handle(me: &Me<Self>, m: Rename, cx: &Cx) -> Result<Gone, MetaError> {
        let now_ns = now_ns(cx);
        let gone = once(me, cx, m.op, async |txn| rename::rename(txn, &m, now_ns).await)
            .await
            .map(gone)?;
        collect(me, cx, &gone);
        Ok(gone)
    }
}

impl Handle<SyncMeta> for MetaServer {
    async fn handle(me: &Me<Self>, m: SyncMeta, cx: &Cx) -> Result<(), MetaError> {
        let failed = |why: String| MetaError::Unavailable(format!("the metadata store: {why}"));
        let barrier = Barrier { version: Version(m.stamp.0) };
        let store = me.with(|m| m.store.clone());
        for _ in 0..2 {
            let run = store.run();
            let answer = cx.ask(store.kv(), barrier).await;
            // A barrier does not say which store has answered. If the known one is afterwards in
            // the run in which it was before, no other was in its place meanwhile.
            let mut txn = Txn::new(cx, &store);
            txn.identity().await.map_err(|e| failed(e.to_string()))?;
            if txn.run() != run {
                continue;
            }
            return match answer {
                Ok(Ok(())) => Ok(()),
                Ok(Err(KvError::Lost)) => Err(MetaError::Lost),
                Ok(Err(e)) => Err(failed(e.to_string())),
                Err(e) => Err(failed(e.to_string())),
            };
        }
        Err(failed("it has just started again".into()))
    }
}

impl Handle<CollectGarbage> for MetaServer {
    async fn handle(me: &Me<Self>, _: CollectGarbage, cx: &Cx) -> Result<bool, MetaError> {
        garbage::hurry(me, cx);
        me.with(|m| m.orphans.hurry(cx.now()));
        let all = all(b'G');
        let first = look(me, cx, async |txn| Ok(txn.fetch_range(&all, 1, false).await?));
        let (page, _) = first.await?;
        Ok(!page.rows.is_empty())
    }
}
