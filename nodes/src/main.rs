//! `t3fs-node`: see `t3fs_nodes::cli` for what it can be told.

fn main() -> std::process::ExitCode {
    t3fs_nodes::main()
}
