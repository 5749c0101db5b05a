//! What one core does, messages included. Run with `--ignored --nocapture`.

use super::*;
use crate::meta::kv::{LocalTxn, Resolver};
use crate::meta::schema::*;

const NAMES: u32 = 50_000;
const TASKS: u32 = 32;

/// Runs `NAMES` of an operation from `TASKS` tasks and prints the rate.
async fn rate<T>(what: &str, cx: &Cx, op: impl AsyncFn(u32) -> T) {
    let begun = cx.now();
    let next = Cell::new(0);
    let task = async || {
        while next.get() < NAMES {
            let n = next.replace(next.get() + 1);
            op(n).await;
        }
    };
    t3fs_runtime::join_all((0..TASKS).map(|_| task())).await;
    let seconds = cx.now().since(begun).as_secs_f64();
    println!("{what:24} {:>9.0} /s", f64::from(NAMES) / seconds);
}

/// Goal: what the resolver alone does of that. Method: the reads of a lookup, on the spot.
#[test]
#[ignore = "a measurement"]
fn resolver_alone() {
    in_world(async |w| {
        let mut kv = Resolver::open(Box::new(MemoryDisk::new().open())).unwrap();
        let begun = w.cx.now();
        for n in 0..NAMES {
            let now_us = w.cx.now().us();
            let (name, inode) = (format!("file-{n}"), InodeId(0x1000 + u64::from(n)));
            let mut txn = LocalTxn::begin(&mut kv, now_us);
            txn.get(&kv, &inode_key(ROOT)).unwrap();
            txn.get(&kv, &dirent_key(ROOT, name.as_bytes())).unwrap();
            txn.get(&kv, &recent_key(RequestId::default())).unwrap();
            txn.buffer.set(dirent_key(ROOT, name.as_bytes()), seal_dirent(inode, FileType::File));
            txn.buffer.set(inode_key(inode), vec![0; 120].into());
            txn.buffer.set(times_key(ROOT), seal_times(TimesV1 { mtime_ns: 1, ctime_ns: 1 }));
            txn.buffer.set(recent_key(RequestId::default()), vec![0; 120].into());
            txn.buffer.add(count_key(), 1);
            txn.commit(&mut kv, now_us).unwrap();
        }
        let seconds = w.cx.now().since(begun).as_secs_f64();
        println!("{:24} {:>9.0} /s", "resolver: create", f64::from(NAMES) / seconds);
        let begun = w.cx.now();
        for n in 0..NAMES {
            let at = kv.read_version(w.cx.now().us()).unwrap();
            let entry = kv.get(at, &dirent_key(ROOT, format!("file-{n}").as_bytes())).unwrap();
            let (inode, _) = open_dirent(ROOT, &entry.unwrap()).unwrap();
            kv.get(at, &inode_key(inode)).unwrap().unwrap();
        }
        let seconds = w.cx.now().since(begun).as_secs_f64();
        println!("{:24} {:>9.0} /s", "resolver: lookup", f64::from(NAMES) / seconds);
    });
}

/// Goal: the rates that design section 10 asks for. Method: many tasks, one directory.
#[test]
#[ignore = "a measurement"]
fn operations_per_second() {
    in_world(async |w| {
        let cx = w.cx.clone();
        let dir = w.dir(ROOT, "d").await.unwrap().inode;
        rate("create, one directory", &cx, async |n| {
            w.file(dir, &format!("file-{n}")).await.unwrap();
        })
        .await;
        rate("lookup", &cx, async |n| {
            w.look(dir, &format!("file-{n}")).await.unwrap();
        })
        .await;
        rate("getattr", &cx, async |n| {
            w.attr(InodeId(0x1001 + u64::from(n))).await.unwrap();
        })
        .await;
        rate("rename", &cx, async |n| {
            let (from, to) = (format!("file-{n}"), format!("moved-{n}"));
            w.rename((dir, &from), (dir, &to), RenameMode::Replace).await.unwrap();
        })
        .await;
        rate("unlink", &cx, async |n| {
            w.unlink(dir, &format!("moved-{n}")).await.unwrap();
        })
        .await;
    });
}
