//! Files as the jobs use them: aligned buffers, direct and buffered descriptors, cold caches.
//!
//! Buffers are filled with noise, so that nothing below can win by noticing zeros or repetition.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{Advice, Mode, OFlags};

use crate::noise::Noise;

/// O_DIRECT wants memory and offsets on block boundaries; 4 KiB fits every disk.
pub const BLOCK: usize = 4096;
pub const MIB: usize = 1 << 20;

/// Memory on a block boundary, filled with noise.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    pub fn new(length: usize, seed: u64) -> Buffer {
        let mut memory = vec![0; length + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        Noise::new(seed).fill(&mut memory[start..start + length]);
        Buffer { memory, start, length }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// Opens `path` with these flags, and O_DIRECT if asked for.
pub fn open(path: &Path, flags: OFlags, direct: bool) -> io::Result<File> {
    let direct = if direct { OFlags::DIRECT } else { OFlags::empty() };
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::open(path, flags | direct | OFlags::CLOEXEC, mode)
        .map_err(|err| io::Error::other(format!("open {}: {err}", path.display())))?;
    Ok(file.into())
}

/// Makes buffered reads of `file` reach its file system: its pages leave the page cache, and, where
/// we are root, all clean pages of the machine do, those of a server's own files included.
pub fn drop_caches(file: &File) -> io::Result<()> {
    // Dirty pages stay where they are, so write them first.
    file.sync_data()?;
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
    drop_all_pages();
    Ok(())
}

/// Drops the clean pages of the whole machine; false if we may not.
pub fn drop_all_pages() -> bool {
    fs::write("/proc/sys/vm/drop_caches", "1").is_ok()
}
