//! Semantics, one operation after the other.

use super::*;

#[test]
fn a_file_is_made_found_and_removed() {
    in_world(async |w| {
        let made = w.file(ROOT, "a").await.unwrap();
        assert_eq!(made.inode, InodeId(0x1000));
        assert_eq!((made.nlink, made.uid, made.gid, made.mode), (1, 7, 8, 0o644));
        assert_eq!(w.look(ROOT, "a").await, Ok(made.clone()));
        assert_eq!(w.attr(made.inode).await, Ok(made.clone()));
        assert_eq!(w.file(ROOT, "a").await, Err(MetaError::Exists));
        assert_eq!(w.ask(CountInodes).await, Ok(2));
        let gone = w.unlink(ROOT, "a").await.unwrap().removed.unwrap();
        assert_eq!((gone.inode, gone.nlink), (made.inode, 0));
        assert_eq!(w.look(ROOT, "a").await, Err(MetaError::NotFound));
        assert_eq!(w.unlink(ROOT, "a").await, Err(MetaError::NotFound));
        w.check().await;
    });
}

#[test]
fn files_are_spread_over_the_chain_table() {
    in_world(async |w| {
        let stripes = async |name: &str| w.file(ROOT, name).await.unwrap().layout.unwrap();
        let (one, two) = (stripes("a").await, stripes("b").await);
        assert_eq!(one.chunk_size, 1 << 20);
        let range = |base| Stripes::Range { table: 1, table_version: 1, base, count: 2, seed: 0 };
        assert_eq!((one.stripes, two.stripes), (range(0), range(1)));
        let entry = w.entry(ROOT, "fifo");
        let kind = FileType::Special { mode_type: 0o010000, rdev: 0 };
        let fifo = w.ask(CreateFile { entry, kind, hold: None }).await.unwrap().attr;
        assert_eq!((fifo.kind, fifo.layout), (kind, None));
    });
}

#[test]
fn without_chains_no_file_is_made_and_the_answer_says_so() {
    in_world(async |w| {
        let version = ViewVersion(1);
        *w.beside.view.borrow_mut() = ClusterView { version, ..ClusterView::default() };
        let refused = w.file(ROOT, "a").await.unwrap_err();
        assert!(matches!(&refused, MetaError::Unavailable(s) if s.contains("chain table 1")));
        assert!(w.dir(ROOT, "d").await.is_ok());
        *w.beside.view.borrow_mut() = ClusterView { version: ViewVersion(2), ..super::view() };
        assert!(w.file(ROOT, "a").await.is_ok());
    });
}

#[test]
fn directories_count_their_subdirectories_and_change_with_their_entries() {
    in_world(async |w| {
        let d = w.dir(ROOT, "d").await.unwrap();
        assert_eq!((d.nlink, d.mode), (2, 0o755));
        let before = w.attr(ROOT).await.unwrap();
        w.cx.sleep(core::time::Duration::from_millis(1)).await;
        w.file(d.inode, "f").await.unwrap();
        let sub = w.dir(d.inode, "s").await.unwrap();
        let after = w.look(ROOT, "d").await.unwrap();
        assert_eq!(after.nlink, 3);
        assert!(after.mtime_ns > d.mtime_ns && after.ctime_ns > d.ctime_ns);
        assert_eq!(w.attr(ROOT).await, Ok(before));
        assert_eq!(w.look(sub.inode, "..").await, Ok(after.clone()));
        assert_eq!(w.look(d.inode, ".").await, Ok(after));
        assert_eq!(w.rmdir(ROOT, "d").await, Err(MetaError::NotEmpty));
        assert_eq!(w.rmdir(d.inode, "f").await, Err(MetaError::NotDirectory));
        assert_eq!(w.unlink(d.inode, "s").await, Err(MetaError::IsDirectory));
        w.rmdir(d.inode, "s").await.unwrap();
        assert_eq!(w.attr(d.inode).await.unwrap().nlink, 2);
        assert_eq!(w.attr(sub.inode).await, Err(MetaError::Stale));
        assert_eq!(w.file(sub.inode, "x").await, Err(MetaError::Stale));
        w.check().await;
    });
}

