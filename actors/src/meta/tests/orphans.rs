//! Content without an inode.

use core::time::Duration;

use super::*;

impl World {
    /// Chunks of these files are on the first chain.
    fn store(&self, inodes: &[u64]) {
        let mut stored = self.beside.stored.borrow_mut();
        stored.extend(inodes.iter().map(|inode| ((1, InodeId(*inode)), (0, 9))));
    }

    fn listed(&self) -> Vec<u64> {
        self.beside.stored.borrow().keys().map(|(_, inode)| inode.0).collect()
    }
}

/// Goal: exactly the content goes that belongs to no file and was some file's once. Method: chunks
/// of files that are there, of numbers that were reserved and never used, and of numbers that this
/// store did not give; several pages of them.
#[test]
fn content_without_an_inode_is_removed() {
    in_world(async |w| {
        let file = w.file(ROOT, "f").await.unwrap().inode.0;
        let foreign = [5, 0x1000 + 4096, 1 << 40];
        w.store(&[file]);
        w.store(&foreign);
        w.store(&(0x1100..0x1100 + 2000).collect::<Vec<_>>());
        w.ask(CollectGarbage).await.unwrap();
        for _ in 0..200 {
            w.cx.sleep(Duration::from_millis(20)).await;
            if w.listed().len() == 4 {
                break;
            }
        }
        let mut left = vec![file];
        left.extend(foreign);
        left.sort_unstable();
        assert_eq!(w.listed(), left);
        w.check().await;
    });
}

/// Goal: what is a suspect once only is left alone, as a file is whose removal was under way at the
/// first look. Method: the content is gone before the second look, and nobody is asked to remove
/// it.
#[test]
fn a_suspect_is_looked_at_twice() {
    in_world(async |w| {
        w.file(ROOT, "f").await.unwrap();
        w.store(&[0x1100]);
        w.ask(CollectGarbage).await.unwrap();
        w.cx.sleep(Duration::from_millis(10)).await;
        w.beside.stored.borrow_mut().clear();
        w.cx.sleep(Duration::from_millis(100)).await;
        assert_eq!(w.beside.removals(), 0);
    });
}
