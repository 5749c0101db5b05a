//! Fuzz targets: every decoder that takes bytes from outside, each with what must hold whatever the
//! bytes are.
//!
//! A target is a function of an input; it panics where a promise is broken. `cargo ops fuzz` has
//! libFuzzer look for such inputs (`main.rs`). `tests/replay.rs` gives every input that is kept in
//! `corpus/` to its target, on every test run, so that what was found once stays found. A new
//! target is a line in [`TARGETS`] and a folder there.
//!
//! No fuzzer guesses a checksum or a keyed hash, so targets put these right where the input says
//! so, and leave them wrong where it does not.
//!
//! Read next: `tcp.rs`.

// The mount's own files: a dependency would bring all of `nodes` along.
#[allow(dead_code)]
#[path = "../../../nodes/src/fuse/kernel/abi.rs"]
mod abi;
mod agree;
mod fuse;
mod handshake;
mod input;
mod memory;
mod messages;
mod rdma;
#[allow(dead_code)]
#[path = "../../../nodes/src/fuse/kernel/request.rs"]
mod request;
mod tcp;
#[allow(dead_code)]
#[path = "../../../nodes/src/fuse/kernel/types.rs"]
mod types;
mod wires;

/// Something that takes bytes from outside.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Inputs that get far, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 9] = [
    Target { name: "tcp-bytes", run: tcp::any_bytes, seeds: Vec::new },
    Target { name: "tcp-frames", run: tcp::damaged_frames, seeds: Vec::new },
    Target { name: "handshake", run: handshake::any_peer, seeds: handshake::seeds },
    Target { name: "agree", run: agree::any_peer, seeds: agree::seeds },
    Target { name: "frame", run: messages::any_frame, seeds: messages::frames },
    Target { name: "rdma-packet", run: rdma::any_packet, seeds: Vec::new },
    Target { name: "rdma-side", run: rdma::any_peer, seeds: Vec::new },
    Target { name: "fuse-request", run: fuse::any_request, seeds: fuse::seeds },
    Target { name: "messages", run: messages::any_message, seeds: messages::seeds },
];
