//! Files that sessions have open.

use core::time::Duration;

use super::collecting::settle;
use super::*;
use crate::meta::garbage::{self, GRACE};
use crate::meta::kv::KvError;
use crate::meta::kv::client::Txn;
use crate::meta::ops;
use crate::meta::schema::{GarbageV3, HoldV1, garbage_key, hold_key, shares_key};
use crate::proto::kv::Durability;

const ONE: SessionId = SessionId(1);
const TWO: SessionId = SessionId(2);

async fn open(
    w: &World,
    inode: InodeId,
    session: SessionId,
    write: bool,
) -> Result<Attr, MetaError> {
    let opened = w.ask(OpenFile { inode, hold: Some(session), write, op: w.op() }).await;
    opened.map(|changed| changed.attr)
}

async fn share(w: &World, session: SessionId, holds: &[(InodeId, bool)]) -> Vec<InodeId> {
    w.ask(ShareOpens { session, holds: holds.to_vec(), all: true, op: w.op() }).await.unwrap()
}

async fn drop_hold(w: &World, inode: InodeId, session: SessionId) {
    w.ask(DropHolds { session, inodes: vec![inode], op: w.op() }).await.unwrap();
}

async fn stored(w: &World, key: bytes::Bytes) -> Option<bytes::Bytes> {
    let [value] = Txn::new(&w.cx, w.kv).fetch([&key]).await.unwrap();
    value
}

/// Long enough for the collector to have done what it may.
async fn wait(w: &World) {
    w.cx.sleep(Duration::from_millis(50)).await;
}

/// Goal: whoever has opened a file can use it until it lets go, whoever takes the last name.
/// Regression (issue 10): the content of a file that another mount had open went 5 ms after its
/// name.
#[test]
fn a_file_opened_with_a_hold_stays_when_another_takes_its_last_name() {
    in_world(async |w| {
        share(&w, ONE, &[]).await;
        share(&w, TWO, &[]).await;
        let f = w.file(ROOT, "f").await.unwrap().inode;
        open(&w, f, TWO, false).await.unwrap();
        w.unlink(ROOT, "f").await.unwrap();
        wait(&w).await;
        assert_eq!(w.attr(f).await.unwrap().nlink, 0);
        assert_eq!(open(&w, f, TWO, true).await.unwrap().nlink, 0);
        let without = OpenFile { inode: f, hold: None, write: false, op: w.op() };
        assert_eq!(w.ask(without).await, Err(MetaError::Stale));
        w.check().await;
        drop_hold(&w, f, TWO).await;
        settle(&w).await;
        assert_eq!(w.attr(f).await, Err(MetaError::Stale));
        assert_eq!(open(&w, f, TWO, false).await, Err(MetaError::Stale));
    });
}

/// Goal: of files whose holds go in one message, those without a name are collected at once, though
/// more files without a name lie between them than one look takes.
#[test]
fn holds_that_go_together_leave_nothing_nameless_behind() {
    in_world(async |w| {
        share(&w, ONE, &[]).await;
        share(&w, TWO, &[]).await;
        let mut files = Vec::new();
        for i in 0..8 {
            let f = w.file(ROOT, &format!("f{i}")).await.unwrap().inode;
            open(&w, f, TWO, false).await.unwrap();
            files.push(f);
        }
        for i in 1..7 {
            w.unlink(ROOT, &format!("f{i}")).await.unwrap();
        }
        let drop_holds = async |inodes: &[InodeId]| {
            let inodes = inodes.to_vec();
            w.ask(DropHolds { session: TWO, inodes, op: w.op() }).await.unwrap();
        };
        let is_gone = async |i: usize| w.attr(files[i]).await == Err(MetaError::Stale);
        drop_holds(&[files[6], files[7], files[1]]).await;
        for _ in 0..100 {
            wait(&w).await;
            if is_gone(1).await && is_gone(6).await {
                break;
            }
        }
        assert!(is_gone(1).await && is_gone(6).await);
        assert_eq!(w.attr(files[2]).await.unwrap().nlink, 0, "it is held");
        assert_eq!(w.attr(files[7]).await.unwrap().nlink, 1);
        drop_holds(&files).await;
        settle(&w).await;
        assert!(is_gone(2).await && is_gone(5).await);
    });
}