#[test]
fn bad_names_are_refused() {
    in_world(async |w| {
        for bad in ["", ".", "..", "a/b", "a\0b"] {
            let refused = w.file(ROOT, bad).await.unwrap_err();
            assert!(matches!(refused, MetaError::InvalidArgument(_)), "{bad:?}: {refused}");
        }
        let longest = "x".repeat(NAME_MAX);
        assert!(w.file(ROOT, &longest).await.is_ok());
        assert_eq!(w.file(ROOT, &(longest + "x")).await, Err(MetaError::NameTooLong));
        let file = w.file(ROOT, "f").await.unwrap();
        assert_eq!(w.file(file.inode, "x").await, Err(MetaError::NotDirectory));
        assert_eq!(w.look(file.inode, "x").await, Err(MetaError::NotDirectory));
        assert_eq!(w.look(InodeId(99), "x").await, Err(MetaError::Stale));
    });
}

/// Goal: a setgid directory hands down its group, and to directories the bit.
#[test]
fn setgid_is_inherited() {
    in_world(async |w| {
        let entry = NewEntry { mode: 0o2775, gid: 50, ..w.entry(ROOT, "d") };
        let d = w.ask(MakeDir { entry }).await.unwrap().attr;
        let file = w.file(d.inode, "f").await.unwrap();
        assert_eq!((file.gid, file.mode), (50, 0o644));
        let sub = w.dir(d.inode, "s").await.unwrap();
        assert_eq!((sub.gid, sub.mode), (50, 0o2755));
    });
}

#[test]
fn links_count_and_a_file_without_a_name_gets_no_new_one() {
    in_world(async |w| {
        let f = w.file(ROOT, "f").await.unwrap();
        let d = w.dir(ROOT, "d").await.unwrap();
        assert_eq!(w.link(f.inode, d.inode, "g").await.unwrap().nlink, 2);
        assert_eq!(w.link(f.inode, d.inode, "g").await, Err(MetaError::Exists));
        assert_eq!(w.link(d.inode, ROOT, "e").await, Err(MetaError::IsDirectory));
        assert_eq!(w.link(InodeId(77), ROOT, "e").await, Err(MetaError::Stale));
        assert_eq!(w.unlink(ROOT, "f").await.unwrap().removed.unwrap().nlink, 1);
        let (name, hold) = (b"g".to_vec(), Some(SessionId(1)));
        let op = w.op();
        let gone = w.ask(Unlink { parent: d.inode, name, hold, op }).await.unwrap();
        assert_eq!(gone.removed.unwrap().nlink, 0);
        assert_eq!(w.attr(f.inode).await.unwrap().nlink, 0);
        assert_eq!(w.link(f.inode, ROOT, "again").await, Err(MetaError::Stale));
        w.check().await;
    });
}

#[test]
fn symlinks_keep_their_target() {
    in_world(async |w| {
        let target = b"../some where".to_vec();
        let entry = w.entry(ROOT, "s");
        let made = w.ask(MakeSymlink { entry, target: target.clone() }).await.unwrap().attr;
        assert_eq!((made.mode, made.length), (0o777, target.len() as u64));
        assert_eq!(w.ask(ReadLink { inode: made.inode }).await, Ok(target));
        assert!(w.ask(ReadLink { inode: ROOT }).await.is_err());
        let (entry, target) = (w.entry(ROOT, "t"), vec![b'x'; SYMLINK_MAX + 1]);
        assert_eq!(w.ask(MakeSymlink { entry, target }).await, Err(MetaError::NameTooLong));
        w.unlink(ROOT, "s").await.unwrap();
        assert_eq!(w.attr(made.inode).await, Err(MetaError::Stale));
        w.check().await;
    });
}

