//! Removing what has no name any more: a file's chunks on every chain of its layout, then its
//! inode.
//!
//! A file waits while a living session holds it, and every file waits while living sessions do not
//! agree in how they show what they have open (`holds`). It also waits a moment for whoever has
//! looked its name up and not opened it yet. Then it is *condemned*: its entry says so, durably,
//! before any chunk goes. Nobody can open it any more, and no crash of the store brings a name back
//! whose content is gone.
//!
//! One task, the collector, starts when something loses its last name, works through what this
//! server heard of, and ends. It looks through all garbage entries at the start of the server and
//! now and then (for what another server left that has died), after failures, and while files
//! without a name are held open by a session, whose end mgmtd's routing tells. It does not look for
//! what it knows: a scan passes all that was removed lately. Everything here may run twice, or on
//! several servers at once.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use t3fs_runtime::slot::before;
use t3fs_runtime::{Cx, Me, Slot, Time};

use super::chains::remove_content;
use super::kv::client::{Txn, transact};
use super::kv::{KeyRange, KvError, key_after};
use super::ops::Done;
use super::schema::*;
use super::{MetaServer, fresh_view, holds, now_ns, refresh_view};
use crate::planted::PlantedBug;
use crate::proto::ids::{InodeId, RequestId, SessionId, ViewVersion};
use crate::proto::kv::Durability;
use crate::proto::meta::Layout;
use crate::proto::mgmtd::Sessions;
use crate::timing::is_longer;

/// Files removed at a time.
const PAGE: usize = 256;
/// Inodes whose records are cleared in one transaction.
const FORGET: usize = 64;
/// Pause before what is held by a session is looked at again.
const HELD_PAUSE: Duration = Duration::from_secs(5);
/// Shortest and longest pause after a pass that left something undone.
const FAILED_PAUSE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];
/// Shortest pause between two looks for what other servers left.
const LOOK_PAUSE: Duration = Duration::from_secs(30);
/// Longest wait for one transaction.
const TXN_LIMIT: Duration = Duration::from_secs(10);

/// Files heard of that are kept in mind; beyond it all entries are looked through instead.
const FRESH_MAX: usize = 1 << 16;
/// How long a file stays without a name: one that was looked up before can be opened until then.
/// Those that come meanwhile are company: one request to a chain removes many.
pub(super) const GRACE: Duration = Duration::from_secs(1);
const GATHER: Duration = Duration::from_millis(5);
/// How long there is no time of grace after somebody has run out of space.
const HURRY: Duration = Duration::from_secs(10);
const _: () = assert!(is_longer(GRACE, 1, GATHER) && is_longer(HURRY, 1, GRACE));
const _: () = assert!(is_longer(FAILED_PAUSE[1], 1, FAILED_PAUSE[0]));

/// The run of a store before which there was none.
const FIRST_RUN: u64 = 1;

/// Why the collector is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GarbageNews {
    /// A file has lost its last name or a hold.
    File(InodeId),
    /// There may be entries that this server did not hear of.
    Any,
}

/// The collector's state: whether its task lives, and what there is for it to do.
pub struct Collector {
    running: bool,
    /// With when its time of grace ends, in that order.
    fresh: VecDeque<(Time, InodeId)>,
    look: bool,
    /// What was left since all entries were last looked through.
    rest: Rest,
    asleep: Option<Slot<()>>,
    /// Like `asleep`, but for times of grace and pauses after failures: filled when space is short.
    waiting: Option<Slot<()>>,
    /// Until then space is short.
    hurry: Option<Time>,
    /// Number of the last request to storage.
    seq: u64,
    /// Routing by which answers kept for dead sessions were last removed.
    swept: ViewVersion,
    /// Dead sessions whose answers are still kept, and since when this server knows.
    dead: BTreeMap<SessionId, Time>,
    keep_answers: Duration,
    hold_again: Duration,
    /// The run of the store, and since when this server knows it.
    run: Option<(u64, Time)>,
}

impl Collector {
    pub fn new(keep_answers: Duration, hold_again: Duration) -> Collector {
        Collector {
            running: false,
            fresh: VecDeque::new(),
            look: false,
            rest: Rest::None,
            asleep: None,
            waiting: None,
            hurry: None,
            seq: 0,
            swept: ViewVersion(0),
            dead: BTreeMap::new(),
            keep_answers,
            hold_again,
            run: None,
        }
    }

    fn hurries(&self, now: Time) -> bool {
        self.hurry.is_some_and(|until| now < until)
    }

    fn grace(&self, now: Time) -> Duration {
        if self.hurries(now) { GATHER } else { GRACE }
    }

