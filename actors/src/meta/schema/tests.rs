//! Bytes of keys and values.

use super::*;
use crate::proto::ids::ChainId;
use crate::proto::meta::{Attr, FileType, Gone, Layout, MetaError, Stamp, Stripes};

fn attr() -> Attr {
    Attr {
        inode: InodeId(0x1234),
        kind: FileType::File,
        mode: 0o6644,
        uid: 1000,
        gid: 100,
        nlink: 3,
        atime_ns: 1,
        mtime_ns: -2,
        ctime_ns: 3 << 40,
        length: 5 << 33,
        truncations: 7,
        times_set: 8,
        changes: 0,
        sparse: true,
        birth_ns: -9,
        layout: Some(Layout {
            chunk_size: 1 << 20,
            stripes: Stripes::Range { table: 1, table_version: 2, base: 3, count: 4, seed: 5 },
        }),
        as_of: Stamp::default(),
    }
}

fn file() -> Inode {
    let mut inode = Inode::new(attr(), InodeId(0), Vec::new());
    inode.note_mtime_set(true);
    (inode.attr.changes, inode.project) = (10, 11);
    inode
}

fn symlink() -> Inode {
    let attr = Attr { kind: FileType::Symlink, layout: None, length: 6, ..attr() };
    Inode::new(attr, InodeId(0), b"target".to_vec())
}

fn listed() -> Inode {
    let stripes = Stripes::List { chains: vec![ChainId(9), ChainId(8)] };
    let mut inode = file();
    inode.attr.layout = Some(Layout { chunk_size: 4096, stripes });
    inode
}

