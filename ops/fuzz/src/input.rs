//! What a target makes of its input: small choices from the front, the rest as bytes. An input that
//! is too short reads as zeros, so every input means something.

use bytes::Bytes;

/// Takes an input apart from the front.
pub struct Input(pub Bytes);

impl Input {
    pub fn new(input: &[u8]) -> Input {
        Input(Bytes::copy_from_slice(input))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, n: usize) -> Bytes {
        self.0.split_to(n.min(self.0.len()))
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.bytes(N);
        out[..taken.len()].copy_from_slice(&taken);
        out
    }

    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A size, mostly small: three bytes of input reach every path that depends on sizes.
    pub fn size(&mut self) -> usize {
        match self.byte() {
            small @ 0..=0xbf => usize::from(small),
            _ => usize::from(self.u16()),
        }
    }

    /// A few bytes with their length before them.
    pub fn some_bytes(&mut self) -> Bytes {
        let n = usize::from(self.byte());
        self.bytes(n)
    }

    /// Changes some bytes of what was right: how many, then where and how. Whether it did.
    pub fn damage(&mut self, bytes: &mut [u8]) -> bool {
        let right = bytes.to_vec();
        for _ in 0..self.byte() % 4 {
            let (at, flip) = (self.u32() as usize, self.byte());
            if !bytes.is_empty() {
                bytes[at % right.len()] ^= flip;
            }
        }
        bytes != right
    }
}
