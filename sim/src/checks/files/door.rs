//! The one place of this check that names the client's methods: what a program can do with files,
//! as the check needs it.

use core::time::Duration;

use bytes::Bytes;
use t3fs_actors::client::{
    At, Client, ClientConfig, DirEntry, FsError, HandleId, Owner, RenameMode, SetAttrs,
};
use t3fs_actors::planted::PlantedBug;
use t3fs_actors::proto::ids::InodeId;
use t3fs_actors::proto::meta::Attr;
use t3fs_runtime::{Addr, Cx, NodeId, RawAddr};

use crate::oracles::files::{Failure, Move};

const OWNER: Owner = Owner { uid: 1, gid: 1, mode: 0o644 };

pub(super) fn first_actor<A>(node: NodeId) -> Addr<A> {
    Addr::from_raw(RawAddr { node, shard: 0, slot: 0, epoch: RawAddr::ANY_EPOCH })
}

/// A running client.
#[derive(Clone)]
pub(super) struct Door(Client);

/// An open file.
#[derive(Clone, Copy)]
pub(super) struct Handle {
    pub(super) file: InodeId,
    id: HandleId,
}

impl Door {
    /// Waits for the cluster, however long that takes. `patience`: how long requests are tried.
    pub(super) async fn open(
        cx: &Cx,
        buffer: usize,
        patience: Option<Duration>,
        planted_bug: Option<PlantedBug>,
    ) -> Door {
        let config = ClientConfig {
            write_buffer_bytes: buffer,
            planted_bug,
            ..ClientConfig::new(first_actor(cx.node()), "sim")
        };
        loop {
            // The storm may outlast one attempt's patience.
            if let Ok(client) = Client::start(cx, config.clone()).await {
                if patience.is_some() {
                    client.cluster().set_patience(patience);
                }
                return Door(client);
            }
            cx.sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes a directory that outlasts whatever comes.
    pub(super) async fn mkdir(&self, cx: &Cx, dir: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        let made = self.0.mkdir(cx, dir, name, Owner { mode: 0o755, ..OWNER }).await?;
        self.0.sync_all(cx).await?;
        Ok(made)
    }

    pub(super) async fn create(
        &self,
        cx: &Cx,
        dir: InodeId,
        name: &[u8],
    ) -> Result<(Attr, Handle), FsError> {
        let (attr, id) = self.0.create(cx, dir, name, OWNER).await?;
        let file = attr.inode;
        Ok((attr, Handle { file, id }))
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
        for _ in 0..2 {
            let file = self.0.lookup(cx, dir, name).await?.inode;
            match self.0.open(cx, file, write).await {
                Ok((attr, id)) => return Ok((attr, Handle { file, id })),
                Err(FsError::Stale) => {}
                Err(e) => return Err(e),
            }
        }
        Err(FsError::Stale)
    }

    pub(super) async fn write(
        &self,
        cx: &Cx,
        h: Handle,
        at: u64,
        data: Bytes,
    ) -> Result<(), FsError> {
        self.0.write(cx, h.file, At::Offset(at), data, false).await.map(drop)
    }

    /// Writes at the end; gives where that was.
    pub(super) async fn append(&self, cx: &Cx, h: Handle, data: Bytes) -> Result<u64, FsError> {
        self.0.write(cx, h.file, At::End, data, false).await
    }

    pub(super) async fn read(
        &self,
        cx: &Cx,
        h: Handle,
        from: u64,
        len: u32,
    ) -> Result<Bytes, FsError> {
        self.0.read(cx, h.file, from, len).await
    }

    /// What close(2) does before the descriptor goes; also for dup and close.
    pub(super) async fn flush(&self, cx: &Cx, h: Handle) -> Result<(), FsError> {
        self.0.flush(cx, h.file, h.id).await
    }

    pub(super) async fn fsync(&self, cx: &Cx, h: Handle, data_only: bool) -> Result<(), FsError> {
        self.0.fsync(cx, h.file, Some(h.id), data_only).await
    }

    /// The answer is that of the flush: nobody hears of a release.
    pub(super) async fn close(&self, cx: &Cx, h: Handle) -> Result<(), FsError> {
        let flushed = self.0.flush(cx, h.file, h.id).await;
        let _ = self.0.release(cx, h.file, h.id).await;
        flushed
    }

    pub(super) async fn truncate(&self, cx: &Cx, file: InodeId, len: u64) -> Result<(), FsError> {
        let length = SetAttrs { length: Some(len), ..SetAttrs::default() };
        self.0.setattr(cx, file, length).await.map(drop)
    }

    pub(super) async fn stat(&self, cx: &Cx, file: InodeId) -> Result<Attr, FsError> {
        self.0.getattr(cx, file).await
    }

    pub(super) async fn lookup(&self, cx: &Cx, dir: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        self.0.lookup(cx, dir, name).await
    }

    pub(super) async fn unlink(&self, cx: &Cx, dir: InodeId, name: &[u8]) -> Result<(), FsError> {
        self.0.unlink(cx, dir, name, None).await.map(drop)
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
        self.0.rename(cx, from, to, mode, None).await
    }

    pub(super) async fn list(&self, cx: &Cx, dir: InodeId) -> Result<Vec<DirEntry>, FsError> {
        Ok(self.0.readdir(cx, dir, b"", 10_000).await?.entries)
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
