//! Storage: the CRAQ write chain over targets, and the chunk engine below it.
//!
//! One [`Target`] actor is one target. `membership` (what the target is to its chain) and `core`
//! (what an update is to a chunk) decide, synchronously; `write`, `resync` and `target` await
//! between the decisions; `extents` tells what a file has here; `removals` are the requests whose
//! duplicates no chunk remembers; `engine` keeps chunks on a disk; `host` has the targets of a
//! node, and decides which of them may begin.
//!
//! The protocol (CRAQ: Terrace and Freedman, USENIX ATC 2009): the head numbers an update, stores
//! it as pending, *then* forwards it; each target does the same; the tail stores it committed;
//! commits travel back with the replies. So what a target has stored, all before it have stored:
//! after a crash a pending update is driven on by whoever holds it and still serves, and never
//! taken back on a guess. Whoever has left its chain meanwhile is overwritten before it serves.

mod ahead;
mod core;
pub mod engine;
mod extents;
pub mod host;
mod membership;
mod removals;
mod resync;
mod sync_out;
mod target;
mod write;

pub use ahead::READ_AHEAD_BYTES_MAX;
pub use removals::REMOVALS_BYTES_MAX;
pub use resync::RESYNC_BYTES_MAX;
pub use target::{RESYNC_PAGE, StorageConfig, Target, TargetEvent};
