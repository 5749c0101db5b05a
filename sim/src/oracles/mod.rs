//! What is true of every right run: one file per property, each usable without a world.

pub mod files;
pub mod history;
pub mod linear;
pub mod members;
