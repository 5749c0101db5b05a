//! What a target decides about updates, without awaiting: dedup, versions, whose turn it is.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use t3fs_runtime::line::{Lines, Turn};
use t3fs_runtime::{Ask, Time};

use super::engine::{ChunkInfo, StoredVersion};
use super::membership::Membership;
use crate::proto::ids::{ChainId, ChunkId, ChunkVersion, TargetId};
use crate::proto::storage::{Storage, StorageError, UpdateChunk, UpdateKind, Updated};
use crate::timing::{UPDATE_MAX, is_longer};

/// How long a removed chunk keeps its (empty) row: longer than a request or its retries can linger,
/// so that a late one still meets the record of what was done.
pub(super) const PURGE_AFTER: Duration = Duration::from_secs(300);
const UPDATE_LINGERS: Duration = UPDATE_MAX.saturating_add(<UpdateChunk as Ask<Storage>>::TIMEOUT);
const _: () = assert!(is_longer(PURGE_AFTER, 1, UPDATE_LINGERS));

/// Requests that may wait for one chunk's lock. Whoever comes then is to ask again soon.
pub(super) const LINE_MAX: usize = 64;

/// What to do with an update that was admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begin {
    /// Store it as this version.
    Apply(ChunkVersion),
    /// The update is stored but not known to be committed behind us: drive it on.
    Redrive(ChunkVersion),
    /// The update was done before.
    Done(Updated),
    /// Another update is pending (left by a crash): drive that on, then begin again.
    Unfinished,
}

/// One target's view of its chain, its chunk locks, and the removed chunks that await purging.
pub(super) struct Core {
    pub(super) member: Membership,
    locks: Lines<ChunkId>,
    /// Removed chunks whose rows are to go, in order of time.
    empty: VecDeque<(Time, ChunkId)>,
    /// When each of them was emptied last.
    emptied: BTreeMap<ChunkId, Time>,
}

impl Core {
    pub(super) fn new(target: TargetId, chain_id: ChainId) -> Core {
        Core {
            member: Membership::new(target, chain_id),
            locks: Lines::default(),
            empty: VecDeque::new(),
            emptied: BTreeMap::new(),
        }
    }

    /// Decides what an admitted update is to this chunk. The caller holds the chunk's lock.
    /// `fresh` is a version above any this target has used.
    pub(super) fn begin(
        &self,
        u: &UpdateChunk,
        info: Option<&ChunkInfo>,
        fresh: ChunkVersion,
    ) -> Result<Begin, StorageError> {
        let committed = info.and_then(|i| i.committed.as_ref());
        let pending = info.and_then(|i| i.pending.as_ref());
        let have = committed.map_or(ChunkVersion(0), |c| c.version);
        let done = |version| Begin::Done(Updated { version, ..updated(committed) });
        // A row's purge; what clients remove comes as an empty replacement.
        let purge = u.kind == UpdateKind::Remove;
        if let Some(version) = u.version {
            // From our predecessor: it has stored exactly this version.
            if let Some(p) = pending {
                return match version.cmp(&p.version) {
                    std::cmp::Ordering::Equal => Ok(Begin::Redrive(version)),
                    std::cmp::Ordering::Less => Ok(done(version)),
                    std::cmp::Ordering::Greater => Ok(Begin::Unfinished),
                };
            }
            if committed.is_none() {
                return Ok(if purge { done(version) } else { Begin::Apply(version) });
            }
            return match version {
                v if v <= have => Ok(done(v)),
                v if v == ChunkVersion(have.0 + 1) || u.kind == UpdateKind::Replace => {
                    Ok(Begin::Apply(v))
                }
                v => Err(StorageError::VersionGap { have, sent: v }),
            };
        }
        // From a client, at the head; or its own purge, which is nobody's request.
        if let Some(r) = info.and_then(|i| i.recent.iter().find(|r| r.session == u.request.session))
            && !purge
        {
            if r.seq > u.request.seq {
                return Err(StorageError::Superseded);
            }
            if r.seq == u.request.seq {
                return Ok(match pending {
                    Some(p) if p.version == r.version => Begin::Redrive(p.version),
                    _ => done(r.version),
                });
            }
        }
        if pending.is_some() {
            return Ok(Begin::Unfinished);
        }
        if committed.is_some() {
            return Ok(Begin::Apply(ChunkVersion(have.0 + 1)));
        }
        if purge {
            return Ok(done(have));
        }
        // Also where there was nothing to remove: a late repetition must meet the record of it, or
        // it removes what somebody has written meanwhile.
        Ok(Begin::Apply(fresh))
    }

    /// The chunk was emptied now: its row may go after [`PURGE_AFTER`].
    pub(super) fn emptied(&mut self, chunk: ChunkId, now: Time) {
        self.emptied.insert(chunk, now);
        self.empty.push_back((now, chunk));
    }

