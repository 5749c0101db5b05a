//! INIT: what the kernel offers and what is taken of it.

use super::abi::{self, Put};
use super::request::Init;
use super::types::InitFlags;

/// Asked for always; older kernels ignore the first, and the others where they are not known.
const ALWAYS: [InitFlags; 3] =
    [InitFlags::FUSE_BIG_WRITES, InitFlags::FUSE_MAX_PAGES, InitFlags::FUSE_INIT_EXT];
/// The least that a request of ours may carry.
const BYTES_MIN: u32 = 4096;
/// The most: the kernel has no larger requests.
const BYTES_MAX: u32 = 16 << 20;

/// What the mount will work with; the file system may change it before the kernel is told.
pub struct KernelConfig {
    minor: u32,
    offered: InitFlags,
    taken: InitFlags,
    max_readahead_offered: u32,
    max_readahead: u32,
    max_background: u16,
    max_write: u32,
}

impl KernelConfig {
    /// `None`: the kernel is older than Linux 5.4.
    pub fn new(init: &Init) -> Option<KernelConfig> {
        if init.major != abi::MAJOR || init.minor < abi::MINOR_MIN {
            return None;
        }
        let mut config = KernelConfig {
            minor: init.minor.min(abi::MINOR),
            offered: init.flags,
            taken: InitFlags::empty(),
            max_readahead_offered: init.max_readahead,
            max_readahead: init.max_readahead,
            max_background: 16,
            max_write: 128 << 10,
        };
        for flag in ALWAYS {
            // Without: smaller requests, or fewer flags.
            let _ = config.add_capabilities(flag);
        }
        Some(config)
    }

    /// Takes what the kernel offers.
    ///
    /// # Errors
    /// What it does not offer; then nothing is taken.
    pub fn add_capabilities(&mut self, flags: InitFlags) -> Result<(), InitFlags> {
        if !self.offered.contains(flags) {
            return Err(InitFlags::from_bits(flags.bits() & !self.offered.bits()));
        }
        self.taken |= flags;
        Ok(())
    }

    /// Bytes of the largest write.
    ///
    /// # Errors
    /// The nearest that can be.
    pub fn set_max_write(&mut self, bytes: u32) -> Result<(), u32> {
        let nearest = bytes.clamp(BYTES_MIN, BYTES_MAX);
        if nearest != bytes {
            return Err(nearest);
        }
        self.max_write = bytes;
        Ok(())
    }

    pub fn max_write(&self) -> u32 {
        self.max_write
    }

    /// Bytes that the kernel reads ahead.
    ///
    /// # Errors
    /// The most that it will.
    pub fn set_max_readahead(&mut self, bytes: u32) -> Result<(), u32> {
        if bytes > self.max_readahead_offered {
            return Err(self.max_readahead_offered);
        }
        self.max_readahead = bytes;
        Ok(())
    }

    /// Requests that nobody waits for, under way at a time. At three quarters of it the kernel
    /// holds back.
    ///
    /// # Errors
    /// The least that can be.
    pub fn set_max_background(&mut self, requests: u16) -> Result<(), u16> {
        if requests == 0 {
            return Err(1);
        }
        self.max_background = requests;
        Ok(())
    }

    /// The answer: struct fuse_init_out.
    pub fn answer(&self) -> Vec<u8> {
        let congestion_threshold = (u32::from(self.max_background) * 3 / 4) as u16;
        let page = rustix::param::page_size() as u32;
        let max_pages = self.max_write.max(self.max_readahead).div_ceil(page);
        let mut out = Vec::with_capacity(64);
        out.put_u32(abi::MAJOR);
        out.put_u32(self.minor);
        out.put_u32(self.max_readahead);
        out.put_u32(self.taken.bits() as u32);
        out.put_u16(self.max_background);
        out.put_u16(congestion_threshold);
        out.put_u32(self.max_write);
        out.put_u32(1); // granularity of times, in nanoseconds
        out.put_u16(u16::try_from(max_pages).unwrap_or(u16::MAX));
        out.put_u16(0); // map_alignment
        out.put_u32((self.taken.bits() >> 32) as u32);
        out.put(&[0; 28]);
        out
    }
}

/// The answer to a kernel of a newer major version: it will ask again, in ours.
pub fn our_version() -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.put_u32(abi::MAJOR);
    out.put_u32(abi::MINOR);
    out.put(&[0; 56]);
    out
}

#[cfg(test)]
mod tests {
    //! Goal: of what the kernel offers, what was asked for is taken, and the answer is as the
    //! header has it.
    use super::*;

    fn offer(minor: u32, flags: u64) -> Init {
        let flags = InitFlags::from_bits(flags);
        Init { major: 7, minor, max_readahead: 128 << 10, flags }
    }

    #[test]
    fn the_answer_has_what_both_want() {
        let all = u64::MAX;
        let mut config = KernelConfig::new(&offer(45, all)).unwrap();
        config.add_capabilities(InitFlags::FUSE_ASYNC_READ).unwrap();
        config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP).unwrap();
        config.set_max_write(1 << 20).unwrap();
        config.set_max_background(64).unwrap();
        assert_eq!(config.set_max_readahead(1 << 20), Err(128 << 10));
        assert_eq!(config.set_max_write(0), Err(4096));
        let out = config.answer();
        assert_eq!(out.len(), 64);
        let u32_at = |at: usize| u32::from_ne_bytes(out[at..at + 4].try_into().unwrap());
        let u16_at = |at: usize| u16::from_ne_bytes(out[at..at + 2].try_into().unwrap());
        assert_eq!((u32_at(0), u32_at(4), u32_at(8)), (7, 40, 128 << 10));
        assert_eq!(u32_at(12), 1 | 1 << 5 | 1 << 22 | 1 << 30);
        assert_eq!((u16_at(16), u16_at(18), u32_at(20), u32_at(24)), (64, 48, 1 << 20, 1));
        assert_eq!(u32::from(u16_at(28)), (1 << 20) / rustix::param::page_size() as u32);
        assert_eq!(u32_at(32), 1 << 4);
    }

    #[test]
    fn older_kernels_get_what_they_know() {
        assert!(KernelConfig::new(&offer(30, 0)).is_none());
        let mut config = KernelConfig::new(&offer(31, 1)).unwrap();
        assert_eq!(
            config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS),
            Err(InitFlags::FUSE_PARALLEL_DIROPS)
        );
        let out = config.answer();
        assert_eq!(out[4..8], 31u32.to_ne_bytes());
        assert_eq!(out[12..16], [0; 4]);
    }
}
