//! The door of requests: how what programs ask for gets to the shard that serves it. FUSE is one
//! user of it; it knows nothing of the kernel's protocol.
//!
//! A thread that takes requests hands each to [`Door::run`] or [`Door::run_write`] with its
//! [`Caller`] and takes the next. What is done for it is a future on the inode's shard, which
//! answers by itself: the door keeps no table of answers. How many there may be at a time, and what
//! happens beyond that, says [`admit`].
//!
//! All operations on an inode run on one shard, [`Door::shard_of`], because the client there keeps
//! its opens, write buffer and length. Operations on names run on the parent's shard, except where
//! they may end a file's last name (`fuse/names.rs`), or change what is known of an open one.

mod admit;
pub mod atime;

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

pub use admit::held_bytes_max;
use admit::{Admission, Permit};
use atime::Atime;

/// How long an answer waits for the kernel to forget pages.
const FORGET_MAX: Duration = Duration::from_secs(1);
/// How much longer a request may take than what it asks of the cluster: what has waited for as long
/// as it may is to tell its caller why.
const TELL_MAX: Duration = Duration::from_secs(10);
const _: () = assert!(TELL_MAX.as_millis() > FORGET_MAX.as_millis());

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

/// Has the kernel forget all pages of a file, and says so when it has. `false`: it will not.
pub type ForgetPages = Box<dyn Fn(InodeId, oneshot::Sender<()>) -> bool + Send + Sync>;

/// Shared by the threads that take requests and the shards.
pub struct Door {
    node: NodeId,
    remotes: Vec<Remote>,
    /// Inodes that are open for writing, and how often: only their shard knows their length.
    writers: DashMap<u64, Writers>,
    admission: Arc<Admission>,
    /// Once somebody keeps pages of files.
    forget_pages: OnceLock<ForgetPages>,
    /// When reading moves times of access.
    pub atime: Atime,
}

/// What a request has to work with on its shard.
pub struct Here {
    pub door: Arc<Door>,
    pub client: Client,
    pub cx: Cx,
    _permit: Option<Permit>,
}

impl Door {
    pub fn new(
        node: NodeId,
        remotes: Vec<Remote>,
        bytes_in_flight_max: usize,
        atime: Atime,
    ) -> Arc<Door> {
        Arc::new(Door {
            node,
            remotes,
            writers: DashMap::new(),
            admission: Admission::new(bytes_in_flight_max),
            forget_pages: OnceLock::new(),
            atime,
        })
    }

    /// From now on the kernel hears of what others do.
    pub fn forget_pages_through(&self, forget: ForgetPages) {
        // There is one mount; a second one would be told nothing.
        let _ = self.forget_pages.set(forget);
    }

    pub fn shards(&self) -> usize {
        self.remotes.len()
    }

    /// The shard that serves an inode.
    pub fn shard_of(&self, inode: InodeId) -> usize {
        (inode.0 % self.remotes.len() as u64) as usize
    }

    /// A program of this user and group.
    pub fn caller(&self, user: u32, group: u32) -> Arc<Caller> {
        Arc::new(Caller { node: self.node, user, group, ..Caller::default() })
    }

    /// From a thread that takes requests: runs one on the inode's shard. If the shard has no client
    /// any more the request is dropped, and with it what was to answer it, whose drop says EIO.
    pub fn run<F>(self: &Arc<Self>, caller: Arc<Caller>, inode: InodeId, request: F)
    where
        F: AsyncFnOnce(Here) + Send + 'static,
    {
        let shard = self.shard_of(inode);
        self.admission.run(|permit| self.pass(shard, caller, Some(permit), request));
    }

    /// As [`Door::run`], for a request with so many bytes to write. With too much of that under way
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
        let (door, shard) = (Arc::clone(self), self.shard_of(inode));
        let start = move |permit| door.pass(shard, caller, Some(permit), request);
        self.admission.run_write(bytes, wanted, start);
    }

    fn pass<F>(
        self: &Arc<Self>,
        shard: usize,
        caller: Arc<Caller>,
        permit: Option<Permit>,
        request: F,
    ) where
        F: AsyncFnOnce(Here) + Send + 'static,
    {
        let door = Arc::clone(self);
        self.remotes[shard].run(Box::new(move |shard| {
            let Some(client) = client() else { return };
            let cx = match client.io_timeout() {
                Some(timeout) => shard.cx().within(timeout + TELL_MAX),
                None => shard.cx(),
            };
            let cx = cx.of(caller);
            let here = Here { door, client, cx: cx.clone(), _permit: permit };
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

    /// Whether somebody here has it open to append.
    pub fn is_appended(&self, inode: InodeId) -> bool {
        self.writers.get(&inode.0).is_some_and(|writers| writers.appending > 0)
    }

    /// Whether somebody here has it open for writing.
    pub fn is_written(&self, inode: InodeId) -> bool {
        self.writers.contains_key(&inode.0)
    }
}

impl Here {
    /// Has the kernel forget a file's pages if somebody else has cut the file, before the answer
    /// that told of it.
    pub async fn forget_if_cut(&self, inode: InodeId) {
        if !self.client.was_cut_elsewhere(inode) {
            return;
        }
        let Some(forget) = self.door.forget_pages.get() else { return };
        let (done, wait) = oneshot::channel();
        if forget(inode, done) {
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
        self.at_shard(self.door.shard_of(inode), what).await
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
        let caller = Arc::clone(self.cx.caller().expect("given by `pass`"));
        self.door.pass(shard, caller, None, async move |there: Here| {
            // The asker is gone only when its shard has stopped.
            let _ = answer.send(what(&there).await);
        });
        wait.await.unwrap_or_else(|_| Err(FsError::Unavailable("the file system is ending".into())))
    }

    /// Attributes that came with a name, with the length as its writers here have made it.
    pub async fn fresh(&self, attr: Attr) -> Result<Attr, FsError> {
        let inode = attr.inode;
        let here = self.door.shard_of(inode) == usize::from(self.cx.shard_index());
        if here || !self.door.is_written(inode) {
            return Ok(attr); // this shard's client has laid its own writes over it
        }
        self.at(inode, async move |there: &Here| there.client.getattr(&there.cx, inode).await).await
    }
}
