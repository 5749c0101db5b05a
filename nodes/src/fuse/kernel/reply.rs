//! Replies: one type for each kind of answer. A reply can be given later and from any thread; one
//! that is dropped without an answer says EIO.
//!
//! Each answer says whether the kernel took it. False means that the caller is gone: it was killed
//! while it waited, and has been told EINTR. Whoever has opened something for it closes it again.

use std::ffi::OsStr;
use std::sync::Arc;

use super::abi::{self, Put};
use super::channel::Channel;
use super::types::{Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, Ttl};

/// The right to answer a request.
pub struct Ticket {
    channel: Arc<Channel>,
    unique: u64,
    answered: bool,
}

impl Ticket {
    pub fn new(channel: &Arc<Channel>, unique: u64) -> Ticket {
        Ticket { channel: Arc::clone(channel), unique, answered: false }
    }

    pub fn answer(mut self, body: &[u8]) -> bool {
        self.answered = true;
        self.channel.answer(self.unique, 0, body)
    }

    pub fn error(mut self, errno: Errno) -> bool {
        self.answered = true;
        self.channel.answer(self.unique, -errno.0, &[])
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.channel.answer(self.unique, -Errno::EIO.0, &[]);
        }
    }
}

/// A short answer, without an allocation.
struct Short {
    bytes: [u8; abi::ENTRY_OUT_BYTES + 16],
    length: usize,
}

