//! Goal: the first store that is used is the only one that ever is, whatever answers later.

use futures::FutureExt;
use t3fs_runtime::glommio::run_alone;

use super::super::actor::KvServer;
use super::super::client::{Stop, Txn, transact};
use super::super::{MemoryDisk, Mutation};
use super::*;
use crate::proto::kv::{Commit, CommitRequest, Durability};

/// A memory that outlives those who use it.
#[derive(Clone, Default)]
struct Kept(Rc<Cell<Option<StoreIdentityV1>>>);

impl StoreMemory for Kept {
    fn remember(&self, identity: StoreIdentityV1) -> LocalBoxFuture<'static, Result<(), String>> {
        let kept = Rc::clone(&self.0);
        async move {
            match kept.get() {
                Some(other) if other != identity => Err("another is kept".into()),
                _ => Ok(kept.set(Some(identity))),
            }
        }
        .boxed_local()
    }

    fn place(&self) -> String {
        "the-file".into()
    }
}

/// A store, with or without an identity.
async fn store(cx: &Cx, identity: Option<u64>) -> Addr<Kv> {
    let kv = KvServer::start(cx, Box::new(MemoryDisk::new().open())).unwrap();
    if let Some(low) = identity {
        let value = StoreIdentityV1 { high: 1, low }.seal();
        let mutations = vec![Mutation::Set { key: key(), value }];
        let request = CommitRequest { mutations, ..Default::default() };
        let commit = Commit { request, durability: Durability::Soon };
        cx.ask(kv, commit).await.unwrap().unwrap();
    }
    kv
}

fn known(kv: Addr<Kv>, kept: &Kept) -> KnownStore {
    KnownStore::remembered(kv, "here".into(), kept.0.get(), Box::new(kept.clone()))
}

async fn look(cx: &Cx, store: &KnownStore) -> Result<Option<StoreIdentityV1>, KvError> {
    Txn::new(cx, store).identity().await
}

/// The whole rule: what is remembered before, what is found, and whether it is used.
#[test]
fn one_store_is_used() {
    run_alone(vec![], async |shard| {
        let cx = shard.cx();
        let (none, one, two) =
            (store(&cx, None).await, store(&cx, Some(1)).await, store(&cx, Some(2)).await);
        let kept = Kept::default();
        // Nothing is remembered: a new store, or one of an earlier build.
        assert_eq!(look(&cx, &known(none, &kept)).await, Ok(None));
        assert_eq!(kept.0.get(), None);
        let id = StoreIdentityV1 { high: 1, low: 1 };
        assert_eq!(look(&cx, &known(one, &kept)).await, Ok(Some(id)));
        assert_eq!(kept.0.get(), Some(id), "remembered when it was used first");
        for (wrong, what) in [(none, "is empty"), (two, "is another one")] {
            let store = known(wrong, &kept);
            assert_eq!(look(&cx, &store).await, Err(KvError::Throttled));
            let why = store.trouble().unwrap();
            for word in [what, "at here", "the-file", &id.to_string()] {
                assert!(why.contains(word), "{word}: {why}");
            }
        }
        let store = known(one, &kept);
        assert_eq!((look(&cx, &store).await, store.trouble()), (Ok(Some(id)), None));
    })
    .unwrap();
}

/// Whatever a transaction begins with: a range, a write without a read, a question.
#[test]
fn nothing_of_another_store_is_used() {
    run_alone(vec![], async |shard| {
        let cx = shard.cx();
        let kept = Kept(Rc::new(Cell::new(Some(StoreIdentityV1 { high: 1, low: 1 }))));
        let (short, kv) = (cx.within(Duration::from_millis(200)), store(&cx, None).await);
        let wrong = known(kv, &kept);
        let range = super::super::KeyRange::prefix("x");
        let read = Txn::new(&cx, &wrong).fetch_range(&range, 0, false).await;
        assert_eq!(read.map(drop), Err(KvError::Throttled));
        let written = transact(&short, &wrong, Durability::Soon, async |txn| {
            txn.set("x".into(), "1");
            Ok::<_, Stop<()>>(())
        })
        .await;
        assert_eq!(written, Err(Stop::Kv(KvError::Throttled)));
        let [found] = Txn::new(&cx, kv).fetch([&"x".into()]).await.unwrap();
        assert_eq!(found, None, "nothing was written to it");
    })
    .unwrap();
}

/// Two that use a store first, of which one was put in the place of the other meanwhile.
#[test]
fn the_memory_decides_between_two() {
    run_alone(vec![], async |shard| {
        let cx = shard.cx();
        let (one, two) = (store(&cx, Some(1)).await, store(&cx, Some(2)).await);
        let kept = Kept::default();
        let (first, second) = (known(one, &kept), known(two, &kept));
        look(&cx, &first).await.unwrap();
        assert_eq!(look(&cx, &second).await, Err(KvError::Throttled));
        assert!(second.trouble().unwrap().contains("another is kept"));
        assert_eq!(second.identity(), None);
    })
    .unwrap();
}

#[test]
fn identities_are_written_and_read() {
    let id = StoreIdentityV1 { high: 0x0123_4567_89ab_cdef, low: 5 };
    assert_eq!(id.to_string(), "0123456789abcdef0000000000000005");
    assert_eq!(StoreIdentityV1::parse(&id.to_string()), Some(id));
    for wrong in ["", "5", "+123456789abcdef0000000000000005", &format!("{id}0")] {
        assert_eq!(StoreIdentityV1::parse(wrong), None, "{wrong}");
    }
    assert!(StoreIdentityV1::open(b"x").is_err());
}
