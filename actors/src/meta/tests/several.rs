//! Several meta servers on one store.

use super::super::refresh_view;
use super::*;

/// A second server beside the world's own, and the rest of the cluster as that one sees it.
async fn another(w: &World) -> (World, Rc<Beside>) {
    let beside = Rc::new(Beside::default());
    *beside.view.borrow_mut() = view();
    let mgmtd = Addr::from_raw(RawAddr::default());
    let config = MetaConfig { stripe: 2, ..MetaConfig::new(w.kv, mgmtd) };
    let meta = MetaServer::start_beside(&w.cx, config, Rc::clone(&beside) as _).await.unwrap();
    let second = World {
        cx: w.cx.clone(),
        disk: w.disk.clone(),
        kv: w.kv,
        meta,
        beside: Rc::clone(&beside),
        seq: Cell::new(1 << 32),
    };
    (second, beside)
}

/// Goal: a request acts once, whichever server gets it and its retries. Method: each kind of
/// operation goes to both servers at the same time, and to the other one afterwards: all three
/// answers are the same, and the tree holds the effect once.
#[test]
fn a_request_acts_once_on_whichever_server() {
    in_world(async |w| {
        let (second, _) = another(&w).await;
        let create = CreateFile { entry: w.entry(ROOT, "f"), kind: FileType::File, hold: None };
        let made = async |world: &World| world.ask(create.clone()).await.map(attr);
        let (a, b) = t3fs_runtime::join(made(&w), made(&second)).await;
        let inode = a.clone().unwrap().inode;
        assert_eq!((a.clone(), made(&second).await), (b, a));

        let mkdir = MakeDir { entry: NewEntry { mode: 0o755, ..w.entry(ROOT, "d") } };
        let made = async |world: &World| world.ask(mkdir.clone()).await.map(attr);
        let (a, b) = t3fs_runtime::join(made(&w), made(&second)).await;
        assert_eq!((a.clone(), made(&second).await), (b, a));
        assert_eq!(w.attr(ROOT).await.unwrap().nlink, 3);

        let unlink = Unlink { parent: ROOT, name: b"f".to_vec(), hold: None, op: w.op() };
        let gone = async |world: &World| {
            world.ask(unlink.clone()).await.map(|gone| gone.removed.map(undated))
        };
        let (a, b) = t3fs_runtime::join(gone(&w), gone(&second)).await;
        assert_eq!(a.clone().unwrap().map(|removed| removed.inode), Some(inode));
        // The name is used again before the last retry comes.
        w.file(ROOT, "f").await.unwrap();
        assert_eq!((a.clone(), gone(&second).await), (b, a));
        assert_eq!(w.names(ROOT).await, ["d", "f"]);
        w.check().await;
    });
}

/// Goal: garbage that a server could not remove is removed by another one, and two that remove the
/// same do no harm. Method: the first server reaches no storage; then both work at once.
#[test]
fn garbage_is_everybodys() {
    in_world(async |w| {
        w.beside.not_ready.set(u32::MAX);
        for n in 0..100 {
            w.file(ROOT, &format!("{n}")).await.unwrap();
            w.unlink(ROOT, &format!("{n}")).await.unwrap();
        }
        // Starts with a look at what is there.
        let (second, beside) = another(&w).await;
        w.beside.not_ready.set(0);
        for n in 100..200 {
            let world = if n % 2 == 0 { &w } else { &second };
            world.file(ROOT, &format!("{n}")).await.unwrap();
            world.unlink(ROOT, &format!("{n}")).await.unwrap();
        }
        collecting::settle(&w).await;
        assert_eq!(w.ask(CountInodes).await, Ok(1));
        let removed = w.beside.removals() + beside.removals();
        assert!(removed >= 400, "{removed} removals of 200 files on two chains each");
    });
}

/// Regression (review): who asked the agent for all others, and was dropped while it waited, left
/// them waiting for good: collector, holds and orphans stood still until the server was started
/// again. Method: the task that asks is given up; whoever waits for it goes on.
#[test]
fn who_gives_up_asking_leaves_nobody_waiting() {
    in_world(async |w| {
        let config = MetaConfig::new(w.kv, Addr::from_raw(RawAddr::default()));
        let (_, me) = w.cx.start_with(MetaServer::new(config, Rc::clone(&w.beside) as _));
        w.beside.silent.set(true);
        let ms = Duration::from_millis;
        let (asks, waits, went_on) = (me.clone(), me.clone(), Rc::new(Cell::new(false)));
        let (cx, done) = (w.cx.clone(), Rc::clone(&went_on));
        w.cx.spawn(async move {
            cx.sleep(ms(1)).await;
            refresh_view(&waits, &cx).await;
            done.set(true);
        });
        assert_eq!(w.cx.within(ms(5)).in_time(refresh_view(&asks, &w.cx)).await, None);
        w.cx.sleep(ms(5)).await;
        assert!(went_on.get(), "it waits for nobody");
        w.beside.silent.set(false);
        assert_eq!(w.cx.within(ms(50)).in_time(refresh_view(&me, &w.cx)).await, Some(()));
    });
}
