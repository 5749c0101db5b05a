//! What the flags of open(2) mean for a file.

/// Whether a file that is opened so can be written.
pub fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// Whether reads and writes through a file that is opened so go past the page cache. Appends do:
/// the kernel would put them into its cache where it believes the end to be.
pub fn is_direct(flags: i32) -> bool {
    flags & libc::O_DIRECT != 0 || writes(flags) && flags & libc::O_APPEND != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_read_only_opens_do_not_write() {
        assert!(!writes(libc::O_RDONLY | libc::O_DIRECT));
        assert!(writes(libc::O_WRONLY) && writes(libc::O_RDWR | libc::O_APPEND));
    }
}
