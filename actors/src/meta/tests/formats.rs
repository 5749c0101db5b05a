//! Formats that later builds will use: the feature record, and what is reserved.

use core::time::Duration;

use super::collecting::settle;
use super::*;
use crate::features::{self, FeaturesV1};
use crate::meta::kv::KvError;
use crate::meta::kv::client::{Stop, Txn, transact};
use crate::meta::schema::*;
use crate::proto::kv::*;
use bytes::Bytes;
use t3fs_runtime::{Actor, Ask, Handle, Me};

/// Writes as a later build would: it knows what this one does not.
async fn write(kv: Addr<Kv>, cx: &Cx, pairs: Vec<(Bytes, Bytes)>) {
    let mutations = pairs.into_iter().map(|(key, value)| Mutation::Set { key, value }).collect();
    let request = CommitRequest { mutations, ..CommitRequest::default() };
    cx.ask(kv, Commit { request, durability: Durability::Soon }).await.unwrap().unwrap();
}

async fn raise(w: &World, features: FeaturesV1) {
    write(w.kv, &w.cx, vec![(features::key(), features.seal())]).await;
}

async fn stored(w: &World, key: Bytes) -> Option<Bytes> {
    let read = w.cx.ask(w.kv, GetKeys { at: None, keys: vec![key] }).await.unwrap().unwrap();
    read.values.into_iter().next().unwrap()
}

fn incompatible() -> FeaturesV1 {
    FeaturesV1 { incompatible: 1 << 40, ..FeaturesV1::default() }
}

fn readonly() -> FeaturesV1 {
    FeaturesV1 { readonly_compatible: 1 << 41, ..FeaturesV1::default() }
}

/// Whether a request was refused for features, with a sentence that says which and what to do.
fn is_refused<T: std::fmt::Debug>(result: Result<T, MetaError>, bit: &str) -> bool {
    let Err(MetaError::Unavailable(why)) = &result else { return false };
    why.contains(bit) && why.contains("start a t3fs-node at least as new")
}

/// Goal: a meta server does not start on a store with features that it does not know, and does on
/// one of an earlier build, which has no record. Method: each kind of bit.
#[test]
fn unknown_features_keep_a_server_from_starting() {
    in_world(async |w| {
        assert_eq!(
            stored(&w, features::key()).await,
            Some(FeaturesV1::default().seal()),
            "written when the file system is made"
        );
        let start = async || {
            let mgmtd = Addr::from_raw(RawAddr::default());
            let config = MetaConfig { stripe: 2, ..MetaConfig::new(w.kv, mgmtd) };
            MetaServer::start_beside(&w.cx, config, Rc::clone(&w.beside) as _).await.map(drop)
        };
        for (features, words) in [(incompatible(), "incompatible: 40"), (readonly(), "only comp")] {
            raise(&w, features).await;
            let Err(Stop::Refused(why)) = start().await else { panic!("it starts") };
            assert!(why.contains(words) && why.contains("at least as new"), "{why}");
        }
        raise(&w, FeaturesV1 { compatible: u64::MAX, ..FeaturesV1::default() }).await;
        start().await.unwrap();
        w.cx.ask(w.kv, cleared(features::key())).await.unwrap().unwrap();
        start().await.unwrap();
        w.file(ROOT, "f").await.unwrap();
        w.check().await;
    });
}

fn cleared(key: Bytes) -> Commit {
    let mutations = vec![Mutation::Clear { key }];
    let request = CommitRequest { mutations, ..CommitRequest::default() };
    Commit { request, durability: Durability::Soon }
}

