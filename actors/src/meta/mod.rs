//! Metadata: inodes and directory entries as transactions on an ordered key-value store.

pub mod kv;