#[test]
fn renames_move_replace_and_exchange() {
    use RenameMode::{Exchange, NoReplace, Replace};
    in_world(async |w| {
        let (a, b) = (w.dir(ROOT, "a").await.unwrap(), w.dir(ROOT, "b").await.unwrap());
        let f = w.file(a.inode, "f").await.unwrap();
        let g = w.file(b.inode, "g").await.unwrap();
        let (at_f, at_g) = ((a.inode, "f"), (b.inode, "g"));
        assert_eq!(w.rename(at_f, at_g, NoReplace).await, Err(MetaError::Exists));
        w.rename(at_f, at_g, Exchange).await.unwrap();
        assert_eq!(w.look(a.inode, "f").await.unwrap().inode, g.inode);
        let gone = w.rename(at_f, at_g, Replace).await.unwrap();
        assert_eq!(gone.removed.map(|r| (r.inode, r.nlink)), Some((f.inode, 0)));
        assert_eq!(gone.moved.map(|r| r.inode), Some(g.inode));

        // Directories: into an empty one's place, never into itself, never over a full one.
        let (at_a, at_b) = ((ROOT, "a"), (ROOT, "b"));
        assert_eq!(w.rename(at_a, at_b, Replace).await, Err(MetaError::NotEmpty));
        assert_eq!(w.rename(at_a, at_g, Replace).await, Err(MetaError::NotDirectory));
        assert_eq!(w.rename(at_g, at_a, Replace).await, Err(MetaError::IsDirectory));
        let loops = w.rename(at_a, (a.inode, "x"), Replace).await.unwrap_err();
        assert!(matches!(loops, MetaError::InvalidArgument(_)));
        w.rename(at_a, (b.inode, "a"), Replace).await.unwrap();
        assert_eq!(w.look(a.inode, "..").await.unwrap().inode, b.inode);
        let loops = w.rename(at_b, (a.inode, "b"), Replace).await.unwrap_err();
        assert!(matches!(loops, MetaError::InvalidArgument(_)));
        let loops = w.rename((b.inode, "a"), at_b, Exchange).await.unwrap_err();
        assert!(matches!(loops, MetaError::InvalidArgument(_)));
        assert_eq!(
            (w.attr(ROOT).await.unwrap().nlink, w.attr(b.inode).await.unwrap().nlink),
            (3, 3)
        );
        w.dir(ROOT, "c").await.unwrap();
        let gone = w.rename((b.inode, "a"), (ROOT, "c"), Replace).await.unwrap();
        assert_eq!(gone.removed.map(|r| r.nlink), Some(0));
        assert_eq!(
            (w.attr(ROOT).await.unwrap().nlink, w.attr(b.inode).await.unwrap().nlink),
            (4, 2)
        );

        // A directory for a file, across directories.
        w.rename((b.inode, "g"), (ROOT, "c"), Exchange).await.unwrap();
        assert_eq!(w.look(a.inode, "..").await.unwrap().inode, b.inode);
        assert_eq!(
            (w.attr(ROOT).await.unwrap().nlink, w.attr(b.inode).await.unwrap().nlink),
            (3, 3)
        );

        // Two names of one file: nothing happens.
        w.link(g.inode, ROOT, "h").await.unwrap();
        let gone = w.rename((ROOT, "c"), (ROOT, "h"), Replace).await.unwrap();
        assert_eq!((gone.removed, gone.moved.map(|r| r.nlink)), (None, Some(2)));
        assert_eq!(w.names(ROOT).await, ["b", "c", "h"]);
        let nothing = w.rename((ROOT, "no"), (ROOT, "h"), Replace).await;
        assert_eq!(nothing, Err(MetaError::NotFound));
        w.check().await;
    });
}

#[test]
fn lengths_grow_by_reports_and_shrink_by_truncation_only() {
    in_world(async |w| {
        let inode = w.file(ROOT, "f").await.unwrap().inode;
        let report = async |end, truncations| {
            let m = ReportWrite { durable: true, ..report(inode, end, truncations) };
            match w.ask(m).await.unwrap() {
                Reported::Taken(taken) => (taken.attr.length, taken.attr.truncations, true),
                Reported::Stale(attr) => (attr.length, attr.truncations, false),
                Reported::Waits | Reported::Passed(_) => panic!("for whom?"),
            }
        };
        let set = async |length| {
            let seen = SeenContent::of(&w.attr(inode).await.unwrap());
            let a = w.ask(set_length(inode, length, seen, w.op())).await.unwrap().attr;
            (a.length, a.truncations, a.sparse)
        };
        assert_eq!(report(100, 0).await, (100, 0, true));
        assert_eq!(report(50, 0).await, (100, 0, true));
        assert_eq!(set(60).await, (60, 1, false));
        assert_eq!(report(300, 0).await, (60, 1, false));
        assert_eq!(set(200).await, (200, 2, true));
        assert_eq!(report(20, 2).await, (200, 2, true));
        let seen = SeenContent::of(&w.attr(inode).await.unwrap());
        let huge = w.ask(set_length(inode, 1 << 62, seen, w.op())).await;
        assert_eq!(huge, Err(MetaError::FileTooLarge));
        let dir = w.ask(set_length(ROOT, 0, seen, w.op())).await;
        assert_eq!(dir, Err(MetaError::IsDirectory));
        w.check().await;
    });
}

pub(super) fn report(inode: InodeId, end: u64, truncations: u64) -> ReportWrite {
    ReportWrite {
        inode,
        end,
        truncations,
        times_set: 0,
        mtime_ns: None,
        atime_ns: None,
        clear_suid: false,
        sparse: false,
        turn: None,
        durable: false,
    }
}

