//! What a replica keeps, and what it does with committed entries.
//!
//! [`Store`] is what an adapter implements: it hands out a [`LogStore`], a [`SnapshotStore`] and a [`KvStore`] that belong together, and keeps the node's [`Identity`].
//! [`StateMachine`] is what an application implements; one that lives in memory is shorter with [`Machine`] and [`InMemory`].
//! Everything here is synchronous and object-safe: the caller decides on which thread it runs.

mod error;
mod in_memory;
mod kv;
mod log;
mod machine;
mod shape;
mod snapshot;
mod store;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "faulty")]
pub mod faulty;
#[cfg(feature = "files")]
pub mod files;

pub use error::{Result, StorageError};
pub use in_memory::{InMemory, Machine};
pub use kv::{KvBatch, KvOp, KvStore, Page, ScanRange};
pub use log::{LogBatch, LogStore, RecoveredLog};
pub use machine::{Applied, SnapshotReader, SnapshotSource, StateMachine};
pub use shape::{Bounded, LogEnd, LogShape};
pub use snapshot::{SnapshotStore, SnapshotWriter};
pub use store::{Durability, Identity, Store};
