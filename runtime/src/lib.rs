//! The machine that t3fs actors run on. It knows no file, chunk or role.
//!
//! An actor reaches the world through [`Cx`] only; [`Backend`] is the port behind it, and there are
//! two: [`glommio`] in production, and the simulator's (crate `t3fs-sim`). Start reading at
//! `shard/cx.rs`.

mod addr;
mod ask;
pub mod buf;
mod caller;
pub mod conformance;
mod deadlines;
pub mod disk;
pub mod glommio;
pub mod golden;
pub mod inbox;
mod lane;
pub mod line;
pub mod meter;
pub mod net;
pub mod protocol;
pub mod shard;
pub mod slot;
pub mod time;
pub mod wire;
mod wire_error;

pub use addr::{Addr, NodeId, RawAddr};
pub use ask::AskError;
pub use buf::Bulk;
pub use caller::Caller;
pub use disk::{DiskBuf, DiskError, DiskId, FileId, Filling};
pub use lane::Lane;
pub use line::{Bell, Line, Lines};
pub use protocol::{Ask, Protocol};
pub use shard::{Actor, Backend, Cx, Disk, Dispatch, Handle, Links, Me, Shard};
pub use slot::{Slot, join, join_all};
pub use time::Time;

#[doc(hidden)]
pub use rkyv;
