//! Lengths and times as several writers and the user set them.

use super::posix::{nothing, report, set_length};
use super::*;

async fn reported(w: &World, m: ReportWrite) -> Result<Attr, Attr> {
    match w.ask(m).await.unwrap() {
        Reported::Taken(taken) => Ok(taken.attr),
        Reported::Stale(attr) => Err(attr),
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

/// Goal: appends never overlap, and a retry appends nothing.
#[test]
fn appends_take_the_end_in_turn() {
    in_world(async |w| {
        let inode = w.file(ROOT, "f").await.unwrap().inode;
        let append = |len, end, truncations, op| Append {
            inode,
            len,
            end,
            truncations,
            clear_suid: true,
            op,
        };
        let ask = async |m| match w.ask(m).await {
            Ok(Appended::At { offset, changed }) => Ok((offset, changed.attr.length)),
            Ok(Appended::Stale(attr)) => Err(attr.length),
            Err(e) => panic!("{e}"),
        };
        w.ask(SetAttr { mode: Some(0o6755), ..nothing(inode, w.op()) }).await.unwrap();
        set_mtime(&w, inode, SetTime::At { ns: 1 << 62 }).await;
        let first = append(10, 0, 0, w.op());
        assert_eq!(ask(first).await, Ok((0, 10)));
        let attr = w.attr(inode).await.unwrap();
        assert!(attr.mode == 0o755 && attr.mtime_ns < 1 << 62);
        assert_eq!(ask(append(5, 7, 0, w.op())).await, Ok((10, 15)));
        assert_eq!(ask(first).await, Ok((0, 10)), "the retry of the first");
        assert_eq!(w.attr(inode).await.unwrap().length, 15);
        // What the sender has written itself and not reported is before its append.
        assert_eq!(ask(append(1, 100, 0, w.op())).await, Ok((100, 101)));
        let seen = SeenContent::of(&w.attr(inode).await.unwrap());
        w.ask(set_length(inode, 0, seen, w.op())).await.unwrap();
        assert_eq!(ask(append(1, 100, 0, w.op())).await, Err(0));
        assert_eq!(ask(append(3, 0, 0, w.op())).await, Ok((0, 3)));
        let huge = w.ask(append(1 << 62, 0, 1, w.op())).await;
        assert_eq!(huge, Err(MetaError::FileTooLarge));
        let dir = w.ask(Append { inode: ROOT, ..append(1, 0, 0, w.op()) }).await;
        assert_eq!(dir, Err(MetaError::IsDirectory));
        w.check().await;
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
        assert_eq!(w.ask(set_length(inode, 10, seen, op)).await.unwrap().attr, cut);
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
            World::start_planted(w.cx.clone(), disk, beside, Some(bug)).await
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
            let (end, truncations, clear_suid, op) = (0, 0, false, v.op());
            let m = Append { inode, len: 10, end, truncations, clear_suid, op };
            assert!(matches!(v.ask(m).await, Ok(Appended::At { offset: 0, .. })));
        }
    });
}
