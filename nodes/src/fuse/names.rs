//! Names: lookup, everything that makes an entry, everything that takes one away.
//!
//! What may take a file's last name runs where the file lives: its content must stay while it is
//! open there. The kernel holds the parents' locks, so through this mount no name changes its inode
//! between the look and the operation.

use t3fs_actors::client::{Attr, FileType, FsError, HandleId, Owner, RenameMode};
use t3fs_actors::proto::ids::InodeId;

use super::kernel::RenameFlags;
use super::open_flags::writes;
use crate::door::Here;

pub async fn lookup(here: &Here, parent: InodeId, name: &[u8]) -> Result<Attr, FsError> {
    let attr = here.client.lookup(&here.cx, parent, name).await?;
    here.fresh(attr).await
}

/// A file that is open for writing from the start. It is made by the parent's shard and used by its
/// own, whichever session meta holds it for.
pub async fn create(
    here: &Here,
    parent: InodeId,
    name: &[u8],
    owner: Owner,
    flags: i32,
) -> Result<(Attr, HandleId), FsError> {
    let kind = FileType::File;
    let (attr, session) = here.client.make(&here.cx, parent, name, owner, kind, true).await?;
    let inode = attr.inode;
    if writes(flags) {
        here.door.begin_writing(inode, flags);
    }
    here.at(inode, async move |there: &Here| Ok(there.client.adopt(&there.cx, attr, session))).await
}

pub async fn mknod(
    here: &Here,
    parent: InodeId,
    name: &[u8],
    owner: Owner,
    kind: FileType,
) -> Result<Attr, FsError> {
    Ok(here.client.make(&here.cx, parent, name, owner, kind, false).await?.0)
}

pub async fn unlink(here: &Here, parent: InodeId, name: Vec<u8>) -> Result<(), FsError> {
    let known = shard_inode(here, parent, &name).await?;
    let unlink =
        async move |there: &Here| there.client.unlink(&there.cx, parent, &name, known).await;
    here.at(known.unwrap_or(parent), unlink).await.map(drop)
}

/// The inode behind a name, if where it lives can make a difference.
async fn shard_inode(
    here: &Here,
    parent: InodeId,
    name: &[u8],
) -> Result<Option<InodeId>, FsError> {
    if here.door.shards() == 1 {
        return Ok(None);
    }
    match here.client.lookup(&here.cx, parent, name).await {
        Ok(attr) => Ok(Some(attr.inode)),
        Err(FsError::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

pub async fn rename(
    here: &Here,
    from: (InodeId, Vec<u8>),
    to: (InodeId, Vec<u8>),
    mode: RenameMode,
) -> Result<(), FsError> {
    let replaced = match mode {
        RenameMode::Replace => shard_inode(here, to.0, &to.1).await?,
        RenameMode::NoReplace | RenameMode::Exchange => None,
    };
    here.at(replaced.unwrap_or(to.0), async move |there: &Here| {
        let (from, to) = ((from.0, &from.1[..]), (to.0, &to.1[..]));
        there.client.rename(&there.cx, from, to, mode, replaced).await
    })
    .await
}

/// The kinds of rename that there are; others are refused.
pub fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    if flags.is_empty() {
        Some(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Some(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Some(RenameMode::Exchange)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rename_flags_do_not_mix() {
        assert_eq!(rename_mode(RenameFlags::empty()), Some(RenameMode::Replace));
        assert_eq!(rename_mode(RenameFlags::RENAME_NOREPLACE), Some(RenameMode::NoReplace));
        assert_eq!(rename_mode(RenameFlags::RENAME_EXCHANGE), Some(RenameMode::Exchange));
        assert_eq!(rename_mode(RenameFlags::RENAME_WHITEOUT), None);
        assert_eq!(rename_mode(RenameFlags::from_bits(7)), None);
    }
}
