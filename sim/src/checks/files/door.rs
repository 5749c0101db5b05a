//! The one place of this check that names the client's methods: what a program can do with files,
//! as the check needs it. Names are remembered as a kernel does it (`dentries`), and every request
//! has the deadline that the run has drawn.

use core::time::Duration;
use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use t3fs_actors::client::{
    At, Client, ClientConfig, ClusterSession, DirEntry, FsError, HandleId, Owner, RenameMode,
    SetAttrs, Written,
};
use t3fs_actors::proto::ids::{ChainId, InodeId};
use t3fs_actors::proto::meta::Attr;
use t3fs_runtime::{Addr, Cx, NodeId, RawAddr};

use super::dentries::{Dentries, Key};
use crate::oracles::files::{Failure, Move};

const OWNER: Owner = Owner { uid: 1, gid: 1, mode: 0o644 };

pub(super) fn first_actor<A>(node: NodeId) -> Addr<A> {
    Addr::from_raw(RawAddr { node, shard: 0, slot: 0, epoch: RawAddr::ANY_EPOCH })
}

/// How a client is to be.
#[derive(Clone, Copy, Default)]
pub(super) struct Mount {
    /// Dirty bytes that it may hold.
    pub(super) buffer: usize,
    /// How long requests are tried, also in the background.
    pub(super) patience: Option<Duration>,
    /// How long a request that a program waits for may take.
    pub(super) deadline: Option<Duration>,
}

/// A running client, with what the kernel remembers.
#[derive(Clone)]
pub(super) struct Door {
    client: Client,
    names: Rc<RefCell<Dentries>>,
    deadline: Option<Duration>,
}

/// An open file.
#[derive(Clone, Copy)]
pub(super) struct Handle {
    pub(super) file: InodeId,
    id: HandleId,
}

