//! From FUSE threads to shards: which shard serves an inode, and how a request gets there.
//!
//! All operations on an inode run on one shard, [`Hub::shard_of`], because the client there keeps
//! its opens, write buffer and length. Operations on names run on the parent's shard, except where
//! they may end a file's last name (`names`), or change what is known of an open one.

use std::cell::RefCell;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dashmap::DashMap;
use futures::channel::oneshot;
use futures::future::select;
use t3fs_actors::client::{Attr, Client, FsError};
use t3fs_actors::proto::ids::InodeId;
use t3fs_runtime::glommio::Remote;
use t3fs_runtime::{Caller, Cx, NodeId};

use super::admit::{Admission, Permit};
use super::attr::{self, Atime, BLOCK_BYTES};
use super::kernel::{FileAttr, FopenFlags, INodeNo, Notifier, Ttl};
use super::options;

/// How long an answer waits for the kernel to forget pages.
const FORGET_MAX: Duration = Duration::from_secs(1);
/// How much longer a request may take than what it asks of the cluster: what has waited for as long
/// as it may is to tell its caller why.
const TELL_MAX: Duration = Duration::from_secs(10);

/// How long attributes wait for a chain that says how much a file takes.
const STORED_MAX: Duration = Duration::from_secs(1);

thread_local! {
    /// The client of this shard; `None` before it started and after it stopped.
    static CLIENT: RefCell<Option<Client>> = const { RefCell::new(None) };
}

/// Tells this shard which client answers requests.
pub fn set_client(client: Option<Client>) {
    CLIENT.with(|c| *c.borrow_mut() = client);
}

/// The client of this shard.
pub fn client() -> Option<Client> {
    CLIENT.with(|c| c.borrow().clone())
}

/// How often a file is open for writing.
#[derive(Default)]
struct Writers {
    all: u32,
    appending: u32,
}

/// Shared by the FUSE threads and the shards.
pub struct Hub {
    /// This process.
    pub node: NodeId,
    remotes: Vec<Remote>,
    /// Inodes that are open for writing, and how often: only their shard knows their length.
    writers: DashMap<u64, Writers>,
    admission: Arc<Admission>,
    /// Tells the kernel what is no longer so, once there is a session.
    notifier: OnceLock<Notifier>,
    /// When reading moves times of access.
    pub atime: Atime,
}

/// What a request has to work with on its shard.
pub struct Here {
    pub hub: Arc<Hub>,
    pub client: Client,
    pub cx: Cx,
    _permit: Option<Permit>,
}

impl Hub {
    pub fn new(
        node: NodeId,
        remotes: Vec<Remote>,
        bytes_in_flight_max: usize,
        atime: Atime,
    ) -> Arc<Hub> {
        let admission = Admission::new(bytes_in_flight_max);
        Arc::new(Hub {
            node,
            remotes,
            writers: DashMap::new(),
            admission,
            atime,
            notifier: OnceLock::new(),
        })
    }

    /// From now on the kernel hears of what others do.
    pub fn notify_through(&self, notifier: Notifier) {
        // There is one session; a second one would be told nothing.
        let _ = self.notifier.set(notifier);
    }

    pub fn shards(&self) -> usize {
        self.remotes.len()
    }

    /// The shard that serves an inode.
    pub fn shard_of(&self, inode: InodeId) -> usize {
        (inode.0 % self.remotes.len() as u64) as usize
    }

    /// From a FUSE thread: runs a request on the inode's shard. If the shard has no client any more
    /// the request is dropped, and with it its reply, which says EIO.
    pub fn run<F>(self: &Arc<Self>, caller: Arc<Caller>, inode: InodeId, request: F)
    where
        F: AsyncFnOnce(Here) + Send + 'static,
    {
        let shard = self.shard_of(inode);
        self.admission.run(|permit| self.pass(shard, Some(caller), Some(permit), request));
    }

    /// As [`Hub::run`], for a request with so many bytes to write. With too much of that under way
    /// it starts later, if `wanted` still says so, and this thread goes on.
    pub fn run_write<F>(
        self: &Arc<Self>,
        caller: Arc<Caller>,
        inode: InodeId,
        bytes: usize,
        wanted: impl Fn() -> bool + Send + 'static,
        request: F,
    ) where
        F: AsyncFnOnce(Here) + Send + 'static,
    {
        let (hub, shard) = (Arc::clone(self), self.shard_of(inode));
        let start = move |permit| hub.pass(shard, Some(caller), Some(permit), request);
        self.admission.run_write(bytes, wanted, start);
    }

