//! Lengths and times as several writers and the user set them.

use super::posix::{nothing, report, set_length};
use super::*;

async fn reported(w: &World, m: ReportWrite) -> Result<Attr, Attr> {
    match w.ask(m).await.unwrap() {
        Reported::Taken(taken) => Ok(taken.attr),
        Reported::Stale(attr) => Err(attr),
        Reported::Waits | Reported::Passed(_) => panic!("for whom?"),
    }
}

async fn set_mtime(w: &World, inode: InodeId, time: SetTime) -> Attr {
    let m = SetAttr { mtime: Some(time), ..nothing(inode, w.op()) };
    w.ask(m).await.unwrap().attr
}

/// Goal: a time set by hand stands until somebody writes, and then never comes back. Regression
/// (issue 10): `touch -d 2030` made later writes invisible, since the time only moved forward.
#[test]
fn a_write_shows_after_a_time_was_set_by_hand() {
    in_world(async |w| {
        let made = w.file(ROOT, "f").await.unwrap();
        let (inode, now) = (made.inode, made.mtime_ns);
        assert_eq!((made.birth_ns, made.times_set), (now, 0));
        let future = now + (1 << 60);
        let set = set_mtime(&w, inode, SetTime::At { ns: future }).await;
        assert_eq!((set.mtime_ns, set.times_set), (future, 1));
        let at =
            |times_set, ns| ReportWrite { times_set, mtime_ns: Some(ns), ..report(inode, 9, 0) };
        // Written before the time was set, heard of after it: the writer has to look again.
        let stale = reported(&w, at(0, now + 1)).await.unwrap_err();
        assert_eq!((stale.mtime_ns, stale.length), (future, 0));
        let taken = reported(&w, at(1, now + 5)).await.unwrap();
        assert_eq!((taken.mtime_ns, taken.length), (now + 5, 9));
        // Of two writes the later counts.
        assert_eq!(reported(&w, at(1, now + 3)).await.unwrap().mtime_ns, now + 5);
        assert_eq!(reported(&w, at(1, now + 7)).await.unwrap().mtime_ns, now + 7);
        let touched = set_mtime(&w, inode, SetTime::Now).await;
        assert_eq!(touched.times_set, 2);
        let older = reported(&w, at(2, touched.mtime_ns - 1)).await.unwrap();
        assert_eq!(older.mtime_ns, touched.mtime_ns, "`Now` is a time like that of a write");
    });
}

/// Goal: a cut is refused when the content is not what the cutter saw, and the refusal is not kept:
/// the same request may come again with another look.
#[test]
fn a_cut_names_the_content_it_was_made_for() {
    in_world(async |w| {
        let made = w.file(ROOT, "f").await.unwrap();
        let (inode, op) = (made.inode, w.op());
        let seen = SeenContent::of(&made);
        reported(&w, report(inode, 50, 0)).await.unwrap();
        let refused = w.ask(set_length(inode, 10, seen, op)).await;
        assert_eq!(refused, Err(MetaError::Changed));
        let seen = SeenContent::of(&w.attr(inode).await.unwrap());
        let cut = w.ask(set_length(inode, 10, seen, op)).await.unwrap().attr;
        assert_eq!((cut.length, cut.truncations, cut.sparse), (10, 1, false));
        // A retry finds the first answer, whatever the content is by now.
        assert_eq!(
            undated(w.ask(set_length(inode, 10, seen, op)).await.unwrap().attr),
            undated(cut)
        );
        let sparse = ReportWrite { sparse: true, ..report(inode, 0, 1) };
        let attr = reported(&w, sparse).await.unwrap();
        assert_eq!((attr.sparse, attr.length), (true, 10));
    });
}

/// Goal: the mistakes that checks plant do what they say.
#[test]
fn planted_mistakes_lose_data() {
    in_world(async |w| {
        let planted = async |bug| {
            let (disk, beside) = (MemoryDisk::new(), Rc::clone(&w.beside));
            World::start_on(worlds::with(bug, &w.cx), disk, beside).await
        };
        let v = planted(PlantedBug::SeenContentIgnored).await;
        let made = v.file(ROOT, "f").await.unwrap();
        reported(&v, report(made.inode, 50, 0)).await.unwrap();
        let m = set_length(made.inode, 10, SeenContent::of(&made), v.op());
        assert_eq!(v.ask(m).await.unwrap().attr.length, 10);

        let v = planted(PlantedBug::ReportIgnoresTruncations).await;
        let inode = v.file(ROOT, "f").await.unwrap().inode;
        let attr = reported(&v, report(inode, 50, 0)).await.unwrap();
        v.ask(set_length(inode, 0, SeenContent::of(&attr), v.op())).await.unwrap();
        assert_eq!(reported(&v, report(inode, 60, 0)).await.unwrap().length, 0);

        let v = planted(PlantedBug::AppendAtKnownEnd).await;
        let inode = v.file(ROOT, "f").await.unwrap().inode;
        for _ in 0..2 {
            let m = Append {
                inode,
                len: 10,
                end: 0,
                truncations: 0,
                holder: SessionId(0),
                op: v.op(),
                instead_of: None,
            };
            assert!(matches!(v.ask(m).await, Ok(Appended::At { offset: 0, .. })));
        }
    });
}
