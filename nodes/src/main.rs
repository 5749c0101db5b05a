//! `t3fs-node`: see `t3fs_nodes::cli` for what it can be told.

/// Metadata is many small values: creating files is a tenth faster than with glibc's allocator
/// (decision 022).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    t3fs_nodes::main()
}
