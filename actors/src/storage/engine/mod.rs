//! The chunk engine: one target on one disk.