pub(super) fn set_length(inode: InodeId, length: u64, seen: SeenContent, op: RequestId) -> SetAttr {
    SetAttr { length: Some(SetLength { length, seen, turn: None }), ..nothing(inode, op) }
}

pub(super) fn nothing(inode: InodeId, op: RequestId) -> SetAttr {
    let (mode, uid, gid, length) = (None, None, None, None);
    let (atime, mtime, ctime) = (None, None, None);
    SetAttr { inode, mode, uid, gid, atime, mtime, ctime, length, op }
}

#[test]
fn attributes_change_as_asked() {
    in_world(async |w| {
        let d = w.dir(ROOT, "d").await.unwrap();
        let at = |ns| Some(SetTime::At { ns });
        let m = SetAttr { mode: Some(0o100700), uid: Some(3), ..nothing(d.inode, w.op()) };
        let changed = w.ask(m).await.unwrap().attr;
        assert_eq!((changed.mode, changed.uid, changed.gid), (0o700, 3, 8));
        assert_eq!((changed.mtime_ns, changed.ctime_ns >= d.ctime_ns), (d.mtime_ns, true));
        // A directory's mtime may be set back, also after entries have changed it.
        w.file(d.inode, "f").await.unwrap();
        let m = SetAttr { mtime: at(5), atime: at(6), ..nothing(d.inode, w.op()) };
        let changed = w.ask(m).await.unwrap().attr;
        assert_eq!((changed.mtime_ns, changed.atime_ns), (5, 6));
        assert_eq!(w.attr(d.inode).await, Ok(undated(changed)));
        w.unlink(d.inode, "f").await.unwrap();
        assert!(w.attr(d.inode).await.unwrap().mtime_ns > 5);

        let f = w.file(ROOT, "f").await.unwrap().inode;
        w.ask(SetAttr { mode: Some(0o6755), ..nothing(f, w.op()) }).await.unwrap();
        let m = ReportWrite { clear_suid: true, ..report(f, 1, 0) };
        let Ok(Reported::Taken(taken)) = w.ask(m).await else { panic!() };
        assert_eq!(taken.attr.mode, 0o755);
    });
}

#[test]
fn a_directory_is_listed_in_pages_in_byte_order() {
    in_world(async |w| {
        let d = w.dir(ROOT, "d").await.unwrap().inode;
        for name in ["b", "a", "\u{e9}", "aa", "B", "0"] {
            w.file(d, name).await.unwrap();
        }
        w.dir(d, "sub").await.unwrap();
        let mut listed = Vec::new();
        let mut after = Vec::new();
        loop {
            let page = w.ask(ReadDir { inode: d, after, limit: 2 }).await.unwrap();
            assert_eq!(page.parent, ROOT);
            after = page.entries.last().map(|e| e.name.clone()).unwrap_or_default();
            listed.extend(page.entries);
            if !page.more {
                break;
            }
        }
        let names: Vec<_> = listed.iter().map(|e| String::from_utf8_lossy(&e.name)).collect();
        assert_eq!(names, ["0", "B", "a", "aa", "b", "sub", "\u{e9}"]);
        for entry in listed {
            assert_eq!(w.attr(entry.attr.inode).await, Ok(undated(entry.attr)));
        }
        let file = w.look(d, "a").await.unwrap().inode;
        let not = w.ask(ReadDir { inode: file, after: vec![], limit: 0 }).await;
        assert_eq!(not, Err(MetaError::NotDirectory));
    });
}

/// Goal: what was acknowledged as durable survives a power failure, numbers are not given twice,
/// and the rest is a prefix. Method: crash the disk, start again on what is left.
#[test]
fn after_a_power_failure_the_synced_prefix_is_there() {
    in_world(async |w| {
        w.file(ROOT, "a").await.unwrap();
        w.ask(SyncMeta::default()).await.unwrap();
        w.disk.hold_syncs(true);
        let lost = w.file(ROOT, "b").await.unwrap().inode;
        w.disk.crash();
        w.disk.hold_syncs(false);
        let beside = Rc::clone(&w.beside);
        let next = World::start_on(w.cx.clone(), w.disk.clone(), beside).await;
        next.seq.set(w.seq.get());
        assert_eq!(next.names(ROOT).await, ["a"]);
        assert!(next.file(ROOT, "c").await.unwrap().inode > lost);
        next.check().await;
    });
}