fn turns() -> TurnsV1 {
    let turn = |seq, at| TurnV1 { session: 0x21, seq, at };
    let append = |stored| AtEndV1::Append { from: 100, to: 120, stored };
    let all = [append(None), AtEndV1::Cut, append(Some(110))];
    TurnsV1 { turns: (5..).zip(all).map(|(seq, at)| turn(seq, at)).collect() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of a value in the golden file.
fn golden(name: &str) -> Option<Vec<u8>> {
    let mut lines = include_str!("../golden/values.txt").lines();
    let hex = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    Some((0..hex.len()).step_by(2).map(byte).collect())
}

/// Goal: this build stores the bytes that it is said to store, also for builds to come. Method:
/// each kind of value that is written against its bytes in `golden/`.
#[test]
fn stored_bytes_do_not_change() {
    let special = FileType::Special { mode_type: 0o020000, rdev: 0x0103 };
    let gone = Gone { removed: Some(attr()), moved: None, stamp: Stamp(3) };
    let values = [
        ("inode_v2_file", file().seal()),
        ("inode_v2_symlink", symlink().seal()),
        ("inode_v2_listed", listed().seal()),
        ("dirent_v1", seal_dirent(InodeId(0x1234), FileType::Directory)),
        ("dirent_v1_special", seal_dirent(InodeId(0x1235), special)),
        ("times_v1", seal_times(TimesV1 { mtime_ns: -1, ctime_ns: 2 })),
        ("garbage_v2", GarbageV3 { condemned: true, ..GarbageV3::new(77) }.seal()),
        ("hold_v1", HoldV1 { write: true, since_ns: 78 }.seal()),
        ("shares_v1", seal_shares(79)),
        ("turns_v1", turns().seal()),
        ("recent_v3_attr", seal_recent(5, &Answer::Attr(attr()))),
        ("recent_v3_gone", seal_recent(6, &Answer::Gone(gone))),
        ("alloc_v1", seal_alloc(0x2000)),
        ("refused_v2", seal_refused(7, &MetaError::Exists).expect("kept")),
    ];
    let now: Vec<_> = values.iter().map(|(n, v)| format!("{n} {}", hex(v))).collect();
    let then: Vec<_> = values.iter().map(|(n, _)| golden(n)).collect();
    let stored: Vec<_> = values.iter().map(|(_, v)| Some(v.to_vec())).collect();
    assert_eq!(stored, then, "\n{}", now.join("\n"));
}

/// Goal: what earlier builds stored stays readable. Method: their bytes in `golden/`.
#[test]
fn earlier_versions_are_read() {
    let op = RequestId::default();
    let old = |inode: Inode| {
        let sparse = inode.attr.kind == FileType::File;
        let attr = Attr { times_set: 0, changes: 0, sparse, birth_ns: 0, ..inode.attr };
        Inode::new(attr, inode.parent, inode.target)
    };
    for (name, inode) in
        [("file", file()), ("symlink", symlink()), ("listed", listed())].map(|(n, i)| (n, old(i)))
    {
        let bytes = golden(&format!("inode_v1_{name}")).unwrap();
        assert_eq!(Inode::open(inode.attr.inode, &bytes), Ok(inode));
    }
    let attr = old(file()).attr;
    let answer = Answer::Attr(attr.clone());
    assert_eq!(open_recent(op, &golden("recent_v1_attr").unwrap()), Ok((5, answer)));
    let answer = Answer::Gone(Gone { removed: Some(attr), moved: None, stamp: Stamp::default() });
    assert_eq!(open_recent(op, &golden("recent_v1_gone").unwrap()), Ok((6, answer)));
    let garbage = GarbageV3::open(InodeId(1), &golden("garbage_v1").unwrap());
    assert_eq!(garbage, Ok(GarbageV3::new(77)));
    let unwritten = HoldV1 { write: false, since_ns: 0 };
    assert_eq!(HoldV1::open(InodeId(1), b""), Ok(unwritten));
}

#[test]
fn values_come_back() {
    let op = RequestId::default();
    for inode in [file(), symlink(), listed()] {
        assert_eq!(Inode::open(inode.attr.inode, &inode.seal()), Ok(inode));
    }
    let answer = Answer::Gone(Gone { removed: None, moved: Some(attr()), stamp: Stamp::default() });
    assert_eq!(open_recent(op, &seal_recent(9, &answer)), Ok((9, answer)));
    let hold = HoldV1 { write: true, since_ns: 3 };
    assert_eq!(HoldV1::open(InodeId(1), &hold.seal()), Ok(hold));
    assert_eq!(open_shares(SessionId(1), &seal_shares(5)), Ok(SharesV1 { since_ns: 5 }));
    assert_eq!(open_alloc(&seal_alloc(5)), Ok(5));
    assert_eq!(TurnsV1::open(InodeId(1), &turns().seal()), Ok(turns()));
}

/// Goal: a newer format is never misread, and the message says what to do.
#[test]
fn a_newer_version_is_refused() {
    let mut bytes = file().seal().to_vec();
    bytes[2] = 4;
    let refused = Inode::open(InodeId(0x1234), &bytes).unwrap_err();
    assert!(matches!(&refused, MetaError::Damaged(s) if s.contains("start a t3fs-node")));
    bytes[0] ^= 1;
    let refused = Inode::open(InodeId(0x1234), &bytes).unwrap_err();
    assert!(matches!(&refused, MetaError::Damaged(s) if s.contains("check")));
}

#[test]
fn keys_are_as_drawn() {
    let dirent = dirent_key(InodeId(258), b"name");
    assert_eq!(&dirent[..], b"D\0\0\0\0\0\0\x01\x02name");
    assert_eq!(split_key(&dirent), Some((258, &b"name"[..])));
    assert!(dirent_range(InodeId(258)).contains(&dirent));
    assert!(!dirent_range(InodeId(257)).contains(&dirent));
    let op = RequestId { session: SessionId(3), seq: RECENT_SLOTS + 2 };
    assert_eq!(&recent_key(op)[..], b"R\0\0\0\0\0\0\0\x03\0\x02");
    assert!(recent_range(op.session).contains(&recent_key(op)));
    assert!(recent_from(SessionId(0)).contains(&recent_key(op)));
    assert!(!recent_from(SessionId(4)).contains(&recent_key(op)));
}
