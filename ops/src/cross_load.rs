//! What the program `cross-load` tells whoever started it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Files written here and verified there, those with errors included.
    pub files: u64,
    /// What the slowest of them took.
    pub longest: Duration,
    /// At most 20, then it ends.
    pub errors: Vec<String>,
}
