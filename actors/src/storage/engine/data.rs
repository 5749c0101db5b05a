//! Data files: opened when first needed, grown in groups, synced together.

use std::rc::Rc;

use t3fs_runtime::disk::OpenMode;
use t3fs_runtime::{Bell, Cx, DiskError, FileId, Slot};

use super::allocator::Groups;
use super::error::EngineError;
use super::layout::{Class, Extent};
use super::log::fill_zeros;
use super::state::{DataFile, Inner};

enum Next {
    Got(Extent, bool),
    Wait(Slot<()>),
    Grow(Groups),
}

impl Inner {
    /// The open data file of a class that has one.
    pub fn file(&self, class: Class) -> FileId {
        self.with(|s| s.files.get(&class).expect("an extent's file is open").file)
    }

    /// A free extent. Updates of chunks that exist may use the reserve.
    pub async fn allocate(
        self: &Rc<Self>,
        cx: &Cx,
        class: Class,
        exists: bool,
    ) -> Result<Extent, EngineError> {
        let mut most = u32::MAX;
        loop {
            let given = self.with(|s| s.given);
            let next = self.with(|s| {
                s.alive()?;
                if let Some(e) = s.allocator.take(class) {
                    return Ok(Next::Got(e, s.allocator.low(class)));
                }
                if s.allocator.resizing(class) {
                    return Ok(Next::Wait(s.resized.wait()));
                }
                Ok::<_, EngineError>(Next::Grow(s.allocator.grow(class, most)))
            })?;
            match next {
                Next::Got(e, low) => {
                    if low {
                        self.grow_ahead(cx, class);
                    }
                    return Ok(e);
                }
                Next::Wait(slot) => slot.await,
                Next::Grow(groups) => match self.grow(cx, groups, exists).await {
                    Err(EngineError::NoSpace) if groups.count > 1 => most = 1,
                    // Other classes may have what is missing here. Others may take it first: each
                    // time round somebody had some.
                    Err(EngineError::NoSpace) => {
                        let need = groups.bytes() + self.cfg.reserve_bytes;
                        if !self.make_room(cx, Some(class), need, given).await {
                            return Err(EngineError::NoSpace);
                        }
                    }
                    grown => grown?,
                },
            }
        }
    }

    fn grow_ahead(self: &Rc<Self>, cx: &Cx, class: Class) {
        let groups = self
            .with(|s| (!s.allocator.resizing(class)).then(|| s.allocator.grow(class, u32::MAX)));
        let Some(groups) = groups else { return };
        let (me, cx) = (Rc::clone(self), cx.outlive());
        cx.clone().spawn(async move {
            // An update that needs the space will try again and have the error for an answer.
            if let Err(e) = me.grow(&cx, groups, false).await {
                tracing::debug!("a data file does not grow ahead: {e}");
            }
        });
    }

    async fn grow(&self, cx: &Cx, groups: Groups, exists: bool) -> Result<(), EngineError> {
        let made = self.grow_file(cx, groups, exists).await;
        self.with(|s| {
            s.allocator.grown(groups, made.is_ok());
            s.resized.ring(());
        });
        made.map_err(|e| self.broken(e))
    }

    async fn grow_file(&self, cx: &Cx, groups: Groups, exists: bool) -> Result<(), DiskError> {
        let disk = self.disk(cx);
        let reserve = if exists { 0 } else { self.cfg.reserve_bytes };
        if disk.space().await?.free < groups.bytes() + reserve {
            return Err(DiskError::NoSpace);
        }
        let class = groups.class;
        let file = match self.with(|s| s.files.get(&class).map(|f| f.file)) {
            Some(file) => file,
            None => {
                let name = self.path(&class.file_name());
                let (file, _) = disk.open(&name, OpenMode::OrCreate).await?;
                disk.sync_dir(&self.dir).await?;
                let open = DataFile { file, syncing: false, synced: Bell::default() };
                self.with(|s| s.files.insert(class, open));
                file
            }
        };
        if class.prewritten() {
            fill_zeros(&disk, file, groups.offset(), groups.bytes()).await?;
        } else {
            disk.allocate(file, groups.offset(), groups.bytes()).await?;
        }
        disk.sync(file).await
    }

    /// Makes the completed writes of a data file durable, together with those of others.
    pub async fn sync_data(self: &Rc<Self>, cx: &Cx, class: Class) -> Result<(), EngineError> {
        let (done, first) = self.with(|s| {
            let f = s.files.get_mut(&class).expect("an extent's file is open");
            (f.synced.wait(), !std::mem::replace(&mut f.syncing, true))
        });
        if first {
            let (me, cx) = (Rc::clone(self), cx.outlive());
            cx.clone().spawn(async move { me.sync_rounds(&cx, class).await });
        }
        done.await
    }

    async fn sync_rounds(&self, cx: &Cx, class: Class) {
        loop {
            let (file, mut synced) = self.with(|s| {
                let f = s.files.get_mut(&class).expect("a data file stays open");
                f.syncing = !f.synced.is_empty();
                (f.file, std::mem::take(&mut f.synced))
            });
            if synced.is_empty() {
                return;
            }
            let done = self.disk(cx).sync(file).await.map_err(|e| self.broken(e));
            synced.ring(done);
        }
    }
}
