//! Requests that a mount gets from the kernel (`nodes/src/fuse/kernel/request.rs`).
//!
//! What must hold: whatever the bytes are, they are read or refused; what was read lies within
//! them.

use crate::input::Input;
use crate::request::{Operation, Request};

/// struct fuse_in_header
const HEADER_BYTES: usize = 40;

/// Bytes as a request, with or without the right length.
pub fn any_request(input: &[u8]) {
    let mut input = Input::new(input);
    let right = input.byte() & 1 == 1;
    let mut bytes = input.0.to_vec();
    if right && bytes.len() >= HEADER_BYTES {
        let length = (bytes.len() as u32).to_ne_bytes();
        bytes[..4].copy_from_slice(&length);
    }
    let Ok((request, fields)) = Request::parse(&bytes) else { return };
    let body = bytes.len() - HEADER_BYTES;
    match Operation::parse(request.opcode(), fields) {
        Ok(Operation::BatchForget(all)) => assert!(all.iter().count() * 16 <= body),
        Ok(Operation::Write(write)) => {
            assert!(write.data.len() <= body);
            assert!(write.offset.checked_add(write.data.len() as u64).is_some());
        }
        Ok(Operation::Lookup { name } | Operation::Unlink { name }) => {
            assert!(!name.is_empty() && name.len() < body);
        }
        _ => {}
    }
}

/// Each kind of request, with a body that many kinds take: numbers, then names.
pub fn seeds() -> Vec<Vec<u8>> {
    let seed = |(opcode, numbers): (u32, usize)| {
        let mut seed = vec![1; 1];
        seed.extend([0; 4]);
        seed.extend(opcode.to_ne_bytes());
        seed.extend([0; HEADER_BYTES - 8]);
        seed.extend(vec![0; numbers]);
        seed.extend(b"name\0other\0");
        seed
    };
    (0..56).flat_map(|opcode| [0, 8, 16, 40, 88].map(|numbers| seed((opcode, numbers)))).collect()
}
