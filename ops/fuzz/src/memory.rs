//! How much memory is asked for, whether it is touched or not. One thread at a time: the count is
//! the process's.

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What a call returns, and the most that it held at any time beyond what was held before.
pub fn measured<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = call();
    (result, MEMORY.peak_usage().saturating_sub(before))
}
