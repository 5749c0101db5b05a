//! Garbage: what loses its last name goes, when it may.

use core::time::Duration;

use super::*;
use crate::meta::garbage::GRACE;

/// Waits until nothing is left to collect.
pub(super) async fn settle(w: &World) -> FsckReport {
    for _ in 0..1000 {
        let report = fsck(&w.cx, w.kv).await.unwrap();
        if report.garbage == 0 {
            return w.check().await;
        }
        w.cx.sleep(Duration::from_millis(5)).await;
    }
    panic!("garbage is left");
}

#[test]
fn content_is_removed_from_every_chain_once_the_last_name_is_gone() {
    in_world(async |w| {
        let f = w.file(ROOT, "f").await.unwrap().inode;
        w.link(f, ROOT, "g").await.unwrap();
        w.unlink(ROOT, "f").await.unwrap();
        settle(&w).await;
        assert_eq!(w.beside.removed.borrow().len(), 0);
        w.unlink(ROOT, "g").await.unwrap();
        let report = settle(&w).await;
        assert_eq!((report.files, report.directories), (0, 1));
        assert_eq!(w.ask(CountInodes).await, Ok(1));
        assert_eq!(w.attr(f).await, Err(MetaError::Stale));
        let removed = w.beside.removed.borrow();
        assert_eq!(
            removed.iter().map(|r| (&r.inodes[..], r.from)).collect::<Vec<_>>(),
            [(&[f][..], 0); 2]
        );
        assert!(removed[0].request < removed[1].request);
    });
}

/// Goal: content goes when nothing can bring its name back. Method: hold the store's syncs.
/// Regression (issue 10): content went 5 ms after its name, which a loss of power could bring back
/// for 50 ms: an old file, fsynced and then replaced by rename, was there again, empty.
#[test]
fn content_waits_until_the_removal_of_the_name_is_durable() {
    in_world(async |w| {
        w.file(ROOT, "f").await.unwrap();
        w.ask(SyncMeta::default()).await.unwrap();
        w.disk.hold_syncs(true);
        w.unlink(ROOT, "f").await.unwrap();
        w.cx.sleep(GRACE * 2).await;
        assert_eq!(w.beside.removed.borrow().len(), 0);
        w.disk.hold_syncs(false);
        w.disk.end_syncs(usize::MAX);
        settle(&w).await;
        assert_eq!(w.beside.removed.borrow().len(), 2);
    });
}

/// Goal: who has run out of space does not wait for times of grace. Method: two files, one removed
/// before and one after that was said.
#[test]
fn there_is_no_grace_when_space_is_short() {
    in_world(async |w| {
        for name in ["f", "g"] {
            w.file(ROOT, name).await.unwrap();
        }
        assert_eq!(w.ask(CollectGarbage).await, Ok(false));
        let began = w.cx.now();
        w.unlink(ROOT, "f").await.unwrap();
        assert_eq!(w.ask(CollectGarbage).await, Ok(true));
        w.unlink(ROOT, "g").await.unwrap();
        settle(&w).await;
        assert!(w.cx.now().since(began) < GRACE);
    });
}

#[test]
fn a_held_file_stays_until_it_is_released() {
    in_world(async |w| {
        let f = w.file(ROOT, "f").await.unwrap().inode;
        let (session, op) = (SessionId(2), w.op());
        let hold = Some(session);
        w.ask(Unlink { parent: ROOT, name: b"f".to_vec(), hold, op }).await.unwrap();
        w.cx.sleep(Duration::from_millis(50)).await;
        assert_eq!(w.attr(f).await.unwrap().nlink, 0);
        assert_eq!(w.check().await.garbage, 1);
        w.ask(DropHolds { session, inodes: vec![f], op: w.op() }).await.unwrap();
        settle(&w).await;
        assert_eq!(w.attr(f).await, Err(MetaError::Stale));
    });
}

#[test]
fn a_dead_sessions_holds_and_answers_go() {
    in_world(async |w| {
        for name in ["f", "g"] {
            w.file(ROOT, name).await.unwrap();
        }
        let op = RequestId { session: SessionId(2), seq: 1 };
        let hold = Some(SessionId(2));
        w.ask(Unlink { parent: ROOT, name: b"f".to_vec(), hold, op }).await.unwrap();
        let sessions = living(&[SessionId(1)]);
        let dead = ClusterView { version: ViewVersion(2), sessions, ..view() };
        *w.beside.view.borrow_mut() = dead;
        w.unlink(ROOT, "g").await.unwrap();
        settle(&w).await;
        w.cx.sleep(Duration::from_millis(20)).await;
        // The collector learned of the death in its first pass and sweeps in the next.
        w.file(ROOT, "h").await.unwrap();
        w.unlink(ROOT, "h").await.unwrap();
        settle(&w).await;
        let kept = crate::meta::schema::recent_range(SessionId(2));
        let mut txn = crate::meta::kv::client::Txn::new(&w.cx, w.kv);
        assert_eq!(txn.fetch_range(&kept, 0, false).await.unwrap().rows, []);
    });
}

#[test]
fn storage_that_is_not_ready_is_asked_again() {
    in_world(async |w| {
        w.file(ROOT, "f").await.unwrap();
        w.beside.not_ready.set(3);
        w.unlink(ROOT, "f").await.unwrap();
        settle(&w).await;
        assert_eq!(w.beside.removed.borrow().len(), 2);
    });
}

/// Goal: a new server removes what the last one left.
#[test]
fn garbage_of_an_earlier_run_is_collected_at_the_start() {
    in_world(async |w| {
        w.beside.alone.set(true);
        w.file(ROOT, "f").await.unwrap();
        w.unlink(ROOT, "f").await.unwrap();
        w.ask(SyncMeta::default()).await.unwrap();
        w.disk.crash();
        let beside = Rc::new(Beside::default());
        *beside.view.borrow_mut() = view();
        let next = World::start_on(w.cx.clone(), w.disk.clone(), beside).await;
        settle(&next).await;
        assert_eq!(next.beside.removed.borrow().len(), 2);
    });
}

#[test]
fn many_small_files_go_at_once() {
    in_world(async |w| {
        for n in 0..600 {
            w.file(ROOT, &format!("{n}")).await.unwrap();
        }
        for n in 0..600 {
            w.unlink(ROOT, &format!("{n}")).await.unwrap();
        }
        settle(&w).await;
        assert_eq!(w.beside.removals(), 1200);
        assert_eq!(w.ask(CountInodes).await, Ok(1));
    });
}
