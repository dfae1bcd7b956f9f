//! The store in files passes the suite that every store passes.

use std::sync::Arc;

use coracle_core::GroupId;
use coracle_storage::{
    Durability, Identity, KvStore, LogStore, Result, SnapshotStore, Store,
    conformance::{self, Subject},
};
use coracle_storage_file::{FileOptions, FileStore};
use coracle_storage_memory::MemoryStore;

/// Segments so small that most tests fill several.
const SEGMENT_BYTES: u64 = 64 * 1024;

/// Key-value data in memory that outlive the store, and so stand for durable ones.
#[derive(Clone)]
struct Durable(MemoryStore);

impl Store for Durable {
    fn engine(&self) -> &'static str {
        self.0.engine()
    }

    fn durability(&self) -> Durability {
        Durability::PowerLoss
    }

    fn identity(&self) -> Result<Option<Identity>> {
        self.0.identity()
    }

    fn set_identity(&self, identity: &Identity) -> Result<()> {
        self.0.set_identity(identity)
    }

    fn log(&self) -> Arc<dyn LogStore> {
        self.0.log()
    }

    fn snapshots(&self, group: GroupId) -> Result<Arc<dyn SnapshotStore>> {
        self.0.snapshots(group)
    }

    fn kv(&self, group: GroupId) -> Result<Arc<dyn KvStore>> {
        self.0.kv(group)
    }
}

struct Files {
    store: FileStore,
    kv: Durable,
    dir: tempfile::TempDir,
}

impl Files {
    fn open(dir: tempfile::TempDir, kv: Durable) -> Files {
        let options = FileOptions { segment_bytes: SEGMENT_BYTES };
        let store = FileStore::open(dir.path(), options, Arc::new(kv.clone())).expect("open the store");
        Files { store, kv, dir }
    }
}

impl Subject for Files {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn reopen(self) -> Self {
        let Files { store, kv, dir } = self;
        drop(store);
        Files::open(dir, kv)
    }
}

fn subject() -> Files {
    Files::open(tempfile::tempdir().expect("a directory"), Durable(MemoryStore::new()))
}

#[test]
fn identity_conforms() {
    conformance::store(subject);
}

#[test]
fn log_conforms() {
    conformance::log_store(subject);
}

#[test]
fn snapshots_conform() {
    conformance::snapshot_store(subject);
}

#[test]
fn kv_conforms() {
    conformance::kv_store(subject);
}