impl Door {
    /// Waits for the cluster, however long that takes.
    pub(super) async fn open(cx: &Cx, mount: Mount) -> Door {
        let config = ClientConfig {
            write_buffer_bytes: mount.buffer,
            ..ClientConfig::new(first_actor(cx.node()), "sim")
        };
        loop {
            // The storm may outlast one attempt's patience.
            if let Ok(client) = Client::start(cx, config.clone()).await {
                if mount.patience.is_some() {
                    client.cluster().set_patience(mount.patience);
                }
                return Door { client, names: Rc::default(), deadline: mount.deadline };
            }
            cx.sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn cluster(&self) -> &ClusterSession {
        self.client.cluster()
    }

    /// Ends the session.
    pub(super) async fn stop(&self, cx: &Cx) -> Result<(), FsError> {
        self.client.stop(cx).await
    }

    fn limit(&self, cx: &Cx) -> Cx {
        self.deadline.map_or_else(|| cx.clone(), |d| cx.within(d))
    }

    /// Makes a directory that outlasts whatever comes.
    pub(super) async fn mkdir(&self, cx: &Cx, dir: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        let made = self.client.mkdir(cx, dir, name, Owner { mode: 0o755, ..OWNER }).await?;
        self.client.sync_all(cx).await?;
        Ok(made)
    }

    /// Makes a file and opens it.
    pub(super) async fn create(
        &self,
        cx: &Cx,
        dir: InodeId,
        name: &[u8],
    ) -> Result<(Attr, Handle), FsError> {
        let key = (dir, name.to_vec());
        self.lock(&self.limit(cx), &key).await?;
        if self.names.borrow().find(cx.now(), dir, name).is_some() {
            self.names.borrow_mut().leave(&key);
            return Err(FsError::Exists);
        }
        self.names.borrow_mut().begin();
        let made = self.client.create(&self.limit(cx), dir, name, OWNER).await;
        let mut names = self.names.borrow_mut();
        names.leave(&key);
        match made {
            Ok((attr, id)) => {
                names.made(key, attr.inode, cx.now() + self.client.cache_time(cx));
                let file = attr.inode;
                Ok((attr, Handle { file, id }))
            }
            Err(e) => {
                names.end();
                Err(e)
            }
        }
    }

    /// Takes a name as a kernel locks its directory. Who waits for one gives up in time, too: that
    /// those before it do so adds up.
    async fn lock(&self, cx: &Cx, key: &Key) -> Result<(), FsError> {
        let ticket = self.names.borrow_mut().join(key);
        while !self.names.borrow().is_first(key, ticket) {
            if cx.expired() {
                self.names.borrow_mut().give_up(key, ticket);
                return Err(FsError::Unavailable("others make or open this name".into()));
            }
            cx.sleep(Duration::from_micros(100)).await;
        }
        Ok(())
    }

    /// Waits while a name is being made.
    async fn made(&self, cx: &Cx, dir: InodeId, name: &[u8]) -> Result<(), FsError> {
        let key = (dir, name.to_vec());
        self.lock(cx, &key).await?;
        self.names.borrow_mut().leave(&key);
        Ok(())
    }

    /// What a name holds: as it is remembered, or asked. `fresh`: asked.
    async fn find(
        &self,
        cx: &Cx,
        dir: InodeId,
        name: &[u8],
        fresh: bool,
    ) -> Result<(InodeId, Option<Attr>), FsError> {
        self.made(cx, dir, name).await?;
        let known = self.names.borrow().find(cx.now(), dir, name).filter(|_| !fresh);
        if let Some(inode) = known {
            return Ok((inode, None));
        }
        let began = self.names.borrow().look();
        let found = self.client.lookup(cx, dir, name).await;
        let (mut names, key) = (self.names.borrow_mut(), (dir, name.to_vec()));
        match found {
            Ok(attr) => {
                names.looked(began, key, attr.inode, cx.now() + self.client.cache_time(cx));
                Ok((attr.inode, Some(attr)))
            }
            Err(e) => {
                names.forget(&key);
                Err(e)
            }
        }
    }

    /// Opens what a name holds. A name that went stale in between is looked up once more, as the
    /// kernel does.
    pub(super) async fn open_name(
        &self,
        cx: &Cx,
        dir: InodeId,
        name: &[u8],
        write: bool,
    ) -> Result<(Attr, Handle), FsError> {
        let cx = &self.limit(cx);
        for fresh in [false, true] {
            let (file, _) = self.find(cx, dir, name, fresh).await?;
            match self.client.open(cx, file, write).await {
                Ok((attr, id)) => return Ok((attr, Handle { file, id })),
                Err(FsError::Stale) => {}
                Err(e) => return Err(e),
            }
        }
        Err(FsError::Stale)
    }

    /// stat(2) by name.
    pub(super) async fn lookup(&self, cx: &Cx, dir: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        let cx = &self.limit(cx);
        if let (file, None) = self.find(cx, dir, name, false).await? {
            match self.client.getattr(cx, file).await {
                Err(FsError::Stale) => {}
                other => return other,
            }
        }
        self.find(cx, dir, name, true).await?.1.ok_or(FsError::NotFound)
    }

    pub(super) async fn write(
        &self,
        cx: &Cx,
        h: Handle,
        at: u64,
        data: Bytes,
    ) -> Result<(), FsError> {
        self.client.write(&self.limit(cx), h.file, At::Offset(at), data, false).await.map(drop)
    }

    /// Writes at the end; gives where that was, and how much found room.
    pub(super) async fn append(&self, cx: &Cx, h: Handle, data: Bytes) -> Result<Written, FsError> {
        self.client.write(&self.limit(cx), h.file, At::End, data, false).await
    }

    pub(super) async fn read(
        &self,
        cx: &Cx,
        h: Handle,
        from: u64,
        len: u32,
    ) -> Result<Bytes, FsError> {
        self.client.read(&self.limit(cx), h.file, from, len).await
    }

    /// What close(2) does before the descriptor goes; also for dup and close.
    pub(super) async fn flush(&self, cx: &Cx, h: Handle) -> Result<(), FsError> {
        self.client.flush(&self.limit(cx), h.file, h.id).await
    }

    pub(super) async fn fsync(&self, cx: &Cx, h: Handle, data_only: bool) -> Result<(), FsError> {
        self.client.fsync(&self.limit(cx), h.file, Some(h.id), data_only).await
    }

    /// The answer is that of the flush: nobody hears of a release.
    pub(super) async fn close(&self, cx: &Cx, h: Handle) -> Result<(), FsError> {
        let flushed = self.flush(cx, h).await;
        let _ = self.client.release(&self.limit(cx), h.file, h.id).await;
        flushed
    }

    pub(super) async fn truncate(&self, cx: &Cx, file: InodeId, len: u64) -> Result<(), FsError> {
        let length = SetAttrs { length: Some(len), ..SetAttrs::default() };
        self.client.setattr(&self.limit(cx), file, length).await.map(drop)
    }

    pub(super) async fn stat(&self, cx: &Cx, file: InodeId) -> Result<Attr, FsError> {
        self.client.getattr(&self.limit(cx), file).await
    }

    pub(super) async fn unlink(&self, cx: &Cx, dir: InodeId, name: &[u8]) -> Result<(), FsError> {
        self.made(&self.limit(cx), dir, name).await?;
        self.names.borrow_mut().begin();
        let done = self.client.unlink(&self.limit(cx), dir, name, None).await.map(drop);
        let mut names = self.names.borrow_mut();
        names.end();
        if matches!(done, Ok(()) | Err(FsError::NotFound)) {
            names.forget(&(dir, name.to_vec()));
        }
        done
    }

    pub(super) async fn rename(
        &self,
        cx: &Cx,
        from: (InodeId, &[u8]),
        to: (InodeId, &[u8]),
        how: Move,
    ) -> Result<(), FsError> {
        let mode = match how {
            Move::Replace => RenameMode::Replace,
            Move::NoReplace => RenameMode::NoReplace,
            Move::Exchange => RenameMode::Exchange,
        };
        let first = self.limit(cx);
        self.made(&first, from.0, from.1).await?;
        self.made(&first, to.0, to.1).await?;
        self.names.borrow_mut().begin();
        let done = self.client.rename(&self.limit(cx), from, to, mode, None).await;
        let mut names = self.names.borrow_mut();
        let (from, to) = ((from.0, from.1.to_vec()), (to.0, to.1.to_vec()));
        match &done {
            Ok(()) => names.moved(from, to, how == Move::Exchange),
            Err(e) => {
                names.end();
                if *e == FsError::NotFound {
                    names.forget(&from);
                    names.forget(&to);
                }
            }
        }
        done
    }

    pub(super) async fn list(&self, cx: &Cx, dir: InodeId) -> Result<Vec<DirEntry>, FsError> {
        Ok(self.client.readdir(&self.limit(cx), dir, b"", 10_000).await?.entries)
    }

    /// The chain of one of a file's chunks.
    pub(super) fn chain(&self, attr: &Attr, chunk: u32) -> Option<ChainId> {
        self.client.cluster().chain_of(attr.layout.as_ref()?, chunk).ok()
    }
}

/// An error in the words of the judge.
pub(super) fn failure(e: FsError) -> Failure {
    match e {
        FsError::NotFound => Failure::NotFound,
        FsError::Exists => Failure::Exists,
        FsError::Stale => Failure::Stale,
        FsError::NoSpace => Failure::NoSpace,
        FsError::Lost => Failure::Lost,
        FsError::Unavailable(text) => Failure::Unavailable { text },
        FsError::Io(text) => Failure::Damaged { text },
        other => Failure::Other { text: other.to_string() },
    }
}
