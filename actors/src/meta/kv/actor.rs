//! The embedded store as an actor: the resolver behind messages, and when it syncs.
//!
//! *Group commit.* One task, the syncer, lives while something is not on stable storage, and only
//! then: an idle store does nothing. It begins a sync [`SYNC_DELAY`] after the first commit that no
//! sync covers, or at once when someone waits; while a sync runs, the next batch fills.
//!
//! *A failed sync ends the process*: what was acknowledged may be lost, and only a new start, which
//! reads what is really there, knows.

use core::time::Duration;

use futures::channel::oneshot;
use t3fs_runtime::slot::before;
use t3fs_runtime::{Actor, Addr, Bell, Cx, Handle, Me, Slot, Time};

use super::{CommitRequest, Committed, KvError, Resolver, Store, StoreError, Version, WINDOW_US};
use crate::planted::PlantedBug;
use crate::proto::kv::Kv;
use crate::proto::kv::*;

/// Longest time between a commit and the beginning of the sync that covers it, unless another sync
/// is running.
pub const SYNC_DELAY: Duration = Duration::from_millis(50);

/// The embedded key-value store.
pub struct KvServer {
    resolver: Resolver,
    syncs: Syncs,
    /// A task waits to release what leaves the window.
    expiring: bool,
}

/// What is not durable yet, and who waits for it.
#[derive(Default)]
struct Syncs {
    /// When the first commit was ordered that no sync covers.
    unsynced_since: Option<Time>,
    /// Rung when the sync that runs has ended.
    running: Option<Synced>,
    /// Rung when the sync after that has ended.
    next: Synced,
    /// The syncer, asleep until its time comes; filled to hurry it.
    syncer: Syncer,
    /// The store went away under a sync.
    stopped: bool,
}

type Synced = Bell<Result<(), KvError>>;
type Waiter = Slot<Result<(), KvError>>;

#[derive(Default)]
enum Syncer {
    #[default]
    None,
    Busy,
    Asleep(Slot<()>),
}

enum Step {
    Rest,
    Sleep(Time, Slot<()>),
    Sync(oneshot::Receiver<Result<(), StoreError>>),
}

impl Actor for KvServer {
    type Protocol = Kv;

    fn invariants(&self) {
        let s = &self.syncs;
        assert!(s.next.is_empty() || s.unsynced_since.is_some());
        let work = s.unsynced_since.is_some() || s.running.is_some();
        assert!(s.stopped || !work || !matches!(s.syncer, Syncer::None));
    }
}

impl KvServer {
    /// Takes over `store` and serves it from this shard. An error is a sentence.
    pub fn start(cx: &Cx, store: Box<dyn Store>) -> Result<Addr<Kv>, String> {
        let resolver = Resolver::open(store).map_err(|e| format!("the metadata store: {e}"))?;
        let mut kv = KvServer { resolver, syncs: Syncs::default(), expiring: false };
        // The opening is a commit, which nobody may be told of before it is on its way.
        let start = kv.committed(cx.now());
        assert!(start, "nobody else has");
        let (addr, me) = cx.start_with(kv);
        cx.spawn(syncer(me, cx.outlive()));
        Ok(addr)
    }

    /// What a barrier waits for, if anything, or that what it stands for is gone.
    fn barrier(&mut self, cx: &Cx, version: Version) -> Result<Option<Waiter>, KvError> {
        let forgets = PlantedBug::BarrierForgetsVersion.is_in(cx);
        if version != Version(0) && !forgets && !self.resolver.survived(version) {
            return Err(KvError::Lost);
        }
        match PlantedBug::BarrierAnswersAtOnce.is_in(cx) {
            true => Ok(None),
            false => Ok(self.wait_durable()),
        }
    }

    /// The version to read at, and whether the task that lets it go again must be started.
    fn read_version(&mut self, now: Time, at: Option<Version>) -> Result<(Version, bool), KvError> {
        if let Some(version) = at {
            return Ok((version, false));
        }
        let version = self.resolver.read_version(now.us())?;
        Ok((version, !core::mem::replace(&mut self.expiring, true)))
    }

    fn commit(&mut self, now: Time, request: CommitRequest) -> Result<Committed, KvError> {
        let result = self.resolver.commit(now.us(), request);
        if result == Err(KvError::Unknown) {
            let why = self.resolver.read_version(now.us()).expect_err("it has stopped");
            panic!("the metadata store could not be written ({why}); start again");
        }
        result
    }