/// Goal: who has looked a name up can open what was there, though it was replaced meanwhile, but
/// never a file whose content is going. Method: storage that removes nothing keeps the file
/// condemned. Regression (issue 10): a reader that opened a file which another mount replaced again
/// and again was told ESTALE.
#[test]
fn a_file_can_be_opened_until_it_is_condemned() {
    in_world(async |w| {
        w.beside.not_ready.set(u32::MAX);
        share(&w, ONE, &[]).await;
        share(&w, TWO, &[]).await;
        let f = w.file(ROOT, "f").await.unwrap().inode;
        w.unlink(ROOT, "f").await.unwrap();
        assert_eq!(open(&w, f, TWO, false).await.unwrap().nlink, 0);
        w.cx.sleep(GRACE * 2).await;
        assert_eq!(open(&w, f, ONE, false).await.unwrap().nlink, 0, "held, so not condemned");
        drop_hold(&w, f, ONE).await;
        drop_hold(&w, f, TWO).await;
        for _ in 0..100 {
            wait(&w).await;
            let garbage = stored(&w, garbage_key(f)).await.expect("storage keeps it");
            if GarbageV3::open(f, &garbage).unwrap().condemned {
                break;
            }
        }
        assert_eq!(open(&w, f, ONE, false).await, Err(MetaError::Stale));
        assert_eq!(share(&w, TWO, &[(f, false)]).await, [f]);
        w.beside.not_ready.set(0);
        settle(&w).await;
    });
}

/// Goal: an open and the removal of a file's content exclude each other. Method: both read, then
/// one commits after the other, in both orders.
#[test]
fn an_open_and_a_condemnation_conflict() {
    in_world(async |w| {
        w.beside.alone.set(true); // the collector itself does nothing
        let sessions = Sessions { alive: vec![ONE, TWO], max: TWO };
        for open_first in [true, false] {
            let f = w.file(ROOT, "f").await.unwrap().inode;
            w.unlink(ROOT, "f").await.unwrap();
            let m = OpenFile { inode: f, hold: Some(TWO), write: false, op: w.op() };
            let (mut one, mut two) = (Txn::new(&w.cx, w.kv), Txn::new(&w.cx, w.kv));
            ops::opens::open(&mut one, &m, 1).await.unwrap();
            let condemned = garbage::condemn(&mut two, &[f], &sessions, true).await.unwrap().0;
            assert_eq!(condemned.iter().map(|c| c.0).collect::<Vec<_>>(), [f]);
            let (first, second) = if open_first { (one, two) } else { (two, one) };
            first.commit(Durability::Soon).await.unwrap();
            assert_eq!(second.commit(Durability::Soon).await, Err(KvError::Conflict));
        }
    });
}

/// Goal: a hold that is there costs nothing, a stronger one takes its place, and a weaker one does
/// not; what is no file has none.
#[test]
fn opens_write_only_what_is_new() {
    in_world(async |w| {
        let entry = w.entry(ROOT, "f");
        let made = CreateFile { entry, kind: FileType::File, hold: Some(ONE) };
        let f = w.ask(made).await.unwrap().attr.inode;
        let hold = async |session| {
            let value = stored(&w, hold_key(f, session)).await;
            value.map(|value| HoldV1::open(f, &value).unwrap().write)
        };
        assert_eq!(hold(ONE).await, Some(true));
        open(&w, f, TWO, false).await.unwrap();
        assert_eq!(hold(TWO).await, Some(false));
        let before = stored(&w, hold_key(f, TWO)).await;
        open(&w, f, TWO, false).await.unwrap();
        assert_eq!(stored(&w, hold_key(f, TWO)).await, before);
        for write in [true, false] {
            open(&w, f, TWO, write).await.unwrap();
            assert_eq!(hold(TWO).await, Some(true));
        }
        let d = w.dir(ROOT, "d").await.unwrap();
        assert_eq!(open(&w, d.inode, ONE, false).await, Ok(d.clone()));
        assert_eq!(stored(&w, hold_key(d.inode, ONE)).await, None);
        w.check().await;
    });
}