/// Goal: once a bit is set, a server that runs and does not know it changes nothing any more, and
/// reads nothing that it would misread. Method: raise each kind of bit under one.
#[test]
fn a_bit_raised_under_a_running_server_stops_it() {
    in_world(async |w| {
        let f = w.file(ROOT, "f").await.unwrap().inode;
        raise(&w, readonly()).await;
        let before = w.attr(f).await.unwrap();
        let bit = "read-only compatible: 41";
        assert!(is_refused(w.file(ROOT, "g").await, bit));
        assert!(is_refused(w.unlink(ROOT, "f").await, bit));
        assert!(is_refused(w.rename((ROOT, "f"), (ROOT, "h"), RenameMode::Replace).await, bit));
        assert_eq!(w.names(ROOT).await, ["f"]);
        assert_eq!(w.attr(f).await, Ok(before));
        raise(&w, incompatible()).await;
        let bit = "incompatible: 40";
        assert!(is_refused(w.attr(f).await, bit) && is_refused(w.look(ROOT, "f").await, bit));
        assert!(is_refused(w.dir(ROOT, "d").await, bit));
        raise(&w, FeaturesV1::default()).await;
        w.file(ROOT, "g").await.unwrap();
        w.check().await;
    });
}

/// Goal: no transaction that began before a bit was set commits after it: neither one that reads
/// other keys, nor one that reads only a range, nor one that reads nothing. Method: raise between
/// body and commit.
#[test]
fn every_transaction_depends_on_the_record() {
    in_world(async |w| {
        let key = Bytes::from_static(b"Xkey");
        let begin = || {
            let mut txn = Txn::new(&w.cx, w.kv);
            txn.set(key.clone(), &b"by an earlier build"[..]);
            txn
        };
        let mut by_key = begin();
        by_key.fetch([&inode_key(ROOT)]).await.unwrap();
        let mut by_range = begin();
        by_range.fetch_range(&all(b'G'), 1, false).await.unwrap();
        by_range.fetch_all(vec![count_key()]).await.unwrap();
        let nothing = begin();
        raise(&w, readonly()).await;
        for txn in [by_key, by_range] {
            assert_eq!(txn.commit(Durability::Soon).await, Err(KvError::Conflict));
        }
        let refused = nothing.commit(Durability::Soon).await;
        assert!(matches!(refused, Err(KvError::Store(_))), "{refused:?}");
        let again = transact(&w.cx, w.kv, Durability::Soon, async |txn| {
            txn.set(key.clone(), &b"tried again"[..]);
            Ok::<_, Stop<()>>(())
        });
        assert!(again.await.is_err());
        assert_eq!(stored(&w, key.clone()).await, None);
    });
}

/// A store that counts what it is asked.
struct Counting {
    kv: Addr<Kv>,
    asked: Rc<RefCell<Vec<&'static str>>>,
}

impl Actor for Counting {
    type Protocol = Kv;
}

macro_rules! passed_on {
    ($($message:ident)*) => { $(
        impl Handle<$message> for Counting {
            async fn handle(
                me: &Me<Self>,
                m: $message,
                cx: &Cx,
            ) -> <$message as Ask<Kv>>::Reply {
                me.with(|c| c.asked.borrow_mut().push(stringify!($message)));
                let kv = me.with(|c| c.kv);
                cx.ask(kv, m).await.unwrap_or(Err(KvError::Unknown))
            }
        }
    )* };
}
passed_on!(GetKeys GetRange Commit Barrier);

/// Goal: to depend on the record costs no message. Method: a store that counts them under a server:
/// a create and a removal read in as few messages as before.
#[test]
fn the_record_costs_no_message() {
    in_world(async |w| {
        let asked = Rc::default();
        let kv = w.cx.start(Counting { kv: w.kv, asked: Rc::clone(&asked) });
        let agent = Addr::from_raw(RawAddr::default());
        let config = MetaConfig { stripe: 2, ..MetaConfig::new(kv, agent) };
        let meta = MetaServer::start_beside(&w.cx, config, Rc::clone(&w.beside) as _).await;
        let w = World { meta: meta.unwrap(), ..w };
        // Numbers are reserved, and the collector has looked.
        w.dir(ROOT, "first").await.unwrap();
        w.cx.sleep(Duration::from_millis(50)).await;
        let taken = || asked.take().into_iter().collect::<Vec<_>>();
        taken();
        w.dir(ROOT, "d").await.unwrap();
        assert_eq!(taken(), ["GetKeys", "Commit"]);
        w.look(ROOT, "d").await.unwrap();
        assert_eq!(taken(), ["GetKeys", "GetKeys"]);
        w.rmdir(ROOT, "d").await.unwrap();
        assert_eq!(taken(), ["GetKeys", "GetKeys", "GetRange", "Commit"]);
    });
}

