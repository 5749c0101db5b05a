//! What the kernel is told of a file, beside its answer: attributes, how long it may remember them,
//! how it caches, and that it is to forget.

use std::time::Duration;

use t3fs_actors::client::Attr;
use t3fs_actors::proto::ids::InodeId;

use super::attr::{self, BLOCK_BYTES};
use super::kernel::{FileAttr, FopenFlags, INodeNo, Notifier, Ttl};
use super::options;
use crate::door::{ForgetPages, Here};

/// How long attributes wait for a chain that says how much a file takes.
const STORED_MAX: Duration = Duration::from_secs(1);

/// How long the kernel may remember what it is told.
pub fn ttl(here: &Here) -> Ttl {
    Ttl::from(&here.client.cache_time(&here.cx))
}

/// Attributes for the kernel, with what a sparse file really takes. If storage does not say it now,
/// its length counts.
pub async fn attributes(here: &Here, a: &Attr) -> FileAttr {
    let mut told = attr::to_kernel(a);
    if a.sparse
        && let Ok(stored) = here.client.stored(&here.cx.within(STORED_MAX), a).await
    {
        told.blocks = stored.min(a.length).div_ceil(BLOCK_BYTES);
    }
    told
}

/// How the kernel caches a file that is opened with these flags. Appends move its idea of the
/// length from where that was, and it fills pages before it with zeros: after another mount has cut
/// a file that programs here append to, it would read zeros behind the end.
pub fn caching(here: &Here, inode: InodeId, flags: i32) -> FopenFlags {
    let reads = flags & libc::O_ACCMODE == libc::O_RDONLY;
    let beside = reads && here.client.is_shared() && here.door.is_appended(inode);
    let direct = if beside { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() };
    options::of_open(flags) | direct
}

/// Has the kernel forget pages through a session's notifier.
pub fn forget_pages(notifier: Notifier) -> ForgetPages {
    Box::new(move |inode, done| {
        let done = move || _ = done.send(()); // who asked may have waited long enough
        notifier.inval_content(INodeNo(inode.0), done).is_ok()
    })
}