/// Goal: an open and the removal of the last name exclude each other. Method: both read, then one
/// commits after the other, in both orders.
#[test]
fn an_open_and_an_unlink_conflict() {
    in_world(async |w| {
        for open_first in [true, false] {
            let f = w.file(ROOT, "f").await.unwrap().inode;
            let m = OpenFile { inode: f, hold: Some(TWO), write: true, op: w.op() };
            let unlink = Unlink { parent: ROOT, name: b"f".to_vec(), hold: None, op: w.op() };
            let (mut one, mut two) = (Txn::new(&w.cx, w.kv), Txn::new(&w.cx, w.kv));
            ops::opens::open(&mut one, &m, 1).await.unwrap();
            ops::remove::unlink(&mut two, &unlink, 1).await.unwrap();
            if open_first {
                one.commit(Durability::Soon).await.unwrap();
                two.commit(Durability::Soon).await.unwrap();
                assert!(stored(&w, hold_key(f, TWO)).await.is_some());
            } else {
                two.commit(Durability::Soon).await.unwrap();
                assert_eq!(one.commit(Durability::Soon).await, Err(KvError::Conflict));
            }
        }
    });
}

/// Goal: while a living session keeps its opens to itself and another does not, nothing goes: the
/// first may have the file open. Method: each of them in turn; then both share, and one shares a
/// file that has lost its name meanwhile.
#[test]
fn nothing_is_removed_while_sessions_disagree() {
    in_world(async |w| {
        let keepers = async || w.ask(ListKeepers).await.unwrap();
        assert_eq!(keepers().await, [ONE, TWO]);
        share(&w, ONE, &[]).await;
        assert_eq!(keepers().await, [TWO]);
        let f = w.file(ROOT, "f").await.unwrap().inode;
        let g = w.file(ROOT, "g").await.unwrap().inode;
        w.unlink(ROOT, "f").await.unwrap();
        w.unlink(ROOT, "g").await.unwrap();
        wait(&w).await;
        assert_eq!(w.check().await.garbage, 2);
        assert_eq!(share(&w, TWO, &[(f, true), (InodeId(0x1fff), false)]).await, [InodeId(0x1fff)]);
        for _ in 0..100 {
            wait(&w).await;
            if w.attr(g).await.is_err() {
                break;
            }
        }
        assert_eq!(w.attr(g).await, Err(MetaError::Stale));
        assert_eq!(w.attr(f).await.unwrap().nlink, 0);
        w.ask(KeepOpens { session: TWO }).await.unwrap();
        assert_eq!(keepers().await, [TWO]);
        drop_hold(&w, f, TWO).await;
        wait(&w).await;
        assert_eq!(w.check().await.garbage, 1);
        w.ask(KeepOpens { session: ONE }).await.unwrap();
        w.ask(CollectGarbage).await.unwrap();
        settle(&w).await;
    });
}

/// Goal: what one session keeps to itself stays also when the other, which has removed it, has
/// ended. Regression (review): the record of the ended one was cleared, and all seemed well.
#[test]
fn nothing_is_removed_for_one_that_has_gone_again() {
    in_world(async |w| {
        share(&w, TWO, &[]).await;
        let f = w.file(ROOT, "f").await.unwrap().inode;
        w.unlink(ROOT, "f").await.unwrap();
        let (version, sessions) = (ViewVersion(2), living(&[ONE]));
        *w.beside.view.borrow_mut() = ClusterView { version, sessions, ..view() };
        // Another server passes through the records of ended sessions at its start.
        let config = MetaConfig::new(w.kv, Addr::from_raw(RawAddr::default()));
        MetaServer::start_beside(&w.cx, config, Rc::clone(&w.beside) as _).await.unwrap();
        w.ask(CollectGarbage).await.unwrap();
        wait(&w).await;
        assert_eq!(w.attr(f).await.unwrap().nlink, 0);
        assert_eq!(share(&w, ONE, &[(f, false)]).await, []);
        w.ask(KeepOpens { session: ONE }).await.unwrap();
        assert_eq!(stored(&w, shares_key(TWO)).await, None);
        drop_hold(&w, f, ONE).await;
        settle(&w).await;
    });
}

