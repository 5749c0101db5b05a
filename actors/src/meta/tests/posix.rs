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
