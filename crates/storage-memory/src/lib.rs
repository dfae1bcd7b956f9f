//! Coracle's store in memory: for tests, and for nodes whose data may be lost.
//!
//! [`MemoryStore`] never blocks and forgets everything with its last clone.
//!
//! ```
//! use coracle_storage::{Durability, Store};
//! use coracle_storage_memory::MemoryStore;
//!
//! let store = MemoryStore::new();
//! assert_eq!(store.durability(), Durability::Volatile);
//! assert!(store.log().never_blocks());
//! ```

mod kv;
mod log;
mod snapshot;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use coracle_core::GroupId;
use coracle_storage::{Durability, Identity, KvStore, LogStore, Result, SnapshotStore, Store};

use crate::{kv::MemoryKvStore, log::MemoryLog, snapshot::MemorySnapshots};

/// A store in memory. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    identity: Mutex<Option<Identity>>,
    log: Arc<MemoryLog>,
    groups: Mutex<HashMap<GroupId, Group>>,
}

#[derive(Debug, Default)]
struct Group {
    snapshots: Arc<MemorySnapshots>,
    kv: Arc<MemoryKvStore>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }
}

impl Store for MemoryStore {
    fn engine(&self) -> &'static str {
        "memory"
    }

    fn durability(&self) -> Durability {
        Durability::Volatile
    }

    fn identity(&self) -> Result<Option<Identity>> {
        Ok(lock(&self.shared.identity).clone())
    }

    fn set_identity(&self, identity: &Identity) -> Result<()> {
        *lock(&self.shared.identity) = Some(identity.clone());
        Ok(())
    }

    fn log(&self) -> Arc<dyn LogStore> {
        self.shared.log.clone()
    }

    fn snapshots(&self, group: GroupId) -> Result<Arc<dyn SnapshotStore>> {
        Ok(lock(&self.shared.groups).entry(group).or_default().snapshots.clone())
    }

    fn kv(&self, group: GroupId) -> Result<Arc<dyn KvStore>> {
        Ok(lock(&self.shared.groups).entry(group).or_default().kv.clone())
    }
}

/// No change is left half done by a panic: every one is a few moves of whole values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
