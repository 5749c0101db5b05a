//! The machine that t3fs actors run on. It knows no file, chunk or role.
//!
//! An actor reaches the world through [`Cx`] only; [`Backend`] is the port behind it, and there are
//! two: [`glommio`] in production, and the simulator's (crate `t3fs-sim`). Start reading at `cx`.

pub mod actor;
pub mod addr;
pub mod ask;
pub mod backend;
pub mod budget;
pub mod buf;
mod caller;
pub mod conformance;
pub mod cx;
mod deadlines;
pub mod disk;
pub mod glommio;
pub mod inbox;
pub mod meter;
pub mod net;
pub mod protocol;
pub mod shard;
pub mod slot;
pub mod time;
pub mod wire;

pub use actor::{Actor, Handle, Me};
pub use addr::{Addr, NodeId, RawAddr};
pub use ask::{AskError, Lane};
pub use backend::Backend;
pub use buf::Bulk;
pub use caller::Caller;
pub use cx::Cx;
pub use disk::{Disk, DiskBuf, DiskError, DiskId, FileId, Filling};
pub use protocol::{Ask, Dispatch, Protocol};
pub use shard::{Links, Shard};
pub use slot::{Slot, join, join_all};
pub use time::Time;

#[doc(hidden)]
pub use rkyv;
