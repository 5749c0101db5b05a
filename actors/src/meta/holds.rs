//! What sessions have open, seen by who removes content.
//!
//! A session that is alone keeps its opens to itself and names itself when it takes a last name;
//! when there are several, each opens every file with a hold and has an `S` record that says so.
//! While some living sessions have the record and others do not, a file may be open that nobody can
//! see, so nothing is removed. That ends: those without share what they have open, or they end. The
//! record of a session that has ended counts as long as one lives that was there before it and has
//! not shared: what the ended one has removed may be open there. What dead sessions leave `ended`
//! clears.

use super::kv::KvError;
use super::kv::client::Txn;
use super::ops::Done;
use super::schema::*;
use crate::proto::ids::SessionId;
use crate::proto::meta::{Append, MetaError};
use crate::proto::mgmtd::Sessions;

/// Rows of a page.
const PAGE: usize = 256;

/// The sessions that show what they have open, and those that do not.
#[derive(Default)]
pub(super) struct Shares {
    /// Living sessions with a record, and without.
    with: Vec<SessionId>,
    without: Vec<SessionId>,
    /// Sessions with a record that have ended.
    pub(super) ended: Vec<SessionId>,
}

impl Shares {
    /// `sessions` must be fresh, and fetched before the transaction's first read.
    pub(super) async fn read(txn: &mut Txn<'_>, sessions: &Sessions) -> Result<Shares, KvError> {
        let mut range = all(b'S');
        let mut shares = Shares::default();
        loop {
            let page = txn.fetch_range(&range, 0, false).await?;
            for (session, _) in page.rows.iter().filter_map(|(key, _)| split_key(key)) {
                let session = SessionId(session);
                let alive = sessions.is_alive(session);
                if alive { &mut shares.with } else { &mut shares.ended }.push(session);
            }
            if !page.more {
                break;
            }
            range.begin = page.covered.end;
        }
        let lacks = |session: &SessionId| !shares.with.contains(session);
        shares.without = sessions.alive.iter().copied().filter(lacks).collect();
        Ok(shares)
    }

    /// Whether one lives that was there before this one and may have something open that this one
    /// did not see. Numbers are given in order, and who comes when another lives shares at once.
    pub(super) fn is_awaited(&self, ended: SessionId) -> bool {
        self.without.iter().any(|session| *session < ended)
    }

    fn agree(&self) -> bool {
        let living = self.with.is_empty() || self.without.is_empty();
        living && !self.ended.iter().any(|session| self.is_awaited(*session))
    }
}

/// Whether all that is open can be seen. `sessions` must be fresh, and fetched before the
/// transaction's first read.
pub(super) async fn agree(txn: &mut Txn<'_>, sessions: &Sessions) -> Result<bool, KvError> {
    Ok(Shares::read(txn, sessions).await?.agree())
}

/// Another session that has kept to itself what it appends to this file, and may not have told all
/// of it yet, or has ended before it did.
///
/// One that opens the file a moment later does not matter: it can have no fresh word any more that
/// it is alone.
pub(super) async fn kept_by(txn: &mut Txn<'_>, m: &Append) -> Done<Option<SessionId>> {
    let own = [m.op.session, m.holder];
    let mut range = hold_range(m.inode);
    loop {
        let page = txn.fetch_range(&range, PAGE, false).await?;
        let mut writers = Vec::new();
        for (key, value) in &page.rows {
            let holder = split_hold(key).map(|(_, session)| session);
            if let Some(session) = holder.filter(|session| !own.contains(session))
                && HoldV1::open(m.inode, value)?.write
            {
                writers.push(session);
            }
        }
        let records = writers.iter().map(|session| shares_key(*session)).collect();
        let records = txn.fetch_all(records).await?;
        let kept = writers.into_iter().zip(records).find(|(_, record)| record.is_none());
        if kept.is_some() || !page.more {
            return Ok(kept.map(|(session, _)| session));
        }
        range.begin = page.covered.end;
    }
}

/// A session keeps its opens to itself from now on. Nobody is to count it among those who have not
/// shared yet, so the records of ended sessions go, which all living ones have heard of.
///
/// # Errors
/// `Changed` when one has not: the session goes on sharing.
pub(super) async fn keep(txn: &mut Txn<'_>, session: SessionId, sessions: &Sessions) -> Done<()> {
    let shares = Shares::read(txn, sessions).await?;
    if !shares.with.contains(&session) {
        return Ok(());
    }
    if shares.ended.iter().any(|ended| shares.is_awaited(*ended)) {
        return Err(MetaError::Changed.into());
    }
    txn.depend(&shares_key(session));
    shares.ended.into_iter().chain([session]).for_each(|s| txn.clear(shares_key(s)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the record of a session that has ended counts while one that was there before it has
    /// not shared, and no longer.
    #[test]
    fn an_ended_session_counts_until_all_who_were_there_have_shared() {
        let [one, two, three] = [1, 2, 3].map(SessionId);
        let shares = |with: &[_], without: &[_], ended: &[_]| Shares {
            with: with.to_vec(),
            without: without.to_vec(),
            ended: ended.to_vec(),
        };
        assert!(shares(&[], &[one, three], &[]).agree(), "all of one process");
        assert!(shares(&[one, three], &[], &[two]).agree());
        assert!(!shares(&[three], &[one], &[]).agree());
        assert!(!shares(&[], &[one], &[two]).agree(), "2 may have removed what 1 has open");
        assert!(shares(&[], &[three], &[two]).agree(), "3 has come after it");
    }
}
