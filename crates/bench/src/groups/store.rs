//! A store that counts the writes of its log.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use coracle_core::{GroupId, Index, LogRead};
use coracle_storage::{Durability, Identity, KvStore, LogBatch, LogStore, RecoveredLog, Result, SnapshotStore, Store};

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) calls: AtomicU64,
    /// The batches of all calls: one for each group in a call, as a rule.
    pub(super) batches: AtomicU64,
}

/// See the module.
pub(super) struct CountingStore {
    pub(super) store: Arc<dyn Store>,
    pub(super) writes: Arc<Writes>,
}

impl Store for CountingStore {
    fn engine(&self) -> &'static str {
        self.store.engine()
    }

    fn durability(&self) -> Durability {
        self.store.durability()
    }

    fn identity(&self) -> Result<Option<Identity>> {
        self.store.identity()
    }

    fn set_identity(&self, identity: &Identity) -> Result<()> {
        self.store.set_identity(identity)
    }

    fn log(&self) -> Arc<dyn LogStore> {
        Arc::new(CountingLog { log: self.store.log(), writes: self.writes.clone() })
    }

    fn snapshots(&self, group: GroupId) -> Result<Arc<dyn SnapshotStore>> {
        self.store.snapshots(group)
    }

    fn kv(&self, group: GroupId) -> Result<Arc<dyn KvStore>> {
        self.store.kv(group)
    }
}

struct CountingLog {
    log: Arc<dyn LogStore>,
    writes: Arc<Writes>,
}

impl LogStore for CountingLog {
    fn recover(&self, group: GroupId, tail_bytes_max: usize) -> Result<RecoveredLog> {
        self.log.recover(group, tail_bytes_max)
    }

    fn write(&self, batches: &[LogBatch]) -> Result<()> {
        self.writes.calls.fetch_add(1, Relaxed);
        self.writes.batches.fetch_add(batches.len() as u64, Relaxed);
        self.log.write(batches)
    }

    fn read(&self, group: GroupId, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        self.log.read(group, from, to, bytes_max)
    }

    fn never_blocks(&self) -> bool {
        self.log.never_blocks()
    }
}
