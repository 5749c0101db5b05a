//! The transactional key-value contract (FoundationDB's), and the embedded implementation of it.
