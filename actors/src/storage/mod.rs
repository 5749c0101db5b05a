//! Storage: the CRAQ write chain over targets, and the chunk engine below it.

pub mod engine;
pub mod target;

pub use target::Storage;
