//! Chunks as rows of cells: what a client of a chunk store writes, and how its reads are
//! understood.
//!
//! A cell is a run of bytes that all writes respect; each write fills its cells with its own value,
//! every eight bytes of it. So every byte that is read back says which write it came from, and a
//! cell that holds two values is torn.

use std::ops::Range;

use crate::oracles::history::Action;
use crate::rng::Rng;

/// Draws actions on small chunks.
#[derive(Clone, Debug)]
pub struct Cells {
    /// A multiple of 8.
    pub cell_bytes: usize,
    pub cells_max: u32,
    /// Per million actions.
    pub write_ppm: u32,
    pub truncate_ppm: u32,
    pub remove_ppm: u32,
}

impl Cells {
    /// The next action. `value` is used for a write: never 0, never twice.
    pub fn draw(&self, rng: &Rng, value: u64) -> Action {
        let kind = rng.below(1_000_000) as u32;
        let cells = self.range(rng);
        let write_to = self.write_ppm;
        let truncate_to = write_to + self.truncate_ppm;
        match kind {
            k if k < write_to => Action::Write { cells, value },
            k if k < truncate_to => Action::Truncate { len: cells.end },
            k if k < truncate_to + self.remove_ppm => Action::Remove,
            _ => Action::Read { cells: 0..self.cells_max },
        }
    }

    /// All cells half of the time, else some of them.
    fn range(&self, rng: &Rng) -> Range<u32> {
        if rng.coin() {
            return 0..self.cells_max;
        }
        let first = rng.below(self.cells_max.into()) as u32;
        first..first + 1 + rng.below(u64::from(self.cells_max - first)) as u32
    }

    /// Byte offset and content of a write.
    pub fn bytes(&self, cells: &Range<u32>, value: u64) -> (u64, Vec<u8>) {
        let words = cells.len() * self.cell_bytes / 8;
        let offset = u64::from(cells.start) * self.cell_bytes as u64;
        (offset, value.to_le_bytes().repeat(words))
    }

    /// The cells of bytes that were read; `Err` names a torn one.
    pub fn understand(&self, bytes: &[u8]) -> Result<Vec<u64>, String> {
        if !bytes.len().is_multiple_of(self.cell_bytes) {
            return Err(format!("{} bytes are no whole number of cells", bytes.len()));
        }
        let cell = |(i, cell): (usize, &[u8])| {
            let value = u64::from_le_bytes(cell[..8].try_into().expect("8"));
            match cell.chunks_exact(8).all(|w| w == &cell[..8]) {
                true => Ok(value),
                false => Err(format!("cell {i} mixes two writes")),
            }
        };
        bytes.chunks_exact(self.cell_bytes).enumerate().map(cell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_understood() {
        let cells = Cells {
            cell_bytes: 64,
            cells_max: 8,
            write_ppm: 500_000,
            truncate_ppm: 0,
            remove_ppm: 0,
        };
        let (offset, mut bytes) = cells.bytes(&(2..5), 77);
        assert_eq!((offset, bytes.len()), (128, 192));
        assert_eq!(cells.understand(&bytes), Ok(vec![77; 3]));
        bytes[100] ^= 1;
        assert!(cells.understand(&bytes).is_err());
    }
}
