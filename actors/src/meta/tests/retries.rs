//! Requests that come twice.

use core::time::Duration;

use super::*;
use crate::meta::kv::KvError;
use crate::meta::kv::client::{Stop, Txn, transact};
use crate::meta::ops::create::NewInode;
use crate::meta::ops::{self, Done, create, remove, rename};
use crate::proto::kv::Durability;

/// Runs a body so that it commits and nobody learns of it, then again as a retry would.
async fn twice<T>(w: &World, mut body: impl AsyncFnMut(&mut Txn<'_>) -> Done<T>) -> Done<T> {
    w.disk.hold_syncs(true);
    let short = w.cx.within(Duration::from_millis(100));
    let first = transact(&short, w.kv, Durability::Now, &mut body).await;
    let said = first.map(drop);
    assert!(matches!(said, Err(Stop::Kv(KvError::Unknown))), "{said:?}");
    w.disk.hold_syncs(false);
    w.disk.end_syncs(w.disk.syncs_held());
    transact(&w.cx, w.kv, Durability::Now, &mut body).await
}

/// Goal: after an unknown outcome a retry gets the first answer, and acts once. Method: each kind
/// of operation is committed with its acknowledgement lost, then run again; the store stays whole.
#[test]
fn a_retry_after_an_unknown_outcome_gets_the_first_answer() {
    in_world(async |w| {
        let new = |inode, kind, layout| NewInode {
            inode: InodeId(inode),
            kind,
            layout,
            target: Vec::new(),
        };
        // Real numbers, so that the check finds them reserved.
        let layout = w.file(ROOT, "first").await.unwrap().layout;
        let entry = w.entry(ROOT, "f");
        let file = new(0x1f00, FileType::File, layout);
        let made =
            twice(&w, async |txn| create::create(txn, &entry, &file, None, 1).await).await.unwrap();
        assert_eq!(w.look(ROOT, "f").await, Ok(made.clone()));

        let entry = w.entry(ROOT, "d");
        let dir = new(0x1f01, FileType::Directory, None);
        twice(&w, async |txn| create::create(txn, &entry, &dir, None, 1).await).await.unwrap();
        assert_eq!(w.attr(ROOT).await.unwrap().nlink, 3);

        let (op, name) = (w.op(), b"g".to_vec());
        let link = MakeLink { inode: made.inode, parent: ROOT, name, op };
        let linked = twice(&w, async |txn| create::link(txn, &link, 2).await).await.unwrap();
        assert_eq!(linked.nlink, 2);

        let op = w.op();
        let rename = Rename {
            parent: ROOT,
            name: b"g".to_vec(),
            new_parent: dir.inode,
            new_name: b"h".to_vec(),
            mode: RenameMode::Replace,
            hold: None,
            op,
        };
        let gone = twice(&w, async |txn| rename::rename(txn, &rename, 3).await).await.unwrap();
        assert_eq!(gone.moved.map(|m| (m.inode, m.ctime_ns)), Some((made.inode, 3)));

        let unlink = Unlink { parent: dir.inode, name: b"h".to_vec(), hold: None, op: w.op() };
        let gone = twice(&w, async |txn| remove::unlink(txn, &unlink, 4).await).await.unwrap();
        assert_eq!(gone.removed.map(|m| m.nlink), Some(1));

        let seen = SeenContent::of(&w.attr(made.inode).await.unwrap());
        let set = super::posix::set_length(made.inode, 9, seen, w.op());
        let set = async |txn: &mut Txn<'_>| ops::attr::set_attr(txn, &set, 5, &|_| true).await;
        assert_eq!(twice(&w, set).await.unwrap().length, 9);

        let rmdir = RemoveDir { parent: ROOT, name: b"d".to_vec(), op: w.op() };
        twice(&w, async |txn| remove::remove_dir(txn, &rmdir, 6).await).await.unwrap();
        assert_eq!(w.names(ROOT).await, ["f", "first"]);
        w.check().await;
    });
}

/// Goal: a duplicate that comes late undoes nothing. Method: an old create after the file was
/// removed, an old chmod after a newer one, an old unlink after the name was made again.
#[test]
fn a_late_duplicate_has_no_effect() {
    in_world(async |w| {
        let create = CreateFile { entry: w.entry(ROOT, "f"), kind: FileType::File, hold: None };
        let made = w.ask(create.clone()).await.unwrap();
        let unlink = Unlink { parent: ROOT, name: b"f".to_vec(), hold: None, op: w.op() };
        let gone = w.ask(unlink.clone()).await.unwrap();
        assert_eq!(w.ask(create).await.map(attr), Ok(undated(made.attr)));
        assert_eq!(w.names(ROOT).await, Vec::<String>::new());
        w.file(ROOT, "f").await.unwrap();
        let again = w.ask(unlink).await.unwrap();
        assert_eq!(again.removed.map(undated), gone.removed.map(undated));
        assert!(again.stamp >= gone.stamp);
        assert_eq!(w.names(ROOT).await, ["f"]);
    });
}

/// Goal: a duplicate of a refused request that comes late does not act either. Method: a removal
/// of a name that is not there yet, and a create of one that goes afterwards.
///
/// Regression (sim check metas, seed 36): a late second frame of a refused rmdir removed the
/// directory that its client had made meanwhile.
#[test]
fn a_late_duplicate_of_a_refused_request_is_refused() {
    in_world(async |w| {
        let rmdir = RemoveDir { parent: ROOT, name: b"d".to_vec(), op: w.op() };
        assert_eq!(w.ask(rmdir.clone()).await, Err(MetaError::NotFound));
        w.dir(ROOT, "d").await.unwrap();
        let mkdir = MakeDir { entry: NewEntry { mode: 0o755, ..w.entry(ROOT, "d") } };
        assert_eq!(w.ask(mkdir.clone()).await, Err(MetaError::Exists));
        assert_eq!(w.ask(rmdir).await, Err(MetaError::NotFound));
        assert_eq!(w.names(ROOT).await, ["d"]);
        w.rmdir(ROOT, "d").await.unwrap();
        assert_eq!(w.ask(mkdir).await, Err(MetaError::Exists));
        assert_eq!(w.names(ROOT).await, Vec::<String>::new());
        w.check().await;
    });
}

/// Goal: what is kept per session is bounded, and a request from before it is refused, not run.
#[test]
fn a_request_older_than_the_record_is_refused() {
    in_world(async |w| {
        let create = CreateFile { entry: w.entry(ROOT, "f"), kind: FileType::File, hold: None };
        w.ask(create.clone()).await.unwrap();
        w.seq.set(w.seq.get() + crate::meta::schema::RECENT_SLOTS - 1);
        w.unlink(ROOT, "f").await.unwrap();
        let refused = w.ask(create).await.unwrap_err();
        assert!(matches!(&refused, MetaError::InvalidArgument(s) if s.contains("too old")));
        assert_eq!(w.names(ROOT).await, Vec::<String>::new());
    });
}