fn belonging(inode: InodeId, kind: u8) -> Bytes {
    [&belongings_range(inode).begin[..], &[kind], b"name"].concat().into()
}

/// Goal: what later builds keep with an inode goes with it, be it a file, a directory or a symlink,
/// and what belongs to its neighbours stays. Method: write it as they would, then remove.
#[test]
fn what_belongs_to_an_inode_goes_with_it() {
    in_world(async |w| {
        let file = w.file(ROOT, "file").await.unwrap().inode;
        let directory = w.dir(ROOT, "directory").await.unwrap().inode;
        let symlink = MakeSymlink { entry: w.entry(ROOT, "symlink"), target: b"x".to_vec() };
        let symlink = w.ask(symlink).await.unwrap().attr.inode;
        let stays = w.file(ROOT, "stays").await.unwrap().inode;
        let all = [file, directory, symlink, stays, InodeId(file.0 - 1)];
        let shard = Bytes::from([&subdirs_key(directory)[..], &[3]].concat());
        let mut pairs = vec![(shard.clone(), Bytes::from_static(&[0; 8]))];
        for inode in all {
            pairs.extend([b'x', b'l', b'?'].map(|kind| (belonging(inode, kind), "v".into())));
        }
        write(w.kv, &w.cx, pairs).await;
        w.unlink(ROOT, "file").await.unwrap();
        w.unlink(ROOT, "symlink").await.unwrap();
        w.rmdir(ROOT, "directory").await.unwrap();
        settle(&w).await;
        for (at, inode) in all.into_iter().enumerate() {
            for kind in [b'x', b'l', b'?'] {
                let left = stored(&w, belonging(inode, kind)).await;
                assert_eq!(left.is_some(), at >= 3, "{inode:?} {kind}");
            }
        }
        assert_eq!(stored(&w, shard).await, None);
    });
}

/// Goal: to clear what belongs to an inode, there or not, refuses nobody who works beside it.
/// Method: two transactions that clear neighbours' ranges, and one that reads a third.
#[test]
fn clearing_what_is_not_there_conflicts_with_nobody() {
    in_world(async |w| {
        let begin = async |inode: u64, reads: u64| {
            let mut txn = Txn::new(&w.cx, w.kv);
            let range = belongings_range(InodeId(reads));
            assert!(txn.read_range(&range, 0, false).await.unwrap().rows.is_empty());
            txn.clear_range(belongings_range(InodeId(inode)));
            txn
        };
        let (one, two, three) = (begin(5, 6).await, begin(7, 6).await, begin(8, 7).await);
        one.commit(Durability::Soon).await.unwrap();
        two.commit(Durability::Soon).await.unwrap();
        assert_eq!(three.commit(Durability::Soon).await, Err(KvError::Conflict), "it read 7's");
    });
}

/// Goal: what a later build adds to an inode survives changes by this one, and a kind of redundancy
/// that is not known is refused, not misread. Method: inodes as it would write them.
#[test]
fn later_inodes_are_kept_or_refused() {
    in_world(async |w| {
        let plain = w.file(ROOT, "f").await.unwrap();
        let f = plain.inode;
        let v2 = stored(&w, inode_key(f)).await.unwrap();
        let later = |redundancy| {
            let v: InodeV2 = t3fs_runtime::wire::open(0x1201, 2, &v2).unwrap();
            let InodeV2 { mut attr, parent, target, project } = v;
            let LayoutV1 { chunk_size, stripes } = attr.layout.take().unwrap();
            let layout = Some(LayoutV2 { chunk_size, stripes, redundancy });
            let (for_children, spare) = (layout.clone(), [1, 2, 3, 4]);
            InodeV3 { attr, parent, target, project, layout, for_children, spare }
        };
        let put = async |v: &InodeV3| {
            let value = t3fs_runtime::wire::seal(0x1201, 3, v).into();
            write(w.kv, &w.cx, vec![(inode_key(f), value)]).await;
        };
        let known = later(RedundancyV1::default());
        put(&known).await;
        assert_eq!(w.attr(f).await, Ok(plain));
        w.link(f, ROOT, "g").await.unwrap();
        let bytes = stored(&w, inode_key(f)).await.unwrap();
        let v: InodeV3 = t3fs_runtime::wire::open(0x1201, 3, &bytes).unwrap();
        assert_eq!((v.for_children, v.spare, v.attr.nlink), (known.for_children, known.spare, 2));
        assert_eq!(v.layout, known.layout);
        w.check().await;
        put(&later(RedundancyV1 { kind: 1, data: 4, parity: 2 })).await;
        let refused = w.attr(f).await;
        let Err(MetaError::Damaged(why)) = &refused else { panic!("{refused:?}") };
        assert!(why.contains("redundancy") && why.contains("kind 1") && why.contains("as new"));
    });
}

