//! What clients do in a check: drawn from the run's seed, recorded in a history.

pub mod cells;
pub mod chunks;
