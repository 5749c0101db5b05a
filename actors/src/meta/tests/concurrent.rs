//! Many tasks in the same directories.

use super::*;
use crate::meta::kv::KvError;
use crate::meta::kv::client::Txn;
use crate::meta::ops::create::NewInode;
use crate::meta::ops::{create, remove, rename};
use crate::proto::kv::Durability;
use crate::proto::meta::Meta;

const TASKS: u64 = 24;
const STEPS: u32 = 150;

/// Goal: whatever tasks do to each other's names, the tree stays whole. Method: two meta servers on
/// one store, few directories and names, random operations; the check at the end finds nothing, and
/// no answer is other than what POSIX has for such races.
#[test]
fn racing_operations_leave_a_whole_tree() {
    in_world(async |w| {
        let config =
            MetaConfig { stripe: 1, ..MetaConfig::new(w.kv, Addr::from_raw(RawAddr::default())) };
        let second =
            MetaServer::start_beside(&w.cx, config, Rc::clone(&w.beside) as _).await.unwrap();
        let mut dirs = vec![ROOT];
        for name in ["p", "q", "r"] {
            dirs.push(w.dir(ROOT, name).await.unwrap().inode);
        }
        let dirs = RefCell::new(dirs);
        let task = async |n: u64| {
            let w = World {
                seq: Cell::new(n << 32),
                ..w.beside_itself(if n.is_multiple_of(2) { w.meta } else { second })
            };
            let mut seed = n + 1;
            for _ in 0..STEPS {
                step(&w, &dirs, &mut seed).await;
            }
        };
        t3fs_runtime::join_all((0..TASKS).map(task)).await;
        // The check is for a store at rest: collectors may still work.
        super::collecting::settle(&w).await;
    });
}

impl World {
    /// The same world, through another meta server.
    fn beside_itself(&self, meta: Addr<Meta>) -> World {
        World {
            cx: self.cx.clone(),
            disk: self.disk.clone(),
            kv: self.kv,
            meta,
            beside: Rc::clone(&self.beside),
            seq: Cell::new(0),
        }
    }
}

/// A linear congruential generator (Knuth's MMIX): the same steps in every run.
fn next_random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

async fn step(w: &World, dirs: &RefCell<Vec<InodeId>>, seed: &mut u64) {
    let mut pick = |n: u64| next_random(seed) % n;
    let directory = |n: u64| {
        let dirs = dirs.borrow();
        dirs[n as usize % dirs.len()]
    };
    let (a, b) = (directory(pick(64)), directory(pick(64)));
    let (x, y) = (format!("n{}", pick(6)), format!("n{}", pick(6)));
    let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
    let mode = modes[pick(3) as usize];
    let result = match pick(9) {
        0 | 1 => w.file(a, &x).await.map(drop),
        2 => {
            let made = w.dir(a, &x).await;
            if let Ok(made) = &made {
                dirs.borrow_mut().push(made.inode);
            }
            made.map(drop)
        }
        3 => match w.look(a, &x).await {
            Ok(found) => w.link(found.inode, b, &y).await.map(drop),
            Err(e) => Err(e),
        },
        4 => w.unlink(a, &x).await.map(drop),
        5 => w.rmdir(a, &x).await.map(drop),
        _ => w.rename((a, &x), (b, &y), mode).await.map(drop),
    };
    if let Err(e @ (MetaError::Damaged(_) | MetaError::Unavailable(_))) = result {
        panic!("{e}");
    }
}

fn new_file(inode: u64) -> NewInode {
    let stripes = Stripes::List { chains: vec![ChainId(1)] };
    let layout = Some(Layout { chunk_size: 4096, stripes });
    NewInode { inode: InodeId(inode), kind: FileType::File, layout, target: Vec::new() }
}

/// Goal: creates in one directory do not make each other retry. Method: all read before the first
/// commits; then all commit.
#[test]
fn creates_in_one_directory_do_not_conflict() {
    in_world(async |w| {
        w.file(ROOT, "first").await.unwrap();
        let mut open = Vec::new();
        for n in 0..50 {
            let mut txn = Txn::new(&w.cx, w.kv);
            let entry = w.entry(ROOT, &format!("{n}"));
            create::create(&mut txn, &entry, &new_file(0x1800 + n), None, 1).await.unwrap();
            open.push(txn);
        }
        for txn in open {
            txn.commit(Durability::Soon).await.unwrap();
        }
        w.check().await;
    });
}

/// Goal: what excludes each other conflicts. Method: pairs of operations read, then both commit;
/// the second is refused.
#[test]
fn operations_that_exclude_each_other_conflict() {
    in_world(async |w| {
        let d = w.dir(ROOT, "d").await.unwrap().inode;
        let (entry, other) = (w.entry(d, "f"), w.entry(d, "f"));
        let remove = RemoveDir { parent: ROOT, name: b"d".to_vec(), op: w.op() };

        // Two of one name.
        let (mut one, mut two) = (Txn::new(&w.cx, w.kv), Txn::new(&w.cx, w.kv));
        create::create(&mut one, &entry, &new_file(0x1801), None, 1).await.unwrap();
        create::create(&mut two, &other, &new_file(0x1802), None, 1).await.unwrap();
        // A directory that goes away under a create.
        let mut rmdir = Txn::new(&w.cx, w.kv);
        remove::remove_dir(&mut rmdir, &remove, 1).await.unwrap();
        one.commit(Durability::Soon).await.unwrap();
        assert_eq!(two.commit(Durability::Soon).await, Err(KvError::Conflict));
        assert_eq!(rmdir.commit(Durability::Soon).await, Err(KvError::Conflict));

        // Two moves that would make a loop together.
        let e = w.dir(ROOT, "e").await.unwrap().inode;
        let into = |name: &str, new_parent, op| Rename {
            parent: ROOT,
            name: name.into(),
            new_parent,
            new_name: b"x".to_vec(),
            mode: RenameMode::Replace,
            hold: None,
            op,
        };
        let (mut one, mut two) = (Txn::new(&w.cx, w.kv), Txn::new(&w.cx, w.kv));
        rename::rename(&mut one, &into("d", e, w.op()), 1).await.unwrap();
        rename::rename(&mut two, &into("e", d, w.op()), 1).await.unwrap();
        one.commit(Durability::Soon).await.unwrap();
        assert_eq!(two.commit(Durability::Soon).await, Err(KvError::Conflict));
        w.check().await;
    });
}