/// Goal: garbage with what a later build says of it is condemned and forgotten like any, with its
/// entry in the index; a kind that is not known is left alone. Method: entries as it would write.
#[test]
fn later_garbage_is_collected_with_its_index() {
    in_world(async |w| {
        let f = w.file(ROOT, "f").await.unwrap().inode;
        w.unlink(ROOT, "f").await.unwrap();
        let due = DueV1 { bucket: 7, due_ns: 1 << 40 };
        let garbage = GarbageV3 { uid: 7, length: 5, due: Some(due), ..GarbageV3::new(1) };
        let (index, neighbour) = (due_key(due, f), due_key(due, InodeId(f.0 + 1)));
        let rows = [(garbage_key(f), garbage.seal())];
        let index_rows = [&index, &neighbour].map(|key| (key.clone(), Bytes::new()));
        write(w.kv, &w.cx, rows.into_iter().chain(index_rows).collect()).await;
        assert_eq!(GarbageV3::open(f, &garbage.seal()), Ok(garbage));
        settle(&w).await;
        assert_eq!(w.attr(f).await, Err(MetaError::Stale));
        assert_eq!(stored(&w, index).await, None);
        assert_eq!(stored(&w, neighbour).await, Some(Bytes::new()));
        let strange = GarbageV3 { kind: 9, ..garbage };
        let refused = GarbageV3::open(f, &strange.seal()).unwrap_err();
        assert!(matches!(refused, MetaError::Damaged(why) if why.contains("kind 9")));
    });
}

/// Goal: a counter is the sum of its parts, for those who ask and for the check. Method: parts as a
/// later build would write them, one below zero.
#[test]
fn counters_are_sums_of_their_parts() {
    in_world(async |w| {
        w.file(ROOT, "f").await.unwrap();
        let part = |shard: u8, value: i64| {
            let key = Bytes::from([&count_key()[..], &[shard]].concat());
            (key, Bytes::copy_from_slice(&value.to_le_bytes()))
        };
        write(w.kv, &w.cx, vec![part(0, 5), part(255, -5)]).await;
        assert_eq!(w.ask(CountInodes).await, Ok(2));
        w.check().await;
        write(w.kv, &w.cx, vec![part(3, 1)]).await;
        assert_eq!(w.ask(CountInodes).await, Ok(3));
        assert_eq!(fsck(&w.cx, w.kv).await.unwrap().damaged, 1);
    });
}

/// Goal: numbers end before those that chunks have no room for.
#[test]
fn inode_numbers_leave_room_in_chunk_ids() {
    in_world(async |w| {
        w.file(ROOT, "f").await.unwrap();
        write(w.kv, &w.cx, vec![(alloc_key(), seal_alloc(INODE_END))]).await;
        let mut last = Ok(());
        for n in 0..2 * crate::meta::ids::BATCH {
            last = w.file(ROOT, &format!("f{n}")).await.map(|made| {
                assert!(made.inode.0 < INODE_END);
            });
            if last.is_err() {
                break;
            }
        }
        let Err(MetaError::Damaged(why)) = &last else { panic!("{last:?}") };
        assert!(why.contains("too large for chunks"));
    });
}