    /// Ends all times of grace.
    fn hurry(&mut self, now: Time) {
        self.hurry = Some(now + HURRY);
        self.fresh.iter_mut().for_each(|(due, _)| *due = now.min(*due));
        if let Some(waiting) = self.waiting.take() {
            waiting.fill(());
        }
    }

    /// Has a file removed after its time of grace. `false`: there are too many to keep in mind.
    fn remind(&mut self, inode: InodeId, now: Time) -> bool {
        let room = self.fresh.len() < FRESH_MAX;
        if room {
            self.fresh.push_back((now + self.grace(now), inode));
        }
        room
    }

    /// Whether holds that the store has lost with its power, before this run, are there again.
    fn are_held_again(&mut self, run: u64, now: Time) -> bool {
        let (known, since) = *self.run.get_or_insert((run, now));
        if known != run {
            self.run = Some((run, now));
        }
        run == FIRST_RUN || known == run && now.since(since) >= self.hold_again
    }

    /// Whether the answers kept for a dead session may go.
    fn forgettable(&mut self, session: SessionId, now: Time) -> bool {
        let since = *self.dead.entry(session).or_insert(now);
        let may = now.since(since) >= self.keep_answers;
        if may {
            self.dead.remove(&session);
        }
        may
    }

    /// Says that there is garbage; whether the task must be started.
    fn kick(&mut self, news: GarbageNews, now: Time) -> bool {
        match news {
            GarbageNews::File(inode) => self.look |= !self.remind(inode, now),
            GarbageNews::Any => self.look = true,
        }
        if let Some(asleep) = self.asleep.take() {
            asleep.fill(());
        }
        !core::mem::replace(&mut self.running, true)
    }

    /// A request number larger than any before, here and in earlier runs.
    pub(super) fn request(&mut self, wall_us: u64) -> RequestId {
        self.seq = wall_us.max(self.seq + 1);
        RequestId { session: SessionId(0), seq: self.seq }
    }

    /// Filled when space is short.
    fn wait(&mut self) -> Slot<()> {
        let waiting = Slot::new();
        self.waiting = Some(waiting.clone());
        waiting
    }

    /// What to do next. If nothing is left, the task ends.
    fn next(&mut self, now: Time) -> Next {
        if core::mem::take(&mut self.look) {
            self.rest = Rest::None;
            return Next::Look;
        }
        if self.rest == Rest::Failed {
            return Next::Sleep(self.wait());
        }
        let due = self.fresh.iter().take(PAGE).take_while(|(due, _)| *due <= now).count();
        if due > 0 {
            return Next::Remove(self.fresh.drain(..due).map(|(_, inode)| inode).collect());
        }
        if let Some((due, _)) = self.fresh.front() {
            return Next::Wait(due.since(now), self.wait());
        }
        if self.rest != Rest::None {
            let asleep = Slot::new();
            self.asleep = Some(asleep.clone());
            return Next::Doze(asleep);
        }
        self.running = false;
        Next::End
    }
}

/// What a round left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Rest {
    None,
    /// Sessions hold files.
    Held,
    /// Sessions may have files open that nobody sees: nothing was removed.
    Unsure,
    Failed,
}

enum Next {
    Look,
    Remove(Vec<InodeId>),
    Sleep(Slot<()>),
    Wait(Duration, Slot<()>),
    Doze(Slot<()>),
    End,
}

/// For ever: looks now and then for what another server left.
pub(super) async fn watch(me: Me<MetaServer>, cx: Cx) {
    loop {
        kick(&me, &cx, GarbageNews::Any);
        // Servers that started together do not look together.
        let jitter = Duration::from_micros(cx.rand() % LOOK_PAUSE.as_micros() as u64);
        cx.sleep(LOOK_PAUSE + jitter).await;
    }
}

/// Has garbage collected, soon.
pub(super) fn kick(me: &Me<MetaServer>, cx: &Cx, news: GarbageNews) {
    if me.with(|m| m.collector.kick(news, cx.now())) {
        cx.spawn(collector(me.clone(), cx.outlive()));
    }
}

/// Has garbage collected at once, and for a while without time of grace.
pub(super) fn hurry(me: &Me<MetaServer>, cx: &Cx) {
    me.with(|m| m.collector.hurry(cx.now()));
    kick(me, cx, GarbageNews::Any);
}

