//! What a t3fs node is made of beside its actors: the things that need threads, files and sockets.

pub mod kv_fjall;
