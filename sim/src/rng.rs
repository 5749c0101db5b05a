//! Seeded randomness: one generator per purpose, so that one purpose's draws do not disturb
//! another.
//!
//! splitmix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).

use std::cell::Cell;
use std::ops::Range;

/// What a stream of random numbers is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Which ready task runs next.
    Schedule,
    Net,
    Disk,
    /// What actors draw through `Cx::rand`.
    Actors,
    Faults,
    Workload,
}

/// A seeded generator with interior mutability; a clone goes its own way from here.
#[derive(Clone, Debug)]
pub struct Rng(Cell<u64>);

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(Cell::new(mix(seed.wrapping_add(0x9E37_79B9_7F4A_7C15))))
    }

    pub fn stream(seed: u64, stream: Stream) -> Rng {
        Rng::new(mix(seed).wrapping_add(mix(stream as u64 + 1)))
    }

    /// A generator of its own, named by `label`; draws nothing from this one.
    pub fn fork(&self, label: u64) -> Rng {
        Rng::new(self.0.get() ^ mix(label.wrapping_add(0x632B_E59B_D9B4_E019)))
    }

    pub fn draw(&self) -> u64 {
        let s = self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.set(s);
        mix(s)
    }

    /// Uniform below `n`, which is not 0.
    pub fn below(&self, n: u64) -> u64 {
        debug_assert!(n > 0);
        ((u128::from(self.draw()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in a range that is not empty.
    pub fn range(&self, r: Range<u64>) -> u64 {
        r.start + self.below(r.end - r.start)
    }

    /// True `ppm` times in a million. Draws nothing when `ppm` is 0.
    pub fn chance(&self, ppm: u32) -> bool {
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    pub fn coin(&self) -> bool {
        self.draw() & 1 == 1
    }

    pub fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&self, v: &mut [T]) {
        for i in (1..v.len()).rev() {
            v.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}