async fn collector(me: Me<MetaServer>, cx: Cx) {
    let [shortest, longest] = FAILED_PAUSE;
    let mut pause = shortest;
    loop {
        let done = match me.with(|m| m.collector.next(cx.now())) {
            Next::Look => look(&me, &cx).await,
            Next::Remove(inodes) => remove(&me, &cx, inodes).await,
            Next::Sleep(hurried) => {
                pause = match before(cx.sleep(pause), hurried).await {
                    Some(()) => longest.min(pause * 2),
                    None => shortest,
                };
                me.with(|m| m.collector.look = true);
                continue;
            }
            Next::Wait(pause, hurried) => {
                // Either way it is looked what is due now.
                let _ = before(cx.sleep(pause), hurried).await;
                continue;
            }
            Next::Doze(woken) => {
                if before(cx.sleep(HELD_PAUSE), woken).await.is_some() {
                    me.with(|m| m.collector.look = true);
                }
                continue;
            }
            Next::End => return,
        };
        let rest = done.unwrap_or_else(|e| {
            tracing::warn!("garbage collection goes on later: {e}");
            Rest::Failed
        });
        if rest != Rest::Failed {
            pause = shortest;
        }
        me.with(|m| m.collector.rest = m.collector.rest.max(rest));
    }
}

/// Goes through all garbage entries once.
async fn look(me: &Me<MetaServer>, cx: &Cx) -> Done<Rest> {
    let store = me.with(|m| m.store.clone());
    let KeyRange { mut begin, end } = all(b'G');
    let mut rest = Rest::None;
    loop {
        let page_cx = cx.within(TXN_LIMIT);
        let mut txn = Txn::new(&page_cx, &store);
        let page = txn.fetch_range(&KeyRange::new(begin, end.clone()), PAGE, false).await?;
        drop(txn);
        let (now_ns, hurries) = (now_ns(cx), me.with(|m| m.collector.hurries(cx.now())));
        let mut due = Vec::new();
        for (key, value) in &page.rows {
            let Some((inode, _)) = split_key(key) else { continue };
            let garbage = GarbageV3::open(InodeId(inode), value)?;
            if garbage.condemned || hurries || !is_young(garbage.since_ns, now_ns) {
                due.push(InodeId(inode));
            } else if !me.with(|m| m.collector.remind(InodeId(inode), cx.now())) {
                rest = Rest::Failed;
            }
        }
        rest = rest.max(remove(me, cx, due).await?);
        if rest == Rest::Unsure {
            return Ok(rest);
        }
        let Some((last, _)) = page.rows.last().filter(|_| page.more) else { return Ok(rest) };
        begin = key_after(last);
    }
}

/// Whether an entry's time of grace goes on. Clocks differ: an entry from the future has none.
fn is_young(since_ns: i64, now_ns: i64) -> bool {
    let age_ns = now_ns.saturating_sub(since_ns);
    (0..GRACE.as_nanos() as i64).contains(&age_ns)
}

/// Removes files without a name, unless somebody holds them or may hold them.
async fn remove(me: &Me<MetaServer>, cx: &Cx, mut inodes: Vec<InodeId>) -> Done<Rest> {
    if inodes.is_empty() {
        return Ok(Rest::None);
    }
    sweep_sessions(me, cx).await?;
    inodes.sort_unstable();
    inodes.dedup();
    // As new as the call, and what sessions say is read after it: a session that has opened one of
    // these files without a hold did so before the last name went, so it is in the routing.
    fresh_view(me, cx).await?;
    let (store, view) = me.with(|m| (m.store.clone(), m.place.view.clone()));
    let heeds = !PlantedBug::HoldsIgnored.is_in(cx);
    let trusts = |run| me.with(|m| m.collector.are_held_again(run, cx.now()));
    let (files, mut rest) = transact(&cx.within(TXN_LIMIT), &store, Durability::Now, async |txn| {
        if heeds && !holds::agree(txn, &view.sessions).await? {
            return Ok((Vec::new(), Rest::Unsure));
        }
        if heeds && !txn.run().is_none_or(trusts) {
            return Ok((Vec::new(), Rest::Failed));
        }
        condemn(txn, &inodes, &view.sessions, heeds).await
    })
    .await?;
    let failed = remove_content(me, cx, &files).await;
    if !failed.is_empty() {
        rest = Rest::Failed;
    }
    let empty = files.iter().map(|f| f.0).filter(|i| !failed.contains(i));
    let empty: Vec<InodeId> = empty.collect();
    for inodes in empty.chunks(FORGET) {
        let cx = cx.within(TXN_LIMIT);
        let forget = async |txn: &mut Txn<'_>| forget(txn, inodes).await;
        transact(&cx, &store, Durability::Soon, forget).await?;
    }
    Ok(rest)
}

/// A file without a name, and where its content is if it has any.
pub(super) type Condemned = (InodeId, Option<Layout>);