impl Short {
    fn new() -> Short {
        Short { bytes: [0; abi::ENTRY_OUT_BYTES + 16], length: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Put for Short {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}

macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $(
            $(#[$doc])*
            pub struct $name(Ticket);

            impl $name {
                pub fn new(ticket: Ticket) -> $name {
                    $name(ticket)
                }

                pub fn error(self, errno: Errno) -> bool {
                    self.0.error(errno)
                }
            }
        )*
    };
}

replies! {
    /// Nothing but that it is done.
    ReplyEmpty
    ReplyEntry
    ReplyAttr
    ReplyData
    ReplyOpen
    ReplyCreate
    ReplyWrite
    ReplyStatfs
    ReplyLseek
}

impl ReplyEmpty {
    pub fn ok(self) -> bool {
        self.0.answer(&[])
    }
}

impl ReplyEntry {
    /// A name leads here. The kernel counts it as a lookup, of which `forget` will tell the end.
    pub fn entry(self, ttl: impl Into<Ttl>, attr: &FileAttr, generation: Generation) -> bool {
        let mut body = Short::new();
        abi::put_entry(&mut body, ttl.into(), attr, generation.0);
        self.0.answer(body.bytes())
    }
}

impl ReplyAttr {
    pub fn attr(self, ttl: impl Into<Ttl>, attr: &FileAttr) -> bool {
        let mut body = Short::new();
        abi::put_attr_out(&mut body, ttl.into().attr, attr);
        self.0.answer(body.bytes())
    }
}

impl ReplyData {
    /// At most as much as was asked for.
    pub fn data(self, data: &[u8]) -> bool {
        self.0.answer(data)
    }
}

impl ReplyOpen {
    #[must_use = "what nobody will release is to be closed"]
    pub fn opened(self, handle: FileHandle, flags: FopenFlags) -> bool {
        let mut body = Short::new();
        abi::put_open(&mut body, handle.0, flags.bits());
        self.0.answer(body.bytes())
    }
}

impl ReplyCreate {
    #[must_use = "what nobody will release is to be closed"]
    pub fn created(
        self,
        ttl: impl Into<Ttl>,
        attr: &FileAttr,
        generation: Generation,
        handle: FileHandle,
        flags: FopenFlags,
    ) -> bool {
        let mut body = Short::new();
        abi::put_entry(&mut body, ttl.into(), attr, generation.0);
        abi::put_open(&mut body, handle.0, flags.bits());
        self.0.answer(body.bytes())
    }
}

impl ReplyWrite {
    /// Says later whether the caller still waits for this answer.
    pub fn wanted(&self) -> impl Fn() -> bool + Send + use<> {
        let (channel, unique) = (Arc::clone(&self.0.channel), self.0.unique);
        move || channel.in_flight().get(unique).is_some()
    }

    pub fn written(self, bytes: u32) -> bool {
        let mut body = Short::new();
        body.put_u32(bytes);
        body.put_u32(0);
        self.0.answer(body.bytes())
    }
}

impl ReplyStatfs {
    pub fn statfs(
        self,
        blocks: u64,
        blocks_free: u64,
        blocks_available: u64,
        files: u64,
        files_free: u64,
        block_bytes: u32,
        name_bytes_max: u32,
        fragment_bytes: u32,
    ) -> bool {
        let mut body = Short::new();
        for n in [blocks, blocks_free, blocks_available, files, files_free] {
            body.put_u64(n);
        }
        for n in [block_bytes, name_bytes_max, fragment_bytes, 0] {
            body.put_u32(n);
        }
        body.put(&[0; 24]);
        self.0.answer(body.bytes())
    }
}

impl ReplyLseek {
    pub fn offset(self, offset: i64) -> bool {
        let mut body = Short::new();
        body.put_i64(offset);
        self.0.answer(body.bytes())
    }
}

/// A listing in the making: entries until it is full.
struct Listing {
    ticket: Ticket,
    body: Vec<u8>,
    bytes_max: usize,
}

impl Listing {
    /// What most listings fit into; a kernel may offer a megabyte.
    const USUAL_BYTES: usize = 32 << 10;

    fn new(ticket: Ticket, bytes_max: u32) -> Listing {
        let bytes_max = bytes_max as usize;
        let body = Vec::with_capacity(bytes_max.min(Listing::USUAL_BYTES));
        Listing { ticket, body, bytes_max }
    }

    /// False if so much more does not fit.
    fn fits(&self, bytes: usize) -> bool {
        self.body.len() + bytes <= self.bytes_max
    }
}

/// Names, without attributes.
pub struct ReplyDirectory(Listing);

impl ReplyDirectory {
    pub fn new(ticket: Ticket, bytes_max: u32) -> ReplyDirectory {
        ReplyDirectory(Listing::new(ticket, bytes_max))
    }

    /// Adds an entry; `next` is where the listing goes on behind it. True: it is full, and the
    /// entry is not in it.
    pub fn add(
        &mut self,
        ino: INodeNo,
        next: u64,
        kind: FileType,
        name: impl AsRef<OsStr>,
    ) -> bool {
        let name = name.as_ref();
        if !self.0.fits(abi::dirent_bytes(name)) {
            return true;
        }
        abi::put_dirent(&mut self.0.body, ino.0, next, kind.mode_type(), name);
        false
    }

    pub fn ok(self) -> bool {
        self.0.ticket.answer(&self.0.body)
    }

    pub fn error(self, errno: Errno) -> bool {
        self.0.ticket.error(errno)
    }
}

/// Names with attributes. Each entry but `.` and `..` counts as a lookup, if the answer is taken.
pub struct ReplyDirectoryPlus(Listing);

impl ReplyDirectoryPlus {
    pub fn new(ticket: Ticket, bytes_max: u32) -> ReplyDirectoryPlus {
        ReplyDirectoryPlus(Listing::new(ticket, bytes_max))
    }

    /// As [`ReplyDirectory::add`].
    pub fn add(
        &mut self,
        ino: INodeNo,
        next: u64,
        name: impl AsRef<OsStr>,
        ttl: impl Into<Ttl>,
        attr: &FileAttr,
        generation: Generation,
    ) -> bool {
        let name = name.as_ref();
        if !self.0.fits(abi::ENTRY_OUT_BYTES + abi::dirent_bytes(name)) {
            return true;
        }
        abi::put_entry(&mut self.0.body, ttl.into(), attr, generation.0);
        abi::put_dirent(&mut self.0.body, ino.0, next, attr.kind.mode_type(), name);
        false
    }

    pub fn ok(self) -> bool {
        self.0.ticket.answer(&self.0.body)
    }

    pub fn error(self, errno: Errno) -> bool {
        self.0.ticket.error(errno)
    }
}
