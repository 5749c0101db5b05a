//! What fjall does not do after power loss: drop the end of its last journal if that is torn.
//!
//! fjall cuts a journal where an entry stops making sense. But where pages reached the disk out of
//! order, entries can look sound around a page that never arrived; fjall 3.1 then refuses to open,
//! or panics. So before fjall opens it, the last journal is cut after its last batch whose checksum
//! holds. All earlier journals were synced whole. What was synced of this one is before anything
//! torn.
//!
//! # Format (fjall 3.1, `src/journal/entry.rs`; numbers little-endian)
//! ```text
//! batch  start item* end
//! start  1  count u32  sequence u64
//! item   2  kind u8  compression u8  keyspace u64  key_len u16  value_len u32  stored_len u32  key
//!  stored clear  4  keyspace u64                              (counts as an item)
//! end    3  xxh3 of the items u64  "FJL\x03"
//! ```
//! Behind the last batch a journal is filled up with zeros.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: [u8; 4] = *b"FJL\x03";
/// Read at once.
const BLOCK: usize = 1 << 16;
static ZEROS: [u8; BLOCK] = [0; BLOCK];
/// Bytes of an item between its tag and its key.
const ITEM_HEADER: usize = 20;

/// Cuts the journal at `path` after its last sound batch. Returns how many bytes that were not zero
/// it cut off: none, unless power failed or the disk has changed something.
pub(super) fn cut_torn_end(path: &Path) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut scan = Scan { journal: BufReader::with_capacity(BLOCK, file), hash: Xxh3::new() };
    let mut sound = 0;
    while scan.batch()? {
        sound = scan.journal.stream_position()?;
    }
    scan.journal.seek(SeekFrom::Start(sound))?;
    let mut torn = 0;
    loop {
        let block = scan.journal.fill_buf()?;
        let length = block.len();
        if length == 0 {
            break;
        }
        // Almost all of it is zeros, tens of MiB: compared whole, and only then byte by byte.
        if *block != ZEROS[..length] {
            torn += block.iter().filter(|byte| **byte != 0).count() as u64;
        }
        scan.journal.consume(length);
    }
    let file = scan.journal.into_inner();
    file.set_len(sound)?;
    file.sync_all()?;
    Ok(torn)
}

struct Scan<R> {
    journal: R,
    /// Of the items of the batch at hand.
    hash: Xxh3,
}

impl<R: Read> Scan<R> {
    /// Reads a batch. False if what is there is not a whole one.
    fn batch(&mut self) -> io::Result<bool> {
        match self.sound_batch() {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            other => other,
        }
    }

    fn sound_batch(&mut self) -> io::Result<bool> {
        let start: [u8; 13] = self.bytes()?;
        if start[0] != START {
            return Ok(false);
        }
        self.hash.reset();
        for _ in 0..u32::from_le_bytes(start[1..5].try_into().expect("four bytes")) {
            if !self.item()? {
                return Ok(false);
            }
        }
        let end: [u8; 13] = self.bytes()?;
        let checksum = self.hash.digest().to_le_bytes();
        Ok(end[0] == END && end[1..9] == checksum && end[9..] == MAGIC)
    }

    fn item(&mut self) -> io::Result<bool> {
        let tag: [u8; 1] = self.bytes()?;
        self.hash.update(&tag);
        match tag[0] {
            ITEM => {
                let header: [u8; ITEM_HEADER] = self.bytes()?;
                self.hash.update(&header);
                let key = u16::from_le_bytes(header[10..12].try_into().expect("two bytes"));
                let stored = u32::from_le_bytes(header[16..].try_into().expect("four bytes"));
                self.hash_bytes(u64::from(key) + u64::from(stored))?;
                Ok(true)
            }
            CLEAR => self.hash_bytes(8).map(|()| true),
            _ => Ok(false),
        }
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.journal.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn hash_bytes(&mut self, mut left: u64) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while left > 0 {
            let part = &mut buffer[..left.min(4096) as usize];
            self.journal.read_exact(part)?;
            self.hash.update(part);
            left -= part.len() as u64;
        }
        Ok(())
    }
}