    /// Notes a commit; says whether a syncer must be started.
    fn committed(&mut self, now: Time) -> bool {
        let s = &mut self.syncs;
        s.unsynced_since.get_or_insert(now);
        if s.stopped || !matches!(s.syncer, Syncer::None) {
            return false;
        }
        s.syncer = Syncer::Busy;
        true
    }

    /// A slot that fills when all that is committed is durable; `None` if it is.
    fn wait_durable(&mut self) -> Option<Waiter> {
        let s = &mut self.syncs;
        if s.stopped {
            let told = Slot::new();
            told.fill(Err(KvError::Unknown));
            return Some(told);
        }
        if s.unsynced_since.is_none() {
            return s.running.as_mut().map(Bell::wait);
        }
        if let Syncer::Asleep(hurry) = &s.syncer {
            hurry.fill(());
        }
        Some(s.next.wait())
    }

    fn next_step(&mut self, now: Time) -> Step {
        let s = &mut self.syncs;
        s.syncer = Syncer::Busy;
        let Some(since) = s.unsynced_since else {
            s.syncer = Syncer::None;
            return Step::Rest;
        };
        let due = since + SYNC_DELAY;
        if s.next.is_empty() && now < due {
            let hurry = Slot::new();
            s.syncer = Syncer::Asleep(hurry.clone());
            return Step::Sleep(due, hurry);
        }
        s.unsynced_since = None;
        s.running = Some(core::mem::take(&mut s.next));
        let (tell, ended) = oneshot::channel();
        self.resolver.sync(Box::new(move |result| {
            // Nobody listens if the actor went away before its store.
            let _ = tell.send(result);
        }));
        Step::Sync(ended)
    }

    /// Ends the running sync. `Err` with the reason: the store failed.
    fn end_sync(
        &mut self,
        result: Result<Result<(), StoreError>, oneshot::Canceled>,
    ) -> Result<Synced, String> {
        let mut synced = self.syncs.running.take().expect("the syncer runs one sync at a time");
        match result {
            Ok(Ok(())) => Ok(synced),
            Ok(Err(e)) => Err(e.to_string()),
            Err(oneshot::Canceled) => {
                // The store was taken away (a simulated power failure): nothing to tell any more.
                self.syncs.stopped = true;
                synced.ring(Err(KvError::Unknown));
                self.syncs.next.ring(Err(KvError::Unknown));
                Ok(synced)
            }
        }
    }
}

/// Lives while something is not durable.
async fn syncer(me: Me<KvServer>, cx: Cx) {
    loop {
        let now = cx.now();
        match me.with(|kv| if kv.syncs.stopped { Step::Rest } else { kv.next_step(now) }) {
            Step::Rest => return,
            Step::Sleep(due, hurry) => {
                let _ = before(cx.sleep(due - now), hurry).await;
            }
            Step::Sync(ended) => {
                let result = ended.await;
                let mut synced = me.with(|kv| kv.end_sync(result)).unwrap_or_else(|why| {
                    panic!("the metadata store could not be made durable ({why}); start again")
                });
                synced.ring(Ok(()));
            }
        }
    }
}

/// Releases snapshots and conflict history after the last transaction has left the window.
async fn expirer(me: Me<KvServer>, cx: Cx) {
    loop {
        cx.sleep(Duration::from_micros(WINDOW_US + WINDOW_US / 10)).await;
        let now_us = cx.now().us();
        let done = me.with(|kv| {
            kv.resolver.expire(now_us);
            kv.expiring = kv.resolver.snapshots_held() > 0;
            !kv.expiring
        });
        if done {
            return;
        }
    }
}

impl Handle<GetKeys> for KvServer {
    async fn handle(me: &Me<Self>, m: GetKeys, cx: &Cx) -> Result<Values, KvError> {
        let now = cx.now();
        let (values, expire) = me.with(|kv| {
            let (version, expire) = kv.read_version(now, m.at)?;
            let values = m.keys.iter().map(|key| kv.resolver.get(version, key));
            let values = values.collect::<Result<_, _>>()?;
            Ok::<_, KvError>((Values { version, values }, expire))
        })?;
        if expire {
            cx.spawn(expirer(me.clone(), cx.outlive()));
        }
        Ok(values)
    }
}