/// Goal: without the primary mgmtd nobody knows who lives: nothing is removed and no keeper list is
/// made up.
#[test]
fn nothing_is_removed_on_old_news() {
    in_world(async |w| {
        w.beside.alone.set(true);
        w.file(ROOT, "f").await.unwrap();
        w.unlink(ROOT, "f").await.unwrap();
        wait(&w).await;
        assert_eq!(w.check().await.garbage, 1);
        assert!(matches!(w.ask(ListKeepers).await, Err(MetaError::Unavailable(_))));
        w.beside.alone.set(false);
        settle(&w).await;
    });
}

/// Goal: what a dead writer has stored becomes part of its file, and its holds and record go.
/// Method: session 2 dies with files open; another server passes through the holds at its start,
/// against storage that answers only later.
#[test]
fn a_dead_writers_bytes_become_part_of_its_file() {
    in_world(async |w| {
        let mut made = Vec::new();
        for name in ["written", "short", "read", "other"] {
            made.push(w.file(ROOT, name).await.unwrap());
        }
        let [written, short, read, other] = [0, 1, 2, 3].map(|n: usize| made[n].inode);
        share(&w, ONE, &[]).await;
        share(&w, TWO, &[(written, true), (short, true), (read, false)]).await;
        open(&w, other, ONE, true).await.unwrap();
        w.ask(super::posix::report(short, 5000, 0)).await.unwrap();
        {
            let mut stored = w.beside.stored.borrow_mut();
            // The layout has two chains: the last chunk is on either.
            stored.insert((1, written), (4, 7));
            stored.insert((2, written), (3, 1 << 20));
            for inode in [short, read, other] {
                stored.insert((1, inode), (0, 77));
            }
        }
        let (version, sessions) = (ViewVersion(2), living(&[ONE]));
        *w.beside.view.borrow_mut() = ClusterView { version, sessions, ..view() };
        w.beside.not_ready.set(2);
        let agent = Addr::from_raw(RawAddr::default());
        let config = MetaConfig { node_lease: NODE_LEASE, ..MetaConfig::new(w.kv, agent) };
        MetaServer::start_beside(&w.cx, config, Rc::clone(&w.beside) as _).await.unwrap();
        for _ in 0..100 {
            wait(&w).await;
            if stored(&w, shares_key(TWO)).await.is_none() {
                break;
            }
        }
        let mut lengths = Vec::new();
        for inode in [written, short, read, other] {
            lengths.push(w.attr(inode).await.unwrap().length);
            assert_eq!(stored(&w, hold_key(inode, TWO)).await, None);
        }
        assert_eq!(lengths, [(4 << 20) + 7, 5000, 0, 0]);
        assert!(w.attr(written).await.unwrap().mtime_ns > made[0].mtime_ns);
        assert_eq!(w.attr(read).await.unwrap(), made[2]);
        assert!(stored(&w, hold_key(other, ONE)).await.is_some(), "its session lives");
        w.check().await;
    });
}

/// Goal: the mistakes that checks plant do what they say.
#[test]
fn planted_mistakes_remove_what_is_open() {
    for bug in [PlantedBug::HoldsIgnored, PlantedBug::OpenWithoutHold] {
        in_world(async move |w| {
            let (disk, beside) = (MemoryDisk::new(), Rc::clone(&w.beside));
            let w = World::start_on(worlds::with(bug, &w.cx), disk, beside).await;
            share(&w, ONE, &[]).await;
            share(&w, TWO, &[]).await;
            let f = w.file(ROOT, "f").await.unwrap().inode;
            open(&w, f, TWO, true).await.unwrap();
            w.unlink(ROOT, "f").await.unwrap();
            settle(&w).await;
        });
    }
}