/// Condemns those of these inodes, which are in order, that nobody holds or may hold. Gives them
/// with those that were condemned before, and what was left.
pub(super) async fn condemn(
    txn: &mut Txn<'_>,
    inodes: &[InodeId],
    living: &Sessions,
    heeds: bool,
) -> Done<(Vec<Condemned>, Rest)> {
    let holds = read_holds(txn, inodes).await?;
    let keys = inodes.iter().flat_map(|i| [garbage_key(*i), inode_key(*i)]).collect();
    let found = txn.fetch_all(keys).await?;
    let mut files = Vec::new();
    let mut rest = Rest::None;
    for (inode, stored) in inodes.iter().zip(found.chunks(2)) {
        // Without an entry another server was here first, or the name was not its last.
        let Some(garbage) = &stored[0] else { continue };
        let garbage = GarbageV3::open(*inode, garbage)?;
        if !garbage.condemned {
            let sessions = holds.get(inode).map_or(&[][..], Vec::as_slice);
            if heeds && sessions.iter().any(|s| living.is_alive(*s)) {
                rest = Rest::Held;
                continue;
            }
            txn.depend(&garbage_key(*inode));
            txn.buffer().add_read_conflict_range(&hold_range(*inode));
            txn.set(garbage_key(*inode), GarbageV3 { condemned: true, ..garbage }.seal());
        }
        let file = stored[1].as_deref().map(|bytes| Inode::open(*inode, bytes)).transpose()?;
        files.push((*inode, file.and_then(|f| f.attr.layout)));
    }
    Ok((files, rest))
}

/// The sessions that hold these inodes, which are in order.
async fn read_holds(
    txn: &mut Txn<'_>,
    inodes: &[InodeId],
) -> Result<BTreeMap<InodeId, Vec<SessionId>>, KvError> {
    let mut holds = BTreeMap::<_, Vec<_>>::new();
    let (Some(first), Some(last)) = (inodes.first(), inodes.last()) else { return Ok(holds) };
    let mut range = KeyRange::new(hold_range(*first).begin, hold_range(*last).end);
    loop {
        let page = txn.fetch_range(&range, 0, false).await?;
        for (key, _) in page.rows {
            let Some((inode, session)) = split_hold(&key) else { continue };
            holds.entry(inode).or_default().push(session);
        }
        if !page.more {
            return Ok(holds);
        }
        range.begin = page.covered.end;
    }
}

/// Clears the records of condemned inodes without content, and the holds of ended sessions.
///
/// The commit depends on the garbage entries, since another collector may have been here, and on
/// the holds: none stays behind without its inode.
async fn forget(txn: &mut Txn<'_>, inodes: &[InodeId]) -> Done<()> {
    let mut holds = read_holds(txn, inodes).await?;
    let keys = inodes.iter().flat_map(|i| [inode_key(*i), garbage_key(*i)]).collect();
    let mut stored = txn.fetch_all(keys).await?.into_iter();
    let mut next = || stored.next().expect("one value per key");
    for inode in inodes {
        let (found, garbage) = (next().is_some(), next());
        let sessions = holds.remove(inode).unwrap_or_default();
        let Some(garbage) = garbage else { continue };
        if let Some(due) = GarbageV3::open(*inode, &garbage)?.due {
            txn.clear(due_key(due, *inode));
        }
        txn.depend(&garbage_key(*inode));
        txn.buffer().add_read_conflict_range(&hold_range(*inode));
        txn.clear(garbage_key(*inode));
        txn.clear(inode_key(*inode));
        txn.clear(turns_key(*inode));
        txn.clear_range(belongings_range(*inode));
        txn.add(count_key(), -i64::from(found));
        for session in sessions {
            txn.clear(hold_key(*inode, session));
        }
    }
    Ok(())
}

/// Removes the answers kept for sessions that ended a while ago.
async fn sweep_sessions(me: &Me<MetaServer>, cx: &Cx) -> Done<()> {
    if me.with(|m| m.place.view.version) == ViewVersion::default() {
        refresh_view(me, cx).await;
    }
    let (store, view, swept) =
        me.with(|m| (m.store.clone(), m.place.view.clone(), m.collector.swept));
    if view.version == swept && me.with(|m| m.collector.dead.is_empty()) {
        return Ok(());
    }
    let mut from = SessionId(0);
    let mut kept = BTreeSet::new();
    loop {
        let cx = cx.within(TXN_LIMIT);
        let page = Txn::new(&cx, &store).fetch_range(&recent_from(from), 1, false).await?;
        let Some((session, _)) = page.rows.first().and_then(|(key, _)| split_key(key)) else {
            break;
        };
        let session = SessionId(session);
        kept.insert(session);
        let now = cx.now();
        if !view.sessions.is_alive(session) && me.with(|m| m.collector.forgettable(session, now)) {
            transact(&cx, &store, Durability::Soon, async |txn| -> Done<()> {
                txn.clear_range(recent_range(session));
                Ok(())
            })
            .await?;
        }
        from = SessionId(session.0 + 1);
    }
    me.with(|m| {
        m.collector.swept = view.version;
        m.collector.dead.retain(|s, _| kept.contains(s)); // another server may have been here
    });
    Ok(())
}
