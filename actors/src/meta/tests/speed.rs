//! What one core does, messages included. Run with `--ignored --nocapture`.

use super::*;

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