    fn pass<F>(
        self: &Arc<Self>,
        shard: usize,
        caller: Option<Arc<Caller>>,
        permit: Option<Permit>,
        request: F,
    ) where
        F: AsyncFnOnce(Here) + Send + 'static,
    {
        let hub = Arc::clone(self);
        self.remotes[shard].run(Box::new(move |shard| {
            let Some(client) = client() else { return };
            let cx = match client.io_timeout() {
                Some(timeout) => shard.cx().within(timeout + TELL_MAX),
                None => shard.cx(),
            };
            let cx = caller.map_or(cx.clone(), |caller| cx.of(caller));
            let here = Here { hub, client, cx: cx.clone(), _permit: permit };
            cx.spawn(async move { request(here).await });
        }));
    }

    /// The inode is open for writing once more, with these flags.
    pub fn begin_writing(&self, inode: InodeId, flags: i32) {
        let mut writers = self.writers.entry(inode.0).or_default();
        writers.all += 1;
        writers.appending += u32::from(flags & libc::O_APPEND != 0);
    }

    pub fn end_writing(&self, inode: InodeId, flags: i32) {
        if let dashmap::Entry::Occupied(mut e) = self.writers.entry(inode.0) {
            let writers = e.get_mut();
            writers.all -= 1;
            writers.appending -= u32::from(flags & libc::O_APPEND != 0);
            if writers.all == 0 {
                e.remove();
            }
        }
    }

    fn is_appended(&self, inode: InodeId) -> bool {
        self.writers.get(&inode.0).is_some_and(|writers| writers.appending > 0)
    }

    pub fn is_written(&self, inode: InodeId) -> bool {
        self.writers.contains_key(&inode.0)
    }
}

impl Here {
    /// How long the kernel may remember what it is told.
    pub fn ttl(&self) -> Ttl {
        Ttl::from(&self.client.cache_time(self.cx.now()))
    }

    /// Attributes for the kernel, with what a sparse file really takes. If storage does not say it
    /// now, its length counts.
    pub async fn told(&self, a: &Attr) -> FileAttr {
        let mut told = attr::to_kernel(a);
        if a.sparse
            && let Ok(stored) = self.client.stored(&self.cx.within(STORED_MAX), a).await
        {
            told.blocks = stored.min(a.length).div_ceil(BLOCK_BYTES);
        }
        told
    }

    /// How the kernel caches a file that is opened with these flags. Appends move its idea of the
    /// length from where that was, and it fills pages before it with zeros: after another mount has
    /// cut a file that programs here append to, it would read zeros behind the end.
    pub fn caching(&self, inode: InodeId, flags: i32) -> FopenFlags {
        let reads = flags & libc::O_ACCMODE == libc::O_RDONLY;
        let beside = reads && self.client.is_shared() && self.hub.is_appended(inode);
        let direct = if beside { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() };
        options::of_open(flags) | direct
    }

    /// Has the kernel forget a file's pages if somebody else has cut the file, before the answer
    /// that told of it.
    pub async fn forget_if_cut(&self, inode: InodeId) {
        if !self.client.was_cut_elsewhere(inode) {
            return;
        }
        let Some(notifier) = self.hub.notifier.get() else { return };
        let (done, wait) = oneshot::channel();
        let told = notifier.inval_content(INodeNo(inode.0), move || {
            let _ = done.send(()); // who asked may have waited long enough
        });
        if told.is_ok() {
            // A page that is being read from a silent chain is locked, and must not hold this up.
            let _ = select(wait, pin!(self.cx.sleep(FORGET_MAX))).await;
        }
    }

    /// From a shard: does something on the shard of an inode, which may be this one.
    pub async fn at<T, F>(&self, inode: InodeId, what: F) -> Result<T, FsError>
    where
        T: Send + 'static,
        F: AsyncFnOnce(&Here) -> Result<T, FsError> + Send + 'static,
    {
        self.at_shard(self.hub.shard_of(inode), what).await
    }

    /// The same on a shard by its number.
    pub async fn at_shard<T, F>(&self, shard: usize, what: F) -> Result<T, FsError>
    where
        T: Send + 'static,
        F: AsyncFnOnce(&Here) -> Result<T, FsError> + Send + 'static,
    {
        if shard == usize::from(self.cx.shard_index()) {
            return what(self).await;
        }
        let (answer, wait) = oneshot::channel();
        let caller = self.cx.caller().cloned();
        self.hub.pass(shard, caller, None, async move |there: Here| {
            // The asker is gone only when its shard has stopped.
            let _ = answer.send(what(&there).await);
        });
        wait.await.unwrap_or_else(|_| Err(FsError::Unavailable("the file system is ending".into())))
    }

    /// Attributes that came with a name, with the length as its writers here have made it.
    pub async fn fresh(&self, attr: Attr) -> Result<Attr, FsError> {
        let inode = attr.inode;
        let here = self.hub.shard_of(inode) == usize::from(self.cx.shard_index());
        if here || !self.hub.is_written(inode) {
            return Ok(attr); // this shard's client has laid its own writes over it
        }
        self.at(inode, async move |there: &Here| there.client.getattr(&there.cx, inode).await).await
    }
}
