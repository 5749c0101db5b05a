//! Data folders: which cluster they hold, and who may use them.
//!
//! A cluster on one machine is a set of folders, one per disk. The first holds the cluster's own
//! state. Everything is looked at before anything is changed ([`plan`]): a refusal touches nothing.
//!
//! ```text
//! <folder>/            mode 0700
//!   t3fs-disk.toml     which disk of which cluster this is         (identity)
//!   lock               flock(2) held by the process that uses it; holds its process id
//!   targets/<id>/      one chunk engine each
//! and in the first folder
//!   t3fs-cluster.toml  name, replicas, disks, targets, chains      (identity)
//!   starts             the incarnation of the last start
//!   secret             what other processes must know to join            (crate::config::secret)
//!   kv/                the embedded metadata store
//!   t3fs-store.toml    which metadata store was used first, and is used for good  ([`store_file`])
//!   control            socket of the running process               (crate::control)
//!   log/               log files of a detached process
//! ```
//! A server of a cluster of several processes keeps its own state in a folder apart ([`server`]).

pub mod chains;
pub mod folder;
pub mod identity;
pub mod incarnation;
pub mod lock;
pub mod plan;
pub mod server;
pub mod store_file;

pub use identity::{ClusterFile, DiskRecord};
pub use plan::{Data, Plan, Wanted};
