//! What a failed operation is called in errno: the one table.

use std::sync::atomic::{AtomicU64, Ordering};

use t3fs_actors::client::FsError;
use t3fs_runtime::glommio::boot_time_us;

use super::kernel::Errno;

/// Failures of one kind are logged once in this time.
const BURST_US: u64 = 10_000_000;

/// The error number a user sees. Failures that a human should look into are logged, once per burst.
pub fn errno(e: &FsError) -> Errno {
    match e {
        FsError::NotFound => Errno::ENOENT,
        // The kernel looks the path up anew before it believes that (and creates what is missing,
        // if that was asked for): it remembers names for a while that another mount has removed.
        FsError::Stale => Errno::ESTALE,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDirectory => Errno::ENOTDIR,
        FsError::IsDirectory => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::InvalidArgument => Errno::EINVAL,
        FsError::FileTooLarge => Errno::EFBIG,
        FsError::NoSpace => Errno::ENOSPC,
        FsError::Unavailable(why) => {
            static BURST: Burst = Burst::new();
            if let Some(more) = BURST.admit(boot_time_us()) {
                tracing::warn!("an operation failed, the cluster did not answer: {why}{more}");
            }
            Errno::EIO
        }
        FsError::Io(why) => {
            static BURST: Burst = Burst::new();
            if let Some(more) = BURST.admit(boot_time_us()) {
                tracing::error!("an operation failed: {why}{more}");
            }
            Errno::EIO
        }
    }
}

/// Lets one through, then none for a while, and counts those.
struct Burst {
    /// When the last one was let through; 0 is never.
    last_us: AtomicU64,
    withheld: AtomicU64,
}

impl Burst {
    const fn new() -> Burst {
        Burst { last_us: AtomicU64::new(0), withheld: AtomicU64::new(0) }
    }

    /// What to add to the line, if it is to be written.
    fn admit(&self, now_us: u64) -> Option<String> {
        let last = self.last_us.load(Ordering::Relaxed);
        let due = last == 0 || now_us.saturating_sub(last) >= BURST_US;
        let mine = due
            && self
                .last_us
                .compare_exchange(last, now_us.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !mine {
            self.withheld.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(match self.withheld.swap(0, Ordering::Relaxed) {
            0 => String::new(),
            n => format!(" (and {n} more since the last such line)"),
        })
    }
}

#[cfg(test)]
mod tests {
    //! Goal: every failure has its number, and a burst is one line.
    use super::*;

    #[test]
    fn the_table() {
        let table = [
            (FsError::NotFound, libc::ENOENT),
            (FsError::Stale, libc::ESTALE),
            (FsError::Exists, libc::EEXIST),
            (FsError::NotDirectory, libc::ENOTDIR),
            (FsError::IsDirectory, libc::EISDIR),
            (FsError::NotEmpty, libc::ENOTEMPTY),
            (FsError::NameTooLong, libc::ENAMETOOLONG),
            (FsError::TooManyLinks, libc::EMLINK),
            (FsError::InvalidArgument, libc::EINVAL),
            (FsError::FileTooLarge, libc::EFBIG),
            (FsError::NoSpace, libc::ENOSPC),
            (FsError::Unavailable("x".into()), libc::EIO),
            (FsError::Io("x".into()), libc::EIO),
        ];
        for (e, number) in table {
            assert_eq!(errno(&e).0, number, "{e:?}");
        }
    }

    #[test]
    fn a_burst_is_one_line() {
        let b = Burst::new();
        assert_eq!(b.admit(5), Some(String::new()));
        assert_eq!(b.admit(6), None);
        assert_eq!(b.admit(7), None);
        assert!(b.admit(BURST_US + 5).unwrap().contains('2'));
    }
}