impl Handle<GetRange> for KvServer {
    async fn handle(me: &Me<Self>, m: GetRange, cx: &Cx) -> Result<Page, KvError> {
        let now = cx.now();
        let (page, expire) = me.with(|kv| {
            let (version, expire) = kv.read_version(now, m.at)?;
            let (begin, end) = (&m.range.begin, &m.range.end);
            let page = kv.resolver.range(version, begin, end, m.limit as usize, m.reverse)?;
            Ok::<_, KvError>((Page { version, page }, expire))
        })?;
        if expire {
            cx.spawn(expirer(me.clone(), cx.outlive()));
        }
        Ok(page)
    }
}

impl Handle<Commit> for KvServer {
    async fn handle(me: &Me<Self>, m: Commit, cx: &Cx) -> Result<Committed, KvError> {
        let now = cx.now();
        let wait = m.durability == Durability::Now;
        let read_only = m.request.is_read_only();
        let (committed, start, waiter) = me.with(|kv| {
            let committed = kv.commit(now, m.request)?;
            let start = !read_only && kv.committed(now);
            let waiter = if wait { kv.wait_durable() } else { None };
            Ok::<_, KvError>((committed, start, waiter))
        })?;
        if start {
            cx.spawn(syncer(me.clone(), cx.outlive()));
        }
        if let Some(waiter) = waiter {
            waiter.await?;
        }
        Ok(committed)
    }
}

impl Handle<Barrier> for KvServer {
    async fn handle(me: &Me<Self>, m: Barrier, cx: &Cx) -> Result<(), KvError> {
        match me.with(|kv| kv.barrier(cx, m.version))? {
            Some(waiter) => waiter.await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MemoryDisk, Mutation};
    use super::*;
    use t3fs_runtime::glommio::run_alone;

    fn set(key: &'static str, durability: Durability) -> Commit {
        let mutations = vec![Mutation::Set { key: key.into(), value: "v".into() }];
        Commit { request: CommitRequest { mutations, ..Default::default() }, durability }
    }

    /// Goal: an acknowledged commit is on its way to the disk within the promised time, a durable
    /// one waits, and an idle store begins nothing. Method: hold the disk's syncs and count them.
    #[test]
    fn soon_is_synced_soon_and_now_waits() {
        run_alone(vec![], async |shard| {
            let (disk, cx) = (MemoryDisk::new(), shard.cx());
            let kv = KvServer::start(&cx, Box::new(disk.open())).unwrap();
            disk.hold_syncs(true);
            cx.ask(kv, set("a", Durability::Soon)).await.unwrap().unwrap();
            assert_eq!(disk.syncs_held(), 0);
            cx.sleep(SYNC_DELAY * 2).await;
            // The opening and the commit.
            assert_eq!((disk.syncs_held(), disk.batches_unsynced()), (1, 2));

            // While that sync runs, two more commits fill the next batch.
            let (one, two) = (set("b", Durability::Now), set("c", Durability::Now));
            let both = t3fs_runtime::join(cx.ask(kv, one), cx.ask(kv, two));
            let release = async {
                cx.sleep(SYNC_DELAY).await;
                assert_eq!((disk.syncs_held(), disk.batches_unsynced()), (1, 4));
                disk.end_syncs(1);
                cx.sleep(SYNC_DELAY).await;
                assert_eq!((disk.syncs_held(), disk.batches_unsynced()), (1, 2));
                disk.end_syncs(1);
            };
            let ((one, two), ()) = t3fs_runtime::join(both, release).await;
            assert!(matches!((one, two), (Ok(Ok(_)), Ok(Ok(_)))));

            // A barrier with nothing to wait for, and silence afterwards.
            cx.ask(kv, Barrier::default()).await.unwrap().unwrap();
            cx.sleep(SYNC_DELAY * 3).await;
            assert_eq!((disk.syncs_held(), disk.batches_unsynced()), (0, 0));
        })
        .unwrap();
    }

    /// Goal: after a power failure those who wait for the disk learn that the outcome is unknown.
    #[test]
    fn a_store_that_went_away_leaves_the_outcome_unknown() {
        run_alone(vec![], async |shard| {
            let (disk, cx) = (MemoryDisk::new(), shard.cx());
            let kv = KvServer::start(&cx, Box::new(disk.open())).unwrap();
            disk.hold_syncs(true);
            let fail = async {
                cx.sleep(SYNC_DELAY).await;
                disk.crash();
            };
            let (told, ()) = t3fs_runtime::join(cx.ask(kv, set("a", Durability::Now)), fail).await;
            assert_eq!(told, Ok(Err(KvError::Unknown)));
        })
        .unwrap();
    }
}