    /// The next chunk whose row may go, once its time has come.
    pub(super) fn purgeable(&mut self, now: Time) -> Option<ChunkId> {
        loop {
            let (since, chunk) = *self.empty.front()?;
            if now.since(since) < PURGE_AFTER {
                return None;
            }
            self.empty.pop_front();
            // Written and emptied again since: what is remembered of that is younger.
            if self.emptied.get(&chunk) == Some(&since) {
                self.emptied.remove(&chunk);
                return Some(chunk);
            }
        }
    }

    /// Chunks that are locked now.
    pub(super) fn locked(&self) -> Vec<ChunkId> {
        self.locks.held()
    }

    /// Takes the chunk's lock, or a place in its line unless there are `line_max` already.
    pub(super) fn lock(
        &self,
        chunk: ChunkId,
        line_max: usize,
    ) -> Result<Turn<ChunkId>, StorageError> {
        let line = self.locks.of(chunk);
        if line.waiting() >= line_max {
            return Err(StorageError::NotReady);
        }
        Ok(line.alone())
    }
}

/// What a committed version answers; all zeros without one.
pub(super) fn updated(committed: Option<&StoredVersion>) -> Updated {
    let c = committed.copied().unwrap_or_default();
    Updated { version: c.version, len: c.len, checksum: c.checksum }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use t3fs_runtime::Bulk;

    use super::*;
    use crate::proto::ids::{ChainVersion, RequestId, SessionId};
    use crate::storage::engine::Recent;

    fn core() -> Core {
        Core::new(TargetId(1), ChainId(1))
    }

    /// Regression (review): meta's collector removes as session 0, and purging its rows as request
    /// 0 of the same session was refused as overtaken: every removed chunk left a row for good.
    #[test]
    fn a_purge_is_nobodys_request() {
        let chunk = ChunkId::default();
        let u = |kind| UpdateChunk {
            chunk,
            chain_version: ChainVersion(1),
            kind,
            data: Bulk::default(),
            request: RequestId::default(),
            version: None,
            born: ChainVersion(1),
            hops: 0,
        };
        let version = ChunkVersion(7);
        let collector = Recent { session: SessionId(0), seq: 9, version };
        let committed = Some(StoredVersion { version, ..StoredVersion::default() });
        let info = ChunkInfo { committed, pending: None, recent: vec![collector] };
        let begin = |kind| core().begin(&u(kind), Some(&info), ChunkVersion(99));
        assert_eq!(begin(UpdateKind::Remove), Ok(Begin::Apply(ChunkVersion(8))));
        assert_eq!(begin(UpdateKind::Replace), Err(StorageError::Superseded));
    }

    /// Regression (sim check members, seed 5626): a removal of nothing left no record, so its late
    /// duplicate removed what another client had written meanwhile.
    #[test]
    fn a_removal_of_nothing_is_remembered() {
        let u = UpdateChunk {
            chunk: ChunkId::default(),
            chain_version: ChainVersion(1),
            kind: UpdateKind::Replace,
            data: Bulk::default(),
            request: RequestId { session: SessionId(3), seq: 1 },
            version: None,
            born: ChainVersion(1),
            hops: 0,
        };
        let fresh = ChunkVersion(5);
        assert_eq!(core().begin(&u, None, fresh), Ok(Begin::Apply(fresh)));
        let forwarded = UpdateChunk { version: Some(fresh), ..u };
        assert_eq!(core().begin(&forwarded, None, ChunkVersion(2)), Ok(Begin::Apply(fresh)));
    }

    /// Goal: a line has an end, who leaves makes room, and the lock goes to who still waits.
    #[test]
    fn a_line_is_bounded_and_can_be_left() {
        let (c, chunk) = (core(), ChunkId::default());
        let place = || match c.lock(chunk, 2) {
            Ok(Turn::Waits(place)) => place,
            _ => panic!("there is a place"),
        };
        let Ok(Turn::Now(held)) = c.lock(chunk, 2) else { panic!("the lock was free") };
        let (first, mut second) = (place(), place());
        assert_eq!(c.lock(chunk, 2).err(), Some(StorageError::NotReady));
        drop(first);
        let mut third = place();
        drop(held);
        let held = (&mut second).now_or_never();
        assert!(held.is_some() && (&mut third).now_or_never().is_none());
        drop((third, held));
        assert_eq!(c.locked(), []);
    }

    /// Regression (review): a chunk that was written and emptied again was purged by the clock of
    /// its first removal, and with it went the record of the write.
    #[test]
    fn a_row_stays_for_as_long_as_its_last_removal_asks() {
        let (mut c, chunk) = (core(), ChunkId::default());
        let second = Duration::from_secs(1);
        let start = Time::from_us(0);
        c.emptied(chunk, start);
        c.emptied(chunk, start + (PURGE_AFTER - second));
        assert_eq!(c.purgeable(start + PURGE_AFTER), None);
        assert_eq!(c.purgeable(start + 2 * PURGE_AFTER), Some(chunk));
        assert_eq!(c.purgeable(start + 2 * PURGE_AFTER), None);
    }
}
