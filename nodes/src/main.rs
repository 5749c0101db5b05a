//! `t3fs-node`: see `t3fs_nodes::cli` for what it can be told.

/// Metadata is many small values, of which a fifth less time goes by than with glibc's allocator
/// (decision 022).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    t3fs_nodes::main()
}
