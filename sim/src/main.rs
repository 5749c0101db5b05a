//! `t3fs-sim`: runs checks over many seeds, and replays one.

mod cli;

fn main() {
    cli::main(t3fs_sim::checks::ALL)
}
