//! Notifications: the kernel is told to forget what it remembers.
//!
//! Forgetting attributes is done at once, on the caller's thread. Forgetting pages waits for their
//! locks, and forgetting a name waits for its directory's lock; requests that are under way hold
//! these, perhaps one that the caller is to answer. So a thread of its own does both, one after
//! the other.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};

use super::abi::{Put, notice};
use super::channel::Channel;
use super::types::INodeNo;

/// Notifications that wait for the thread. It is behind only while requests are slow.
const WAITING_MAX: usize = 16_384;

/// What the thread is to say.
enum Notice {
    Pages { ino: INodeNo, offset: u64, bytes: u64, done: Option<Done> },
    Entry { parent: INodeNo, name: OsString },
    Deleted { parent: INodeNo, child: INodeNo, name: OsString },
}

/// Told when the kernel has done it, or will not.
type Done = Box<dyn FnOnce() + Send>;

/// Says what is no longer so. What the kernel does not remember is fine.
#[derive(Clone)]
pub struct Notifier {
    channel: Arc<Channel>,
    waiting: SyncSender<Notice>,
}

/// The thread has too much to say. What was to be forgotten is remembered until its time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch;

impl Notifier {
    /// Starts the thread, which ends with the last clone.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn new(channel: Arc<Channel>) -> io::Result<Notifier> {
        let (waiting, notices) = mpsc::sync_channel(WAITING_MAX);
        let to = Arc::clone(&channel);
        std::thread::Builder::new()
            .name("t3fs-notify".into())
            .spawn(move || tell(&to, &notices))?;
        Ok(Notifier { channel, waiting })
    }

    /// Forget attributes (length, times, owner); pages stay. At once, waits for nothing.
    ///
    /// # Errors
    /// The mount has ended, or the kernel's own.
    pub fn inval_attributes(&self, ino: INodeNo) -> io::Result<()> {
        let mut body = Vec::with_capacity(24);
        body.put_u64(ino.0);
        body.put_i64(-1);
        body.put_i64(0);
        self.channel.notify(notice::INVAL_INODE, &body)
    }

    /// Forget attributes and pages, soon. `bytes` 0: up to the end.
    ///
    /// # Errors
    /// Too many wait.
    pub fn inval_pages(&self, ino: INodeNo, offset: u64, bytes: u64) -> Result<(), TooMuch> {
        self.later(Notice::Pages { ino, offset, bytes, done: None })
    }

    /// Forget attributes and all pages; `done` is called on the thread when that is so.
    ///
    /// # Errors
    /// Too many wait.
    pub fn inval_content(
        &self,
        ino: INodeNo,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<(), TooMuch> {
        self.later(Notice::Pages { ino, offset: 0, bytes: 0, done: Some(Box::new(done)) })
    }

    /// Look this name up again when it is next used, soon.
    ///
    /// # Errors
    /// Too many wait.
    pub fn inval_entry(&self, parent: INodeNo, name: &OsStr) -> Result<(), TooMuch> {
        self.later(Notice::Entry { parent, name: name.to_owned() })
    }

    /// A name that led to `child` is gone: programs that watch it with inotify are told. Soon.
    ///
    /// # Errors
    /// Too many wait.
    pub fn delete(&self, parent: INodeNo, child: INodeNo, name: &OsStr) -> Result<(), TooMuch> {
        self.later(Notice::Deleted { parent, child, name: name.to_owned() })
    }

    fn later(&self, notice: Notice) -> Result<(), TooMuch> {
        self.waiting.try_send(notice).map_err(|_| TooMuch)
    }
}

fn tell(channel: &Channel, notices: &Receiver<Notice>) {
    for notice in notices {
        let (code, body) = encode(&notice);
        if let Err(e) = channel.notify(code, &body) {
            // A mount that has ended remembers nothing.
            tracing::debug!("notification {code}: {e}");
        }
        if let Notice::Pages { done: Some(done), .. } = notice {
            done();
        }
    }
}

fn encode(notice: &Notice) -> (i32, Vec<u8>) {
    let mut body = Vec::with_capacity(64);
    let name_of = |body: &mut Vec<u8>, name: &OsStr| {
        body.put(name.as_bytes());
        body.put(&[0]);
    };
    match notice {
        Notice::Pages { ino, offset, bytes, .. } => {
            body.put_u64(ino.0);
            body.put_i64(i64::try_from(*offset).unwrap_or(i64::MAX));
            body.put_i64(i64::try_from(*bytes).unwrap_or(0));
            (notice::INVAL_INODE, body)
        }
        Notice::Entry { parent, name } => {
            body.put_u64(parent.0);
            body.put_u32(name.len() as u32);
            body.put_u32(0); // flags
            name_of(&mut body, name);
            (notice::INVAL_ENTRY, body)
        }
        Notice::Deleted { parent, child, name } => {
            body.put_u64(parent.0);
            body.put_u64(child.0);
            body.put_u32(name.len() as u32);
            body.put_u32(0);
            name_of(&mut body, name);
            (notice::DELETE, body)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: layouts are those of struct fuse_notify_*_out.
    #[test]
    fn notices_are_as_the_header_has_them() {
        let pages = Notice::Pages { ino: INodeNo(5), offset: 7, bytes: 9, done: None };
        let (code, body) = encode(&pages);
        assert_eq!((code, body.len(), &body[8..16]), (2, 24, &7i64.to_ne_bytes()[..]));
        let entry = Notice::Entry { parent: INodeNo(5), name: "abc".into() };
        let (code, body) = encode(&entry);
        assert_eq!((code, body.len(), &body[16..]), (3, 20, &b"abc\0"[..]));
        let deleted = Notice::Deleted { parent: INodeNo(5), child: INodeNo(6), name: "abc".into() };
        let (code, body) = encode(&deleted);
        assert_eq!((code, body.len(), &body[24..]), (6, 28, &b"abc\0"[..]));
        assert_eq!(&body[16..20], &3u32.to_ne_bytes());
    }
}
