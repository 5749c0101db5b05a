//! Disk operations on glommio's files: O_DIRECT, or the page cache where that is refused.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ::glommio::GlommioError;
use ::glommio::io::{BufferedFile, Directory, DmaBuffer, DmaFile, OpenOptions, ReadResult};

use crate::disk::{
    DiskBuf, DiskError, DiskId, DiskMemory, DiskOp, DiskReply, DiskResult, DiskSpace, FileId,
    OpenMode,
};

#[derive(Clone)]
enum File {
    Direct(Rc<DmaFile>),
    Buffered(Rc<BufferedFile>),
}

pub(super) struct Disks {
    folders: Vec<PathBuf>,
    files: RefCell<BTreeMap<FileId, File>>,
    next: Cell<u32>,
    warned: Cell<bool>,
}

impl DiskMemory for DmaBuffer {
    fn as_slice(&self) -> &[u8] {
        self.as_bytes()
    }
    fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        Some(self.as_bytes_mut())
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl DiskMemory for ReadResult {
    fn as_slice(&self) -> &[u8] {
        self
    }
    fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        None
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

fn from_io(e: &io::Error, what: &str, path: &Path) -> DiskError {
    match e.kind() {
        io::ErrorKind::NotFound => DiskError::NotFound,
        io::ErrorKind::AlreadyExists => DiskError::Exists,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::NoSpace,
        _ => DiskError::Io(format!("{what} {}: {e}", path.display())),
    }
}

fn from_glommio(e: GlommioError<()>, what: &str, path: &Path) -> DiskError {
    let e: io::Error = e.into();
    match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => DiskError::NoSpace,
        Some(libc::ENOENT) => DiskError::NotFound,
        Some(libc::EEXIST) => DiskError::Exists,
        _ => from_io(&e, what, path),
    }
}

/// Lets glommio find out whether a device can be polled, before it is used.
///
/// It asks once per device, with a polled read of the first file it opens there. Of an empty file
/// that read succeeds without reaching the device, and every later one would fail with EOPNOTSUPP;
/// so the file has a block. Where the device has no queues for polling, Linux 6.1 may try such a
/// read for ever, in a kernel thread; so there it is made to fail at once, on a descriptor that
/// cannot be read, which glommio takes for a no.
pub(super) async fn teach_polling(folders: &[PathBuf]) {
    for folder in folders {
        let thread = std::thread::current().id();
        let path = folder.join(format!(".t3fs-poll-{}-{thread:?}", std::process::id()));
        let written = std::fs::File::create(&path).and_then(|mut f| {
            io::Write::write_all(&mut f, &[0; 4096])?;
            f.sync_all()?;
            f.metadata()
        });
        if let Ok(file) = written {
            let mut options = OpenOptions::new();
            match can_poll(file.dev()) {
                true => options.read(true),
                false => options.write(true),
            };
            if let Ok(f) = options.dma_open(&path).await {
                let _ = f.close().await; // nothing was written by it
            }
        }
        // A folder that is missing or full shows when it is used.
        let _ = std::fs::remove_file(&path);
    }
}

/// Whether a block device has queues for polled I/O. Of a partition, what glommio looks at is the
/// first minor number.
fn can_poll(device: u64) -> bool {
    let path = format!("/sys/dev/block/{}:0/queue/io_poll", rustix::fs::major(device));
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

impl Disks {
    pub(super) fn new(folders: Vec<PathBuf>) -> Disks {
        Disks { folders, files: RefCell::default(), next: Cell::new(1), warned: Cell::new(false) }
    }

    /// A DMA buffer from the shard's registered memory, or from the heap when that is used up.
    pub(super) fn alloc(&self, len: usize) -> DiskReply {
        DiskReply::Buf(DiskBuf(Box::new(::glommio::allocate_dma_buffer(len))))
    }

    fn file(&self, id: FileId) -> File {
        self.files.borrow().get(&id).cloned().expect("a file is used between open and close")
    }

    fn path(&self, disk: DiskId, below: &str) -> PathBuf {
        self.folders[usize::from(disk.0)].join(below)
    }

    pub(super) async fn run(&self, disk: DiskId, op: DiskOp) -> DiskResult {
        match op {
            DiskOp::Open { path, mode } => self.open(&self.path(disk, &path), mode).await,
            DiskOp::Close { file } => {
                let f = self.files.borrow_mut().remove(&file);
                match f.expect("a file is closed once") {
                    File::Direct(f) => drop(f.close_rc().await),
                    File::Buffered(f) => {
                        if let Ok(f) = Rc::try_unwrap(f) {
                            let _ = f.close().await; // its data was synced or is not wanted
                        }
                    }
                }
                Ok(DiskReply::Done)
            }
            DiskOp::Alloc { len } => Ok(self.alloc(len)),
            DiskOp::Read { file, offset, len } => self.read(self.file(file), offset, len).await,
            DiskOp::Write { file, offset, buf } => self.write(self.file(file), offset, buf).await,
            DiskOp::Sync { file } => {
                self.each(
                    file,
                    "fdatasync",
                    async |f| f.fdatasync().await,
                    async |f| f.fdatasync().await,
                )
                .await
            }
            DiskOp::Allocate { file, offset, len } => {
                let end = offset + len;
                self.each(
                    file,
                    "allocate",
                    async |f| f.pre_allocate(end, false).await,
                    async |f| f.pre_allocate(end, false).await,
                )
                .await
            }
            DiskOp::Punch { file, offset, len } => {
                self.each(
                    file,
                    "punch",
                    async |f| f.deallocate(offset, len).await,
                    async |f| f.deallocate(offset, len).await,
                )
                .await
            }
            DiskOp::Truncate { file, len } => {
                self.each(
                    file,
                    "truncate",
                    async |f| f.truncate(len).await,
                    async |f| f.truncate(len).await,
                )
                .await
            }
            DiskOp::SyncDir { path } => {
                let path = self.path(disk, &path);
                let synced = match Directory::open(&path).await {
                    Ok(d) => {
                        let r = d.sync().await;
                        let _ = d.close().await; // only read from
                        r
                    }
                    Err(e) => Err(e),
                };
                synced.map(|()| DiskReply::Done).map_err(|e| from_glommio(e, "sync", &path))
            }
            DiskOp::MakeDir { path } => {
                let path = self.path(disk, &path);
                blocking(path, |p| std::fs::create_dir_all(p), |()| DiskReply::Done).await
            }
            DiskOp::List { path } => blocking(self.path(disk, &path), list, DiskReply::Names).await,
            DiskOp::Remove { path } => {
                let path = self.path(disk, &path);
                blocking(path, |p| std::fs::remove_file(p), |()| DiskReply::Done).await
            }
            DiskOp::Rename { from, to } => {
                let to = self.path(disk, &to);
                let rename = move |p: &Path| std::fs::rename(p, to);
                blocking(self.path(disk, &from), rename, |()| DiskReply::Done).await
            }
            DiskOp::Space => blocking(self.path(disk, ""), space, DiskReply::Space).await,
        }
    }

    async fn open(&self, path: &Path, mode: OpenMode) -> DiskResult {
        let mut o = OpenOptions::new();
        o.read(true).write(true).mode(0o600);
        match mode {
            OpenMode::Existing => {}
            OpenMode::New => {
                o.create_new(true);
            }
            OpenMode::OrCreate => {
                o.create(true);
            }
        }
        let (file, len) = match o.dma_open(path).await {
            Ok(f) => {
                let len = f.file_size().await.map_err(|e| from_glommio(e, "stat", path))?;
                (File::Direct(Rc::new(f)), len)
            }
            Err(e) => {
                let e: io::Error = e.into();
                if e.raw_os_error() != Some(libc::EINVAL) {
                    return Err(from_glommio(e.into(), "open", path));
                }
                if !self.warned.replace(true) {
                    tracing::warn!(
                        "{} refuses O_DIRECT: using the page cache and fdatasync",
                        path.display()
                    );
                }
                let mut o = OpenOptions::new();
                o.read(true).write(true).create(mode != OpenMode::Existing).mode(0o600);
                let f = o.buffered_open(path).await.map_err(|e| from_glommio(e, "open", path))?;
                let len = f.file_size().await.map_err(|e| from_glommio(e, "stat", path))?;
                (File::Buffered(Rc::new(f)), len)
            }
        };
        let id = FileId(self.next.get());
        self.next.set(id.0 + 1);
        self.files.borrow_mut().insert(id, file);
        Ok(DiskReply::Opened { file: id, len })
    }

    async fn read(&self, file: File, offset: u64, len: usize) -> DiskResult {
        let read = match &file {
            File::Direct(f) => f.read_at_aligned(offset, len).await,
            File::Buffered(f) => f.read_at(offset, len).await,
        };
        let got = read.map_err(|e| from_glommio(e, "read", &file.path()))?;
        if got.len() != len {
            return Err(DiskError::Io(format!(
                "read {} at {offset}: {} bytes of {len}, the file is too short",
                file.path().display(),
                got.len()
            )));
        }
        Ok(DiskReply::Buf(DiskBuf(Box::new(got))))
    }

    async fn write(&self, file: File, offset: u64, buf: DiskBuf) -> DiskResult {
        let len = buf.len();
        let wrote = match &file {
            File::Direct(f) => {
                let buf = match buf.0.into_any().downcast::<DmaBuffer>() {
                    Ok(b) => *b,
                    Err(other) => {
                        let read = other.downcast::<ReadResult>().expect("our own buffers");
                        let mut b = ::glommio::allocate_dma_buffer(len);
                        b.as_bytes_mut().copy_from_slice(&read);
                        b
                    }
                };
                f.write_at(buf, offset).await
            }
            File::Buffered(f) => f.write_at(buf.to_vec(), offset).await,
        };
        match wrote {
            Ok(n) if n == len => Ok(DiskReply::Done),
            Ok(n) => Err(DiskError::Io(format!(
                "write {} at {offset}: {n} bytes of {len}",
                file.path().display()
            ))),
            Err(e) => Err(from_glommio(e, "write", &file.path())),
        }
    }

    async fn each(
        &self,
        id: FileId,
        what: &str,
        direct: impl AsyncFnOnce(&DmaFile) -> Result<(), GlommioError<()>>,
        buffered: impl AsyncFnOnce(&BufferedFile) -> Result<(), GlommioError<()>>,
    ) -> DiskResult {
        let file = self.file(id);
        let done = match &file {
            File::Direct(f) => direct(f).await,
            File::Buffered(f) => buffered(f).await,
        };
        done.map(|()| DiskReply::Done).map_err(|e| from_glommio(e, what, &file.path()))
    }
}

impl File {
    fn path(&self) -> PathBuf {
        let p = match self {
            File::Direct(f) => f.path().map(|p| p.to_path_buf()),
            File::Buffered(f) => f.path().map(|p| p.to_path_buf()),
        };
        p.unwrap_or_default()
    }
}

/// Operations on names: rare, blocking, so off the shard's thread.
async fn blocking<T: Send + 'static>(
    path: PathBuf,
    f: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    reply: impl FnOnce(T) -> DiskReply,
) -> DiskResult {
    let work = move || f(&path).map_err(|e| from_io(&e, "access", &path));
    ::glommio::executor().spawn_blocking(work).await.map(reply)
}

fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for e in std::fs::read_dir(path)? {
        names.push(e?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn space(path: &Path) -> io::Result<DiskSpace> {
    let c = CString::new(path.as_os_str().as_bytes())?;
    let mut s = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: a C string and a statvfs of our own; read only after success.
    let s = unsafe {
        if libc::statvfs(c.as_ptr(), s.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        s.assume_init()
    };
    Ok(DiskSpace {
        capacity: s.f_blocks * s.f_frsize,
        free: s.f_bavail * s.f_frsize,
        file_system: std::fs::metadata(path)?.dev(),
    })
}
